//! Calls that return when the device is done, and may therefore borrow their buffers.

use virtio_transport::{Notifier, Wait};
use virtqueue::{Memory, RingFormat};

use crate::buffer::Buffer;
use crate::error::Error;
use crate::pieces::Pieces;
use crate::queue::Queue;
use crate::request::{Operation, Owner};

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
        let bytes = pieces.bytes();
        self.queue.limits().check_data(operation, sector, bytes)?;
        let mut left = bytes;
        let mut longest = self.queue.limits().request_max_bytes;
        if longest == 0 && left > 0 {
            return Err(Error::TooManySegments { max: self.queue.segments() });
        }
        let mut outcome = Ok(());
        loop {
            while outcome.is_ok() && left > 0 {
                let bytes = left.min(longest);
                // SAFETY: the pieces are borrowed for longer than this call, which does not end before the device has
                // let go of them.
                match unsafe { self.queue.start(operation, sector, pieces.take(bytes), Owner::Blocking, None) } {
                    Ok(_) => {
                        self.outstanding += 1;
                        left -= bytes;
                        pieces.advance(bytes);
                        sector += crate::bytes_to_sectors(bytes);
                    }
                    Err(Error::QueueFull) if self.queue.in_flight() > 0 => break,
                    // Too many pieces for one request; or, where each takes an entry, for what completions that nobody
                    // has polled leave of the queue.
                    Err(error @ (Error::TooManySegments { .. } | Error::QueueFull)) => {
                        match self.shorter(&pieces, bytes) {
                            Some(shorter) => longest = shorter,
                            None => outcome = Err(error),
                        }
                    }
                    Err(error) => outcome = Err(error),
                }
            }
            self.queue.commit();
            if self.outstanding == 0 && (left == 0 || outcome.is_err()) {
                return outcome;
            }
            if self.outstanding == 0 {
                self.queue.wait_for_room(wait)?;
            } else if let Err(error) = self.wait_for_one(wait)? {
                outcome = outcome.and(Err(error));
            }
        }
    }

    /// Sends one request that has no data, and waits for it.
    pub(crate) fn single(mut self, operation: Operation, wait: &mut impl Wait) -> Result<(), Error> {
        self.queue.limits().check_feature(operation)?;
        // SAFETY: there is no data.
        unsafe { self.start_one(operation, Pieces::readable(&[]), wait) }?;
        self.wait_for_one(wait)?
    }

    /// Sends one request, once there is room for it.
    ///
    /// # Safety
    ///
    /// As for [`Queue::start`].
    unsafe fn start_one(
        &mut self,
        operation: Operation,
        pieces: Pieces<'_>,
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        loop {
            // SAFETY: as the caller promises.
            match unsafe { self.queue.start(operation, 0, pieces.take(pieces.bytes()), Owner::Blocking, None) } {
                Ok(_) => break,
                Err(Error::QueueFull) if self.queue.in_flight() > 0 => self.queue.wait_for_room(wait)?,
                Err(error) => return Err(error),
            }
        }
        self.outstanding += 1;
        self.queue.commit();
        Ok(())
    }

    /// Asks for the device's name, which goes to `pieces`, 20 bytes.
    pub(crate) fn id(mut self, pieces: Pieces<'_>, wait: &mut impl Wait) -> Result<(), Error> {
        // SAFETY: the pieces are borrowed for longer than this call, which does not end before the device has let go
        // of them.
        unsafe { self.start_one(Operation::DeviceId, pieces, wait) }?;
        self.wait_for_one(wait)?
    }

    /// The next length to try, after one that was in too many pieces; `None` if not even one block fits.
    fn shorter(&self, pieces: &Pieces<'_>, tried: usize) -> Option<usize> {
        let whole_blocks = |bytes: usize| bytes - bytes % self.queue.limits().block_bytes as usize;
        let fitting = whole_blocks(self.queue.fitting_bytes(pieces.take(tried)));
        // Where the kernel maps other pieces than it translates, that says nothing.
        let shorter = if (1..tried).contains(&fitting) { fitting } else { whole_blocks(tried / 2) };
        (shorter > 0).then_some(shorter)
    }

    /// Waits for one request of this call: the outer error means that there is nothing more to wait for.
    fn wait_for_one(&mut self, wait: &mut impl Wait) -> Result<Result<(), Error>, Error> {
        loop {
            let (token, owner) = self.queue.wait_for_next(wait)?;
            if owner == Owner::Blocking {
                self.outstanding = self.outstanding.saturating_sub(1);
                // A request that has ended is in its slot.
                return Ok(self.queue.take(token).map_or(Ok(()), |completion| completion.result));
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
