//! One queue: its registers, and the ring once it is enabled.

use std::collections::VecDeque;

use crate::faults::Outcome;
use crate::raw_packed_ring::RawPackedRing;
use crate::raw_ring::{RawRing, RingSetup};
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
    pub(crate) ring: Option<Ring>,
    /// With IN_ORDER: what was taken and not given back, oldest first.
    pub(crate) in_order: VecDeque<Taken>,
    /// Whether the queue is being reset.
    pub(crate) resetting: bool,
    /// Whether the driver reset the queue and did not read back that this is done.
    pub(crate) reset_unread: bool,
    /// Rings that the device goes on with although it said that they were reset, with the epochs they had.
    pub(crate) left: Vec<(u64, Ring)>,
}

/// A request that was taken while requests go back in order.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) id: u16,
    pub(crate) done: Option<Done>,
}

/// How a request ended that was not given back yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    /// The length to be given back.
    pub(crate) bytes: u32,
    /// Whether all of the data was written that there is room for.
    pub(crate) whole: bool,
}

/// An enabled ring.
pub(crate) struct Ring {
    pub(crate) mover: Box<dyn RingMover>,
    pub(crate) raw: Raw,
}

/// The fields of an enabled ring.
#[derive(Clone)]
pub(crate) enum Raw {
    Split(RawRing),
    Packed(RawPackedRing),
}

impl Raw {
    pub(crate) fn setup(&self) -> &RingSetup {
        match self {
            Self::Split(ring) => ring.setup(),
            Self::Packed(ring) => ring.setup(),
        }
    }
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
        self.in_order.clear();
        self.epoch += 1;
    }

    pub(crate) fn in_use(&self) -> bool {
        self.ring.is_some()
    }
}
