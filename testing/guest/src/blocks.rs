//! What the demonstration `blocks` does, and with which parts of the disk: the host builds the same image by itself.

use core::ops::Range;

/// The length of the disk in sectors of 512 bytes.
pub const DISK_SECTORS: u64 = 4 << 11;

/// How many requests of one block each go through the queue, as many of them at once as fit: more than any queue here
/// has entries.
pub const BATCH_REQUESTS: u64 = 400;

/// The sectors that are made to read as zeroes, of which nothing else is written. All are whole blocks of 4096 bytes.
pub const ZEROED: [Range<u64>; 4] = [3072..3328, 3328..3584, 3600..3608, 3616..3632];

/// The sectors that are discarded.
pub const DISCARDED: Range<u64> = 2560..3072;

/// What the disk holds before: the [`pattern`](crate::pattern) of this number.
pub const fn initial_seed(seed: u64) -> u64 {
    !seed
}
