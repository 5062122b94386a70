//! How a queue is shared: behind a lock, behind a cell that masks interrupts, and with an interrupt handler. With the
//! other suites, this shows the table in `docs/waiting.md`: which call may be made from where.

mod common;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use common::{Counted, TestDisk, defaults, open, open_with, pattern};
use futures_executor::block_on;
use testing_device::{BlockDevice, DeviceRegisters, Mode, Outcome, ScatterMemory};
use virtio_blk::{AsyncQueue, Error, Exclusive, Operation, Options, Queue, Resized, SharedQueue};
use virtio_transport::{Interrupt, InterruptStatus, MmioNotifier, Spin};

type Buffer = Box<[u8]>;
type TestQueue = Queue<ScatterMemory, MmioNotifier<DeviceRegisters>, Buffer>;

fn sector(byte: u8) -> Buffer {
    vec![byte; 512].into()
}

thread_local! {
    /// Whether this processor, a thread, is inside of a cell that masks its interrupts.
    static MASKED: Cell<bool> = const { Cell::new(false) };
}

/// A cell of a kernel with one processor: interrupts are masked while it is used. One that came meanwhile, or comes right
/// then, is handled when they are unmasked.
struct MaskingCell<V, H> {
    value: RefCell<V>,
    handler: RefCell<Option<H>>,
}

impl<V, H: Fn()> Exclusive for MaskingCell<V, H> {
    type Value = V;

    fn with<R>(&self, body: impl FnOnce(&mut V) -> R) -> R {
        let masked = MASKED.replace(true);
        let result = body(&mut self.value.borrow_mut());
        MASKED.set(masked);
        // The handler uses the cell as well, and is not interrupted itself.
        if let (false, Ok(Some(handler))) = (masked, self.handler.try_borrow_mut().as_deref()) {
            handler();
        }
        result
    }
}

/// A waker that fails the test if it is cloned, called or dropped inside of the cell.
fn outside_waker() -> Waker {
    fn check() {
        assert!(!MASKED.get(), "a waker is none of a critical section's business");
    }
    fn clone(calls: *const ()) -> RawWaker {
        check();
        RawWaker::new(calls, &TABLE)
    }
    fn wake(calls: *const ()) {
        wake_by_ref(calls);
    }
    fn wake_by_ref(calls: *const ()) {
        check();
        // SAFETY: the count is static.
        unsafe { &*calls.cast::<AtomicUsize>() }.fetch_add(1, Ordering::Relaxed);
    }
    static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, |_| check());
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: what it points to is static and atomic, and nothing is owned.
    unsafe { Waker::new((&raw const CALLS).cast(), &TABLE) }
}

#[test]
fn an_interrupt_may_come_whenever_the_cell_lets_it_in() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    let disk: TestDisk<_, Buffer> = open_with(&device, &memory, &Options { queue_size: 4, ..defaults() });
    let (handle, mut queue) = disk.split();
    queue.use_interrupts(1);
    let interrupt = handle.interrupt().unwrap();
    type Handler = Box<dyn Fn()>;
    let cell = MaskingCell { value: RefCell::new(queue), handler: RefCell::new(None::<Handler>) };
    let disk = Rc::new(AsyncQueue::new(cell));
    let (handled, of_handler, of_device) = (Rc::new(Cell::new(0)), Rc::downgrade(&disk), device.clone());
    let count = handled.clone();
    *disk.queue().handler.borrow_mut() = Some(Box::new(move || {
        of_device.run();
        let disk = of_handler.upgrade().expect("the disk outlives its interrupts");
        if disk.handle_interrupt(&interrupt).unwrap().is_some_and(|causes| causes.used) {
            count.set(count.get() + 1);
        }
    }));

    // Twelve tasks on four entries: each write is read back.
    let waker = outside_waker();
    let mut context = Context::from_waker(&waker);
    let mut tasks: Vec<_> = (0..12_u8)
        .map(|task| {
            let disk = disk.clone();
            Box::pin(async move {
                let buffer = disk.write(task.into(), sector(task + 1)).await.unwrap();
                drop(buffer);
                disk.read(task.into(), sector(0)).await.unwrap()
            })
        })
        .collect();
    let mut results = vec![None; tasks.len()];
    while results.iter().any(Option::is_none) {
        for (task, result) in tasks.iter_mut().zip(&mut results) {
            if result.is_none() {
                if let Poll::Ready(buffer) = task.as_mut().poll(&mut context) {
                    *result = Some(buffer);
                }
            }
        }
    }
    for (task, result) in results.into_iter().enumerate() {
        assert_eq!(result.unwrap()[..], [task as u8 + 1; 512]);
    }
    assert!(handled.get() > 0);
    let counts = device.counts();
    assert_eq!((counts.writes, counts.reads), (12, 12));
    drop(tasks);
    *disk.queue().handler.borrow_mut() = None;
}

