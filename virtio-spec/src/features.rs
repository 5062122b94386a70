//! Feature bits that do not depend on the device type.

use bitflags::bitflags;

bitflags! {
    /// The device-independent feature bits (6 Reserved Feature Bits; 6.3 for the legacy ones).
    ///
    /// A device offers these in the same 64-bit word as the bits of its own type (for the block device
    /// [`BlockFeatures`](crate::block::BlockFeatures)): use `from_bits_truncate` to see only the bits below,
    /// `from_bits_retain` to keep the others. Bits 32 and above do not exist on a legacy device.
    ///
    /// Bit 30 is deliberately absent: virtio 1.4 lists it as unused and not to be negotiated, because QEMU
    /// recognises broken early drivers by it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Features: u64 {
        /// Legacy: the device notifies when it runs out of available buffers, even while notifications are
        /// suppressed.
        const NOTIFY_ON_EMPTY = 1 << 24;
        /// Legacy: the device makes no assumption about how a request is cut into descriptors. Without it a
        /// legacy device needs the framing of its type's "Legacy Interface: Framing Requirements".
        const ANY_LAYOUT = 1 << 27;
        /// Descriptors may refer to a table of further descriptors
        /// ([`DescriptorFlags::INDIRECT`](crate::split_ring::DescriptorFlags::INDIRECT)).
        const INDIRECT_DESC = 1 << 28;
        /// Notifications are suppressed by ring position: `used_event` and `avail_event` in the split ring,
        /// [`EventFlags::DESC`](crate::packed_ring::EventFlags::DESC) in the packed one.
        const EVENT_IDX = 1 << 29;
        /// The device complies with virtio 1.0 or later; its absence marks a legacy device.
        const VERSION_1 = 1 << 32;
        /// The device reaches memory as the platform says: through an IOMMU, a bounce buffer, only in part, or
        /// with cache maintenance.
        const ACCESS_PLATFORM = 1 << 33;
        /// Queues use the packed layout ([`crate::packed_ring`]).
        const RING_PACKED = 1 << 34;
        /// The device uses buffers in the order in which they were made available.
        const IN_ORDER = 1 << 35;
        /// Memory accesses are ordered as the platform orders them for hardware devices, so that the driver needs
        /// the barriers for such devices; otherwise those between CPUs suffice.
        const ORDER_PLATFORM = 1 << 36;
        /// Single Root I/O Virtualization. PCI only.
        const SR_IOV = 1 << 37;
        /// Driver notifications carry the ring position too ([`crate::notification`]).
        const NOTIFICATION_DATA = 1 << 38;
        /// Driver notifications identify the queue by a value that the device supplies instead of by its index.
        const NOTIF_CONFIG_DATA = 1 << 39;
        /// A queue can be reset by itself.
        const RING_RESET = 1 << 40;
        /// The device has administration virtqueues. PCI only.
        ///
        /// Section 2.2 counts bit 41 among those of the device types, chapter 6 defines it here.
        const ADMIN_VQ = 1 << 41;
        /// The driver can suspend the device ([`DeviceStatus::SUSPEND`](crate::DeviceStatus::SUSPEND)).
        const SUSPEND = 1 << 43;
    }
}
