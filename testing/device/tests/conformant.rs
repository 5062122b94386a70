//! A driver that does everything right, on both interfaces, in every memory and with both movers of rings.

mod raw;

use raw::{DATA, Driver, INDIRECT, NEXT, Request, STATUS, TABLE, WRITE, base};
#[cfg(not(miri))]
use testing_device::BounceMemory;
use testing_device::{
    BlockDevice, Builder, Data, Generation, Interface, IommuMemory, Mode, Mover, Order, Outcome, ResetAnswer,
    ScatterMemory, TestMemory, UsedLength,
};
use virtio_spec::block::{BlockFeatures, RequestStatus, RequestType};
use virtio_spec::mmio::Register;
use virtio_spec::{DeviceStatus, Features, InterruptStatus};
use virtio_transport::Registers;

fn on_all(test: impl Fn(Builder, bool, &dyn Fn(Builder, bool))) {
    for legacy in [false, true] {
        test(BlockDevice::builder(), legacy, &|builder, legacy| exchange(builder, &ScatterMemory::new(), legacy));
        test(BlockDevice::builder(), legacy, &|builder, legacy| exchange(builder, &IommuMemory::new(), legacy));
        #[cfg(not(miri))]
        for mover in [Mover::Strict, Mover::RustVmm] {
            test(BlockDevice::builder().mover(mover), legacy, &|builder, legacy| {
                exchange(builder, &BounceMemory::new(), legacy);
            });
        }
    }
    let _ = Mover::Strict;
}

#[test]
fn requests_of_all_types_in_all_set_ups() {
    on_all(|builder, legacy, exchange| exchange(builder, legacy));
}

fn exchange<M: TestMemory>(builder: Builder, memory: &M, legacy: bool) {
    let driver = Driver::new(builder.id("disk-1"), memory, legacy);
    let block = BlockFeatures::FLUSH | BlockFeatures::SEG_MAX | BlockFeatures::CONFIG_WCE | BlockFeatures::BLK_SIZE;
    let features = base(legacy) | Features::INDIRECT_DESC.bits() | Features::EVENT_IDX.bits() | block.bits();
    let mut queue = driver.ready(features, 8);
    assert_eq!(driver.device.negotiated(), features);
    driver.device.write_disk(3, &[3; 512]);

    // A read in a direct chain.
    let request = Request::of(memory, legacy, RequestType::IN, 3);
    driver.chain(&queue, &request, 512, true);
    driver.submit(&mut queue, 0);
    assert_eq!(queue.used(), Some((0, 513)));
    assert_eq!((request.status(), request.0.read(DATA, 512)), (0, vec![3; 512]));
    assert_eq!(driver.read(Register::INTERRUPT_STATUS), 1);
    driver.write(Register::INTERRUPT_ACK, 1);

    // A write in an indirect table, its data in two pieces.
    let write = Request::of(memory, legacy, RequestType::OUT, 4);
    write.0.write(DATA, &[4; 1024]);
    write.0.descriptor(TABLE, write.at(0), 16, NEXT, 1);
    write.0.descriptor(TABLE + 16, write.at(DATA), 1000, NEXT, 2);
    write.0.descriptor(TABLE + 32, write.at(DATA + 1000), 24, NEXT, 3);
    write.0.descriptor(TABLE + 48, write.at(STATUS), 1, WRITE, 0);
    queue.descriptor(5, write.at(TABLE), 64, INDIRECT, 0);
    driver.submit(&mut queue, 5);
    assert_eq!(queue.used(), Some((5, 1)));
    assert_eq!(write.status(), 0);
    assert_eq!(driver.device.read_disk(4, 2), [4; 1024]);
    assert_eq!(driver.device.read_stable(4, 2), [0; 1024], "write-back");

    // A flush.
    let flush = Request::of(memory, legacy, RequestType::FLUSH, 0);
    queue.descriptor(2, flush.at(0), 16, NEXT, 3);
    queue.descriptor(3, flush.at(STATUS), 1, WRITE, 0);
    queue.set_used_event(2);
    driver.submit(&mut queue, 2);
    assert_eq!((queue.used(), flush.status()), (Some((2, 1)), 0));
    assert_eq!(driver.device.read_stable(4, 2), [4; 1024]);

    // The device's name.
    let id = Request::of(memory, legacy, RequestType::GET_ID, 0);
    driver.chain(&queue, &id, 20, true);
    driver.submit(&mut queue, 0);
    assert_eq!((queue.used(), id.status()), (Some((0, 21)), 0));
    assert_eq!(id.0.read(DATA, 20), *b"disk-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0");

    // Something that no device knows.
    let unknown = Request::of(memory, legacy, virtio_spec::block::RequestType(99), 0);
    queue.descriptor(0, unknown.at(0), 16, NEXT, 1);
    queue.descriptor(1, unknown.at(STATUS), 1, WRITE, 0);
    driver.submit(&mut queue, 0);
    assert_eq!((queue.used(), unknown.status()), (Some((0, 1)), RequestStatus::UNSUPP.0));

    let counts = driver.device.counts();
    assert_eq!((counts.reads, counts.writes, counts.flushes, counts.others), (1, 1, 1, 2));
    assert_eq!((counts.notifications, counts.needless_notifications, counts.failures), (5, 0, 1));
    // used_event was 0, then 2: the first and the third request.
    assert_eq!(counts.interrupts, 2);
    driver.device.assert_conformant();
    driver.reset();
    drop((queue, request, write, flush, id, unknown, driver));
    memory.assert_clean();
}

