//! Bringing a device up, step by step, in the specification's order (section 3.1.1).
//!
//! ```text
//!                 reset, ACKNOWLEDGE, DRIVER     features, FEATURES_OK        queues, DRIVER_OK
//!  a transport ------- Negotiation::begin -> ... accept -> QueueSetup ... start -> Running
//!       ^                                                                            |
//!       +---------------------------------- reset -----------------------------------+
//! ```
//!
//! Each state is a type whose methods are what may be done in it, and the way to the next state takes the state before
//! it by value: no step can be left out or done twice.
//!
//! # When something fails
//!
//! A [`Negotiation`] or [`QueueSetup`] that is dropped, by an error or because the driver does not like what it sees,
//! leaves the device with FAILED in its status: the host can see that nobody drives it.
//!
//! # What the device says about itself
//!
//! The driver writes the bits that it set itself, from its own record, and looks at the status before each time.
//! Should the device have set DEVICE_NEEDS_RESET by then, or FAILED (which is the driver's to set), it is not brought
//! up any further: [`InitError::DeviceFailed`]. Other bits in its answer are ignored. With the last step,
//! [`QueueSetup::start`], that can no longer be an error; [`Running::needs_reset`] tells.

use core::{fmt, mem::ManuallyDrop};

use virtio_spec::{DeviceStatus, DeviceType, Features};

use crate::{
    ConfigError, ConfigSpace, GaveUp, Interface, QueueConfig, QueueError, QueueMemory, Transport, Wait,
    config::write_config_u8, read_config,
};

/// A transport between reset and DRIVER_OK. Dropping it sets FAILED.
struct Unfinished<T: Transport> {
    transport: T,
    /// The bits that this driver set: the device's own word for it is not needed.
    status: DeviceStatus,
}

impl<T: Transport> Unfinished<T> {
    /// Sets further bits of the status.
    fn add_status(&mut self, bits: DeviceStatus) -> Result<(), InitError> {
        let found = self.transport.status();
        if found.intersects(DeviceStatus::DEVICE_NEEDS_RESET | DeviceStatus::FAILED) {
            return Err(InitError::DeviceFailed { status: found });
        }
        self.status |= bits;
        self.transport.set_status(self.status);
        Ok(())
    }

    /// Sets further bits of the status whatever the device says. It keeps DEVICE_NEEDS_RESET, as a driver clears no
    /// bit other than by a reset (section 2.1.1).
    fn force_status(&mut self, bits: DeviceStatus) {
        let kept = self.transport.status() & DeviceStatus::DEVICE_NEEDS_RESET;
        self.status |= bits;
        self.transport.set_status(self.status | kept);
    }

    /// The transport, without setting FAILED.
    fn finish(self) -> T {
        let this = ManuallyDrop::new(self);
        // SAFETY: moves out of a field of a value that is neither dropped nor used again; the other field needs no
        // drop.
        unsafe { core::ptr::read(&this.transport) }
    }
}

impl<T: Transport> Drop for Unfinished<T> {
    fn drop(&mut self) {
        log::warn!("virtio {} device: not brought up, giving up on it", self.transport.device_type());
        self.force_status(DeviceStatus::FAILED);
    }
}

/// Starts a reset and waits for the device to acknowledge it (section 2.4).
fn reset<T: Transport>(transport: &mut T, wait: &mut impl Wait) -> Result<(), DeviceStatus> {
    transport.set_status(DeviceStatus::empty());
    loop {
        let status = transport.status();
        if status.is_empty() {
            return Ok(());
        }
        if let Err(GaveUp) = wait.wait() {
            return Err(status);
        }
    }
}

/// A device that was reset and says which features it offers. The first of the three states.
///
/// Dropping it sets FAILED in the device's status.
pub struct Negotiation<T: Transport> {
    device: Unfinished<T>,
    offered: u64,
}

