//! A disk with one queue: all that most kernels need.

use core::fmt;
use core::mem::ManuallyDrop;

use virtio_transport::{Transport, Wait};
use virtqueue::{Memory, RingFormat, Split};

use crate::blocking::{BlockingQueue, SOON};
use crate::buffer::{Buffer, NoBuffer};
use crate::device::{Device, Recovered, Resized};
use crate::device_id::DeviceId;
use crate::error::{Error, OpenError};
use crate::info::{CacheMode, Info};
use crate::options::Options;
use crate::queue::Queue;
use crate::setup::Setup;

/// A disk with one queue.
///
/// Its calls block: they return when the device is done, waiting by the caller's policy in between. They may be given
/// borrowed buffers of any number of sectors, wherever they lie; what is too long for one request is split into several,
/// which are in flight at the same time. [`queue`](Disk::queue) is for requests that do not block.
///
/// # When the policy gives up, or the device breaks the rules
///
/// A call that borrows its buffer can only return when the device has let go of it. If the policy gives up before, the
/// device is reset; the call returns when the reset is acknowledged, and spins until then. A device that acknowledges
/// nothing keeps such a call for ever. A caller who does not trust its device that far gives buffers away instead
/// ([`Queue::submit_read`]). After the reset every call returns [`Error::Stopped`], until the disk has
/// [recovered](Disk::recover).
pub struct Disk<T: Transport, M: Memory, B: Buffer = NoBuffer, R: RingFormat = Split> {
    device: Device<T, M>,
    queue: Queue<M, T::Notifier, B, R>,
}

type Calls<'d, T, M, B, R> = BlockingQueue<'d, M, <T as Transport>::Notifier, B, R, &'d mut Device<T, M>>;

impl<T: Transport, M: Memory, B: Buffer> Disk<T, M, B> {
    /// Opens a disk: resets the device, negotiates features, sets up one queue, and lets it run.
    ///
    /// `wait` bounds the wait for the reset to be acknowledged.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: those of [`Setup::negotiate`] and [`Setup::add_queue`]. The device is left with FAILED in its
    /// status.
    ///
    /// # Example
    ///
    /// ```
    /// use virtio_blk::{Disk, OpenError, Options};
    /// use virtio_transport::{SpinLimit, Transport};
    /// use virtqueue::Memory;
    ///
    /// fn open<T: Transport, M: Memory>(transport: T, memory: M) -> Result<Disk<T, M>, OpenError> {
    ///     Disk::open(transport, memory, &Options::default(), &mut SpinLimit { looks: 1_000_000 })
    /// }
    /// ```
    pub fn open(transport: T, memory: M, options: &Options, wait: &mut impl Wait) -> Result<Self, OpenError> {
        Self::open_with(Split, transport, memory, options, wait)
    }
}

impl<T: Transport, M: Memory, B: Buffer, R: RingFormat> Disk<T, M, B, R> {
    /// As [`open`](Disk::open), with a ring of another form: [`Packed`](crate::Packed), or [`Either`](crate::Either) of
    /// the two, as the device has it.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Disk::open); with [`Packed`](crate::Packed), [`OpenError::MissingFeatures`] on a device that
    /// does not offer RING_PACKED.
    ///
    /// # Example
    ///
    /// ```
    /// use virtio_blk::{Disk, Either, NoBuffer, OpenError, Options};
    /// use virtio_transport::{Spin, Transport};
    /// use virtqueue::Memory;
    ///
    /// fn open<T: Transport, M: Memory>(transport: T, memory: M) -> Result<Disk<T, M, NoBuffer, Either>, OpenError> {
    ///     Disk::open_with(Either, transport, memory, &Options::default(), &mut Spin)
    /// }
    /// ```
    pub fn open_with(
        ring: R,
        transport: T,
        memory: M,
        options: &Options,
        wait: &mut impl Wait,
    ) -> Result<Self, OpenError> {
        let mut setup = Setup::negotiate_with(ring, transport, memory, options, wait)?;
        let queue = setup.add_queue()?;
        setup.start_disk(queue)
    }

    /// A disk of a device that runs, and its only queue.
    pub(crate) fn new(device: Device<T, M>, queue: Queue<M, T::Notifier, B, R>) -> Self {
        Self { device, queue }
    }

