//! What threads wait for: all of it is behind the lock.

use alloc::boxed::Box;
use alloc::vec::Vec;

use virtio_blk::{Completion, Disk, Error, Info, OpenError, Operation, Options, Queue, SECTOR_BYTES, Setup, Token};
use virtio_transport::{Interrupt, InterruptStatus, SpinLimit, Transport, Wait};
use virtqueue::Memory;

use crate::bounce::{Block, Bounce};
use crate::calls::{Calls, Place};
use crate::job::{Job, Wanted};
use crate::line::Line;
use crate::shared::SendTransport;

/// How often the acknowledgement of a reset is looked for before others get the lock again.
const RESET_LOOKS: u64 = 1 << 20;

/// How often a request is issued again after the device has failed. A request may be what it fails at.
const REISSUES_MAX: u8 = 3;

/// What was noticed of the device.
pub(crate) enum Noticed<W> {
    /// Something that this thread waits for.
    Wake(W),
    /// Something that nobody sleeps for.
    Other,
    /// Nothing more.
    Nothing,
}

/// What the device has said, as far as it concerns anybody. It is small, as it is found out where the stack is deepest.
#[derive(Clone, Copy)]
enum Answer {
    /// A request of this call has ended.
    Ended(Place),
    /// A part of a block was read, and is to be written: the request of this slot of the queue.
    Changed(u16),
    /// A request has ended that nobody waits for.
    Unknown,
    /// Nothing more.
    Nothing,
    /// Nonsense.
    Violation,
}

/// A request that can be made.
struct Planned {
    /// For a part of a block.
    block: Option<Block>,
}

/// A request that the device has.
#[derive(Clone, Copy)]
struct Request {
    call: Place,
    wanted: Wanted,
    token: Token,
    /// The block that a part is read to, changed in, and written from.
    block: Option<Block>,
    /// The whole block was read, and changed, and is to be written.
    changed: bool,
    /// How often it was issued again as the device had failed.
    reissued: u8,
}

/// The disk, and the threads that wait.
pub(crate) struct Requests<T: Transport, M: Memory, W> {
    disk: Box<Disk<T, M>>,
    interrupt: T::Interrupt,
    /// The request in each slot of the queue.
    in_flight: Vec<Option<Request>>,
    calls: Calls<W>,
    line: Line<W>,
    bounce: Bounce<M>,
    /// How many parts of blocks are being written.
    edits: usize,
    /// Whether an interrupt handler wakes threads.
    interrupts: bool,
    /// A device that has not acknowledged its reset.
    unacknowledged: bool,
}

// SAFETY: what keeps it from being `Send` are pointers to the buffers of threads that wait: plain bytes, borrowed for as
// long as their requests are in flight, which any thread may read and write.
unsafe impl<T: SendTransport, M: Memory + Send, W: Send> Send for Requests<T, M, W> where Disk<T, M>: Send {}

impl<T: Transport, M: Memory, W> Requests<T, M, W> {
    /// Opens a disk. What is large of it is put on the heap piece by piece: kernels open disks on small stacks, too.
    pub(crate) fn open(
        transport: T,
        memory: M,
        options: &Options,
        wait: &mut impl Wait,
    ) -> Result<Box<Self>, OpenError> {
        let interrupt = transport.interrupt();
        let mut setup = Self::negotiate(transport, memory.clone(), options, wait)?;
        let queue = Self::make_queue(&mut setup)?;
        let mut disk = Self::start(setup, queue)?;
        disk.queue().use_polling();
        Self::around(disk, interrupt, memory)
    }

    // In steps, each with a stack frame of its own, and what they make on the heap: a kernel's stack is small.

    #[inline(never)]
    fn negotiate(
        transport: T,
        memory: M,
        options: &Options,
        wait: &mut impl Wait,
    ) -> Result<Box<Setup<T, M>>, OpenError> {
        Setup::negotiate(transport, memory, options, wait).map(Box::new)
    }

    #[inline(never)]
    fn make_queue(setup: &mut Setup<T, M>) -> Result<Box<Queue<M, T::Notifier>>, OpenError> {
        match setup.add_queue() {
            Ok(queue) => Ok(Box::new(queue)),
            Err(error) => Err(error),
        }
    }

