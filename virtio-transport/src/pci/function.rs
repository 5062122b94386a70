//! A function on a bus: its registers in configuration space.

use core::fmt;

use pci_types::{CommandRegister, ConfigRegionAccess, HeaderType, PciAddress};
use virtio_spec::{
    DeviceType,
    pci::{DEVICE_ID_FIRST, DEVICE_ID_LAST, MODERN_DEVICE_ID_BASE, VENDOR_ID},
};

use super::Host;

/// Where registers are in the configuration space of every function, in bytes.
pub(super) mod register {
    pub(in crate::pci) const ID: u16 = 0x00;
    pub(in crate::pci) const COMMAND: u16 = 0x04;
    pub(in crate::pci) const HEADER_TYPE: u16 = 0x0c;
    pub(in crate::pci) const BAR: u16 = 0x10;
    pub(in crate::pci) const SUBSYSTEM: u16 = 0x2c;
    pub(in crate::pci) const CAPABILITIES: u16 = 0x34;
    pub(in crate::pci) const INTERRUPT: u16 = 0x3c;
    /// Of bridges: the numbers of the buses on both sides.
    pub(in crate::pci) const BUSES: u16 = 0x18;
    /// Of bridges: the window for registers, and the one for memory with the upper halves of its ends.
    pub(in crate::pci) const MEMORY_WINDOW: u16 = 0x20;
    pub(in crate::pci) const PREFETCHABLE_WINDOW: u16 = 0x24;
    pub(in crate::pci) const PREFETCHABLE_BASE_HIGH: u16 = 0x28;
    pub(in crate::pci) const PREFETCHABLE_LIMIT_HIGH: u16 = 0x2c;
}

/// A function: what answers at one address in configuration space.
pub struct Function<'h, A> {
    pub(super) host: &'h Host<'h, A>,
    pub(super) address: PciAddress,
    pub(super) route: Route,
}

impl<'h, A: ConfigRegionAccess> Function<'h, A> {
    /// Where it is: bus, device and function.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// Who made it, and what it is: the PCI vendor id and the PCI device id.
    pub fn id(&self) -> (u16, u16) {
        let [low, high] = halves(self.read(register::ID));
        (low, high)
    }

    /// The type of the virtio device that this is; `None` if it is none. Only numbers in configuration space are looked
    /// at (section 4.1.2).
    pub fn virtio_type(&self) -> Option<DeviceType> {
        let (vendor, device) = self.id();
        if vendor != VENDOR_ID || !(DEVICE_ID_FIRST..=DEVICE_ID_LAST).contains(&device) {
            return None;
        }
        let number = match device.checked_sub(MODERN_DEVICE_ID_BASE) {
            Some(number) => number,
            // A transitional device: its type is the subsystem's id.
            None => halves(self.read(register::SUBSYSTEM))[1],
        };
        Some(DeviceType(number.into()))
    }

    /// Which pin of which function on the root bus its interrupt comes out at; `None` when it has none.
    ///
    /// Pins behind bridges are connected in turns (PCI-to-PCI Bridge Architecture, "Interrupt Support").
    pub fn interrupt(&self) -> Option<InterruptRoute> {
        let [_, pin, _, _] = self.read(register::INTERRUPT).to_le_bytes();
        self.route.of(self.address, pin)
    }

    /// Reads a register. `offset` is a multiple of 4 below 256.
    pub(super) fn read(&self, offset: u16) -> u32 {
        // SAFETY: every function may be read there, as `Host::new` asks.
        unsafe { self.host.access.read(self.address, offset) }
    }

    /// Writes a register.
    pub(super) fn write(&self, offset: u16, value: u32) {
        // SAFETY: the function is one of the host's, which nobody else configures, as `Host::new` asks.
        unsafe { self.host.access.write(self.address, offset, value) }
    }

    pub(super) fn header_type(&self) -> HeaderType {
        let [_, _, kind, _] = self.read(register::HEADER_TYPE).to_le_bytes();
        match kind & 0x7f {
            0 => HeaderType::Endpoint,
            1 => HeaderType::PciPciBridge,
            2 => HeaderType::CardBusBridge,
            other => HeaderType::Unknown(other),
        }
    }

    pub(super) fn command(&self) -> CommandRegister {
        CommandRegister::from_bits_retain(halves(self.read(register::COMMAND))[0])
    }

    /// Writes the command register. The status register beside it is written with zeros, which change nothing there:
    /// its bits are cleared by ones.
    pub(super) fn set_command(&self, command: CommandRegister) {
        self.write(register::COMMAND, command.bits().into());
    }

    /// The numbers of the buses behind a bridge.
    pub(super) fn bridge_buses(&self) -> BridgeBuses {
        let [_, secondary, subordinate, _] = self.read(register::BUSES).to_le_bytes();
        BridgeBuses { secondary, subordinate }
    }
}

impl<A> Clone for Function<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Function<'_, A> {}

impl<A> fmt::Debug for Function<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The lower and the upper half of a register.
pub(super) fn halves(value: u32) -> [u16; 2] {
    // The casts cut the value in halves: that is what they are for.
    [value as u16, (value >> 16) as u16]
}

/// The numbers of the buses behind a bridge.
pub(super) struct BridgeBuses {
    /// The one right behind it; 0 when nobody has numbered it yet.
    pub(super) secondary: u8,
    /// The highest one behind it.
    pub(super) subordinate: u8,
}

/// How the pins of functions on one bus come out on the root bus.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Route {
    /// The bridge on the root bus that the bus is behind; `None` for the root bus itself.
    bridge: Option<PciAddress>,
    /// How many turns there are on the way.
    turns: u8,
}

impl Route {
    /// The route of the bus behind a bridge on this one.
    pub(super) fn behind(self, bridge: PciAddress) -> Self {
        match self.bridge {
            None => Self { bridge: Some(bridge), turns: 0 },
            Some(_) => Self { turns: (self.turns + bridge.device()) % 4, ..self },
        }
    }

    fn of(self, address: PciAddress, pin: u8) -> Option<InterruptRoute> {
        let number = pin.checked_sub(1).filter(|&number| number < 4)?;
        Some(match self.bridge {
            None => InterruptRoute { address, pin },
            Some(bridge) => InterruptRoute { address: bridge, pin: (number + address.device() + self.turns) % 4 + 1 },
        })
    }
}

/// Where an interrupt comes out on the root bus. What it is connected to there, the machine's description says, such as
/// [`PciHostNode::interrupt`](crate::PciHostNode::interrupt).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptRoute {
    /// The function on the root bus: itself, or the bridge that it is behind.
    pub address: PciAddress,
    /// The pin: 1 for INTA to 4 for INTD.
    pub pin: u8,
}
