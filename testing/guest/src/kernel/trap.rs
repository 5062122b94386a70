//! Traps: the processor's way to say that something went wrong (or that a device calls).
//!
//! No interrupt is switched on, so every trap is a mistake in the kernel: say what and where, and stop the machine.

use core::arch::global_asm;

use riscv::register::{
    scause, sepc, stval,
    stvec::{self, Stvec, TrapMode},
};

use super::power;

unsafe extern "C" {
    /// The address that the processor jumps to.
    safe fn trap_entry();
}

global_asm!(
    ".pushsection .text.trap, \"ax\"",
    // The two lowest bits of stvec are the mode, so the address must be a multiple of 4.
    ".balign 4",
    ".globl trap_entry",
    "trap_entry:",
    // A stack of its own: an overflown one may be the reason for the trap. Nothing is saved as nothing goes back.
    "    la   sp, __trap_stack_top",
    "    tail {fatal}",
    ".popsection",
    fatal = sym fatal,
);

/// Tells the processor where to go when it traps.
pub(super) fn set_up() {
    let vector = Stvec::new(trap_entry as *const () as usize, TrapMode::Direct);
    // SAFETY: the address is that of code written for it, right above.
    unsafe { stvec::write(vector) };
}

/// Ends the machine, since no trap is expected.
extern "C" fn fatal() -> ! {
    super::console::take_over();
    let (cause, address, value) = (scause::read(), sepc::read(), stval::read());
    println!("trap: {} (scause {:#x})", describe(cause.code(), cause.is_interrupt()), cause.bits());
    println!("  at instruction {address:#x} (sepc; `addr2line -e guest` finds the line)");
    println!("  address or instruction word concerned: {value:#x} (stval)");
    power::off(power::Exit::Failure)
}

/// The name of a cause, as the RISC-V privileged specification has it.
fn describe(code: usize, interrupt: bool) -> &'static str {
    match (interrupt, code) {
        (true, 1) => "supervisor software interrupt",
        (true, 5) => "supervisor timer interrupt",
        (true, 9) => "supervisor external interrupt",
        (false, 0) => "instruction address misaligned",
        (false, 1) => "instruction access fault",
        (false, 2) => "illegal instruction",
        (false, 3) => "breakpoint",
        (false, 4) => "load address misaligned",
        (false, 5) => "load access fault",
        (false, 6) => "store address misaligned",
        (false, 7) => "store access fault",
        (false, 12) => "instruction page fault",
        (false, 13) => "load page fault",
        (false, 15) => "store page fault",
        _ => "unknown cause",
    }
}
