//! The machine's disks: where the device tree says they may be, and what each one is.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::cell::Cell;

use anyhow::{Context, ensure};
use testing_guest::{Arguments, Geometry, Report, Ring, Topology};
use virtio_blk::{
    BlockFeatures, Buffer, CacheMode, Either, EraseLimits, FeatureSet, Features, Info, NoBuffer, Options, RingFormat,
    Setup,
};
use virtio_transport::{AnyNotifier, DeviceType, Interface, MemoryMapped, Transport};
use virtqueue::Memory;

use super::{
    harts,
    interrupts::{self, Attached, Wiring, asleep},
    memory::KernelMemory,
    place::{self, Device, Place},
    time::patiently,
};

/// A disk whose ring has the form that was negotiated.
pub(super) type Disk<M = KernelMemory, B = NoBuffer> = virtio_blk::Disk<Device, M, B, Either>;

/// A disk with a split ring, and with requests that own their buffers.
pub(super) type DiskOwning<B> = virtio_blk::Disk<Device, KernelMemory, B>;

/// A queue of such a disk, whose requests own their buffers.
pub(super) type DiskQueue<B> = virtio_blk::Queue<KernelMemory, AnyNotifier<MemoryMapped>, B>;

/// A disk without its queue.
pub(super) type Handle = virtio_blk::Device<Device, KernelMemory>;

/// Where a disk is.
pub(super) struct DiskPlace<'a> {
    place: Place<'a>,
    interface: Interface,
    /// How its interrupts were connected when the driver was started.
    wiring: Cell<Option<Wiring>>,
}

/// Looks everywhere for disks.
pub(super) fn find_disks(device_tree: &[u8]) -> anyhow::Result<Vec<DiskPlace<'_>>> {
    let mut disks = Vec::new();
    for place in place::all(device_tree)? {
        match place.look().with_context(|| format!("looking at {}", place.name()))? {
            Some(device) if device.device_type() == DeviceType::BLOCK => {
                disks.push(DiskPlace { place, interface: device.interface(), wiring: Cell::new(None) });
            }
            Some(device) => println!("{}: no disk, but {:?}", place.name(), device.device_type()),
            None => log::debug!("{}: an empty slot", place.name()),
        }
    }
    Ok(disks)
}