    /// What the disk said of itself when it was opened.
    pub fn info(&self) -> &Info {
        self.device.info()
    }

    /// The device: configuration, interrupt.
    pub fn device(&self) -> &Device<T, M> {
        &self.device
    }

    /// The queue, for requests that do not block.
    pub fn queue(&mut self) -> &mut Queue<M, T::Notifier, B, R> {
        &mut self.queue
    }

    /// Reads from `sector` on, as many sectors as `buffer` is long.
    ///
    /// # Errors
    ///
    /// Misuse, before anything was read: [`Error::UnalignedLength`], [`Error::UnalignedSector`],
    /// [`Error::BeyondCapacity`]. [`Error::Device`] names the first sector of the request that failed; other parts of
    /// the buffer may have been filled. [`Error::TooManySegments`] when not even one block of the buffer fits into a
    /// request. [`Error::Memory`] when the kernel's memory could not translate or map it. [`Error::QueueFull`] when
    /// nothing is in flight, and completions that nobody has polled fill the queue. [`Error::GaveUp`] and
    /// [`Error::Violation`]: the device was reset. [`Error::Stopped`]: it had been before.
    pub fn read(&mut self, sector: u64, buffer: &mut [u8], wait: &mut impl Wait) -> Result<(), Error> {
        self.blocking()?.read(sector, buffer, wait)
    }

    /// Reads from `sector` on into several buffers, one after the other. Their lengths add up to whole blocks; each by
    /// itself need not.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Disk::read).
    pub fn read_vectored(&mut self, sector: u64, buffers: &mut [&mut [u8]], wait: &mut impl Wait) -> Result<(), Error> {
        self.blocking()?.read_vectored(sector, buffers, wait)
    }

    /// Writes from `sector` on, as many sectors as `buffer` is long. When the data is safe from a power cut depends on
    /// the [`CacheMode`].
    ///
    /// # Errors
    ///
    /// Those of [`read`](Disk::read), and [`Error::ReadOnly`]. After [`Error::Device`] and errors that reset the
    /// device, any of the sectors may have been written or not.
    pub fn write(&mut self, sector: u64, buffer: &[u8], wait: &mut impl Wait) -> Result<(), Error> {
        self.blocking()?.write(sector, buffer, wait)
    }

    /// Writes several buffers, one after the other, from `sector` on. Their lengths add up to whole blocks; each by
    /// itself need not.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Disk::write).
    pub fn write_vectored(&mut self, sector: u64, buffers: &[&[u8]], wait: &mut impl Wait) -> Result<(), Error> {
        self.blocking()?.write_vectored(sector, buffers, wait)
    }

    /// Makes all writes that have completed before this call safe from a power cut.
    ///
    /// # Errors
    ///
    /// [`Error::NotNegotiated`] on a disk without FLUSH, where there is nothing to be done. [`Error::Device`] when the
    /// device could not: then nothing is known of the writes since the last flush that was `Ok`. [`Error::QueueFull`],
    /// [`Error::GaveUp`], [`Error::Violation`] and [`Error::Stopped`] as with [`read`](Disk::read).
    pub fn flush(&mut self, wait: &mut impl Wait) -> Result<(), Error> {
        self.blocking()?.flush(wait)
    }

    /// Reads the name that the device has on its host.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] with [`DeviceError::Unsupported`](crate::DeviceError::Unsupported) from a device that has
    /// none; otherwise those of [`read`](Disk::read) that are no misuse.
    pub fn device_id(&mut self, wait: &mut impl Wait) -> Result<DeviceId, Error> {
        self.blocking()?.device_id(wait)
    }

    /// When a completed write is safe from a power cut.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`]; [`Error::Config`].
    pub fn cache_mode(&self) -> Result<CacheMode, Error> {
        self.device.cache_mode()
    }

    /// Changes the cache mode. See [`Device::set_cache_mode`].
    ///
    /// # Errors
    ///
    /// Those of [`Device::set_cache_mode`].
    pub fn set_cache_mode(&mut self, mode: CacheMode, wait: &mut impl Wait) -> Result<(), Error> {
        self.device.set_cache_mode(mode, &mut [&mut self.queue], wait)
    }

