//! Every interleaving of driver and device, and everything that their barriers let each see of the other, explored by
//! loom on the ring as it is:
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p virtqueue --lib --release interleaving
//! ```
//!
//! In each model a side that has nothing to do sleeps, and wakes only when told to. A lost wake-up leaves it asleep, and
//! loom reports a deadlock. What one side writes for the other is [handed over](crate::modelled): where the other could
//! access it too early, loom reports that the accesses are concurrent.
//!
//! All models of the split ring are explored to the end, but for the largest ([`FOUR`]); those of the packed ring as far
//! as these. Two things are not explored: the 16-bit indices pass the end of the ring here, but not their own; and loom
//! takes a full fence to order a little more than the language promises.
//!
//! The last tests leave out one kind of the driver's barriers, and expect loom to find what comes of it.

extern crate std;

mod device;
mod host;
mod packed_device;
mod split_device;

use core::sync::atomic::{
    AtomicUsize,
    Ordering::{self, Acquire, Relaxed, Release, SeqCst},
};
use std::sync::Arc;
use std::vec::Vec;

use device::{Device, FIRST_HEADER, Form};
use host::{HostMemory, Line};
use loom::thread;

use crate::modelled::omit;
use crate::{Access, Attachment, Queue, Settings};

/// The entries of the ring.
const SIZE: u16 = 4;

/// How many requests were served before the models begin: the first that they send uses the last entries of both rings,
/// the second uses the first entries again.
const SERVED: u64 = SIZE as u64 - 1;

/// What the driver writes where it expects a status, so that a status that was not written shows.
const NO_STATUS: u8 = 0xff;

/// A request in flight: its number.
struct Request(u64);

impl Attachment for Request {
    /// A header of 16 bytes, of which the first 8 are written, and a status.
    const SLOT_BYTES: usize = 17;
}

/// The driver's end of the ring.
struct Driver<F: Form> {
    queue: Queue<HostMemory, Request, F>,
    submitted: u64,
    returned: u64,
}

impl<F: Form> Driver<F> {
    fn new(mode: Mode) -> Self {
        let Mode { indirect, event_idx } = mode;
        let settings = Settings { packed: F::PACKED, chain_max: 2, indirect, event_idx, ..Settings::new(SIZE) };
        Self { queue: Queue::new(HostMemory, settings).unwrap(), submitted: 0, returned: 0 }
    }

    /// Submits so many requests. Returns whether the device wants a notification.
    fn send(&mut self, requests: u64) -> bool {
        for _ in 0..requests {
            let mut chain = self.queue.chain().unwrap();
            chain.slot().store_u64::<0>(FIRST_HEADER + self.submitted);
            chain.slot().store_u8::<16>(NO_STATUS);
            chain.slot_part(0, 16, Access::DeviceReads).unwrap();
            chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
            assert!(chain.submit(Request(self.submitted)).is_ok());
            self.submitted += 1;
        }
        self.queue.commit().is_some()
    }

    /// Takes back what the device has used, and checks what it left.
    fn receive(&mut self) {
        while let Some(used) = self.queue.pop().unwrap() {
            let (status, written_bytes) = (used.slot().load_u8::<16>(), used.written_bytes());
            let Request(number) = used.take();
            assert_eq!((number, written_bytes), (self.returned, 1));
            assert_eq!(status, (FIRST_HEADER + number) as u8);
            self.returned += 1;
        }
    }

    /// Sleeps until everything is back, waking for every `chains` requests.
    fn wait(&mut self, chains: u16, interrupt: &Line) {
        loop {
            self.receive();
            if self.returned == self.submitted {
                return;
            }
            if self.queue.enable_interrupts(chains) {
                interrupt.sleep();
                self.queue.disable_interrupts();
            }
        }
    }

    /// Ends it, so that the queue's memory is freed.
    fn finish(mut self) {
        self.receive();
        assert_eq!((self.returned, self.queue.in_flight(), self.queue.broken()), (self.submitted, 0, None));
        // SAFETY: the device's thread has ended.
        unsafe { self.queue.device_let_go() };
    }
}

/// The features of the ring.
#[derive(Clone, Copy)]
struct Mode {
    indirect: bool,
    event_idx: bool,
}

/// Notifications and interrupts are suppressed by index.
const EVENT_IDX: Mode = Mode { indirect: true, event_idx: true };

/// They are suppressed by flags.
const FLAGS: Mode = Mode { indirect: true, event_idx: false };

/// By index, on a ring in whose own table the chains are.
const DIRECT: Mode = Mode { indirect: false, event_idx: true };

/// A driver and a device that have served some requests already, and sleep.
fn pair<F: Form>(mode: Mode) -> (Driver<F>, F::Device) {
    let mut driver = Driver::<F>::new(mode);
    let mut device = F::Device::new(driver.queue.areas(), mode.event_idx);
    for _ in 0..SERVED {
        driver.send(1);
        device.take().iter().for_each(|chain| device.serve(chain));
        device.publish();
        driver.receive();
    }
    driver.queue.disable_interrupts();
    device.disable_notifications();
    (driver, device)
}

