//! What the device has said, and whom it concerns.

use virtio_blk::{Completion, Error, Operation, Token};
use virtio_transport::Transport;
use virtqueue::Memory;

use super::{Request, Requests};
use crate::calls::Place;

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

impl<T: Transport, M: Memory, W> Requests<T, M, W> {
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
