//! Requests of tasks: futures, for whatever executor the kernel has.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use virtio_spec::InterruptStatus;
use virtio_transport::{Interrupt, Notifier};
use virtqueue::{Memory, RingFormat, Token};

use crate::buffer::Buffer;
use crate::erase::Ranges;
use crate::error::Error;
use crate::exclusive::Exclusive;
use crate::queue::Queue;
use crate::request::{Ending, Operation, Owner};
use crate::waiters::Ticket;

/// A queue that tasks share.
///
/// It needs no runtime: its futures store their wakers with their requests, and somebody calls
/// [`process`](AsyncQueue::process) when the device has used some: an interrupt handler, or a loop that polls. Tasks
/// that find the queue full wait in the order in which they came. A task that holds several futures polls all of them:
/// one that is first in line, was woken and is not polled, holds up those behind it.
///
/// # Dropping a future
///
/// It may be dropped at any time. The request goes on: the buffer stays in the queue until the device is done with it,
/// and is dropped then. A write that was dropped happens, or happens in part, or does not, as of a moment that nobody
/// is told; it is not issued again after a reset. Who must know whether it happened does not drop it.
///
/// # Example
///
/// ```
/// use virtio_blk::{AsyncQueue, Failed, SharedQueue};
///
/// async fn copy<S: SharedQueue>(
///     disk: &AsyncQueue<S>,
///     from: u64,
///     to: u64,
///     buffer: S::Buffer,
/// ) -> Result<S::Buffer, Failed<S::Buffer>> {
///     let buffer = disk.read(from, buffer).await?;
///     disk.write(to, buffer).await
/// }
/// ```
pub struct AsyncQueue<S> {
    queue: S,
    commits: bool,
}

/// A [`Queue`] behind the kernel's mutual exclusion: whatever implements [`Exclusive`] for one.
pub trait SharedQueue: Exclusive<Value = Queue<Self::Memory, Self::Notifier, Self::Buffer, Self::Ring>> {
    /// The kernel's memory.
    type Memory: Memory;
    /// What notifies the device.
    type Notifier: Notifier;
    /// What requests own while they are in flight.
    type Buffer: Buffer;
    /// The form of the ring.
    type Ring: RingFormat;
}

impl<S, M, N, B, R> SharedQueue for S
where
    S: Exclusive<Value = Queue<M, N, B, R>>,
    M: Memory,
    N: Notifier,
    B: Buffer,
    R: RingFormat,
{
    type Memory = M;
    type Notifier = N;
    type Buffer = B;
    type Ring = R;
}

/// A request of a task that failed.
#[derive(Debug)]
pub struct Failed<B> {
    /// Why.
    pub error: Error,
    /// The buffer; `None` if the device was given up while it had it.
    pub buffer: Option<B>,
}

impl<B> From<Failed<B>> for Error {
    fn from(failed: Failed<B>) -> Self {
        failed.error
    }
}

/// What an interrupt was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Causes {
    /// The device has used requests; their tasks were woken.
    pub used: bool,
    /// The configuration has changed, or the device needs a reset: look at
    /// [`Device::needs_reset`](crate::Device::needs_reset) and [`Device::config_changed`](crate::Device::config_changed).
    pub configuration: bool,
}

impl<S: SharedQueue> AsyncQueue<S> {
    /// Shares a queue between tasks. Each request is committed as it is submitted.
    pub fn new(queue: S) -> Self {
        Self { queue, commits: true }
    }

    /// Shares a queue between tasks, and leaves it to the executor to [`commit`](AsyncQueue::commit): when no task is
    /// ready, say. Then the requests of many tasks are one batch with one notification. Without it nothing happens.
    pub fn with_batches(queue: S) -> Self {
        Self { queue, commits: false }
    }

    /// The queue itself.
    pub fn queue(&self) -> &S {
        &self.queue
    }

    /// The queue, no longer shared.
    pub fn into_inner(self) -> S {
        self.queue
    }

    /// Lets the device see what tasks have submitted. Returns whether it was notified.
    pub fn commit(&self) -> bool {
        self.queue.with(Queue::commit)
    }

