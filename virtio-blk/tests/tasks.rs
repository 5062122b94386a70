//! Requests of tasks, under a plain host executor.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_executor::LocalPool;
use futures_util::task::LocalSpawnExt;
use testing_device::{BlockDevice, DeviceRegisters, Mode, Outcome, ScatterMemory};
use virtio_blk::{AsyncQueue, DeviceError, Disk, Error, Operation, Options, Queue};
use virtio_spec::block::RequestStatus;
use virtio_transport::{Mmio, MmioNotifier, Spin, Transport};

type Buffer = Box<[u8]>;
type Shared = RefCell<Queue<ScatterMemory, MmioNotifier<DeviceRegisters>, Buffer>>;

/// A device that looks at its queue when it is told to, and a queue that tasks share.
struct Rig {
    device: BlockDevice,
    disk: Rc<AsyncQueue<Shared>>,
    interrupt: <Mmio<DeviceRegisters> as Transport>::Interrupt,
}

fn rig(options: &Options) -> Rig {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).capacity(4096).build(&memory);
    let transport = Mmio::probe(device.registers()).unwrap().expect("a device");
    let disk: Disk<_, _, Buffer> = Disk::open(transport, memory, options, &mut Spin).unwrap();
    let (handle, mut queue) = disk.split();
    queue.use_interrupts(1);
    let interrupt = handle.interrupt().expect("it runs");
    Rig { device, disk: Rc::new(AsyncQueue::new(RefCell::new(queue))), interrupt }
}

impl Rig {
    /// Lets tasks and device run in turn until neither has anything to do.
    fn run(&self, pool: &mut LocalPool) {
        loop {
            pool.run_until_stalled();
            if self.device.run() == 0 {
                break;
            }
            let causes = self.disk.handle_interrupt(&self.interrupt).unwrap().expect("its interrupt");
            assert!(causes.used && !causes.configuration);
        }
    }
}

fn sector(byte: u8) -> Buffer {
    vec![byte; 512].into()
}

#[test]
fn more_tasks_than_entries_all_get_their_turn() {
    let rig = rig(&Options { queue_size: 4, ..Options::default() });
    let mut pool = LocalPool::new();
    let done = Rc::new(Cell::new(0));
    for task in 0..50_u64 {
        let (disk, done) = (rig.disk.clone(), done.clone());
        pool.spawner()
            .spawn_local(async move {
                let byte = task as u8 + 1;
                let buffer = disk.write(task, sector(byte)).await.unwrap();
                assert_eq!(buffer[..], [byte; 512]);
                let buffer = disk.read(task, sector(0)).await.unwrap();
                assert_eq!(buffer[..], [byte; 512], "task {task}");
                done.set(done.get() + 1);
            })
            .unwrap();
    }
    rig.run(&mut pool);
    assert_eq!(done.get(), 50);
    let counts = rig.device.counts();
    assert_eq!((counts.writes, counts.reads, counts.depth), (50, 50, 4));
    for task in 0..50 {
        assert_eq!(rig.device.read_disk(task, 1), [task as u8 + 1; 512]);
    }
}

#[test]
fn tasks_that_find_the_queue_full_are_served_in_the_order_in_which_they_came() {
    let rig = rig(&Options { queue_size: 4, ..Options::default() });
    let mut pool = LocalPool::new();
    let order = Rc::new(RefCell::new(Vec::new()));
    for task in 0..20_u64 {
        let (disk, order) = (rig.disk.clone(), order.clone());
        pool.spawner()
            .spawn_local(async move {
                disk.write(task, sector(1)).await.unwrap();
                order.borrow_mut().push(task);
            })
            .unwrap();
    }
    rig.run(&mut pool);
    assert_eq!(*order.borrow(), (0..20).collect::<Vec<_>>());
}

#[test]
fn a_failed_request_gives_its_error_and_its_buffer() {
    let rig = rig(&Options::default());
    rig.device.faults(|faults| faults.next.push_back(Outcome::failure(RequestStatus::IOERR)));
    let mut pool = LocalPool::new();
    let disk = rig.disk.clone();
    let failed = Rc::new(RefCell::new(None));
    let slot = failed.clone();
    pool.spawner()
        .spawn_local(async move {
            *slot.borrow_mut() = disk.write(9, sector(7)).await.err();
            assert_eq!(disk.write(9, sector(8)).await.unwrap()[..], [8; 512]);
        })
        .unwrap();
    rig.run(&mut pool);
    let failed = failed.borrow_mut().take().expect("an error");
    let operation = Operation::Write;
    assert_eq!(failed.error, Error::Device { operation, sector: 9, status: DeviceError::Io });
    assert_eq!(failed.buffer.expect("the buffer")[..], [7; 512]);
    assert_eq!(rig.device.read_disk(9, 1), [8; 512]);
}

#[test]
fn misuse_is_an_error_and_the_device_sees_nothing() {
    let rig = rig(&Options::default());
    let failed = futures_executor::block_on(rig.disk.read(4096, sector(3))).unwrap_err();
    assert_eq!(failed.error, Error::BeyondCapacity { sector: 4096, sectors: 1, capacity_sectors: 4096 });
    assert_eq!(failed.buffer.expect("the buffer")[..], [3; 512]);
    assert_eq!(rig.device.run(), 0);
}

