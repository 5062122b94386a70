//! The split ring (2.7, "Split Virtqueues"): a table of descriptors, a ring of those that are available to the device,
//! and a ring of those that the device has used.
//!
//! The driver puts a chain of descriptors on the ring in four steps:
//!
//! 1. A free descriptor becomes the head of the chain; its number is the chain's id, and that of its slot.
//! 2. [`set_table_length`](SplitRing::set_table_length) and [`add`](SplitRing::add), or [`add_direct`](SplitRing::add_direct),
//!    fill in the descriptors and write the id into the available ring, behind the index: the device does not look there
//!    yet.
//! 3. [`commit`](SplitRing::commit) moves the index over all that was added, and finds out whether the device wants to
//!    be notified.
//! 4. [`take`](SplitRing::take) gives the id back once the device has used it. Then its descriptors are free again.
//!
//! With indirect tables each chain takes one descriptor, and a free descriptor is a free slot: the queue keeps the list.
//! Without, this file keeps one of free descriptors ([`reserve`](SplitRing::reserve),
//! [`release_chain`](SplitRing::release_chain)).
//!
//! Shared memory is written by the driver and read back never: which descriptors are free, and how those in flight
//! hang together, is kept in private memory.

use core::sync::atomic::Ordering::Relaxed;

use virtio_spec::split_ring::{
    AVAILABLE_FLAGS_OFFSET, AVAILABLE_IDX_OFFSET, AVAILABLE_RING_OFFSET, AvailableFlags, DescriptorFlags,
    USED_FLAGS_OFFSET, USED_IDX_OFFSET, USED_RING_OFFSET, UsedFlags, avail_event_offset, used_event_offset,
};

use crate::barrier::Barriers;
use crate::error::{QueueSetupError, Violation};
use crate::layout::SplitLayout;
use crate::memory::{Access, Memory, PageRequest, Purpose};
use crate::owned::{OwnedPages, PrivateSlice};
use crate::ring::Ring;
use crate::segment::Segment;
use crate::settings::{Areas, Settings};
use crate::shared::{AtomicU16, HandedU16, Shared, SharedDescriptor, SharedUsedElement};

/// A split ring.
pub struct SplitRing<M: Memory> {
    descriptors: Shared<SharedDescriptor>,
    avail_flags: Shared<AtomicU16>,
    avail_idx: Shared<AtomicU16>,
    avail_ring: Shared<HandedU16>,
    used_event: Shared<AtomicU16>,
    used_flags: Shared<AtomicU16>,
    used_idx: Shared<AtomicU16>,
    used_ring: Shared<SharedUsedElement>,
    avail_event: Shared<AtomicU16>,

    /// Without indirect tables, for each descriptor the one behind it: in its chain, or in the list of free ones.
    next: PrivateSlice<u16, M>,
    first_free: u16,
    free: u16,

    /// The available index up to which ids were written to the ring.
    added: u16,
    /// The available index that the device knows.
    committed: u16,
    /// The used index up to which the driver has taken elements.
    taken: u16,
    /// The used index that was last read from the device, and found possible.
    seen: u16,

    indirect: bool,
    event_idx: bool,
    barriers: Barriers,
    /// Whether fields are little-endian, and not in the order of this machine as on a legacy device.
    little_endian: bool,
    areas: Areas,
    /// What all of the above point into.
    pages: OwnedPages<M>,
}

impl<M: Memory> SplitRing<M> {
    /// Writes a head into the available ring, where the device does not look yet.
    #[inline(always)]
    fn put(&mut self, head: u16) {
        self.avail_ring.at(usize::from(self.added)).store(self.order_u16(head), Relaxed);
        self.added = self.added.wrapping_add(1);
    }

    /// Writes the descriptors of a chain, which hang together already, and adds it.
    fn write_chain(&mut self, head: u16, segments: &[Segment]) {
        let mut current = head;
        let mut left = segments.len();
        for segment in segments {
            left -= 1;
            let mut flags = match segment.access {
                Access::DeviceReads => DescriptorFlags::empty(),
                Access::DeviceWrites => DescriptorFlags::WRITE,
            };
            let mut next = 0;
            if left > 0 {
                flags |= DescriptorFlags::NEXT;
                next = self.next.get(usize::from(current)).copied().unwrap_or(current);
            }
            let descriptor = self.descriptors.at(usize::from(current));
            descriptor.address.store(self.order_u64(segment.device_address));
            descriptor.rest.store(self.rest(segment.bytes, flags, next));
            current = next;
        }
        self.put(head);
    }

    #[inline(always)]
    fn rest(&self, bytes: u32, flags: DescriptorFlags, next: u16) -> u64 {
        descriptor_rest(self.little_endian, bytes, flags, next)
    }

    #[inline(always)]
    fn order_u16(&self, value: u16) -> u16 {
        if self.little_endian { value.to_le() } else { value }
    }

    #[inline(always)]
    fn order_u32(&self, value: u32) -> u32 {
        if self.little_endian { value.to_le() } else { value }
    }

