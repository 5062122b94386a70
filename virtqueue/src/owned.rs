//! Memory of the kernel's that a queue owns: shared with the device, or private to the driver.

use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::slice;

use crate::memory::{Memory, MemoryError, PageRequest, Pages, Purpose};

/// Pages that are given back when this is dropped, unless they are to be leaked.
pub(crate) struct OwnedPages<M: Memory> {
    memory: M,
    pages: Pages,
    request: PageRequest,
    leaked: bool,
}

// SAFETY: the pages are used by nobody else, wherever their owner is.
unsafe impl<M: Memory + Send> Send for OwnedPages<M> {}

impl<M: Memory> OwnedPages<M> {
    /// Allocates zeroed pages.
    pub(crate) fn allocate(memory: &M, request: PageRequest) -> Result<Self, MemoryError> {
        let pages = memory.allocate(&request)?;
        Ok(Self { memory: memory.clone(), pages, request, leaked: false })
    }

    /// Keeps the pages from being given back: a device may still touch them.
    pub(crate) fn leak(&mut self) {
        self.leaked = true;
    }

    /// The first byte, as the driver sees it.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.pages.start
    }

    /// The first byte, as the device sees it.
    pub(crate) fn device_address(&self) -> u64 {
        self.pages.device_address
    }
}

impl<M: Memory> Drop for OwnedPages<M> {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: `pages` came from `allocate` of a clone of this value for `request`; it is given back once,
            // here, by its only owner.
            unsafe { self.memory.free(self.pages, &self.request) }
        }
    }
}

/// A slice in private pages of the kernel's: what a driver keeps for itself, without an allocator.
pub struct PrivateSlice<T, M: Memory> {
    /// `None` for a slice without bytes.
    pages: Option<OwnedPages<M>>,
    start: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its elements, as a boxed slice would.
unsafe impl<T: Send, M: Memory + Send> Send for PrivateSlice<T, M> {}

impl<T, M: Memory> PrivateSlice<T, M> {
    /// The bytes that a slice of `len` elements takes, `None` if no memory is that large.
    pub(crate) const fn bytes(len: usize) -> Option<usize> {
        match size_of::<T>().checked_mul(len) {
            Some(bytes) if bytes <= isize::MAX as usize => Some(bytes),
            _ => None,
        }
    }

    /// Allocates a slice; each element is what `element` returns for its index.
    ///
    /// # Errors
    ///
    /// What the kernel's memory answers.
    pub fn allocate(memory: &M, len: usize, mut element: impl FnMut(usize) -> T) -> Result<Self, MemoryError> {
        const { assert!(align_of::<T>() <= 4096, "pages are aligned to 4096 bytes at the most") };
        let bytes = Self::bytes(len).ok_or(MemoryError::OutOfMemory)?;
        let request = PageRequest { bytes, align: align_of::<T>(), max_address: u64::MAX, purpose: Purpose::Private };
        // A request is never empty: an allocator need not know what to do then.
        let pages = if bytes == 0 { None } else { Some(OwnedPages::allocate(memory, request)?) };
        let start = pages.as_ref().map_or(NonNull::dangling(), |pages| pages.start().cast::<MaybeUninit<T>>());
        for index in 0..len {
            let value = element(index);
            // SAFETY: the pages hold `len` elements at the alignment of `T`, and nobody else uses them. If `element`
            // unwinds, the pages are freed and the elements before it are leaked.
            unsafe { start.add(index).write(MaybeUninit::new(value)) };
        }
        Ok(Self { pages, start: start.cast(), len })
    }
}

impl<T, M: Memory> Deref for PrivateSlice<T, M> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `allocate` wrote all elements; the pages live as long as `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T, M: Memory> DerefMut for PrivateSlice<T, M> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T, M: Memory> Drop for PrivateSlice<T, M> {
    fn drop(&mut self) {
        // SAFETY: the elements are initialised and dropped once: after this the pages are given back.
        unsafe { core::ptr::drop_in_place(core::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len)) }
        let _ = &self.pages;
    }
}
