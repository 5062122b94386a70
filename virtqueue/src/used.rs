//! A chain that the device has used.

use crate::memory::Memory;
use crate::ring::{Ring, RingFormat, Split};
use crate::slot::{Attachment, Slot, SlotMemory, State, Token};

/// A chain that the device has used: what it left, and what the driver attached.
///
/// Dropped without [`take`](Used::take), the slot stays taken; [`Queue::used`](crate::Queue::used) finds it again by
/// its token.
pub struct Used<'q, M: Memory, T: Attachment, R: RingFormat = Split> {
    pub(crate) ring: &'q mut R::Ring<M>,
    /// The first free slot.
    pub(crate) first_free: &'q mut u16,
    /// In the state `Used`, with an attachment.
    pub(crate) slot: &'q mut Slot<T>,
    pub(crate) slot_memory: SlotMemory<'q, T>,
    pub(crate) id: u16,
    /// The chain was one entry of the ring, with an indirect table.
    pub(crate) indirect: bool,
}

impl<M: Memory, T: Attachment, R: RingFormat> Used<'_, M, T, R> {
    /// The token that [`Chain::submit`](crate::Chain::submit) returned.
    #[inline(always)]
    pub fn token(&self) -> Token {
        Token { id: self.id, generation: self.slot.generation }
    }

    /// How many bytes the device says it wrote: at the most as many as it was allowed to. Some devices say it wrongly,
    /// legacy ones often; it bounds what may be looked at, and proves nothing.
    #[inline(always)]
    pub fn written_bytes(&self) -> u32 {
        self.slot.used_bytes.min(self.slot.writable_bytes)
    }

    /// The slot's own shared memory, where the device has left its status.
    #[inline(always)]
    pub fn slot(&self) -> &SlotMemory<'_, T> {
        &self.slot_memory
    }

    /// What the driver attached.
    #[inline(always)]
    pub fn attachment(&mut self) -> &mut T {
        // SAFETY: a `Used` is made only of a slot that has an attachment, and only what consumes it takes that away.
        unsafe { self.slot.attachment.as_mut().unwrap_unchecked() }
    }

    /// Takes what was attached, and frees the slot. The device has let go of every buffer of the chain.
    #[inline(always)]
    pub fn take(mut self) -> T {
        // SAFETY: as above.
        let attachment = unsafe { self.slot.attachment.take().unwrap_unchecked() };
        self.release();
        attachment
    }

    /// Drops what was attached, where it is, and frees the slot.
    #[inline(always)]
    pub fn free(mut self) {
        // First of all, as the drop may unwind: a slot that counts as used has something attached.
        self.release();
        self.slot.attachment = None;
    }

    #[inline(always)]
    fn release(&mut self) {
        self.slot.state = State::Free;
        self.slot.generation = self.slot.generation.wrapping_add(1);
        if !self.indirect {
            self.ring.release_direct(self.id, self.slot.segments);
        }
        // Where the ring chose the id, it has its own list.
        if self.indirect || !self.ring.numbers_slots() {
            self.slot.next = *self.first_free;
            *self.first_free = self.id;
        }
    }
}