/// Which interleavings are explored.
#[derive(Clone, Copy)]
struct Explore {
    /// How often a thread may be interrupted where it could go on; `None`: at every point.
    preemptions: Option<usize>,
    /// A kind of fence that the driver does without.
    omitted: Option<Ordering>,
}

const ALL: Explore = Explore { preemptions: None, omitted: None };

/// Where there are too many.
const FOUR: Explore = Explore { preemptions: Some(4), omitted: None };

/// All, or, of a packed ring, which has more words that both sides access at any moment, as many as can be waited for.
fn all<F: Form>() -> Explore {
    if F::PACKED { FOUR } else { ALL }
}

const WITHOUT_RING_BEFORE_INDEX: Explore = Explore { omitted: Some(Release), ..ALL };
const WITHOUT_INDEX_BEFORE_RING: Explore = Explore { omitted: Some(Acquire), ..ALL };
const WITHOUT_STORE_BEFORE_LOOK: Explore = Explore { omitted: Some(SeqCst), ..ALL };

impl Explore {
    fn run(self, model: impl Fn() + Send + Sync + 'static) {
        omit(self.omitted);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = self.preemptions;
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        builder.check(move || {
            counted.fetch_add(1, Relaxed);
            model();
        });
        std::println!("{} interleavings", count.load(Relaxed));
    }
}

/// The driver sends batches of requests, one after the other, while the device takes them and sleeps in between.
fn notifications<F: Form>(mode: Mode, batches: &'static [u64], explore: Explore) {
    explore.run(move || {
        let (mut driver, mut device) = pair::<F>(mode);
        let notification = Line::new();
        let line = Arc::clone(&notification);
        let thread = thread::spawn(move || {
            for _ in 0..batches.iter().sum() {
                let chain = device.wait(&line);
                device.serve(&chain);
            }
            device
        });
        for &requests in batches {
            if driver.send(requests) {
                notification.raise();
            }
        }
        thread.join().unwrap().publish();
        driver.finish();
    });
}

/// The device returns requests that it has, batch after batch, while the driver takes them and sleeps in between, until
/// there are `chains` more.
fn interrupts<F: Form>(mode: Mode, batches: &'static [u64], chains: u16, explore: Explore) {
    explore.run(move || {
        let (mut driver, mut device) = pair::<F>(mode);
        let interrupt = Line::new();
        driver.send(batches.iter().sum());
        let seen: Vec<_> = core::iter::from_fn(|| device.take()).collect();
        let line = Arc::clone(&interrupt);
        let thread = thread::spawn(move || {
            let mut seen = seen.iter();
            for &requests in batches {
                for chain in seen.by_ref().take(requests as usize) {
                    device.serve(chain);
                }
                if device.publish() {
                    line.raise();
                }
            }
        });
        driver.wait(chains, &interrupt);
        thread.join().unwrap();
        driver.finish();
    });
}

/// Both at once: the driver sends batches and waits for each, the device serves one request after the other, and both
/// sleep in between.
fn both<F: Form>(mode: Mode, batches: &'static [u64], explore: Explore) {
    explore.run(move || {
        let (mut driver, mut device) = pair::<F>(mode);
        let (notification, interrupt) = (Line::new(), Line::new());
        let (notified, interrupting) = (Arc::clone(&notification), Arc::clone(&interrupt));
        let thread = thread::spawn(move || {
            for _ in 0..batches.iter().sum() {
                let chain = device.wait(&notified);
                device.serve(&chain);
                if device.publish() {
                    interrupting.raise();
                }
            }
        });
        for &requests in batches {
            if driver.send(requests) {
                notification.raise();
            }
            driver.wait(requests as u16, &interrupt);
        }
        thread.join().unwrap();
        driver.finish();
    });
}

/// Makes a test of each function for each form of the ring.
macro_rules! in_both_forms {
    ($($tests:tt)*) => {
        tests_in!(split, crate::Split, $($tests)*);
        tests_in!(packed, crate::Packed, $($tests)*);
    };
}

macro_rules! tests_in {
    ($module:ident, $Form:ty, $($(#[$attribute:meta])* $test:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                $(#[$attribute])*
                fn $test() {
                    super::$test::<$Form>();
                }
            )*
        }
    };
}

