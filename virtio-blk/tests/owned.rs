//! Requests that own their buffers: submitted, committed, polled.

mod common;

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Counted, Placed, TestDisk, defaults, few, open_with, pattern};
use testing_device::{BlockDevice, IommuMemory, Mode, Order, Outcome, ScatterMemory, TestMemory};
use virtio_blk::{Completion, DeviceError, Error, Features, Operation, Options};
use virtio_spec::block::RequestStatus;
use virtio_transport::{GaveUp, Spin};

type Owning<M> = TestDisk<M, Counted>;

struct Rig<M: TestMemory> {
    memory: M,
    device: BlockDevice,
    disk: Owning<M>,
    alive: Arc<AtomicUsize>,
}

impl<M: TestMemory> Rig<M> {
    fn new(memory: M, mode: Mode, queue_size: u16) -> Self {
        let device = BlockDevice::builder().mode(mode).build(&memory);
        let disk = open_with(&device, &memory, &Options { queue_size, ..defaults() });
        Self { memory, device, disk, alive: Arc::default() }
    }

    /// A buffer of one sector.
    fn sector(&self, seed: u64) -> Counted {
        Counted::new(pattern(512, seed), &self.alive)
    }

    fn write(&mut self, sector: u64) -> Result<virtio_blk::Token, Error> {
        let buffer = self.sector(sector);
        self.disk.queue().submit_write(sector, buffer).map_err(|rejected| rejected.error)
    }

    fn poll(&mut self) -> Option<Completion<Counted>> {
        self.disk.queue().poll().unwrap()
    }

    fn finish(self) {
        drop(self.disk);
        self.device.assert_conformant();
        drop(self.device);
        self.memory.assert_clean();
        assert_eq!(self.alive.load(Ordering::Relaxed), 0, "buffers that are left");
    }
}

fn many_with_one_notification<M: TestMemory>(memory: M) {
    let mut rig = Rig::new(memory, Mode::Immediate, 128);
    let tokens: Vec<_> = (0..16).map(|sector| rig.write(sector).unwrap()).collect();
    assert_eq!((rig.device.counts().notifications, rig.disk.queue().in_flight()), (0, 16));
    assert!(rig.poll().is_none(), "nothing was committed");
    assert!(rig.disk.queue().commit());
    assert!(!rig.disk.queue().commit(), "nothing new");
    assert_eq!((rig.device.counts().notifications, rig.device.counts().depth), (1, 16));
    for (sector, token) in (0..).zip(tokens) {
        let completion = rig.poll().unwrap();
        assert_eq!((completion.token, completion.sector), (token, sector));
        assert_eq!((completion.operation, completion.result), (Operation::Write, Ok(())));
        assert_eq!(completion.buffer.unwrap().bytes, pattern(512, sector), "a write leaves its buffer as it is");
        assert_eq!(rig.device.read_disk(sector, 1), pattern(512, sector));
    }
    assert!(rig.poll().is_none());
    assert_eq!(rig.disk.queue().in_flight(), 0);
    rig.finish();
}

#[test]
fn many_requests_are_published_with_one_notification() {
    #[cfg(not(miri))]
    many_with_one_notification(ScatterMemory::new());
    many_with_one_notification(IommuMemory::new());
}

