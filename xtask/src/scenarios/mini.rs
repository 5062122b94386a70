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
    slices::{
        DISK_SECTORS, REGION_SECTORS, SLICE_SECTORS, SLICES, THREADS, own_files, region, region_seed, shared_files,
        slice,
    },
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
/// The most that opening the disk may need, which is done while the kernel boots; the search of the device tree included.
const OPEN_MAX_BYTES: u64 = 4352;

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

    let seed = seed();
    let machine = Machine {
        kernel: &kernel,
        arguments: &options.arguments(seed),
        drive: raw(&disk),
        transport: options.transport,
        properties: &options.properties(),
        extra,
    };
    let (ending, observed) = session::observe(&machine, options.limit(240), options.verbose, answer)?;
    session::judge(&ending, &observed)?;

    let _progress = Progress::new("checking the image");
    let mut image = File::open(&disk).with_context(|| format!("opening {}", disk.display()))?;
    check_volumes(&mut image, &volume, &before, &written(seed, observed.reports())?)?;
    check_regions(&mut image, seed, observed.reports())?;
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

/// The files that the threads of a kernel write that was given `seed`, by their slice. They are to have said of each
/// that they wrote it and read it back.
fn written(seed: u64, reports: &[Report]) -> Result<BTreeMap<u64, Vec<FileDigest>>> {
    let mut files: BTreeMap<u64, Vec<FileDigest>> = BTreeMap::new();
    let threads = (0..THREADS).flat_map(|thread| [own_files(seed, thread), shared_files(seed, thread)].concat());
    for file in threads {
        let (path, bytes) = (file.path(), file.bytes as u64);
        let sha256 = hex(&Sha256::digest(pattern::bytes(file.seed, file.bytes)));
        let written = Report::Written { path: path.clone(), bytes, seed: file.seed };
        ensure!(reports.contains(&written), "{path}: the guest did not write it");
        let verified = Report::Verified { path: path.clone(), sha256: sha256.clone() };
        ensure!(reports.contains(&verified), "{path}: the guest did not read back what it wrote");
        files.entry(file.slice).or_default().push(FileDigest { path: file.name, bytes, sha256 });
    }
    Ok(files)
}

/// Looks into each volume: what was written is there, and everything else as it was.
fn check_volumes(
    image: &mut File,
    scratch: &Path,
    before: &Contents,
    written: &BTreeMap<u64, Vec<FileDigest>>,
) -> Result<()> {
    for number in 0..SLICES {
        let files = written.get(&number).map_or(&[][..], Vec::as_slice);
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
fn check_regions(image: &mut File, seed: u64, reports: &[Report]) -> Result<()> {
    for thread in 0..THREADS {
        let (first_sector, seed) = (region(thread), region_seed(seed, thread));
        let done = Report::Region { first_sector, sectors: REGION_SECTORS, seed };
        ensure!(reports.contains(&done), "thread {thread} did not write its region and read it back");
        let found = sectors(image, first_sector, REGION_SECTORS)?;
        let expected = pattern::bytes(seed, usize::try_from(REGION_SECTORS * 512)?);
        ensure!(found == expected, "region {thread} does not hold what was written there");
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

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 42;

    /// What a good guest reports of its calls.
    fn calls() -> Vec<Report> {
        let mut reports = vec![Report::Waited { calls: 9, slept: 9, depth: THREADS, interrupts: 3 }];
        let entries = ["open", "read", "write", "sync", "handle_irq"];
        reports.extend(entries.map(|entry| Report::Stack { entry: entry.into(), bytes: 500 }));
        reports
    }

    /// What a good guest reports of its files.
    fn files() -> Vec<Report> {
        let files = (0..THREADS).flat_map(|thread| [own_files(SEED, thread), shared_files(SEED, thread)].concat());
        let reports = files.flat_map(|file| {
            let sha256 = hex(&Sha256::digest(pattern::bytes(file.seed, file.bytes)));
            let written = Report::Written { path: file.path(), bytes: file.bytes as u64, seed: file.seed };
            [written, Report::Verified { path: file.path(), sha256 }]
        });
        reports.collect()
    }

    #[test]
    fn every_missing_report_is_found() {
        check_calls(&calls(), Waiting::Asleep).unwrap();
        for index in 0..calls().len() {
            let mut reports = calls();
            reports.remove(index);
            check_calls(&reports, Waiting::Asleep).unwrap_err();
        }
        assert_eq!(written(SEED, &files()).unwrap().len() as u64, SLICES);
        for index in 0..files().len() {
            let mut reports = files();
            reports.remove(index);
            written(SEED, &reports).unwrap_err();
        }
        written(SEED + 1, &files()).unwrap_err();
    }

    #[test]
    fn calls_that_spin_or_need_too_much_stack_are_found() {
        let problem = |change: fn(&mut Report)| {
            let mut reports = calls();
            reports.iter_mut().for_each(change);
            check_calls(&reports, Waiting::Asleep).unwrap_err().to_string()
        };
        let spun = problem(|report| {
            if let Report::Waited { slept, .. } = report {
                *slept -= 1;
            }
        });
        assert!(spun.contains("8 of 9 calls slept"), "{spun}");
        let alone = problem(|report| {
            if let Report::Waited { depth, .. } = report {
                *depth = 1;
            }
        });
        assert!(alone.contains("1 calls waited at once"), "{alone}");
        let large = problem(|report| {
            if let Report::Stack { bytes, .. } = report {
                *bytes = STACK_MAX_BYTES;
            }
        });
        assert!(large.contains("`read` needs 1024 bytes"), "{large}");
        check_calls(&calls(), Waiting::Awake).unwrap_err();
    }

    #[test]
    fn a_flipped_bit_in_a_region_is_found() {
        let mut image = tempfile::tempfile().unwrap();
        let mut reports = Vec::new();
        for thread in 0..THREADS {
            let (first_sector, seed) = (region(thread), region_seed(SEED, thread));
            image.seek(SeekFrom::Start(first_sector * 512)).unwrap();
            image.write_all(&pattern::bytes(seed, (REGION_SECTORS * 512) as usize)).unwrap();
            reports.push(Report::Region { first_sector, sectors: REGION_SECTORS, seed });
        }
        check_regions(&mut image, SEED, &reports).unwrap();
        let at = SeekFrom::Start(region(5) * 512 + 700);
        image.seek(at).unwrap();
        let mut byte = [0];
        image.read_exact(&mut byte).unwrap();
        image.seek(at).unwrap();
        image.write_all(&[byte[0] ^ 8]).unwrap();
        let error = check_regions(&mut image, SEED, &reports).unwrap_err().to_string();
        assert!(error.contains("region 5"), "{error}");
        check_regions(&mut image, SEED, &reports[1..]).unwrap_err();
    }
}
