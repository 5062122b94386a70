//! One hart's share: a queue, an executor, and tasks that nobody else touches.

use alloc::vec::Vec;
use core::{
    cell::{Cell, RefCell},
    fmt, ptr,
};

use anyhow::Context;
use embassy_executor::raw::{Executor, TaskStorage};
use testing_guest::Report;
use virtio_blk::AsyncQueue;

use super::{
    BLOCK_BYTES, BLOCKS, Outcome, TASKS, forever,
    page::{Page, Sheet},
    per_request,
    task::Task,
};
use crate::kernel::{devices::DiskQueue, harts, interrupts::Line, time::Deadline};

/// At how many finished requests the device shall interrupt.
const INTERRUPT_BATCH: u16 = 64;

/// What a hart is to do.
pub(super) struct Job {
    /// The number of its queue, and of its part of the disk.
    pub(super) number: u16,
    pub(super) queue: DiskQueue<Page>,
    pub(super) line: &'static Line,
    pub(super) seed: u64,
    pub(super) rounds: u32,
    /// The hart that is rung when this one is done.
    pub(super) boss: usize,
}

/// What the tasks of a hart share. No other hart has it, so no lock is in it.
pub(super) struct Shared {
    pub(super) disk: AsyncQueue<RefCell<DiskQueue<Page>>>,
    pub(super) seed: u64,
    pub(super) rounds: u32,
    pub(super) counts: RefCell<Counts>,
    /// What a block should hold, to compare it with.
    pub(super) wanted: RefCell<[u8; BLOCK_BYTES]>,
    running: Cell<u16>,
    failure: RefCell<Option<anyhow::Error>>,
}

/// What the tasks of a hart did, or those of all.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Requests that tasks have waited for to the end.
    pub(super) requests: u64,
    /// Requests that were dropped before.
    pub(super) dropped: u64,
    /// Dropped writes, and how many of their sectors hold the new contents, and how many the old.
    pub(super) dropped_writes: u64,
    pub(super) new_sectors: u64,
    pub(super) old_sectors: u64,
    /// Notifications of the device.
    pub(super) notifications: u64,
    /// The most requests that were in flight at once.
    pub(super) depth: u16,
    /// The first block, the number of blocks, and the sum of their checksums at the end.
    first_block: u64,
    blocks: u64,
    pub(super) checksum: u64,
}

impl Counts {
    /// Adds those of another hart.
    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.dropped += other.dropped;
        self.dropped_writes += other.dropped_writes;
        self.new_sectors += other.new_sectors;
        self.old_sectors += other.old_sectors;
        self.notifications += other.notifications;
        self.depth += other.depth;
        self.blocks += other.blocks;
        self.checksum = self.checksum.wrapping_add(other.checksum);
    }

    /// What the host is told.
    pub(super) fn report(&self, queue: u16) -> Report {
        Report::Queue {
            queue,
            requests: self.requests,
            dropped: self.dropped,
            notifications: self.notifications,
            depth: self.depth,
            first_block: self.first_block,
            blocks: self.blocks,
            checksum: self.checksum,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, dropped, dropped_writes, new_sectors, old_sectors, notifications, depth, .. } = self;
        write!(
            f,
            "{requests} requests, {depth} in flight at most; {notifications} notifications ({}); {dropped} more were \
             dropped, {dropped_writes} of them writes ({new_sectors} of their sectors happened, {old_sectors} did \
             not); checksum {:016x}",
            per_request(*notifications, *requests),
            self.checksum
        )
    }
}

impl Job {
    /// Runs all tasks to their end, and leaves what became of them.
    pub(super) fn run(self, outcome: &Outcome) {
        let (line, boss) = (self.line, self.boss);
        let result = self.run_tasks();
        line.leave_alone(harts::this());
        outcome.call_once(|| result);
        harts::ring(boss);
    }

    fn run_tasks(mut self) -> anyhow::Result<Counts> {
        self.queue.use_interrupts(INTERRUPT_BATCH);
        self.line.ring(harts::this());
        let first_block = u64::from(self.number) * u64::from(TASKS) * BLOCKS;
        let blocks = u64::from(TASKS) * BLOCKS;
        let shared = forever(Shared {
            // Requests of many tasks are one batch: committed below, when no task is ready.
            disk: AsyncQueue::with_batches(RefCell::new(self.queue)),
            seed: self.seed,
            rounds: self.rounds,
            counts: RefCell::new(Counts { first_block, blocks, ..Counts::default() }),
            wanted: RefCell::new([0; BLOCK_BYTES]),
            running: Cell::new(TASKS),
            failure: RefCell::new(None),
        });
        // What the executor calls when a task became ready: see `pender`.
        let executor = forever(Executor::new(ptr::without_provenance_mut(harts::this())));
        let sheets: &'static [Sheet] = Vec::leak((0..2 * TASKS).map(|_| Sheet::new()).collect());
        for (task, sheets) in (0..).zip(sheets.chunks_exact(2)) {
            let first_block = first_block + task * BLOCKS;
            let sheets = [sheets.first(), sheets.last()].map(|sheet| sheet.context("each task has two"));
            let [first, second] = sheets;
            spawn(executor, run(shared, Task::new(shared, first_block, [first?, second?])))?;
        }
        shared.run(executor)?;
        Ok(shared.counts.borrow().clone())
    }
}

impl Shared {
    /// Lets tasks and device run in turn, and sleeps when neither has anything for the other.
    fn run(&self, executor: &'static Executor) -> anyhow::Result<()> {
        while self.running.get() > 0 {
            let waited = harts::sleep_until_rung(Deadline::patient());
            waited
                .map_err(|_| anyhow::anyhow!("no interrupt for a long time, and {} tasks wait", self.running.get()))?;
            // SAFETY: only here, so never from inside of itself, and always on this hart.
            unsafe { executor.poll() };
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            // As long as tasks are ready, their requests join the batch.
            if !harts::is_rung() {
                self.commit();
                self.disk.process().context("taking what the device has done")?;
            }
        }
        Ok(())
    }

    fn commit(&self) {
        let notified = self.disk.commit();
        let in_flight = self.disk.queue().borrow().in_flight();
        let mut counts = self.counts.borrow_mut();
        counts.notifications += u64::from(notified);
        counts.depth = counts.depth.max(in_flight);
    }
}

/// A task, from its start to its end.
async fn run(shared: &'static Shared, task: Task) {
    if let Err(error) = task.run().await {
        shared.failure.borrow_mut().get_or_insert(error);
    }
    shared.running.set(shared.running.get() - 1);
}

/// Gives a task to an executor. Its memory is never freed.
fn spawn<F: Future + 'static>(executor: &'static Executor, task: F) -> anyhow::Result<()> {
    let storage: &'static TaskStorage<F> = forever(TaskStorage::new());
    let token = storage.spawn(|| task).map_err(|error| anyhow::anyhow!("starting a task: {error:?}"))?;
    executor.spawner().spawn(token);
    Ok(())
}

/// Called by an executor when it has something to do, with what it was made with: the number of its hart.
#[unsafe(export_name = "__pender")]
fn pender(hart: *mut ()) {
    harts::ring(hart.addr());
}