#[test]
fn threads_share_a_queue_behind_a_spin_lock() {
    const THREADS: u64 = 4;
    let rounds = if cfg!(miri) { 2 } else { 50 };
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let disk: TestDisk<_, Buffer> = open_with(&device, &memory, &Options { queue_size: 4, ..defaults() });
    let (mut handle, mut queue) = disk.split();
    queue.use_interrupts(1);
    // An interrupt controller gives each interrupt to one processor at a time.
    let interrupt = Mutex::new(handle.interrupt().unwrap());
    let disk = AsyncQueue::new(spin::mutex::SpinMutex::<_>::new(queue));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (disk, interrupt) = (&disk, &interrupt);
            scope.spawn(move || {
                let interrupted = |future| Interrupted { future, disk, interrupt };
                for round in 0..rounds {
                    let byte = (thread * 64 + round) as u8 | 1;
                    let buffer = block_on(interrupted(disk.write(thread, sector(byte)))).unwrap();
                    assert_eq!(buffer[..], [byte; 512]);
                    let buffer = block_on(interrupted(disk.read(thread, sector(0)))).unwrap();
                    assert_eq!(buffer[..], [byte; 512]);
                }
            });
        }
    });
    let counts = device.counts();
    assert_eq!((counts.writes, counts.reads), (THREADS * rounds, THREADS * rounds));
    let mut queue = disk.into_inner().into_inner();
    assert_eq!(queue.in_flight(), 0);
    handle.shutdown(&mut [&mut queue], &mut Spin).unwrap();
    drop((handle, queue));
    device.assert_conformant();
    memory.assert_clean();
}

/// A future of a task that is interrupted by the device each time after it was polled.
struct Interrupted<'d, F, S: SharedQueue, I> {
    future: F,
    disk: &'d AsyncQueue<S>,
    interrupt: &'d Mutex<I>,
}

impl<F: Future + Unpin, S: SharedQueue, I: Interrupt> Future for Interrupted<'_, F, S, I> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let result = Pin::new(&mut self.future).poll(context);
        self.disk.handle_interrupt(&*self.interrupt.lock().unwrap()).unwrap();
        result
    }
}

#[test]
fn a_handler_submits_cancels_and_polls_by_itself() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    let disk: TestDisk<_, Buffer> = open_with(&device, &memory, &defaults());
    let (handle, mut queue) = disk.split();
    queue.use_interrupts(1);
    let interrupt = handle.interrupt().unwrap();
    let queue = RefCell::new(queue);
    // What the kernel does there: each sector that was read is written to the one behind it.
    let mut unwanted = None;
    let mut handler = |queue: &RefCell<TestQueue>| {
        if interrupt.acknowledge().is_empty() {
            return;
        }
        let mut queue = queue.borrow_mut();
        while let Some(completion) = queue.poll().unwrap() {
            if unwanted.take_if(|unwanted| *unwanted == completion.token).is_some() {
                continue;
            }
            completion.result.unwrap();
            let buffer = completion.buffer.unwrap();
            if completion.operation == Operation::Read {
                queue.submit_write(completion.sector + 1, buffer).unwrap();
            } else if completion.sector < 8 {
                queue.submit_read(completion.sector, buffer).unwrap();
                let token = queue.submit_read(0, sector(0)).unwrap();
                assert!(queue.cancel(token));
                unwanted = Some(token);
            }
        }
        queue.commit();
    };
    device.write_disk(0, &[7; 512]);
    queue.borrow_mut().submit_read(0, sector(0)).unwrap();
    queue.borrow_mut().commit();
    while device.run() > 0 {
        handler(&queue);
    }
    assert_eq!(device.read_disk(1, 8), [7; 8 * 512]);
    assert_eq!(device.read_disk(9, 1), [0; 512]);
    assert_eq!(queue.borrow().in_flight(), 0);
}

