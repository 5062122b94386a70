//! Disks whose queues have packed rings, or either kind as negotiated.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use common::{Counted, Placed, defaults, few, pattern, transport};
use futures_executor::LocalPool;
use futures_util::task::LocalSpawnExt;
use testing_device::{
    BlockDevice, Builder, DeviceRegisters, Interface, IommuMemory, Mode, Order, ScatterMemory, TestMemory,
};
use virtio_blk::{
    AsyncQueue, Disk, Either, Error, FeatureSet, Features, OpenError, Operation, Options, Packed, Queue, Recovered,
    RingFormat, Setup, Split,
};
use virtio_transport::{Mmio, MmioNotifier, Spin, SpinLimit};

type TestDisk<M, R> = Disk<Mmio<DeviceRegisters>, M, Counted, R>;
type TestQueue<M, R> = Queue<M, MmioNotifier<DeviceRegisters>, Counted, R>;

/// More looks than anything here needs, so that nothing waits for ever.
const SOON: SpinLimit = SpinLimit { looks: 1000 };

const PACKED: Features = Features::RING_PACKED;

fn try_open<M: TestMemory, R: RingFormat>(
    ring: R,
    device: &BlockDevice,
    memory: &M,
    options: &Options,
) -> Result<TestDisk<M, R>, OpenError> {
    Disk::open_with(ring, transport(device), memory.clone(), options, &mut SOON.clone())
}

fn sector(byte: u8) -> Counted {
    Counted::new(vec![byte; 512], &Arc::default())
}

/// Whether a disk that can be opened has a packed ring; it is used once.
fn opens<R: RingFormat>(ring: R, builder: Builder, options: &Options) -> Result<bool, OpenError> {
    let memory = ScatterMemory::new();
    let device = builder.build(&memory);
    let packed = try_open(ring, &device, &memory, options).map(|mut disk| {
        disk.write(3, &pattern(512, 3), &mut SOON.clone()).unwrap();
        assert_eq!(device.read_disk(3, 1), pattern(512, 3));
        let packed = disk.info().features.contains(PACKED);
        assert_eq!((device.raw_packed_ring(0).is_some(), device.raw_ring(0).is_some()), (packed, !packed));
        packed
    });
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
    packed
}

/// The error of a disk that needs a packed ring, on a device that does not offer one or with a kernel that forbids it.
#[track_caller]
fn assert_missing(result: Result<bool, OpenError>, offered: bool) {
    let Err(OpenError::MissingFeatures { missing, offered: all }) = result else { panic!("{result:?}") };
    assert_eq!(missing, FeatureSet::from(PACKED));
    assert_eq!(all.contains(PACKED), offered);
}

#[test]
fn the_ring_is_the_one_that_kernel_and_device_agree_on() {
    let (plain, packed) = (BlockDevice::builder(), BlockDevice::builder().packed());
    let any = &defaults();
    assert_eq!(opens(Split, plain.clone(), any), Ok(false));
    assert_eq!(opens(Split, packed.clone(), any), Ok(false), "a kernel without code for it");
    assert_eq!(opens(Packed, packed.clone(), any), Ok(true));
    assert_eq!(opens(Either, plain.clone(), any), Ok(false));
    assert_eq!(opens(Either, packed.clone(), any), Ok(true));
    assert_missing(opens(Packed, plain.clone(), any), false);

    let forbid = &Options { forbid: PACKED.into(), ..defaults() };
    assert_eq!(opens(Either, packed.clone(), forbid), Ok(false));
    assert_missing(opens(Packed, packed.clone(), forbid), true);

    let require = &Options { require: PACKED.into(), ..defaults() };
    assert_eq!(opens(Either, packed.clone(), require), Ok(true));
    assert_missing(opens(Either, plain, require), false);
    assert_missing(opens(Split, packed.clone(), require), true);

    // The legacy interface has no bits above 31.
    let legacy = packed.interface(Interface::Legacy);
    assert_eq!(opens(Either, legacy.clone(), any), Ok(false));
    assert_missing(opens(Packed, legacy, any), false);
}

#[test]
fn a_queue_has_as_many_entries_as_the_kernel_and_the_device_like() {
    for (wished, most, expected) in few(1, [(12, 256, 12), (255, 100, 100), (5, 4, 4), (1000, 77, 77)]) {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().packed().queue_size_max(most).build(&memory);
        let options = Options { queue_size: wished, segments: 2, ..defaults() };
        let mut disk = try_open(Packed, &device, &memory, &options).unwrap();
        assert_eq!((disk.queue().size(), device.queue_size(0)), (expected, Some(expected)));
        drop(disk);
        // The largest power of two that is not more.
        let options = Options { forbid: PACKED.into(), ..options };
        let mut disk = try_open(Either, &device, &memory, &options).unwrap();
        assert_eq!(disk.queue().size(), 1 << expected.ilog2());
    }
}

