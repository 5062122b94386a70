//! The driver's own copy of what a descriptor says.

use core::ptr::NonNull;

use crate::memory::{Access, Memory, Piece};

/// One descriptor's worth of a chain, kept in private memory where chains are direct, or where the kernel wants its
/// mappings back.
#[derive(Clone, Copy)]
pub struct Segment {
    /// The buffer as the driver sees it; `None` for the slot's own memory, which is never unmapped.
    pub(crate) start: Option<NonNull<u8>>,
    pub(crate) device_address: u64,
    pub(crate) bytes: u32,
    pub(crate) access: Access,
    /// Whether a mapping ends with this segment; one long mapping may have several segments.
    pub(crate) mapped_bytes: usize,
}

// SAFETY: the pointer is not used but to name the mapping to the kernel's memory.
unsafe impl Send for Segment {}

impl Segment {
    pub(crate) const EMPTY: Self =
        Self { start: None, device_address: 0, bytes: 0, access: Access::DeviceReads, mapped_bytes: 0 };

    /// Ends the mapping that began with this segment, if one did: once, however often it is called, and even if the
    /// kernel's memory unwinds.
    ///
    /// # Safety
    ///
    /// The device has returned the chain, or never saw it, or was reset.
    pub(crate) unsafe fn unmap<M: Memory>(&mut self, memory: &M) {
        if let Some(start) = self.start.take() {
            let piece = Piece { device_address: self.device_address, bytes: self.mapped_bytes };
            // SAFETY: these are what `map` was called with and returned; the rest is the caller's promise.
            unsafe { memory.unmap(start, piece, self.access) };
        }
    }
}
