//! Holds every number and every shape of this crate against `virtio-bindings`, which others generate from the
//! headers of Linux.
//!
//! Each table has two parts. `bindings` names the constant of that crate with which ours must agree. `lacking` lists
//! what that crate does not have: there the number is read off the text of virtio 1.4, in the section given.
//!
//! The tables are complete, or the test fails: named bits and values are enumerated, and the constants, functions
//! and structures are looked up in the sources of this crate.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    mem::{offset_of, size_of},
    path::Path,
};

use virtio_bindings::{
    virtio_blk::*,
    virtio_config::*,
    virtio_ids::*,
    virtio_mmio::*,
    virtio_ring::{
        VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VRING_AVAIL_ALIGN_SIZE, VRING_AVAIL_F_NO_INTERRUPT,
        VRING_DESC_ALIGN_SIZE, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE, VRING_PACKED_DESC_F_AVAIL,
        VRING_PACKED_DESC_F_USED, VRING_PACKED_EVENT_F_WRAP_CTR, VRING_PACKED_EVENT_FLAG_DESC,
        VRING_PACKED_EVENT_FLAG_DISABLE, VRING_PACKED_EVENT_FLAG_ENABLE, VRING_USED_ALIGN_SIZE, VRING_USED_F_NO_NOTIFY,
        vring_avail, vring_desc, vring_packed_desc, vring_packed_desc_event, vring_used, vring_used_elem,
    },
};
use virtio_spec::{
    bitflags::Flags, block, device_type, features, mmio, notification, packed_ring, pci, split_ring, status,
    zerocopy::FromBytes,
};

/// What has been compared so far.
#[derive(Default)]
struct Ledger {
    /// Paths of items, such as `mmio::MAGIC`.
    covered: BTreeSet<String>,
    /// What `virtio-bindings` does not have, with the section that the number was read off.
    lacking: Vec<String>,
}

impl Ledger {
    fn cover(&mut self, item: &str) {
        let item = item.replace(' ', "");
        assert!(self.covered.insert(item.clone()), "{item} has two tables");
    }

    fn lack(&mut self, what: &str, section: &str) {
        self.lacking.push(format!("{} ({section})", what.replace(' ', "")));
    }

