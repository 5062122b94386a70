//! What a request to the block device is made of.

use bitflags::bitflags;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use crate::macros::{assert_layout, named_values};

/// Size of a sector, the unit of the protocol, in bytes (5.2.6 Device Operation).
pub const SECTOR_SIZE: usize = 512;

/// Length of the answer to a GET_ID request in bytes: ASCII, padded with NUL, without a NUL at its end if it is this
/// long (5.2.6).
pub const DEVICE_ID_LENGTH: usize = 20;

/// Legacy, with [`BlockFeatures::BARRIER`](super::BlockFeatures::BARRIER): a bit that may be set in
/// [`RequestHeader::request_type`] besides the type. Requests before it are done before it, those after it not
/// begun before it is done (5.2.6.3 Legacy Interface: Device Operation).
pub const BARRIER: u32 = 0x8000_0000;

/// What every request begins with, readable by the device (5.2.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RequestHeader {
    /// [`RequestType`]; the specification's field `type`.
    pub request_type: U32,
    /// 0. The legacy interface called it `ioprio`, a hint about priority.
    pub reserved: U32,
    /// The first sector, in units of 512 bytes, of reads, writes and zone requests; 0 for others.
    pub sector: U64,
}

assert_layout!(RequestHeader, size 16, { request_type: 0, reserved: 4, sector: 8 });

named_values! {
    /// What a request asks for (5.2.6; 5.2.6.3 for the legacy ones).
    ///
    /// The device writes the data of IN, GET_ID, GET_LIFETIME and ZONE_REPORT, and reads that of OUT, DISCARD,
    /// WRITE_ZEROES, SECURE_ERASE and ZONE_APPEND; the others have none.
    pub struct RequestType(u32) {
        /// Read sectors.
        const IN = 0;
        /// Write sectors.
        const OUT = 1;
        /// Legacy: a SCSI packet command.
        const SCSI_CMD = 2;
        /// Legacy: the same as `SCSI_CMD`.
        const SCSI_CMD_OUT = 3;
        /// Commit completed writes to the medium. No data, sector 0.
        const FLUSH = 4;
        /// Legacy: the same as `FLUSH`.
        const FLUSH_OUT = 5;
        /// Get the device's id: [`DEVICE_ID_LENGTH`] bytes.
        const GET_ID = 8;
        /// Get the device's [`Lifetime`](super::Lifetime).
        const GET_LIFETIME = 10;
        /// Deallocate the sectors of the [`DiscardWriteZeroes`] segments.
        const DISCARD = 11;
        /// Make the sectors of the [`DiscardWriteZeroes`] segments read as zeroes.
        const WRITE_ZEROES = 13;
        /// Erase for good the sectors of the [`DiscardWriteZeroes`] segments.
        const SECURE_ERASE = 14;
        /// Write at the write pointer of the zone that begins at `sector`; ends in a
        /// [`ZoneAppendTail`](super::ZoneAppendTail).
        const ZONE_APPEND = 15;
        /// Get a [`ZoneReportHeader`](super::ZoneReportHeader) and as many
        /// [`ZoneDescriptor`](super::ZoneDescriptor)s as there is room for, from the zone with `sector` on.
        const ZONE_REPORT = 16;
        /// Open the zone that begins at `sector` explicitly.
        const ZONE_OPEN = 18;
        /// Close the zone that begins at `sector`.
        const ZONE_CLOSE = 20;
        /// Make the zone that begins at `sector` full.
        const ZONE_FINISH = 22;
        /// Make the zone that begins at `sector` empty.
        const ZONE_RESET = 24;
        /// Make all sequential zones empty.
        const ZONE_RESET_ALL = 26;
    }
}

named_values! {
    /// How a request ended: its last byte, written by the device (5.2.6).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    pub struct RequestStatus(u8) {
        /// It is done.
        const OK = 0;
        /// Something failed, in the device or in the request.
        const IOERR = 1;
        /// The device does not support such a request.
        const UNSUPP = 2;
        /// Zoned: the zone's type or state forbids it, or the request is wrong.
        const ZONE_INVALID_CMD = 3;
        /// Zoned: a write that does not begin at the write pointer, or is no multiple of the write granularity.
        const ZONE_UNALIGNED_WP = 4;
        /// Zoned: more zones would be open than `max_open_zones`.
        const ZONE_OPEN_RESOURCE = 5;
        /// Zoned: more zones would be active than `max_active_zones`.
        const ZONE_ACTIVE_RESOURCE = 6;
    }
}

/// One segment of a DISCARD, WRITE_ZEROES or SECURE_ERASE request; its data is one or more of these (5.2.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscardWriteZeroes {
    /// The first sector.
    pub sector: U64,
    /// The number of sectors.
    pub num_sectors: U32,
    /// [`DiscardWriteZeroesFlags`]; the other bits are reserved and 0.
    pub flags: U32,
}

assert_layout!(DiscardWriteZeroes, size 16, { sector: 0, num_sectors: 8, flags: 12 });

bitflags! {
    /// The flags of a [`DiscardWriteZeroes`] segment (5.2.6).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct DiscardWriteZeroesFlags: u32 {
        /// WRITE_ZEROES only: the device may deallocate the sectors, as long as they read as zeroes.
        const UNMAP = 1;
    }
}
