//! What threads wait for: all of it is behind the lock.

mod answers;
mod opening;
mod recovery;

use alloc::boxed::Box;
use alloc::vec::Vec;

use virtio_blk::{Disk, Error, Info, Operation, SECTOR_BYTES, Token};
use virtio_transport::{Interrupt, InterruptStatus, Transport};
use virtqueue::Memory;

pub(crate) use self::answers::Noticed;
use crate::bounce::{Block, Bounce};
use crate::calls::{Calls, Place};
use crate::job::{Job, Wanted};
use crate::line::Line;
use crate::shared::SendTransport;

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
}
