//! The name that a device has on its host.

use core::fmt;

use virtio_spec::block::DEVICE_ID_LENGTH;

/// The name that a device has on its host: up to 20 bytes of ASCII (5.2.6, "Device Operation").
///
/// Displayed, bytes that are not printable ASCII are escaped: the name is the host's, and need not be what it should.
#[derive(Clone, Copy, PartialEq, Eq)]
// Aligned so that it does not cross a page, and is one segment.
#[repr(align(32))]
pub struct DeviceId([u8; DEVICE_ID_LENGTH]);

impl DeviceId {
    pub(crate) const EMPTY: Self = Self([0; DEVICE_ID_LENGTH]);

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// The bytes of the name, without the zero bytes that fill up the field.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({self})")
    }
}