    #[inline(never)]
    #[expect(clippy::boxed_local, reason = "by value, they would be on the stack of the caller too")]
    fn start(setup: Box<Setup<T, M>>, queue: Box<Queue<M, T::Notifier>>) -> Result<Box<Disk<T, M>>, OpenError> {
        match setup.start_disk(*queue) {
            Ok(disk) => Ok(Box::new(disk)),
            Err(error) => Err(error),
        }
    }

    #[inline(never)]
    fn around(mut disk: Box<Disk<T, M>>, interrupt: T::Interrupt, memory: M) -> Result<Box<Self>, OpenError> {
        let bounce = Bounce::new(memory, disk.info().block_bytes as usize).map_err(OpenError::Memory)?;
        let size = disk.queue().size();
        Ok(Box::new(Self {
            disk,
            interrupt,
            in_flight: (0..size).map(|_| None).collect(),
            calls: Calls::new(size),
            line: Line::new(),
            bounce,
            edits: 0,
            interrupts: false,
            unacknowledged: false,
        }))
    }

    /// What the disk says of itself.
    pub(crate) fn info(&self) -> &Info {
        self.disk.info()
    }

    /// From now on an interrupt handler wakes threads.
    pub(crate) fn use_interrupts(&mut self) {
        self.interrupts = true;
        self.disk.queue().use_interrupts(1);
    }

    /// Acknowledges the device's interrupt, and looks what has changed but for requests. Whether it was the device's.
    pub(crate) fn acknowledge(&mut self) -> bool {
        let causes = self.interrupt.acknowledge();
        if causes.contains(InterruptStatus::CONFIGURATION_CHANGE) {
            if self.disk.device().needs_reset() {
                log::error!("virtio disk: the device needs a reset");
                self.recover_from_failure();
            } else if let Err(error) = self.disk.config_changed() {
                log::error!("virtio disk: its configuration has changed, and cannot be read: {error}");
            }
        }
        !causes.is_empty()
    }

    /// Looks what has become of a job's requests. Whether there is nothing left to be done for it.
    #[inline(never)]
    pub(crate) fn collect(&mut self, job: &mut Job) -> bool {
        if let Some(number) = job.number.take() {
            self.line.leave(number);
        }
        if let Some(call) = job.place.and_then(|place| self.calls.get(place)) {
            call.awake();
            if call.result.is_err() {
                job.stop();
            }
        }
        self.is_done(job)
    }

    /// Whether there is nothing left to be done for a job.
    fn is_done(&mut self, job: &Job) -> bool {
        !job.has_more() && job.place.and_then(|place| self.calls.get(place)).is_none_or(|call| call.in_flight == 0)
    }

    /// Puts as many requests of a job on the ring as there is room for, and lets the device see them. What is more than
    /// one of them has to be room that no other thread waits for. Whether there is nothing left to be done for it, as it
    /// has failed.
    ///
    /// # Safety
    ///
    /// The job's buffer is valid for reads, and for writes if it is to be read into, and touched by nobody, until
    /// [`collect`](Requests::collect) has said that there is nothing left to be done.
    #[inline(never)]
    pub(crate) unsafe fn send(&mut self, job: &mut Job) -> bool {
        let mut sent = false;
        while let Some(part) = self.plan(job) {
            let wanted = job.next();
            // SAFETY: as the caller promises; a block stays this request's until that has ended.
            match unsafe { self.submit(&wanted, part.block, false) } {
                Ok(token) => {
                    self.note(job, token, part.block);
                    sent = true;
                }
                Err(error) => self.refused(job, part.block, &error),
            }
        }
        if sent {
            self.disk.queue().commit();
        }
        self.is_done(job)
    }

