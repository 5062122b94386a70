//! What a device that breaks the rules gets: an error that names it, and no more.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{Bytes, DeviceEnd, Form, Rig, Tag, in_every_form, settings, shapes};
use testing_device::{IommuMemory, RingMover, ScatterMemory, TestMemory};
use virtqueue::{Access, Attachment, ChainError, Queue, RingFormat, Settings, Split, Violation};

in_every_form! {
    an_id_beyond_the_queue_is_a_violation_whatever_its_lower_bits,
    a_chain_that_is_not_in_flight_is_a_violation,
    a_chain_that_comes_back_twice_is_a_violation,
    chains_before_the_violation_come_back_and_those_behind_it_do_not,
    a_broken_queue_that_is_dropped_keeps_what_the_device_may_still_touch,
    a_broken_queue_frees_everything_once_the_device_was_reset,
    mappings_of_chains_in_flight_end_when_they_are_retired,
}

/// Counts its drops.
struct Counted(Rc<Cell<u32>>);

impl Attachment for Counted {
    const SLOT_BYTES: usize = 17;
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Expects the violation from now on, from every call.
#[track_caller]
fn assert_broken<M: TestMemory, T: Attachment, R: RingFormat>(queue: &mut Queue<M, T, R>, expected: Violation) {
    let in_flight = queue.in_flight();
    for _ in 0..3 {
        assert_eq!(queue.pop().err(), Some(expected));
        assert_eq!(queue.broken(), Some(expected));
        assert_eq!(queue.chain().err(), Some(ChainError::Broken(expected)));
        assert!(queue.has_used(), "there is something to be said");
        assert!(!queue.enable_interrupts(1), "never sleep on a broken queue");
        assert_eq!(queue.in_flight(), in_flight);
    }
}

fn an_id_beyond_the_queue_is_a_violation_whatever_its_lower_bits<F: Form>() {
    for settings in shapes::<F>(8, 2) {
        // A packed ring has no more than 16 bits for it.
        let ids = [8, 9, 0xffff, 0x1_0000, 0x1_0001, 0xffff_0000, 0x8000_0000, u32::MAX];
        for id in ids.into_iter().filter(|id| !F::PACKED || *id <= 0xffff) {
            let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
            rig.submit_small(Tag(0)).unwrap();
            rig.submit_small(Tag(1)).unwrap();
            rig.commit();
            rig.device.push_raw(id, 1);
            assert_broken(&mut rig.queue, Violation::IdOutOfRange { id, size: 8 });
            rig.finish();
        }
    }
}

fn a_chain_that_is_not_in_flight_is_a_violation<F: Form>() {
    for settings in shapes::<F>(8, 2) {
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
        let token = rig.submit_small(Tag(0)).unwrap();
        rig.commit();
        let id = (token.slot() + 4) % 8;
        rig.device.push_raw(id.into(), 1);
        assert_broken(&mut rig.queue, Violation::NotInFlight { id });
        rig.finish();
    }
}

fn a_chain_that_comes_back_twice_is_a_violation<F: Form>() {
    for settings in shapes::<F>(8, 2) {
        for taken in [true, false] {
            let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
            rig.submit_small(Tag(0)).unwrap();
            rig.submit_small(Tag(1)).unwrap();
            rig.commit();
            let first = rig.take();
            rig.device.push_used(first.id, 1);
            rig.device.push_raw(first.id.into(), 1);
            let used = rig.queue.pop().unwrap().unwrap();
            if taken {
                assert_eq!(used.take(), Tag(0));
            } else {
                let _ = used;
            }
            assert_broken(&mut rig.queue, Violation::NotInFlight { id: first.id });
            rig.finish();
        }
    }
}

#[test]
fn a_chain_that_was_not_committed_is_not_the_devices() {
    let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings::<Split>(true, false));
    let token = rig.submit_small(Tag(0)).unwrap();
    rig.device.push_raw(token.slot().into(), 1);
    assert_broken(&mut rig.queue, Violation::UsedIndexJumped { seen: 0, found: 1, available: 0 });
    rig.finish();
}

