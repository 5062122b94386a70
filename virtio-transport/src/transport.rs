//! What a driver needs of a bus.

use core::fmt;

use virtio_spec::{DeviceStatus, DeviceType, Features, InterruptStatus};

/// A device on some bus, as a driver for its type sees it.
///
/// This is the mechanism alone: one method for each thing that the bus can do, in no particular order. The order that
/// the specification asks for is kept by [`Negotiation`](crate::Negotiation), which drivers use instead of calling
/// these methods themselves.
pub trait Transport {
    /// The handle that tells the device about new buffers in one queue.
    type Notifier: Notifier;
    /// The handle by which an interrupt handler asks why it was called.
    type Interrupt: Interrupt;

    /// The type of the device.
    fn device_type(&self) -> DeviceType;

    /// Which of the specification's two interfaces the device has.
    fn interface(&self) -> Interface;

    /// The feature bits 0 to 63 that the device offers; 0 to 31 on a legacy device.
    fn device_features(&mut self) -> u64;

    /// The features whose registers this transport has. Others are not offered to a driver, whatever the device says.
    fn usable_features(&self) -> u64 {
        // Devices behind memory-mapped registers have nothing to say instead of a queue's index.
        !Features::NOTIF_CONFIG_DATA.bits()
    }

    /// Tells the device the feature bits that the driver accepts. Bits that the interface cannot carry are dropped.
    fn set_driver_features(&mut self, features: u64);

    /// Reads the device status.
    fn status(&self) -> DeviceStatus;

    /// Writes the device status. The empty status starts a reset, which is done when it is read back as empty.
    fn set_status(&mut self, status: DeviceStatus);

    /// The largest size of a queue in entries, 0 where the device has no such queue.
    fn max_queue_size(&mut self, queue: u16) -> u32;

    /// Whether a queue is in use already, as it must not be before the driver enabled it.
    fn queue_in_use(&mut self, queue: u16) -> bool;

    /// Tells the device where a queue is and enables it.
    ///
    /// # Errors
    ///
    /// [`QueueError::NotEnabled`] when the device did not take the queue; it may know the addresses nevertheless. Others
    /// when the interface cannot express the addresses; the device was told nothing then.
    fn enable_queue(&mut self, queue: &QueueConfig) -> Result<(), QueueError>;

    /// What the interface asks of the memory of a queue.
    fn queue_memory(&self) -> QueueMemory;

    /// A value that changes whenever the device changes its configuration; `None` on a legacy device, which has none.
    fn config_generation(&self) -> Option<u32>;

    /// The length of the configuration space that can be read, in bytes.
    fn config_bytes(&self) -> usize;

    /// Reads one byte of the configuration space.
    fn read_config_u8(&self, offset: usize) -> u8;
    /// Reads two bytes of the configuration space, as a number in the driver's byte order.
    fn read_config_u16(&self, offset: usize) -> u16;
    /// Reads four bytes of the configuration space, as a number in the driver's byte order.
    fn read_config_u32(&self, offset: usize) -> u32;
    /// Writes one byte of the configuration space.
    fn write_config_u8(&mut self, offset: usize, value: u8);

    /// Starts to reset one queue, as RING_RESET lets a driver. `false` on a transport that cannot.
    fn start_queue_reset(&mut self, queue: u16) -> bool {
        let _ = queue;
        false
    }

    /// Whether the reset of a queue is still going on.
    fn queue_reset_runs(&mut self, queue: u16) -> bool {
        let _ = queue;
        false
    }

    /// A handle that notifies the device about one queue. `data`: whether NOTIFICATION_DATA was negotiated.
    fn notifier(&self, queue: u16, data: bool) -> Self::Notifier;

    /// A handle for the interrupt handler.
    fn interrupt(&self) -> Self::Interrupt;
}

/// Tells the device that there are new buffers in one queue.
pub trait Notifier {
    /// Notifies the device.
    ///
    /// `next` is where the driver will put the next buffer, as NOTIFICATION_DATA wants it in the upper half of the
    /// word: the 16 bits of the available index for a split queue; the offset in the ring and, as the highest bit,
    /// the wrap counter for a packed one. It is sent only if that feature was negotiated.
    ///
    /// The caller has ordered what it wrote to memory before this write to a register.
    fn notify(&self, next: u16);
}

/// Asks the device why it raised its interrupt.
pub trait Interrupt {
    /// Reads the causes of the interrupt and acknowledges exactly those that the specification knows.
    ///
    /// Empty when the interrupt was not this device's. On a bus whose interrupts need no acknowledging, it says what
    /// is known.
    fn acknowledge(&self) -> InterruptStatus;
}

