//! A request: what it asks for, and what the driver remembers of it while the device has it.

use core::fmt;
use core::marker::PhantomData;
use core::task::Waker;

use virtio_spec::block::{BlockFeatures, RequestStatus, RequestType};
use virtqueue::{Attachment, Frame, Token};

use crate::buffer::{Buffer, RawBuffer};
use crate::error::{DeviceError, Error};

/// What a request asks the device to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Read sectors.
    Read,
    /// Write sectors.
    Write,
    /// Make completed writes safe from a power cut.
    Flush,
    /// Read the name that the device has on its host.
    DeviceId,
    /// Read how worn the device is (LIFETIME).
    Lifetime,
    /// Tell the device that ranges are not needed any more (DISCARD).
    Discard,
    /// Make ranges read as zeroes (WRITE_ZEROES).
    WriteZeroes,
    /// Erase ranges for good (SECURE_ERASE).
    SecureErase,
    /// Read what zones there are (ZONED).
    ZoneReport,
    /// Write at the write pointer of a zone (ZONED).
    ZoneAppend,
    /// Open a zone (ZONED).
    ZoneOpen,
    /// Close a zone (ZONED).
    ZoneClose,
    /// Make a zone full (ZONED).
    ZoneFinish,
    /// Make a zone empty (ZONED).
    ZoneReset,
    /// Make all sequential zones empty (ZONED).
    ZoneResetAll,
}

impl Operation {
    /// The first sector of a request, as it is named to the caller: 0 for an operation that has none.
    #[inline(always)]
    pub(crate) fn sector(self, sector: u64) -> u64 {
        match self {
            Self::Flush | Self::DeviceId | Self::Lifetime | Self::ZoneResetAll => 0,
            _ => sector,
        }
    }

    /// The sector that a header names. Ranges have theirs in the data.
    #[inline(always)]
    pub(crate) fn header_sector(self, sector: u64) -> u64 {
        if self.has_ranges() { 0 } else { self.sector(sector) }
    }

    /// Whether its data are ranges of sectors.
    #[inline(always)]
    pub(crate) fn has_ranges(self) -> bool {
        matches!(self, Self::Discard | Self::WriteZeroes | Self::SecureErase)
    }

    /// Whether it moves sectors between the disk and a buffer, and is no append.
    #[inline(always)]
    pub(crate) fn is_transfer(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }

    /// Whether it changes what sectors hold, so that a flush makes a difference to it.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Discard | Self::WriteZeroes | Self::SecureErase | Self::ZoneAppend)
    }

    /// Whether a read-only device takes it.
    pub(crate) fn only_reads(self) -> bool {
        matches!(self, Self::Read | Self::Flush | Self::DeviceId | Self::Lifetime | Self::ZoneReport)
    }

    /// The feature that it belongs to; `None`: every device has it.
    pub(crate) fn feature(self) -> Option<BlockFeatures> {
        match self {
            Self::Read | Self::Write | Self::DeviceId => None,
            Self::Flush => Some(BlockFeatures::FLUSH),
            Self::Lifetime => Some(BlockFeatures::LIFETIME),
            Self::Discard => Some(BlockFeatures::DISCARD),
            Self::WriteZeroes => Some(BlockFeatures::WRITE_ZEROES),
            Self::SecureErase => Some(BlockFeatures::SECURE_ERASE),
            Self::ZoneReport
            | Self::ZoneAppend
            | Self::ZoneOpen
            | Self::ZoneClose
            | Self::ZoneFinish
            | Self::ZoneReset
            | Self::ZoneResetAll => Some(BlockFeatures::ZONED),
        }
    }

    /// The number that the device knows it by (5.2.6, "Device Operation").
    #[inline(always)]
    pub(crate) fn request_type(self) -> RequestType {
        match self {
            Self::Read => RequestType::IN,
            Self::Write => RequestType::OUT,
            Self::Flush => RequestType::FLUSH,
            Self::DeviceId => RequestType::GET_ID,
            Self::Lifetime => RequestType::GET_LIFETIME,
            Self::Discard => RequestType::DISCARD,
            Self::WriteZeroes => RequestType::WRITE_ZEROES,
            Self::SecureErase => RequestType::SECURE_ERASE,
            Self::ZoneReport => RequestType::ZONE_REPORT,
            Self::ZoneAppend => RequestType::ZONE_APPEND,
            Self::ZoneOpen => RequestType::ZONE_OPEN,
            Self::ZoneClose => RequestType::ZONE_CLOSE,
            Self::ZoneFinish => RequestType::ZONE_FINISH,
            Self::ZoneReset => RequestType::ZONE_RESET,
            Self::ZoneResetAll => RequestType::ZONE_RESET_ALL,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::DeviceId => "device id",
            Self::Lifetime => "lifetime",
            Self::Discard => "discard",
            Self::WriteZeroes => "write zeroes",
            Self::SecureErase => "secure erase",
            Self::ZoneReport => "zone report",
            Self::ZoneAppend => "zone append",
            Self::ZoneOpen => "zone open",
            Self::ZoneClose => "zone close",
            Self::ZoneFinish => "zone finish",
            Self::ZoneReset => "zone reset",
            Self::ZoneResetAll => "reset of all zones",
        })
    }
}