#[test]
fn the_middle_of_a_direct_chain_is_not_its_name() {
    let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings::<Split>(false, false));
    let data = Bytes::new(0, 32);
    let mut chain = rig.queue.chain().unwrap();
    chain.slot_part(0, 16, Access::DeviceReads).unwrap();
    // SAFETY: `data` outlives the rig.
    unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
    chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
    chain.submit(Tag(0)).unwrap();
    rig.commit();
    let head = rig.raw().available_entry(0).unwrap();
    let middle = rig.raw().descriptor(head).unwrap().next;
    assert_ne!(middle, head);
    rig.device.push_raw(middle.into(), 33);
    assert_broken(&mut rig.queue, Violation::NotInFlight { id: middle });
    assert_eq!(rig.queue.in_flight(), 1);
    rig.finish();
}

#[test]
fn the_used_index_moves_as_far_as_chains_are_there_and_no_further() {
    for settings in shapes::<Split>(8, 1) {
        for start in if cfg!(miri) { 2..3 } else { 0..4 } {
            for in_flight in (0..=8_u16).step_by(if cfg!(miri) { 6 } else { 1 }) {
                for jump in 0..=in_flight + 2 {
                    let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings);
                    for tag in 0..start {
                        submit_one(&mut rig, tag);
                        rig.commit();
                        rig.serve();
                        rig.pop().unwrap();
                    }
                    for tag in 0..in_flight {
                        submit_one(&mut rig, tag);
                    }
                    rig.commit();
                    for index in 0..jump.min(in_flight) {
                        let at = start + index;
                        let head = rig.raw().available_entry(at).unwrap();
                        rig.raw().set_used_element(at, head.into(), 0).unwrap();
                    }
                    rig.raw().set_used_idx(start + jump).unwrap();
                    if jump <= in_flight {
                        for tag in 0..jump {
                            assert_eq!(rig.pop(), Some(tag.into()));
                        }
                        assert_eq!(rig.pop(), None);
                    } else {
                        let expected =
                            Violation::UsedIndexJumped { seen: start, found: start + jump, available: in_flight };
                        assert_broken(&mut rig.queue, expected);
                        assert_eq!(rig.queue.in_flight(), in_flight);
                    }
                    rig.finish();
                }
            }
        }
    }
}

fn submit_one(rig: &mut Rig<ScatterMemory, Split>, tag: u16) {
    let mut chain = rig.queue.chain().unwrap();
    chain.slot_part(0, 16, Access::DeviceReads).unwrap();
    chain.submit(Tag(tag.into())).unwrap();
}

#[test]
fn the_used_index_does_not_go_back() {
    for (found, turns) in [(u16::MAX, 0), (4, 5), (0, 5), (0x8000, 5)] {
        let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings::<Split>(true, true));
        for tag in 0..turns {
            rig.submit_small(Tag(tag.into())).unwrap();
            rig.commit();
            rig.serve();
            rig.pop().unwrap();
        }
        rig.submit_small(Tag(9)).unwrap();
        rig.commit();
        rig.raw().set_used_idx(found).unwrap();
        assert_broken(&mut rig.queue, Violation::UsedIndexJumped { seen: turns, found, available: 1 });
        rig.finish();
    }
}

#[test]
fn the_ring_is_not_read_while_the_index_says_that_nothing_is_used() {
    let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings::<Split>(true, false));
    rig.submit_small(Tag(1)).unwrap();
    rig.commit();
    for at in 0..8 {
        rig.raw().set_used_element(at, u32::MAX, u32::MAX).unwrap();
    }
    assert_eq!(rig.pop(), None);
    assert_eq!(rig.queue.broken(), None);
    rig.finish();
}

#[test]
fn asking_whether_to_sleep_does_not_hide_a_jump() {
    let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings::<Split>(true, true));
    rig.submit_small(Tag(1)).unwrap();
    rig.commit();
    rig.raw().set_used_idx(7).unwrap();
    assert!(!rig.queue.enable_interrupts(1), "no interrupt will come");
    assert!(rig.queue.has_used());
    assert_broken(&mut rig.queue, Violation::UsedIndexJumped { seen: 0, found: 7, available: 1 });
    rig.finish();
}

