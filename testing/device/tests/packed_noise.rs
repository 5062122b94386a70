//! A packed ring full of noise: the device's end records what is wrong, and neither panics nor loses count.

mod raw;

use std::sync::Arc;

use proptest::prelude::*;
use raw::Owned;
use raw::packed::PackedQueue;
use testing_device::{PackedDeviceRing, RingMover, RingSetup, ScatterMemory};
use virtio_spec::Features;

const SIZE: u16 = 5;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Writes an entry: where its piece is, its length, its id and its flags.
    Write(u16, usize, u32, u16, u16),
    Event(u16, u16),
    Pop,
    /// Gives back a buffer with an id that may be in flight or not.
    Use(u16, u32),
    Judge,
    Want(bool),
    Interrupt,
}

fn step() -> impl Strategy<Value = Step> {
    // AVAIL and USED unlike each other make most of a ring that looks available.
    let flags = (0..8u16, prop_oneof![3 => Just(1 << 7), 3 => Just(1 << 15), 1 => any::<u16>()]);
    let bytes = prop_oneof![Just(16), Just(32), 0..64u32, Just(u32::MAX)];
    prop_oneof![
        6 => (0..SIZE, 0..4usize, bytes, 0..8u16, flags)
            .prop_map(|(entry, place, bytes, id, flags)| Step::Write(entry, place, bytes, id, flags.0 | flags.1)),
        1 => any::<(u16, u16)>().prop_map(|(position, flags)| Step::Event(position, flags)),
        4 => Just(Step::Pop),
        2 => (0..8u16, any::<u32>()).prop_map(|(id, bytes)| Step::Use(id, bytes)),
        1 => Just(Step::Judge),
        1 => any::<bool>().prop_map(Step::Want),
        1 => Just(Step::Interrupt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn noise_is_survived(steps in prop::collection::vec(step(), 1..if cfg!(miri) { 40 } else { 100 })) {
        let memory = ScatterMemory::new();
        let queue = PackedQueue::new(&memory, SIZE);
        let table = Owned::new(&memory, 4096, 4096);
        let start = queue.ring.address();
        let events = start + 16 * u64::from(SIZE);
        let setup = RingSetup {
            size: SIZE,
            descriptor_area: start,
            driver_area: events,
            device_area: events + 4,
            features: Features::VERSION_1 | Features::RING_PACKED | Features::INDIRECT_DESC | Features::EVENT_IDX,
        };
        let mut ring = PackedDeviceRing::new(Arc::new(memory.clone()), setup);
        // In memory, behind its end, in the ring itself, and nowhere.
        let places = [table.address(), table.address() + 4090, start, 0x10];
        for step in steps {
            match step {
                Step::Write(entry, place, bytes, id, flags) => {
                    queue.fill(entry, places[place], bytes, id);
                    queue.set_flags(entry, flags);
                }
                Step::Event(position, flags) => queue.set_event(position, flags),
                Step::Pop => {
                    let before = ring.in_flight();
                    let taken = ring.next_available();
                    match ring.pop() {
                        Some(chain) => {
                            prop_assert_eq!(ring.in_flight(), before + 1);
                            prop_assert!(ring.next_available() > taken);
                            prop_assert!(chain.segments.len() <= usize::from(SIZE) + 1);
                        }
                        None => prop_assert_eq!(ring.next_available(), taken),
                    }
                    prop_assert!(ring.in_flight() <= usize::from(SIZE));
                }
                Step::Use(id, bytes) => {
                    let used = ring.next_used();
                    ring.push_used(id, bytes);
                    prop_assert!(ring.next_used() > used);
                }
                Step::Judge => {
                    prop_assert!(ring.judge().is_some());
                    prop_assert!(ring.notification_data().is_some());
                }
                Step::Want(wanted) => {
                    ring.set_notifications(wanted);
                }
                Step::Interrupt => {
                    ring.interrupt_wanted();
                }
            }
            for violation in ring.take_violations() {
                prop_assert!(violation.section.starts_with("2."), "{}", violation);
            }
        }
    }
}
