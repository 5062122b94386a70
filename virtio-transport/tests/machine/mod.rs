//! A machine with PCI buses, as far as software can tell: configuration cycles are forwarded by the bridges that were
//! numbered for them, memory cycles by those that were opened for them, and what nobody claims fails the test.

#![allow(dead_code, unreachable_pub, reason = "a module of several test files, each of which uses a part")]

pub mod device;

use std::{cell::RefCell, fmt, rc::Rc};

use device::Device;
use virtio_transport::{
    Region, Registers,
    pci::{ConfigRegionAccess, PciAddress, Window},
};

/// The windows of the machine: devices see other addresses than the processor below 4 GiB.
pub const WINDOWS: [Window; 2] = [
    Window { pci_address: 0x4000_0000, address: 0x9_4000_0000, bytes: 0x1000_0000, prefetchable: false },
    Window { pci_address: 0x80_0000_0000, address: 0x80_0000_0000, bytes: 0x10_0000_0000, prefetchable: true },
];

pub const MEMORY: u32 = 1 << 1;
pub const BUS_MASTER: u32 = 1 << 2;
pub const INTERRUPT_DISABLE: u32 = 1 << 10;

/// A function, or a bridge and what is behind it.
#[derive(Clone)]
pub struct Node {
    pub device: u8,
    pub function: u8,
    /// The registers, and which of their bits can be written.
    pub space: [u32; 64],
    pub mask: [u32; 64],
    pub behind: Vec<Node>,
    /// The virtio device behind its BARs.
    pub virtio: Option<Device>,
}

impl Node {
    pub fn new(device: u8, vendor: u16, id: u16) -> Self {
        let (mut space, mut mask) = ([0; 64], [0; 64]);
        space[0] = u32::from(id) << 16 | u32::from(vendor);
        mask[1] = 0x0000_0547;
        Self { device, function: 0, space, mask, behind: Vec::new(), virtio: None }
    }

    pub fn function(mut self, function: u8) -> Self {
        self.function = function;
        self
    }

    pub fn multi_function(mut self) -> Self {
        self.space[3] |= 0x80 << 16;
        self
    }

    /// A bridge, not numbered. Its prefetchable window goes above 4 GiB.
    pub fn bridge(device: u8, behind: Vec<Node>) -> Self {
        let mut node = Self::new(device, 0x1b36, 0x000c);
        node.space[3] = 1 << 16;
        node.mask[6] = 0xffff_ffff;
        node.mask[8] = 0xfff0_fff0;
        node.mask[9] = 0xfff0_fff0;
        node.space[9] = 0x0001_0001;
        node.mask[10] = u32::MAX;
        node.mask[11] = u32::MAX;
        node.behind = behind;
        node
    }

    /// A 32-bit BAR.
    pub fn bar(mut self, index: usize, bytes: u32) -> Self {
        self.mask[4 + index] = !(bytes - 1);
        self
    }

    /// A 64-bit prefetchable BAR.
    pub fn wide_bar(mut self, index: usize, bytes: u64) -> Self {
        let mask = !(bytes - 1);
        self.space[4 + index] = 0b1100;
        (self.mask[4 + index], self.mask[5 + index]) = (mask as u32, (mask >> 32) as u32);
        self
    }

    /// A BAR for I/O ports.
    pub fn io_bar(mut self, index: usize) -> Self {
        self.space[4 + index] = 1;
        self.mask[4 + index] = 0xffe0;
        self
    }

    /// What firmware has written to a BAR.
    pub fn at(mut self, index: usize, address: u64) -> Self {
        self.space[4 + index] |= address as u32;
        if self.space[4 + index] & 0b111 == 0b100 {
            self.space[5 + index] = (address >> 32) as u32;
        }
        self
    }

    pub fn pin(mut self, pin: u8) -> Self {
        self.space[15] = u32::from(pin) << 8;
        self
    }