    /// Compares the names that a type defines with the rows of its table.
    fn compare(
        &mut self,
        item: &str,
        ours: impl Iterator<Item = (&'static str, u64)>,
        bindings: &[(&str, u64)],
        lacking: &[(&str, u64, &str)],
    ) {
        self.cover(item);
        let mut expected = BTreeMap::new();
        for &(name, value) in bindings {
            assert!(expected.insert(name, value).is_none(), "{item}::{name} has two rows");
        }
        for &(name, value, section) in lacking {
            assert!(expected.insert(name, value).is_none(), "{item}::{name} has two rows");
            self.lack(&format!("{item}::{name}"), section);
        }
        let ours: BTreeMap<_, _> = ours.collect();
        assert_eq!(ours, expected, "{item}");
    }
}

/// Compares a type of named bits: rows are numbers of bits, not masks.
macro_rules! bits {
    ($ledger:expr, $module:ident::$Item:ident, bindings { $($a:ident = $bit:expr),* $(,)? }
     lacking { $($b:ident = $lacking_bit:expr => $section:literal),* $(,)? }) => {
        $ledger.compare(
            stringify!($module::$Item),
            $module::$Item::FLAGS.iter().map(|flag| (flag.name(), u64::from(flag.value().bits()))),
            &[$((stringify!($a), 1 << $bit)),*],
            &[$((stringify!($b), 1 << $lacking_bit, $section)),*],
        )
    };
}

/// Compares a type of named bits: rows are masks.
macro_rules! masks {
    ($ledger:expr, $module:ident::$Item:ident, bindings { $($a:ident = $mask:expr),* $(,)? }
     lacking { $($b:ident = $lacking_mask:expr => $section:literal),* $(,)? }) => {
        $ledger.compare(
            stringify!($module::$Item),
            $module::$Item::FLAGS.iter().map(|flag| (flag.name(), u64::from(flag.value().bits()))),
            &[$((stringify!($a), u64::from($mask))),*],
            &[$((stringify!($b), $lacking_mask, $section)),*],
        )
    };
}

/// Compares a type of named values, and checks that it prints their names.
macro_rules! values {
    ($ledger:expr, $module:ident::$Item:ident, bindings { $($a:ident = $value:expr),* $(,)? }
     lacking { $($b:ident = $lacking_value:expr => $section:literal),* $(,)? }) => {
        $ledger.compare(
            stringify!($module::$Item),
            $module::$Item::NAMED.iter().map(|&(name, value)| (name, value.0 as u64)),
            &[$((stringify!($a), u64::from($value))),*],
            &[$((stringify!($b), $lacking_value, $section)),*],
        );
        for (name, value) in $module::$Item::NAMED {
            assert_eq!(value.name(), Some(*name));
            assert_eq!(format!("{value:?} {value}"), format!("{name} {name}"));
        }
    };
}

/// Compares single constants (and, with their arguments, functions).
macro_rules! constants {
    ($ledger:expr, bindings { $($($a:ident)::+ = $value:expr),* $(,)? }
     lacking { $($($b:ident)::+ = $lacking_value:expr => $section:literal),* $(,)? }) => {
        $(
            $ledger.cover(stringify!($($a)::+));
            assert_eq!(u64::try_from($($a)::+).unwrap(), u64::from($value), stringify!($($a)::+));
        )*
        $(
            $ledger.cover(stringify!($($b)::+));
            $ledger.lack(stringify!($($b)::+), $section);
            assert_eq!($($b)::+, $lacking_value, stringify!($($b)::+));
        )*
    };
}

/// Compares the size of a structure and the offset of each of its fields with those of a structure of the bindings.
macro_rules! same_layout {
    ($ledger:expr, $module:ident::$Item:ident = $Theirs:ident { $($field:ident = $theirs:ident),* $(,)? }) => {
        $ledger.cover(stringify!($module::$Item));
        assert_eq!(size_of::<$module::$Item>(), size_of::<$Theirs>(), stringify!($module::$Item));
        $(
            assert_eq!(
                offset_of!($module::$Item, $field),
                offset_of!($Theirs, $theirs),
                concat!(stringify!($module::$Item), ", field ", stringify!($field))
            );
        )*
        let _every_field_has_a_row = |$module::$Item { $($field: _),* }: $module::$Item| {};
    };
}

/// For a structure that the bindings lack: its fields and their widths in bytes in the order of the specification.
macro_rules! lacking_layout {
    ($ledger:expr, $module:ident::$Item:ident, $section:literal, { $($field:ident: $width:expr),* $(,)? }) => {
        $ledger.cover(stringify!($module::$Item));
        $ledger.lack(stringify!($module::$Item), $section);
        let mut offset = 0;
        $(
            assert_eq!(
                offset_of!($module::$Item, $field),
                offset,
                concat!(stringify!($module::$Item), ", field ", stringify!($field))
            );
            offset += $width;
        )*
        assert_eq!(size_of::<$module::$Item>(), offset, stringify!($module::$Item));
        let _every_field_has_a_row = |$module::$Item { $($field: _),* }: $module::$Item| {};
    };
}

fn device(ledger: &mut Ledger) {
    values!(ledger, device_type::DeviceType,
        bindings {
            NETWORK = VIRTIO_ID_NET,
            BLOCK = VIRTIO_ID_BLOCK,
            CONSOLE = VIRTIO_ID_CONSOLE,
            ENTROPY = VIRTIO_ID_RNG,
            MEMORY_BALLOON_TRADITIONAL = VIRTIO_ID_BALLOON,
            IO_MEMORY = VIRTIO_ID_IOMEM,
            RPMSG = VIRTIO_ID_RPMSG,
            SCSI_HOST = VIRTIO_ID_SCSI,
            P9_TRANSPORT = VIRTIO_ID_9P,
            MAC80211_WLAN = VIRTIO_ID_MAC80211_WLAN,
            RPROC_SERIAL = VIRTIO_ID_RPROC_SERIAL,
            CAIF = VIRTIO_ID_CAIF,
            MEMORY_BALLOON = VIRTIO_ID_MEMORY_BALLOON,
            GPU = VIRTIO_ID_GPU,
            RTC = VIRTIO_ID_CLOCK,
            INPUT = VIRTIO_ID_INPUT,
            SOCKET = VIRTIO_ID_VSOCK,
            CRYPTO = VIRTIO_ID_CRYPTO,
            SIGNAL_DISTRIBUTION = VIRTIO_ID_SIGNAL_DIST,
            PSTORE = VIRTIO_ID_PSTORE,
            IOMMU = VIRTIO_ID_IOMMU,
            MEMORY = VIRTIO_ID_MEM,
            SOUND = VIRTIO_ID_SOUND,
            FILE_SYSTEM = VIRTIO_ID_FS,
            PMEM = VIRTIO_ID_PMEM,
            RPMB = VIRTIO_ID_RPMB,
            MAC80211_HWSIM = VIRTIO_ID_MAC80211_HWSIM,
            VIDEO_ENCODER = VIRTIO_ID_VIDEO_ENCODER,
            VIDEO_DECODER = VIRTIO_ID_VIDEO_DECODER,
            SCMI = VIRTIO_ID_SCMI,
            NITRO_SECURE_MODULE = VIRTIO_ID_NITRO_SEC_MOD,
            I2C_ADAPTER = VIRTIO_ID_I2C_ADAPTER,
            WATCHDOG = VIRTIO_ID_WATCHDOG,
            CAN = VIRTIO_ID_CAN,
            PARAMETER_SERVER = VIRTIO_ID_PARAM_SERV,
            AUDIO_POLICY = VIRTIO_ID_AUDIO_POLICY,
            BLUETOOTH = VIRTIO_ID_BT,
            GPIO = VIRTIO_ID_GPIO,
        }
        lacking {
            INVALID = 0 => "5 Device Types",
            RDMA = 42 => "5 Device Types",
            CAMERA = 43 => "5 Device Types",
            ISM = 44 => "5 Device Types",
            SPI_CONTROLLER = 45 => "5 Device Types",
            TEE = 46 => "5 Device Types",
            CPU_BALLOON = 47 => "5 Device Types",
            MEDIA = 48 => "5 Device Types",
            USB_CONTROLLER = 49 => "5 Device Types",
        }
    );
    // Linux has an id that virtio 1.4 does not; a value without a name prints as a number.
    let dmabuf = device_type::DeviceType(VIRTIO_ID_DMABUF);
    assert_eq!(dmabuf.name(), None);
    assert_eq!(dmabuf.to_string(), "DeviceType(0x25)");

    masks!(ledger, status::DeviceStatus,
        bindings {
            ACKNOWLEDGE = VIRTIO_CONFIG_S_ACKNOWLEDGE,
            DRIVER = VIRTIO_CONFIG_S_DRIVER,
            DRIVER_OK = VIRTIO_CONFIG_S_DRIVER_OK,
            FEATURES_OK = VIRTIO_CONFIG_S_FEATURES_OK,
            DEVICE_NEEDS_RESET = VIRTIO_CONFIG_S_NEEDS_RESET,
            FAILED = VIRTIO_CONFIG_S_FAILED,
        }
        lacking { SUSPEND = 16 => "2.1 Device Status Field" }
    );

    bits!(ledger, features::Features,
        bindings {
            NOTIFY_ON_EMPTY = VIRTIO_F_NOTIFY_ON_EMPTY,
            ANY_LAYOUT = VIRTIO_F_ANY_LAYOUT,
            INDIRECT_DESC = VIRTIO_RING_F_INDIRECT_DESC,
            EVENT_IDX = VIRTIO_RING_F_EVENT_IDX,
            VERSION_1 = VIRTIO_F_VERSION_1,
            ACCESS_PLATFORM = VIRTIO_F_ACCESS_PLATFORM,
            RING_PACKED = VIRTIO_F_RING_PACKED,
            IN_ORDER = VIRTIO_F_IN_ORDER,
            ORDER_PLATFORM = VIRTIO_F_ORDER_PLATFORM,
            SR_IOV = VIRTIO_F_SR_IOV,
            NOTIFICATION_DATA = VIRTIO_F_NOTIFICATION_DATA,
            NOTIF_CONFIG_DATA = VIRTIO_F_NOTIF_CONFIG_DATA,
            RING_RESET = VIRTIO_F_RING_RESET,
            ADMIN_VQ = VIRTIO_F_ADMIN_VQ,
        }
        lacking { SUSPEND = 43 => "6 Reserved Feature Bits" }
    );

    constants!(ledger,
        bindings {}
        lacking {
            notification::VQ_INDEX_SHIFT = 0 => "2.9 Driver Notifications, notifications-le.c",
            notification::VQ_INDEX_MASK = (1 << 16) - 1 => "2.9 Driver Notifications, notifications-le.c",
            notification::NEXT_OFF_SHIFT = 16 => "2.9 Driver Notifications, notifications-le.c",
            notification::NEXT_OFF_MASK = (1 << 15) - 1 => "2.9 Driver Notifications, notifications-le.c",
            notification::NEXT_WRAP_SHIFT = 16 + 15 => "2.9 Driver Notifications, notifications-le.c",
        }
    );
}

fn mmio_transport(ledger: &mut Ledger) {
    values!(ledger, mmio::Register,
        bindings {
            MAGIC_VALUE = VIRTIO_MMIO_MAGIC_VALUE,
            VERSION = VIRTIO_MMIO_VERSION,
            DEVICE_ID = VIRTIO_MMIO_DEVICE_ID,
            VENDOR_ID = VIRTIO_MMIO_VENDOR_ID,
            DEVICE_FEATURES = VIRTIO_MMIO_DEVICE_FEATURES,
            DEVICE_FEATURES_SEL = VIRTIO_MMIO_DEVICE_FEATURES_SEL,
            DRIVER_FEATURES = VIRTIO_MMIO_DRIVER_FEATURES,
            DRIVER_FEATURES_SEL = VIRTIO_MMIO_DRIVER_FEATURES_SEL,
            GUEST_PAGE_SIZE = VIRTIO_MMIO_GUEST_PAGE_SIZE,
            QUEUE_SEL = VIRTIO_MMIO_QUEUE_SEL,
            QUEUE_SIZE_MAX = VIRTIO_MMIO_QUEUE_NUM_MAX,
            QUEUE_SIZE = VIRTIO_MMIO_QUEUE_NUM,
            QUEUE_ALIGN = VIRTIO_MMIO_QUEUE_ALIGN,
            QUEUE_PFN = VIRTIO_MMIO_QUEUE_PFN,
            QUEUE_READY = VIRTIO_MMIO_QUEUE_READY,
            QUEUE_NOTIFY = VIRTIO_MMIO_QUEUE_NOTIFY,
            INTERRUPT_STATUS = VIRTIO_MMIO_INTERRUPT_STATUS,
            INTERRUPT_ACK = VIRTIO_MMIO_INTERRUPT_ACK,
            STATUS = VIRTIO_MMIO_STATUS,
            QUEUE_DESC_LOW = VIRTIO_MMIO_QUEUE_DESC_LOW,
            QUEUE_DESC_HIGH = VIRTIO_MMIO_QUEUE_DESC_HIGH,
            QUEUE_DRIVER_LOW = VIRTIO_MMIO_QUEUE_AVAIL_LOW,
            QUEUE_DRIVER_HIGH = VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
            QUEUE_DEVICE_LOW = VIRTIO_MMIO_QUEUE_USED_LOW,
            QUEUE_DEVICE_HIGH = VIRTIO_MMIO_QUEUE_USED_HIGH,
            SHM_SEL = VIRTIO_MMIO_SHM_SEL,
            SHM_LEN_LOW = VIRTIO_MMIO_SHM_LEN_LOW,
            SHM_LEN_HIGH = VIRTIO_MMIO_SHM_LEN_HIGH,
            SHM_BASE_LOW = VIRTIO_MMIO_SHM_BASE_LOW,
            SHM_BASE_HIGH = VIRTIO_MMIO_SHM_BASE_HIGH,
            CONFIG_GENERATION = VIRTIO_MMIO_CONFIG_GENERATION,
            CONFIG = VIRTIO_MMIO_CONFIG,
        }
        lacking { QUEUE_RESET = 0x0c0 => "4.2.2 MMIO Device Register Layout" }
    );
    masks!(ledger, mmio::InterruptStatus,
        bindings { USED_BUFFER = VIRTIO_MMIO_INT_VRING, CONFIGURATION_CHANGE = VIRTIO_MMIO_INT_CONFIG }
        lacking {}
    );
    constants!(ledger,
        bindings {}
        lacking {
            mmio::MAGIC = u32::from_le_bytes(*b"virt") => "4.2.2 MMIO Device Register Layout",
            mmio::VERSION_LEGACY = 1 => "4.2.4 Legacy interface",
            mmio::VERSION_MODERN = 2 => "4.2.2 MMIO Device Register Layout",
            mmio::COMPATIBLE = "virtio,mmio" => "4.2.1 MMIO Device Discovery",
            mmio::SHM_LEN_NONE = 0xffff_ffff_ffff_ffff => "4.2.2 MMIO Device Register Layout",
            mmio::SHM_BASE_NONE = 0xffff_ffff_ffff_ffff => "4.2.2 MMIO Device Register Layout",
        }
    );
}

/// The bindings have the transitional ids and nothing else of PCI.
fn pci_transport(ledger: &mut Ledger) {
    values!(ledger, pci::TransitionalDeviceId,
        bindings {
            NETWORK = VIRTIO_TRANS_ID_NET,
            BLOCK = VIRTIO_TRANS_ID_BLOCK,
            MEMORY_BALLOON_TRADITIONAL = VIRTIO_TRANS_ID_BALLOON,
            CONSOLE = VIRTIO_TRANS_ID_CONSOLE,
            SCSI_HOST = VIRTIO_TRANS_ID_SCSI,
            ENTROPY = VIRTIO_TRANS_ID_RNG,
            P9_TRANSPORT = VIRTIO_TRANS_ID_9P,
        }
        lacking {}
    );
    values!(ledger, pci::CapabilityType,
        bindings {}
        lacking {
            COMMON_CFG = 1 => "4.1.4 Virtio Structure PCI Capabilities",
            NOTIFY_CFG = 2 => "4.1.4 Virtio Structure PCI Capabilities",
            ISR_CFG = 3 => "4.1.4 Virtio Structure PCI Capabilities",
            DEVICE_CFG = 4 => "4.1.4 Virtio Structure PCI Capabilities",
            PCI_CFG = 5 => "4.1.4 Virtio Structure PCI Capabilities",
            SHARED_MEMORY_CFG = 8 => "4.1.4 Virtio Structure PCI Capabilities",
            VENDOR_CFG = 9 => "4.1.4 Virtio Structure PCI Capabilities",
        }
    );
    bits!(ledger, pci::IsrStatus,
        bindings {}
        lacking {
            QUEUE_INTERRUPT = 0 => "4.1.4.5 ISR status capability",
            DEVICE_CONFIGURATION_INTERRUPT = 1 => "4.1.4.5 ISR status capability",
        }
    );
    constants!(ledger,
        bindings {}
        lacking {
            pci::VENDOR_ID = 0x1af4 => "4.1.2 PCI Device Discovery",
            pci::DEVICE_ID_FIRST = 0x1000 => "4.1.2 PCI Device Discovery",
            pci::DEVICE_ID_LAST = 0x107f => "4.1.2 PCI Device Discovery",
            pci::TRANSITIONAL_DEVICE_ID_LAST = 0x103f => "4.1.2 PCI Device Discovery",
            pci::MODERN_DEVICE_ID_BASE = 0x1040 => "4.1.2 PCI Device Discovery",
            pci::CAPABILITY_VENDOR_SPECIFIC = 0x09 => "4.1.4 Virtio Structure PCI Capabilities",
            pci::BAR_LAST = 0x5 => "4.1.4 Virtio Structure PCI Capabilities",
            pci::MSI_NO_VECTOR = 0xffff => "4.1.5.1.2 MSI-X Vector Configuration",
            pci::MSIX_VECTOR_LAST = 0x7ff => "4.1.5.1.2 MSI-X Vector Configuration",
            pci::LEGACY_DEVICE_CONFIG_OFFSET = 20 => "4.1.4.10 Legacy Interfaces: A Note on PCI Device Layout",
            pci::LEGACY_DEVICE_CONFIG_OFFSET_MSIX = 24 => "4.1.4.10 Legacy Interfaces: A Note on PCI Device Layout",
            pci::LEGACY_QUEUE_ADDRESS_SHIFT = 4096_u32.trailing_zeros()
                => "4.1.5.1.3.1 Legacy Interface: A Note on Virtqueue Configuration",
        }
    );
    lacking_layout!(ledger, pci::Capability, "4.1.4 Virtio Structure PCI Capabilities", {
        cap_vndr: 1, cap_next: 1, cap_len: 1, cfg_type: 1, bar: 1, id: 1, padding: 2, offset: 4, length: 4,
    });
    lacking_layout!(ledger, pci::Capability64, "4.1.4 Virtio Structure PCI Capabilities", {
        cap: 16, offset_hi: 4, length_hi: 4,
    });
    lacking_layout!(ledger, pci::NotifyCapability, "4.1.4.4 Notification structure layout", {
        cap: 16, notify_off_multiplier: 4,
    });
    lacking_layout!(ledger, pci::VendorDataCapability, "4.1.4.8 Vendor data capability", {
        cap_vndr: 1, cap_next: 1, cap_len: 1, cfg_type: 1, vendor_id: 2,
    });
    lacking_layout!(ledger, pci::ConfigAccessCapability, "4.1.4.9 PCI configuration access capability", {
        cap: 16, pci_cfg_data: 4,
    });
    lacking_layout!(ledger, pci::CommonConfig, "4.1.4.3 Common configuration structure layout", {
        device_feature_select: 4, device_feature: 4, driver_feature_select: 4, driver_feature: 4,
        config_msix_vector: 2, num_queues: 2, device_status: 1, config_generation: 1,
        queue_select: 2, queue_size: 2, queue_msix_vector: 2, queue_enable: 2, queue_notify_off: 2,
        queue_desc: 8, queue_driver: 8, queue_device: 8, queue_notif_config_data: 2, queue_reset: 2,
        admin_queue_index: 2, admin_queue_num: 2,
    });
    lacking_layout!(ledger, pci::LegacyCommonConfig, "4.1.4.10 Legacy Interfaces: A Note on PCI Device Layout", {
        device_features: 4, driver_features: 4, queue_address: 4, queue_size: 2, queue_select: 2, queue_notify: 2,
        device_status: 1, isr_status: 1,
    });
    lacking_layout!(ledger, pci::LegacyMsixConfig, "4.1.4.10 Legacy Interfaces: A Note on PCI Device Layout", {
        config_msix_vector: 2, queue_msix_vector: 2,
    });
}

fn rings(ledger: &mut Ledger) {
    masks!(ledger, split_ring::DescriptorFlags,
        bindings { NEXT = VRING_DESC_F_NEXT, WRITE = VRING_DESC_F_WRITE, INDIRECT = VRING_DESC_F_INDIRECT }
        lacking {}
    );
    masks!(ledger, split_ring::AvailableFlags, bindings { NO_INTERRUPT = VRING_AVAIL_F_NO_INTERRUPT } lacking {});
    masks!(ledger, split_ring::UsedFlags, bindings { NO_NOTIFY = VRING_USED_F_NO_NOTIFY } lacking {});
    same_layout!(ledger, split_ring::Descriptor = vring_desc { addr = addr, len = len, flags = flags, next = next });
    same_layout!(ledger, split_ring::UsedElement = vring_used_elem { id = id, len = len });
    constants!(ledger,
        bindings {
            split_ring::DESCRIPTOR_TABLE_ALIGNMENT = VRING_DESC_ALIGN_SIZE,
            split_ring::AVAILABLE_RING_ALIGNMENT = VRING_AVAIL_ALIGN_SIZE,
            split_ring::USED_RING_ALIGNMENT = VRING_USED_ALIGN_SIZE,
            split_ring::AVAILABLE_FLAGS_OFFSET = offset_of!(vring_avail, flags) as u64,
            split_ring::AVAILABLE_IDX_OFFSET = offset_of!(vring_avail, idx) as u64,
            split_ring::AVAILABLE_RING_OFFSET = offset_of!(vring_avail, ring) as u64,
            split_ring::AVAILABLE_ENTRY_SIZE = size_of::<__virtio16>() as u64,
            split_ring::USED_FLAGS_OFFSET = offset_of!(vring_used, flags) as u64,
            split_ring::USED_IDX_OFFSET = offset_of!(vring_used, idx) as u64,
            split_ring::USED_RING_OFFSET = offset_of!(vring_used, ring) as u64,
        }
        lacking {
            split_ring::MAX_QUEUE_SIZE = 32768 => "2.7 Split Virtqueues",
            split_ring::LEGACY_QUEUE_ALIGNMENT = 4096 => "2.7.2 Legacy Interfaces: A Note on Virtqueue Layout",
        }
    );

    // Functions of the queue size, against the formulas of the specification.
    for function in [
        "descriptor_table_size",
        "available_ring_size",
        "used_ring_size",
        "used_event_offset",
        "avail_event_offset",
        "legacy_available_ring_offset",
        "legacy_used_ring_offset",
        "legacy_queue_size_bytes",
    ] {
        ledger.cover(&format!("split_ring::{function}"));
        ledger.lack(&format!("split_ring::{function}"), "2.7 Split Virtqueues");
    }
    for queue_size in (0..=15).map(|bit| 1_u16 << bit) {
        let n = usize::from(queue_size);
        assert_eq!(split_ring::descriptor_table_size(queue_size), 16 * n);
        assert_eq!(split_ring::available_ring_size(queue_size), 6 + 2 * n);
        assert_eq!(split_ring::used_ring_size(queue_size), 6 + 8 * n);
        assert_eq!(split_ring::used_event_offset(queue_size), 4 + 2 * n);
        assert_eq!(split_ring::avail_event_offset(queue_size), 4 + 8 * n);
        assert_eq!(split_ring::legacy_available_ring_offset(queue_size), 16 * n);
        for alignment in [4, 64, 4096, 65536] {
            let used = split_ring::legacy_used_ring_offset(queue_size, alignment);
            assert_eq!(used, (16 * n + 2 * (3 + n)).next_multiple_of(alignment));
            assert_eq!(
                split_ring::legacy_queue_size_bytes(queue_size, alignment),
                used + (2 * 3 + 8 * n).next_multiple_of(alignment)
            );
        }
    }

    bits!(ledger, packed_ring::DescriptorFlags,
        bindings {
            NEXT = VRING_DESC_F_NEXT.trailing_zeros(),
            WRITE = VRING_DESC_F_WRITE.trailing_zeros(),
            INDIRECT = VRING_DESC_F_INDIRECT.trailing_zeros(),
            AVAIL = VRING_PACKED_DESC_F_AVAIL,
            USED = VRING_PACKED_DESC_F_USED,
        }
        lacking {}
    );
    values!(ledger, packed_ring::EventFlags,
        bindings {
            ENABLE = VRING_PACKED_EVENT_FLAG_ENABLE,
            DISABLE = VRING_PACKED_EVENT_FLAG_DISABLE,
            DESC = VRING_PACKED_EVENT_FLAG_DESC,
        }
        lacking {}
    );
    same_layout!(ledger, packed_ring::Descriptor = vring_packed_desc { addr = addr, len = len, id = id, flags = flags });
    same_layout!(ledger, packed_ring::EventSuppression = vring_packed_desc_event { desc = off_wrap, flags = flags });
    constants!(ledger,
        bindings { packed_ring::EVENT_WRAP_SHIFT = VRING_PACKED_EVENT_F_WRAP_CTR }
        lacking {
            packed_ring::MAX_QUEUE_SIZE = 1 << 15 => "2.8 Packed Virtqueues",
            packed_ring::DESCRIPTOR_RING_ALIGNMENT = 16 => "2.8.10.1 Structure Size and Alignment",
            packed_ring::EVENT_SUPPRESSION_ALIGNMENT = 4 => "2.8.10.1 Structure Size and Alignment",
            packed_ring::EVENT_OFFSET_MASK = (1 << 15) - 1 => "2.8.14 Event Suppression Structure Format",
            packed_ring::EVENT_FLAGS_MASK = (1 << 2) - 1 => "2.8.14 Event Suppression Structure Format",
        }
    );
    ledger.cover("packed_ring::descriptor_ring_size");
    ledger.lack("packed_ring::descriptor_ring_size", "2.8.10.1 Structure Size and Alignment");
    assert_eq!(packed_ring::descriptor_ring_size(32767), 16 * 32767);
}

fn block_device(ledger: &mut Ledger) {
    bits!(ledger, block::BlockFeatures,
        bindings {
            BARRIER = VIRTIO_BLK_F_BARRIER,
            SIZE_MAX = VIRTIO_BLK_F_SIZE_MAX,
            SEG_MAX = VIRTIO_BLK_F_SEG_MAX,
            GEOMETRY = VIRTIO_BLK_F_GEOMETRY,
            RO = VIRTIO_BLK_F_RO,
            BLK_SIZE = VIRTIO_BLK_F_BLK_SIZE,
            SCSI = VIRTIO_BLK_F_SCSI,
            FLUSH = VIRTIO_BLK_F_FLUSH,
            TOPOLOGY = VIRTIO_BLK_F_TOPOLOGY,
            CONFIG_WCE = VIRTIO_BLK_F_CONFIG_WCE,
            MQ = VIRTIO_BLK_F_MQ,
            DISCARD = VIRTIO_BLK_F_DISCARD,
            WRITE_ZEROES = VIRTIO_BLK_F_WRITE_ZEROES,
            SECURE_ERASE = VIRTIO_BLK_F_SECURE_ERASE,
            ZONED = VIRTIO_BLK_F_ZONED,
        }
        lacking { LIFETIME = 15 => "5.2.3 Feature bits" }
    );
    values!(ledger, block::RequestType,
        bindings {
            IN = VIRTIO_BLK_T_IN,
            OUT = VIRTIO_BLK_T_OUT,
            SCSI_CMD = VIRTIO_BLK_T_SCSI_CMD,
            FLUSH = VIRTIO_BLK_T_FLUSH,
            GET_ID = VIRTIO_BLK_T_GET_ID,
            DISCARD = VIRTIO_BLK_T_DISCARD,
            WRITE_ZEROES = VIRTIO_BLK_T_WRITE_ZEROES,
            SECURE_ERASE = VIRTIO_BLK_T_SECURE_ERASE,
            ZONE_APPEND = VIRTIO_BLK_T_ZONE_APPEND,
            ZONE_REPORT = VIRTIO_BLK_T_ZONE_REPORT,
            ZONE_OPEN = VIRTIO_BLK_T_ZONE_OPEN,
            ZONE_CLOSE = VIRTIO_BLK_T_ZONE_CLOSE,
            ZONE_FINISH = VIRTIO_BLK_T_ZONE_FINISH,
            ZONE_RESET = VIRTIO_BLK_T_ZONE_RESET,
            ZONE_RESET_ALL = VIRTIO_BLK_T_ZONE_RESET_ALL,
        }
        lacking {
            SCSI_CMD_OUT = 3 => "5.2.6.3 Legacy Interface: Device Operation",
            FLUSH_OUT = 5 => "5.2.6.3 Legacy Interface: Device Operation",
            GET_LIFETIME = 10 => "5.2.6 Device Operation",
        }
    );
    values!(ledger, block::RequestStatus,
        bindings {
            OK = VIRTIO_BLK_S_OK,
            IOERR = VIRTIO_BLK_S_IOERR,
            UNSUPP = VIRTIO_BLK_S_UNSUPP,
            ZONE_INVALID_CMD = VIRTIO_BLK_S_ZONE_INVALID_CMD,
            ZONE_UNALIGNED_WP = VIRTIO_BLK_S_ZONE_UNALIGNED_WP,
            ZONE_OPEN_RESOURCE = VIRTIO_BLK_S_ZONE_OPEN_RESOURCE,
            ZONE_ACTIVE_RESOURCE = VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE,
        }
        lacking {}
    );
    masks!(ledger, block::DiscardWriteZeroesFlags,
        bindings { UNMAP = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP }
        lacking {}
    );
    values!(ledger, block::CacheMode,
        bindings {}
        lacking {
            WRITETHROUGH = 0 => "5.2.5 Device Initialization",
            WRITEBACK = 1 => "5.2.5 Device Initialization",
        }
    );
    values!(ledger, block::ZoneModel,
        bindings { NONE = VIRTIO_BLK_Z_NONE, HM = VIRTIO_BLK_Z_HM, HA = VIRTIO_BLK_Z_HA }
        lacking {}
    );
    values!(ledger, block::ZoneType,
        bindings { CONV = VIRTIO_BLK_ZT_CONV, SWR = VIRTIO_BLK_ZT_SWR, SWP = VIRTIO_BLK_ZT_SWP }
        lacking {}
    );
    values!(ledger, block::ZoneState,
        bindings {
            NOT_WP = VIRTIO_BLK_ZS_NOT_WP,
            EMPTY = VIRTIO_BLK_ZS_EMPTY,
            IOPEN = VIRTIO_BLK_ZS_IOPEN,
            EOPEN = VIRTIO_BLK_ZS_EOPEN,
            CLOSED = VIRTIO_BLK_ZS_CLOSED,
            RDONLY = VIRTIO_BLK_ZS_RDONLY,
            FULL = VIRTIO_BLK_ZS_FULL,
            OFFLINE = VIRTIO_BLK_ZS_OFFLINE,
        }
        lacking {}
    );
    values!(ledger, block::PreEolInfo,
        bindings {}
        lacking {
            UNDEFINED = 0 => "5.2.6 Device Operation",
            NORMAL = 1 => "5.2.6 Device Operation",
            WARNING = 2 => "5.2.6 Device Operation",
            URGENT = 3 => "5.2.6 Device Operation",
        }
    );
    values!(ledger, block::LifetimeEstimate,
        bindings {}
        lacking {
            UNDEFINED = 0 => "5.2.6 Device Operation",
            EXCEEDED = 11 => "5.2.6 Device Operation",
        }
    );
    constants!(ledger,
        bindings {
            block::BARRIER = VIRTIO_BLK_T_BARRIER,
            block::DEVICE_ID_LENGTH = VIRTIO_BLK_ID_BYTES,
        }
        lacking {
            block::SECTOR_SIZE = 512 => "5.2.6 Device Operation",
            block::SENSE_BUFFER_LENGTH = 96 => "5.2.6.3 Legacy Interface: Device Operation",
        }
    );

    same_layout!(ledger, block::BlockConfig = virtio_blk_config {
        capacity = capacity,
        size_max = size_max,
        seg_max = seg_max,
        geometry = geometry,
        blk_size = blk_size,
        topology = physical_block_exp,
        writeback = wce,
        unused0 = unused,
        num_queues = num_queues,
        max_discard_sectors = max_discard_sectors,
        max_discard_seg = max_discard_seg,
        discard_sector_alignment = discard_sector_alignment,
        max_write_zeroes_sectors = max_write_zeroes_sectors,
        max_write_zeroes_seg = max_write_zeroes_seg,
        write_zeroes_may_unmap = write_zeroes_may_unmap,
        unused1 = unused1,
        max_secure_erase_sectors = max_secure_erase_sectors,
        max_secure_erase_seg = max_secure_erase_seg,
        secure_erase_sector_alignment = secure_erase_sector_alignment,
        zoned = zoned,
    });
    // The bindings have the fields of the topology in the configuration itself.
    macro_rules! topology {
        ($($field:ident),* $(,)?) => {$(
            assert_eq!(
                offset_of!(block::BlockConfig, topology) + offset_of!(block::Topology, $field),
                offset_of!(virtio_blk_config, $field),
                stringify!($field)
            );
        )*};
    }
    topology!(physical_block_exp, alignment_offset, min_io_size, opt_io_size);
    lacking_layout!(ledger, block::Topology, "5.2.4 Device configuration layout", {
        physical_block_exp: 1, alignment_offset: 1, min_io_size: 2, opt_io_size: 4,
    });
    same_layout!(ledger, block::Geometry = virtio_blk_config_virtio_blk_geometry {
        cylinders = cylinders, heads = heads, sectors = sectors,
    });
    same_layout!(ledger, block::ZonedCharacteristics = virtio_blk_config_virtio_blk_zoned_characteristics {
        zone_sectors = zone_sectors,
        max_open_zones = max_open_zones,
        max_active_zones = max_active_zones,
        max_append_sectors = max_append_sectors,
        write_granularity = write_granularity,
        model = model,
        unused2 = unused2,
    });
    same_layout!(ledger, block::RequestHeader = virtio_blk_outhdr {
        request_type = type_, reserved = ioprio, sector = sector,
    });
    same_layout!(ledger, block::DiscardWriteZeroes = virtio_blk_discard_write_zeroes {
        sector = sector, num_sectors = num_sectors, flags = flags,
    });
    same_layout!(ledger, block::ZoneReportHeader = virtio_blk_zone_report {
        nr_zones = nr_zones, reserved = reserved,
    });
    assert_eq!(size_of::<block::ZoneReportHeader>(), offset_of!(virtio_blk_zone_report, zones));
    same_layout!(ledger, block::ZoneDescriptor = virtio_blk_zone_descriptor {
        z_cap = z_cap, z_start = z_start, z_wp = z_wp, z_type = z_type, z_state = z_state, reserved = reserved,
    });
    same_layout!(ledger, block::ScsiTail = virtio_scsi_inhdr {
        errors = errors, data_len = data_len, sense_len = sense_len, residual = residual,
    });
    lacking_layout!(ledger, block::Lifetime, "5.2.6 Device Operation", {
        pre_eol_info: 2, device_lifetime_est_typ_a: 2, device_lifetime_est_typ_b: 2,
    });
    lacking_layout!(ledger, block::ZoneAppendTail, "5.2.6 Device Operation", { append_sector: 8, status: 1 });
}

/// Every public constant, function and structure in the sources below `folder`, as `module::name`.
fn items(folder: &Path, module: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            items(&path, &stem, found);
            continue;
        }
        if matches!(stem.as_str(), "lib" | "macros") {
            continue;
        }
        // The files of a folder are private modules whose items the folder's module exports.
        let module = if module.is_empty() { &stem } else { module };
        for line in fs::read_to_string(&path).unwrap().lines() {
            // Structures inside the macros that define bits and values are indented, constants of a type are not
            // looked for here: they are enumerated.
            let rest = line
                .strip_prefix("pub const fn ")
                .or_else(|| line.strip_prefix("pub const "))
                .or_else(|| line.trim_start().strip_prefix("pub struct "));
            if let Some(rest) = rest {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                found.insert(format!("{module}::{}", &rest[..end]));
            }
        }
    }
}

