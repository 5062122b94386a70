//! How a device is set up.

use std::sync::Arc;

use virtio_spec::Features;
use virtio_spec::block::{BlockConfig, BlockFeatures, CacheMode, DEVICE_ID_LENGTH, Lifetime};
use zerocopy::FromZeros;

use crate::device::BlockDevice;
use crate::device_memory::DeviceMemory;

/// Which of the two interfaces a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interface {
    /// Version 2 of virtio-mmio.
    Modern,
    /// Version 1 of virtio-mmio.
    Legacy,
}

/// When a device looks at its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Inside the register write that notifies it: requests are done when the driver goes on.
    Immediate,
    /// When the test says so: [`BlockDevice::run`], or [`BlockDevice::take`] and [`BlockDevice::complete`].
    Manual,
}

/// What moves a device's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mover {
    /// [`DeviceRing`](crate::DeviceRing), which checks the driver.
    Strict,
    /// `virtio-queue` of rust-vmm, which was written by others and checks little. Needs
    /// [`BounceMemory`](crate::BounceMemory).
    #[cfg(not(miri))]
    RustVmm,
}

/// How a device is set up. Made by [`BlockDevice::builder`], used up by [`build`](Self::build); clones make equal
/// devices.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    pub(crate) interface: Interface,
    pub(crate) mode: Mode,
    pub(crate) mover: Mover,
    pub(crate) offered: u64,
    pub(crate) config: BlockConfig,
    pub(crate) queue_size_max: u32,
    pub(crate) queues: u16,
    pub(crate) device_type: u32,
    pub(crate) window_bytes: usize,
    pub(crate) id: [u8; DEVICE_ID_LENGTH],
    pub(crate) lifetime: Lifetime,
    pub(crate) tolerate_beyond_capacity: bool,
    pub(crate) tolerate_write_to_read_only: bool,
    pub(crate) tolerate_late_notifications: bool,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let mut config = BlockConfig::new_zeroed();
        config.blk_size = 512.into();
        config.writeback = CacheMode::WRITEBACK;
        config.num_queues = 1.into();
        let offered = Features::INDIRECT_DESC | Features::EVENT_IDX | Features::VERSION_1;
        let block = BlockFeatures::SEG_MAX | BlockFeatures::BLK_SIZE | BlockFeatures::FLUSH | BlockFeatures::CONFIG_WCE;
        Self {
            interface: Interface::Modern,
            mode: Mode::Immediate,
            mover: Mover::Strict,
            offered: offered.bits() | block.bits(),
            config,
            queue_size_max: 0,
            queues: 1,
            device_type: virtio_spec::DeviceType::BLOCK.0,
            window_bytes: 0x200,
            id: [0; DEVICE_ID_LENGTH],
            lifetime: Lifetime::default(),
            tolerate_beyond_capacity: false,
            tolerate_write_to_read_only: false,
            tolerate_late_notifications: false,
        }
        .queue_size_max(256)
        .capacity(2048)
        .id("testing-device")
    }

    /// The interface. Modern unless said otherwise. A modern device offers VERSION_1, a legacy one ANY_LAYOUT instead
    /// and no bit above 31.
    pub fn interface(mut self, interface: Interface) -> Self {
        let (legacy_bits, modern_bits) = (Features::ANY_LAYOUT.bits(), Features::VERSION_1.bits());
        self.interface = interface;
        self.offered &= !(legacy_bits | modern_bits);
        self.offered |= match interface {
            Interface::Modern => modern_bits,
            Interface::Legacy => legacy_bits,
        };
        self
    }

    /// When the device looks at its queues: inside the notification unless said otherwise.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// What moves the rings: ours unless said otherwise.
    pub fn mover(mut self, mover: Mover) -> Self {
        self.mover = mover;
        self
    }

    /// All feature bits that the device offers, in place of those it had.
    pub fn features(mut self, bits: u64) -> Self {
        self.offered = bits;
        self
    }

    /// More feature bits, beside INDIRECT_DESC, EVENT_IDX, SEG_MAX, BLK_SIZE, FLUSH and CONFIG_WCE.
    pub fn offer(mut self, bits: u64) -> Self {
        self.offered |= bits;
        self
    }

    /// Fewer feature bits.
    pub fn withhold(mut self, bits: u64) -> Self {
        self.offered &= !bits;
        self
    }

    /// Changes the configuration structure. A field is shown only if its feature is offered.
    pub fn config(mut self, change: impl FnOnce(&mut BlockConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The number of sectors: 2048 unless said otherwise. Sectors that were never written take no memory.
    pub fn capacity(mut self, sectors: u64) -> Self {
        self.config.capacity = sectors.into();
        self
    }

    /// The largest size of a queue that the device shows: 256 unless said otherwise. Sets seg_max to two less; call
    /// [`config`](Self::config) afterwards for another one.
    pub fn queue_size_max(mut self, size: u32) -> Self {
        self.queue_size_max = size;
        self.config.seg_max = size.saturating_sub(2).max(1).into();
        self
    }

    /// The number of queues: one unless said otherwise. More than one offers MQ.
    pub fn queues(mut self, count: u16) -> Self {
        self.queues = count;
        self.config.num_queues = count.into();
        if count > 1 { self.offer(BlockFeatures::MQ.bits()) } else { self }
    }

    /// What GET_ID answers: the first 20 bytes.
    pub fn id(mut self, id: &str) -> Self {
        self.id = [0; DEVICE_ID_LENGTH];
        for (to, from) in self.id.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        self
    }

    /// What GET_LIFETIME answers; offers LIFETIME.
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self.offer(BlockFeatures::LIFETIME.bits())
    }

    /// Offers RO.
    pub fn read_only(self) -> Self {
        self.offer(BlockFeatures::RO.bits())
    }

    /// The device id in the register: that of a block device unless said otherwise, 0 for an empty slot.
    pub fn device_type(mut self, device_type: u32) -> Self {
        self.device_type = device_type;
        self
    }

    /// The length of the register window: 0x200 unless said otherwise.
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.window_bytes = bytes;
        self
    }

    /// A request beyond the capacity is an IOERR and not a violation: for a capacity that shrinks.
    pub fn tolerate_beyond_capacity(mut self) -> Self {
        self.tolerate_beyond_capacity = true;
        self
    }

    /// A write to a read-only device is an IOERR and not a violation.
    pub fn tolerate_write_to_read_only(mut self) -> Self {
        self.tolerate_write_to_read_only = true;
        self
    }

    /// A buffer that is found although its notification has not come is not a violation: for tests where the device
    /// looks at its queues in one thread while the driver works in another.
    pub fn tolerate_late_notifications(mut self) -> Self {
        self.tolerate_late_notifications = true;
        self
    }

    /// Makes a device that reaches memory through `memory`.
    ///
    /// # Panics
    ///
    /// If [`Mover::RustVmm`] is to move rings in a memory that is not rust-vmm's.
    #[must_use]
    pub fn build<M: DeviceMemory + Clone + 'static>(mut self, memory: &M) -> BlockDevice {
        if self.interface == Interface::Legacy {
            self.offered &= u64::from(u32::MAX);
        }
        #[cfg(not(miri))]
        assert!(
            self.mover == Mover::Strict || memory.guest_memory().is_some(),
            "virtio-queue moves rings in rust-vmm's memory only"
        );
        BlockDevice::new(self, Arc::new(memory.clone()))
    }
}
