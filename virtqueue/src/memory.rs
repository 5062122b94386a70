//! What a kernel provides: memory that the device can reach, and the addresses that the device sees.

use core::fmt;
use core::ptr::NonNull;

/// A kernel's memory, as seen by a driver.
///
/// It is implemented on a value, so that it may carry state: a zero-sized type for a kernel with global functions,
/// a reference for one with an allocator object. A queue keeps its own clone.
///
/// Three functions are required. A kernel whose device reads and writes physical memory directly, coherently and
/// without an IOMMU needs no more: the provided [`map`](Memory::map) calls [`translate`](Memory::translate), and
/// [`unmap`](Memory::unmap) is never called.
///
/// # Safety
///
/// The queue trusts what this trait returns. An implementation must hold to the following, also when a method
/// unwinds:
///
/// - [`allocate`](Memory::allocate) returns memory that is zeroed, valid for reads and writes of
///   `request.bytes`, aligned to `request.align`, used by nobody else until it is passed to
///   [`free`](Memory::free), and, for [`Purpose::Shared`], seen by the device as one contiguous range that
///   starts at the returned device address and ends at or below `request.max_address`.
/// - [`translate`](Memory::translate) and [`map`](Memory::map) return the device address of the byte at `start`, and
///   a length, at least 1 and at most the one asked for, over which addresses seen by the device continue without a
///   gap, in the same memory that the pointer reaches.
/// - Clones of a value are interchangeable: pages may be freed through a clone.
///
/// # Example
///
/// A kernel with identity mapping and a page allocator of two functions:
///
/// ```
/// # use core::ptr::NonNull;
/// use virtqueue::{Memory, MemoryError, PageRequest, Pages, Piece};
/// # mod kernel {
/// #     pub fn alloc_zeroed_pages(_count: usize) -> Option<core::ptr::NonNull<u8>> { None }
/// #     pub unsafe fn free_pages(_start: core::ptr::NonNull<u8>, _count: usize) {}
/// # }
///
/// #[derive(Clone, Copy)]
/// struct KernelMemory;
///
/// // SAFETY: the kernel's pages are zeroed, contiguous, aligned to their size of 4096 bytes and below 2^44; virtual
/// // addresses are physical ones.
/// unsafe impl Memory for KernelMemory {
///     const UNMAPS: bool = false;
///
///     fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
///         let start = kernel::alloc_zeroed_pages(request.bytes.div_ceil(4096)).ok_or(MemoryError::OutOfMemory)?;
///         Ok(Pages { start, device_address: start.addr().get() as u64 })
///     }
///
///     unsafe fn free(&self, pages: Pages, request: &PageRequest) {
///         // SAFETY: the caller passes what `allocate` returned for this request, once.
///         unsafe { kernel::free_pages(pages.start, request.bytes.div_ceil(4096)) }
///     }
///
///     fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
///         Ok(Piece { device_address: start.addr().get() as u64, bytes })
///     }
/// }
/// ```
pub unsafe trait Memory: Clone {
    /// Whether [`unmap`](Memory::unmap) has anything to do: `true` behind an IOMMU, with bounce buffers, and where caches
    /// are not coherent; `false` where devices reach memory as it is.
    ///
    /// Where it is `false`, the queue neither records what it mapped nor calls `unmap`.
    const UNMAPS: bool;

    /// Allocates contiguous zeroed memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfMemory`] when there is none, [`MemoryError::AddressTooHigh`] when there is none below
    /// `request.max_address`.
    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError>;

    /// Takes back what [`allocate`](Memory::allocate) returned.
    ///
    /// # Safety
    ///
    /// `pages` came from `allocate` with an equal `request`, is passed once, and neither the driver nor the device
    /// will touch it any more.
    unsafe fn free(&self, pages: Pages, request: &PageRequest);

    /// Finds the device address of `start`, and how many of the `bytes` from there are contiguous for the device.
    ///
    /// A buffer that crosses a page boundary is contiguous in the kernel's virtual addresses and often not in the
    /// device's. The queue calls this again for what is left.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NotMapped`] when the address belongs to no memory that the device could reach.
    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError>;

    /// Prepares a buffer for the device: maps it behind an IOMMU, copies it to a bounce buffer, or cleans the caches
    /// of a machine that is not coherent. Returns the first contiguous piece, as [`translate`](Memory::translate)
    /// does.
    ///
    /// # Errors
    ///
    /// Those of [`translate`](Memory::translate), and [`MemoryError::OutOfMemory`] when no mapping is left.
    ///
    /// # Safety
    ///
    /// `start` is valid for `bytes` bytes, for reads, and for writes if the device writes it, until
    /// [`unmap`](Memory::unmap) was called for the piece (where [`UNMAPS`](Memory::UNMAPS) is `false`: until the
    /// device has returned the buffer).
    #[inline]
    unsafe fn map(&self, start: NonNull<u8>, bytes: usize, access: Access) -> Result<Piece, MemoryError> {
        let _ = access;
        self.translate(start, bytes)
    }

    /// Ends what [`map`](Memory::map) began: removes the mapping, copies back what the device wrote, invalidates
    /// caches.
    ///
    /// # Safety
    ///
    /// `start`, `piece` and `access` are those of one call of `map`, passed once, and the device has returned the
    /// buffer or was reset.
    #[inline]
    unsafe fn unmap(&self, start: NonNull<u8>, piece: Piece, access: Access) {
        let _ = (start, piece, access);
    }
}

/// What a queue asks of [`Memory::allocate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The length in bytes; not rounded to pages.
    pub bytes: usize,
    /// The alignment of both the virtual and the device address, in bytes: a power of two, 4096 at the most.
    pub align: usize,
    /// The highest address that the last byte may have as seen by the device. `u64::MAX` except for legacy devices,
    /// whose page numbers have 32 bits.
    pub max_address: u64,
    /// Who uses the memory.
    pub purpose: Purpose,
}

/// Who uses the memory of a [`PageRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The driver and the device.
    Shared,
    /// The driver alone: its private copy of what is in flight. A kernel whose shared memory is set apart (a
    /// confidential virtual machine, a bounce buffer pool) takes this from memory that the device cannot reach. The
    /// device address of such pages is not used.
    Private,
}

/// Memory that [`Memory::allocate`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// The first byte, as the driver sees it.
    pub start: NonNull<u8>,
    /// The first byte, as the device sees it.
    pub device_address: u64,
}

/// A range that is contiguous for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first byte, as the device sees it.
    pub device_address: u64,
    /// The length in bytes, at least 1.
    pub bytes: usize,
}

/// What the device does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The device reads it ("device-readable").
    DeviceReads,
    /// The device writes it ("device-writable").
    DeviceWrites,
}

/// Why a kernel's memory could not serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// No memory, or no mapping, is left.
    OutOfMemory,
    /// There is memory, but only above the highest address that the device can be told.
    AddressTooHigh,
    /// The address belongs to no memory that the device could reach.
    NotMapped {
        /// The virtual address.
        address: usize,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => write!(f, "the kernel has no memory left for the device"),
            Self::AddressTooHigh => write!(f, "the kernel has no memory at an address low enough for the device"),
            Self::NotMapped { address } => {
                write!(f, "the device cannot reach the buffer at virtual address {address:#x}")
            }
        }
    }
}

impl core::error::Error for MemoryError {}
