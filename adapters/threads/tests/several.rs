//! Calls that take several requests: these are in flight together, and leave room for others.

mod common;

use std::thread;

use common::{Parking, TestDisk, beside_the_device, concurrent_device, defaults, open, pattern};
use testing_device::{BlockDevice, Mode, Order, Outcome, PendingRequest, ScatterMemory};
use virtio_blk::{DeviceError, Error, Operation, Options};
use virtio_blk_threads::Polling;
use virtio_spec::{Features, block::RequestStatus};

/// The length of a call that takes many requests.
const BYTES: usize = if cfg!(miri) { 64 << 10 } else { 256 << 10 };
const SECTORS: u64 = BYTES as u64 / 512;

/// Requests of a page or two.
fn short_requests(queue_size: u16) -> Options {
    Options { queue_size, segments: 2, ..defaults() }
}

/// A device that does nothing by itself, and a disk whose threads sleep.
fn asleep(queue_size: u16) -> (ScatterMemory, BlockDevice, Parking, TestDisk<Parking>) {
    let memory = ScatterMemory::new();
    let device = concurrent_device().capacity(SECTORS + 8).build(&memory);
    let parking = Parking::default();
    let disk = open(&device, &memory, parking.clone(), &short_requests(queue_size));
    disk.use_interrupts();
    (memory, device, parking, disk)
}

/// Waits until threads have begun to sleep so many times.
fn sleeping(parking: &Parking, sleeps: u64) {
    while parking.sleeps() < sleeps {
        thread::yield_now();
    }
}

/// All that the device was asked.
fn take_all(device: &BlockDevice) -> Vec<PendingRequest> {
    std::iter::from_fn(|| device.take()).collect()
}

/// Answers everything until a thread has ended.
fn finish<R>(device: &BlockDevice, disk: &TestDisk<Parking>, thread: thread::ScopedJoinHandle<'_, R>) -> R {
    while !thread.is_finished() {
        device.run();
        disk.handle_interrupt();
        thread::yield_now();
    }
    thread.join().unwrap()
}

/// Answers requests well.
fn complete(device: &BlockDevice, in_hand: impl IntoIterator<Item = PendingRequest>) {
    in_hand.into_iter().for_each(|pending| assert!(device.complete(pending, Outcome::HONEST)));
}

// What is found is judged when all threads have ended: a thread that sleeps would keep a failed test from ending.

