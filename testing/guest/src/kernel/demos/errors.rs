//! A disk on which a read, a write and each flush fail: the request that failed says so, with its sector, and the
//! others of the same batch succeed.

use alloc::{boxed::Box, vec, vec::Vec};

use anyhow::{Context, ensure};
use testing_guest::{
    Arguments, Report,
    faults::{BAD_READ_SECTOR, BAD_WRITE_SECTOR},
    pattern,
};
use virtio_blk::{Completion, DeviceError, Error, Operation, Options};
use virtio_transport::Wait;

use crate::kernel::{
    devices::{self, DiskOwning},
    interrupts::asleep,
};

/// How many requests are in flight at once.
const BATCH: u64 = 16;

type Buffer = Box<[u8]>;

/// Makes each kind of request fail, and reports it.
pub(super) fn run(arguments: &Arguments, device_tree: &[u8]) -> anyhow::Result<()> {
    let places = devices::find_disks(device_tree)?;
    let place = places.first().context("the machine has no disk")?;
    let mut disk: DiskOwning<Buffer> = place.open_with(&Options::default())?;
    place.use_interrupts(&mut disk)?;
    report!(Report::Disk { address: place.address(), capacity_sectors: disk.info().capacity_sectors });

    // Neighbours that do not touch: the device may turn those that do into one request of its own, which fails as one.
    let around = |bad: u64| (0..BATCH).map(move |index| bad - BATCH + 2 * index);
    let contents = |sector: u64| pattern::bytes(arguments.seed ^ sector, 512).into_boxed_slice();

    for sector in around(BAD_READ_SECTOR) {
        submitted(disk.queue().submit_read(sector, vec![0; 512].into()))?;
    }
    expect(&finish(&mut disk)?, Operation::Read, BAD_READ_SECTOR)?;

    for sector in around(BAD_WRITE_SECTOR) {
        submitted(disk.queue().submit_write(sector, contents(sector)))?;
    }
    expect(&finish(&mut disk)?, Operation::Write, BAD_WRITE_SECTOR)?;

    // What was written in that batch has arrived, and a flush fails for itself alone.
    for sector in around(BAD_WRITE_SECTOR) {
        submitted(disk.queue().submit_read(sector, vec![0xee; 512].into()))?;
    }
    disk.queue().submit_flush().context("submitting")?;
    let read = finish(&mut disk)?;
    expect(&read, Operation::Flush, 0)?;
    for completion in read.iter().filter(|completion| completion.operation == Operation::Read) {
        let sector = completion.sector;
        let wanted = if sector == BAD_WRITE_SECTOR { vec![0; 512].into() } else { contents(sector) };
        ensure!(completion.buffer.as_ref() == Some(&wanted), "sector {sector} does not hold what was written");
    }

    // A call that waits names the request that failed, too, and the disk goes on.
    let failed = disk.read(BAD_READ_SECTOR, &mut [0; 512], &mut asleep());
    ensure!(failed == Err(failure(Operation::Read, BAD_READ_SECTOR)), "a blocking read: {failed:?}");
    disk.read(BAD_READ_SECTOR + 1, &mut [0; 512], &mut asleep()).context("the sector behind the bad one")?;
    Ok(())
}

/// The error of a request that the device could not do.
fn failure(operation: Operation, sector: u64) -> Error {
    Error::Device { operation, sector, status: DeviceError::Io }
}

/// Whether a request was submitted; if not, its buffer is not needed any more.
fn submitted<T>(result: Result<T, virtio_blk::Rejected<Buffer>>) -> anyhow::Result<()> {
    result.map(drop).map_err(|rejected| rejected.error).context("submitting")
}

/// Lets the device do what was submitted, and waits for all of it.
fn finish(disk: &mut DiskOwning<Buffer>) -> anyhow::Result<Vec<Completion<Buffer>>> {
    let mut wait = asleep();
    let mut completions = Vec::new();
    let queue = disk.queue();
    queue.commit();
    loop {
        while let Some(completion) = queue.poll()? {
            completions.push(completion);
        }
        if queue.in_flight() == 0 {
            return Ok(completions);
        }
        wait.wait().context("waiting for the device")?;
    }
}

/// Checks that one request failed, and no other.
fn expect(completions: &[Completion<Buffer>], operation: Operation, sector: u64) -> anyhow::Result<()> {
    let mut failed = 0;
    for completion in completions {
        let bad = (completion.operation, completion.sector) == (operation, sector);
        let wanted = if bad { Err(failure(operation, sector)) } else { Ok(()) };
        ensure!(
            completion.result == wanted,
            "the {} of sector {}: {:?}, expected {wanted:?}",
            completion.operation,
            completion.sector,
            completion.result
        );
        failed += u32::from(bad);
    }
    ensure!(failed == 1, "{failed} requests failed, expected the {operation} of sector {sector}");
    let succeeded = completions.len() as u32 - failed;
    println!("the {operation} of sector {sector} failed, {succeeded} others of its batch succeeded");
    report!(Report::RequestFailed { operation: alloc::format!("{operation}"), sector, succeeded });
    Ok(())
}
