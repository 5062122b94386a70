//! What a test can make the device do wrong arrives at the driver, with both movers of rings.

mod raw;

use raw::{DATA, Driver, Queue, Request, base};
use testing_device::{
    BlockDevice, Builder, Data, Flicker, Generation, Outcome, QueueResetAnswer, ScatterMemory, StatusByte, TestMemory,
    UsedLength,
};
#[cfg(not(miri))]
use testing_device::{BounceMemory, Mover};
use virtio_spec::block::{BlockFeatures, RequestStatus, RequestType};
use virtio_spec::mmio::Register;
use virtio_spec::{DeviceStatus, Features, InterruptStatus};
use virtio_transport::Registers;

/// A test in one set-up.
trait Test {
    fn run<M: TestMemory>(&self, builder: Builder, memory: &M);
}

fn with_both_movers(test: &impl Test) {
    test.run(BlockDevice::builder(), &ScatterMemory::new());
    #[cfg(not(miri))]
    test.run(BlockDevice::builder().mover(Mover::RustVmm), &BounceMemory::new());
}

/// Reads sector 1, full of 0xaa, with an outcome. Returns the used elements, the status and how many of the data's
/// bytes arrived.
fn read_sector<M: TestMemory>(builder: Builder, memory: &M, outcome: Outcome) -> (Vec<(u32, u32)>, u8, usize) {
    let driver = Driver::new(builder, memory, false);
    driver.device.write_disk(1, &[0xaa; 512]);
    let mut queue = driver.ready(base(false), 4);
    driver.device.faults(|faults| faults.next.push_back(outcome));
    let request = Request::new(memory, RequestType::IN, 1);
    driver.chain(&queue, &request, 512, true);
    driver.submit(&mut queue, 0);
    let used = std::iter::from_fn(|| queue.used()).collect();
    let arrived = request.0.read(DATA, 512).iter().filter(|byte| **byte == 0xaa).count();
    let status = request.status();
    driver.reset();
    driver.device.assert_conformant();
    (used, status, arrived)
}

#[test]
fn completions_lie() {
    struct Lies;
    impl Test for Lies {
        fn run<M: TestMemory>(&self, builder: Builder, memory: &M) {
            let honest = Outcome::HONEST;
            for (outcome, expected) in [
                (honest, (vec![(0, 513)], 0, 512)),
                (Outcome::failure(RequestStatus::IOERR), (vec![(0, 0)], 1, 0)),
                (Outcome::status_byte(0x77), (vec![(0, 513)], 0x77, 512)),
                (Outcome { status: StatusByte::Unwritten, ..honest }, (vec![(0, 512)], 0xee, 512)),
                (Outcome { data: Data::Unwritten, ..honest }, (vec![(0, 0)], 0, 0)),
                (Outcome { data: Data::Short(7), ..honest }, (vec![(0, 7)], 0, 7)),
                (Outcome { length: UsedLength::Value(0), ..honest }, (vec![(0, 0)], 0, 512)),
                (Outcome { length: UsedLength::WholeChain, ..honest }, (vec![(0, 529)], 0, 512)),
                (Outcome { id: Some(0x1_0000), ..honest }, (vec![(0x1_0000, 513)], 0, 512)),
                (Outcome { id: Some(3), ..honest }, (vec![(3, 513)], 0, 512)),
                (Outcome { repeat: 1, ..honest }, (vec![(0, 513), (0, 513)], 0, 512)),
                (Outcome { skip: 2, ..honest }, (vec![(0, 513), (0, 0), (0, 0)], 0, 512)),
            ] {
                assert_eq!(read_sector(builder.clone(), memory, outcome), expected, "{outcome:?}");
            }
        }
    }
    with_both_movers(&Lies);
}

#[test]
fn rings_are_poked() {
    struct Pokes;
    impl Test for Pokes {
        fn run<M: TestMemory>(&self, builder: Builder, memory: &M) {
            let driver = Driver::new(builder, memory, false);
            let mut queue = driver.ready(base(false) | Features::EVENT_IDX.bits(), 4);
            assert_eq!(driver.device.queue_size(0), Some(4));
            driver.device.push_raw(0, 0xffff_ffff, 1);
            assert_eq!(queue.used(), Some((0xffff_ffff, 1)));
            driver.device.skip_used(0, 2);
            assert_eq!(queue.used_idx(), 3);

            let ring = driver.device.raw_ring(0).unwrap();
            ring.set_used_idx(0x8000).unwrap();
            ring.set_used_element(5, 1, 2).unwrap();
            ring.set_used_flags(1).unwrap();
            ring.set_avail_event(0x1234).unwrap();
            assert_eq!((queue.used_idx(), queue.used_flags()), (0x8000, 1));
            assert_eq!(ring.avail_event(), Ok(0x1234));
            queue.seen = 5;
            assert_eq!(queue.used(), Some((1, 2)));
            queue.descriptor(3, 0x1122, 0x33, 4, 5);
            let descriptor = ring.descriptor(3).unwrap();
            assert_eq!((descriptor.address, descriptor.bytes, descriptor.flags, descriptor.next), (0x1122, 0x33, 4, 5));
            driver.reset();
        }
    }
    with_both_movers(&Pokes);
}

