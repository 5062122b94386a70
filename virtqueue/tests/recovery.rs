//! What becomes of chains in flight when the device was reset and the ring begins anew.

mod common;

use std::sync::Arc;

use common::{Bytes, DeviceEnd, Form, Rig, Tag, in_every_form, pattern, settings, shapes};
use testing_device::{IommuMemory, RingMover, ScatterMemory, TestMemory};
use virtqueue::{Access, Settings, Token, Violation};

in_every_form! {
    chains_are_reissued_or_retired_one_by_one,
    a_broken_queue_works_again_after_a_restart,
    a_queue_restarts_as_often_as_it_must,
    a_token_of_another_chain_is_neither_reissued_nor_retired,
}

/// The device is reset.
fn restart<M: TestMemory, F: Form>(rig: &mut Rig<M, F>) {
    assert!(rig.queue.exposed());
    // SAFETY: the device's end is not used before it is replaced.
    unsafe { rig.queue.restart() };
    assert!(!rig.queue.exposed());
}

/// The device is told of the queue again.
fn tell<M: TestMemory, F: Form>(rig: &mut Rig<M, F>) {
    let setup = *rig.device.setup();
    assert_eq!(rig.queue.areas().descriptor_area, setup.descriptor_area);
    rig.device = F::Device::new(Arc::new(rig.memory.clone()), setup);
    rig.device.assert_zeroed();
}

fn in_flight<M: TestMemory, F: Form>(rig: &Rig<M, F>) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut from = 0;
    while let Some(token) = rig.queue.in_flight_from(from) {
        from = token.slot() + 1;
        tokens.push(token);
    }
    tokens
}

fn submit<M: TestMemory, F: Form>(rig: &mut Rig<M, F>, data: &Bytes, tag: u32) -> Token {
    let mut chain = rig.queue.chain().unwrap();
    chain.slot().store_u32::<0>(tag);
    chain.slot_part(0, 16, Access::DeviceReads).unwrap();
    // SAFETY: `data` outlives the rig.
    unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
    chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
    chain.submit(Tag(tag)).unwrap()
}

fn some_again_some_not<M: TestMemory, F: Form>(memory: &M, settings: Settings) {
    let mut rig = Rig::<_, F>::new(memory, settings);
    let data: Vec<_> = (0..4).map(|_| Bytes::new(4096 - 10, 20)).collect();
    // Uneven indices on both rings.
    rig.submit_small(Tag(9)).unwrap();
    rig.commit();
    rig.serve();
    assert_eq!(rig.pop(), Some(9));

    let tokens: Vec<_> = data.iter().zip(0..).map(|(data, tag)| submit(&mut rig, data, tag)).collect();
    rig.commit();
    // One is used and not popped when the reset comes, one is in the device's hand, two are on the ring.
    let first = rig.take();
    let _ = rig.take();
    rig.device.push_used(first.id, 21);
    restart(&mut rig);
    assert_eq!(rig.pop(), None, "what the device said before is void");
    let mut sorted = tokens.clone();
    sorted.sort_by_key(|token| token.slot());
    assert_eq!(in_flight(&rig), sorted);

    for tag in [1, 2] {
        // SAFETY: the ring was restarted, and neither was reissued.
        assert!(unsafe { rig.queue.retire(tokens[tag]) });
        // SAFETY: as before; it is not in flight any more.
        assert!(!unsafe { rig.queue.retire(tokens[tag]) } && !unsafe { rig.queue.reissue(tokens[tag]) });
        let used = rig.queue.used_in_slot(tokens[tag].slot()).unwrap();
        assert_eq!((used.token(), used.written_bytes()), (tokens[tag], 0));
        assert_eq!(used.take(), Tag(tag as u32));
    }
    tell(&mut rig);
    assert_eq!(rig.device.pop(), None, "nothing is on the ring by itself");
    for tag in [3, 0] {
        // SAFETY: the ring was restarted, and each is reissued once.
        assert!(unsafe { rig.queue.reissue(tokens[tag]) });
    }
    // One more, in a slot that became free.
    let late = Bytes::new(0, 20);
    submit(&mut rig, &late, 4);
    rig.commit();
    for (tag, data) in [(3, &data[3]), (0, &data[0]), (4, &late)] {
        let chain = rig.take();
        let mut header = [0; 4];
        memory.read(chain.segments[0].address, &mut header).unwrap();
        assert_eq!(u32::from_le_bytes(header), tag, "in the order of reissuing");
        let answer = pattern(20, tag.into());
        let mut done = 0;
        for piece in &chain.segments[1..chain.segments.len() - 1] {
            let bytes = piece.bytes as usize;
            memory.write(piece.address, &answer[done..done + bytes]).unwrap();
            done += bytes;
        }
        rig.device.push_used(chain.id, 21);
        assert_eq!(rig.pop(), Some(tag));
        assert_eq!(data.get(), answer);
    }
    assert_eq!(data[1].get(), [0; 20]);
    assert_eq!((rig.queue.in_flight(), rig.queue.free(), rig.pop()), (0, settings.size, None));
    rig.finish();
}

