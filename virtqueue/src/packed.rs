//! The packed ring (2.8, "Packed Virtqueues"): one ring of descriptors that both sides write, in turn.
//!
//! A descriptor's flags say whose it is, by two bits that are compared with a counter of how often the writer has gone
//! around the ring. The driver puts a chain on the ring in three steps:
//!
//! 1. [`add`](PackedRing::add) or [`add_direct`](PackedRing::add_direct) writes the descriptors at the next position,
//!    with flags that make them available.
//! 2. All but the first: its flags are held back. The device works in the order of the ring, so it does not come to
//!    what is behind.
//! 3. [`commit`](PackedRing::commit) writes those flags, and finds out whether the device wants to be notified.
//!
//! The device writes one descriptor for each chain that it has used, at the next position of its own, and skips as many
//! as the chain had. So the driver must know how many those were: the queue's slots say it.
//!
//! What the device wrote over is not read but for the flags, the id and the length of the position that is next.

use core::sync::atomic::Ordering::Relaxed;

use virtio_spec::packed_ring::{DescriptorFlags, EVENT_FLAGS_MASK, EVENT_OFFSET_MASK, EVENT_WRAP_SHIFT, EventFlags};

use crate::barrier::Barriers;
use crate::error::{QueueSetupError, Violation};
use crate::layout::PackedLayout;
use crate::memory::{Access, Memory, PageRequest, Purpose};
use crate::owned::OwnedPages;
use crate::ring::Ring;
use crate::segment::Segment;
use crate::settings::{Areas, Settings};
use crate::shared::{Shared, SharedEvent, SharedPackedDescriptor};

/// A packed ring.
pub struct PackedRing<M: Memory> {
    descriptors: Shared<SharedPackedDescriptor>,
    driver_event: Shared<SharedEvent>,
    device_event: Shared<SharedEvent>,

    /// Where the next descriptor will be added.
    next: Position,
    /// The flags of the first descriptor since the last commit, which are still to be written, and where.
    held: Option<(u16, DescriptorFlags)>,
    /// How many positions were added since the last commit.
    uncommitted: u16,
    /// Where the device writes the next chain that it has used.
    used: Position,
    /// The id at that position, once the driver has seen that the device wrote it.
    seen: Option<u16>,

    /// The number of positions that no chain takes.
    free: u16,
    /// How many chains were added, and how many taken back.
    added: u16,
    taken: u16,

    size: u16,
    event_idx: bool,
    barriers: Barriers,
    areas: Areas,
    /// What all of the above point into.
    pages: OwnedPages<M>,
}

/// A position in the ring, and how often its owner has gone around: an even number of times or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    /// Below the size of the queue.
    index: u16,
    wrap: bool,
}

impl Position {
    const START: Self = Self { index: 0, wrap: true };

    /// The position `by` further on in a ring of `size`; `by` is at the most the size.
    #[inline(always)]
    fn advance(&mut self, by: u16, size: u16) {
        // Both are at the most 32768, so the sum is no more than 16 bits hold: the first is less.
        let index = self.index + by;
        if index >= size {
            self.index = index - size;
            self.wrap = !self.wrap;
        } else {
            self.index = index;
        }
    }

    /// As an event says it, and a notification.
    #[inline(always)]
    fn bits(self) -> u16 {
        self.index | u16::from(self.wrap) << EVENT_WRAP_SHIFT
    }

    /// The flags of a descriptor that the driver makes available there.
    #[inline(always)]
    fn available(self) -> DescriptorFlags {
        if self.wrap { DescriptorFlags::AVAIL } else { DescriptorFlags::USED }
    }

    /// The flags, of the two that matter, of a descriptor that the device has used there.
    #[inline(always)]
    fn used(self) -> DescriptorFlags {
        if self.wrap { Self::BOTH } else { DescriptorFlags::empty() }
    }

    const BOTH: DescriptorFlags = DescriptorFlags::AVAIL.union(DescriptorFlags::USED);
}

impl<M: Memory> PackedRing<M> {
    /// Writes one descriptor at the next position, with its flags unless it is the first since the last commit.
    #[inline(always)]
    fn write(&mut self, id: u16, address: u64, bytes: u32, flags: DescriptorFlags) {
        let flags = flags | self.next.available();
        let descriptor = self.descriptors.at(usize::from(self.next.index));
        descriptor.address.store(address.to_le());
        descriptor.len.store(bytes.to_le(), Relaxed);
        descriptor.id.store(id.to_le(), Relaxed);
        if self.held.is_none() {
            self.held = Some((self.next.index, flags));
        } else {
            descriptor.flags.store(flags.bits().to_le(), Relaxed);
        }
        self.uncommitted += 1;
        self.free = self.free.wrapping_sub(1);
        self.next.advance(1, self.size);
    }

