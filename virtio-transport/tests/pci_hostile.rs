//! PCI functions that say anything: nothing panics, every walk ends, and nothing is mapped or touched outside of what
//! the host bridge forwards and the function claims.

mod machine;

use std::{cell::Cell, ops::RangeInclusive, rc::Rc};

use machine::{Node, Pcie, WINDOWS, device};
use proptest::{prelude::*, test_runner::RngSeed};
use virtio_transport::{
    DeviceType, Interrupt, Negotiation, Notifier, QueueConfig, Region, Registers, SpinLimit, Transport,
    pci::{ConfigRegionAccess, Host, MsixMessage, Pci, PciAddress},
    read_config,
};

/// The most accesses to configuration space that it may take to walk 256 full buses, or to set them up: some words for
/// each of 65536 functions, and for their BARs.
const MOST_CYCLES: usize = 65536 * 100;

/// Numbers that nobody can foresee.
#[derive(Clone)]
struct Noise(Rc<Cell<u64>>);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(Rc::new(Cell::new(seed | 1)))
    }

    fn next(&self) -> u32 {
        // Xorshift.
        let mut state = self.0.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0.set(state);
        (state >> 32) as u32
    }
}

/// Registers that read as anything, and fail the test when they are accessed in a way that they must not be.
#[derive(Clone)]
struct Anything {
    bytes: usize,
    noise: Noise,
}

impl Anything {
    fn access(&self, offset: usize, width: usize) -> u32 {
        assert!(offset + width <= self.bytes && offset % width == 0, "{width} bytes at {offset:#x} of {}", self.bytes);
        self.noise.next()
    }
}

impl Registers for Anything {
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn read_u8(&self, offset: usize) -> u8 {
        self.access(offset, 1) as u8
    }
    fn read_u16(&self, offset: usize) -> u16 {
        self.access(offset, 2) as u16
    }
    fn read_u32(&self, offset: usize) -> u32 {
        self.access(offset, 4)
    }
    fn write_u8(&self, offset: usize, _: u8) {
        self.access(offset, 1);
    }
    fn write_u16(&self, offset: usize, _: u16) {
        self.access(offset, 2);
    }
    fn write_u32(&self, offset: usize, _: u32) {
        self.access(offset, 4);
    }
}

/// Configuration space where one word in so many is anything, each time it is read.
struct Restless {
    machine: Pcie,
    noise: Noise,
    one_in: u32,
}

impl ConfigRegionAccess for Restless {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        // SAFETY: the same contract.
        let honest = unsafe { self.machine.read(address, offset) };
        if self.noise.next() % self.one_in == 0 { self.noise.next() } else { honest }
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        // SAFETY: the same contract.
        unsafe { self.machine.write(address, offset, value) }
    }
}

/// Does everything that a kernel does with a host bridge, and returns what was mapped for which function.
fn use_all<A: ConfigRegionAccess>(host: &Host<'_, A>, noise: &Noise) -> Vec<(PciAddress, Region)> {
    let mut mapped = Vec::new();
    let assigned = host.assign();
    assert!(assigned.bridges <= 255);
    for function in host.functions() {
        let _ = function.interrupt();
        let found = Pci::probe(&function, |region| {
            assert!(region.address % 4 == 0 && region.bytes > 0);
            mapped.push((function.address(), *region));
            Some(Anything { bytes: usize::try_from(region.bytes).ok()?, noise: noise.clone() })
        });
        let Ok(Some(mut device)) = found else { continue };
        let messages = vec![MsixMessage { address: 0x1000, data: 1 }; usize::from(device.msix_vectors() % 7)];
        let _ = device.use_msix(&function, &messages);
        let _ = read_config(&device, |config| Ok((config.u64(0)?, config.u8(33)?)));
        device.notifier(3, true).notify(7);
        device.interrupt().acknowledge();
        let wait = &mut SpinLimit { looks: 300 };
        let kind = DeviceType(device.device_type().0);
        let Ok(negotiation) = Negotiation::begin(device, kind, wait) else { continue };
        let offered = negotiation.offered();
        let Ok(mut setup) = negotiation.accept(offered) else { continue };
        for index in 0..4 {
            let queue =
                QueueConfig { index, size: 2, descriptor_area: 0x1000, driver_area: 0x2000, device_area: 0x3000 };
            let _ = setup.enable_queue(&queue);
        }
        let mut running = setup.start();
        running.notifier(1).notify(1);
        let _ = running.reset_queue(0, wait);
    }
    mapped
}

/// What the BARs of a function claim, as the processor sees it.
fn claims(node: &Node) -> Vec<RangeInclusive<u64>> {
    let mut claims = Vec::new();
    for index in 0..6 {
        let word = |index: usize| {
            (node.space[4 + index], node.space[4 + index] & !node.mask[4 + index] | node.mask[4 + index])
        };
        let ((low, low_answer), wide) = (word(index), node.space[4 + index] & 0b111 == 0b100 && index < 5);
        let (high, high_answer) = if wide { word(index + 1) } else { (0, 0) };
        let address = u64::from(high) << 32 | u64::from(low & !0xf);
        let answer = u64::from(high_answer) << 32 | u64::from(low_answer & !0xf);
        let bytes = answer & answer.wrapping_neg();
        if low & 1 == 0 && bytes > 0 {
            for window in WINDOWS {
                let from = address.wrapping_sub(window.pci_address);
                if from < window.bytes {
                    claims.push(window.address + from..=window.address + from + bytes.min(window.bytes - from) - 1);
                }
            }
        }
    }
    claims
}

/// A change of a word of a function's configuration space: which function, which word, what it becomes, and which of
/// its bits can be written.
type Change = (usize, usize, u32, u32);