/// Writes, reads and flushes, several times around the ring.
fn laps<M: TestMemory, R: RingFormat>(ring: R, memory: &M, builder: Builder, queue_size: u16) {
    let device = builder.packed().build(memory);
    let options = Options { queue_size, segments: 2, ..defaults() };
    let mut disk = try_open(ring, &device, memory, &options).unwrap();
    assert_eq!(disk.queue().size(), queue_size);
    for turn in 0..if cfg!(miri) { 3 } else { 2 * u64::from(queue_size) } {
        // Across a page, and from time to time more than one request takes.
        let bytes = if turn % 5 == 4 { 24 * 512 } else { 512 * (1 + turn as usize % 3) };
        let data = Placed::filled(4000 + turn as usize, bytes, turn);
        let wait = &mut SOON.clone();
        disk.write(turn, &data, wait).unwrap();
        assert_eq!(device.read_disk(turn, bytes / 512), data[..]);
        let mut back = Placed::new(3000 + turn as usize, bytes);
        disk.read(turn, &mut back, wait).unwrap();
        assert!(back[..] == data[..] && back.rest_is_zero());
        disk.flush(wait).unwrap();
    }
    assert_eq!(disk.queue().in_flight(), 0);
    disk.shutdown(&mut SOON.clone()).unwrap();
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
}

#[test]
fn requests_go_around_rings_of_every_size() {
    for size in few(1, 4..=19) {
        for withheld in [Features::empty(), Features::INDIRECT_DESC, Features::EVENT_IDX] {
            let builder = BlockDevice::builder().withhold(withheld.bits());
            laps(Packed, &ScatterMemory::new(), builder.clone(), size);
            laps(Either, &IommuMemory::new(), builder, size);
        }
    }
}

#[test]
fn notifications_say_where_the_next_request_will_be() {
    let builder = BlockDevice::builder().offer(Features::NOTIFICATION_DATA.bits());
    for size in few(1, [5, 8, 13]) {
        laps(Packed, &ScatterMemory::new(), builder.clone(), size);
        laps(Packed, &ScatterMemory::new(), builder.clone().withhold(Features::INDIRECT_DESC.bits()), size);
    }
}

#[test]
fn requests_come_back_in_whatever_order_the_device_chooses() {
    for withheld in [Features::empty(), Features::INDIRECT_DESC] {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().packed().mode(Mode::Manual).withhold(withheld.bits()).build(&memory);
        let options = Options { queue_size: 23, ..defaults() };
        let mut disk = try_open(Either, &device, &memory, &options).unwrap();
        device.faults(|faults| faults.order = Order::Shuffled(7));
        for place in 0..64 {
            device.write_disk(place, &[place as u8; 512]);
        }
        for turn in 0..if cfg!(miri) { 3 } else { 40 } {
            let places = (0..5).map(|index| (turn * 5 + index) % 64);
            let queue = disk.queue();
            let mut tokens: Vec<_> =
                places.map(|place| (queue.submit_read(place, sector(0xee)).unwrap(), place)).collect();
            queue.commit();
            assert_eq!(device.run(), 5);
            while let Some(completion) = queue.poll().unwrap() {
                let index = tokens.iter().position(|(token, _)| *token == completion.token).unwrap();
                let (_, place) = tokens.swap_remove(index);
                assert_eq!((completion.sector, completion.result), (place, Ok(())));
                assert_eq!(completion.buffer.unwrap().bytes, [place as u8; 512]);
            }
            assert!(tokens.is_empty());
        }
        drop(disk);
        device.assert_conformant();
    }
}

/// Puts a read, two writes and a flush in flight, has the device hold them, and recovers.
fn requests_in_flight_are_issued_again<M: TestMemory, R: RingFormat>(ring: R, builder: Builder, memory: &M) {
    let device = builder.packed().mode(Mode::Manual).capacity(4096).build(memory);
    let options = Options { queue_size: 27, ..defaults() };
    let mut disk = try_open(ring, &device, memory, &options).unwrap();
    device.write_disk(1, &[11; 512]);
    // Into the second lap first.
    for turn in 0..10 {
        let running = device.clone();
        disk.write(8 + turn, &[turn as u8; 512], &mut || {
            running.run();
            Ok(())
        })
        .unwrap();
    }
    for _ in 0..3 {
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
        device.faults(|faults| faults.hold = false);
        let Recovered { reissued, ended, .. } = disk.recover(&mut SOON.clone()).unwrap();
        assert_eq!((reissued, ended), (2, 2));
        device.run();
        let completions: Vec<_> = std::iter::from_fn(|| disk.queue().poll().unwrap()).collect();
        let of = |token| completions.iter().find(|completion| completion.token == token).expect("its completion");
        assert_eq!(completions.len(), 4);
        assert_eq!((of(read).result, &of(read).buffer.as_ref().unwrap().bytes), (Ok(()), &vec![11; 512]));
        assert_eq!((of(write).result, device.read_disk(2, 1)), (Ok(()), vec![77; 512]));
        assert_eq!(of(cancelled).result, Err(Error::Cancelled { operation: Operation::Write, sector: 3 }));
        assert_eq!(device.read_disk(3, 1), [0; 512], "a cancelled write is not issued again");
        assert_eq!(of(flush).result, Err(Error::FlushInDoubt));
    }
    drop(disk);
    // A ring that is not all zero when the device is told of it again shows here.
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
}