    /// Writes the descriptors of a chain, one after the other.
    fn write_all(&mut self, id: u16, segments: &[Segment]) {
        let mut left = segments.len();
        for segment in segments {
            left -= 1;
            let mut flags = match segment.access {
                Access::DeviceReads => DescriptorFlags::empty(),
                Access::DeviceWrites => DescriptorFlags::WRITE,
            };
            if left > 0 {
                flags |= DescriptorFlags::NEXT;
            }
            self.write(id, segment.device_address, segment.bytes, flags);
        }
        self.added = self.added.wrapping_add(1);
    }

    /// How many positions the device has: of chains that were committed, and not taken back.
    #[inline(always)]
    fn held_by_device(&self) -> u16 {
        // A device that gives back what was not committed leaves less than nothing.
        self.size.wrapping_sub(self.free).saturating_sub(self.uncommitted)
    }

    /// Writes what the driver wants to be interrupted for.
    fn write_event(&self, event: Position, flags: EventFlags) {
        let driver_event = self.driver_event.at(0);
        driver_event.desc.store(event.bits().to_le(), Relaxed);
        // The position is there before it counts.
        self.barriers.ring_before_index();
        driver_event.flags.store(flags.0.to_le(), Relaxed);
    }
}

impl<M: Memory> Ring<M> for PackedRing<M> {
    fn new(memory: &M, settings: &Settings) -> Result<Self, QueueSetupError> {
        let size = settings.size;
        let layout = PackedLayout::new(size);
        let request = PageRequest {
            bytes: layout.bytes,
            align: layout.align,
            max_address: settings.max_address,
            purpose: Purpose::Shared,
        };
        let failed = |error| QueueSetupError::Memory { bytes: layout.bytes, error };
        let pages = OwnedPages::allocate(memory, request).map_err(failed)?;
        let (base, first) = (pages.start(), pages.device_address());
        let areas = Areas {
            descriptor_area: first,
            driver_area: first.wrapping_add(layout.driver_area as u64),
            device_area: first.wrapping_add(layout.device_area as u64),
        };
        // SAFETY: the layout puts each part inside `layout.bytes`, which were allocated zeroed, at its alignment, and
        // leaves room for a power of two of descriptors; the pages live as long as the ring does, and only it and the
        // device touch them.
        let ring = unsafe {
            Self {
                descriptors: Shared::array(base, 0, usize::from(size).next_power_of_two() - 1),
                driver_event: Shared::one(base, layout.driver_area),
                device_event: Shared::one(base, layout.device_area),
                next: Position::START,
                held: None,
                uncommitted: 0,
                used: Position::START,
                seen: None,
                free: size,
                added: 0,
                taken: 0,
                size,
                event_idx: settings.event_idx,
                barriers: Barriers { platform: settings.order_platform },
                areas,
                pages,
            }
        };
        ring.disable_interrupts();
        Ok(ring)
    }

    fn areas(&self) -> Areas {
        self.areas
    }

    /// Ids are those of slots, whether chains are direct or not.
    fn numbers_slots(&self) -> bool {
        false
    }

    fn reserve(&mut self) -> Option<u16> {
        None
    }

    fn unreserve(&mut self, _: u16) {}

    fn free(&self) -> u16 {
        self.free
    }

    #[inline(always)]
    fn table_entry(&self, bytes: u32, access: Access, _next: Option<u16>) -> u64 {
        let flags = match access {
            Access::DeviceReads => DescriptorFlags::empty(),
            Access::DeviceWrites => DescriptorFlags::WRITE,
        };
        // Length, id, flags: in a table, the id is reserved, and what follows needs no flag (2.8.7).
        (u64::from(bytes) | u64::from(flags.bits()) << 48).to_le()
    }

    fn prepare(&self, _: u16, _: u64, _: u16) {}

    #[inline(always)]
    fn add(&mut self, id: u16, table: u64, descriptors: u16) {
        let bytes = u32::from(descriptors) * size_of::<SharedPackedDescriptor>() as u32;
        self.write(id, table, bytes, DescriptorFlags::INDIRECT);
        self.added = self.added.wrapping_add(1);
    }

    #[cold]
    #[inline(never)]
    fn add_direct(&mut self, id: u16, segments: &[Segment]) {
        self.write_all(id, segments);
    }

    fn add_direct_again(&mut self, id: u16, segments: &[Segment]) {
        self.write_all(id, segments);
    }

    /// Positions become free when the device has used them.
    fn release_direct(&mut self, _: u16, _: u16) {}