#[test]
fn some_sectors_and_flushes_fail() {
    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder(), &memory, false);
    let mut queue = driver.ready(base(false) | BlockFeatures::FLUSH.bits(), 4);
    driver.device.faults(|faults| {
        faults.bad_sectors.push(5..6);
        faults.bad_flush = true;
    });
    for (request_type, sector, status) in
        [(RequestType::IN, 4, 0), (RequestType::IN, 5, 1), (RequestType::OUT, 5, 1), (RequestType::FLUSH, 0, 1)]
    {
        let request = Request::new(&memory, request_type, sector);
        driver.chain(&queue, &request, 512, request_type == RequestType::IN);
        if request_type == RequestType::FLUSH {
            queue.descriptor(1, request.at(raw::STATUS), 1, raw::WRITE, 0);
        }
        driver.submit(&mut queue, 0);
        assert_eq!(request.status(), status, "{request_type} {sector}");
    }
    assert_eq!(driver.device.counts().failures, 3);
    driver.reset();
}

#[test]
fn interrupts_are_lost_or_come_for_nothing() {
    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder(), &memory, false);
    let mut queue = driver.ready(base(false), 4);
    driver.device.faults(|faults| faults.lose_interrupts = true);
    let request = Request::new(&memory, RequestType::IN, 1);
    driver.chain(&queue, &request, 512, true);
    driver.submit(&mut queue, 0);
    assert_eq!(driver.read(Register::INTERRUPT_STATUS), 0);
    driver.device.faults(|faults| faults.lose_interrupts = false);

    queue.set_available_flags(1);
    driver.submit(&mut queue, 0);
    assert_eq!(driver.read(Register::INTERRUPT_STATUS), 0, "the driver does without");

    driver.device.spurious_interrupt(InterruptStatus::USED_BUFFER);
    assert_eq!(driver.read(Register::INTERRUPT_STATUS), 1);
    driver.write(Register::INTERRUPT_ACK, 1);
    driver.reset();
}

#[test]
fn a_device_in_need_of_a_reset_stops() {
    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder(), &memory, false);
    let mut queue = driver.ready(base(false), 4);
    driver.device.needs_reset();
    assert_eq!(driver.read(Register::INTERRUPT_STATUS), 2);
    let request = Request::new(&memory, RequestType::IN, 1);
    driver.chain(&queue, &request, 512, true);
    driver.submit(&mut queue, 0);
    assert_eq!((queue.used(), driver.device.run()), (None, 0));
    driver.reset();
    assert!(!driver.device.status().contains(DeviceStatus::DEVICE_NEEDS_RESET));
    driver.device.assert_conformant();
}

#[test]
fn the_configuration_does_not_settle() {
    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder().capacity(1), &memory, false);
    driver.identify();
    driver.device.faults(|faults| {
        faults.generation = Generation::NeverSettles;
        faults.flicker = Some(Flicker { other_sectors: 1 << 32, reads: 3 });
    });
    let before = driver.read(Register::CONFIG_GENERATION);
    assert_ne!(driver.read(Register::CONFIG_GENERATION), before);
    let capacity = Register::CONFIG.0;
    let half = |offset| u32::from_le(driver.registers.read_u32(capacity + offset));
    assert_eq!([half(0), half(0), half(0), half(0)], [0, 1, 0, 1]);
    driver.device.assert_conformant();
}

#[test]
fn queues_are_refused_and_reset() {
    let memory = ScatterMemory::new();
    let features = base(false) | Features::RING_RESET.bits();
    let driver = Driver::new(BlockDevice::builder().offer(Features::RING_RESET.bits()), &memory, false);
    driver.device.faults(|faults| faults.refuse_queues = true);
    driver.negotiate(features);
    drop(driver.queue(0, 4));
    assert_eq!(driver.read(Register::QUEUE_READY), 0);

    driver.device.faults(|faults| {
        faults.refuse_queues = false;
        faults.hold = true;
    });
    let mut queue = driver.ready(features, 4);
    let request = Request::new(&memory, RequestType::IN, 1);
    driver.chain(&queue, &request, 512, true);
    driver.submit(&mut queue, 0);
    driver.device.faults(|faults| faults.queue_reset = QueueResetAnswer::Ignored);
    driver.write(Register::QUEUE_RESET, 1);
    assert_eq!((driver.read(Register::QUEUE_RESET), driver.read(Register::QUEUE_READY)), (0, 1));
    assert_eq!(driver.device.held(), 1, "it goes on");
    driver.device.faults(|faults| faults.queue_reset = QueueResetAnswer::Prompt);
    driver.write(Register::QUEUE_RESET, 1);
    assert_eq!((driver.read(Register::QUEUE_RESET), driver.read(Register::QUEUE_READY)), (0, 0));
    assert_eq!(driver.device.held(), 0);

    // It is enabled again, also after DRIVER_OK.
    let again = Queue::modern(&memory, 8);
    driver.enable(0, &again);
    assert_eq!(driver.device.queue_size(0), Some(8));
    driver.reset();
    driver.device.assert_conformant();
}
