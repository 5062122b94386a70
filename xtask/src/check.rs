//! Whether what the guest says agrees with what the host finds in the image.

use std::{
    env,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use sha2::{Digest, Sha256};
use testing_guest::{Report, hex, pattern};

use crate::{
    digest,
    fat::{Contents, FileDigest, part, same_path},
};

/// What the guest has said so far.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    reports: Vec<Report>,
}

impl Observed {
    /// Notes a report.
    pub(crate) fn note(&mut self, report: Report) {
        self.reports.push(report);
    }

    /// All of it, in order.
    pub(crate) fn reports(&self) -> &[Report] {
        &self.reports
    }

    /// Whether the kernel came to life at all.
    pub(crate) fn started(&self) -> bool {
        self.reports.iter().any(|report| matches!(report, Report::Started { .. }))
    }

    /// Whether the guest did all that it was asked to.
    pub(crate) fn finished(&self) -> bool {
        self.reports.contains(&Report::Finished)
    }

    /// Why the guest gave up, if it did.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.reports.iter().find_map(|report| match report {
            Report::Failed { reason } => Some(reason.as_str()),
            _ => None,
        })
    }

    /// The kind of volume that the guest has mounted.
    fn mounted(&self) -> Option<&str> {
        self.reports.iter().find_map(|report| match report {
            Report::Volume { kind } => Some(kind.as_str()),
            _ => None,
        })
    }

    /// The files that the guest has read.
    fn read(&self) -> Vec<FileDigest> {
        let read = self.reports.iter().filter_map(|report| match report.clone() {
            Report::Read { path, bytes, sha256 } => Some(FileDigest { path, bytes, sha256 }),
            _ => None,
        });
        read.collect()
    }

    /// The files that the guest has written, as it left them: path, length, and how often it was written before.
    fn written(&self) -> Vec<(String, u64, u64)> {
        let mut files: Vec<(String, u64, u64)> = Vec::new();
        for report in &self.reports {
            let Report::Written { path, bytes, .. } = report else { continue };
            match files.iter_mut().find(|(known, ..)| known == path) {
                Some((_, last, times)) => (*last, *times) = (*bytes, *times + 1),
                None => files.push((path.clone(), *bytes, 0)),
            }
        }
        files
    }

    /// The digest of what the guest last read back of a file.
    fn verified(&self, file: &str) -> Option<&str> {
        self.reports.iter().rev().find_map(|report| match report {
            Report::Verified { path, sha256 } if path == file => Some(sha256.as_str()),
            _ => None,
        })
    }

    /// The digest and the length of the whole disk.
    fn whole_disk(&self) -> Option<(&str, u64)> {
        self.reports.iter().find_map(|report| match report {
            Report::WholeDisk { bytes, sha256 } => Some((sha256.as_str(), *bytes)),
            _ => None,
        })
    }
}

/// What is expected of a guest.
pub(crate) struct Expected<'a> {
    /// What was in the image before the guest started.
    pub(crate) before: &'a Contents,
    /// What `fsck.fat` thought of the image then.
    pub(crate) fsck_before: Fsck,
    /// Where the pattern starts that the guest writes first; the n-th time it writes a file, it is n more.
    pub(crate) seed: u64,
    /// Whether the guest cannot write.
    pub(crate) read_only: bool,
}

/// One thing that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    what: &'static str,
    path: String,
    bytes: String,
    sha256: String,
    /// What was found, or what is wrong.
    verdict: Result<String, String>,
}

/// Compares what the guest said with what the host finds in the image now.
pub(crate) fn check(image: &Path, observed: &Observed, expected: &Expected<'_>) -> Result<Vec<Row>> {
    let after = Contents::read(image).context("looking into the image after the guest")?;
    let mut rows = Vec::new();
    let mounted = match observed.mounted() {
        Some(kind) if kind == expected.before.kind => Ok(format!("{kind}, as the host finds")),
        Some(kind) => Err(format!("the guest found {kind}, the host {}", expected.before.kind)),
        None => Err("the guest has mounted nothing".into()),
    };
    rows.push(Row::other("mounted", mounted));

    let read = observed.read();
    for file in &expected.before.files {
        let verdict = untouched(file, &read, &after.files);
        rows.push(Row::file("read", file, verdict));
    }
    for file in read.iter().filter(|file| find(&expected.before.files, &file.path).is_none()) {
        let verdict = Err("the host knows of no such file".into());
        rows.push(Row::file("read", file, verdict));
    }

    let written = observed.written();
    for (path, bytes, times) in &written {
        let wanted = pattern::bytes(expected.seed.wrapping_add(*times), usize::try_from(*bytes)?);
        let wanted = FileDigest { path: path.clone(), bytes: *bytes, sha256: hex(&Sha256::digest(wanted)) };
        let verdict = arrived(&wanted, observed.verified(path), &after.files);
        rows.push(Row::file("written", &wanted, verdict));
    }
    if written.is_empty() && !expected.read_only {
        rows.push(Row::other("written", Err("the guest has written no file".into())));
    }
    for file in &after.files {
        let known = find(&expected.before.files, &file.path).is_some();
        if !known && !written.iter().any(|(path, ..)| same_path(path, &file.path)) {
            rows.push(Row::file("new", file, Err("it was not there before, and the guest did not report it".into())));
        }
    }

    let (sha256, bytes) = digest::sha256(File::open(image)?).context("reading the image")?;
    let disk = FileDigest { path: "(the whole disk)".into(), bytes, sha256 };
    let verdict = match observed.whole_disk() {
        Some(found) => same(found, (&disk.sha256, bytes)).map(|()| "same digest".into()),
        None => Err("the guest did not read it".into()),
    };
    rows.push(Row::file("read", &disk, verdict));
    rows.push(Row::other("fsck.fat", expected.fsck_before.compare(fsck(image, expected.before)?)));
    Ok(rows)
}

