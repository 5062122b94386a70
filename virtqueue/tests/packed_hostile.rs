//! What a device that breaks the rules of a packed ring gets: an error that names it, and no more.

mod common;

use common::{Bytes, DeviceEnd, Form, Rig, Tag, in_packed_forms, settings, shapes};
use proptest::prelude::*;
use testing_device::{IommuMemory, PackedDeviceRing, RawEvent, RingMover, ScatterMemory, TestMemory};
use virtqueue::{Access, ChainError, Queue, RingFormat, Settings, Violation};

in_packed_forms! {
    every_id_beyond_the_queue_is_a_violation,
    flags_of_another_lap_are_not_a_completion,
    a_completion_a_lap_ahead_is_taken_once_and_no_more,
    a_used_element_where_nothing_was_made_available_is_a_violation,
    a_used_element_for_what_was_not_committed_is_a_violation,
    a_chain_that_was_not_committed_for_one_that_was_does_no_harm,
    what_the_device_says_later_does_not_mend_a_broken_queue,
    the_rest_of_a_descriptor_is_not_read_while_its_flags_say_that_it_is_available,
    what_the_device_writes_over_descriptors_in_flight_is_not_believed,
    positions_beyond_the_ring_are_no_places_for_notifications,
    noise_is_survived,
}

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Expects the violation from now on, from every call.
#[track_caller]
fn assert_broken<M: TestMemory, R: RingFormat>(queue: &mut Queue<M, Tag, R>, expected: Violation) {
    let in_flight = queue.in_flight();
    for _ in 0..3 {
        assert_eq!(queue.pop().err(), Some(expected));
        assert_eq!(queue.broken(), Some(expected));
        assert_eq!(queue.chain().err(), Some(ChainError::Broken(expected)));
        assert_eq!(queue.commit(), None);
        assert!(queue.has_used(), "there is something to be said");
        assert!(!queue.enable_interrupts(1), "never sleep on a broken queue");
        assert_eq!(queue.in_flight(), in_flight);
    }
}

/// Goes so many chains around a ring.
fn go_around<M: TestMemory, F: Form>(rig: &mut Rig<M, F>, chains: u32) {
    for tag in 0..chains {
        rig.submit_small(Tag(tag)).unwrap();
        rig.commit();
        assert_eq!((rig.serve(), rig.pop()), (1, Some(tag)));
    }
}

fn every_id_beyond_the_queue_is_a_violation<F: Form<Device = PackedDeviceRing>>() {
    let step = if cfg!(miri) { 9973 } else { 31 };
    for id in (5..=u16::MAX).step_by(step).chain([6, 7, 8, u16::MAX]) {
        let mut rig =
            Rig::<_, F>::new(&ScatterMemory::new(), Settings { chain_max: 2, size: 5, ..settings::<F>(true, false) });
        rig.submit_small(Tag(0)).unwrap();
        rig.commit();
        rig.device.push_raw(id.into(), 1);
        assert_broken(&mut rig.queue, Violation::IdOutOfRange { id: id.into(), size: 5 });
        rig.finish();
    }
}

fn flags_of_another_lap_are_not_a_completion<F: Form<Device = PackedDeviceRing>>() {
    for settings in shapes::<F>(5, 2) {
        // In a lap of each kind.
        for before in [0, 6] {
            for inverted in [AVAIL, USED, AVAIL | USED] {
                let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
                go_around(&mut rig, before);
                rig.submit_small(Tag(9)).unwrap();
                rig.commit();
                let place = rig.device.next_used();
                let chain = rig.take();
                rig.device.invert_flags(inverted);
                rig.device.push_used(chain.id, 1);
                for _ in 0..3 {
                    assert_eq!((rig.pop(), rig.queue.broken(), rig.queue.in_flight()), (None, None, 1));
                    assert!(rig.queue.enable_interrupts(1));
                }
                // Now it says so properly.
                rig.raw().set_flags(place.offset(), place.used().bits()).unwrap();
                assert_eq!((rig.pop(), rig.pop()), (Some(9), None));
                rig.finish();
            }
        }
    }
}

