//! Many tasks on several queues: each hart of the machine owns a queue of the disk and an executor, and runs its tasks
//! there. Harts share no lock on the way of a request.
//!
//! Tasks write, read and compare blocks of their own, drop some of their requests at random points, and find out
//! afterwards what became of those.

mod hart;
mod page;
mod task;

use alloc::{boxed::Box, vec::Vec};

use anyhow::{Context, ensure};
use spin::Once;
use testing_guest::{Arguments, Report};
use virtio_blk::Options;

use self::hart::{Counts, Job};
use crate::kernel::{
    devices, harts,
    time::{Deadline, Stopwatch},
};

/// How many harts work, each with a queue.
const HARTS: u16 = 4;
/// How many tasks a hart has: as many as its queue has entries, so that each can have a request in flight.
const TASKS: u16 = 256;
/// How many blocks a task has, and how long each is.
const BLOCKS: u64 = 4;
const BLOCK_BYTES: usize = 4096;
const BLOCK_SECTORS: u64 = BLOCK_BYTES as u64 / 512;

/// What became of a hart's work.
type Outcome = Once<anyhow::Result<Counts>>;

/// Runs the tasks, and reports what each hart did.
pub(super) fn run(arguments: &Arguments, device_tree: &[u8]) -> anyhow::Result<()> {
    let places = devices::find_disks(device_tree)?;
    let place = places.first().context("the machine has no disk")?;
    let harts: Vec<usize> = [harts::this()].into_iter().chain(harts::others(device_tree)?).collect();
    ensure!(harts.len() >= HARTS.into(), "{} harts in the machine, expected {HARTS} (QEMU: -smp {HARTS})", harts.len());

    let options = Options { queues: HARTS, queue_size: TASKS, waiters: 2 * TASKS, segments: 1, ..Options::default() };
    let harts = harts.get(..HARTS.into()).context("that many were counted")?;
    let (device, queues) = place.open_queues(&options, harts)?;
    let interrupts = place.attach(&device)?;
    let capacity_sectors = device.info().capacity_sectors;
    let blocks = u64::from(HARTS) * u64::from(TASKS) * BLOCKS;
    ensure!(
        capacity_sectors >= blocks * BLOCK_SECTORS,
        "the disk has {capacity_sectors} sectors, expected {} at least",
        blocks * BLOCK_SECTORS
    );
    report!(Report::Disk { address: place.address(), capacity_sectors });
    println!("{HARTS} harts, a queue of {TASKS} entries each; {} tasks", HARTS * TASKS);

    let watch = Stopwatch::start();
    let outcomes: &'static [Outcome] = Vec::leak((0..HARTS).map(|_| Once::new()).collect());
    let mut mine = None;
    for (((number, queue), &hart), outcome) in (0..).zip(queues).zip(harts).zip(outcomes) {
        let line = interrupts.queue(number).context("an interrupt for the queue")?;
        let job = Job { number, queue, line, seed: arguments.seed, rounds: arguments.rounds, boss: harts::this() };
        if hart == harts::this() {
            mine = Some((job, outcome));
        } else {
            harts::start(hart, move || job.run(outcome))?;
        }
    }
    // The others run by now. This hart's share comes with the handling of the interrupts of all.
    let (job, outcome) = mine.context("this hart is one of them")?;
    job.run(outcome);
    while !outcomes.iter().all(Once::is_completed) {
        harts::sleep_until_rung(Deadline::patient()).map_err(|_| anyhow::anyhow!("a hart has not finished in time"))?;
    }

    let mut total = Counts::default();
    for (queue, outcome) in (0..).zip(outcomes) {
        let counts = outcome.get().context("it was there")?;
        let counts = counts.as_ref().map_err(|error| anyhow::anyhow!("queue {queue}: {error:#}"))?;
        println!("queue {queue}: {counts}");
        report!(counts.report(queue));
        total.add(counts);
    }
    for queue in 0..HARTS {
        let used = interrupts.queue(queue).map_or(0, |line| line.used());
        ensure!(used > 0, "queue {queue} has finished without a single interrupt");
    }
    let interrupts = interrupts.used();
    println!("in all: {total}");
    println!(
        "{interrupts} interrupts ({}) and {} signals between harts ({}), in {} ms",
        per_request(interrupts, total.requests),
        harts::signals(),
        per_request(harts::signals(), total.requests),
        watch.elapsed().as_millis()
    );
    report!(Report::Tasks { requests: total.requests, interrupts, checksum: total.checksum });
    Ok(())
}

/// A ratio as text for people.
fn per_request(count: u64, requests: u64) -> alloc::string::String {
    let requests = requests.max(1);
    let thousandths = (count * 1000 + requests / 2) / requests;
    alloc::format!("{}.{:03} a request", thousandths / 1000, thousandths % 1000)
}

/// Forgets a value for good, to have it for as long as the machine runs.
fn forever<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}
