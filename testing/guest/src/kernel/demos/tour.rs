//! The main demonstration: for each disk, say what it is, use the file system on it, then read all of it.

use alloc::{
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::cell::RefCell;

use anyhow::{Context, bail, ensure};
use embedded_sdmmc::Mode;
use sha2::{Digest, Sha256};
use testing_guest::{Arguments, MemoryKind, Report, hex, pattern};
use virtio_blk::CacheMode;
use virtqueue::Memory;

use crate::kernel::{
    bounce::BounceMemory,
    devices::{self, Disk, DiskPlace},
    fat::{Entry, Volume},
    interrupts::{self, Line, asleep},
    memory::KernelMemory,
    time::{Deadline, Stopwatch, patiently},
};

/// How much of the disk one request reads when all of it is read.
const LARGE_READ_BYTES: usize = 1 << 20;
/// How much of a file is asked of the file system at a time.
const FILE_READ_BYTES: usize = 64 << 10;
/// How much there is between two reports of progress.
const PROGRESS_BYTES: u64 = 8 << 20;
/// The lengths of the file that is written and overwritten: neither a whole number of sectors, the second one longer,
/// so that the file grows by clusters that it did not have.
const WRITTEN_BYTES: [usize; 2] = [10_007, 300_003];

/// Visits every disk of the machine.
pub(super) fn run(arguments: &Arguments, device_tree: &[u8]) -> anyhow::Result<()> {
    let places = devices::find_disks(device_tree)?;
    ensure!(
        !places.is_empty(),
        "no disk: neither the device tree's virtio,mmio slots nor its PCI buses have a block device"
    );
    for place in &places {
        let address = place.address();
        let visited = match arguments.memory {
            MemoryKind::Direct => visit(arguments, place, KernelMemory),
            MemoryKind::Bounce => {
                let memory = BounceMemory::new()?;
                visit(arguments, place, memory).map(|()| memory.report())
            }
        };
        visited.with_context(|| format!("disk at {address:#x}"))?;
    }
    let (interrupts, sleeps) = interrupts::counts();
    println!("interrupts: {interrupts} were taken, and the processor slept {sleeps} times until one came");
    Ok(())
}

fn visit(arguments: &Arguments, place: &DiskPlace<'_>, memory: impl Memory + 'static) -> anyhow::Result<()> {
    let mut disk: Disk<_> = place.open(arguments, memory)?;
    place.describe(&mut disk)?;
    let line = place.use_interrupts(&mut disk)?.configuration().context("an interrupt for the configuration")?;
    let capacity_sectors = disk.info().capacity_sectors;
    let read_only = disk.info().read_only;
    if disk.info().cache_mode_can_change && !read_only {
        change_cache_mode(&mut disk, line)?;
    }

    // The file system and this function take turns with the disk.
    let disk = RefCell::new(disk);
    let volume = Volume::mount(&disk)?;
    println!("file system: {volume}");
    report!(Report::Volume { kind: volume.kind().to_string() });
    let files = list(&volume)?;
    print_one(&volume, &files)?;
    read_all(&volume, &files)?;
    if read_only {
        println!("the disk is read-only: nothing is written");
    } else {
        write_and_compare(arguments, &volume, &files, &disk)?;
    }
    volume.unmount()?;

    let mut disk = disk.into_inner();
    if !read_only {
        // Unmounting may have written.
        devices::flush(&mut disk)?;
    }
    read_disk(&mut disk, capacity_sectors)?;
    match disk.shutdown(&mut patiently()) {
        Ok(_) => println!("the driver is shut down"),
        // The error carries the disk, which cannot travel on in it.
        Err(error) => bail!("shutting the driver down: {error}"),
    }
    Ok(())
}

/// Changes the cache mode, and changes it back. Each time the host looks what QEMU thinks of it.
fn change_cache_mode<M: Memory>(disk: &mut Disk<M>, line: &Line) -> anyhow::Result<()> {
    let before = disk.cache_mode().context("cache mode")?;
    let other = match before {
        CacheMode::WriteBack => CacheMode::WriteThrough,
        CacheMode::WriteThrough => CacheMode::WriteBack,
    };
    for mode in [other, before] {
        let name = devices::cache_mode_name(mode);
        let seen = line.configuration();
        disk.set_cache_mode(mode, &mut asleep()).with_context(|| format!("changing the cache mode to {name}"))?;
        println!("cache mode: {name} now");
        report!(Report::CacheMode { write_back: mode == CacheMode::WriteBack });
        interrupts::sleep_until(|| line.configuration() != seen, Deadline::patient())
            .context("waiting for the interrupt by which the host says that it has seen the cache mode")?;
        let changed = disk.config_changed().context("looking at the configuration")?;
        ensure!(changed.is_none(), "the disk has another size: {changed:?}");
    }
    Ok(())
}

/// Prints the tree of files; returns the files in it.
fn list(volume: &Volume<'_>) -> anyhow::Result<Vec<Entry>> {
    let mut files = Vec::new();
    println!("files:");
    volume.walk(&mut |entry| {
        let indent = "  ".repeat(entry.depth() + 1);
        if entry.is_directory {
            println!("{indent}{}/", entry.name());
        } else {
            println!("{indent}{}  ({} bytes)", entry.name(), entry.bytes);
            files.push(entry.clone());
        }
    })?;
    Ok(files)
}

/// Prints the start of the first text file.
fn print_one(volume: &Volume<'_>, files: &[Entry]) -> anyhow::Result<()> {
    let is_text = |entry: &&Entry| entry.path.to_ascii_lowercase().ends_with(".txt");
    let Some(file) = files.iter().find(is_text) else {
        println!("(no *.txt file to print)");
        return Ok(());
    };
    let mut text = vec![0; 1024];
    let count = volume.open(file)?.read(&mut text).context("reading")?;
    text.truncate(count);
    println!("{} says:", file.path);
    for line in String::from_utf8_lossy(&text).lines() {
        println!("  | {line}");
    }
    Ok(())
}

/// Reads every file and reports its digest.
fn read_all(volume: &Volume<'_>, files: &[Entry]) -> anyhow::Result<()> {
    let mut buffer = vec![0; FILE_READ_BYTES];
    for file in files {
        let watch = Stopwatch::start();
        let open = volume.open(file)?;
        let mut digest = Sha256::new();
        let mut bytes = 0;
        while !open.is_eof() {
            let count = open.read(&mut buffer).with_context(|| format!("reading {} at byte {bytes}", file.path))?;
            let read = buffer.get(..count).context("the file system read more than it was asked for")?;
            digest.update(read);
            bytes += count as u64;
        }
        open.close().with_context(|| format!("closing {}", file.path))?;
        println!("read {}: {bytes} bytes in {}", file.path, watch.speed(bytes));
        report!(Report::Read { path: file.path.clone(), bytes, sha256: hex(&digest.finalize()) });
    }
    Ok(())
}

/// Writes a new file, overwrites it with a longer one, and reads it back each time.
fn write_and_compare<M: Memory>(
    arguments: &Arguments,
    volume: &Volume<'_>,
    files: &[Entry],
    disk: &RefCell<Disk<M>>,
) -> anyhow::Result<()> {
    let path = free_name(files)?;
    for (round, count) in WRITTEN_BYTES.into_iter().enumerate() {
        let seed = arguments.seed.wrapping_add(round as u64);
        let wanted = pattern::bytes(seed, count);
        // Not truncated before it is overwritten: on FAT32 the file system crate then miscounts the free clusters.
        let (mode, verb) = match round {
            0 => (Mode::ReadWriteCreate, "wrote"),
            _ => (Mode::ReadWriteAppend, "overwrote"),
        };

        let watch = Stopwatch::start();
        let file = volume.open_in_root(&path, mode)?;
        file.seek_from_start(0).with_context(|| format!("going to the start of {path}"))?;
        file.write(&wanted).with_context(|| format!("writing {count} bytes to {path}"))?;
        file.close().with_context(|| format!("closing {path}"))?;
        devices::flush(&mut disk.borrow_mut())?;
        println!("{verb} {path}: {count} bytes in {}", watch.speed(count as u64));
        report!(Report::Written { path: path.clone(), bytes: count as u64, seed });

        // One byte more than was written, to see that the file ends there.
        let mut found = vec![0; count + 1];
        let file = volume.open_in_root(&path, Mode::ReadOnly)?;
        let read = file.read(&mut found).with_context(|| format!("reading {path} back"))?;
        file.close().with_context(|| format!("closing {path}"))?;
        found.truncate(read);
        if let Some(offset) = (0..count.max(read)).find(|&offset| found.get(offset) != wanted.get(offset)) {
            bail!(
                "{path} reads back as {read} bytes of {count} written, and differs at byte {offset}: found {:02x?}, \
                 wrote {:02x?}",
                found.get(offset),
                wanted.get(offset)
            );
        }
        println!("read {path} back: equal");
        report!(Report::Verified { path: path.clone(), sha256: hex(&Sha256::digest(&found)) });
    }
    Ok(())
}

/// A name for a new file in the root directory.
fn free_name(files: &[Entry]) -> anyhow::Result<String> {
    (0..1000)
        .map(|number| format!("VIRTIO{number}.BIN"))
        .find(|name| !files.iter().any(|file| file.path.eq_ignore_ascii_case(name)))
        .context("the root directory has files named VIRTIO0.BIN to VIRTIO999.BIN; delete some")
}

/// Reads the whole disk from its first to its last sector, past the file system, in large requests.
fn read_disk<M: Memory>(disk: &mut Disk<M>, capacity_sectors: u64) -> anyhow::Result<()> {
    let total_bytes = capacity_sectors * 512;
    let mut buffer = vec![0; LARGE_READ_BYTES];
    let mut digest = Sha256::new();
    let mut done_bytes = 0;
    let watch = Stopwatch::start();
    let mut reading = core::time::Duration::ZERO;
    while done_bytes < total_bytes {
        let count = usize::try_from(total_bytes - done_bytes).unwrap_or(usize::MAX).min(LARGE_READ_BYTES);
        let part = buffer.get_mut(..count).context("a part is not longer than the buffer")?;
        let request = Stopwatch::start();
        disk.read(done_bytes / 512, part, &mut asleep())
            .with_context(|| format!("reading {count} bytes at sector {}", done_bytes / 512))?;
        reading += request.elapsed();
        digest.update(part);
        done_bytes += count as u64;
        if done_bytes % PROGRESS_BYTES == 0 {
            report!(Report::Progress { done_bytes, total_bytes });
        }
    }
    println!(
        "read the whole disk: {total_bytes} bytes in {} ({} ms of it reading, the rest is SHA-256)",
        watch.speed(total_bytes),
        reading.as_millis()
    );
    report!(Report::WholeDisk { bytes: total_bytes, sha256: hex(&digest.finalize()) });
    Ok(())
}