    #[inline(always)]
    fn commit(&mut self) -> bool {
        let Some((first, flags)) = self.held.take() else {
            return false;
        };
        self.barriers.ring_before_index();
        self.descriptors.at(usize::from(first)).flags.store(flags.bits().to_le(), Relaxed);
        let added = core::mem::take(&mut self.uncommitted);

        self.barriers.store_before_look();
        let device_event = self.device_event.at(0);
        let wanted = match EventFlags(u16::from_le(device_event.flags.load(Relaxed)) & EVENT_FLAGS_MASK) {
            EventFlags::DISABLE => false,
            EventFlags::DESC if self.event_idx => {
                self.barriers.index_before_ring();
                let event = u16::from_le(device_event.desc.load(Relaxed));
                // The event as a position on the ring of which `next` is one, this time around or the last.
                let mut index = event & EVENT_OFFSET_MASK;
                if (event >> EVENT_WRAP_SHIFT != 0) != self.next.wrap {
                    index = index.wrapping_sub(self.size);
                }
                // The window between the position before the batch and the one behind it, as for the split ring.
                self.next.index.wrapping_sub(index).wrapping_sub(1) < added
            }
            _ => true,
        };
        if wanted {
            self.barriers.memory_before_register();
        }
        wanted
    }

    fn notification_data(&self) -> u16 {
        self.next.bits()
    }

    #[inline(always)]
    fn unused(&self) -> u16 {
        self.added.wrapping_sub(self.taken)
    }

    #[inline(always)]
    fn is_exhausted(&self) -> bool {
        self.seen.is_none()
    }

    #[inline(always)]
    fn look(&mut self) -> Result<bool, u16> {
        let descriptor = self.descriptors.at(usize::from(self.used.index));
        let flags = DescriptorFlags::from_bits_retain(u16::from_le(descriptor.flags.load(Relaxed)));
        if flags & Position::BOTH != self.used.used() {
            return Ok(false);
        }
        self.barriers.index_before_ring();
        let id = u16::from_le(descriptor.id.load(Relaxed));
        if self.held_by_device() == 0 {
            return Err(id);
        }
        self.seen = Some(id);
        Ok(true)
    }

    fn jumped(&self, found: u16) -> Violation {
        if found < self.size {
            Violation::NotInFlight { id: found }
        } else {
            Violation::IdOutOfRange { id: u32::from(found), size: self.size }
        }
    }

    #[inline(always)]
    fn element(&self) -> (u32, u32) {
        let descriptor = self.descriptors.at(usize::from(self.used.index));
        (u32::from(self.seen.unwrap_or(u16::MAX)), u32::from_le(descriptor.len.load(Relaxed)))
    }

    #[inline(always)]
    fn advance(&mut self, entries: u16) {
        self.seen = None;
        self.used.advance(entries, self.size);
        self.free = self.free.wrapping_add(entries);
        self.taken = self.taken.wrapping_add(1);
    }

    /// The ring has no index that says how many: the next position will show it.
    fn has_more(&self) -> bool {
        self.held_by_device() > 0
    }

    fn close(&mut self) {
        // What is on the ring is not the device's to give back any more: as if it had not been committed.
        (self.held, self.uncommitted, self.seen) = (None, self.size.wrapping_sub(self.free), None);
        self.added = self.taken;
    }

    fn seen_unused(&self) -> u16 {
        u16::from(self.seen.is_some())
    }

    fn disable_interrupts(&self) {
        self.driver_event.at(0).flags.store(EventFlags::DISABLE.0.to_le(), Relaxed);
    }

    fn enable_interrupts(&mut self, chains: u16) -> u16 {
        if self.event_idx {
            // A chain takes one position or more, so the device comes there with the last of them at the latest. It does
            // not come to what it does not have; waiting for that would be waiting for ever.
            let chains = chains.clamp(1, self.held_by_device().max(1));
            let mut event = self.used;
            event.advance(chains - 1, self.size);
            self.write_event(event, EventFlags::DESC);
        } else {
            self.driver_event.at(0).flags.store(EventFlags::ENABLE.0.to_le(), Relaxed);
        }
        self.barriers.store_before_look();
        // The ring does not tell how many were used that came without an interrupt, only whether one was.
        1
    }

    fn restart(&mut self) {
        // All of it is zero when the device is told of it (2.8.13).
        for index in 0..usize::from(self.size) {
            let descriptor = self.descriptors.at(index);
            descriptor.address.store(0);
            descriptor.len.store(0, Relaxed);
            descriptor.id.store(0, Relaxed);
            descriptor.flags.store(0, Relaxed);
        }
        let device_event = self.device_event.at(0);
        device_event.desc.store(0, Relaxed);
        device_event.flags.store(0, Relaxed);
        (self.next, self.used) = (Position::START, Position::START);
        (self.held, self.uncommitted, self.seen) = (None, 0, None);
        (self.added, self.taken, self.free) = (0, 0, self.size);
        self.disable_interrupts();
    }

    fn leak(&mut self) {
        self.pages.leak();
    }
}