#[test]
fn requests_of_one_call_are_in_flight_together() {
    let (memory, device, parking, disk) = asleep(8);
    let wanted = pattern(BYTES, 9);
    let (at_first, later) = thread::scope(|scope| {
        let writer = scope.spawn(|| disk.write(0, &wanted));
        sleeping(&parking, 1);
        let mut in_hand = take_all(&device);
        let at_first = in_hand.len();
        // It is woken when a half of them has ended, and goes on: the others are in flight meanwhile.
        complete(&device, in_hand.drain(at_first / 2..));
        disk.handle_interrupt();
        sleeping(&parking, 2);
        in_hand.extend(take_all(&device));
        let later = in_hand.len();
        complete(&device, in_hand);
        assert_eq!(finish(&device, &disk, writer), Ok(()));
        (at_first, later)
    });
    assert_eq!((at_first, later), (8, 8), "as many as there is room for");
    assert!(device.read_disk(0, SECTORS as usize) == wanted);
    assert_eq!(parking.pauses(), 0);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_long_call_leaves_room_for_others() {
    let (memory, device, parking, disk) = asleep(4);
    let long = pattern(BYTES, 1);
    let (at_first, next) = thread::scope(|scope| {
        let writer = scope.spawn(|| disk.write(0, &long));
        sleeping(&parking, 1);
        let mut in_hand = take_all(&device);
        let at_first = in_hand.len();
        let other = scope.spawn(|| disk.write(SECTORS, &[7; 512]));
        sleeping(&parking, 2);
        // Both are woken. The long call has requests in flight, so the room is the other's, whoever comes first.
        complete(&device, in_hand.drain(at_first / 2..));
        disk.handle_interrupt();
        let next = loop {
            if let Some(pending) = device.take() {
                break pending;
            }
            thread::yield_now();
        };
        let sector = next.sector();
        complete(&device, [next]);
        complete(&device, in_hand);
        assert_eq!(finish(&device, &disk, other), Ok(()));
        assert_eq!(finish(&device, &disk, writer), Ok(()));
        (at_first, sector)
    });
    assert_eq!((at_first, next), (4, SECTORS));
    assert!(device.read_disk(0, SECTORS as usize) == long);
    assert_eq!(device.read_disk(SECTORS, 1), [7; 512]);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn long_calls_of_many_threads_end_well_in_any_order() {
    const BYTES: usize = if cfg!(miri) { 20 << 10 } else { 256 << 10 };
    const CASES: [(u16, bool, bool); 4] = [(4, true, true), (16, false, true), (16, true, false), (8, false, false)];
    for (queue_size, indirect, sleeps) in CASES.into_iter().take(if cfg!(miri) { 2 } else { 4 }) {
        let memory = ScatterMemory::new();
        let mut builder = concurrent_device().capacity(4 * SECTORS);
        if !indirect {
            builder = builder.withhold(Features::INDIRECT_DESC.bits());
        }
        let device = builder.build(&memory);
        device.faults(|faults| faults.order = Order::Shuffled(5));
        let parking = Parking::default();
        let disk = open(&device, &memory, parking.clone(), &short_requests(queue_size));
        if sleeps {
            disk.use_interrupts();
        }
        beside_the_device(&device, &disk, || {
            thread::scope(|scope| {
                for number in 0..if cfg!(miri) { 2 } else { 4 } {
                    let disk = &disk;
                    scope.spawn(move || {
                        let wanted = pattern(BYTES - 512, number);
                        // It starts and ends in the middle of a sector.
                        let offset = number * BYTES as u64 + 100;
                        assert_eq!(disk.write_at(offset, &wanted), Ok(wanted.len()));
                        let mut found = vec![0; wanted.len()];
                        assert_eq!(disk.read_at(offset, &mut found), Ok(wanted.len()));
                        assert!(found == wanted, "thread {number}");
                    });
                }
            });
        });
        assert!(device.counts().depth > 1);
        assert_eq!(if sleeps { parking.pauses() } else { parking.sleeps() }, 0);
        drop(disk);
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn the_first_request_that_fails_is_the_error_of_the_call() {
    let (memory, device, parking, disk) = asleep(8);
    let buffer = pattern(BYTES, 2);
    thread::scope(|scope| {
        let writer = scope.spawn(|| disk.write(0, &buffer));
        sleeping(&parking, 1);
        let mut in_hand = take_all(&device);
        let failing = in_hand.remove(in_hand.len() / 2);
        let sector = failing.sector();
        assert!(device.complete(failing, Outcome::failure(RequestStatus::IOERR)));
        for pending in in_hand {
            assert!(device.complete(pending, Outcome::failure(RequestStatus::UNSUPP)));
        }
        disk.handle_interrupt();
        let failed = Error::Device { operation: Operation::Write, sector, status: DeviceError::Io };
        assert_eq!(finish(&device, &disk, writer), Err(failed));
    });
    assert_eq!(device.counts().requests(), 8, "after an error nothing more is asked for");
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_long_call_survives_a_device_that_breaks_the_rules() {
    let memory = ScatterMemory::new();
    let device = concurrent_device().capacity(SECTORS).build(&memory);
    let disk = open(&device, &memory, Parking::default(), &short_requests(8));
    disk.use_interrupts();
    device.faults(|faults| {
        faults.next.extend([Outcome::HONEST; 5]);
        faults.next.push_back(Outcome { id: Some(99), ..Outcome::HONEST });
    });
    let wanted = pattern(BYTES, 4);
    beside_the_device(&device, &disk, || assert_eq!(disk.write(0, &wanted), Ok(())));
    assert!(device.read_disk(0, SECTORS as usize) == wanted);
    assert!(device.counts().resets > 1);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_long_call_that_gives_up_takes_all_its_requests_back() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).capacity(SECTORS).build(&memory);
    let disk = open(&device, &memory, Polling { looks: 20 }, &short_requests(8));
    let mut buffer = vec![0x77; BYTES];
    assert_eq!(disk.read(0, &mut buffer), Err(Error::GaveUp));
    assert_eq!((device.counts().depth, device.run()), (0, 0), "nothing is done later");
    assert!(buffer.iter().all(|&byte| byte == 0x77));
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}
