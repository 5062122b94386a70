//! Where the fields of the common configuration are, in bytes (section 4.1.4.3).

use core::mem::offset_of;

use virtio_spec::pci::CommonConfig;

pub(super) const DEVICE_FEATURE_SELECT: usize = offset_of!(CommonConfig, device_feature_select);
pub(super) const DEVICE_FEATURE: usize = offset_of!(CommonConfig, device_feature);
pub(super) const DRIVER_FEATURE_SELECT: usize = offset_of!(CommonConfig, driver_feature_select);
pub(super) const DRIVER_FEATURE: usize = offset_of!(CommonConfig, driver_feature);
pub(super) const CONFIG_MSIX_VECTOR: usize = offset_of!(CommonConfig, config_msix_vector);
pub(super) const DEVICE_STATUS: usize = offset_of!(CommonConfig, device_status);
pub(super) const CONFIG_GENERATION: usize = offset_of!(CommonConfig, config_generation);
pub(super) const QUEUE_SELECT: usize = offset_of!(CommonConfig, queue_select);
pub(super) const QUEUE_SIZE: usize = offset_of!(CommonConfig, queue_size);
pub(super) const QUEUE_MSIX_VECTOR: usize = offset_of!(CommonConfig, queue_msix_vector);
pub(super) const QUEUE_ENABLE: usize = offset_of!(CommonConfig, queue_enable);
pub(super) const QUEUE_NOTIFY_OFF: usize = offset_of!(CommonConfig, queue_notify_off);
pub(super) const QUEUE_DESC: usize = offset_of!(CommonConfig, queue_desc);
pub(super) const QUEUE_DRIVER: usize = offset_of!(CommonConfig, queue_driver);
pub(super) const QUEUE_DEVICE: usize = offset_of!(CommonConfig, queue_device);
pub(super) const QUEUE_NOTIF_CONFIG_DATA: usize = offset_of!(CommonConfig, queue_notif_config_data);
pub(super) const QUEUE_RESET: usize = offset_of!(CommonConfig, queue_reset);

/// How long the structure is at least: without the fields that came with later features.
pub(super) const MIN_BYTES: usize = QUEUE_NOTIF_CONFIG_DATA;
/// How much of it is known here.
pub(super) const BYTES: usize = size_of::<CommonConfig>();