impl<T: Transport> Negotiation<T> {
    /// Resets the device, waits for it to say that it is done, and tells it that a driver is there (section 3.1.1,
    /// steps 1 to 3).
    ///
    /// `wait` is asked between two looks at the device. A device that was not driven before answers at once.
    ///
    /// # Errors
    ///
    /// - [`InitError::WrongDevice`]: the device is of another type than `expected`; it was not touched.
    /// - [`InitError::ResetTimedOut`]: `wait` gave up. Nothing more was written, not even FAILED: the device might take
    ///   any status for the end of its reset. Memory that an earlier driver gave to the device may still be written
    ///   by it.
    /// - [`InitError::DeviceFailed`]: the device says that it needs a reset just after it had one.
    pub fn begin(mut transport: T, expected: DeviceType, wait: &mut impl Wait) -> Result<Self, InitError> {
        let found = transport.device_type();
        if found != expected {
            return Err(InitError::WrongDevice { expected, found });
        }
        reset(&mut transport, wait).map_err(|status| InitError::ResetTimedOut { status })?;
        let mut device = Unfinished { transport, status: DeviceStatus::empty() };
        device.add_status(DeviceStatus::ACKNOWLEDGE)?;
        device.add_status(DeviceStatus::DRIVER)?;
        let offered = device.transport.device_features() & device.transport.usable_features();
        log::debug!("virtio {found} device, {:?}: offers features {offered:#x}", device.transport.interface());
        Ok(Self { device, offered })
    }

    /// The feature bits that the device offers.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Which of the specification's two interfaces the device has.
    pub fn interface(&self) -> Interface {
        self.device.transport.interface()
    }

    /// Reads the configuration space, as a driver may before it accepts features. See [`read_config`].
    ///
    /// # Errors
    ///
    /// Those of [`read_config`].
    pub fn read_config<V: PartialEq>(
        &self,
        read: impl FnMut(&ConfigSpace<'_, T>) -> Result<V, ConfigError>,
    ) -> Result<V, ConfigError> {
        read_config(&self.device.transport, read)
    }

    /// Accepts features (section 3.1.1, steps 4 to 6). A modern device is asked whether it agrees; a legacy one knows
    /// no such question.
    ///
    /// Whether the bits go together, and whether the driver does what they ask for, is the driver's matter.
    ///
    /// # Errors
    ///
    /// - [`InitError::NotOffered`]: `features` has bits that the device does not offer.
    /// - [`InitError::MissingVersion1`]: a modern device and VERSION_1 is not among the features on both sides.
    /// - [`InitError::FeaturesRefused`]: the device does not agree.
    /// - [`InitError::DeviceFailed`]: the device says that it needs a reset.
    ///
    /// The device is given up then (FAILED).
    pub fn accept(mut self, features: u64) -> Result<QueueSetup<T>, InitError> {
        let not_offered = features & !self.offered;
        let modern = self.interface() == Interface::Modern;
        if modern && self.offered & features & Features::VERSION_1.bits() == 0 {
            return Err(InitError::MissingVersion1 { offered: self.offered, accepted: features });
        }
        if not_offered != 0 {
            return Err(InitError::NotOffered { features: not_offered });
        }
        self.device.transport.set_driver_features(features);
        if modern {
            self.device.add_status(DeviceStatus::FEATURES_OK)?;
            let status = self.device.transport.status();
            if status.intersects(DeviceStatus::DEVICE_NEEDS_RESET | DeviceStatus::FAILED) {
                return Err(InitError::DeviceFailed { status });
            }
            if !status.contains(DeviceStatus::FEATURES_OK) {
                return Err(InitError::FeaturesRefused { features });
            }
        }
        Ok(QueueSetup { device: self.device, features })
    }
}

/// A device whose features are settled and whose queues are being set up. The second of the three states.
///
/// Dropping it sets FAILED in the device's status. That does not stop a device from using a queue that it was told
/// about: memory of enabled queues stays the device's until a reset is done ([`Negotiation::begin`] or
/// [`Running::reset`]).
pub struct QueueSetup<T: Transport> {
    device: Unfinished<T>,
    features: u64,
}

impl<T: Transport> QueueSetup<T> {
    /// The feature bits that were negotiated.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Which of the specification's two interfaces the device has.
    pub fn interface(&self) -> Interface {
        self.device.transport.interface()
    }

    /// The largest size of a queue in entries, 0 where the device has no such queue.
    pub fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.device.transport.max_queue_size(queue)
    }

    /// What the interface asks of the memory of a queue.
    pub fn queue_memory(&self) -> QueueMemory {
        self.device.transport.queue_memory()
    }

