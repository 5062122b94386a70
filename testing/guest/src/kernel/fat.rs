//! A FAT volume on a disk: what the kept crate `embedded-sdmmc` needs from a driver, and a little comfort above it.

use alloc::{
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::{cell::RefCell, fmt, ops::ControlFlow};

use anyhow::{Context, bail, ensure};
use embedded_sdmmc::{
    LfnBuffer, Mode, RawVolume, ShortFileName, TimeSource, Timestamp, VolumeIdx, VolumeManager, filesystem,
};

use super::sectors::{Sector, Sectors, Storage};

/// How deep directories may be nested.
const MAX_DEPTH: usize = 32;
/// How many directories may be open at once: one per level, the root directory, and one on the way to a file.
const MAX_DIRECTORIES: usize = MAX_DEPTH + 2;

/// The file system crate, set up for this kernel: a few open files, one volume.
type Manager<'d> = VolumeManager<Sectors<'d>, Clock, MAX_DIRECTORIES, 4, 1>;
type Directory<'v, 'd> = filesystem::Directory<'v, Sectors<'d>, Clock, MAX_DIRECTORIES, 4, 1>;
/// An open file.
pub(super) type File<'v, 'd> = filesystem::File<'v, Sectors<'d>, Clock, MAX_DIRECTORIES, 4, 1>;

/// A mounted volume.
pub(super) struct Volume<'d> {
    manager: Manager<'d>,
    volume: RawVolume,
    kind: Kind,
    /// `None` where the volume is the whole disk.
    partition: Option<usize>,
}

/// A file or a directory in a volume.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The path from the root directory with `/` between names: long names where there are, as the user knows them.
    pub(super) path: String,
    /// The same path in the short names that every entry has.
    short_path: Vec<ShortFileName>,
    /// Whether it is a directory.
    pub(super) is_directory: bool,
    /// The length of a file.
    pub(super) bytes: u32,
}

impl Entry {
    /// How many directories are around it.
    pub(super) fn depth(&self) -> usize {
        self.short_path.len().saturating_sub(1)
    }

    /// The last name of its path.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

impl<'d> Volume<'d> {
    /// Mounts the FAT volume of a disk: the whole disk, or the first FAT partition.
    pub(super) fn mount(disk: &'d RefCell<dyn Storage>) -> anyhow::Result<Self> {
        let sectors = Sectors::new(disk);
        let first = sectors.read_one(0).context("reading sector 0")?;
        let (sectors, partition, boot_sector) = if is_boot_sector(&first) {
            // The crate looks for a partition table; an unpartitioned disk gets one that is not on it.
            (sectors.behind_a_partition_table(), None, first)
        } else {
            let (index, start) = fat_partition(&first)?;
            let boot = sectors.read_one(start).with_context(|| format!("reading sector {start}"))?;
            ensure!(is_boot_sector(&boot), "partition {} is said to be FAT, but has no FAT boot sector", index + 1);
            (sectors, Some(index), boot)
        };
        let kind = kind(&boot_sector)?;
        let manager = Manager::new_with_limits(sectors, Clock, 0);
        let volume = manager.open_raw_volume(VolumeIdx(partition.unwrap_or(0))).context("mounting")?;
        Ok(Self { manager, volume, kind, partition })
    }

    /// Which kind of FAT it is.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Calls `visit` for every file and directory, parents before what is in them.
    pub(super) fn walk(&self, visit: &mut impl FnMut(&Entry)) -> anyhow::Result<()> {
        self.walk_directory(&self.root()?, None, visit)
    }

    fn walk_directory(
        &self,
        directory: &Directory<'_, 'd>,
        parent: Option<&Entry>,
        visit: &mut impl FnMut(&Entry),
    ) -> anyhow::Result<()> {
        for entry in entries(directory, parent)? {
            visit(&entry);
            if !entry.is_directory {
                continue;
            }
            ensure!(entry.depth() < MAX_DEPTH, "{} is more than {MAX_DEPTH} directories deep", entry.path);
            let name = entry.short_path.last().context("an entry has a name")?;
            let inner = directory.open_dir(name).with_context(|| format!("opening {}", entry.path))?;
            self.walk_directory(&inner, Some(&entry), visit)?;
        }
        Ok(())
    }

