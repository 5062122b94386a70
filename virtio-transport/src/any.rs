//! A device on either bus, for a kernel that has both.

use virtio_spec::{DeviceStatus, DeviceType, InterruptStatus};

use crate::{
    Interface, Interrupt, Mmio, MmioInterrupt, MmioNotifier, Notifier, QueueConfig, QueueError, QueueMemory, Registers,
    Transport,
    pci::{Pci, PciInterrupt, PciNotifier},
};

/// A device behind memory-mapped registers or on a PCI bus: one type of transport, and so of driver, for both.
///
/// A notification costs one comparison more than with the transport of the one bus.
#[derive(Debug)]
pub enum AnyTransport<R> {
    /// Behind memory-mapped registers.
    Mmio(Mmio<R>),
    /// On a PCI bus.
    Pci(Pci<R>),
}

impl<R> From<Mmio<R>> for AnyTransport<R> {
    fn from(device: Mmio<R>) -> Self {
        Self::Mmio(device)
    }
}

impl<R> From<Pci<R>> for AnyTransport<R> {
    fn from(device: Pci<R>) -> Self {
        Self::Pci(device)
    }
}

/// The same call on whichever it is.
macro_rules! either {
    ($self:ident, $device:ident => $call:expr) => {
        match $self {
            AnyTransport::Mmio($device) => $call,
            AnyTransport::Pci($device) => $call,
        }
    };
}

impl<R: Registers> Transport for AnyTransport<R> {
    type Notifier = AnyNotifier<R>;
    type Interrupt = AnyInterrupt<R>;

    fn device_type(&self) -> DeviceType {
        either!(self, device => device.device_type())
    }

    fn interface(&self) -> Interface {
        either!(self, device => device.interface())
    }

    fn device_features(&mut self) -> u64 {
        either!(self, device => device.device_features())
    }

    fn usable_features(&self) -> u64 {
        either!(self, device => device.usable_features())
    }

    fn set_driver_features(&mut self, features: u64) {
        either!(self, device => device.set_driver_features(features));
    }

    fn status(&self) -> DeviceStatus {
        either!(self, device => device.status())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        either!(self, device => device.set_status(status));
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        either!(self, device => device.max_queue_size(queue))
    }

    fn queue_in_use(&mut self, queue: u16) -> bool {
        either!(self, device => device.queue_in_use(queue))
    }

    fn enable_queue(&mut self, queue: &QueueConfig) -> Result<(), QueueError> {
        either!(self, device => device.enable_queue(queue))
    }

    fn queue_memory(&self) -> QueueMemory {
        either!(self, device => device.queue_memory())
    }

    fn config_generation(&self) -> Option<u32> {
        either!(self, device => device.config_generation())
    }

    fn config_bytes(&self) -> usize {
        either!(self, device => device.config_bytes())
    }

    fn read_config_u8(&self, offset: usize) -> u8 {
        either!(self, device => device.read_config_u8(offset))
    }

    fn read_config_u16(&self, offset: usize) -> u16 {
        either!(self, device => device.read_config_u16(offset))
    }

    fn read_config_u32(&self, offset: usize) -> u32 {
        either!(self, device => device.read_config_u32(offset))
    }

    fn write_config_u8(&mut self, offset: usize, value: u8) {
        either!(self, device => device.write_config_u8(offset, value));
    }

    fn start_queue_reset(&mut self, queue: u16) -> bool {
        either!(self, device => device.start_queue_reset(queue))
    }

    fn queue_reset_runs(&mut self, queue: u16) -> bool {
        either!(self, device => device.queue_reset_runs(queue))
    }

    fn notifier(&self, queue: u16, data: bool) -> AnyNotifier<R> {
        match self {
            Self::Mmio(device) => AnyNotifier::Mmio(device.notifier(queue, data)),
            Self::Pci(device) => AnyNotifier::Pci(device.notifier(queue, data)),
        }
    }

    fn interrupt(&self) -> AnyInterrupt<R> {
        match self {
            Self::Mmio(device) => AnyInterrupt::Mmio(device.interrupt()),
            Self::Pci(device) => AnyInterrupt::Pci(device.interrupt()),
        }
    }
}

/// Notifies a device on either bus.
#[derive(Clone, Debug)]
pub enum AnyNotifier<R> {
    /// Behind memory-mapped registers.
    Mmio(MmioNotifier<R>),
    /// On a PCI bus.
    Pci(PciNotifier<R>),
}

impl<R: Registers> Notifier for AnyNotifier<R> {
    #[inline]
    fn notify(&self, next: u16) {
        match self {
            Self::Mmio(notifier) => notifier.notify(next),
            Self::Pci(notifier) => notifier.notify(next),
        }
    }
}

/// Asks a device on either bus why it raised its interrupt.
#[derive(Clone, Debug)]
pub enum AnyInterrupt<R> {
    /// Behind memory-mapped registers.
    Mmio(MmioInterrupt<R>),
    /// On a PCI bus.
    Pci(PciInterrupt<R>),
}

impl<R: Registers> AnyInterrupt<R> {
    /// The handle for the handler of one message of a PCI device: see [`PciInterrupt::for_vector`].
    #[must_use]
    pub fn for_vector(self, vector: u16) -> Self {
        match self {
            Self::Mmio(_) => self,
            Self::Pci(interrupt) => Self::Pci(interrupt.for_vector(vector)),
        }
    }
}

impl<R: Registers> Interrupt for AnyInterrupt<R> {
    #[inline]
    fn acknowledge(&self) -> InterruptStatus {
        match self {
            Self::Mmio(interrupt) => interrupt.acknowledge(),
            Self::Pci(interrupt) => interrupt.acknowledge(),
        }
    }
}
