//! The memory barriers of the ring, each named by what it puts in order.
//!
//! The order in which the driver works is: ring entries, barrier, index, barrier, suppression field, barrier,
//! notification register. And on the way back: index, barrier, ring entries and buffers.

use core::sync::atomic::Ordering;
#[cfg(not(loom))]
use core::sync::atomic::fence;

#[cfg(loom)]
use crate::modelled::fence;

/// What the driver wrote to descriptors and to the ring is visible before the index that is stored next.
#[inline]
pub(crate) fn ring_before_index() {
    fence(Ordering::Release);
}

/// The index that was loaded is older than what is read next: ring entries and buffers.
#[inline]
pub(crate) fn index_before_ring() {
    fence(Ordering::Acquire);
}

/// The index that was stored is visible before the other side's suppression field is looked at; and a suppression
/// field that was stored is visible before the other side's index is looked at.
///
/// Both sides store one and then load the other. Without a full barrier each could miss the other's store, and both
/// would sleep for ever.
#[inline]
pub(crate) fn store_before_look() {
    fence(Ordering::SeqCst);
}

/// What the driver wrote to memory is visible before the write to a register that comes next.
///
/// The fences above order memory with memory. A register is another kind of target on some machines, which need
/// another instruction.
#[inline]
pub(crate) fn memory_before_register() {
    #[cfg(all(any(target_arch = "riscv32", target_arch = "riscv64"), not(miri), not(loom)))]
    // SAFETY: a fence touches neither registers nor the stack.
    unsafe {
        core::arch::asm!("fence w, o", options(nostack, preserves_flags));
    }
    #[cfg(all(any(target_arch = "aarch64", target_arch = "arm"), not(miri), not(loom)))]
    // SAFETY: a barrier touches neither registers nor the stack.
    unsafe {
        core::arch::asm!("dsb st", options(nostack, preserves_flags));
    }
    #[cfg(any(
        miri,
        loom,
        not(any(target_arch = "riscv32", target_arch = "riscv64", target_arch = "aarch64", target_arch = "arm"))
    ))]
    fence(Ordering::SeqCst);
}
