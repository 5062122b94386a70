//! The device's packed ring, driven by hand.

mod raw;

use raw::packed::{AVAIL, PackedQueue, USED};
use raw::{DATA, Driver, NEXT, Request, TABLE, WRITE, base};
#[cfg(not(miri))]
use testing_device::BounceMemory;
use testing_device::{
    BlockDevice, Builder, IommuMemory, Mode, Order, Outcome, RawEvent, ScatterMemory, TestMemory, UsedLength,
};
use virtio_spec::Features;
use virtio_spec::block::{BlockFeatures, RequestType};
use virtio_spec::mmio::Register;

const INDIRECT_DESC: u64 = Features::INDIRECT_DESC.bits();
const EVENT_IDX: u64 = Features::EVENT_IDX.bits();

fn packed<M: TestMemory>(memory: &M, mode: Mode) -> Driver<M> {
    Driver::new(BlockDevice::builder().packed().mode(mode), memory, false)
}

fn read<M: TestMemory>(memory: &M, sector: u64) -> Request<M> {
    Request::new(memory, RequestType::IN, sector)
}

/// Writes, reads back and flushes, in lists and in indirect tables, around the ring many times.
fn laps<M: TestMemory>(memory: &M, builder: Builder, size: u16, features: u64) {
    let driver = Driver::new(builder, memory, false);
    let mut queue = driver.ready_packed(base(false) | BlockFeatures::FLUSH.bits() | features, size);
    let rounds = if cfg!(miri) { 3 } else { 4 * u64::from(size) };
    for round in 0..rounds {
        let (id, sector, fill) = ((round * 7 % u64::from(size)) as u16, round % 64, round as u8);
        let write = Request::new(memory, RequestType::OUT, sector);
        write.0.write(DATA, &[fill; 1024]);
        let pieces = write.pieces(1024, false);
        if features & INDIRECT_DESC != 0 && round % 3 != 0 {
            let table = write.packed_table(TABLE, &pieces);
            queue.list(id, &[table]);
        } else {
            queue.list(id, &pieces);
        }
        driver.notify(0);
        assert_eq!(queue.used().map(|used| (used.0, used.1)), Some((id, 1)), "round {round}");
        assert_eq!(write.status(), 0);
        assert_eq!(driver.device.read_disk(sector, 2), [fill; 1024]);

        let back = read(memory, sector + 1);
        queue.list(id, &back.pieces(512, true));
        driver.notify(0);
        let (used, bytes, flags) = queue.used().expect("the read");
        assert_eq!((used, bytes, flags & WRITE), (id, 513, WRITE));
        assert_eq!((back.status(), back.0.read(DATA, 512)), (0, vec![fill; 512]));

        let flush = Request::new(memory, RequestType::FLUSH, 0);
        queue.list(id, &flush.no_data());
        driver.notify(0);
        assert_eq!(queue.used().map(|used| used.0), Some(id));
    }
    assert_eq!(queue.used(), None);
    assert_eq!(driver.device.counts().needless_notifications, 0);
    driver.reset();
    driver.device.assert_conformant();
    drop((queue, driver));
    memory.assert_clean();
}

#[test]
fn requests_go_around_rings_of_any_size() {
    let sizes: &[u16] = if cfg!(miri) { &[3] } else { &[3, 4, 5, 7, 16] };
    for &size in sizes {
        for features in [0, INDIRECT_DESC, EVENT_IDX, INDIRECT_DESC | EVENT_IDX] {
            laps(&ScatterMemory::new(), BlockDevice::builder().packed(), size, features);
        }
    }
    #[cfg(not(miri))]
    laps(&IommuMemory::new(), BlockDevice::builder().packed(), 6, INDIRECT_DESC);
    #[cfg(not(miri))]
    laps(&BounceMemory::new(), BlockDevice::builder().packed(), 6, EVENT_IDX);
}

