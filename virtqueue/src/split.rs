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

use crate::barrier;
use crate::error::{QueueSetupError, Violation};
use crate::layout::SplitLayout;
use crate::memory::{Access, Memory, PageRequest, Purpose};
use crate::owned::{OwnedPages, PrivateSlice};
use crate::segment::Segment;
use crate::settings::{Areas, Settings};
use crate::shared::{AtomicU16, HandedU16, Shared, SharedDescriptor, SharedUsedElement};

pub(crate) struct SplitRing<M: Memory> {
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

    size: u16,
    event_idx: bool,
    /// Whether fields are little-endian, and not in the order of this machine as on a legacy device.
    little_endian: bool,
    areas: Areas,
    /// What all of the above point into.
    pages: OwnedPages<M>,
}

impl<M: Memory> SplitRing<M> {
    pub(crate) fn new(memory: &M, settings: &Settings) -> Result<Self, QueueSetupError> {
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
        let mut free_list = 1..;
        let links = if settings.indirect { 0 } else { usize::from(size) };
        let next = PrivateSlice::allocate(memory, links, |_| free_list.next().unwrap_or(0))
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
                size,
                event_idx: settings.event_idx,
                little_endian: settings.contiguous_align.is_none(),
                areas,
                pages,
            }
        };
        ring.disable_interrupts();
        Ok(ring)
    }

    pub(crate) fn areas(&self) -> Areas {
        self.areas
    }

    /// The number of free descriptors, without indirect tables.
    pub(crate) fn free(&self) -> u16 {
        self.free
    }

    /// Takes a free descriptor, without indirect tables.
    pub(crate) fn reserve(&mut self) -> Option<u16> {
        let free = self.free.checked_sub(1)?;
        let head = self.first_free;
        self.first_free = *self.next.get(usize::from(head))?;
        self.free = free;
        Some(head)
    }

    /// Makes the descriptors of a chain free: the head, and those that hang behind it.
    #[cold]
    #[inline(never)]
    pub(crate) fn release_chain(&mut self, head: u16, descriptors: u16) {
        let last = (1..descriptors).fold(head, |last, _| self.next.get(usize::from(last)).copied().unwrap_or(last));
        if let Some(next) = self.next.get_mut(usize::from(last)) {
            *next = self.first_free;
            self.first_free = head;
            self.free += descriptors;
        }
    }

    /// Writes where the indirect table of a head is: once, as each head has its own table.
    pub(crate) fn set_table(&self, head: u16, table: u64) {
        self.descriptors.at(usize::from(head)).address.store(self.order_u64(table));
    }

    /// Writes how many descriptors are in the table of a head.
    #[inline(always)]
    pub(crate) fn set_table_length(&self, head: u16, descriptors: u16) {
        let bytes = u32::from(descriptors) * size_of::<SharedDescriptor>() as u32;
        let rest = self.rest(bytes, DescriptorFlags::INDIRECT, 0);
        self.descriptors.at(usize::from(head)).rest.store(rest);
    }

    /// Adds a chain of descriptors in the ring's own table: the head, and free ones for all segments but the first. There
    /// are enough of them, as the caller made sure.
    #[cold]
    #[inline(never)]
    pub(crate) fn add_direct(&mut self, head: u16, segments: &[Segment]) {
        let mut last = head;
        for _ in segments.iter().skip(1) {
            let next = self.reserve().unwrap_or(last);
            if let Some(link) = self.next.get_mut(usize::from(last)) {
                *link = next;
            }
            last = next;
        }
        self.readd_direct(head, segments);
    }

    /// Adds a chain whose descriptors it has already, and writes all of them.
    pub(crate) fn readd_direct(&mut self, head: u16, segments: &[Segment]) {
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
        self.add(head);
    }

    /// Writes a head into the available ring, where the device does not look yet.
    #[inline(always)]
    pub(crate) fn add(&mut self, head: u16) {
        self.avail_ring.at(usize::from(self.added)).store(self.order_u16(head), Relaxed);
        self.added = self.added.wrapping_add(1);
    }

    /// Lets the device see all that was added. Returns whether it wants to be notified of it; if so, what was written
    /// is ordered before a register that the caller writes next.
    #[inline(always)]
    pub(crate) fn commit(&mut self) -> bool {
        let (old, new) = (self.committed, self.added);
        if old == new {
            return false;
        }
        barrier::ring_before_index();
        self.avail_idx.at(0).store(self.order_u16(new), Relaxed);
        self.committed = new;

        barrier::store_before_look();
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
            barrier::memory_before_register();
        }
        wanted
    }

    /// Where the next chain will be added, in the form that a notification carries it.
    pub(crate) fn notification_data(&self) -> u16 {
        self.committed
    }

    /// The number of chains that were added and that the device has not given back, since the ring was empty.
    #[inline(always)]
    pub(crate) fn unused(&self) -> u16 {
        self.added.wrapping_sub(self.taken)
    }

    /// Whether all elements were taken that the last look at the index allowed.
    #[inline(always)]
    pub(crate) fn is_exhausted(&self) -> bool {
        self.taken == self.seen
    }

    /// Takes the next element, of which there is one: the id of the chain that the device has used, and the number of
    /// bytes that it says it wrote. Both are the device's word.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> (u32, u32) {
        let element = self.used_ring.at(usize::from(self.taken));
        self.taken = self.taken.wrapping_add(1);
        (self.order_u32(element.id.load(Relaxed)), self.order_u32(element.len.load(Relaxed)))
    }

    /// The device returned a chain that it did not have: that was not one taken, and nothing else that it says is
    /// believed.
    #[cold]
    #[inline(never)]
    pub(crate) fn distrust(&mut self, id: u32) -> Violation {
        self.taken = self.taken.wrapping_sub(1);
        self.seen = self.taken;
        match u16::try_from(id) {
            Ok(id) if id < self.size => Violation::NotInFlight { id },
            _ => Violation::IdOutOfRange { id, size: self.size },
        }
    }

    /// Reads the used index, once for all elements that it lets the driver take. Whether there are some that were not
    /// seen before.
    ///
    /// # Errors
    ///
    /// What the index is, if that is not possible: [`jumped`](SplitRing::jumped).
    #[inline(always)]
    pub(crate) fn look(&mut self) -> Result<bool, u16> {
        let found = self.order_u16(self.used_idx.at(0).load(Relaxed));
        let ahead = found.wrapping_sub(self.taken);
        if ahead == 0 {
            return Ok(false);
        }
        // Every chain comes back once, so the used index can at the most catch up with the available one.
        if ahead > self.committed.wrapping_sub(self.taken) {
            return Err(found);
        }
        barrier::index_before_ring();
        self.seen = found;
        Ok(true)
    }

    /// The used index is not what it can be.
    pub(crate) fn jumped(&self, found: u16) -> Violation {
        let available = self.committed.wrapping_sub(self.taken);
        Violation::UsedIndexJumped { seen: self.taken, found, available }
    }

    /// Ends all business with the device: nothing more is committed, and nothing taken.
    pub(crate) fn close(&mut self) {
        (self.added, self.committed, self.seen) = (self.taken, self.taken, self.taken);
    }

    /// How many elements were seen and not taken.
    pub(crate) fn seen_unused(&self) -> u16 {
        self.seen.wrapping_sub(self.taken)
    }

    /// Asks the device not to interrupt. With EVENT_IDX it may do so once in 65536 chains.
    pub(crate) fn disable_interrupts(&self) {
        if self.event_idx {
            // The place furthest from being passed is the one that was just passed. The flags stay zero (2.7.10).
            self.used_event.at(0).store(self.order_u16(self.taken.wrapping_sub(1)), Relaxed);
        } else {
            self.avail_flags.at(0).store(self.order_u16(AvailableFlags::NO_INTERRUPT.bits()), Relaxed);
        }
    }

    /// Asks the device to interrupt once it has used `chains` more than the driver has taken. Returns how many it will
    /// really be: no more than the device has, and one without EVENT_IDX. Those that are there already, as a look at
    /// the index after this tells, may have come without an interrupt.
    pub(crate) fn enable_interrupts(&mut self, chains: u16) -> u16 {
        // The device cannot use more than it has; waiting for more would be waiting for ever.
        let chains = chains.clamp(1, self.committed.wrapping_sub(self.taken).max(1));
        if self.event_idx {
            let event = self.taken.wrapping_add(chains - 1);
            self.used_event.at(0).store(self.order_u16(event), Relaxed);
        } else {
            self.avail_flags.at(0).store(0, Relaxed);
        }
        barrier::store_before_look();
        if self.event_idx { chains } else { 1 }
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

    /// Empties the ring, as for a device that has never seen it. Which descriptors are free stays as it is.
    pub(crate) fn restart(&mut self) {
        for field in [&self.avail_flags, &self.avail_idx, &self.used_flags, &self.used_idx, &self.avail_event] {
            field.at(0).store(0, Relaxed);
        }
        (self.added, self.committed, self.taken, self.seen) = (0, 0, 0, 0);
        self.disable_interrupts();
    }

    /// Keeps the memory that the device knows from being freed.
    pub(crate) fn leak(&mut self) {
        self.pages.leak();
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
