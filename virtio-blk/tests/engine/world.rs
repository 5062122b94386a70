//! A driver and a device, with everything that is under way between them.

mod requests;
mod tasks;
mod way_back;

use std::cell::RefCell;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use testing_device::{BlockDevice, DeviceRegisters, Outcome, PendingRequest, ResetAnswer};
use virtio_blk::{
    AsyncQueue, CacheMode, Completion, Device, DeviceError, Error, Failed, Operation, Queue, Resized, Token,
};
use virtio_spec::InterruptStatus;
use virtio_transport::{GaveUp, Interrupt, Mmio, MmioNotifier, Spin, SpinLimit};
use virtqueue::{Memory, RingFormat};

use crate::common::Counted;
use crate::model::{Model, Snapshot, Stamp, data};
use crate::steps::{Ask, Form, SECTORS, Step, order};

pub(crate) type TestQueue<M, R> = Queue<M, MmioNotifier<DeviceRegisters>, Counted, R>;
pub(crate) type Shared<M, R> = AsyncQueue<RefCell<TestQueue<M, R>>>;
pub(crate) type Handle<M> = RefCell<Device<Mmio<DeviceRegisters>, M>>;

type Checked = Result<(), TestCaseError>;
/// How a task's request ends, with the buffer if there is one.
type Ended = Result<Option<Counted>, Failed<Counted>>;
type Task<'a> = Pin<Box<dyn Future<Output = Ended> + 'a>>;

/// A request, as the model sees it.
struct Request {
    queue: usize,
    what: What,
    /// How many resets there had been.
    resets: u32,
    cancelled: bool,
    /// Whether it was at some time, and all the time, one that the device would fail.
    may_fail: bool,
    must_fail: bool,
    /// How many of its buffer there are.
    alive: Arc<AtomicUsize>,
}

enum What {
    Read(Range<usize>, Snapshot),
    Write(Range<usize>, Stamp),
    Flush(Snapshot),
}

/// A request with a token, and the buffer that was lent to it.
struct Polled {
    token: Token,
    request: Request,
    lent: Option<NonNull<[u8]>>,
}

/// A task and its one request.
struct Waiting<'a> {
    task: Task<'a>,
    woken: Arc<Flag>,
    request: Request,
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) struct World<'a, M: Memory, R: RingFormat> {
    pub(crate) device: BlockDevice,
    handle: &'a Handle<M>,
    queues: &'a [Shared<M, R>],
    indirect: bool,
    /// The device completes requests in the order in which they were made available.
    in_order: bool,
    packed: bool,
    model: Model,
    polled: Vec<Polled>,
    tasks: Vec<Waiting<'a>>,
    /// Tasks that went away, and whose requests may still happen.
    dropped: Vec<Request>,
    hand: Vec<PendingRequest>,
    capacity: u64,
    bad: Option<Range<u64>>,
    bad_flush: bool,
    resets: u32,
    /// The device was reset, and has not recovered.
    stopped: bool,
    /// The device has broken the rules of these rings.
    broken: Vec<bool>,
    /// The device was given up: `Some(true)` if it has kept what it had.
    given_up: Option<bool>,
}

impl<'a, M: Memory, R: RingFormat> World<'a, M, R> {
    pub(crate) fn new(
        device: &BlockDevice,
        handle: &'a Handle<M>,
        queues: &'a [Shared<M, R>],
        indirect: bool,
        form: Form,
    ) -> Self {
        Self {
            device: device.clone(),
            handle,
            queues,
            indirect,
            in_order: form.is_in_order(),
            packed: form.is_packed(),
            model: Model::new(SECTORS),
            polled: Vec::new(),
            tasks: Vec::new(),
            dropped: Vec::new(),
            hand: Vec::new(),
            capacity: SECTORS as u64,
            bad: None,
            bad_flush: false,
            resets: 0,
            stopped: false,
            broken: vec![false; queues.len()],
            given_up: None,
        }
    }

