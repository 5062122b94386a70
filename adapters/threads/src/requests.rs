//! What threads wait for: all of it is behind the lock.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use virtio_blk::{Completion, Disk, Error, Info, NoBuffer, OpenError, Operation, Options, SECTOR_BYTES, Token};
use virtio_transport::{Interrupt, InterruptStatus, SpinLimit, Transport, Wait};
use virtqueue::{Memory, Violation};

use crate::bounce::{Block, Bounce};
use crate::job::{Job, Wanted};
use crate::shared::SendTransport;

/// How often the acknowledgement of a reset is looked for before others get the lock again.
const RESET_LOOKS: u64 = 1 << 20;

/// How many threads can sleep in line for room in the queue. Further ones look again and again.
const LINE_MAX: usize = 64;

/// Where a thread finds out how its request has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(u16);

/// The number of a thread in the line for room.
pub(crate) type Number = u32;

/// What was noticed of the device.
pub(crate) enum Noticed<W> {
    /// Something that this thread waits for.
    Wake(W),
    /// Something that nobody sleeps for.
    Other,
    /// Nothing more.
    Nothing,
}

/// What the device has said, as far as it concerns anybody.
enum Answer {
    /// A request has ended.
    Ended(Place),
    /// A part of a block was read, and is to be written.
    Changed(Place),
    /// A request has ended that nobody waits for.
    Unknown,
    /// Nothing more.
    Nothing,
    /// Nonsense.
    Violation(Violation),
}

/// A thread's request, and the thread if it sleeps.
struct Entry<W> {
    state: State,
    waiter: Option<W>,
}

#[derive(Clone, Copy)]
enum State {
    Free,
    InFlight(InFlight),
    Ended(Result<(), Error>),
}

#[derive(Clone, Copy)]
struct InFlight {
    wanted: Wanted,
    /// What the device has of it; `None` before it has it.
    token: Option<Token>,
    /// The block that a part is read to, changed in, and written from.
    block: Option<Block>,
    /// The whole block was read, and changed, and is to be written.
    changed: bool,
}

/// The disk, and the threads that wait.
pub(crate) struct Requests<T: Transport, M: Memory, W> {
    disk: Disk<T, M>,
    interrupt: T::Interrupt,
    /// As many as the queue has slots, and more when results wait to be taken.
    entries: Vec<Entry<W>>,
    /// The entry of the request in each slot of the queue.
    of_slot: Vec<u16>,
    /// The entries that are free.
    free: Vec<u16>,
    bounce: Bounce<M>,
    /// How many parts of blocks are being written.
    edits: usize,
    /// Threads that sleep until there is room, each with its number.
    line: VecDeque<(Number, W)>,
    next_number: Number,
    /// How many of them can be woken.
    room: usize,
    /// Whether an interrupt handler wakes threads.
    interrupts: bool,
    /// A device that has not acknowledged its reset.
    unacknowledged: bool,
}

// SAFETY: what keeps it from being `Send` are pointers to the buffers of threads that wait: plain bytes, borrowed for as
// long as their requests are in flight, which any thread may read and write.
unsafe impl<T: SendTransport, M: Memory + Send, W: Send> Send for Requests<T, M, W> where Disk<T, M>: Send {}

