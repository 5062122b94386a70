//! The host's own view of a FAT volume in an image, through an implementation that the guest does not have.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use fatfs::{FatType, FileSystem, FsOptions, ReadWriteSeek};
use fscommon::{BufStream, StreamSlice};

use crate::digest;

/// The partition types of FAT16 and FAT32 volumes.
const FAT_PARTITIONS: [u8; 5] = [0x04, 0x06, 0x0b, 0x0c, 0x0e];

/// A part of an image, as its own stream.
pub(crate) type Part = StreamSlice<BufStream<File>>;

/// A FAT volume and what is in it.
#[derive(Debug)]
pub(crate) struct Contents {
    /// FAT16 or FAT32.
    pub(crate) kind: &'static str,
    /// The part of the image that the volume is.
    pub(crate) range: Range,
    /// Every file, in no particular order.
    pub(crate) files: Vec<FileDigest>,
}

/// A part of an image, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// Its first byte.
    pub(crate) start: u64,
    /// The byte behind its last one.
    pub(crate) end: u64,
}

/// A file and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileDigest {
    /// The path from the root directory, with `/` between names.
    pub(crate) path: String,
    /// Its length.
    pub(crate) bytes: u64,
    /// The SHA-256 of its contents, in hexadecimal digits.
    pub(crate) sha256: String,
}

impl Contents {
    /// Reads the FAT volume in an image: all of the image, or its first FAT partition.
    pub(crate) fn read(image: &Path) -> Result<Self> {
        let context = || format!("{}: reading its FAT volume", image.display());
        let bytes = std::fs::metadata(image).with_context(context)?.len();
        let whole = Range { start: 0, end: bytes };
        let (range, volume) = match mount(image, whole) {
            Ok(volume) => (whole, volume),
            Err(reason) => {
                let range = partition(image, bytes).with_context(|| {
                    format!("{}: no FAT volume ({reason}), and no partition with one", image.display())
                })?;
                let volume = mount(image, range).with_context(|| {
                    format!("{}: no FAT volume in its partition at byte {}", image.display(), range.start)
                })?;
                (range, volume)
            }
        };
        let kind = match volume.fat_type() {
            FatType::Fat16 => "FAT16",
            FatType::Fat32 => "FAT32",
            FatType::Fat12 => bail!(
                "{}: a FAT12 volume ({} clusters), but the guest's file system crate mounts FAT16 and FAT32 only: make \
                 the image larger, or its clusters smaller (`mkfs.fat -F 16`)",
                image.display(),
                volume.stats().with_context(context)?.total_clusters()
            ),
        };
        let mut files = Vec::new();
        collect(&volume.root_dir(), "", &mut files).with_context(context)?;
        Ok(Self { kind, range, files })
    }
}

/// A part of an image that is opened for reading.
pub(crate) fn part(image: File, range: Range) -> io::Result<Part> {
    StreamSlice::new(BufStream::new(image), range.start, range.end)
}

fn mount(image: &Path, range: Range) -> io::Result<FileSystem<Part>> {
    // The volume is only read, and an access would be noted on it only if that were asked for.
    FileSystem::new(part(File::open(image)?, range)?, FsOptions::new())
}

/// The first FAT partition of an image.
fn partition(image: &Path, bytes: u64) -> Result<Range> {
    let mut file = File::open(image)?;
    let mut table = [0; 512];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut table).context("it is shorter than a sector")?;
    if table.starts_with(b"QFI\xfb") {
        bail!("it is a qcow2 image, and raw ones are read here: `qemu-img convert -O raw` makes one of it");
    }
    ensure!(
        table.ends_with(&[0x55, 0xaa]),
        "sector 0 is no partition table either: it ends with {:02x?}, expected [55, aa]",
        &table[510..]
    );
    let entries = table[446..510].as_chunks::<16>().0;
    let Some(entry) = entries.iter().find(|entry| FAT_PARTITIONS.contains(&entry[4])) else {
        let kinds: Vec<u8> = entries.iter().map(|entry| entry[4]).collect();
        bail!("the partition table has the types {kinds:02x?}, expected one of {FAT_PARTITIONS:02x?}");
    };
    let number = |at: usize| u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]));
    let range = Range { start: number(8) * 512, end: (number(8) + number(12)) * 512 };
    ensure!(
        range.end <= bytes,
        "the partition goes to byte {}, but the image has only {bytes}: was it cut short?",
        range.end
    );
    Ok(range)
}

fn collect<T: ReadWriteSeek>(directory: &fatfs::Dir<'_, T>, path: &str, files: &mut Vec<FileDigest>) -> Result<()> {
    for entry in directory.iter() {
        let entry = entry.with_context(|| format!("listing /{path}"))?;
        let name = entry.file_name();
        if name == "." || name == ".." {
            continue;
        }
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        if entry.is_dir() {
            collect(&entry.to_dir(), &path, files)?;
        } else {
            let (sha256, bytes) = digest::sha256(entry.to_file()).with_context(|| format!("reading {path}"))?;
            files.push(FileDigest { path, bytes, sha256 });
        }
    }
    Ok(())
}

/// Whether two paths name the same file. FAT does not tell upper from lower case; and where a name is only there in
/// its short form, what its bytes above 127 stand for is not written anywhere, and two implementations may differ.
pub(crate) fn same_path(left: &str, right: &str) -> bool {
    let fold = |path: &str| -> Vec<char> {
        path.chars().flat_map(char::to_lowercase).map(|c| if c.is_ascii() { c } else { '?' }).collect()
    };
    left.to_lowercase() == right.to_lowercase() || fold(left) == fold(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_compare_as_fat_compares_them() {
        assert!(same_path("SUB/README.TXT", "sub/Readme.txt"));
        assert!(same_path("GR\u{fffd}N.TXT", "GR\u{9a}N.TXT"));
        assert!(!same_path("a", "b"));
        assert!(!same_path("a/b", "ab"));
    }

    #[test]
    fn what_is_no_volume_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let reason = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            format!("{:#}", Contents::read(&path).unwrap_err())
        };
        assert!(reason("zeros", &[0; 4096]).contains("no partition table either"));
        assert!(reason("short", &[1; 100]).contains("shorter than a sector"));
        let mut qcow2 = [0; 1024];
        qcow2[..4].copy_from_slice(b"QFI\xfb");
        assert!(reason("qcow2", &qcow2).contains("qemu-img convert"));
        let mut linux = [0; 512];
        linux[446 + 4] = 0x83;
        linux[510..].copy_from_slice(&[0x55, 0xaa]);
        assert!(reason("linux", &linux).contains("83"));
        linux[446 + 4] = 0x0c;
        linux[446 + 12] = 100;
        assert!(reason("cut", &linux).contains("cut short"));
    }
}
