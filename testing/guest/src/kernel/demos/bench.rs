//! What a request costs: this driver and the crate `virtio-drivers`, one after the other on the same disk, in the same
//! program. To be run under `-icount shift=0`, where the processor's counter of instructions is exact.

use alloc::{boxed::Box, vec, vec::Vec};
use core::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    task::{Context as TaskContext, Poll, Waker},
};

use anyhow::{Context, ensure};
use riscv::register::instret;
use testing_guest::{Arguments, Report};
use virtio_blk::{AsyncQueue, Disk, Options, Queue};
use virtio_transport::{Interrupt, MemoryMapped, Mmio, MmioNotifier};

use super::rival;
use crate::kernel::{
    devices::{self, DiskPlace},
    memory::KernelMemory,
    time::patiently,
};

/// The length of each read.
const READ_BYTES: usize = 4096;
/// How many sectors that is.
const READ_SECTORS: u64 = 8;
/// How many requests a row of the table is the average of.
const REQUESTS: u32 = 4096;
/// How many requests the interrupts are counted over: the ring's 16-bit indices wrap 15 times.
const INTERRUPT_REQUESTS: u32 = 1_000_000;
/// How many requests are in flight while interrupts are counted, and how many are to be done at an interrupt.
const INTERRUPT_DEPTH: u16 = 64;
const INTERRUPT_BATCH: u16 = 32;

type Handle = virtio_blk::Device<Mmio<MemoryMapped>, KernelMemory>;
type OwnedQueue = Queue<KernelMemory, MmioNotifier<MemoryMapped>, Box<[u8]>>;

/// Counts instructions, less those that counting takes.
pub(super) struct Counter {
    overhead: usize,
}

impl Counter {
    fn new() -> Self {
        let mut counter = Self { overhead: 0 };
        counter.overhead = (0..16).map(|_| counter.of(|| ()).0).min().unwrap_or(0);
        counter
    }

    /// The number of instructions that `work` takes, and what it returns.
    #[inline(always)]
    pub(super) fn of<R>(&self, work: impl FnOnce() -> R) -> (usize, R) {
        let start = instret::read();
        let result = work();
        let end = instret::read();
        (end.wrapping_sub(start).saturating_sub(self.overhead), result)
    }
}

/// What was counted over many requests.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) requests: u32,
    pub(super) submit: usize,
    pub(super) complete: usize,
    pub(super) notifications: u32,
}

/// Runs every comparison on the first disk.
pub(super) fn run(_arguments: &Arguments, device_tree: &[u8]) -> anyhow::Result<()> {
    let places = devices::find_disks(device_tree)?;
    let place = places.first().context("no disk to measure")?;
    let counter = Counter::new();
    for depth in [1, 16, 64, 256] {
        show("this driver", depth, &polled(place, &counter, depth)?);
        if depth <= rival::MAX_DEPTH {
            show("virtio-drivers", depth, &rival::polled(place, &counter, depth, REQUESTS)?);
        }
    }
    for depth in [1, 16] {
        show("this driver, async", depth, &asynchronous(place, &counter, depth)?);
    }
    interrupts(place)
}

/// Prints a row of the table.
fn show(driver: &str, depth: u16, sums: &Sums) {
    let per_request = |count: usize| count as f64 / f64::from(sums.requests);
    let (submit, complete) = (per_request(sums.submit), per_request(sums.complete));
    let notifications = per_request(sums.notifications as usize);
    report!(Report::Cost {
        driver: driver.into(),
        depth: depth.into(),
        submit_instructions: submit,
        complete_instructions: complete,
        notifications,
    });
}

/// Opens the disk with a queue of its own for each measurement, and with the transport of a kernel that has but one.
fn open(place: &DiskPlace<'_>) -> anyhow::Result<(Handle, OwnedQueue)> {
    let options = Options { queue_size: 256, segments: 1, ..Options::default() };
    let device = place.place().mmio()?;
    let disk: Disk<_, _, Box<[u8]>> = Disk::open(device, KernelMemory, &options, &mut patiently())?;
    Ok(disk.split())
}

fn buffers(count: u16) -> Vec<Box<[u8]>> {
    (0..count).map(|_| vec![0; READ_BYTES].into_boxed_slice()).collect()
}

