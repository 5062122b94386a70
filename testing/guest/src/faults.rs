//! What is wrong with the disk of the demonstration `errors`: the host arranges it, the kernel expects it.

/// The sector that cannot be read.
pub const BAD_READ_SECTOR: u64 = 1000;
/// The sector that cannot be written.
pub const BAD_WRITE_SECTOR: u64 = 2000;
