//! The disk, with the kernel's numbers for errors.

use core::fmt;

use virtio_blk::{FeatureSet, Info, Options, SECTOR_BYTES};
use virtio_blk_threads::{Lock, Polling, SendTransport, SharedDisk, Sleep};
use virtio_transport::{DeviceType, MemoryMapped, Mmio, ProbeError, Region, SpinLimit, Transport};

use crate::errno::Errno;
use crate::frames::{FrameMemory, Frames};

/// As many bytes of registers as a driver for a disk uses.
const WINDOW_BYTES: u64 = 0x200;

/// How often the acknowledgement of the first reset is looked for.
const RESET_LOOKS: u64 = 1 << 24;

/// What is asked of virtio-blk: 64 requests at once, each in 32 pieces of memory. That is 9 frames.
const OPTIONS: Options = Options {
    require: FeatureSet::NONE,
    forbid: FeatureSet::NONE,
    opt_in: FeatureSet::NONE,
    queue_size: 64,
    segments: 32,
    queues: 1,
    waiters: 0,
};

/// A disk, for any number of tasks at the same time.
///
/// `K` is the kernel, `S` how its tasks wait: [`Polling`], or [`Sleeping`](crate::Sleeping). An error's details are in
/// the kernel's log; what is returned is the number for processes.
pub struct Disk<K: Frames + Lock, S: Sleep = Polling, T: SendTransport = Mmio<MemoryMapped>> {
    shared: SharedDisk<T, FrameMemory<K>, K, S>,
}

impl<K: Frames + Lock, S: Sleep + Default> Disk<K, S> {
    /// Opens the disk whose registers are mapped at `base_addr`, legacy or modern.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: nothing is there, or no disk, or it did not come up.
    ///
    /// # Safety
    ///
    /// The 512 bytes from there are registers of a virtio-mmio device or an empty slot, and no other driver uses them
    /// as long as the disk exists.
    pub unsafe fn open(base_addr: usize) -> Result<Self, OpenError> {
        let region = Region { address: base_addr as u64, bytes: WINDOW_BYTES };
        // SAFETY: as the caller promises.
        match unsafe { Mmio::open(&region) } {
            Ok(Some(transport)) if transport.device_type() == DeviceType::BLOCK => {
                Self::new(transport, S::default(), &OPTIONS)
            }
            Ok(other) => Err(OpenError::NoDisk { base_addr, found: other.map(|other| other.device_type()) }),
            Err(error) => Err(OpenError::Probe { base_addr, error }),
        }
    }
}

impl<K: Frames + Lock, S: Sleep, T: SendTransport> Disk<K, S, T> {
    /// Opens the disk behind a transport that the kernel has found by itself.
    ///
    /// # Errors
    ///
    /// [`OpenError::Disk`].
    pub fn new(transport: T, sleep: S, options: &Options) -> Result<Self, OpenError> {
        let patience = &mut SpinLimit { looks: RESET_LOOKS };
        let shared = SharedDisk::open(transport, FrameMemory::new(), sleep, options, patience)?;
        Ok(Self { shared })
    }

    /// What the disk says of itself.
    pub fn info(&self) -> Info {
        self.shared.info()
    }

    /// Lets tasks sleep from now on, as the disk's interrupt now leads to [`handle_irq`](Disk::handle_irq).
    pub fn use_interrupts(&self) {
        self.shared.use_interrupts();
    }

    /// Acknowledges the disk's interrupt, takes note of every request that has ended, and wakes the tasks that wait. One
    /// that comes for nothing does no harm.
    pub fn handle_irq(&self) {
        self.shared.handle_interrupt();
    }

    /// Reads from the byte `offset` on, until the buffer is full or the disk ends. Returns how many bytes those are: 0
    /// behind the end.
    ///
    /// # Errors
    ///
    /// [`Errno`].
    #[inline]
    pub fn read(&self, buf: &mut [u8], offset: usize) -> Result<usize, Errno> {
        match self.shared.read_at(offset as u64, buf) {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(failed("read", offset, buf.len(), &error)),
        }
    }

