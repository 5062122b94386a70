//! The machine's disks: where the device tree says they may be, and what each one is.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use anyhow::{Context, ensure};
use virtio_blk::{BlockFeatures, Buffer, CacheMode, EraseLimits, Options, Setup};
use virtio_transport::{
    DeviceTree, DeviceType, Interface, MemoryMapped, Mmio, MmioNode, MmioNotifier, Region, Transport,
};

use super::{
    interrupts::{self, Line, asleep},
    memory::KernelMemory,
    time::patiently,
};

/// A disk behind memory-mapped registers.
pub(super) type Disk = virtio_blk::Disk<Mmio<MemoryMapped>, KernelMemory>;

/// The same, with requests that own their buffers.
pub(super) type DiskOwning<B> = virtio_blk::Disk<Mmio<MemoryMapped>, KernelMemory, B>;

/// A queue of such a disk, whose requests own their buffers.
pub(super) type DiskQueue<B> = virtio_blk::Queue<KernelMemory, MmioNotifier<MemoryMapped>, B>;

/// A disk without its queue.
pub(super) type Handle = virtio_blk::Device<Mmio<MemoryMapped>, KernelMemory>;

/// Where a disk is.
pub(super) struct Place<'a> {
    node: MmioNode<'a>,
    interface: Interface,
}

/// Looks into every slot of the device tree for disks.
pub(super) fn find_disks(device_tree: &[u8]) -> anyhow::Result<Vec<Place<'_>>> {
    let mut places = Vec::new();
    for node in DeviceTree::parse(device_tree).context("device tree")?.virtio_mmio() {
        let node = node.map_err(|error| anyhow::anyhow!("device tree: {error}"))?;
        match probe(&node)? {
            Some(device) if device.device_type() == DeviceType::BLOCK => {
                places.push(Place { node, interface: device.interface() });
            }
            Some(device) => println!("{}: no disk, but {:?}", node.name, device.device_type()),
            None => log::debug!("{}: an empty slot", node.name),
        }
    }
    Ok(places)
}

/// Looks at a slot; `None` if it is empty.
fn probe(node: &MmioNode<'_>) -> anyhow::Result<Option<Mmio<MemoryMapped>>> {
    // SAFETY: without paging, the registers are at their physical address. The kernel looks at every slot, drops what
    // it found, and starts one driver at a time.
    unsafe { Mmio::open(&node.region) }.with_context(|| format!("looking at {}", node.name))
}

