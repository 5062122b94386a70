//! What this kernel is made of, and what it does: eight tasks use the disk at once.

#[path = "../kernel/boot.rs"]
mod boot;
#[macro_use]
#[path = "../kernel/console.rs"]
mod console;
mod disks;
#[path = "../mini/mod.rs"]
#[allow(dead_code, reason = "this kernel uses a part of it")]
mod mini;
#[allow(dead_code, reason = "this kernel uses a part of it")]
#[path = "../kernel/panic.rs"]
mod panic;
mod parts;
#[path = "../kernel/plic.rs"]
mod plic;
#[path = "../kernel/power.rs"]
mod power;
mod services;
#[allow(dead_code, reason = "this kernel uses a part of it")]
#[path = "../kernel/time.rs"]
mod time;
mod traits;
#[allow(dead_code, reason = "this kernel uses a part of it")]
#[path = "../kernel/trap.rs"]
mod trap;

use core::sync::atomic::Ordering;

use anyhow::{Context, bail, ensure};
use spin::Once;
use testing_guest::{Arguments, Report, slices::DISK_SECTORS};
use virtio_blk_alien::{Disk, OpenError, Sleep, probe_virtio};

use disks::{Alien, Both, PollingDisk, SLEPT, SleepingDisk};
use mini::{
    memory::BOOT_STACK_BYTES,
    metered::{Metered, Peak},
    stack,
};
use traits::device_interface::{BlockDevice, DeviceBase, LowBlockDevice};

// The shared modules know them by these paths.
use mini::{harts, interrupts};

/// The disk, for the interrupt handler.
static DISK: Once<&'static dyn DeviceBase> = Once::new();

/// What the interrupt handler needs of the stack for traps.
static IRQ: Peak = Peak::new();

unsafe extern "C" {
    /// Where the stack for traps begins, which is the end of the one that the kernel boots on; only its address means
    /// something.
    static __stack_top: u8;
}

/// The first Rust code, called by [`boot`].
extern "C" fn main(_hart: usize, device_tree: *const u8) -> ! {
    mini::machine::run(device_tree, work)
}

fn work(arguments: &Arguments, device_tree: &[u8]) -> anyhow::Result<()> {
    match arguments.demo.as_str() {
        "alien" => {
            let (disk, interrupt) = find(device_tree, PollingDisk)?;
            static POLLING: Once<Metered<Both<PollingDisk>>> = Once::new();
            let disk = POLLING.call_once(|| Metered::new(Both(disk)));
            // It comes for nothing, if it comes at all.
            attach(interrupt, &disk.disk().0)?;
            tasks(disk, arguments.seed)?;
            ensure!(SLEPT.load(Ordering::Relaxed) == 0, "a task slept");
        }
        "alien-sleep" => {
            let (disk, interrupt) = find(device_tree, SleepingDisk)?;
            static SLEEPING: Once<Metered<Both<SleepingDisk>>> = Once::new();
            let disk = SLEEPING.call_once(|| Metered::new(Both(disk)));
            attach(interrupt, &disk.disk().0)?;
            disk.disk().0.0.use_interrupts();
            tasks(disk, arguments.seed)?;
        }
        "alien-read" => {
            let (disk, interrupt) = find(device_tree, PollingDisk)?;
            static READ: Once<PollingDisk> = Once::new();
            let disk = READ.call_once(|| disk);
            attach(interrupt, disk)?;
            parts::long_read(disk)?;
            return until_counted(disk);
        }
        other => bail!("demo={other}: this kernel knows alien, alien-sleep and alien-read"),
    }
    IRQ.report("handle_irq");
    Ok(())
}

/// Opens the first disk of the device tree, and measures how much of the stack that needs. Returns it with the number of
/// its interrupt.
fn find<S: Sleep + Default, D>(device_tree: &[u8], wrap: impl FnOnce(Disk<Alien, S>) -> D) -> anyhow::Result<(D, u32)> {
    let peak = Peak::new();
    for slot in probe_virtio(device_tree).ok().context("the device tree is damaged")? {
        // SAFETY: device registers are mapped at their physical address, and nobody else uses them.
        let open = || unsafe { Disk::open(slot.base_addr) };
        match peak.measure(stack::pointer() - BOOT_STACK_BYTES, open) {
            Ok(disk) => {
                peak.report("open");
                report!(Report::Disk { address: slot.base_addr as u64, capacity_sectors: disk.capacity() as u64 });
                return Ok((wrap(disk), slot.irq as u32));
            }
            Err(OpenError::NoDisk { .. }) => {}
            Err(error) => bail!("{} ({}): {error}", slot.name, slot.compatible),
        }
    }
    bail!("no virtio,mmio slot of the device tree has a disk")
}

/// Lets the disk's interrupt lead to the disk.
fn attach(interrupt: u32, disk: &'static dyn DeviceBase) -> anyhow::Result<()> {
    DISK.call_once(|| disk);
    interrupts::attach(interrupt, || {
        if let Some(disk) = DISK.get() {
            IRQ.measure((&raw const __stack_top).addr(), || disk.handle_irq());
        }
    })
}

/// Uses the disk while the kernel boots, and then from tasks.
fn tasks<D>(disk: &'static Metered<Both<D>>, seed: u64) -> anyhow::Result<()>
where
    D: BlockDevice + LowBlockDevice + 'static,
{
    let device = &disk.disk().0;
    let capacity = device.capacity() as u64;
    ensure!(capacity == DISK_SECTORS, "the disk has {capacity} sectors, expected {DISK_SECTORS}");
    parts::end(device)?;

    services::TASKS_RUN.store(true, Ordering::Relaxed);
    parts::interleaved(device, seed)?;
    mini::work::run(disk, seed)?;
    disk.report();
    until_counted(device)
}

/// Waits until the host has counted the requests, and has made the disk larger as a sign of it.
fn until_counted(disk: &dyn LowBlockDevice) -> anyhow::Result<()> {
    let old = disk.capacity();
    let deadline = time::Deadline::patient();
    report!(Report::Waiting { capacity_sectors: old as u64 });
    while disk.capacity() == old {
        ensure!(!deadline.has_passed(), "the disk has not changed its size");
    }
    report!(Report::Resized { old_sectors: old as u64, new_sectors: disk.capacity() as u64 });
    Ok(())
}
