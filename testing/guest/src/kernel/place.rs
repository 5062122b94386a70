//! Where a virtio device is: in a slot of the device tree, or on a PCI bus.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

use anyhow::Context;
use virtio_transport::{
    AnyTransport, DeviceTree, Interface, MemoryMapped, Mmio, MmioNode, PciHostNode, ProbeError,
    pci::{Ecam, Function, Host, MsixError, Pci, PciAddress, PciError},
};

use super::{harts, imsic, interrupts::Wiring};

/// A device on either bus.
pub(super) type Device = AnyTransport<MemoryMapped>;

/// How many messages a device may have: as many numbers of interrupts are set aside for each place.
const MESSAGES: u16 = 8;

/// A place where a device may be.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    location: Location<'a>,
    /// How many places were found before.
    index: u32,
}

#[derive(Clone, Copy)]
#[expect(clippy::large_enum_variant, reason = "they are few, and after a panic there is no allocator")]
enum Location<'a> {
    Slot(MmioNode<'a>),
    Pci { host: PciHostNode<'a>, address: PciAddress },
}

/// All places of a machine: the slots of the device tree, and what is on its PCI buses, which get their addresses here.
pub(super) fn all(device_tree: &[u8]) -> anyhow::Result<Vec<Place<'_>>> {
    let tree = DeviceTree::parse(device_tree).context("device tree")?;
    let damaged = |error| anyhow::anyhow!("device tree: {error}");
    let mut locations = Vec::new();
    for node in tree.virtio_mmio() {
        locations.push(Location::Slot(node.map_err(damaged)?));
    }
    for node in tree.pci_hosts() {
        let node = node.map_err(damaged)?;
        let Some(host) = host(&node) else { continue };
        host.assign();
        let functions = host.functions().filter(|function| function.virtio_type().is_some());
        locations.extend(functions.map(|function| Location::Pci { host: node, address: function.address() }));
    }
    Ok((0..).zip(locations).map(|(index, location)| Place { location, index }).collect())
}

/// The host bridge of a node.
fn host<'n>(node: &'n PciHostNode<'_>) -> Option<Host<'n, Ecam<MemoryMapped>>> {
    // SAFETY: without paging, configuration space is at its physical address. One hart at a time looks at PCI, and does
    // so before drivers run.
    unsafe { Host::open(node) }
}