    /// Looks what has changed, after an interrupt for a change of the configuration. `None`: not the capacity. Requests
    /// are checked against the new one from now on.
    ///
    /// # Errors
    ///
    /// Those of [`Device::config_changed`].
    pub fn config_changed(&mut self) -> Result<Option<Resized>, Error> {
        let resized = self.device.config_changed()?;
        if let Some(Resized { new_sectors, .. }) = resized {
            self.queue.set_capacity_sectors(new_sectors);
        }
        Ok(resized)
    }

    /// Brings the device back after a failure. See [`Device::recover`].
    ///
    /// # Errors
    ///
    /// Those of [`Device::recover`].
    pub fn recover(&mut self, wait: &mut impl Wait) -> Result<Recovered, Error> {
        self.device.recover(&mut [&mut self.queue], wait)
    }

    /// Gives a device up that does not acknowledge its reset. See [`Device::give_up`].
    pub fn give_up(&mut self) {
        // It is the only queue, so none is missing.
        let _ = self.device.give_up(&mut [&mut self.queue]);
    }

    /// The device and its queue by themselves: for a kernel that shares the queue, and keeps the device for when its
    /// configuration changes or it has to recover.
    ///
    /// The queue is leaked when it is dropped while the device runs: [`Device::shutdown`] takes both.
    #[allow(clippy::type_complexity, reason = "it is a pair, and both have names")]
    pub fn split(self) -> (Device<T, M>, Queue<M, T::Notifier, B, R>) {
        let this = ManuallyDrop::new(self);
        // SAFETY: both are moved out of a value that is neither dropped nor used again.
        unsafe { (core::ptr::read(&this.device), core::ptr::read(&this.queue)) }
    }

    /// Waits until the device is done with everything, resets it, and frees the queue. Returns the transport.
    ///
    /// Completions that nobody has polled are dropped, and so are their buffers. What is not flushed is as safe as the
    /// [`CacheMode`] makes it.
    ///
    /// # Errors
    ///
    /// [`NotShutDown`] when the policy gave up before the reset was acknowledged. It carries the disk. If the policy gives
    /// up before that, requests that are in flight are cut off by the reset.
    #[allow(clippy::result_large_err, reason = "it is the disk itself, and there may be no heap to put it on")]
    pub fn shutdown(mut self, wait: &mut impl Wait) -> Result<T, NotShutDown<T, M, B, R>> {
        match self.device.shutdown(&mut [&mut self.queue], wait) {
            Ok(transport) => Ok(transport),
            Err(_) => Err(NotShutDown { disk: self }),
        }
    }

    pub(crate) fn blocking(&mut self) -> Result<Calls<'_, T, M, B, R>, Error> {
        self.queue.blocking(&mut self.device)
    }
}

impl<T: Transport, M: Memory, B: Buffer, R: RingFormat> Drop for Disk<T, M, B, R> {
    /// Resets the device, so that memory can be freed. If it does not acknowledge that soon, what it may still touch is
    /// leaked.
    fn drop(&mut self) {
        if self.device.stop(&mut SOON.clone()).is_ok() {
            // SAFETY: the reset was acknowledged.
            unsafe { self.queue.stop() };
            // SAFETY: the ring was restarted just now.
            unsafe { self.queue.give_up() };
        }
    }
}

/// A disk that did not acknowledge its reset before the policy gave up.
pub struct NotShutDown<T: Transport, M: Memory, B: Buffer, R: RingFormat = Split> {
    /// The disk. Dropping it leaks the memory that the device may still touch.
    pub disk: Disk<T, M, B, R>,
}

impl<T: Transport, M: Memory, B: Buffer, R: RingFormat> fmt::Debug for NotShutDown<T, M, B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotShutDown").finish_non_exhaustive()
    }
}

impl<T: Transport, M: Memory, B: Buffer, R: RingFormat> fmt::Display for NotShutDown<T, M, B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the disk did not acknowledge its reset, and may still use the memory that it was given")
    }
}

impl<T: Transport, M: Memory, B: Buffer, R: RingFormat> core::error::Error for NotShutDown<T, M, B, R> {}
