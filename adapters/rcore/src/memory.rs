//! The kernel's memory functions as the driver wants them.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use virtqueue::{Memory, MemoryError, PageRequest, Pages, Piece};

use crate::kernel::Dma;

/// The size of the kernel's pages.
const PAGE_BYTES: usize = 4096;

/// The memory of a kernel.
pub(crate) struct DmaMemory<D>(PhantomData<fn() -> D>);

impl<D> DmaMemory<D> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<D> Clone for DmaMemory<D> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

fn pages(request: &PageRequest) -> usize {
    request.bytes.div_ceil(PAGE_BYTES).max(1)
}

// SAFETY: pages are contiguous and nobody else's, says `Dma`; they are zeroed and their address is checked here. What
// is translated is as long as it is contiguous.
unsafe impl<D: Dma> Memory for DmaMemory<D> {
    const UNMAPS: bool = false;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        let count = pages(request);
        let physical = D::dma_alloc(count);
        let start = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(D::phys_to_virt(physical)));
        let (Some(start), true) = (start, physical != 0) else {
            return Err(MemoryError::OutOfMemory);
        };
        let last = physical as u64 + (count * PAGE_BYTES) as u64 - 1;
        if last > request.max_address {
            D::dma_dealloc(physical, count);
            return Err(MemoryError::AddressTooHigh);
        }
        // SAFETY: so many pages were allocated just now.
        unsafe { ptr::write_bytes(start.as_ptr(), 0, count * PAGE_BYTES) };
        Ok(Pages { start, device_address: physical as u64 })
    }

    unsafe fn free(&self, allocated: Pages, request: &PageRequest) {
        D::dma_dealloc(allocated.device_address as usize, pages(request));
    }

    #[inline]
    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        let address = start.as_ptr().expose_provenance();
        let physical = D::virt_to_phys(address);
        // The page that the address is in, and those behind it for as long as they follow in physical memory, too.
        let mut contiguous = PAGE_BYTES - address % PAGE_BYTES;
        while contiguous < bytes && physical.checked_add(contiguous) == Some(D::virt_to_phys(address + contiguous)) {
            contiguous += PAGE_BYTES;
        }
        Ok(Piece { device_address: physical as u64, bytes: contiguous.min(bytes) })
    }
}
