//! When the device is notified, and when the driver asks for an interrupt, on a split ring.

mod common;

use common::{Rig, Tag, settings};
use testing_device::{RingMover, ScatterMemory, TestMemory};
use virtqueue::{Notification, Settings, Split};

/// More than the 16-bit index wraps in, twice.
const CHAINS: u32 = if cfg!(miri) { 150 } else { 2 * 65536 + 500 };

/// Submits `batch` chains and gives them back without the checks of the strict device, which take time.
fn pass<M: TestMemory>(rig: &mut Rig<M, Split>, from: u16, batch: u16) {
    for index in 0..batch {
        let at = from.wrapping_add(index);
        let head = rig.raw().available_entry(at).unwrap();
        rig.raw().set_used_element(at, head.into(), 1).unwrap();
    }
    rig.raw().set_used_idx(from.wrapping_add(batch)).unwrap();
    for _ in 0..batch {
        rig.pop().unwrap();
    }
}

fn notifications(size: u16, max_batch: u16) {
    let settings = Settings { chain_max: 2, indirect: true, event_idx: true, ..Settings::new(size) };
    let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings);
    let mut old = 0_u16;
    let (mut passed, mut turn) = (0, 0_u32);
    let (mut wanted_count, mut unwanted_count) = (0, 0);
    while passed < CHAINS {
        let batch = 1 + (turn % u32::from(max_batch)) as u16;
        // Every position around the batch in turn, and now and then one that is far away.
        let around = turn / u32::from(max_batch) % (u32::from(max_batch) + 7);
        let event = match turn % 11 {
            10 => old.wrapping_add((turn as u16).wrapping_mul(0x3571)),
            _ => old.wrapping_add(around as u16).wrapping_sub(3),
        };
        rig.raw().set_avail_event(event).unwrap();
        // With EVENT_IDX the flags mean nothing.
        rig.raw().set_used_flags((turn % 2) as u16).unwrap();
        for tag in 0..batch {
            rig.submit_small(Tag(tag.into())).unwrap();
        }
        let new = old.wrapping_add(batch);
        let wanted = (0..batch).any(|index| old.wrapping_add(index) == event);
        assert_eq!(
            rig.queue.commit(),
            wanted.then_some(Notification { next: new }),
            "index {old} to {new}, event {event}"
        );
        assert_eq!(rig.queue.commit(), None, "nothing new");
        assert_eq!(rig.raw().available_idx().unwrap(), new);
        *(if wanted { &mut wanted_count } else { &mut unwanted_count }) += 1;
        pass(&mut rig, old, batch);
        (old, passed, turn) = (new, passed + u32::from(batch), turn + 1);
    }
    assert!(cfg!(miri) || wanted_count > turn / 5 && unwanted_count > turn / 5, "{wanted_count}, {unwanted_count}");
    rig.raw().set_used_flags(0).unwrap();
    rig.finish();
}

#[test]
fn the_device_is_notified_exactly_when_the_index_passes_its_event() {
    notifications(4, 4);
}

#[test]
fn batches_as_long_as_the_queue_pass_the_event_too() {
    notifications(32, 32);
}

#[test]
fn without_event_idx_the_flag_alone_decides() {
    for indirect in [true, false] {
        let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings::<Split>(indirect, false));
        let mut old = 0_u16;
        for turn in 0..if cfg!(miri) { 12 } else { 100_u16 } {
            let quiet = turn % 3 == 0;
            rig.raw().set_used_flags(u16::from(quiet)).unwrap();
            // Without EVENT_IDX this field means nothing.
            rig.raw().set_avail_event(if turn % 2 == 0 { old } else { old.wrapping_sub(1) }).unwrap();
            let batch = 1 + turn % 4;
            for tag in 0..batch {
                rig.submit_small(Tag(tag.into())).unwrap();
            }
            let next = old + batch;
            assert_eq!(rig.queue.commit(), (!quiet).then_some(Notification { next }));
            assert_eq!(rig.queue.commit(), None, "nothing new");
            pass(&mut rig, old, batch);
            old = next;
        }
        rig.finish();
    }
}

#[test]
fn unknown_bits_of_the_used_flags_do_not_suppress() {
    let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings::<Split>(true, false));
    for (turn, flags) in [0xfffe, 0xffff, 0x8000, 0x8001].into_iter().enumerate() {
        rig.raw().set_used_flags(flags).unwrap();
        rig.submit_small(Tag(0)).unwrap();
        assert_eq!(rig.queue.commit().is_some(), flags & 1 == 0, "{flags:#x}");
        pass(&mut rig, turn as u16, 1);
    }
    rig.finish();
}

