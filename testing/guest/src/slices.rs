//! How a disk is cut up for a kernel that is shaped like someone else's: volumes for each thread and for all of them,
//! and behind those a region without a file system for each thread.

/// How many threads there are.
pub const THREADS: u64 = 8;
/// How many files each thread writes to its own volume, and to that of all.
pub const FILES: u64 = 2;
/// The volumes: one for each thread, and one that all of them use.
pub const SLICES: u64 = THREADS + 1;
/// The length of a volume's slice in sectors of 512 bytes. It is like a disk, with a partition table.
pub const SLICE_SECTORS: u64 = (32 << 20) / 512;
/// The length of a thread's region in sectors.
pub const REGION_SECTORS: u64 = (1 << 20) / 512;

/// The length of the disk in sectors.
pub const DISK_SECTORS: u64 = SLICES * SLICE_SECTORS + THREADS * REGION_SECTORS;

/// The first sector of a slice.
pub fn slice(number: u64) -> u64 {
    number * SLICE_SECTORS
}

/// The first sector of a thread's region.
pub fn region(thread: u64) -> u64 {
    SLICES * SLICE_SECTORS + thread * REGION_SECTORS
}
