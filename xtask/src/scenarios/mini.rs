//! `--demo rcore` and `--demo rcore-fs`: a kernel that is shaped like someone else's, whose threads use files and
//! large requests at once. The host looks for every byte in the image. [`alien`](super::alien) does the same.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use testing_guest::{
    Report, hex, pattern,
    slices::{DISK_SECTORS, FILES, REGION_SECTORS, SLICE_SECTORS, SLICES, THREADS, region, slice},
};

use super::{kernel_of, raw};
use crate::{
    check::{self, Fsck},
    commands::run::{Options, seed},
    fat::{Contents, FileDigest, same_path},
    image::{self, Format},
    progress::Progress,
    qemu::Machine,
    session, workspace,
};

/// The most that a call of the adapter may need of a stack: rCore and Alien have 8 KiB.
const STACK_MAX_BYTES: u64 = 1024;
/// The most that opening the disk may need, which kernels do on the stack that they boot on.
const OPEN_MAX_BYTES: u64 = 8192;

/// How the calls of a kernel wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// All of them sleep until an interrupt.
    Asleep,
    /// None of them does: each looks until it is done, and no other one runs meanwhile.
    Awake,
}

/// Runs and checks the kernel that is shaped like rCore.
pub(crate) fn rcore(options: &Options) -> Result<()> {
    run(options, "rcore-guest", Waiting::Asleep, &[], |_| Ok(()))
}

/// Runs and checks a kernel. `extra` are further arguments of QEMU; `answer` gets each report as it comes.
pub(super) fn run(
    options: &Options,
    bin: &str,
    waiting: Waiting,
    extra: &[String],
    answer: impl FnMut(&Report) -> Result<()>,
) -> Result<()> {
    let kernel = kernel_of(bin)?;
    let folder = workspace::scratch_folder()?;
    let (volume, disk) = (folder.join("mini-volume.img"), folder.join("mini.img"));
    image::make(&volume, Format::Fat16, true)?;
    let before = Contents::read(&volume)?;
    join(&volume, &disk)?;

    let machine = Machine {
        kernel: &kernel,
        arguments: &options.arguments(seed()),
        drive: raw(&disk),
        transport: options.transport,
        properties: &options.properties(),
        extra,
    };
    let (ending, observed) = session::observe(&machine, options.limit(240), options.verbose, answer)?;
    session::judge(&ending, &observed)?;

    let _progress = Progress::new("checking the image");
    let mut image = File::open(&disk).with_context(|| format!("opening {}", disk.display()))?;
    check_volumes(&mut image, &volume, &before, observed.reports())?;
    check_regions(&mut image, observed.reports())?;
    let summary = check_calls(observed.reports(), waiting)?;
    println!("every file and every sector is as it should be in the image {}", disk.display());
    println!("{summary}");
    Ok(())
}

/// Makes the disk: as many copies of a volume as there are slices, and zeros.
fn join(volume: &Path, disk: &Path) -> Result<()> {
    let context = || format!("making the image {}", disk.display());
    let mut image = File::create(disk).with_context(context)?;
    let contents = fs::read(volume).with_context(context)?;
    ensure!(contents.len() as u64 == SLICE_SECTORS * 512, "a volume has {} bytes", contents.len());
    for _ in 0..SLICES {
        image.write_all(&contents).with_context(context)?;
    }
    image.set_len(DISK_SECTORS * 512).with_context(context)
}

