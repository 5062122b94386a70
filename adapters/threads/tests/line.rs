//! Threads in line for room in the queue: nobody in it is forgotten.
#![cfg(not(miri))]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use common::{Parking, TOO_SOON, TestDisk, concurrent_device, open};
use testing_device::{BlockDevice, Outcome, ScatterMemory};
use virtio_blk::{Error, Options};

/// How many looks at other threads are enough for them to do what they can do.
const TURNS: u32 = 1_000_000;

/// A queue that is full, with threads asleep.
struct Full {
    device: BlockDevice,
    disk: Arc<TestDisk<Parking>>,
    parking: Parking,
    threads: Vec<JoinHandle<Result<(), Error>>>,
    ended: Arc<AtomicU64>,
}

impl Full {
    fn new() -> Self {
        let memory = ScatterMemory::new();
        let device = concurrent_device().capacity(64).build(&memory);
        let parking = Parking::default();
        let disk = open(&device, &memory, parking.clone(), &Options { queue_size: 4, ..Options::default() });
        disk.use_interrupts();
        let ended = Arc::default();
        let mut full = Self { device, disk: Arc::new(disk), parking, threads: Vec::new(), ended };
        for sector in 0..4 {
            full.write(sector, 0);
        }
        full
    }

    /// Starts a thread that writes a sector, and waits until it sleeps for good.
    fn write(&mut self, sector: u64, too_soon: u32) {
        let (disk, ended) = (self.disk.clone(), self.ended.clone());
        let asleep = self.parking.sleeps() + u64::from(too_soon) + 1;
        self.threads.push(thread::spawn(move || {
            TOO_SOON.set(too_soon);
            let result = disk.write(sector, &[1; 512]);
            ended.fetch_add(1, Ordering::SeqCst);
            result
        }));
        self.turns("the thread sleeps", |full| full.parking.sleeps() >= asleep);
    }

    /// Lets threads run until something is true.
    #[track_caller]
    fn turns(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let so = (0..TURNS).any(|_| {
            thread::yield_now();
            is_so(self)
        });
        assert!(so, "never: {what}");
    }

    /// Lets everybody finish.
    #[track_caller]
    fn finish(self) -> Vec<Result<(), Error>> {
        self.turns("all have ended", |full| {
            full.device.run();
            full.disk.handle_interrupt();
            full.ended.load(Ordering::SeqCst) == full.threads.len() as u64
        });
        self.device.assert_conformant();
        self.threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

#[test]
fn a_thread_that_was_woken_for_something_else_is_in_line_only_once() {
    let mut full = Full::new();
    // It comes back to the line again and again; the other one is behind it.
    full.write(10, 20);
    full.write(11, 0);
    assert!(full.finish().iter().all(Result::is_ok));
}

#[test]
fn a_thread_that_does_not_need_its_room_leaves_it_to_the_next() {
    let mut full = Full::new();
    full.write(60, 0);
    full.write(11, 0);
    // The sector that the first in line wants is gone by the time when there is room.
    full.device.set_capacity(32);
    full.disk.handle_interrupt();
    let first = full.device.take().expect("the queue is full");
    assert!(full.device.complete(first, Outcome::HONEST));
    full.disk.handle_interrupt();
    let mut behind = None;
    full.turns("the second in line has submitted its request", |full| {
        for pending in std::iter::from_fn(|| full.device.take()) {
            if pending.sector() == 11 {
                behind = Some(pending);
            } else {
                full.device.complete(pending, Outcome::HONEST);
            }
            // Nobody is told of those: the interrupt comes later.
        }
        behind.is_some()
    });
    full.device.complete(behind.take().unwrap(), Outcome::HONEST);
    let results = full.finish();
    assert!(matches!(results[4], Err(Error::BeyondCapacity { sector: 60, .. })), "{:?}", results[4]);
    assert!(results[5].is_ok());
}