fn chains_before_the_violation_come_back_and_those_behind_it_do_not<F: Form>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(true, false));
    for tag in 0..4 {
        rig.submit_small(Tag(tag)).unwrap();
    }
    rig.commit();
    let ids: Vec<_> = (0..4).map(|_| rig.take().id).collect();
    rig.device.push_used(ids[0], 1);
    rig.device.push_used(ids[1], 1);
    rig.device.push_raw(1 << 15, 1);
    rig.device.push_used(ids[2], 1);
    assert_eq!([rig.pop(), rig.pop()], [Some(0), Some(1)]);
    assert_broken(&mut rig.queue, Violation::IdOutOfRange { id: 1 << 15, size: 8 });
    assert_eq!(rig.queue.in_flight(), 2);
    rig.finish();
}

/// A queue with two chains in flight, one used, and a violation.
fn broken<M: TestMemory, F: Form>(
    memory: &M,
    settings: Settings,
    data: &Bytes,
    drops: &Rc<Cell<u32>>,
) -> Rig<M, F, Counted> {
    let mut rig = Rig::<M, F, Counted>::of(memory, settings);
    for _ in 0..3 {
        let mut chain = rig.queue.chain().unwrap();
        // SAFETY: `data` outlives the queue.
        unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
        assert!(chain.submit(Counted(drops.clone())).is_ok());
    }
    rig.commit();
    let (first, _) = (rig.take(), rig.take());
    rig.device.push_used(first.id, 0);
    let _ = rig.queue.pop().unwrap().unwrap();
    rig.device.push_raw(77, 0);
    assert_broken(&mut rig.queue, Violation::IdOutOfRange { id: 77, size: 8 });
    rig
}

fn a_broken_queue_that_is_dropped_keeps_what_the_device_may_still_touch<F: Form>() {
    for settings in shapes::<F>(8, 2) {
        let (memory, data, drops) = (IommuMemory::new(), Bytes::new(4090, 100), Rc::default());
        let rig = broken::<_, F>(&memory, settings, &data, &drops);
        assert_eq!((drops.get(), memory.mapped()), (0, 4), "two chains of two pieces");
        drop(rig.queue);
        assert_eq!(drops.get(), 1, "the one that was used");
        assert_eq!(memory.outstanding(), 2, "the ring, and the slots");
        assert_eq!(memory.mapped(), 4);
        // The device goes on with the third, in memory that is still there.
        let mut device = rig.device;
        let chain = device.pop().unwrap();
        assert_eq!(device.violations(), []);
        device.push_used(chain.id, 0);
        assert_eq!(device.violations(), []);
    }
}

fn a_broken_queue_frees_everything_once_the_device_was_reset<F: Form>() {
    for settings in shapes::<F>(8, 2) {
        let (memory, data, drops) = (ScatterMemory::new(), Bytes::new(4090, 100), Rc::default());
        let rig = broken::<_, F>(&memory, settings, &data, &drops);
        assert_eq!(drops.get(), 0);
        rig.finish();
        assert_eq!(drops.get(), 3);
    }
}

fn mappings_of_chains_in_flight_end_when_they_are_retired<F: Form>() {
    for settings in shapes::<F>(8, 2) {
        let (memory, data, drops) = (IommuMemory::new(), Bytes::new(4090, 100), Rc::default());
        let mut rig = broken::<_, F>(&memory, settings, &data, &drops);
        assert_eq!(memory.mapped(), 4);
        // SAFETY: the device's end is not used any more.
        unsafe { rig.queue.restart() };
        for left in [2, 0] {
            let token = rig.queue.in_flight_from(0).unwrap();
            // SAFETY: the ring was restarted, and nothing was reissued.
            assert!(unsafe { rig.queue.retire(token) });
            assert_eq!((memory.mapped(), drops.get()), (left, 0));
        }
        assert_eq!(rig.queue.in_flight_from(0), None);
        rig.finish();
        assert_eq!(drops.get(), 3);
    }
}

#[test]
fn violations_say_what_was_found_and_what_was_expected() {
    let text = Violation::UsedIndexJumped { seen: 11, found: 22, available: 33 }.to_string();
    assert!(text.contains("11") && text.contains("22") && text.contains("33"), "{text}");
    let text = Violation::IdOutOfRange { id: 70_000, size: 16 }.to_string();
    assert!(text.contains("70000") && text.contains("16"), "{text}");
    let text = ChainError::Broken(Violation::NotInFlight { id: 12 }).to_string();
    assert!(text.contains("12"), "{text}");
}
