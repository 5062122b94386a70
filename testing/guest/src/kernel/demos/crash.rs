//! A kernel that panics in the worst moment, and writes its last words to the disk.
//!
//! Requests are in flight, and the locks of the disk and of the heap are held for ever: nothing of the time before can
//! be used. See "After a panic" in `docs/waiting.md`.

use alloc::{boxed::Box, vec, vec::Vec};
use core::{
    mem,
    ptr::NonNull,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use anyhow::Context;
use spin::{Mutex, Once};
use testing_guest::{Arguments, PREFIX, Report, dump};
use virtio_blk::{Error, OpenError, Options};
use virtio_transport::SpinLimit;
use virtqueue::{Memory, MemoryError, PageRequest, Pages, Piece};

use crate::kernel::{
    devices::{self, DiskOwning},
    memory,
    place::{Device, Place},
};

/// The disk, as a kernel has it.
static DISK: Mutex<Option<DiskOwning<Box<[u8]>>>> = Mutex::new(None);

/// What is needed after a panic is known before: where the disk is, and what to write.
static PLACE: Once<Place<'static>> = Once::new();
static SEED: AtomicU64 = AtomicU64::new(0);

/// Puts requests in flight and panics, with locks held.
pub(super) fn run(arguments: &Arguments, device_tree: &[u8]) -> anyhow::Result<()> {
    // What is needed after a panic is never freed.
    let places = devices::find_disks(Vec::leak(device_tree.to_vec()))?;
    let place = places.first().context("the machine has no disk")?;
    let mut disk: DiskOwning<Box<[u8]>> = place.open_with(&Options::default())?;
    place.use_interrupts(&mut disk)?;
    report!(Report::Disk { address: place.address(), capacity_sectors: disk.info().capacity_sectors });

    PLACE.call_once(|| place.place());
    SEED.store(arguments.seed, Ordering::Relaxed);
    crate::kernel::panic::before_the_end(last_words);

    let mut slot = DISK.lock();
    let disk = slot.insert(disk);
    for index in 0..32 {
        let sector = 1024 + 8 * index;
        let buffer = vec![0; 4096].into_boxed_slice();
        let queue = disk.queue();
        let submitted =
            if index % 2 == 0 { queue.submit_read(sector, buffer) } else { queue.submit_write(sector, buffer) };
        submitted.map_err(|rejected| rejected.error).context("submitting")?;
    }
    disk.queue().commit();
    println!("{} requests are in flight", disk.queue().in_flight());
    mem::forget(slot);
    memory::seize();
    panic!("this panic is wanted: demo=crash");
}

/// Opens the disk once more, and writes one sector by polling. It takes no lock and allocates nothing.
fn last_words() {
    match write_dump() {
        // As the other reports, but without the allocator, which is lost.
        Ok(()) => println!("{PREFIX}{{\"dumped\":{{\"sector\":{}}}}}", dump::SECTOR),
        Err(error) => println!("the dump failed: {error}"),
    }
}

fn write_dump() -> Result<(), DumpError> {
    // Once more, with a transport of its own. After the panic, on the only processor, nobody else drives the device.
    let transport = PLACE.get().and_then(|place| place.look().ok().flatten()).ok_or(DumpError::Gone)?;
    let options = Options { queue_size: 4, segments: 2, waiters: 0, ..Options::default() };
    let mut disk: virtio_blk::Disk<Device, SetAside> =
        virtio_blk::Disk::open(transport, SetAside, &options, &mut SpinLimit { looks: 1 << 20 })?;
    let contents = dump::contents(SEED.load(Ordering::Relaxed));
    disk.write(dump::SECTOR, &contents, &mut SpinLimit { looks: 1 << 30 })?;
    Ok(())
}

/// Why there is no dump.
enum DumpError {
    Gone,
    Open(OpenError),
    Write(Error),
}

impl From<OpenError> for DumpError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<Error> for DumpError {
    fn from(error: Error) -> Self {
        Self::Write(error)
    }
}

impl core::fmt::Display for DumpError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Gone => write!(f, "the device is not there any more"),
            Self::Open(error) => write!(f, "{error}"),
            Self::Write(error) => write!(f, "{error}"),
        }
    }
}

/// Memory for one queue of four entries, that nobody has used before.
#[derive(Clone, Copy)]
struct SetAside;

const POOL_BYTES: usize = 32 << 10;

#[repr(align(4096))]
struct Pool(core::cell::UnsafeCell<[u8; POOL_BYTES]>);

// SAFETY: it is handed out piece by piece, each once, to the one processor that runs after a panic.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(core::cell::UnsafeCell::new([0; POOL_BYTES]));
/// How much of the pool is handed out.
static POOL_USED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the pieces do not overlap, are zeroed as the pool was never used, and are never taken back. Addresses are
// physical ones.
unsafe impl Memory for SetAside {
    const UNMAPS: bool = false;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        let start = POOL_USED.load(Ordering::Relaxed).next_multiple_of(request.align.max(1));
        let end = start.checked_add(request.bytes).filter(|&end| end <= POOL_BYTES).ok_or(MemoryError::OutOfMemory)?;
        POOL_USED.store(end, Ordering::Relaxed);
        // SAFETY: inside the pool, which is aligned to whatever a queue asks for, and is at no address 0.
        let start = unsafe { NonNull::new_unchecked(POOL.0.get().cast::<u8>().add(start)) };
        Ok(Pages { start, device_address: start.addr().get() as u64 })
    }

    unsafe fn free(&self, _: Pages, _: &PageRequest) {}

    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        Ok(Piece { device_address: start.addr().get() as u64, bytes })
    }
}
