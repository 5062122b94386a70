//! A slot: what belongs to one chain, in private memory and in shared memory.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

use crate::error::ChainError;
use crate::shared::SharedBytes;

/// What a driver attaches to a chain while it is in flight, and gets back with it.
///
/// Whatever the device may write to must be held in here as raw parts. A `Box` or a `&mut` kept by value asserts, by
/// the rules of Rust, that nobody else writes to what it points to.
pub trait Attachment {
    /// The number of bytes of shared memory that each slot has for the driver's own small structures: headers,
    /// statuses.
    const SLOT_BYTES: usize;

    /// The parts of the slot that most chains begin and end with, for [`Queue::submit_framed`](crate::Queue::submit_framed).
    const FRAME: Option<Frame> = None;
}

/// The parts of a slot that are around the one buffer of a chain. Their descriptors are written once, when the queue is
/// made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the device reads first: offset and length in bytes, inside [`SLOT_BYTES`](Attachment::SLOT_BYTES).
    pub header: (usize, u32),
    /// What the device writes last.
    pub status: (usize, u32),
}

impl Frame {
    /// The number of descriptors: header, buffer, status.
    pub(crate) const DESCRIPTORS: u16 = 3;
}

/// Names a chain in flight. A token never names another chain than the one that it was made for (until the same slot
/// was used 2^32 times).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub(crate) id: u16,
    pub(crate) generation: u32,
}

impl Token {
    /// The number of the slot, below the size of the queue: an index for a driver's own table.
    pub fn slot(self) -> u16 {
        self.id
    }
}

/// Where a slot is between being taken and being free again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing is attached.
    Free,
    /// The device may have it.
    InFlight,
    /// The device has returned it; the driver has not taken it yet.
    Used,
}

/// The private part of a slot.
pub(crate) struct Slot<T> {
    pub(crate) attachment: Option<T>,
    /// The shared part: the driver's own bytes, and the indirect table.
    pub(crate) shared: NonNull<u8>,
    pub(crate) generation: u32,
    /// The number of bytes that the device was allowed to write.
    pub(crate) writable_bytes: u32,
    /// The number that it says it wrote, once it has returned the chain.
    pub(crate) used_bytes: u32,
    /// The number of descriptors of the chain.
    pub(crate) segments: u16,
    /// The slot behind this one: in the list of free ones, or, as the number of a descriptor, in a direct chain.
    pub(crate) next: u16,
    pub(crate) state: State,
    /// The descriptors around a [`Frame`]'s buffer are in the slot's table.
    pub(crate) framed: bool,
}

// SAFETY: the pointer is to memory that belongs to the queue, wherever that is.
unsafe impl<T: Send> Send for Slot<T> {}

/// The shared part of a slot: [`SLOT_BYTES`](Attachment::SLOT_BYTES) bytes that the device can reach.
///
/// Offsets are checked while compiling. What is loaded is whatever the device has left there: load once, check, use.
pub struct SlotMemory<'a, T> {
    bytes: SharedBytes<'a>,
    little_endian: bool,
    attachment: PhantomData<T>,
}

impl<T: Attachment> SlotMemory<'_, T> {
    /// # Safety
    ///
    /// `base` is the start of a slot of a queue of `T`, valid for the lifetime, aligned to 16.
    #[inline(always)]
    pub(crate) unsafe fn new(base: NonNull<u8>, little_endian: bool) -> Self {
        Self {
            // SAFETY: the caller promises it.
            bytes: unsafe { SharedBytes::new(base) },
            little_endian,
            attachment: PhantomData,
        }
    }

    /// Stores a byte at `OFFSET`.
    #[inline(always)]
    pub fn store_u8<const OFFSET: usize>(&self, value: u8) {
        const { assert!(OFFSET < T::SLOT_BYTES) };
        // SAFETY: inside the slot, as just asserted.
        unsafe { self.bytes.u8(OFFSET) }.store(value, Relaxed);
    }

    /// Loads the byte at `OFFSET`.
    #[inline(always)]
    pub fn load_u8<const OFFSET: usize>(&self) -> u8 {
        const { assert!(OFFSET < T::SLOT_BYTES) };
        // SAFETY: inside the slot, as just asserted.
        unsafe { self.bytes.u8(OFFSET) }.load(Relaxed)
    }

    /// Stores a number of 32 bits at `OFFSET`, a multiple of 4, in the byte order of the device.
    #[inline(always)]
    pub fn store_u32<const OFFSET: usize>(&self, value: u32) {
        const { assert!(OFFSET + 4 <= T::SLOT_BYTES && OFFSET % 4 == 0) };
        let value = if self.little_endian { value.to_le() } else { value };
        // SAFETY: inside the slot and aligned, as just asserted.
        unsafe { self.bytes.u32(OFFSET) }.store(value, Relaxed);
    }

    /// Stores a number of 64 bits at `OFFSET`, a multiple of 8, in the byte order of the device.
    #[inline(always)]
    pub fn store_u64<const OFFSET: usize>(&self, value: u64) {
        const { assert!(OFFSET + 8 <= T::SLOT_BYTES && OFFSET % 8 == 0) };
        let value = if self.little_endian { value.to_le() } else { value };
        // SAFETY: inside the slot and aligned, as just asserted.
        unsafe { self.bytes.u64(OFFSET) }.store(value);
    }

    /// Copies bytes into the slot, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`ChainError::OutsideSlot`] when they do not fit; nothing was copied then.
    pub fn store(&self, offset: usize, bytes: &[u8]) -> Result<(), ChainError> {
        inside::<T>(offset, bytes.len())?;
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the slot, as just checked.
            unsafe { self.bytes.u8(offset + index) }.store(*byte, Relaxed);
        }
        Ok(())
    }

    /// Copies bytes out of the slot, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`ChainError::OutsideSlot`] when there are not that many; nothing was copied then.
    pub fn load(&self, offset: usize, bytes: &mut [u8]) -> Result<(), ChainError> {
        inside::<T>(offset, bytes.len())?;
        for (index, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: inside the slot, as just checked.
            *byte = unsafe { self.bytes.u8(offset + index) }.load(Relaxed);
        }
        Ok(())
    }
}

/// Whether a range lies inside the shared bytes of a slot of `T`.
#[inline(always)]
pub(crate) fn inside<T: Attachment>(offset: usize, bytes: usize) -> Result<(), ChainError> {
    match offset.checked_add(bytes) {
        Some(end) if end <= T::SLOT_BYTES => Ok(()),
        _ => Err(ChainError::OutsideSlot { offset, bytes }),
    }
}