/// The shared memory of a slot: the ranges of a request that has some, its header, and its status, written by the driver
/// and read by the device, or the other way round (5.2.6, "Device Operation").
///
/// Header and status come last, next to the descriptors of the slot, as every request needs these.
pub(crate) mod slot {
    /// The offset of the ranges.
    pub(crate) const RANGES: usize = 0;
    /// The length of one range.
    pub(crate) const RANGE_BYTES: usize = 16;
    /// The most ranges that there is room for.
    pub(crate) const RANGES_MAX: usize = 4;
    /// The header's offset. Its fields follow: type, a reserved one that stays zero, sector.
    pub(crate) const HEADER: usize = RANGES + RANGES_MAX * RANGE_BYTES;
    /// The offset of the type.
    pub(crate) const TYPE: usize = HEADER;
    /// The offset of the first sector.
    pub(crate) const SECTOR: usize = HEADER + 8;
    /// The length of the header.
    pub(crate) const HEADER_BYTES: usize = 16;
    /// The offset of what a zone append ends in: the sector where the data landed, and the status.
    pub(crate) const TAIL: usize = HEADER + HEADER_BYTES;
    /// The length of that.
    pub(crate) const TAIL_BYTES: usize = STATUS + STATUS_BYTES - TAIL;
    /// The offset of the status.
    pub(crate) const STATUS: usize = TAIL + 8;
    /// The length of the status.
    pub(crate) const STATUS_BYTES: usize = 1;
    /// The length of the whole.
    pub(crate) const BYTES: usize = STATUS + STATUS_BYTES;
    /// The status that a request has before the device answers: one that no device writes.
    pub(crate) const UNANSWERED: u8 = 0xff;

    const _: () = {
        use core::mem::{offset_of, size_of};
        use virtio_spec::block::{DiscardWriteZeroes, RequestHeader, ZoneAppendTail};
        assert!(RANGE_BYTES == size_of::<DiscardWriteZeroes>());
        assert!(offset_of!(ZoneAppendTail, append_sector) == 0);
        assert!(STATUS == TAIL + offset_of!(ZoneAppendTail, status));
        assert!(TAIL_BYTES == size_of::<ZoneAppendTail>());
        assert!(TYPE == HEADER + offset_of!(RequestHeader, request_type));
        assert!(SECTOR == HEADER + offset_of!(RequestHeader, sector));
        assert!(HEADER_BYTES == size_of::<RequestHeader>());
    };
}

/// To whom the completion of a request belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Whoever polls the queue.
    Poller,
    /// The blocking call that is waiting: there is never more than one, as it borrows the queue.
    Blocking,
    /// A task, which is woken.
    Task,
    /// Nobody any more: the task went away. The buffer is dropped when the device is done with it.
    Nobody,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It has not.
    InFlight,
    /// The device returned it with this status.
    Status(u8),
    /// It was cancelled, and cut off by a reset.
    Cancelled,
    /// A reset cut off what must not be done twice: a flush, or a write to a zone.
    InDoubt,
    /// The device says that an append landed where it cannot have.
    Misplaced,
    /// The device is gone for good.
    GivenUp,
}

impl Ending {
    /// It went well.
    pub(crate) const OK: Self = Self::Status(RequestStatus::OK.0);
}

