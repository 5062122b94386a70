//! What a queue takes before its device runs, while it is suspended, and when it has lost the queue; and what a foreign
//! waker may do.

mod common;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use common::{counted, defaults, open_with, pattern, transport};
use testing_device::{BlockDevice, Builder, Mode, QueueResetAnswer, ScatterMemory, SuspendAnswer};
use virtio_blk::{
    AsyncQueue, Device, Disk, Error, Exclusive, Features, InOrder, Options, Packed, Queue, RingFormat, Setup, Split,
};
use virtio_transport::{GaveUp, Mmio, MmioNotifier, Spin, SpinLimit};

type Buffer = Box<[u8]>;
type Registers = testing_device::DeviceRegisters;
type TestQueue<R = Split> = Queue<ScatterMemory, MmioNotifier<Registers>, Buffer, R>;
type Handle = Device<Mmio<Registers>, ScatterMemory>;

/// Asking for interrupts while a batch is half taken apart does not read what the device has not written.
fn interrupts_in_a_batch<R: RingFormat>(ring: R, builder: Builder) {
    let memory = ScatterMemory::new();
    let device = builder.in_order().capacity(64).mode(Mode::Manual).build(&memory);
    let options = Options { queue_size: 32, ..defaults() };
    let disk = Disk::open_with(ring, transport(&device), memory, &options, &mut Spin).unwrap();
    let (mut handle, mut queue): (Handle, TestQueue<R>) = disk.split();
    for turn in 0..20 {
        for sector in 0..1 + turn % 5 {
            queue.submit_read(sector, vec![0; 512].into()).unwrap();
        }
        queue.commit();
        device.run();
        for sector in 0..1 + turn % 5 {
            let completion = queue.poll().unwrap().expect("a completion");
            assert_eq!((completion.sector, completion.result), (sector, Ok(())), "turn {turn}");
            queue.use_interrupts(1 + (turn % 3) as u16);
        }
        assert!(queue.poll().unwrap().is_none());
    }
    handle.shutdown(&mut [&mut queue], &mut Spin).unwrap();
    device.assert_conformant();
}

#[test]
fn interrupts_can_be_asked_for_in_the_middle_of_a_batch() {
    for withheld in [Features::empty(), Features::INDIRECT_DESC, Features::EVENT_IDX] {
        let builder = || BlockDevice::builder().withhold(withheld.bits());
        interrupts_in_a_batch(InOrder(Split), builder());
        interrupts_in_a_batch(InOrder(Packed), builder().packed());
    }
}

/// 3.1.1: no notification before DRIVER_OK.
#[test]
fn nothing_can_be_submitted_before_the_device_runs() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    device.write_disk(3, &pattern(512, 3));
    let mut setup = Setup::negotiate(transport(&device), memory, &defaults(), &mut Spin).unwrap();
    let mut queue: TestQueue = setup.add_queue().unwrap();
    let rejected = queue.submit_read(3, vec![0; 512].into()).unwrap_err();
    assert_eq!(rejected.error, Error::Stopped);
    assert!(!queue.commit());
    assert_eq!((device.notifications(0), queue.in_flight()), (0, 0));
    let mut handle = setup.start();
    queue.submit_read(3, rejected.buffer).unwrap();
    queue.commit();
    let completion = queue.poll().unwrap().expect("a completion");
    assert_eq!(completion.result, Ok(()));
    assert!(completion.buffer.unwrap()[..] == pattern(512, 3));
    handle.shutdown(&mut [&mut queue], &mut Spin).unwrap();
    device.assert_conformant();
}

fn opted(feature: Features) -> (BlockDevice, Handle, TestQueue) {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().offer(feature.bits()).mode(Mode::Manual).build(&memory);
    let options = Options { opt_in: feature.into(), ..defaults() };
    let disk = Disk::open(transport(&device), memory, &options, &mut Spin).unwrap();
    let (handle, queue) = disk.split();
    (device, handle, queue)
}

/// Spins, and fails the test where it would spin for ever.
fn bounded() -> impl FnMut() -> Result<(), GaveUp> {
    let mut looks = 0;
    move || {
        looks += 1;
        assert!(looks < 1000, "it waits for ever");
        Ok(())
    }
}

#[test]
fn a_suspended_device_is_shut_down_without_waiting_for_what_it_does_not_do() {
    let (device, mut handle, mut queue) = opted(Features::SUSPEND);
    queue.submit_write(1, vec![1; 512].into()).unwrap();
    queue.commit();
    handle.suspend(&mut [&mut queue], &mut Spin).unwrap();
    handle.shutdown(&mut [&mut queue], &mut bounded()).unwrap();
    let completion = queue.poll().unwrap().expect("a completion");
    assert_eq!(completion.result.unwrap_err(), Error::GivenUp { operation: completion.operation, sector: 1 });
    device.assert_conformant();
}

