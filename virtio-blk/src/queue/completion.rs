//! Completions come out.

use core::mem::ManuallyDrop;

use virtio_spec::block::RequestStatus;
use virtio_transport::{Notifier, Wait};
use virtqueue::{Memory, RingFormat, Token, Used};

use super::Queue;
use crate::buffer::Buffer;
use crate::chain::appended_sector;
use crate::epoch::FlushNumber;
use crate::error::Error;
use crate::request::{Ending, Operation, Owner, Pending, slot};

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

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat> Queue<M, N, B, R> {
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
            if self.is_paused() {
                return Err(Error::Stopped);
            }
            wait.wait()?;
        }
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
        let pending = self.ring.attachment(token)?;
        pending.ending = Ending::Status(status);
        let (operation, owner) = (pending.operation, pending.owner);
        if status == RequestStatus::OK.0 {
            match operation {
                Operation::Flush => self.epoch.flushed(FlushNumber::from_bits(pending.sector)),
                operation if operation.writes() => self.last_write = Some(self.epoch.last_flush()),
                _ => {}
            }
            if operation == Operation::ZoneAppend {
                self.note_place(token);
            }
        }
        Some(owner)
    }

    /// Takes note of where an append has landed. Apart, as all others need no room on the stack for it.
    #[cold]
    #[inline(never)]
    fn note_place(&mut self, token: Token) {
        let Some((slot, pending)) = self.ring.slot_and_attachment(token) else { return };
        let found = appended_sector(&slot);
        if self.limits.is_in_zone(pending.sector, found) {
            pending.sector = found;
        } else {
            log::warn!("virtio disk: an append to the zone at {} landed at {found}", pending.sector);
            pending.ending = Ending::Misplaced;
        }
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
}

/// Takes a request that has ended out of its slot.
#[inline(always)]
pub(super) fn completion<M: Memory, B: Buffer, R: RingFormat>(
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
