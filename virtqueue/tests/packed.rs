//! What a packed ring looks like from the device's end, at every size and through many laps.

mod common;

use common::{Bytes, DeviceEnd, EitherPacked, EitherSplit, Form, Rig, SLOT_BYTES, Tag, in_packed_forms};
use testing_device::{
    DeviceMemory, IommuMemory, PackedDeviceRing, RawPackedDescriptor, RingMover, ScatterMemory, TestMemory,
};
use virtqueue::{
    Access, Either, Memory, MemoryNeed, Notification, Packed, Queue, QueueSetupError, RingFormat, Settings, Split,
};

in_packed_forms! {
    an_indirect_chain_is_one_descriptor_and_a_table_behind_the_slot,
    a_direct_chain_is_one_descriptor_after_the_other,
    nothing_is_available_before_commit,
    chains_go_around_rings_of_every_size,
    direct_chains_of_every_length_cross_the_end_of_the_ring,
    chains_come_back_in_any_order_across_the_end_of_the_ring,
    a_ring_begins_anew_wherever_it_was_at_a_restart,
    every_number_from_4_to_32768_is_a_size,
    areas_are_aligned_and_do_not_overlap,
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A ring of so many entries, with chains as long as that.
fn ring(size: u16, indirect: bool) -> Settings {
    Settings { packed: true, chain_max: size, indirect, event_idx: true, ..Settings::new(size) }
}

/// Submits a chain of so many descriptors: a header, buffers, a status.
fn submit<M: TestMemory, F: Form>(rig: &mut Rig<M, F>, data: &Bytes, descriptors: u16, tag: u32) {
    let mut chain = rig.queue.chain().unwrap();
    chain.slot().store_u32::<0>(tag);
    chain.slot_part(0, 16, Access::DeviceReads).unwrap();
    for _ in 2..descriptors {
        // SAFETY: `data` outlives the rig.
        unsafe { chain.buffer(data.start(), data.len(), Access::DeviceReads) }.unwrap();
    }
    if descriptors > 1 {
        chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
    }
    chain.submit(Tag(tag)).unwrap();
}

/// The number that the header of a chain says.
fn number(memory: &impl DeviceMemory, chain: &testing_device::Chain) -> u32 {
    let mut header = [0; 4];
    memory.read(chain.segments[0].address, &mut header).unwrap();
    u32::from_le_bytes(header)
}

fn an_indirect_chain_is_one_descriptor_and_a_table_behind_the_slot<F: Form<Device = PackedDeviceRing>>() {
    let memory = ScatterMemory::new();
    let mut rig = Rig::<_, F>::new(&memory, Settings { event_idx: false, ..ring(5, true) });
    let data = Bytes::new(123, 400);
    // Two laps and a bit.
    for turn in 0..12_u16 {
        let mut chain = rig.queue.chain().unwrap();
        chain.slot_part(0, 16, Access::DeviceReads).unwrap();
        // SAFETY: `data` outlives the rig.
        unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
        chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
        let token = chain.submit(Tag(turn.into())).unwrap();
        rig.commit();

        let found = rig.raw().descriptor(turn % 5).unwrap();
        let lap = if turn / 5 % 2 == 0 { AVAIL } else { USED };
        assert_eq!((found.bytes, found.id, found.flags), (3 * 16, token.slot(), INDIRECT | lap));
        let slot = found.address - SLOT_BYTES.next_multiple_of(16) as u64;
        let data_address = memory.translate(data.start(), data.len()).unwrap().device_address;
        let table: Vec<_> = (0..3).map(|index| rig.raw().descriptor_at(found.address + 16 * index).unwrap()).collect();
        assert_eq!(
            table,
            [
                RawPackedDescriptor { address: slot, bytes: 16, id: 0, flags: 0 },
                RawPackedDescriptor { address: data_address, bytes: 400, id: 0, flags: WRITE },
                RawPackedDescriptor { address: slot + 16, bytes: 1, id: 0, flags: WRITE },
            ]
        );
        assert_eq!(rig.serve(), 1);
        assert_eq!(rig.pop(), Some(turn.into()));
    }
    rig.finish();
}

fn a_direct_chain_is_one_descriptor_after_the_other<F: Form<Device = PackedDeviceRing>>() {
    let memory = ScatterMemory::new();
    let mut rig = Rig::<_, F>::new(&memory, ring(5, false));
    let data = Bytes::new(0, 64);
    // The third one lies across the end: at 4, 0 and 1.
    for (turn, places, free) in [(0_u32, [0, 1], 3), (1, [2, 3], 3)] {
        submit(&mut rig, &data, 2, turn);
        assert_eq!(rig.queue.free(), free);
        rig.commit();
        let found: Vec<_> = places.iter().map(|&place| rig.raw().descriptor(place).unwrap()).collect();
        assert_eq!([found[0].flags, found[1].flags], [AVAIL | NEXT, AVAIL | WRITE]);
        assert_eq!(rig.serve(), 1);
        assert_eq!(rig.pop(), Some(turn));
    }
    submit(&mut rig, &data, 3, 2);
    rig.commit();
    let found: Vec<_> = [4, 0, 1].iter().map(|&place| rig.raw().descriptor(place).unwrap()).collect();
    let slot = found[0].address;
    let address = memory.translate(data.start(), data.len()).unwrap().device_address;
    let seen: Vec<_> = found.iter().map(|it| (it.address, it.bytes, it.flags)).collect();
    assert_eq!(seen, [(slot, 16, AVAIL | NEXT), (address, 64, USED | NEXT), (slot + 16, 1, USED | WRITE)]);
    assert!(found.iter().all(|it| it.id == found[2].id && it.id < 5), "{found:?}");
    assert_eq!(rig.serve(), 1);
    assert_eq!((rig.pop(), rig.queue.free()), (Some(2), 5));
    rig.finish();
}

fn nothing_is_available_before_commit<F: Form<Device = PackedDeviceRing>>() {
    for indirect in [true, false] {
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), ring(9, indirect));
        let data = Bytes::new(0, 64);
        // Through both kinds of lap.
        for turn in 0..20 {
            let (before, place) = (rig.device.next_available().offset(), rig.device.next_available());
            let flags = rig.raw().flags(before).unwrap();
            for tag in 0..3 {
                submit(&mut rig, &data, 3, 3 * turn + tag);
                assert_eq!(rig.device.pop(), None);
            }
            assert_eq!(rig.raw().flags(before).unwrap(), flags, "held back");
            assert_eq!(rig.queue.in_flight(), 3);
            rig.commit();
            assert!(place.is_available(rig.raw().flags(before).unwrap()));
            assert_eq!(rig.serve(), 3);
            for tag in 0..3 {
                assert_eq!(rig.pop(), Some(3 * turn + tag));
            }
            assert_eq!(rig.queue.commit(), None);
        }
        rig.finish();
    }
}

