//! The memory of a task's requests: a page that is lent to the queue, and comes back by itself.
//!
//! A task that drops a request has no other way to know when the device is done with it: the queue then drops the
//! buffer.

use core::{
    cell::UnsafeCell,
    future::{Future, poll_fn},
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::atomic::{AtomicBool, Ordering},
    task::{Poll, Waker},
};

use spin::Mutex;
use virtio_blk::{Buffer, RawBuffer};

use super::BLOCK_BYTES;

/// A page of memory that one task owns.
#[repr(C, align(4096))]
pub(super) struct Sheet {
    // First: its address is that of the sheet.
    bytes: UnsafeCell<[u8; BLOCK_BYTES]>,
    /// Whether there is a [`Page`] of it, or the queue has it.
    lent: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

// SAFETY: the bytes are only touched through the one page that there is at a time.
unsafe impl Sync for Sheet {}

impl Sheet {
    pub(super) const fn new() -> Self {
        Self { bytes: UnsafeCell::new([0; BLOCK_BYTES]), lent: AtomicBool::new(false), waiting: Mutex::new(None) }
    }

    /// Takes the page, once it is there.
    pub(super) fn take(&'static self) -> impl Future<Output = Page> {
        poll_fn(move |context| {
            // Before the look: who gives it back after that finds the waker.
            *self.waiting.lock() = Some(context.waker().clone());
            if self.lent.swap(true, Ordering::Acquire) { Poll::Pending } else { Poll::Ready(Page { sheet: self }) }
        })
    }
}

/// The right to use the bytes of a sheet. Dropping it gives them back.
#[derive(Debug)]
pub(super) struct Page {
    sheet: &'static Sheet,
}

impl core::fmt::Debug for Sheet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Sheet")
    }
}

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: there is one page of a sheet at a time, and this is it.
        unsafe { &*self.sheet.bytes.get() }
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { &mut *self.sheet.bytes.get() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.sheet.lent.store(false, Ordering::Release);
        let waker = self.sheet.waiting.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

// SAFETY: a sheet neither moves nor ends, and while it is lent nobody else has its page.
unsafe impl Buffer for Page {
    fn into_raw(self) -> RawBuffer {
        let page = ManuallyDrop::new(self);
        RawBuffer { start: NonNull::from(page.sheet).cast(), bytes: BLOCK_BYTES, extra: 0 }
    }

    unsafe fn from_raw(raw: RawBuffer) -> Self {
        // SAFETY: the address of a sheet, from `into_raw`, made from a reference to all of it.
        Self { sheet: unsafe { raw.start.cast::<Sheet>().as_ref() } }
    }
}
