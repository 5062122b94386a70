//! `--demo async`: four harts, each with a queue and 256 tasks. What they last read is what is in the image.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use testing_guest::{Report, checksum};

use super::{blank, kernel, raw};
use crate::{
    commands::run::{Options, seed},
    qemu::Machine,
    session,
};

/// How many harts the guest wants, and queues of the disk.
const HARTS: usize = 4;
/// How many entries a queue has: all of them are in use at once.
const DEPTH: u16 = 256;
/// The length of a block.
const BLOCK_BYTES: usize = 4096;
/// The size of the disk.
const DISK_BYTES: u64 = 32 << 20;

/// Runs and checks it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let kernel = kernel()?;
    let image = blank("async.img", DISK_BYTES)?;
    let mut properties = options.properties();
    properties.push(format!("num-queues={HARTS}"));
    let machine = Machine {
        kernel: &kernel,
        arguments: &options.arguments(seed()),
        drive: raw(&image),
        transport: options.transport,
        properties: &properties,
        extra: &["-smp".into(), HARTS.to_string()],
    };
    let limit = options.limit(120 + 2 * u64::from(options.rounds));
    let (ending, observed) = session::observe(&machine, limit, options.verbose, |_| Ok(()))?;
    session::judge(&ending, &observed)?;
    check(&image, observed.reports())?;
    println!("the host finds what the guest read in the image {}", image.display());
    Ok(())
}

/// Compares what each hart read with what is in its part of the image.
fn check(image: &Path, reports: &[Report]) -> Result<()> {
    let contents = fs::read(image).with_context(|| format!("reading {}", image.display()))?;
    let mut queues = 0;
    let mut sum = 0_u64;
    for report in reports {
        let Report::Queue { queue, requests, dropped, depth, first_block, blocks, checksum, .. } = *report else {
            continue;
        };
        ensure!(requests > 0 && dropped > 0, "queue {queue}: {requests} requests and {dropped} dropped ones");
        ensure!(depth == DEPTH, "queue {queue}: {depth} requests were in flight at most, expected {DEPTH}");
        let found = sum_of(&contents, first_block, blocks).with_context(|| format!("queue {queue}"))?;
        ensure!(found == checksum, "queue {queue}: the guest read {checksum:016x}, in the image is {found:016x}");
        sum = sum.wrapping_add(found);
        queues += 1;
    }
    ensure!(queues == HARTS, "{queues} harts have reported, expected {HARTS}");
    let total = reports.iter().find_map(|report| match report {
        Report::Tasks { requests, interrupts, checksum } => Some((*requests, *interrupts, *checksum)),
        _ => None,
    });
    let (requests, interrupts, checksum) = total.context("the guest did not report the sum")?;
    ensure!(checksum == sum, "the guest's sum is {checksum:016x}, the host's {sum:016x}");
    ensure!(interrupts > 0 && interrupts <= requests, "{interrupts} interrupts for {requests} requests");
    Ok(())
}

/// The sum of the checksums of these blocks.
fn sum_of(contents: &[u8], first_block: u64, blocks: u64) -> Result<u64> {
    let mut sum = 0_u64;
    for number in first_block..first_block + blocks {
        let start = usize::try_from(number)? * BLOCK_BYTES;
        let block = contents.get(start..start + BLOCK_BYTES).context("a block behind the end of the image")?;
        sum = sum.wrapping_add(checksum(number, block));
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of one block for each hart, and the reports of a guest that has read it.
    fn case() -> (tempfile::NamedTempFile, Vec<Report>) {
        let image = tempfile::NamedTempFile::new().unwrap();
        let contents: Vec<u8> = (0..HARTS * BLOCK_BYTES).map(|index| (index / 100) as u8).collect();
        fs::write(image.path(), &contents).unwrap();
        let queue = |queue: u16| Report::Queue {
            queue,
            requests: 9,
            dropped: 1,
            notifications: 1,
            depth: DEPTH,
            first_block: queue.into(),
            blocks: 1,
            checksum: sum_of(&contents, queue.into(), 1).unwrap(),
        };
        let mut reports: Vec<Report> = (0..HARTS as u16).map(queue).collect();
        let checksum = sum_of(&contents, 0, HARTS as u64).unwrap();
        reports.push(Report::Tasks { requests: 36, interrupts: 5, checksum });
        (image, reports)
    }

    #[test]
    fn a_good_guest_is_good() {
        let (image, reports) = case();
        check(image.path(), &reports).unwrap();
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let (image, reports) = case();
        let mut contents = fs::read(image.path()).unwrap();
        contents[2 * BLOCK_BYTES + 17] ^= 4;
        fs::write(image.path(), contents).unwrap();
        let error = check(image.path(), &reports).unwrap_err().to_string();
        assert!(error.starts_with("queue 2: the guest read"), "{error}");
    }

    #[test]
    fn a_hart_that_is_missing_is_found() {
        let (image, mut reports) = case();
        reports.remove(1);
        let error = check(image.path(), &reports).unwrap_err().to_string();
        assert!(error.contains("3 harts have reported"), "{error}");
    }
}