impl Place<'_> {
    /// Looks which device is there, if any.
    pub(super) fn look(&self) -> Result<Option<Device>, LookError> {
        match &self.location {
            // SAFETY: without paging, the registers are at their physical address. The kernel looks at every place,
            // drops what it found, and starts one driver at a time.
            Location::Slot(node) => Ok(unsafe { Mmio::open(&node.region) }?.map(Device::from)),
            Location::Pci { host, address } => {
                // SAFETY: as above.
                let open = |function: &Function<'_, _>| unsafe { Pci::open(function) };
                Ok(with_function(host, *address, open).ok_or(LookError::Gone)??.map(Device::from))
            }
        }
    }

    /// A device behind memory-mapped registers, with the transport for nothing else.
    pub(super) fn mmio(&self) -> anyhow::Result<Mmio<MemoryMapped>> {
        match self.look()? {
            Some(Device::Mmio(device)) => Ok(device),
            _ => anyhow::bail!("{}: expected a device behind memory-mapped registers", self.name()),
        }
    }

    /// Connects the interrupts of a device that is not yet brought up. Messages, where the machine and the device have
    /// them: those of the queues go to these harts in turn.
    pub(super) fn wire(&self, device: &mut Device, harts: &[usize]) -> anyhow::Result<Wiring> {
        let (Location::Pci { host, address }, Device::Pci(device)) = (&self.location, device) else {
            return self.line().context("the device tree names no interrupt for the disk");
        };
        if !imsic::is_present() {
            return self.line().context("the device tree names no interrupt for the pin of the PCI function");
        }
        let count = MESSAGES.min(device.msix_vectors()).min(1 + harts.len() as u16);
        let first = (1 + self.index) * u32::from(MESSAGES);
        // A change of the configuration is this hart's matter.
        let receivers = [harts::this()].into_iter().chain(harts.iter().copied());
        let messages = (first..).zip(receivers).map(|(number, hart)| imsic::message(hart, number));
        let messages: Vec<_> = messages.take(count.into()).collect();
        let enabled = with_function(host, *address, |function| device.use_msix(function, &messages));
        enabled.context("the PCI function is gone")?.map_err(|error: MsixError| anyhow::anyhow!("{error}"))?;
        Ok(Wiring::Messages { first, count })
    }

    /// Whether it is on a PCI bus.
    pub(super) fn is_pci(&self) -> bool {
        matches!(self.location, Location::Pci { .. })
    }

    /// The line that the device tree names.
    fn line(&self) -> Option<Wiring> {
        let interrupt = match &self.location {
            Location::Slot(node) => node.interrupt,
            Location::Pci { host, address } => {
                let route = with_function(host, *address, |function| function.interrupt())??;
                host.interrupt(&route).ok().flatten()
            }
        };
        interrupt?.number().map(Wiring::Line)
    }

    /// The address of the registers; on a PCI bus, of those in configuration space.
    pub(super) fn address(&self) -> u64 {
        match &self.location {
            Location::Slot(node) => node.region.address,
            Location::Pci { host, address } => {
                let bus = u64::from(address.bus() - host.first_bus);
                let function = u64::from(address.device() << 3 | address.function());
                host.config_space.address + (bus << 20 | function << 12)
            }
        }
    }

    /// What the device tree, or PCI, calls it.
    pub(super) fn name(&self) -> String {
        match &self.location {
            Location::Slot(node) => node.name.into(),
            Location::Pci { address, .. } => format!("PCI function {address}"),
        }
    }

    /// How the device is connected, for people.
    pub(super) fn describe(&self, interface: Interface, wiring: Option<Wiring>) -> String {
        let interface = match interface {
            Interface::Modern => "modern",
            Interface::Legacy => "legacy",
        };
        let bus = match &self.location {
            Location::Slot(_) => "virtio-mmio".into(),
            Location::Pci { address, .. } => format!("virtio over PCI, function {address}"),
        };
        let interrupt = match wiring {
            None => "no interrupt".into(),
            Some(Wiring::Line(number)) => format!("interrupt {number}"),
            Some(Wiring::Messages { first, count }) => {
                format!("MSI-X messages {first} to {}", first + u32::from(count) - 1)
            }
        };
        format!("{interface} {bus}, {interrupt}")
    }
}

/// Does something with a function on a PCI bus.
fn with_function<V>(
    node: &PciHostNode<'_>,
    address: PciAddress,
    what: impl FnOnce(&Function<'_, Ecam<MemoryMapped>>) -> V,
) -> Option<V> {
    let host = host(node)?;
    let function = host.functions().find(|function| function.address() == address)?;
    Some(what(&function))
}

/// Why a place cannot be looked at.
#[derive(Debug)]
pub(super) enum LookError {
    /// No virtio registers are there.
    Mmio(ProbeError),
    /// The PCI function cannot be driven.
    Pci(PciError),
    /// The PCI function was there before.
    Gone,
}

impl From<ProbeError> for LookError {
    fn from(error: ProbeError) -> Self {
        Self::Mmio(error)
    }
}

impl From<PciError> for LookError {
    fn from(error: PciError) -> Self {
        Self::Pci(error)
    }
}

impl fmt::Display for LookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mmio(error) => write!(f, "{error}"),
            Self::Pci(error) => write!(f, "{error}"),
            Self::Gone => write!(f, "the PCI function is not there any more"),
        }
    }
}

impl core::error::Error for LookError {}
