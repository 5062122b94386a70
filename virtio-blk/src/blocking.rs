//! Calls that return when the device is done, and may therefore borrow their buffers.

use virtio_transport::{Notifier, Wait};
use virtqueue::{Memory, RingFormat};

use crate::buffer::Buffer;
use crate::erase::Ranges;
use crate::error::Error;
use crate::pieces::Pieces;
use crate::queue::Queue;
use crate::request::{Operation, Owner};

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
/// done, or else through `rescue`, which resets the device and returns when that is acknowledged.
///
/// Dropping it ends it too, so that a waiting policy or a kernel's memory may unwind.
pub(crate) struct Blocking<'q, M: Memory, N: Notifier, B: Buffer, R: RingFormat, F: FnMut(&mut Queue<M, N, B, R>)> {
    queue: &'q mut Queue<M, N, B, R>,
    outstanding: usize,
    rescue: F,
}

impl<'q, M: Memory, N: Notifier, B: Buffer, R: RingFormat, F: FnMut(&mut Queue<M, N, B, R>)>
    Blocking<'q, M, N, B, R, F>
{
    pub(crate) fn new(queue: &'q mut Queue<M, N, B, R>, rescue: F) -> Self {
        Self { queue, outstanding: 0, rescue }
    }

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

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat, F: FnMut(&mut Queue<M, N, B, R>)> Drop
    for Blocking<'_, M, N, B, R, F>
{
    fn drop(&mut self) {
        if self.outstanding > 0 {
            (self.rescue)(self.queue);
        }
    }
}
