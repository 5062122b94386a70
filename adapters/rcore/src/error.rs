//! Why there is no disk.

use core::fmt;

use virtio_transport::{DeviceType, ProbeError};

/// Why a disk could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// There are no registers of a virtio device at the address.
    Probe {
        /// The physical address.
        address: usize,
        /// What is there.
        error: ProbeError,
    },
    /// The registers at the address belong to something else than a disk.
    NotADisk {
        /// The physical address.
        address: usize,
        /// What the device is; `None` for an empty slot.
        found: Option<DeviceType>,
    },
    /// The device tree cannot be read.
    DeviceTree,
    /// No device in the device tree is a disk.
    NoDisk,
    /// The disk did not come up.
    Disk(virtio_blk::OpenError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe { address, error } => write!(f, "at physical address {address:#x}: {error}"),
            Self::NotADisk { address, found: Some(found) } => {
                write!(f, "the device at {address:#x} is no disk, but {found:?}; give the address of the disk")
            }
            Self::NotADisk { address, found: None } => {
                write!(f, "the slot at {address:#x} is empty: is the disk attached to another bus of the machine?")
            }
            Self::DeviceTree => write!(f, "the device tree is damaged, or its address wrong"),
            Self::NoDisk => write!(f, "none of the virtio devices in the device tree is a disk"),
            Self::Disk(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for OpenError {}

impl From<virtio_blk::OpenError> for OpenError {
    fn from(error: virtio_blk::OpenError) -> Self {
        Self::Disk(error)
    }
}
