//! Chains for the device.

use core::ptr::NonNull;

use super::{Queue, recorded};
use crate::chain::Chain;
use crate::error::ChainError;
use crate::memory::{Access, Memory};
use crate::ring::{Ring, RingFormat};
use crate::segment::Segment;
use crate::slot::{Attachment, Frame, SlotMemory, State, Token};

impl<M: Memory, T: Attachment, R: RingFormat> Queue<M, T, R> {
    /// Starts a chain in a free slot.
    ///
    /// # Errors
    ///
    /// [`ChainError::Full`], [`ChainError::Broken`].
    #[inline(always)]
    pub fn chain(&mut self) -> Result<Chain<'_, M, T, R>, ChainError> {
        if let Some(violation) = self.broken {
            return Err(ChainError::Broken(violation));
        }
        if !self.has_free() {
            return Err(ChainError::Full);
        }
        let chosen = if self.ring.numbers_slots() { self.ring.reserve() } else { None };
        let id = chosen.unwrap_or(self.first_free);
        let (slot_address, table_address) = (self.slot_address(id), self.table_address(id));
        let index = usize::from(id);
        let Some(slot) = self.slots.get_mut(index) else {
            return Err(ChainError::Full);
        };
        if chosen.is_none() {
            self.first_free = slot.next;
        }
        slot.framed = false;
        let segments: &mut [Segment] = if M::UNMAPS || !self.settings.indirect {
            recorded(&mut self.segments, index, self.recorded)
        } else {
            &mut []
        };
        let base = slot.shared;
        Ok(Chain {
            ring: &mut self.ring,
            first_free: &mut self.first_free,
            memory: &self.memory,
            slot,
            // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
            slot_memory: unsafe { SlotMemory::new(base, self.settings.contiguous_align.is_none()) },
            slot_address,
            table_address,
            table: if self.settings.indirect {
                // SAFETY: the table lies behind the driver's bytes in the same slot.
                Some(unsafe { base.add(Self::TABLE_OFFSET) }.cast())
            } else {
                None
            },
            segments,
            chain_max: self.settings.chain_max,
            segment_max_bytes: self.settings.segment_max_bytes,
            little_endian: self.settings.contiguous_align.is_none(),
            id,
            count: 0,
            bytes: 0,
            writable_bytes: 0,
            last: (0, Access::DeviceReads),
        })
    }

    /// Puts a chain on the ring that is a [`Frame`] around one buffer: the usual form of a request, in the fewest steps.
    /// The device sees it after [`commit`](Queue::commit).
    ///
    /// `fill` writes the slot's own memory and returns what is to be attached. `None`, and nothing was done, whenever it
    /// is not as simple as that: there is no free slot, the device broke the rules, the buffer takes several
    /// descriptors, or none, or has to be mapped, or the queue has no indirect tables. Then build the chain piece by
    /// piece, which says what is wrong if something is.
    ///
    /// # Safety
    ///
    /// As for [`Chain::buffer`].
    #[inline(always)]
    pub unsafe fn submit_framed(
        &mut self,
        start: NonNull<u8>,
        bytes: usize,
        access: Access,
        fill: impl FnOnce(&SlotMemory<'_, T>) -> T,
    ) -> Option<Token> {
        let id = self.first_free;
        if M::UNMAPS || id >= self.usable {
            return None;
        }
        // SAFETY: `usable` is not more than the number of slots.
        if !unsafe { self.slots.get_unchecked(usize::from(id)) }.framed && !self.write_frame(id) {
            return None;
        }
        let table_address = self.table_address(id);
        // SAFETY: as above.
        let slot = unsafe { self.slots.get_unchecked_mut(usize::from(id)) };
        // What is empty is refused as what is too long is.
        if bytes.wrapping_sub(1) >= self.framed_max_bytes as usize {
            return None;
        }
        let piece = self.memory.translate(start, bytes).ok()?;
        if piece.bytes < bytes {
            return None;
        }
        let (length, little_endian) = (bytes as u32, self.settings.contiguous_align.is_none());
        // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
        let attachment = fill(&unsafe { SlotMemory::new(slot.shared, little_endian) });
        let status = match T::FRAME {
            Some(frame) => frame.status.1,
            None => 0,
        };
        let writable_bytes = match access {
            Access::DeviceReads => status,
            Access::DeviceWrites => length + status,
        };
        let address = piece.device_address;
        let table = Self::table(slot.shared);
        table.at(1).address.store(if little_endian { address.to_le() } else { address });
        table.at(1).rest.store(self.ring.table_entry(length, access, Some(2)));
        self.ring.add(id, table_address, Frame::DESCRIPTORS);
        self.first_free = slot.next;
        // SAFETY: it is a place for such a value. Nothing is dropped that was there before, as the slot was free.
        unsafe { core::ptr::from_mut(&mut slot.attachment).write(Some(attachment)) };
        slot.writable_bytes = writable_bytes;
        slot.state = State::InFlight;
        Some(Token { id, generation: slot.generation })
    }

    /// Lets the device see every chain that was submitted since the last call, with one store of the index. `Some` if
    /// the device wants to be notified of it: then notify it.
    #[must_use = "a device that wants a notification does nothing without it"]
    #[inline(always)]
    pub fn commit(&mut self) -> Option<Notification> {
        self.ring.commit().then(|| Notification { next: self.ring.notification_data() })
    }

    /// What a notification carries now, with NOTIFICATION_DATA: for one that is sent again.
    pub fn notification_data(&self) -> u16 {
        self.ring.notification_data()
    }
}

/// The device wants to be notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Where the next chain will be added: what a notification carries with NOTIFICATION_DATA (2.9).
    pub next: u16,
}
