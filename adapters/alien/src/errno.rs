//! What the kernel says to its processes when a request failed.

use virtio_blk::{DeviceError, Error};
use virtqueue::MemoryError;

/// The kernel's error numbers that requests end with. [`block_device!`](crate::block_device!) turns them into the
/// kernel's own type, whose variants have the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::upper_case_acronyms, reason = "the names that they have everywhere")]
pub enum Errno {
    /// The device failed, broke the rules, or is gone.
    EIO,
    /// The kernel has no memory left.
    ENOMEM,
    /// The device cannot reach the buffer.
    EFAULT,
    /// Not a whole number of blocks, or not on the disk.
    EINVAL,
    /// There is nothing behind the end of the disk to write to.
    ENOSPC,
    /// The disk is read-only.
    EROFS,
    /// The device does not know the request.
    EOPNOTSUPP,
}

impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        match error {
            Error::UnalignedLength { .. }
            | Error::UnalignedSector { .. }
            | Error::BeyondCapacity { .. }
            | Error::Empty => Self::EINVAL,
            Error::ReadOnly => Self::EROFS,
            Error::NotNegotiated { .. } | Error::Device { status: DeviceError::Unsupported, .. } => Self::EOPNOTSUPP,
            Error::Memory(MemoryError::NotMapped { .. }) => Self::EFAULT,
            Error::Memory(_) => Self::ENOMEM,
            // The device failed, or it is not known what it did.
            _ => Self::EIO,
        }
    }
}