/// The bytes of a part of the image.
fn sectors(image: &mut File, first: u64, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    image.seek(SeekFrom::Start(first * 512))?;
    image.take(count * 512).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The files that the threads have written and read back, by their slice.
fn written(reports: &[Report]) -> Result<BTreeMap<u64, Vec<FileDigest>>> {
    let mut files: BTreeMap<u64, Vec<FileDigest>> = BTreeMap::new();
    for report in reports {
        let Report::Written { path, bytes, seed } = report else { continue };
        let sha256 = hex(&Sha256::digest(pattern::bytes(*seed, usize::try_from(*bytes)?)));
        let verified = Report::Verified { path: path.clone(), sha256: sha256.clone() };
        ensure!(reports.contains(&verified), "{path}: the guest did not read back what it wrote");
        let (slice, name) = path.split_once('/').with_context(|| format!("{path}: expected SLICE/NAME"))?;
        let file = FileDigest { path: name.to_owned(), bytes: *bytes, sha256 };
        files.entry(slice.parse()?).or_default().push(file);
    }
    Ok(files)
}

/// Looks into each volume: what was written is there, and everything else as it was.
fn check_volumes(image: &mut File, scratch: &Path, before: &Contents, reports: &[Report]) -> Result<()> {
    let written = written(reports)?;
    for number in 0..SLICES {
        let expected = if number < THREADS { FILES } else { THREADS * FILES };
        let files = written.get(&number).map_or(&[][..], Vec::as_slice);
        ensure!(files.len() as u64 == expected, "volume {number}: {} files, expected {expected}", files.len());

        fs::write(scratch, sectors(image, slice(number), SLICE_SECTORS)?)?;
        let after = Contents::read(scratch).with_context(|| format!("volume {number}"))?;
        for file in before.files.iter().chain(files) {
            let found = after.files.iter().find(|found| same_path(&found.path, &file.path));
            let found = found.with_context(|| format!("volume {number}: {} is not in the image", file.path))?;
            ensure!(
                (found.bytes, &found.sha256) == (file.bytes, &file.sha256),
                "volume {number}: {} has {} bytes, SHA-256 {}; expected {} bytes, SHA-256 {}",
                file.path,
                found.bytes,
                found.sha256,
                file.bytes,
                file.sha256
            );
        }
        let count = before.files.len() + files.len();
        ensure!(after.files.len() == count, "volume {number}: {} files, expected {count}", after.files.len());
        if let Fsck::Damaged(complaint) = check::fsck(scratch, &after)? {
            bail!("volume {number}: {complaint}");
        }
    }
    Ok(())
}

/// Looks at what was written in large requests.
fn check_regions(image: &mut File, reports: &[Report]) -> Result<()> {
    for thread in 0..THREADS {
        let first = region(thread);
        let seed = reports.iter().find_map(|report| match *report {
            Report::Region { first_sector, sectors: REGION_SECTORS, seed } if first_sector == first => Some(seed),
            _ => None,
        });
        let seed = seed.with_context(|| format!("thread {thread} did not report its region"))?;
        let found = sectors(image, first, REGION_SECTORS)?;
        ensure!(found == pattern::bytes(seed, found.len()), "region {thread} does not hold what was written there");
        ensure!(found.len() as u64 == REGION_SECTORS * 512, "region {thread} is not all in the image");
    }
    Ok(())
}

/// Looks how calls waited, and what they needed of a stack. Returns that as text for people.
fn check_calls(reports: &[Report], waiting: Waiting) -> Result<String> {
    let waited = reports.iter().find_map(|report| match *report {
        Report::Waited { calls, slept, depth, interrupts } => Some((calls, slept, depth, interrupts)),
        _ => None,
    });
    let (calls, slept, depth, interrupts) = waited.context("the guest did not report how calls waited")?;
    ensure!(calls > 0, "the disk was not called");
    let entries: &[&str] = match waiting {
        Waiting::Asleep => {
            ensure!(slept == calls, "{slept} of {calls} calls slept, expected all");
            ensure!(depth == THREADS, "{depth} calls waited at once, expected {THREADS}");
            ensure!(interrupts > 0, "there was no interrupt");
            &["open", "read", "write", "sync", "handle_irq"]
        }
        Waiting::Awake => {
            ensure!(slept == 0, "{slept} of {calls} calls slept, expected none");
            ensure!(depth == 1, "{depth} calls waited at once, expected one");
            &["open", "read", "write", "sync"]
        }
    };
    let mut summary = format!("{calls} calls, {slept} slept, up to {depth} at once, {interrupts} interrupts");
    for &entry in entries {
        let bytes = reports.iter().find_map(|report| match report {
            Report::Stack { entry: found, bytes } if found == entry => Some(*bytes),
            _ => None,
        });
        let bytes = bytes.with_context(|| format!("the guest did not report the stack of `{entry}`"))?;
        let max = if entry == "open" { OPEN_MAX_BYTES } else { STACK_MAX_BYTES };
        ensure!(bytes > 0 && bytes < max, "`{entry}` needs {bytes} bytes of stack, expected less than {max}");
        summary += &format!("\nstack of {entry}: {bytes} bytes");
    }
    Ok(summary)
}
