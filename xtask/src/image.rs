//! Making the disk image that a guest gets.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use testing_guest::pattern;

use crate::fat::{Range, part};

/// The kind of volume in an image that is made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// FAT16.
    Fat16,
    /// FAT32.
    Fat32,
}

/// Where a partition starts, in bytes: a mebibyte from the start, as the usual tools have it.
const PARTITION_START: u64 = 1 << 20;

/// What is in an image that is made here: path and contents.
fn example_files() -> Vec<(&'static str, Vec<u8>)> {
    let readme = "This disk was made by `cargo xtask run`.\n\
                  \n\
                  The guest lists it, prints this file, reads every other one, writes one of its own and reads it\n\
                  back. The host then looks into the image and checks every byte.\n";
    vec![
        ("README.TXT", readme.into()),
        ("random.bin", pattern::bytes(0x5eed, 400_001)),
        ("empty", Vec::new()),
        ("one sector", vec![0xa5; 512]),
        ("A folder/A long name, with spaces and ümlauts.text", "Long names work too.\n".into()),
        ("A folder/deeper/and deeper/leaf.bin", pattern::bytes(0x1eaf, 70_000)),
    ]
}

/// Makes an image with a few files.
pub(crate) fn make(image: &Path, format: Format, partitioned: bool) -> Result<()> {
    let context = || format!("making the image {}", image.display());
    let bytes: u64 = match format {
        Format::Fat16 => 32 << 20,
        // As many clusters as FAT32 needs at least, and some more.
        Format::Fat32 => 48 << 20,
    };
    let open = |path| OpenOptions::new().read(true).write(true).open(path);
    let mut file = File::create(image).with_context(context)?;
    file.set_len(bytes).with_context(context)?;
    let range = Range { start: if partitioned { PARTITION_START } else { 0 }, end: bytes };
    if partitioned {
        file.write_all(&partition_table(format, range)).with_context(context)?;
    }

    let mut volume = part(open(image).with_context(context)?, range).with_context(context)?;
    let (fat_type, cluster_bytes) = match format {
        Format::Fat16 => (FatType::Fat16, 2048),
        Format::Fat32 => (FatType::Fat32, 512),
    };
    let options =
        FormatVolumeOptions::new().fat_type(fat_type).bytes_per_cluster(cluster_bytes).volume_label(*b"EXAMPLE    ");
    fatfs::format_volume(&mut volume, options).with_context(context)?;
    volume.seek(SeekFrom::Start(0)).with_context(context)?;

    let volume = FileSystem::new(volume, FsOptions::new()).with_context(context)?;
    for (path, contents) in example_files() {
        let root = volume.root_dir();
        for (end, _) in path.match_indices('/') {
            root.create_dir(&path[..end]).with_context(context)?;
        }
        root.create_file(path).and_then(|mut file| file.write_all(&contents)).with_context(context)?;
    }
    // FAT32 notes the number of free clusters; now it is counted.
    volume.stats().with_context(context)?;
    volume.unmount().with_context(context)?;
    mend_dot_entries(image, format).with_context(context)
}

/// Mends the entries `.` and `..` of directories, which `fatfs` 0.3 makes in a way that `fsck.fat` calls damage. They
/// must be the first two and have no long names; and on FAT32 a parent that is the root directory is number 0, while
/// its real number is 2.
fn mend_dot_entries(image: &Path, format: Format) -> io::Result<()> {
    const ENTRY: usize = 32;
    const LONG_NAME: u8 = 0x0f;
    const DELETED: u8 = 0xe5;
    const ROOT: [u8; 2] = [2, 0];
    let mut contents = fs::read(image)?;
    for sector in contents.chunks_exact_mut(512) {
        let is_long_name = |at: usize| sector[at * ENTRY + 11] == LONG_NAME;
        let has_name = |at: usize, name: &[u8; 11]| sector[at * ENTRY..].starts_with(name);
        if is_long_name(0) && has_name(1, b".          ") && is_long_name(2) && has_name(3, b"..         ") {
            sector.copy_within(ENTRY..2 * ENTRY, 0);
            sector.copy_within(3 * ENTRY..4 * ENTRY, ENTRY);
            (sector[2 * ENTRY], sector[3 * ENTRY]) = (DELETED, DELETED);
            let (high, low) = (ENTRY + 20..ENTRY + 22, ENTRY + 26..ENTRY + 28);
            if format == Format::Fat32 && sector[high] == [0, 0] && sector[low.clone()] == ROOT {
                sector[low].fill(0);
            }
        }
    }
    fs::write(image, contents)
}

/// A partition table with one partition.
fn partition_table(format: Format, range: Range) -> [u8; 512] {
    let sectors = |bytes: u64| u32::try_from(bytes / 512).unwrap_or(u32::MAX).to_le_bytes();
    let mut table = [0; 512];
    table[446 + 4] = match format {
        Format::Fat16 => 0x0e,
        Format::Fat32 => 0x0c,
    };
    table[446 + 8..446 + 12].copy_from_slice(&sectors(range.start));
    table[446 + 12..446 + 16].copy_from_slice(&sectors(range.end - range.start));
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    table
}