    /// Opens a file for reading.
    pub(super) fn open(&self, entry: &Entry) -> anyhow::Result<File<'_, 'd>> {
        let context = || format!("opening {}", entry.path);
        let (name, directories) = entry.short_path.split_last().context("an entry has a name")?;
        let mut directory = self.root()?;
        for directory_name in directories {
            directory.change_dir(directory_name).with_context(context)?;
        }
        directory.open_file_in_dir(name, Mode::ReadOnly).with_context(context)
    }

    /// Opens a file in the root directory by its short name, as `mode` says.
    pub(super) fn open_in_root(&self, name: &str, mode: Mode) -> anyhow::Result<File<'_, 'd>> {
        self.root()?.open_file_in_dir(name, mode).with_context(|| format!("opening {name}"))
    }

    /// Writes what is left to write.
    pub(super) fn unmount(self) -> anyhow::Result<()> {
        self.manager.close_volume(self.volume).context("unmounting")
    }

    fn root(&self) -> anyhow::Result<Directory<'_, 'd>> {
        let root = self.manager.open_root_dir(self.volume).context("opening the root directory")?;
        Ok(root.to_directory(&self.manager))
    }
}

impl fmt::Display for Volume<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition {
            Some(index) => write!(f, "{}, partition {}", self.kind, index + 1),
            None => write!(f, "{}, not partitioned", self.kind),
        }
    }
}

/// What is in a directory.
fn entries(directory: &Directory<'_, '_>, parent: Option<&Entry>) -> anyhow::Result<Vec<Entry>> {
    let path = parent.map_or("", |parent| &parent.path);
    // The longest long name: 255 characters of three bytes each.
    let mut storage = vec![0; 765];
    let mut found = Vec::new();
    let collect = |entry: &filesystem::DirEntry, long_name: Option<&str>| {
        let is_self_or_parent = [ShortFileName::this_dir(), ShortFileName::parent_dir()].contains(&entry.name);
        // A volume's label is an entry of the root directory that is no file.
        if entry.attributes.is_volume() || is_self_or_parent {
            return ControlFlow::Continue(());
        }
        let name = long_name.map_or_else(|| entry.name.to_string(), ToString::to_string);
        let mut short_path = parent.map_or_else(Vec::new, |parent| parent.short_path.clone());
        short_path.push(entry.name);
        found.push(Entry {
            path: if path.is_empty() { name } else { format!("{path}/{name}") },
            short_path,
            is_directory: entry.attributes.is_directory(),
            bytes: entry.size,
        });
        ControlFlow::Continue(())
    };
    directory
        .iterate_dir_lfn(&mut LfnBuffer::new(&mut storage), collect)
        .with_context(|| format!("listing /{path}"))?;
    Ok(found)
}

/// The kinds of FAT that can be mounted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// 16 bits per cluster.
    Fat16,
    /// 32 bits per cluster.
    Fat32,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fat16 => "FAT16",
            Self::Fat32 => "FAT32",
        })
    }
}

/// Whether a sector is the first one of a FAT volume. A partition table ends with the same signature, but holds code
/// where a volume says how it is laid out.
fn is_boot_sector(sector: &Sector) -> bool {
    let jumps = matches!(sector, [0xeb, _, 0x90, ..] | [0xe9, ..]);
    let sector_bytes = number_at::<2>(sector, 11);
    let cluster_sectors = number_at::<1>(sector, 13);
    let fats = number_at::<1>(sector, 16);
    jumps
        && has_signature(sector)
        && matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
        && cluster_sectors.is_power_of_two()
        && matches!(fats, 1 | 2)
}

