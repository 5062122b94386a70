//! A disk that becomes larger and smaller while it is used.

use anyhow::{Context, ensure};
use testing_guest::{Arguments, Report};
use virtio_blk::{Error, Resized};

use crate::kernel::{
    devices::{self, Disk},
    interrupts::{self, asleep},
    memory::KernelMemory,
    time::Deadline,
};

/// Waits for the host to change the disk, as often as the arguments say.
pub(super) fn run(arguments: &Arguments, device_tree: &[u8]) -> anyhow::Result<()> {
    let places = devices::find_disks(device_tree)?;
    let place = places.first().context("the machine has no disk")?;
    let mut disk: Disk = place.open(arguments, KernelMemory)?;
    let line = place.use_interrupts(&mut disk)?.configuration().context("an interrupt for the configuration")?;
    report!(Report::Disk { address: place.address(), capacity_sectors: disk.info().capacity_sectors });

    for _ in 0..arguments.rounds {
        let seen = line.configuration();
        let capacity_sectors = disk.info().capacity_sectors;
        check_end(&mut disk, capacity_sectors)?;
        report!(Report::Waiting { capacity_sectors });
        interrupts::sleep_until(|| line.configuration() != seen, Deadline::patient())
            .context("waiting for the interrupt that says that the configuration has changed")?;
        let resized = disk.config_changed()?.context("the interrupt came, but the capacity is the same")?;
        let Resized { old_sectors, new_sectors } = resized;
        println!("the disk had {old_sectors} sectors, and has {new_sectors} now");
        ensure!(old_sectors == capacity_sectors, "the old capacity is not the one that was known");
        check_end(&mut disk, new_sectors)?;
        report!(Report::Resized { old_sectors, new_sectors });
    }
    Ok(())
}

/// Checks that the last sector can be read, and the one behind it is refused.
fn check_end(disk: &mut Disk, capacity_sectors: u64) -> anyhow::Result<()> {
    let mut sector = [0xee; 512];
    let last = capacity_sectors - 1;
    disk.read(last, &mut sector, &mut asleep()).context("reading the last sector")?;
    ensure!(sector == [0; 512], "the last sector holds {:02x?} ..., expected zeros", &sector[..8]);
    let refused = Err(Error::BeyondCapacity { sector: capacity_sectors, sectors: 1, capacity_sectors });
    let found = disk.read(capacity_sectors, &mut sector, &mut asleep());
    ensure!(found == refused, "reading behind the last sector: {found:?}, expected {refused:?}");
    Ok(())
}
