//! Calls that return when the device is done, and may therefore borrow their buffers.

use virtio_transport::{Notifier, Spin, SpinLimit, Wait};
use virtqueue::{Memory, RingFormat};

use crate::buffer::Buffer;
use crate::device::DeviceHandle;
use crate::device_id::DeviceId;
use crate::erase::Ranges;
use crate::error::Error;
use crate::pieces::Pieces;
use crate::queue::Queue;
use crate::request::{Operation, Owner};

/// How long a reset is waited for that nobody asked for. Real devices acknowledge theirs at the first look.
pub(crate) const SOON: SpinLimit = SpinLimit { looks: 1000 };

/// A queue whose calls block: they return when the device is done, waiting by the caller's policy in between.
///
/// They may be given borrowed buffers of any number of sectors, wherever they lie; what is too long for one request is
/// split into several, which are in flight at the same time. [`Disk`](crate::Disk) has the same calls, on its one queue.
/// This is for a kernel with several: each processor makes one of its own [`Queue`], with
/// [`blocking`](Queue::blocking), and of the device that all of them share.
///
/// ```
/// use virtio_blk::{Device, Error, Exclusive, Queue};
/// use virtio_transport::{Spin, Transport};
/// use virtqueue::Memory;
///
/// /// What each processor does, with its own queue; `device` is behind the kernel's lock.
/// fn copy<T: Transport, M: Memory>(
///     queue: &mut Queue<M, T::Notifier>,
///     device: &impl Exclusive<Value = Device<T, M>>,
///     (from, to): (u64, u64),
/// ) -> Result<(), Error> {
///     let mut disk = queue.blocking(device)?;
///     let mut sector = [0; 512];
///     disk.read(from, &mut sector, &mut Spin)?;
///     disk.write(to, &sector, &mut Spin)?;
///     disk.flush(&mut Spin)
/// }
/// ```
///
/// # When the policy gives up, or the device breaks the rules
///
/// A call that borrows its buffer can only return when the device has let go of it. If the policy gives up before, the
/// device is reset, under its lock if it is shared; the call returns when the reset is acknowledged, and spins until then. A device that acknowledges nothing keeps such a call for ever. A caller who does not trust its device that
/// far gives buffers away instead ([`Queue::submit_read`]).
///
/// The reset is that of the whole device: on every queue, calls return [`Error::Stopped`] from then on, until the device
/// has [recovered](crate::Device::recover).
///
/// # Requests of others
///
/// Requests that do not block may be in flight on the same queue. Their completions are kept for
/// [`Queue::poll`]; for tasks, call [`AsyncQueue::process`](crate::AsyncQueue::process) afterwards, as the interrupt for
/// them may have been answered here.
pub struct BlockingQueue<'q, M: Memory, N, B: Buffer, R: RingFormat, D> {
    queue: &'q mut Queue<M, N, B, R>,
    device: D,
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat> Queue<M, N, B, R> {
    /// The queue, for calls that block. `device` is the one that it belongs to: `&mut Device`, or a reference to one
    /// that is shared ([`Exclusive`](crate::Exclusive)).
    ///
    /// It looks at the device, under its lock, now and when it has to be reset, but for no request. So a processor
    /// that wants to share no lock with others keeps what is returned.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignQueue`] when the queue is not one of that device's. [`Error::Stopped`] when the device is gone.
    pub fn blocking<D: DeviceHandle<M>>(&mut self, mut device: D) -> Result<BlockingQueue<'_, M, N, B, R, D>, Error> {
        device.check_owner(self)?;
        Ok(BlockingQueue { queue: self, device })
    }
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat, D: DeviceHandle<M>> BlockingQueue<'_, M, N, B, R, D> {
    /// The queue, for requests that do not block.
    pub fn queue(&mut self) -> &mut Queue<M, N, B, R> {
        self.queue
    }

    /// Reads from `sector` on, as many sectors as `buffer` is long.
    ///
    /// # Errors
    ///
    /// Misuse, before anything was read: [`Error::UnalignedLength`], [`Error::UnalignedSector`],
    /// [`Error::BeyondCapacity`]. [`Error::Device`] names the first sector of the request that failed; other parts of
    /// the buffer may have been filled. [`Error::TooManySegments`] when not even one block of the buffer fits into a
    /// request. [`Error::Memory`] when the kernel's memory could not translate or map it. [`Error::QueueFull`] when
    /// nothing is in flight, and completions that nobody has polled fill the queue. [`Error::GaveUp`] and
    /// [`Error::Violation`]: the device was reset. [`Error::Stopped`]: it had been, or was meanwhile, by a call on
    /// another queue.
    pub fn read(&mut self, sector: u64, buffer: &mut [u8], wait: &mut impl Wait) -> Result<(), Error> {
        self.read_vectored(sector, &mut [buffer], wait)
    }

    /// Reads from `sector` on into several buffers, one after the other. Their lengths add up to whole blocks; each by
    /// itself need not.
    ///
    /// # Errors
    ///
    /// Those of [`read`](BlockingQueue::read).
    pub fn read_vectored(&mut self, sector: u64, buffers: &mut [&mut [u8]], wait: &mut impl Wait) -> Result<(), Error> {
        let result = self.call().transfer(Operation::Read, sector, Pieces::writable(buffers), wait);
        self.stop_if_fatal(result)
    }

    /// Writes from `sector` on, as many sectors as `buffer` is long. When the data is safe from a power cut depends on
    /// the [`CacheMode`](crate::CacheMode).
    ///
    /// # Errors
    ///
    /// Those of [`read`](BlockingQueue::read), and [`Error::ReadOnly`]. After [`Error::Device`] and errors that come with
    /// a reset, any of the sectors may have been written or not.
    pub fn write(&mut self, sector: u64, buffer: &[u8], wait: &mut impl Wait) -> Result<(), Error> {
        self.write_vectored(sector, &[buffer], wait)
    }

    /// Writes several buffers, one after the other, from `sector` on. Their lengths add up to whole blocks; each by
    /// itself need not.
    ///
    /// # Errors
    ///
    /// Those of [`write`](BlockingQueue::write).
    pub fn write_vectored(&mut self, sector: u64, buffers: &[&[u8]], wait: &mut impl Wait) -> Result<(), Error> {
        let result = self.call().transfer(Operation::Write, sector, Pieces::readable(buffers), wait);
        self.stop_if_fatal(result)
    }

    /// Makes all writes that have completed before this call, on whatever queue, safe from a power cut.
    ///
    /// # Errors
    ///
    /// [`Error::NotNegotiated`] on a disk without FLUSH, where there is nothing to be done. [`Error::Device`] when the
    /// device could not: then nothing is known of the writes since the last flush that was `Ok`. [`Error::QueueFull`],
    /// [`Error::GaveUp`], [`Error::Violation`] and [`Error::Stopped`] as with [`read`](BlockingQueue::read).
    pub fn flush(&mut self, wait: &mut impl Wait) -> Result<(), Error> {
        let result = self.call().one(Operation::Flush, 0, Pieces::readable(&[]), wait);
        self.stop_if_fatal(result).map(drop)
    }

    /// Reads the name that the device has on its host.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] with [`DeviceError::Unsupported`](crate::DeviceError::Unsupported) from a device that has none;
    /// otherwise those of [`read`](BlockingQueue::read) that are no misuse.
    pub fn device_id(&mut self, wait: &mut impl Wait) -> Result<DeviceId, Error> {
        let mut id = DeviceId::EMPTY;
        let mut buffers: [&mut [u8]; 1] = [id.bytes_mut()];
        let result = self.call().one(Operation::DeviceId, 0, Pieces::writable(&mut buffers), wait);
        self.stop_if_fatal(result)?;
        Ok(id)
    }

    pub(crate) fn call(&mut self) -> Call<'_, M, N, B, R, D> {
        Call { queue: self.queue, device: &mut self.device, outstanding: 0 }
    }

    /// Resets a device that has broken the rules, as nothing that it says can be trusted; and one that was given up, as
    /// it is said to callers.
    pub(crate) fn stop_if_fatal<V>(&mut self, result: Result<V, Error>) -> Result<V, Error> {
        if result.as_ref().is_err_and(Error::is_fatal) {
            self.device.stop(&mut SOON.clone());
            if self.queue.is_stopped() {
                // SAFETY: only a reset that was acknowledged stops a queue that is in use.
                unsafe { self.queue.stop() };
            }
        }
        result
    }
}