    /// Reads the configuration space. See [`read_config`].
    ///
    /// # Errors
    ///
    /// Those of [`read_config`].
    pub fn read_config<V: PartialEq>(
        &self,
        read: impl FnMut(&ConfigSpace<'_, T>) -> Result<V, ConfigError>,
    ) -> Result<V, ConfigError> {
        read_config(&self.device.transport, read)
    }

    /// Writes one byte of the configuration space. Which bytes a driver may write, and what they mean, is the device
    /// type's matter.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfBounds`] when it is not inside the space.
    pub fn write_config_u8(&mut self, offset: usize, value: u8) -> Result<(), ConfigError> {
        write_config_u8(&mut self.device.transport, offset, value)
    }

    /// Tells the device where a queue is and enables it (section 3.1.1, step 7; for virtio-mmio section 4.2.3.2).
    ///
    /// From here on the memory is the device's, until a reset is done. It was zeroed before.
    ///
    /// # Errors
    ///
    /// - [`QueueError::InUse`]: the device says that the queue is in use, although it was just reset.
    /// - [`QueueError::TooLarge`]: the device has no such queue or wants it smaller. [`QueueError::Empty`]: the size is
    ///   0.
    /// - Others when the interface cannot express the addresses or the device does not take the queue.
    ///
    /// Only with [`QueueError::NotEnabled`] may the device have been told the addresses.
    pub fn enable_queue(&mut self, queue: &QueueConfig) -> Result<(), QueueError> {
        enable_queue(&mut self.device.transport, queue)
    }

    /// A handle that notifies the device about one queue. To be used when the device runs (section 2.9).
    pub fn notifier(&self, queue: u16) -> T::Notifier {
        notifier(&self.device.transport, self.features, queue)
    }

    /// A handle for the interrupt handler.
    pub fn interrupt(&self) -> T::Interrupt {
        self.device.transport.interrupt()
    }

    /// Sets DRIVER_OK: the device runs (section 3.1.1, step 8).
    pub fn start(mut self) -> Running<T> {
        self.device.force_status(DeviceStatus::DRIVER_OK);
        let features = self.features;
        let transport = self.device.finish();
        log::debug!("virtio {} device: runs with features {features:#x}", transport.device_type());
        Running { transport, features }
    }
}

/// A device that runs. The last of the three states.
///
/// Dropping it leaves the device running: memory that it was given stays the device's.
pub struct Running<T: Transport> {
    transport: T,
    features: u64,
}

impl<T: Transport> Running<T> {
    /// The feature bits that were negotiated.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Which of the specification's two interfaces the device has.
    pub fn interface(&self) -> Interface {
        self.transport.interface()
    }

    /// The transport.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// The transport, for what is done in this state.
    pub(crate) fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Reads the configuration space. See [`read_config`].
    ///
    /// # Errors
    ///
    /// Those of [`read_config`].
    pub fn read_config<V: PartialEq>(
        &self,
        read: impl FnMut(&ConfigSpace<'_, T>) -> Result<V, ConfigError>,
    ) -> Result<V, ConfigError> {
        read_config(&self.transport, read)
    }

    /// Writes one byte of the configuration space. Which bytes a driver may write, and what they mean, is the device
    /// type's matter.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfBounds`] when it is not inside the space.
    pub fn write_config_u8(&mut self, offset: usize, value: u8) -> Result<(), ConfigError> {
        write_config_u8(&mut self.transport, offset, value)
    }

    /// A value that changes whenever the device changes its configuration; `None` on a legacy device, which has none.
    pub fn config_generation(&self) -> Option<u32> {
        self.transport.config_generation()
    }

    /// A handle that notifies the device about one queue.
    pub fn notifier(&self, queue: u16) -> T::Notifier {
        notifier(&self.transport, self.features, queue)
    }

    /// A handle for the interrupt handler.
    pub fn interrupt(&self) -> T::Interrupt {
        self.transport.interrupt()
    }

    /// Whether the device says that it is in an error that only a reset ends (DEVICE_NEEDS_RESET, section 2.1.2).
    pub fn needs_reset(&self) -> bool {
        self.transport.status().contains(DeviceStatus::DEVICE_NEEDS_RESET)
    }

    /// Resets the device and waits for it to say that it is done (section 2.4).
    ///
    /// After `Ok`, and only then, the memory that the device was given is the driver's again. The transport can be
    /// brought up anew.
    ///
    /// # Errors
    ///
    /// [`NotReset`] when `wait` gave up. It carries the device, so that the reset can be tried again. Until one
    /// succeeds the device neither works nor lets go of memory.
    pub fn reset(mut self, wait: &mut impl Wait) -> Result<T, NotReset<T>> {
        match reset(&mut self.transport, wait) {
            Ok(()) => Ok(self.transport),
            Err(status) => {
                log::warn!("virtio {} device: did not acknowledge a reset", self.transport.device_type());
                Err(NotReset { running: self, status, reason: GaveUp })
            }
        }
    }
}

/// Tells the device where a queue is, if it has one there and does not use it.
pub(crate) fn enable_queue<T: Transport>(transport: &mut T, queue: &QueueConfig) -> Result<(), QueueError> {
    let QueueConfig { index, size, .. } = *queue;
    if size == 0 {
        return Err(QueueError::Empty { queue: index });
    }
    // In this order: the maximum of a legacy queue may only be read when the queue is not in use.
    if transport.queue_in_use(index) {
        return Err(QueueError::InUse { queue: index });
    }
    let max = transport.max_queue_size(index);
    if u32::from(size) > max {
        return Err(QueueError::TooLarge { queue: index, size, max });
    }
    transport.enable_queue(queue)
}

fn notifier<T: Transport>(transport: &T, features: u64, queue: u16) -> T::Notifier {
    transport.notifier(queue, features & Features::NOTIFICATION_DATA.bits() != 0)
}

impl<T: Transport> fmt::Debug for Negotiation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Negotiation").field("offered", &self.offered).finish_non_exhaustive()
    }
}