#[test]
fn reads_fill_the_buffers_that_come_back_with_them() {
    for order in few(1, [Order::Lifo, Order::Fifo, Order::Shuffled(3)]) {
        let mut rig = Rig::new(IommuMemory::new(), Mode::Immediate, 64);
        rig.device.write_disk(0, &pattern(512 * 64, 8));
        rig.device.faults(|faults| faults.order = order);
        let mut waiting = Vec::new();
        for sector in 0..10 {
            let buffer = Counted::new(vec![0; 512 * (1 + sector as usize % 4)], &rig.alive);
            waiting.push((rig.disk.queue().submit_read(sector * 5, buffer).ok().unwrap(), sector * 5));
        }
        rig.disk.queue().commit();
        let mut polled = Vec::new();
        while let Some(completion) = rig.poll() {
            let place = waiting.iter().position(|(token, _)| *token == completion.token).unwrap();
            let (_, sector) = waiting.remove(place);
            assert_eq!((completion.operation, completion.sector), (Operation::Read, sector));
            let buffer = completion.buffer.unwrap();
            let from = sector as usize * 512;
            assert!(buffer.bytes == pattern(512 * 64, 8)[from..from + buffer.bytes.len()]);
            polled.push(sector / 5);
        }
        assert!(waiting.is_empty());
        match order {
            Order::Fifo => assert!(polled.is_sorted()),
            Order::Lifo => assert!(polled.is_sorted_by(|a, b| a > b)),
            Order::Shuffled(_) => assert!(!polled.is_sorted()),
        }
        rig.finish();
    }
}

#[test]
#[cfg(feature = "alloc")]
fn boxes_and_vectors_come_back_as_they_were_given() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk: TestDisk<_, Vec<u8>> = open_with(&device, &memory, &defaults());
    let mut vec = Vec::with_capacity(5000);
    vec.extend_from_slice(&pattern(1024, 1));
    let (address, capacity) = (vec.as_ptr(), vec.capacity());
    disk.queue().submit_write(4, vec).unwrap();
    disk.queue().commit();
    let mut vec = disk.queue().poll().unwrap().unwrap().buffer.unwrap();
    assert_eq!((vec.as_ptr(), vec.capacity(), vec.len()), (address, capacity, 1024));
    vec.push(1);
    drop(disk);

    let mut disk: TestDisk<_, Box<[u8]>> = open_with(&device, &memory, &defaults());
    disk.queue().submit_read(4, vec![0; 1024].into()).unwrap();
    disk.queue().commit();
    let boxed = disk.queue().poll().unwrap().unwrap().buffer.unwrap();
    assert_eq!(boxed[..], pattern(1024, 1));
    // One is in flight when the disk is dropped, one has ended and was not polled, one was not committed.
    disk.queue().submit_read(4, vec![0; 1024].into()).unwrap();
    disk.queue().commit();
    device.faults(|faults| faults.hold = true);
    disk.queue().submit_read(4, vec![0; 1024].into()).unwrap();
    disk.queue().commit();
    disk.queue().submit_read(4, vec![0; 1024].into()).unwrap();
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn static_buffers_come_back() {
    let memory = IommuMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk: TestDisk<_, &'static mut [u8]> = open_with(&device, &memory, &defaults());
    device.write_disk(9, &pattern(512, 9));
    let buffer = vec![0; 512].leak();
    let address = buffer.as_ptr();
    disk.queue().submit_read(9, buffer).unwrap();
    disk.queue().commit();
    let buffer = disk.queue().poll().unwrap().unwrap().buffer.unwrap();
    assert_eq!((buffer.as_ptr(), &buffer[..]), (address, &pattern(512, 9)[..]));
    // SAFETY: it was leaked above, with the capacity of its length.
    drop(unsafe { Vec::from_raw_parts(buffer.as_mut_ptr(), 512, 512) });
    drop(disk);
    memory.assert_clean();
}

#[test]
fn a_full_queue_gives_the_buffer_back() {
    let mut rig = Rig::new(ScatterMemory::new(), Mode::Manual, 8);
    for sector in 0..8 {
        rig.write(sector).unwrap();
    }
    let buffer = rig.sector(8);
    let rejected = rig.disk.queue().submit_write(8, buffer).err().unwrap();
    assert_eq!((rejected.error, &rejected.buffer.bytes), (Error::QueueFull, &pattern(512, 8)));
    drop(rejected);
    assert_eq!(rig.disk.queue().submit_flush(), Err(Error::QueueFull));
    rig.disk.queue().commit();
    rig.device.run();
    assert_eq!(rig.write(8), Err(Error::QueueFull), "ended, and not polled");
    assert!(rig.poll().is_some());
    rig.write(8).unwrap();
    assert_eq!(rig.write(9), Err(Error::QueueFull));
    rig.finish();
}

