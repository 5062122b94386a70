//! Virtio over PCI: ids, capabilities and configuration layouts.
//!
//! (4.1 Virtio Over PCI Bus.) All fields are little-endian, also those of the legacy header; only the
//! device-specific configuration of a legacy device is in the driver's byte order. 64-bit registers are accessed
//! as two 32-bit halves (4.1.3.1 Driver Requirements: PCI Device Layout).

use bitflags::bitflags;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use crate::macros::{assert_layout, named_values};

/// The PCI vendor id of every virtio device (4.1.2 PCI Device Discovery).
pub const VENDOR_ID: u16 = 0x1af4;

/// The lowest PCI device id of a virtio device, and the first of the transitional ones (4.1.2).
pub const DEVICE_ID_FIRST: u16 = 0x1000;

/// The highest PCI device id of a virtio device (4.1.2).
pub const DEVICE_ID_LAST: u16 = 0x107f;

/// The highest transitional PCI device id (4.1.2).
pub const TRANSITIONAL_DEVICE_ID_LAST: u16 = 0x103f;

/// A non-transitional device's PCI device id is this plus its [`DeviceType`](crate::DeviceType) (4.1.2).
pub const MODERN_DEVICE_ID_BASE: u16 = 0x1040;

/// The id of a vendor-specific PCI capability, which all virtio capabilities are (4.1.4 Virtio Structure PCI
/// Capabilities).
pub const CAPABILITY_VENDOR_SPECIFIC: u8 = 0x09;

/// The highest value of [`Capability::bar`] that means a base address register; the others are reserved and such
/// a capability is to be ignored (4.1.4).
pub const BAR_LAST: u8 = 5;

/// The vector that means "no MSI-X vector": written to unmap an event, read back when mapping failed
/// (4.1.5.1.2 MSI-X Vector Configuration).
pub const MSI_NO_VECTOR: u16 = 0xffff;

/// The highest valid MSI-X vector (4.1.5.1.2).
pub const MSIX_VECTOR_LAST: u16 = 0x7ff;

/// Where the device-specific configuration of a legacy device begins in BAR 0 while MSI-X is disabled, in bytes
/// (4.1.4.10 Legacy Interfaces: A Note on PCI Device Layout).
pub const LEGACY_DEVICE_CONFIG_OFFSET: usize = 20;

/// Where the device-specific configuration of a legacy device begins in BAR 0 while MSI-X is enabled, in bytes
/// (4.1.4.10).
pub const LEGACY_DEVICE_CONFIG_OFFSET_MSIX: usize = 24;

/// A legacy device's queue address register holds the device address shifted right by this (4.1.5.1.3, the
/// legacy note on virtqueue configuration).
pub const LEGACY_QUEUE_ADDRESS_SHIFT: u32 = 12;

named_values! {
    /// The PCI device id of a transitional device, which drivers of both interfaces can use (4.1.2.1 Device
    /// Requirements: PCI Device Discovery).
    pub struct TransitionalDeviceId(u16) {
        /// Network device.
        const NETWORK = 0x1000;
        /// Block device.
        const BLOCK = 0x1001;
        /// Traditional memory balloon device.
        const MEMORY_BALLOON_TRADITIONAL = 0x1002;
        /// Console device.
        const CONSOLE = 0x1003;
        /// SCSI host device.
        const SCSI_HOST = 0x1004;
        /// Entropy source.
        const ENTROPY = 0x1005;
        /// 9P transport.
        const P9_TRANSPORT = 0x1009;
    }
}

named_values! {
    /// What a virtio capability points at, its `cfg_type` (4.1.4). Capabilities with other values are ignored.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    pub struct CapabilityType(u8) {
        /// [`CommonConfig`].
        const COMMON_CFG = 1;
        /// Where to notify; the capability is a [`NotifyCapability`].
        const NOTIFY_CFG = 2;
        /// One byte of [`IsrStatus`].
        const ISR_CFG = 3;
        /// The configuration structure of the device type.
        const DEVICE_CFG = 4;
        /// Access through configuration space; the capability is a [`ConfigAccessCapability`].
        const PCI_CFG = 5;
        /// A shared memory region; the capability is a [`Capability64`].
        const SHARED_MEMORY_CFG = 8;
        /// Vendor-specific data; the capability begins with a [`VendorDataCapability`].
        const VENDOR_CFG = 9;
    }
}

