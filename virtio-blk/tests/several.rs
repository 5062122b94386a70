//! A device with several queues: blocking calls on each, and what concerns all of them.

mod common;

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use common::{Counted, defaults, pattern, transport};
use testing_device::{BlockDevice, Builder, DeviceRegisters, IommuMemory, Mode, Order, ScatterMemory, TestMemory};
use virtio_blk::{CacheMode, Device, Error, Exclusive, Options, Queue, Setup};
use virtio_spec::block::CacheMode as CacheModeByte;
use virtio_transport::{GaveUp, Mmio, MmioNotifier, Spin, SpinLimit};

type TestQueue<M> = Queue<M, MmioNotifier<DeviceRegisters>, Counted>;
type Handle<M> = Device<Mmio<DeviceRegisters>, M>;

fn rig<M: TestMemory>(builder: Builder, memory: &M) -> (BlockDevice, Handle<M>, [TestQueue<M>; 2]) {
    let device = builder.queues(2).build(memory);
    let options = Options { queues: 2, ..defaults() };
    let mut setup = Setup::negotiate(transport(&device), memory.clone(), &options, &mut Spin).unwrap();
    let queues = [setup.add_queue().unwrap(), setup.add_queue().unwrap()];
    (device, setup.start(), queues)
}

fn finish<M: TestMemory>(memory: &M, device: BlockDevice, mut handle: Handle<M>, mut queues: [TestQueue<M>; 2]) {
    let [first, second] = &mut queues;
    drop(handle.shutdown(&mut [first, second], &mut Spin).unwrap());
    drop((queues, handle));
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
}

#[test]
fn each_queue_has_all_the_calls_that_block() {
    let memory = IommuMemory::new();
    let (device, handle, mut queues) = rig(BlockDevice::builder(), &memory);
    let shared = RefCell::new(handle);
    for (place, queue) in (0..).zip(&mut queues) {
        let mut disk = queue.blocking(&shared).unwrap();
        let first = place * 100;
        disk.write(first, &pattern(20 * 512, place), &mut Spin).unwrap();
        disk.write_vectored(first + 20, &[&pattern(700, 5)[..], &pattern(324, 6)[..]], &mut Spin).unwrap();
        disk.flush(&mut Spin).unwrap();
        assert_eq!(device.read_stable(first, 20), pattern(20 * 512, place));
        let mut back = [0; 20 * 512];
        disk.read(first, &mut back, &mut Spin).unwrap();
        assert!(back[..] == pattern(20 * 512, place));
        let (mut head, mut tail) = ([0; 324], [0; 700]);
        disk.read_vectored(first + 20, &mut [&mut head, &mut tail], &mut Spin).unwrap();
        assert_eq!([&head[..], &tail[..]].concat(), [pattern(700, 5), pattern(324, 6)].concat());
        assert_eq!(disk.device_id(&mut Spin).unwrap().as_bytes(), b"testing-device");
        assert!(device.notifications(place as u16) >= 6, "over the queue's own ring");
        assert_eq!(disk.queue().in_flight(), 0);
    }
    // Who has the device to itself needs no lock.
    let mut handle = shared.into_inner();
    queues[1].blocking(&mut handle).unwrap().write(7, &[7; 512], &mut Spin).unwrap();
    assert_eq!(device.read_disk(7, 1), [7; 512]);
    finish(&memory, device, handle, queues);
}

#[test]
fn a_call_that_gives_up_resets_the_device_under_its_lock_and_the_other_queue_is_told() {
    let memory = ScatterMemory::new();
    let (device, handle, [mut first, mut second]) = rig(BlockDevice::builder(), &memory);
    device.write_disk(3, &[3; 512]);
    device.faults(|faults| faults.hold = true);
    let shared = RefCell::new(handle);
    let alive = std::sync::Arc::default();
    let token = second.submit_read(3, Counted::new(vec![0; 512], &alive)).ok().unwrap();
    second.commit();
    let mut buffer = [0x77; 512];
    let call = first.blocking(&shared).unwrap().read(0, &mut buffer, &mut SpinLimit { looks: 3 });
    assert_eq!((call, device.counts().resets), (Err(Error::GaveUp), 2));
    assert_eq!((device.release(), buffer), (0, [0x77; 512]), "nothing is written later");
    assert!(first.is_stopped() && second.is_stopped());
    let mut disk = second.blocking(&shared).unwrap();
    assert_eq!(disk.read(0, &mut buffer, &mut Spin), Err(Error::Stopped));
    assert_eq!(disk.flush(&mut Spin), Err(Error::Stopped));

    device.faults(|faults| faults.hold = false);
    let mut handle = shared.into_inner();
    assert_eq!(handle.recover(&mut [&mut first, &mut second], &mut Spin).unwrap().reissued, 1);
    let completion = second.poll().unwrap().unwrap();
    assert_eq!((completion.token, completion.result), (token, Ok(())));
    assert_eq!(completion.buffer.unwrap().bytes, [3; 512]);
    first.blocking(&mut handle).unwrap().read(3, &mut buffer, &mut Spin).unwrap();
    assert_eq!(buffer, [3; 512]);
    finish(&memory, device, handle, [first, second]);
}

