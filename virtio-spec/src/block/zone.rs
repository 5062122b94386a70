//! Zones: what zoned block devices add.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U64};

use super::RequestStatus;
use crate::macros::{assert_layout, named_values};

named_values! {
    /// Who keeps the order of writes to a zone (5.2.4 Device configuration layout).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    pub struct ZoneModel(u8) {
        /// Nobody needs to: not zoned, or drive-managed and used like a disk that is not zoned.
        const NONE = 0;
        /// Host-managed: the driver must.
        const HM = 1;
        /// Host-aware: the driver should.
        const HA = 2;
    }
}

named_values! {
    /// How a zone may be written (5.2.6 Device Operation).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    pub struct ZoneType(u8) {
        /// Conventional: in any order.
        const CONV = 1;
        /// Sequential write required: only at the write pointer.
        const SWR = 2;
        /// Sequential write preferred: best at the write pointer.
        const SWP = 3;
    }
}

named_values! {
    /// What state a zone is in (5.2.6).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    pub struct ZoneState(u8) {
        /// Without a write pointer: conventional zones, always.
        const NOT_WP = 0;
        /// Empty: the write pointer is at the start.
        const EMPTY = 1;
        /// Open because it was written.
        const IOPEN = 2;
        /// Open because a ZONE_OPEN request said so.
        const EOPEN = 3;
        /// Closed: written in part and active, but not open.
        const CLOSED = 4;
        /// Read-only, by a failure.
        const RDONLY = 13;
        /// Full: nothing can be written until it is reset.
        const FULL = 14;
        /// Neither readable nor writable, by a failure.
        const OFFLINE = 15;
    }
}

/// What the answer to a ZONE_REPORT request begins with; [`ZoneDescriptor`]s follow (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ZoneReportHeader {
    /// The number of descriptors that follow in full.
    pub nr_zones: U64,
    /// Reserved.
    pub reserved: [u8; 56],
}

assert_layout!(ZoneReportHeader, size 64, { nr_zones: 0, reserved: 8 });

/// What a zone report says about one zone (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ZoneDescriptor {
    /// How many sectors can be written to the zone when it is empty; at most
    /// [`zone_sectors`](super::ZonedCharacteristics::zone_sectors).
    pub z_cap: U64,
    /// The first sector of the zone.
    pub z_start: U64,
    /// The sector of the next write. Undefined for conventional zones, and for read-only, full and offline ones.
    pub z_wp: U64,
    /// How it may be written.
    pub z_type: ZoneType,
    /// What state it is in.
    pub z_state: ZoneState,
    /// Reserved.
    pub reserved: [u8; 38],
}

assert_layout!(ZoneDescriptor, size 64, { z_cap: 0, z_start: 8, z_wp: 16, z_type: 24, z_state: 25, reserved: 26 });

/// What a ZONE_APPEND request ends in, instead of the status byte alone; written by the device (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ZoneAppendTail {
    /// The first sector that was written. Undefined unless `status` is OK.
    pub append_sector: U64,
    /// How the request ended.
    pub status: RequestStatus,
}

assert_layout!(ZoneAppendTail, size 9, { append_sector: 0, status: 8 });
