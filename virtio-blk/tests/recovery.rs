//! The way back from a device that fails.

use std::cell::RefCell;
use std::future::Future;
use std::task::{Context, Poll, Waker};

use testing_device::{
    BlockDevice, Builder, DeviceRegisters, Interface, IommuMemory, Mode, ResetAnswer, ScatterMemory, TestMemory,
};
use virtio_blk::{
    AsyncQueue, BlockFeatures, CacheMode, Completion, Disk, Error, FeatureSet, Features, Operation, Options, Queue,
    Recovered, Setup,
};
use virtio_transport::{Mmio, MmioNotifier, Spin, SpinLimit};
use virtqueue::Violation;

type Buffer = Box<[u8]>;
type TestDisk<M> = Disk<Mmio<DeviceRegisters>, M, Buffer>;
type TestQueue<M> = Queue<M, MmioNotifier<DeviceRegisters>, Buffer>;

const SOON: SpinLimit = SpinLimit { looks: 100 };

fn rig<M: TestMemory>(builder: Builder, memory: &M, options: &Options) -> (BlockDevice, TestDisk<M>) {
    let device = builder.mode(Mode::Manual).capacity(4096).build(memory);
    let transport = Mmio::probe(device.registers()).unwrap().expect("a device");
    let disk = Disk::open(transport, memory.clone(), options, &mut Spin).unwrap();
    (device, disk)
}

fn sector(byte: u8) -> Buffer {
    vec![byte; 512].into()
}

fn poll_all<M: TestMemory>(queue: &mut TestQueue<M>) -> Vec<Completion<Buffer>> {
    std::iter::from_fn(|| queue.poll().unwrap()).collect()
}

/// Puts two reads, two writes and a flush in flight, has the device hold them, and recovers.
fn requests_in_flight_are_issued_again<M: TestMemory>(builder: Builder, memory: &M) {
    let (device, mut disk) = rig(builder, memory, &Options::default());
    for place in 0..8 {
        device.write_disk(place, &[place as u8 + 10; 512]);
    }
    let queue = disk.queue();
    let read = queue.submit_read(1, sector(0)).unwrap();
    let write = queue.submit_write(2, sector(77)).unwrap();
    let cancelled = queue.submit_write(3, sector(88)).unwrap();
    let flush = queue.submit_flush().unwrap();
    queue.commit();
    assert!(queue.cancel(cancelled));
    device.faults(|faults| faults.hold = true);
    assert_eq!(device.run(), 0);
    device.needs_reset();
    assert!(disk.device().needs_reset());

    device.faults(|faults| faults.hold = false);
    let recovered = disk.recover(&mut SOON.clone()).unwrap();
    assert_eq!(recovered, Recovered { reissued: 2, ended: 2, writes_in_doubt: false });
    assert_eq!(device.counts().resets, 3, "opening, recovering, and opening again as the first step of that");
    device.run();
    let queue = disk.queue();
    let mut completions = poll_all(queue);
    completions.sort_by_key(|completion| completion.token.slot());
    let of = |token| completions.iter().find(|completion| completion.token == token).expect("its completion");
    assert_eq!(completions.len(), 4);
    assert_eq!(of(read).result, Ok(()));
    assert_eq!(of(read).buffer.as_ref().expect("its buffer")[..], [11; 512]);
    assert_eq!(of(write).result, Ok(()));
    assert_eq!(device.read_disk(2, 1), [77; 512]);
    assert_eq!(of(cancelled).result, Err(Error::Cancelled { operation: Operation::Write, sector: 3 }));
    assert_eq!(of(cancelled).buffer.as_ref().expect("its buffer")[..], [88; 512]);
    assert_eq!(device.read_disk(3, 1), [13; 512], "a cancelled write is not issued again");
    assert_eq!(of(flush).result, Err(Error::FlushInDoubt));
    assert_eq!(device.counts().flushes, 0);
    drop(disk);
    drop(device);
    memory.assert_clean();
}

#[test]
fn requests_in_flight_are_issued_again_and_cancelled_ones_are_not() {
    for interface in [Interface::Modern, Interface::Legacy] {
        for withheld in [0, Features::INDIRECT_DESC.bits(), Features::EVENT_IDX.bits()] {
            let builder = BlockDevice::builder().interface(interface).withhold(withheld);
            requests_in_flight_are_issued_again(builder.clone(), &ScatterMemory::new());
            requests_in_flight_are_issued_again(builder, &IommuMemory::new());
        }
    }
}

