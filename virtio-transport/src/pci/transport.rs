//! Devices on a PCI bus, through the modern interface.

use pci_types::{CommandRegister, ConfigRegionAccess, HeaderType, PciAddress};
use virtio_spec::{
    DeviceStatus, DeviceType, Features, InterruptStatus,
    pci::{CapabilityType, MSI_NO_VECTOR},
};

use super::{
    Function, MsixError, MsixMessage, PciError, PciInterrupt, PciNotifier,
    capability::{Need, locate, map},
    common,
    msix::MsixTable,
    structure::Structure,
};
use crate::{Interface, MemoryMapped, QueueConfig, QueueError, QueueMemory, Region, Registers, Transport};

/// A virtio device on a PCI bus, driven through the modern interface; transitional devices as well.
///
/// Made by [`probe`](Self::probe) or [`open`](Pci::open), then handed to
/// [`Negotiation::begin`](crate::Negotiation::begin).
#[derive(Debug)]
pub struct Pci<R> {
    address: PciAddress,
    device_type: DeviceType,
    common: Structure<R>,
    notify: Structure<R>,
    notify_off_multiplier: u32,
    isr: Structure<R>,
    /// The configuration of the device's type; not every type has one.
    config: Option<Structure<R>>,
    msix: Option<MsixTable<R>>,
    /// How many messages are in use; 0 for the pin.
    messages: u16,
    /// Whether the device was told the vector for changes of its configuration since its last reset.
    config_vector_told: bool,
    /// The features that the driver accepted.
    features: u64,
}

impl<R: Registers> Pci<R> {
    /// Looks at a function and says which device it is; `None` for one that is no virtio device, which is no error.
    ///
    /// The function's registers are switched on, and that it may read and write memory; interrupts by messages are
    /// switched off. `map` maps each structure that is used, in memory as the processor addresses it, and says `None`
    /// if it cannot. Structures may be close to one another, in one page, and start anywhere at a multiple of 4.
    ///
    /// One device has one driver: this is called once for each function, or again after the value that it answered with
    /// was dropped.
    ///
    /// # Errors
    ///
    /// [`PciError`] when it is a virtio device that cannot be driven: its capabilities are damaged, it has none (legacy
    /// interface only), its BARs have no addresses, or they were not mapped.
    ///
    /// # Example
    ///
    /// ```
    /// use core::ptr::NonNull;
    /// use virtio_transport::{MemoryMapped, pci::{ConfigRegionAccess, Function, Pci, PciError}};
    ///
    /// # fn map_device(_physical: u64, _bytes: usize) -> Option<NonNull<u8>> { None }
    /// fn disk<A: ConfigRegionAccess>(function: &Function<'_, A>) -> Result<Option<Pci<MemoryMapped>>, PciError> {
    ///     Pci::probe(function, |region| {
    ///         let bytes = usize::try_from(region.bytes).ok()?;
    ///         let pointer = map_device(region.address, bytes)?;
    ///         // SAFETY: just mapped as device memory, for good; nothing else uses these registers.
    ///         Some(unsafe { MemoryMapped::new(pointer, bytes) })
    ///     })
    /// }
    /// ```
    pub fn probe<A: ConfigRegionAccess>(
        function: &Function<'_, A>,
        mut map_region: impl FnMut(&Region) -> Option<R>,
    ) -> Result<Option<Self>, PciError> {
        let address = function.address();
        let Some(device_type) = function.virtio_type() else { return Ok(None) };
        if function.header_type() != HeaderType::Endpoint {
            return Err(PciError::NotADevice { address });
        }
        let bars = function.bars();
        // What every device has, in the order of the specification.
        let find = |need: Need| {
            locate(function, &bars, &need).map_err(|problem| PciError::Missing {
                address,
                structure: need.kind,
                problem,
            })
        };
        let common = find(Need { kind: CapabilityType::COMMON_CFG, bytes: common::MIN_BYTES, align: 4 })?;
        let notify = find(Need { kind: CapabilityType::NOTIFY_CFG, bytes: size_of::<u16>(), align: 2 })?;
        let isr = find(Need { kind: CapabilityType::ISR_CFG, bytes: size_of::<u8>(), align: 1 })?;
        // And what is there for device types that need it. One that is damaged is as good as none: reading from it is
        // an error of its own.
        let config = find(Need { kind: CapabilityType::DEVICE_CFG, bytes: size_of::<u8>(), align: 4 });

        let command = CommandRegister::MEMORY_ENABLE | CommandRegister::BUS_MASTER_ENABLE;
        function.set_command((function.command() | command).difference(CommandRegister::INTERRUPT_DISABLE));
        // Read back: the registers are elsewhere, on another way to the device, and it answers there from here on.
        function.command();
        let mut mapped = |region: Region, most: usize, structure| {
            let region = Region { bytes: region.bytes.min(most as u64), ..region };
            map(&region, &mut map_region).map_err(|problem| PciError::Missing {
                address,
                structure,
                problem: Some(problem),
            })
        };
        Ok(Some(Self {
            address,
            device_type,
            common: mapped(common.region, common::BYTES, CapabilityType::COMMON_CFG)?,
            notify: mapped(notify.region, usize::MAX, CapabilityType::NOTIFY_CFG)?,
            notify_off_multiplier: notify.notify_off_multiplier,
            isr: mapped(isr.region, size_of::<u8>(), CapabilityType::ISR_CFG)?,
            config: match config {
                Ok(config) => Some(mapped(config.region, usize::MAX, CapabilityType::DEVICE_CFG)?),
                Err(PciError::Missing { problem: Some(problem), .. }) => {
                    log::warn!("virtio function {address}: no device configuration: {problem}");
                    None
                }
                Err(_) => None,
            },
            msix: MsixTable::find(function, &bars, &mut map_region),
            messages: 0,
            config_vector_told: false,
            features: 0,
        }))
    }

