//! What a device and its queues have in common: whether the device was reset.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use virtqueue::{Memory, MemoryError, PageRequest, Pages, Purpose};

/// Whether the device runs, seen by the device handle and by every queue, on whatever processor they are.
///
/// Queues only read it, so its cache line is in every processor's cache at once. It is what an `Arc` would be, in
/// memory that needs no allocator.
pub(crate) struct Epoch<M: Memory> {
    state: NonNull<State>,
    pages: Pages,
    memory: M,
}

struct State {
    owners: AtomicU32,
    stopped: AtomicBool,
}

/// What is asked of the kernel's memory.
const REQUEST: PageRequest = PageRequest {
    bytes: size_of::<State>(),
    align: align_of::<State>(),
    max_address: u64::MAX,
    purpose: Purpose::Private,
};

// SAFETY: owners share atomics only, and the memory's clone.
unsafe impl<M: Memory + Send> Send for Epoch<M> {}

impl<M: Memory> Epoch<M> {
    pub(crate) fn new(memory: M) -> Result<Self, MemoryError> {
        let pages = memory.allocate(&REQUEST)?;
        let state = pages.start.cast::<State>();
        // SAFETY: the pages are as long and aligned as the state, and nobody else has them.
        unsafe { state.write(State { owners: AtomicU32::new(1), stopped: AtomicBool::new(false) }) };
        Ok(Self { state, pages, memory })
    }

    fn state(&self) -> &State {
        // SAFETY: written by `new`, freed by the last owner, and only ever accessed atomically.
        unsafe { self.state.as_ref() }
    }

    /// Whether both belong to one device.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.state == other.state
    }

    /// Whether the device was reset, and its queues are not rebuilt yet.
    #[inline]
    pub(crate) fn stopped(&self) -> bool {
        // Whoever sees it also sees that the reset was acknowledged.
        self.state().stopped.load(Ordering::Acquire)
    }

    pub(crate) fn set_stopped(&self, stopped: bool) {
        self.state().stopped.store(stopped, Ordering::Release);
    }
}

impl<M: Memory> Clone for Epoch<M> {
    fn clone(&self) -> Self {
        let memory = self.memory.clone();
        self.state().owners.fetch_add(1, Ordering::Relaxed);
        Self { state: self.state, pages: self.pages, memory }
    }
}

impl<M: Memory> Drop for Epoch<M> {
    fn drop(&mut self) {
        // Release: what this owner did comes before; Acquire: what others did came before the memory is freed.
        if self.state().owners.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: the last owner gives back what `new` allocated, once.
            unsafe { self.memory.free(self.pages, &REQUEST) };
        }
    }
}