#[test]
fn as_many_requests_are_in_flight_as_the_queue_has_entries() {
    let size = if cfg!(miri) { 16 } else { 256 };
    let mut rig = Rig::new(IommuMemory::new(), Mode::Manual, size);
    rig.device.faults(|faults| {
        faults.hold = true;
        faults.order = Order::Shuffled(42);
    });
    for sector in 0..u64::from(size) {
        rig.write(sector).unwrap();
    }
    assert_eq!(rig.write(0), Err(Error::QueueFull));
    assert!(rig.disk.queue().commit());
    rig.device.run();
    assert_eq!((rig.device.counts().depth, rig.device.held()), (u64::from(size), usize::from(size)));
    assert!(rig.poll().is_none());
    assert_eq!(rig.device.release(), usize::from(size));
    let mut sectors: Vec<_> = std::iter::from_fn(|| rig.poll()).map(|completion| completion.sector).collect();
    assert!(!sectors.is_sorted());
    sectors.sort_unstable();
    assert!(sectors.into_iter().eq(0..u64::from(size)));
    rig.finish();
}

#[test]
fn a_direct_queue_holds_fewer_requests_and_says_so() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().withhold(Features::INDIRECT_DESC.bits()).mode(Mode::Manual).build(&memory);
    let mut disk: TestDisk<_, &'static mut [u8]> =
        open_with(&device, &memory, &Options { queue_size: 16, ..defaults() });
    let mut buffers: Vec<_> = (0..16).map(|_| Placed::new(0, 512)).collect();
    let mut submitted = 0;
    for (buffer, sector) in buffers.iter_mut().zip(0..) {
        // SAFETY: the buffers live until the device was reset, at the end.
        match unsafe { disk.queue().submit_read_borrowed(sector, NonNull::from(&mut buffer[..])) } {
            Ok(_) => submitted += 1,
            Err(error) => assert_eq!(error, Error::QueueFull),
        }
    }
    assert_eq!(submitted, 5, "three descriptors each, of sixteen");
    disk.queue().submit_flush().unwrap_err();
    disk.queue().commit();
    assert_eq!(device.run(), 5);
    assert_eq!(std::iter::from_fn(|| disk.queue().poll().unwrap()).count(), 5);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_failed_request_comes_back_with_its_buffer_and_its_error() {
    let mut rig = Rig::new(ScatterMemory::new(), Mode::Immediate, 16);
    rig.device.faults(|faults| faults.bad_sectors.push(2..3));
    for sector in 0..4 {
        rig.write(sector).unwrap();
    }
    rig.disk.queue().commit();
    for sector in 0..4 {
        let completion = rig.poll().unwrap();
        let failed = Err(Error::Device { operation: Operation::Write, sector, status: DeviceError::Io });
        assert_eq!(completion.result, if sector == 2 { failed } else { Ok(()) });
        assert_eq!(completion.buffer.unwrap().bytes, pattern(512, sector));
    }
    rig.finish();
}

#[test]
fn a_flush_is_polled_like_any_other() {
    let mut rig = Rig::new(ScatterMemory::new(), Mode::Manual, 16);
    rig.write(3).unwrap();
    rig.disk.queue().commit();
    rig.device.run();
    assert!(rig.poll().unwrap().result.is_ok());
    let token = rig.disk.queue().submit_flush().unwrap();
    rig.disk.queue().commit();
    rig.device.run();
    let completion = rig.poll().unwrap();
    assert_eq!((completion.token, completion.operation, completion.sector), (token, Operation::Flush, 0));
    assert!(completion.result.is_ok() && completion.buffer.is_none());
    assert_eq!(rig.device.read_stable(3, 1), pattern(512, 3));

    rig.disk.queue().submit_flush().unwrap();
    rig.disk.queue().commit();
    let pending = rig.device.take().unwrap();
    rig.device.complete(pending, Outcome::failure(RequestStatus::IOERR));
    let failed = Err(Error::Device { operation: Operation::Flush, sector: 0, status: DeviceError::Io });
    assert_eq!(rig.poll().unwrap().result, failed);
    rig.finish();
}