    /// Where the device is: bus, device and function.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// How many messages the device can interrupt with; 0 when it has nothing but its pin.
    pub fn msix_vectors(&self) -> u16 {
        self.msix.as_ref().map_or(0, |msix| msix.count)
    }

    /// Lets the device interrupt by messages, from when it is brought up on. `function` is the one that this was made
    /// of.
    ///
    /// The first message is for changes of the configuration, the next ones are for the queues, one each, in order.
    /// Are there more queues than messages, they share: queue `q` has message `1 + q % (messages.len() - 1)`, and a
    /// single message is for everything.
    ///
    /// Once for each value of this type, before the device is brought up; a reset changes nothing of it.
    ///
    /// # Errors
    ///
    /// [`MsixError`]; the device has its pin then.
    pub fn use_msix<A: ConfigRegionAccess>(
        &mut self,
        function: &Function<'_, A>,
        messages: &[MsixMessage],
    ) -> Result<(), MsixError> {
        let address = self.address;
        if function.address() != address {
            return Err(MsixError::WrongFunction { expected: address, found: function.address() });
        }
        let Some(msix) = &self.msix else { return Err(MsixError::NotSupported { address }) };
        let found = messages.len();
        let count = u16::try_from(found).ok().filter(|count| (1..=msix.count).contains(count));
        let count = count.ok_or(MsixError::WrongCount { address, found, max: msix.count })?;
        msix.enable(function, messages);
        self.messages = count;
        Ok(())
    }

    /// The vector of a queue, if there are messages.
    fn queue_vector(&self, queue: u16) -> Option<u16> {
        match self.messages {
            0 => None,
            1 => Some(0),
            messages => Some(1 + queue % (messages - 1)),
        }
    }

    /// Writes a vector to a field, and sees whether the device has taken it (section 4.1.5.1.2.2).
    fn set_vector(&self, field: usize, queue: Option<u16>, vector: u16) -> Result<(), QueueError> {
        self.common.write_u16(field, vector);
        match self.common.read_u16(field) {
            found if found == vector && vector != MSI_NO_VECTOR => Ok(()),
            _ => Err(QueueError::NoVector { queue, vector }),
        }
    }

    fn select(&self, queue: u16) {
        self.common.write_u16(common::QUEUE_SELECT, queue);
    }

    /// Where the selected queue is notified, in the structure for that.
    fn notify_offset(&self) -> u64 {
        u64::from(self.common.read_u16(common::QUEUE_NOTIFY_OFF)) * u64::from(self.notify_off_multiplier)
    }

    /// Where a notification of the selected queue is written in the window of its structure, if the device names a place
    /// that is inside of it.
    fn notify_place(&self, data: bool) -> Result<usize, u64> {
        let width = if data { size_of::<u32>() } else { size_of::<u16>() };
        let offset = self.notify_offset();
        let place = usize::try_from(offset).ok().and_then(|offset| self.notify.place(offset, width));
        place.ok_or(offset)
    }

    fn has(&self, feature: Features) -> bool {
        self.features & feature.bits() != 0
    }
}

impl Pci<MemoryMapped> {
    /// Looks at a function: [`probe`](Self::probe) for kernels that map device registers at their physical addresses.
    ///
    /// # Errors
    ///
    /// [`PciError`], as with `probe`.
    ///
    /// # Safety
    ///
    /// The windows of the host bridge are mapped at their own addresses, as [`MemoryMapped::new`] asks; and nothing else
    /// drives that device for as long as the answer or anything made of it is used.
    pub unsafe fn open<A: ConfigRegionAccess>(function: &Function<'_, A>) -> Result<Option<Self>, PciError> {
        // SAFETY: asked of the caller; a region is inside of a BAR, and that inside of a window.
        Self::probe(function, |region| unsafe { MemoryMapped::at(region) })
    }
}

impl<R: Registers> Transport for Pci<R> {
    type Notifier = PciNotifier<R>;
    type Interrupt = PciInterrupt<R>;

    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn interface(&self) -> Interface {
        Interface::Modern
    }

