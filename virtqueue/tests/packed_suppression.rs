//! When the device is notified, and when the driver asks for an interrupt, on a packed ring.

mod common;

use common::{Form, Rig, Tag, in_packed_forms, settings};
use testing_device::{PackedDeviceRing, RawEvent, RingMover, ScatterMemory};
use virtqueue::{Access, Notification, Settings};

in_packed_forms! {
    the_device_is_notified_exactly_when_a_batch_passes_its_event,
    the_flags_alone_decide_where_they_say_so,
    without_event_idx_a_position_means_nothing,
    a_notification_says_where_the_next_chain_will_be,
    an_interrupt_is_armed_for_each_number_of_chains,
    without_event_idx_the_first_chain_interrupts,
    direct_chains_interrupt_with_the_last_one_at_the_latest,
    an_interrupt_for_chains_that_were_not_committed_is_armed_for_those_that_were,
    interrupts_are_off_until_they_are_enabled_and_off_again_when_disabled,
}

const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const DESC: u16 = 2;

/// A ring of so many entries, with chains of up to four descriptors.
fn ring<F: Form>(size: u16, indirect: bool, event_idx: bool) -> Settings {
    Settings { size, chain_max: 4, ..settings::<F>(indirect, event_idx) }
}

/// Brings a ring whose chains are indirect to a position: so many entries from the start.
fn bring_to<F: Form>(rig: &mut Rig<ScatterMemory, F>, entries: u16) {
    for tag in 0..u32::from(entries) {
        rig.submit_small(Tag(tag)).unwrap();
        rig.commit();
        assert_eq!((rig.serve(), rig.pop()), (1, Some(tag)));
    }
    // Forget what was signalled.
    let _ = rig.device.interrupt_wanted();
}

/// Submits a chain of one to three descriptors.
fn submit_long<F: Form>(rig: &mut Rig<ScatterMemory, F>, descriptors: u16, tag: u32) {
    let mut chain = rig.queue.chain().unwrap();
    for offset in 1..descriptors {
        chain.slot_part(offset.into(), 1, Access::DeviceReads).unwrap();
    }
    chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
    chain.submit(Tag(tag)).unwrap();
}

fn the_device_is_notified_exactly_when_a_batch_passes_its_event<F: Form<Device = PackedDeviceRing>>() {
    // Every position, every batch, every event: through the ends of laps of both kinds.
    for size in if cfg!(miri) { 4..5 } else { 4..8_u16 } {
        for indirect in [true, false] {
            let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), ring::<F>(size, indirect, true));
            for batch in 1..=size {
                for word in (0..size).flat_map(|offset| [offset, offset | 0x8000]) {
                    // Until the batch has begun everywhere: the sum of all batches is uneven.
                    for _ in 0..if cfg!(miri) { 1 } else { 2 * size } {
                        let old = rig.device.next_available();
                        rig.raw().set_device_event(RawEvent { position: word, flags: DESC }).unwrap();
                        let mut left = batch;
                        let mut chains = 0;
                        while left > 0 {
                            // Direct chains take several positions, the event is for any of them.
                            let descriptors = if indirect { 1 } else { left.min(2) };
                            submit_long(&mut rig, descriptors, chains);
                            (left, chains) = (left - descriptors, chains + 1);
                        }
                        let wanted = (0..batch).any(|further| old.after(further.into()).word() == word);
                        let next = old.after(batch.into()).word();
                        let case = format!("{batch} of {size} from {:#x}, event {word:#x}", old.word());
                        assert_eq!(rig.queue.commit(), wanted.then_some(Notification { next }), "{case}");
                        assert_eq!(rig.queue.commit(), None, "nothing new");
                        assert_eq!(rig.device.judge().unwrap().due, wanted, "{case}");
                        rig.serve();
                        for tag in 0..chains {
                            assert_eq!(rig.pop(), Some(tag));
                        }
                    }
                    // One more, so that the next round begins elsewhere.
                    bring_to(&mut rig, 1);
                    let _ = rig.device.judge();
                }
            }
            rig.finish();
        }
    }
}

fn the_flags_alone_decide_where_they_say_so<F: Form<Device = PackedDeviceRing>>() {
    for event_idx in [true, false] {
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), ring::<F>(5, true, event_idx));
        // 3 is reserved, and so are the other bits: what is not known suppresses nothing.
        for flags in [ENABLE, DISABLE, 3, DISABLE | 0xfffc, ENABLE | 0xfffc, DISABLE, ENABLE] {
            for position in [0, 1, 4, 0x8000, 0x8004, 0xffff] {
                rig.raw().set_device_event(RawEvent { position, flags }).unwrap();
                rig.submit_small(Tag(0)).unwrap();
                assert_eq!(rig.queue.commit().is_some(), flags & 3 != DISABLE, "{flags:#x} at {position:#x}");
                assert_eq!((rig.serve(), rig.pop()), (1, Some(0)));
            }
        }
        rig.finish();
    }
}

fn without_event_idx_a_position_means_nothing<F: Form<Device = PackedDeviceRing>>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), ring::<F>(5, true, false));
    for turn in 0..11_u16 {
        // What such a device may not ask for; rather one notification too many than one too few.
        rig.raw().set_device_event(RawEvent { position: turn.wrapping_sub(3), flags: DESC }).unwrap();
        rig.submit_small(Tag(0)).unwrap();
        assert!(rig.queue.commit().is_some());
        assert_eq!((rig.serve(), rig.pop()), (1, Some(0)));
    }
    rig.finish();
}