/// The first FAT partition of a partition table: its index, and the sector where it starts.
fn fat_partition(table: &Sector) -> anyhow::Result<(usize, u64)> {
    /// The partition types of FAT16 and FAT32 volumes.
    const FAT: [u32; 5] = [0x04, 0x06, 0x0b, 0x0c, 0x0e];
    /// The one entry of the table that stands in front of a GUID partition table.
    const PROTECTIVE: u32 = 0xee;

    ensure!(
        has_signature(table),
        "no file system that this kernel can mount: sector 0 is neither the start of a FAT volume nor a partition \
         table (either ends with the bytes 55 aa, found {:02x?})",
        &table[510..]
    );
    let kind_at = |index: usize| number_at::<1>(table, 446 + 16 * index + 4);
    match (0..4).find(|&index| FAT.contains(&kind_at(index))) {
        Some(index) => Ok((index, number_at::<4>(table, 446 + 16 * index + 8).into())),
        None if kind_at(0) == PROTECTIVE => {
            bail!("the disk has a GUID partition table; the file system crate of this kernel reads only MBR tables")
        }
        None => bail!(
            "no FAT partition: the partition table has the types {:02x?}, expected one of {FAT:02x?}",
            [kind_at(0), kind_at(1), kind_at(2), kind_at(3)]
        ),
    }
}

/// The kind of a volume, or why it cannot be mounted. The number of clusters decides, nothing else.
fn kind(boot_sector: &Sector) -> anyhow::Result<Kind> {
    let sector_bytes = number_at::<2>(boot_sector, 11);
    ensure!(
        sector_bytes == 512,
        "the volume has sectors of {sector_bytes} bytes; the file system crate reads 512 only"
    );
    let cluster_sectors = number_at::<1>(boot_sector, 13);
    let reserved = number_at::<2>(boot_sector, 14);
    let fats = number_at::<1>(boot_sector, 16);
    let root_sectors = (number_at::<2>(boot_sector, 17) * 32).div_ceil(512);
    let either = |small: u32, large: u32| if small != 0 { small } else { large };
    let total = either(number_at::<2>(boot_sector, 19), number_at::<4>(boot_sector, 32));
    let fat_sectors_16 = number_at::<2>(boot_sector, 22);
    let fat_sectors = either(fat_sectors_16, number_at::<4>(boot_sector, 36));

    let overhead = u64::from(reserved) + u64::from(fats) * u64::from(fat_sectors) + u64::from(root_sectors);
    let clusters = u64::from(total).checked_sub(overhead).map(|data| data / u64::from(cluster_sectors));
    match clusters {
        None => bail!("the volume is damaged: {total} sectors in all, but {overhead} before the first cluster"),
        Some(count @ ..4085) => bail!(
            "a FAT12 volume ({count} clusters); the file system crate of this kernel mounts FAT16 and FAT32 only: make \
             the image larger, or its clusters smaller (mkfs.fat -F 16)"
        ),
        Some(count @ ..65525) if fat_sectors_16 == 0 => bail!(
            "a FAT32 volume with {count} clusters, which the file system crate of this kernel takes for FAT16: make \
             the image larger (FAT32 has 65525 clusters at least), or use mkfs.fat -F 16"
        ),
        Some(..65525) => Ok(Kind::Fat16),
        Some(_) => Ok(Kind::Fat32),
    }
}

fn has_signature(sector: &Sector) -> bool {
    sector.ends_with(&[0x55, 0xaa])
}

/// The little-endian number of `N` bytes, four at the most, that starts at `offset`.
fn number_at<const N: usize>(sector: &Sector, offset: usize) -> u32 {
    let bytes = sector.iter().skip(offset).take(N).rev();
    bytes.fold(0, |number, &byte| number << 8 | u32::from(byte))
}

/// The time that is noted on written files. The machine has no calendar that this kernel knows of.
pub(super) struct Clock;

impl TimeSource for Clock {
    fn get_timestamp(&self) -> Timestamp {
        Timestamp { year_since_1970: 56, zero_indexed_month: 0, zero_indexed_day: 0, hours: 0, minutes: 0, seconds: 0 }
    }
}