    #[inline(always)]
    fn order_u64(&self, value: u64) -> u64 {
        if self.little_endian { value.to_le() } else { value }
    }
}

impl<M: Memory> Ring<M> for SplitRing<M> {
    fn new(memory: &M, settings: &Settings) -> Result<Self, QueueSetupError> {
        let size = settings.size;
        let layout = SplitLayout::new(size, settings.contiguous_align);
        let request = PageRequest {
            bytes: layout.bytes,
            align: layout.align,
            max_address: settings.max_address,
            purpose: Purpose::Shared,
        };
        let failed = |bytes| move |error| QueueSetupError::Memory { bytes, error };
        let pages = OwnedPages::allocate(memory, request).map_err(failed(layout.bytes))?;
        // In order, descriptors follow each other around the table; else this is a list that ends.
        let end = if settings.in_order { 0 } else { size };
        let mut free_list = (1..size).chain([end]);
        let links = if settings.indirect { 0 } else { usize::from(size) };
        let next = PrivateSlice::allocate(memory, links, |_| free_list.next().unwrap_or(end))
            .map_err(failed(links * size_of::<u16>()))?;

        let mask = usize::from(size) - 1;
        let (base, driver, device) = (pages.start(), layout.driver_area, layout.device_area);
        let first = pages.device_address();
        let areas = Areas {
            descriptor_area: first,
            driver_area: first.wrapping_add(driver as u64),
            device_area: first.wrapping_add(device as u64),
        };
        // SAFETY: the layout puts each field inside `layout.bytes`, which were allocated zeroed, at its alignment; the
        // size is a power of two; the pages live as long as the ring does, and only it and the device touch them.
        let ring = unsafe {
            Self {
                descriptors: Shared::array(base, 0, mask),
                avail_flags: Shared::one(base, driver + AVAILABLE_FLAGS_OFFSET),
                avail_idx: Shared::one(base, driver + AVAILABLE_IDX_OFFSET),
                avail_ring: Shared::array(base, driver + AVAILABLE_RING_OFFSET, mask),
                used_event: Shared::one(base, driver + used_event_offset(size)),
                used_flags: Shared::one(base, device + USED_FLAGS_OFFSET),
                used_idx: Shared::one(base, device + USED_IDX_OFFSET),
                used_ring: Shared::array(base, device + USED_RING_OFFSET, mask),
                avail_event: Shared::one(base, device + avail_event_offset(size)),
                next,
                first_free: 0,
                free: size,
                added: 0,
                committed: 0,
                taken: 0,
                seen: 0,
                indirect: settings.indirect,
                event_idx: settings.event_idx,
                barriers: Barriers { platform: settings.order_platform },
                little_endian: settings.contiguous_align.is_none(),
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

    fn free(&self) -> u16 {
        self.free
    }

    fn reserve(&mut self) -> Option<u16> {
        let free = self.free.checked_sub(1)?;
        let head = self.first_free;
        self.first_free = *self.next.get(usize::from(head))?;
        self.free = free;
        Some(head)
    }

    #[inline(always)]
    fn commit(&mut self) -> bool {
        let (old, new) = (self.committed, self.added);
        if old == new {
            return false;
        }
        self.barriers.ring_before_index();
        self.avail_idx.at(0).store(self.order_u16(new), Relaxed);
        self.committed = new;

        self.barriers.store_before_look();
        let wanted = if self.event_idx {
            // The device asks for a notification when the index moves past its event (2.7.10). A batch moves the
            // index by several: the event may be anywhere in between, so this is a window and not an equality.
            let event = self.order_u16(self.avail_event.at(0).load(Relaxed));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            let flags = self.order_u16(self.used_flags.at(0).load(Relaxed));
            !UsedFlags::from_bits_retain(flags).contains(UsedFlags::NO_NOTIFY)
        };
        if wanted {
            self.barriers.memory_before_register();
        }
        wanted
    }

    fn notification_data(&self) -> u16 {
        self.committed
    }

    #[inline(always)]
    fn unused(&self) -> u16 {
        self.added.wrapping_sub(self.taken)
    }

    #[inline(always)]
    fn is_exhausted(&self) -> bool {
        self.taken == self.seen
    }

    #[inline(always)]
    fn look(&mut self) -> Result<bool, u16> {
        let found = self.order_u16(self.used_idx.at(0).load(Relaxed));
        let ahead = found.wrapping_sub(self.taken);
        // Every chain comes back once, so the used index can at the most catch up with the available one. One comparison
        // for both ends: nothing new becomes the largest number.
        if ahead.wrapping_sub(1) >= self.committed.wrapping_sub(self.taken) {
            return if ahead == 0 { Ok(false) } else { Err(found) };
        }
        self.barriers.index_before_ring();
        self.seen = found;
        Ok(true)
    }

    fn jumped(&self, found: u16) -> Violation {
        let available = self.committed.wrapping_sub(self.taken);
        Violation::UsedIndexJumped { seen: self.taken, found, available }
    }

    fn has_more(&self) -> bool {
        self.taken != self.seen
    }

    fn close(&mut self) {
        (self.added, self.committed, self.seen) = (self.taken, self.taken, self.taken);
    }

    fn seen_unused(&self) -> u16 {
        self.seen.wrapping_sub(self.taken)
    }

    fn disable_interrupts(&self) {
        if self.event_idx {
            // The place furthest from being passed is the one that was just passed. The flags stay zero (2.7.10).
            self.used_event.at(0).store(self.order_u16(self.taken.wrapping_sub(1)), Relaxed);
        } else {
            self.avail_flags.at(0).store(self.order_u16(AvailableFlags::NO_INTERRUPT.bits()), Relaxed);
        }
    }

    fn enable_interrupts(&mut self, chains: u16) -> u16 {
        // The device cannot use more than it has; waiting for more would be waiting for ever.
        let chains = chains.clamp(1, self.committed.wrapping_sub(self.taken).max(1));
        if self.event_idx {
            let event = self.taken.wrapping_add(chains - 1);
            self.used_event.at(0).store(self.order_u16(event), Relaxed);
        } else {
            self.avail_flags.at(0).store(0, Relaxed);
        }
        self.barriers.store_before_look();
        if self.event_idx { chains } else { 1 }
    }

    fn restart(&mut self) {
        for field in [&self.avail_flags, &self.avail_idx, &self.used_flags, &self.used_idx, &self.avail_event] {
            field.at(0).store(0, Relaxed);
        }
        (self.added, self.committed, self.taken, self.seen) = (0, 0, 0, 0);
        self.disable_interrupts();
    }

    fn leak(&mut self) {
        self.pages.leak();
    }

    /// Without indirect tables, an id is the number of a chain's first descriptor.
    #[inline(always)]
    fn numbers_slots(&self) -> bool {
        !self.indirect
    }

    #[cold]
    #[inline(never)]
    fn unreserve(&mut self, id: u16) {
        self.release_direct(id, 1);
    }

    #[inline(always)]
    fn table_entry(&self, bytes: u32, access: Access, next: Option<u16>) -> u64 {
        let mut flags = match access {
            Access::DeviceReads => DescriptorFlags::empty(),
            Access::DeviceWrites => DescriptorFlags::WRITE,
        };
        flags.set(DescriptorFlags::NEXT, next.is_some());
        self.rest(bytes, flags, next.unwrap_or(0))
    }

    #[inline(always)]
    fn prepare(&self, id: u16, table: u64, descriptors: u16) {
        let bytes = u32::from(descriptors) * size_of::<SharedDescriptor>() as u32;
        let descriptor = self.descriptors.at(usize::from(id));
        descriptor.address.store(self.order_u64(table));
        descriptor.rest.store(self.rest(bytes, DescriptorFlags::INDIRECT, 0));
    }

    #[inline(always)]
    fn add(&mut self, id: u16, _: u64, _: u16) {
        self.put(id);
    }

    /// The head is reserved; the other descriptors are taken here.
    #[cold]
    #[inline(never)]
    fn add_direct(&mut self, id: u16, segments: &[Segment]) {
        let mut last = id;
        for _ in segments.iter().skip(1) {
            let next = self.reserve().unwrap_or(last);
            if let Some(link) = self.next.get_mut(usize::from(last)) {
                *link = next;
            }
            last = next;
        }
        self.write_chain(id, segments);
    }

    fn add_direct_again(&mut self, id: u16, segments: &[Segment]) {
        self.write_chain(id, segments);
    }

    /// Makes the descriptors of a chain free: the head, and those that hang behind it.
    #[cold]
    #[inline(never)]
    fn release_direct(&mut self, id: u16, descriptors: u16) {
        let last = (1..descriptors).fold(id, |last, _| self.next.get(usize::from(last)).copied().unwrap_or(last));
        if let Some(next) = self.next.get_mut(usize::from(last)) {
            *next = self.first_free;
            self.first_free = id;
            self.free += descriptors;
        }
    }

    #[inline(always)]
    fn element(&self) -> (u32, u32) {
        let element = self.used_ring.at(usize::from(self.taken));
        (self.order_u32(element.id.load(Relaxed)), self.order_u32(element.len.load(Relaxed)))
    }

    #[inline(always)]
    fn advance(&mut self, _: u16) {
        self.taken = self.taken.wrapping_add(1);
    }
}

/// The second half of a descriptor: length, flags and next, as they lie in memory.
#[inline(always)]
pub(crate) fn descriptor_rest(little_endian: bool, bytes: u32, flags: DescriptorFlags, next: u16) -> u64 {
    if cfg!(target_endian = "little") || little_endian {
        (u64::from(bytes) | u64::from(flags.bits()) << 32 | u64::from(next) << 48).to_le()
    } else {
        u64::from(bytes) << 32 | u64::from(flags.bits()) << 16 | u64::from(next)
    }
}