/// A virtio capability in PCI configuration space (4.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Capability {
    /// [`CAPABILITY_VENDOR_SPECIFIC`].
    pub cap_vndr: u8,
    /// Offset of the next capability in configuration space, in bytes; 0 ends the list.
    pub cap_next: u8,
    /// Length of this capability in bytes with all that follows it; may be more than its type needs.
    pub cap_len: u8,
    /// What it points at.
    pub cfg_type: CapabilityType,
    /// Which base address register, 0 to [`BAR_LAST`].
    pub bar: u8,
    /// Distinguishes capabilities of one type where the device type says so (for example shared memory ids).
    pub id: u8,
    /// Padding.
    pub padding: [u8; 2],
    /// Where the structure begins in the BAR, in bytes.
    pub offset: U32,
    /// Length of the structure in bytes; may be more than its type needs.
    pub length: U32,
}

assert_layout!(Capability, size 16, {
    cap_vndr: 0, cap_next: 1, cap_len: 2, cfg_type: 3, bar: 4, id: 5, padding: 6, offset: 8, length: 12,
});

/// A capability whose offset and length have 64 bits (4.1.4; used by 4.1.4.7 Shared memory capability).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Capability64 {
    /// The capability with the low halves.
    pub cap: Capability,
    /// High half of the offset in the BAR, in bytes.
    pub offset_hi: U32,
    /// High half of the length in bytes.
    pub length_hi: U32,
}

assert_layout!(Capability64, size 24, { cap: 0, offset_hi: 16, length_hi: 20 });

/// The capability that says where to notify (4.1.4.4 Notification structure layout).
///
/// A queue's notification address in the BAR is `cap.offset + queue_notify_off * notify_off_multiplier`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NotifyCapability {
    /// The capability with the region of all notification addresses.
    pub cap: Capability,
    /// What [`CommonConfig::queue_notify_off`] is multiplied by, in bytes; 0 if all queues share one address.
    pub notify_off_multiplier: U32,
}

assert_layout!(NotifyCapability, size 20, { cap: 0, notify_off_multiplier: 16 });

/// The capability that gives access to the BARs through configuration space (4.1.4.9 PCI configuration access
/// capability).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConfigAccessCapability {
    /// The capability, whose `bar`, `offset` and `length` (1, 2 or 4) the driver writes to choose what to access.
    pub cap: Capability,
    /// The window on what was chosen.
    pub pci_cfg_data: [u8; 4],
}

assert_layout!(ConfigAccessCapability, size 20, { cap: 0, pci_cfg_data: 16 });

/// The fixed part of a capability with vendor-specific data, for debugging and reporting (4.1.4.8 Vendor data
/// capability).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VendorDataCapability {
    /// [`CAPABILITY_VENDOR_SPECIFIC`].
    pub cap_vndr: u8,
    /// Offset of the next capability in configuration space, in bytes; 0 ends the list.
    pub cap_next: u8,
    /// Length of this capability in bytes with all that follows it, a multiple of 4.
    pub cap_len: u8,
    /// [`CapabilityType::VENDOR_CFG`].
    pub cfg_type: CapabilityType,
    /// The PCI vendor id of who defined the rest; never [`VENDOR_ID`].
    pub vendor_id: U16,
}

assert_layout!(VendorDataCapability, size 6, {
    cap_vndr: 0, cap_next: 1, cap_len: 2, cfg_type: 3, vendor_id: 4,
});