    pub(crate) fn step(&mut self, step: Step) -> Checked {
        match step {
            Step::Submit { queue, ask, at, lent } => self.submit(self.place(queue), ask, at, lent)?,
            Step::Commit(queue) => {
                self.queues[self.place(queue)].commit();
            }
            Step::Poll(queue) => self.poll(self.place(queue))?,
            Step::Cancel(nth) => self.cancel(nth),
            Step::Block { queue, ask, at, looks } => self.block(self.place(queue), ask, at, looks)?,
            Step::Begin { queue, ask, at } => self.begin(self.place(queue), ask, at)?,
            Step::PollTask(nth) => {
                if !self.tasks.is_empty() {
                    self.poll_task(usize::from(nth) % self.tasks.len())?;
                }
            }
            Step::DropTask(nth) => {
                if !self.tasks.is_empty() {
                    let Waiting { task, request, .. } = self.tasks.swap_remove(usize::from(nth) % self.tasks.len());
                    drop(task);
                    self.dropped.push(request);
                }
            }
            Step::Process(queue) => self.process(self.place(queue))?,
            Step::Run => {
                self.keep_order();
                self.device.run();
            }
            Step::Take => self.hand.extend(self.device.take()),
            Step::Complete(nth) => {
                if !self.hand.is_empty() {
                    let nth = if self.in_order { 0 } else { usize::from(nth) % self.hand.len() };
                    let pending = self.hand.remove(nth);
                    self.device.complete(pending, Outcome::HONEST);
                }
            }
            Step::Hold(hold) => {
                self.keep_order();
                self.device.faults(|faults| faults.hold = hold);
                if !hold {
                    self.device.release();
                }
            }
            Step::Order(seed) if !self.in_order => self.device.faults(|faults| faults.order = order(seed)),
            Step::Order(_) => {}
            Step::Bad(at) => {
                let first = u64::from(at) % 32;
                self.bad = (at >= 64).then_some(first..first + 2);
                self.change_faults();
            }
            Step::BadFlush(bad) => {
                self.bad_flush = bad;
                self.change_faults();
            }
            Step::NeedsReset => self.device.needs_reset(),
            Step::Violate { queue, jump } => self.violate(self.place(queue), jump)?,
            Step::Recover { reads, first } => self.recover(reads, first)?,
            Step::PowerCut => self.power_cut()?,
            Step::Resize(sectors) => self.resize(sectors)?,
            Step::SetMode { through, looks } => self.set_mode(through, looks)?,
        }
        self.sweep();
        self.model.check(&self.device)
    }

    fn place(&self, queue: u8) -> usize {
        usize::from(queue) % self.queues.len()
    }

    /// A device that keeps the order is done with what it has in its hand before it begins something else.
    fn keep_order(&mut self) {
        if self.in_order {
            for pending in std::mem::take(&mut self.hand) {
                self.device.complete(pending, Outcome::HONEST);
            }
        }
    }

    /// The device works from now on: everything ends, by interrupts alone if they are asked for, and nothing is left.
    pub(crate) fn finish(&mut self, interrupts: bool) -> Checked {
        self.device.faults(|faults| faults.hold = false);
        for pending in std::mem::take(&mut self.hand) {
            self.device.complete(pending, Outcome::HONEST);
        }
        self.device.release();
        if self.handle.borrow().needs_reset() || self.broken.contains(&true) {
            self.recover(0, 0)?;
        }
        let interrupt = self.handle.borrow().interrupt().unwrap();
        let mut look = true;
        for _ in 0..1000 {
            for place in 0..if look { self.queues.len() } else { 0 } {
                self.queues[place].commit();
                self.process(place)?;
                self.poll(place)?;
                // There may be tasks in line for the room that this has made.
                self.process(place)?;
            }
            let woken = self.poll_woken()?;
            let done = self.device.run();
            let interrupted = interrupt.acknowledge().contains(InterruptStatus::USED_BUFFER);
            look = if interrupts { interrupted } else { done > 0 };
            if !look && !woken {
                break;
            }
        }
        self.sweep();
        self.model.check(&self.device)?;
        prop_assert_eq!((self.polled.len(), self.tasks.len(), self.dropped.len()), (0, 0, 0), "these have not ended");
        for shared in self.queues {
            let mut queue = shared.queue().borrow_mut();
            prop_assert_eq!(queue.in_flight(), 0);
            // A flush takes one entry, or two of the ring.
            let room = if self.indirect { queue.size() } else { queue.size() / 2 };
            for _ in 0..room {
                prop_assert!(queue.submit_flush().is_ok(), "a slot is lost");
            }
            prop_assert_eq!(queue.submit_flush(), Err(Error::QueueFull));
        }
        Ok(())
    }

    /// Polls each task that was woken, once. Whether there were some.
    fn poll_woken(&mut self) -> Result<bool, TestCaseError> {
        let mut any = false;
        for nth in (0..self.tasks.len()).rev() {
            if self.tasks[nth].woken.0.load(Ordering::Relaxed) {
                self.poll_task(nth)?;
                any = true;
            }
        }
        Ok(any)
    }
}