#[test]
fn requests_in_flight_are_issued_again_on_an_empty_ring() {
    for withheld in [Features::empty(), Features::INDIRECT_DESC, Features::EVENT_IDX] {
        let builder = BlockDevice::builder().withhold(withheld.bits());
        requests_in_flight_are_issued_again(Packed, builder.clone(), &ScatterMemory::new());
        requests_in_flight_are_issued_again(Either, builder, &IommuMemory::new());
    }
}

#[test]
fn tasks_share_a_queue() {
    for withheld in [Features::empty(), Features::INDIRECT_DESC, Features::EVENT_IDX] {
        let memory = ScatterMemory::new();
        let builder = BlockDevice::builder().packed().withhold(withheld.bits());
        let device = builder.mode(Mode::Manual).capacity(4096).build(&memory);
        let options = Options { queue_size: 7, segments: 2, ..defaults() };
        let (handle, mut queue) = try_open(Packed, &device, &memory, &options).unwrap().split();
        queue.use_interrupts(1);
        let interrupt = handle.interrupt().expect("it runs");
        let disk = Rc::new(AsyncQueue::new(RefCell::new(queue)));
        let mut pool = LocalPool::new();
        let tasks = if cfg!(miri) { 4 } else { 60 };
        let done = Rc::new(RefCell::new(0));
        for task in 0..tasks {
            let (disk, done) = (disk.clone(), done.clone());
            let work = async move {
                disk.write(task, sector(task as u8 + 1)).await.unwrap();
                assert_eq!(disk.read(task, sector(0)).await.unwrap().bytes, [task as u8 + 1; 512]);
                *done.borrow_mut() += 1;
            };
            pool.spawner().spawn_local(work).unwrap();
        }
        loop {
            pool.run_until_stalled();
            if device.run() == 0 {
                break;
            }
            // A task that sleeps is woken by an interrupt, or not at all.
            assert!(disk.handle_interrupt(&interrupt).unwrap().expect("its interrupt").used);
        }
        assert_eq!(*done.borrow(), tasks);
        drop((pool, disk, handle));
        device.assert_conformant();
    }
}

#[test]
fn several_queues_go_around_by_themselves() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().packed().queues(3).mode(Mode::Manual).capacity(64).build(&memory);
    let options = Options { queues: 3, queue_size: 5, segments: 2, ..defaults() };
    let mut setup =
        Setup::negotiate_with(Either, transport(&device), memory.clone(), &options, &mut SOON.clone()).unwrap();
    let mut queues: Vec<TestQueue<_, Either>> = (0..3).map(|_| setup.add_queue().unwrap()).collect();
    let mut handle = setup.start();
    for place in 0..64 {
        device.write_disk(place, &[place as u8; 512]);
    }
    for turn in 0..if cfg!(miri) { 3 } else { 30_u64 } {
        // As many on each as its number says.
        for (index, queue) in (1..).zip(&mut queues) {
            for request in 0..index {
                queue.submit_read((turn + index * request) % 64, sector(0xee)).unwrap();
            }
            queue.commit();
        }
        assert_eq!(device.run(), 6);
        for (index, queue) in (1..).zip(&mut queues) {
            for request in 0..index {
                let completion = queue.poll().unwrap().expect("a completion");
                let place = (turn + index * request) % 64;
                assert_eq!((completion.sector, completion.result), (place, Ok(())));
                assert_eq!(completion.buffer.unwrap().bytes, [place as u8; 512]);
            }
            assert!(queue.poll().unwrap().is_none());
        }
        if turn % 10 == 9 {
            let [first, second, third] = &mut queues[..] else { panic!("three queues") };
            let recovered = handle.recover(&mut [first, second, third], &mut SOON.clone()).unwrap();
            assert_eq!((recovered.reissued, recovered.ended), (0, 0));
        }
    }
    let [first, second, third] = &mut queues[..] else { panic!("three queues") };
    handle.shutdown(&mut [first, second, third], &mut SOON.clone()).unwrap();
    drop((handle, queues));
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
}

#[test]
fn a_kernel_that_spins_needs_no_interrupt() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().packed().build(&memory);
    let mut disk = try_open(Packed, &device, &memory, &defaults()).unwrap();
    for turn in 0..20 {
        disk.write(turn, &pattern(512, turn), &mut Spin).unwrap();
    }
    assert_eq!(device.counts().interrupts, 0);
    drop(disk);
    device.assert_conformant();
}
