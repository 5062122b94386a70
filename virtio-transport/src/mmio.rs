//! Devices whose registers are in memory: virtio 1.4, section 4.2.

use core::fmt;

use virtio_spec::{
    DeviceStatus, DeviceType, InterruptStatus,
    mmio::{MAGIC, Register, VERSION_LEGACY, VERSION_MODERN},
    notification::NEXT_OFF_SHIFT,
    split_ring::{LEGACY_QUEUE_ALIGNMENT, legacy_available_ring_offset, legacy_used_ring_offset},
};

use crate::{
    Interface, Interrupt, MemoryMapped, Notifier, QueueConfig, QueueError, QueueMemory, Region, Registers, Transport,
};

/// The page size that a legacy device is told, and the alignment of the device area of its queues, in bytes.
const PAGE: u32 = 4096;
const _: () = assert!(PAGE as usize == LEGACY_QUEUE_ALIGNMENT);

/// A virtio device behind memory-mapped registers, modern (version 2) or legacy (version 1).
///
/// Made by [`probe`](Self::probe) or [`open`](Mmio::open), then handed to
/// [`Negotiation::begin`](crate::Negotiation::begin).
#[derive(Debug)]
pub struct Mmio<R> {
    registers: R,
    interface: Interface,
    device_type: DeviceType,
    /// Whether a legacy device was told the page size since its last reset.
    page_size_told: bool,
}

impl<R: Registers> Mmio<R> {
    /// Looks at the registers and says which device is there; `None` for an empty slot (device id 0), which is no
    /// error. The device is only read from (section 4.2.3.1).
    ///
    /// One device has one driver: this is called once for each window, or again after the value that it answered with
    /// was dropped.
    ///
    /// # Errors
    ///
    /// [`ProbeError`] when what is there is no virtio device that this crate knows.
    pub fn probe(registers: R) -> Result<Option<Self>, ProbeError> {
        let bytes = registers.bytes();
        if bytes < Register::CONFIG.0 {
            return Err(ProbeError::TooSmall { found: bytes });
        }
        let magic = read(&registers, Register::MAGIC_VALUE);
        if magic != MAGIC {
            return Err(ProbeError::BadMagic { found: magic });
        }
        let interface = match read(&registers, Register::VERSION) {
            VERSION_MODERN => Interface::Modern,
            VERSION_LEGACY => Interface::Legacy,
            found => return Err(ProbeError::BadVersion { found }),
        };
        let device_type = DeviceType(read(&registers, Register::DEVICE_ID));
        if device_type == DeviceType::INVALID {
            return Ok(None);
        }
        Ok(Some(Self { registers, interface, device_type, page_size_told: false }))
    }

    /// The registers of this device.
    pub fn registers(&self) -> &R {
        &self.registers
    }

    fn read(&self, register: Register) -> u32 {
        read(&self.registers, register)
    }

    fn write(&self, register: Register, value: u32) {
        write(&self.registers, register, value);
    }

    /// Writes a 64-bit value to two registers.
    fn write_halves(&self, low: Register, high: Register, value: u64) {
        // The casts cut the value in halves: that is what they are for.
        self.write(low, value as u32);
        self.write(high, (value >> 32) as u32);
    }

    fn select(&self, queue: u16) {
        self.write(Register::QUEUE_SEL, queue.into());
    }

    /// Section 4.2.3.2, steps 5 to 7.
    fn enable_modern(&self, queue: &QueueConfig) -> Result<(), QueueError> {
        self.select(queue.index);
        self.write(Register::QUEUE_SIZE, queue.size.into());
        self.write_halves(Register::QUEUE_DESC_LOW, Register::QUEUE_DESC_HIGH, queue.descriptor_area);
        self.write_halves(Register::QUEUE_DRIVER_LOW, Register::QUEUE_DRIVER_HIGH, queue.driver_area);
        self.write_halves(Register::QUEUE_DEVICE_LOW, Register::QUEUE_DEVICE_HIGH, queue.device_area);
        self.write(Register::QUEUE_READY, 1);
        match self.read(Register::QUEUE_READY) {
            0 => Err(QueueError::NotEnabled { queue: queue.index }),
            _ => Ok(()),
        }
    }

    /// Section 4.2.4, the list of steps to configure a queue, 5 to 7.
    fn enable_legacy(&mut self, queue: &QueueConfig) -> Result<(), QueueError> {
        let page = legacy_page_number(queue)?;
        if !self.page_size_told {
            self.write(Register::GUEST_PAGE_SIZE, PAGE);
            self.page_size_told = true;
        }
        self.select(queue.index);
        self.write(Register::QUEUE_SIZE, queue.size.into());
        self.write(Register::QUEUE_ALIGN, PAGE);
        self.write(Register::QUEUE_PFN, page);
        match self.read(Register::QUEUE_PFN) {
            0 => Err(QueueError::NotEnabled { queue: queue.index }),
            _ => Ok(()),
        }
    }

