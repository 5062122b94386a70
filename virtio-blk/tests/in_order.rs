//! Queues of devices that use requests in order, and give several back with one used element.

mod common;

use common::{defaults, pattern, transport};
use testing_device::{BlockDevice, Builder, Mode, Outcome, ScatterMemory};
use virtio_blk::{
    Completion, Device, Disk, Either, Error, Features, InOrder, OpenError, Options, Packed, Queue, RingFormat, Split,
    Token,
};
use virtio_transport::{Mmio, MmioNotifier, Spin};
use virtqueue::Violation;

type Buffer = Box<[u8]>;
type Registers = testing_device::DeviceRegisters;

/// A disk, by its parts.
struct Rig<R: RingFormat> {
    device: BlockDevice,
    handle: Device<Mmio<Registers>, ScatterMemory>,
    queue: Queue<ScatterMemory, MmioNotifier<Registers>, Buffer, R>,
}

fn rig<R: RingFormat>(ring: R, builder: Builder, options: &Options) -> Rig<R> {
    let memory = ScatterMemory::new();
    let device = builder.in_order().mode(Mode::Manual).build(&memory);
    let disk = Disk::open_with(ring, transport(&device), memory, options, &mut Spin).unwrap();
    let (handle, queue) = disk.split();
    Rig { device, handle, queue }
}

impl<R: RingFormat> Rig<R> {
    fn read(&mut self, sector: u64) -> Token {
        self.queue.submit_read(sector, vec![0; 512].into()).unwrap()
    }

    #[track_caller]
    fn poll(&mut self) -> Completion<Buffer> {
        self.queue.poll().unwrap().expect("a completion")
    }

    fn finish(mut self) {
        self.handle.shutdown(&mut [&mut self.queue], &mut Spin).unwrap();
        self.device.assert_conformant();
    }
}

/// Several laps of batches of every length, with requests of one entry and of several.
fn batches<R: RingFormat>(ring: R, builder: Builder) {
    // Fewer where everything is slow.
    let turns = if cfg!(miri) { 12 } else { 40 };
    let mut rig = rig(ring, builder, &Options { queue_size: 32, ..defaults() });
    for sector in 0..64 {
        rig.device.write_disk(sector, &pattern(512, sector));
    }
    let mut sector = 0;
    for turn in 0..turns {
        let mut expected = Vec::new();
        for _ in 0..=turn % 4 {
            expected.push((rig.read(sector), sector));
            sector = (sector + 7) % 64;
        }
        if turn % 5 == 0 {
            expected.push((rig.queue.submit_flush().unwrap(), 0));
        }
        rig.queue.commit();
        assert_eq!(rig.device.run(), expected.len());
        for (token, sector) in expected {
            let completion = rig.poll();
            assert_eq!((completion.token, completion.sector), (token, sector), "in order");
            completion.result.unwrap();
            if let Some(data) = completion.buffer {
                assert!(data[..] == pattern(512, sector));
            }
        }
        assert!(rig.queue.poll().unwrap().is_none());
        assert_eq!(rig.queue.in_flight(), 0);
    }
    rig.finish();
}

#[test]
fn batches_are_taken_apart() {
    for indirect in [true, false] {
        let builder = || {
            let builder = BlockDevice::builder().capacity(64);
            if indirect { builder } else { builder.withhold(Features::INDIRECT_DESC.bits()) }
        };
        batches(InOrder(Split), builder());
        batches(InOrder(Packed), builder().packed());
        batches(InOrder(Either), builder());
        batches(InOrder(Either), builder().packed());
        batches(InOrder(Split), builder().used_batch_max(1));
        batches(InOrder(Packed), builder().packed().used_batch_max(2));
    }
}

#[test]
fn a_batch_costs_one_used_element() {
    let mut rig = rig(InOrder(Split), BlockDevice::builder(), &defaults());
    for sector in 0..5 {
        rig.read(sector);
    }
    rig.queue.commit();
    rig.device.run();
    let ring = rig.device.raw_ring(0).unwrap();
    assert_eq!(ring.used_idx().unwrap(), 5);
    // What the device has not written is not read.
    for index in 1..5 {
        ring.set_used_element(index, 0xdead_beef, 0).unwrap();
    }
    for sector in 0..5 {
        let completion = rig.poll();
        assert_eq!((completion.sector, completion.result), (sector, Ok(())));
    }
    rig.finish();
}

