//! What becomes of chains in flight when the device was reset.

use super::{Queue, unmap};
use crate::memory::Memory;
use crate::ring::{Ring, RingFormat};
use crate::slot::{Attachment, State, Token};

impl<M: Memory, T: Attachment, R: RingFormat> Queue<M, T, R> {
    /// The chain in flight with the lowest slot number of `from` or above. For going through all of them, after
    /// something went wrong.
    pub fn in_flight_from(&self, from: u16) -> Option<Token> {
        let slots = self.slots.iter().zip(0_u16..).skip(usize::from(from));
        slots
            .filter(|(slot, _)| slot.state == State::InFlight)
            .map(|(slot, id)| Token { id, generation: slot.generation })
            .next()
    }

    /// Empties the ring after a reset of the device, as for a device that has never seen it. What was in flight still
    /// is, but on no ring: each chain is to be [reissued](Queue::reissue) or [retired](Queue::retire).
    ///
    /// # Safety
    ///
    /// The device was reset and has acknowledged it, and was not told of the queue since.
    pub unsafe fn restart(&mut self) {
        self.off_ring = self.in_flight();
        self.ring.restart();
        self.broken = None;
        self.usable = self.settings.size;
        // The device may have written there.
        self.write_frames();
        self.exposed = false;
    }

    /// Puts a chain that is in flight on the ring again, after [`restart`](Queue::restart). Returns `false` if there
    /// is no such chain in flight.
    ///
    /// # Safety
    ///
    /// The ring was restarted, and the chain was not reissued since. Its buffers are still as
    /// [`Chain::buffer`](crate::Chain::buffer) asks for.
    pub unsafe fn reissue(&mut self, token: Token) -> bool {
        let index = usize::from(token.id);
        let Some(slot) = self.slots.get(index) else {
            return false;
        };
        if slot.generation != token.generation || slot.state != State::InFlight {
            return false;
        }
        self.off_ring = self.off_ring.wrapping_sub(1);
        if self.settings.indirect {
            let (table, descriptors) = (self.table_address(token.id), slot.segments);
            self.ring.prepare(token.id, table, descriptors);
            self.ring.add(token.id, table, descriptors);
        } else {
            let segments = self.segments.get(index * self.recorded..).unwrap_or_default();
            self.ring.add_direct_again(token.id, segments.get(..usize::from(slot.segments)).unwrap_or_default());
        }
        true
    }

    /// Takes a chain out of flight that the device will not return: it counts as used, with nothing written. Returns
    /// `false` if there is no such chain in flight.
    ///
    /// After a [`restart`](Queue::restart), this ends the mappings of its buffers. While the device may know the queue
    /// ([`exposed`](Queue::exposed): since [`areas`](Queue::areas)), it does not: they stay for ever, as the device may
    /// go on using the buffers, and so does what a bounce buffer or an IOMMU keeps for them.
    ///
    /// # Safety
    ///
    /// Either the ring was [restarted](Queue::restart), and the chain was not reissued since. Or the queue will not be
    /// used again but to take what is attached, and the caller sees to it that the buffers are leaked.
    pub unsafe fn retire(&mut self, token: Token) -> bool {
        let index = usize::from(token.id);
        let Some(slot) = self.slots.get_mut(index) else {
            return false;
        };
        if slot.generation != token.generation || slot.state != State::InFlight {
            return false;
        }
        // While the device may still have it, a mapping stays for ever, as the buffer does.
        if !self.exposed {
            // SAFETY: the device was reset.
            unsafe { unmap(&self.memory, &mut self.segments, index * self.recorded, slot.segments) };
        }
        slot.state = State::Used;
        slot.used_bytes = 0;
        self.off_ring = self.off_ring.wrapping_sub(1);
        true
    }
}