    /// Whether the next request of a job can be put on the ring, as far as it is not the ring that decides.
    #[inline(never)]
    fn plan(&mut self, job: &mut Job) -> Option<Planned> {
        if !job.has_more() || job.waits {
            job.waits = false;
            return None;
        }
        let place = job.place.or_else(|| self.calls.begin())?;
        job.place = Some(place);
        let is_first = self.calls.get(place).is_none_or(|call| call.in_flight == 0);
        let wanted = job.next();
        if !is_first && !self.line.is_empty() || self.is_blocked(&wanted) {
            return None;
        }
        if wanted.part.is_none() {
            return Some(Planned { block: None });
        }
        if wanted.is_edit() && self.disk.info().read_only {
            self.refuse(job, &Error::ReadOnly);
            return None;
        }
        Some(Planned { block: Some(self.bounce.take()?) })
    }

    /// Puts a request on the ring: of a part, for the whole block, which is written if it was `changed`.
    ///
    /// # Safety
    ///
    /// Its buffer, or its block, is valid for reads, and for writes if it is to be read into, and touched by nobody,
    /// until the request has ended.
    #[inline(always)]
    unsafe fn submit(&mut self, wanted: &Wanted, block: Option<Block>, changed: bool) -> Result<Token, Error> {
        let (operation, buffer) = match block {
            Some(block) if changed => (Operation::Write, self.bounce.bytes(block)),
            Some(block) => (Operation::Read, self.bounce.bytes(block)),
            None => (wanted.operation, wanted.buffer),
        };
        let queue = self.disk.queue();
        // SAFETY: as the caller promises.
        unsafe {
            match operation {
                Operation::Write => queue.submit_write_borrowed(wanted.sector, buffer),
                Operation::Read => queue.submit_read_borrowed(wanted.sector, buffer),
                _ => self.submit_flush(),
            }
        }
    }

    /// Puts a flush on the ring.
    #[inline(never)]
    fn submit_flush(&mut self) -> Result<Token, Error> {
        self.disk.queue().submit_flush()
    }

    /// Takes note of the next request of a job, which is on the ring now.
    #[inline(never)]
    fn note(&mut self, job: &mut Job, token: Token, block: Option<Block>) {
        let Some(place) = job.place else { return };
        let wanted = job.next();
        self.edits += usize::from(wanted.is_edit());
        if let Some(slot) = self.in_flight.get_mut(usize::from(token.slot())) {
            *slot = Some(Request { call: place, wanted, token, block, changed: false, reissued: 0 });
        }
        if let Some(call) = self.calls.get(place) {
            call.in_flight += 1;
        }
        job.advance();
    }

    /// The next request of a job did not get on the ring.
    #[cold]
    #[inline(never)]
    fn refused(&mut self, job: &mut Job, block: Option<Block>, error: &Error) {
        if let Some(block) = block {
            self.bounce.give_back(block);
        }
        match error {
            // There will be room.
            Error::QueueFull if self.disk.queue().in_flight() > 0 => job.waits = true,
            Error::TooManySegments { .. } if job.shorten(self.block_bytes()) => {}
            error => self.refuse(job, error),
        }
    }

    /// The next request of a job cannot be made.
    #[cold]
    #[inline(never)]
    fn refuse(&mut self, job: &mut Job, error: &Error) {
        if let Some(call) = job.place.and_then(|place| self.calls.get(place)) {
            call.fail(error);
        }
        job.stop();
        // It does not need its room: that is for the next in line.
        self.line.make_room();
    }

    fn block_bytes(&self) -> usize {
        self.disk.info().block_bytes as usize
    }

    /// Whether a request has to wait for others: two that write to one block must not be in flight together if either
    /// writes a part of it, as that takes two steps.
    fn is_blocked(&self, wanted: &Wanted) -> bool {
        if wanted.operation != Operation::Write || self.edits == 0 && !wanted.is_edit() {
            return false;
        }
        let block_sectors = (self.block_bytes() / SECTOR_BYTES) as u64;
        let (start, end) = wanted.sectors(block_sectors);
        self.in_flight.iter().flatten().map(|request| &request.wanted).any(|other| {
            let (other_start, other_end) = other.sectors(block_sectors);
            other.operation == Operation::Write
                && (wanted.is_edit() || other.is_edit())
                && start < other_end
                && other_start < end
        })
    }

