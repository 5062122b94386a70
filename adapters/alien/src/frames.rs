//! The kernel's frames as the driver's memory.

use core::marker::PhantomData;
use core::ptr::NonNull;

use virtqueue::{Memory, MemoryError, PageRequest, Pages, Piece};

/// The size of a frame in bytes.
const FRAME_BYTES: usize = 4096;

/// The kernel's frames of 4096 bytes.
///
/// # Safety
///
/// Frames are contiguous for the device, valid for reads and writes, and used by nobody else until they are freed.
/// [`translate`](Frames::translate) says where memory is for the device.
pub unsafe trait Frames: 'static {
    /// Takes `count` frames that follow each other, whatever is in them. Null if there are none.
    fn alloc_frames(count: usize) -> *mut u8;

    /// Gives frames back.
    ///
    /// # Safety
    ///
    /// They came from [`alloc_frames`](Frames::alloc_frames) with this `count`, and nobody uses them any more.
    unsafe fn free_frames(start: *mut u8, count: usize);

    /// The physical address of the byte at `address`, and for how many of `bytes` bytes, at least 1, physical addresses
    /// go on without a gap. `None` where no memory is mapped.
    ///
    /// As it stands, it is right for kernels that map all memory at its physical address, as Alien does. Others look
    /// into their page table.
    fn translate(address: usize, bytes: usize) -> Option<(usize, usize)> {
        Some((address, bytes))
    }
}

/// The driver's memory, made of a kernel's frames.
pub struct FrameMemory<F>(PhantomData<fn() -> F>);

impl<F> FrameMemory<F> {
    /// It has no state: the kernel's functions are global.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<F> Default for FrameMemory<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> Clone for FrameMemory<F> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

fn frames(request: &PageRequest) -> usize {
    request.bytes.div_ceil(FRAME_BYTES).max(1)
}

// SAFETY: frames are contiguous and nobody else's, and translated rightly, says `Frames`. They are zeroed here.
unsafe impl<F: Frames> Memory for FrameMemory<F> {
    const UNMAPS: bool = false;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        let count = frames(request);
        let start = NonNull::new(F::alloc_frames(count)).ok_or(MemoryError::OutOfMemory)?;
        let last = request.bytes.max(1) as u64 - 1;
        let address = self.translate(start, request.bytes.max(1)).map(|piece| piece.device_address);
        match address {
            Ok(device_address) if device_address.saturating_add(last) <= request.max_address => {
                // SAFETY: so many frames were allocated just now.
                unsafe { start.write_bytes(0, count * FRAME_BYTES) };
                Ok(Pages { start, device_address })
            }
            refused => {
                // SAFETY: nobody has used them.
                unsafe { F::free_frames(start.as_ptr(), count) };
                Err(refused.err().unwrap_or(MemoryError::AddressTooHigh))
            }
        }
    }

    unsafe fn free(&self, pages: Pages, request: &PageRequest) {
        // SAFETY: as the caller promises.
        unsafe { F::free_frames(pages.start.as_ptr(), frames(request)) };
    }

    #[inline]
    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        let address = start.as_ptr().expose_provenance();
        let (physical, contiguous) = F::translate(address, bytes).ok_or(MemoryError::NotMapped { address })?;
        Ok(Piece { device_address: physical as u64, bytes: contiguous.clamp(1, bytes.max(1)) })
    }
}
