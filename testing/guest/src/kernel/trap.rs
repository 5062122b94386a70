//! Traps: a device, a timer or another hart calls; or something went wrong in the kernel.
//!
//! An interrupt is handled and the interrupted code goes on. Any other trap is a mistake in the kernel: say what and
//! where, and stop the machine.

use alloc::vec::Vec;
use core::arch::global_asm;

use riscv::register::{
    scause, sepc, sscratch, stval,
    stvec::{self, Stvec, TrapMode},
};

use super::{interrupts, power};

unsafe extern "C" {
    /// The address that the processor jumps to.
    safe fn trap_entry();
    /// The end of the stack for the traps of the hart that boots; only its address means something.
    static __trap_stack_top: u8;
}

/// The size of a further hart's stack for traps.
const STACK_BYTES: usize = 16 << 10;

global_asm!(
    ".pushsection .text.trap, \"ax\"",
    // The two lowest bits of stvec are the mode, so the address must be a multiple of 4.
    ".balign 4",
    ".globl trap_entry",
    "trap_entry:",
    // A stack of its own: an overflown one may be the reason for the trap. It waits in sscratch, and the other one
    // waits there meanwhile.
    "    csrrw sp, sscratch, sp",
    // What a called function need not save, and the interrupted code did not expect to lose.
    "    addi sp, sp, -304",
    "    sd   ra,   0(sp)",
    "    sd   t0,   8(sp)",
    "    sd   t1,  16(sp)",
    "    sd   t2,  24(sp)",
    "    sd   t3,  32(sp)",
    "    sd   t4,  40(sp)",
    "    sd   t5,  48(sp)",
    "    sd   t6,  56(sp)",
    "    sd   a0,  64(sp)",
    "    sd   a1,  72(sp)",
    "    sd   a2,  80(sp)",
    "    sd   a3,  88(sp)",
    "    sd   a4,  96(sp)",
    "    sd   a5, 104(sp)",
    "    sd   a6, 112(sp)",
    "    sd   a7, 120(sp)",
    "    fsd  ft0, 128(sp)",
    "    fsd  ft1, 136(sp)",
    "    fsd  ft2, 144(sp)",
    "    fsd  ft3, 152(sp)",
    "    fsd  ft4, 160(sp)",
    "    fsd  ft5, 168(sp)",
    "    fsd  ft6, 176(sp)",
    "    fsd  ft7, 184(sp)",
    "    fsd  ft8, 192(sp)",
    "    fsd  ft9, 200(sp)",
    "    fsd  ft10, 208(sp)",
    "    fsd  ft11, 216(sp)",
    "    fsd  fa0, 224(sp)",
    "    fsd  fa1, 232(sp)",
    "    fsd  fa2, 240(sp)",
    "    fsd  fa3, 248(sp)",
    "    fsd  fa4, 256(sp)",
    "    fsd  fa5, 264(sp)",
    "    fsd  fa6, 272(sp)",
    "    fsd  fa7, 280(sp)",
    "    frcsr t0",
    "    sd   t0, 288(sp)",
    "    call {trap}",
    "    ld   t0, 288(sp)",
    "    fscsr t0",
    "    fld  fa7, 280(sp)",
    "    fld  fa6, 272(sp)",
    "    fld  fa5, 264(sp)",
    "    fld  fa4, 256(sp)",
    "    fld  fa3, 248(sp)",
    "    fld  fa2, 240(sp)",
    "    fld  fa1, 232(sp)",
    "    fld  fa0, 224(sp)",
    "    fld  ft11, 216(sp)",
    "    fld  ft10, 208(sp)",
    "    fld  ft9, 200(sp)",
    "    fld  ft8, 192(sp)",
    "    fld  ft7, 184(sp)",
    "    fld  ft6, 176(sp)",
    "    fld  ft5, 168(sp)",
    "    fld  ft4, 160(sp)",
    "    fld  ft3, 152(sp)",
    "    fld  ft2, 144(sp)",
    "    fld  ft1, 136(sp)",
    "    fld  ft0, 128(sp)",
    "    ld   a7, 120(sp)",
    "    ld   a6, 112(sp)",
    "    ld   a5, 104(sp)",
    "    ld   a4,  96(sp)",
    "    ld   a3,  88(sp)",
    "    ld   a2,  80(sp)",
    "    ld   a1,  72(sp)",
    "    ld   a0,  64(sp)",
    "    ld   t6,  56(sp)",
    "    ld   t5,  48(sp)",
    "    ld   t4,  40(sp)",
    "    ld   t3,  32(sp)",
    "    ld   t2,  24(sp)",
    "    ld   t1,  16(sp)",
    "    ld   t0,   8(sp)",
    "    ld   ra,   0(sp)",
    "    addi sp, sp, 304",
    "    csrrw sp, sscratch, sp",
    "    sret",
    ".popsection",
    trap = sym trap,
);

/// Tells the hart that boots where to go when it traps.
pub(super) fn set_up() {
    install((&raw const __trap_stack_top).addr());
}

/// The same for a further hart, which calls this.
pub(super) fn set_up_further() {
    // It is never freed, as harts never end.
    let stack = Vec::leak(alloc::vec![0_u128; STACK_BYTES / size_of::<u128>()]);
    install(stack.as_ptr_range().end.addr());
}

fn install(stack_top: usize) {
    let vector = Stvec::new(trap_entry as *const () as usize, TrapMode::Direct);
    // SAFETY: the address is that of code written for it, right above, and so is the stack that this code expects.
    unsafe {
        sscratch::write(stack_top);
        stvec::write(vector);
    }
}

/// Called for each trap, with interrupts off.
extern "C" fn trap() {
    let cause = scause::read();
    let handled = cause.is_interrupt() && interrupts::handle(cause.code());
    if !handled {
        fatal(cause);
    }
}

/// Ends the machine after a trap that nobody expects.
fn fatal(cause: scause::Scause) -> ! {
    super::console::take_over();
    let (address, value) = (sepc::read(), stval::read());
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
