//! A virtio device behind the BARs of a function: registers that are read and written with the widths of their fields
//! (virtio 1.4, section 4.1.3.1) or fail the test, and a record of every access.

use std::fmt;

use super::Node;

/// Where the structures are in BAR 4, and how long.
pub const COMMON: u32 = 0;
pub const COMMON_BYTES: u32 = 64;
pub const ISR: u32 = 0x1000;
pub const CONFIG: u32 = 0x2000;
pub const CONFIG_BYTES: u32 = 0x40;
pub const NOTIFY: u32 = 0x3000;
pub const NOTIFY_BYTES: u32 = 0x1000;
pub const MULTIPLIER: u32 = 4;
pub const BAR: usize = 4;
pub const BAR_BYTES: u64 = 0x4000;
/// The BAR of the table of messages, where it starts, and how many messages there are.
pub const TABLE_BAR: usize = 1;
pub const TABLE: u32 = 0x800;
pub const VECTORS: u16 = 5;

/// The types of capabilities.
pub const COMMON_CFG: u8 = 1;
pub const NOTIFY_CFG: u8 = 2;
pub const ISR_CFG: u8 = 3;
pub const DEVICE_CFG: u8 = 4;

/// One access: direction, width in bits, offset in BAR 4, value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Access(pub char, pub usize, pub u64, pub u32);

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(direction, width, offset, value) = self;
        write!(f, "{direction}{width} {offset:#x} {value:#x}")
    }
}

/// A queue, by the fields of the common configuration from `queue_size` on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    pub size: u16,
    pub vector: u16,
    pub enable: u16,
    pub notify_off: u16,
    pub areas: [u32; 6],
    pub notif_config_data: u16,
    pub reset: u16,
}

#[derive(Clone)]
pub struct Device {
    pub features: u64,
    pub driver_features: [u32; 2],
    pub status: u8,
    pub generation: u8,
    pub config_vector: u16,
    /// How many vectors the device takes before it has no room for more.
    pub vectors_taken: usize,
    pub queues: Vec<Queue>,
    pub isr: u8,
    pub config: [u8; CONFIG_BYTES as usize],
    pub table: [u32; 4 * VECTORS as usize],
    /// How often a reset of a queue is read as going on.
    pub reset_looks: u16,
    /// Whether it enables queues, and ends the use of one that is reset.
    pub takes_queues: bool,
    pub ends_queues: bool,
    pub log: Vec<Access>,
    select: [u32; 2],
    queue: u16,
}

impl Device {
    pub fn new() -> Self {
        let queue = |index| Queue {
            size: 256,
            vector: 0xffff,
            notify_off: index,
            notif_config_data: 0x700 + index,
            ..Queue::default()
        };
        Self {
            features: 0x181_3000_0254,
            driver_features: [0; 2],
            status: 0,
            generation: 3,
            config_vector: 0xffff,
            vectors_taken: usize::MAX,
            queues: (0..3).map(queue).collect(),
            isr: 0,
            config: core::array::from_fn(|index| index as u8),
            table: [0; 4 * VECTORS as usize],
            reset_looks: 2,
            takes_queues: true,
            ends_queues: true,
            log: Vec::new(),
            select: [u32::MAX; 2],
            queue: u16::MAX,
        }
    }

    /// The accesses since the last call.
    pub fn log(&mut self) -> Vec<Access> {
        std::mem::take(&mut self.log)
    }

    pub fn read(&mut self, bar: usize, offset: u64, width: usize) -> u32 {
        if bar == TABLE_BAR {
            return self.table[(offset as usize - TABLE as usize) / 4];
        }
        let value = match offset {
            0x1000 if width == 1 => std::mem::take(&mut self.isr).into(),
            0x2000..0x2040 => {
                let mut bytes = [0; 4];
                bytes[..width].copy_from_slice(&self.config[offset as usize - 0x2000..][..width]);
                u32::from_le_bytes(bytes)
            }
            _ => self.read_common(offset, width),
        };
        self.log.push(Access('r', width * 8, offset, value));
        value
    }

    fn read_common(&mut self, offset: u64, width: usize) -> u32 {
        let queue = self.queues.get_mut(usize::from(self.queue));
        let of_queue = |field: fn(&mut Queue) -> u16| queue.map_or(0, field).into();
        match (offset, width) {
            (4, 4) if self.select[0] < 2 => (self.features >> (32 * self.select[0])) as u32,
            (16, 2) => self.config_vector.into(),
            (20, 1) => self.status.into(),
            (21, 1) => self.generation.into(),
            (24, 2) => of_queue(|queue| queue.size),
            (26, 2) => of_queue(|queue| queue.vector),
            (28, 2) => of_queue(|queue| queue.enable),
            (30, 2) => of_queue(|queue| queue.notify_off),
            (56, 2) => of_queue(|queue| queue.notif_config_data),
            (58, 2) => of_queue(|queue| {
                let left = queue.reset;
                queue.reset = left.saturating_sub(1);
                u16::from(left > 0)
            }),
            _ => panic!("the driver must not read {width} bytes at {offset:#x}"),
        }
    }

