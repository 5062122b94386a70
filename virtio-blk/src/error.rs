//! What can go wrong, when a disk is opened and with each request.

use core::fmt;

use virtio_spec::block::RequestStatus;
use virtio_transport::{ConfigError, GaveUp, InitError, QueueError, QueueResetError, SuspendError};
use virtqueue::{ChainError, MemoryError, QueueSetupError, Violation};

use crate::features::FeatureSet;
use crate::request::Operation;
use crate::zone_report::ZoneReportError;

/// Why a disk could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// The device did not get through the steps of its initialisation.
    Init(InitError),
    /// The device lacks features that the caller requires.
    MissingFeatures {
        /// The required features that were not negotiated.
        missing: FeatureSet,
        /// What the device offers.
        offered: FeatureSet,
    },
    /// The configuration space could not be read.
    Config(ConfigError),
    /// The device has a block size that no driver can use.
    BlockSize {
        /// The size in bytes; expected is a power of two of at least 512.
        found: u32,
    },
    /// The device has zones of a size that no driver can use.
    ZoneSize {
        /// The size in sectors; expected is a multiple of the block size, and not 0.
        found: u32,
        /// The number of sectors of a logical block.
        block_sectors: u32,
    },
    /// The device has fewer entries for a queue than any request needs.
    QueueTooSmall {
        /// The index of the queue.
        queue: u16,
        /// The most entries that the device and the options allow.
        max: u32,
    },
    /// All queues that the device has, or the options allow, are set up.
    NoMoreQueues {
        /// How many there are.
        queues: u16,
    },
    /// The queue is not the one queue of this device.
    ForeignQueue,
    /// The kernel has no memory for what the driver keeps for itself.
    Memory(MemoryError),
    /// The queue could not be made.
    QueueSetup(QueueSetupError),
    /// The device did not take the queue.
    Queue(QueueError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init(error) => write!(f, "{error}"),
            Self::MissingFeatures { missing, offered } => {
                write!(f, "the disk lacks required features: {missing}; it offers: {offered}")
            }
            Self::Config(error) => write!(f, "{error}"),
            Self::BlockSize { found } => {
                write!(f, "the disk has blocks of {found} bytes, expected a power of two of at least 512")
            }
            Self::ZoneSize { found, block_sectors } => write!(
                f,
                "the disk has zones of {found} sectors, expected whole blocks of {block_sectors} sectors; forbid ZONED \
                 to use it without zones"
            ),
            Self::QueueTooSmall { queue, max } => {
                write!(f, "queue {queue} can have {max} entries, expected at least 4")
            }
            Self::NoMoreQueues { queues } => write!(f, "all {queues} queues of the disk are set up"),
            Self::ForeignQueue => {
                write!(f, "the queue is not the only one that was set up for this device; a disk takes that one")
            }
            Self::Memory(error) => write!(f, "{error}"),
            Self::QueueSetup(error) => write!(f, "{error}"),
            Self::Queue(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for OpenError {}

impl From<InitError> for OpenError {
    fn from(error: InitError) -> Self {
        Self::Init(error)
    }
}

impl From<ConfigError> for OpenError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<QueueSetupError> for OpenError {
    fn from(error: QueueSetupError) -> Self {
        Self::QueueSetup(error)
    }
}

impl From<QueueError> for OpenError {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

/// Why a request failed, or was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The length is no whole number of logical blocks.
    UnalignedLength {
        /// The length in bytes.
        bytes: usize,
        /// The size of a logical block in bytes.
        block_bytes: u32,
    },
    /// The first sector is not the first of a logical block.
    UnalignedSector {
        /// The first sector.
        sector: u64,
        /// The number of sectors of a logical block.
        block_sectors: u32,
    },
    /// The range does not lie on the disk.
    BeyondCapacity {
        /// The first sector.
        sector: u64,
        /// The number of sectors.
        sectors: u64,
        /// The number of sectors that the disk has.
        capacity_sectors: u64,
    },
    /// The request has no data, and needs some; or a range without sectors.
    Empty,
    /// A range, or the data of an append, is longer than the device allows.
    TooManySectors {
        /// The operation.
        operation: Operation,
        /// The number of sectors.
        sectors: u64,
        /// The most that one may have.
        max_sectors: u32,
    },
    /// A request has more ranges than the device allows, or than the driver has room for.
    TooManyRanges {
        /// The operation.
        operation: Operation,
        /// The number of ranges.
        found: usize,
        /// The most that one request may have.
        max: usize,
    },
    /// A range does not start and end where the device wants it to.
    UnalignedRange {
        /// The operation.
        operation: Operation,
        /// The first sector.
        sector: u64,
        /// The number of sectors.
        sectors: u64,
        /// What both are to be multiples of.
        alignment_sectors: u64,
    },
    /// A request goes beyond the end of its zone, on a host-managed zoned disk.
    CrossesZone {
        /// The first sector.
        sector: u64,
        /// The number of sectors.
        sectors: u64,
        /// The size of a zone in sectors.
        zone_sectors: u32,
    },
    /// A write to a zone does not start and end at a multiple of the write granularity.
    WriteGranularity {
        /// The first sector.
        sector: u64,
        /// The length in bytes.
        bytes: usize,
        /// What start and length are to be multiples of, in bytes.
        granularity_bytes: u32,
    },
    /// A request for a zone names a sector that is not the first of one.
    NotZoneStart {
        /// The operation.
        operation: Operation,
        /// The sector.
        sector: u64,
        /// The size of a zone in sectors.
        zone_sectors: u32,
    },
    /// The buffer is too short for what the device is asked for.
    AnswerTooShort {
        /// The operation.
        operation: Operation,
        /// The length of the buffer in bytes.
        bytes: usize,
        /// The least that it needs.
        min_bytes: usize,
    },
    /// The device says that it appended to the zone, but names a sector that is not in the zone. Where the data is, if it
    /// was written, is unknown.
    MisplacedAppend {
        /// The first sector of the zone.
        sector: u64,
    },
    /// What the device reports of its zones makes no sense.
    ZoneReport(ZoneReportError),
    /// A reset cut off a write to a zone. It may have happened, and is not done again: a report tells where the write
    /// pointer is.
    ZoneWriteInDoubt {
        /// The operation.
        operation: Operation,
        /// The first sector of the write; of an append, of its zone.
        sector: u64,
    },
    /// A write to a disk that takes none (RO).
    ReadOnly,
    /// The operation belongs to a feature that was not negotiated.
    NotNegotiated {
        /// The operation.
        operation: Operation,
        /// The feature.
        feature: FeatureSet,
    },
    /// The buffer does not fit into one request: it lies in more pieces than a request may have, each piece being
    /// contiguous for the device and no longer than SIZE_MAX.
    TooManySegments {
        /// The most data segments of one request.
        max: u16,
    },
    /// The queue has no room: some requests must complete first.
    QueueFull,
    /// The kernel's memory could not translate or map the buffer.
    Memory(MemoryError),
    /// The device answered that the request failed.
    Device {
        /// The operation.
        operation: Operation,
        /// The first sector of the request; 0 for an operation that has none.
        sector: u64,
        /// What the device answered.
        status: DeviceError,
    },
    /// The device broke the rules of the ring. The queue takes nothing until the device was reset.
    Violation(Violation),
    /// The waiting policy gave up. The device was reset: every request that was in flight has ended, and it is unknown
    /// which of their sectors were written.
    GaveUp,
    /// The device was reset, or suspended, and does nothing until it has recovered, or resumed, or is opened anew.
    Stopped,
    /// The device has not reset the queue. Its requests are in flight as before.
    QueueReset(QueueResetError),
    /// The device has not stopped, or does not go on.
    Suspend(SuspendError),
    /// The request was cancelled, and a reset cut it off. A write may have happened or not.
    Cancelled {
        /// The operation.
        operation: Operation,
        /// The first sector of the request; 0 for an operation that has none.
        sector: u64,
    },
    /// A reset cut off a flush: writes that completed since the last flush that was `Ok` are in doubt.
    FlushInDoubt,
    /// The device did not acknowledge its reset before the waiting policy gave up: it may still use the memory that it
    /// was given.
    NotAcknowledged,
    /// The device is gone for good; what the request did is unknown. Unless it acknowledged a last reset, the buffer
    /// was leaked, as it may still use it.
    GivenUp {
        /// The operation.
        operation: Operation,
        /// The first sector of the request; 0 for an operation that has none.
        sector: u64,
    },
    /// What concerns the whole device takes every queue of it, each of them once, and no others.
    QueuesMissing {
        /// How many queues the device has.
        expected: u16,
        /// How many of them were given.
        found: u16,
    },
    /// The queue is not one of this device's.
    ForeignQueue,
    /// The device could not be brought up again after a reset.
    NotRecovered(OpenError),
    /// The cache mode did not change.
    CacheMode,
    /// The configuration space could not be read or written.
    Config(ConfigError),
}

/// How a device failed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError {
    /// An error of the device or of what is behind it (IOERR).
    Io,
    /// The device does not know the request (UNSUPP).
    Unsupported,
    /// The zone's type or state does not allow the request, or the request goes beyond what the zone can hold
    /// (ZONE_INVALID_CMD).
    ZoneInvalidCommand,
    /// The write does not begin at the zone's write pointer, or is no multiple of the write granularity
    /// (ZONE_UNALIGNED_WP).
    ZoneUnalignedWritePointer,
    /// More zones would be open than the device can have open (ZONE_OPEN_RESOURCE).
    ZoneOpenResource,
    /// More zones would be active than the device can have active (ZONE_ACTIVE_RESOURCE).
    ZoneActiveResource,
    /// The device returned the request without an answer.
    NoStatus,
    /// The device answered with a number that means nothing.
    Unknown(u8),
}

impl DeviceError {
    /// What a status byte other than OK means. `unanswered` is the value that it was set to before the device had it.
    pub(crate) fn from_status(status: u8, unanswered: u8) -> Self {
        match RequestStatus(status) {
            RequestStatus::IOERR => Self::Io,
            RequestStatus::UNSUPP => Self::Unsupported,
            RequestStatus::ZONE_INVALID_CMD => Self::ZoneInvalidCommand,
            RequestStatus::ZONE_UNALIGNED_WP => Self::ZoneUnalignedWritePointer,
            RequestStatus::ZONE_OPEN_RESOURCE => Self::ZoneOpenResource,
            RequestStatus::ZONE_ACTIVE_RESOURCE => Self::ZoneActiveResource,
            RequestStatus(status) if status == unanswered => Self::NoStatus,
            RequestStatus(status) => Self::Unknown(status),
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io => write!(f, "an I/O error"),
            Self::Unsupported => write!(f, "that it does not support it"),
            Self::ZoneInvalidCommand => write!(f, "that the zone does not allow it"),
            Self::ZoneUnalignedWritePointer => write!(f, "that it is not at the write pointer of the zone"),
            Self::ZoneOpenResource => write!(f, "that too many zones are open; close or finish one first"),
            Self::ZoneActiveResource => write!(f, "that too many zones are active; finish or reset one first"),
            Self::NoStatus => write!(f, "without a status"),
            Self::Unknown(status) => write!(f, "status {status}, which has no meaning"),
        }
    }
}

impl core::error::Error for DeviceError {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnalignedLength { bytes, block_bytes } => {
                write!(f, "{bytes} bytes are no whole number of blocks of {block_bytes} bytes")
            }
            Self::UnalignedSector { sector, block_sectors } => {
                write!(f, "sector {sector} is not the first of a block of {block_sectors} sectors")
            }
            Self::BeyondCapacity { sector, sectors, capacity_sectors } => write!(
                f,
                "{sectors} sectors from sector {sector} on do not lie on a disk of {capacity_sectors} sectors"
            ),
            Self::Empty => write!(f, "the request has no data"),
            Self::TooManySectors { operation, sectors, max_sectors } => {
                write!(f, "a {operation} of {sectors} sectors is longer than the {max_sectors} that the disk allows")
            }
            Self::TooManyRanges { operation, found, max } => {
                write!(f, "a {operation} of {found} ranges has more than the {max} that one request may have")
            }
            Self::UnalignedRange { operation, sector, sectors, alignment_sectors } => write!(
                f,
                "a {operation} of {sectors} sectors from sector {sector} on does not start and end at multiples of \
                 {alignment_sectors} sectors"
            ),
            Self::CrossesZone { sector, sectors, zone_sectors } => write!(
                f,
                "{sectors} sectors from sector {sector} on are not in one zone of {zone_sectors} sectors; split the \
                 request at the end of the zone"
            ),
            Self::WriteGranularity { sector, bytes, granularity_bytes } => write!(
                f,
                "a write of {bytes} bytes at sector {sector} does not start and end at multiples of \
                 {granularity_bytes} bytes, the write granularity of the zones"
            ),
            Self::NotZoneStart { operation, sector, zone_sectors } => write!(
                f,
                "a {operation} names the first sector of a zone of {zone_sectors} sectors, found sector {sector}"
            ),
            Self::AnswerTooShort { operation, bytes, min_bytes } => {
                write!(f, "the answer to a {operation} needs a buffer of at least {min_bytes} bytes, found {bytes}")
            }
            Self::MisplacedAppend { sector } => write!(
                f,
                "the device says that it appended to the zone at sector {sector}, but at a sector that is not in it"
            ),
            Self::ZoneReport(error) => write!(f, "{error}"),
            Self::ZoneWriteInDoubt { operation, sector } => write!(
                f,
                "the {operation} of sector {sector} was cut off by a reset and may have happened; the zone's write \
                 pointer tells"
            ),
            Self::ReadOnly => write!(f, "the disk is read-only"),
            Self::NotNegotiated { operation, feature } => {
                write!(f, "the disk does not have the feature of a {operation}: {feature}")
            }
            Self::TooManySegments { max } => write!(
                f,
                "the buffer lies in more than {max} pieces of memory, which is all that one request may have; use a \
                 smaller or a contiguous one"
            ),
            Self::QueueFull => write!(f, "the queue is full; take completions from it first"),
            Self::Memory(error) => write!(f, "{error}"),
            Self::Device { operation, sector, status } => {
                write!(f, "the device answered the {operation} of sector {sector} with {status}")
            }
            Self::Violation(violation) => write!(f, "{violation}; the device must be reset"),
            Self::GaveUp => write!(f, "the device did not answer in time and was reset"),
            Self::Stopped => write!(f, "the device was reset or suspended; let it recover or resume, or open it anew"),
            Self::QueueReset(error) => error.fmt(f),
            Self::Suspend(error) => error.fmt(f),
            Self::Cancelled { operation, sector } => {
                write!(f, "the {operation} of sector {sector} was cancelled, and cut off by a reset")
            }
            Self::FlushInDoubt => write!(
                f,
                "the flush was cut off by a reset; writes completed since the last successful flush are in doubt"
            ),
            Self::NotAcknowledged => write!(f, "the device did not acknowledge its reset in time"),
            Self::GivenUp { operation, sector } => {
                write!(f, "the device was given up during the {operation} of sector {sector}")
            }
            Self::QueuesMissing { expected, found } => {
                write!(f, "it takes all {expected} queues of the device, and no others; found {found} of them")
            }
            Self::ForeignQueue => {
                write!(f, "the queue is one of another device; use it with the device that it was set up with")
            }
            Self::NotRecovered(error) => write!(f, "the device did not recover: {error}"),
            Self::CacheMode => write!(f, "the device did not take the cache mode"),
            Self::Config(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<ZoneReportError> for Error {
    fn from(error: ZoneReportError) -> Self {
        Self::ZoneReport(error)
    }
}

impl From<GaveUp> for Error {
    fn from(_: GaveUp) -> Self {
        Self::GaveUp
    }
}

impl Error {
    /// Whether the device has to be reset before anything that it says is believed again.
    pub(crate) fn is_fatal(&self) -> bool {
        matches!(self, Self::Violation(_) | Self::GaveUp)
    }

    /// What an error of the ring means for a request with at the most `segments` data segments.
    #[cold]
    pub(crate) fn from_chain(error: ChainError, segments: u16) -> Self {
        match error {
            ChainError::Full => Self::QueueFull,
            ChainError::Memory(error) => Self::Memory(error),
            ChainError::Broken(violation) => Self::Violation(violation),
            ChainError::Empty => Self::Empty,
            // The driver keeps to its slot and to the order; what is left is too much data.
            _ => Self::TooManySegments { max: segments },
        }
    }
}