    /// Reads from `sector` on, as many sectors as the buffer is long, in one request. Gives the buffer back.
    pub fn read(&self, sector: u64, buffer: S::Buffer) -> Transfer<'_, S> {
        Transfer::new(self, Operation::Read, sector, buffer)
    }

    /// Writes from `sector` on, as many sectors as the buffer is long, in one request. Gives the buffer back.
    pub fn write(&self, sector: u64, buffer: S::Buffer) -> Transfer<'_, S> {
        Transfer::new(self, Operation::Write, sector, buffer)
    }

    /// Makes writes safe from a power cut that had completed when this was first polled. If the device is reset before
    /// it ends, it ends with [`Error::FlushInDoubt`].
    pub fn flush(&self) -> Flush<'_, S> {
        Flush(Request::new(self, Operation::Flush, 0, None))
    }

    /// Takes note of all that the device has used, and wakes the tasks. Wakers are called outside of the lock.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] when the device broke the rules: it must be reset.
    pub fn process(&self) -> Result<(), Error> {
        if self.queue.with(Queue::take_ended) {
            let rest = Unwoken(&self.queue);
            let mut from = 0;
            while let Some((slot, waker)) = self.queue.with(|queue| queue.wake_from(from)) {
                from = slot + 1;
                waker.wake();
            }
            core::mem::forget(rest);
        }
        loop {
            match self.queue.with(next_waker)? {
                Next::Wake(waker) => waker.wake(),
                Next::Again => {}
                Next::Nothing(waiter) => {
                    wake(waiter);
                    return Ok(());
                }
            }
        }
    }

    /// The whole of an interrupt handler: acknowledges, wakes the tasks whose requests were used, and tells whether the
    /// configuration has changed. `None` if the interrupt was not this device's.
    ///
    /// # Errors
    ///
    /// Those of [`process`](AsyncQueue::process).
    pub fn handle_interrupt(&self, interrupt: &impl Interrupt) -> Result<Option<Causes>, Error> {
        let causes = interrupt.acknowledge();
        if causes.is_empty() {
            return Ok(None);
        }
        let used = causes.contains(InterruptStatus::USED_BUFFER);
        if used {
            self.process()?;
        }
        Ok(Some(Causes { used, configuration: causes.contains(InterruptStatus::CONFIGURATION_CHANGE) }))
    }

    /// Wakes the task that has waited longest, if there is room for its request.
    fn call_waiter(&self) {
        wake(self.queue.with(Queue::next_waiter));
    }
}

/// Tasks that are to be woken. Should the waker of one unwind, the next call wakes the others.
struct Unwoken<'q, S: SharedQueue>(&'q S);

impl<S: SharedQueue> Drop for Unwoken<'_, S> {
    fn drop(&mut self) {
        self.0.with(Queue::set_ended);
    }
}

/// Wakes a task, outside of the lock.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// What [`AsyncQueue::process`] does next, outside of the lock.
enum Next {
    Wake(Waker),
    Again,
    /// There is no more but a task in line, for whose request there may be room now.
    Nothing(Option<Waker>),
}

fn next_waker<M: Memory, N: Notifier, B: Buffer, R: RingFormat>(queue: &mut Queue<M, N, B, R>) -> Result<Next, Error> {
    let Some((token, owner)) = queue.notice()? else {
        return Ok(Next::Nothing(queue.next_waiter()));
    };
    if owner == Owner::Task {
        return Ok(match queue.pending(token).and_then(|pending| pending.waker.take()) {
            Some(waker) => Next::Wake(waker),
            None => Next::Again,
        });
    }
    queue.keep(token, owner);
    Ok(Next::Again)
}

/// How a request of a task ended: with its first sector, and its buffer, if it has one.
type Ended<B> = Result<(u64, Option<B>), Failed<B>>;

/// How a request of a task ended that was made with a buffer.
pub(crate) type Completed<B> = Result<(u64, B), Failed<B>>;

/// A request of a task.
pub(crate) struct Request<'a, S: SharedQueue> {
    shared: &'a AsyncQueue<S>,
    operation: Operation,
    sector: u64,
    state: State<S::Buffer>,
    /// Its place in line, which it leaves when it is submitted or dropped.
    ticket: Option<Ticket>,
}