/// The common configuration registers (4.1.4.3 Common configuration structure layout).
///
/// R and RW say what the *driver* may do with a field. "Queue" means the one last written to `queue_select`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommonConfig {
    /// RW. Which 32 bits `device_feature` shows: 0 for bits 0 to 31, 1 for bits 32 to 63.
    pub device_feature_select: U32,
    /// R. 32 of the features that the device offers.
    pub device_feature: U32,
    /// RW. Which 32 bits `driver_feature` shows: 0 for bits 0 to 31, 1 for bits 32 to 63.
    pub driver_feature_select: U32,
    /// RW. 32 of the features that the driver accepts.
    pub driver_feature: U32,
    /// RW. MSI-X vector for configuration changes, or [`MSI_NO_VECTOR`].
    pub config_msix_vector: U16,
    /// R. The most queues that the device supports, administration queues not counted.
    pub num_queues: U16,
    /// RW. [`DeviceStatus`](crate::DeviceStatus); writing 0 resets the device, which is done when 0 reads back.
    pub device_status: u8,
    /// R. Changes whenever the device-specific configuration has noticeably changed.
    pub config_generation: u8,
    /// RW. The index of the queue that the fields below mean.
    pub queue_select: U16,
    /// RW. Size of the queue in entries: the largest possible after a reset; 0 if there is no such queue.
    pub queue_size: U16,
    /// RW. MSI-X vector of the queue, or [`MSI_NO_VECTOR`].
    pub queue_msix_vector: U16,
    /// RW. 1 lets the device process the queue; the driver never writes 0.
    pub queue_enable: U16,
    /// R. Where the queue is notified, in units of [`NotifyCapability::notify_off_multiplier`].
    pub queue_notify_off: U16,
    /// RW. Device address of the queue's descriptor area.
    pub queue_desc: U64,
    /// RW. Device address of the queue's driver area.
    pub queue_driver: U64,
    /// RW. Device address of the queue's device area.
    pub queue_device: U64,
    /// R, with [`Features::NOTIF_CONFIG_DATA`](crate::Features::NOTIF_CONFIG_DATA). What notifications say instead
    /// of the queue's index.
    pub queue_notif_config_data: U16,
    /// RW, with [`Features::RING_RESET`](crate::Features::RING_RESET). Writing 1 resets the queue; 1 for as long
    /// as that takes, then 0.
    pub queue_reset: U16,
    /// R, with [`Features::ADMIN_VQ`](crate::Features::ADMIN_VQ). Index of the first administration queue.
    pub admin_queue_index: U16,
    /// R, with [`Features::ADMIN_VQ`](crate::Features::ADMIN_VQ). Number of administration queues.
    pub admin_queue_num: U16,
}

assert_layout!(CommonConfig, size 64, {
    device_feature_select: 0, device_feature: 4, driver_feature_select: 8, driver_feature: 12,
    config_msix_vector: 16, num_queues: 18, device_status: 20, config_generation: 21,
    queue_select: 22, queue_size: 24, queue_msix_vector: 26, queue_enable: 28, queue_notify_off: 30,
    queue_desc: 32, queue_driver: 40, queue_device: 48, queue_notif_config_data: 56, queue_reset: 58,
    admin_queue_index: 60, admin_queue_num: 62,
});

/// The header of a legacy device's registers, at the beginning of BAR 0 in I/O space (4.1.4.10).
///
/// While MSI-X is enabled a [`LegacyMsixConfig`] follows; then comes the device-specific configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LegacyCommonConfig {
    /// R. Features 0 to 31 that the device offers.
    pub device_features: U32,
    /// RW. Features 0 to 31 that the driver accepts.
    pub driver_features: U32,
    /// RW. Where the queue begins, in units of 4096 bytes ([`LEGACY_QUEUE_ADDRESS_SHIFT`]).
    pub queue_address: U32,
    /// R. Size of the queue in entries, which the driver cannot change; 0 if there is no such queue.
    pub queue_size: U16,
    /// RW. The index of the queue that the queue fields mean.
    pub queue_select: U16,
    /// RW. Writing a queue's index tells the device about new buffers there.
    pub queue_notify: U16,
    /// RW. [`DeviceStatus`](crate::DeviceStatus); writing 0 resets the device.
    pub device_status: u8,
    /// R. [`IsrStatus`]; reading clears it.
    pub isr_status: u8,
}

assert_layout!(LegacyCommonConfig, size 20, {
    device_features: 0, driver_features: 4, queue_address: 8, queue_size: 12, queue_select: 14, queue_notify: 16,
    device_status: 18, isr_status: 19,
});

/// What follows [`LegacyCommonConfig`] while MSI-X is enabled (4.1.4.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LegacyMsixConfig {
    /// RW. MSI-X vector for configuration changes, or [`MSI_NO_VECTOR`].
    pub config_msix_vector: U16,
    /// RW. MSI-X vector of the selected queue, or [`MSI_NO_VECTOR`].
    pub queue_msix_vector: U16,
}

assert_layout!(LegacyMsixConfig, size 4, { config_msix_vector: 0, queue_msix_vector: 2 });

const _: () = {
    assert!(size_of::<LegacyCommonConfig>() == LEGACY_DEVICE_CONFIG_OFFSET);
    assert!(size_of::<LegacyCommonConfig>() + size_of::<LegacyMsixConfig>() == LEGACY_DEVICE_CONFIG_OFFSET_MSIX);
};

bitflags! {
    /// Why a device without MSI-X interrupts; reading it clears it and takes the interrupt back (4.1.4.5 ISR status
    /// capability).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct IsrStatus: u8 {
        /// A queue has used buffers.
        const QUEUE_INTERRUPT = 1 << 0;
        /// The device's configuration has changed.
        const DEVICE_CONFIGURATION_INTERRUPT = 1 << 1;
    }
}