impl<'a> DiskPlace<'a> {
    /// The place.
    pub(super) fn place(&self) -> Place<'a> {
        self.place
    }

    /// The address of the registers.
    pub(super) fn address(&self) -> u64 {
        self.place.address()
    }

    /// The device, not brought up, with its interrupts connected to these harts.
    fn device(&self, harts: &[usize]) -> anyhow::Result<Device> {
        let mut device = self.place.look()?.context("the slot was empty at the second look")?;
        self.wiring.set(Some(self.place.wire(&mut device, harts)?));
        Ok(device)
    }

    /// Starts the driver as the command line has it: the form of the ring, and the size of the queue.
    pub(super) fn open<M: Memory, B: Buffer>(&self, arguments: &Arguments, memory: M) -> anyhow::Result<Disk<M, B>> {
        let mut options = Options::default();
        match arguments.ring {
            Ring::Either => (),
            Ring::Split => options.forbid = FeatureSet::from(Features::RING_PACKED),
            Ring::Packed => options.require = FeatureSet::from(Features::RING_PACKED),
        }
        options.queue_size = arguments.queue_size.unwrap_or(options.queue_size);
        let device = self.device(&[harts::this()])?;
        Disk::open_with(Either, device, memory, &options, &mut patiently()).context("starting the driver")
    }

    /// Starts the driver, for a queue with a split ring whose requests own their buffers.
    pub(super) fn open_with<B: Buffer>(&self, options: &Options) -> anyhow::Result<DiskOwning<B>> {
        let device = self.device(&[harts::this()])?;
        virtio_blk::Disk::open(device, KernelMemory, options, &mut patiently()).context("starting the driver")
    }

    /// Starts the driver with a queue for each of these harts.
    pub(super) fn open_queues<B: Buffer>(
        &self,
        options: &Options,
        harts: &[usize],
    ) -> anyhow::Result<(Handle, Vec<DiskQueue<B>>)> {
        let device = self.device(harts)?;
        let mut setup =
            Setup::negotiate(device, KernelMemory, options, &mut patiently()).context("starting the driver")?;
        let (found, wanted) = (setup.num_queues(), options.queues);
        ensure!(found == wanted, "the disk has {found} queues, expected {wanted} (QEMU: num-queues={wanted})");
        let queues = (0..wanted).map(|index| setup.add_queue().with_context(|| format!("queue {index}")));
        let queues = queues.collect::<Result<_, _>>()?;
        Ok((setup.start(), queues))
    }

    /// Lets the device interrupt this hart, for each batch of requests that is done.
    pub(super) fn use_interrupts<M: Memory, B: Buffer, R: RingFormat>(
        &self,
        disk: &mut virtio_blk::Disk<Device, M, B, R>,
    ) -> anyhow::Result<Attached> {
        let attached = self.attach(disk.device())?;
        disk.queue().use_interrupts(1);
        Ok(attached)
    }

    /// Lets the device's interrupts be handled.
    pub(super) fn attach<M: Memory>(&self, device: &virtio_blk::Device<Device, M>) -> anyhow::Result<Attached> {
        let wiring = self.wiring.get().context("the driver was not started")?;
        interrupts::attach(wiring, &device.interrupt().context("the device was reset")?)
    }

    /// Prints what the disk is, and tells the host.
    pub(super) fn describe<M: Memory, B: Buffer>(&self, disk: &mut Disk<M, B>) -> anyhow::Result<()> {
        let line = |what: &str, text: &str| println!("  {what:<15} {text}");
        let info = *disk.info();

        println!("disk at {:#x}", self.address());
        line("transport", &self.place.describe(self.interface, self.wiring.get()));
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
        let cache_mode = disk.cache_mode().context("cache mode")?;
        let change = if info.cache_mode_can_change { "can be changed" } else { "cannot be changed" };
        line("cache mode", &format!("{}, {change}", cache_mode_name(cache_mode)));
        let (queue_size, segments) = (disk.queue().size(), disk.queue().segments());
        line("queues", &format!("{}; the one in use has {queue_size} entries", info.num_queues));
        line("ring", &ring(info.features));
        let size_max =
            info.size_max_bytes.map_or_else(|| "any length".into(), |bytes| format!("{bytes} bytes at most"));
        line("segments", &format!("{} at most, each of {size_max}; {segments} are used", info.seg_max));
        line("discard", &or_not_offered(info.discard, erase_limits));
        let unmap = if info.write_zeroes_may_unmap { ", may unmap" } else { "" };
        line("write zeroes", &or_not_offered(info.write_zeroes, |limits| erase_limits(limits) + unmap));
        line("secure erase", &or_not_offered(info.secure_erase, erase_limits));
        line("features", &info.features.to_string());

        let transport = match (self.place.is_pci(), self.interface) {
            (true, _) => "pci",
            (false, Interface::Modern) => "modern",
            (false, Interface::Legacy) => "legacy",
        };
        report!(Report::Disk { address: self.address(), capacity_sectors: info.capacity_sectors });
        report!(Report::Negotiated { transport: transport.into(), features: info.features.bits(), queue_size });
        report!(properties(&info, cache_mode));
        Ok(())
    }
}

/// What the disk says of itself, for the host.
fn properties(info: &Info, cache_mode: CacheMode) -> Report {
    Report::Properties {
        block_bytes: info.block_bytes,
        geometry: info.geometry.map(|geometry| Geometry {
            cylinders: geometry.cylinders,
            heads: geometry.heads,
            sectors: geometry.sectors,
        }),
        topology: info.topology.map(|topology| Topology {
            physical_block_bytes: topology.physical_block_bytes,
            min_io_bytes: topology.min_io_bytes,
            opt_io_bytes: topology.opt_io_bytes,
        }),
        write_back: cache_mode == CacheMode::WriteBack,
        cache_mode_can_change: info.cache_mode_can_change,
    }
}

/// The form of the ring, and what is used of it.
fn ring(features: FeatureSet) -> String {
    let form = if features.contains(Features::RING_PACKED) { "packed" } else { "split" };
    let tables = if features.contains(Features::INDIRECT_DESC) { "an indirect table" } else { "a chain" };
    let events = if features.contains(Features::EVENT_IDX) { "positions" } else { "flags" };
    format!("{form}, {tables} for each request, notifications and interrupts suppressed by {events}")
}

/// The name of a cache mode, for people.
pub(super) fn cache_mode_name(mode: CacheMode) -> &'static str {
    match mode {
        CacheMode::WriteBack => "write-back",
        CacheMode::WriteThrough => "write-through",
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
pub(super) fn flush<M: Memory, B: Buffer>(disk: &mut Disk<M, B>) -> anyhow::Result<()> {
    if !disk.info().features.contains(BlockFeatures::FLUSH) {
        // A disk without the command has no cache to lose anything from.
        return Ok(());
    }
    disk.flush(&mut asleep()).context("flush")
}