/// The sizes from the smallest on, most of which are no powers of two.
fn sizes() -> impl Iterator<Item = u16> {
    (4..=33).step_by(if cfg!(miri) { 9 } else { 1 })
}

fn chains_go_around_rings_of_every_size<F: Form<Device = PackedDeviceRing>>() {
    for size in sizes() {
        for indirect in [true, false] {
            let memory = ScatterMemory::new();
            let mut rig =
                Rig::<_, F>::new(&memory, Settings { chain_max: 2, event_idx: false, ..ring(size, indirect) });
            let (mut submitted, mut returned) = (0, 0);
            let laps = if cfg!(miri) { 3 } else { 20 };
            while rig.device.next_used().entries < laps * u64::from(size) {
                // Batches of every length that fits.
                for _ in 0..1 + submitted % u32::from(size) {
                    if rig.submit_small(Tag(submitted)).is_err() {
                        break;
                    }
                    submitted += 1;
                }
                let taken = submitted - returned;
                let entries = u64::from(taken) * if indirect { 1 } else { 2 };
                let next = rig.device.next_available().after(entries).word();
                assert_eq!(rig.queue.commit(), Some(Notification { next }), "where the next one will be");
                assert_eq!(rig.device.notification_data(), Some(next));
                assert_eq!(u32::from(rig.serve()), taken);
                while let Some(tag) = rig.pop() {
                    assert_eq!(tag, returned);
                    returned += 1;
                }
                assert_eq!((returned, rig.queue.free(), rig.queue.in_flight()), (submitted, size, 0));
                assert_eq!(rig.device.next_available(), rig.device.next_used());
            }
            rig.finish();
        }
    }
}