#[test]
fn what_the_device_had_completed_is_not_issued_again() {
    let memory = ScatterMemory::new();
    let (device, mut disk) = rig(BlockDevice::builder(), &memory, &Options::default());
    let queue = disk.queue();
    let write = queue.submit_write(5, sector(1)).unwrap();
    queue.commit();
    assert_eq!(device.run(), 1);
    let recovered = disk.recover(&mut Spin).unwrap();
    assert_eq!(recovered, Recovered { reissued: 0, ended: 0, writes_in_doubt: true });
    let completions = poll_all(disk.queue());
    assert_eq!((completions.len(), completions[0].token, completions[0].result), (1, write, Ok(())));
    assert_eq!((device.run(), device.counts().writes), (0, 1));
}

#[test]
fn a_flush_covers_the_writes_that_had_completed_when_it_was_submitted() {
    let memory = ScatterMemory::new();
    let (device, mut disk) = rig(BlockDevice::builder(), &memory, &Options::default());
    // Write and flush in flight together: the flush covers nothing.
    let queue = disk.queue();
    queue.submit_write(0, sector(1)).unwrap();
    queue.submit_flush().unwrap();
    queue.commit();
    device.run();
    assert_eq!(poll_all(queue).len(), 2);
    assert!(disk.recover(&mut Spin).unwrap().writes_in_doubt);
    // One after the other: it does.
    let queue = disk.queue();
    queue.submit_flush().unwrap();
    queue.commit();
    device.run();
    assert_eq!(poll_all(queue).len(), 1);
    assert!(!disk.recover(&mut Spin).unwrap().writes_in_doubt);
}

#[test]
fn the_cache_mode_that_was_set_is_set_again() {
    let memory = ScatterMemory::new();
    let builder = BlockDevice::builder().offer(FeatureSet::from(BlockFeatures::CONFIG_WCE).bits());
    let (device, mut disk) = rig(builder, &memory, &Options::default());
    let running = device.clone();
    disk.set_cache_mode(CacheMode::WriteThrough, &mut || {
        running.run();
        Ok(())
    })
    .unwrap();
    assert!(!disk.recover(&mut Spin).unwrap().writes_in_doubt);
    assert_eq!(disk.cache_mode(), Ok(CacheMode::WriteThrough));
    assert_eq!(device.config().writeback.0, 0);
}

#[test]
fn a_violation_ends_in_a_device_that_works() {
    let memory = ScatterMemory::new();
    let (device, mut disk) = rig(BlockDevice::builder(), &memory, &Options::default());
    device.write_disk(1, &[9; 512]);
    let queue = disk.queue();
    let read = queue.submit_read(1, sector(0)).unwrap();
    queue.commit();
    device.push_raw(0, 70_000, 0);
    let violation = Violation::IdOutOfRange { id: 70_000, size: 128 };
    assert_eq!(queue.poll().err(), Some(Error::Violation(violation)));
    let rejected = queue.submit_read(2, sector(0)).unwrap_err();
    assert_eq!((rejected.error, rejected.buffer.len()), (Error::Violation(violation), 512));
    assert_eq!(disk.recover(&mut Spin).unwrap().reissued, 1);
    device.run();
    let completions = poll_all(disk.queue());
    assert_eq!((completions[0].token, completions[0].result), (read, Ok(())));
    assert_eq!(completions[0].buffer.as_ref().expect("its buffer")[..], [9; 512]);
    device.take_violations();
}

#[test]
fn a_device_that_never_acknowledges_is_given_up_and_keeps_the_memory() {
    let memory = ScatterMemory::new();
    let (device, mut disk) = rig(BlockDevice::builder(), &memory, &Options::default());
    let queue = disk.queue();
    let read = queue.submit_read(1, sector(0)).unwrap();
    queue.commit();
    device.faults(|faults| (faults.hold, faults.reset) = (true, ResetAnswer::Never));
    device.run();
    assert_eq!(disk.recover(&mut SOON.clone()), Err(Error::NotAcknowledged));
    disk.give_up();
    let completions = poll_all(disk.queue());
    let given_up = Error::GivenUp { operation: Operation::Read, sector: 1 };
    assert_eq!((completions[0].token, completions[0].result), (read, Err(given_up)));
    assert!(completions[0].buffer.is_none(), "the device may still write to it");
    let rejected = disk.queue().submit_read(1, sector(4)).unwrap_err();
    assert_eq!((rejected.error, &rejected.buffer[..]), (Error::Stopped, &[4; 512][..]));
    assert_eq!(disk.recover(&mut Spin), Err(Error::NotAcknowledged));
    drop(disk);
    assert_eq!(memory.outstanding(), 2, "the ring and the slots");
    // The device comes back to life, and finds memory that is still there.
    assert_eq!(device.release(), 1);
    device.take_violations();
}