#[test]
fn a_call_ends_when_the_device_is_reset_by_a_call_on_another_queue() {
    let memory = ScatterMemory::new();
    let (device, handle, [mut first, mut second]) = rig(BlockDevice::builder(), &memory);
    device.faults(|faults| faults.hold = true);
    let shared = RefCell::new(handle);
    let mut inner = Vec::new();
    let mut policy = || {
        // Another processor, whose patience ends first.
        let mut disk = second.blocking(&shared).unwrap();
        inner.push(disk.write(9, &[9; 512], &mut SpinLimit { looks: 1 }));
        Ok(())
    };
    let mut buffer = [0x77; 512];
    let call = first.blocking(&shared).unwrap().read(0, &mut buffer, &mut policy);
    assert_eq!((call, &inner[..]), (Err(Error::Stopped), &[Err(Error::GaveUp)][..]));
    assert_eq!((device.counts().resets, device.release(), buffer), (2, 0, [0x77; 512]));
    assert_eq!(device.read_disk(9, 1), [0; 512]);
    finish(&memory, device, shared.into_inner(), [first, second]);
}

#[test]
fn a_queue_of_another_device_is_refused() {
    let memory = ScatterMemory::new();
    let (device, handle, mut queues) = rig(BlockDevice::builder(), &memory);
    let (_other, mut other, mut others) = rig(BlockDevice::builder(), &memory);
    let shared = RefCell::new(handle);
    assert_eq!(queues[0].blocking(&mut other).err(), Some(Error::ForeignQueue));
    assert_eq!(others[0].blocking(&shared).err(), Some(Error::ForeignQueue));
    queues[0].blocking(&shared).unwrap().write(1, &[1; 512], &mut Spin).unwrap();
    assert_eq!(device.read_disk(1, 1), [1; 512]);
}

/// A lock that counts how often it is taken.
struct CountingLock<T>(RefCell<T>, Cell<u32>);

impl<T> Exclusive for CountingLock<T> {
    type Value = T;

    fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        self.1.set(self.1.get() + 1);
        body(&mut self.0.borrow_mut())
    }
}

#[test]
fn no_request_takes_the_lock_of_the_device() {
    let memory = ScatterMemory::new();
    let (device, handle, [mut first, second]) = rig(BlockDevice::builder(), &memory);
    let lock = CountingLock(RefCell::new(handle), Cell::new(0));
    let mut disk = first.blocking(&lock).unwrap();
    let before = lock.1.get();
    for sector in 0..10 {
        disk.write(sector, &[1; 512], &mut Spin).unwrap();
        disk.read(sector, &mut [0; 512], &mut Spin).unwrap();
    }
    assert_eq!(lock.1.get(), before);
    finish(&memory, device, lock.0.into_inner(), [first, second]);
}

#[test]
fn the_cache_mode_changes_when_nothing_is_in_flight_on_any_queue() {
    let memory = ScatterMemory::new();
    let (device, mut handle, [mut first, mut second]) = rig(BlockDevice::builder().mode(Mode::Manual), &memory);
    let alive = std::sync::Arc::default();
    for sector in 0..4 {
        first.submit_write(sector, Counted::new(pattern(512, sector), &alive)).ok().unwrap();
        second.submit_write(sector + 10, Counted::new(pattern(512, sector), &alive)).ok().unwrap();
    }
    first.commit();
    device.faults(|faults| faults.order = Order::Lifo);
    let found = handle.set_cache_mode(CacheMode::WriteThrough, &mut [&mut second], &mut Spin);
    assert_eq!(found, Err(Error::QueuesMissing { expected: 2, found: 1 }));
    let mut policy = || {
        if let Some(pending) = device.take() {
            assert!(device.counts().writes == 8 || device.config().writeback == CacheModeByte::WRITEBACK);
            device.complete(pending, testing_device::Outcome::HONEST);
        }
        Ok(())
    };
    handle.set_cache_mode(CacheMode::WriteThrough, &mut [&mut second, &mut first], &mut policy).unwrap();
    assert_eq!((device.counts().writes, device.counts().flushes), (8, 1));
    assert_eq!((handle.cache_mode(), device.config().writeback), (Ok(CacheMode::WriteThrough), CacheModeByte(0)));
    for sector in 0..4 {
        assert_eq!(device.read_stable(sector, 1), pattern(512, sector));
        assert_eq!(device.read_stable(sector + 10, 1), pattern(512, sector));
        assert_eq!(first.poll().unwrap().unwrap().result, Ok(()));
        assert_eq!(second.poll().unwrap().unwrap().result, Ok(()));
    }
    assert!(!handle.recover(&mut [&mut first, &mut second], &mut Spin).unwrap().writes_in_doubt);
    finish(&memory, device, handle, [first, second]);
}

#[test]
fn a_mode_that_is_given_up_resets_the_device_for_all_queues() {
    let memory = ScatterMemory::new();
    let (device, mut handle, [mut first, mut second]) = rig(BlockDevice::builder().mode(Mode::Manual), &memory);
    let mut lent = [5; 512];
    // SAFETY: it outlives its request, which is polled below.
    unsafe { second.submit_write_borrowed(5, NonNull::from(&mut lent[..])) }.unwrap();
    let mut policy = || -> Result<(), GaveUp> { Err(GaveUp) };
    let found = handle.set_cache_mode(CacheMode::WriteThrough, &mut [&mut first, &mut second], &mut policy);
    assert_eq!((found, device.counts().resets), (Err(Error::GaveUp), 2));
    assert!(first.is_stopped() && second.is_stopped());
    assert_eq!(device.config().writeback, CacheModeByte::WRITEBACK);
    assert_eq!(handle.recover(&mut [&mut first, &mut second], &mut Spin).unwrap().reissued, 1);
    device.run();
    assert_eq!(second.poll().unwrap().unwrap().result, Ok(()));
    assert_eq!(device.read_disk(5, 1), [5; 512]);
    finish(&memory, device, handle, [first, second]);
}