    fn config_offset(offset: usize) -> usize {
        // An offset that overflows is outside every window, as is the largest number.
        Register::CONFIG.0.saturating_add(offset)
    }
}

impl Mmio<MemoryMapped> {
    /// Looks at the registers at an address, such as the one in a device tree: [`MemoryMapped::new`] and
    /// [`probe`](Self::probe) in one, for kernels that map device registers at their physical addresses. Others map
    /// the region first and give the pointer to those two.
    ///
    /// # Errors
    ///
    /// [`ProbeError`] when what is there is no virtio device that this crate knows.
    ///
    /// # Safety
    ///
    /// The region is mapped at its own address, as [`MemoryMapped::new`] asks; it holds the registers of a virtio
    /// device or of an empty slot; and nothing else drives that device for as long as the answer or anything made of
    /// it is used.
    pub unsafe fn open(region: &Region) -> Result<Option<Self>, ProbeError> {
        // SAFETY: asked of the caller.
        let registers = unsafe { MemoryMapped::at(region) };
        Self::probe(registers.ok_or(ProbeError::BadAddress { address: region.address })?)
    }
}

/// Reads a control register: always 32 bits wide, always little-endian (section 4.2.2).
fn read<R: Registers>(registers: &R, register: Register) -> u32 {
    u32::from_le(registers.read_u32(register.0))
}

/// Writes a control register.
#[inline]
fn write<R: Registers>(registers: &R, register: Register, value: u32) {
    registers.write_u32(register.0, value.to_le());
}

/// The page number that tells a legacy device where a queue is, if the queue is laid out as that device will assume
/// (section 2.7.2, "Legacy Interfaces: A Note on Virtqueue Layout").
fn legacy_page_number(queue: &QueueConfig) -> Result<u32, QueueError> {
    let address = queue.descriptor_area;
    let not_contiguous = QueueError::NotContiguous { queue: queue.index, address };
    let expected = |offset: usize| address.checked_add(offset as u64);
    let contiguous = address % u64::from(PAGE) == 0
        && expected(legacy_available_ring_offset(queue.size)) == Some(queue.driver_area)
        && expected(legacy_used_ring_offset(queue.size, LEGACY_QUEUE_ALIGNMENT)) == Some(queue.device_area);
    if !contiguous {
        return Err(not_contiguous);
    }
    match u32::try_from(address / u64::from(PAGE)) {
        // Page 0 is how a driver says that it has no queue there any more.
        Ok(0) => Err(QueueError::NotEnabled { queue: queue.index }),
        Ok(page) => Ok(page),
        Err(_) => Err(QueueError::PageNumberTooLarge { queue: queue.index, address }),
    }
}

impl<R: Registers> Transport for Mmio<R> {
    type Notifier = MmioNotifier<R>;
    type Interrupt = MmioInterrupt<R>;

    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn interface(&self) -> Interface {
        self.interface
    }

    fn device_features(&mut self) -> u64 {
        self.write(Register::DEVICE_FEATURES_SEL, 0);
        let low = self.read(Register::DEVICE_FEATURES);
        let high = match self.interface {
            Interface::Legacy => 0,
            Interface::Modern => {
                self.write(Register::DEVICE_FEATURES_SEL, 1);
                self.read(Register::DEVICE_FEATURES)
            }
        };
        u64::from(high) << 32 | u64::from(low)
    }

    fn set_driver_features(&mut self, features: u64) {
        self.write(Register::DRIVER_FEATURES_SEL, 0);
        self.write(Register::DRIVER_FEATURES, features as u32);
        if self.interface == Interface::Modern {
            self.write(Register::DRIVER_FEATURES_SEL, 1);
            self.write(Register::DRIVER_FEATURES, (features >> 32) as u32);
        }
    }

    fn status(&self) -> DeviceStatus {
        // The register has 32 bits, the status the lower 8 of them.
        DeviceStatus::from_bits_retain(self.read(Register::STATUS) as u8)
    }

    fn set_status(&mut self, status: DeviceStatus) {
        if status.is_empty() {
            self.page_size_told = false;
        }
        self.write(Register::STATUS, status.bits().into());
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        self.read(Register::QUEUE_SIZE_MAX)
    }

    fn queue_in_use(&mut self, queue: u16) -> bool {
        self.select(queue);
        let register = match self.interface {
            Interface::Modern => Register::QUEUE_READY,
            Interface::Legacy => Register::QUEUE_PFN,
        };
        self.read(register) != 0
    }

    fn enable_queue(&mut self, queue: &QueueConfig) -> Result<(), QueueError> {
        match self.interface {
            Interface::Modern => self.enable_modern(queue),
            Interface::Legacy => self.enable_legacy(queue),
        }
    }