impl Place<'_> {
    /// The address of the registers.
    pub(super) fn address(&self) -> u64 {
        self.node.region.address
    }

    /// Where the registers are.
    pub(super) fn region(&self) -> Region {
        self.node.region
    }

    /// Starts the driver.
    pub(super) fn open(&self) -> anyhow::Result<Disk> {
        self.open_with(&Options::default())
    }

    /// Starts the driver, for a queue whose requests own their buffers.
    pub(super) fn open_with<B: Buffer>(
        &self,
        options: &Options,
    ) -> anyhow::Result<virtio_blk::Disk<Mmio<MemoryMapped>, KernelMemory, B>> {
        let device = probe(&self.node)?.context("the slot was empty at the second look")?;
        virtio_blk::Disk::open(device, KernelMemory, options, &mut patiently()).context("starting the driver")
    }

    /// Starts the driver with as many queues as the options say.
    pub(super) fn open_queues<B: Buffer>(&self, options: &Options) -> anyhow::Result<(Handle, Vec<DiskQueue<B>>)> {
        let device = probe(&self.node)?.context("the slot was empty at the second look")?;
        let mut setup =
            Setup::negotiate(device, KernelMemory, options, &mut patiently()).context("starting the driver")?;
        let (found, wanted) = (setup.num_queues(), options.queues);
        ensure!(found == wanted, "the disk has {found} queues, expected {wanted} (QEMU: num-queues={wanted})");
        let queues = (0..wanted).map(|index| setup.add_queue().with_context(|| format!("queue {index}")));
        let queues = queues.collect::<Result<_, _>>()?;
        Ok((setup.start(), queues))
    }

    /// Lets the device interrupt this hart, for each batch of requests that is done.
    pub(super) fn use_interrupts<B: Buffer>(&self, disk: &mut DiskOwning<B>) -> anyhow::Result<&'static Line> {
        let line = self.attach(disk.device())?;
        disk.queue().use_interrupts(1);
        Ok(line)
    }

    /// Connects the device's interrupt to this hart.
    pub(super) fn attach(&self, device: &Handle) -> anyhow::Result<&'static Line> {
        let number = self.node.interrupt.and_then(|interrupt| interrupt.number());
        let number = number.context("the device tree names no interrupt for the disk")?;
        interrupts::attach(number, device.interrupt().context("the device was reset")?)
    }

    /// Prints what the disk is.
    pub(super) fn describe(&self, disk: &mut Disk) -> anyhow::Result<()> {
        let line = |what: &str, text: &str| println!("  {what:<15} {text}");
        let info = *disk.info();

        println!("disk at {:#x}", self.address());
        let interface = match self.interface {
            Interface::Modern => "modern",
            Interface::Legacy => "legacy",
        };
        let interrupt = self.node.interrupt.and_then(|interrupt| interrupt.number());
        let interrupt = interrupt.map_or_else(|| "no interrupt".into(), |number| format!("interrupt {number}"));
        line("transport", &format!("{interface} virtio-mmio, {interrupt}"));
        let name = match disk.device_id(&mut patiently()) {
            Ok(name) => format!("\"{name}\""),
            Err(error) => format!("none ({error})"),
        };
        line("name", &name);
        let mib = info.capacity_bytes() >> 20;
        line("capacity", &format!("{} sectors of 512 bytes ({mib} MiB)", info.capacity_sectors));
        line("read-only", if info.read_only { "yes" } else { "no" });
        line("block size", &format!("{} bytes", info.block_bytes));
        line(
            "geometry",
            &or_not_offered(info.geometry, |geometry| {
                format!("{} cylinders, {} heads, {} sectors", geometry.cylinders, geometry.heads, geometry.sectors)
            }),
        );
        line(
            "topology",
            &or_not_offered(info.topology, |topology| {
                format!(
                    "physical blocks of {} bytes, the first aligned one at byte {}; requests of {} bytes at least, best {}",
                    topology.physical_block_bytes,
                    topology.alignment_offset_bytes,
                    topology.min_io_bytes,
                    topology.opt_io_bytes
                )
            }),
        );
        let cache_mode = match disk.cache_mode().context("cache mode")? {
            CacheMode::WriteBack => "write-back",
            CacheMode::WriteThrough => "write-through",
        };
        let change = if info.cache_mode_can_change { "can be changed" } else { "cannot be changed" };
        line("cache mode", &format!("{cache_mode}, {change}"));
        let (queue_size, segments) = (disk.queue().size(), disk.queue().segments());
        line("queues", &format!("{}; the one in use has {queue_size} entries", info.num_queues));
        let size_max =
            info.size_max_bytes.map_or_else(|| "any length".into(), |bytes| format!("{bytes} bytes at most"));
        line("segments", &format!("{} at most, each of {size_max}; {segments} are used", info.seg_max));
        line("discard", &or_not_offered(info.discard, erase_limits));
        let unmap = if info.write_zeroes_may_unmap { ", may unmap" } else { "" };
        line("write zeroes", &or_not_offered(info.write_zeroes, |limits| erase_limits(limits) + unmap));
        line("secure erase", &or_not_offered(info.secure_erase, erase_limits));
        line("features", &info.features.to_string());
        Ok(())
    }
}

fn or_not_offered<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "not offered".into(), text)
}

fn erase_limits(limits: EraseLimits) -> String {
    let EraseLimits { max_sectors, max_segments, alignment_sectors } = limits;
    format!("{max_sectors} sectors at most, {max_segments} ranges at most, alignment {alignment_sectors} sectors")
}

/// Makes what was written safe from a power cut. The disk uses interrupts.
pub(super) fn flush(disk: &mut Disk) -> anyhow::Result<()> {
    if !disk.info().features.contains(BlockFeatures::FLUSH) {
        // A disk without the command has no cache to lose anything from.
        return Ok(());
    }
    disk.flush(&mut asleep()).context("flush")
}