#[test]
fn the_configuration_is_read_by_field() {
    for legacy in [false, true] {
        let memory = ScatterMemory::new();
        let builder = BlockDevice::builder().capacity(0x1_2345_6789).config(|config| config.blk_size = 4096.into());
        let driver = Driver::new(builder, &memory, legacy);
        driver.negotiate(base(legacy) | BlockFeatures::CONFIG_WCE.bits());
        let config = Register::CONFIG.0;
        let number = |value: u32| if legacy { value } else { u32::from_le(value) };
        // On a legacy device, 64 bits are in the machine's order too.
        let (low, high) = if legacy && cfg!(target_endian = "big") { (4, 0) } else { (0, 4) };
        assert_eq!(number(driver.registers.read_u32(config + low)), 0x2345_6789);
        assert_eq!(number(driver.registers.read_u32(config + high)), 1);
        assert_eq!(number(driver.registers.read_u32(config + 20)), 4096);
        assert_eq!(driver.registers.read_u8(config + 32), 1);
        driver.registers.write_u8(config + 32, 0);
        assert_eq!(driver.registers.read_u8(config + 32), 0);
        driver.reset();
        driver.device.assert_conformant();
    }
}

#[test]
fn a_batch_is_completed_as_told_and_interrupts_once() {
    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder().mode(Mode::Manual), &memory, false);
    let mut queue = driver.ready(base(false) | BlockFeatures::SEG_MAX.bits(), 16);
    let requests: Vec<_> = (0..4).map(|sector| Request::new(&memory, RequestType::IN, sector)).collect();
    for (index, request) in (0u16..).zip(&requests) {
        let first = 3 * index;
        queue.descriptor(first, request.at(0), 16, NEXT, first + 1);
        queue.descriptor(first + 1, request.at(DATA), 512, NEXT | WRITE, first + 2);
        queue.descriptor(first + 2, request.at(STATUS), 1, WRITE, 0);
        queue.offer(first);
    }
    queue.publish();
    driver.notify(0);
    assert_eq!(queue.used(), None);
    driver.device.faults(|faults| {
        faults.order = Order::Lifo;
        faults.next = [
            Outcome { length: UsedLength::Value(u32::MAX), ..Outcome::HONEST },
            Outcome::failure(RequestStatus::IOERR),
            Outcome { data: Data::Short(100), ..Outcome::HONEST },
        ]
        .into();
    });
    assert_eq!(driver.device.run(), 4);
    let used: Vec<_> = std::iter::from_fn(|| queue.used()).collect();
    assert_eq!(used, [(9, u32::MAX), (6, 0), (3, 100), (0, 513)]);
    let statuses: Vec<_> = requests.iter().map(Request::status).collect();
    assert_eq!(statuses, [0, 0, 1, 0]);
    assert_eq!(driver.device.counts().interrupts, 1);
    assert_eq!(driver.device.counts().depth, 4);
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn requests_are_taken_and_completed_by_hand() {
    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder().mode(Mode::Manual), &memory, false);
    let mut queue = driver.ready(base(false), 4);
    let request = Request::new(&memory, RequestType::IN, 9);
    driver.chain(&queue, &request, 512, true);
    driver.submit(&mut queue, 0);
    let pending = driver.device.take().unwrap();
    assert_eq!((pending.request_type(), pending.sector(), pending.data_bytes()), (Some(RequestType::IN), 9, 512));
    assert!(driver.device.take().is_none());

    // After a reset it is not the device's any more.
    driver.reset();
    assert!(!driver.device.complete(pending, Outcome::HONEST));
    assert_eq!((queue.used(), request.status()), (None, 0xee));
    driver.device.assert_conformant();
}

