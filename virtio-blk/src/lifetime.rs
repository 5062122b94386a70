//! How worn a device is.

use core::ptr::NonNull;

use virtio_spec::block::{Lifetime as LifetimeAnswer, LifetimeEstimate, PreEolInfo};
use virtio_transport::{Notifier, Transport, Wait};
use virtqueue::{Memory, RingFormat, Token};
use zerocopy::FromBytes;

use crate::blocking::BlockingQueue;
use crate::buffer::Buffer;
use crate::device::DeviceHandle;
use crate::disk::Disk;
use crate::error::Error;
use crate::pieces::Pieces;
use crate::queue::{Queue, Rejected};
use crate::request::{Operation, Owner};
use crate::task::{AsyncQueue, SharedQueue, Transfer};

/// How worn a device is, by its own estimate (5.2.6, "Device Operation").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// How many of its reserved blocks are used up.
    pub pre_eol_info: PreEolInfo,
    /// How much of the lifetime of its SLC cells is used up.
    pub estimate_typ_a: LifetimeEstimate,
    /// How much of the lifetime of its MLC cells is used up.
    pub estimate_typ_b: LifetimeEstimate,
}

impl Lifetime {
    /// The length of the answer in bytes.
    pub const BYTES: usize = size_of::<LifetimeAnswer>();

    /// What a device has answered, from the buffer that [`Queue::submit_lifetime`] took and its completion gave back.
    /// `None` if it is too short.
    ///
    /// ```
    /// use virtio_blk::{Lifetime, LifetimeEstimate, PreEolInfo};
    ///
    /// let lifetime = Lifetime::from_bytes(&[1, 0, 3, 0, 11, 0]).unwrap();
    /// assert_eq!(lifetime.pre_eol_info, PreEolInfo::NORMAL);
    /// assert_eq!(lifetime.estimate_typ_a, LifetimeEstimate(3)); // between 20 and 30 percent
    /// assert_eq!(lifetime.estimate_typ_b, LifetimeEstimate::EXCEEDED);
    /// ```
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (answer, _) = LifetimeAnswer::read_from_prefix(bytes).ok()?;
        Some(Self::new(&answer))
    }

    fn new(answer: &LifetimeAnswer) -> Self {
        Self {
            pre_eol_info: PreEolInfo(answer.pre_eol_info.get()),
            estimate_typ_a: LifetimeEstimate(answer.device_lifetime_est_typ_a.get()),
            estimate_typ_b: LifetimeEstimate(answer.device_lifetime_est_typ_b.get()),
        }
    }
}

/// Room for an answer. Aligned so that it does not cross a page, and is one segment.
#[repr(align(8))]
struct Room([u8; Lifetime::BYTES]);

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat> Queue<M, N, B, R> {
    /// Puts a request for the device's [`Lifetime`] on the ring. The answer goes to the first bytes of the buffer, which
    /// has at least [`Lifetime::BYTES`].
    ///
    /// # Errors
    ///
    /// The buffer comes back with the error: [`Error::NotNegotiated`] on a disk without LIFETIME,
    /// [`Error::AnswerTooShort`], [`Error::QueueFull`].
    pub fn submit_lifetime(&mut self, buffer: B) -> Result<Token, Rejected<B>> {
        self.submit_other(Operation::Lifetime, 0, buffer, Owner::Poller)
    }

    /// As [`submit_lifetime`](Queue::submit_lifetime), with a buffer that is borrowed.
    ///
    /// # Errors
    ///
    /// Those of [`submit_lifetime`](Queue::submit_lifetime).
    ///
    /// # Safety
    ///
    /// As for [`submit_read_borrowed`](Queue::submit_read_borrowed).
    pub unsafe fn submit_lifetime_borrowed(&mut self, buffer: NonNull<[u8]>) -> Result<Token, Error> {
        // SAFETY: as the caller promises.
        unsafe { self.submit_other_borrowed(Operation::Lifetime, 0, buffer) }
    }
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat, D: DeviceHandle<M>> BlockingQueue<'_, M, N, B, R, D> {
    /// Reads how worn the device is. See [`Disk::lifetime`].
    ///
    /// # Errors
    ///
    /// Those of [`Disk::lifetime`].
    pub fn lifetime(&mut self, wait: &mut impl Wait) -> Result<Lifetime, Error> {
        let mut room = Room([0; Lifetime::BYTES]);
        let mut buffers: [&mut [u8]; 1] = [&mut room.0];
        let result = self.call().one(Operation::Lifetime, 0, Pieces::writable(&mut buffers), wait);
        self.stop_if_fatal(result)?;
        Lifetime::from_bytes(&room.0).ok_or(Error::Empty)
    }
}

impl<T: Transport, M: Memory, B: Buffer, R: RingFormat> Disk<T, M, B, R> {
    /// Reads how worn the device is.
    ///
    /// # Errors
    ///
    /// [`Error::NotNegotiated`] on a disk without LIFETIME; [`Error::Device`].
    ///
    /// # Example
    ///
    /// ```
    /// use virtio_blk::{Disk, Error, PreEolInfo};
    /// use virtio_transport::{Spin, Transport};
    /// use virtqueue::Memory;
    ///
    /// fn is_worn<T: Transport, M: Memory>(disk: &mut Disk<T, M>) -> Result<bool, Error> {
    ///     match disk.lifetime(&mut Spin) {
    ///         Ok(lifetime) => Ok(lifetime.pre_eol_info >= PreEolInfo::WARNING),
    ///         Err(Error::NotNegotiated { .. }) => Ok(false), // it does not say
    ///         Err(error) => Err(error),
    ///     }
    /// }
    /// ```
    pub fn lifetime(&mut self, wait: &mut impl Wait) -> Result<Lifetime, Error> {
        self.blocking()?.lifetime(wait)
    }
}

impl<S: SharedQueue> AsyncQueue<S> {
    /// Reads how worn the device is into the first bytes of a buffer, and gives that back: for
    /// [`Lifetime::from_bytes`]. See [`Queue::submit_lifetime`].
    pub fn lifetime(&self, buffer: S::Buffer) -> Transfer<'_, S> {
        Transfer::new(self, Operation::Lifetime, 0, buffer)
    }
}
