//! A queue: a ring, and a slot for each chain that can be in flight.

mod available;
mod making;
mod restart;
mod used;

use core::ptr::NonNull;

pub use self::available::Notification;
use crate::error::Violation;
use crate::memory::Memory;
use crate::owned::{OwnedPages, PrivateSlice};
use crate::ring::{Ring, RingFormat, Split};
use crate::segment::Segment;
use crate::settings::{Areas, Settings};
use crate::shared::{Shared, SharedDescriptor};
use crate::slot::{Attachment, Slot, SlotMemory, State, Token};

/// The fewest entries of a queue: a read of a block device takes three descriptors.
const MIN_QUEUE_SIZE: u16 = 4;

/// Slots start at multiples of a usual cache line, so that the device, which writes into one, does not take the line of
/// another from the processor.
const SLOT_ALIGN: usize = 64;

/// One virtqueue, as its driver sees it.
///
/// `M` is the kernel's memory, `T` what the driver attaches to each chain.
///
/// While the device may know the queue ([`areas`](Queue::areas) was called and no reset acknowledged since,
/// [`device_let_go`](Queue::device_let_go)), dropping it leaks the memory that it shares with the device, and what is
/// attached to chains in flight: it must not become something else while the device may still touch it.
pub struct Queue<M: Memory, T: Attachment, R: RingFormat = Split> {
    ring: R::Ring<M>,
    slots: PrivateSlice<Slot<T>, M>,
    /// For each slot `recorded` segments: `chain_max`, or none at all.
    segments: PrivateSlice<Segment, M>,
    recorded: usize,
    /// For each slot its shared bytes and its indirect table.
    shared: OwnedPages<M>,
    slot_stride: usize,
    memory: M,
    settings: Settings,
    /// The most bytes of a frame's buffer: one descriptor, and with the status no more than 32 bits can say.
    framed_max_bytes: u32,
    /// With indirect tables, the first free slot; a number that no slot has if there is none.
    first_free: u16,
    /// How many slots may be taken: all, or none once the device broke the rules. Never more than there are.
    usable: u16,
    /// The number of chains in flight, less those that the ring counts: of those that were in flight at a restart,
    /// the ring has only those that were reissued.
    off_ring: u16,
    broken: Option<Violation>,
    exposed: bool,
}

impl<M: Memory, T: Attachment, R: RingFormat> Queue<M, T, R> {
    /// The device address of a slot's shared bytes.
    #[inline(always)]
    pub(super) fn slot_address(&self, id: u16) -> u64 {
        self.shared.device_address().wrapping_add((usize::from(id) * self.slot_stride) as u64)
    }

    /// The device address of a slot's indirect table.
    #[inline(always)]
    pub(super) fn table_address(&self, id: u16) -> u64 {
        self.slot_address(id).wrapping_add(Self::TABLE_OFFSET as u64)
    }

    /// The first four descriptors of the indirect table of the slot whose shared bytes these are.
    #[inline(always)]
    pub(super) fn table(slot: NonNull<u8>) -> Shared<SharedDescriptor> {
        // SAFETY: the table lies behind the driver's bytes in the same slot, aligned; callers hold that its length is
        // more than the index that they access.
        unsafe { Shared::array(slot, Self::TABLE_OFFSET, 3) }
    }

    /// Where the queue is, to be told to the device.
    ///
    /// From now on the device may touch it: it is leaked when dropped, until
    /// [`device_let_go`](Queue::device_let_go).
    pub fn areas(&mut self) -> Areas {
        self.exposed = true;
        self.ring.areas()
    }

    /// Says that the device will not touch the queue, nor any buffer in it, any more: dropping it now frees all of it,
    /// and ends the mappings of what is in flight. It ends none by itself, nor any of a chain that was
    /// [retired](Queue::retire) before.
    ///
    /// # Safety
    ///
    /// The device was never told of the queue, or it was reset since and has acknowledged the reset.
    pub unsafe fn device_let_go(&mut self) {
        self.exposed = false;
    }

    /// Whether the device may know the queue, and what is in flight.
    pub fn exposed(&self) -> bool {
        self.exposed
    }

    /// The kernel's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The settings that the queue was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The number of chains that the device may have.
    #[inline]
    pub fn in_flight(&self) -> u16 {
        self.ring.unused().wrapping_add(self.off_ring)
    }

    /// Whether a chain can be started, unless the device broke the rules.
    pub fn has_free(&self) -> bool {
        (self.ring.numbers_slots() || self.first_free < self.settings.size)
            && (self.settings.indirect || self.ring.free() > 0)
    }

    /// The number of chains that can still be started; without INDIRECT_DESC an upper bound, as each takes several
    /// entries. It goes through all of them.
    pub fn free(&self) -> u16 {
        if self.ring.numbers_slots() {
            return self.ring.free();
        }
        let mut free = 0;
        let mut id = self.first_free;
        while let Some(slot) = self.slots.get(usize::from(id)) {
            free += 1;
            id = slot.next;
        }
        if self.settings.indirect { free } else { free.min(self.ring.free()) }
    }

    /// How the device broke the rules, if it did.
    pub fn broken(&self) -> Option<Violation> {
        self.broken
    }

    /// What is attached to the chain of a token, in flight or used.
    #[inline(always)]
    pub fn attachment(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(usize::from(token.id))?;
        if slot.generation == token.generation { slot.attachment.as_mut() } else { None }
    }

    /// The shared memory of the slot of a token, in flight or used, and what is attached to it.
    pub fn slot_and_attachment(&mut self, token: Token) -> Option<(SlotMemory<'_, T>, &mut T)> {
        let index = usize::from(token.id);
        let slot = self.slots.get_mut(index)?;
        if slot.generation != token.generation {
            return None;
        }
        let attachment = slot.attachment.as_mut()?;
        // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
        let memory = unsafe { SlotMemory::new(slot.shared, self.settings.contiguous_align.is_none()) };
        Some((memory, attachment))
    }
}

/// The segments of a slot.
#[cold]
fn recorded(segments: &mut [Segment], index: usize, recorded: usize) -> &mut [Segment] {
    let segments = segments.get_mut(index * recorded..).unwrap_or_default();
    segments.get_mut(..recorded).unwrap_or_default()
}

impl<M: Memory, T: Attachment, R: RingFormat> Drop for Queue<M, T, R> {
    fn drop(&mut self) {
        let in_flight = self.slots.iter_mut().zip(0_usize..).filter(|(slot, _)| slot.state == State::InFlight);
        if self.exposed {
            self.ring.leak();
            self.shared.leak();
            for (slot, _) in in_flight {
                core::mem::forget(slot.attachment.take());
            }
        } else {
            for (slot, index) in in_flight {
                // SAFETY: the device was reset, or never saw the queue.
                unsafe { unmap(&self.memory, &mut self.segments, index * self.recorded, slot.segments) };
            }
        }
    }
}

/// Ends the mappings of `count` segments, from `first` on.
///
/// # Safety
///
/// As for [`Segment::unmap`], for each of them.
#[inline(always)]
unsafe fn unmap<M: Memory>(memory: &M, segments: &mut [Segment], first: usize, count: u16) {
    if M::UNMAPS {
        for segment in segments.iter_mut().skip(first).take(usize::from(count)) {
            // SAFETY: as the caller promises.
            unsafe { segment.unmap(memory) };
        }
    }
}
