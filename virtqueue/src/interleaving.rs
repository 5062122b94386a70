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
//! All models are explored to the end, but for the largest ([`FOUR`]). Two things are not: the 16-bit indices pass the
//! end of the ring here, but not their own; and loom takes a full fence to order a little more than the language
//! promises.
//!
//! The last tests leave out one kind of the driver's barriers, and expect loom to find what comes of it.

extern crate std;

use core::ptr::{NonNull, with_exposed_provenance_mut};
use core::sync::atomic::{
    AtomicUsize,
    Ordering::{self, Acquire, Relaxed, Release, SeqCst},
};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;
use std::vec::Vec;

use loom::sync::atomic::fence;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use virtio_spec::split_ring::{
    AVAILABLE_FLAGS_OFFSET, AVAILABLE_IDX_OFFSET, AVAILABLE_RING_OFFSET, AvailableFlags, DescriptorFlags,
    USED_FLAGS_OFFSET, USED_IDX_OFFSET, USED_RING_OFFSET, UsedFlags, avail_event_offset, used_event_offset,
};

use crate::modelled::omit;
use crate::shared::{AtomicU16, HandedU8, HandedU16, HandedU32, HandedU64, Shared, SharedObject};
use crate::{Access, Areas, Attachment, Memory, MemoryError, PageRequest, Pages, Piece, Queue, Settings};

/// The entries of the ring.
const SIZE: u16 = 4;

/// How many requests were served before the models begin: the first that they send uses the last entries of both rings,
/// the second uses the first entries again.
const SERVED: u64 = SIZE as u64 - 1;

/// What the header of the first request says; of the second, one more.
const FIRST_HEADER: u64 = 0x1234_5678_9abc_def0;

/// What the driver writes where it expects a status, so that a status that was not written shows.
const NO_STATUS: u8 = 0xff;

/// The host's memory, at the same addresses for the device.
#[derive(Clone)]
struct HostMemory;

// SAFETY: the allocator's memory is zeroed, valid and aligned, and the device sees it at its addresses.
unsafe impl Memory for HostMemory {
    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        // SAFETY: a queue never asks for nothing.
        let start = unsafe { alloc_zeroed(layout(request)) };
        let start = NonNull::new(start).ok_or(MemoryError::OutOfMemory)?;
        Ok(Pages { start, device_address: start.as_ptr().expose_provenance() as u64 })
    }

    unsafe fn free(&self, pages: Pages, request: &PageRequest) {
        // SAFETY: it came from `allocate` for the same request.
        unsafe { dealloc(pages.start.as_ptr(), layout(request)) }
    }

    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        Ok(Piece { device_address: start.as_ptr().expose_provenance() as u64, bytes })
    }
}

fn layout(request: &PageRequest) -> Layout {
    Layout::from_size_align(request.bytes, request.align).unwrap()
}

/// A request in flight: its number.
struct Request(u64);

impl Attachment for Request {
    /// A header of 16 bytes, of which the first 8 are written, and a status.
    const SLOT_BYTES: usize = 17;
}

/// The notification register, or the interrupt line: one side raises it, the other sleeps until it is raised.
struct Line {
    raised: Mutex<bool>,
    raising: Condvar,
}

impl Line {
    fn new() -> Arc<Self> {
        Arc::new(Self { raised: Mutex::new(false), raising: Condvar::new() })
    }

    fn raise(&self) {
        *self.raised.lock().unwrap() = true;
        self.raising.notify_one();
    }

    fn sleep(&self) {
        let mut raised = self.raised.lock().unwrap();
        while !*raised {
            raised = self.raising.wait(raised).unwrap();
        }
        *raised = false;
    }
}

/// The word at an address that the device knows.
fn word<A: SharedObject>(address: u64) -> Shared<A> {
    let start = NonNull::new(with_exposed_provenance_mut(address as usize)).unwrap();
    // SAFETY: the tests' device only knows words of the queue, which outlives it.
    unsafe { Shared::one(start, 0) }
}

/// A request as the device sees it.
struct Seen {
    id: u16,
    header: u64,
    status: u64,
}

/// The device's end of the ring.
struct Device {
    areas: Areas,
    event_idx: bool,
    avail_flags: Shared<AtomicU16>,
    avail_idx: Shared<AtomicU16>,
    used_event: Shared<AtomicU16>,
    used_flags: Shared<AtomicU16>,
    used_idx: Shared<AtomicU16>,
    avail_event: Shared<AtomicU16>,
    /// The available index up to which it has taken chains.
    taken: u16,
    /// The used index up to which it has written elements.
    used: u16,
    /// The used index that the driver knows.
    published: u16,
}

