//! The first instructions.
//!
//! OpenSBI starts one processor ("hart") here in supervisor mode, without paging: every address is a physical one.
//! It leaves the hart's number in a0 and the address of the device tree in a1, which are where the first two
//! arguments of a C function go. What a compiled function expects and nobody has made yet is made here: a stack,
//! zeroed statics, and a switched-on floating-point unit (the compiler may use its registers as it likes).

use core::arch::global_asm;

global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".globl _start",
    "_start:",
    "    la   sp, __stack_top",
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
    ".popsection",
    main = sym super::main,
);
