//! The kernel's part of the adapter: its services, and a disk whose tasks poll and one whose tasks sleep.

use alloc::{format, sync::Arc};
use core::sync::atomic::{AtomicU64, Ordering};

use virtio_blk_alien::{Disk, Frames, Lock, Sleeping, Tasks};

use super::{
    mini::{
        memory::{self, PAGE},
        volume::{Failed, Sectors},
    },
    services::{
        arch, ksync, mem,
        shim::{self, KTask},
        tasks_run,
    },
    traits::{
        constants::LinuxErrno,
        device_interface::{self, BlockDevice, LowBlockDevice},
    },
};

/// How often a task has slept.
pub(super) static SLEPT: AtomicU64 = AtomicU64::new(0);

/// This kernel.
pub(super) struct Alien;

// SAFETY: contiguous pages that nobody else has, and the page table that the processor uses.
unsafe impl Frames for Alien {
    fn alloc_frames(count: usize) -> *mut u8 {
        mem::alloc_frames(count)
    }

    unsafe fn free_frames(start: *mut u8, count: usize) {
        // SAFETY: as the caller promises.
        unsafe { mem::free_frames(start, count) }
    }

    fn translate(address: usize, bytes: usize) -> Option<(usize, usize)> {
        Some((memory::virt_to_phys(address)?, bytes.min(PAGE - address % PAGE)))
    }
}

impl Lock for Alien {
    type Mutex<V: Send> = ksync::Mutex<V>;

    fn new<V: Send>(value: V) -> ksync::Mutex<V> {
        ksync::Mutex::new(value)
    }

    fn with<V: Send, R>(mutex: &ksync::Mutex<V>, body: impl FnOnce(&mut V) -> R) -> R {
        body(&mut mutex.lock())
    }
}

impl Tasks for Alien {
    type Task = Arc<dyn KTask>;

    fn may_sleep() -> bool {
        tasks_run() && ksync::held() == 1
    }

    fn take_current_task() -> Option<Arc<dyn KTask>> {
        shim::take_current_task()
    }

    fn to_wait(task: &Arc<dyn KTask>) {
        task.to_wait();
    }

    fn schedule_now(task: Arc<dyn KTask>) {
        SLEPT.fetch_add(1, Ordering::Relaxed);
        shim::schedule_now(task);
    }

    fn wake(task: Arc<dyn KTask>) {
        task.to_wakeup();
        shim::put_task(task);
    }

    fn interrupts_off() -> bool {
        let were_on = arch::is_interrupt_enable();
        arch::interrupt_disable();
        were_on
    }

    fn interrupts_on() {
        arch::interrupt_enable();
    }
}

virtio_blk_alien::block_device! {
    /// The disk, whose tasks look until it is done.
    pub(super) struct PollingDisk(Disk<Alien>);
    errors: LinuxErrno;
    traits: device_interface;
}

virtio_blk_alien::block_device! {
    /// The disk, whose tasks sleep until it is done.
    pub(super) struct SleepingDisk(Disk<Alien, Sleeping<Alien>>);
    errors: LinuxErrno;
    traits: device_interface;
}

/// A disk behind both of the kernel's interfaces: single sectors through the one, more through the other.
pub(super) struct Both<D>(pub(super) D);

impl<D: BlockDevice + LowBlockDevice> Sectors for Both<D> {
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Failed> {
        let (sector, bytes) = (sector as usize, buffer.len());
        if bytes == 512 {
            self.0.read_block(sector, buffer).map_err(failed)
        } else {
            whole(self.0.read(buffer, sector * 512), bytes)
        }
    }

    fn write(&self, sector: u64, buffer: &[u8]) -> Result<(), Failed> {
        let (sector, bytes) = (sector as usize, buffer.len());
        if bytes == 512 {
            self.0.write_block(sector, buffer).map_err(failed)
        } else {
            whole(self.0.write(buffer, sector * 512), bytes)
        }
    }

    fn sync(&self) -> Result<(), Failed> {
        BlockDevice::flush(&self.0).map_err(failed)
    }
}

#[cold]
#[inline(never)]
fn failed(errno: LinuxErrno) -> Failed {
    Failed(format!("{errno:?} ({})", errno as isize))
}

/// Less than all is an error here.
fn whole(done: Result<usize, LinuxErrno>, bytes: usize) -> Result<(), Failed> {
    match done {
        Ok(done) if done == bytes => Ok(()),
        Ok(_) => Err(less()),
        Err(errno) => Err(failed(errno)),
    }
}

#[cold]
#[inline(never)]
fn less() -> Failed {
    Failed("the disk ended too soon".into())
}
