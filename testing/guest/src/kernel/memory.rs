//! The machine's memory: found in the device tree, kept by one allocator, lent to Rust's collections and to drivers.

use core::{
    alloc::Layout,
    ops::Range,
    ptr::{self, NonNull},
};

use anyhow::ensure;
use buddy_system_allocator::LockedHeap;
use fdt::Fdt;
use virtqueue::{Memory, MemoryError, PageRequest, Pages, Piece};

/// All free memory. Blocks are powers of two aligned to their size, so a page is nothing special: it is a block of
/// 4096 bytes.
#[global_allocator]
static HEAP: LockedHeap<33> = LockedHeap::empty();

unsafe extern "C" {
    /// The first address behind the kernel; only its address means something.
    static __kernel_end: u8;
}

/// Gives all RAM to the allocator but what the firmware, the kernel and the device tree are in.
pub(super) fn set_up(tree: &Fdt<'_>, blob: &[u8]) -> anyhow::Result<()> {
    let kernel_end = (&raw const __kernel_end).addr();
    let blob = blob.as_ptr_range();
    let blob = blob.start.addr()..blob.end.addr();

    let mut heap = HEAP.lock();
    for region in tree.memory().regions() {
        let Some(bytes) = region.size else { continue };
        let start = region.starting_address.addr();
        // The firmware is at the start of RAM, the kernel behind it.
        let free = start.max(kernel_end)..start.saturating_add(bytes);
        for part in without(free, &blob) {
            // SAFETY: RAM that the device tree promises, of which nothing is in use: neither kernel nor tree are in it,
            // and the regions of a tree do not overlap.
            unsafe { heap.add_to_heap(part.start, part.end) };
        }
    }
    let free = heap.stats_total_bytes();
    drop(heap);
    ensure!(free > 1 << 20, "found {free} bytes of free memory behind {kernel_end:#x}, need a megabyte at least");
    println!("memory: {} MiB free", free >> 20);
    Ok(())
}

/// Takes the allocator's lock and never gives it back, as a crash in the middle of an allocation would.
pub(super) fn seize() {
    core::mem::forget(HEAP.lock());
}

/// What is left of `range` without `hole`: the part before and the part behind it, those that are not empty.
fn without(range: Range<usize>, hole: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let before = range.start..range.end.min(hole.start);
    let behind = range.start.max(hole.end)..range.end;
    [before, behind].into_iter().filter(|part| !part.is_empty())
}

/// The kernel's memory as a driver sees it: without paging and without an IOMMU, the address of a byte is the same for
/// the processor and for a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelMemory;

/// The layout of the block that serves a request.
fn layout(request: &PageRequest) -> Result<Layout, MemoryError> {
    Layout::from_size_align(request.bytes.max(1), request.align).map_err(|_| MemoryError::OutOfMemory)
}

// SAFETY: the allocator's blocks are contiguous, aligned and used by nobody else; they are zeroed here and their
// address is checked. Addresses are physical ones, so every range is contiguous for the device.
unsafe impl Memory for KernelMemory {
    const UNMAPS: bool = false;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        let layout = layout(request)?;
        let start = HEAP.lock().alloc(layout).map_err(|()| MemoryError::OutOfMemory)?;
        let pages = Pages { start, device_address: start.addr().get() as u64 };
        if pages.device_address + layout.size() as u64 - 1 > request.max_address {
            // SAFETY: allocated above with the same layout.
            unsafe { HEAP.lock().dealloc(start, layout) };
            return Err(MemoryError::AddressTooHigh);
        }
        // SAFETY: the block has that many bytes and is ours.
        unsafe { ptr::write_bytes(start.as_ptr(), 0, layout.size()) };
        Ok(pages)
    }

    unsafe fn free(&self, pages: Pages, request: &PageRequest) {
        // What could be allocated has a layout.
        if let Ok(layout) = layout(request) {
            // SAFETY: the caller passes what `allocate` returned for an equal request.
            unsafe { HEAP.lock().dealloc(pages.start, layout) };
        }
    }

    #[inline]
    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        Ok(Piece { device_address: start.addr().get() as u64, bytes })
    }
}
