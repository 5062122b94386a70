//! What becomes of requests when the device is reset, or given up.

use virtio_transport::Notifier;
use virtqueue::{Memory, RingFormat, Token};

use super::Queue;
use crate::buffer::Buffer;
use crate::chain::write_header;
use crate::request::{Ending, Operation, Owner};

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat> Queue<M, N, B, R> {
    /// Whether writes have completed that no flush has covered.
    pub(crate) fn writes_in_doubt(&self) -> bool {
        self.last_write.is_some_and(|write| !self.epoch.covers(write))
    }

    /// Empties the ring after a reset of the device, which lets go of everything. Requests that it had returned before
    /// have ended; so have, now, those that must not be issued again, those of a blocking call among them. Returns how
    /// many the latter were.
    ///
    /// # Safety
    ///
    /// The device was reset and has acknowledged it, and was not told of the queue since.
    pub(crate) unsafe fn stop(&mut self) -> u32 {
        // With a violation, the rest is not believed, and counts as in flight.
        while let Ok(Some((token, owner))) = self.notice() {
            self.keep(token, owner);
        }
        // SAFETY: as the caller promises.
        unsafe { self.ring.restart() };
        self.lost = false;
        let mut ended = 0;
        let mut from = 0;
        while let Some(token) = self.ring.in_flight_from(from) {
            from = token.slot() + 1;
            let ending = match self.ring.attachment(token) {
                Some(pending) if pending.cancelled || pending.owner == Owner::Nobody => Ending::Cancelled,
                Some(pending) if pending.owner == Owner::Blocking => Ending::Cancelled,
                Some(pending) if pending.operation == Operation::Flush => Ending::InDoubt,
                // Done twice, it would be refused, or append the same again.
                Some(pending) if self.limits.in_order(pending.operation) => Ending::InDoubt,
                Some(pending) if pending.operation == Operation::ZoneAppend => Ending::InDoubt,
                _ => continue,
            };
            // SAFETY: the ring was restarted just now.
            unsafe { self.end(token, ending) };
            ended += 1;
        }
        ended
    }

    /// Puts the requests that are in flight on the ring again. Returns how many they are.
    ///
    /// # Safety
    ///
    /// The ring was restarted, and nothing was reissued since.
    pub(crate) unsafe fn reissue(&mut self) -> u32 {
        let mut reissued = 0;
        let mut from = 0;
        while let Some(token) = self.ring.in_flight_from(from) {
            from = token.slot() + 1;
            if let Some((slot, pending)) = self.ring.slot_and_attachment(token) {
                // The device may have written there.
                write_header(&slot, pending.operation, pending.sector);
            }
            // SAFETY: as the caller promises; who owns the buffer still waits.
            unsafe { self.ring.reissue(token) };
            reissued += 1;
        }
        if let Some(requests) = self.interrupts {
            let _ = self.ring.enable_interrupts(requests);
        }
        reissued
    }

    /// Ends every request that is in flight, as the device is gone for good. Where the device may know the queue, it
    /// keeps the buffers.
    ///
    /// # Safety
    ///
    /// If the ring was restarted, nothing was reissued since. If not, nothing is submitted any more.
    pub(crate) unsafe fn give_up(&mut self) {
        self.lost = true;
        let exposed = self.ring.exposed();
        let mut from = 0;
        while let Some(token) = self.ring.in_flight_from(from) {
            from = token.slot() + 1;
            if let Some(pending) = self.ring.attachment(token).filter(|_| exposed) {
                pending.buffer.leak();
            }
            // SAFETY: as the caller promises; what the device may use was leaked.
            unsafe { self.end(token, Ending::GivenUp) };
        }
    }

    /// Ends a request without the device.
    ///
    /// # Safety
    ///
    /// As for [`virtqueue::Queue::retire`].
    unsafe fn end(&mut self, token: Token, ending: Ending) {
        if let Some(pending) = self.ring.attachment(token) {
            pending.ending = ending;
            let owner = pending.owner;
            // SAFETY: as the caller promises.
            if unsafe { self.ring.retire(token) } {
                self.keep(token, owner);
            }
        }
    }

    /// Says that the device was told nothing of the queue after all.
    ///
    /// # Safety
    ///
    /// It is so.
    pub(crate) unsafe fn not_told(&mut self) {
        // SAFETY: as the caller promises.
        unsafe { self.ring.device_let_go() };
    }
}
