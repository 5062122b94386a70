//! What driver and device of the models share: memory, and lines to wake each other.

extern crate std;

use core::ptr::{NonNull, with_exposed_provenance_mut};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;

use loom::sync::{Condvar, Mutex};

use crate::shared::{Shared, SharedObject};
use crate::{Memory, MemoryError, PageRequest, Pages, Piece};

/// The host's memory, at the same addresses for the device.
#[derive(Clone)]
pub(super) struct HostMemory;

// SAFETY: the allocator's memory is zeroed, valid and aligned, and the device sees it at its addresses.
unsafe impl Memory for HostMemory {
    const UNMAPS: bool = false;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        // SAFETY: a queue never asks for nothing.
        let start = unsafe { alloc_zeroed(layout(request)) };
        let start = NonNull::new(start).ok_or(MemoryError::OutOfMemory)?;
        Ok(Pages { start, device_address: start.as_ptr().expose_provenance() as u64 })
    }

    unsafe fn free(&self, pages: Pages, request: &PageRequest) {
        // SAFETY: it came from `allocate` for the same request.
        unsafe { dealloc(pages.start.as_ptr(), layout(request)) }
    }

    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        Ok(Piece { device_address: start.as_ptr().expose_provenance() as u64, bytes })
    }
}

fn layout(request: &PageRequest) -> Layout {
    Layout::from_size_align(request.bytes, request.align).unwrap()
}

/// The notification register, or the interrupt line: one side raises it, the other sleeps until it is raised.
pub(super) struct Line {
    raised: Mutex<bool>,
    raising: Condvar,
}

impl Line {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { raised: Mutex::new(false), raising: Condvar::new() })
    }

    pub(super) fn raise(&self) {
        *self.raised.lock().unwrap() = true;
        self.raising.notify_one();
    }

    pub(super) fn sleep(&self) {
        let mut raised = self.raised.lock().unwrap();
        while !*raised {
            raised = self.raising.wait(raised).unwrap();
        }
        *raised = false;
    }
}

/// The word at an address that the device knows.
pub(super) fn word<A: SharedObject>(address: u64) -> Shared<A> {
    let start = NonNull::new(with_exposed_provenance_mut(address as usize)).unwrap();
    // SAFETY: the tests' device only knows words of the queue, which outlives it.
    unsafe { Shared::one(start, 0) }
}
