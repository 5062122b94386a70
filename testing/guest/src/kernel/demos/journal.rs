//! Writes and flushes without end, for a host that cuts the power: what was reported must be there afterwards.

use anyhow::{Context, bail};
use testing_guest::{Arguments, Report, journal};

use crate::kernel::{
    devices::{self, Disk},
    interrupts::asleep,
    memory::KernelMemory,
};

/// Writes one block after the other. With `flushes`, each is reported when its flush has returned `Ok`; without, when
/// it was written.
pub(super) fn run(arguments: &Arguments, device_tree: &[u8], flushes: bool) -> anyhow::Result<()> {
    let places = devices::find_disks(device_tree)?;
    let place = places.first().context("the machine has no disk")?;
    let mut disk: Disk = place.open(arguments, KernelMemory)?;
    place.use_interrupts(&mut disk)?;
    let capacity_sectors = disk.info().capacity_sectors;
    report!(Report::Disk { address: place.address(), capacity_sectors });

    let stride_sectors = journal::STRIDE_BYTES / 512;
    for block in 0..capacity_sectors / stride_sectors {
        let contents = journal::contents(arguments.seed, block);
        disk.write(block * stride_sectors, &contents, &mut asleep())
            .with_context(|| alloc::format!("block {block}"))?;
        if flushes {
            disk.flush(&mut asleep()).with_context(|| alloc::format!("the flush of block {block}"))?;
        }
        report!(Report::Journaled { block });
    }
    bail!("the disk is full, and nobody has cut the power")
}
