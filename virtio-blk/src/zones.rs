//! Requests of zoned disks (5.2.6, "Device Operation"; ZONED).

use core::future::Future;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll};

use virtio_transport::{Notifier, Transport, Wait};
use virtqueue::{Memory, RingFormat, Token};

use crate::blocking::BlockingQueue;
use crate::buffer::Buffer;
use crate::device::DeviceHandle;
use crate::disk::Disk;
use crate::erase::Ranges;
use crate::error::Error;
use crate::pieces::Pieces;
use crate::queue::{Queue, Rejected};
use crate::request::{Operation, Owner};
use crate::task::{AsyncQueue, Command, Failed, Request, SharedQueue, Transfer};
use crate::zone_report::ZoneReport;

/// What is done to a zone as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneAction {
    /// Open it: it stays open until it is closed, finished, reset or full.
    Open,
    /// Close it: it takes no place among the open zones any more.
    Close,
    /// Make it full: nothing can be written to it until it is reset.
    Finish,
    /// Make it empty: what it holds is gone, and the write pointer is at the start.
    Reset,
}

impl ZoneAction {
    fn operation(self) -> Operation {
        match self {
            Self::Open => Operation::ZoneOpen,
            Self::Close => Operation::ZoneClose,
            Self::Finish => Operation::ZoneFinish,
            Self::Reset => Operation::ZoneReset,
        }
    }
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat> Queue<M, N, B, R> {
    /// Puts a request for a report on the ring: of the zone that `sector` is in and those behind it, as many as the buffer
    /// has room for ([`ZoneReport::bytes`]). [`ZoneReport::parse`] reads the buffer when the request has completed.
    ///
    /// # Errors
    ///
    /// The buffer comes back with the error: [`Error::NotNegotiated`] on a disk without zones, [`Error::BeyondCapacity`],
    /// [`Error::AnswerTooShort`] for a buffer without room for a zone, [`Error::TooManySegments`],
    /// [`Error::QueueFull`].
    pub fn submit_zone_report(&mut self, sector: u64, buffer: B) -> Result<Token, Rejected<B>> {
        self.submit_other(Operation::ZoneReport, sector, buffer, Owner::Poller)
    }

    /// As [`submit_zone_report`](Queue::submit_zone_report), with a buffer that is borrowed.
    ///
    /// # Errors
    ///
    /// Those of [`submit_zone_report`](Queue::submit_zone_report).
    ///
    /// # Safety
    ///
    /// As for [`submit_read_borrowed`](Queue::submit_read_borrowed).
    pub unsafe fn submit_zone_report_borrowed(&mut self, sector: u64, buffer: NonNull<[u8]>) -> Result<Token, Error> {
        // SAFETY: as the caller promises.
        unsafe { self.submit_other_borrowed(Operation::ZoneReport, sector, buffer) }
    }

    /// Puts a write on the ring that goes to wherever the write pointer is of the zone that begins at `zone`. It is one
    /// request. When it has completed, [`Completion::sector`](crate::Completion::sector) is the first sector where the
    /// data landed.
    ///
    /// Several appends to a zone may be in flight: the device puts them one behind the other.
    ///
    /// # Errors
    ///
    /// The buffer comes back with the error: [`Error::NotNegotiated`] on a disk without zones, [`Error::NotZoneStart`],
    /// [`Error::TooManySectors`] for more than
    /// [`max_append_sectors`](crate::Zoned::max_append_sectors), [`Error::WriteGranularity`],
    /// [`Error::UnalignedLength`], [`Error::ReadOnly`], [`Error::Empty`], [`Error::TooManySegments`],
    /// [`Error::QueueFull`].
    ///
    /// # Example
    ///
    /// ```
    /// use virtio_blk::{Buffer, Error, Queue};
    /// use virtio_transport::Notifier;
    /// use virtqueue::Memory;
    ///
    /// /// Appends a record to a log, and returns where it is.
    /// fn append<M: Memory, N: Notifier, B: Buffer>(
    ///     queue: &mut Queue<M, N, B>,
    ///     zone: u64,
    ///     record: B,
    /// ) -> Result<u64, Error> {
    ///     queue.submit_append(zone, record).map_err(|rejected| rejected.error)?;
    ///     queue.commit();
    ///     loop {
    ///         if let Some(completion) = queue.poll()? {
    ///             completion.result?;
    ///             return Ok(completion.sector);
    ///         }
    ///     }
    /// }
    /// ```
    pub fn submit_append(&mut self, zone: u64, buffer: B) -> Result<Token, Rejected<B>> {
        self.submit_other(Operation::ZoneAppend, zone, buffer, Owner::Poller)
    }

    /// As [`submit_append`](Queue::submit_append), with a buffer that is borrowed.
    ///
    /// # Errors
    ///
    /// Those of [`submit_append`](Queue::submit_append).
    ///
    /// # Safety
    ///
    /// As for [`submit_write_borrowed`](Queue::submit_write_borrowed).
    pub unsafe fn submit_append_borrowed(&mut self, zone: u64, buffer: NonNull<[u8]>) -> Result<Token, Error> {
        // SAFETY: as the caller promises.
        unsafe { self.submit_other_borrowed(Operation::ZoneAppend, zone, buffer) }
    }

    /// Puts a request on the ring that opens, closes, finishes or resets the zone that begins at `zone`.
    ///
    /// # Errors
    ///
    /// [`Error::NotNegotiated`] on a disk without zones, [`Error::NotZoneStart`], [`Error::BeyondCapacity`],
    /// [`Error::ReadOnly`], [`Error::QueueFull`].
    pub fn submit_zone_action(&mut self, action: ZoneAction, zone: u64) -> Result<Token, Error> {
        self.submit_without_data(action.operation(), zone, Owner::Poller)
    }

    /// Puts a request on the ring that makes all sequential zones empty.
    ///
    /// # Errors
    ///
    /// [`Error::NotNegotiated`] on a disk without zones, [`Error::ReadOnly`], [`Error::QueueFull`].
    pub fn submit_reset_all_zones(&mut self) -> Result<Token, Error> {
        self.submit_without_data(Operation::ZoneResetAll, 0, Owner::Poller)
    }
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat, D: DeviceHandle<M>> BlockingQueue<'_, M, N, B, R, D> {
    /// Reports zones. Returns how many bytes of the buffer the report has, for [`ZoneReport::parse`]. See
    /// [`Disk::report_zones`].
    ///
    /// # Errors
    ///
    /// Those of [`Disk::report_zones`], but for [`Error::ZoneReport`].
    pub fn zone_report(&mut self, sector: u64, buffer: &mut [u8], wait: &mut impl Wait) -> Result<usize, Error> {
        let mut buffers = [buffer];
        let result = self.call().report(sector, Pieces::writable(&mut buffers), wait);
        self.stop_if_fatal(result)
    }

    /// Writes to wherever the write pointer is of the zone that begins at `zone`. See [`Disk::append`].
    ///
    /// # Errors
    ///
    /// Those of [`Disk::append`].
    pub fn append(&mut self, zone: u64, buffer: &[u8], wait: &mut impl Wait) -> Result<u64, Error> {
        let result = self.call().one(Operation::ZoneAppend, zone, Pieces::readable(&[buffer]), wait);
        self.stop_if_fatal(result)
    }

    /// Opens, closes, finishes or resets the zone that begins at `zone`. See [`Disk::zone_action`].
    ///
    /// # Errors
    ///
    /// Those of [`Disk::zone_action`].
    pub fn zone_action(&mut self, action: ZoneAction, zone: u64, wait: &mut impl Wait) -> Result<(), Error> {
        let result = self.call().one(action.operation(), zone, Pieces::readable(&[]), wait);
        self.stop_if_fatal(result).map(drop)
    }

    /// Makes all sequential zones empty. See [`Disk::reset_all_zones`].
    ///
    /// # Errors
    ///
    /// Those of [`Disk::reset_all_zones`].
    pub fn reset_all_zones(&mut self, wait: &mut impl Wait) -> Result<(), Error> {
        let result = self.call().one(Operation::ZoneResetAll, 0, Pieces::readable(&[]), wait);
        self.stop_if_fatal(result).map(drop)
    }
}

impl<T: Transport, M: Memory, B: Buffer, R: RingFormat> Disk<T, M, B, R> {
    /// Reports the zone that `sector` is in and those behind it, as many as the buffer has room for
    /// ([`ZoneReport::bytes`]) and one request may bring.
    ///
    /// # Errors
    ///
    /// [`Error::NotNegotiated`] on a disk without zones; [`Error::BeyondCapacity`]; [`Error::AnswerTooShort`] for a
    /// buffer without room for a zone; [`Error::Device`]; [`Error::ZoneReport`] for a report that makes no sense.
    ///
    /// # Example
    ///
    /// ```
    /// use virtio_blk::{Disk, Error, ZoneReport, ZoneState};
    /// use virtio_transport::{Spin, Transport};
    /// use virtqueue::Memory;
    ///
    /// /// The first zone that nothing was written to.
    /// fn find_empty<T: Transport, M: Memory>(disk: &mut Disk<T, M>) -> Result<Option<u64>, Error> {
    ///     let mut buffer = [0; ZoneReport::bytes(16)];
    ///     let mut next = Some(0);
    ///     while let Some(sector) = next {
    ///         let report = disk.report_zones(sector, &mut buffer, &mut Spin)?;
    ///         if let Some(zone) = report.zones().find(|zone| zone.state == ZoneState::EMPTY) {
    ///             return Ok(Some(zone.start));
    ///         }
    ///         next = report.next_sector();
    ///     }
    ///     Ok(None)
    /// }
    /// ```
    pub fn report_zones<'a>(
        &mut self,
        sector: u64,
        buffer: &'a mut [u8],
        wait: &mut impl Wait,
    ) -> Result<ZoneReport<'a>, Error> {
        let bytes = self.blocking()?.zone_report(sector, buffer, wait)?;
        Ok(ZoneReport::parse(buffer.get(..bytes).unwrap_or_default(), self.info(), sector)?)
    }

    /// Writes to wherever the write pointer is of the zone that begins at `zone`, in one request. Returns the first sector
    /// where the data landed.
    ///
    /// # Errors
    ///
    /// Misuse, before anything was written: [`Error::NotNegotiated`] on a disk without zones, [`Error::NotZoneStart`],
    /// [`Error::TooManySectors`] for more than [`max_append_sectors`](crate::Zoned::max_append_sectors),
    /// [`Error::WriteGranularity`], [`Error::UnalignedLength`], [`Error::ReadOnly`], [`Error::Empty`];
    /// [`Error::TooManySegments`], as an append is never split. [`Error::Device`] says what the zone does not allow.
    /// [`Error::MisplacedAppend`].
    pub fn append(&mut self, zone: u64, buffer: &[u8], wait: &mut impl Wait) -> Result<u64, Error> {
        self.blocking()?.append(zone, buffer, wait)
    }

    /// Opens, closes, finishes or resets the zone that begins at `zone`.
    ///
    /// # Errors
    ///
    /// [`Error::NotNegotiated`] on a disk without zones, [`Error::NotZoneStart`], [`Error::BeyondCapacity`],
    /// [`Error::ReadOnly`]. [`Error::Device`] says what the zone, or the number of open and active ones, does not allow.
    pub fn zone_action(&mut self, action: ZoneAction, zone: u64, wait: &mut impl Wait) -> Result<(), Error> {
        self.blocking()?.zone_action(action, zone, wait)
    }

    /// Makes all sequential zones empty.
    ///
    /// # Errors
    ///
    /// [`Error::NotNegotiated`] on a disk without zones, [`Error::ReadOnly`], [`Error::Device`].
    pub fn reset_all_zones(&mut self, wait: &mut impl Wait) -> Result<(), Error> {
        self.blocking()?.reset_all_zones(wait)
    }
}