fn direct_chains_of_every_length_cross_the_end_of_the_ring<F: Form<Device = PackedDeviceRing>>() {
    for size in sizes() {
        let memory = IommuMemory::new();
        let mut rig = Rig::<_, F>::new(&memory, ring(size, false));
        let data = Bytes::new(0, 8);
        // Each length at each place of the ring, and at each in both kinds of lap: lengths add up to an uneven number.
        let lengths = (1..=size).chain([1]).step_by(if cfg!(miri) { 5 } else { 1 });
        let turns = if cfg!(miri) { 2 } else { 2 * u32::from(size).min(12) };
        for turn in 0..turns {
            for descriptors in lengths.clone() {
                submit(&mut rig, &data, descriptors, turn);
                assert_eq!(rig.queue.free(), size - descriptors);
                rig.commit();
                let chain = rig.take();
                assert_eq!((chain.segments.len(), number(&memory, &chain)), (usize::from(descriptors), turn));
                rig.device.push_used(chain.id, 0);
                assert_eq!((rig.pop(), rig.pop()), (Some(turn), None));
                assert_eq!((rig.queue.free(), memory.mapped()), (size, 0));
            }
        }
        rig.finish();
    }
}

fn chains_come_back_in_any_order_across_the_end_of_the_ring<F: Form<Device = PackedDeviceRing>>() {
    for size in [7, 9, 12] {
        for indirect in [true, false] {
            let memory = IommuMemory::new();
            let mut rig = Rig::<_, F>::new(&memory, ring(size, indirect));
            let data = Bytes::new(0, 8);
            for turn in 0..if cfg!(miri) { 4 } else { 6 * usize::from(size) } {
                // Chains of one, two and three descriptors, in turn.
                for tag in 0..3_u16 {
                    submit(&mut rig, &data, 1 + tag, tag.into());
                }
                rig.commit();
                let mut chains: Vec<_> = (0..3).map(|_| rig.take()).collect();
                chains.rotate_left(turn % 3);
                if turn % 2 == 0 {
                    chains.swap(0, 1);
                }
                for chain in &chains {
                    // The place where it comes back has nothing to do with where it was.
                    let place = rig.device.next_used();
                    rig.device.push_used(chain.id, 0);
                    let found = rig.raw().descriptor(place.offset()).unwrap();
                    assert_eq!((found.id, found.flags & (AVAIL | USED)), (chain.id, place.used().bits()));
                }
                for chain in &chains {
                    let tag = number(&memory, chain);
                    assert_eq!(rig.pop(), Some(tag));
                }
                assert_eq!((rig.pop(), rig.queue.free(), memory.mapped()), (None, size, 0));
            }
            rig.finish();
        }
    }
}

fn a_ring_begins_anew_wherever_it_was_at_a_restart<F: Form<Device = PackedDeviceRing>>() {
    // From every place of two laps, with a chain in flight and one that was not committed.
    for entries in (0..12).step_by(if cfg!(miri) { 7 } else { 1 }) {
        let memory = ScatterMemory::new();
        let mut rig = Rig::<_, F>::new(&memory, ring(5, true));
        for tag in 0..entries {
            rig.submit_small(Tag(tag)).unwrap();
            rig.commit();
            assert_eq!((rig.serve(), rig.pop()), (1, Some(tag)));
        }
        let token = rig.submit_small(Tag(100)).unwrap();
        rig.commit();
        let late = rig.submit_small(Tag(101)).unwrap();
        // SAFETY: the device's end is replaced.
        unsafe { rig.queue.restart() };
        let _ = rig.queue.areas();
        rig.device = PackedDeviceRing::new(rig.raw().memory().clone(), *rig.device.setup());
        rig.device.assert_zeroed();
        // SAFETY: the ring was restarted, and each is reissued once.
        assert!(unsafe { rig.queue.reissue(late) } && unsafe { rig.queue.reissue(token) });
        assert_eq!(rig.queue.commit(), Some(Notification { next: 2 | 0x8000 }));
        assert_eq!(rig.serve(), 2);
        assert_eq!([rig.pop(), rig.pop(), rig.pop()], [Some(101), Some(100), None]);
        rig.finish();
    }
}

