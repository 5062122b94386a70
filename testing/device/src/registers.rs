//! The device's registers, and the rules for who uses them.

use std::sync::Arc;

use virtio_spec::InterruptStatus;
use virtio_spec::mmio::{MAGIC, Register, VERSION_LEGACY, VERSION_MODERN};
use virtio_transport::Registers;

use crate::device::Shared;
use crate::state::State;
use crate::violation::Rule;
use crate::words::{set_high, set_low};

/// "virt", as every device may choose.
const VENDOR: u32 = 0x7472_6976;

/// The window of a device's registers, to stand behind a transport. Clones are the same window.
#[derive(Clone)]
pub struct DeviceRegisters(pub(crate) Arc<Shared>);

impl std::fmt::Debug for DeviceRegisters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceRegisters").finish_non_exhaustive()
    }
}

impl DeviceRegisters {
    fn read<const WIDTH: usize>(&self, offset: usize) -> [u8; WIDTH] {
        self.0.with(|state| state.read(offset))
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.with(|state| state.write(offset, bytes));
    }
}

impl Registers for DeviceRegisters {
    fn bytes(&self) -> usize {
        self.0.with(|state| state.setup.window_bytes)
    }

    fn read_u8(&self, offset: usize) -> u8 {
        u8::from_ne_bytes(self.read(offset))
    }

    fn read_u16(&self, offset: usize) -> u16 {
        u16::from_ne_bytes(self.read(offset))
    }

    fn read_u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.read(offset))
    }

    fn write_u8(&self, offset: usize, value: u8) {
        self.write(offset, &value.to_ne_bytes());
    }

    fn write_u16(&self, offset: usize, value: u16) {
        self.write(offset, &value.to_ne_bytes());
    }

    fn write_u32(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_ne_bytes());
    }
}

/// Which version of the interface has a register.
fn versions(register: Register) -> Option<(bool, bool)> {
    let (modern, legacy) = match register {
        Register::GUEST_PAGE_SIZE | Register::QUEUE_ALIGN | Register::QUEUE_PFN => (false, true),
        Register::QUEUE_READY
        | Register::QUEUE_DESC_LOW
        | Register::QUEUE_DESC_HIGH
        | Register::QUEUE_DRIVER_LOW
        | Register::QUEUE_DRIVER_HIGH
        | Register::QUEUE_DEVICE_LOW
        | Register::QUEUE_DEVICE_HIGH
        | Register::SHM_SEL
        | Register::SHM_LEN_LOW
        | Register::SHM_LEN_HIGH
        | Register::SHM_BASE_LOW
        | Register::SHM_BASE_HIGH
        | Register::QUEUE_RESET
        | Register::CONFIG_GENERATION => (true, false),
        other => {
            other.name()?;
            (true, true)
        }
    };
    Some((modern, legacy))
}

/// The registers that are read, and are not written but for three.
const READABLE: &[Register] = &[
    Register::MAGIC_VALUE,
    Register::VERSION,
    Register::DEVICE_ID,
    Register::VENDOR_ID,
    Register::DEVICE_FEATURES,
    Register::QUEUE_SIZE_MAX,
    Register::QUEUE_PFN,
    Register::QUEUE_READY,
    Register::INTERRUPT_STATUS,
    Register::STATUS,
    Register::SHM_LEN_LOW,
    Register::SHM_LEN_HIGH,
    Register::SHM_BASE_LOW,
    Register::SHM_BASE_HIGH,
    Register::QUEUE_RESET,
    Register::CONFIG_GENERATION,
];

/// Those among the readable ones that are written too.
const READ_WRITE: &[Register] = &[Register::QUEUE_PFN, Register::QUEUE_READY, Register::STATUS, Register::QUEUE_RESET];

impl State {
    /// One read of the window. The bytes are as they are in memory.
    fn read<const WIDTH: usize>(&mut self, offset: usize) -> [u8; WIDTH] {
        self.counts.register_accesses += 1;
        let mut bytes = [0; WIDTH];
        if offset >= Register::CONFIG.0 {
            self.check_identified(offset);
            self.read_config(offset - Register::CONFIG.0, &mut bytes);
        } else if let Some(register) = self.check_register(offset, WIDTH) {
            if READABLE.contains(&register) {
                bytes.copy_from_slice(&self.read_register(register).to_le_bytes());
            } else {
                self.violate(Rule::RegisterWriteOnly, format!("{register} was read"));
            }
        }
        bytes
    }

