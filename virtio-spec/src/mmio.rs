//! Virtio over MMIO: the registers of a memory-mapped device, version 2 and version 1 (legacy).
//!
//! (4.2.2 MMIO Device Register Layout; 4.2.4 Legacy interface.) Every register is 32 bits wide, aligned and
//! little-endian; the configuration space from [`Register::CONFIG`] on is the device type's, accessed with the
//! width of its fields (and in the driver's byte order on a legacy device).

use bitflags::bitflags;

use crate::macros::named_values;

/// What [`Register::MAGIC_VALUE`] reads as: "virt" in little-endian ASCII (4.2.2).
pub const MAGIC: u32 = 0x7472_6976;

/// What [`Register::VERSION`] reads as on a legacy device (4.2.4).
pub const VERSION_LEGACY: u32 = 1;

/// What [`Register::VERSION`] reads as on a device of virtio 1.0 or later (4.2.2).
pub const VERSION_MODERN: u32 = 2;

/// The `compatible` string of such a device's node in a device tree (4.2.1 MMIO Device Discovery).
pub const COMPATIBLE: &str = "virtio,mmio";

/// The length, in bytes, that [`Register::SHM_LEN_LOW`] and its high half read as for a region that does not
/// exist (4.2.2).
pub const SHM_LEN_NONE: u64 = u64::MAX;

/// The base address that [`Register::SHM_BASE_LOW`] and its high half read as for a region that does not exist
/// (4.2.2).
pub const SHM_BASE_NONE: u64 = u64::MAX;

named_values! {
    /// A register, as its offset in bytes from the device's base address.
    ///
    /// R, W and RW say what the *driver* may do with it. "Queue" means the one last written to
    /// [`QUEUE_SEL`](Self::QUEUE_SEL). Registers marked *modern* exist in version 2 only, those marked *legacy* in
    /// version 1 only.
    pub struct Register(usize) {
        /// R. [`MAGIC`].
        const MAGIC_VALUE = 0x000;
        /// R. [`VERSION_MODERN`] or [`VERSION_LEGACY`].
        const VERSION = 0x004;
        /// R. The [`DeviceType`](crate::DeviceType); 0 means an empty slot.
        const DEVICE_ID = 0x008;
        /// R. The vendor's id.
        const VENDOR_ID = 0x00c;
        /// R. 32 of the features that the device offers, as selected by `DEVICE_FEATURES_SEL`. Legacy name:
        /// HostFeatures.
        const DEVICE_FEATURES = 0x010;
        /// W. Which 32 bits `DEVICE_FEATURES` shows: 0 for bits 0 to 31, 1 for bits 32 to 63.
        const DEVICE_FEATURES_SEL = 0x014;
        /// W. 32 of the features that the driver accepts, as selected by `DRIVER_FEATURES_SEL`. Legacy name:
        /// GuestFeatures.
        const DRIVER_FEATURES = 0x020;
        /// W. Which 32 bits `DRIVER_FEATURES` sets: 0 for bits 0 to 31, 1 for bits 32 to 63.
        const DRIVER_FEATURES_SEL = 0x024;
        /// W, *legacy*. The unit of `QUEUE_PFN` in bytes, a power of two; written once, before any queue.
        const GUEST_PAGE_SIZE = 0x028;
        /// W. The index of the queue that the queue registers mean from now on.
        const QUEUE_SEL = 0x030;
        /// R. The largest size of the queue in entries; 0 if there is no such queue. Formerly QueueNumMax.
        const QUEUE_SIZE_MAX = 0x034;
        /// W. The size of the queue in entries, as the driver chose it. Formerly QueueNum.
        const QUEUE_SIZE = 0x038;
        /// W, *legacy*. Alignment of the used ring in bytes, a power of two.
        const QUEUE_ALIGN = 0x03c;
        /// RW, *legacy*. Where the queue begins, in units of `GUEST_PAGE_SIZE`; 0 if it is not in use.
        const QUEUE_PFN = 0x040;
        /// RW, *modern*. 1 lets the device process the queue.
        const QUEUE_READY = 0x044;
        /// W. Tells the device about new buffers: the queue's index, or with NOTIFICATION_DATA the word of
        /// [`crate::notification`].
        const QUEUE_NOTIFY = 0x050;
        /// R. Why the interrupt is asserted: [`InterruptStatus`].
        const INTERRUPT_STATUS = 0x060;
        /// W. The [`InterruptStatus`] bits that have been handled.
        const INTERRUPT_ACK = 0x064;
        /// RW. [`DeviceStatus`](crate::DeviceStatus); writing 0 resets the device.
        const STATUS = 0x070;
        /// W, *modern*. Device address of the queue's descriptor area, low half.
        const QUEUE_DESC_LOW = 0x080;
        /// W, *modern*. Device address of the queue's descriptor area, high half.
        const QUEUE_DESC_HIGH = 0x084;
        /// W, *modern*. Device address of the queue's driver area, low half.
        const QUEUE_DRIVER_LOW = 0x090;
        /// W, *modern*. Device address of the queue's driver area, high half.
        const QUEUE_DRIVER_HIGH = 0x094;
        /// W, *modern*. Device address of the queue's device area, low half.
        const QUEUE_DEVICE_LOW = 0x0a0;
        /// W, *modern*. Device address of the queue's device area, high half.
        const QUEUE_DEVICE_HIGH = 0x0a4;
        /// W, *modern*. The id of the shared memory region that the next four registers show.
        const SHM_SEL = 0x0ac;
        /// R, *modern*. Length of the shared memory region in bytes, low half; see [`SHM_LEN_NONE`].
        const SHM_LEN_LOW = 0x0b0;
        /// R, *modern*. Length of the shared memory region in bytes, high half.
        const SHM_LEN_HIGH = 0x0b4;
        /// R, *modern*. Physical address of the shared memory region, low half; see [`SHM_BASE_NONE`].
        const SHM_BASE_LOW = 0x0b8;
        /// R, *modern*. Physical address of the shared memory region, high half.
        const SHM_BASE_HIGH = 0x0bc;
        /// RW, *modern*, with [`Features::RING_RESET`](crate::Features::RING_RESET). Writing 1 resets the queue; 1
        /// for as long as that takes, then 0.
        const QUEUE_RESET = 0x0c0;
        /// R, *modern*. Changes whenever the configuration space may have changed between two reads.
        const CONFIG_GENERATION = 0x0fc;
        /// RW. The first byte of the configuration space.
        const CONFIG = 0x100;
    }
}

bitflags! {
    /// Why a device asserts its interrupt (4.2.2, registers [`Register::INTERRUPT_STATUS`] and
    /// [`Register::INTERRUPT_ACK`]).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct InterruptStatus: u32 {
        /// The device has used a buffer in at least one queue.
        const USED_BUFFER = 1 << 0;
        /// The device's configuration has changed.
        const CONFIGURATION_CHANGE = 1 << 1;
    }
}
