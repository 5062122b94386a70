//! The disk that threads share: the loop of each call.

use alloc::boxed::Box;
use core::ptr::NonNull;

use virtio_blk::{BlockFeatures, Error, Info, OpenError, Operation, Options, SECTOR_BYTES};
use virtio_transport::{Transport, Wait};
use virtqueue::Memory;

use crate::job::Job;
use crate::lock::Lock;
use crate::requests::{Noticed, Requests};
use crate::sleep::{Polling, Sleep};

/// A disk with one queue that any number of threads use at the same time.
///
/// Its calls return when the device is done with their buffers. What is too long for one request is split.
///
/// # When a thread gives up, or the device fails
///
/// When [`Sleep::pause`] gives up, the device is reset; the call fails with [`Error::GaveUp`], and the requests of other
/// threads are issued again. When the device breaks the rules of the ring, or asks for a reset, it is reset, and all
/// requests are issued again: their threads notice nothing, but that a flush fails with [`Error::FlushInDoubt`]. A
/// request that is in flight while the device fails again and again, more than three times, is given up with
/// [`Error::Cancelled`]. Either way the disk can be used again, if the device comes up. A device that does not even
/// acknowledge a reset keeps the calls whose buffers it has, as it may still write to them.
pub struct SharedDisk<T: SendTransport, M: Memory + Send, L: Lock, S: Sleep = Polling> {
    /// On the heap: disks are moved when they are opened, on stacks that are small.
    requests: L::Mutex<Box<Requests<T, M, S::Waiter>>>,
    sleep: S,
}

/// A transport that can go from thread to thread, with the handles that belong to it.
pub trait SendTransport: Transport<Notifier: Send, Interrupt: Send> + Send {}

impl<T: Transport<Notifier: Send, Interrupt: Send> + Send> SendTransport for T {}

/// What a thread does after it has looked.
enum Next<T> {
    /// It is done.
    Return,
    /// It sleeps.
    Sleep(T),
    /// It looks again.
    Look,
}

impl<T: SendTransport, M: Memory + Send, L: Lock, S: Sleep> SharedDisk<T, M, L, S> {
    /// Opens a disk. Its threads poll until [`use_interrupts`](SharedDisk::use_interrupts) is called.
    ///
    /// `wait` bounds the wait for the reset of the device.
    ///
    /// # Errors
    ///
    /// Those of [`Disk::open`](virtio_blk::Disk::open).
    pub fn open(transport: T, memory: M, sleep: S, options: &Options, wait: &mut impl Wait) -> Result<Self, OpenError> {
        Ok(Self { requests: L::new(Requests::open(transport, memory, options, wait)?), sleep })
    }

    /// What the disk says of itself; the capacity is the one that was last read.
    pub fn info(&self) -> Info {
        self.with(|requests| *requests.info())
    }