/// Submits `depth` reads, commits them, and takes them back, again and again.
fn polled(place: &DiskPlace<'_>, counter: &Counter, depth: u16) -> anyhow::Result<Sums> {
    let (handle, mut queue) = open(place)?;
    let mut free = buffers(depth);
    let mut sums = Sums::default();
    while sums.requests < REQUESTS {
        let mut sector = 0;
        while let Some(buffer) = free.pop() {
            let (cost, submitted) = counter.of(|| queue.submit_read(sector, buffer));
            submitted.map_err(|rejected| rejected.error)?;
            sums.submit += cost;
            sector += READ_SECTORS;
        }
        ensure!(queue.in_flight() == depth, "{} of {depth} are in flight", queue.in_flight());
        let (cost, notified) = counter.of(|| queue.commit());
        sums.submit += cost;
        sums.notifications += u32::from(notified);
        while free.len() < usize::from(depth) {
            // Looks that find nothing are waiting, and are not counted; neither are they for the other driver.
            if let (cost, Some(completion)) = counter.of(|| queue.poll()).transpose()? {
                completion.result?;
                sums.complete += cost;
                sums.requests += 1;
                free.extend(completion.buffer);
            }
        }
    }
    stop(handle, queue)?;
    Ok(sums)
}

/// The same with futures, polled by hand: what an executor does besides is its own.
fn asynchronous(place: &DiskPlace<'_>, counter: &Counter, depth: u16) -> anyhow::Result<Sums> {
    let (handle, queue) = open(place)?;
    let shared = AsyncQueue::with_batches(RefCell::new(queue));
    let mut context = TaskContext::from_waker(Waker::noop());
    let mut free = buffers(depth);
    let mut sums = Sums::default();
    while sums.requests < REQUESTS {
        let mut reads: Vec<_> =
            free.drain(..).zip(0..).map(|(buffer, n)| shared.read(n * READ_SECTORS, buffer)).collect();
        for read in &mut reads {
            let (cost, poll) = counter.of(|| Pin::new(read).poll(&mut context));
            ensure!(poll.is_pending(), "a read was done before it was committed");
            sums.submit += cost;
        }
        let (cost, notified) = counter.of(|| shared.commit());
        sums.submit += cost;
        sums.notifications += u32::from(notified);
        for mut read in reads {
            loop {
                let (noticing, processed) = counter.of(|| shared.process());
                processed?;
                if let (taking, Poll::Ready(done)) = counter.of(|| Pin::new(&mut read).poll(&mut context)) {
                    free.push(done.map_err(|failed| failed.error)?);
                    sums.complete += noticing + taking;
                    sums.requests += 1;
                    break;
                }
            }
        }
    }
    stop(handle, shared.into_inner().into_inner())?;
    Ok(sums)
}

/// Keeps many requests in flight, looks for completions at interrupts only, and counts those.
fn interrupts(place: &DiskPlace<'_>) -> anyhow::Result<()> {
    let (handle, mut queue) = open(place)?;
    let interrupt = handle.interrupt().context("the device runs")?;
    queue.use_interrupts(INTERRUPT_BATCH);
    let (mut submitted, mut done, mut count, mut notifications) = (0, 0, 0_u32, 0_u32);
    let mut free = buffers(INTERRUPT_DEPTH);
    while done < INTERRUPT_REQUESTS {
        while submitted < INTERRUPT_REQUESTS {
            let Some(buffer) = free.pop() else { break };
            let sector = u64::from(submitted % 1024) * READ_SECTORS;
            queue.submit_read(sector, buffer).map_err(|rejected| rejected.error)?;
            submitted += 1;
        }
        notifications += u32::from(queue.commit());
        let mut patience = patiently();
        while interrupt.acknowledge().is_empty() {
            // One that is lost ends here.
            virtio_transport::Wait::wait(&mut patience).context("waiting for an interrupt")?;
        }
        count += 1;
        while let Some(completion) = queue.poll()? {
            completion.result?;
            free.extend(completion.buffer);
            done += 1;
        }
    }
    report!(Report::Interrupts { depth: INTERRUPT_DEPTH.into(), requests: done, interrupts: count, notifications });
    stop(handle, queue)
}

/// Resets the device and frees the queue.
fn stop(mut handle: Handle, mut queue: OwnedQueue) -> anyhow::Result<()> {
    handle.shutdown(&mut [&mut queue], &mut patiently())?;
    Ok(())
}

/// Lets a count go along with what was counted.
trait Transpose<V, E> {
    fn transpose(self) -> Result<(usize, V), E>;
}

impl<V, E> Transpose<V, E> for (usize, Result<V, E>) {
    fn transpose(self) -> Result<(usize, V), E> {
        Ok((self.0, self.1?))
    }
}
