//! A request: what it asks for, and what the driver remembers of it while the device has it.

use core::fmt;
use core::marker::PhantomData;
use core::task::Waker;

use virtio_spec::block::{RequestStatus, RequestType};
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
}

impl Operation {
    /// The sector that a header names: 0 for an operation that has none.
    #[inline(always)]
    pub(crate) fn sector(self, sector: u64) -> u64 {
        match self {
            Self::Read | Self::Write => sector,
            Self::Flush | Self::DeviceId => 0,
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
        })
    }
}

/// The shared memory of a slot: the request's header and its status, written by the driver and read by the device, or
/// the other way round (5.2.6, "Device Operation").
pub(crate) mod slot {
    /// The header's offset. Its fields follow: type, a reserved one that stays zero, sector.
    pub(crate) const HEADER: usize = 0;
    /// The offset of the type.
    pub(crate) const TYPE: usize = 0;
    /// The offset of the first sector.
    pub(crate) const SECTOR: usize = 8;
    /// The length of the header.
    pub(crate) const HEADER_BYTES: usize = 16;
    /// The offset of the status.
    pub(crate) const STATUS: usize = 16;
    /// The length of the status.
    pub(crate) const STATUS_BYTES: usize = 1;
    /// The length of the whole.
    pub(crate) const BYTES: usize = STATUS + STATUS_BYTES;
    /// The status that a request has before the device answers: one that no device writes.
    pub(crate) const UNANSWERED: u8 = 0xff;

    const _: () = {
        use core::mem::{offset_of, size_of};
        use virtio_spec::block::RequestHeader;
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
    /// A flush that was cut off by a reset.
    InDoubt,
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
    /// If it goes well, there is nothing to do but to give it to whoever polls.
    pub(crate) plain: bool,
    /// The first sector. Of a flush, its number.
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
            plain: owner == Owner::Poller && operation == Operation::Read,
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
            Ending::InDoubt => Error::FlushInDoubt,
            Ending::GivenUp => Error::GivenUp { operation, sector },
        }
    }
}
