//! The device behind the queues: its configuration, its interrupt, its reset.

use virtio_spec::block::BlockFeatures;
use virtio_transport::{DeviceType, Negotiation, NotReset, Notifier, Running, Transport, Wait};
use virtqueue::{Memory, RingFormat};

use crate::blocking::SOON;
use crate::buffer::Buffer;
use crate::epoch::Epoch;
use crate::error::{Error, OpenError};
use crate::exclusive::Exclusive;
use crate::info::{CacheMode, Info, WRITEBACK};
use crate::queue::Queue;
use crate::request::Operation;
use crate::setup::enable;

/// A disk without its queues: what concerns all of them.
///
/// Queues work without it. It is needed when the configuration changes, and when the device has to be reset.
pub struct Device<T: Transport, M: Memory> {
    state: State<T>,
    info: Info,
    queues: u16,
    epoch: Epoch<M>,
    /// The cache mode that was set: a reset brings back the device's own.
    cache_mode: Option<CacheMode>,
    /// A write that has completed is safe: the mode is write-through, and what completed before it was is flushed.
    write_through: bool,
}

enum State<T: Transport> {
    Running(Running<T>),
    /// The device has acknowledged a reset.
    Stopped(T),
    /// The transport was taken; or a policy unwound during a reset, and nobody knows whether it was acknowledged.
    Gone,
}

/// The driver is not done with a device that did not acknowledge its reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotStopped;

/// The way of a blocking call to the device of its queue ([`Queue::blocking`]): `&mut Device`, or a reference to one that
/// is shared ([`Exclusive`]). There are no others.
pub trait DeviceHandle<M: Memory>: sealed::Sealed {
    /// Whether the queue is one of the device's, and the device can be reset if need be.
    #[doc(hidden)]
    fn check_owner<N: Notifier, B: Buffer, R: RingFormat>(&mut self, queue: &Queue<M, N, B, R>) -> Result<(), Error>;

    /// Resets the device. That it was acknowledged shows in the queue.
    #[doc(hidden)]
    fn stop(&mut self, wait: &mut impl Wait);
}

impl<T: Transport, M: Memory> DeviceHandle<M> for &mut Device<T, M> {
    fn check_owner<N: Notifier, B: Buffer, R: RingFormat>(&mut self, queue: &Queue<M, N, B, R>) -> Result<(), Error> {
        Device::check_owned(self, queue.epoch())
    }

    fn stop(&mut self, wait: &mut impl Wait) {
        let _ = Device::stop(self, wait);
    }
}

impl<E: Exclusive<Value = Device<T, M>> + ?Sized, T: Transport, M: Memory> DeviceHandle<M> for &E {
    fn check_owner<N: Notifier, B: Buffer, R: RingFormat>(&mut self, queue: &Queue<M, N, B, R>) -> Result<(), Error> {
        self.with(|device| device.check_owned(queue.epoch()))
    }

    fn stop(&mut self, wait: &mut impl Wait) {
        let _ = self.with(|device| device.stop(wait));
    }
}

mod sealed {
    use super::{Device, Exclusive, Memory, Transport};

    pub trait Sealed {}
    impl<T: Transport, M: Memory> Sealed for &mut Device<T, M> {}
    impl<E: Exclusive + ?Sized> Sealed for &E {}
}

/// What a device has become by [`Device::config_changed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// The capacity before, in sectors.
    pub old_sectors: u64,
    /// The capacity now, in sectors.
    pub new_sectors: u64,
}

/// What became of the requests that were in flight when a device was reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "writes may be lost"]
pub struct Recovered {
    /// Requests that were issued again: somebody waits for them.
    pub reissued: u32,
    /// Requests that were not, and have ended: cancelled and dropped ones, flushes, and writes to zones.
    pub ended: u32,
    /// Writes had completed, in write-back mode, that no flush has covered: they may be lost. It stays so in later
    /// recoveries until a flush is `Ok`.
    pub writes_in_doubt: bool,
}

impl<T: Transport, M: Memory> Device<T, M> {
    pub(crate) fn new(running: Running<T>, info: Info, queues: u16, epoch: Epoch<M>) -> Self {
        let state = State::Running(running);
        let mut device = Self { state, info, queues, epoch, cache_mode: None, write_through: false };
        device.write_through = device.cache_mode() == Ok(CacheMode::WriteThrough);
        device.epoch.set_running();
        device
    }

    /// What the disk said of itself when it was opened; the capacity is the one that was last read.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// A handle for the interrupt handler; `None` once the device was reset.
    pub fn interrupt(&self) -> Option<T::Interrupt> {
        Some(self.running().ok()?.interrupt())
    }

