//! Requests go in.

use core::ptr::NonNull;

use virtio_transport::Notifier;
use virtqueue::{Memory, RingFormat, Token};

use super::Queue;
use crate::buffer::{Buffer, RawBuffer};
use crate::chain::{access, chain, range_chain, write_header};
use crate::erase::Ranges;
use crate::error::Error;
use crate::request::{Ending, Operation, Owner, Pending};

/// A request that was not begun, and its buffer.
#[derive(Debug)]
pub struct Rejected<B> {
    /// Why not.
    pub error: Error,
    /// The buffer that it was to own.
    pub buffer: B,
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat> Queue<M, N, B, R> {
    /// Puts a read on the ring: from `sector` on, as many sectors as the buffer is long. The device sees it after
    /// [`commit`](Queue::commit).
    ///
    /// # Errors
    ///
    /// The buffer comes back with the error. [`Error::QueueFull`]; [`Error::TooManySegments`] for a buffer that is too
    /// long for one request; or the misuse that it is: a range that is not on the disk, lengths that are no whole
    /// blocks.
    #[inline]
    pub fn submit_read(&mut self, sector: u64, buffer: B) -> Result<Token, Rejected<B>> {
        self.submit_owned(Operation::Read, sector, buffer)
    }

    /// Puts a write on the ring: from `sector` on, as many sectors as the buffer is long. The device sees it after
    /// [`commit`](Queue::commit).
    ///
    /// # Errors
    ///
    /// Those of [`submit_read`](Queue::submit_read), and [`Error::ReadOnly`].
    #[inline]
    pub fn submit_write(&mut self, sector: u64, buffer: B) -> Result<Token, Rejected<B>> {
        self.submit_owned(Operation::Write, sector, buffer)
    }

    /// Puts a flush on the ring. It covers the writes that were completed before it was submitted, and no others.
    ///
    /// # Errors
    ///
    /// [`Error::NotNegotiated`] on a disk that has no FLUSH; [`Error::QueueFull`].
    pub fn submit_flush(&mut self) -> Result<Token, Error> {
        self.submit_without_data(Operation::Flush, 0, Owner::Poller)
    }

    /// Puts a read on the ring whose buffer is borrowed: for a kernel that puts the calling thread to sleep until it is
    /// done. As [`submit_read`](Queue::submit_read) otherwise; the [`Completion`](crate::Completion) has no buffer.
    ///
    /// # Errors
    ///
    /// Those of [`submit_read`](Queue::submit_read).
    ///
    /// # Safety
    ///
    /// The buffer is valid for writes, and touched by nobody, until [`poll`](Queue::poll) has returned the completion
    /// of this token with another result than [`Error::GivenUp`], or the queue was dropped after the device has
    /// acknowledged a reset. The thread must not give up before. A reset alone is not the end of it: the request may be
    /// issued again. After [`Error::GivenUp`], the device may have the buffer for ever.
    pub unsafe fn submit_read_borrowed(&mut self, sector: u64, buffer: NonNull<[u8]>) -> Result<Token, Error> {
        // SAFETY: as the caller promises.
        unsafe { self.submit_borrowed(Operation::Read, sector, buffer) }
    }

    /// Puts a write on the ring whose buffer is borrowed: for a kernel that puts the calling thread to sleep until it
    /// is done. As [`submit_write`](Queue::submit_write) otherwise; the [`Completion`](crate::Completion) has no buffer.
    ///
    /// # Errors
    ///
    /// Those of [`submit_write`](Queue::submit_write).
    ///
    /// # Safety
    ///
    /// The buffer is valid for reads, and written by nobody, until [`poll`](Queue::poll) has returned the completion
    /// of this token with another result than [`Error::GivenUp`], or the queue was dropped after the device has
    /// acknowledged a reset. The thread must not give up before. A reset alone is not the end of it: the request may be
    /// issued again. After [`Error::GivenUp`], the device may have the buffer for ever.
    pub unsafe fn submit_write_borrowed(&mut self, sector: u64, buffer: NonNull<[u8]>) -> Result<Token, Error> {
        // SAFETY: as the caller promises.
        unsafe { self.submit_borrowed(Operation::Write, sector, buffer) }
    }

    unsafe fn submit_borrowed(
        &mut self,
        operation: Operation,
        sector: u64,
        buffer: NonNull<[u8]>,
    ) -> Result<Token, Error> {
        // SAFETY: as the caller promises.
        unsafe { self.start_one(operation, sector, buffer.cast(), buffer.len(), None, Owner::Poller) }
    }

    /// Puts a request on the ring that has no data.
    pub(crate) fn submit_without_data(
        &mut self,
        operation: Operation,
        sector: u64,
        owner: Owner,
    ) -> Result<Token, Error> {
        self.limits.check_other(operation, sector, 0)?;
        // SAFETY: there is no data.
        unsafe { self.start(operation, sector, core::iter::empty(), owner, None) }
    }

    /// Puts a request on the ring whose data are ranges.
    pub(crate) fn submit_ranges(
        &mut self,
        operation: Operation,
        ranges: Ranges<'_>,
        owner: Owner,
    ) -> Result<Token, Error> {
        self.limits.check_ranges(operation, ranges.ranges)?;
        self.start_ranges(operation, ranges, owner)
    }

    /// Puts a request on the ring that owns a buffer and is no transfer.
    pub(crate) fn submit_other(
        &mut self,
        operation: Operation,
        sector: u64,
        buffer: B,
        owner: Owner,
    ) -> Result<Token, Rejected<B>> {
        let raw = buffer.into_raw();
        let started = self.limits.check_other(operation, sector, raw.bytes).and_then(|bytes| {
            // SAFETY: a `Buffer` that was given up stays valid, untouched by others, until it is taken back. That is
            // when the device is done with it, or below, when the device never saw it.
            unsafe { self.start(operation, sector, core::iter::once((raw.start, bytes)), owner, Some(raw)) }
        });
        started.map_err(|error| {
            // SAFETY: the raw parts of a moment ago; the request was not submitted.
            let buffer = unsafe { B::from_raw(raw) };
            Rejected { error, buffer }
        })
    }

    /// Puts a request on the ring whose buffer is borrowed, and which is no transfer.
    ///
    /// # Safety
    ///
    /// As for [`start`](Queue::start).
    pub(crate) unsafe fn submit_other_borrowed(
        &mut self,
        operation: Operation,
        sector: u64,
        buffer: NonNull<[u8]>,
    ) -> Result<Token, Error> {
        let bytes = self.limits.check_other(operation, sector, buffer.len())?;
        // SAFETY: as the caller promises.
        unsafe { self.start(operation, sector, core::iter::once((buffer.cast(), bytes)), Owner::Poller, None) }
    }

    #[inline]
    fn submit_owned(&mut self, operation: Operation, sector: u64, buffer: B) -> Result<Token, Rejected<B>> {
        self.submit_for(operation, sector, buffer, Owner::Poller)
    }

    /// Puts a request on the ring that owns its buffer.
    #[inline(always)]
    pub(crate) fn submit_for(
        &mut self,
        operation: Operation,
        sector: u64,
        buffer: B,
        owner: Owner,
    ) -> Result<Token, Rejected<B>> {
        // Taken apart: what a function gets as a whole has to be in memory.
        let RawBuffer { start, bytes, extra } = buffer.into_raw();
        // SAFETY: a `Buffer` that was given up stays valid, untouched by others, until it is taken back. That is when
        // the device is done with it, or below, when the device never saw it.
        let started = unsafe { self.start_one(operation, sector, start, bytes, Some(extra), owner) };
        match started {
            Ok(token) => Ok(token),
            Err(error) => {
                // SAFETY: the raw parts of a moment ago; the request was not submitted.
                let buffer = unsafe { B::from_raw(RawBuffer { start, bytes, extra }) };
                Err(Rejected { error, buffer })
            }
        }
    }

    /// Puts a request on the ring whose data is in one buffer. If it owns that, `extra` is the rest of its raw parts.
    ///
    /// # Errors
    ///
    /// Those of [`submit_read`](Queue::submit_read).
    ///
    /// # Safety
    ///
    /// As for [`start`](Queue::start).
    #[inline(always)]
    unsafe fn start_one(
        &mut self,
        operation: Operation,
        sector: u64,
        start: NonNull<u8>,
        bytes: usize,
        extra: Option<usize>,
        owner: Owner,
    ) -> Result<Token, Error> {
        self.limits.check_data(operation, sector, bytes)?;
        if self.epoch.runs() && !self.lost {
            // SAFETY: as the caller promises.
            let token = unsafe {
                self.ring.submit_framed(start, bytes, access(operation), move |slot| {
                    write_header(slot, operation, sector);
                    let buffer = extra.map(|extra| RawBuffer { start, bytes, extra });
                    Pending::new(operation, sector, owner, buffer)
                })
            };
            if let Some(token) = token {
                return Ok(token);
            }
        }
        // SAFETY: as the caller promises; nothing was done yet.
        unsafe { self.start_slowly(operation, sector, start, bytes, extra, owner) }
    }

    /// As [`start_one`](Queue::start_one), when that is not as simple as it mostly is, or not possible.
    ///
    /// # Safety
    ///
    /// As for [`start`](Queue::start).
    #[cold]
    #[inline(never)]
    unsafe fn start_slowly(
        &mut self,
        operation: Operation,
        sector: u64,
        start: NonNull<u8>,
        bytes: usize,
        extra: Option<usize>,
        owner: Owner,
    ) -> Result<Token, Error> {
        if bytes == 0 {
            return Err(Error::Empty);
        }
        let buffer = extra.map(|extra| RawBuffer { start, bytes, extra });
        // SAFETY: as the caller promises.
        unsafe { self.start(operation, sector, core::iter::once((start, bytes)), owner, buffer) }
    }

    /// Puts one request on the ring: header, data, status.
    ///
    /// # Safety
    ///
    /// Each piece of data is valid for reads, and for writes if the device writes it, and touched by nobody else, until
    /// the request has ended or the device has acknowledged a reset. If there is a `buffer`, it is what the pieces lie
    /// in, and nobody else takes it back if this succeeds.
    pub(crate) unsafe fn start(
        &mut self,
        operation: Operation,
        sector: u64,
        data: impl Iterator<Item = (NonNull<u8>, usize)>,
        owner: Owner,
        buffer: Option<RawBuffer>,
    ) -> Result<Token, Error> {
        if self.is_paused() {
            return Err(Error::Stopped);
        }
        let sector = if operation == Operation::Flush { self.epoch.next_flush().into_bits() } else { sector };
        // SAFETY: as the caller promises.
        match unsafe { chain(&mut self.ring, operation, sector, data) } {
            Ok(chain) => Ok(chain.submit(Pending::new(operation, sector, owner, buffer))),
            Err(error) => Err(Error::from_chain(error, self.limits.segments)),
        }
    }

    /// Puts one request on the ring whose data are ranges: header, ranges, status, all of it in the slot.
    pub(crate) fn start_ranges(
        &mut self,
        operation: Operation,
        ranges: Ranges<'_>,
        owner: Owner,
    ) -> Result<Token, Error> {
        if self.is_paused() {
            return Err(Error::Stopped);
        }
        let sector = ranges.ranges.first().map_or(0, |range| range.sector);
        match range_chain(&mut self.ring, operation, sector, ranges) {
            Ok(chain) => Ok(chain.submit(Pending::new(operation, sector, owner, None))),
            Err(error) => Err(Error::from_chain(error, self.limits.segments)),
        }
    }

    /// How many bytes of the data fit into one request, going by the kernel's translation.
    pub(crate) fn fitting_bytes(&self, data: impl Iterator<Item = (NonNull<u8>, usize)>) -> usize {
        let segment_max = usize::try_from(self.ring.settings().segment_max_bytes).unwrap_or(usize::MAX).max(1);
        let mut segments = usize::from(self.limits.segments);
        let mut fitting = 0_usize;
        for (mut start, mut left) in data {
            while left > 0 {
                let Ok(piece) = self.ring.memory().translate(start, left) else {
                    return fitting;
                };
                let bytes = piece.bytes.min(left);
                let needed = bytes.div_ceil(segment_max);
                if needed > segments || bytes == 0 {
                    return fitting.saturating_add(segments.saturating_mul(segment_max).min(bytes));
                }
                segments -= needed;
                fitting = fitting.saturating_add(bytes);
                left -= bytes;
                // SAFETY: inside the data, or right behind it.
                start = unsafe { start.add(bytes) };
            }
        }
        fitting
    }

    /// Lets the device see every request that was submitted, and notifies it if it wants to be. Returns whether it
    /// was notified.
    #[inline]
    pub fn commit(&mut self) -> bool {
        if self.is_paused() {
            return false;
        }
        match self.ring.commit() {
            Some(notification) => {
                self.notifier.notify(notification.next);
                true
            }
            None => false,
        }
    }

    /// Notifies the device, whether it wants to be or not.
    pub(crate) fn notify(&self) {
        self.notifier.notify(self.ring.notification_data());
    }

    /// Says that nobody waits for a request any more: it is not issued again after a reset, as a late write could
    /// overwrite newer data. Without a reset it goes on as ever. Its completion is yielded in any case. Returns `false`
    /// if the request has ended.
    pub fn cancel(&mut self, token: Token) -> bool {
        match self.ring.attachment(token) {
            Some(pending) if pending.ending == Ending::InFlight => {
                pending.cancelled = true;
                true
            }
            _ => false,
        }
    }
}
