//! A disk that is being opened: features are negotiated, queues are not all set up yet.

use core::marker::PhantomData;

use virtio_spec::Features;
use virtio_spec::block::BlockFeatures;
use virtio_spec::split_ring::MAX_QUEUE_SIZE;
use virtio_transport::{
    DeviceType, Interface, Negotiation, Notifier, QueueConfig, QueueError, QueueSetup, Transport, Wait,
};
use virtqueue::{Memory, MemoryError, Queue as Ring, RingFormat, Settings, Split};

use crate::buffer::Buffer;
use crate::device::Device;
use crate::disk::Disk;
use crate::epoch::Epoch;
use crate::error::OpenError;
use crate::features::FeatureSet;
use crate::info::Info;
use crate::limits::Limits;
use crate::options::Options;
use crate::queue::Queue;
use crate::waiters::Waiters;

/// The descriptors of a request besides its data: header and status.
const HEADER_AND_STATUS: u16 = 2;

/// The fewest entries that a queue has.
const MIN_QUEUE_SIZE: u32 = 4;

/// A disk whose features are negotiated, and whose queues are being set up.
///
/// [`Disk::open`](crate::Disk::open) does all of it for a kernel that wants one queue. Dropping it gives the device up.
pub struct Setup<T: Transport, M: Memory, R: RingFormat = Split> {
    device: QueueSetup<T>,
    format: PhantomData<R>,
    info: Info,
    options: Options,
    next_queue: u16,
    memory: M,
    epoch: Epoch<M>,
}

impl<T: Transport, M: Memory> Setup<T, M> {
    /// Resets a block device, and negotiates features: those that the device offers and this driver supports, less
    /// those that the options forbid. `wait` bounds the wait for the reset. Queues will be made of `memory`.
    ///
    /// # Errors
    ///
    /// [`OpenError::Init`] when it is no block device, or one that does not follow the steps;
    /// [`OpenError::MissingFeatures`] when a required feature is not there; [`OpenError::Config`] and
    /// [`OpenError::BlockSize`] when its configuration makes no sense. The device is left with FAILED in its status.
    pub fn negotiate(transport: T, memory: M, options: &Options, wait: &mut impl Wait) -> Result<Self, OpenError> {
        Self::negotiate_with(Split, transport, memory, options, wait)
    }
}

impl<T: Transport, M: Memory, R: RingFormat> Setup<T, M, R> {
    /// As [`negotiate`](Setup::negotiate), for queues whose rings have another form.
    ///
    /// # Errors
    ///
    /// Those of [`negotiate`](Setup::negotiate). A form of ring that the device does not offer is a missing feature.
    pub fn negotiate_with(
        _ring: R,
        transport: T,
        memory: M,
        options: &Options,
        wait: &mut impl Wait,
    ) -> Result<Self, OpenError> {
        let (device, accepted) = Self::agree(transport, options, wait)?;
        let info = Self::read_info(&device, accepted)?;
        let epoch = Epoch::new(memory.clone()).map_err(no_memory)?;
        let setup = Self { device, format: PhantomData, info, options: *options, next_queue: 0, memory, epoch };
        setup.tell();
        Ok(setup)
    }

    // Parts of the above, one after the other, each with what it alone needs of the stack.

    /// Settles the features.
    #[inline(never)]
    fn agree(transport: T, options: &Options, wait: &mut impl Wait) -> Result<(QueueSetup<T>, FeatureSet), OpenError> {
        let device = Negotiation::begin(transport, DeviceType::BLOCK, wait)?;
        let accepted = Self::choose(&device, options)?;
        Ok((device.accept(accepted.bits())?, accepted))
    }

    /// The features to accept.
    #[inline(never)]
    fn choose(device: &Negotiation<T>, options: &Options) -> Result<FeatureSet, OpenError> {
        let offered = FeatureSet::from_bits(device.offered());
        let chosen = options.opt_in | options.require;
        // Which kind of device it is, is no wish of the kernel's (6.1, 6.3).
        let (always, never) = match device.interface() {
            Interface::Modern => (Features::VERSION_1, Features::ANY_LAYOUT),
            Interface::Legacy => (Features::ANY_LAYOUT, Features::VERSION_1),
        };
        let forbidden = (options.forbid | FeatureSet::OPT_IN.without(chosen)).without(always) | never;
        let mut accepted = (offered & FeatureSet::SUPPORTED).without(forbidden);
        let mut required = options.require;
        if !R::PACKED {
            accepted = accepted.without(Features::RING_PACKED);
        } else if !R::SPLIT {
            required = required | Features::RING_PACKED;
        }
        if R::IN_ORDER {
            required = required | Features::IN_ORDER;
        } else {
            accepted = accepted.without(Features::IN_ORDER);
        }
        // A discard has no place on a disk whose zones are written in order (5.2.5.1).
        if accepted.contains(BlockFeatures::ZONED)
            && accepted.contains(BlockFeatures::DISCARD)
            && device.read_config(crate::info::is_host_managed)?
        {
            accepted = accepted.without(BlockFeatures::DISCARD);
        }
        let missing = required.without(accepted);
        if !missing.is_empty() {
            return Err(OpenError::MissingFeatures { missing, offered });
        }
        Ok(accepted)
    }

    /// What the disk says of itself.
    #[inline(never)]
    fn read_info(device: &QueueSetup<T>, accepted: FeatureSet) -> Result<Info, OpenError> {
        let raw = device.read_config(|config| Info::read(accepted, config))?;
        Info::new(accepted, &raw)
    }

    #[inline(never)]
    fn tell(&self) {
        log::debug!("virtio disk: {} sectors, features {}", self.info.capacity_sectors, self.info.features);
    }

