//! Many threads at once: each gets its own answer, asleep or not.

mod common;

use std::sync::atomic::Ordering;
use std::thread;

use common::{Parking, TestDisk, beside_the_device, concurrent_device, defaults, open, pattern};
use testing_device::{BlockDevice, Order, ScatterMemory};
use virtio_blk::Options;

const THREADS: u64 = if cfg!(miri) { 3 } else { 8 };
const ROUNDS: u64 = if cfg!(miri) { 3 } else { 60 };
/// How many sectors each thread has for itself.
const OWN_SECTORS: u64 = 64;

/// Each thread writes sectors of its own, flushes, and reads them back.
fn all_work(disk: &TestDisk<Parking>) {
    thread::scope(|scope| {
        for number in 0..THREADS {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let sector = number * OWN_SECTORS + round % 7;
                    let wanted = pattern(512 * (1 + round as usize % 5), number << 32 | round);
                    disk.write(sector, &wanted).unwrap();
                    disk.flush().unwrap();
                    let mut found = vec![0; wanted.len()];
                    disk.read(sector, &mut found).unwrap();
                    assert!(found == wanted, "thread {number}, round {round}");
                }
            });
        }
    });
}

fn run(queue_size: u16, sleeping: bool) -> (BlockDevice, Parking) {
    let memory = ScatterMemory::new();
    let device = concurrent_device().capacity(THREADS * OWN_SECTORS).build(&memory);
    device.faults(|faults| faults.order = Order::Shuffled(7));
    let parking = Parking::default();
    let disk = open(&device, &memory, parking.clone(), &Options { queue_size, ..defaults() });
    if sleeping {
        disk.use_interrupts();
    }
    beside_the_device(&device, &disk, || all_work(&disk));
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
    assert_eq!(device.counts().flushes, THREADS * ROUNDS);
    (device, parking)
}

#[test]
fn threads_sleep_until_their_own_request_is_done() {
    let (device, parking) = run(64, true);
    assert_eq!(parking.pauses(), 0, "nobody looks again and again");
    let requests = 3 * THREADS * ROUNDS;
    assert!(parking.sleeps() > requests / 4, "{} sleeps for {requests} requests", parking.sleeps());
    assert!(device.counts().depth > 1, "requests of several threads are in flight together");
}

#[test]
fn threads_sleep_until_there_is_room() {
    let (device, parking) = run(4, true);
    assert_eq!(parking.pauses(), 0);
    assert!(device.counts().depth <= 4);
}

#[test]
fn threads_that_never_sleep_take_note_for_others() {
    for queue_size in [64, 4] {
        let (_, parking) = run(queue_size, false);
        assert_eq!(parking.sleeps(), 0);
        assert!(parking.pauses() > 0);
    }
}

#[test]
fn threads_that_cannot_be_left_look_for_themselves() {
    let memory = ScatterMemory::new();
    let device = concurrent_device().capacity(THREADS * OWN_SECTORS).build(&memory);
    let parking = Parking::default();
    let disk = open(&device, &memory, parking.clone(), &Options { queue_size: 4, ..defaults() });
    disk.use_interrupts();
    beside_the_device(&device, &disk, || {
        thread::scope(|scope| {
            scope.spawn(|| {
                // Now they can, now they cannot.
                for turn in 0..1000_u32 {
                    parking.0.awake.store(turn % 2 == 0, Ordering::Relaxed);
                    thread::yield_now();
                }
                parking.0.awake.store(false, Ordering::Relaxed);
            });
            all_work(&disk);
        });
    });
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

/// The whole disk in parts that cross sectors: each thread writes every eighth one. All of them arrive.
fn parts_of_shared_sectors(sleeping: bool) {
    const PART: usize = 100;
    const SECTORS: u64 = if cfg!(miri) { 4 } else { 40 };
    let memory = ScatterMemory::new();
    let device = concurrent_device().capacity(SECTORS).build(&memory);
    device.faults(|faults| faults.order = Order::Shuffled(11));
    let parking = Parking::default();
    let disk = open(&device, &memory, parking.clone(), &Options { queue_size: 16, ..defaults() });
    if sleeping {
        disk.use_interrupts();
    }
    let wanted = pattern(SECTORS as usize * 512, 5);
    beside_the_device(&device, &disk, || {
        thread::scope(|scope| {
            for number in 0..THREADS as usize {
                let (disk, wanted) = (&disk, &wanted);
                scope.spawn(move || {
                    let starts = (0..wanted.len()).step_by(PART);
                    for start in starts.skip(number).step_by(THREADS as usize) {
                        let part = &wanted[start..wanted.len().min(start + PART)];
                        assert_eq!(disk.write_at(start as u64, part), Ok(part.len()));
                        let mut found = vec![0; part.len()];
                        assert_eq!(disk.read_at(start as u64, &mut found), Ok(part.len()));
                        assert!(found == part, "thread {number}, byte {start}");
                    }
                });
            }
        });
    });
    assert!(device.read_disk(0, SECTORS as usize) == wanted, "a part was lost");
    assert_eq!(if sleeping { parking.pauses() } else { parking.sleeps() }, 0);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn no_part_of_a_sector_is_lost_to_another_thread() {
    parts_of_shared_sectors(true);
    parts_of_shared_sectors(false);
}

#[test]
fn whole_sectors_and_parts_of_them_do_not_undo_each_other() {
    let memory = ScatterMemory::new();
    let device = concurrent_device().capacity(8).build(&memory);
    device.faults(|faults| faults.order = Order::Lifo);
    let disk = open(&device, &memory, Parking::default(), &defaults());
    disk.use_interrupts();
    beside_the_device(&device, &disk, || {
        for round in 0..if cfg!(miri) { 5 } else { 300_u32 } {
            let byte = round as u8;
            thread::scope(|scope| {
                scope.spawn(|| disk.write(3, &[byte; 512]).unwrap());
                scope.spawn(|| assert_eq!(disk.write_at(3 * 512 + 10, &[!byte; 20]), Ok(20)));
            });
            let found = device.read_disk(3, 1);
            assert!(found[..10] == [byte; 10] && found[30..] == [byte; 482], "what was around the part is old");
            assert!(found[10..30] == [byte; 20] || found[10..30] == [!byte; 20]);
        }
    });
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}
