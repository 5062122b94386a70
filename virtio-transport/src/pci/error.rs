//! What can be wrong with a virtio function.

use core::fmt;

use pci_types::PciAddress;
use virtio_spec::pci::CapabilityType;

use crate::Region;

/// Why a virtio function cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PciError {
    /// No capability points at a structure that every device of the modern interface has.
    Missing {
        /// The function.
        address: PciAddress,
        /// Which structure.
        structure: CapabilityType,
        /// What is wrong with the last capability that should; `None` when there is none at all, as on a device that
        /// has only the legacy interface.
        problem: Option<CapabilityProblem>,
    },
    /// A bridge, or something else that is no device.
    NotADevice {
        /// The function.
        address: PciAddress,
    },
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Missing { address, structure, problem: None } => write!(
                f,
                "virtio function {address}: no capability for {structure}; a device with the legacy interface alone is \
                 not supported over PCI (with QEMU: disable-modern=off)"
            ),
            Self::Missing { address, structure, problem: Some(problem) } => {
                write!(f, "virtio function {address}: no usable capability for {structure}: {problem}")
            }
            Self::NotADevice { address } => {
                write!(f, "virtio function {address}: its header is not that of a device")
            }
        }
    }
}

impl core::error::Error for PciError {}

/// What is wrong with a capability, or with the BAR that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CapabilityProblem {
    /// The capability ends before its fields do.
    CapabilityTooShort {
        /// Its length in bytes, as it says.
        bytes: u8,
        /// How many it needs.
        needed: usize,
    },
    /// The structure ends before its fields do.
    StructureTooShort {
        /// Its length in bytes, as the capability says.
        bytes: u32,
        /// How many it needs.
        needed: usize,
    },
    /// The structure is at an address that its fields cannot be read at.
    Unaligned {
        /// Where it is in the BAR, in bytes.
        offset: u32,
        /// What its address has to be a multiple of.
        align: u64,
    },
    /// The number of the BAR is none.
    ReservedBar {
        /// The number.
        bar: u8,
    },
    /// The function has no such BAR, or it is for I/O ports.
    NoMemoryBar {
        /// The number.
        bar: u8,
    },
    /// Nobody has given the BAR an address: see [`Host::assign`](super::Host::assign).
    NoAddress {
        /// The number.
        bar: u8,
    },
    /// The structure is not inside the BAR.
    OutsideBar {
        /// The number.
        bar: u8,
        /// Where the structure should be, in bytes.
        offset: u64,
        /// Its length in bytes.
        length: u64,
        /// The length of the BAR in bytes.
        bytes: u64,
    },
    /// The BAR is in none of the windows that the host bridge forwards.
    Unreachable {
        /// The number.
        bar: u8,
        /// Its address, as devices see it.
        address: u64,
    },
    /// The kernel did not map this, or not all of it.
    NotMapped {
        /// What was to be mapped.
        region: Region,
    },
}

impl fmt::Display for CapabilityProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::CapabilityTooShort { bytes, needed } => {
                write!(f, "the capability has {bytes} bytes, expected {needed}, all within configuration space")
            }
            Self::StructureTooShort { bytes, needed } => write!(f, "it has {bytes} bytes, expected {needed} or more"),
            Self::Unaligned { offset, align } => {
                write!(f, "it is at offset {offset:#x}, expected an address that is a multiple of {align}")
            }
            Self::ReservedBar { bar } => write!(f, "it is in BAR {bar}, expected one from 0 to 5"),
            Self::NoMemoryBar { bar } => write!(f, "it is in BAR {bar}, which is none for memory"),
            Self::NoAddress { bar } => write!(f, "BAR {bar} has no address; call Host::assign before"),
            Self::OutsideBar { bar, offset, length, bytes } => {
                write!(
                    f,
                    "its {length:#x} bytes at offset {offset:#x} are not inside the {bytes:#x} bytes of BAR {bar}"
                )
            }
            Self::Unreachable { bar, address } => {
                write!(f, "BAR {bar} is at {address:#x}, which is in none of the host bridge's windows")
            }
            Self::NotMapped { region: Region { address, bytes } } => {
                write!(f, "the kernel did not map its {bytes:#x} bytes at {address:#x}")
            }
        }
    }
}

impl core::error::Error for CapabilityProblem {}

/// Why a function cannot interrupt by messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MsixError {
    /// It has no usable MSI-X capability.
    NotSupported {
        /// The function.
        address: PciAddress,
    },
    /// No message, or more than the function has vectors.
    WrongCount {
        /// The function.
        address: PciAddress,
        /// How many messages were given.
        found: usize,
        /// How many vectors it has.
        max: u16,
    },
    /// The function is not the one that the device was made of.
    WrongFunction {
        /// The device's function.
        expected: PciAddress,
        /// The one that was given.
        found: PciAddress,
    },
}

impl fmt::Display for MsixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotSupported { address } => {
                write!(f, "virtio function {address} has no MSI-X capability that can be used; use its pin")
            }
            Self::WrongCount { address, found, max } => {
                write!(f, "virtio function {address}: {found} messages, expected from 1 to {max}")
            }
            Self::WrongFunction { expected, found } => {
                write!(f, "function {found} is not the one of this device, which is {expected}")
            }
        }
    }
}

impl core::error::Error for MsixError {}