    /// Writes from the byte `offset` on, until the buffer or the disk ends. Returns how many bytes those are.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOSPC`] if there is none. [`Errno`].
    #[inline]
    pub fn write(&self, buf: &[u8], offset: usize) -> Result<usize, Errno> {
        match self.shared.write_at(offset as u64, buf) {
            Ok(0) if !buf.is_empty() => Err(Errno::ENOSPC),
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(failed("write", offset, buf.len(), &error)),
        }
    }

    /// Reads from a sector on, as many sectors as the buffer is long.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`] where not all of them are on the disk, or the length is no number of sectors. [`Errno`].
    pub fn read_block(&self, block_id: usize, buf: &mut [u8]) -> Result<(), Errno> {
        let offset = self.offset(block_id, buf.len())?;
        self.read(buf, offset).map(drop)
    }

    /// Writes from a sector on, as many sectors as the buffer is long.
    ///
    /// # Errors
    ///
    /// Those of [`read_block`](Disk::read_block), and [`Errno::EROFS`].
    pub fn write_block(&self, block_id: usize, buf: &[u8]) -> Result<(), Errno> {
        let offset = self.offset(block_id, buf.len())?;
        if buf.is_empty() { Ok(()) } else { self.write(buf, offset).map(drop) }
    }

    /// The size in bytes.
    pub fn size(&self) -> usize {
        usize::try_from(self.shared.size_bytes()).unwrap_or(usize::MAX)
    }

    /// The size in sectors of 512 bytes.
    pub fn capacity(&self) -> usize {
        self.size() / SECTOR_BYTES
    }

    /// Makes all writes that have returned safe from a power cut.
    ///
    /// # Errors
    ///
    /// [`Errno::EIO`]: nothing is known of the writes since the last flush that was `Ok`.
    pub fn flush(&self) -> Result<(), Errno> {
        self.shared.flush().map_err(|error| failed("flush", 0, 0, &error))
    }

    /// Where a sector starts, if so many bytes from there are sectors of the disk.
    fn offset(&self, block_id: usize, bytes: usize) -> Result<usize, Errno> {
        let capacity = self.capacity();
        let inside = block_id <= capacity && bytes / SECTOR_BYTES <= capacity - block_id;
        if bytes % SECTOR_BYTES == 0 && inside {
            return Ok(block_id * SECTOR_BYTES);
        }
        log::warn!(
            "virtio disk: {bytes} bytes from sector {block_id} on, of {capacity} sectors of {SECTOR_BYTES} bytes"
        );
        Err(Errno::EINVAL)
    }
}

/// Logs an error, and says what processes are told.
#[cold]
#[inline(never)]
fn failed(what: &str, offset: usize, bytes: usize, error: &virtio_blk::Error) -> Errno {
    let errno = Errno::from(*error);
    log::error!("virtio disk: {what} of {bytes} bytes at byte {offset}: {error} ({errno:?})");
    errno
}

impl<K: Frames + Lock, S: Sleep, T: SendTransport> fmt::Debug for Disk<K, S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("sectors", &self.capacity()).finish_non_exhaustive()
    }
}

/// Why there is no disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// There are no registers of a virtio device.
    Probe {
        /// The address.
        base_addr: usize,
        /// What is there.
        error: ProbeError,
    },
    /// The slot is empty, or belongs to a device of another type.
    NoDisk {
        /// The address.
        base_addr: usize,
        /// What the device is; `None` for an empty slot.
        found: Option<DeviceType>,
    },
    /// The disk did not come up.
    Disk(virtio_blk::OpenError),
}

impl From<virtio_blk::OpenError> for OpenError {
    fn from(error: virtio_blk::OpenError) -> Self {
        Self::Disk(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe { base_addr, error } => write!(f, "at {base_addr:#x}: {error}"),
            Self::NoDisk { base_addr, found: Some(found) } => {
                write!(f, "the device at {base_addr:#x} is {found:?}, expected a disk")
            }
            Self::NoDisk { base_addr, found: None } => write!(f, "the slot at {base_addr:#x} is empty"),
            Self::Disk(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for OpenError {}