fn a_completion_a_lap_ahead_is_taken_once_and_no_more<F: Form<Device = PackedDeviceRing>>() {
    // Every place has the flags of a used descriptor of this lap, as if all of it had come back.
    for settings in shapes::<F>(5, 2) {
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
        let token = rig.submit_small(Tag(3)).unwrap();
        rig.commit();
        for offset in 0..5 {
            rig.raw().set_id(offset, token.slot(), 1).unwrap();
            rig.raw().set_flags(offset, AVAIL | USED).unwrap();
        }
        assert_eq!(rig.pop(), Some(3));
        assert_broken(&mut rig.queue, Violation::NotInFlight { id: token.slot() });
        assert_eq!(rig.queue.in_flight(), 0);
    }
}

fn a_used_element_where_nothing_was_made_available_is_a_violation<F: Form<Device = PackedDeviceRing>>() {
    for settings in shapes::<F>(5, 2) {
        for before in [0, 1, 6] {
            for id in [0, 4, 5, u16::MAX] {
                let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
                go_around(&mut rig, before);
                rig.device.push_raw(id.into(), 1);
                let expected = match id {
                    0..5 => Violation::NotInFlight { id },
                    _ => Violation::IdOutOfRange { id: id.into(), size: 5 },
                };
                assert!(!rig.queue.enable_interrupts(1), "no interrupt will come");
                assert_broken(&mut rig.queue, expected);
                rig.finish();
            }
        }
    }
}

fn a_used_element_for_what_was_not_committed_is_a_violation<F: Form<Device = PackedDeviceRing>>() {
    for settings in shapes::<F>(5, 2) {
        let memory = IommuMemory::new();
        let mut rig = Rig::<_, F>::new(&memory, settings);
        let data = Bytes::new(0, 64);
        let mut chain = rig.queue.chain().unwrap();
        // SAFETY: `data` outlives the rig.
        unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
        let token = chain.submit(Tag(0)).unwrap();
        rig.device.push_raw(token.slot().into(), 1);
        assert_broken(&mut rig.queue, Violation::NotInFlight { id: token.slot() });
        // What was not committed never will be: the buffer is not the caller's, and stays mapped.
        assert_eq!((rig.queue.in_flight(), memory.mapped()), (1, 1));
        assert_eq!(rig.device.pop(), None);
        rig.finish();
    }
}

fn a_chain_that_was_not_committed_for_one_that_was_does_no_harm<F: Form<Device = PackedDeviceRing>>() {
    // The device has one chain, and gives back another, longer one, which it has not seen.
    for settings in shapes::<F>(9, 5) {
        let memory = IommuMemory::new();
        let mut rig = Rig::<_, F>::new(&memory, settings);
        let data = Bytes::new(0, 64);
        rig.submit_small(Tag(0)).unwrap();
        rig.commit();
        let mut chain = rig.queue.chain().unwrap();
        for _ in 0..5 {
            // SAFETY: `data` outlives the rig.
            unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
        }
        let token = chain.submit(Tag(1)).unwrap();
        rig.device.push_raw(token.slot().into(), 1);
        assert_eq!(rig.pop(), Some(1));
        assert_eq!((rig.queue.in_flight(), memory.mapped()), (1, 0));
        // The queue goes on counting as it should, whatever is asked of it.
        for chains in [1, 2, 9, u16::MAX] {
            let _ = rig.queue.enable_interrupts(chains);
            let event = rig.raw().driver_event().unwrap();
            assert!(event.position & 0x7fff < 9, "{event:?}");
        }
        rig.commit();
        for chains in [1, 2, 9, u16::MAX] {
            let _ = rig.queue.enable_interrupts(chains);
            let event = rig.raw().driver_event().unwrap();
            assert!(event.position & 0x7fff < 9, "{event:?}");
        }
        assert_eq!(rig.queue.in_flight(), 1);
        assert!(rig.queue.free() < 9);
    }
}

