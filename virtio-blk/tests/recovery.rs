//! The way back from a device that fails.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use testing_device::{
    BlockDevice, Builder, DeviceRegisters, Interface, IommuMemory, Mode, ResetAnswer, ScatterMemory, TestMemory,
};
use virtio_blk::{
    AsyncQueue, BlockFeatures, CacheMode, Completion, Disk, Error, FeatureSet, Features, Operation, Options, Queue,
    Recovered, Setup,
};
use virtio_transport::{GaveUp, Mmio, MmioNotifier, Spin, SpinLimit};
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

#[test]
fn a_task_in_line_is_told_that_the_device_was_given_up() {
    let memory = ScatterMemory::new();
    let (device, disk) = rig(BlockDevice::builder(), &memory, &Options { queue_size: 4, ..Options::default() });
    let (mut handle, queue) = disk.split();
    let shared = AsyncQueue::new(RefCell::new(queue));
    let mut context = Context::from_waker(Waker::noop());
    // Nobody waits for what fills the queue.
    for place in 0..4 {
        let mut write = Box::pin(shared.write(place, sector(1)));
        assert!(write.as_mut().poll(&mut context).is_pending());
    }
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut read = Box::pin(shared.read(7, sector(7)));
    assert!(read.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());

    device.faults(|faults| (faults.hold, faults.reset) = (true, ResetAnswer::Never));
    device.run();
    device.push_raw(0, 70_000, 0);
    let violation = Error::Violation(Violation::IdOutOfRange { id: 70_000, size: 4 });
    assert_eq!(shared.process(), Err(violation));
    assert_eq!(woken.0.load(Ordering::Relaxed), 0, "it waits for a recovery, as those in flight do");
    assert_eq!(
        handle.recover(&mut [&mut *shared.queue().borrow_mut()], &mut SOON.clone()),
        Err(Error::NotAcknowledged)
    );
    handle.give_up(&mut [&mut *shared.queue().borrow_mut()]).unwrap();
    assert_eq!(shared.process(), Ok(()), "the device is not asked any more");
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    let Poll::Ready(Err(failed)) = read.as_mut().poll(&mut context) else { panic!("it is told") };
    assert_eq!((failed.error, &failed.buffer.expect("its buffer")[..]), (Error::Stopped, &[7; 512][..]));
    drop(read);
    device.take_violations();
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn what_a_given_up_device_still_says_is_not_listened_to() {
    let memory = ScatterMemory::new();
    let (device, mut disk) = rig(BlockDevice::builder(), &memory, &Options::default());
    let read = disk.queue().submit_read(1, sector(0)).unwrap();
    disk.queue().commit();
    device.faults(|faults| (faults.hold, faults.reset) = (true, ResetAnswer::Never));
    device.run();
    disk.give_up();
    assert_eq!(device.release(), 1);
    let completion = disk.queue().poll().unwrap().expect("it has ended");
    assert_eq!((completion.token, completion.result.is_err()), (read, true));
    assert_eq!(disk.queue().poll().map(|completion| completion.is_some()), Ok(false));
    assert_eq!(disk.read(0, &mut [0; 512], &mut Spin), Err(Error::Stopped));
    device.take_violations();
}

#[test]
fn a_flush_on_one_queue_that_completed_before_the_reset_counts_for_all() {
    let memory = ScatterMemory::new();
    let builder = BlockDevice::builder().queues(2).mode(Mode::Manual).capacity(64);
    let device = builder.build(&memory);
    let transport = Mmio::probe(device.registers()).unwrap().expect("a device");
    let options = Options { queues: 2, ..Options::default() };
    let mut setup = Setup::negotiate(transport, memory.clone(), &options, &mut Spin).unwrap();
    let mut first: TestQueue<_> = setup.add_queue().unwrap();
    let mut second: TestQueue<_> = setup.add_queue().unwrap();
    let mut handle = setup.start();
    first.submit_write(3, sector(5)).unwrap();
    first.commit();
    device.run();
    assert_eq!(poll_all(&mut first).len(), 1);
    // Nobody has looked yet when the device is reset.
    second.submit_flush().unwrap();
    second.commit();
    device.run();
    assert!(!handle.recover(&mut [&mut first, &mut second], &mut Spin).unwrap().writes_in_doubt);
    assert_eq!(poll_all(&mut second)[0].result, Ok(()));
}

#[test]
fn a_change_to_write_through_that_could_not_flush_leaves_earlier_writes_in_doubt() {
    for flushed_later in [true, false] {
        let memory = ScatterMemory::new();
        let (device, mut disk) = rig(BlockDevice::builder(), &memory, &Options::default());
        let running = device.clone();
        let mut run = || {
            running.run();
            Ok(())
        };
        disk.write(1, &[1; 512], &mut run).unwrap();
        device.faults(|faults| faults.bad_flush = true);
        assert!(matches!(disk.set_cache_mode(CacheMode::WriteThrough, &mut run), Err(Error::Device { .. })));
        assert_eq!((disk.cache_mode(), device.read_stable(1, 1)), (Ok(CacheMode::WriteThrough), vec![0; 512]));
        if flushed_later {
            device.faults(|faults| faults.bad_flush = false);
            disk.flush(&mut run).unwrap();
        }
        assert_eq!(disk.recover(&mut Spin).unwrap().writes_in_doubt, !flushed_later);
    }
}

#[test]
fn a_write_through_disk_has_no_writes_in_doubt_also_when_a_call_had_reset_it() {
    let memory = ScatterMemory::new();
    let builder = BlockDevice::builder().config(|config| config.writeback.0 = 0);
    let (device, mut disk) = rig(builder, &memory, &Options::default());
    let running = device.clone();
    let mut run = || {
        running.run();
        Ok(())
    };
    disk.write(1, &[1; 512], &mut run).unwrap();
    assert_eq!(disk.read(1, &mut [0; 512], &mut SOON.clone()), Err(Error::GaveUp));
    assert!(!disk.recover(&mut Spin).unwrap().writes_in_doubt);
    disk.write(1, &[2; 512], &mut run).unwrap();
    assert!(!disk.recover(&mut Spin).unwrap().writes_in_doubt);
}

#[test]
fn a_polled_queue_is_polled_after_a_recovery_too() {
    for withheld in [0, Features::EVENT_IDX.bits()] {
        let memory = ScatterMemory::new();
        let (device, mut disk) = rig(BlockDevice::builder().withhold(withheld), &memory, &Options::default());
        disk.queue().use_polling();
        let _ = disk.recover(&mut Spin).unwrap();
        disk.queue().submit_read(1, sector(0)).unwrap();
        disk.queue().commit();
        assert_eq!((device.run(), device.counts().interrupts), (1, 0));
    }
}

#[test]
fn a_policy_that_unwinds_in_a_recovery_leaves_a_disk_that_takes_nothing() {
    let memory = ScatterMemory::new();
    let (device, mut disk) = rig(BlockDevice::builder(), &memory, &Options::default());
    device.faults(|faults| faults.reset = ResetAnswer::Never);
    let mut policy = || -> Result<(), GaveUp> { panic!("the policy was told to panic") };
    let unwound = catch_unwind(AssertUnwindSafe(|| disk.recover(&mut policy).is_ok()));
    assert!(unwound.is_err());
    // Nobody knows whether the reset was acknowledged, and nobody can find out: a call could never end.
    assert_eq!(disk.read(1, &mut [0; 512], &mut SOON.clone()), Err(Error::Stopped));
    assert_eq!(disk.set_cache_mode(CacheMode::WriteBack, &mut SOON.clone()), Err(Error::Stopped));
    assert_eq!(disk.recover(&mut SOON.clone()), Err(Error::NotAcknowledged));
    device.take_violations();
}

#[test]
fn a_flush_that_was_in_line_during_a_reset_is_in_doubt() {
    let memory = ScatterMemory::new();
    let (device, disk) = rig(BlockDevice::builder(), &memory, &Options { queue_size: 4, ..Options::default() });
    let (mut handle, queue) = disk.split();
    let shared = AsyncQueue::new(RefCell::new(queue));
    let mut context = Context::from_waker(Waker::noop());
    let mut write = Box::pin(shared.write(1, sector(1)));
    assert!(write.as_mut().poll(&mut context).is_pending());
    device.run();
    shared.process().unwrap();
    assert!(write.as_mut().poll(&mut context).is_ready());
    let mut reads: Vec<_> = (0..4).map(|place| Box::pin(shared.read(place, sector(0)))).collect();
    for read in &mut reads {
        assert!(read.as_mut().poll(&mut context).is_pending());
    }
    // The write has completed, so this flush is to cover it; but the device loses the write before it hears of it.
    let mut flush = Box::pin(shared.flush());
    assert!(flush.as_mut().poll(&mut context).is_pending());
    device.needs_reset();
    device.power_cut();
    assert!(handle.recover(&mut [&mut *shared.queue().borrow_mut()], &mut Spin).unwrap().writes_in_doubt);
    device.run();
    shared.process().unwrap();
    for read in &mut reads {
        assert!(read.as_mut().poll(&mut context).is_ready());
    }
    assert_eq!(flush.as_mut().poll(&mut context), Poll::Ready(Err(Error::FlushInDoubt)));
    assert_eq!(device.counts().flushes, 0);
    // It holds up nobody: the next one is as good as any.
    let mut flush = Box::pin(shared.flush());
    assert!(flush.as_mut().poll(&mut context).is_pending());
    device.run();
    shared.process().unwrap();
    assert_eq!(flush.as_mut().poll(&mut context), Poll::Ready(Ok(())));
}
