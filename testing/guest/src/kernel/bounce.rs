//! Memory that is set apart for the device, for a machine on which it reaches nothing else: what the driver gives to the
//! device is copied there, and back.

use alloc::{boxed::Box, vec, vec::Vec};
use core::{cell::RefCell, ptr::NonNull};

use anyhow::Context;
use testing_guest::Report;
use virtqueue::{Access, Memory, MemoryError, PageRequest, Pages, Piece, Purpose};

use super::memory::KernelMemory;

/// How much there is.
const POOL_BYTES: usize = 4 << 20;
const PAGE_BYTES: usize = 4096;
/// What pages hold that nobody uses: who reads them by mistake does not find what was there.
const UNUSED: u8 = 0xdb;

/// The memory of a driver whose device reaches the pool alone. Used by one hart, and not by interrupt handlers.
#[derive(Clone, Copy)]
pub(super) struct BounceMemory {
    pool: &'static RefCell<Pool>,
}

struct Pool {
    start: NonNull<u8>,
    /// Which pages are in use.
    used: Vec<bool>,
    /// Where to look first, so that a page is not used again soon.
    next: usize,
    /// How many pieces were mapped.
    pieces: u64,
}

impl BounceMemory {
    /// Sets a pool apart, for good.
    pub(super) fn new() -> anyhow::Result<Self> {
        let request =
            PageRequest { bytes: POOL_BYTES, align: PAGE_BYTES, max_address: u64::MAX, purpose: Purpose::Shared };
        let pages = KernelMemory.allocate(&request).context("memory for bounce buffers")?;
        let used = vec![false; POOL_BYTES / PAGE_BYTES];
        Ok(Self { pool: Box::leak(Box::new(RefCell::new(Pool { start: pages.start, used, next: 0, pieces: 0 }))) })
    }

    /// Tells the host what was done. The driver is shut down, so nothing is in use.
    pub(super) fn report(&self) {
        let pool = self.pool.borrow();
        let left = pool.used.iter().filter(|used| **used).count() as u64;
        println!("bounce buffers: {} pieces were copied, {left} pages are in use", pool.pieces);
        report!(Report::Bounced { pieces: pool.pieces, left });
    }
}

impl Pool {
    /// Takes so many pages.
    fn take(&mut self, count: usize) -> Result<NonNull<u8>, MemoryError> {
        let free_from = |&first: &usize| self.used.get(first..first + count).is_some_and(|run| !run.contains(&true));
        let page = (self.next..self.used.len()).chain(0..self.next).find(free_from).ok_or(MemoryError::OutOfMemory)?;
        self.mark(page, count, true);
        self.next = page + count;
        // SAFETY: the page is in the pool.
        Ok(unsafe { self.start.add(page * PAGE_BYTES) })
    }

    /// Gives pages back.
    fn give_back(&mut self, start: NonNull<u8>, count: usize) {
        if let Some(offset) = self.offset(start) {
            // SAFETY: the pages are in the pool, and nobody uses them any more.
            unsafe { start.write_bytes(UNUSED, count * PAGE_BYTES) };
            self.mark(offset / PAGE_BYTES, count, false);
        }
    }

    fn mark(&mut self, page: usize, count: usize, used: bool) {
        if let Some(run) = self.used.get_mut(page..page + count) {
            run.fill(used);
        }
    }

    /// How far into the pool an address is, if it is in it.
    fn offset(&self, address: NonNull<u8>) -> Option<usize> {
        address.addr().get().checked_sub(self.start.addr().get()).filter(|offset| *offset < POOL_BYTES)
    }
}

// SAFETY: shared pages are those of the pool that nobody else has, zeroed here; physical addresses are contiguous. A piece
// is a page of the pool that the buffer is copied to, and from. Private memory is the kernel's.
unsafe impl Memory for BounceMemory {
    const UNMAPS: bool = true;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        if request.purpose == Purpose::Private {
            return KernelMemory.allocate(request);
        }
        let count = request.bytes.div_ceil(PAGE_BYTES);
        let start = self.pool.borrow_mut().take(count)?;
        let device_address = start.addr().get() as u64;
        if device_address + (count * PAGE_BYTES - 1) as u64 > request.max_address {
            self.pool.borrow_mut().give_back(start, count);
            return Err(MemoryError::AddressTooHigh);
        }
        // SAFETY: the pages were just taken.
        unsafe { start.write_bytes(0, count * PAGE_BYTES) };
        Ok(Pages { start, device_address })
    }

    unsafe fn free(&self, pages: Pages, request: &PageRequest) {
        if request.purpose == Purpose::Private {
            // SAFETY: as the caller promises.
            unsafe { KernelMemory.free(pages, request) };
        } else {
            self.pool.borrow_mut().give_back(pages.start, request.bytes.div_ceil(PAGE_BYTES));
        }
    }

    /// The device reaches what is in the pool, and nothing else.
    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        let address = start.addr().get();
        let offset = self.pool.borrow().offset(start).ok_or(MemoryError::NotMapped { address })?;
        Ok(Piece { device_address: address as u64, bytes: bytes.min(POOL_BYTES - offset) })
    }

    unsafe fn map(&self, start: NonNull<u8>, bytes: usize, _: Access) -> Result<Piece, MemoryError> {
        let mut pool = self.pool.borrow_mut();
        let bytes = bytes.min(PAGE_BYTES);
        let page = pool.take(1)?;
        pool.pieces += 1;
        // Also what the device is to write: it may write less than the whole.
        // SAFETY: the buffer is valid for reads, as the caller promises; the page was just taken.
        unsafe { page.copy_from_nonoverlapping(start, bytes) };
        Ok(Piece { device_address: page.addr().get() as u64, bytes })
    }

    unsafe fn unmap(&self, start: NonNull<u8>, piece: Piece, access: Access) {
        let mut pool = self.pool.borrow_mut();
        // SAFETY: `map` returned an address in the pool.
        let page = unsafe { pool.start.add(piece.device_address as usize - pool.start.addr().get()) };
        if access == Access::DeviceWrites {
            // SAFETY: the buffer is valid for writes until now, as the caller of `map` promised.
            unsafe { start.copy_from_nonoverlapping(page, piece.bytes) };
        }
        pool.give_back(page, 1);
    }
}
