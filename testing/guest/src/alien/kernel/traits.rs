//! The traits that this kernel's disks have. Their signatures are those of Alien.

/// The errors of the kernel, as processes know them.
pub(super) mod constants {
    /// The numbers that the disk uses.
    #[allow(clippy::upper_case_acronyms, reason = "the names that they have everywhere")]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(isize)]
    pub(in super::super) enum LinuxErrno {
        EIO = -5,
        ENOMEM = -12,
        EFAULT = -14,
        EINVAL = -22,
        ENOSPC = -28,
        EROFS = -30,
        EOPNOTSUPP = -94,
    }

    pub(in super::super) type AlienResult<T> = Result<T, LinuxErrno>;
}

/// What devices can do.
pub(super) mod device_interface {
    use super::constants::AlienResult;

    /// A device that interrupts.
    pub(in super::super) trait DeviceBase: Sync + Send {
        fn handle_irq(&self);
    }

    /// A disk of bytes.
    pub(in super::super) trait BlockDevice: DeviceBase {
        fn read(&self, buf: &mut [u8], offset: usize) -> AlienResult<usize>;
        fn write(&self, buf: &[u8], offset: usize) -> AlienResult<usize>;
        fn size(&self) -> usize;
        fn flush(&self) -> AlienResult<()>;
    }

    /// A disk of sectors.
    pub(in super::super) trait LowBlockDevice {
        fn read_block(&self, block_id: usize, buf: &mut [u8]) -> AlienResult<()>;
        fn write_block(&self, block_id: usize, buf: &[u8]) -> AlienResult<()>;
        fn capacity(&self) -> usize;
        #[allow(dead_code, reason = "of the interface, and used by nobody")]
        fn read_block_async(&self, block_id: usize, buf: &mut [u8]) -> AlienResult<()>;
        #[allow(dead_code, reason = "of the interface, and used by nobody")]
        fn write_block_async(&self, block_id: usize, buf: &[u8]) -> AlienResult<()>;
        #[allow(dead_code, reason = "of the interface, and used by nobody")]
        fn handle_irq(&self);
        #[allow(dead_code, reason = "of the interface, and used by nobody")]
        fn flush(&self) {}
    }
}