in_both_forms! {
    a_notification_by_index_is_not_lost,
    a_notification_by_flags_is_not_lost,
    an_interrupt_by_index_is_not_lost,
    an_interrupt_by_flags_is_not_lost,
    an_interrupt_for_two_by_index_is_not_lost,
    an_interrupt_for_two_by_flags_is_not_lost,
    both_sides_sleep_and_wake,
    both_sides_sleep_and_wake_with_two_in_flight,
    both_sides_sleep_and_wake_again_by_index,
    both_sides_sleep_and_wake_again_by_flags,
    both_sides_sleep_and_wake_again_without_a_table,
    #[should_panic(expected = "Concurrent read and write")]
    without_a_barrier_before_the_index_the_device_reads_too_early,
    #[should_panic(expected = "Concurrent read and write")]
    without_a_barrier_before_the_index_the_device_reads_the_rings_table_too_early,
    #[should_panic(expected = "Concurrent read and write")]
    without_a_barrier_after_the_index_the_driver_reads_too_early,
    #[should_panic(expected = "deadlock")]
    without_a_full_barrier_a_notification_by_index_is_lost,
    #[should_panic(expected = "deadlock")]
    without_a_full_barrier_a_notification_by_flags_is_lost,
    #[should_panic(expected = "deadlock")]
    without_a_full_barrier_an_interrupt_by_index_is_lost,
    #[should_panic(expected = "deadlock")]
    without_a_full_barrier_an_interrupt_by_flags_is_lost,
    #[should_panic(expected = "deadlock")]
    without_a_full_barrier_an_interrupt_for_two_is_lost,
}

fn a_notification_by_index_is_not_lost<F: Form>() {
    for batches in [&[1], &[2], &[1, 1], &[2, 1]] as [&[u64]; 4] {
        notifications::<F>(EVENT_IDX, batches, all::<F>());
    }
}

fn a_notification_by_flags_is_not_lost<F: Form>() {
    for batches in [&[1], &[2], &[1, 1], &[2, 1]] as [&[u64]; 4] {
        notifications::<F>(FLAGS, batches, all::<F>());
    }
}

fn an_interrupt_by_index_is_not_lost<F: Form>() {
    for batches in [&[1], &[2], &[1, 1], &[1, 2]] as [&[u64]; 4] {
        interrupts::<F>(EVENT_IDX, batches, 1, all::<F>());
    }
}

fn an_interrupt_by_flags_is_not_lost<F: Form>() {
    for batches in [&[1], &[2], &[1, 1], &[1, 2]] as [&[u64]; 4] {
        interrupts::<F>(FLAGS, batches, 1, all::<F>());
    }
}

fn an_interrupt_for_two_by_index_is_not_lost<F: Form>() {
    for batches in [&[2], &[1, 1], &[2, 1], &[1, 2], &[1, 1, 1]] as [&[u64]; 5] {
        interrupts::<F>(EVENT_IDX, batches, 2, all::<F>());
    }
}

fn an_interrupt_for_two_by_flags_is_not_lost<F: Form>() {
    for batches in [&[2], &[1, 1], &[2, 1]] as [&[u64]; 3] {
        interrupts::<F>(FLAGS, batches, 2, all::<F>());
    }
}

fn both_sides_sleep_and_wake<F: Form>() {
    for mode in [EVENT_IDX, FLAGS, DIRECT] {
        both::<F>(mode, &[1], all::<F>());
    }
}

fn both_sides_sleep_and_wake_with_two_in_flight<F: Form>() {
    both::<F>(EVENT_IDX, &[2], all::<F>());
    both::<F>(DIRECT, &[2], all::<F>());
    both::<F>(FLAGS, &[2], FOUR);
}

fn both_sides_sleep_and_wake_again_by_index<F: Form>() {
    both::<F>(EVENT_IDX, &[1, 1], FOUR);
}

fn both_sides_sleep_and_wake_again_by_flags<F: Form>() {
    both::<F>(FLAGS, &[1, 1], FOUR);
}

fn both_sides_sleep_and_wake_again_without_a_table<F: Form>() {
    both::<F>(DIRECT, &[1, 1], FOUR);
}

fn without_a_barrier_before_the_index_the_device_reads_too_early<F: Form>() {
    notifications::<F>(EVENT_IDX, &[1], WITHOUT_RING_BEFORE_INDEX);
}

fn without_a_barrier_before_the_index_the_device_reads_the_rings_table_too_early<F: Form>() {
    notifications::<F>(DIRECT, &[1], WITHOUT_RING_BEFORE_INDEX);
}

fn without_a_barrier_after_the_index_the_driver_reads_too_early<F: Form>() {
    interrupts::<F>(EVENT_IDX, &[1], 1, WITHOUT_INDEX_BEFORE_RING);
}

fn without_a_full_barrier_a_notification_by_index_is_lost<F: Form>() {
    notifications::<F>(EVENT_IDX, &[1], WITHOUT_STORE_BEFORE_LOOK);
}

fn without_a_full_barrier_a_notification_by_flags_is_lost<F: Form>() {
    notifications::<F>(FLAGS, &[1], WITHOUT_STORE_BEFORE_LOOK);
}

fn without_a_full_barrier_an_interrupt_by_index_is_lost<F: Form>() {
    interrupts::<F>(EVENT_IDX, &[1], 1, WITHOUT_STORE_BEFORE_LOOK);
}

fn without_a_full_barrier_an_interrupt_by_flags_is_lost<F: Form>() {
    interrupts::<F>(FLAGS, &[1], 1, WITHOUT_STORE_BEFORE_LOOK);
}

fn without_a_full_barrier_an_interrupt_for_two_is_lost<F: Form>() {
    interrupts::<F>(EVENT_IDX, &[1, 1], 2, WITHOUT_STORE_BEFORE_LOOK);
}
