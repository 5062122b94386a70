//! What futures do with a queue, under its lock.

use core::task::Waker;

use virtio_transport::Notifier;
use virtqueue::{Memory, RingFormat, Token};

use super::completion::completion;
use super::{Completion, Queue, Rejected};
use crate::buffer::Buffer;
use crate::erase::Ranges;
use crate::request::{Operation, Owner};
use crate::task::Failed;

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat> Queue<M, N, B, R> {
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

    /// Whether a task's request has ended whose waker was not called.
    pub(crate) fn take_ended(&mut self) -> bool {
        core::mem::take(&mut self.ended)
    }

    /// Says that there is one.
    pub(crate) fn set_ended(&mut self) {
        self.ended = true;
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
}
