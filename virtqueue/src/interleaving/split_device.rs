//! The device's end of a split ring.

extern crate std;

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use loom::sync::atomic::fence;
use virtio_spec::split_ring::{
    AVAILABLE_FLAGS_OFFSET, AVAILABLE_IDX_OFFSET, AVAILABLE_RING_OFFSET, AvailableFlags, DescriptorFlags,
    USED_FLAGS_OFFSET, USED_IDX_OFFSET, USED_RING_OFFSET, UsedFlags, avail_event_offset, used_event_offset,
};

use super::SIZE;
use super::device::{Device, Seen};
use super::host::word;
use crate::Areas;
use crate::shared::{AtomicU16, HandedU16, HandedU32, HandedU64, Shared};

/// The device's end of a split ring.
pub(super) struct SplitDevice {
    areas: Areas,
    event_idx: bool,
    avail_flags: Shared<AtomicU16>,
    avail_idx: Shared<AtomicU16>,
    used_event: Shared<AtomicU16>,
    used_flags: Shared<AtomicU16>,
    used_idx: Shared<AtomicU16>,
    avail_event: Shared<AtomicU16>,
    /// The available index up to which it has taken chains.
    taken: u16,
    /// The used index up to which it has written elements.
    used: u16,
    /// The used index that the driver knows.
    published: u16,
}

impl Device for SplitDevice {
    fn new(areas: Areas, event_idx: bool) -> Self {
        let Areas { driver_area, device_area, .. } = areas;
        let device = Self {
            areas,
            event_idx,
            avail_flags: word(driver_area + AVAILABLE_FLAGS_OFFSET as u64),
            avail_idx: word(driver_area + AVAILABLE_IDX_OFFSET as u64),
            used_event: word(driver_area + used_event_offset(SIZE) as u64),
            used_flags: word(device_area + USED_FLAGS_OFFSET as u64),
            used_idx: word(device_area + USED_IDX_OFFSET as u64),
            avail_event: word(device_area + avail_event_offset(SIZE) as u64),
            taken: 0,
            used: 0,
            published: 0,
        };
        for field in [
            &device.avail_flags,
            &device.avail_idx,
            &device.used_event,
            &device.used_flags,
            &device.used_idx,
            &device.avail_event,
        ] {
            // So that loom knows it before there are threads.
            field.at(0).load(Relaxed);
        }
        device.disable_notifications();
        device
    }

    fn take(&mut self) -> Option<Seen> {
        if self.avail_idx.at(0).load(Relaxed) == self.taken {
            return None;
        }
        fence(Acquire);
        let entry = self.areas.driver_area + AVAILABLE_RING_OFFSET as u64 + 2 * u64::from(self.taken % SIZE);
        let id = word::<HandedU16>(entry).at(0).load(Relaxed);
        let number = self.taken;
        self.taken = number.wrapping_add(1);

        let mut table = self.areas.descriptor_area;
        let (mut address, mut bytes, mut flags, mut next) = descriptor(table, id);
        if flags == DescriptorFlags::INDIRECT {
            assert_eq!(bytes, 32, "an indirect table of two descriptors");
            table = address;
            (address, bytes, flags, next) = descriptor(table, 0);
        }
        assert!(flags.contains(DescriptorFlags::NEXT), "two descriptors");
        let (status, status_bytes, status_flags, _) = descriptor(table, next);
        let header = (address, bytes, flags - DescriptorFlags::NEXT);
        Some(Seen::new(id, number, [header, (status, status_bytes, status_flags)]))
    }

    fn serve(&mut self, chain: &Seen) {
        chain.answer();
        let element = self.areas.device_area + USED_RING_OFFSET as u64 + 8 * u64::from(self.used % SIZE);
        word::<HandedU32>(element).at(0).store(chain.id.into(), Relaxed);
        word::<HandedU32>(element + 4).at(0).store(1, Relaxed);
        self.used = self.used.wrapping_add(1);
    }

    fn publish(&mut self) -> bool {
        fence(Release);
        self.used_idx.at(0).store(self.used, Relaxed);
        fence(SeqCst);
        let old = core::mem::replace(&mut self.published, self.used);
        if self.event_idx {
            let event = self.used_event.at(0).load(Relaxed);
            self.used.wrapping_sub(event).wrapping_sub(1) < self.used.wrapping_sub(old)
        } else {
            self.avail_flags.at(0).load(Relaxed) & AvailableFlags::NO_INTERRUPT.bits() == 0
        }
    }

    fn disable_notifications(&self) {
        if self.event_idx {
            self.avail_event.at(0).store(self.taken.wrapping_sub(1), Relaxed);
        } else {
            self.used_flags.at(0).store(UsedFlags::NO_NOTIFY.bits(), Relaxed);
        }
    }

    fn enable_notifications(&self) -> bool {
        if self.event_idx {
            self.avail_event.at(0).store(self.taken, Relaxed);
        } else {
            self.used_flags.at(0).store(0, Relaxed);
        }
        fence(SeqCst);
        self.avail_idx.at(0).load(Relaxed) == self.taken
    }
}

/// Address, length, flags and next of a descriptor.
fn descriptor(table: u64, index: u16) -> (u64, u32, DescriptorFlags, u16) {
    let start = table + 16 * u64::from(index);
    let address = u64::from_le(word::<HandedU64>(start).at(0).load(Relaxed));
    let rest = u64::from_le(word::<HandedU64>(start + 8).at(0).load(Relaxed));
    (address, rest as u32, DescriptorFlags::from_bits_retain((rest >> 32) as u16), (rest >> 48) as u16)
}