/// Whether the guest has read what was in a file, and the file is as it was.
fn untouched(file: &FileDigest, read: &[FileDigest], after: &[FileDigest]) -> Result<String, String> {
    let seen = find(read, &file.path).ok_or("the guest did not read it")?;
    same((&seen.sha256, seen.bytes), (&file.sha256, file.bytes))?;
    let now = find(after, &file.path).ok_or("it is gone from the image")?;
    same((&now.sha256, now.bytes), (&file.sha256, file.bytes))
        .map_err(|difference| format!("it was changed in the image: {difference}"))?;
    Ok("same digest, unchanged".into())
}

/// Whether what the guest should have written is in the image, and the guest has read the same.
fn arrived(wanted: &FileDigest, verified: Option<&str>, after: &[FileDigest]) -> Result<String, String> {
    let found = find(after, &wanted.path).ok_or("it is not in the image")?;
    same((&found.sha256, found.bytes), (&wanted.sha256, wanted.bytes))
        .map_err(|difference| format!("in the image: {difference}"))?;
    let verified = verified.ok_or("the guest did not read it back")?;
    same((verified, wanted.bytes), (&wanted.sha256, wanted.bytes))
        .map_err(|difference| format!("read back by the guest: {difference}"))?;
    Ok("in the image, verified".into())
}

fn find<'a>(files: &'a [FileDigest], path: &str) -> Option<&'a FileDigest> {
    files.iter().find(|file| same_path(&file.path, path))
}

/// Compares digest and length.
fn same(found: (&str, u64), wanted: (&str, u64)) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("found {} bytes, SHA-256 {}; expected {} bytes, SHA-256 {}", found.1, found.0, wanted.1, wanted.0))
}

/// What `fsck.fat` says about a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fsck {
    /// It is in order.
    Clean,
    /// It is not; this is why.
    Damaged(String),
    /// The program is not installed.
    Missing,
}

impl Fsck {
    /// What it means that the volume was like `self` before and is like `after` now.
    fn compare(&self, after: Fsck) -> Result<String, String> {
        match (self, after) {
            (_, Self::Clean) => Ok("clean".into()),
            (_, Self::Missing) => Ok("skipped: not installed (package dosfstools)".into()),
            (Self::Damaged(_), Self::Damaged(_)) => Ok("skipped: it complained before the guest started".into()),
            (_, Self::Damaged(complaint)) => Err(complaint),
        }
    }
}

/// Asks `fsck.fat`, if it is installed, without changing anything.
pub(crate) fn fsck(image: &Path, contents: &Contents) -> Result<Fsck> {
    // It looks at whole files, so a partition becomes one.
    let mut copy = None;
    if contents.range.start != 0 {
        let mut partition = tempfile::NamedTempFile::new().context("making a temporary file for fsck.fat")?;
        io::copy(&mut part(File::open(image)?, contents.range)?, &mut partition).context("copying the partition")?;
        copy = Some(partition);
    }
    let volume = copy.as_ref().map_or(image, |copy| copy.path());
    let Some(program) = fsck_program() else { return Ok(Fsck::Missing) };
    let output = duct::cmd!(program, "-n", volume)
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()
        .context("fsck.fat could not be started")?;
    if output.status.success() {
        Ok(Fsck::Clean)
    } else {
        Ok(Fsck::Damaged(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }
}

/// Where `fsck.fat` is: often in a folder for administrators, which is not on everyone's path.
pub(crate) fn fsck_program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join("fsck.fat")).find(|program| program.is_file())
}

impl Row {
    fn file(what: &'static str, file: &FileDigest, verdict: Result<String, String>) -> Self {
        let FileDigest { path, bytes, sha256 } = file.clone();
        Self { what, path, bytes: bytes.to_string(), sha256, verdict }
    }

    /// Something that is about no file.
    pub(crate) fn other(what: &'static str, verdict: Result<String, String>) -> Self {
        Self { what, path: String::new(), bytes: String::new(), sha256: String::new(), verdict }
    }

    /// What was checked, and what was found, if nothing is wrong.
    pub(crate) fn found(&self) -> Option<(&'static str, &str)> {
        Some((self.what, self.verdict.as_ref().ok()?))
    }