enum State<B> {
    /// Not submitted yet; perhaps in line.
    New {
        buffer: Option<B>,
        /// How often the device had been reset when it was first polled.
        resets: Option<u32>,
    },
    Submitted(Token),
    Ended,
}

// Nothing in it is pinned: not the buffer, which is given away by value, and not the place in line, which is a number.
impl<S: SharedQueue> Unpin for Request<'_, S> {}

impl<'a, S: SharedQueue> Request<'a, S> {
    pub(crate) fn new(shared: &'a AsyncQueue<S>, operation: Operation, sector: u64, buffer: Option<S::Buffer>) -> Self {
        Self { shared, operation, sector, state: State::New { buffer, resets: None }, ticket: None }
    }

    /// Polls a request that was made with a buffer.
    pub(crate) fn poll_with_buffer(&mut self, context: &Context<'_>) -> Poll<Completed<S::Buffer>> {
        self.poll(Ranges::NONE, context).map(|result| match result? {
            (sector, Some(buffer)) => Ok((sector, buffer)),
            // A request that was submitted with a buffer ends with it, unless it fails.
            (_, None) => Err(Failed { error: Error::Empty, buffer: None }),
        })
    }

    fn poll(&mut self, ranges: Ranges<'_>, context: &Context<'_>) -> Poll<Ended<S::Buffer>> {
        match self.state {
            State::New { .. } => self.submit(ranges, context),
            State::Submitted(token) => self.look(token, context),
            State::Ended => Poll::Ready(Err(Failed { error: Error::Empty, buffer: None })),
        }
    }

    /// Submits the request, or lines up.
    fn submit(&mut self, ranges: Ranges<'_>, context: &Context<'_>) -> Poll<Ended<S::Buffer>> {
        // Cloned, called and dropped outside of the lock, as it is not our code that does it. Should it unwind, the state
        // is what it was, or is already what it has become.
        let mut waker = Some(context.waker().clone());
        let (buffer, mut resets) = match core::mem::replace(&mut self.state, State::Ended) {
            State::New { buffer, resets } => (buffer, resets),
            State::Submitted(_) | State::Ended => (None, None),
        };
        let (operation, sector, commits) = (self.operation, self.sector, self.shared.commits);
        let (place, unused) = (&mut self.ticket, &mut waker);
        let (submitted, left, next) = self.shared.queue.with(|queue| {
            let now = queue.epoch().resets();
            let was_reset = *resets.get_or_insert(now) != now && !queue.is_stopped();
            let submitted = if operation == Operation::Flush && was_reset {
                // It is to cover what had completed when it was first polled, and that may be lost by now.
                Err(Failed { error: Error::FlushInDoubt, buffer })
            } else if !queue.waiters().must_wait(*place) {
                queue.submit_task(operation, sector, buffer, ranges)
            } else {
                Err(Failed { error: Error::QueueFull, buffer })
            };
            let left = match &submitted {
                Err(failed) if failed.error == Error::QueueFull => {
                    match unused.take().map(|waker| queue.waiters().join(place, waker)) {
                        Some(Ok(old)) => old,
                        // No place in line: come again at once.
                        Some(Err(waker)) => unused.replace(waker),
                        None => None,
                    }
                }
                Ok(token) => {
                    if let Some(pending) = queue.pending(*token) {
                        pending.waker = unused.take();
                    }
                    if commits {
                        queue.commit();
                    }
                    place.take().and_then(|ticket| queue.waiters().leave(ticket))
                }
                Err(_) => place.take().and_then(|ticket| queue.waiters().leave(ticket)),
            };
            // The next one in line may find room as well.
            let next = if place.is_none() { queue.next_waiter() } else { None };
            (submitted, left, next)
        });
        let result = match submitted {
            Ok(token) => {
                self.state = State::Submitted(token);
                Poll::Pending
            }
            Err(Failed { error: Error::QueueFull, buffer }) => {
                self.state = State::New { buffer, resets };
                Poll::Pending
            }
            Err(failed) => Poll::Ready(Err(failed)),
        };
        drop(left);
        wake(next);
        if matches!(self.state, State::New { .. }) && self.ticket.is_none() {
            wake(waker);
        }
        result
    }