/// The order of slots and the order of the ring part when a request is kept in its slot, and after a reset.
fn reissued<R: RingFormat>(ring: R, builder: Builder) {
    let mut rig = rig(ring, builder.capacity(64), &Options { queue_size: 16, ..defaults() });
    let kept = rig.read(1);
    rig.queue.commit();
    rig.device.run();
    rig.queue.drain(&mut Spin).unwrap();
    let tokens = [rig.read(2), rig.read(3), rig.read(4)];
    rig.queue.commit();
    assert!(rig.queue.cancel(tokens[1]));
    let recovered = rig.handle.recover(&mut [&mut rig.queue], &mut Spin).unwrap();
    assert_eq!((recovered.reissued, recovered.ended), (2, 1));
    let late = rig.read(5);
    rig.queue.commit();
    rig.device.run();
    let mut ended = Vec::new();
    while let Some(completion) = rig.queue.poll().unwrap() {
        ended.push((completion.token, completion.result.is_ok()));
    }
    assert_eq!(ended, [(kept, true), (tokens[1], false), (tokens[0], true), (tokens[2], true), (late, true)]);
    rig.finish();
}

#[test]
fn what_is_issued_again_is_in_order_again() {
    for withheld in [0, Features::INDIRECT_DESC.bits()] {
        reissued(InOrder(Split), BlockDevice::builder().withhold(withheld));
        reissued(InOrder(Packed), BlockDevice::builder().withhold(withheld).packed());
    }
}

/// The device names a last request that it does not have.
fn too_many<R: RingFormat>(ring: R, builder: Builder, named: u32) -> Error {
    let mut rig = rig(ring, builder.queue_size_max(8), &Options { queue_size: 8, ..defaults() });
    for sector in 0..3 {
        rig.read(sector);
    }
    rig.queue.commit();
    let pending = rig.device.take().unwrap();
    rig.device.complete(pending, Outcome { id: Some(named), ..Outcome::HONEST });
    // No more completions than there were requests, and no end without an error.
    let error = (0..4).find_map(|_| rig.queue.poll().err()).expect("a violation");
    // Those that were not returned are still in flight, and come to an end after a reset.
    let recovered = rig.handle.recover(&mut [&mut rig.queue], &mut Spin).unwrap();
    assert_eq!(recovered.reissued, u32::from(rig.queue.in_flight()));
    rig.device.faults(|faults| *faults = testing_device::Faults::default());
    rig.device.run();
    while let Some(completion) = rig.queue.poll().unwrap() {
        completion.result.unwrap();
    }
    assert_eq!(rig.queue.in_flight(), 0);
    error
}

#[test]
fn a_batch_that_is_longer_than_what_the_device_had_is_a_violation() {
    assert_eq!(
        too_many(InOrder(Split), BlockDevice::builder(), 7),
        Error::Violation(Violation::BatchTooLong { last: 7 })
    );
    assert_eq!(
        too_many(InOrder(Packed), BlockDevice::builder().packed(), 7),
        Error::Violation(Violation::BatchTooLong { last: 7 })
    );
    for named in [8, 0xffff] {
        let violation = Error::Violation(Violation::IdOutOfRange { id: named, size: 8 });
        assert_eq!(too_many(InOrder(Split), BlockDevice::builder(), named), violation);
        assert_eq!(too_many(InOrder(Packed), BlockDevice::builder().packed(), named), violation);
    }
}

#[test]
fn a_device_that_knows_no_order_is_refused() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let disk: Result<Disk<_, _, Buffer, _>, _> =
        Disk::open_with(InOrder(Split), transport(&device), memory.clone(), &defaults(), &mut Spin);
    match disk.map(drop) {
        Err(OpenError::MissingFeatures { missing, .. }) => assert_eq!(missing, Features::IN_ORDER.into()),
        other => panic!("{other:?}"),
    }

    let device = BlockDevice::builder().in_order().build(&memory);
    let disk: Disk<_, _> = Disk::open(transport(&device), memory, &defaults(), &mut Spin).unwrap();
    assert!(!disk.info().features.contains(Features::IN_ORDER), "a queue that makes no use of it does not accept it");
}
