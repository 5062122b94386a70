//! Switching the machine off, with a result that the host sees.

use core::ptr;

/// QEMU's "SiFive test finisher", a device with one register: writing to it ends QEMU with an exit code. The
/// firmware's own call (SRST) would switch the machine off too, but has no room for a code.
const FINISHER: *mut u32 = 0x10_0000 as *mut u32;
/// Ends QEMU with exit code 0.
const PASS: u32 = 0x5555;
/// Ends QEMU with the exit code in the upper half of the word.
const FAIL: u32 = 0x3333;

/// How the kernel ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Exit {
    /// All was well.
    Success,
    /// It was not; text on the console says why.
    Failure,
}

/// Switches the machine off.
pub(super) fn off(exit: Exit) -> ! {
    let word = match exit {
        Exit::Success => PASS,
        Exit::Failure => (1 << 16) | FAIL,
    };
    // SAFETY: on the `virt` machine this is the finisher's register, and no Rust memory is there.
    unsafe { ptr::write_volatile(FINISHER, word) };
    // Not that machine, or a finisher that is off limits: ask the firmware.
    sbi_rt::system_reset(sbi_rt::Shutdown, sbi_rt::SystemFailure);
    loop {
        riscv::asm::wfi();
    }
}