fn what_the_device_says_later_does_not_mend_a_broken_queue<F: Form<Device = PackedDeviceRing>>() {
    for settings in shapes::<F>(5, 2) {
        let memory = IommuMemory::new();
        let mut rig = Rig::<_, F>::new(&memory, settings);
        let data = Bytes::new(0, 64);
        let mut chain = rig.queue.chain().unwrap();
        // SAFETY: `data` outlives the rig.
        unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
        let token = chain.submit(Tag(0)).unwrap();
        rig.submit_small(Tag(1)).unwrap();
        rig.commit();
        rig.device.push_raw(77, 1);
        let violation = Violation::IdOutOfRange { id: 77, size: 5 };
        assert_broken(&mut rig.queue, violation);
        // The same descriptor names a chain in flight now.
        rig.raw().set_id(0, token.slot(), 1).unwrap();
        assert_broken(&mut rig.queue, violation);
        // Or looks as if it had never been used.
        rig.raw().set_flags(0, AVAIL).unwrap();
        assert_broken(&mut rig.queue, violation);
        assert_eq!((rig.queue.in_flight(), memory.mapped()), (2, 1));
        rig.finish();
    }
}

fn the_rest_of_a_descriptor_is_not_read_while_its_flags_say_that_it_is_available<F: Form<Device = PackedDeviceRing>>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(true, false));
    let token = rig.submit_small(Tag(1)).unwrap();
    rig.commit();
    for offset in 0..8 {
        rig.raw().set_id(offset, u16::MAX, u32::MAX).unwrap();
    }
    assert_eq!((rig.pop(), rig.queue.broken()), (None, None));
    rig.raw().set_id(0, token.slot(), u32::MAX).unwrap();
    rig.raw().set_flags(0, AVAIL | USED).unwrap();
    let used = rig.queue.pop().unwrap().unwrap();
    assert_eq!(used.written_bytes(), 1, "as much as it was allowed to write");
    assert_eq!(used.take(), Tag(1));
}

fn what_the_device_writes_over_descriptors_in_flight_is_not_believed<F: Form<Device = PackedDeviceRing>>() {
    // A direct chain of three: the device claims, in its descriptors, that it has one.
    let mut rig =
        Rig::<_, F>::new(&ScatterMemory::new(), Settings { size: 5, chain_max: 5, ..settings::<F>(false, false) });
    let data = Bytes::new(0, 64);
    let mut chain = rig.queue.chain().unwrap();
    chain.slot_part(0, 16, Access::DeviceReads).unwrap();
    // SAFETY: `data` outlives the rig.
    unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
    chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
    let token = chain.submit(Tag(1)).unwrap();
    rig.commit();
    for offset in [2, 1, 0] {
        rig.raw().set_id(offset, token.slot(), 65).unwrap();
        rig.raw().set_flags(offset, AVAIL | USED).unwrap();
    }
    assert_eq!((rig.pop(), rig.pop()), (Some(1), None), "the next one is looked for behind all three");
    assert_eq!((rig.queue.free(), rig.queue.in_flight(), rig.queue.broken()), (5, 0, None));
    // An honest device would be at 3 as well.
    rig.device = PackedDeviceRing::new(rig.raw().memory().clone(), *rig.device.setup());
    rig.device.skip_used(3);
    let token = rig.submit_small(Tag(2)).unwrap();
    rig.commit();
    rig.device.push_raw(token.slot().into(), 1);
    assert_eq!(rig.pop(), Some(2));
}

fn positions_beyond_the_ring_are_no_places_for_notifications<F: Form<Device = PackedDeviceRing>>() {
    let mut rig =
        Rig::<_, F>::new(&ScatterMemory::new(), Settings { size: 5, chain_max: 2, ..settings::<F>(true, true) });
    for turn in 0..12 {
        for position in [5, 6, 0x7fff, 0x8005, 0xffff] {
            rig.raw().set_device_event(RawEvent { position, flags: 2 }).unwrap();
            rig.submit_small(Tag(turn)).unwrap();
            // Whether it is notified is the device's own affair.
            let _ = rig.queue.commit();
            assert_eq!((rig.serve(), rig.pop()), (1, Some(turn)));
        }
    }
    rig.raw().set_device_event(RawEvent::default()).unwrap();
    rig.finish();
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Submit,
    Commit,
    Pop,
    /// Asks for an interrupt.
    Arm(u16),
    /// The device writes id, length and flags of a descriptor.
    Write(u16, u16, u32, u16),
    /// The device writes what looks like the next completion.
    Claim(u16),
    Event(u16, u16),
    /// The device is reset, and all chains retired.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![Just(0), Just(AVAIL | USED), Just(AVAIL), Just(USED), any::<u16>()];
    prop_oneof![
        5 => Just(Step::Submit),
        4 => Just(Step::Commit),
        5 => Just(Step::Pop),
        1 => any::<u16>().prop_map(Step::Arm),
        3 => (0..6_u16, 0..8_u16, any::<u32>(), flags).prop_map(|(at, id, bytes, flags)| Step::Write(at, id, bytes, flags)),
        5 => (0..7_u16).prop_map(Step::Claim),
        1 => any::<(u16, u16)>().prop_map(|(position, flags)| Step::Event(position, flags)),
        1 => Just(Step::Restart),
    ]
}