#[test]
#[cfg(not(miri))]
fn the_largest_ring_wraps() {
    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder().packed().queue_size_max(32768), &memory, false);
    let mut queue = driver.ready_packed(base(false) | EVENT_IDX, 32768);
    let request = read(&memory, 1);
    const ROUNDS: u32 = 2 * 32768 / 3 + 2;
    for _ in 0..ROUNDS {
        queue.list(32767, &request.pieces(512, true));
        driver.notify(0);
        assert_eq!(queue.used().map(|used| used.0), Some(32767));
    }
    assert_eq!(queue.next, ((3 * ROUNDS % 32768) as u16, true), "in the third lap");
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn what_is_not_available_is_not_taken() {
    let memory = ScatterMemory::new();
    let driver = packed(&memory, Mode::Manual);
    let mut queue = driver.ready_packed(base(false), 4);
    let request = read(&memory, 1);
    let [header, data, status] = request.pieces(512, true)[..] else { unreachable!() };

    // All but the flags of the first one: nothing is there yet.
    for (offset, (address, bytes, flags)) in [(0, header), (1, data), (2, status)] {
        queue.fill(offset, address, bytes, 9);
        if offset > 0 {
            queue.set_flags(offset, flags | AVAIL | if offset == 1 { NEXT } else { 0 });
        }
    }
    assert!(driver.device.take().is_none());
    // Flags of the other lap, and of used descriptors.
    for flags in [USED, AVAIL | USED, 0] {
        queue.set_flags(0, NEXT | flags);
        assert!(driver.device.take().is_none(), "{flags:#x}");
    }
    queue.set_flags(0, NEXT | AVAIL);
    driver.notify(0);
    queue.lists.insert(9, 3);
    assert_eq!((driver.device.run(), queue.used().map(|used| used.0)), (1, Some(9)));
    assert_eq!(queue.seen, (3, true));
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn used_descriptors_come_in_the_order_of_completion() {
    let memory = ScatterMemory::new();
    let driver = packed(&memory, Mode::Manual);
    let mut queue = driver.ready_packed(base(false) | INDIRECT_DESC, 8);
    let requests: Vec<_> = (0..4).map(|sector| read(&memory, sector)).collect();
    // Lists of 3, 1, 3 and 1 descriptors: the ring is full.
    for (id, request) in (0u16..).zip(&requests) {
        let pieces = request.pieces(512, true);
        if id % 2 == 0 {
            queue.list(id, &pieces);
        } else {
            let table = request.packed_table(TABLE, &pieces);
            queue.list(id, &[table]);
        }
    }
    driver.notify(0);
    driver.device.faults(|faults| faults.order = Order::Lifo);
    assert_eq!(driver.device.run(), 4);
    assert_eq!(driver.device.counts().interrupts, 1);
    // The used descriptors lie where the driver looks: at 0, 1, 4 and 5.
    for (id, seen) in [(3, (1, true)), (2, (4, true)), (1, (5, true)), (0, (0, false))] {
        assert_eq!(queue.used().map(|used| (used.0, used.1)), Some((id, 513)));
        assert_eq!(queue.seen, seen);
    }
    assert_eq!(queue.used(), None);
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn interrupts_follow_the_drivers_event_suppression() {
    let memory = ScatterMemory::new();
    let driver = packed(&memory, Mode::Immediate);
    let mut queue = driver.ready_packed(base(false) | EVENT_IDX, 5);
    let request = read(&memory, 1);
    let once = |queue: &mut PackedQueue<_>| {
        let before = driver.device.counts().interrupts;
        queue.list(2, &request.pieces(512, true));
        driver.notify(0);
        assert!(queue.used().is_some());
        driver.device.counts().interrupts - before
    };
    assert_eq!(once(&mut queue), 1, "0: every one");
    queue.set_event(0, 1);
    assert_eq!(once(&mut queue), 0, "1: none");
    // Now at offset 1 in the second lap; its list takes 1, 2, 3.
    assert_eq!(queue.seen, (1, false));
    // The third entry of the list at 1; an entry passed in the lap before; the first entry of the list at 2, which
    // begins the third lap; one that this list does not reach.
    for (event, interrupts) in [(3, 1), (4 | 0x8000, 0), (2 | 0x8000, 1), (3, 0)] {
        queue.set_event(event, 2);
        assert_eq!(once(&mut queue), interrupts, "{event:#x} at {:?}", queue.seen);
    }
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn the_devices_event_suppression_names_the_next_place() {
    let memory = ScatterMemory::new();
    let driver = packed(&memory, Mode::Immediate);
    let mut queue = driver.ready_packed(base(false) | EVENT_IDX, 5);
    assert_eq!(queue.device_event(), (0, 0), "as the driver left it");
    for _ in 0..7 {
        let request = read(&memory, 1);
        queue.list(0, &request.pieces(512, true));
        driver.notify(0);
        assert!(queue.used().is_some());
        assert_eq!(queue.device_event(), (queue.word(queue.next), 2));
    }
    driver.device.want_notifications(false);
    assert_eq!(queue.device_event().1, 1);
    driver.device.want_notifications(true);
    driver.reset();

    let mut queue = driver.ready_packed(base(false), 5);
    let request = read(&memory, 1);
    driver.device.want_notifications(false);
    assert_eq!(queue.device_event(), (0, 1));
    queue.list(0, &request.pieces(512, true));
    assert_eq!(driver.device.run(), 1, "without a notification");
    driver.device.want_notifications(true);
    assert_eq!(queue.device_event(), (0, 0));
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn notifications_carry_the_next_place() {
    let memory = ScatterMemory::new();
    let feature = Features::NOTIFICATION_DATA.bits();
    let driver = Driver::new(BlockDevice::builder().packed().offer(feature), &memory, false);
    let mut queue = driver.ready_packed(base(false) | feature, 5);
    for round in 0..7 {
        let request = read(&memory, 1);
        queue.list(round, &request.pieces(512, true));
        driver.write(Register::QUEUE_NOTIFY, u32::from(queue.word(queue.next)) << 16);
        assert!(queue.used().is_some(), "round {round}");
    }
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn completions_lie() {
    let honest = Outcome::HONEST;
    let used = AVAIL | USED;
    for (outcome, expected) in [
        (honest, vec![(2, 513, used | WRITE)]),
        (Outcome { id: Some(5), ..honest }, vec![(5, 513, used | WRITE)]),
        (Outcome { id: Some(0x1_0003), ..honest }, vec![(3, 513, used | WRITE)]),
        (Outcome { length: UsedLength::Value(u32::MAX), ..honest }, vec![(2, u32::MAX, used | WRITE)]),
        (Outcome { repeat: 1, ..honest }, vec![(2, 513, used | WRITE), (2, 513, used | WRITE)]),
        (Outcome { flags: used, ..honest }, vec![]),
        (Outcome { flags: USED, ..honest }, vec![]),
        (Outcome { flags: WRITE | NEXT, ..honest }, vec![(2, 513, used | NEXT)]),
    ] {
        let memory = ScatterMemory::new();
        let driver = packed(&memory, Mode::Immediate);
        let mut queue = driver.ready_packed(base(false), 8);
        driver.device.faults(|faults| faults.next.push_back(outcome));
        let request = read(&memory, 1);
        queue.list(2, &request.pieces(512, true));
        driver.notify(0);
        let seen: Vec<_> = std::iter::from_fn(|| queue.used()).collect();
        assert_eq!(seen, expected, "{outcome:?}");
        driver.reset();
        driver.device.assert_conformant();
    }
}

#[test]
fn a_device_that_skips_writes_too_far_on() {
    let memory = ScatterMemory::new();
    let driver = packed(&memory, Mode::Immediate);
    let mut queue = driver.ready_packed(base(false), 8);
    driver.device.faults(|faults| faults.next.push_back(Outcome { skip: 2, ..Outcome::HONEST }));
    for (id, arrives) in [(0, true), (1, false)] {
        let request = read(&memory, 1);
        queue.list(id, &request.pieces(512, true));
        driver.notify(0);
        assert_eq!(queue.used().is_some(), arrives);
        assert_eq!(request.status(), 0);
    }
    assert_eq!(queue.flags(5) & (AVAIL | USED), AVAIL | USED, "at 3 + 2");
    driver.reset();
}

#[test]
fn rings_are_poked() {
    let memory = ScatterMemory::new();
    let driver = packed(&memory, Mode::Immediate);
    let mut queue = driver.ready_packed(base(false), 3);
    assert!(driver.device.raw_ring(0).is_none());
    let ring = driver.device.raw_packed_ring(0).unwrap();
    assert_eq!(driver.device.queue_size(0), Some(3));
    driver.device.push_raw(0, 0x1_0007, 0);
    assert_eq!(queue.used(), Some((7, 0, AVAIL | USED)));
    driver.device.skip_used(0, 1);
    driver.device.push_raw(0, 1, 5);
    assert_eq!(queue.used(), None);
    queue.seen = (2, true);
    assert_eq!(queue.used(), Some((1, 5, AVAIL | USED | WRITE)));
    // The next lap.
    driver.device.push_raw(0, 2, 5);
    assert_eq!(queue.used(), Some((2, 5, WRITE)));
    ring.set_device_event(RawEvent { position: 0x8001, flags: 3 }).unwrap();
    assert_eq!(queue.device_event(), (0x8001, 3));
    ring.set_id(4, 0x55, 0x66).unwrap();
    ring.set_flags(1, 0x77).unwrap();
    let descriptor = ring.descriptor(1).unwrap();
    assert_eq!((descriptor.id, descriptor.bytes, descriptor.flags), (0x55, 0x66, 0x77));
    driver.reset();
}
