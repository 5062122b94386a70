//! Suspending a device and letting it go on (section 3.4), for drivers that have negotiated SUSPEND.

use core::fmt;

use virtio_spec::{DeviceStatus, Features};

use crate::{GaveUp, Running, Transport, Wait};

impl<T: Transport> Running<T> {
    /// Asks the device to stop, and waits until it has. It ends what it is working on; what it has not begun stays in
    /// the queues.
    ///
    /// From the call on until [`resume`](Running::resume) has returned `Ok`, the driver makes nothing available, sends no
    /// notification, and writes no configuration.
    ///
    /// # Errors
    ///
    /// [`SuspendError`]. After [`SuspendError::TimedOut`] the device may stop at any time: ask again, or reset it.
    pub fn suspend(&mut self, wait: &mut impl Wait) -> Result<(), SuspendError> {
        if self.features() & Features::SUSPEND.bits() == 0 {
            return Err(SuspendError::NotNegotiated);
        }
        self.change_status(DeviceStatus::SUSPEND, DeviceStatus::DRIVER_OK, wait)
    }

    /// Lets a device go on that was suspended, and waits until it does.
    ///
    /// # Errors
    ///
    /// [`SuspendError`], as for [`suspend`](Running::suspend).
    pub fn resume(&mut self, wait: &mut impl Wait) -> Result<(), SuspendError> {
        if self.features() & Features::SUSPEND.bits() == 0 {
            return Err(SuspendError::NotNegotiated);
        }
        self.change_status(DeviceStatus::DRIVER_OK, DeviceStatus::SUSPEND, wait)
    }

    /// Sets one bit of the status, and waits until the device shows that bit without the other.
    fn change_status(
        &mut self,
        set: DeviceStatus,
        cleared: DeviceStatus,
        wait: &mut impl Wait,
    ) -> Result<(), SuspendError> {
        let transport = self.transport_mut();
        let mut asked = false;
        loop {
            let status = transport.status();
            if status.contains(DeviceStatus::DEVICE_NEEDS_RESET) {
                return Err(SuspendError::NeedsReset);
            }
            if status.contains(set) && !status.intersects(cleared) {
                return Ok(());
            }
            // With both bits it is still on its way to stop, which somebody has not waited for. It can be asked to go on
            // once it has got there.
            if !status.contains(set) && !asked {
                transport.set_status(status | set);
                asked = true;
                continue;
            }
            wait.wait().map_err(|GaveUp| SuspendError::TimedOut { status })?;
        }
    }
}

/// Why a device was not suspended, or does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SuspendError {
    /// SUSPEND was not negotiated.
    NotNegotiated,
    /// The device could not, and says that it needs a reset.
    NeedsReset,
    /// The waiting policy gave up before the device was there.
    TimedOut {
        /// The device status as last read.
        status: DeviceStatus,
    },
}

impl fmt::Display for SuspendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotNegotiated => write!(f, "the device cannot be suspended: SUSPEND was not negotiated"),
            Self::NeedsReset => write!(f, "the device failed to stop or to go on, and has to be reset"),
            Self::TimedOut { status } => write!(
                f,
                "the device did not stop or go on in time: its status is {:#04x}; ask again, or reset it",
                status.bits()
            ),
        }
    }
}

impl core::error::Error for SuspendError {}
