//! A device's registers as a test wants them, and a record of every access.

#![allow(dead_code, unreachable_pub, reason = "a module of several test files, each of which uses a part")]

use std::{cell::RefCell, collections::VecDeque, fmt, rc::Rc};

use virtio_transport::Registers;

/// One access: direction, width in bytes, offset, value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Access(pub char, pub usize, pub usize, pub u32);

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(direction, width, offset, value) = self;
        write!(f, "{direction}{} {offset:#05x} {value:#x}", width * 8)
    }
}

/// A 32-bit read.
pub fn r(offset: usize, value: u32) -> Access {
    Access('r', 4, offset, value)
}

/// A 32-bit write.
pub fn w(offset: usize, value: u32) -> Access {
    Access('w', 4, offset, value)
}

/// What the device behind the registers does.
pub struct Device {
    pub window: usize,
    pub magic: u32,
    pub version: u32,
    pub id: u32,
    pub features: u64,
    /// What the driver wrote, by word.
    pub driver_features: [Option<u32>; 2],
    pub status: u32,
    /// Bits of the status that the device sets on its own.
    pub own_status: u32,
    /// Bits of the status that do not stay set.
    pub refused_status: u32,
    /// How many looks at the status after a reset still read as before.
    pub reset_looks: u32,
    pub size_max: [u32; 2],
    /// `QueueReady` or `QueuePFN`.
    pub queue_in_use: [u32; 2],
    /// Whether the device takes what is written to that register.
    pub takes_queues: bool,
    /// Whether it resets single queues.
    pub resets_queues: bool,
    pub interrupt_status: u32,
    /// The answers to come; the last one stays.
    pub generations: VecDeque<u32>,
    pub config: [u8; 0x40],
    /// Added to the first byte of the configuration after each read of it, this often.
    pub config_changes: u32,
    pub log: Vec<Access>,
    features_sel: u32,
    driver_sel: u32,
    queue_sel: usize,
    old_status: u32,
    looks: u32,
}

/// Registers with such a device behind them.
#[derive(Clone)]
pub struct Fake(pub Rc<RefCell<Device>>);

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    /// A block device that does what a device should.
    pub fn new(version: u32) -> Self {
        Self(Rc::new(RefCell::new(Device {
            window: 0x140,
            magic: 0x7472_6976,
            version,
            id: 2,
            features: if version == 2 { 0x1_3000_0254 } else { 0x3000_0254 },
            driver_features: [None; 2],
            status: 0,
            own_status: 0,
            refused_status: 0,
            reset_looks: 0,
            size_max: [256, 0],
            queue_in_use: [0; 2],
            takes_queues: true,
            resets_queues: true,
            interrupt_status: 0,
            generations: VecDeque::from([7]),
            config: core::array::from_fn(|index| index as u8),
            config_changes: 0,
            log: Vec::new(),
            features_sel: u32::MAX,
            driver_sel: u32::MAX,
            queue_sel: usize::MAX,
            old_status: 0,
            looks: 0,
        })))
    }

    pub fn with(self, change: impl FnOnce(&mut Device)) -> Self {
        change(&mut self.0.borrow_mut());
        self
    }

    /// The accesses since the last call.
    pub fn log(&self) -> Vec<Access> {
        core::mem::take(&mut self.0.borrow_mut().log)
    }

    pub fn status(&self) -> u32 {
        self.0.borrow().status
    }
}