#[test]
fn every_number_and_shape_is_that_of_the_linux_headers_or_of_the_text() {
    let mut ledger = Ledger::default();
    device(&mut ledger);
    mmio_transport(&mut ledger);
    pci_transport(&mut ledger);
    rings(&mut ledger);
    block_device(&mut ledger);

    let mut in_the_sources = BTreeSet::new();
    items(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut in_the_sources);
    assert_eq!(in_the_sources, ledger.covered, "items of the crate (left) and of the tables here (right)");

    println!("virtio-bindings lacks {} of them:", ledger.lacking.len());
    for what in ledger.lacking {
        println!("  {what}");
    }
}

#[test]
fn fields_are_little_endian() {
    let bytes: [u8; size_of::<block::BlockConfig>()] = std::array::from_fn(|i| i as u8);
    let config = block::BlockConfig::read_from_bytes(&bytes).unwrap();
    assert_eq!(config.capacity.get(), 0x0706_0504_0302_0100);
    assert_eq!(config.seg_max.get(), 0x0f0e_0d0c);
    assert_eq!(config.geometry.cylinders.get(), 0x1110);
    assert_eq!(config.topology.opt_io_size.get(), 0x1f1e_1d1c);
    assert_eq!(config.writeback, block::CacheMode(0x20));
    assert_eq!(config.num_queues.get(), 0x2322);
    assert_eq!(config.zoned.zone_sectors.get(), 0x4b4a_4948);
    assert_eq!(config.zoned.model, block::ZoneModel(0x5c));
}