fn chains_are_reissued_or_retired_one_by_one<F: Form>() {
    for settings in shapes::<F>(32, 5) {
        for event_idx in [true, false] {
            let settings = Settings { event_idx, ..settings };
            some_again_some_not::<_, F>(&ScatterMemory::new(), settings);
            some_again_some_not::<_, F>(&IommuMemory::new(), settings);
        }
    }
}

fn a_broken_queue_works_again_after_a_restart<F: Form>() {
    for settings in shapes::<F>(8, 2) {
        let mut rig = Rig::<_, F>::new(&IommuMemory::new(), settings);
        let token = rig.submit_small(Tag(1)).unwrap();
        rig.commit();
        rig.device.push_raw(1000, 1);
        let violation = Violation::IdOutOfRange { id: 1000, size: 8 };
        assert_eq!(rig.queue.pop().err(), Some(violation));
        restart(&mut rig);
        assert_eq!(rig.queue.broken(), None);
        tell(&mut rig);
        // SAFETY: the ring was restarted.
        assert!(unsafe { rig.queue.reissue(token) });
        rig.submit_small(Tag(2)).unwrap();
        rig.commit();
        assert_eq!(rig.serve(), 2);
        assert_eq!([rig.pop(), rig.pop(), rig.pop()], [Some(1), Some(2), None]);
        rig.finish();
    }
}

fn a_queue_restarts_as_often_as_it_must<F: Form>() {
    let turns = if cfg!(miri) { 5 } else { 200 };
    for settings in [settings::<F>(true, true), settings::<F>(false, true)] {
        let mut rig = Rig::<_, F>::new(&IommuMemory::new(), settings);
        let data = Bytes::new(4090, 12);
        let token = submit(&mut rig, &data, 7);
        rig.commit();
        for _ in 0..turns {
            let _ = rig.take();
            restart(&mut rig);
            tell(&mut rig);
            // SAFETY: the ring was restarted, and it is reissued once.
            assert!(unsafe { rig.queue.reissue(token) });
            rig.commit();
        }
        rig.serve();
        assert_eq!(rig.pop(), Some(7));
        assert_eq!(rig.queue.free(), 8);
        rig.finish();
    }
}

fn a_token_of_another_chain_is_neither_reissued_nor_retired<F: Form>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(true, false));
    let stale = rig.submit_small(Tag(1)).unwrap();
    rig.commit();
    rig.serve();
    assert_eq!(rig.pop(), Some(1));
    restart(&mut rig);
    tell(&mut rig);
    let mut tokens = Vec::new();
    while let Ok(token) = rig.submit_small(Tag(2)) {
        tokens.push(token);
    }
    assert!(tokens.iter().any(|token| token.slot() == stale.slot()), "the slot is taken again");
    // SAFETY: nothing happens, as the token is stale.
    assert!(!unsafe { rig.queue.reissue(stale) } && !unsafe { rig.queue.retire(stale) });
    assert_eq!(rig.queue.in_flight(), 8);
    rig.commit();
    assert_eq!(rig.serve(), 8);
    rig.finish();
}