#[test]
fn a_device_that_stops_too_late_goes_on_when_it_is_asked_to() {
    let (device, mut handle, mut queue) = opted(Features::SUSPEND);
    device.faults(|faults| faults.suspend = SuspendAnswer::AfterReads(5));
    assert!(handle.suspend(&mut [&mut queue], &mut SpinLimit { looks: 1 }).is_err());
    handle.resume(&mut [&mut queue], &mut bounded()).unwrap();
    queue.submit_write(1, vec![1; 512].into()).unwrap();
    queue.commit();
    device.run();
    assert_eq!(queue.poll().unwrap().expect("a completion").result, Ok(()));
    handle.shutdown(&mut [&mut queue], &mut Spin).unwrap();
    device.assert_conformant();
}

#[test]
fn a_queue_that_the_device_does_not_take_again_takes_no_requests() {
    let (device, mut handle, mut queue) = opted(Features::RING_RESET);
    queue.submit_write(1, vec![1; 512].into()).unwrap();
    queue.commit();
    device.faults(|faults| (faults.queue_reset, faults.refuse_queues) = (QueueResetAnswer::Prompt, true));
    assert!(matches!(handle.reset_queue(&mut queue, &mut Spin), Err(Error::NotRecovered(_))));
    let completion = queue.poll().unwrap().expect("a completion");
    assert_eq!(completion.result, Err(Error::GivenUp { operation: completion.operation, sector: 1 }));
    let notifications = device.notifications(0);
    assert_eq!(queue.submit_write(1, vec![2; 512].into()).unwrap_err().error, Error::Stopped);
    assert_eq!(queue.blocking(&mut handle).unwrap().read(0, &mut [0; 512], &mut bounded()), Err(Error::Stopped));
    assert_eq!(device.notifications(0), notifications);
    device.faults(|faults| faults.refuse_queues = false);
    let _ = handle.recover(&mut [&mut queue], &mut Spin).unwrap();
    queue.submit_write(1, vec![3; 512].into()).unwrap();
    queue.commit();
    device.run();
    assert_eq!(queue.poll().unwrap().expect("a completion").result, Ok(()));
    handle.shutdown(&mut [&mut queue], &mut Spin).unwrap();
    device.assert_conformant();
}

#[test]
fn what_a_suspended_device_has_not_begun_is_not_waited_for() {
    let (device, mut handle, mut queue) = opted(Features::SUSPEND);
    queue.submit_write(1, vec![1; 512].into()).unwrap();
    queue.commit();
    handle.suspend(&mut [&mut queue], &mut Spin).unwrap();
    assert_eq!(queue.drain(&mut bounded()), Err(Error::Stopped));
    handle.resume(&mut [&mut queue], &mut Spin).unwrap();
    device.run();
    queue.drain(&mut bounded()).unwrap();
    assert_eq!(queue.poll().unwrap().expect("a completion").result, Ok(()));
    handle.shutdown(&mut [&mut queue], &mut Spin).unwrap();
    device.assert_conformant();
}

thread_local! {
    /// Whether this thread is inside of the lock.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// How often a waker was cloned, called or dropped there.
    static MEDDLED: Cell<u32> = const { Cell::new(0) };
}

/// A lock that notes who is inside of it.
struct Noting<V>(RefCell<V>);

impl<V> Exclusive for Noting<V> {
    type Value = V;

    fn with<O>(&self, body: impl FnOnce(&mut V) -> O) -> O {
        let mut value = self.0.borrow_mut();
        INSIDE.set(true);
        let result = body(&mut value);
        INSIDE.set(false);
        result
    }
}

/// A waker that must not be touched inside of a lock.
fn shy() -> Waker {
    fn note() {
        MEDDLED.set(MEDDLED.get() + u32::from(INSIDE.get()));
    }
    const TABLE: RawWakerVTable = RawWakerVTable::new(
        |data| {
            note();
            RawWaker::new(data, &TABLE)
        },
        |_| note(),
        |_| note(),
        |_| note(),
    );
    // SAFETY: it holds nothing, and its functions can be called by any thread.
    unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &TABLE)) }
}