/// Looks whether an image of the user's can be a disk, before anything is built for it. Returns its absolute path.
pub(crate) fn inspect(image: &Path, in_place: bool) -> Result<PathBuf> {
    let shown = image.display();
    let metadata = fs::metadata(image)
        .with_context(|| format!("--disk {shown}: there is no such file that can be read; check the path"))?;
    ensure!(metadata.is_file(), "--disk {shown}: it is not a regular file, and an image is one");
    ensure!(
        metadata.len() != 0,
        "--disk {shown}: it is empty (0 bytes), and a disk has one sector at least; `mkfs.fat -C FILE 65536` makes an \
         image of 64 MiB"
    );
    File::open(image).with_context(|| format!("--disk {shown}: it cannot be read; check its permissions"))?;
    if in_place {
        OpenOptions::new().write(true).open(image).with_context(|| {
            format!("--disk {shown} --in-place: it cannot be written; check its permissions, or let a copy be used")
        })?;
        ensure!(
            metadata.len() % 512 == 0,
            "--disk {shown} --in-place: its length is {} bytes, not a whole number of sectors of 512; without \
             --in-place a copy is made that is",
            metadata.len()
        );
    }
    fs::canonicalize(image).with_context(|| format!("--disk {shown}: its absolute path cannot be found"))
}

/// Copies an image, filled up with zeros to whole sectors.
pub(crate) fn copy(image: &Path, copy: &Path) -> Result<()> {
    let context = || format!("copying {} to {}", image.display(), copy.display());
    if fs::canonicalize(copy).is_ok_and(|copy| copy == image) {
        bail!("{} is where copies are made: move it elsewhere first, or use --in-place", image.display());
    }
    // A copy keeps the permissions, and the last one may have been made from a file that only can be read.
    if let Err(error) = fs::remove_file(copy) {
        ensure!(error.kind() == io::ErrorKind::NotFound, "{}: the old copy is in the way: {error}", copy.display());
    }
    let mut source = File::open(image).with_context(context)?;
    let mut target = File::create(copy).with_context(context)?;
    let bytes = io::copy(&mut source, &mut target).with_context(context)?;
    target.set_len(bytes.next_multiple_of(512)).with_context(context)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};
    use testing_guest::hex;

    use super::*;
    use crate::{
        check::{Fsck, fsck},
        fat::{Contents, same_path},
    };

    #[test]
    fn what_is_put_in_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        for (format, kind) in [(Format::Fat16, "FAT16"), (Format::Fat32, "FAT32")] {
            for partitioned in [false, true] {
                let image = folder.path().join("disk.img");
                make(&image, format, partitioned).unwrap();
                let contents = Contents::read(&image).unwrap();
                assert_eq!(contents.kind, kind);
                let fsck = fsck(&image, &contents).unwrap();
                assert!(matches!(fsck, Fsck::Clean | Fsck::Missing), "{fsck:?}");
                assert_eq!(contents.range.start, if partitioned { PARTITION_START } else { 0 });
                let expected = example_files();
                assert_eq!(contents.files.len(), expected.len());
                for (path, bytes) in expected {
                    let file = contents.files.iter().find(|file| same_path(&file.path, path)).unwrap();
                    assert_eq!(file.path, path);
                    assert_eq!((file.bytes, &file.sha256), (bytes.len() as u64, &hex(&Sha256::digest(&bytes))));
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_a_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let reason = |path: &Path, in_place| format!("{:#}", inspect(path, in_place).unwrap_err());
        assert!(reason(&folder.path().join("missing"), false).contains("no such file"));
        assert!(reason(folder.path(), false).contains("not a regular file"));
        let file = folder.path().join("file");
        fs::write(&file, []).unwrap();
        assert!(reason(&file, false).contains("empty"));
        fs::write(&file, [1; 513]).unwrap();
        assert!(reason(&file, true).contains("513 bytes"));
        assert!(inspect(&file, false).is_ok());
    }

    #[test]
    fn a_copy_has_whole_sectors_and_is_never_the_original() {
        let folder = tempfile::tempdir().unwrap();
        let (image, other) = (folder.path().join("image"), folder.path().join("copy"));
        fs::write(&image, [7; 513]).unwrap();
        copy(&image, &other).unwrap();
        let copied = fs::read(&other).unwrap();
        assert_eq!(copied.len(), 1024);
        assert_eq!(copied[..513], [7; 513]);
        assert_eq!(copied[513..], [0; 511]);

        let image = fs::canonicalize(image).unwrap();
        assert!(copy(&image, &image).unwrap_err().to_string().contains("--in-place"));
        assert_eq!(fs::read(&image).unwrap(), [7; 513]);
    }
}
