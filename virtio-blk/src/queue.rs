//! A request queue: requests go in, completions come out.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::task::Waker;

use virtio_spec::block::RequestStatus;
use virtio_transport::{Notifier, Wait};
use virtqueue::{Memory, Queue as Ring, RingFormat, Split, Token, Used};

use crate::buffer::{Buffer, NoBuffer, RawBuffer};
use crate::chain::{access, appended_sector, chain, range_chain, write_header};
use crate::epoch::{Epoch, FlushNumber};
use crate::erase::Ranges;
use crate::error::Error;
use crate::limits::Limits;
use crate::request::{Ending, Operation, Owner, Pending, slot};
use crate::task::Failed;
use crate::waiters::Waiters;

/// A request queue of a disk: as many requests in flight as the queue has entries, no allocation for any of them.
///
/// `B` is the type of the buffers that requests own while they are in flight. A kernel with several kinds of buffers
/// implements [`Buffer`] for an enumeration of them.
///
/// `R` is the form of the ring: [`Split`], [`Packed`](crate::Packed), or [`Either`](crate::Either), as negotiated.
///
/// [`submit_read`](Queue::submit_read) and its like put requests on the ring; [`commit`](Queue::commit) lets the device
/// see all of them at once; [`poll`](Queue::poll) yields those that are done, in whatever order the device chose.
///
/// ```
/// use virtio_blk::{Buffer, Error, Queue};
/// use virtio_transport::{Notifier, Wait};
/// use virtqueue::Memory;
///
/// /// Reads several places at once: one notification, or none, for all of them.
/// fn read_all<M: Memory, N: Notifier, B: Buffer>(
///     queue: &mut Queue<M, N, B>,
///     reads: impl IntoIterator<Item = (u64, B)>,
///     mut done: impl FnMut(u64, Option<B>),
/// ) -> Result<(), Error> {
///     let mut in_flight = 0;
///     for (sector, buffer) in reads {
///         queue.submit_read(sector, buffer).map_err(|rejected| rejected.error)?;
///         in_flight += 1;
///     }
///     queue.commit();
///     while in_flight > 0 {
///         let Some(completion) = queue.poll()? else {
///             core::hint::spin_loop();
///             continue;
///         };
///         completion.result?;
///         done(completion.sector, completion.buffer);
///         in_flight -= 1;
///     }
///     Ok(())
/// }
/// ```
pub struct Queue<M: Memory, N, B: Buffer = NoBuffer, R: RingFormat = Split> {
    ring: Ring<M, Pending<B>, R>,
    notifier: N,
    limits: Limits,
    index: u16,
    epoch: Epoch<M>,
    waiters: Waiters<M>,
    /// `Some`: the device is asked for an interrupt once it has used so many requests.
    interrupts: Option<u16>,
    /// Requests that had ended when another call looked, in the order in which they did.
    first_done: Option<Token>,
    last_done: Option<Token>,
    /// There are tasks to wake whose requests ended without the device.
    ended: bool,
    /// The last flush, on any queue, that was submitted before the last write of this queue completed.
    last_write: Option<FlushNumber>,
}

/// A request that is done.
#[derive(Debug)]
pub struct Completion<B> {
    /// The token that the submitting call returned.
    pub token: Token,
    /// What was asked for.
    pub operation: Operation,
    /// The first sector of it; of a zone append that went well, the first sector where the data landed; 0 for an operation
    /// that has none.
    pub sector: u64,
    /// How it went.
    pub result: Result<(), Error>,
    /// The buffer, if the request owned one.
    pub buffer: Option<B>,
}

