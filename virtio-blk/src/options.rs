//! What a kernel chooses when it opens a disk.

use crate::features::FeatureSet;

/// What a kernel chooses when it opens a disk. The default suits a kernel that has no wishes.
///
/// ```
/// use virtio_blk::{BlockFeatures, FeatureSet, Options};
///
/// // A file system that is worth nothing without flushes, on a machine with little memory.
/// let options = Options {
///     require: FeatureSet::from(BlockFeatures::FLUSH),
///     queue_size: 16,
///     ..Options::default()
/// };
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Features without which the disk is not opened.
    pub require: FeatureSet,
    /// Features that are not accepted, even if the device offers them. VERSION_1 cannot be forbidden, nor ANY_LAYOUT on
    /// the legacy interface, the only one that has it.
    pub forbid: FeatureSet,
    /// Features that are accepted only if they are named here, or required: RING_RESET
    /// ([`Device::reset_queue`](crate::Device::reset_queue)) and SUSPEND ([`Device::suspend`](crate::Device::suspend)).
    pub opt_in: FeatureSet,
    /// The most entries that a queue gets: no more than the device has, and of a split ring the largest power of two that is
    /// not more; a packed ring has any number. With INDIRECT_DESC as many requests can be in flight.
    pub queue_size: u16,
    /// The most data segments of one request: pieces of memory that are contiguous for the device. A request never has
    /// more than the device allows. Each entry of the queue owns a table for this many, of 16 bytes a segment.
    pub segments: u16,
    /// The most queues that are set up, on a device that has several (MQ).
    pub queues: u16,
    /// How many tasks can wait for room in one queue, in order ([`AsyncQueue`](crate::AsyncQueue)); further ones come
    /// again by themselves, in no order. Each place takes 16 bytes.
    pub waiters: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            require: FeatureSet::NONE,
            forbid: FeatureSet::NONE,
            opt_in: FeatureSet::NONE,
            queue_size: 128,
            segments: 16,
            queues: 1,
            waiters: 64,
        }
    }
}
