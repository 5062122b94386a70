//! The device status field.

use bitflags::bitflags;

bitflags! {
    /// How far driver and device have come with each other (2.1 Device Status Field).
    ///
    /// Eight bits; the MMIO register that carries them is 32 bits wide. Empty after a reset, and the driver never
    /// clears a bit other than by a reset.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct DeviceStatus: u8 {
        /// The driver has found the device and sees that it is a virtio device.
        const ACKNOWLEDGE = 1;
        /// The driver knows how to drive the device.
        const DRIVER = 2;
        /// The driver is set up; only from here on does the device use buffers and notify.
        const DRIVER_OK = 4;
        /// Negotiation is over. To be read back after it was set: the device may refuse by leaving it clear.
        /// Legacy devices have no such bit.
        const FEATURES_OK = 8;
        /// The driver has suspended the device. Only with [`Features::SUSPEND`](crate::Features::SUSPEND).
        const SUSPEND = 16;
        /// Set by the device: it is in an error that only a reset ends.
        const DEVICE_NEEDS_RESET = 64;
        /// Set by the driver: it has given up on the device.
        const FAILED = 128;
    }
}
