//! The kernel's part of the adapter, twice: for easy-fs and for rcore-fs.

use virtio_blk_rcore::{Disk, OpenError};

use super::{
    mini::volume::{Failed, Sectors},
    services::{Condvar, TaskContext, UPIntrFreeCell, VirtioHal, schedule, tasks_run},
    traits::{
        dev,
        easy_fs::{self, BlockDevice as _},
    },
};

virtio_blk_rcore::kernel! {
    /// This kernel's services.
    pub(super) struct Os;
    // SAFETY: its pages are contiguous, and its addresses those of the kernel's page table.
    unsafe memory: VirtioHal;
    cell: UPIntrFreeCell;
    condvar: Condvar;
    schedule: schedule, TaskContext;
    sleeps: tasks_run();
}

virtio_blk_rcore::easy_fs! {
    /// The disk as easy-fs wants it.
    pub(super) struct EasyDisk(Os): easy_fs::BlockDevice, handle_irq;
    failed: |error| panic!("the disk failed: {error}");
}

virtio_blk_rcore::rcore_fs! {
    /// The disk as rcore-fs wants it.
    pub(super) struct RcoreFsDisk(Os): dev;
}

impl EasyDisk {
    /// Opens the disk where QEMU has its first virtio device.
    pub(super) fn open() -> Result<Self, OpenError> {
        // SAFETY: the registers of a virtio device, which nobody else uses.
        Ok(Self(unsafe { Disk::open(0x1000_8000) }?))
    }
}

impl RcoreFsDisk {
    /// Opens the disk that the device tree names, and says which interrupt it has.
    pub(super) fn find(device_tree: &[u8]) -> Result<(Self, Option<u32>), OpenError> {
        // SAFETY: device registers are mapped, and nobody else uses them.
        let (disk, interrupt) = unsafe { Disk::find(device_tree) }?;
        Ok((Self(disk), interrupt))
    }
}

impl Sectors for EasyDisk {
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Failed> {
        self.read_block(sector as usize, buffer);
        Ok(())
    }

    fn write(&self, sector: u64, buffer: &[u8]) -> Result<(), Failed> {
        self.write_block(sector as usize, buffer);
        Ok(())
    }

    fn sync(&self) -> Result<(), Failed> {
        // The trait has no such call; the disk has.
        self.0.flush().map_err(|error| Failed(alloc::format!("{error}")))
    }
}

impl Sectors for RcoreFsDisk {
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Failed> {
        dev::BlockDevice::read_at(self, block(sector), buffer).map_err(failed)
    }

    fn write(&self, sector: u64, buffer: &[u8]) -> Result<(), Failed> {
        dev::BlockDevice::write_at(self, block(sector), buffer).map_err(failed)
    }

    fn sync(&self) -> Result<(), Failed> {
        dev::BlockDevice::sync(self).map_err(failed)
    }
}

/// Which block of an rcore-fs disk a sector is.
fn block(sector: u64) -> usize {
    (sector as usize * 512) >> <RcoreFsDisk as dev::BlockDevice>::BLOCK_SIZE_LOG2
}

fn failed(_: dev::DevError) -> Failed {
    Failed("the disk failed; the log says how".into())
}
