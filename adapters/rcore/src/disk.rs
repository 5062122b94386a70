//! A disk that tasks share.

use core::ptr::{self, NonNull};

use virtio_blk::{Error, Options};
use virtio_blk_threads::{SendTransport, SharedDisk};
use virtio_transport::{DeviceTree, DeviceType, MemoryMapped, Mmio, ProbeError, SpinLimit, Transport};

use crate::error::OpenError;
use crate::kernel::{Dma, Kernel, Tasks};
use crate::memory::DmaMemory;
use crate::waiting::{CellLock, Sleeping};

/// What is asked of virtio-blk: a table of 16 segments for each of 32 requests, in pages of the kernel.
const OPTIONS: Options = Options {
    require: virtio_blk::FeatureSet::NONE,
    forbid: virtio_blk::FeatureSet::NONE,
    opt_in: virtio_blk::FeatureSet::NONE,
    queue_size: 32,
    segments: 16,
    queues: 1,
    waiters: 0,
};

/// How long the reset at the start is waited for.
const PATIENCE: SpinLimit = SpinLimit { looks: 1 << 24 };

/// The length of the registers of a virtio-mmio device on QEMU's `virt` machine, configuration space included.
const WINDOW_BYTES: usize = 0x200;

/// A disk that tasks share.
///
/// Its calls block. They take buffers of any number of sectors, wherever they lie: on the heap, on a stack, across pages
/// that are not contiguous. What the device reads and writes beside them, the request's header and its status, lies in
/// the queue's own memory.
///
/// A device that breaks the rules is reset, and asked again for what was in flight: the calls notice nothing, but a flush
/// fails, as what it would have made safe is in doubt. Only a request at which the device fails again and again is an
/// error. A device that neither answers nor acknowledges a reset keeps those who wait: it has their buffers.
pub struct Disk<K: Kernel, T: SendTransport = Mmio<MemoryMapped>> {
    shared: SharedDisk<T, DmaMemory<K::Memory>, CellLock<K>, Sleeping<K>>,
}

impl<K: Kernel> Disk<K> {
    /// Opens the disk whose registers are at this physical address. On QEMU's `virt` machine the first device is at
    /// 0x1000_8000, and its interrupt is number 8.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: nothing is there, or no disk, or it did not come up.
    ///
    /// # Safety
    ///
    /// The 512 bytes from there, where [`Dma::phys_to_virt`] says that they are mapped, are device registers or nothing,
    /// and no other driver uses them as long as the disk exists.
    pub unsafe fn open(physical: usize) -> Result<Self, OpenError> {
        // SAFETY: as the caller promises.
        Self::new(unsafe { probe::<K>(physical, WINDOW_BYTES) }?)
    }

    /// Opens the first disk of a device tree. Returns it with the number of its interrupt, if the tree has one.
    ///
    /// # Errors
    ///
    /// [`OpenError::DeviceTree`]; [`OpenError::NoDisk`]; [`OpenError::Disk`] when it did not come up.
    ///
    /// # Safety
    ///
    /// As for [`open`](Disk::open), for all devices of kind `virtio,mmio` in the tree. Those that are no disks are looked
    /// at, and left as they are.
    pub unsafe fn find(device_tree: &[u8]) -> Result<(Self, Option<u32>), OpenError> {
        // SAFETY: as the caller promises.
        let (transport, number) = unsafe { first_disk::<K>(device_tree) }?;
        Ok((Self::new(transport)?, number))
    }
}

/// The first disk of a device tree. By itself, so that it is not on the stack when the disk is opened.
///
/// # Safety
///
/// As for [`Disk::find`].
#[inline(never)]
unsafe fn first_disk<K: Kernel>(device_tree: &[u8]) -> Result<(Mmio<MemoryMapped>, Option<u32>), OpenError> {
    let tree = DeviceTree::parse(device_tree).map_err(|_| OpenError::DeviceTree)?;
    for node in tree.virtio_mmio().flatten() {
        let (Ok(address), Ok(bytes)) = (usize::try_from(node.region.address), usize::try_from(node.region.bytes))
        else {
            continue;
        };
        // SAFETY: as the caller promises.
        match unsafe { probe::<K>(address, bytes) } {
            Ok(transport) => return Ok((transport, node.interrupt.and_then(|interrupt| interrupt.number()))),
            Err(OpenError::NotADisk { .. }) => {}
            Err(error) => log::warn!("{}: {error}", node.name),
        }
    }
    Err(OpenError::NoDisk)
}

/// Looks at the registers at a physical address.
///
/// # Safety
///
/// They are mapped, and nobody else uses them.
unsafe fn probe<K: Kernel>(address: usize, bytes: usize) -> Result<Mmio<MemoryMapped>, OpenError> {
    let mapped = K::Memory::phys_to_virt(address);
    let bad_address = OpenError::Probe { address, error: ProbeError::BadAddress { address: address as u64 } };
    let base = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(mapped));
    let base = base.filter(|_| mapped % size_of::<u32>() == 0).ok_or(bad_address)?;
    // SAFETY: as the caller promises; aligned, as was just checked.
    let window = unsafe { MemoryMapped::new(base, bytes) };
    match Mmio::probe(window) {
        Ok(Some(transport)) if transport.device_type() == DeviceType::BLOCK => Ok(transport),
        Ok(other) => Err(OpenError::NotADisk { address, found: other.map(|other| other.device_type()) }),
        Err(error) => Err(OpenError::Probe { address, error }),
    }
}

impl<K: Kernel, T: SendTransport> Disk<K, T> {
    /// Opens the disk behind a transport that the kernel has found by itself.
    ///
    /// # Errors
    ///
    /// [`OpenError::Disk`].
    pub fn new(transport: T) -> Result<Self, OpenError> {
        let shared = SharedDisk::open(transport, DmaMemory::new(), Sleeping::new(), &OPTIONS, &mut PATIENCE.clone())?;
        if K::Tasks::INTERRUPTS {
            shared.use_interrupts();
        }
        Ok(Self { shared })
    }

    /// The size in sectors of 512 bytes.
    pub fn capacity_sectors(&self) -> u64 {
        self.shared.info().capacity_sectors
    }

    /// Reads from `sector` on, as many sectors as the buffer is long.
    ///
    /// # Errors
    ///
    /// Those of [`virtio_blk::Disk::read`]: a range that is not on the disk, a length that is no whole number of blocks;
    /// or what the device says. After an error of the device, parts of the buffer may have been filled.
    pub fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.shared.read(sector, buffer)
    }

    /// Writes from `sector` on, as many sectors as the buffer is long. After [`flush`](Disk::flush) it is safe from a
    /// power cut.
    ///
    /// # Errors
    ///
    /// Those of [`virtio_blk::Disk::write`]. After an error of the device, any of the sectors may have been written.
    pub fn write(&self, sector: u64, buffer: &[u8]) -> Result<(), Error> {
        self.shared.write(sector, buffer)
    }

    /// Makes all writes that have returned safe from a power cut. A disk that has no cache has nothing to do.
    ///
    /// # Errors
    ///
    /// What the device says: then nothing is known of the writes since the last flush that was `Ok`.
    pub fn flush(&self) -> Result<(), Error> {
        self.shared.flush()
    }

    /// What the kernel's interrupt handler calls for the disk's interrupt, between claiming it and completing it.
    /// Acknowledges it, and wakes the tasks whose requests have ended. An interrupt that has no reason does no harm.
    pub fn handle_irq(&self) {
        self.shared.handle_interrupt();
    }
}
