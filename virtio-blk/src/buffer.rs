//! Buffers that a request owns while it is in flight.

use core::ptr::NonNull;

/// A buffer that can be given away: to the queue, while the device may read or write it.
///
/// In the queue it is held as raw parts. The value itself must not live there: a `Box` or a `&mut` asserts, by the
/// rules of Rust, that nobody else touches what it points to.
///
/// # Safety
///
/// The memory that [`into_raw`](Buffer::into_raw) names is valid for reads and writes, does not move, and is touched
/// by nobody, until [`from_raw`](Buffer::from_raw) was called or for ever. It may be used from another thread.
pub unsafe trait Buffer: Sized + Send {
    /// Gives the buffer up.
    fn into_raw(self) -> RawBuffer;

    /// Takes the buffer back.
    ///
    /// # Safety
    ///
    /// `raw` came from [`into_raw`](Buffer::into_raw) of this type, is passed once, and nobody else will touch the
    /// memory any more.
    unsafe fn from_raw(raw: RawBuffer) -> Self;
}

/// The raw parts of a [`Buffer`].
#[derive(Clone, Copy, Debug)]
pub struct RawBuffer {
    /// The first byte.
    pub start: NonNull<u8>,
    /// The length of the data in bytes.
    pub bytes: usize,
    /// Whatever else the buffer needs to be taken back: a capacity, a number, a pointer.
    pub extra: usize,
}

// SAFETY: it names memory of a `Buffer`, which may be used from another thread; what it does not name is a number.
unsafe impl Send for RawBuffer {}

/// No buffer: the type for a queue whose buffers are all borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBuffer {}

// SAFETY: there is no value of this type.
unsafe impl Buffer for NoBuffer {
    fn into_raw(self) -> RawBuffer {
        match self {}
    }

    unsafe fn from_raw(_: RawBuffer) -> Self {
        // SAFETY: `raw` came from a value of this type, says the caller, so this is never reached.
        unsafe { core::hint::unreachable_unchecked() }
    }
}

// SAFETY: a static buffer is valid for ever, and nobody else has it while it is given away.
unsafe impl Buffer for &'static mut [u8] {
    fn into_raw(self) -> RawBuffer {
        let bytes = self.len();
        RawBuffer { start: NonNull::from(self).cast(), bytes, extra: 0 }
    }

    unsafe fn from_raw(raw: RawBuffer) -> Self {
        // SAFETY: the parts of a slice that was given up, and that the caller gives back once.
        unsafe { core::slice::from_raw_parts_mut(raw.start.as_ptr(), raw.bytes) }
    }
}

#[cfg(feature = "alloc")]
mod heap {
    use alloc::boxed::Box;
    use alloc::vec::Vec;
    use core::mem::ManuallyDrop;
    use core::ptr::NonNull;

    use super::{Buffer, RawBuffer};

    // SAFETY: the heap block neither moves nor is freed while it has no owner.
    unsafe impl Buffer for Box<[u8]> {
        fn into_raw(self) -> RawBuffer {
            let bytes = self.len();
            // `into_raw` never returns null; a dangling address of an empty box serves as well.
            let start = NonNull::new(Box::into_raw(self).cast()).unwrap_or(NonNull::dangling());
            RawBuffer { start, bytes, extra: 0 }
        }

        unsafe fn from_raw(raw: RawBuffer) -> Self {
            let slice = core::ptr::slice_from_raw_parts_mut(raw.start.as_ptr(), raw.bytes);
            // SAFETY: the parts of a box that was given up, and that the caller gives back once.
            unsafe { Box::from_raw(slice) }
        }
    }

    // SAFETY: the heap block neither moves nor is freed while it has no owner.
    unsafe impl Buffer for Vec<u8> {
        fn into_raw(self) -> RawBuffer {
            let mut vec = ManuallyDrop::new(self);
            let start = NonNull::new(vec.as_mut_ptr()).unwrap_or(NonNull::dangling());
            RawBuffer { start, bytes: vec.len(), extra: vec.capacity() }
        }

        unsafe fn from_raw(raw: RawBuffer) -> Self {
            // SAFETY: the parts of a vector that was given up, and that the caller gives back once.
            unsafe { Vec::from_raw_parts(raw.start.as_ptr(), raw.bytes, raw.extra) }
        }
    }
}