    /// The size of the disk in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.with(|requests| requests.info().capacity_bytes())
    }

    /// Lets threads sleep from now on. The device's interrupt leads to
    /// [`handle_interrupt`](SharedDisk::handle_interrupt).
    pub fn use_interrupts(&self) {
        self.with(Requests::use_interrupts);
        // For what was used before.
        self.deliver();
    }

    /// What the handler of the device's interrupt does: acknowledges it, takes note of every request that has ended, and
    /// wakes their threads. An interrupt without a cause, or for requests that were noticed before, does no harm.
    /// Whether it was the device's.
    pub fn handle_interrupt(&self) -> bool {
        let own = self.with(Requests::acknowledge);
        self.deliver();
        own
    }

    /// Reads from `sector` on, as many sectors as `buffer` is long: whole blocks.
    ///
    /// # Errors
    ///
    /// Those of [`Disk::read`](virtio_blk::Disk::read), and [`Error::Cancelled`], as said [above](SharedDisk).
    pub fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.blocks(Operation::Read, sector, NonNull::from(buffer))
    }

    /// Writes from `sector` on, as many sectors as `buffer` is long: whole blocks.
    ///
    /// # Errors
    ///
    /// Those of [`read`](SharedDisk::read), and [`Error::ReadOnly`].
    pub fn write(&self, sector: u64, buffer: &[u8]) -> Result<(), Error> {
        self.blocks(Operation::Write, sector, NonNull::from(buffer))
    }

    /// Reads from the byte `offset` on, wherever that is, until the buffer is full or the disk ends. Returns how many
    /// bytes those are.
    ///
    /// Whole blocks are read straight into the buffer; what is left at its ends takes a request each.
    ///
    /// # Errors
    ///
    /// Those of [`read`](SharedDisk::read).
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        self.bytes(Operation::Read, offset, NonNull::from(buffer))
    }

    /// Writes from the byte `offset` on, wherever that is, until the buffer or the disk ends. Returns how many bytes
    /// those are.
    ///
    /// Of blocks that are written in part, the rest is read before. Nobody loses anything by that: other writes to the
    /// same block wait meanwhile.
    ///
    /// # Errors
    ///
    /// Those of [`write`](SharedDisk::write).
    pub fn write_at(&self, offset: u64, buffer: &[u8]) -> Result<usize, Error> {
        self.bytes(Operation::Write, offset, NonNull::from(buffer))
    }

    /// Makes all writes that have completed before this call safe from a power cut. On a disk without FLUSH there is
    /// nothing to be done.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] and [`Error::FlushInDoubt`]: nothing is known of the writes since the last flush that was `Ok`.
    pub fn flush(&self) -> Result<(), Error> {
        if !self.with(|requests| requests.info().features.contains(BlockFeatures::FLUSH)) {
            return Ok(());
        }
        // SAFETY: there is no buffer.
        unsafe { self.run(Operation::Flush, 0, NonNull::from(&mut []), 0) }
    }

    fn with<R>(&self, body: impl FnOnce(&mut Requests<T, M, S::Waiter>) -> R) -> R {
        L::with(&self.requests, |requests| body(requests))
    }

    /// Reads or writes whole blocks.
    #[inline]
    fn blocks(&self, operation: Operation, sector: u64, buffer: NonNull<[u8]>) -> Result<(), Error> {
        // SAFETY: the caller of this borrows the buffer, for writing if it is to be written.
        unsafe { self.run(operation, sector.saturating_mul(SECTOR_BYTES as u64), buffer, 0) }
    }

    /// Reads or writes as many bytes as there are. Returns how many.
    #[inline]
    fn bytes(&self, operation: Operation, offset: u64, buffer: NonNull<[u8]>) -> Result<usize, Error> {
        let (size, block_bytes) = self.with(|requests| {
            let info = requests.info();
            (info.capacity_bytes(), info.block_bytes)
        });
        let bytes = buffer.len().min(usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let buffer = NonNull::slice_from_raw_parts(buffer.cast(), bytes);
        // SAFETY: the caller of this borrows the buffer, for writing if it is to be written.
        unsafe { self.run(operation, offset, buffer, block_bytes) }.map(|()| bytes)
    }

    /// Takes note of what the device has done, and wakes the threads that wait for it.
    #[inline(never)]
    fn deliver(&self) {
        loop {
            match self.with(Requests::notice) {
                Noticed::Wake(waiter) => self.wake(waiter),
                Noticed::Other => {}
                Noticed::Nothing => return,
            }
        }
    }

    /// Says of the running thread that it waits. As below, it has what it needs of the stack for itself.
    #[inline(never)]
    fn prepare(&self) -> Option<(S::Waiter, S::Ticket)> {
        self.sleep.prepare()
    }

    /// Wakes a thread. What that needs of the stack is not in the way of what notices.
    #[inline(never)]
    fn wake(&self, waiter: S::Waiter) {
        self.sleep.wake(waiter);
    }

    /// Does a job to its end. The job is made here, in the one place of the stack where there is room for it.
    ///
    /// # Safety
    ///
    /// The buffer is valid for reads, and for writes if it is to be read into, and touched by nobody else meanwhile.
    #[inline(never)]
    unsafe fn run(
        &self,
        operation: Operation,
        position: u64,
        buffer: NonNull<[u8]>,
        parts_of: u32,
    ) -> Result<(), Error> {
        let mut running = Running { disk: self, job: Job::new(operation, position, buffer, parts_of) };
        let mut looks = 0;
        loop {
            let mut next = Next::Look;
            self.sleep.undisturbed(|| {
                // First of all for others: a thread that sleeps wakes nobody.
                self.deliver();
                // SAFETY: as the caller promises; `running` does not go away while a request is in flight.
                match unsafe { running.look() } {
                    Next::Sleep(ticket) => {
                        self.sleep.sleep(ticket);
                        // Awake again.
                        looks = 0;
                    }
                    Next::Return => next = Next::<()>::Return,
                    Next::Look => looks += 1,
                }
            });
            if let Next::Return = next {
                break;
            }
            if looks > 0 && self.sleep.pause(looks).is_err() {
                looks = 0;
                self.with(|requests| requests.give_up(&mut running.job));
            }
        }
        running.finish()
    }
}

/// A job that is being done. It does not go away while the device has a request of it, should the kernel unwind.
struct Running<'a, T: SendTransport, M: Memory + Send, L: Lock, S: Sleep> {
    disk: &'a SharedDisk<T, M, L, S>,
    job: Job,
}

impl<T: SendTransport, M: Memory + Send, L: Lock, S: Sleep> Running<'_, T, M, L, S> {
    /// Looks what has become of the requests in flight, and sends further ones.
    ///
    /// # Safety
    ///
    /// As for [`SharedDisk::run`], until this was dropped.
    #[inline(never)]
    unsafe fn look(&mut self) -> Next<S::Ticket> {
        let Self { disk, job } = self;
        disk.with(|requests| {
            if requests.collect(job) {
                return Next::Return;
            }
            // SAFETY: as the caller promises.
            if unsafe { requests.send(job) } {
                return Next::Return;
            }
            match requests.register(job, || disk.prepare()) {
                Some(ticket) => Next::Sleep(ticket),
                None => Next::Look,
            }
        })
    }

    /// How the call ends, for which nothing is left to be done.
    #[inline(always)]
    fn finish(&mut self) -> Result<(), Error> {
        let result = self.disk.with(|requests| requests.finish(&mut self.job));
        if result.is_err() {
            // The next in line may have the room.
            self.disk.deliver();
        }
        result
    }
}

impl<T: SendTransport, M: Memory + Send, L: Lock, S: Sleep> Drop for Running<'_, T, M, L, S> {
    fn drop(&mut self) {
        if self.job.place.is_some() {
            self.abandon();
        }
    }
}

impl<T: SendTransport, M: Memory + Send, L: Lock, S: Sleep> Running<'_, T, M, L, S> {
    /// Ends a call while the kernel unwinds: when the device has let go of the buffer.
    #[cold]
    #[inline(never)]
    fn abandon(&mut self) {
        self.job.stop();
        while !self.disk.with(|requests| requests.collect(&mut self.job)) {
            self.disk.deliver();
        }
        let _ = self.finish();
    }
}
