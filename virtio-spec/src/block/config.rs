//! The configuration space of the block device.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use super::ZoneModel;
use crate::macros::{assert_layout, named_values};

/// The whole configuration space of a block device (5.2.4 Device configuration layout).
///
/// Only `capacity` is always there. Every other field may be read only if the device offers the feature that is
/// named with it; a device without that feature may end its configuration space before the field. Fields of
/// more than 32 bits, and several fields together, are to be read under the configuration generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockConfig {
    /// Size of the device in sectors of 512 bytes. May change while the device works.
    pub capacity: U64,
    /// SIZE_MAX: longest data segment in bytes.
    pub size_max: U32,
    /// SEG_MAX: largest number of data segments in a request.
    pub seg_max: U32,
    /// GEOMETRY: the disk's historical shape.
    pub geometry: Geometry,
    /// BLK_SIZE: the optimal unit of requests in bytes. The protocol's unit remains the sector.
    pub blk_size: U32,
    /// TOPOLOGY: optimal alignment and length of requests.
    pub topology: Topology,
    /// CONFIG_WCE: the cache mode; the one field that a driver may write. Not to be read before FEATURES_OK.
    pub writeback: CacheMode,
    /// Padding, 0.
    pub unused0: u8,
    /// MQ: number of request queues.
    pub num_queues: U16,
    /// DISCARD: longest segment of a DISCARD request in sectors.
    pub max_discard_sectors: U32,
    /// DISCARD: largest number of segments in a DISCARD request.
    pub max_discard_seg: U32,
    /// DISCARD: alignment, in sectors, at which a DISCARD request is best split.
    pub discard_sector_alignment: U32,
    /// WRITE_ZEROES: longest segment of a WRITE_ZEROES request in sectors.
    pub max_write_zeroes_sectors: U32,
    /// WRITE_ZEROES: largest number of segments in a WRITE_ZEROES request.
    pub max_write_zeroes_seg: U32,
    /// WRITE_ZEROES: 0 if such a request cannot deallocate sectors even with
    /// [`UNMAP`](super::DiscardWriteZeroesFlags::UNMAP). May change while the device works.
    pub write_zeroes_may_unmap: u8,
    /// Padding, 0.
    pub unused1: [u8; 3],
    /// SECURE_ERASE: longest segment of a SECURE_ERASE request in sectors.
    pub max_secure_erase_sectors: U32,
    /// SECURE_ERASE: largest number of segments in a SECURE_ERASE request.
    pub max_secure_erase_seg: U32,
    /// SECURE_ERASE: alignment, in sectors, at which a SECURE_ERASE request is best split.
    pub secure_erase_sector_alignment: U32,
    /// ZONED: what kind of zones the device has.
    pub zoned: ZonedCharacteristics,
}

assert_layout!(BlockConfig, size 96, {
    capacity: 0, size_max: 8, seg_max: 12, geometry: 16, blk_size: 20, topology: 24, writeback: 32, unused0: 33,
    num_queues: 34, max_discard_sectors: 36, max_discard_seg: 40, discard_sector_alignment: 44,
    max_write_zeroes_sectors: 48, max_write_zeroes_seg: 52, write_zeroes_may_unmap: 56, unused1: 57,
    max_secure_erase_sectors: 60, max_secure_erase_seg: 64, secure_erase_sector_alignment: 68, zoned: 72,
});

/// The disk's historical shape (5.2.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Geometry {
    /// Number of cylinders.
    pub cylinders: U16,
    /// Number of heads.
    pub heads: u8,
    /// Number of sectors per track.
    pub sectors: u8,
}

assert_layout!(Geometry, size 4, { cylinders: 0, heads: 2, sectors: 3 });

/// Optimal alignment and length of requests (5.2.4). Here a block is a *logical* block of `blk_size` bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Topology {
    /// Number of logical blocks in a physical one, as a power of two.
    pub physical_block_exp: u8,
    /// The first logical block at the beginning of a physical one.
    pub alignment_offset: u8,
    /// Shortest recommended request in logical blocks.
    pub min_io_size: U16,
    /// Optimal, and longest recommended, request in logical blocks.
    pub opt_io_size: U32,
}

assert_layout!(Topology, size 8, {
    physical_block_exp: 0, alignment_offset: 1, min_io_size: 2, opt_io_size: 4,
});

named_values! {
    /// When a completed write is on the medium: the values of [`BlockConfig::writeback`] (5.2.5 Device
    /// Initialization).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    pub struct CacheMode(u8) {
        /// When it is completed.
        const WRITETHROUGH = 0;
        /// When a FLUSH request that was sent after its completion is completed.
        const WRITEBACK = 1;
    }
}

/// What kind of zones a zoned device has (5.2.4, 5.2.5.2).
///
/// All zero, or not to be looked at, if `model` is [`ZoneModel::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ZonedCharacteristics {
    /// Size of every zone in sectors; only the last zone may be smaller.
    pub zone_sectors: U32,
    /// How many zones may be open at once; 0 means no limit.
    pub max_open_zones: U32,
    /// How many zones may be open or closed (that is, active) at once; 0 means no limit.
    pub max_active_zones: U32,
    /// Longest ZONE_APPEND request in sectors; 0 means that there are none.
    pub max_append_sectors: U32,
    /// What position and length of a write to a sequential zone are multiples of, in bytes.
    pub write_granularity: U32,
    /// Who keeps the order of writes.
    pub model: ZoneModel,
    /// Padding, 0.
    pub unused2: [u8; 3],
}

assert_layout!(ZonedCharacteristics, size 24, {
    zone_sectors: 0, max_open_zones: 4, max_active_zones: 8, max_append_sectors: 12, write_granularity: 16,
    model: 20, unused2: 21,
});