/// What the driver remembers of a request in flight.
pub(crate) struct Pending<B: Buffer> {
    pub(crate) operation: Operation,
    pub(crate) owner: Owner,
    pub(crate) ending: Ending,
    /// Nobody waits for it to happen: it is not issued again after a reset.
    pub(crate) cancelled: bool,
    /// Even if it goes well, there is more to do than to give it to whoever polls.
    pub(crate) needs_care: bool,
    /// The first sector; of an append that went well, of where it landed. Of a flush, its number.
    pub(crate) sector: u64,
    /// The buffer, if the request owns one.
    pub(crate) buffer: Held<B>,
    /// Of a task.
    pub(crate) waker: Option<Waker>,
    /// The next one of those that have ended and that nobody has polled yet.
    pub(crate) next_done: Option<Token>,
}

/// A buffer as it is held while the device may have it: in its raw parts, or none. Dropping it drops the buffer: the
/// queue forgets what belongs to requests that the device may still have.
pub(crate) struct Held<B: Buffer> {
    raw: Option<RawBuffer>,
    kind: PhantomData<B>,
}

impl<B: Buffer> Held<B> {
    /// Holds a buffer by the parts that it was given up for.
    #[inline(always)]
    pub(crate) fn new(raw: Option<RawBuffer>) -> Self {
        Self { raw, kind: PhantomData }
    }

    /// The buffer. It is taken back by this, so what holds it must not be used or dropped any more.
    ///
    /// # Safety
    ///
    /// The device has let go of it, and this is forgotten.
    #[inline(always)]
    pub(crate) unsafe fn copy_out(&self) -> Option<B> {
        // SAFETY: the parts came from `into_raw` of this type, and are not passed again, as this is forgotten.
        self.raw.map(|raw| unsafe { B::from_raw(raw) })
    }

    /// Takes the buffer back.
    ///
    /// # Safety
    ///
    /// The device has let go of it.
    #[inline(always)]
    pub(crate) unsafe fn take(&mut self) -> Option<B> {
        // SAFETY: the parts came from `into_raw` of this type and are taken out of here, so they are passed once.
        self.raw.take().map(|raw| unsafe { B::from_raw(raw) })
    }

    /// Leaks the buffer: the device may use it for ever.
    pub(crate) fn leak(&mut self) {
        self.raw = None;
    }
}

impl<B: Buffer> Drop for Held<B> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: what the device may still have is never dropped.
        drop(unsafe { self.take() });
    }
}

impl<B: Buffer> Attachment for Pending<B> {
    const SLOT_BYTES: usize = slot::BYTES;
    const FRAME: Option<Frame> = Some(Frame {
        header: (slot::HEADER, slot::HEADER_BYTES as u32),
        status: (slot::STATUS, slot::STATUS_BYTES as u32),
    });
}

impl<B: Buffer> Pending<B> {
    /// A request that begins. `sector` as it is [kept](Pending::sector).
    #[inline(always)]
    pub(crate) fn new(operation: Operation, sector: u64, owner: Owner, buffer: Option<RawBuffer>) -> Self {
        Self {
            operation,
            owner,
            ending: Ending::InFlight,
            cancelled: false,
            needs_care: owner != Owner::Poller || operation != Operation::Read,
            sector,
            buffer: Held::new(buffer),
            waker: None,
            next_done: None,
        }
    }

    /// The first sector, 0 for an operation that has none.
    #[inline(always)]
    pub(crate) fn sector(&self) -> u64 {
        self.operation.sector(self.sector)
    }

    /// How it went.
    pub(crate) fn result(&self) -> Result<(), Error> {
        if self.ending == Ending::OK { Ok(()) } else { Err(self.error()) }
    }

    fn error(&self) -> Error {
        let (operation, sector) = (self.operation, self.sector());
        match self.ending {
            Ending::Status(status) => {
                Error::Device { operation, sector, status: DeviceError::from_status(status, slot::UNANSWERED) }
            }
            Ending::InFlight | Ending::Cancelled => Error::Cancelled { operation, sector },
            Ending::InDoubt if operation == Operation::Flush => Error::FlushInDoubt,
            Ending::InDoubt => Error::ZoneWriteInDoubt { operation, sector },
            Ending::Misplaced => Error::MisplacedAppend { sector },
            Ending::GivenUp => Error::GivenUp { operation, sector },
        }
    }
}