fn change() -> impl Strategy<Value = Change> {
    let word = prop_oneof![
        any::<u32>(),
        // What could be a capability, or point at one.
        (0_u32..6, 0_u32..32, 0_u32..64, prop_oneof![Just(9_u32), Just(17), 0_u32..32])
            .prop_map(|(kind, length, next, id)| kind << 24 | length << 16 | next << 10 | id),
        (0_u32..8).prop_map(|bar| bar),
        Just(0),
        Just(u32::MAX),
    ];
    let mask = prop_oneof![any::<u32>(), Just(0), Just(u32::MAX), (0_u32..32).prop_map(|bits| u32::MAX << bits)];
    // The header and the capabilities more often than what is behind.
    let place = prop_oneof![1_usize..16, 16_usize..48, Just(6), Just(13), Just(3), 4_usize..10];
    (0_usize..8, place, word, mask)
}

/// A tree with bridges and disks, changed here and there.
fn tree(changes: &[Change]) -> Vec<Node> {
    let inner = Node::bridge(1, vec![device::block(0), Node::bridge(3, vec![device::block(7)])]);
    let mut root = vec![device::block(1), Node::bridge(2, vec![inner, device::block(4)]), device::block(31)];
    for &(function, place, word, mask) in changes {
        let node = nth(&mut root, &mut { function }).expect("there are eight");
        (node.space[place], node.mask[place]) = (word, mask);
    }
    root
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(change(), 0..24)
}

fn nth<'a>(nodes: &'a mut [Node], left: &mut usize) -> Option<&'a mut Node> {
    for node in nodes {
        if *left == 0 {
            return Some(node);
        }
        *left -= 1;
        if let Some(found) = nth(&mut node.behind, left) {
            return Some(found);
        }
    }
    None
}

/// The same cases on every run.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 512,
        rng_seed: RngSeed::Fixed(0x7063_6921),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Functions that say something odd, but always the same.
    #[test]
    #[cfg_attr(miri, ignore = "minutes there, for safe code")]
    fn odd_functions(changes in changes(), seed: u64) {
        let machine = Pcie::new(tree(&changes));
        let noise = Noise::new(seed);
        // SAFETY: there is no memory that a device of this machine could reach.
        let host = unsafe { Host::new(machine.clone(), 0..=255, &WINDOWS) };
        for (address, region) in use_all(&host, &noise) {
            let inside = |range: RangeInclusive<u64>| {
                range.contains(&region.address) && range.contains(&(region.address + region.bytes - 1))
            };
            let claims = machine.with(address, |node| claims(node));
            prop_assert!(claims.iter().cloned().any(inside), "{address}: {region:x?} is in none of {claims:x?}");
        }
        prop_assert!(machine.0.borrow().config_cycles < MOST_CYCLES);
        // And a second look, at what the first one has made of it.
        use_all(&host, &noise);
    }

    /// Functions that say something else each time they are asked.
    #[test]
    #[cfg_attr(miri, ignore = "minutes there, for safe code")]
    fn restless_functions(changes in changes(), seed: u64, one_in in prop_oneof![Just(1_u32), Just(2), 3_u32..200]) {
        let noise = Noise::new(seed);
        let machine = Pcie::new(tree(&changes));
        let access = Restless { machine: machine.clone(), noise: noise.clone(), one_in };
        // SAFETY: as above.
        let host = unsafe { Host::new(access, 0..=3, &WINDOWS) };
        for (address, region) in use_all(&host, &noise) {
            let inside = WINDOWS.iter().any(|window| {
                region.address >= window.address && region.address + region.bytes <= window.address + window.bytes
            });
            prop_assert!(inside, "{address}: {region:x?}");
        }
        prop_assert!(machine.0.borrow().config_cycles < MOST_CYCLES);
    }
}

/// Every bus number leads everywhere: bridges that are all the same, with each number that there is.
#[test]
#[cfg_attr(miri, ignore = "minutes there, for safe code")]
fn buses_in_circles() {
    for secondary in [0, 1, 2, 255] {
        for subordinate in [0, 1, 2, 255] {
            let bridge = |device| {
                let mut bridge = Node::bridge(device, vec![device::block(9)]);
                bridge.space[6] = u32::from_le_bytes([0, secondary, subordinate, 0]);
                bridge.mask[6] = 0;
                bridge
            };
            let mut outer = bridge(1);
            outer.behind.push(bridge(2));
            let machine = Pcie::new(vec![outer, bridge(2), bridge(3)]);
            // SAFETY: as above.
            let host = unsafe { Host::new(machine.clone(), 0..=255, &WINDOWS) };
            use_all(&host, &Noise::new(1));
            assert!(host.functions().count() <= 3 + 2, "{secondary} to {subordinate}");
        }
    }
}

/// The list of capabilities is a circle, of every length and from every start.
#[test]
#[cfg_attr(miri, ignore = "minutes there, for safe code")]
fn capabilities_in_circles() {
    for start in (0..256_u32).step_by(4) {
        for step in [0, 4, 8, 252] {
            let mut node = device::block(1);
            node.space[13] = start;
            for place in 16..64_u32 {
                node.space[place as usize] = ((place * 4 + step) & 0xff) << 8 | 0x0010_0009;
            }
            let machine = Pcie::new(vec![node]);
            // SAFETY: as above.
            let host = unsafe { Host::new(machine.clone(), 0..=0, &WINDOWS) };
            use_all(&host, &Noise::new(1));
            assert!(machine.0.borrow().config_cycles < 2000, "{}", machine.0.borrow().config_cycles);
        }
    }
}
