//! SCSI packet commands of the legacy interface.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U32};

use crate::macros::assert_layout;

/// Length of the sense buffer of a SCSI request in bytes (5.2.6.3 Legacy Interface: Device Operation).
pub const SENSE_BUFFER_LENGTH: usize = 96;

/// What the device writes between the sense buffer and the status byte of a legacy SCSI request (5.2.6.3).
///
/// Such a request is a header, the command, data, the sense buffer, this, and the status. Being legacy, it is in
/// the driver's byte order in truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ScsiTail {
    /// The command's errors.
    pub errors: U32,
    /// Deprecated, to be ignored: the length of the data in bytes.
    pub data_len: U32,
    /// How many bytes of the sense buffer were written.
    pub sense_len: U32,
    /// How many bytes of the data were not transferred.
    pub residual: U32,
}

assert_layout!(ScsiTail, size 16, { errors: 0, data_len: 4, sense_len: 8, residual: 12 });