    /// Looks whether the request has ended.
    fn look(&mut self, token: Token, context: &Context<'_>) -> Poll<Ended<S::Buffer>> {
        let (mut ended, next) = self.shared.queue.with(|queue| (queue.take_if_ended(token), queue.next_waiter()));
        if ended.is_some() {
            self.state = State::Ended;
        }
        wake(next);
        if ended.is_none() {
            // Cloned and dropped outside of the lock.
            let mut waker = Some(context.waker().clone());
            ended = self.shared.queue.with(|queue| {
                let ended = queue.take_if_ended(token);
                if let (None, Some(pending)) = (&ended, queue.pending(token)) {
                    core::mem::swap(&mut pending.waker, &mut waker);
                }
                ended
            });
        }
        let Some((completion, _)) = ended else { return Poll::Pending };
        self.state = State::Ended;
        Poll::Ready(match completion.result {
            Ok(()) => Ok((completion.sector, completion.buffer)),
            Err(error) => Err(Failed { error, buffer: completion.buffer }),
        })
    }
}

impl<S: SharedQueue> Drop for Request<'_, S> {
    fn drop(&mut self) {
        // Wakers and buffers are dropped outside of the lock.
        if let Some(ticket) = self.ticket.take() {
            drop(self.shared.queue.with(|queue| queue.waiters().leave(ticket)));
            self.shared.call_waiter();
        }
        if let State::Submitted(token) = self.state {
            let left = self.shared.queue.with(|queue| match queue.pending(token) {
                Some(pending) if pending.ending == Ending::InFlight => {
                    pending.owner = Owner::Nobody;
                    (pending.waker.take(), None)
                }
                Some(pending) => (pending.waker.take(), queue.take(token)),
                None => (None, None),
            });
            drop(left);
            self.shared.call_waiter();
        }
    }
}

/// A read or write of a task, or another request that gives its buffer back. Made by [`AsyncQueue::read`],
/// [`AsyncQueue::write`], [`AsyncQueue::device_id`], [`AsyncQueue::lifetime`] and [`AsyncQueue::report_zones`].
///
/// # Errors
///
/// [`Failed`] with the error and the buffer. Misuse as with [`Queue::submit_read`]; a full queue is waited for.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Transfer<'a, S: SharedQueue>(Request<'a, S>);

impl<'a, S: SharedQueue> Transfer<'a, S> {
    pub(crate) fn new(shared: &'a AsyncQueue<S>, operation: Operation, sector: u64, buffer: S::Buffer) -> Self {
        Self(Request::new(shared, operation, sector, Some(buffer)))
    }
}

impl<S: SharedQueue> Future for Transfer<'_, S> {
    type Output = Result<S::Buffer, Failed<S::Buffer>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_with_buffer(context).map(|result| result.map(|(_, buffer)| buffer))
    }
}

/// A flush of a task. Made by [`AsyncQueue::flush`].
///
/// # Errors
///
/// Those of [`Queue::submit_flush`] but [`Error::QueueFull`]; [`Error::Device`]; [`Error::FlushInDoubt`] when a reset
/// cut it off.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Flush<'a, S: SharedQueue>(Request<'a, S>);

impl<S: SharedQueue> Future for Flush<'_, S> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(Ranges::NONE, context).map(|result| result.map(drop).map_err(Error::from))
    }
}

/// A request of a task that moves no data: for ranges ([`AsyncQueue::discard`], [`AsyncQueue::write_zeroes`],
/// [`AsyncQueue::secure_erase`]), or for zones ([`AsyncQueue::zone_action`], [`AsyncQueue::reset_all_zones`]).
///
/// # Errors
///
/// Those of the calls of [`Queue`] that submit such requests, but [`Error::QueueFull`]: a full queue is waited for.
/// [`Error::Device`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Command<'a, S: SharedQueue> {
    request: Request<'a, S>,
    ranges: Ranges<'a>,
}

impl<'a, S: SharedQueue> Command<'a, S> {
    pub(crate) fn new(shared: &'a AsyncQueue<S>, operation: Operation, sector: u64, ranges: Ranges<'a>) -> Self {
        Self { request: Request::new(shared, operation, sector, None), ranges }
    }
}

impl<S: SharedQueue> Future for Command<'_, S> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ranges = self.ranges;
        self.request.poll(ranges, context).map(|result| result.map(drop).map_err(Error::from))
    }
}