impl<S: SharedQueue> AsyncQueue<S> {
    /// Reports zones into a buffer, and gives that back: for [`ZoneReport::parse`]. See [`Queue::submit_zone_report`].
    pub fn report_zones(&self, sector: u64, buffer: S::Buffer) -> Transfer<'_, S> {
        Transfer::new(self, Operation::ZoneReport, sector, buffer)
    }

    /// Writes to wherever the write pointer is of the zone that begins at `zone`. See [`Queue::submit_append`].
    ///
    /// ```
    /// use virtio_blk::{AsyncQueue, Error, SharedQueue};
    ///
    /// async fn log<S: SharedQueue>(disk: &AsyncQueue<S>, zone: u64, record: S::Buffer) -> Result<u64, Error> {
    ///     let (sector, _record) = disk.append(zone, record).await?;
    ///     Ok(sector)
    /// }
    /// ```
    pub fn append(&self, zone: u64, buffer: S::Buffer) -> Append<'_, S> {
        Append(Request::new(self, Operation::ZoneAppend, zone, Some(buffer)))
    }

    /// Opens, closes, finishes or resets the zone that begins at `zone`. See [`Queue::submit_zone_action`].
    pub fn zone_action(&self, action: ZoneAction, zone: u64) -> Command<'_, S> {
        Command::new(self, action.operation(), zone, Ranges::NONE)
    }

    /// Makes all sequential zones empty. See [`Queue::submit_reset_all_zones`].
    pub fn reset_all_zones(&self) -> Command<'_, S> {
        Command::new(self, Operation::ZoneResetAll, 0, Ranges::NONE)
    }
}

/// An append of a task. Made by [`AsyncQueue::append`]; yields the first sector where the data landed, and the buffer.
///
/// # Errors
///
/// [`Failed`] with the error and the buffer. Misuse as with [`Queue::submit_append`]; a full queue is waited for.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Append<'a, S: SharedQueue>(Request<'a, S>);

impl<S: SharedQueue> Future for Append<'_, S> {
    type Output = Result<(u64, S::Buffer), Failed<S::Buffer>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_with_buffer(context)
    }
}