/// What a call has to send.
enum Next {
    /// A request was put on the ring.
    Started,
    /// None was; the next try is another.
    Again,
    /// All were.
    Nothing,
}

/// A blocking call under way. It ends only when the device has let go of every borrowed buffer: when all requests are
/// done, or else when the device was reset and has acknowledged that.
///
/// Dropping it ends it too, so that a waiting policy or a kernel's memory may unwind.
pub(crate) struct Call<'c, M: Memory, N: Notifier, B: Buffer, R: RingFormat, D: DeviceHandle<M>> {
    queue: &'c mut Queue<M, N, B, R>,
    device: &'c mut D,
    outstanding: usize,
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat, D: DeviceHandle<M>> Call<'_, M, N, B, R, D> {
    /// Reads or writes all of `pieces`, from `sector` on, in as many requests as it takes, as many of them at once as
    /// the queue has room for.
    pub(crate) fn transfer(
        mut self,
        operation: Operation,
        mut sector: u64,
        mut pieces: Pieces<'_>,
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        let limits = *self.queue.limits();
        let mut left = pieces.bytes();
        limits.check_transfer(operation, sector, left)?;
        let unit = limits.part_bytes(operation);
        let mut longest = limits.request_max_bytes - limits.request_max_bytes % unit;
        if longest == 0 && left > 0 {
            return Err(Error::TooManySegments { max: self.queue.segments() });
        }
        self.all(operation, wait, |this| {
            if left == 0 {
                return Ok(Next::Nothing);
            }
            let bytes = limits.inside_zone(sector, left.min(longest));
            // SAFETY: the pieces are borrowed for longer than this call, which does not end before the device has let go
            // of them.
            match unsafe { this.queue.start(operation, sector, pieces.take(bytes), Owner::Blocking, None) } {
                Ok(_) => {
                    left -= bytes;
                    pieces.advance(bytes);
                    sector += crate::bytes_to_sectors(bytes);
                    Ok(Next::Started)
                }
                Err(Error::QueueFull) if this.queue.in_flight() > 0 => Err(Error::QueueFull),
                // Too many pieces for one request; or, where each takes an entry, for what completions that nobody has
                // polled leave of the queue.
                Err(error @ (Error::TooManySegments { .. } | Error::QueueFull)) => {
                    longest = this.shorter(&pieces, bytes, unit).ok_or(error)?;
                    Ok(Next::Again)
                }
                Err(error) => Err(error),
            }
        })
    }

    /// Sends as many requests as `next` has, as many of them at once as the queue has room for; one at a time where their
    /// order matters. After an error no more are sent, and those in flight are waited for.
    fn all(
        &mut self,
        operation: Operation,
        wait: &mut impl Wait,
        mut next: impl FnMut(&mut Self) -> Result<Next, Error>,
    ) -> Result<(), Error> {
        let in_order = self.queue.limits().in_order(operation);
        let mut outcome = Ok(());
        let mut complete = false;
        loop {
            while !(complete || in_order && self.outstanding > 0) {
                match next(self) {
                    Ok(Next::Started) => self.outstanding += 1,
                    Ok(Next::Again) => {}
                    Ok(Next::Nothing) => complete = true,
                    Err(Error::QueueFull) if self.queue.in_flight() > 0 => break,
                    Err(error) => (outcome, complete) = (Err(error), true),
                }
            }
            self.queue.commit();
            if self.outstanding > 0 {
                if let Err(error) = self.wait_for_one(wait)? {
                    (outcome, complete) = (outcome.and(Err(error)), true);
                }
            } else if complete {
                return outcome;
            } else {
                self.queue.wait_for_room(wait)?;
            }
        }
    }

    /// Sends one request that is no transfer and has no ranges, and waits for it. Returns its first sector; of an append,
    /// that of where it landed.
    pub(crate) fn one(
        mut self,
        operation: Operation,
        sector: u64,
        pieces: Pieces<'_>,
        wait: &mut impl Wait,
    ) -> Result<u64, Error> {
        let bytes = self.queue.limits().check_other(operation, sector, pieces.bytes())?;
        // SAFETY: the pieces are borrowed for longer than this call, which does not end before the device has let go
        // of them.
        unsafe { self.start_one(operation, sector, pieces, bytes, wait) }?;
        self.wait_for_one(wait)?
    }

    /// Reports zones to `pieces`, as many as one request may bring. Returns how many bytes the report has.
    pub(crate) fn report(mut self, sector: u64, pieces: Pieces<'_>, wait: &mut impl Wait) -> Result<usize, Error> {
        let operation = Operation::ZoneReport;
        let limits = *self.queue.limits();
        let mut bytes = limits.check_other(operation, sector, pieces.bytes())?;
        loop {
            // SAFETY: as in `one`.
            match unsafe { self.start_one(operation, sector, pieces, bytes, wait) } {
                Err(error @ Error::TooManySegments { .. }) => {
                    bytes = self.shorter(&pieces, bytes, 1).ok_or(error)?;
                    limits.check_other(operation, sector, bytes).map_err(|_| error)?;
                }
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        self.wait_for_one(wait)?.map(|_| bytes)
    }

    /// Discards, zeroes or erases ranges of any length, in as many requests as it takes, as many of them at once as the
    /// queue has room for.
    pub(crate) fn erase(mut self, operation: Operation, ranges: Ranges<'_>, wait: &mut impl Wait) -> Result<(), Error> {
        let mut split = self.queue.limits().split(operation, ranges.ranges)?;
        let mut batch = split.next_batch();
        self.all(operation, wait, |this| {
            let Some(next) = &batch else { return Ok(Next::Nothing) };
            this.queue.start_ranges(operation, Ranges { ranges: next.ranges(), ..ranges }, Owner::Blocking)?;
            batch = split.next_batch();
            Ok(Next::Started)
        })
    }

    /// Sends one request, once there is room for it.
    ///
    /// # Safety
    ///
    /// As for [`Queue::start`].
    unsafe fn start_one(
        &mut self,
        operation: Operation,
        sector: u64,
        pieces: Pieces<'_>,
        bytes: usize,
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        loop {
            // SAFETY: as the caller promises.
            match unsafe { self.queue.start(operation, sector, pieces.take(bytes), Owner::Blocking, None) } {
                Ok(_) => break,
                Err(Error::QueueFull) if self.queue.in_flight() > 0 => self.queue.wait_for_room(wait)?,
                Err(error) => return Err(error),
            }
        }
        self.outstanding += 1;
        self.queue.commit();
        Ok(())
    }

    /// The next length to try, a multiple of `unit`, after one that was in too many pieces; `None` if not even that fits.
    fn shorter(&self, pieces: &Pieces<'_>, tried: usize, unit: usize) -> Option<usize> {
        let whole_blocks = |bytes: usize| bytes - bytes % unit;
        let fitting = whole_blocks(self.queue.fitting_bytes(pieces.take(tried)));
        // Where the kernel maps other pieces than it translates, that says nothing.
        let shorter = if (1..tried).contains(&fitting) { fitting } else { whole_blocks(tried / 2) };
        (shorter > 0).then_some(shorter)
    }

    /// Waits for one request of this call: the outer error means that there is nothing more to wait for.
    fn wait_for_one(&mut self, wait: &mut impl Wait) -> Result<Result<u64, Error>, Error> {
        loop {
            let (token, owner) = self.queue.wait_for_next(wait)?;
            if owner == Owner::Blocking {
                self.outstanding = self.outstanding.saturating_sub(1);
                // A request that has ended is in its slot.
                let ended = self.queue.take(token);
                return Ok(ended.map_or(Ok(0), |completion| completion.result.map(|()| completion.sector)));
            }
            self.queue.keep(token, owner);
        }
    }
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat, D: DeviceHandle<M>> Drop for Call<'_, M, N, B, R, D> {
    fn drop(&mut self) {
        if self.outstanding == 0 {
            return;
        }
        // If the kernel's lock or transport unwinds now, the caller must not get its buffers back.
        let abort = AbortOnUnwind;
        log::warn!("virtio disk: resetting the device to get the caller's buffers back");
        // However long it takes. Only a reset that was acknowledged stops a queue that is in use.
        while !self.queue.is_stopped() {
            self.device.stop(&mut Spin);
        }
        // SAFETY: the reset was acknowledged.
        unsafe { self.queue.stop() };
        core::mem::forget(abort);
    }
}

/// Unwinding further than this aborts.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    #[expect(clippy::panic, reason = "a panic while unwinding aborts, and nothing else does without `std`")]
    fn drop(&mut self) {
        panic!("virtio disk: unwinding while the device has buffers that are the caller's");
    }
}