#[test]
fn the_device_can_be_asked_while_the_queue_is_locked_and_busy() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).capacity(64).build(&memory);
    let disk: TestDisk<_, Buffer> = open_with(&device, &memory, &defaults());
    let (mut handle, queue) = disk.split();
    let interrupt = handle.interrupt().unwrap();
    let queue = RefCell::new(queue);
    let mut locked = queue.borrow_mut();
    locked.use_interrupts(1);
    locked.submit_write(63, sector(1)).unwrap();
    locked.commit();
    device.run();
    device.set_capacity(32);
    let causes = interrupt.acknowledge();
    assert!(causes.contains(InterruptStatus::USED_BUFFER));
    assert!(causes.contains(InterruptStatus::CONFIGURATION_CHANGE));
    assert!(interrupt.acknowledge().is_empty());
    let resized = handle.config_changed().unwrap();
    assert_eq!(resized, Some(Resized { old_sectors: 64, new_sectors: 32 }));
    locked.set_capacity_sectors(32);
    let refused = locked.submit_write(32, sector(1)).map_err(|rejected| rejected.error);
    assert_eq!(refused, Err(Error::BeyondCapacity { sector: 32, sectors: 1, capacity_sectors: 32 }));
    assert_eq!(locked.poll().unwrap().unwrap().sector, 63);
}

#[test]
fn a_blocking_call_keeps_the_completions_of_others() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk: TestDisk<_, Buffer> = open_with(&device, &memory, &defaults());
    device.write_disk(5, &[5; 512]);
    let token = disk.queue().submit_read(5, sector(0)).unwrap();
    disk.queue().commit();
    let mut buffer = [0; 512];
    disk.read(5, &mut buffer, &mut Spin).unwrap();
    assert_eq!(buffer, [5; 512]);
    let completion = disk.queue().poll().unwrap().unwrap();
    assert_eq!((completion.token, &completion.buffer.unwrap()[..]), (token, &[5; 512][..]));
}

#[test]
fn a_queue_that_is_dropped_while_the_device_works_is_leaked() {
    let (memory, alive) = (ScatterMemory::new(), Arc::default());
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    let disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    let (handle, mut queue) = disk.split();
    queue.submit_write(3, Counted::new(pattern(512, 3), &alive)).ok().unwrap();
    queue.commit();
    drop(queue);
    assert_eq!(alive.load(Ordering::Relaxed), 1, "the device has the buffer");
    let taken = device.take().unwrap();
    assert!(device.complete(taken, Outcome::HONEST));
    assert_eq!(device.read_disk(3, 1), pattern(512, 3));
    device.assert_conformant();
    drop(handle);
    assert_eq!((memory.outstanding(), alive.load(Ordering::Relaxed)), (2, 1), "the ring and its slots");
}

#[test]
fn a_dump_after_a_panic_shares_nothing_with_the_time_before() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let lock = RefCell::new(());
    // Somebody panics under the lock, while another request is in flight.
    let held = lock.borrow_mut();
    device.faults(|faults| faults.hold = true);
    disk.queue().submit_flush().unwrap();
    disk.queue().commit();
    std::mem::forget(disk);
    device.faults(|faults| faults.hold = false);
    let options = Options { queue_size: 4, segments: 2, waiters: 0, ..Options::default() };
    let mut dump = open(&device, &memory, &options);
    dump.write(77, &pattern(1024, 7), &mut Spin).unwrap();
    assert_eq!(device.read_disk(77, 2), pattern(1024, 7));
    drop((dump, held));
}
