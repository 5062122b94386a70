//! The first instructions of each processor ("hart").
//!
//! OpenSBI starts one hart at `_start`, in supervisor mode, without paging: every address is a physical one. It leaves
//! the hart's number in a0 and the address of the device tree in a1, which are where the first two arguments of a C
//! function go. What a compiled function expects and nobody has made yet is made here: a stack, zeroed statics, and a
//! switched-on floating-point unit (the compiler may use its registers as it likes).
//!
//! The other harts are started later, by [`harts`](super::harts), at `hart_entry`: a1 is then the address of a
//! [`Start`](super::harts::Start), whose first word is the top of a stack.
//!
//! The register tp holds the hart's number from here on: compiled code leaves it alone.

use core::arch::global_asm;

global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".globl _start",
    "_start:",
    "    la   sp, __stack_top",
    "    mv   tp, a0",
    // sstatus.FS (bits 13 and 14): from Off to Initial.
    "    li   t0, 1 << 13",
    "    csrs sstatus, t0",
    "    la   t0, __bss_start",
    "    la   t1, __bss_end",
    "1:  bgeu t0, t1, 2f",
    "    sd   zero, (t0)",
    "    addi t0, t0, 8",
    "    j    1b",
    "2:  tail {main}",
    "",
    ".globl hart_entry",
    "hart_entry:",
    "    ld   sp, (a1)",
    "    mv   tp, a0",
    "    li   t0, 1 << 13",
    "    csrs sstatus, t0",
    "    mv   a0, a1",
    "    tail {hart_main}",
    ".popsection",
    main = sym super::main,
    hart_main = sym super::harts::main,
);