    pub fn write(&mut self, bar: usize, offset: u64, width: usize, value: u32) {
        if bar == TABLE_BAR {
            assert_eq!(width, 4);
            self.table[(offset as usize - TABLE as usize) / 4] = value;
            return;
        }
        self.log.push(Access('w', width * 8, offset, value));
        match offset {
            0x2000..0x2040 if width == 1 => self.config[offset as usize - 0x2000] = value as u8,
            0x3000..0x4000 => {}
            _ => self.write_common(offset, width, value),
        }
    }

    fn write_common(&mut self, offset: u64, width: usize, value: u32) {
        let has_room = self.vectors_taken > 0;
        let taken = if has_room { value as u16 } else { 0xffff };
        let queue = self.queues.get_mut(usize::from(self.queue));
        match (offset, width, queue) {
            (0, 4, _) => self.select[0] = value,
            (8, 4, _) => self.select[1] = value,
            (12, 4, _) => self.driver_features[self.select[1] as usize] = value,
            (16, 2, _) => {
                self.config_vector = taken;
                self.vectors_taken -= usize::from(has_room);
            }
            (20, 1, _) if value == 0 => {
                self.status = 0;
                self.config_vector = 0xffff;
                for queue in &mut self.queues {
                    (queue.enable, queue.vector) = (0, 0xffff);
                }
            }
            (20, 1, _) => self.status = value as u8,
            (22, 2, _) => self.queue = value as u16,
            (24, 2, Some(queue)) => queue.size = value as u16,
            (26, 2, Some(queue)) => {
                queue.vector = taken;
                self.vectors_taken -= usize::from(has_room);
            }
            (28, 2, Some(queue)) => {
                assert_eq!(value, 1, "a driver does not disable a queue");
                queue.enable = u16::from(self.takes_queues);
            }
            (32 | 36 | 40 | 44 | 48 | 52, 4, Some(queue)) => queue.areas[(offset as usize - 32) / 4] = value,
            (58, 2, Some(queue)) => {
                assert_eq!(value, 1);
                queue.reset = self.reset_looks;
                if self.ends_queues {
                    queue.enable = 0;
                }
            }
            _ => panic!("the driver must not write {width} bytes at {offset:#x}"),
        }
    }
}

/// A virtio capability: its words.
pub fn capability(kind: u8, bar: u8, offset: u32, length: u32) -> Vec<u32> {
    let cap_len = if kind == NOTIFY_CFG { 20 } else { 16 };
    let mut words = vec![u32::from(kind) << 24 | cap_len << 16 | 0x09, bar.into(), offset, length];
    if kind == NOTIFY_CFG {
        words.push(MULTIPLIER);
    }
    words
}

/// The capability for messages.
pub fn msix_capability(count: u16, bar: u8, offset: u32) -> Vec<u32> {
    vec![u32::from(count - 1) << 16 | 0x11, offset | u32::from(bar), 0]
}

/// The capabilities of a good device, in an order that is not that of their types.
pub fn capabilities() -> Vec<Vec<u32>> {
    vec![
        msix_capability(VECTORS, TABLE_BAR as u8, TABLE),
        capability(5, 0, 0, 0),
        capability(NOTIFY_CFG, BAR as u8, NOTIFY, NOTIFY_BYTES),
        capability(DEVICE_CFG, BAR as u8, CONFIG, CONFIG_BYTES),
        capability(ISR_CFG, BAR as u8, ISR, 4),
        capability(COMMON_CFG, BAR as u8, COMMON, COMMON_BYTES),
    ]
}

/// A function with a block device.
pub fn block(device: u8) -> Node {
    with_capabilities(device, &capabilities())
}

/// A function with a block device, and these capabilities.
pub fn with_capabilities(device: u8, capabilities: &[Vec<u32>]) -> Node {
    let node = Node::new(device, 0x1af4, 0x1042).io_bar(0).bar(TABLE_BAR, 0x1000).wide_bar(BAR, BAR_BYTES);
    let mut node = node.pin(1).capabilities(capabilities);
    // The upper bits of the first word of the capability for messages can be written.
    node.mask[16] = 0xc000_0000;
    node.virtio = Some(Device::new());
    node
}
