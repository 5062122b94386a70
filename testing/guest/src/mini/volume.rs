//! A FAT volume on a slice of a disk: what the kept crate `embedded-sdmmc` needs from a block device.

use alloc::{format, string::String};
use core::fmt;

use anyhow::{Context, ensure};
use embedded_sdmmc::{
    Block, BlockCount, BlockDevice, BlockIdx, Mode, RawDirectory, RawFile, TimeSource, Timestamp, VolumeIdx,
    VolumeManager,
};

/// A disk as the threads see it: through the interface of the kernel that is tried.
pub(crate) trait Sectors: Send + Sync {
    /// Reads whole sectors of 512 bytes.
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Failed>;

    /// Writes whole sectors of 512 bytes.
    fn write(&self, sector: u64, buffer: &[u8]) -> Result<(), Failed>;

    /// Makes what was written safe from a power cut, where the interface has a call for it.
    fn sync(&self) -> Result<(), Failed>;
}

/// What the interface says of a request that failed.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Failed {}

/// A part of a disk that is used like a disk.
#[derive(Clone, Copy)]
pub(crate) struct Slice {
    pub(crate) disk: &'static dyn Sectors,
    pub(crate) first_sector: u64,
    pub(crate) sectors: u32,
}

impl Slice {
    fn sector(&self, index: BlockIdx) -> Result<u64, Failed> {
        let inside = index.0 < self.sectors;
        inside.then(|| self.first_sector + u64::from(index.0)).ok_or_else(|| Failed("beyond the slice".into()))
    }
}

impl BlockDevice for Slice {
    type Error = Failed;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), Failed> {
        for (block, index) in blocks.iter_mut().zip(start.0..) {
            self.disk.read(self.sector(BlockIdx(index))?, &mut block.contents)?;
        }
        Ok(())
    }

    fn write(&self, blocks: &[Block], start: BlockIdx) -> Result<(), Failed> {
        for (block, index) in blocks.iter().zip(start.0..) {
            self.disk.write(self.sector(BlockIdx(index))?, &block.contents)?;
        }
        Ok(())
    }

    fn num_blocks(&self) -> Result<BlockCount, Failed> {
        Ok(BlockCount(self.sectors))
    }
}

/// How many files can be open at once on one volume.
const MAX_FILES: usize = 8;

/// A mounted volume, the first partition of its slice.
pub(crate) struct Volume {
    manager: VolumeManager<Slice, Clock, 2, MAX_FILES, 1>,
    root: RawDirectory,
}

impl Volume {
    /// Mounts the volume.
    pub(crate) fn mount(slice: Slice) -> anyhow::Result<Self> {
        let manager = VolumeManager::new_with_limits(slice, Clock, 0);
        let volume = manager.open_raw_volume(VolumeIdx(0)).context("mounting")?;
        let root = manager.open_root_dir(volume).context("opening the root directory")?;
        Ok(Self { manager, root })
    }

    /// Opens a file in the root directory by its short name.
    pub(crate) fn open(&self, name: &str, mode: Mode) -> anyhow::Result<RawFile> {
        self.manager.open_file_in_dir(self.root, name, mode).with_context(|| format!("opening {name}"))
    }

    /// Appends to a file, or overwrites from where it is.
    pub(crate) fn write(&self, file: RawFile, bytes: &[u8]) -> anyhow::Result<()> {
        self.manager.write(file, bytes).context("writing")
    }

    /// Reads from where the file is, until the buffer is full.
    pub(crate) fn read(&self, file: RawFile, buffer: &mut [u8]) -> anyhow::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let bytes = self.manager.read(file, &mut buffer[filled..]).context("reading")?;
            ensure!(bytes > 0, "the file ends after {filled} bytes, expected {}", buffer.len());
            filled += bytes;
        }
        Ok(())
    }

    /// Closes a file, and writes what is left to write.
    pub(crate) fn close(&self, file: RawFile) -> anyhow::Result<()> {
        self.manager.close_file(file).context("closing")
    }
}

/// The time that is noted on written files. The machine has no calendar that this kernel knows of.
struct Clock;

impl TimeSource for Clock {
    fn get_timestamp(&self) -> Timestamp {
        Timestamp { year_since_1970: 56, zero_indexed_month: 0, zero_indexed_day: 0, hours: 0, minutes: 0, seconds: 0 }
    }
}
