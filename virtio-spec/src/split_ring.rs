//! The split virtqueue: a descriptor table, an available ring and a used ring.
//!
//! (2.7 Split Virtqueues.) With a queue of N entries the three parts are, in bytes:
//!
//! | part             | area            | alignment | size   | fields                                          |
//! |------------------|-----------------|-----------|--------|-------------------------------------------------|
//! | descriptor table | descriptor area | 16        | 16 N   | N of [`Descriptor`]                             |
//! | available ring   | driver area     | 2         | 6 + 2 N| `flags`, `idx`, `ring`: N of u16, `used_event`  |
//! | used ring        | device area     | 4         | 6 + 8 N| `flags`, `idx`, `ring`: N of [`UsedElement`], `avail_event` |
//!
//! The rings themselves are not structures here, because their last field lies where the queue size says, and
//! because memory that a device writes is read through atomics at these offsets, not through references.
//!
//! A legacy device has the three parts in one block of whole pages, with the used ring at the next multiple of its
//! queue alignment ([`legacy_used_ring_offset`]).

use bitflags::bitflags;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use crate::macros::assert_layout;

/// The largest queue size in entries; every size is a power of two (2.7).
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Alignment of the descriptor table in bytes (2.7).
pub const DESCRIPTOR_TABLE_ALIGNMENT: usize = 16;

/// Alignment of the available ring in bytes (2.7).
pub const AVAILABLE_RING_ALIGNMENT: usize = 2;

/// Alignment of the used ring in bytes (2.7).
pub const USED_RING_ALIGNMENT: usize = 4;

/// The usual alignment of the used ring of a legacy device, in bytes (2.7.2 Legacy Interfaces: A Note on Virtqueue
/// Layout). Fixed over PCI; over MMIO the driver writes it to
/// [`Register::QUEUE_ALIGN`](crate::mmio::Register::QUEUE_ALIGN).
pub const LEGACY_QUEUE_ALIGNMENT: usize = 4096;

/// Offset of the available ring's `flags` ([`AvailableFlags`], 16 bits) in bytes (2.7.6 The Virtqueue Available
/// Ring).
pub const AVAILABLE_FLAGS_OFFSET: usize = 0;

/// Offset of the available ring's `idx` (16 bits, wraps at 65536) in bytes (2.7.6).
pub const AVAILABLE_IDX_OFFSET: usize = 2;

/// Offset of the available ring's first entry in bytes (2.7.6).
pub const AVAILABLE_RING_OFFSET: usize = 4;

/// Size of one entry of the available ring in bytes: the index of a chain's first descriptor, 16 bits (2.7.6).
pub const AVAILABLE_ENTRY_SIZE: usize = 2;

/// Offset of the used ring's `flags` ([`UsedFlags`], 16 bits) in bytes (2.7.8 The Virtqueue Used Ring).
pub const USED_FLAGS_OFFSET: usize = 0;

/// Offset of the used ring's `idx` (16 bits, wraps at 65536) in bytes (2.7.8).
pub const USED_IDX_OFFSET: usize = 2;

/// Offset of the used ring's first [`UsedElement`] in bytes (2.7.8).
pub const USED_RING_OFFSET: usize = 4;

/// Size of `used_event` and of `avail_event` in bytes (2.7.6, 2.7.8).
const EVENT_SIZE: usize = 2;

/// Size of the descriptor table in bytes (2.7).
#[must_use]
pub const fn descriptor_table_size(queue_size: u16) -> usize {
    size_of::<Descriptor>() * queue_size as usize
}

/// Size of the available ring in bytes, `used_event` included (2.7).
#[must_use]
pub const fn available_ring_size(queue_size: u16) -> usize {
    used_event_offset(queue_size) + EVENT_SIZE
}

/// Size of the used ring in bytes, `avail_event` included (2.7).
#[must_use]
pub const fn used_ring_size(queue_size: u16) -> usize {
    avail_event_offset(queue_size) + EVENT_SIZE
}

/// Offset of `used_event` (16 bits) in the available ring, in bytes (2.7.6). It has a meaning only with
/// [`Features::EVENT_IDX`](crate::Features::EVENT_IDX).
#[must_use]
pub const fn used_event_offset(queue_size: u16) -> usize {
    AVAILABLE_RING_OFFSET + AVAILABLE_ENTRY_SIZE * queue_size as usize
}

