//! A chain that the device has used.

use crate::memory::Memory;
use crate::slot::{Attachment, Slot, SlotMemory, State, Token};
use crate::split::SplitRing;

/// A chain that the device has used: what it left, and what the driver attached.
///
/// Dropped without [`take`](Used::take), the slot stays taken; [`Queue::used`](crate::Queue::used) finds it again by
/// its token.
pub struct Used<'q, M: Memory, T: Attachment> {
    pub(crate) ring: &'q mut SplitRing<M>,
    /// In the state `Used`, with an attachment.
    pub(crate) slot: &'q mut Slot<T>,
    pub(crate) slot_memory: SlotMemory<'q, T>,
    pub(crate) id: u16,
    /// The number of the ring's descriptors that become free with it.
    pub(crate) descriptors: u16,
}

impl<M: Memory, T: Attachment> Used<'_, M, T> {
    /// The token that [`Chain::submit`](crate::Chain::submit) returned.
    #[inline]
    pub fn token(&self) -> Token {
        Token { id: self.id, generation: self.slot.generation }
    }

    /// How many bytes the device says it wrote: at the most as many as it was allowed to. Some devices say it wrongly,
    /// legacy ones often; it bounds what may be looked at, and proves nothing.
    #[inline]
    pub fn written_bytes(&self) -> u32 {
        self.slot.written_bytes
    }

    /// The slot's own shared memory, where the device has left its status.
    #[inline]
    pub fn slot(&self) -> &SlotMemory<'_, T> {
        &self.slot_memory
    }

    /// What the driver attached.
    #[inline]
    pub fn attachment(&mut self) -> Option<&mut T> {
        self.slot.attachment.as_mut()
    }

    /// Takes what was attached, and frees the slot. The device has let go of every buffer of the chain.
    #[inline]
    pub fn take(self) -> T {
        // SAFETY: a `Used` is made only of a slot that has an attachment, and only this takes it away.
        let attachment = unsafe { self.slot.attachment.take().unwrap_unchecked() };
        self.slot.state = State::Free;
        self.slot.generation = self.slot.generation.wrapping_add(1);
        self.ring.release(self.id, self.descriptors);
        attachment
    }
}
