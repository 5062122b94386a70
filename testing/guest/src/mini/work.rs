//! What threads do with a disk, all of them at once: files on a volume of their own, files on a volume that all of them
//! use, and requests of many sectors.

use alloc::{format, string::String, sync::Arc, vec, vec::Vec};

use anyhow::{Context, bail, ensure};
use embedded_sdmmc::Mode;
use sha2::{Digest, Sha256};
use testing_guest::{
    Report, hex, pattern,
    slices::{File, REGION_SECTORS, SLICE_SECTORS, THREADS, own_files, region, region_seed, shared_files, slice},
};

use super::{
    masked::Masked,
    sleep_lock::SleepLock,
    threads,
    volume::{Sectors, Slice, Volume},
};

/// How many bytes are written or read by one call: no whole number of sectors.
const CHUNK_BYTES: usize = 3000;
/// How many sectors a large request has, and how many one of those that read it back.
const LARGE_SECTORS: u64 = 64;
const OTHER_SECTORS: u64 = 96;
/// Where the buffer of large requests starts in a block of the heap: aligned to nothing.
const ODD: usize = 13;

/// Runs the threads to their end.
pub(crate) fn run(disk: &'static dyn Sectors, seed: u64) -> anyhow::Result<()> {
    let problems = Arc::new(Masked::new(Vec::<String>::new()));
    let shared = Arc::new(SleepLock::new(None));
    for number in 0..THREADS {
        let (problems, shared) = (problems.clone(), shared.clone());
        threads::spawn(move || {
            if let Err(error) = one(disk, number, seed, &shared) {
                problems.with(|problems| problems.push(format!("thread {number}: {error:#}")));
            }
        })?;
    }
    threads::run()?;
    match problems.with(core::mem::take).as_slice() {
        [] => Ok(()),
        problems => bail!("{}", problems.join("; ")),
    }
}

/// What one thread does.
fn one(disk: &'static dyn Sectors, number: u64, seed: u64, shared: &SleepLock<Option<Volume>>) -> anyhow::Result<()> {
    let mount = |number| Volume::mount(Slice { disk, first_sector: slice(number), sectors: SLICE_SECTORS as u32 });
    let own = SleepLock::new(Some(mount(number)?));
    for file in own_files(seed, number) {
        round_trip(disk, &own, &file)?;
    }
    shared.with(|volume| {
        if volume.is_none() {
            *volume = Some(mount(THREADS)?);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    for file in shared_files(seed, number) {
        round_trip(disk, shared, &file)?;
    }
    large(disk, number, region_seed(seed, number))
}

/// Writes a file, makes it safe, and reads it back.
fn round_trip(disk: &dyn Sectors, volume: &SleepLock<Option<Volume>>, file: &File) -> anyhow::Result<()> {
    let (path, name) = (file.path(), file.name.as_str());
    let contents = pattern::bytes(file.seed, file.bytes);

    let open = with(volume, |volume| volume.open(name, Mode::ReadWriteCreateOrTruncate))?;
    for chunk in contents.chunks(CHUNK_BYTES) {
        with(volume, |volume| volume.write(open, chunk))?;
    }
    with(volume, |volume| volume.close(open))?;
    disk.sync().context("sync")?;
    report!(Report::Written { path: path.clone(), bytes: file.bytes as u64, seed: file.seed });

    let mut back = vec![0; file.bytes];
    let open = with(volume, |volume| volume.open(name, Mode::ReadOnly))?;
    for chunk in back.chunks_mut(CHUNK_BYTES) {
        with(volume, |volume| volume.read(open, chunk))?;
    }
    with(volume, |volume| volume.close(open))?;
    ensure!(back == contents, "{path}: what was read back is not what was written");
    report!(Report::Verified { path, sha256: hex(&Sha256::digest(&back)) });
    Ok(())
}

/// Makes one call of a volume: it sleeps inside of it, and others use a shared volume between two.
fn with<R>(volume: &SleepLock<Option<Volume>>, work: impl FnOnce(&Volume) -> anyhow::Result<R>) -> anyhow::Result<R> {
    volume.with(|volume| work(volume.as_ref().context("the volume is not mounted")?))
}

/// Writes the thread's region in requests of many sectors, and reads it back in others.
fn large(disk: &dyn Sectors, number: u64, seed: u64) -> anyhow::Result<()> {
    let bytes = |sectors: u64| sectors as usize * 512;
    let mut block = vec![0; ODD + bytes(REGION_SECTORS)];
    pattern::fill(seed, &mut block[ODD..]);
    for (chunk, first) in block[ODD..].chunks(bytes(LARGE_SECTORS)).zip((0..).step_by(LARGE_SECTORS as usize)) {
        disk.write(region(number) + first, chunk).context("a large write")?;
    }
    disk.sync().context("sync")?;
    block.fill(0);
    for (chunk, first) in block[ODD..].chunks_mut(bytes(OTHER_SECTORS)).zip((0..).step_by(OTHER_SECTORS as usize)) {
        disk.read(region(number) + first, chunk).context("a large read")?;
    }
    let same = block[ODD..] == pattern::bytes(seed, bytes(REGION_SECTORS));
    ensure!(same, "region {number}: what was read back is not what was written");
    report!(Report::Region { first_sector: region(number), sectors: REGION_SECTORS, seed });
    Ok(())
}
