//! Telling a device that there are new buffers.

use virtio_spec::notification::NEXT_OFF_SHIFT;

use crate::{Notifier, Registers};

/// Notifies a PCI device about one queue: one register write (section 4.1.5.2).
#[derive(Clone, Debug)]
pub struct PciNotifier<R> {
    pub(super) registers: R,
    /// Where this queue is notified. Nowhere, if the place that the device names is none: enabling such a queue was an
    /// error.
    pub(super) place: Option<usize>,
    /// The index of the queue, or with NOTIF_CONFIG_DATA what the device wants to hear instead.
    pub(super) queue: u16,
    /// Whether NOTIFICATION_DATA was negotiated.
    pub(super) data: bool,
}

impl<R: Registers> Notifier for PciNotifier<R> {
    #[inline]
    fn notify(&self, next: u16) {
        let Some(place) = self.place else { return };
        if self.data {
            let value = u32::from(next) << NEXT_OFF_SHIFT | u32::from(self.queue);
            self.registers.write_u32(place, value.to_le());
        } else {
            self.registers.write_u16(place, self.queue.to_le());
        }
    }
}
