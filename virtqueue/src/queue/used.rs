//! Chains that the device has used.

use super::{Queue, unmap};
use crate::error::Violation;
use crate::memory::Memory;
use crate::ring::{Ring, RingFormat};
use crate::slot::{Attachment, SlotMemory, State, Token};
use crate::used::Used;

impl<M: Memory, T: Attachment, R: RingFormat> Queue<M, T, R> {
    /// Whether [`pop`](Queue::pop) has something to say: a chain, or a violation.
    pub fn has_used(&mut self) -> bool {
        !self.ring.is_exhausted() || self.look() || self.broken.is_some()
    }

    /// Takes note of the next chain that the device has used. Its slot stays taken until
    /// [`Used::take`](crate::Used::take).
    ///
    /// # Errors
    ///
    /// The [`Violation`] by which the device broke the queue, now or earlier.
    pub fn pop(&mut self) -> Result<Option<Used<'_, M, T, R>>, Violation> {
        if let Some(id) = self.pop_unless_broken().map(|used| used.id) {
            return Ok(self.used_slot(id));
        }
        self.broken.map_or(Ok(None), Err)
    }

    /// As [`pop`](Queue::pop), for a fast path: `None` also when the device broke the rules, which
    /// [`broken`](Queue::broken) tells.
    #[inline(always)]
    pub fn pop_unless_broken(&mut self) -> Option<Used<'_, M, T, R>> {
        if self.ring.is_exhausted() && !self.look() {
            return None;
        }
        let (id, written_bytes) = self.ring.element();
        let index = id as usize;
        // SAFETY: there are as many slots as entries, and the index is looked at once it is known to be less.
        if id >= u32::from(self.settings.size) || unsafe { self.slots.get_unchecked(index) }.state != State::InFlight {
            self.distrust(id);
            return None;
        }
        // SAFETY: as above.
        let slot = unsafe { self.slots.get_unchecked_mut(index) };
        // SAFETY: the device has returned the chain, which was in flight until now. Should the kernel's memory unwind
        // here, the slot stays in flight: its buffers are leaked, or given back after a reset.
        unsafe { unmap(&self.memory, &mut self.segments, index * self.recorded, slot.segments) };
        self.ring.advance(if self.settings.indirect { 1 } else { slot.segments });
        slot.state = State::Used;
        slot.used_bytes = written_bytes;
        // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
        let slot_memory = unsafe { SlotMemory::new(slot.shared, self.settings.contiguous_align.is_none()) };
        Some(Used {
            indirect: self.settings.indirect,
            ring: &mut self.ring,
            first_free: &mut self.first_free,
            slot,
            slot_memory,
            id: id as u16,
        })
    }

    /// Looks at the device's index, now that all is taken that the last look allowed. Whether there is more.
    #[inline(always)]
    fn look(&mut self) -> bool {
        match self.ring.look() {
            Ok(more) => more,
            Err(found) => {
                let violation = self.ring.jumped(found);
                self.break_off(violation);
                false
            }
        }
    }

    /// The device returned a chain that it did not have.
    #[cold]
    #[inline(never)]
    fn distrust(&mut self, id: u32) {
        let size = self.settings.size;
        self.break_off(match u16::try_from(id) {
            Ok(id) if id < size => Violation::NotInFlight { id },
            _ => Violation::IdOutOfRange { id, size },
        });
    }

    /// The device broke the rules: from now on there is nothing on the ring, for either side.
    #[cold]
    #[inline(never)]
    fn break_off(&mut self, violation: Violation) {
        self.off_ring = self.in_flight();
        self.ring.close();
        self.usable = 0;
        self.broken = self.broken.or(Some(violation));
    }

    /// The chain of a token, if the device has used it and nobody has taken it.
    #[inline(always)]
    pub fn used(&mut self, token: Token) -> Option<Used<'_, M, T, R>> {
        let slot = self.slots.get(usize::from(token.id))?;
        if slot.generation == token.generation { self.used_slot(token.id) } else { None }
    }

    #[inline(always)]
    fn used_slot(&mut self, id: u16) -> Option<Used<'_, M, T, R>> {
        let index = usize::from(id);
        let slot = self.slots.get_mut(index).filter(|slot| slot.state == State::Used)?;
        // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
        let slot_memory = unsafe { SlotMemory::new(slot.shared, self.settings.contiguous_align.is_none()) };
        Some(Used {
            ring: &mut self.ring,
            first_free: &mut self.first_free,
            slot,
            slot_memory,
            id,
            indirect: self.settings.indirect,
        })
    }

    /// The chain in a slot, if the device has used it and nobody has taken it.
    pub fn used_in_slot(&mut self, id: u16) -> Option<Used<'_, M, T, R>> {
        self.used_slot(id)
    }

    /// Asks the device not to interrupt when it has used chains. It is a hint: some interrupts may come all the same.
    pub fn disable_interrupts(&mut self) {
        self.ring.disable_interrupts();
    }

    /// Asks the device to interrupt once it has used `chains` chains more than were popped (at the most as many as are
    /// in flight; without EVENT_IDX: once it has used one).
    ///
    /// Returns `false` if it has used that many already: then there may be no interrupt for them, and
    /// [`pop`](Queue::pop) has something to say. Only after `true` is it safe to sleep.
    #[must_use = "where it is false, no interrupt may come"]
    pub fn enable_interrupts(&mut self, chains: u16) -> bool {
        // A chain that the device used before it saw this came without an interrupt; so look once more.
        let wanted = self.ring.enable_interrupts(chains);
        self.look();
        self.broken.is_none() && self.ring.seen_unused() < wanted
    }
}
