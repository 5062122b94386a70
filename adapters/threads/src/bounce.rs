//! Blocks of memory for requests that want less than a block of the disk.

use core::ptr::NonNull;

use virtqueue::{Memory, MemoryError, PageRequest, Pages, Purpose};

/// The size of a page.
const PAGE_BYTES: usize = 4096;
/// The most blocks: one for each bit of `free`.
const BLOCKS_MAX: usize = 8;

/// A few blocks, each contiguous for the device. They are in one allocation, made when the disk is opened.
pub(crate) struct Bounce<M: Memory> {
    memory: M,
    pages: Pages,
    request: PageRequest,
    block_bytes: usize,
    /// A bit for each block.
    free: u8,
}

// SAFETY: the pages are used by nobody else, and may be used from another thread.
unsafe impl<M: Memory + Send> Send for Bounce<M> {}

/// A block that is in use. It goes back by [`Bounce::give_back`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    index: u8,
    start: NonNull<u8>,
}

impl<M: Memory> Bounce<M> {
    /// Allocates the blocks: as many as there are in a page, two at least.
    pub(crate) fn new(memory: M, block_bytes: usize) -> Result<Self, MemoryError> {
        let blocks = (PAGE_BYTES / block_bytes).clamp(2, BLOCKS_MAX);
        let request = PageRequest {
            bytes: blocks * block_bytes,
            align: PAGE_BYTES,
            max_address: u64::MAX,
            purpose: Purpose::Shared,
        };
        let pages = memory.allocate(&request)?;
        Ok(Self { memory, pages, request, block_bytes, free: u8::MAX >> (BLOCKS_MAX - blocks) })
    }

    /// Takes a block, if one is left.
    pub(crate) fn take(&mut self) -> Option<Block> {
        let index = self.free.trailing_zeros();
        if index >= u8::BITS {
            return None;
        }
        self.free &= !(1 << index);
        // SAFETY: one of the blocks in the allocation.
        let start = unsafe { self.pages.start.add(index as usize * self.block_bytes) };
        Some(Block { index: index as u8, start })
    }

    /// Takes a block back.
    pub(crate) fn give_back(&mut self, block: Block) {
        self.free |= 1 << block.index;
    }

    /// All of a block.
    pub(crate) fn bytes(&self, block: Block) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(block.start, self.block_bytes)
    }
}

impl Block {
    /// Where the byte `offset` of it is.
    ///
    /// # Safety
    ///
    /// The block has more than, or exactly, so many bytes.
    pub(crate) unsafe fn at(self, offset: usize) -> NonNull<u8> {
        // SAFETY: as the caller promises.
        unsafe { self.start.add(offset) }
    }
}

impl<M: Memory> Drop for Bounce<M> {
    fn drop(&mut self) {
        // A block that is in use may be the device's.
        if self.free.count_ones() as usize == self.request.bytes / self.block_bytes {
            // SAFETY: they came from this memory, for this request, and nobody uses them.
            unsafe { self.memory.free(self.pages, &self.request) };
        }
    }
}
