//! What the tests share: a kernel whose threads are those of the host, and a device that works beside them.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};

use testing_device::{BlockDevice, Builder, DeviceRegisters, Mode, ScatterMemory};
use virtio_blk::Options;
use virtio_blk_threads::{Lock, Polling, SharedDisk, Sleep};
use virtio_transport::{GaveUp, Mmio, Spin};

/// The lock of the host.
pub(crate) struct HostLock;

impl Lock for HostLock {
    type Mutex<V: Send> = Mutex<V>;

    fn new<V: Send>(value: V) -> Mutex<V> {
        Mutex::new(value)
    }

    fn with<V: Send, R>(mutex: &Mutex<V>, body: impl FnOnce(&mut V) -> R) -> R {
        body(&mut mutex.lock().unwrap())
    }
}

/// Threads of the host that sleep, and what they did.
#[derive(Clone, Default)]
pub(crate) struct Parking(pub(crate) Arc<Counts>);

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) sleeps: AtomicU64,
    pub(crate) pauses: AtomicU64,
    /// A thread cannot be left.
    pub(crate) awake: AtomicBool,
}

thread_local! {
    /// How often the sleep of this thread ends at once, although nobody has woken it.
    pub(crate) static TOO_SOON: Cell<u32> = const { Cell::new(0) };
}

impl Parking {
    pub(crate) fn sleeps(&self) -> u64 {
        self.0.sleeps.load(Ordering::Relaxed)
    }

    pub(crate) fn pauses(&self) -> u64 {
        self.0.pauses.load(Ordering::Relaxed)
    }
}

impl Sleep for Parking {
    type Waiter = Thread;
    type Ticket = ();

    fn prepare(&self) -> Option<(Thread, ())> {
        (!self.0.awake.load(Ordering::Relaxed)).then(|| (thread::current(), ()))
    }

    fn sleep(&self, (): ()) {
        self.0.sleeps.fetch_add(1, Ordering::Relaxed);
        match TOO_SOON.get().checked_sub(1) {
            Some(left) => TOO_SOON.set(left),
            // It returns at once if the thread was woken since it looked.
            None => thread::park(),
        }
    }

    fn wake(&self, thread: Thread) {
        thread.unpark();
    }

    fn pause(&self, _looks: u64) -> Result<(), GaveUp> {
        self.0.pauses.fetch_add(1, Ordering::Relaxed);
        thread::yield_now();
        Ok(())
    }
}

pub(crate) type TestDisk<S> = SharedDisk<Mmio<DeviceRegisters>, ScatterMemory, HostLock, S>;

/// The default options, with a smaller queue where everything is slow.
pub(crate) fn defaults() -> Options {
    let options = Options::default();
    if cfg!(miri) { Options { queue_size: 8, segments: 4, ..options } } else { options }
}

pub(crate) fn transport(device: &BlockDevice) -> Mmio<DeviceRegisters> {
    Mmio::probe(device.registers()).unwrap().expect("a device")
}

pub(crate) fn open<S: Sleep>(device: &BlockDevice, memory: &ScatterMemory, sleep: S, options: &Options) -> TestDisk<S> {
    SharedDisk::open(transport(device), memory.clone(), sleep, options, &mut Spin).unwrap()
}

/// A device that works beside the threads: it may see a request before it is notified of it.
pub(crate) fn concurrent_device() -> Builder {
    BlockDevice::builder().mode(Mode::Manual).tolerate_late_notifications()
}

/// A disk that is polled, on a device that answers at once.
pub(crate) fn polled(device: &BlockDevice, memory: &ScatterMemory) -> TestDisk<Polling> {
    open(device, memory, Polling::default(), &defaults())
}

/// Runs `work` beside a device that works all the time, and a handler of its interrupts.
pub(crate) fn beside_the_device<S>(device: &BlockDevice, disk: &TestDisk<S>, work: impl FnOnce())
where
    S: Sleep + Sync,
{
    let (interrupts, raised) = mpsc::channel();
    let interrupts: Mutex<Sender<()>> = Mutex::new(interrupts);
    device.on_interrupt(move || _ = interrupts.lock().unwrap().send(()));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if device.run() == 0 {
                    thread::yield_now();
                }
            }
            // With the hook goes the sender, and the handler ends.
            device.on_interrupt(|| ());
        });
        scope.spawn(move || raised.iter().for_each(|()| _ = disk.handle_interrupt()));
        // Whatever becomes of the work, the others end.
        let _end = End(&done);
        work();
    });
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bytes that differ from seed to seed.
pub(crate) fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
