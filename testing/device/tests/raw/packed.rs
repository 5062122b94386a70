//! The driver's end of a packed ring, written by hand from sections 2.8.1 and 2.8.21.3.

use std::collections::BTreeMap;
use std::sync::atomic::{Ordering, fence};

use testing_device::{BlockDevice, ScatterMemory, TestMemory, Violation};
use virtio_spec::block::RequestType;
use virtio_spec::mmio::Register;
use virtio_spec::packed_ring::DescriptorFlags;

use super::{DATA, Driver, NEXT, Owned, Request, STATUS, WRITE, base};

pub(crate) const AVAIL: u16 = DescriptorFlags::AVAIL.bits();
pub(crate) const USED: u16 = DescriptorFlags::USED.bits();

/// A packed queue's memory, and where the driver is in it.
pub(crate) struct PackedQueue<M: TestMemory> {
    pub(crate) ring: Owned<M>,
    pub(crate) size: u16,
    /// Where the next descriptor is made available, and the wrap counter there.
    pub(crate) next: (u16, bool),
    /// Where the next used descriptor is looked for, and the wrap counter there.
    pub(crate) seen: (u16, bool),
    /// How many descriptors each id has in the ring.
    pub(crate) lists: BTreeMap<u16, u16>,
}

/// A descriptor: device address, length, flags.
pub(crate) type Descriptor = (u64, u32, u16);

impl<M: TestMemory> PackedQueue<M> {
    pub(crate) fn new(memory: &M, size: u16) -> Self {
        let ring = Owned::new(memory, 16 * usize::from(size) + 8, 16);
        Self { ring, size, next: (0, true), seen: (0, true), lists: BTreeMap::new() }
    }

    fn step(&self, (offset, wrap): (u16, bool), by: u16) -> (u16, bool) {
        let offset = u32::from(offset) + u32::from(by);
        let size = u32::from(self.size);
        if offset >= size { ((offset - size) as u16, !wrap) } else { (offset as u16, wrap) }
    }

    /// Writes a descriptor, but for its flags.
    pub(crate) fn fill(&self, offset: u16, address: u64, bytes: u32, id: u16) {
        let at = 16 * usize::from(offset);
        self.ring.u64(at).store(address.to_le(), Ordering::Relaxed);
        self.ring.u32(at + 8).store(bytes.to_le(), Ordering::Relaxed);
        self.ring.u16(at + 12).store(id.to_le(), Ordering::Relaxed);
    }

    pub(crate) fn set_flags(&self, offset: u16, flags: u16) {
        self.ring.u16(16 * usize::from(offset) + 14).store(flags.to_le(), Ordering::Release);
    }

    pub(crate) fn flags(&self, offset: u16) -> u16 {
        u16::from_le(self.ring.u16(16 * usize::from(offset) + 14).load(Ordering::Acquire))
    }

    /// Makes a list available: its first descriptor last. NEXT is set in all but the last one.
    pub(crate) fn list(&mut self, id: u16, descriptors: &[Descriptor]) {
        let first = self.next;
        let mut first_flags = 0;
        for (index, &(address, bytes, flags)) in descriptors.iter().enumerate() {
            let (offset, wrap) = self.next;
            let next = if index + 1 < descriptors.len() { NEXT } else { 0 };
            let flags = flags | next | if wrap { AVAIL } else { USED };
            self.fill(offset, address, bytes, id);
            if index == 0 {
                first_flags = flags;
            } else {
                self.set_flags(offset, flags);
            }
            self.next = self.step(self.next, 1);
        }
        self.lists.insert(id, descriptors.len() as u16);
        self.set_flags(first.0, first_flags);
        fence(Ordering::SeqCst);
    }

    /// The next used descriptor: id, length, flags.
    pub(crate) fn used(&mut self) -> Option<(u16, u32, u16)> {
        let (offset, wrap) = self.seen;
        let flags = self.flags(offset);
        if (flags & AVAIL != 0) != wrap || (flags & USED != 0) != wrap {
            return None;
        }
        let at = 16 * usize::from(offset);
        let id = u16::from_le(self.ring.u16(at + 12).load(Ordering::Relaxed));
        let bytes = u32::from_le(self.ring.u32(at + 8).load(Ordering::Relaxed));
        let entries = self.lists.remove(&id).unwrap_or(1);
        self.seen = self.step(self.seen, entries);
        Some((id, bytes, flags))
    }