#[test]
fn a_blocking_call_delivers_what_is_in_flight_beside_it() {
    for order in few(1, [Order::Lifo, Order::Fifo, Order::Shuffled(9)]) {
        let mut rig = Rig::new(IommuMemory::new(), Mode::Immediate, 32);
        rig.device.write_disk(100, &pattern(512, 100));
        rig.device.faults(|faults| faults.order = order);
        for sector in 0..8 {
            rig.write(sector).unwrap();
        }
        // Not committed: the call does that for all of them.
        let mut back = [0; 512];
        rig.disk.read(100, &mut back, &mut Spin).unwrap();
        assert_eq!(back[..], pattern(512, 100));
        rig.disk.flush(&mut Spin).unwrap();
        let mut sectors = Vec::new();
        while let Some(completion) = rig.poll() {
            assert!(completion.result.is_ok());
            assert_eq!(completion.buffer.unwrap().bytes, pattern(512, completion.sector));
            sectors.push(completion.sector);
        }
        sectors.sort_unstable();
        assert!(sectors.into_iter().eq(0..8));
        rig.finish();
    }
}

#[test]
fn completions_are_polled_in_the_order_in_which_they_came_across_blocking_calls() {
    let mut rig = Rig::new(ScatterMemory::new(), Mode::Immediate, 32);
    for sector in 0..12 {
        rig.write(sector).unwrap();
        if sector % 3 == 2 {
            rig.disk.flush(&mut Spin).unwrap();
        }
        if sector == 7 {
            // Some are taken in between.
            for expected in 0..4 {
                assert_eq!(rig.poll().unwrap().sector, expected);
            }
        }
    }
    rig.disk.queue().commit();
    let rest: Vec<_> = std::iter::from_fn(|| rig.poll()).map(|completion| completion.sector).collect();
    assert_eq!(rest, [4, 5, 6, 7, 8, 9, 10, 11]);
    rig.finish();
}

#[test]
fn a_blocking_call_commits_what_fills_the_queue_before_it_waits_for_room() {
    type Call = fn(&mut Owning<ScatterMemory>, &mut dyn FnMut() -> Result<(), GaveUp>) -> Result<(), Error>;
    let calls: [Call; 3] = [
        |disk, mut policy| disk.read(0, &mut [0; 512], &mut policy),
        |disk, mut policy| disk.flush(&mut policy),
        |disk, mut policy| disk.device_id(&mut policy).map(drop),
    ];
    for call in calls {
        let mut rig = Rig::new(ScatterMemory::new(), Mode::Manual, 4);
        for sector in 0..4 {
            rig.write(sector).unwrap();
        }
        let mut looks = 0;
        let device = rig.device.clone();
        let mut policy = || {
            looks += 1;
            device.run();
            if looks < 100 { Ok(()) } else { Err(GaveUp) }
        };
        // There is room, or there is none because the four were not polled; the policy is not asked for ever.
        let result = call(&mut rig.disk, &mut policy);
        assert!(matches!(result, Ok(()) | Err(Error::QueueFull)), "{result:?}");
        assert_eq!((rig.device.counts().writes, rig.device.counts().resets), (4, 1));
        rig.finish();
    }
}

