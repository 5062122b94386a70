//! The device's end of a packed ring.

extern crate std;

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::collections::VecDeque;
use std::vec::Vec;

use loom::sync::atomic::fence;
use virtio_spec::packed_ring::{DescriptorFlags, EventFlags};
use virtio_spec::split_ring;

use super::SIZE;
use super::device::{Device, Seen};
use super::host::word;
use crate::Areas;
use crate::shared::{AtomicU16, HandedU16, HandedU32, HandedU64, Shared};

const BOTH: u16 = DescriptorFlags::AVAIL.union(DescriptorFlags::USED).bits();

/// The device's end of a packed ring. A place is the number of positions before it since the ring was empty.
pub(super) struct PackedDevice {
    areas: Areas,
    event_idx: bool,
    driver_event: [Shared<AtomicU16>; 2],
    device_event: [Shared<AtomicU16>; 2],
    /// Up to where it has taken chains, and how many.
    taken: u16,
    chains: u16,
    /// Of those taken and not served, how many positions each has, by id.
    lengths: VecDeque<(u16, u16)>,
    /// Up to where it has written used descriptors, and the flags that it has not written yet.
    used: u16,
    held: Vec<u16>,
    /// Up to where the driver knows.
    published: u16,
}

/// The position of a place.
fn position(place: u16) -> u64 {
    u64::from(place % SIZE)
}

/// Whether the wrap counter is set there.
fn wrap(place: u16) -> bool {
    place / SIZE % 2 == 0
}

/// A place as events say it.
fn bits(place: u16) -> u16 {
    place % SIZE | u16::from(wrap(place)) << 15
}

impl PackedDevice {
    fn descriptor(&self, place: u16) -> u64 {
        self.areas.descriptor_area + 16 * position(place)
    }

    fn flags(&self, place: u16) -> Shared<AtomicU16> {
        word(self.descriptor(place) + 14)
    }

    fn is_available(&self, place: u16) -> Option<DescriptorFlags> {
        let flags = DescriptorFlags::from_bits_retain(u16::from_le(self.flags(place).at(0).load(Relaxed)));
        let available = if wrap(place) { DescriptorFlags::AVAIL } else { DescriptorFlags::USED };
        (flags.bits() & BOTH == available.bits()).then_some(flags.difference(available))
    }

    /// Address and length of the descriptor at a place.
    fn piece(&self, place: u16) -> (u64, u32) {
        let address = u64::from_le(word::<HandedU64>(self.descriptor(place)).at(0).load(Relaxed));
        (address, u32::from_le(word::<HandedU32>(self.descriptor(place) + 8).at(0).load(Relaxed)))
    }

    fn id(&self, place: u16) -> u16 {
        u16::from_le(word::<HandedU16>(self.descriptor(place) + 12).at(0).load(Relaxed))
    }
}

/// The flags of a descriptor as the models have them.
fn plain(flags: u16) -> split_ring::DescriptorFlags {
    split_ring::DescriptorFlags::from_bits_retain(flags)
}

impl Device for PackedDevice {
    fn new(areas: Areas, event_idx: bool) -> Self {
        let Areas { driver_area, device_area, .. } = areas;
        let device = Self {
            areas,
            event_idx,
            driver_event: [word(driver_area), word(driver_area + 2)],
            device_event: [word(device_area), word(device_area + 2)],
            taken: 0,
            chains: 0,
            lengths: VecDeque::new(),
            used: 0,
            held: Vec::new(),
            published: 0,
        };
        // So that loom knows them before there are threads.
        for field in device.driver_event.iter().chain(&device.device_event) {
            field.at(0).load(Relaxed);
        }
        for place in 0..SIZE {
            device.flags(place).at(0).load(Relaxed);
        }
        device.disable_notifications();
        device
    }

    fn take(&mut self) -> Option<Seen> {
        let first = self.taken;
        let flags = self.is_available(first)?;
        fence(Acquire);
        let (address, bytes) = self.piece(first);
        let (id, parts, positions) = if flags == DescriptorFlags::INDIRECT {
            assert_eq!(bytes, 32, "an indirect table of two descriptors");
            let entry = |index: u64| {
                let start = address + 16 * index;
                let rest = u64::from_le(word::<HandedU64>(start + 8).at(0).load(Relaxed));
                let address = u64::from_le(word::<HandedU64>(start).at(0).load(Relaxed));
                (address, rest as u32, plain((rest >> 48) as u16))
            };
            (self.id(first), [entry(0), entry(1)], 1)
        } else {
            assert_eq!(flags, DescriptorFlags::NEXT, "two descriptors");
            let second = first + 1;
            let flags = self.is_available(second).expect("all of a chain is available with its first descriptor");
            let (status, status_bytes) = self.piece(second);
            assert_eq!(self.id(first), self.id(second));
            let parts = [(address, bytes, plain(0)), (status, status_bytes, plain(flags.bits()))];
            (self.id(second), parts, 2)
        };
        let number = self.chains;
        (self.taken, self.chains) = (first + positions, number + 1);
        self.lengths.push_back((id, positions));
        Some(Seen::new(id, number, parts))
    }

    fn serve(&mut self, chain: &Seen) {
        chain.answer();
        let (id, positions) = self.lengths.pop_front().expect("a chain that was taken");
        assert_eq!(id, chain.id);
        let descriptor = self.descriptor(self.used);
        word::<HandedU32>(descriptor + 8).at(0).store(1_u32.to_le(), Relaxed);
        word::<HandedU16>(descriptor + 12).at(0).store(id.to_le(), Relaxed);
        self.held.push(self.used);
        self.used += positions;
    }

    fn publish(&mut self) -> bool {
        fence(Release);
        for place in core::mem::take(&mut self.held) {
            let used = if wrap(place) { BOTH } else { 0 };
            self.flags(place).at(0).store((used | DescriptorFlags::WRITE.bits()).to_le(), Relaxed);
        }
        fence(SeqCst);
        let old = core::mem::replace(&mut self.published, self.used);
        let [position, flags] = &self.driver_event;
        match EventFlags(u16::from_le(flags.at(0).load(Relaxed))) {
            EventFlags::ENABLE => true,
            EventFlags::DISABLE => false,
            EventFlags::DESC => {
                assert!(self.event_idx, "a position needs EVENT_IDX");
                fence(Acquire);
                let event = u16::from_le(position.at(0).load(Relaxed));
                (old..self.used).any(|place| bits(place) == event)
            }
            other => panic!("{other:?}"),
        }
    }

    fn disable_notifications(&self) {
        let [_, flags] = &self.device_event;
        flags.at(0).store(EventFlags::DISABLE.0.to_le(), Relaxed);
    }

    fn enable_notifications(&self) -> bool {
        let [position, flags] = &self.device_event;
        if self.event_idx {
            position.at(0).store(bits(self.taken).to_le(), Relaxed);
            fence(Release);
            flags.at(0).store(EventFlags::DESC.0.to_le(), Relaxed);
        } else {
            flags.at(0).store(EventFlags::ENABLE.0.to_le(), Relaxed);
        }
        fence(SeqCst);
        self.is_available(self.taken).is_none()
    }
}
