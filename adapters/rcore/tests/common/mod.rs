//! A model of rCore around an in-process device: a cell, condition variables and switching, where exactly one task runs
//! at a time.
//!
//! Tasks are host threads that hand each other a baton. An interrupt comes whenever it could come to a processor: as soon
//! as the last cell is left, in the task that runs; and when no task is ready, the device works until one is. If then
//! none is ready, all of them would sleep for ever, and the test fails.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::cell::Cell as StdCell;
use std::collections::{BTreeMap, VecDeque};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar as StdCondvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use testing_device::{BlockDevice, DeviceRegisters, ScatterMemory};
use virtio_blk_rcore::transport::Mmio;
use virtio_blk_rcore::{Cell, Disk, Dma, Kernel, OpenError, Tasks};
use virtqueue::{Memory, PageRequest, Pages, Purpose};

/// The size of a page.
const PAGE: usize = 4096;

/// The disk of the model.
pub(crate) type ModelDisk = Disk<Model, Mmio<DeviceRegisters>>;

/// A machine with one disk.
pub(crate) struct World {
    pub(crate) device: BlockDevice,
    memory: ScatterMemory,
    pages: Mutex<BTreeMap<usize, (Allocated, PageRequest)>>,
    disk: OnceLock<ModelDisk>,
    /// Whether tasks run.
    pub(crate) tasks_run: AtomicBool,
    /// Whether interrupts are on at all; the device may want one even so.
    pub(crate) interrupts: AtomicBool,
    baton: Mutex<Baton>,
    passed: StdCondvar,
    /// How often a task was left, and how often one looked again.
    pub(crate) switches: AtomicUsize,
    pub(crate) looks: AtomicUsize,
    /// How many interrupts were handled.
    pub(crate) handled: AtomicUsize,
    pub(crate) most_asleep: AtomicUsize,
}

struct Allocated(Pages);

// SAFETY: pages belong to whoever has them, in whatever thread.
unsafe impl Send for Allocated {}

#[derive(Default)]
struct Baton {
    ready: VecDeque<usize>,
    running: Option<usize>,
    asleep: usize,
    failed: bool,
}

thread_local! {
    static WORLD: StdCell<Option<&'static World>> = const { StdCell::new(None) };
    static TASK: StdCell<Option<usize>> = const { StdCell::new(None) };
    /// How many cells this thread is in, and whether it is in the interrupt handler.
    static DEPTH: StdCell<usize> = const { StdCell::new(0) };
    static IN_HANDLER: StdCell<bool> = const { StdCell::new(false) };
}

fn world() -> &'static World {
    WORLD.get().expect("a world")
}

impl World {
    /// A machine with this device, as seen by the thread that calls this, which boots the kernel. Like a kernel, it never
    /// ends.
    pub(crate) fn new(memory: &ScatterMemory, device: BlockDevice) -> &'static Self {
        let world: &Self = Box::leak(Box::new(Self {
            device,
            memory: memory.clone(),
            pages: Mutex::new(BTreeMap::new()),
            disk: OnceLock::new(),
            tasks_run: AtomicBool::new(false),
            interrupts: AtomicBool::new(true),
            baton: Mutex::default(),
            passed: StdCondvar::new(),
            switches: AtomicUsize::new(0),
            looks: AtomicUsize::new(0),
            handled: AtomicUsize::new(0),
            most_asleep: AtomicUsize::new(0),
        }));
        WORLD.set(Some(world));
        world
    }

    /// Opens the disk.
    pub(crate) fn try_open(&self) -> Result<&ModelDisk, OpenError> {
        let transport = Mmio::probe(self.device.registers()).expect("registers").expect("a device");
        let disk = Disk::new(transport)?;
        Ok(self.disk.get_or_init(|| disk))
    }

    pub(crate) fn open(&self) -> &ModelDisk {
        self.try_open().expect("a disk")
    }

    pub(crate) fn disk(&self) -> &ModelDisk {
        self.disk.get().expect("a disk was opened")
    }

    /// Runs tasks to their end, all at once. Each is called with its number.
    pub(crate) fn run_tasks(&'static self, tasks: usize, work: impl Fn(usize) + Sync) {
        self.tasks_run.store(true, Ordering::Relaxed);
        self.lock().ready.extend(0..tasks);
        thread::scope(|scope| {
            for number in 0..tasks {
                let work = &work;
                scope.spawn(move || {
                    WORLD.set(Some(self));
                    TASK.set(Some(number));
                    let _end = End(self);
                    self.wait_for_turn(number);
                    work(number);
                });
            }
            self.pass_on();
        });
        self.tasks_run.store(false, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Baton> {
        self.baton.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_turn(&self, number: usize) {
        let baton = self.lock();
        let baton = self.passed.wait_while(baton, |baton| !baton.failed && baton.running != Some(number));
        let failed = baton.unwrap_or_else(PoisonError::into_inner).failed;
        assert!(!failed, "another task failed");
    }

    /// Lets the next task run. If none is ready, the device works.
    fn pass_on(&self) {
        loop {
            let mut baton = self.lock();
            if let Some(next) = baton.ready.pop_front() {
                baton.running = Some(next);
                self.passed.notify_all();
                return;
            }
            baton.running = None;
            if baton.asleep == 0 {
                return;
            }
            drop(baton);
            let worked = self.device.run() + self.device.release();
            if !self.deliver() && worked == 0 {
                self.lock().failed = true;
                self.passed.notify_all();
                panic!("a wake-up was lost: all tasks sleep, and the device has nothing to do");
            }
        }
    }

    /// Handles an interrupt if there is one and it could come now. Returns whether there was.
    fn deliver(&self) -> bool {
        let Some(disk) = self.disk.get() else { return false };
        let masked = DEPTH.get() > 0 || IN_HANDLER.get() || !self.interrupts.load(Ordering::Relaxed);
        if masked || self.device.interrupt().is_empty() {
            return false;
        }
        IN_HANDLER.set(true);
        disk.handle_irq();
        IN_HANDLER.set(false);
        self.handled.fetch_add(1, Ordering::Relaxed);
        assert!(self.device.interrupt().is_empty(), "the interrupt was not acknowledged");
        true
    }
}

/// A task that ends: another one runs then.
struct End<'w>(&'w World);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().failed = true;
            self.0.passed.notify_all();
        } else {
            self.0.pass_on();
        }
    }
}