    fn device_features(&mut self) -> u64 {
        self.common.write_u32(common::DEVICE_FEATURE_SELECT, 0);
        let low = self.common.read_u32(common::DEVICE_FEATURE);
        self.common.write_u32(common::DEVICE_FEATURE_SELECT, 1);
        let high = self.common.read_u32(common::DEVICE_FEATURE);
        u64::from(high) << 32 | u64::from(low)
    }

    fn usable_features(&self) -> u64 {
        // The fields of some came later than others.
        let without = |field: usize, feature: Features| {
            if self.common.bytes() < field + size_of::<u16>() { feature.bits() } else { 0 }
        };
        !(without(common::QUEUE_NOTIF_CONFIG_DATA, Features::NOTIF_CONFIG_DATA)
            | without(common::QUEUE_RESET, Features::RING_RESET))
    }

    fn set_driver_features(&mut self, features: u64) {
        self.features = features;
        self.common.write_u32(common::DRIVER_FEATURE_SELECT, 0);
        self.common.write_u32(common::DRIVER_FEATURE, features as u32);
        self.common.write_u32(common::DRIVER_FEATURE_SELECT, 1);
        self.common.write_u32(common::DRIVER_FEATURE, (features >> 32) as u32);
    }

    fn status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.common.read_u8(common::DEVICE_STATUS))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        if status.is_empty() {
            self.config_vector_told = false;
        }
        self.common.write_u8(common::DEVICE_STATUS, status.bits());
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        self.common.read_u16(common::QUEUE_SIZE).into()
    }

    fn queue_in_use(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.common.read_u16(common::QUEUE_ENABLE) != 0
    }

    /// Section 4.1.5.1.3, and what comes before the addresses: where it interrupts and where it is notified.
    fn enable_queue(&mut self, queue: &QueueConfig) -> Result<(), QueueError> {
        let index = queue.index;
        if self.messages > 0 && !self.config_vector_told {
            self.set_vector(common::CONFIG_MSIX_VECTOR, None, 0)?;
            self.config_vector_told = true;
        }
        self.select(index);
        self.notify_place(self.has(Features::NOTIFICATION_DATA)).map_err(|offset| QueueError::NotifyOutside {
            queue: index,
            offset,
            bytes: self.notify.bytes(),
        })?;
        if let Some(vector) = self.queue_vector(index) {
            self.set_vector(common::QUEUE_MSIX_VECTOR, Some(index), vector)?;
        }
        self.common.write_u16(common::QUEUE_SIZE, queue.size);
        self.common.write_u64(common::QUEUE_DESC, queue.descriptor_area);
        self.common.write_u64(common::QUEUE_DRIVER, queue.driver_area);
        self.common.write_u64(common::QUEUE_DEVICE, queue.device_area);
        self.common.write_u16(common::QUEUE_ENABLE, 1);
        match self.common.read_u16(common::QUEUE_ENABLE) {
            1 => Ok(()),
            _ => Err(QueueError::NotEnabled { queue: index }),
        }
    }

    fn queue_memory(&self) -> QueueMemory {
        QueueMemory { contiguous_align: None, max_address: u64::MAX }
    }

    fn config_generation(&self) -> Option<u32> {
        Some(self.common.read_u8(common::CONFIG_GENERATION).into())
    }

    fn config_bytes(&self) -> usize {
        self.config.as_ref().map_or(0, Structure::bytes)
    }

    fn read_config_u8(&self, offset: usize) -> u8 {
        self.config.as_ref().map_or(0, |config| config.read_u8(offset))
    }

    fn read_config_u16(&self, offset: usize) -> u16 {
        self.config.as_ref().map_or(0, |config| config.read_u16(offset))
    }

    fn read_config_u32(&self, offset: usize) -> u32 {
        self.config.as_ref().map_or(0, |config| config.read_u32(offset))
    }

    fn write_config_u8(&mut self, offset: usize, value: u8) {
        if let Some(config) = &self.config {
            config.write_u8(offset, value);
        }
    }

    fn start_queue_reset(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.common.write_u16(common::QUEUE_RESET, 1);
        true
    }

    fn queue_reset_runs(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.common.read_u16(common::QUEUE_RESET) != 0
    }

    fn notifier(&self, queue: u16, data: bool) -> PciNotifier<R> {
        self.select(queue);
        let word = match self.has(Features::NOTIF_CONFIG_DATA) {
            true => self.common.read_u16(common::QUEUE_NOTIF_CONFIG_DATA),
            false => queue,
        };
        let place = self.notify_place(data).ok();
        PciNotifier { registers: self.notify.registers().clone(), place, queue: word, data }
    }

    fn interrupt(&self) -> PciInterrupt<R> {
        PciInterrupt { isr: self.isr.clone(), messages: self.messages, causes: InterruptStatus::all() }
    }
}
