//! Which chain comes back when, and how it is named.

mod common;

use common::{Bytes, Form, Rig, Tag, in_every_form, of_size, settings, shapes};
use testing_device::{IommuMemory, RingMover, ScatterMemory};
use virtqueue::{Access, Settings};

in_every_form! {
    the_index_wraps_and_every_chain_comes_back_once,
    chains_come_back_in_whatever_order_the_device_chooses,
    the_written_length_is_bounded_by_what_the_device_was_allowed_to_write,
    a_used_chain_stays_until_it_is_taken,
    a_token_never_names_a_later_chain_in_the_same_slot,
    a_notification_is_not_needed_for_the_driver_to_see_what_is_used,
}

/// More than the 16-bit index wraps in.
const CHAINS: u32 = if cfg!(miri) { 20 } else { 65536 + 1000 };

fn the_index_wraps_and_every_chain_comes_back_once<F: Form>() {
    let large = if cfg!(miri) { 16 } else { 256 };
    for (size, indirect) in [(4, true), (4, false), (large, true), (large, false)] {
        let settings = Settings { chain_max: 2, indirect, event_idx: true, ..of_size::<F>(size) };
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
        let (mut submitted, mut returned) = (0, 0);
        while returned < CHAINS {
            // Batches of every length that fits.
            for _ in 0..1 + submitted % u32::from(size) {
                if rig.submit_small(Tag(submitted)).is_err() {
                    break;
                }
                submitted += 1;
            }
            rig.commit();
            rig.serve();
            while let Some(tag) = rig.pop() {
                assert_eq!(tag, returned);
                returned += 1;
            }
            assert_eq!((returned, rig.queue.free()), (submitted, size));
        }
        rig.finish();
    }
}

fn permutations(of: &[usize]) -> Vec<Vec<usize>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, first) in of.iter().enumerate() {
        let mut rest = of.to_vec();
        rest.remove(index);
        all.extend(permutations(&rest).into_iter().map(|tail| [vec![*first], tail].concat()));
    }
    all
}

fn chains_come_back_in_whatever_order_the_device_chooses<F: Form>() {
    for settings in shapes::<F>(16, 4) {
        let memory = IommuMemory::new();
        let mut rig = Rig::<_, F>::new(&memory, settings);
        // Of different lengths, so that in direct mode the descriptors of chains get mixed.
        let data: Vec<_> = (0..4).map(|index| Bytes::new(4096 - 8, 8 + index % 2)).collect();
        let step = if cfg!(miri) { 11 } else { 1 };
        for (turn, order) in permutations(&[0, 1, 2, 3]).into_iter().enumerate().step_by(step) {
            let mut tokens = Vec::new();
            for (index, data) in data.iter().enumerate() {
                let mut chain = rig.queue.chain().unwrap();
                // SAFETY: `data` outlives the rig.
                unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
                tokens.push(chain.submit(Tag(index as u32)).unwrap());
            }
            rig.commit();
            let chains: Vec<_> = (0..4).map(|_| rig.take()).collect();
            for &index in &order {
                rig.device.push_used(chains[index].id, turn as u32 % 9);
            }
            for &index in &order {
                let used = rig.queue.pop().unwrap().unwrap();
                assert_eq!((used.token(), used.written_bytes()), (tokens[index], turn as u32 % 9));
                assert_eq!(used.take(), Tag(index as u32), "order {order:?}");
            }
            assert_eq!((memory.mapped(), rig.queue.free()), (0, 16));
        }
        rig.finish();
    }
}

fn the_written_length_is_bounded_by_what_the_device_was_allowed_to_write<F: Form>() {
    for settings in shapes::<F>(8, 4) {
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
        let data = Bytes::new(0, 100);
        for (says, expected) in [(0, 0), (1, 1), (101, 101), (102, 101), (117, 101), (u32::MAX, 101)] {
            let mut chain = rig.queue.chain().unwrap();
            chain.slot_part(0, 16, Access::DeviceReads).unwrap();
            // SAFETY: `data` outlives the rig.
            unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
            chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
            chain.submit(Tag(1)).unwrap();
            rig.commit();
            let id = rig.take().id;
            rig.device.push_used(id, says);
            let used = rig.queue.pop().unwrap().unwrap();
            assert_eq!(used.written_bytes(), expected, "the device says {says}");
            used.take();
        }
        rig.finish();
    }
}

fn a_used_chain_stays_until_it_is_taken<F: Form>() {
    for settings in shapes::<F>(4, 2) {
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
        let token = rig.submit_small(Tag(7)).unwrap();
        assert_eq!(rig.queue.attachment(token), Some(&mut Tag(7)));
        assert!(rig.queue.used(token).is_none(), "in flight");
        rig.commit();
        rig.serve();
        assert!(rig.queue.used(token).is_none(), "not popped");
        let _ = rig.queue.pop().unwrap().unwrap();
        assert!(rig.queue.pop().unwrap().is_none(), "it is not found a second time");
        assert_eq!((rig.queue.in_flight(), rig.queue.free() < 4), (0, true));

        let mut used = rig.queue.used(token).unwrap();
        assert_eq!((used.token(), used.written_bytes()), (token, 1));
        used.attachment().0 = 8;
        assert_eq!(rig.queue.attachment(token), Some(&mut Tag(8)));
        assert_eq!(rig.queue.used(token).unwrap().take(), Tag(8));
        assert!(rig.queue.used(token).is_none() && rig.queue.attachment(token).is_none());
        assert_eq!(rig.queue.free(), 4);
        rig.finish();
    }
}

fn a_token_never_names_a_later_chain_in_the_same_slot<F: Form>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(true, false));
    let mut old = Vec::new();
    for tag in 0..if cfg!(miri) { 20 } else { 100 } {
        let token = rig.submit_small(Tag(tag)).unwrap();
        assert!(token.slot() < 8);
        assert!(!old.contains(&token));
        rig.commit();
        rig.serve();
        let _ = rig.queue.pop().unwrap().unwrap();
        for &stale in &old {
            assert!(rig.queue.used(stale).is_none(), "{stale:?} is not {token:?}");
            assert!(rig.queue.attachment(stale).is_none());
        }
        assert_eq!(rig.queue.used(token).unwrap().take(), Tag(tag));
        old.push(token);
    }
    assert!(old.iter().any(|token| *token != old[0] && token.slot() == old[0].slot()), "a slot was used again");
    rig.finish();
}

fn a_notification_is_not_needed_for_the_driver_to_see_what_is_used<F: Form>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(true, true));
    assert!(!rig.queue.has_used());
    rig.submit_small(Tag(1)).unwrap();
    rig.submit_small(Tag(2)).unwrap();
    rig.commit();
    assert!(!rig.queue.has_used());
    let first = rig.take();
    rig.device.push_used(first.id, 1);
    assert!(rig.queue.has_used());
    assert_eq!(rig.pop(), Some(1));
    assert!(!rig.queue.has_used());
    rig.serve();
    assert!(rig.queue.has_used());
    assert_eq!(rig.pop(), Some(2));
    rig.finish();
}
