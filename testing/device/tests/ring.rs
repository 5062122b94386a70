//! The strict ring by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use testing_device::{DeviceRing, RingMover, RingSetup, Rule, ScatterMemory, Segment, rules_of};
use virtio_spec::Features;
use virtqueue::{Memory, PageRequest, Pages, Purpose};

const SIZE: u16 = 4;
const DRIVER_AREA: usize = 0x40;
const DEVICE_AREA: usize = 0x80;
const BUFFER: usize = 0x200;
const REQUEST: PageRequest = PageRequest { bytes: 0x400, align: 16, max_address: u64::MAX, purpose: Purpose::Shared };

struct Pair {
    memory: ScatterMemory,
    pages: Pages,
    ring: DeviceRing,
}

impl Pair {
    fn new(features: Features) -> Self {
        let memory = ScatterMemory::new();
        let pages = memory.allocate(&REQUEST).unwrap();
        let start = pages.device_address;
        let setup = RingSetup {
            size: SIZE,
            descriptor_area: start,
            driver_area: start + DRIVER_AREA as u64,
            device_area: start + DEVICE_AREA as u64,
            features: features | Features::VERSION_1,
        };
        Self { ring: DeviceRing::new(Arc::new(memory.clone()), setup), memory, pages }
    }

    fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: aligned and inside the pages, which are accessed atomically.
        unsafe { self.pages.start.add(offset).cast().as_ref() }
    }

    fn available(&self, entry: u16, head: u16) {
        self.u16(DRIVER_AREA + 4 + 2 * usize::from(entry % SIZE)).store(head.to_le(), Ordering::Relaxed);
        self.u16(DRIVER_AREA + 2).store((entry + 1).to_le(), Ordering::Release);
    }

    fn descriptor(&self, index: u16, bytes: u32) {
        let address = self.pages.device_address + BUFFER as u64;
        let at = 16 * usize::from(index);
        // SAFETY: aligned and inside the pages, which are accessed atomically.
        let words = unsafe { [at, at + 8].map(|at| self.pages.start.add(at).cast::<AtomicU64>().as_ref()) };
        words[0].store(address.to_le(), Ordering::Relaxed);
        words[1].store(u64::from(bytes).to_le(), Ordering::Relaxed);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: allocated so, freed once.
        unsafe { self.memory.free(self.pages, &REQUEST) }
    }
}

#[test]
fn a_chain_goes_out_and_back() {
    let mut pair = Pair::new(Features::empty());
    assert_eq!(pair.ring.pop(), None);
    pair.descriptor(2, 7);
    pair.available(0, 2);
    let chain = pair.ring.pop().unwrap();
    let address = pair.pages.device_address + BUFFER as u64;
    assert_eq!((chain.id, chain.indirect, chain.malformed), (2, false, false));
    assert_eq!(chain.segments, [Segment { address, bytes: 7, writable: false }]);
    assert_eq!((pair.ring.in_flight(), pair.ring.next_available(), pair.ring.next_used()), (1, 1, 0));
    pair.ring.push_used(2, 0);
    assert!(pair.ring.interrupt_wanted());
    assert!(!pair.ring.interrupt_wanted(), "nothing since");
    assert_eq!((pair.ring.in_flight(), pair.ring.next_used()), (0, 1));
    assert_eq!(u16::from_le(pair.u16(DEVICE_AREA + 2).load(Ordering::Acquire)), 1);
    assert_eq!(pair.ring.violations(), []);
}

#[test]
fn interrupts_follow_used_event_across_the_wrap() {
    let mut pair = Pair::new(Features::EVENT_IDX);
    let event = DRIVER_AREA + 4 + 2 * usize::from(SIZE);
    let mut wanted = 0;
    for index in 0..=u16::MAX {
        // Every eighth.
        pair.u16(event).store((index | 7).to_le(), Ordering::Relaxed);
        pair.ring.push_raw(0, 0);
        wanted += u32::from(pair.ring.interrupt_wanted());
        if cfg!(miri) && index == 64 {
            assert_eq!(wanted, 8);
            return;
        }
    }
    assert_eq!(wanted, 65536 / 8);
}

#[test]
fn notifications_are_suppressed_and_wanted_again() {
    for features in [Features::empty(), Features::EVENT_IDX] {
        let mut pair = Pair::new(features);
        assert!(!pair.ring.set_notifications(false));
        let raw = pair.ring.raw().clone();
        if features.is_empty() {
            assert_eq!(raw.used_flags(), Ok(1));
        } else {
            assert_eq!((raw.used_flags(), raw.avail_event()), (Ok(0), Ok(u16::MAX)));
        }
        pair.descriptor(0, 1);
        pair.available(0, 0);
        assert!(pair.ring.set_notifications(true), "there is one already");
        assert_eq!((raw.used_flags(), raw.avail_event()), (Ok(0), Ok(0)));
    }
}

#[test]
fn an_index_that_goes_back_breaks_the_ring_once() {
    let mut pair = Pair::new(Features::empty());
    pair.descriptor(0, 1);
    pair.available(0, 0);
    assert!(pair.ring.pop().is_some());
    pair.u16(DRIVER_AREA + 2).store(0, Ordering::Release);
    assert_eq!(pair.ring.pop(), None);
    assert_eq!(pair.ring.pop(), None);
    assert_eq!(rules_of(&pair.ring.take_violations()), [Rule::AvailableIndex]);
}