    /// What the disk says of itself.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// How many queues [`add_queue`](Setup::add_queue) will set up: as many as the device has and the options allow.
    pub fn num_queues(&self) -> u16 {
        self.info.num_queues.min(self.options.queues).max(1)
    }

    /// Makes the next queue and tells the device of it.
    ///
    /// # Errors
    ///
    /// [`OpenError::NoMoreQueues`]; [`OpenError::QueueTooSmall`]; [`OpenError::QueueSetup`] when the kernel has no
    /// memory for it; [`OpenError::Queue`] when the device does not take it.
    pub fn add_queue<B: Buffer>(&mut self) -> Result<Queue<M, T::Notifier, B, R>, OpenError> {
        let index = self.next_queue;
        let queues = self.num_queues();
        if index >= queues {
            return Err(OpenError::NoMoreQueues { queues });
        }
        let settings = self.settings(index)?;
        // Looked at where it is: it is large, and stacks are small.
        let mut made = self.make_queue(index, settings);
        if let Ok(queue) = &mut made {
            enable(queue, |config| self.device.enable_queue(config))?;
            self.next_queue += 1;
        }
        made
    }

    /// Makes a queue that the device knows nothing of.
    #[inline(never)]
    fn make_queue<B: Buffer>(&self, index: u16, settings: Settings) -> Result<Queue<M, T::Notifier, B, R>, OpenError> {
        let limits = Limits::new(&self.info, settings.chain_max - HEADER_AND_STATUS);
        let waiters = Waiters::new(&self.memory, self.options.waiters).map_err(no_memory)?;
        let ring = Ring::new(self.memory.clone(), settings)?;
        Ok(Queue::new(ring, self.device.notifier(index), limits, index, self.epoch.clone(), waiters))
    }

    /// The shape of a queue.
    #[inline(never)]
    fn settings(&mut self, index: u16) -> Result<Settings, OpenError> {
        let max = self.device.max_queue_size(index).min(u32::from(self.options.queue_size));
        if max < MIN_QUEUE_SIZE {
            return Err(OpenError::QueueTooSmall { queue: index, max });
        }
        let has = |feature: Features| self.info.features.contains(feature);
        let packed = has(Features::RING_PACKED);
        // A split ring has a power of two of entries, a packed one any number.
        let largest = if packed { max } else { 1 << max.ilog2() };
        let largest = u16::try_from(largest).unwrap_or(MAX_QUEUE_SIZE).min(MAX_QUEUE_SIZE);
        let memory = self.device.queue_memory();
        // A chain is never longer than the queue, whether it lies in the ring or in an indirect table (2.7.5.3.1).
        let segments = u16::try_from(self.info.seg_max).unwrap_or(u16::MAX).min(self.options.segments.max(1));
        Ok(Settings {
            packed,
            in_order: has(Features::IN_ORDER),
            order_platform: has(Features::ORDER_PLATFORM),
            chain_max: segments.saturating_add(HEADER_AND_STATUS).min(largest),
            segment_max_bytes: self.info.size_max_bytes.unwrap_or(u32::MAX),
            indirect: has(Features::INDIRECT_DESC),
            event_idx: has(Features::EVENT_IDX),
            contiguous_align: memory.contiguous_align,
            max_address: memory.max_address,
            ..Settings::new(largest)
        })
    }

    /// Lets the device run.
    pub fn start(self) -> Device<T, M> {
        Device::new(self.device.start(), self.info, self.next_queue, self.epoch)
    }

    /// Lets the device run with its only queue. [`Disk::open`] in steps, for a kernel with a small stack: each step can
    /// have a frame of its own, and leave what it has made on the heap.
    ///
    /// # Errors
    ///
    /// [`OpenError::ForeignQueue`]: the queue is of another device, or not the only one. The device is reset when it is
    /// used next.
    ///
    /// # Example
    ///
    /// ```
    /// use std::boxed::Box;
    ///
    /// use virtio_blk::{Disk, OpenError, Options, Setup};
    /// use virtio_transport::{Spin, Transport};
    /// use virtqueue::Memory;
    ///
    /// fn open<T: Transport, M: Memory>(transport: T, memory: M) -> Result<Box<Disk<T, M>>, OpenError> {
    ///     let mut setup = Box::new(Setup::negotiate(transport, memory, &Options::default(), &mut Spin)?);
    ///     let queue = Box::new(setup.add_queue()?);
    ///     setup.start_disk(*queue).map(Box::new)
    /// }
    /// ```
    pub fn start_disk<B: Buffer>(self, queue: Queue<M, T::Notifier, B, R>) -> Result<Disk<T, M, B, R>, OpenError> {
        if self.next_queue == 1 && queue.epoch().is(&self.epoch) {
            Ok(Disk::new(self.start(), queue))
        } else {
            Err(OpenError::ForeignQueue)
        }
    }
}

/// Tells the device of a queue, by `enable`.
pub(crate) fn enable<M: Memory, N: Notifier, B: Buffer, R: RingFormat>(
    queue: &mut Queue<M, N, B, R>,
    enable: impl FnOnce(&QueueConfig) -> Result<(), QueueError>,
) -> Result<(), QueueError> {
    let areas = queue.areas();
    let enabled = enable(&QueueConfig {
        index: queue.index(),
        size: queue.size(),
        descriptor_area: areas.descriptor_area,
        driver_area: areas.driver_area,
        device_area: areas.device_area,
    });
    if enabled.is_err_and(|error| !matches!(error, QueueError::NotEnabled { .. })) {
        // SAFETY: with every other error the device was told nothing.
        unsafe { queue.not_told() };
    }
    enabled
}

fn no_memory(error: MemoryError) -> OpenError {
    OpenError::Memory(error)
}