impl Device {
    fn read(&mut self, offset: usize) -> u32 {
        match offset {
            0x000 => self.magic,
            0x004 => self.version,
            0x008 => self.id,
            0x010 if self.features_sel == 0 => self.features as u32,
            // A legacy device knows no second word; QEMU's answers with 0.
            0x010 if self.features_sel == 1 && self.version == 2 => (self.features >> 32) as u32,
            0x034 => self.size_max.get(self.queue_sel).copied().unwrap_or(0),
            0x040 if self.version == 1 => self.queue_in_use.get(self.queue_sel).copied().unwrap_or(0),
            0x044 if self.version == 2 => self.queue_in_use.get(self.queue_sel).copied().unwrap_or(0),
            0x060 => self.interrupt_status,
            // Done at once; or there is no such register.
            0x0c0 if self.version == 2 => 0,
            0x070 if self.looks > 0 => {
                self.looks -= 1;
                self.old_status
            }
            0x070 => self.status | self.own_status,
            0x0fc if self.version == 2 => match self.generations.len() {
                1 => self.generations[0],
                _ => self.generations.pop_front().unwrap(),
            },
            _ => panic!("the driver must not read {offset:#x}"),
        }
    }

    fn write(&mut self, offset: usize, value: u32) {
        let legacy = self.version == 1;
        match offset {
            0x014 => self.features_sel = value,
            0x020 => self.driver_features[self.driver_sel as usize] = Some(value),
            0x024 => self.driver_sel = value,
            0x030 => self.queue_sel = value as usize,
            0x038 => {}
            0x028 | 0x03c if legacy => {}
            0x080 | 0x084 | 0x090 | 0x094 | 0x0a0 | 0x0a4 if !legacy => {}
            0x040 if legacy && self.takes_queues => self.queue_in_use[self.queue_sel] = value,
            0x044 if !legacy && self.takes_queues => self.queue_in_use[self.queue_sel] = value,
            0x040 | 0x044 if !self.takes_queues => {}
            0x050 => {}
            0x0c0 if !legacy && self.resets_queues => self.queue_in_use[self.queue_sel] = 0,
            0x0c0 if !legacy => {}
            0x064 => self.interrupt_status &= !value,
            0x070 if value == 0 => {
                self.old_status = self.status;
                self.looks = self.reset_looks;
                self.status = 0;
                self.queue_in_use = [0; 2];
            }
            0x070 => self.status = value & !self.refused_status,
            _ => panic!("the driver must not write {offset:#x}"),
        }
    }

    fn config(&mut self, offset: usize, width: usize) -> [u8; 4] {
        let mut bytes = [0; 4];
        bytes[..width].copy_from_slice(&self.config[offset - 0x100..][..width]);
        if offset == 0x100 && self.config_changes > 0 {
            self.config_changes -= 1;
            self.config[0] += 1;
        }
        bytes
    }
}

impl Registers for Fake {
    fn bytes(&self) -> usize {
        self.0.borrow().window
    }

    fn read_u8(&self, offset: usize) -> u8 {
        let mut device = self.0.borrow_mut();
        let value = device.config(offset, 1)[0];
        device.log.push(Access('r', 1, offset, value.into()));
        value
    }

    fn read_u16(&self, offset: usize) -> u16 {
        let mut device = self.0.borrow_mut();
        let bytes = device.config(offset, 2);
        let value = u16::from_ne_bytes([bytes[0], bytes[1]]);
        device.log.push(Access('r', 2, offset, value.into()));
        value
    }

    fn read_u32(&self, offset: usize) -> u32 {
        let mut device = self.0.borrow_mut();
        let value = match offset {
            0x100.. => u32::from_ne_bytes(device.config(offset, 4)),
            // Control registers are little-endian.
            _ => device.read(offset).to_le(),
        };
        device.log.push(Access('r', 4, offset, value));
        value
    }

    fn write_u8(&self, offset: usize, value: u8) {
        let mut device = self.0.borrow_mut();
        device.log.push(Access('w', 1, offset, value.into()));
        device.config[offset - 0x100] = value;
    }

    fn write_u16(&self, offset: usize, _value: u16) {
        panic!("the driver must not write 16 bits at {offset:#x}");
    }

    fn write_u32(&self, offset: usize, value: u32) {
        let mut device = self.0.borrow_mut();
        device.log.push(Access('w', 4, offset, value));
        device.write(offset, u32::from_le(value));
    }
}
