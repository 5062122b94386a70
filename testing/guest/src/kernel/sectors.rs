//! A disk as the file system crate wants it: one sector of 512 bytes after the other, behind a partition table.

use alloc::{boxed::Box, vec};
use core::{cell::RefCell, fmt};

use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};
use virtio_blk::{Buffer, Error, Info};
use virtqueue::Memory;

use super::{devices::Disk, interrupts::asleep};

/// The contents of a sector.
pub(super) type Sector = [u8; 512];

/// A disk, whatever memory its driver has. Its calls sleep until the disk interrupts.
pub(super) trait Storage {
    /// What the disk says of itself.
    fn info(&self) -> &Info;
    /// Reads whole blocks.
    fn read(&mut self, sector: u64, buffer: &mut [u8]) -> Result<(), Error>;
    /// Writes whole blocks.
    fn write(&mut self, sector: u64, buffer: &[u8]) -> Result<(), Error>;
}

impl<M: Memory, B: Buffer> Storage for Disk<M, B> {
    fn info(&self) -> &Info {
        self.info()
    }

    fn read(&mut self, sector: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.read(sector, buffer, &mut asleep())
    }

    fn write(&mut self, sector: u64, buffer: &[u8]) -> Result<(), Error> {
        self.write(sector, buffer, &mut asleep())
    }
}

/// A disk that others use too, in turns.
pub(super) struct Sectors<'d> {
    disk: &'d RefCell<dyn Storage>,
    /// A partition table that is shown in front of the disk's first sector and is not on the disk: everything else is
    /// one sector further back.
    table: Option<Box<Sector>>,
}

impl<'d> Sectors<'d> {
    /// The disk as it is.
    pub(super) fn new(disk: &'d RefCell<dyn Storage>) -> Self {
        Self { disk, table: None }
    }

    /// The disk as the one partition of a larger disk.
    pub(super) fn behind_a_partition_table(self) -> Self {
        let count = u32::try_from(self.disk.borrow().info().capacity_sectors).unwrap_or(u32::MAX);
        let mut table = Box::new([0; 512]);
        // The first of the four entries: status and first sector in the old units, type (FAT32, but FAT16 is found as
        // well), last sector in the old units, first sector, number of sectors.
        table[446 + 4] = 0x0c;
        table[446 + 8..446 + 12].copy_from_slice(&1_u32.to_le_bytes());
        table[446 + 12..446 + 16].copy_from_slice(&count.to_le_bytes());
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        Self { table: Some(table), ..self }
    }

    /// Reads one sector of the disk itself.
    pub(super) fn read_one(&self, sector: u64) -> Result<Sector, Error> {
        let mut contents = [0; 512];
        self.with_block(sector, |disk, first, block, offset| {
            disk.read(first, block)?;
            contents.copy_from_slice(&block[offset..offset + 512]);
            Ok(())
        })?;
        Ok(contents)
    }

    /// Writes one sector of the disk itself.
    fn write_one(&self, sector: u64, contents: &Sector) -> Result<(), Error> {
        self.with_block(sector, |disk, first, block, offset| {
            // A disk with larger blocks writes whole ones only: read what is around the sector.
            if block.len() > 512 {
                disk.read(first, block)?;
            }
            block[offset..offset + 512].copy_from_slice(contents);
            disk.write(first, block)
        })
    }

    /// Calls `work` with the disk, the first sector of the block that `sector` is in, room for that block, and where
    /// in it the sector is.
    fn with_block(
        &self,
        sector: u64,
        work: impl FnOnce(&mut dyn Storage, u64, &mut [u8], usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut disk = self.disk.borrow_mut();
        let sectors_per_block = u64::from(disk.info().block_bytes / 512);
        let within = sector % sectors_per_block;
        let first = sector - within;
        if sectors_per_block == 1 {
            work(&mut *disk, first, &mut [0; 512], 0)
        } else {
            work(&mut *disk, first, &mut vec![0; 512 * sectors_per_block as usize], 512 * within as usize)
        }
    }

    /// Where sector `index` of what is shown really is; `None` for the partition table.
    fn on_disk(&self, index: u32) -> Option<u64> {
        u64::from(index).checked_sub(u64::from(self.table.is_some()))
    }
}

impl BlockDevice for Sectors<'_> {
    type Error = SectorError;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), SectorError> {
        for (block, index) in blocks.iter_mut().zip(start.0..) {
            block.contents = match (self.on_disk(index), &self.table) {
                (Some(sector), _) => self.read_one(sector)?,
                (None, table) => table.as_ref().map_or([0; 512], |table| **table),
            };
        }
        Ok(())
    }

    fn write(&self, blocks: &[Block], start: BlockIdx) -> Result<(), SectorError> {
        for (block, index) in blocks.iter().zip(start.0..) {
            let sector = self.on_disk(index).ok_or(SectorError::PartitionTable)?;
            self.write_one(sector, &block.contents)?;
        }
        Ok(())
    }

    fn num_blocks(&self) -> Result<BlockCount, SectorError> {
        let count = self.disk.borrow().info().capacity_sectors + u64::from(self.table.is_some());
        Ok(BlockCount(u32::try_from(count).unwrap_or(u32::MAX)))
    }
}

/// Why a sector could not be read or written.
#[derive(Debug)]
pub(super) enum SectorError {
    /// The driver could not.
    Request(Error),
    /// It is the partition table that is not on the disk.
    PartitionTable,
}

impl From<Error> for SectorError {
    fn from(error: Error) -> Self {
        Self::Request(error)
    }
}

impl fmt::Display for SectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => write!(f, "{error}"),
            Self::PartitionTable => write!(f, "the partition table is not on the disk and cannot be written"),
        }
    }
}

impl core::error::Error for SectorError {}