fn every_number_from_4_to_32768_is_a_size<F: Form<Device = PackedDeviceRing>>() {
    let memory = ScatterMemory::new();
    for size in [0, 1, 2, 3, 32769, 40000, u16::MAX] {
        let refused = Queue::<_, Tag, F::Format>::new(memory.clone(), Settings { packed: true, ..Settings::new(size) });
        assert_eq!(refused.err(), Some(QueueSetupError::Size { size }));
    }
    memory.assert_clean();
    let sizes: &[u16] = if cfg!(miri) { &[4, 5] } else { &[4, 5, 6, 255, 257, 1000, 32767, 32768] };
    for &size in sizes {
        let mut rig = Rig::<_, F>::new(&memory, Settings { chain_max: 2, ..ring(size, false) });
        // Once around, as full as can be, and over the end.
        for _ in 0..2 {
            for tag in 0..size / 2 {
                rig.submit_small(Tag(tag.into())).unwrap();
            }
            assert_eq!(rig.queue.free(), size % 2);
            rig.commit();
            assert_eq!(rig.serve(), size / 2);
            for tag in 0..size / 2 {
                assert_eq!(rig.pop(), Some(tag.into()));
            }
        }
        rig.finish();
    }
}

fn areas_are_aligned_and_do_not_overlap<F: Form<Device = PackedDeviceRing>>() {
    for size in [4, 5, 16, 255, 256, 1000_u16] {
        let memory = ScatterMemory::new();
        let rig = Rig::<_, F>::new(&memory, ring(size, true));
        let setup = *rig.device.setup();
        assert_eq!((setup.descriptor_area % 16, setup.driver_area % 4, setup.device_area % 4), (0, 0, 0));
        assert!(setup.driver_area >= setup.descriptor_area + 16 * u64::from(size));
        assert!(setup.device_area >= setup.driver_area + 4);
        rig.device.assert_zeroed();
        rig.finish();
    }
}

#[test]
fn the_memory_need_can_be_evaluated_while_compiling() {
    const SETTINGS: Settings = Settings { packed: true, chain_max: 4, indirect: true, ..Settings::new(12) };
    const NEED: MemoryNeed = Queue::<ScatterMemory, Tag, Packed>::memory_need(&SETTINGS);
    // Room for 16 descriptors, and the two suppression structures.
    assert_eq!(NEED.ring, 256 + 4 + 4);
    // 20 bytes and a table of 4 descriptors of 16 bytes, at the next multiple of 64.
    assert_eq!(NEED.slots, 12 * 128);
}

#[test]
fn a_queue_has_the_ring_that_was_negotiated_or_none() {
    fn outcome<R: RingFormat>(packed: bool) -> Result<(), QueueSetupError> {
        let settings = Settings { packed, ..Settings::new(8) };
        Queue::<_, Tag, R>::new(ScatterMemory::new(), settings).map(drop)
    }
    let refused = |packed| Err(QueueSetupError::Format { packed, in_order: false });
    assert_eq!([outcome::<Split>(false), outcome::<Split>(true)], [Ok(()), refused(true)]);
    assert_eq!([outcome::<Packed>(false), outcome::<Packed>(true)], [refused(false), Ok(())]);
    assert_eq!([outcome::<Either>(false), outcome::<Either>(true)], [Ok(()), Ok(())]);
}

#[test]
fn either_takes_what_the_form_that_was_negotiated_takes() {
    fn areas<F: Form>(size: u16) -> (u64, u64) {
        let rig = Rig::<_, F>::new(&ScatterMemory::new(), Settings { packed: F::PACKED, ..Settings::new(size) });
        let setup = *rig.device.setup();
        rig.finish();
        (setup.driver_area - setup.descriptor_area, setup.device_area - setup.driver_area)
    }
    assert_eq!(areas::<EitherSplit>(16), areas::<Split>(16));
    assert_eq!(areas::<EitherPacked>(16), areas::<Packed>(16));
    assert_ne!(areas::<EitherSplit>(16), areas::<EitherPacked>(16));
    let refused = Queue::<_, Tag, Either>::new(ScatterMemory::new(), Settings::new(12)).err();
    assert_eq!(refused, Some(QueueSetupError::Size { size: 12 }), "as a split ring");
}