    /// One write of the window.
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.counts.register_accesses += 1;
        if offset >= Register::CONFIG.0 {
            self.check_identified(offset);
            self.write_config(offset - Register::CONFIG.0, bytes);
        } else if let Some(register) = self.check_register(offset, bytes.len()) {
            if READABLE.contains(&register) && !READ_WRITE.contains(&register) {
                self.violate(Rule::RegisterReadOnly, format!("{register} was written"));
            } else {
                let value = u32::from_le_bytes(bytes.try_into().expect("the width was checked"));
                self.write_register(register, value);
            }
        }
    }

    /// The register at an offset, if it may be accessed with this width.
    fn check_register(&mut self, offset: usize, width: usize) -> Option<Register> {
        if width != 4 || !offset.is_multiple_of(4) {
            self.violate(Rule::RegisterWidth, format!("{width} bytes at {offset:#x}"));
            return None;
        }
        let register = Register(offset);
        let Some((modern, legacy)) = versions(register) else {
            self.violate(Rule::RegisterUnknown, format!("offset {offset:#x}"));
            return None;
        };
        if !(if self.legacy() { legacy } else { modern }) {
            self.violate(Rule::RegisterOfOtherVersion, format!("{register} on a {:?} device", self.setup.interface));
            return None;
        }
        if !matches!(register, Register::MAGIC_VALUE | Register::VERSION | Register::DEVICE_ID) {
            self.check_identified(offset);
        }
        Some(register)
    }

    fn check_identified(&mut self, offset: usize) {
        let steps = &mut self.driver;
        let identified = steps.magic && steps.version && steps.id;
        if !identified && !steps.unidentified {
            steps.unidentified = true;
            self.violate(Rule::NotIdentified, format!("offset {offset:#x} was accessed before them"));
        } else if self.setup.device_type == 0 {
            self.violate(Rule::PlaceholderAccessed, format!("offset {offset:#x} was accessed"));
        }
    }

    fn read_register(&mut self, register: Register) -> u32 {
        match register {
            Register::MAGIC_VALUE => {
                self.driver.magic = true;
                MAGIC
            }
            Register::VERSION => {
                self.driver.version = true;
                if self.legacy() { VERSION_LEGACY } else { VERSION_MODERN }
            }
            Register::DEVICE_ID => {
                let begun = self.driver.magic && self.driver.version;
                if !begun && !self.driver.unidentified {
                    self.driver.unidentified = true;
                    self.violate(Rule::NotIdentified, "the device id was read before magic value and version");
                }
                self.driver.id = true;
                self.setup.device_type
            }
            Register::VENDOR_ID => VENDOR,
            Register::DEVICE_FEATURES => self.read_features(),
            Register::QUEUE_SIZE_MAX => self.read_queue_size_max(),
            Register::QUEUE_PFN => self.selected().map_or(0, |queue| queue.page_number),
            Register::QUEUE_READY => self.selected().map_or(0, |queue| {
                queue.stop_unread = false;
                u32::from(queue.in_use())
            }),
            Register::INTERRUPT_STATUS => self.interrupt.bits(),
            Register::STATUS => self.read_status(),
            Register::CONFIG_GENERATION => self.read_generation(),
            Register::QUEUE_RESET => self.read_queue_reset(),
            // The shared memory registers: there is none.
            _ => {
                self.violate(Rule::SharedMemoryRegister, format!("{register} was read"));
                u32::MAX
            }
        }
    }

    fn write_register(&mut self, register: Register, value: u32) {
        match register {
            Register::DEVICE_FEATURES_SEL => self.device_features_sel = Some(value),
            Register::DRIVER_FEATURES_SEL => self.driver_features_sel = Some(value),
            Register::DRIVER_FEATURES => self.write_features(value),
            Register::GUEST_PAGE_SIZE => {
                if !value.is_power_of_two() || self.queues.iter().any(|queue| queue.in_use()) {
                    self.violate(Rule::QueuePageSize, format!("{value:#x} was written"));
                }
                self.page_size = value;
            }
            Register::QUEUE_SEL => self.queue_sel = value,
            Register::QUEUE_SIZE => self.write_queue_size(value),
            Register::QUEUE_ALIGN => {
                if self.check_queue_write(register) {
                    if !value.is_power_of_two() {
                        self.violate(Rule::QueueAlign, format!("{value:#x} was written"));
                    }
                    self.with_selected(|queue| queue.align = value);
                }
            }
            Register::QUEUE_PFN => self.write_page_number(value),
            Register::QUEUE_READY => self.write_ready(value),
            Register::QUEUE_NOTIFY => self.notify(value),
            Register::INTERRUPT_ACK => self.acknowledge(value),
            Register::STATUS => self.write_status(value),
            Register::QUEUE_DESC_LOW => self.write_area(register, |queue| set_low(&mut queue.descriptor_area, value)),
            Register::QUEUE_DESC_HIGH => self.write_area(register, |queue| set_high(&mut queue.descriptor_area, value)),
            Register::QUEUE_DRIVER_LOW => self.write_area(register, |queue| set_low(&mut queue.driver_area, value)),
            Register::QUEUE_DRIVER_HIGH => self.write_area(register, |queue| set_high(&mut queue.driver_area, value)),
            Register::QUEUE_DEVICE_LOW => self.write_area(register, |queue| set_low(&mut queue.device_area, value)),
            Register::QUEUE_DEVICE_HIGH => self.write_area(register, |queue| set_high(&mut queue.device_area, value)),
            Register::QUEUE_RESET => self.write_queue_reset(value),
            // SHM_SEL.
            _ => self.violate(Rule::SharedMemoryRegister, format!("{register} was written")),
        }
    }

    fn acknowledge(&mut self, value: u32) {
        let known = InterruptStatus::all().bits();
        if value & !known != 0 {
            self.violate(Rule::InterruptAckUndefined, format!("{value:#x} was written"));
        }
        if value & known & !self.interrupt.bits() != 0 {
            self.violate(
                Rule::InterruptAckNotPending,
                format!("{value:#x} was written, {:#x} is pending", self.interrupt.bits()),
            );
        }
        self.interrupt &= !InterruptStatus::from_bits_truncate(value);
    }
}