    /// Lets a thread sleep until requests of its own have ended, or, without one in flight, until there is room.
    /// `prepare` says of it that it waits; `None` where it cannot be left, or where nobody would wake it.
    #[inline(always)]
    pub(crate) fn register<V>(&mut self, job: &mut Job, prepare: impl FnOnce() -> Option<(W, V)>) -> Option<V> {
        // A device that is silent raises no interrupts.
        if !self.interrupts || self.unacknowledged {
            return None;
        }
        match job.place.and_then(|place| self.calls.get(place)) {
            Some(call) if call.in_flight > 0 => {
                let (waiter, ticket) = prepare()?;
                call.sleep(waiter, job.has_more());
                Some(ticket)
            }
            _ if !job.has_more() || !self.line.takes_more() => None,
            _ => {
                let (waiter, ticket) = prepare()?;
                job.number = Some(self.line.enter(waiter));
                Some(ticket)
            }
        }
    }

    /// Ends a call for which nothing is left to be done.
    #[inline(never)]
    pub(crate) fn finish(&mut self, job: &mut Job) -> Result<(), Error> {
        let Some(place) = job.place.take() else { return Ok(()) };
        match self.calls.end(place) {
            Err(Error::Cancelled { .. }) if job.gave_up => Err(Error::GaveUp),
            result => result,
        }
    }

    /// Takes note of one thing that the device has done.
    #[inline(never)]
    pub(crate) fn notice(&mut self) -> Noticed<W> {
        if self.unacknowledged {
            self.recover();
            if self.unacknowledged {
                return Noticed::Nothing;
            }
        }
        if let Some(waiter) = self.line.call() {
            return Noticed::Wake(waiter);
        }
        let call = match self.next_answer() {
            Answer::Ended(call) => call,
            Answer::Changed(slot) => match self.write_changed(slot) {
                Some(failed) => failed,
                None => return Noticed::Other,
            },
            Answer::Unknown => return Noticed::Other,
            Answer::Nothing => return Noticed::Nothing,
            Answer::Violation => {
                self.recover_from_failure();
                return if self.unacknowledged { Noticed::Nothing } else { Noticed::Other };
            }
        };
        match self.calls.get(call).and_then(|call| call.wake()) {
            Some(waiter) => Noticed::Wake(waiter),
            None => Noticed::Other,
        }
    }

    /// What the device has said next.
    #[inline(never)]
    fn next_answer(&mut self) -> Answer {
        // Looked at where it is, and not taken apart: that would be another copy of it.
        let polled = self.disk.queue().poll();
        match &polled {
            Ok(Some(Completion { token, result: Ok(()), .. })) => self.ended_well(token.slot()),
            Ok(Some(Completion { token, result: Err(error), .. })) => self.ended_badly(token.slot(), error),
            Ok(None) => Answer::Nothing,
            Err(error) => violated(error),
        }
    }

    /// The device has done what was asked of it with a slot of the queue.
    #[inline(never)]
    fn ended_well(&mut self, slot: u16) -> Answer {
        let place = self.in_flight.get_mut(usize::from(slot));
        let Some(request) = place.and_then(Option::as_mut) else { return Answer::Unknown };
        if request.go_on() { Answer::Changed(slot) } else { self.end(slot, None) }
    }

    /// The device could not do what was asked of it.
    #[cold]
    #[inline(never)]
    fn ended_badly(&mut self, slot: u16, error: &Error) -> Answer {
        self.end(slot, Some(error))
    }

    /// Writes a block, a part of which was changed. If that cannot be, it has ended: returns the call.
    #[inline(never)]
    fn write_changed(&mut self, slot: u16) -> Option<Place> {
        let request = self.in_flight.get(usize::from(slot)).and_then(Option::as_ref)?;
        let (wanted, block) = (request.wanted, request.block);
        // SAFETY: the block is this request's until that has ended.
        match unsafe { self.submit(&wanted, block, true) } {
            Ok(token) => {
                self.disk.queue().commit();
                self.moved(slot, token);
                None
            }
            Err(error) => match self.ended_badly(slot, &error) {
                Answer::Ended(call) => Some(call),
                _ => None,
            },
        }
    }