impl<T: Transport> fmt::Debug for QueueSetup<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueSetup").field("features", &self.features).finish_non_exhaustive()
    }
}

impl<T: Transport> fmt::Debug for Running<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("features", &self.features).finish_non_exhaustive()
    }
}

/// A device that did not acknowledge its reset before the waiting policy gave up.
pub struct NotReset<T: Transport> {
    /// The device, to try again. It may still write to the memory that it was given.
    pub running: Running<T>,
    /// The device status as last read.
    pub status: DeviceStatus,
    /// Why there was no further look.
    pub reason: GaveUp,
}

impl<T: Transport> fmt::Debug for NotReset<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { running, status, reason } = self;
        let mut out = f.debug_struct("NotReset");
        out.field("running", running).field("status", status).field("reason", reason).finish()
    }
}

impl<T: Transport> fmt::Display for NotReset<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.running.transport.device_type();
        let status = self.status.bits();
        write!(
            f,
            "the virtio {kind} device did not acknowledge a reset: its status is {status:#04x}, expected 0; its \
             memory cannot be freed yet"
        )
    }
}

impl<T: Transport> core::error::Error for NotReset<T> {}

/// Why a device could not be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitError {
    /// The device is of another type than the driver. It was not touched.
    WrongDevice {
        /// The type that the driver is for.
        expected: DeviceType,
        /// The type of the device.
        found: DeviceType,
    },
    /// The waiting policy gave up before the device acknowledged its reset.
    ResetTimedOut {
        /// The device status as last read; an acknowledged reset reads as empty.
        status: DeviceStatus,
    },
    /// The device says that it needs a reset, or that a driver gave up on it, while it is brought up.
    DeviceFailed {
        /// The device status as read.
        status: DeviceStatus,
    },
    /// The driver accepts features that the device does not offer.
    NotOffered {
        /// The bits that the device does not offer.
        features: u64,
    },
    /// The device has the modern interface, and VERSION_1 was not both offered and accepted (section 6.1).
    MissingVersion1 {
        /// The bits that the device offers.
        offered: u64,
        /// The bits that the driver accepts.
        accepted: u64,
    },
    /// The device does not work with the features that the driver accepted (FEATURES_OK did not stay set).
    FeaturesRefused {
        /// The bits that the driver accepted.
        features: u64,
    },
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::WrongDevice { expected, found } => {
                write!(f, "this is a virtio {found} device, expected {expected}; give it to the driver of its type")
            }
            Self::ResetTimedOut { status } => write!(
                f,
                "the device did not acknowledge its reset: its status is {:#04x}, expected 0; wait longer, or the \
                 device is dead",
                status.bits()
            ),
            Self::DeviceFailed { status } => write!(
                f,
                "the device failed while it was brought up: its status is {:#04x}, with DEVICE_NEEDS_RESET (0x40) or \
                 FAILED (0x80); start again with a reset",
                status.bits()
            ),
            Self::NotOffered { features } => write!(
                f,
                "the driver accepts features {features:#x} that the device does not offer; accept a subset of those \
                 that it offers"
            ),
            Self::MissingVersion1 { offered, accepted } => {
                let side = if offered & Features::VERSION_1.bits() == 0 { "offer" } else { "get accepted" };
                write!(
                    f,
                    "a modern device must have feature VERSION_1 (bit 32), and it did not {side} it: offered \
                     {offered:#x}, accepted {accepted:#x}"
                )
            }
            Self::FeaturesRefused { features } => write!(
                f,
                "the device refuses features {features:#x} (FEATURES_OK did not stay set); accept others of those \
                 that it offers"
            ),
        }
    }
}

impl core::error::Error for InitError {}
