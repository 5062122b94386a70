//! Resetting one queue while the others go on (section 2.6.1), for drivers that have negotiated RING_RESET.

use core::fmt;

use virtio_spec::Features;

use crate::{GaveUp, QueueConfig, QueueError, Running, Transport, Wait, negotiation::enable_queue};

impl<T: Transport> Running<T> {
    /// Resets one queue and waits for the device to say that it is done.
    ///
    /// After `Ok`, a device that follows the specification does not touch the queue's memory any more, nor that of
    /// buffers in it. Not all do: QEMU 7.2 says that it is done over PCI and writes to buffers afterwards, and over
    /// virtio-mmio offers the feature without having it. So this is for a driver whose kernel has chosen it, knowing the
    /// device; others reset the whole device ([`Running::reset`]).
    ///
    /// # Errors
    ///
    /// [`QueueResetError`]; the device may still use the queue and its buffers.
    pub fn reset_queue(&mut self, queue: u16, wait: &mut impl Wait) -> Result<(), QueueResetError> {
        if self.features() & Features::RING_RESET.bits() == 0 {
            return Err(QueueResetError::NotNegotiated);
        }
        let transport = self.transport_mut();
        if !transport.start_queue_reset(queue) {
            return Err(QueueResetError::NotNegotiated);
        }
        while transport.queue_reset_runs(queue) {
            wait.wait().map_err(|GaveUp| QueueResetError::TimedOut { queue })?;
        }
        // A device without the register answers that nothing is going on; but then the queue is still in use.
        if transport.queue_in_use(queue) {
            return Err(QueueResetError::StillInUse { queue });
        }
        Ok(())
    }

    /// Enables a queue again that was reset, with the same or other memory, and the same or another size.
    ///
    /// # Errors
    ///
    /// As with [`QueueSetup::enable_queue`](crate::QueueSetup::enable_queue): [`QueueError::InUse`] also for a queue that
    /// was not reset.
    pub fn enable_queue(&mut self, queue: &QueueConfig) -> Result<(), QueueError> {
        enable_queue(self.transport_mut(), queue)
    }
}

/// Why a queue was not reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueResetError {
    /// RING_RESET was not negotiated, or the transport knows no reset of a queue.
    NotNegotiated,
    /// The waiting policy gave up before the device said that it was done.
    TimedOut {
        /// The index of the queue.
        queue: u16,
    },
    /// The device says that it is done, and that the queue is enabled: it has reset nothing.
    StillInUse {
        /// The index of the queue.
        queue: u16,
    },
}

impl fmt::Display for QueueResetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotNegotiated => {
                write!(f, "a queue alone cannot be reset: RING_RESET was not negotiated; reset the device")
            }
            Self::TimedOut { queue } => {
                write!(
                    f,
                    "the device did not finish the reset of queue {queue} in time; wait longer or reset the device"
                )
            }
            Self::StillInUse { queue } => write!(
                f,
                "the device has not reset queue {queue}: it says that it is done, but the queue is still enabled; \
                 reset the device"
            ),
        }
    }
}

impl core::error::Error for QueueResetError {}