    /// A request has got another slot.
    #[inline(never)]
    fn moved(&mut self, from: u16, token: Token) {
        let request = self.in_flight.get_mut(usize::from(from)).and_then(Option::take);
        if let Some(slot) = self.in_flight.get_mut(usize::from(token.slot())) {
            *slot = request.map(|request| Request { token, ..request });
        }
    }

    /// Takes note of the request of a slot, which has ended.
    #[inline(never)]
    fn end(&mut self, slot: u16, error: Option<&Error>) -> Answer {
        let Some(slot) = self.in_flight.get_mut(usize::from(slot)) else { return Answer::Unknown };
        let Some(request) = slot else { return Answer::Unknown };
        let place = request.call;
        self.edits -= usize::from(request.wanted.is_edit());
        if let Some(block) = request.block {
            self.bounce.give_back(block);
        }
        *slot = None;
        self.line.make_room();
        if let Some(call) = self.calls.get(place) {
            call.in_flight -= 1;
            if let Some(error) = error {
                call.fail(error);
            }
        }
        Answer::Ended(place)
    }

    /// Gives a job up. If the device has requests of it, it is reset; those of others are issued again.
    #[cold]
    #[inline(never)]
    pub(crate) fn give_up(&mut self, job: &mut Job) {
        job.gave_up = true;
        let place = job.place;
        if job.has_more() {
            match place.or_else(|| self.calls.begin()).and_then(|place| {
                job.place = Some(place);
                self.calls.get(place)
            }) {
                Some(call) => call.fail(&Error::GaveUp),
                None => return,
            }
            job.stop();
        }
        let mut cancelled = false;
        for request in self.in_flight.iter().flatten().filter(|request| Some(request.call) == place) {
            cancelled |= self.disk.queue().cancel(request.token);
        }
        if cancelled {
            self.recover();
        }
    }

    /// Resets a device that has failed. What was asked of it is asked again, unless it has failed too often at that.
    #[cold]
    #[inline(never)]
    fn recover_from_failure(&mut self) {
        for request in self.in_flight.iter_mut().flatten() {
            if request.reissued >= REISSUES_MAX {
                self.disk.queue().cancel(request.token);
            }
            request.reissued = request.reissued.saturating_add(1);
        }
        self.recover();
    }

    /// Resets the device, and brings it up again.
    #[cold]
    #[inline(never)]
    fn recover(&mut self) {
        let recovered = self.disk.recover(&mut SpinLimit { looks: RESET_LOOKS });
        self.unacknowledged = recovered == Err(Error::NotAcknowledged);
        match recovered {
            Ok(recovered) if recovered.writes_in_doubt => {
                log::error!("virtio disk: the device was reset; writes since the last flush may be lost");
            }
            Ok(_) => log::warn!("virtio disk: the device was reset"),
            Err(error) => log::error!("virtio disk: {error}"),
        }
    }
}

/// The device broke the rules.
#[cold]
#[inline(never)]
fn violated(error: &Error) -> Answer {
    match error {
        Error::Violation(violation) => {
            log::error!("virtio disk: {violation}");
            Answer::Violation
        }
        // `poll` has no other.
        _ => Answer::Nothing,
    }
}

impl Request {
    /// Goes on with a part of a block when the device was successful. `true`: the block was read, was changed, and is
    /// to be written.
    fn go_on(&mut self) -> bool {
        let (Some(block), Some(offset)) = (self.block, self.wanted.part) else {
            return false;
        };
        let (buffer, bytes) = (self.wanted.buffer.cast(), self.wanted.buffer.len());
        // SAFETY: a part lies inside of its block.
        let part = unsafe { block.at(offset as usize) };
        if self.wanted.operation != Operation::Write {
            // SAFETY: the thread's buffer is valid until its request has ended, and is none of the block; the device is
            // done with that, and nobody else has it.
            unsafe { part.copy_to_nonoverlapping(buffer, bytes) };
            return false;
        }
        if core::mem::replace(&mut self.changed, true) {
            return false;
        }
        // SAFETY: as above, the other way round.
        unsafe { part.copy_from_nonoverlapping(buffer, bytes) };
        true
    }
}
