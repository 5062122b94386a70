//! The one processor. `boot` asks for an entry of further ones, which are never started.

/// Where a further hart would start.
pub(crate) extern "C" fn main(_: *mut ()) -> ! {
    loop {
        riscv::asm::wfi();
    }
}

/// The number of the hart that this runs on.
pub(crate) fn this() -> usize {
    let hart: usize;
    // SAFETY: the entry code has put the number there.
    unsafe { core::arch::asm!("mv {}, tp", out(reg) hart, options(nomem, nostack, preserves_flags)) };
    hart
}