/// A device that writes anything, and now and then what looks right. Every chain comes back once, by the device or when
/// it is retired, and only once it was submitted; nothing panics; mappings end when chains do.
fn noise_is_survived<F: Form<Device = PackedDeviceRing>>() {
    let config =
        ProptestConfig { cases: if cfg!(miri) { 2 } else { 400 }, failure_persistence: None, ..Default::default() };
    let steps = prop::collection::vec(step(), 1..if cfg!(miri) { 30 } else { 200 });
    proptest!(config, |(indirect: bool, event_idx: bool, steps in steps)| {
        let memory = IommuMemory::new();
        let settings = Settings { size: 6, chain_max: 3, ..settings::<F>(indirect, event_idx) };
        let mut rig = Rig::<_, F>::new(&memory, settings);
        let data = Bytes::new(4090, 12);
        let mut live = std::collections::BTreeSet::new();
        for (tag, step) in (0..).zip(steps) {
            match step {
                Step::Submit => {
                    if let Ok(mut chain) = rig.queue.chain() {
                        // SAFETY: `data` outlives the rig.
                        unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
                        if chain.submit(Tag(tag)).is_ok() {
                            live.insert(tag);
                        }
                    }
                }
                Step::Commit => rig.commit(),
                Step::Pop => {
                    if let Ok(Some(used)) = rig.queue.pop() {
                        prop_assert!(used.written_bytes() <= 12);
                        prop_assert!(live.remove(&used.take().0), "a chain that was in flight");
                    }
                }
                Step::Arm(chains) => {
                    let sleeps = rig.queue.enable_interrupts(chains);
                    prop_assert!(!sleeps || rig.queue.broken().is_none());
                    prop_assert!(rig.raw().driver_event().unwrap().position & 0x7fff < 6);
                }
                Step::Write(at, id, bytes, flags) => {
                    rig.raw().set_id(at, id, bytes).unwrap();
                    rig.raw().set_flags(at, flags).unwrap();
                }
                Step::Claim(id) => rig.device.push_raw(id.into(), 12),
                Step::Event(position, flags) => {
                    rig.raw().set_device_event(RawEvent { position, flags }).unwrap();
                }
                Step::Restart => {
                    // SAFETY: the device's end writes only when told to, and is replaced.
                    unsafe { rig.queue.restart() };
                    while let Some(token) = rig.queue.in_flight_from(0) {
                        // SAFETY: the ring was restarted, and nothing was reissued.
                        let retired = unsafe { rig.queue.retire(token) };
                        prop_assert!(retired);
                        prop_assert!(live.remove(&rig.queue.used(token).unwrap().take().0));
                    }
                    prop_assert!(live.is_empty());
                    prop_assert_eq!((rig.queue.free(), memory.mapped()), (6, 0));
                    let _ = rig.queue.areas();
                    rig.device = PackedDeviceRing::new(rig.raw().memory().clone(), *rig.device.setup());
                    rig.device.assert_zeroed();
                }
            }
            prop_assert_eq!(usize::from(rig.queue.in_flight()), live.len());
            prop_assert_eq!(memory.mapped(), 2 * live.len());
            prop_assert!(usize::from(rig.queue.free()) <= 6 - live.len());
        }
    });
}
