//! One queue: its registers, and the ring once it is enabled.

use crate::raw_ring::RawRing;
use crate::ring_mover::RingMover;

/// One queue.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) size: u32,
    pub(crate) descriptor_area: u64,
    pub(crate) driver_area: u64,
    pub(crate) device_area: u64,
    /// Legacy: the alignment of the used ring.
    pub(crate) align: u32,
    /// Legacy: the page number.
    pub(crate) page_number: u32,
    /// Whether the driver read the maximum size.
    pub(crate) max_read: bool,
    /// Whether the driver stopped the queue and did not read that back.
    pub(crate) stop_unread: bool,
    /// Whether the queue was reset by itself since the device was.
    pub(crate) was_reset: bool,
    /// Counts resets of this queue.
    pub(crate) epoch: u64,
    /// Notifications of this queue.
    pub(crate) notifications: u64,
    /// The available index up to which it was judged whether a notification was due.
    pub(crate) judged: u16,
    pub(crate) ring: Option<Ring>,
}

/// An enabled ring.
pub(crate) struct Ring {
    pub(crate) mover: Box<dyn RingMover>,
    pub(crate) raw: RawRing,
}

impl Queue {
    /// Puts the queue back to how it is after a reset of the device.
    pub(crate) fn reset(&mut self) {
        *self = Self { epoch: self.epoch + 1, notifications: self.notifications, ..Self::default() };
    }

    /// Ends the use of the ring.
    pub(crate) fn stop(&mut self) {
        self.ring = None;
        self.page_number = 0;
        self.epoch += 1;
    }

    pub(crate) fn in_use(&self) -> bool {
        self.ring.is_some()
    }
}