/// A request that was not begun, and its buffer.
#[derive(Debug)]
pub struct Rejected<B> {
    /// Why not.
    pub error: Error,
    /// The buffer that it was to own.
    pub buffer: B,
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat> Queue<M, N, B, R> {
    pub(crate) fn new(
        ring: Ring<M, Pending<B>, R>,
        notifier: N,
        limits: Limits,
        index: u16,
        epoch: Epoch<M>,
        waiters: Waiters<M>,
    ) -> Self {
        Self {
            ring,
            notifier,
            limits,
            index,
            epoch,
            waiters,
            interrupts: None,
            first_done: None,
            last_done: None,
            ended: false,
            last_write: None,
        }
    }

    /// The index of the queue: 0 for the first.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The number of entries: with INDIRECT_DESC, as many requests can be in flight.
    pub fn size(&self) -> u16 {
        self.ring.settings().size
    }

    /// The number of requests that the device may have.
    pub fn in_flight(&self) -> u16 {
        self.ring.in_flight()
    }

    /// The most data segments of one request.
    pub fn segments(&self) -> u16 {
        self.limits.segments
    }

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
    /// done. As [`submit_read`](Queue::submit_read) otherwise; the [`Completion`] has no buffer.
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
    /// is done. As [`submit_write`](Queue::submit_write) otherwise; the [`Completion`] has no buffer.
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
        if self.epoch.runs() {
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
        if !self.epoch.takes_requests() {
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
        if !self.epoch.takes_requests() {
            return Err(Error::Stopped);
        }
        let sector = ranges.ranges.first().map_or(0, |range| range.sector);
        match range_chain(&mut self.ring, operation, sector, ranges) {
            Ok(chain) => Ok(chain.submit(Pending::new(operation, sector, owner, None))),
            Err(error) => Err(Error::from_chain(error, self.limits.segments)),
        }
    }

    /// Lets the device see every request that was submitted, and notifies it if it wants to be. Returns whether it
    /// was notified.
    #[inline]
    pub fn commit(&mut self) -> bool {
        if !self.epoch.takes_requests() {
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

    /// Takes a request that has ended, if there is one. It neither waits nor enters the device.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] when the device broke the rules: it must be reset. That a request failed is no error of
    /// this call, but its [`result`](Completion::result).
    #[inline(always)]
    pub fn poll(&mut self) -> Result<Option<Completion<B>>, Error> {
        if self.first_done.is_none() {
            if let Some(mut used) = self.ring.pop_unless_broken() {
                // Read once: what the device writes there from now on is of no interest.
                let status = used.slot().load_u8::<{ slot::STATUS }>();
                // `true` is 1, so this is one comparison.
                if used.attachment().needs_care as u8 | status ^ RequestStatus::OK.0 == 0 {
                    let token = used.token();
                    // Nothing is left to be dropped: no waker, and the buffer goes to the caller.
                    let pending = ManuallyDrop::new(used.take());
                    // SAFETY: the device is done with the request.
                    let (sector, buffer) = (pending.sector, unsafe { pending.buffer.copy_out() });
                    return Ok(Some(Completion { token, operation: Operation::Read, sector, result: Ok(()), buffer }));
                }
                let token = used.token();
                self.end_with(token, status);
            } else if self.interrupts.is_none() && self.ring.broken().is_none() {
                return Ok(None);
            }
        }
        // What comes out of memory is taken apart here, so that what is above need not go through memory.
        match self.poll_slowly() {
            Ok(None) => Ok(None),
            Err(error) => Err(error),
            Ok(Some(Completion { token, operation, sector, result, buffer })) => {
                Ok(Some(Completion { token, operation, sector, result, buffer }))
            }
        }
    }

    /// As [`poll`](Queue::poll), when what comes next is not a success of a poller's.
    #[cold]
    #[inline(never)]
    fn poll_slowly(&mut self) -> Result<Option<Completion<B>>, Error> {
        loop {
            if let Some(token) = self.first_done {
                return Ok(self.take_done(token));
            }
            match self.notice()? {
                Some((token, owner)) => self.keep(token, owner),
                None => return Ok(None),
            }
        }
    }

    /// Asks the device for an interrupt once it has used `requests` requests, or all that are in flight if those are
    /// fewer. Without EVENT_IDX, for each batch. It is asked anew whenever [`poll`](Queue::poll) has found nothing more:
    /// no completion is missed by who polls until then before it sleeps.
    pub fn use_interrupts(&mut self, requests: u16) {
        self.interrupts = Some(requests);
        // What came before this needs no interrupt, but someone to look: who calls this polls next.
        let _ = self.ring.enable_interrupts(requests);
    }

    /// Asks the device for no interrupts. Some may come all the same.
    pub fn use_polling(&mut self) {
        self.interrupts = None;
        self.ring.disable_interrupts();
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

    /// Lets the device see what was submitted, and waits until it has nothing left. Completions are kept for
    /// [`poll`](Queue::poll).
    ///
    /// # Errors
    ///
    /// [`Error::GaveUp`] when the policy did: the requests are in flight as before. [`Error::Violation`] when the device
    /// broke the rules, [`Error::Stopped`] when it was reset.
    pub fn drain(&mut self, wait: &mut impl Wait) -> Result<(), Error> {
        while self.in_flight() > 0 {
            self.wait_for_room(wait)?;
        }
        Ok(())
    }

    /// Waits for one request of whoever, and keeps it for its owner.
    pub(crate) fn wait_for_room(&mut self, wait: &mut impl Wait) -> Result<(), Error> {
        // It may be one that nobody has committed yet.
        self.commit();
        let (token, owner) = self.wait_for_next(wait)?;
        self.keep(token, owner);
        Ok(())
    }

    /// Waits for the next request that ends. It stays in its slot.
    pub(crate) fn wait_for_next(&mut self, wait: &mut impl Wait) -> Result<(Token, Owner), Error> {
        loop {
            if let Some(noticed) = self.notice()? {
                return Ok(noticed);
            }
            if self.is_stopped() {
                return Err(Error::Stopped);
            }
            wait.wait()?;
        }
    }

    /// Takes note of a new capacity, which [`Device::config_changed`](crate::Device::config_changed) found.
    pub fn set_capacity_sectors(&mut self, capacity_sectors: u64) {
        self.limits.capacity_sectors = capacity_sectors;
    }

    /// Whether the device was reset, and the queue takes nothing until it has recovered.
    pub fn is_stopped(&self) -> bool {
        self.epoch.stopped()
    }

    /// Notices the next request that has ended. It stays in its slot.
    pub(crate) fn notice(&mut self) -> Result<Option<(Token, Owner)>, Error> {
        loop {
            match self.ring.pop() {
                Ok(Some(used)) => {
                    let status = used.slot().load_u8::<{ slot::STATUS }>();
                    let token = used.token();
                    return Ok(self.note(token, status).map(|owner| (token, owner)));
                }
                Ok(None) => {}
                // A device that was reset or given up has nothing to say any more.
                Err(_) if self.epoch.stopped() => return Ok(None),
                Err(violation) => return Err(Error::Violation(violation)),
            }
            if !self.look_again() {
                return Ok(None);
            }
        }
    }

    /// Takes note of what the device has left as the status of a request that it has used, and of what follows from it for
    /// the question which writes a flush has covered. To whom the request belongs.
    fn note(&mut self, token: Token, status: u8) -> Option<Owner> {
        let (slot, pending) = self.ring.slot_and_attachment(token)?;
        pending.ending = Ending::Status(status);
        if status == RequestStatus::OK.0 {
            match pending.operation {
                Operation::Flush => self.epoch.flushed(FlushNumber::from_bits(pending.sector)),
                operation if operation.writes() => self.last_write = Some(self.epoch.last_flush()),
                _ => {}
            }
            if pending.operation == Operation::ZoneAppend {
                let found = appended_sector(&slot);
                if self.limits.is_in_zone(pending.sector, found) {
                    pending.sector = found;
                } else {
                    log::warn!("virtio disk: an append to the zone at {} landed at {found}", pending.sector);
                    pending.ending = Ending::Misplaced;
                }
            }
        }
        Some(pending.owner)
    }

    /// Notes the status of a request that the device has used, and keeps it for its owner.
    #[cold]
    #[inline(never)]
    fn end_with(&mut self, token: Token, status: u8) {
        if let Some(owner) = self.note(token, status) {
            self.keep(token, owner);
        }
    }

    /// The device has used nothing more: asks for an interrupt if there is to be one. Whether something came meanwhile.
    fn look_again(&mut self) -> bool {
        self.interrupts.is_some_and(|requests| !self.ring.enable_interrupts(requests))
    }

    /// Takes a request that has ended out of its slot.
    pub(crate) fn take(&mut self, token: Token) -> Option<Completion<B>> {
        let mut used = self.ring.used(token)?;
        let result = used.attachment().result();
        Some(completion(used, result))
    }

    /// Takes the first of those that had ended earlier.
    fn take_done(&mut self, token: Token) -> Option<Completion<B>> {
        self.first_done = self.ring.attachment(token).and_then(|pending| pending.next_done);
        if self.first_done.is_none() {
            self.last_done = None;
        }
        self.take(token)
    }

    /// Keeps a request that has ended for its owner.
    pub(crate) fn keep(&mut self, token: Token, owner: Owner) {
        match owner {
            Owner::Poller => {
                match self.last_done.and_then(|last| self.ring.attachment(last)) {
                    Some(last) => last.next_done = Some(token),
                    None => self.first_done = Some(token),
                }
                self.last_done = Some(token);
            }
            Owner::Task => self.ended = true,
            Owner::Blocking | Owner::Nobody => drop(self.take(token)),
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

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn epoch(&self) -> &Epoch<M> {
        &self.epoch
    }

    pub(crate) fn pending(&mut self, token: Token) -> Option<&mut Pending<B>> {
        self.ring.attachment(token)
    }

    /// Submits the request of a task.
    pub(crate) fn submit_task(
        &mut self,
        operation: Operation,
        sector: u64,
        buffer: Option<B>,
        ranges: Ranges<'_>,
    ) -> Result<Token, Failed<B>> {
        let kept = |Rejected { error, buffer }| Failed { error, buffer: Some(buffer) };
        let none = |error| Failed { error, buffer: None };
        match buffer {
            Some(buffer) if operation.is_transfer() => {
                self.submit_for(operation, sector, buffer, Owner::Task).map_err(kept)
            }
            Some(buffer) => self.submit_other(operation, sector, buffer, Owner::Task).map_err(kept),
            None if operation.has_ranges() => self.submit_ranges(operation, ranges, Owner::Task).map_err(none),
            None => self.submit_without_data(operation, sector, Owner::Task).map_err(none),
        }
    }

    /// The task that has waited longest for room, if there is some: to be woken outside of the lock.
    #[inline]
    pub(crate) fn next_waiter(&mut self) -> Option<Waker> {
        if self.ring.has_free() { self.waiters.call() } else { None }
    }

    /// Takes the request of a task out of its slot if it has ended, and its waker if that was not called.
    #[inline]
    pub(crate) fn take_if_ended(&mut self, token: Token) -> Option<(Completion<B>, Option<Waker>)> {
        let mut used = self.ring.used(token)?;
        let pending = used.attachment();
        let (result, waker) = (pending.result(), pending.waker.take());
        Some((completion(used, result), waker))
    }

    pub(crate) fn waiters(&mut self) -> &mut Waiters<M> {
        &mut self.waiters
    }

    /// Whether a task's request has ended whose waker was not called.
    pub(crate) fn take_ended(&mut self) -> bool {
        core::mem::take(&mut self.ended)
    }

    /// The first task, of slot `from` or above, whose request has ended and who was not woken for it.
    pub(crate) fn wake_from(&mut self, from: u16) -> Option<(u16, Waker)> {
        for id in from..self.size() {
            let waker = self.ring.used_in_slot(id).and_then(|mut used| used.attachment().waker.take());
            if let Some(waker) = waker {
                return Some((id, waker));
            }
        }
        None
    }

    /// Whether writes have completed that no flush has covered.
    pub(crate) fn writes_in_doubt(&self) -> bool {
        self.last_write.is_some_and(|write| !self.epoch.covers(write))
    }

    /// Empties the ring after a reset of the device, which lets go of everything. Requests that it had returned before
    /// have ended; so have, now, those that must not be issued again, those of a blocking call among them. Returns how
    /// many the latter were.
    ///
    /// # Safety
    ///
    /// The device was reset and has acknowledged it, and was not told of the queue since.
    pub(crate) unsafe fn stop(&mut self) -> u32 {
        // With a violation, the rest is not believed, and counts as in flight.
        while let Ok(Some((token, owner))) = self.notice() {
            self.keep(token, owner);
        }
        // SAFETY: as the caller promises.
        unsafe { self.ring.restart() };
        let mut ended = 0;
        let mut from = 0;
        while let Some(token) = self.ring.in_flight_from(from) {
            from = token.slot() + 1;
            let ending = match self.ring.attachment(token) {
                Some(pending) if pending.cancelled || pending.owner == Owner::Nobody => Ending::Cancelled,
                Some(pending) if pending.owner == Owner::Blocking => Ending::Cancelled,
                Some(pending) if pending.operation == Operation::Flush => Ending::InDoubt,
                // Done twice, it would be refused, or append the same again.
                Some(pending) if self.limits.in_order(pending.operation) => Ending::InDoubt,
                Some(pending) if pending.operation == Operation::ZoneAppend => Ending::InDoubt,
                _ => continue,
            };
            // SAFETY: the ring was restarted just now.
            unsafe { self.end(token, ending) };
            ended += 1;
        }
        ended
    }

    /// Puts the requests that are in flight on the ring again. Returns how many they are.
    ///
    /// # Safety
    ///
    /// The ring was restarted, and nothing was reissued since.
    pub(crate) unsafe fn reissue(&mut self) -> u32 {
        let mut reissued = 0;
        let mut from = 0;
        while let Some(token) = self.ring.in_flight_from(from) {
            from = token.slot() + 1;
            if let Some((slot, pending)) = self.ring.slot_and_attachment(token) {
                // The device may have written there.
                write_header(&slot, pending.operation, pending.sector);
            }
            // SAFETY: as the caller promises; who owns the buffer still waits.
            unsafe { self.ring.reissue(token) };
            reissued += 1;
        }
        if let Some(requests) = self.interrupts {
            let _ = self.ring.enable_interrupts(requests);
        }
        reissued
    }

    /// Ends every request that is in flight, as the device is gone for good. Where the device may know the queue, it
    /// keeps the buffers.
    ///
    /// # Safety
    ///
    /// If the ring was restarted, nothing was reissued since. If not, nothing is submitted any more.
    pub(crate) unsafe fn give_up(&mut self) {
        let exposed = self.ring.exposed();
        let mut from = 0;
        while let Some(token) = self.ring.in_flight_from(from) {
            from = token.slot() + 1;
            if let Some(pending) = self.ring.attachment(token).filter(|_| exposed) {
                pending.buffer.leak();
            }
            // SAFETY: as the caller promises; what the device may use was leaked.
            unsafe { self.end(token, Ending::GivenUp) };
        }
    }

    /// Ends a request without the device.
    ///
    /// # Safety
    ///
    /// As for [`virtqueue::Queue::retire`].
    unsafe fn end(&mut self, token: Token, ending: Ending) {
        if let Some(pending) = self.ring.attachment(token) {
            pending.ending = ending;
            let owner = pending.owner;
            // SAFETY: as the caller promises.
            if unsafe { self.ring.retire(token) } {
                self.keep(token, owner);
            }
        }
    }

    /// Says that the device was told nothing of the queue after all.
    ///
    /// # Safety
    ///
    /// It is so.
    pub(crate) unsafe fn not_told(&mut self) {
        // SAFETY: as the caller promises.
        unsafe { self.ring.device_let_go() };
    }

    pub(crate) fn areas(&mut self) -> virtqueue::Areas {
        self.ring.areas()
    }
}

/// Takes a request that has ended out of its slot.
#[inline(always)]
fn completion<M: Memory, B: Buffer, R: RingFormat>(
    mut used: Used<'_, M, Pending<B>, R>,
    result: Result<(), Error>,
) -> Completion<B> {
    let token = used.token();
    let pending = used.attachment();
    let completion = Completion {
        token,
        operation: pending.operation,
        sector: pending.sector(),
        result,
        // SAFETY: the device is done with the request, or it was reset; and if it was given up, it kept the buffer.
        buffer: unsafe { pending.buffer.take() },
    };
    used.free();
    completion
}
