//! What this kernel is made of, and what it does: eight tasks use the disk at once.

#[path = "../kernel/boot.rs"]
mod boot;
#[macro_use]
#[path = "../kernel/console.rs"]
mod console;
mod disks;
#[path = "../mini/mod.rs"]
mod mini;
#[allow(dead_code, reason = "this kernel uses a part of it")]
#[path = "../kernel/panic.rs"]
mod panic;
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

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use anyhow::{Context, bail, ensure};
use spin::Once;
use testing_guest::{
    Arguments,
    slices::{DISK_SECTORS, slice},
};

use disks::{EasyDisk, RcoreFsDisk};
use mini::{
    memory::BOOT_STACK_BYTES,
    metered::{Metered, Peak},
    stack,
    volume::Sectors,
};
use traits::easy_fs::BlockDevice as _;

// The shared modules know them by these paths.
use mini::{harts, interrupts};

/// The disk, for the interrupt handler.
static EASY: Once<Metered<EasyDisk>> = Once::new();
static RCORE_FS: Once<Metered<RcoreFsDisk>> = Once::new();

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
        // As in rCore-Tutorial-v3: the address is known, the file system is easy-fs.
        "rcore" => {
            let disk = opened(EasyDisk::open)?;
            let disk = EASY.call_once(|| Metered::new(disk));
            interrupts::attach(8, || {
                if let Some(disk) = EASY.get() {
                    IRQ.measure(trap_stack(), || disk.disk().handle_irq());
                }
            })?;
            tasks(disk, disk.disk().0.capacity_sectors(), arguments.seed)?;
            disk.report();
        }
        // As in older kernels: the device tree is searched, the file system is over rcore-fs.
        "rcore-fs" => {
            let (disk, interrupt) = opened(|| RcoreFsDisk::find(device_tree))?;
            let disk = RCORE_FS.call_once(|| Metered::new(disk));
            interrupts::attach(interrupt.context("the device tree names no interrupt for the disk")?, || {
                if let Some(disk) = RCORE_FS.get() {
                    IRQ.measure(trap_stack(), || disk.disk().0.handle_irq());
                }
            })?;
            tasks(disk, disk.disk().0.capacity_sectors(), arguments.seed)?;
            disk.report();
        }
        other => bail!("demo={other}: this kernel knows rcore and rcore-fs"),
    }
    IRQ.report("handle_irq");
    Ok(())
}

/// Opens a disk, and measures how much of the stack that needs.
fn opened<D, E: core::error::Error + Send + Sync + 'static>(open: impl FnOnce() -> Result<D, E>) -> anyhow::Result<D> {
    let peak = Peak::new();
    let disk = peak.measure(stack::pointer() - BOOT_STACK_BYTES, open).context("opening the disk")?;
    peak.report("open");
    Ok(disk)
}

/// Uses the disk while the kernel boots, and then from tasks.
fn tasks(disk: &'static dyn Sectors, capacity_sectors: u64, seed: u64) -> anyhow::Result<()> {
    ensure!(capacity_sectors == DISK_SECTORS, "the disk has {capacity_sectors} sectors, expected {DISK_SECTORS}");
    // Each slice starts with a partition table.
    let mut table = Box::new([0; 512]);
    disk.read(slice(1), &mut *table).context("a read while the kernel boots")?;
    ensure!(table.ends_with(&[0x55, 0xaa]), "a slice starts with {:02x?}, expected a partition table", &table[..16]);

    services::TASKS_RUN.store(true, Ordering::Relaxed);
    mini::work::run(disk, seed)
}

/// The lowest address of the stack for traps.
fn trap_stack() -> usize {
    (&raw const __stack_top).addr()
}