fn a_notification_says_where_the_next_chain_will_be<F: Form<Device = PackedDeviceRing>>() {
    for size in [4, 5, 7_u16] {
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), ring::<F>(size, false, false));
        let mut entries = 0_u64;
        for turn in 0..8 * u32::from(size) {
            let descriptors = 1 + turn as u16 % 4;
            submit_long(&mut rig, descriptors, turn);
            entries += u64::from(descriptors);
            // Offset in the ring, and in bit 15 the wrap counter, which is set in the first lap (2.9).
            let lap = if entries / u64::from(size) % 2 == 0 { 0x8000 } else { 0 };
            let next = (entries % u64::from(size)) as u16 | lap;
            assert_eq!(rig.device.notification_data(), Some(rig.device.next_available().word()), "not committed");
            assert_eq!(rig.queue.commit(), Some(Notification { next }));
            assert_eq!(rig.device.notification_data(), Some(next));
            assert_eq!((rig.serve(), rig.pop()), (1, Some(turn)));
        }
        rig.finish();
    }
}

/// Every number of chains in flight, of those that are used, and of those to be waited for, from each position on.
fn arming<F: Form<Device = PackedDeviceRing>>(event_idx: bool) {
    let size = 5;
    let most = if cfg!(miri) { 2 } else { size };
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), ring::<F>(size, true, event_idx));
    for _ in 0..if cfg!(miri) { 1 } else { 2 * size } {
        // So that each case begins everywhere, in laps of both kinds.
        bring_to(&mut rig, 1);
        for in_flight in 0..=most {
            for used in 0..=in_flight {
                for chains in (0..=in_flight + 2).chain([u16::MAX]) {
                    for tag in 0..in_flight {
                        rig.submit_small(Tag(tag.into())).unwrap();
                    }
                    rig.commit();
                    let start = rig.device.next_used();
                    let mut taken: Vec<_> = (0..in_flight).map(|_| rig.take().id).collect();
                    for id in taken.drain(..usize::from(used)) {
                        rig.device.push_used(id, 1);
                    }
                    let _ = rig.device.interrupt_wanted();

                    let case = format!("{in_flight} in flight, {used} used, waiting for {chains}, from {start:?}");
                    let wait_for = chains.clamp(1, in_flight.max(1));
                    let sleeps = rig.queue.enable_interrupts(chains);
                    // It may wait although one is used, if it wants more: but never if none will come.
                    assert!(!sleeps || used < if event_idx { wait_for } else { 1 }, "{case}");
                    assert!(sleeps || used > 0, "{case}");
                    assert_eq!(rig.queue.has_used(), used > 0, "{case}");
                    let event = rig.raw().driver_event().unwrap();
                    if event_idx {
                        let place = start.after(u64::from(wait_for) - 1).word();
                        assert_eq!(event, RawEvent { position: place, flags: DESC }, "{case}");
                    } else {
                        assert_eq!(event.flags, ENABLE, "{case}");
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
                }
            }
        }
    }
    rig.finish();
}

fn an_interrupt_is_armed_for_each_number_of_chains<F: Form<Device = PackedDeviceRing>>() {
    arming::<F>(true);
}

fn without_event_idx_the_first_chain_interrupts<F: Form<Device = PackedDeviceRing>>() {
    arming::<F>(false);
}

fn direct_chains_interrupt_with_the_last_one_at_the_latest<F: Form<Device = PackedDeviceRing>>() {
    let size = 11;
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), ring::<F>(size, false, true));
    for turn in 0..if cfg!(miri) { 6 } else { 10 * usize::from(size) } {
        for chains in [1, 2, 3, 4, 7, u16::MAX] {
            for tag in 0..3_u16 {
                submit_long(&mut rig, 1 + (tag + turn as u16) % 4, tag.into());
            }
            rig.commit();
            let mut ids: Vec<_> = (0..3).map(|_| rig.take().id).collect();
            ids.rotate_left(turn % 3);
            assert!(rig.queue.enable_interrupts(chains));
            let mut interrupts = 0;
            for (count, id) in (1_u16..).zip(ids) {
                rig.device.push_used(id, 1);
                interrupts += u16::from(rig.device.interrupt_wanted());
                // It may come early, where chains are longer than one, but not late.
                assert!(interrupts == 1 || count < chains.min(3), "waiting for {chains}: used {count}");
                assert!(interrupts < 2, "one is enough");
            }
            while rig.pop().is_some() {}
            assert_eq!(rig.queue.in_flight(), 0);
        }
    }
    rig.finish();
}

fn an_interrupt_for_chains_that_were_not_committed_is_armed_for_those_that_were<F: Form<Device = PackedDeviceRing>>() {
    for before in 0..11 {
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), ring::<F>(5, true, true));
        bring_to(&mut rig, before);
        rig.submit_small(Tag(1)).unwrap();
        rig.commit();
        let start = rig.device.next_used();
        rig.submit_small(Tag(2)).unwrap();
        // Two are in flight, but the device has only one: waiting for the second would be waiting for ever.
        assert!(rig.queue.enable_interrupts(2));
        assert_eq!(rig.raw().driver_event().unwrap(), RawEvent { position: start.word(), flags: DESC });
        assert_eq!(rig.serve(), 1);
        assert!(rig.device.interrupt_wanted());
        rig.finish();
    }
}

fn interrupts_are_off_until_they_are_enabled_and_off_again_when_disabled<F: Form<Device = PackedDeviceRing>>() {
    for event_idx in [true, false] {
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), ring::<F>(5, true, event_idx));
        let round = |rig: &mut Rig<ScatterMemory, F>| {
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
        assert_eq!(rig.raw().driver_event().unwrap().flags, DISABLE);
        assert!(rig.queue.enable_interrupts(1));
        assert!(round(&mut rig));
        // Nobody takes the request back: with a position, it is for one interrupt only, until the ring was gone around.
        assert_eq!(round(&mut rig), !event_idx);
        assert_eq!(rig.device.violations(), []);
        rig.finish();
    }
}