    /// What is wrong, if something is.
    pub(crate) fn problem(&self) -> Option<String> {
        let problem = self.verdict.as_ref().err()?;
        let separator = if self.path.is_empty() { "" } else { " " };
        Some(format!("{}{separator}{}: {problem}", self.what, self.path))
    }
}

/// The table for people.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["what", "file", "bytes", "SHA-256", "host's check"]);
    for row in rows {
        let verdict = row.verdict.as_ref().map_or("WRONG: see below", String::as_str);
        table.add_row([row.what, &row.path, &row.bytes, &row.sha256, verdict]);
    }
    if let Some(bytes) = table.column_mut(2) {
        bytes.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;
    use crate::image::{self, Format};

    const SEED: u64 = 42;

    /// An image, what is in it, and the reports of a guest that did everything right.
    struct Case {
        _folder: tempfile::TempDir,
        image: std::path::PathBuf,
        before: Contents,
        observed: Observed,
    }

    /// Does to an image what a guest would do, with the host's implementation.
    fn case() -> Case {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.img");
        image::make(&image, Format::Fat16, true).unwrap();
        let before = Contents::read(&image).unwrap();

        let written = pattern::bytes(SEED + 1, 3000);
        let file = File::options().read(true).write(true).open(&image).unwrap();
        let volume = fatfs::FileSystem::new(part(file, before.range).unwrap(), fatfs::FsOptions::new()).unwrap();
        volume.root_dir().create_file("NEW.BIN").unwrap().write_all(&written).unwrap();
        volume.unmount().unwrap();

        let mut observed = Observed::default();
        observed.note(Report::Volume { kind: "FAT16".into() });
        for FileDigest { path, bytes, sha256 } in before.files.clone() {
            observed.note(Report::Read { path: path.to_uppercase(), bytes, sha256 });
        }
        observed.note(Report::Written { path: "NEW.BIN".into(), bytes: 10, seed: SEED });
        observed.note(Report::Written { path: "NEW.BIN".into(), bytes: 3000, seed: SEED + 1 });
        let sha256 = hex(&Sha256::digest(&written));
        observed.note(Report::Verified { path: "NEW.BIN".into(), sha256 });
        let (sha256, bytes) = digest::sha256(File::open(&image).unwrap()).unwrap();
        observed.note(Report::WholeDisk { bytes, sha256 });
        observed.note(Report::Finished);
        Case { _folder: folder, image, before, observed }
    }

    impl Case {
        fn problems(&self) -> Vec<String> {
            let expected = Expected { before: &self.before, fsck_before: Fsck::Clean, seed: SEED, read_only: false };
            let rows = check(&self.image, &self.observed, &expected).unwrap();
            rows.iter().filter_map(Row::problem).collect()
        }

        /// Flips a bit of the first place in the image where `bytes` are.
        fn flip(&self, bytes: &[u8]) {
            let contents = std::fs::read(&self.image).unwrap();
            let at = contents.windows(bytes.len()).position(|window| window == bytes).unwrap();
            let mut file = File::options().write(true).open(&self.image).unwrap();
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[bytes[0] ^ 0x10]).unwrap();
        }
    }

    #[test]
    fn a_good_guest_is_good() {
        assert_eq!(case().problems(), Vec::<String>::new());
    }

    #[test]
    fn a_flipped_bit_in_what_was_written_is_found() {
        let case = case();
        case.flip(&pattern::bytes(SEED + 1, 3000)[512..1024]);
        let problems = case.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("written NEW.BIN: in the image: found 3000 bytes"), "{problems:?}");
        assert!(problems[1].starts_with("read (the whole disk)"), "{problems:?}");
    }

    #[test]
    fn a_flipped_bit_in_an_untouched_file_is_found() {
        let case = case();
        case.flip(&pattern::bytes(0x5eed, 512));
        let problems = case.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("read random.bin: it was changed in the image"), "{problems:?}");
    }

    #[test]
    fn what_the_guest_read_wrongly_is_found() {
        let mut case = case();
        for report in &mut case.observed.reports {
            match report {
                Report::Read { path, sha256, .. } if path == "README.TXT" => sha256.replace_range(..1, "x"),
                _ => (),
            }
        }
        let problems = case.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("read README.TXT: found"), "{problems:?}");
    }

    #[test]
    fn every_missing_report_is_found() {
        let count = case().observed.reports.len();
        // All but the first of the two writes and the last word, which is asked for elsewhere.
        let needless = |report: &Report| matches!(report, Report::Written { bytes: 10, .. } | Report::Finished);
        for index in 0..count {
            let mut case = case();
            let removed = case.observed.reports.remove(index);
            if !needless(&removed) {
                assert_ne!(case.problems(), Vec::<String>::new(), "{removed:?}");
            }
        }
    }

    #[test]
    fn a_file_out_of_nowhere_is_found() {
        let mut case = case();
        case.before.files.retain(|file| file.path != "empty");
        case.observed.reports.retain(|report| !matches!(report, Report::Read { path, .. } if path == "EMPTY"));
        assert_eq!(case.problems(), ["new empty: it was not there before, and the guest did not report it"]);
    }
}
