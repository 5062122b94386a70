//! Bytes that lie anywhere: tasks that write parts of the same sectors, the end of the disk, and a long read.

use alloc::{string::String, sync::Arc, vec, vec::Vec};

use anyhow::{Context, bail, ensure};
use testing_guest::{
    pattern,
    slices::{THREADS, region},
};

use super::{
    mini::{masked::Masked, threads},
    traits::{constants::LinuxErrno, device_interface::BlockDevice},
};

/// How many bytes a task writes at a time. Five tasks write to each sector, and most parts are in two.
const PART: usize = 100;
/// How many parts each task writes.
const PARTS: usize = 20;
/// How much is read at a time by who reads a lot, and where that starts: nothing is aligned.
const READ_BYTES: usize = 64 << 10;
const START: usize = 1;
/// How much is read.
pub(super) const LONG_BYTES: usize = 32 << 20;
/// How often is flushed.
pub(super) const FLUSHES: u32 = 3;

fn problem(errno: LinuxErrno) -> anyhow::Error {
    anyhow::anyhow!("{errno:?}")
}

/// All tasks write parts of the same sectors at once. None of them is lost.
pub(super) fn interleaved(disk: &'static dyn BlockDevice, seed: u64) -> anyhow::Result<()> {
    let start = region(0) as usize * 512 + 77;
    let wanted = Arc::new(pattern::bytes(seed, THREADS as usize * PARTS * PART));
    let problems = Arc::new(Masked::new(Vec::<String>::new()));
    for task in 0..THREADS as usize {
        let (wanted, problems) = (wanted.clone(), problems.clone());
        threads::spawn(move || {
            for (index, part) in wanted.chunks(PART).enumerate().skip(task).step_by(THREADS as usize) {
                let written = disk.write(part, start + index * PART);
                if written != Ok(PART) {
                    problems.with(|problems| problems.push(alloc::format!("part {index}: {written:?}")));
                }
            }
        })?;
    }
    threads::run()?;
    problems.with(|problems| if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("; ")) })?;
    let mut found = vec![0; wanted.len()];
    ensure!(disk.read(&mut found, start) == Ok(wanted.len()), "the parts cannot be read");
    let differs = found.iter().zip(wanted.iter()).position(|(found, wanted)| found != wanted);
    ensure!(differs.is_none(), "part {} was lost", differs.unwrap_or(0) / PART);
    Ok(())
}

/// At the end of the disk there is less than was asked for, and behind it nothing.
pub(super) fn end(disk: &dyn BlockDevice) -> anyhow::Result<()> {
    let mut buffer = vec![0; 700];
    let size = disk.size();
    let found = [disk.read(&mut buffer, size - 300), disk.read(&mut buffer, size), disk.write(&buffer, size)];
    ensure!(found == [Ok(300), Ok(0), Err(LinuxErrno::ENOSPC)], "at the end of the disk: {found:?}");
    Ok(())
}

/// Reads a lot, as someone who knows nothing of sectors.
pub(super) fn long_read(disk: &dyn BlockDevice) -> anyhow::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = START;
    while offset < START + LONG_BYTES {
        let bytes = disk.read(&mut buffer, offset).map_err(problem).with_context(|| alloc::format!("byte {offset}"))?;
        ensure!(bytes > 0, "the disk ends at byte {offset}");
        offset += bytes;
    }
    (0..FLUSHES).try_for_each(|_| disk.flush().map_err(problem))
}