    /// The next used descriptor with IN_ORDER: all lists up to that id were used, in the order of `ids`.
    pub(crate) fn used_in_order(&mut self, ids: &mut Vec<u16>) -> Option<(Vec<u16>, u32)> {
        let start = self.seen;
        let (id, bytes, _) = {
            let lists = self.lists.clone();
            let used = self.used()?;
            self.lists = lists;
            used
        };
        let last = ids.iter().position(|one| *one == id).expect("an id that is in flight");
        let batch: Vec<u16> = ids.drain(..=last).collect();
        let entries = batch.iter().map(|id| self.lists.remove(id).expect("in flight")).sum();
        self.seen = self.step(start, entries);
        Some((batch, bytes))
    }

    /// Says what the driver wants to be told of.
    pub(crate) fn set_event(&self, position: u16, flags: u16) {
        let word = u32::from(position) | u32::from(flags) << 16;
        self.ring.u32(16 * usize::from(self.size)).store(word.to_le(), Ordering::Relaxed);
    }

    /// What the device wants to be told of: position and flags.
    pub(crate) fn device_event(&self) -> (u16, u16) {
        let word = u32::from_le(self.ring.u32(16 * usize::from(self.size) + 4).load(Ordering::Relaxed));
        (word as u16, (word >> 16) as u16)
    }

    /// The place that notifications and events name.
    pub(crate) fn word(&self, (offset, wrap): (u16, bool)) -> u16 {
        offset | u16::from(wrap) << 15
    }
}

/// One read of a sector in a packed ring of 4, with the list as `publish` makes it available.
pub(crate) fn packed_with(
    features: u64,
    publish: impl Fn(&Driver<ScatterMemory>, &mut PackedQueue<ScatterMemory>, &Request<ScatterMemory>),
) -> Vec<Violation> {
    let driver = Driver::new(BlockDevice::builder().packed(), &ScatterMemory::new(), false);
    let mut queue = driver.ready_packed(base(false) | features, 4);
    let request = Request::new(&driver.memory, RequestType::IN, 1);
    publish(&driver, &mut queue, &request);
    driver.notify(0);
    driver.reset();
    driver.device.take_violations()
}

impl<M: TestMemory> Driver<M> {
    pub(crate) fn enable_packed(&self, index: u16, queue: &PackedQueue<M>) {
        self.write(Register::QUEUE_SEL, index.into());
        self.read(Register::QUEUE_READY);
        self.read(Register::QUEUE_SIZE_MAX);
        self.write(Register::QUEUE_SIZE, queue.size.into());
        let start = queue.ring.address();
        let events = start + 16 * u64::from(queue.size);
        self.areas(start, events, events + 4);
        self.write(Register::QUEUE_READY, 1);
    }

    /// All of it, with one packed queue.
    pub(crate) fn ready_packed(&self, features: u64, size: u16) -> PackedQueue<M> {
        self.negotiate(features | virtio_spec::Features::RING_PACKED.bits());
        let queue = PackedQueue::new(&self.memory, size);
        self.enable_packed(0, &queue);
        assert_eq!(self.read(Register::QUEUE_READY), 1);
        self.set(virtio_spec::DeviceStatus::DRIVER_OK);
        queue
    }
}

impl<M: TestMemory> Request<M> {
    /// Header, one piece of data, and status.
    pub(crate) fn pieces(&self, bytes: u32, device_writes: bool) -> Vec<Descriptor> {
        vec![
            (self.at(0), 16, 0),
            (self.at(DATA), bytes, if device_writes { WRITE } else { 0 }),
            (self.at(STATUS), 1, WRITE),
        ]
    }

    /// Header and status.
    pub(crate) fn no_data(&self) -> Vec<Descriptor> {
        vec![(self.at(0), 16, 0), (self.at(STATUS), 1, WRITE)]
    }

    /// An indirect table of pieces at an offset, and the descriptor of it. Packed rings.
    pub(crate) fn packed_table(&self, offset: usize, pieces: &[Descriptor]) -> Descriptor {
        for (index, &(address, bytes, flags)) in pieces.iter().enumerate() {
            let at = offset + 16 * index;
            self.0.u64(at).store(address.to_le(), Ordering::Relaxed);
            self.0.u32(at + 8).store(bytes.to_le(), Ordering::Relaxed);
            self.0.u16(at + 12).store(0, Ordering::Relaxed);
            self.0.u16(at + 14).store(flags.to_le(), Ordering::Relaxed);
        }
        (self.at(offset), 16 * pieces.len() as u32, super::INDIRECT)
    }
}