/// Brings a queue of 4 entries to an index.
fn bring_to<M: TestMemory>(rig: &mut Rig<M, Split>, index: u16) {
    let mut old = 0_u16;
    while old != index {
        let batch = index.wrapping_sub(old).min(4);
        for _ in 0..batch {
            rig.submit_small(Tag(0)).unwrap();
        }
        rig.commit();
        // The strict device comes along.
        while let Some(chain) = rig.device.pop() {
            rig.device.push_used(chain.id, 1);
        }
        for _ in 0..batch {
            rig.pop().unwrap();
        }
        old = old.wrapping_add(batch);
    }
    // Forget what was signalled.
    let _ = rig.device.interrupt_wanted();
}

/// Every number of chains in flight, of those that are used, and of those to be waited for, one case after the other.
fn arming(event_idx: bool, mut start: u16) {
    let most = if cfg!(miri) { 2 } else { 4_u16 };
    let settings = Settings { chain_max: 2, indirect: true, event_idx, ..Settings::new(4) };
    let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings);
    bring_to(&mut rig, start);
    for in_flight in 0..=most {
        for used in 0..=in_flight {
            for chains in 0..=in_flight + 2 {
                for tag in 0..in_flight {
                    rig.submit_small(Tag(tag.into())).unwrap();
                }
                rig.commit();
                let mut taken: Vec<_> = (0..in_flight).map(|_| rig.take().id).collect();
                for id in taken.drain(..usize::from(used)) {
                    rig.device.push_used(id, 1);
                }
                let _ = rig.device.interrupt_wanted();

                let case = format!("{in_flight} in flight, {used} used, waiting for {chains}, from {start}");
                let wait_for = if event_idx { chains.clamp(1, in_flight.max(1)) } else { 1 };
                assert_eq!(rig.queue.enable_interrupts(chains), used < wait_for, "{case}");
                assert_eq!(rig.queue.has_used(), used > 0, "{case}");
                assert_eq!(rig.raw().available_flags().unwrap(), 0, "{case}");
                if event_idx {
                    let event = start.wrapping_add(wait_for).wrapping_sub(1);
                    assert_eq!(rig.raw().used_event().unwrap(), event, "{case}");
                }
                // The device goes on, one by one: the interrupt comes with the one that was waited for.
                for (count, id) in (used + 1..).zip(taken) {
                    rig.device.push_used(id, 1);
                    let interrupt = rig.device.interrupt_wanted();
                    if used < wait_for {
                        assert_eq!(interrupt, !event_idx || count == wait_for, "{case}: used {count}");
                    }
                }
                for tag in 0..in_flight {
                    assert_eq!(rig.pop(), Some(tag.into()), "{case}");
                }
                start = start.wrapping_add(in_flight);
            }
        }
    }
    rig.finish();
}

#[test]
fn an_interrupt_is_armed_for_each_number_of_chains() {
    arming(true, 0);
}

#[test]
#[cfg(not(miri))]
fn an_interrupt_is_armed_across_the_end_of_the_index() {
    for start in [65480, 65533] {
        arming(true, start);
    }
}

#[test]
fn without_event_idx_the_first_chain_interrupts() {
    arming(false, 0);
}

#[test]
fn interrupts_are_off_until_they_are_enabled_and_off_again_when_disabled() {
    for event_idx in [true, false] {
        let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings::<Split>(true, event_idx));
        let round = |rig: &mut Rig<ScatterMemory, Split>| {
            rig.submit_small(Tag(1)).unwrap();
            rig.commit();
            rig.serve();
            let interrupt = rig.device.interrupt_wanted();
            assert_eq!(rig.pop(), Some(1));
            interrupt
        };
        assert!(!round(&mut rig) && !round(&mut rig), "off at first");
        assert!(rig.queue.enable_interrupts(1));
        assert!(round(&mut rig));
        rig.queue.disable_interrupts();
        for _ in 0..20 {
            assert!(!round(&mut rig));
        }
        assert_eq!(rig.raw().available_flags().unwrap(), if event_idx { 0 } else { 1 });
        assert!(rig.queue.enable_interrupts(1));
        assert!(round(&mut rig));
        rig.finish();
    }
}

#[test]
fn an_interrupt_for_chains_that_were_not_committed_is_armed_for_those_that_were() {
    let mut rig = Rig::<_, Split>::new(&ScatterMemory::new(), settings::<Split>(true, true));
    rig.submit_small(Tag(1)).unwrap();
    rig.commit();
    rig.submit_small(Tag(2)).unwrap();
    // Two are in flight, but the device has only one: waiting for the second would be waiting for ever.
    assert!(rig.queue.enable_interrupts(2));
    assert_eq!(rig.raw().used_event().unwrap(), 0);
    rig.finish();
}