#[test]
fn a_completion_that_nobody_polled_leaves_room_for_a_blocking_call() {
    for without in [Features::empty(), Features::INDIRECT_DESC] {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().withhold(without.bits()).build(&memory);
        let mut disk: Owning<_> = open_with(&device, &memory, &Options { queue_size: 8, ..defaults() });
        let alive = Arc::default();
        disk.queue().submit_write(0, Counted::new(pattern(512, 0), &alive)).ok().unwrap();
        // Four pages and a bit: too long for what is left of a queue of eight entries, but not in parts.
        let data = Placed::filled(3585, 34 * 512, 1);
        assert_eq!(disk.write(10, &data, &mut Spin), Ok(()), "without {without:?}");
        assert!(device.read_disk(10, 34) == data[..]);
        assert_eq!(disk.queue().poll().unwrap().unwrap().sector, 0);
        drop(disk);
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn a_blocking_call_fails_when_nothing_but_unpolled_completions_fills_the_queue() {
    let mut rig = Rig::new(ScatterMemory::new(), Mode::Manual, 4);
    for sector in 0..4 {
        rig.write(sector).unwrap();
    }
    rig.disk.queue().commit();
    let mut looks = 0;
    let device = rig.device.clone();
    let mut policy = || {
        looks += 1;
        device.run();
        if looks < 100 { Ok(()) } else { Err(GaveUp) }
    };
    // What was polled by nobody keeps its entry, so there is no room even when all has ended.
    assert_eq!(rig.disk.flush(&mut policy), Err(Error::QueueFull));
    assert_eq!(rig.disk.read(0, &mut [0; 512], &mut policy), Err(Error::QueueFull));
    assert_eq!((rig.device.counts().resets, rig.device.counts().writes), (1, 4));
    for sector in 0..4 {
        assert_eq!(rig.poll().unwrap().sector, sector);
    }
    rig.disk.flush(&mut policy).unwrap();
    rig.finish();
}

#[test]
fn a_blocking_call_finds_room_when_some_of_the_queue_is_free() {
    let mut rig = Rig::new(ScatterMemory::new(), Mode::Manual, 4);
    for sector in 0..3 {
        rig.write(sector).unwrap();
    }
    let device = rig.device.clone();
    let mut policy = || {
        device.run();
        Ok(())
    };
    // Many requests through the one entry that is left.
    let data = pattern(512 * 40, 1);
    let mut limited = Placed::new(0, data.len());
    limited.copy_from_slice(&data);
    rig.disk.write(100, &limited, &mut policy).unwrap();
    assert!(rig.device.read_disk(100, 40) == data);
    for sector in 0..3 {
        assert_eq!(rig.poll().unwrap().sector, sector);
    }
    rig.finish();
}

#[test]
fn a_borrowed_buffer_is_filled_and_none_comes_back() {
    let mut rig = Rig::new(IommuMemory::new(), Mode::Manual, 16);
    rig.device.write_disk(5, &pattern(1024, 5));
    let mut buffer = vec![0; 1024];
    let data = pattern(512, 7);
    let start = NonNull::from(&mut buffer[..]);
    // SAFETY: both outlive their requests, which are polled below.
    let read = unsafe { rig.disk.queue().submit_read_borrowed(5, start) }.unwrap();
    // SAFETY: as above.
    let write = unsafe { rig.disk.queue().submit_write_borrowed(9, NonNull::from(&data[..])) }.unwrap();
    // SAFETY: it is refused.
    let empty = unsafe { rig.disk.queue().submit_write_borrowed(9, NonNull::from(&data[..0])) };
    assert_eq!(empty, Err(Error::Empty));
    rig.disk.queue().commit();
    assert_eq!(rig.device.run(), 2);
    for token in [read, write] {
        let completion = rig.poll().unwrap();
        assert_eq!((completion.token, completion.result), (token, Ok(())));
        assert!(completion.buffer.is_none());
    }
    assert_eq!((buffer, rig.device.read_disk(9, 1)), (pattern(1024, 5), data));
    rig.finish();
}

#[test]
fn a_cancelled_request_goes_on_where_nothing_goes_wrong() {
    let mut rig = Rig::new(ScatterMemory::new(), Mode::Manual, 16);
    let token = rig.write(3).unwrap();
    rig.disk.queue().commit();
    assert!(rig.disk.queue().cancel(token));
    rig.device.run();
    assert_eq!(rig.poll().unwrap().result, Ok(()));
    assert_eq!(rig.device.read_disk(3, 1), pattern(512, 3));
    assert!(!rig.disk.queue().cancel(token), "it has ended");
    rig.finish();
}