/// The model's services.
pub(crate) struct Model;

impl Kernel for Model {
    type Memory = Self;
    type Cell<T: Send> = ModelCell<T>;
    type Tasks = Self;
}

// SAFETY: the memory of the device model does it all; it checks what the device is told.
unsafe impl Dma for Model {
    fn dma_alloc(pages: usize) -> usize {
        let (world, bytes) = (world(), pages * PAGE);
        let request = PageRequest { bytes, align: PAGE, max_address: u64::MAX, purpose: Purpose::Shared };
        let Ok(allocated) = world.memory.allocate(&request) else { return 0 };
        let physical = allocated.device_address as usize;
        world.pages.lock().unwrap().insert(physical, (Allocated(allocated), request));
        physical
    }

    fn dma_dealloc(physical: usize, pages: usize) {
        let world = world();
        let (allocated, request) = world.pages.lock().unwrap().remove(&physical).expect("allocated pages");
        assert_eq!(request.bytes, pages * PAGE);
        // SAFETY: allocated above, and removed just now.
        unsafe { world.memory.free(allocated.0, &request) };
    }

    fn phys_to_virt(physical: usize) -> usize {
        let world = world();
        let pages = world.pages.lock().unwrap();
        pages.get(&physical).map_or(0, |(allocated, _)| allocated.0.start.as_ptr().expose_provenance())
    }

    fn virt_to_phys(address: usize) -> usize {
        let start = NonNull::new(ptr::with_exposed_provenance_mut(address)).expect("not null");
        // To the end of the page: the device may reach what was translated.
        let piece = world().memory.translate(start, PAGE - address % PAGE).expect("memory");
        piece.device_address as usize
    }
}

/// A cell that panics when it is borrowed twice, and lets interrupts come when the last one is left.
pub(crate) struct ModelCell<T>(Mutex<T>);

impl<T: Send> Cell<T> for ModelCell<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn session<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        DEPTH.set(DEPTH.get() + 1);
        let result = body(&mut self.0.try_lock().expect("a cell is borrowed once"));
        DEPTH.set(DEPTH.get() - 1);
        world().deliver();
        result
    }
}

/// What tasks wait for: their numbers.
pub(crate) struct ModelCondvar(Mutex<VecDeque<usize>>);

impl Tasks for Model {
    type Condvar = ModelCondvar;
    type Context = usize;

    fn condvar() -> ModelCondvar {
        ModelCondvar(Mutex::default())
    }

    fn signal(condvar: &ModelCondvar) {
        let next = condvar.0.lock().unwrap().pop_front();
        world().lock().ready.extend(next);
    }

    fn wait_no_sched(condvar: &ModelCondvar) -> *mut usize {
        assert!(DEPTH.get() > 0, "a task says that it waits inside of the cell");
        let number = TASK.get().expect("a task waits, not the kernel that boots, nor an interrupt handler");
        condvar.0.lock().unwrap().push_back(number);
        ptr::without_provenance_mut(number + 1)
    }

    fn schedule(context: *mut usize) {
        assert_eq!(DEPTH.get(), 0, "no cell is held across a switch");
        let number = TASK.get().expect("a task is left");
        assert_eq!(context.addr(), number + 1, "the context is that of the task that runs");
        let world = world();
        world.switches.fetch_add(1, Ordering::Relaxed);
        let mut baton = world.lock();
        baton.asleep += 1;
        world.most_asleep.fetch_max(baton.asleep, Ordering::Relaxed);
        drop(baton);
        world.pass_on();
        world.wait_for_turn(number);
        world.lock().asleep -= 1;
    }

    fn sleeps() -> bool {
        world().tasks_run.load(Ordering::Relaxed)
    }

    fn relax() {
        let world = world();
        world.looks.fetch_add(1, Ordering::Relaxed);
        // While the kernel polls, the device works.
        world.device.run();
        world.device.release();
    }
}

/// Bytes that differ from seed to seed and from sector to sector.
pub(crate) fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index / 512 * 31 + index % 251 + seed * 7) as u8).collect()
}