impl Device {
    fn new(areas: Areas, event_idx: bool) -> Self {
        let Areas { driver_area, device_area, .. } = areas;
        let device = Self {
            areas,
            event_idx,
            avail_flags: word(driver_area + AVAILABLE_FLAGS_OFFSET as u64),
            avail_idx: word(driver_area + AVAILABLE_IDX_OFFSET as u64),
            used_event: word(driver_area + used_event_offset(SIZE) as u64),
            used_flags: word(device_area + USED_FLAGS_OFFSET as u64),
            used_idx: word(device_area + USED_IDX_OFFSET as u64),
            avail_event: word(device_area + avail_event_offset(SIZE) as u64),
            taken: 0,
            used: 0,
            published: 0,
        };
        for field in [
            &device.avail_flags,
            &device.avail_idx,
            &device.used_event,
            &device.used_flags,
            &device.used_idx,
            &device.avail_event,
        ] {
            // So that loom knows it before there are threads.
            field.at(0).load(Relaxed);
        }
        device.disable_notifications();
        device
    }

    /// Takes the next chain: a header that it reads and a status that it writes, whether indirect or not.
    fn take(&mut self) -> Option<Seen> {
        if self.avail_idx.at(0).load(Relaxed) == self.taken {
            return None;
        }
        fence(Acquire);
        let entry = self.areas.driver_area + AVAILABLE_RING_OFFSET as u64 + 2 * u64::from(self.taken % SIZE);
        let id = word::<HandedU16>(entry).at(0).load(Relaxed);
        self.taken = self.taken.wrapping_add(1);

        let mut table = self.areas.descriptor_area;
        let (mut address, mut bytes, mut flags, mut next) = descriptor(table, id);
        if flags == DescriptorFlags::INDIRECT {
            assert_eq!(bytes, 32, "an indirect table of two descriptors");
            table = address;
            (address, bytes, flags, next) = descriptor(table, 0);
        }
        assert_eq!((bytes, flags), (16, DescriptorFlags::NEXT), "a header");
        let header = word::<HandedU64>(address).at(0).load(Relaxed);
        assert_eq!(
            header,
            FIRST_HEADER + u64::from(self.taken - 1),
            "chains come in the order in which they were sent"
        );
        let (status, bytes, flags, _) = descriptor(table, next);
        assert_eq!((bytes, flags), (1, DescriptorFlags::WRITE), "a status");
        Some(Seen { id, header, status })
    }

    /// Does what a chain asks for, and writes it into the used ring, where the driver does not look yet.
    fn serve(&mut self, chain: &Seen) {
        word::<HandedU8>(chain.status).at(0).store(chain.header as u8, Relaxed);
        let element = self.areas.device_area + USED_RING_OFFSET as u64 + 8 * u64::from(self.used % SIZE);
        word::<HandedU32>(element).at(0).store(chain.id.into(), Relaxed);
        word::<HandedU32>(element + 4).at(0).store(1, Relaxed);
        self.used = self.used.wrapping_add(1);
    }

    /// Lets the driver see what was served. Returns whether it wants an interrupt.
    fn publish(&mut self) -> bool {
        fence(Release);
        self.used_idx.at(0).store(self.used, Relaxed);
        fence(SeqCst);
        let old = core::mem::replace(&mut self.published, self.used);
        if self.event_idx {
            let event = self.used_event.at(0).load(Relaxed);
            self.used.wrapping_sub(event).wrapping_sub(1) < self.used.wrapping_sub(old)
        } else {
            self.avail_flags.at(0).load(Relaxed) & AvailableFlags::NO_INTERRUPT.bits() == 0
        }
    }

    fn disable_notifications(&self) {
        if self.event_idx {
            self.avail_event.at(0).store(self.taken.wrapping_sub(1), Relaxed);
        } else {
            self.used_flags.at(0).store(UsedFlags::NO_NOTIFY.bits(), Relaxed);
        }
    }

    /// Asks for a notification of the next chain. `false` if it is there already.
    fn enable_notifications(&self) -> bool {
        if self.event_idx {
            self.avail_event.at(0).store(self.taken, Relaxed);
        } else {
            self.used_flags.at(0).store(0, Relaxed);
        }
        fence(SeqCst);
        self.avail_idx.at(0).load(Relaxed) == self.taken
    }

    /// The next chain, however long it takes.
    fn wait(&mut self, notification: &Line) -> Seen {
        loop {
            if let Some(chain) = self.take() {
                return chain;
            }
            if self.enable_notifications() {
                notification.sleep();
            }
            self.disable_notifications();
        }
    }
}

/// Address, length, flags and next of a descriptor.
fn descriptor(table: u64, index: u16) -> (u64, u32, DescriptorFlags, u16) {
    let start = table + 16 * u64::from(index);
    let address = u64::from_le(word::<HandedU64>(start).at(0).load(Relaxed));
    let rest = u64::from_le(word::<HandedU64>(start + 8).at(0).load(Relaxed));
    (address, rest as u32, DescriptorFlags::from_bits_retain((rest >> 32) as u16), (rest >> 48) as u16)
}

