//! What a driver notification says: the 32-bit word that tells a device which queue has new buffers, and how far.
//!
//! (2.9 Driver Notifications; 4.2.3.3 and 4.1.5.2 Available Buffer Notifications.) With
//! [`Features::NOTIFICATION_DATA`](crate::Features::NOTIFICATION_DATA) negotiated the word is
//!
//! | bits   | field                  | split ring                        | packed ring                      |
//! |--------|------------------------|-----------------------------------|----------------------------------|
//! | 0..16  | `vq_index`             | the queue's index                 | the queue's index                |
//! | 16..31 | `next_off`             | available index, low 15 bits      | offset of the next descriptor    |
//! | 31     | `next_wrap`            | available index, bit 15           | that descriptor's wrap counter   |
//!
//! so that in the split ring bits 16 to 31 are simply the available index. With
//! [`Features::NOTIF_CONFIG_DATA`](crate::Features::NOTIF_CONFIG_DATA) (PCI only) bits 0 to 15 are instead the
//! queue's `queue_notif_config_data`. Without NOTIFICATION_DATA the notification is those 16 bits alone: over MMIO
//! as a 32-bit write, over PCI as a 16-bit one.

/// Lowest bit of `vq_index` (or `vq_notif_config_data`), which is 16 bits wide.
pub const VQ_INDEX_SHIFT: u32 = 0;

/// Lowest bit of `next_off`, which is 15 bits wide.
pub const NEXT_OFF_SHIFT: u32 = 16;

/// The bit of `next_wrap`.
pub const NEXT_WRAP_SHIFT: u32 = 31;

/// `vq_index` (or `vq_notif_config_data`) before shifting: 16 bits.
pub const VQ_INDEX_MASK: u32 = 0xffff;

/// `next_off` before shifting: 15 bits.
pub const NEXT_OFF_MASK: u32 = 0x7fff;
