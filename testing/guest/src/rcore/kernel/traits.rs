//! The traits that file systems of rCore's want a disk to have. Their signatures are those of easy-fs and rcore-fs.

/// easy-fs, as in rCore-Tutorial-v3, branch ch9.
pub(super) mod easy_fs {
    use core::any::Any;

    /// A disk with blocks of 512 bytes.
    pub(in super::super) trait BlockDevice: Send + Sync + Any {
        fn read_block(&self, block_id: usize, buf: &mut [u8]);
        fn write_block(&self, block_id: usize, buf: &[u8]);
        fn handle_irq(&self);
    }
}

/// rcore-fs.
pub(super) mod dev {
    /// A disk that failed.
    pub(in super::super) struct DevError;

    pub(in super::super) type Result<T> = core::result::Result<T, DevError>;

    /// A disk with blocks of a size of its own.
    pub(in super::super) trait BlockDevice: Send + Sync {
        const BLOCK_SIZE_LOG2: u8;
        fn read_at(&self, block_id: usize, buf: &mut [u8]) -> Result<()>;
        fn write_at(&self, block_id: usize, buf: &[u8]) -> Result<()>;
        fn sync(&self) -> Result<()>;
    }
}
