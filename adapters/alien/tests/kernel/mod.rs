//! A kernel with Alien's names, whose tasks are threads of the host.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, Thread};

use testing_device::{BlockDevice, DeviceRegisters, ScatterMemory};
use virtio_blk_alien::{Disk, Frames, Lock, OpenError, Options, Polling, Sleep, Sleeping, Tasks};
use virtio_transport::Mmio;
use virtqueue::{Memory, PageRequest, Pages, Purpose};

/// The kernel's error numbers, as it has them.
pub(crate) mod constants {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[allow(clippy::upper_case_acronyms)]
    #[repr(isize)]
    pub(crate) enum LinuxErrno {
        EIO = -5,
        ENOMEM = -12,
        EFAULT = -14,
        EINVAL = -22,
        ENOSPC = -28,
        EROFS = -30,
        EOPNOTSUPP = -94,
    }
    pub(crate) type AlienResult<T> = Result<T, LinuxErrno>;
}

/// The kernel's traits, as it has them.
pub(crate) mod device_interface {
    use super::constants::AlienResult;

    pub(crate) trait DeviceBase: Sync + Send {
        fn handle_irq(&self);
    }

    pub(crate) trait BlockDevice: DeviceBase {
        fn read(&self, buf: &mut [u8], offset: usize) -> AlienResult<usize>;
        fn write(&self, buf: &[u8], offset: usize) -> AlienResult<usize>;
        fn size(&self) -> usize;
        fn flush(&self) -> AlienResult<()>;
    }

    pub(crate) trait LowBlockDevice {
        fn read_block(&self, block_id: usize, buf: &mut [u8]) -> AlienResult<()>;
        fn write_block(&self, block_id: usize, buf: &[u8]) -> AlienResult<()>;
        fn capacity(&self) -> usize;
        fn read_block_async(&self, block_id: usize, buf: &mut [u8]) -> AlienResult<()>;
        fn write_block_async(&self, block_id: usize, buf: &[u8]) -> AlienResult<()>;
        fn handle_irq(&self);
        fn flush(&self) {}
    }
}

/// How many kernels there are: each test has one, so that its frames can be counted.
const KERNELS: usize = 16;

static MEMORIES: [OnceLock<ScatterMemory>; KERNELS] = [const { OnceLock::new() }; KERNELS];

/// A kernel.
pub(crate) struct Host<const N: usize>;

impl<const N: usize> Host<N> {
    pub(crate) fn memory() -> &'static ScatterMemory {
        MEMORIES[N].get_or_init(ScatterMemory::new)
    }
}

fn request(count: usize) -> PageRequest {
    PageRequest { bytes: count * 4096, align: 4096, max_address: u64::MAX, purpose: Purpose::Shared }
}

// SAFETY: as `ScatterMemory` has them.
unsafe impl<const N: usize> Frames for Host<N> {
    fn alloc_frames(count: usize) -> *mut u8 {
        let Ok(pages) = Self::memory().allocate(&request(count)) else { return std::ptr::null_mut() };
        // Frames are not zeroed.
        // SAFETY: so many bytes were allocated.
        unsafe { pages.start.write_bytes(0xa5, count * 4096) };
        pages.start.as_ptr()
    }

    unsafe fn free_frames(start: *mut u8, count: usize) {
        let start = NonNull::new(start).unwrap();
        let device_address = Self::memory().translate(start, 1).unwrap().device_address;
        // SAFETY: as the caller promises.
        unsafe { Self::memory().free(Pages { start, device_address }, &request(count)) };
    }

    fn translate(address: usize, bytes: usize) -> Option<(usize, usize)> {
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut(address))?;
        let piece = Self::memory().translate(start, bytes).ok()?;
        Some((piece.device_address as usize, piece.bytes))
    }
}

impl<const N: usize> Lock for Host<N> {
    type Mutex<V: Send> = Mutex<V>;

    fn new<V: Send>(value: V) -> Mutex<V> {
        Mutex::new(value)
    }

    fn with<V: Send, R>(mutex: &Mutex<V>, body: impl FnOnce(&mut V) -> R) -> R {
        body(&mut mutex.lock().unwrap())
    }
}

/// A task: a thread, and whether it waits.
pub(crate) struct Task {
    thread: Thread,
    waits: AtomicBool,
}

thread_local! {
    /// The task that runs, if it was not taken.
    static CURRENT: RefCell<Option<Arc<Task>>> = const { RefCell::new(None) };
}

pub(crate) static SLEEPS: AtomicU64 = AtomicU64::new(0);

/// Makes the running thread a task.
pub(crate) fn become_task() {
    let task = Task { thread: thread::current(), waits: AtomicBool::new(false) };
    CURRENT.set(Some(Arc::new(task)));
}

impl<const N: usize> Tasks for Host<N> {
    type Task = Arc<Task>;

    fn may_sleep() -> bool {
        CURRENT.with_borrow(Option::is_some)
    }

    fn take_current_task() -> Option<Arc<Task>> {
        CURRENT.take()
    }

    fn to_wait(task: &Arc<Task>) {
        task.waits.store(true, Ordering::SeqCst);
    }

    fn schedule_now(task: Arc<Task>) {
        SLEEPS.fetch_add(1, Ordering::Relaxed);
        while task.waits.load(Ordering::SeqCst) {
            thread::park();
        }
        CURRENT.set(Some(task));
    }

    fn wake(task: Arc<Task>) {
        assert!(task.waits.swap(false, Ordering::SeqCst), "a task that does not wait was woken");
        task.thread.unpark();
    }

    fn interrupts_off() -> bool {
        true
    }

    fn interrupts_on() {}
}

type Transport = Mmio<DeviceRegisters>;

virtio_blk_alien::block_device! {
    /// A disk that is polled.
    pub(crate) struct Polled0(Disk<Host<0>, Polling, Transport>);
    errors: constants::LinuxErrno;
    traits: device_interface;
}

pub(crate) fn try_open<const N: usize, S: Sleep>(
    device: &BlockDevice,
    sleep: S,
    options: &Options,
) -> Result<Disk<Host<N>, S, Transport>, OpenError> {
    Disk::new(Mmio::probe(device.registers()).unwrap().expect("a device"), sleep, options)
}

pub(crate) fn polled<const N: usize>(device: &BlockDevice) -> Disk<Host<N>, Polling, Transport> {
    try_open(device, Polling::default(), &Options::default()).unwrap()
}

pub(crate) fn sleeping<const N: usize>(device: &BlockDevice) -> Disk<Host<N>, Sleeping<Host<N>>, Transport> {
    try_open(device, Sleeping::default(), &Options::default()).unwrap()
}
