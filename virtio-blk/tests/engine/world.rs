//! A driver and a device, with everything that is under way between them.

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

    // Requests.

    /// Up to three sectors.
    fn sectors(at: u8) -> Range<usize> {
        let first = usize::from(at) % SECTORS;
        first..(first + 1 + usize::from(at) / SECTORS % 3).min(SECTORS)
    }

    /// What the device would fail at this moment.
    fn is_bad(&self, what: &What) -> bool {
        match what {
            What::Flush(_) => self.bad_flush,
            What::Read(sectors, _) | What::Write(sectors, _) => {
                let (first, end) = (sectors.start as u64, sectors.end as u64);
                end > self.capacity || self.bad.as_ref().is_some_and(|bad| bad.start < end && first < bad.end)
            }
        }
    }

    fn request(&mut self, queue: usize, ask: Ask, at: u8) -> Request {
        let sectors = Self::sectors(at);
        let what = match ask {
            Ask::Read => What::Read(sectors.clone(), self.model.snapshot(sectors)),
            Ask::Write => What::Write(sectors.clone(), self.model.begin_write(sectors)),
            Ask::Flush => What::Flush(self.model.begin_flush()),
        };
        let bad = self.is_bad(&what);
        let (resets, alive) = (self.resets, Arc::default());
        Request { queue, what, resets, cancelled: false, may_fail: bad, must_fail: bad, alive }
    }

    /// What the device would fail has changed.
    fn change_faults(&mut self) {
        let (bad, bad_flush) = (self.bad.clone(), self.bad_flush);
        self.device.faults(|faults| {
            faults.bad_sectors = bad.into_iter().collect();
            faults.bad_flush = bad_flush;
        });
        let mut polled = std::mem::take(&mut self.polled);
        let mut tasks = std::mem::take(&mut self.tasks);
        let requests = polled.iter_mut().map(|polled| &mut polled.request);
        for request in requests.chain(tasks.iter_mut().map(|waiting| &mut waiting.request)) {
            let bad = self.is_bad(&request.what);
            request.may_fail |= bad;
            request.must_fail &= bad;
        }
        (self.polled, self.tasks) = (polled, tasks);
    }

    fn buffer(request: &Request) -> Option<Counted> {
        let bytes = match &request.what {
            What::Read(sectors, _) => vec![0xee; sectors.len() * 512],
            What::Write(sectors, stamp) => data(*stamp, sectors.clone()),
            What::Flush(_) => return None,
        };
        Some(Counted::new(bytes, &request.alive))
    }

    /// A request has not been begun, or cannot happen any more for another reason.
    fn void(&mut self, request: &Request) {
        match &request.what {
            What::Read(..) => {}
            What::Write(_, stamp) => self.model.end_write(*stamp, false),
            What::Flush(snapshot) => self.model.end_flush(snapshot, false),
        }
    }

    /// Whether it is right that a request was refused.
    fn check_refused(&self, request: &Request, error: Error) -> Checked {
        let queue = request.queue;
        match error {
            Error::Stopped => prop_assert!(self.stopped),
            Error::Violation(_) => prop_assert!(self.broken[queue] && !self.stopped),
            Error::BeyondCapacity { capacity_sectors, .. } => {
                prop_assert!(capacity_sectors == self.capacity && request.may_fail);
            }
            Error::QueueFull => {
                let size = self.queues[queue].queue().borrow().size();
                let held = self.held(queue);
                prop_assert!(if self.indirect { held >= usize::from(size) } else { held > 0 }, "{held} hold {size}");
            }
            error => prop_assert!(false, "refused: {error}"),
        }
        Ok(())
    }

    /// How many requests can hold entries of a queue.
    fn held(&self, queue: usize) -> usize {
        let polled = self.polled.iter().map(|polled| &polled.request);
        let tasks = self.tasks.iter().map(|waiting| &waiting.request);
        polled.chain(tasks).chain(&self.dropped).filter(|request| request.queue == queue).count()
    }

    /// A request has ended: with its data, if it had some.
    fn end(&mut self, request: Request, result: Result<(), Error>, bytes: Option<&[u8]>) -> Checked {
        let reset = self.resets > request.resets;
        match result {
            Ok(()) => prop_assert!(!request.must_fail),
            Err(Error::Device { operation, sector, status }) => {
                let (expected, first) = match &request.what {
                    What::Read(sectors, _) => (Operation::Read, sectors.start),
                    What::Write(sectors, _) => (Operation::Write, sectors.start),
                    What::Flush(_) => (Operation::Flush, 0),
                };
                prop_assert_eq!((operation, sector, status), (expected, first as u64, DeviceError::Io));
                prop_assert!(request.may_fail);
            }
            Err(Error::Cancelled { .. }) => prop_assert!(request.cancelled && reset),
            Err(Error::FlushInDoubt) => prop_assert!(matches!(request.what, What::Flush(_)) && reset),
            Err(Error::GivenUp { .. }) => prop_assert!(self.given_up.is_some()),
            Err(error) => prop_assert!(false, "ended with {error}"),
        }
        let done = result.is_ok();
        match &request.what {
            What::Read(_, snapshot) if done => self.model.end_read(snapshot, bytes.unwrap())?,
            What::Read(..) => {}
            What::Write(sectors, stamp) => {
                prop_assert!(bytes.is_none_or(|bytes| bytes == data(*stamp, sectors.clone())));
                self.model.end_write(*stamp, done);
            }
            What::Flush(snapshot) => self.model.end_flush(snapshot, done),
        }
        Ok(())
    }

    // By token.

    fn submit(&mut self, place: usize, ask: Ask, at: u8, lend: bool) -> Checked {
        let request = self.request(place, ask, at);
        let sector = Self::sectors(at).start as u64;
        let mut queue = self.queues[place].queue().borrow_mut();
        let mut lent = None;
        let submitted = match Self::buffer(&request) {
            None => queue.submit_flush(),
            Some(buffer) if lend => {
                let bytes = NonNull::from(Box::leak(buffer.bytes.clone().into_boxed_slice()));
                lent = Some(bytes);
                // SAFETY: it is leaked, and taken back when the request has ended.
                unsafe {
                    match ask {
                        Ask::Write => queue.submit_write_borrowed(sector, bytes),
                        _ => queue.submit_read_borrowed(sector, bytes),
                    }
                }
            }
            Some(buffer) => {
                let submitted = match ask {
                    Ask::Write => queue.submit_write(sector, buffer),
                    _ => queue.submit_read(sector, buffer),
                };
                submitted.map_err(|rejected| rejected.error)
            }
        };
        drop(queue);
        match submitted {
            Ok(token) => {
                prop_assert!(!self.stopped);
                self.polled.push(Polled { token, request, lent });
            }
            Err(error) => {
                self.check_refused(&request, error)?;
                prop_assert_eq!(request.alive.load(Ordering::Relaxed), 0);
                lent.map(take_back);
                self.void(&request);
            }
        }
        Ok(())
    }

    fn poll(&mut self, place: usize) -> Checked {
        loop {
            let polled = self.queues[place].queue().borrow_mut().poll();
            match polled {
                Ok(Some(completion)) => self.complete(place, completion)?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    prop_assert!(matches!(error, Error::Violation(_)) && self.broken[place] && !self.stopped);
                    return Ok(());
                }
            }
        }
    }

    fn complete(&mut self, place: usize, completion: Completion<Counted>) -> Checked {
        let Completion { token, result, buffer, .. } = completion;
        let found = self.polled.iter().position(|polled| polled.token == token && polled.request.queue == place);
        prop_assert!(found.is_some(), "a completion of nothing that is under way");
        let Polled { request, lent, .. } = self.polled.swap_remove(found.unwrap());
        if matches!(result, Err(Error::GivenUp { .. })) && self.given_up == Some(true) {
            prop_assert!(buffer.is_none());
            return self.end(request, result, None);
        }
        let lent = lent.map(take_back);
        let owns = lent.is_none() && !matches!(request.what, What::Flush(_));
        prop_assert_eq!((buffer.is_some(), request.alive.load(Ordering::Relaxed)), (owns, usize::from(owns)));
        self.end(request, result, buffer.as_ref().map(|buffer| &buffer.bytes[..]).or(lent.as_deref()))
    }

    fn cancel(&mut self, nth: u8) {
        if !self.polled.is_empty() {
            let nth = usize::from(nth) % self.polled.len();
            let Polled { token, request, .. } = &mut self.polled[nth];
            request.cancelled |= self.queues[request.queue].queue().borrow_mut().cancel(*token);
        }
    }

    // By blocking.

    /// A policy that lets the device work, and gives up after so many looks.
    fn policy(&self, looks: u8) -> impl FnMut() -> Result<(), GaveUp> + use<M, R> {
        let (device, mut looks) = (self.device.clone(), looks);
        move || {
            device.run();
            looks = looks.checked_sub(1).ok_or(GaveUp)?;
            Ok(())
        }
    }

    fn block(&mut self, place: usize, ask: Ask, at: u8, looks: u8) -> Checked {
        let mut request = self.request(place, ask, at);
        let sector = Self::sectors(at).start as u64;
        let mut buffer = Self::buffer(&request);
        self.keep_order();
        let mut policy = self.policy(looks);
        let mut queue = self.queues[place].queue().borrow_mut();
        let mut blocking = queue.blocking(self.handle).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let result = match (&mut buffer, ask) {
            (Some(buffer), Ask::Read) => blocking.read(sector, &mut buffer.bytes, &mut policy),
            (Some(buffer), _) => blocking.write(sector, &buffer.bytes, &mut policy),
            (None, _) => blocking.flush(&mut policy),
        };
        let (in_flight, stopped) = (queue.in_flight(), queue.is_stopped());
        drop(queue);
        match result {
            Ok(()) | Err(Error::Device { .. }) => {
                prop_assert!(!self.stopped);
                self.end(request, result, buffer.as_ref().map(|buffer| &buffer.bytes[..]))?;
            }
            Err(Error::QueueFull) => {
                prop_assert!(in_flight == 0 && !stopped);
                self.check_refused(&request, Error::QueueFull)?;
                self.void(&request);
            }
            Err(error @ (Error::GaveUp | Error::Violation(_))) => {
                prop_assert!(error == Error::GaveUp || self.broken[place]);
                prop_assert!(!self.stopped && stopped, "{error}, and not reset");
                self.stopped = true;
                self.resets += 1;
                request.cancelled = true;
                self.void(&request);
            }
            Err(error) => {
                self.check_refused(&request, error)?;
                self.void(&request);
            }
        }
        Ok(())
    }

    // By task.

    fn begin(&mut self, place: usize, ask: Ask, at: u8) -> Checked {
        let request = self.request(place, ask, at);
        let (shared, sector) = (&self.queues[place], Self::sectors(at).start as u64);
        let task: Task<'a> = match (Self::buffer(&request), ask) {
            (None, _) => {
                let flush = shared.flush();
                Box::pin(async move { flush.await.map(|()| None).map_err(|error| Failed { error, buffer: None }) })
            }
            (Some(buffer), Ask::Read) => {
                let read = shared.read(sector, buffer);
                Box::pin(async move { read.await.map(Some) })
            }
            (Some(buffer), _) => {
                let write = shared.write(sector, buffer);
                Box::pin(async move { write.await.map(Some) })
            }
        };
        self.tasks.push(Waiting { task, woken: Arc::default(), request });
        self.poll_task(self.tasks.len() - 1)
    }

    fn poll_task(&mut self, nth: usize) -> Checked {
        let Waiting { task, woken, .. } = &mut self.tasks[nth];
        woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(woken.clone());
        let Poll::Ready(ended) = task.as_mut().poll(&mut Context::from_waker(&waker)) else {
            return Ok(());
        };
        let Waiting { task, request, .. } = self.tasks.swap_remove(nth);
        drop(task);
        let (error, buffer) = match ended {
            Ok(buffer) => (None, buffer),
            Err(Failed { error, buffer }) => (Some(error), buffer),
        };
        let kept = matches!(error, Some(Error::GivenUp { .. })) && self.given_up == Some(true);
        let has_buffer = !matches!(request.what, What::Flush(_)) && !kept;
        prop_assert_eq!(buffer.is_some(), has_buffer);
        match error {
            Some(error @ (Error::Stopped | Error::Violation(_) | Error::BeyondCapacity { .. })) => {
                self.check_refused(&request, error)?;
                self.void(&request);
                Ok(())
            }
            error => self.end(request, error.map_or(Ok(()), Err), buffer.as_ref().map(|buffer| &buffer.bytes[..])),
        }
    }

    fn process(&mut self, place: usize) -> Checked {
        if let Err(error) = self.queues[place].process() {
            prop_assert!(matches!(error, Error::Violation(_)) && self.broken[place] && !self.stopped);
        }
        Ok(())
    }

    /// Looks which requests of tasks that went away have ended.
    fn sweep(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        for request in dropped {
            let ended = match &request.what {
                // Of one without a buffer, nobody is told.
                What::Flush(_) => self.queues[request.queue].queue().borrow().in_flight() == 0,
                What::Read(..) | What::Write(..) => request.alive.load(Ordering::Relaxed) == 0,
            };
            if ended {
                self.void(&request);
            } else {
                self.dropped.push(request);
            }
        }
    }

    // The device and its way back.

    fn violate(&mut self, place: usize, jump: bool) -> Checked {
        self.broken[place] = true;
        if self.packed {
            // Both sides write to the same descriptors. So that the device does not take its own for the driver's, it
            // has taken all before, and the driver finds out before it writes more.
            while let Some(pending) = self.device.take_from(place as u16) {
                self.hand.push(pending);
            }
            self.device.push_raw(place as u16, if jump { 60_000 } else { 40_000 }, 0);
            return self.poll(place);
        }
        if jump {
            self.device.skip_used(place as u16, 5000);
        } else {
            self.device.push_raw(place as u16, 70_000, 0);
        }
        Ok(())
    }

    fn recover(&mut self, reads: u8, first: u8) -> Checked {
        // The status of a device that was reset before reads as 0 at once.
        let reads = if self.stopped { 0 } else { reads };
        self.device.faults(|faults| faults.reset = ResetAnswer::AfterReads(reads.into()));
        let recovered = loop {
            let mut all: Vec<_> = self.queues.iter().map(|shared| shared.queue().borrow_mut()).collect();
            let mut all: Vec<_> = all.iter_mut().map(|queue| &mut **queue).collect();
            let count = all.len();
            all.rotate_left(usize::from(first) % count);
            match self.handle.borrow_mut().recover(&mut all, &mut SpinLimit { looks: 7 }) {
                Ok(recovered) => break recovered,
                Err(Error::NotAcknowledged) => prop_assert!(reads >= 7),
                Err(error) => prop_assert!(false, "not recovered: {error}"),
            }
        };
        self.device.faults(|faults| faults.reset = ResetAnswer::Prompt);
        self.resets += 1;
        self.stopped = false;
        self.broken.fill(false);
        self.hand.clear();
        let in_flight: u16 = self.queues.iter().map(|shared| shared.queue().borrow().in_flight()).sum();
        prop_assert_eq!(recovered.reissued, u32::from(in_flight));
        // Nobody waits for these, so they are over.
        for request in std::mem::take(&mut self.dropped) {
            prop_assert_eq!(request.alive.load(Ordering::Relaxed), 0);
            self.void(&request);
        }
        for place in 0..self.queues.len() {
            self.poll(place)?;
        }
        prop_assert!(self.polled.iter().all(|polled| !polled.request.cancelled), "one that was cancelled goes on");
        if !recovered.writes_in_doubt {
            self.settle()?;
            self.model.check_no_doubt(&self.device)?;
        }
        prop_assert!(!self.handle.borrow().needs_reset());
        Ok(())
    }

    /// Lets all be told of what has ended.
    fn settle(&mut self) -> Checked {
        for place in 0..self.queues.len() {
            self.process(place)?;
            self.poll(place)?;
        }
        for nth in (0..self.tasks.len()).rev() {
            self.poll_task(nth)?;
        }
        self.sweep();
        Ok(())
    }

    fn power_cut(&mut self) -> Checked {
        if self.broken.contains(&true) {
            // What the device has done, and nobody believes, is not known to the model.
            return Ok(());
        }
        self.settle()?;
        if !self.stopped {
            self.device.needs_reset();
        }
        // What the device had begun is lost with it.
        self.hand.clear();
        while let Some(held) = self.device.take() {
            drop(held);
        }
        self.device.power_cut();
        self.model.power_cut();
        Ok(())
    }

    fn resize(&mut self, sectors: u8) -> Checked {
        let new_sectors = SECTORS as u64 - u64::from(sectors) % 8;
        self.device.set_capacity(new_sectors);
        let found = self.handle.borrow_mut().config_changed();
        if self.stopped {
            prop_assert_eq!(found, Err(Error::Stopped));
            // Before the driver knows, it would go by the old one.
            self.device.set_capacity(self.capacity);
            return Ok(());
        }
        let old_sectors = std::mem::replace(&mut self.capacity, new_sectors);
        prop_assert_eq!(found, Ok((old_sectors != new_sectors).then_some(Resized { old_sectors, new_sectors })));
        for shared in self.queues {
            shared.queue().borrow_mut().set_capacity_sectors(new_sectors);
        }
        self.change_faults();
        Ok(())
    }

    fn set_mode(&mut self, through: bool, looks: u8) -> Checked {
        let mode = if through { CacheMode::WriteThrough } else { CacheMode::WriteBack };
        let flush = self.model.begin_flush();
        self.keep_order();
        let mut policy = self.policy(looks);
        let result = {
            let mut all: Vec<_> = self.queues.iter().map(|shared| shared.queue().borrow_mut()).collect();
            let mut all: Vec<_> = all.iter_mut().map(|queue| &mut **queue).collect();
            self.handle.borrow_mut().set_cache_mode(mode, &mut all, &mut policy)
        };
        self.model.end_flush(&flush, false);
        match result {
            Ok(()) => {
                prop_assert_eq!(self.handle.borrow().cache_mode(), Ok(mode));
                prop_assert!(self.queues.iter().all(|shared| shared.queue().borrow().in_flight() == 0));
                self.settle()?;
                self.model.change_mode(through);
                return Ok(());
            }
            Err(Error::Stopped) => prop_assert!(self.stopped),
            Err(Error::GaveUp | Error::Violation(_)) => {
                let stopped = self.queues.iter().all(|shared| shared.queue().borrow().is_stopped());
                prop_assert!(!self.stopped && stopped);
                self.stopped = true;
                self.resets += 1;
            }
            Err(Error::Device { operation: Operation::Flush, .. }) => prop_assert!(self.bad_flush),
            Err(Error::QueueFull) => prop_assert!(self.held(0) > 0),
            Err(error) => prop_assert!(false, "the mode: {error}"),
        }
        self.model.doubt_mode();
        Ok(())
    }

    // The end.

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

    /// The device acknowledges no reset any more: everything ends, and what the device may touch is left to it.
    pub(crate) fn give_up(&mut self) -> Checked {
        self.device.faults(|faults| faults.reset = ResetAnswer::Never);
        let acknowledged = self.stopped;
        {
            let mut all: Vec<_> = self.queues.iter().map(|shared| shared.queue().borrow_mut()).collect();
            let mut all: Vec<_> = all.iter_mut().map(|queue| &mut **queue).collect();
            let mut handle = self.handle.borrow_mut();
            prop_assert!(handle.recover(&mut all[1..], &mut Spin).is_err());
            if !acknowledged {
                prop_assert_eq!(handle.recover(&mut all, &mut SpinLimit { looks: 9 }), Err(Error::NotAcknowledged));
            }
            prop_assert_eq!(handle.give_up(&mut all), Ok(()));
            prop_assert!(handle.recover(&mut all, &mut Spin).is_err());
        }
        (self.given_up, self.stopped) = (Some(!acknowledged), true);
        self.resets += u32::from(acknowledged);
        for place in 0..self.queues.len() {
            self.process(place)?;
            self.poll(place)?;
            self.process(place)?;
        }
        while self.poll_woken()? {}
        prop_assert_eq!((self.polled.len(), self.tasks.len()), (0, 0), "these were not told");
        for shared in self.queues {
            prop_assert_eq!(shared.queue().borrow().in_flight(), 0);
        }
        // Its late answers go where they were asked for, and nobody listens.
        self.device.faults(|faults| faults.hold = false);
        self.device.release();
        self.device.run();
        for place in 0..self.queues.len() {
            self.poll(place)?;
        }
        Ok(())
    }
}

/// Takes back a buffer that was lent.
fn take_back(lent: NonNull<[u8]>) -> Box<[u8]> {
    // SAFETY: it was leaked when it was lent, and the device is done with it.
    unsafe { Box::from_raw(lent.as_ptr()) }
}