    fn queue_memory(&self) -> QueueMemory {
        match self.interface {
            Interface::Modern => QueueMemory { contiguous_align: None, max_address: u64::MAX },
            Interface::Legacy => QueueMemory {
                contiguous_align: Some(LEGACY_QUEUE_ALIGNMENT),
                max_address: (1 << 32) * u64::from(PAGE) - 1,
            },
        }
    }

    fn config_generation(&self) -> Option<u32> {
        match self.interface {
            Interface::Modern => Some(self.read(Register::CONFIG_GENERATION)),
            Interface::Legacy => None,
        }
    }

    fn config_bytes(&self) -> usize {
        self.registers.bytes().saturating_sub(Register::CONFIG.0)
    }

    fn read_config_u8(&self, offset: usize) -> u8 {
        self.registers.read_u8(Self::config_offset(offset))
    }

    fn read_config_u16(&self, offset: usize) -> u16 {
        let raw = self.registers.read_u16(Self::config_offset(offset));
        match self.interface {
            Interface::Modern => u16::from_le(raw),
            Interface::Legacy => raw,
        }
    }

    fn read_config_u32(&self, offset: usize) -> u32 {
        let raw = self.registers.read_u32(Self::config_offset(offset));
        match self.interface {
            Interface::Modern => u32::from_le(raw),
            Interface::Legacy => raw,
        }
    }

    fn write_config_u8(&mut self, offset: usize, value: u8) {
        self.registers.write_u8(Self::config_offset(offset), value);
    }

    fn start_queue_reset(&mut self, queue: u16) -> bool {
        if self.interface == Interface::Legacy {
            return false;
        }
        self.select(queue);
        self.write(Register::QUEUE_RESET, 1);
        true
    }

    fn queue_reset_runs(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.read(Register::QUEUE_RESET) != 0
    }

    fn notifier(&self, queue: u16, data: bool) -> MmioNotifier<R> {
        MmioNotifier { registers: self.registers.clone(), queue, data }
    }

    fn interrupt(&self) -> MmioInterrupt<R> {
        MmioInterrupt { registers: self.registers.clone() }
    }
}

/// Notifies a device behind memory-mapped registers about one queue: one register write.
#[derive(Clone, Debug)]
pub struct MmioNotifier<R> {
    registers: R,
    queue: u16,
    data: bool,
}

impl<R: Registers> Notifier for MmioNotifier<R> {
    #[inline]
    fn notify(&self, next: u16) {
        let mut value = u32::from(self.queue);
        if self.data {
            value |= u32::from(next) << NEXT_OFF_SHIFT;
        }
        write(&self.registers, Register::QUEUE_NOTIFY, value);
    }
}

/// Asks a device behind memory-mapped registers why it raised its interrupt, and acknowledges it.
///
/// The acknowledgement comes first and the work after it: what the device does in between raises the interrupt again.
/// The other way round it would be lost.
#[derive(Clone, Debug)]
pub struct MmioInterrupt<R> {
    registers: R,
}

impl<R: Registers> Interrupt for MmioInterrupt<R> {
    #[inline]
    fn acknowledge(&self) -> InterruptStatus {
        let causes = InterruptStatus::from_bits_truncate(read(&self.registers, Register::INTERRUPT_STATUS));
        if !causes.is_empty() {
            write(&self.registers, Register::INTERRUPT_ACK, causes.bits());
        }
        causes
    }
}

/// Why there is no virtio device behind a window of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeError {
    /// The window ends before the registers do.
    TooSmall {
        /// The length of the window in bytes.
        found: usize,
    },
    /// The magic number is not there: something else than virtio registers, or a wrong address or mapping.
    BadMagic {
        /// The value of the register.
        found: u32,
    },
    /// A version of the registers that is neither 1 (legacy) nor 2 (modern).
    BadVersion {
        /// The value of the register.
        found: u32,
    },
    /// An address that no registers can have: 0, not a multiple of 4, or beyond the pointers of this machine.
    BadAddress {
        /// The address.
        address: u64,
    },
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooSmall { found } => write!(
                f,
                "a window of {found} bytes is too small for virtio registers, which take {} bytes and more",
                Register::CONFIG.0
            ),
            Self::BadMagic { found } => write!(
                f,
                "no virtio registers: the magic number is {found:#010x}, expected {MAGIC:#010x}; check the address \
                 and its mapping"
            ),
            Self::BadVersion { found } => write!(
                f,
                "virtio registers of version {found}, expected {VERSION_MODERN} or, for a legacy device, \
                 {VERSION_LEGACY}"
            ),
            Self::BadAddress { address } => write!(
                f,
                "no registers can be at address {address:#x}: it is 0, not a multiple of 4, or beyond this machine's \
                 pointers; map the registers and give the address of the mapping"
            ),
        }
    }
}

impl core::error::Error for ProbeError {}
