//! How much of its stack a call uses: what is below the stack pointer is painted, and then looked at.

use core::ptr;

/// What unused memory is painted with.
const PAINT: u64 = 0x7061_696e_7465_6421;
/// How far below the caller's stack pointer painting ends: the room for the frame of who paints.
const OWN_FRAME: usize = 128;

/// Does something, and says how many bytes of the stack that took. `bottom` is the lowest address of the stack.
#[inline(never)]
pub(crate) fn measure<R>(bottom: usize, work: impl FnOnce() -> R) -> (R, usize) {
    let here = pointer();
    let painted_end = here - OWN_FRAME;
    paint(bottom, painted_end);
    let result = call(work);
    let lowest = (bottom..painted_end).step_by(size_of::<u64>()).find(|&address| word(address) != PAINT);
    (result, here - lowest.unwrap_or(painted_end))
}

/// A frame of its own, below what is measured from.
#[inline(never)]
fn call<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// Paints everything from `bottom` to `end`.
#[inline(never)]
fn paint(bottom: usize, end: usize) {
    for address in (bottom..end).step_by(size_of::<u64>()) {
        // SAFETY: below every frame that is in use, and on the stack.
        unsafe { ptr::with_exposed_provenance_mut::<u64>(address).write_volatile(PAINT) };
    }
}

/// The word at an address of the stack.
fn word(address: usize) -> u64 {
    // SAFETY: on the stack; it was painted.
    unsafe { ptr::with_exposed_provenance::<u64>(address).read_volatile() }
}

/// Where the stack ends right now.
#[inline(always)]
pub(crate) fn pointer() -> usize {
    let address: usize;
    // SAFETY: it only reads the register.
    unsafe { core::arch::asm!("mv {}, sp", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}
