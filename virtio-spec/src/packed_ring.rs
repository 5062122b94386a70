//! The packed virtqueue: one ring of descriptors that driver and device both write.
//!
//! (2.8 Packed Virtqueues.) With a queue of N entries the three parts are, in bytes:
//!
//! | part                     | area            | alignment | size |
//! |--------------------------|-----------------|-----------|------|
//! | descriptor ring          | descriptor area | 16        | 16 N |
//! | driver event suppression | driver area     | 4         | 4    |
//! | device event suppression | device area     | 4         | 4    |

use bitflags::bitflags;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use crate::macros::{assert_layout, named_values};

/// The largest queue size in entries; a size need not be a power of two (2.8, 2.8.10.1 Structure Size and
/// Alignment).
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Alignment of the descriptor ring in bytes (2.8.10.1).
pub const DESCRIPTOR_RING_ALIGNMENT: usize = 16;

/// Alignment of each [`EventSuppression`] in bytes (2.8.10.1).
pub const EVENT_SUPPRESSION_ALIGNMENT: usize = 4;

/// Size of the descriptor ring in bytes (2.8.10.1).
#[must_use]
pub const fn descriptor_ring_size(queue_size: u16) -> usize {
    size_of::<Descriptor>() * queue_size as usize
}

/// One entry of the descriptor ring or of an indirect table (2.8.13 The Virtqueue Descriptor Format).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Descriptor {
    /// Device address of the piece, or of the indirect table.
    pub addr: U64,
    /// Length in bytes: of the piece when the driver writes it, of what was written when the device does.
    pub len: U32,
    /// The buffer's id, chosen by the driver and given back by the device.
    pub id: U16,
    /// [`DescriptorFlags`].
    pub flags: U16,
}

assert_layout!(Descriptor, size 16, { addr: 0, len: 8, id: 12, flags: 14 });

bitflags! {
    /// The flags of a [`Descriptor`] (2.8.1 Driver and Device Ring Wrap Counters, 2.8.3, 2.8.6, 2.8.7).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct DescriptorFlags: u16 {
        /// The list goes on in the next entry of the ring.
        const NEXT = 1;
        /// The device may only write the piece; without this flag it may only read it. In a used descriptor: data
        /// was written.
        const WRITE = 2;
        /// The piece is a table of descriptors. Only with
        /// [`Features::INDIRECT_DESC`](crate::Features::INDIRECT_DESC).
        const INDIRECT = 4;
        /// Equal to the driver's wrap counter, and unlike `USED`: made available.
        const AVAIL = 1 << 7;
        /// Equal to the device's wrap counter, and like `AVAIL`: used.
        const USED = 1 << 15;
    }
}

/// Which notifications its writer wants to get (2.8.14 Event Suppression Structure Format).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EventSuppression {
    /// The position to notify at, with [`EventFlags::DESC`]: an offset in the ring in entries
    /// ([`EVENT_OFFSET_MASK`]) and a wrap counter ([`EVENT_WRAP_SHIFT`]).
    pub desc: U16,
    /// [`EventFlags`] in the bits of [`EVENT_FLAGS_MASK`]; the others are reserved and 0.
    pub flags: U16,
}

assert_layout!(EventSuppression, size 4, { desc: 0, flags: 2 });

/// The bits of [`EventSuppression::desc`] that hold the offset in the ring, in entries (2.8.14).
pub const EVENT_OFFSET_MASK: u16 = 0x7fff;

/// The bit of [`EventSuppression::desc`] that holds the wrap counter (2.8.14).
pub const EVENT_WRAP_SHIFT: u32 = 15;

/// The bits of [`EventSuppression::flags`] that hold [`EventFlags`] (2.8.14).
pub const EVENT_FLAGS_MASK: u16 = 0x3;

named_values! {
    /// When to notify: a value of two bits, 3 is reserved (2.8.10 Driver and Device Event Suppression).
    pub struct EventFlags(u16) {
        /// At every event.
        const ENABLE = 0;
        /// At no event.
        const DISABLE = 1;
        /// When the ring reaches [`EventSuppression::desc`]. Only with
        /// [`Features::EVENT_IDX`](crate::Features::EVENT_IDX).
        const DESC = 2;
    }
}