/// The driver's end of the ring.
struct Driver {
    queue: Queue<HostMemory, Request>,
    submitted: u64,
    returned: u64,
}

impl Driver {
    fn new(mode: Mode) -> Self {
        let Mode { indirect, event_idx } = mode;
        let settings = Settings { chain_max: 2, indirect, event_idx, ..Settings::new(SIZE) };
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
fn pair(mode: Mode) -> (Driver, Device) {
    let mut driver = Driver::new(mode);
    let mut device = Device::new(driver.queue.areas(), mode.event_idx);
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
fn notifications(mode: Mode, batches: &'static [u64], explore: Explore) {
    explore.run(move || {
        let (mut driver, mut device) = pair(mode);
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
fn interrupts(mode: Mode, batches: &'static [u64], chains: u16, explore: Explore) {
    explore.run(move || {
        let (mut driver, mut device) = pair(mode);
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
fn both(mode: Mode, batches: &'static [u64], explore: Explore) {
    explore.run(move || {
        let (mut driver, mut device) = pair(mode);
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

#[test]
fn a_notification_by_index_is_not_lost() {
    for batches in [&[1], &[2], &[1, 1], &[2, 1]] as [&[u64]; 4] {
        notifications(EVENT_IDX, batches, ALL);
    }
}

#[test]
fn a_notification_by_flags_is_not_lost() {
    for batches in [&[1], &[2], &[1, 1], &[2, 1]] as [&[u64]; 4] {
        notifications(FLAGS, batches, ALL);
    }
}

#[test]
fn an_interrupt_by_index_is_not_lost() {
    for batches in [&[1], &[2], &[1, 1], &[1, 2]] as [&[u64]; 4] {
        interrupts(EVENT_IDX, batches, 1, ALL);
    }
}

#[test]
fn an_interrupt_by_flags_is_not_lost() {
    for batches in [&[1], &[2], &[1, 1], &[1, 2]] as [&[u64]; 4] {
        interrupts(FLAGS, batches, 1, ALL);
    }
}

#[test]
fn an_interrupt_for_two_by_index_is_not_lost() {
    for batches in [&[2], &[1, 1], &[2, 1], &[1, 2], &[1, 1, 1]] as [&[u64]; 5] {
        interrupts(EVENT_IDX, batches, 2, ALL);
    }
}

#[test]
fn an_interrupt_for_two_by_flags_is_not_lost() {
    for batches in [&[2], &[1, 1], &[2, 1]] as [&[u64]; 3] {
        interrupts(FLAGS, batches, 2, ALL);
    }
}

#[test]
fn both_sides_sleep_and_wake() {
    for mode in [EVENT_IDX, FLAGS, DIRECT] {
        both(mode, &[1], ALL);
    }
}

#[test]
fn both_sides_sleep_and_wake_with_two_in_flight() {
    both(EVENT_IDX, &[2], ALL);
    both(DIRECT, &[2], ALL);
    both(FLAGS, &[2], FOUR);
}

#[test]
fn both_sides_sleep_and_wake_again_by_index() {
    both(EVENT_IDX, &[1, 1], FOUR);
}

#[test]
fn both_sides_sleep_and_wake_again_by_flags() {
    both(FLAGS, &[1, 1], FOUR);
}

#[test]
fn both_sides_sleep_and_wake_again_without_a_table() {
    both(DIRECT, &[1, 1], FOUR);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn without_a_barrier_before_the_index_the_device_reads_too_early() {
    notifications(EVENT_IDX, &[1], WITHOUT_RING_BEFORE_INDEX);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn without_a_barrier_before_the_index_the_device_reads_the_rings_table_too_early() {
    notifications(DIRECT, &[1], WITHOUT_RING_BEFORE_INDEX);
}

#[test]
#[should_panic(expected = "Concurrent read and write")]
fn without_a_barrier_after_the_index_the_driver_reads_too_early() {
    interrupts(EVENT_IDX, &[1], 1, WITHOUT_INDEX_BEFORE_RING);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_full_barrier_a_notification_by_index_is_lost() {
    notifications(EVENT_IDX, &[1], WITHOUT_STORE_BEFORE_LOOK);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_full_barrier_a_notification_by_flags_is_lost() {
    notifications(FLAGS, &[1], WITHOUT_STORE_BEFORE_LOOK);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_full_barrier_an_interrupt_by_index_is_lost() {
    interrupts(EVENT_IDX, &[1], 1, WITHOUT_STORE_BEFORE_LOOK);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_full_barrier_an_interrupt_by_flags_is_lost() {
    interrupts(FLAGS, &[1], 1, WITHOUT_STORE_BEFORE_LOOK);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_full_barrier_an_interrupt_for_two_is_lost() {
    interrupts(EVENT_IDX, &[1, 1], 2, WITHOUT_STORE_BEFORE_LOOK);
}
