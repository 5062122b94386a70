//! What can go wrong: by the device, by the kernel's memory, by the caller.

use core::fmt;

use crate::memory::MemoryError;

/// Something in shared memory that no conforming device writes.
///
/// After it, the queue is broken: nothing that the device said since can be trusted, and nothing is accepted until the
/// device was reset. What was in flight stays in flight, as the device may still write to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// The device's index runs ahead of what the driver made available (2.7.8, "The Virtqueue Used Ring").
    UsedIndexJumped {
        /// The index up to which the driver has looked.
        seen: u16,
        /// The index that the device wrote.
        found: u16,
        /// How many buffers the device had: the most that it could have returned.
        available: u16,
    },
    /// The device uses buffers in order, and returned more of them at once than it had (2.7.9, 2.8.9).
    BatchTooLong {
        /// The number of the last one, going by the device.
        last: u16,
    },
    /// The device returned a buffer under a number that the queue does not have.
    IdOutOfRange {
        /// The number that the device wrote.
        id: u32,
        /// The number of entries of the queue.
        size: u16,
    },
    /// The device returned a buffer that it did not have: returned before, or never made available.
    NotInFlight {
        /// The number that the device wrote.
        id: u16,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UsedIndexJumped { seen, found, available } => write!(
                f,
                "the device's used index went from {seen} to {found}, but it had {available} buffers at the most"
            ),
            Self::BatchTooLong { last } => {
                write!(f, "the device returned all buffers up to {last}, which are more than it had")
            }
            Self::IdOutOfRange { id, size } => {
                write!(f, "the device returned buffer {id} of a queue with {size} entries")
            }
            Self::NotInFlight { id } => write!(f, "the device returned buffer {id}, which it did not have"),
        }
    }
}

impl core::error::Error for Violation {}

/// Why a queue could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueSetupError {
    /// The queue cannot have the ring that was negotiated.
    Format {
        /// RING_PACKED was negotiated.
        packed: bool,
        /// IN_ORDER was negotiated.
        in_order: bool,
    },
    /// A queue has from 4 to 32768 entries, a split one a power of two of them (2.7, "Split Virtqueues"; with fewer than
    /// 4 no request of a block device would fit).
    Size {
        /// The number of entries asked for.
        size: u16,
    },
    /// A chain needs at least one descriptor, and is never longer than the queue (2.7.5.3.1).
    ChainMax {
        /// The number of descriptors asked for.
        chain_max: u16,
        /// The number of entries of the queue.
        size: u16,
    },
    /// The kernel's memory could not serve the queue.
    Memory {
        /// How many bytes were asked for.
        bytes: usize,
        /// What the kernel answered.
        error: MemoryError,
    },
}

impl fmt::Display for QueueSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format { packed, in_order } => write!(
                f,
                "the queue's type does not go with what was negotiated: RING_PACKED {}, IN_ORDER {}",
                if *packed { "on" } else { "off" },
                if *in_order { "on" } else { "off" },
            ),
            Self::Size { size } => {
                write!(f, "a queue has 4 to 32768 entries, a split one a power of two of them; asked for {size}")
            }
            Self::ChainMax { chain_max, size } => {
                write!(f, "a queue of {size} entries has chains of 1 to {size} descriptors, asked for {chain_max}")
            }
            Self::Memory { bytes, error } => write!(f, "{bytes} bytes for the queue: {error}"),
        }
    }
}

impl core::error::Error for QueueSetupError {}

/// Why a chain was not built or not submitted. The queue is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainError {
    /// Everything is in flight. Some requests must complete first.
    Full,
    /// The chain needs more descriptors than one chain may have.
    TooManyDescriptors {
        /// The number of descriptors that a chain may have.
        max: u16,
    },
    /// The chain is longer than 2^32 bytes (2.7.5.2).
    TooManyBytes,
    /// What the device reads comes before what it writes (2.7.4.2); this was the other way round.
    ReadableAfterWritable,
    /// The chain is empty.
    Empty,
    /// The bytes are not inside the slot's own memory.
    OutsideSlot {
        /// The first byte asked for.
        offset: usize,
        /// The number of bytes asked for.
        bytes: usize,
    },
    /// The kernel's memory could not translate or map the buffer.
    Memory(MemoryError),
    /// The device broke the rules; the queue takes nothing until the device was reset.
    Broken(Violation),
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "the queue is full"),
            Self::TooManyDescriptors { max } => write!(f, "the buffers need more than {max} descriptors"),
            Self::TooManyBytes => write!(f, "a chain has 2^32 bytes at the most"),
            Self::ReadableAfterWritable => write!(f, "a buffer that the device reads comes after one that it writes"),
            Self::Empty => write!(f, "the chain is empty"),
            Self::OutsideSlot { offset, bytes } => {
                write!(f, "{bytes} bytes at offset {offset} are not inside the slot's memory")
            }
            Self::Memory(error) => write!(f, "{error}"),
            Self::Broken(violation) => write!(f, "the queue is broken: {violation}"),
        }
    }
}

impl core::error::Error for ChainError {}

impl From<MemoryError> for ChainError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}
