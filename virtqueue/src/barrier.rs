//! The memory barriers of the ring, each named by what it puts in order.
//!
//! The order in which the driver works is: ring entries, barrier, index, barrier, suppression field, barrier,
//! notification register. And on the way back: index, barrier, ring entries and buffers.
//!
//! Between processors, the fences of the language are right: for a device that is a program of the host. A device of
//! hardware may need others (ORDER_PLATFORM, 6.1), as memory that a bus master reads can be ordered apart from memory that
//! another processor reads.

use core::sync::atomic::Ordering;
#[cfg(not(loom))]
use core::sync::atomic::fence;

#[cfg(loom)]
use crate::modelled::fence;

/// The barriers of one ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Barriers {
    /// ORDER_PLATFORM was negotiated: the device is ordered as the platform orders bus masters.
    pub(crate) platform: bool,
}

impl Barriers {
    /// What the driver wrote to descriptors and to the ring is visible before the index that is stored next.
    #[inline(always)]
    pub(crate) fn ring_before_index(self) {
        if self.platform { platform() } else { fence(Ordering::Release) }
    }

    /// The index that was loaded is older than what is read next: ring entries and buffers.
    #[inline(always)]
    pub(crate) fn index_before_ring(self) {
        if self.platform { platform() } else { fence(Ordering::Acquire) }
    }

    /// The index that was stored is visible before the other side's suppression field is looked at; and a suppression
    /// field that was stored is visible before the other side's index is looked at.
    ///
    /// Both sides store one and then load the other. Without a full barrier each could miss the other's store, and both
    /// would sleep for ever.
    #[inline(always)]
    pub(crate) fn store_before_look(self) {
        if self.platform { platform() } else { fence(Ordering::SeqCst) }
    }

    /// What the driver wrote to memory is visible before the write to a register that comes next.
    ///
    /// The fences above order memory with memory. A register is another kind of target on some machines, which need
    /// another instruction.
    #[inline]
    pub(crate) fn memory_before_register(self) {
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
}

/// Orders all that came before with all that comes after, as every bus master sees it.
#[inline]
fn platform() {
    #[cfg(all(any(target_arch = "riscv32", target_arch = "riscv64"), not(miri), not(loom)))]
    // SAFETY: a fence touches neither registers nor the stack.
    unsafe {
        core::arch::asm!("fence iorw, iorw", options(nostack, preserves_flags));
    }
    #[cfg(all(any(target_arch = "aarch64", target_arch = "arm"), not(miri), not(loom)))]
    // SAFETY: a barrier touches neither registers nor the stack.
    unsafe {
        core::arch::asm!("dsb sy", options(nostack, preserves_flags));
    }
    // Elsewhere the full fence is one for bus masters too.
    fence(Ordering::SeqCst);
}