#[test]
fn a_device_that_comes_back_with_other_features_is_given_up() {
    let memory = ScatterMemory::new();
    let (device, mut disk) = rig(BlockDevice::builder(), &memory, &Options::default());
    let queue = disk.queue();
    queue.submit_write(1, sector(3)).unwrap();
    queue.commit();
    device.faults(|faults| (faults.hold, faults.refuse_features) = (true, true));
    device.run();
    assert!(matches!(disk.recover(&mut Spin), Err(Error::NotRecovered(_))));
    let completions = poll_all(disk.queue());
    assert_eq!(completions[0].result, Err(Error::GivenUp { operation: Operation::Write, sector: 1 }));
    assert_eq!(completions[0].buffer.as_ref().expect("its buffer")[..], [3; 512], "the reset was acknowledged");
    drop((disk, completions));
    assert_eq!(memory.outstanding(), 0);
}

#[test]
fn every_queue_is_asked_for() {
    let memory = ScatterMemory::new();
    let builder = BlockDevice::builder().queues(2).mode(Mode::Manual).capacity(64);
    let device = builder.build(&memory);
    let transport = Mmio::probe(device.registers()).unwrap().expect("a device");
    let options = Options { queues: 4, ..Options::default() };
    let mut setup = Setup::negotiate(transport, memory.clone(), &options, &mut Spin).unwrap();
    assert_eq!(setup.num_queues(), 2);
    let mut first: TestQueue<_> = setup.add_queue().unwrap();
    let mut second: TestQueue<_> = setup.add_queue().unwrap();
    let mut handle = setup.start();
    device.write_disk(3, &[5; 512]);
    second.submit_read(3, sector(0)).unwrap();
    second.commit();
    assert_eq!(handle.recover(&mut [&mut first], &mut Spin), Err(Error::QueuesMissing { expected: 2, found: 1 }));
    assert_eq!(handle.recover(&mut [&mut second, &mut first], &mut Spin).unwrap().reissued, 1);
    device.run();
    assert_eq!(poll_all(&mut second)[0].buffer.as_ref().expect("its buffer")[..], [5; 512]);
    assert!(poll_all(&mut first).is_empty());
}

#[test]
fn tasks_wait_through_a_recovery_and_dropped_ones_are_forgotten() {
    let memory = ScatterMemory::new();
    let (device, disk) = rig(BlockDevice::builder(), &memory, &Options::default());
    device.write_disk(1, &[6; 512]);
    let (mut handle, queue) = disk.split();
    let shared = AsyncQueue::new(RefCell::new(queue));
    let mut context = Context::from_waker(Waker::noop());
    let mut read = Box::pin(shared.read(1, sector(0)));
    let mut flush = Box::pin(shared.flush());
    let mut dropped = Box::pin(shared.write(2, sector(9)));
    assert!(read.as_mut().poll(&mut context).is_pending());
    assert!(flush.as_mut().poll(&mut context).is_pending());
    assert!(dropped.as_mut().poll(&mut context).is_pending());
    drop(dropped);
    device.faults(|faults| faults.hold = true);
    device.run();
    device.faults(|faults| faults.hold = false);
    let recovered = handle.recover(&mut [&mut *shared.queue().borrow_mut()], &mut Spin).unwrap();
    assert_eq!((recovered.reissued, recovered.ended), (1, 2));
    device.run();
    shared.process().unwrap();
    assert_eq!(flush.as_mut().poll(&mut context), Poll::Ready(Err(Error::FlushInDoubt)));
    let Poll::Ready(Ok(buffer)) = read.as_mut().poll(&mut context) else { panic!("the read is done") };
    assert_eq!(buffer[..], [6; 512]);
    assert_eq!(device.read_disk(2, 1), [0; 512], "the dropped write is not issued again");
}