#[test]
fn no_waker_is_touched_inside_of_the_lock() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().capacity(64).mode(Mode::Manual).build(&memory);
    let disk = open_with::<_, common::Counted>(&device, &memory, &Options { queue_size: 4, waiters: 2, ..defaults() });
    let (mut handle, queue) = disk.split();
    let tasks = AsyncQueue::new(Noting(RefCell::new(queue)));
    let waker = shy();
    let mut context = Context::from_waker(&waker);
    // Misuse: there is no such sector.
    let result = pin!(tasks.read(64, counted(vec![0; 512]))).poll(&mut context);
    assert!(matches!(result, Poll::Ready(Err(failed)) if matches!(failed.error, Error::BeyondCapacity { .. })));
    assert_eq!(MEDDLED.get(), 0, "misuse");
    // In line, and then gone.
    let mut reads: Vec<_> = (0..6).map(|sector| Box::pin(tasks.read(sector, counted(vec![0; 512])))).collect();
    for read in &mut reads {
        assert!(read.as_mut().poll(&mut context).is_pending());
    }
    reads.truncate(5);
    assert_eq!(MEDDLED.get(), 0, "in line");
    // Ended by a recovery that nobody was told of, and dropped.
    tasks
        .queue()
        .0
        .borrow_mut()
        .drain(&mut || {
            device.run();
            Ok(())
        })
        .unwrap();
    drop(reads);
    assert_eq!(MEDDLED.get(), 0, "dropped");
    let mut queue = tasks.into_inner().0.into_inner();
    handle.shutdown(&mut [&mut queue], &mut Spin).unwrap();
    device.assert_conformant();
}

/// A waker whose clone, or call, panics when it is told to.
fn nervous(panics: &'static AtomicUsize) -> Waker {
    unsafe fn count(data: *const ()) -> &'static AtomicUsize {
        // SAFETY: the data of these wakers is such a number.
        unsafe { &*data.cast::<AtomicUsize>() }
    }
    const TABLE: RawWakerVTable = RawWakerVTable::new(
        |data| {
            // SAFETY: as above.
            assert!(unsafe { count(data) }.load(Ordering::Relaxed) != 1, "the clone was told to panic");
            RawWaker::new(data, &TABLE)
        },
        // SAFETY: as above.
        |data| assert!(unsafe { count(data) }.load(Ordering::Relaxed) != 2, "the call was told to panic"),
        // SAFETY: as above.
        |data| assert!(unsafe { count(data) }.load(Ordering::Relaxed) != 2, "the call was told to panic"),
        |_| {},
    );
    // SAFETY: the number is static; functions can be called by any thread.
    unsafe { Waker::from_raw(RawWaker::new(std::ptr::from_ref(panics).cast(), &TABLE)) }
}

#[test]
fn a_waker_that_panics_costs_neither_a_slot_nor_the_place_of_others() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    for kind in [1, 2] {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
        let options = Options { queue_size: 4, waiters: 4, ..defaults() };
        let disk = open_with::<_, common::Counted>(&device, &memory, &options);
        let (mut handle, queue) = disk.split();
        let alive = Arc::new(AtomicUsize::new(0));
        let tasks = AsyncQueue::new(RefCell::new(queue));
        let waker = nervous(&PANICS);
        let mut context = Context::from_waker(&waker);
        let read = |sector| Box::pin(tasks.read(sector, common::Counted::new(vec![0; 512], &alive)));
        let mut reads: Vec<_> = (0..8).map(read).collect();
        for read in &mut reads {
            assert!(read.as_mut().poll(&mut context).is_pending());
        }
        // Those in the device's hand and those in line, one after the other.
        PANICS.store(kind, Ordering::Relaxed);
        for read in &mut reads {
            let _ = catch_unwind(AssertUnwindSafe(|| read.as_mut().poll(&mut context).is_pending()));
        }
        device.run();
        for _ in 0..20 {
            let _ = catch_unwind(AssertUnwindSafe(|| tasks.process()));
        }
        PANICS.store(0, Ordering::Relaxed);
        let mut done = 0;
        for _ in 0..5 {
            for read in &mut reads {
                if let Poll::Ready(result) = read.as_mut().poll(&mut context) {
                    done += usize::from(result.is_ok());
                }
            }
            device.run();
            tasks.process().unwrap();
        }
        assert_eq!(done, 8, "kind {kind}: all of them are done in the end");
        drop(reads);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
        let mut queue = tasks.into_inner().into_inner();
        for _ in 0..4 {
            queue.submit_read(0, counted(vec![0; 512])).expect("all slots are free");
        }
        queue.commit();
        device.run();
        handle.shutdown(&mut [&mut queue], &mut Spin).unwrap();
        device.assert_conformant();
    }
}