#[test]
fn held_requests_are_released() {
    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder(), &memory, false);
    driver.device.faults(|faults| faults.hold = true);
    let mut queue = driver.ready(base(false), 4);
    let request = Request::new(&memory, RequestType::IN, 9);
    driver.chain(&queue, &request, 512, true);
    driver.submit(&mut queue, 0);
    assert_eq!((driver.device.held(), queue.used()), (1, None));
    assert_eq!(driver.device.release(), 1);
    assert_eq!(queue.used(), Some((0, 513)));
    driver.reset();
}

#[test]
fn a_device_answers_a_reset_late_or_never() {
    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder(), &memory, false);
    driver.negotiate(base(false));
    driver.device.faults(|faults| faults.reset = ResetAnswer::AfterReads(2));
    driver.write(Register::STATUS, 0);
    assert!(!driver.status().is_empty());
    assert!(!driver.status().is_empty());
    assert!(driver.status().is_empty());
    driver.negotiate(base(false));
    driver.device.faults(|faults| faults.reset = ResetAnswer::Never);
    driver.write(Register::STATUS, 0);
    for _ in 0..10 {
        assert!(!driver.status().is_empty());
    }
    driver.device.assert_conformant();
}

#[test]
fn a_device_changes_its_configuration() {
    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder(), &memory, false);
    let _queue = driver.ready(base(false), 4);
    let before = driver.read(Register::CONFIG_GENERATION);
    driver.device.set_capacity(7);
    assert_ne!(driver.read(Register::CONFIG_GENERATION), before);
    assert_eq!(driver.read(Register::INTERRUPT_STATUS), InterruptStatus::CONFIGURATION_CHANGE.bits());
    assert_eq!(u32::from_le(driver.registers.read_u32(Register::CONFIG.0)), 7);
    driver.device.faults(|faults| faults.generation = Generation::Moves(1));
    let before = driver.read(Register::CONFIG_GENERATION);
    assert_eq!(driver.read(Register::CONFIG_GENERATION), before);
    driver.device.needs_reset();
    assert!(driver.status().contains(DeviceStatus::DEVICE_NEEDS_RESET));
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn a_power_cut_takes_what_was_not_flushed() {
    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder(), &memory, false);
    let mut queue = driver.ready(base(false) | BlockFeatures::FLUSH.bits(), 4);
    let request = Request::new(&memory, RequestType::OUT, 1);
    request.0.write(DATA, &[5; 512]);
    driver.chain(&queue, &request, 512, false);
    driver.submit(&mut queue, 0);
    driver.submit(&mut queue, 0);
    driver.device.power_cut();
    assert_eq!(driver.device.read_disk(1, 1), [0; 512]);
    driver.reset();

    // Without FLUSH, writes are stable.
    let mut queue = driver.ready(base(false), 4);
    driver.chain(&queue, &request, 512, false);
    driver.submit(&mut queue, 0);
    driver.device.power_cut();
    assert_eq!(driver.device.read_disk(1, 1), [5; 512]);
    driver.reset();
}

#[test]
fn the_hook_is_called_for_each_interrupt() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    let memory = ScatterMemory::new();
    let driver = Driver::new(BlockDevice::builder(), &memory, false);
    let calls = Arc::new(AtomicU32::new(0));
    let (counted, device) = (calls.clone(), driver.device.clone());
    driver.device.on_interrupt(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        // The device's lock is free.
        assert!(!device.interrupt().is_empty());
    });
    let mut queue = driver.ready(base(false), 4);
    let request = Request::new(&memory, RequestType::IN, 1);
    driver.chain(&queue, &request, 512, true);
    driver.submit(&mut queue, 0);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    driver.reset();
    // It holds the device.
    driver.device.on_interrupt(|| {});
}

#[test]
fn an_interface_is_what_it_was_built_as() {
    let memory = ScatterMemory::new();
    let modern = BlockDevice::builder().interface(Interface::Modern).build(&memory);
    let legacy = BlockDevice::builder().interface(Interface::Legacy).build(&memory);
    for (device, version) in [(modern, 2), (legacy, 1)] {
        let registers = device.registers();
        assert_eq!(u32::from_le(registers.read_u32(Register::MAGIC_VALUE.0)), virtio_spec::mmio::MAGIC);
        assert_eq!(u32::from_le(registers.read_u32(Register::VERSION.0)), version);
    }
}

#[test]
fn handles_go_to_other_threads() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<BlockDevice>();
    is_send_and_sync::<testing_device::DeviceRegisters>();
    is_send_and_sync::<ScatterMemory>();
    is_send_and_sync::<IommuMemory>();
    #[cfg(not(miri))]
    is_send_and_sync::<BounceMemory>();
}