/// Offset of `avail_event` (16 bits) in the used ring, in bytes (2.7.8). It has a meaning only with
/// [`Features::EVENT_IDX`](crate::Features::EVENT_IDX).
#[must_use]
pub const fn avail_event_offset(queue_size: u16) -> usize {
    USED_RING_OFFSET + size_of::<UsedElement>() * queue_size as usize
}

/// Offset of the available ring in a legacy queue, in bytes: right behind the descriptor table (2.7.2).
#[must_use]
pub const fn legacy_available_ring_offset(queue_size: u16) -> usize {
    descriptor_table_size(queue_size)
}

/// Offset of the used ring in a legacy queue, in bytes: at the next multiple of `queue_alignment` behind the
/// available ring (2.7.2). `queue_alignment` is a power of two, usually [`LEGACY_QUEUE_ALIGNMENT`].
///
/// The specification's own formula is misprinted (it masks with the alignment itself, which rounds nothing up);
/// this is the layout that it describes and that devices use.
#[must_use]
pub const fn legacy_used_ring_offset(queue_size: u16, queue_alignment: usize) -> usize {
    round_up(legacy_available_ring_offset(queue_size) + available_ring_size(queue_size), queue_alignment)
}

/// Size of a whole legacy queue in bytes, rounded up to `queue_alignment`, a power of two (2.7.2).
#[must_use]
pub const fn legacy_queue_size_bytes(queue_size: u16, queue_alignment: usize) -> usize {
    legacy_used_ring_offset(queue_size, queue_alignment) + round_up(used_ring_size(queue_size), queue_alignment)
}

/// Rounds up to a multiple of a power of two. Without `next_multiple_of`, which panics on 0.
const fn round_up(bytes: usize, alignment: usize) -> usize {
    let below = alignment.wrapping_sub(1);
    bytes.wrapping_add(below) & !below
}

/// One entry of the descriptor table or of an indirect table: a piece of a buffer (2.7.5 The Virtqueue Descriptor
/// Table, 2.7.5.3 Indirect Descriptors).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Descriptor {
    /// Device address of the piece, or of the indirect table.
    pub addr: U64,
    /// Length of the piece in bytes; for an indirect table a multiple of the descriptor's size.
    pub len: U32,
    /// [`DescriptorFlags`].
    pub flags: U16,
    /// Index of the next descriptor in the same table, with [`DescriptorFlags::NEXT`].
    pub next: U16,
}

assert_layout!(Descriptor, size 16, { addr: 0, len: 8, flags: 12, next: 14 });

bitflags! {
    /// The flags of a [`Descriptor`] (2.7.5).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct DescriptorFlags: u16 {
        /// The chain goes on at `next`.
        const NEXT = 1;
        /// The device may only write the piece; without this flag it may only read it.
        const WRITE = 2;
        /// The piece is a table of descriptors. Only with
        /// [`Features::INDIRECT_DESC`](crate::Features::INDIRECT_DESC), never inside such a table, and never
        /// together with `NEXT`.
        const INDIRECT = 4;
    }
}

bitflags! {
    /// The flags of the available ring, written by the driver (2.7.6, 2.7.7 Used Buffer Notification Suppression).
    ///
    /// Empty when EVENT_IDX is negotiated.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct AvailableFlags: u16 {
        /// The driver does without used buffer notifications. A hint only.
        const NO_INTERRUPT = 1;
    }
}

bitflags! {
    /// The flags of the used ring, written by the device (2.7.8, 2.7.10 Available Buffer Notification Suppression).
    ///
    /// To be ignored when EVENT_IDX is negotiated.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct UsedFlags: u16 {
        /// The device does without available buffer notifications.
        const NO_NOTIFY = 1;
    }
}

/// One entry of the used ring: a buffer that comes back (2.7.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UsedElement {
    /// Index of the first descriptor of the chain. 32 bits wide, though an index has 16.
    pub id: U32,
    /// How many bytes the device has written into the chain's device-writable part, from its start. Often wrong on
    /// legacy devices (2.7.8.1).
    pub len: U32,
}

assert_layout!(UsedElement, size 8, { id: 0, len: 4 });
