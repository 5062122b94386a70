//! The name that a device has on its host.

use core::fmt;

use virtio_spec::block::DEVICE_ID_LENGTH;
use virtio_transport::Notifier;
use virtqueue::{Memory, RingFormat, Token};

use crate::buffer::Buffer;
use crate::queue::{Queue, Rejected};
use crate::request::{Operation, Owner};
use crate::task::{AsyncQueue, SharedQueue, Transfer};

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

    /// The length of the answer in bytes.
    pub const BYTES: usize = DEVICE_ID_LENGTH;

    /// What a device has answered, from the buffer that [`Queue::submit_device_id`] took and its completion gave back.
    /// `None` if it is too short.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().copied().map(Self)
    }

    /// The bytes of the name, without the zero bytes that fill up the field.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat> Queue<M, N, B, R> {
    /// Puts a request for the name that the device has on its host on the ring. The answer goes to the first bytes of the
    /// buffer, which has at least [`DeviceId::BYTES`].
    ///
    /// # Errors
    ///
    /// The buffer comes back with the error: [`Error::AnswerTooShort`](crate::Error::AnswerTooShort),
    /// [`Error::QueueFull`](crate::Error::QueueFull).
    pub fn submit_device_id(&mut self, buffer: B) -> Result<Token, Rejected<B>> {
        self.submit_other(Operation::DeviceId, 0, buffer, Owner::Poller)
    }
}

impl<S: SharedQueue> AsyncQueue<S> {
    /// Reads the name that the device has on its host into the first bytes of a buffer, and gives that back: for
    /// [`DeviceId::from_bytes`]. See [`Queue::submit_device_id`].
    pub fn device_id(&self, buffer: S::Buffer) -> Transfer<'_, S> {
        Transfer::new(self, Operation::DeviceId, 0, buffer)
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
