//! How a device is set up.

use std::sync::Arc;

use virtio_spec::Features;
use virtio_spec::block::{BlockConfig, BlockFeatures, CacheMode, DEVICE_ID_LENGTH, Lifetime};
use zerocopy::FromZeros;

use crate::device::BlockDevice;
use crate::device_memory::DeviceMemory;
use crate::zones::ZoneSetup;

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
    pub(crate) tolerate_zone_overrun: bool,
    pub(crate) check_range_alignment: bool,
    pub(crate) whole_blocks_only: bool,
    pub(crate) used_batch_max: u16,
    pub(crate) needed: u64,
    pub(crate) zones: Option<ZoneSetup>,
}

/// The limits of requests that consist of ranges of sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLimits {
    /// The most sectors that a range may have.
    pub max_sectors: u32,
    /// The most ranges that a request may have.
    pub max_ranges: u32,
    /// What ranges are best a multiple of, in sectors.
    pub alignment_sectors: u32,
}

impl Default for RangeLimits {
    /// One range of up to 1024 sectors, aligned or not.
    fn default() -> Self {
        Self { max_sectors: 1024, max_ranges: 1, alignment_sectors: 1 }
    }
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
            tolerate_zone_overrun: false,
            check_range_alignment: false,
            whole_blocks_only: false,
            used_batch_max: u16::MAX,
            needed: 0,
            zones: None,
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

    /// Offers RING_PACKED. Queues may then have any size up to [`queue_size_max`](Self::queue_size_max).
    pub fn packed(self) -> Self {
        self.offer(Features::RING_PACKED.bits())
    }

    /// Offers IN_ORDER. One used element may then stand for all that is completed together.
    pub fn in_order(self) -> Self {
        self.offer(Features::IN_ORDER.bits())
    }

    /// For how many requests one used element may stand with IN_ORDER: at least 1, without a limit unless said
    /// otherwise.
    pub fn used_batch_max(mut self, requests: u16) -> Self {
        self.used_batch_max = requests;
        self
    }

    /// Offers features and refuses FEATURES_OK without them, as a device may for ACCESS_PLATFORM and ORDER_PLATFORM.
    pub fn require(mut self, bits: u64) -> Self {
        self.needed |= bits;
        self.offer(bits)
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

    /// Offers DISCARD, with these limits.
    pub fn discard(self, limits: RangeLimits) -> Self {
        self.offer(BlockFeatures::DISCARD.bits()).config(|config| {
            config.max_discard_sectors = limits.max_sectors.into();
            config.max_discard_seg = limits.max_ranges.into();
            config.discard_sector_alignment = limits.alignment_sectors.into();
        })
    }

    /// Offers WRITE_ZEROES, with these limits; there is none for the alignment. `may_unmap`: UNMAP deallocates.
    pub fn write_zeroes(self, limits: RangeLimits, may_unmap: bool) -> Self {
        self.offer(BlockFeatures::WRITE_ZEROES.bits()).config(|config| {
            config.max_write_zeroes_sectors = limits.max_sectors.into();
            config.max_write_zeroes_seg = limits.max_ranges.into();
            config.write_zeroes_may_unmap = may_unmap.into();
        })
    }

    /// Offers SECURE_ERASE, with these limits.
    pub fn secure_erase(self, limits: RangeLimits) -> Self {
        self.offer(BlockFeatures::SECURE_ERASE.bits()).config(|config| {
            config.max_secure_erase_sectors = limits.max_sectors.into();
            config.max_secure_erase_seg = limits.max_ranges.into();
            config.secure_erase_sector_alignment = limits.alignment_sectors.into();
        })
    }

    /// Offers ZONED, and refuses FEATURES_OK without it: a host-managed device. A legacy one has
    /// no zones.
    pub fn zoned(mut self, zones: ZoneSetup) -> Self {
        self.zones = Some(zones);
        self.offer(BlockFeatures::ZONED.bits()).config(|config| config.zoned = zones.characteristics())
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

    /// A write beyond the capacity of its zone is a ZONE_INVALID_CMD and not a violation: a driver that does not follow
    /// write pointers cannot know.
    pub fn tolerate_zone_overrun(mut self) -> Self {
        self.tolerate_zone_overrun = true;
        self
    }

    /// A range of a discard or erase request that does not begin and end at the alignment is a violation. The
    /// specification only recommends that.
    pub fn check_range_alignment(mut self) -> Self {
        self.check_range_alignment = true;
        self
    }

    /// A read or write that is no multiple of blk_size is an IOERR, as real devices have it.
    pub fn whole_blocks_only(mut self) -> Self {
        self.whole_blocks_only = true;
        self
    }

    /// Makes a device that reaches memory through `memory`.
    ///
    /// # Panics
    ///
    /// If [`Mover::RustVmm`] is to move packed rings, or rings in a memory that is not rust-vmm's.
    #[must_use]
    pub fn build<M: DeviceMemory + Clone + 'static>(mut self, memory: &M) -> BlockDevice {
        if self.interface == Interface::Legacy {
            self.offered &= u64::from(u32::MAX);
            self.needed &= u64::from(u32::MAX);
            // A legacy device cannot refuse a driver that does not know zones.
            self.offered &= !BlockFeatures::ZONED.bits();
            self.zones = None;
        }
        #[cfg(not(miri))]
        assert!(
            self.mover == Mover::Strict || self.offered & Features::RING_PACKED.bits() == 0,
            "virtio-queue moves split rings only"
        );
        #[cfg(not(miri))]
        assert!(
            self.mover == Mover::Strict || memory.guest_memory().is_some(),
            "virtio-queue moves rings in rust-vmm's memory only"
        );
        BlockDevice::new(self, Arc::new(memory.clone()))
    }
}