    /// Puts capabilities into configuration space, one after the other from 0x40 on; the list is made here.
    pub fn capabilities(mut self, capabilities: &[Vec<u32>]) -> Self {
        let mut place = 16;
        self.space[1] |= 1 << 20;
        self.space[13] = place as u32 * 4;
        for (index, words) in capabilities.iter().enumerate() {
            let next = if index + 1 < capabilities.len() { (place + words.len()) as u32 * 4 } else { 0 };
            self.space[place..][..words.len()].copy_from_slice(words);
            self.space[place] |= next << 8;
            place += words.len();
        }
        self
    }

    pub fn is_bridge(&self) -> bool {
        self.space[3] >> 16 & 0x7f == 1
    }

    /// The memory BARs: index, address, length.
    pub fn bars(&self) -> Vec<(usize, u64, u64)> {
        let count = if self.is_bridge() { 2 } else { 6 };
        let mut bars = Vec::new();
        let mut index = 0;
        while index < count {
            let (low, wide) = (self.space[4 + index], self.space[4 + index] & 0b111 == 0b100);
            let high = if wide { (self.space[5 + index], self.mask[5 + index]) } else { (0, u32::MAX) };
            let mask = u64::from(high.1) << 32 | u64::from(self.mask[4 + index]);
            if low & 1 == 0 && mask & !0xf != u64::from(u32::MAX) << 32 {
                bars.push((index, u64::from(high.0) << 32 | u64::from(low & !0xf), (mask & !0xf).wrapping_neg()));
            }
            index += if wide { 2 } else { 1 };
        }
        bars
    }

    /// The ranges that a bridge forwards.
    pub fn forwards(&self) -> Vec<(u64, u64)> {
        let range = |raw: u32| (u64::from(raw & 0xfff0) << 16, u64::from(raw >> 16 & 0xfff0) << 16 | 0xf_ffff);
        let high = range(self.space[9]);
        let high = (high.0 | u64::from(self.space[10]) << 32, high.1 | u64::from(self.space[11]) << 32);
        [range(self.space[8]), high].into_iter().filter(|(first, last)| first <= last).collect()
    }
}

/// All of the machine.
#[derive(Default)]
pub struct Machine {
    pub root: Vec<Node>,
    /// Configuration cycles: how many, and what was written to whom.
    pub config_cycles: usize,
    pub config_writes: Vec<(PciAddress, u16, u32)>,
    /// What was mapped.
    pub mapped: Vec<Region>,
}

impl Machine {
    fn find(&mut self, address: PciAddress) -> Option<&mut Node> {
        on_bus(&mut self.root, 0, address)
    }

    /// Where a memory cycle ends: the function, the BAR, and the offset in it.
    fn claim(&mut self, address: u64) -> Option<(&mut Node, usize, u64)> {
        claim(&mut self.root, address)
    }
}

fn on_bus(nodes: &mut [Node], bus: u8, address: PciAddress) -> Option<&mut Node> {
    if bus == address.bus() {
        return nodes.iter_mut().find(|it| (it.device, it.function) == (address.device(), address.function()));
    }
    let bridge = nodes.iter_mut().find(|node| {
        let [_, secondary, subordinate, _] = node.space[6].to_le_bytes();
        node.is_bridge() && secondary != 0 && (secondary..=subordinate).contains(&address.bus())
    })?;
    let [_, secondary, ..] = bridge.space[6].to_le_bytes();
    on_bus(&mut bridge.behind, secondary, address)
}

fn claim(nodes: &mut [Node], address: u64) -> Option<(&mut Node, usize, u64)> {
    nodes.iter_mut().filter(|node| node.space[1] & MEMORY != 0).find_map(|node| {
        let own = node.bars().into_iter().find(|&(_, start, bytes)| start <= address && address - start < bytes);
        if let Some((index, start, _)) = own {
            return Some((node, index, address - start));
        }
        let forwards =
            node.is_bridge() && node.forwards().iter().any(|&(first, last)| (first..=last).contains(&address));
        if forwards { claim(&mut node.behind, address) } else { None }
    })
}

/// The way to its configuration space.
#[derive(Clone)]
pub struct Pcie(pub Rc<RefCell<Machine>>);

impl Pcie {
    pub fn new(root: Vec<Node>) -> Self {
        Self(Rc::new(RefCell::new(Machine { root, ..Machine::default() })))
    }

