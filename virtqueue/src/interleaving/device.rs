//! What the models ask of the device's end of a ring.

extern crate std;

use core::sync::atomic::Ordering::Relaxed;

use virtio_spec::split_ring::DescriptorFlags;

use super::host::{Line, word};
use crate::shared::{HandedU8, HandedU64};
use crate::{Areas, Packed, RingFormat, Split};

/// What the header of the first request says; of the second, one more.
pub(super) const FIRST_HEADER: u64 = 0x1234_5678_9abc_def0;

/// A form of the ring, and the device's end of it.
pub(super) trait Form: RingFormat + 'static {
    type Device: Device;
}

impl Form for Split {
    type Device = super::split_device::SplitDevice;
}

impl Form for Packed {
    type Device = super::packed_device::PackedDevice;
}

/// A request as the device sees it: a header that it reads and a status that it writes, whether indirect or not.
pub(super) struct Seen {
    pub(super) id: u16,
    pub(super) header: u64,
    pub(super) status: u64,
}

impl Seen {
    /// The request of two descriptors, of each of which the address, the length, and the flags without NEXT are given:
    /// number `number` of all that were sent.
    pub(super) fn new(id: u16, number: u16, parts: [(u64, u32, DescriptorFlags); 2]) -> Self {
        let [(address, bytes, flags), (status, status_bytes, status_flags)] = parts;
        assert_eq!((bytes, flags), (16, DescriptorFlags::empty()), "a header");
        assert_eq!((status_bytes, status_flags), (1, DescriptorFlags::WRITE), "a status");
        let header = word::<HandedU64>(address).at(0).load(Relaxed);
        assert_eq!(header, FIRST_HEADER + u64::from(number), "chains come in the order in which they were sent");
        Self { id, header, status }
    }

    /// Does what the request asks for.
    pub(super) fn answer(&self) {
        word::<HandedU8>(self.status).at(0).store(self.header as u8, Relaxed);
    }
}

/// The device's end of a ring.
pub(super) trait Device: Send + Sized + 'static {
    fn new(areas: Areas, event_idx: bool) -> Self;

    /// Takes the next chain.
    fn take(&mut self) -> Option<Seen>;

    /// Does what a chain asks for, and writes it into the ring, where the driver does not look yet.
    fn serve(&mut self, chain: &Seen);

    /// Lets the driver see what was served. Returns whether it wants an interrupt.
    fn publish(&mut self) -> bool;

    fn disable_notifications(&self);

    /// Asks for a notification of the next chain. `false` if it is there already.
    fn enable_notifications(&self) -> bool;

    /// The next chain, however long it takes.
    fn wait(&mut self, notification: &Line) -> Seen {
        loop {
            if let Some(chain) = self.take() {
                return chain;
            }
            if self.enable_notifications() {
                notification.sleep();
            }
            self.disable_notifications();
        }
    }
}
