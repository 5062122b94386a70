//! A request: what it asks for, and what the driver remembers of it while the device has it.

use core::fmt;
use core::marker::PhantomData;
use core::task::Waker;

use virtio_spec::block::RequestType;
use virtqueue::{Attachment, Token};

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
    /// The number that the device knows it by (5.2.6, "Device Operation").
    #[inline]
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
    /// The header's offset. Its fields follow: type, priority, sector.
    pub(crate) const HEADER: usize = 0;
    /// The offset of the type.
    pub(crate) const TYPE: usize = 0;
    /// The offset of the field that is reserved.
    pub(crate) const RESERVED: usize = 4;
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
        assert!(RESERVED == HEADER + offset_of!(RequestHeader, reserved));
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

/// What the driver remembers of a request in flight.
pub(crate) struct Pending<B: Buffer> {
    pub(crate) operation: Operation,
    pub(crate) owner: Owner,
    pub(crate) ending: Ending,
    /// Nobody waits for it to happen: it is not issued again after a reset.
    pub(crate) cancelled: bool,
    /// The first sector. Of a flush, the number of writes that had completed when it was submitted.
    pub(crate) sector: u64,
    /// The buffer, if the request owns one.
    pub(crate) buffer: Option<RawBuffer>,
    /// Of a task.
    pub(crate) waker: Option<Waker>,
    /// The next one of those that have ended and that nobody has polled yet.
    pub(crate) next_done: Option<Token>,
    pub(crate) kind: PhantomData<B>,
}

impl<B: Buffer> Attachment for Pending<B> {
    const SLOT_BYTES: usize = slot::BYTES;
}

impl<B: Buffer> Pending<B> {
    /// The first sector, 0 for an operation that has none.
    #[inline]
    pub(crate) fn sector(&self) -> u64 {
        match self.operation {
            Operation::Read | Operation::Write => self.sector,
            Operation::Flush | Operation::DeviceId => 0,
        }
    }

    /// How it went.
    #[inline]
    pub(crate) fn result(&self) -> Result<(), Error> {
        let (operation, sector) = (self.operation, self.sector());
        match self.ending {
            Ending::Status(status) => DeviceError::from_status(status, slot::UNANSWERED)
                .map_err(|status| Error::Device { operation, sector, status }),
            Ending::InFlight | Ending::Cancelled => Err(Error::Cancelled { operation, sector }),
            Ending::InDoubt => Err(Error::FlushInDoubt),
            Ending::GivenUp => Err(Error::GivenUp { operation, sector }),
        }
    }

    /// Takes the buffer back.
    ///
    /// # Safety
    ///
    /// The device has let go of it.
    #[inline]
    pub(crate) unsafe fn take_buffer(&mut self) -> Option<B> {
        // SAFETY: the parts came from `into_raw` of this type and are taken out of here, so they are passed once.
        self.buffer.take().map(|raw| unsafe { B::from_raw(raw) })
    }
}

impl<B: Buffer> Drop for Pending<B> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the queue forgets what is attached to requests that the device may still have. It drops this one.
        drop(unsafe { self.take_buffer() });
    }
}