impl<T: Transport, M: Memory, W> Requests<T, M, W> {
    pub(crate) fn open(transport: T, memory: M, options: &Options, wait: &mut impl Wait) -> Result<Self, OpenError> {
        let interrupt = transport.interrupt();
        let mut disk: Disk<T, M> = Disk::open(transport, memory.clone(), options, wait)?;
        let bounce = Bounce::new(memory, disk.info().block_bytes as usize).map_err(OpenError::Memory)?;
        disk.queue().use_polling();
        let size = disk.queue().size();
        Ok(Self {
            disk,
            interrupt,
            entries: (0..size).map(|_| Entry { state: State::Free, waiter: None }).collect(),
            of_slot: (0..size).collect(),
            free: (0..size).rev().collect(),
            bounce,
            edits: 0,
            line: VecDeque::with_capacity(LINE_MAX),
            next_number: 0,
            room: 0,
            interrupts: false,
            unacknowledged: false,
        })
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
                self.recover();
            } else if let Err(error) = self.disk.config_changed() {
                log::error!("virtio disk: its configuration has changed, and cannot be read: {error}");
            }
        }
        !causes.is_empty()
    }

    /// Takes the result of a job's request, if it has ended. Whether there is nothing left to be done for the job.
    #[inline(never)]
    pub(crate) fn collect(&mut self, job: &mut Job) -> bool {
        if let Some(number) = job.number.take() {
            // It was woken for something else if it is still there.
            self.line.retain(|(other, _)| *other != number);
        }
        if let Some(place) = job.place {
            let Some(entry) = self.entries.get_mut(usize::from(place.0)) else { return false };
            let State::Ended(result) = entry.state else { return false };
            *entry = Entry { state: State::Free, waiter: None };
            self.free.push(place.0);
            job.place = None;
            match result {
                Ok(()) => job.advance(),
                Err(Error::Cancelled { .. }) if job.gave_up => job.result = Err(Error::GaveUp),
                Err(error) => job.result = Err(error),
            }
        }
        job.is_done()
    }

    /// Finds a place for the next request of a job, which is then to be [sent](Requests::send). `None`: there is no room
    /// now, but there will be; or the job has a result.
    #[inline(never)]
    pub(crate) fn plan(&mut self, job: &mut Job) -> Option<Place> {
        let wanted = job.next();
        if self.is_blocked(&wanted) {
            return None;
        }
        if self.free.is_empty() {
            // Not all threads have taken their results yet. Nobody waits for them to do so.
            self.free.push(u16::try_from(self.entries.len()).ok()?);
            self.entries.push(Entry { state: State::Free, waiter: None });
        }
        let index = *self.free.last()?;
        let mut block = None;
        if wanted.part.is_some() {
            if wanted.is_edit() && self.disk.info().read_only {
                job.result = Err(Error::ReadOnly);
                self.pass_on();
                return None;
            }
            block = Some(self.bounce.take()?);
        }
        self.free.pop();
        self.edits += usize::from(wanted.is_edit());
        let entry = self.entries.get_mut(usize::from(index))?;
        entry.state = State::InFlight(InFlight { wanted, token: None, block, changed: false });
        Some(Place(index))
    }

    /// Puts a request on the ring, and lets the device see it. If that cannot be, it has ended.
    ///
    /// # Safety
    ///
    /// Its buffer is valid for reads, and for writes if it is to be read into, and touched by nobody, until the request
    /// has ended.
    #[inline(never)]
    pub(crate) unsafe fn send(&mut self, place: Place) {
        let Some(entry) = self.entries.get_mut(usize::from(place.0)) else { return };
        let State::InFlight(request) = &mut entry.state else { return };
        let Wanted { operation, sector, buffer, .. } = request.wanted;
        let (operation, buffer) = match request.block {
            Some(block) if request.changed => (Operation::Write, self.bounce.bytes(block)),
            Some(block) => (Operation::Read, self.bounce.bytes(block)),
            None => (operation, buffer),
        };
        let queue = self.disk.queue();
        // SAFETY: as the caller promises; a block stays this request's until that has ended.
        let sent = unsafe {
            match operation {
                Operation::Write => queue.submit_write_borrowed(sector, buffer),
                Operation::Read => queue.submit_read_borrowed(sector, buffer),
                _ => queue.submit_flush(),
            }
        };
        match sent {
            Ok(token) => {
                queue.commit();
                request.token = Some(token);
                if let Some(of_slot) = self.of_slot.get_mut(usize::from(token.slot())) {
                    *of_slot = place.0;
                }
            }
            Err(error) => self.refuse(place, error),
        }
    }

    #[cold]
    #[inline(never)]
    fn refuse(&mut self, place: Place, error: Error) {
        self.end(place, Err(error));
    }

    /// Takes note of what has become of a request that was sent. `false`: another one is to be planned in its stead.
    #[inline(never)]
    pub(crate) fn settle(&mut self, job: &mut Job, place: Place) -> bool {
        let in_flight = self.disk.queue().in_flight() > 0;
        let Some(entry) = self.entries.get_mut(usize::from(place.0)) else { return true };
        let State::Ended(Err(error)) = entry.state else {
            job.place = Some(place);
            return true;
        };
        entry.state = State::Free;
        self.free.push(place.0);
        match error {
            // There will be room.
            Error::QueueFull if in_flight => true,
            Error::TooManySegments { .. } if job.shorten(self.block_bytes()) => false,
            error => {
                job.result = Err(error);
                self.pass_on();
                true
            }
        }
    }

    /// Whoever was woken for room and does not need it leaves it to the next in line.
    fn pass_on(&mut self) {
        self.room = self.room.saturating_add(1);
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
        self.entries.iter().any(|entry| match &entry.state {
            State::InFlight(InFlight { wanted: other, .. }) if other.operation == Operation::Write => {
                let (other_start, other_end) = other.sectors(block_sectors);
                (wanted.is_edit() || other.is_edit()) && start < other_end && other_start < end
            }
            _ => false,
        })
    }

    /// Lets a thread sleep until its request has ended, or, without one, until there is room. `prepare` says of it that
    /// it waits; `None` where it cannot be left, or where nobody would wake it.
    #[inline(always)]
    pub(crate) fn register<V>(&mut self, job: &mut Job, prepare: impl FnOnce() -> Option<(W, V)>) -> Option<V> {
        // A device that is silent raises no interrupts.
        if !self.interrupts || self.unacknowledged {
            return None;
        }
        if let Some(place) = job.place {
            let entry = self.entries.get_mut(usize::from(place.0))?;
            let (waiter, ticket) = prepare()?;
            entry.waiter = Some(waiter);
            return Some(ticket);
        }
        if self.line.len() >= LINE_MAX {
            return None;
        }
        let (waiter, ticket) = prepare()?;
        self.line.push_back((self.next_number, waiter));
        job.number = Some(self.next_number);
        self.next_number = self.next_number.wrapping_add(1);
        Some(ticket)
    }

    /// Takes note of one thing that the device has done.
    pub(crate) fn notice(&mut self) -> Noticed<W> {
        if self.unacknowledged {
            self.recover();
            if self.unacknowledged {
                return Noticed::Nothing;
            }
        }
        if self.room > 0 {
            self.room -= 1;
            match self.line.pop_front() {
                Some((_, waiter)) => return Noticed::Wake(waiter),
                None => self.room = 0,
            }
        }
        let place = match self.next_answer() {
            Answer::Ended(place) => place,
            Answer::Changed(place) => {
                // SAFETY: the block is this request's until that has ended.
                unsafe { self.send(place) };
                place
            }
            Answer::Unknown => return Noticed::Other,
            Answer::Nothing => return Noticed::Nothing,
            Answer::Violation(violation) => return self.fail_all(violation),
        };
        match self.entries.get_mut(usize::from(place.0)) {
            Some(Entry { state: State::Ended(_), waiter }) => waiter.take().map_or(Noticed::Other, Noticed::Wake),
            _ => Noticed::Other,
        }
    }

    /// What the device has said next. Nothing of it is larger than it must be: this is as deep as the stack goes.
    #[inline(never)]
    fn next_answer(&mut self) -> Answer {
        let completion: Completion<NoBuffer> = match self.disk.queue().poll() {
            Ok(Some(completion)) => completion,
            Ok(None) => return Answer::Nothing,
            Err(Error::Violation(violation)) => return Answer::Violation(violation),
            // `poll` has no other.
            Err(_) => return Answer::Nothing,
        };
        let slot = usize::from(completion.token.slot());
        let Some(&index) = self.of_slot.get(slot) else { return Answer::Unknown };
        let Some(Entry { state: State::InFlight(request), .. }) = self.entries.get_mut(usize::from(index)) else {
            return Answer::Unknown;
        };
        if completion.result.is_ok() && request.go_on() {
            return Answer::Changed(Place(index));
        }
        self.end(Place(index), completion.result);
        Answer::Ended(Place(index))
    }

    /// Takes note of a request that has ended.
    fn end(&mut self, place: Place, result: Result<(), Error>) {
        let Some(Entry { state, .. }) = self.entries.get_mut(usize::from(place.0)) else { return };
        if let State::InFlight(InFlight { wanted, block, token, .. }) = state {
            self.edits -= usize::from(wanted.is_edit());
            block.iter().for_each(|&block| self.bounce.give_back(block));
            self.room = self.room.saturating_add(usize::from(token.is_some()));
        }
        *state = State::Ended(result);
    }

    /// Gives a job's request up: the device is reset. The requests of others are issued again.
    #[cold]
    #[inline(never)]
    pub(crate) fn give_up(&mut self, job: &mut Job) {
        job.gave_up = true;
        let entry = job.place.and_then(|place| self.entries.get(usize::from(place.0)));
        if let Some(Entry { state: State::InFlight(request), .. }) = entry {
            if let Some(token) = request.token {
                self.disk.queue().cancel(token);
            }
            self.recover();
        } else if job.place.is_none() {
            job.result = Err(Error::GaveUp);
        }
    }

    /// Gives all requests up, as the device broke the rules.
    #[cold]
    #[inline(never)]
    fn fail_all(&mut self, violation: Violation) -> Noticed<W> {
        log::error!("virtio disk: {violation}; all that was asked of it fails");
        for entry in &self.entries {
            if let State::InFlight(InFlight { token: Some(token), .. }) = entry.state {
                self.disk.queue().cancel(token);
            }
        }
        self.recover();
        if self.unacknowledged { Noticed::Nothing } else { Noticed::Other }
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

impl InFlight {
    /// Goes on with a part of a block when the device was successful. `true`: the block was read, was changed, and is
    /// to be written.
    fn go_on(&mut self) -> bool {
        let (Some(block), Some(offset)) = (self.block, self.wanted.part) else {
            return false;
        };
        let (buffer, bytes) = (self.wanted.buffer.cast(), self.wanted.buffer.len());
        // SAFETY: a part lies inside of its block.
        let part = unsafe { block.at(offset) };
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
