//! Configuration space that is mapped into memory (PCI Express Base, "Enhanced Configuration Access Mechanism").

use pci_types::{ConfigRegionAccess, PciAddress};

use crate::{MemoryMapped, Region, Registers};

const BUS_SHIFT: u32 = 20;
const DEVICE_SHIFT: u32 = 15;
const FUNCTION_SHIFT: u32 = 12;
/// How much configuration space a function has.
const FUNCTION_BYTES: u16 = 1 << FUNCTION_SHIFT;

/// The configuration space of the functions on a range of buses, as one window of registers.
///
/// What is outside of the window reads as all ones, as functions do that are not there; writes there are ignored. Only
/// segment 0 is there.
#[derive(Clone, Copy, Debug)]
pub struct Ecam<R> {
    registers: R,
    first_bus: u8,
}

impl<R: Registers> Ecam<R> {
    /// The configuration space behind these registers, which starts with that of bus `first_bus`.
    pub fn new(registers: R, first_bus: u8) -> Self {
        Self { registers, first_bus }
    }

    /// Where a register is, if it is inside the window.
    fn offset(&self, address: PciAddress, offset: u16) -> Option<usize> {
        let bus = address.bus().checked_sub(self.first_bus)?;
        if address.segment() != 0 || offset >= FUNCTION_BYTES || offset % 4 != 0 {
            return None;
        }
        let start = usize::from(bus) << BUS_SHIFT
            | usize::from(address.device()) << DEVICE_SHIFT
            | usize::from(address.function()) << FUNCTION_SHIFT
            | usize::from(offset);
        let inside = start.checked_add(size_of::<u32>()).is_some_and(|end| end <= self.registers.bytes());
        inside.then_some(start)
    }
}

impl Ecam<MemoryMapped> {
    /// The configuration space at an address, such as the one in a device tree. `None` for an address that nothing can
    /// have: 0, not a multiple of 4, or beyond the pointers of this machine.
    ///
    /// # Safety
    ///
    /// The region is mapped at its own address, as [`MemoryMapped::new`] asks, and is the configuration space of a PCI
    /// host bridge, from bus `first_bus` on.
    pub unsafe fn open(region: &Region, first_bus: u8) -> Option<Self> {
        // SAFETY: asked of the caller.
        Some(Self::new(unsafe { MemoryMapped::at(region) }?, first_bus))
    }
}

impl<R: Registers> ConfigRegionAccess for Ecam<R> {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        self.offset(address, offset).map_or(u32::MAX, |offset| u32::from_le(self.registers.read_u32(offset)))
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        if let Some(offset) = self.offset(address, offset) {
            self.registers.write_u32(offset, value.to_le());
        }
    }
}