/// Which of the specification's two interfaces a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// The one of virtio 1.0 and later.
    Modern,
    /// The one from before virtio 1.0: no feature bits above 31, no FEATURES_OK, fields in the driver's byte order.
    Legacy,
}

/// What an interface asks of the memory of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueMemory {
    /// `Some` on a legacy interface: the three areas are one contiguous range that starts at a multiple of this
    /// number of bytes, and the device area starts at the next multiple of it behind the driver area.
    pub contiguous_align: Option<usize>,
    /// The highest address that the queue's last byte may have.
    pub max_address: u64,
}

/// Where a queue is, as a driver tells the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// The index of the queue.
    pub index: u16,
    /// The number of entries.
    pub size: u16,
    /// The device address of the descriptor area.
    pub descriptor_area: u64,
    /// The device address of the driver area: the available ring of a split queue.
    pub driver_area: u64,
    /// The device address of the device area: the used ring of a split queue.
    pub device_area: u64,
}

/// Why a queue could not be enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// The queue lies above what a legacy device's 32-bit page number can express.
    PageNumberTooLarge {
        /// The index of the queue.
        queue: u16,
        /// The device address of its descriptor area.
        address: u64,
    },
    /// The queue does not start at the alignment of the legacy interface, or its areas are not where that interface
    /// expects them.
    NotContiguous {
        /// The index of the queue.
        queue: u16,
        /// The device address of its descriptor area.
        address: u64,
    },
    /// The queue has no entries.
    Empty {
        /// The index of the queue.
        queue: u16,
    },
    /// The device has no such queue, or wants it smaller.
    TooLarge {
        /// The index of the queue.
        queue: u16,
        /// The size asked for, in entries.
        size: u16,
        /// The largest size that the device takes; 0 for a queue that it does not have.
        max: u32,
    },
    /// The device says that the queue is in use before the driver enabled it.
    InUse {
        /// The index of the queue.
        queue: u16,
    },
    /// The place where the queue is notified is not inside the device's structure for that, or cannot be written to.
    /// The device was told nothing.
    NotifyOutside {
        /// The index of the queue.
        queue: u16,
        /// Where it should be, in bytes.
        offset: u64,
        /// The length of the structure in bytes.
        bytes: usize,
    },
    /// The device does not take the MSI-X vector that the queue, or a change of the configuration (`None`), is to
    /// interrupt with. It was not told the addresses.
    NoVector {
        /// The index of the queue.
        queue: Option<u16>,
        /// The vector.
        vector: u16,
    },
    /// The device did not take the queue: after enabling it, it still reads back as disabled. On a legacy device also a
    /// queue at device address 0, which is its word for a disabled one.
    NotEnabled {
        /// The index of the queue.
        queue: u16,
    },
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PageNumberTooLarge { queue, address } => write!(
                f,
                "queue {queue} at device address {address:#x} is beyond the 32-bit page number of a legacy device; \
                 allocate it lower"
            ),
            Self::NotContiguous { queue, address } => write!(
                f,
                "queue {queue} at device address {address:#x} is not laid out as one aligned range, as a legacy \
                 device needs it"
            ),
            Self::Empty { queue } => write!(f, "queue {queue} has no entries; a queue needs one at least"),
            Self::TooLarge { queue, size, max: 0 } => {
                write!(f, "the device has no queue {queue} (asked for {size} entries)")
            }
            Self::TooLarge { queue, size, max } => {
                write!(f, "queue {queue} can have {max} entries at the most, asked for {size}")
            }
            Self::InUse { queue } => write!(f, "the device says that queue {queue} is in use before it was enabled"),
            Self::NotifyOutside { queue, offset, bytes } => write!(
                f,
                "queue {queue} should be notified at offset {offset:#x}, which is not inside the {bytes:#x} bytes of the \
                 device's notification structure, or not aligned there"
            ),
            Self::NoVector { queue: Some(queue), vector } => {
                write!(f, "the device does not take MSI-X vector {vector} for queue {queue}; use fewer, or its pin")
            }
            Self::NoVector { queue: None, vector } => write!(
                f,
                "the device does not take MSI-X vector {vector} for changes of its configuration; use its pin"
            ),
            Self::NotEnabled { queue } => write!(f, "the device did not enable queue {queue}"),
        }
    }
}

impl core::error::Error for QueueError {}