#[test]
fn a_batch_of_tasks_is_one_notification() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).capacity(4096).build(&memory);
    let transport = Mmio::probe(device.registers()).unwrap().expect("a device");
    let disk: Disk<_, _, Buffer> = Disk::open(transport, memory, &Options::default(), &mut Spin).unwrap();
    let (_handle, queue) = disk.split();
    let disk = Rc::new(AsyncQueue::with_batches(RefCell::new(queue)));
    let mut pool = LocalPool::new();
    for task in 0..64 {
        let disk = disk.clone();
        pool.spawner().spawn_local(async move { drop(disk.read(task, sector(0)).await.unwrap()) }).unwrap();
    }
    pool.run_until_stalled();
    assert_eq!(device.run(), 0, "nothing was committed");
    assert!(disk.commit());
    assert_eq!((device.run(), device.counts().notifications), (64, 1));
    disk.process().unwrap();
    assert!(pool.try_run_one());
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn counter() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count(AtomicUsize::new(0)));
    (count.clone(), count.into())
}

#[test]
fn a_dropped_future_keeps_its_buffer_until_the_device_is_done_and_loses_no_slot() {
    let rig = rig(&Options { queue_size: 4, ..Options::default() });
    let (_, waker) = counter();
    let mut context = Context::from_waker(&waker);
    for round in 0..20_u8 {
        for task in 0..4 {
            let mut write = Box::pin(rig.disk.write(task, sector(round)));
            assert!(write.as_mut().poll(&mut context).is_pending());
            // The device reads the buffer after the future is gone.
            drop(write);
        }
        assert_eq!(rig.device.run(), 4);
        rig.disk.process().unwrap();
        for task in 0..4 {
            assert_eq!(rig.device.read_disk(task, 1), [round; 512]);
        }
    }
    let in_flight = rig.disk.queue().borrow().in_flight();
    assert_eq!(in_flight, 0);
}

#[test]
fn a_dropped_place_in_line_is_passed_on() {
    let rig = rig(&Options { queue_size: 4, ..Options::default() });
    let (_, idle) = counter();
    let mut context = Context::from_waker(&idle);
    let mut first: Vec<_> = (0..4).map(|task| Box::pin(rig.disk.read(task, sector(0)))).collect();
    for read in &mut first {
        assert!(read.as_mut().poll(&mut context).is_pending());
    }
    // The queue is full; two line up.
    let ((count_a, waker_a), (count_b, waker_b)) = (counter(), counter());
    let mut a = Box::pin(rig.disk.read(4, sector(0)));
    let mut b = Box::pin(rig.disk.read(5, sector(0)));
    assert!(a.as_mut().poll(&mut Context::from_waker(&waker_a)).is_pending());
    assert!(b.as_mut().poll(&mut Context::from_waker(&waker_b)).is_pending());
    // One comes back: there is room, and the first in line is woken. It goes away instead of coming.
    let taken = rig.device.take().expect("a request");
    assert!(rig.device.complete(taken, Outcome::HONEST));
    rig.disk.process().unwrap();
    assert!(first[0].as_mut().poll(&mut context).is_ready());
    assert_eq!((count_a.0.load(Ordering::Relaxed), count_b.0.load(Ordering::Relaxed)), (1, 0));
    drop(a);
    assert_eq!(count_b.0.load(Ordering::Relaxed), 1, "the next in line is woken instead");
    assert!(b.as_mut().poll(&mut Context::from_waker(&waker_b)).is_pending());
    assert_eq!(rig.disk.queue().borrow().in_flight(), 4);
    rig.device.run();
    rig.disk.process().unwrap();
    assert!(matches!(b.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    drop(first);
}

#[test]
fn without_places_in_line_tasks_come_again_by_themselves() {
    let rig = rig(&Options { queue_size: 4, waiters: 0, ..Options::default() });
    let (count, waker) = counter();
    let mut context = Context::from_waker(&waker);
    let mut reads: Vec<_> = (0..5).map(|task| Box::pin(rig.disk.read(task, sector(0)))).collect();
    for read in &mut reads {
        assert!(read.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(count.0.load(Ordering::Relaxed), 1, "the fifth woke itself");
    rig.device.run();
    rig.disk.process().unwrap();
    assert!(reads[0].as_mut().poll(&mut context).is_ready());
    assert!(reads[4].as_mut().poll(&mut context).is_pending());
    assert_eq!(rig.disk.queue().borrow().in_flight(), 1);
    rig.device.run();
    rig.disk.process().unwrap();
    assert!(reads[4].as_mut().poll(&mut context).is_ready());
    drop(reads);
}

#[test]
fn a_waker_may_use_the_queue() {
    struct Reenter(std::sync::Mutex<Option<Waker>>);
    impl Wake for Reenter {
        fn wake(self: Arc<Self>) {
            IN_FLIGHT.with(|in_flight| in_flight());
            if let Some(waker) = self.0.lock().unwrap().take() {
                waker.wake();
            }
        }
    }
    type Probe = Box<dyn Fn()>;
    thread_local! {
        static HOOK: RefCell<Option<Probe>> = const { RefCell::new(None) };
        static IN_FLIGHT: fn() = || HOOK.with(|hook| if let Some(hook) = &*hook.borrow() { hook() });
    }
    let rig = rig(&Options::default());
    let (seen, disk) = (Rc::new(Cell::new(None)), rig.disk.clone());
    let slot = seen.clone();
    HOOK.with(|hook| {
        *hook.borrow_mut() = Some(Box::new(move || slot.set(Some(disk.queue().borrow_mut().in_flight()))));
    });
    let waker: Waker = Arc::new(Reenter(std::sync::Mutex::new(None))).into();
    {
        let mut read = pin!(rig.disk.read(0, sector(0)));
        assert!(read.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        rig.device.run();
        rig.disk.process().unwrap();
        assert_eq!(seen.get(), Some(0), "called outside of the lock");
        assert!(read.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    }
    HOOK.with(|hook| *hook.borrow_mut() = None);
}
