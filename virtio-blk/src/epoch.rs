//! What a device and its queues have in common: whether the device was reset, and what flushes have covered.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use virtqueue::{Memory, MemoryError, PageRequest, Pages, Purpose};

/// Whether the device runs, and what flushes have covered, seen by the device handle and by every queue, on whatever
/// processor they are.
///
/// All but flushes only read it, so its cache line is in every processor's cache at once. It is what an `Arc` would be,
/// in memory that needs no allocator.
pub(crate) struct Epoch<M: Memory> {
    state: NonNull<State>,
    pages: Pages,
    memory: M,
}

/// What the device does with requests.
mod phase {
    /// It takes them.
    pub(super) const RUNNING: u32 = 0;
    /// It has those in flight, if any, and may not be given more: it is suspended, or does not run yet.
    pub(super) const SUSPENDED: u32 = 1;
    /// It has none.
    pub(super) const RESET: u32 = 2;
}

struct State {
    owners: AtomicU32,
    /// One of `phase`.
    phase: AtomicU32,
    /// How often the device was reset.
    resets: AtomicU32,
    /// How many flushes were submitted, on all queues: each has a number.
    flushes: AtomicU32,
    /// The highest number of a flush that went well.
    flushed: AtomicU32,
}

/// How many flushes there had been when a write completed. A flush with a higher number covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlushNumber(u32);

impl FlushNumber {
    /// Whether this number comes after the other. They may wrap.
    fn is_after(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) as i32 > 0
    }

    pub(crate) fn into_bits(self) -> u64 {
        u64::from(self.0)
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits as u32)
    }
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
    /// That of a device that does not run yet: nothing is notified before DRIVER_OK (3.1.1).
    pub(crate) fn new(memory: M) -> Result<Self, MemoryError> {
        let pages = memory.allocate(&REQUEST)?;
        let state = pages.start.cast::<State>();
        // SAFETY: the pages are as long and aligned as the state, and nobody else has them.
        unsafe {
            state.write(State {
                owners: AtomicU32::new(1),
                phase: AtomicU32::new(phase::SUSPENDED),
                resets: AtomicU32::new(0),
                flushes: AtomicU32::new(0),
                flushed: AtomicU32::new(0),
            });
        }
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

    /// Whether the device was reset, and its queues are not rebuilt yet. A queue that is in use meanwhile can rely on the
    /// reset having been acknowledged: a device that is given up without that takes all queues out of use.
    #[inline]
    pub(crate) fn stopped(&self) -> bool {
        // Whoever sees it also sees that the reset was acknowledged.
        self.state().phase.load(Ordering::Acquire) == phase::RESET
    }

    /// Whether the device takes requests: it was started, and neither reset nor suspended.
    #[inline]
    pub(crate) fn takes_requests(&self) -> bool {
        self.state().phase.load(Ordering::Acquire) == phase::RUNNING
    }

    /// The same, as far as this processor knows: for a request that is not committed yet, which a reset may overtake anyway.
    #[inline(always)]
    pub(crate) fn runs(&self) -> bool {
        self.state().phase.load(Ordering::Relaxed) == phase::RUNNING
    }

    /// The number of a flush that is submitted now.
    pub(crate) fn next_flush(&self) -> FlushNumber {
        FlushNumber(self.state().flushes.fetch_add(1, Ordering::SeqCst).wrapping_add(1))
    }

    /// The number of the last flush that was submitted.
    #[inline]
    pub(crate) fn last_flush(&self) -> FlushNumber {
        FlushNumber(self.state().flushes.load(Ordering::SeqCst))
    }

    /// A flush went well.
    pub(crate) fn flushed(&self, flush: FlushNumber) {
        let later = |old| flush.is_after(FlushNumber(old)).then_some(flush.0);
        // An error says that a later one went well already.
        let _ = self.state().flushed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
    }

    /// Whether a flush went well that was submitted after a write had completed.
    pub(crate) fn covers(&self, write: FlushNumber) -> bool {
        FlushNumber(self.state().flushed.load(Ordering::SeqCst)).is_after(write)
    }

    /// How often the device was reset, modulo 2^32.
    pub(crate) fn resets(&self) -> u32 {
        self.state().resets.load(Ordering::Acquire)
    }

    /// The device runs.
    pub(crate) fn set_running(&self) {
        self.state().phase.store(phase::RUNNING, Ordering::Release);
    }

    /// The device was asked to stop until it is resumed: it has what is in flight, and is to get nothing more.
    pub(crate) fn set_suspended(&self) {
        self.state().phase.store(phase::SUSPENDED, Ordering::Release);
    }

    /// The device has acknowledged a reset.
    pub(crate) fn set_stopped(&self) {
        self.state().resets.fetch_add(1, Ordering::Release);
        self.state().phase.store(phase::RESET, Ordering::Release);
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

#[cfg(test)]
mod tests {
    use super::FlushNumber;

    #[test]
    fn numbers_of_flushes_wrap() {
        let [before, last, first, second] = [u32::MAX - 1, u32::MAX, 0, 1].map(FlushNumber);
        assert!(last.is_after(before) && first.is_after(last) && second.is_after(before));
        assert!(!before.is_after(last) && !last.is_after(first) && !before.is_after(second) && !first.is_after(first));
    }
}
