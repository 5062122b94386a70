//! Memory that the driver shares with the device. All of it is touched through atomics, as the other side may write
//! it at any moment; nowhere is there a plain reference to it.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

// To a processor, all words are alike. To the ring they are of two kinds, and loom holds it to the difference: an
// `AtomicU16` (an index, an event, flags) is accessed by either side at any moment; one that is `Handed` belongs to one
// side at a time, and an index hands it over.
#[cfg(loom)]
pub(crate) use crate::modelled::{AtomicU16, HandedU8, HandedU16, HandedU32, HandedU64};
#[cfg(all(not(loom), target_has_atomic = "64"))]
pub(crate) use core::sync::atomic::AtomicU64 as HandedU64;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU8 as HandedU8, AtomicU16, AtomicU16 as HandedU16, AtomicU32 as HandedU32};

/// Bytes that are valid as a shared object: atomics and structures of atomics, for which every bit pattern is valid.
///
/// # Safety
///
/// The type consists of atomic integers only, without padding.
pub(crate) unsafe trait SharedObject {}

#[cfg(not(loom))]
// SAFETY: an atomic integer.
unsafe impl SharedObject for AtomicU16 {}

/// A 64-bit field. Only ever stored by the driver, so that machines without 64-bit atomics can store it as halves.
#[repr(transparent)]
pub(crate) struct SharedU64(
    #[cfg(target_has_atomic = "64")] HandedU64,
    #[cfg(not(target_has_atomic = "64"))] [HandedU32; 2],
);

// SAFETY: atomic integers without padding.
unsafe impl SharedObject for SharedU64 {}

impl SharedU64 {
    /// Stores a value that is already in the byte order of the ring.
    #[inline(always)]
    pub(crate) fn store(&self, value: u64) {
        #[cfg(target_has_atomic = "64")]
        self.0.store(value, Ordering::Relaxed);
        #[cfg(not(target_has_atomic = "64"))]
        {
            let bytes = value.to_ne_bytes();
            let [a, b, c, d, e, f, g, h] = bytes;
            let [first, second] = &self.0;
            first.store(u32::from_ne_bytes([a, b, c, d]), Ordering::Relaxed);
            second.store(u32::from_ne_bytes([e, f, g, h]), Ordering::Relaxed);
        }
    }
}

/// A descriptor: the address, then length, flags and next as one word, so that two stores write it.
#[repr(C)]
pub(crate) struct SharedDescriptor {
    pub(crate) address: SharedU64,
    pub(crate) rest: SharedU64,
}

// SAFETY: atomic integers without padding.
unsafe impl SharedObject for SharedDescriptor {}

/// A descriptor of a packed ring: the flags say whose it is.
#[repr(C)]
pub(crate) struct SharedPackedDescriptor {
    pub(crate) address: SharedU64,
    pub(crate) len: HandedU32,
    pub(crate) id: HandedU16,
    pub(crate) flags: AtomicU16,
}

// SAFETY: atomic integers without padding.
unsafe impl SharedObject for SharedPackedDescriptor {}

/// What one side of a packed ring wants to be told of.
#[repr(C)]
pub(crate) struct SharedEvent {
    pub(crate) desc: AtomicU16,
    pub(crate) flags: AtomicU16,
}

// SAFETY: atomic integers without padding.
unsafe impl SharedObject for SharedEvent {}

/// An element of the used ring.
#[repr(C)]
pub(crate) struct SharedUsedElement {
    pub(crate) id: HandedU32,
    pub(crate) len: HandedU32,
}

// SAFETY: atomic integers without padding.
unsafe impl SharedObject for SharedUsedElement {}

/// One shared object, or an array of a power of two of them.
pub(crate) struct Shared<A> {
    base: NonNull<A>,
    /// The number of objects, less one.
    mask: usize,
    object: PhantomData<A>,
}

// SAFETY: it gives access to atomics only, which threads may share.
unsafe impl<A: SharedObject> Send for Shared<A> {}

impl<A: SharedObject> Shared<A> {
    /// One object `offset` bytes behind `base`.
    ///
    /// # Safety
    ///
    /// As for [`array`](Self::array), with one object.
    #[inline(always)]
    pub(crate) unsafe fn one(base: NonNull<u8>, offset: usize) -> Self {
        // SAFETY: as the caller promises.
        unsafe { Self::array(base, offset, 0) }
    }

    /// `mask + 1` objects, the first of them `offset` bytes behind `base`.
    ///
    /// # Safety
    ///
    /// From there, the memory is valid for reads and writes of that many objects, aligned for them, and accessed
    /// through atomics (or by a device) for as long as this value lives. `mask + 1` is a power of two.
    #[inline(always)]
    pub(crate) unsafe fn array(base: NonNull<u8>, offset: usize, mask: usize) -> Self {
        Self {
            // SAFETY: the caller promises that the objects are inside one allocation that `base` points into.
            base: unsafe { base.add(offset) }.cast(),
            mask,
            object: PhantomData,
        }
    }

    /// The object at `index`, modulo the length of the array.
    #[inline(always)]
    pub(crate) fn at(&self, index: usize) -> &A {
        // SAFETY: masked, the index is inside the array; `array` was promised that the memory holds valid objects
        // that are accessed atomically, and a `SharedObject` allows every bit pattern.
        unsafe { self.base.add(index & self.mask).as_ref() }
    }
}

/// A range of bytes, inside which a driver keeps its small structures: headers and statuses.
#[derive(Clone, Copy)]
pub(crate) struct SharedBytes<'a> {
    base: NonNull<u8>,
    lifetime: PhantomData<&'a HandedU8>,
}

impl SharedBytes<'_> {
    /// # Safety
    ///
    /// The memory at `base` is valid for reads and writes of the bytes that will be accessed, aligned to 8, and
    /// accessed through atomics (or by a device) for the lifetime.
    #[inline(always)]
    pub(crate) unsafe fn new(base: NonNull<u8>) -> Self {
        Self { base, lifetime: PhantomData }
    }

    /// # Safety
    ///
    /// `offset` is inside the range.
    #[inline(always)]
    pub(crate) unsafe fn u8(&self, offset: usize) -> &HandedU8 {
        // SAFETY: inside the range, which is accessed atomically.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    /// # Safety
    ///
    /// `offset` is a multiple of 4, and 4 bytes there are inside the range.
    #[inline(always)]
    pub(crate) unsafe fn u32(&self, offset: usize) -> &HandedU32 {
        // SAFETY: inside the range, aligned, accessed atomically.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    /// # Safety
    ///
    /// `offset` is a multiple of 8, and 8 bytes there are inside the range.
    #[inline(always)]
    pub(crate) unsafe fn u64(&self, offset: usize) -> &SharedU64 {
        // SAFETY: inside the range, aligned, accessed atomically.
        unsafe { self.base.add(offset).cast().as_ref() }
    }
}