    /// Whether the device says that it needs a reset (DEVICE_NEEDS_RESET), or was reset.
    pub fn needs_reset(&self) -> bool {
        self.running().map_or(true, Running::needs_reset)
    }

    /// Looks what has changed, after an interrupt for a change of the configuration (5.2.5, "Device Initialization").
    /// `None`: not the capacity.
    ///
    /// Queues check requests against the capacity that they know: tell each of them, with
    /// [`Queue::set_capacity_sectors`].
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`]; [`Error::Config`] when the device changes it faster than it can be read.
    pub fn config_changed(&mut self) -> Result<Option<Resized>, Error> {
        let new_sectors = self.running()?.read_config(crate::info::read_capacity)?;
        let old_sectors = core::mem::replace(&mut self.info.capacity_sectors, new_sectors);
        Ok((old_sectors != new_sectors).then_some(Resized { old_sectors, new_sectors }))
    }

    /// When a completed write is safe from a power cut (5.2.5.2, "Driver Requirements: Device Initialization").
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`]; [`Error::Config`].
    pub fn cache_mode(&self) -> Result<CacheMode, Error> {
        let running = self.running()?;
        if self.info.cache_mode_can_change {
            return Ok(CacheMode::from_byte(running.read_config(|config| config.u8(WRITEBACK))?));
        }
        // Without the byte, a device that can be told to flush is taken at its word that it has something to flush.
        let flush = self.info.features.contains(BlockFeatures::FLUSH);
        Ok(if flush { CacheMode::WriteBack } else { CacheMode::WriteThrough })
    }

    /// Changes the cache mode: waits until no request is in flight on any queue, writes the mode, and, for
    /// write-through, flushes, so that earlier writes are safe as well (5.2.6.2). A reset of the device brings back its
    /// default; [`recover`](Device::recover) sets the chosen mode again.
    ///
    /// `queues` are all queues of the device, each once: nobody uses them meanwhile. Completions are kept for
    /// [`Queue::poll`].
    ///
    /// # Errors
    ///
    /// - [`Error::NotNegotiated`] on a disk without CONFIG_WCE, [`Error::QueuesMissing`]: nothing was done.
    /// - [`Error::CacheMode`] when the device stays with its mode.
    /// - [`Error::Device`] and [`Error::QueueFull`] when the flush failed: the mode is changed, but earlier writes are in
    ///   doubt until another flush is `Ok`.
    /// - [`Error::GaveUp`] and [`Error::Violation`]: the device was reset. [`Error::Stopped`]: it had been before.
    pub fn set_cache_mode<B: Buffer, R: RingFormat>(
        &mut self,
        mode: CacheMode,
        queues: &mut [&mut Queue<M, T::Notifier, B, R>],
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        if !self.info.cache_mode_can_change {
            let feature = BlockFeatures::CONFIG_WCE.into();
            return Err(Error::NotNegotiated { operation: Operation::Flush, feature });
        }
        self.check_complete(queues)?;
        if !self.epoch.takes_requests() {
            return Err(Error::Stopped);
        }
        let result = self.change_cache_mode(mode, queues, wait);
        if result.as_ref().is_err_and(Error::is_fatal) && self.stop(&mut SOON.clone()).is_ok() {
            for queue in queues.iter_mut() {
                // SAFETY: the reset was acknowledged.
                unsafe { queue.stop() };
            }
        }
        result
    }

    fn change_cache_mode<B: Buffer, R: RingFormat>(
        &mut self,
        mode: CacheMode,
        queues: &mut [&mut Queue<M, T::Notifier, B, R>],
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        for queue in queues.iter_mut() {
            queue.drain(wait)?;
        }
        let was_write_through = core::mem::take(&mut self.write_through);
        self.write_cache_mode(mode)?;
        if mode == CacheMode::WriteThrough {
            if self.info.features.contains(BlockFeatures::FLUSH) {
                // Without any queue, there is nothing to be flushed.
                if let Some(queue) = queues.first_mut() {
                    queue.blocking(&mut *self)?.flush(wait)?;
                }
                self.write_through = true;
            } else {
                self.write_through = was_write_through;
            }
        }
        Ok(())
    }

    /// Writes the cache mode, and reads it back. The caller sees to it that no write is in flight.
    fn write_cache_mode(&mut self, mode: CacheMode) -> Result<(), Error> {
        let State::Running(running) = &mut self.state else {
            return Err(Error::Stopped);
        };
        running.write_config_u8(WRITEBACK, mode.byte())?;
        if self.cache_mode()? == mode {
            self.cache_mode = Some(mode);
            Ok(())
        } else {
            Err(Error::CacheMode)
        }
    }

    /// Whether a queue with this epoch is the device's, and the device can be reset if need be.
    fn check_owned(&self, queue: &Epoch<M>) -> Result<(), Error> {
        match self.state {
            _ if !self.owns(queue) => Err(Error::ForeignQueue),
            State::Gone => Err(Error::Stopped),
            State::Running(_) | State::Stopped(_) => Ok(()),
        }
    }

    /// Resets the device and waits for it to acknowledge. Doing so again is no error.
    pub(crate) fn stop(&mut self, wait: &mut impl Wait) -> Result<(), NotStopped> {
        if matches!(self.state, State::Running(_)) {
            // It may have changed its mode by itself. One that cannot be read is taken to be write-back.
            self.write_through &= self.cache_mode() == Ok(CacheMode::WriteThrough);
        }
        match core::mem::replace(&mut self.state, State::Gone) {
            State::Running(running) => match running.reset(wait) {
                Ok(transport) => {
                    self.state = State::Stopped(transport);
                    self.epoch.set_stopped();
                }
                Err(NotReset { running, .. }) => {
                    self.state = State::Running(running);
                    return Err(NotStopped);
                }
            },
            state => self.state = state,
        }
        match self.state {
            State::Stopped(_) => Ok(()),
            _ => Err(NotStopped),
        }
    }

    /// Brings the device back after a failure: DEVICE_NEEDS_RESET, a violation, a request that takes too long.
    ///
    /// The device is reset, and gets the same features, queues and cache mode again. Requests that somebody waits for are
    /// issued again. Those that were cancelled or dropped are not, as a late write could overwrite newer data; nor are
    /// flushes, which end with [`Error::FlushInDoubt`], nor writes to the zones of a host-managed disk and appends, which
    /// end with [`Error::ZoneWriteInDoubt`]. What the device had completed before the reset has completed.
    ///
    /// No interrupt comes for what has ended by this: afterwards, [`poll`](Queue::poll) each queue, or call
    /// [`AsyncQueue::process`](crate::AsyncQueue::process), and do so after [`give_up`](Device::give_up) and
    /// [`shutdown`](Device::shutdown). The capacity stays the one that was last read: look for a new one with
    /// [`config_changed`](Device::config_changed).
    ///
    /// `queues` are all queues of the device, each once: nobody uses them meanwhile.
    ///
    /// # Errors
    ///
    /// - [`Error::QueuesMissing`]: nothing was done.
    /// - [`Error::NotAcknowledged`]: the policy gave up before the device acknowledged its reset. Try again, or
    ///   [give up](Device::give_up).
    /// - [`Error::NotRecovered`], [`Error::CacheMode`], [`Error::Config`]: the device did not come up again. Every
    ///   request has ended with [`Error::GivenUp`].
    pub fn recover<B: Buffer, R: RingFormat>(
        &mut self,
        queues: &mut [&mut Queue<M, T::Notifier, B, R>],
        wait: &mut impl Wait,
    ) -> Result<Recovered, Error> {
        self.check_complete(queues)?;
        if self.stop(wait).is_err() {
            return Err(Error::NotAcknowledged);
        }
        let mut recovered = Recovered::default();
        for queue in queues.iter_mut() {
            // SAFETY: the reset was acknowledged.
            recovered.ended += unsafe { queue.stop() };
        }
        // Once what was completed is known of all queues, flushes on any of them included.
        recovered.writes_in_doubt = !self.write_through && queues.iter().any(|queue| queue.writes_in_doubt());
        let restarted = self.restart(queues, &mut recovered, wait);
        if let Err(error) = restarted {
            log::error!("virtio disk: the device did not come up again: {error}");
            self.state = State::Gone;
            for queue in queues.iter_mut() {
                // SAFETY: the reset was acknowledged, the ring restarted, and nothing was reissued.
                unsafe { queue.give_up() };
            }
            return Err(error);
        }
        for queue in queues.iter_mut() {
            queue.commit();
        }
        log::info!("virtio disk: recovered, {recovered:?}");
        Ok(recovered)
    }

    /// Brings a device up that was reset.
    fn restart<B: Buffer, R: RingFormat>(
        &mut self,
        queues: &mut [&mut Queue<M, T::Notifier, B, R>],
        recovered: &mut Recovered,
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        let transport = self.take_transport().ok_or(Error::Stopped)?;
        let failed = |error: OpenError| Error::NotRecovered(error);
        let negotiation = Negotiation::begin(transport, DeviceType::BLOCK, wait).map_err(|e| failed(e.into()))?;
        let mut setup = negotiation.accept(self.info.features.bits()).map_err(|e| failed(e.into()))?;
        if let Some(mode) = self.cache_mode {
            setup.write_config_u8(WRITEBACK, mode.byte())?;
            if CacheMode::from_byte(setup.read_config(|config| config.u8(WRITEBACK))?) != mode {
                return Err(Error::CacheMode);
            }
        }
        for queue in queues.iter_mut() {
            enable(queue, |config| setup.enable_queue(config)).map_err(|e| failed(e.into()))?;
        }
        // From here on nothing fails.
        for queue in queues.iter_mut() {
            queue.set_notifier(setup.notifier(queue.index()));
            // SAFETY: each ring was restarted by the caller, and this is the only time since.
            recovered.reissued += unsafe { queue.reissue() };
        }
        self.state = State::Running(setup.start());
        self.write_through = !recovered.writes_in_doubt && self.cache_mode() == Ok(CacheMode::WriteThrough);
        self.epoch.set_running();
        Ok(())
    }

    /// Gives a device up that does not acknowledge its reset. Every request ends with [`Error::GivenUp`]; its buffer is
    /// leaked, and so is all memory that the device knows, as it may still use it. Nothing can be submitted any more.
    ///
    /// `queues` are all queues of the device, each once.
    ///
    /// # Errors
    ///
    /// [`Error::QueuesMissing`]: nothing was done.
    pub fn give_up<B: Buffer, R: RingFormat>(
        &mut self,
        queues: &mut [&mut Queue<M, T::Notifier, B, R>],
    ) -> Result<(), Error> {
        self.check_complete(queues)?;
        let acknowledged = matches!(self.state, State::Stopped(_));
        self.state = State::Gone;
        self.epoch.set_stopped();
        log::error!("virtio disk: given up; its memory is leaked, as the device may still use it");
        for queue in queues.iter_mut() {
            if acknowledged {
                // SAFETY: the reset was acknowledged.
                unsafe { queue.stop() };
            }
            // SAFETY: just restarted, or else nothing is submitted any more as the epoch is stopped for good.
            unsafe { queue.give_up() };
        }
        Ok(())
    }

    /// Waits until the device is done with everything, and resets it. Then dropping a queue frees it. Returns the
    /// transport.
    ///
    /// `queues` are all queues of the device, each once. If the policy gives up on what is in flight, that is cut off by
    /// the reset; so is what a suspended device has not begun.
    ///
    /// # Errors
    ///
    /// [`Error::QueuesMissing`]: nothing was done. [`Error::NotAcknowledged`]: the policy gave up before the device
    /// acknowledged its reset. [`Error::Stopped`]: it is gone already.
    pub fn shutdown<B: Buffer, R: RingFormat>(
        &mut self,
        queues: &mut [&mut Queue<M, T::Notifier, B, R>],
        wait: &mut impl Wait,
    ) -> Result<T, Error> {
        self.check_complete(queues)?;
        for queue in queues.iter_mut() {
            if let Err(error) = queue.drain(wait) {
                log::warn!("virtio disk: shut down with requests in flight: {error}");
            }
        }
        if self.stop(wait).is_err() {
            return Err(Error::NotAcknowledged);
        }
        for queue in queues.iter_mut() {
            // SAFETY: the reset was acknowledged.
            unsafe { queue.stop() };
            // SAFETY: the ring was restarted just now.
            unsafe { queue.give_up() };
        }
        self.take_transport().ok_or(Error::Stopped)
    }

    /// Whether these are all queues of this device, each once.
    pub(crate) fn check_complete<B: Buffer, R: RingFormat>(
        &self,
        queues: &[&mut Queue<M, T::Notifier, B, R>],
    ) -> Result<(), Error> {
        // They are distinct, as each is borrowed exclusively; so it is enough to count.
        let own = queues.iter().filter(|queue| self.owns(queue.epoch())).count();
        let found = u16::try_from(own).unwrap_or(u16::MAX);
        if found == self.queues && own == queues.len() {
            Ok(())
        } else {
            Err(Error::QueuesMissing { expected: self.queues, found })
        }
    }

    /// Takes the transport of a device that was reset.
    pub(crate) fn take_transport(&mut self) -> Option<T> {
        match core::mem::replace(&mut self.state, State::Gone) {
            State::Stopped(transport) => Some(transport),
            state => {
                self.state = state;
                None
            }
        }
    }

    /// Whether a queue with this epoch is this device's.
    pub(crate) fn owns(&self, queue: &Epoch<M>) -> bool {
        queue.is(&self.epoch)
    }

    pub(crate) fn epoch(&self) -> &Epoch<M> {
        &self.epoch
    }

    pub(crate) fn running_mut(&mut self) -> Result<&mut Running<T>, Error> {
        match &mut self.state {
            State::Running(running) => Ok(running),
            _ => Err(Error::Stopped),
        }
    }

    fn running(&self) -> Result<&Running<T>, Error> {
        match &self.state {
            State::Running(running) => Ok(running),
            _ => Err(Error::Stopped),
        }
    }
}