    /// Does something with a function.
    pub fn with<V>(&self, address: PciAddress, what: impl FnOnce(&mut Node) -> V) -> V {
        what(self.0.borrow_mut().find(address).expect("a function there"))
    }

    /// Does something with the virtio device of a function.
    pub fn device<V>(&self, address: PciAddress, what: impl FnOnce(&mut Device) -> V) -> V {
        self.with(address, |node| what(node.virtio.as_mut().expect("a virtio device there")))
    }

    /// Maps a region for a driver.
    pub fn map(&self, region: &Region) -> Option<Mapped> {
        assert_eq!(region.address % 4, 0);
        self.0.borrow_mut().mapped.push(*region);
        Some(Mapped { machine: self.clone(), region: *region })
    }

    /// The writes to configuration space since the last call.
    pub fn config_writes(&self) -> Vec<(PciAddress, u16, u32)> {
        std::mem::take(&mut self.0.borrow_mut().config_writes)
    }
}

impl ConfigRegionAccess for Pcie {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        assert!(offset % 4 == 0 && offset < 256 && address.segment() == 0, "{address} {offset:#x}");
        let mut machine = self.0.borrow_mut();
        machine.config_cycles += 1;
        machine.find(address).map_or(u32::MAX, |node| node.space[usize::from(offset / 4)])
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        assert!(offset % 4 == 0 && offset < 256 && address.segment() == 0, "{address} {offset:#x}");
        assert!(offset != 4 || value >> 16 == 0, "a one clears a bit of the status: {value:#x}");
        let mut machine = self.0.borrow_mut();
        machine.config_cycles += 1;
        machine.config_writes.push((address, offset, value));
        if let Some(node) = machine.find(address) {
            let index = usize::from(offset / 4);
            let mask = node.mask[index];
            node.space[index] = node.space[index] & !mask | value & mask;
        }
    }
}

/// What a driver has mapped.
#[derive(Clone)]
pub struct Mapped {
    machine: Pcie,
    region: Region,
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x?}", self.region)
    }
}

impl Mapped {
    /// A memory cycle, all the way to a device.
    fn cycle<V>(&self, offset: usize, width: u64, what: impl FnOnce(&mut Device, usize, u64) -> V) -> V {
        let offset = offset as u64;
        assert!(offset + width <= self.region.bytes && offset % width == 0, "{offset:#x} of {self:?}");
        let address = self.region.address + offset;
        let window = WINDOWS.iter().find(|window| address >= window.address && address - window.address < window.bytes);
        let window = window.unwrap_or_else(|| panic!("{address:#x} is in no window"));
        let mut machine = self.machine.0.borrow_mut();
        let claimed = machine.claim(address - window.address + window.pci_address);
        let (node, bar, offset) = claimed.unwrap_or_else(|| panic!("nobody answers at {address:#x}"));
        what(node.virtio.as_mut().expect("a virtio device"), bar, offset)
    }
}

impl Registers for Mapped {
    fn bytes(&self) -> usize {
        self.region.bytes as usize
    }

    fn read_u8(&self, offset: usize) -> u8 {
        self.cycle(offset, 1, |device, bar, offset| device.read(bar, offset, 1)) as u8
    }

    fn read_u16(&self, offset: usize) -> u16 {
        u16::to_le(self.cycle(offset, 2, |device, bar, offset| device.read(bar, offset, 2)) as u16)
    }

    fn read_u32(&self, offset: usize) -> u32 {
        u32::to_le(self.cycle(offset, 4, |device, bar, offset| device.read(bar, offset, 4)))
    }

    fn write_u8(&self, offset: usize, value: u8) {
        self.cycle(offset, 1, |device, bar, offset| device.write(bar, offset, 1, value.into()));
    }

    fn write_u16(&self, offset: usize, value: u16) {
        self.cycle(offset, 2, |device, bar, offset| device.write(bar, offset, 2, u16::from_le(value).into()));
    }

    fn write_u32(&self, offset: usize, value: u32) {
        self.cycle(offset, 4, |device, bar, offset| device.write(bar, offset, 4, u32::from_le(value)));
    }
}
