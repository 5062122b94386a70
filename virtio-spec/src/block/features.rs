//! Feature bits of the block device.

use bitflags::bitflags;

bitflags! {
    /// The feature bits of the block device (5.2.3 Feature bits; 5.2.3.1 for the legacy ones).
    ///
    /// They share a 64-bit word with the device-independent [`Features`](crate::Features). Many of them are what
    /// makes a field of [`BlockConfig`](super::BlockConfig) readable.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct BlockFeatures: u64 {
        /// Legacy: requests may be barriers ([`BARRIER`](super::BARRIER)).
        const BARRIER = 1 << 0;
        /// `size_max` holds the longest segment in bytes.
        const SIZE_MAX = 1 << 1;
        /// `seg_max` holds the largest number of data segments in a request.
        const SEG_MAX = 1 << 2;
        /// `geometry` is valid.
        const GEOMETRY = 1 << 4;
        /// The device is read-only.
        const RO = 1 << 5;
        /// `blk_size` holds the block size in bytes.
        const BLK_SIZE = 1 << 6;
        /// Legacy: SCSI packet commands ([`ScsiTail`](super::ScsiTail)).
        const SCSI = 1 << 7;
        /// FLUSH requests. The legacy interface also calls it WCE.
        const FLUSH = 1 << 9;
        /// `topology` is valid.
        const TOPOLOGY = 1 << 10;
        /// `writeback` shows the cache mode and can change it.
        const CONFIG_WCE = 1 << 11;
        /// `num_queues` holds the number of request queues; one without this feature.
        const MQ = 1 << 12;
        /// DISCARD requests, with the limits in the `*discard*` fields.
        const DISCARD = 1 << 13;
        /// WRITE_ZEROES requests, with the limits in the `*write_zeroes*` fields.
        const WRITE_ZEROES = 1 << 14;
        /// GET_LIFETIME requests.
        const LIFETIME = 1 << 15;
        /// SECURE_ERASE requests, with the limits in the `*secure_erase*` fields.
        const SECURE_ERASE = 1 << 16;
        /// The device is zoned, `zoned` is valid. Never on a legacy device.
        const ZONED = 1 << 17;
    }
}
