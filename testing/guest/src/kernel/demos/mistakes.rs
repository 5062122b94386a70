//! Mistakes that kernels make, to see that each of them ends, and how it is reported.

use core::ptr;

/// Panics.
pub(super) fn panic() -> ! {
    panic!("this panic is wanted: demo=panic");
}

/// Reads where the machine has nothing.
pub(super) fn trap() -> ! {
    println!("reading an address where nothing is");
    // SAFETY: no memory is there that Rust could know of. The read traps.
    let found = unsafe { ptr::read_volatile(ptr::without_provenance::<u8>(8)) };
    panic!("there is something: {found}");
}

/// Does nothing, for ever.
pub(super) fn hang() -> ! {
    println!("hanging, as demo=hang asks for");
    loop {
        riscv::asm::wfi();
    }
}
