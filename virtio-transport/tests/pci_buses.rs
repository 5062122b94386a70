//! What is on PCI buses: found behind bridges, numbered, and given addresses.

mod machine;

use machine::{BUS_MASTER, MEMORY, Node, Pcie, WINDOWS, device};
use virtio_transport::{
    DeviceType,
    pci::{Assigned, Host, InterruptRoute, MAX_BRIDGE_DEPTH, Pci, PciAddress, Window},
};

fn host(machine: &Pcie) -> Host<'static, Pcie> {
    host_with(machine, &WINDOWS)
}

fn host_with<'w>(machine: &Pcie, windows: &'w [Window]) -> Host<'w, Pcie> {
    // SAFETY: there is no memory that a device of this machine could reach.
    unsafe { Host::new(machine.clone(), 0..=255, windows) }
}

fn at(bus: u8, device: u8, function: u8) -> PciAddress {
    PciAddress::new(0, bus, device, function)
}

fn addresses(host: &Host<'_, Pcie>) -> Vec<String> {
    host.functions().map(|function| function.address().to_string()).collect()
}

/// Two bridges on the root bus, one of them with a bridge behind it.
fn tree() -> Vec<Node> {
    let network = Node::new(3, 0x1af4, 0x1041).bar(0, 0x2000).pin(2);
    let inner = Node::bridge(1, vec![device::block(2), network]);
    vec![
        Node::new(0, 0x1b36, 0x0008),
        Node::bridge(2, vec![Node::new(0, 0x8086, 0x10d3).bar(0, 0x2_0000), inner]).bar(0, 0x1000),
        device::block(5),
        Node::new(6, 0x1234, 1).multi_function().bar(0, 0x10),
        Node::new(6, 0x1234, 2).function(4).bar(3, 0x400),
        Node::bridge(31, vec![]),
    ]
}

#[test]
fn buses_that_nobody_numbered_are_numbered() {
    let machine = Pcie::new(tree());
    let host = host(&machine);
    let before = ["0000:00:00.0", "0000:00:02.0", "0000:00:05.0", "0000:00:06.0", "0000:00:06.4", "0000:00:1f.0"];
    assert_eq!(addresses(&host), before);
    // The BARs: one of each bridge and plain function, two of each disk.
    assert_eq!(host.assign(), Assigned { bars: 9, bridges: 3, refused: 0 });
    assert_eq!(
        addresses(&host),
        [
            "0000:00:00.0",
            "0000:00:02.0",
            "0000:01:00.0",
            "0000:01:01.0",
            "0000:02:02.0",
            "0000:02:03.0",
            "0000:00:05.0",
            "0000:00:06.0",
            "0000:00:06.4",
            "0000:00:1f.0"
        ]
    );
    let buses = |address| machine.with(address, |node| node.space[6].to_le_bytes());
    assert_eq!(buses(at(0, 2, 0)), [0, 1, 2, 0]);
    assert_eq!(buses(at(1, 1, 0)), [1, 2, 2, 0]);
    assert_eq!(buses(at(0, 31, 0)), [0, 3, 3, 0]);
}

#[test]
fn addresses_are_aligned_apart_and_forwarded() {
    let machine = Pcie::new(tree());
    let host = host(&machine);
    host.assign();
    let mut ranges = Vec::new();
    for function in host.functions() {
        for (index, start, bytes) in machine.with(function.address(), |node| node.bars()) {
            assert_eq!(start % bytes.max(4096), 0, "BAR {index} of {function:?} at {start:#x}");
            assert!(WINDOWS.iter().any(|it| it.pci_address <= start && start + bytes <= it.pci_address + it.bytes));
            ranges.push((start, start + bytes));
        }
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:x?}");

    let (bridge, inner) = (at(0, 2, 0), at(1, 1, 0));
    let forwards = |address| machine.with(address, |node| node.forwards());
    let inside = |ranges: &[(u64, u64)], start, bytes| {
        ranges.iter().any(|&(first, last)| first <= start && start + bytes - 1 <= last)
    };
    for (address, path) in [(at(1, 0, 0), vec![bridge]), (at(2, 2, 0), vec![bridge, inner]), (at(2, 3, 0), vec![inner])]
    {
        for (_, start, bytes) in machine.with(address, |node| node.bars()) {
            assert!(path.iter().all(|&bridge| inside(&forwards(bridge), start, bytes)), "{address} {start:#x}");
        }
    }
    // Nothing is behind this one: it is closed, so as not to take what others have.
    assert_eq!(forwards(at(0, 31, 0)), []);
    for bridge in [bridge, inner] {
        assert_eq!(machine.with(bridge, |node| node.space[1] & (MEMORY | BUS_MASTER)), MEMORY | BUS_MASTER);
    }
    // Drivers switch their own functions on.
    assert_eq!(machine.with(at(2, 2, 0), |node| node.space[1] & 7), 0);
}

#[test]
fn what_was_set_up_stays_as_it_is() {
    let machine = Pcie::new(tree());
    let host = host(&machine);
    host.assign();
    let all = |machine: &Pcie| format!("{:x?}", machine.0.borrow().root.iter().map(spaces).collect::<Vec<_>>());
    fn spaces(node: &Node) -> String {
        let behind: Vec<_> = node.behind.iter().map(spaces).collect();
        format!("{:x?} {behind:?}", node.space)
    }
    let before = all(&machine);
    assert_eq!(host.assign(), Assigned::default());
    assert_eq!(all(&machine), before);

    // Functions that answer are not touched at all, not even for a moment.
    for function in host.functions() {
        machine.with(function.address(), |node| node.space[1] |= MEMORY);
    }
    machine.config_writes();
    assert_eq!(host.assign(), Assigned::default());
    assert_eq!(machine.config_writes(), []);
}

#[test]
fn what_firmware_has_given_is_not_given_again() {
    let firmware =
        |address| vec![Node::new(1, 1, 1).bar(0, 0x1_0000).at(0, address), Node::new(2, 1, 2).bar(0, 0x1000)];
    // At the start, in the middle, at the end of the window: the larger part is left.
    for (address, wanted) in [(0x4000_0000, 0x4001_0000), (0x4100_0000, 0x4101_0000), (0x4fff_0000, 0x4000_0000)] {
        let machine = Pcie::new(firmware(address));
        assert_eq!(host(&machine).assign(), Assigned { bars: 1, ..Assigned::default() });
        assert_eq!(machine.with(at(0, 1, 0), |node| node.bars()), [(0, address, 0x1_0000)]);
        assert_eq!(machine.with(at(0, 2, 0), |node| node.bars()), [(0, wanted, 0x1000)]);
    }

    // A bridge that firmware has numbered and opened.
    let mut bridge = Node::bridge(1, vec![Node::new(0, 1, 1).bar(0, 0x1000).at(0, 0x4000_0000)]);
    (bridge.space[6], bridge.space[8]) = (0x0004_0400, 0x4010_4000);
    let machine = Pcie::new(vec![bridge, Node::bridge(2, vec![Node::new(0, 1, 2).bar(0, 0x1000)])]);
    assert_eq!(host(&machine).assign(), Assigned { bars: 1, bridges: 1, refused: 0 });
    assert_eq!(machine.with(at(5, 0, 0), |node| node.bars()), [(0, 0x4020_0000, 0x1000)]);
    assert_eq!(machine.with(at(4, 0, 0), |node| node.bars()), [(0, 0x4000_0000, 0x1000)]);
}

#[test]
fn large_ones_go_high_and_too_large_ones_get_none() {
    let large = |device| Node::new(device, 1, 1).wide_bar(0, 0x2000_0000);
    let root = vec![
        large(1),
        // Not prefetchable, or not of 64 bits: it has to be low, where there is not as much.
        Node::new(2, 1, 2).bar(0, 0x2000_0000),
        Node::new(3, 1, 3).wide_bar(0, 1 << 62),
        Node::bridge(4, vec![large(0), Node::new(1, 1, 1).bar(0, 0x1000)]),
        device::block(5),
    ];
    let machine = Pcie::new(root);
    let host = host(&machine);
    assert_eq!(host.assign(), Assigned { bars: 5, bridges: 1, refused: 2 });
    assert_eq!(machine.with(at(0, 1, 0), |node| node.bars()), [(0, 0x80_0000_0000, 0x2000_0000)]);
    assert_eq!(machine.with(at(0, 2, 0), |node| node.bars()), [(0, 0, 0x2000_0000)]);
    assert_eq!(machine.with(at(0, 3, 0), |node| node.bars()), [(0, 0, 1 << 62)]);
    assert_eq!(machine.with(at(1, 0, 0), |node| node.bars()), [(0, 0x80_2000_0000, 0x2000_0000)]);
    assert_eq!(
        machine.with(at(0, 4, 0), |node| node.forwards()),
        [(0x4000_0000, 0x400f_ffff), (0x80_2000_0000, 0x80_3fff_ffff)]
    );
    assert!(probe(&machine, &host, at(0, 5, 0)).is_some());
}

#[test]
fn a_bridge_that_cannot_go_high_keeps_what_is_behind_it_low() {
    let mut bridge = Node::bridge(1, vec![Node::new(0, 1, 1).wide_bar(0, 0x2000_0000)]);
    bridge.space[9] = 0;
    let machine = Pcie::new(vec![bridge]);
    assert_eq!(host(&machine).assign(), Assigned { bars: 0, bridges: 1, refused: 1 });
    assert_eq!(machine.with(at(1, 0, 0), |node| node.bars()), [(0, 0, 0x2000_0000)]);
}

#[test]
fn without_windows_nothing_is_given_and_addresses_are_the_same() {
    let machine = Pcie::new(vec![Node::new(1, 1, 1).bar(0, 0x1000)]);
    assert_eq!(host_with(&machine, &[]).assign(), Assigned { refused: 1, ..Assigned::default() });

    let machine = Pcie::new(vec![device::block(1).at(1, 0x8_0000).at(4, 0x9_0000_0000)]);
    let host = host_with(&machine, &[]);
    let function = host.functions().next().unwrap();
    let mut mapped = Vec::new();
    let device = Pci::probe(&function, |region| {
        mapped.push(region.address);
        machine.map(region)
    });
    assert!(device.unwrap().is_some());
    assert_eq!(mapped, [0x9_0000_0000, 0x9_0000_3000, 0x9_0000_1000, 0x9_0000_2000, 0x8_0800]);
}

#[test]
fn bridges_deeper_than_the_limit_are_left_alone() {
    let deep = (0..MAX_BRIDGE_DEPTH + 3).fold(vec![device::block(1)], |behind, _| vec![Node::bridge(0, behind)]);
    let machine = Pcie::new(deep);
    let host = host(&machine);
    assert_eq!(host.assign(), Assigned { bars: 0, bridges: MAX_BRIDGE_DEPTH as u32, refused: 1 });
    assert_eq!(host.functions().count(), MAX_BRIDGE_DEPTH + 1);
}

#[test]
fn bus_numbers_run_out() {
    let machine = Pcie::new((0..8).map(|device| Node::bridge(device, vec![Node::new(0, 1, 1)])).collect());
    // SAFETY: as above.
    let host = unsafe { Host::new(machine.clone(), 0..=3, &WINDOWS) };
    assert_eq!(host.assign(), Assigned { bars: 0, bridges: 3, refused: 5 });
    assert_eq!(host.functions().count(), 8 + 3);
}

#[test]
fn bridges_that_lead_out_of_the_host_are_not_followed() {
    for buses in [[0, 4, 4, 0], [0, 2, 1, 0], [0, 255, 255, 0]] {
        let mut bridge = Node::bridge(1, vec![device::block(1)]);
        bridge.space[6] = u32::from_le_bytes(buses);
        let machine = Pcie::new(vec![bridge]);
        // SAFETY: as above.
        let host = unsafe { Host::new(machine.clone(), 0..=3, &WINDOWS) };
        assert_eq!(addresses(&host), ["0000:00:01.0"], "{buses:?}");
    }
}

#[test]
fn configuration_space_in_memory() {
    use machine::device::Access;
    use std::{cell::RefCell, rc::Rc};
    use virtio_transport::{
        Registers,
        pci::{ConfigRegionAccess, Ecam},
    };

    /// Registers that answer with their offset.
    #[derive(Clone, Default)]
    struct Echo(Rc<RefCell<Vec<Access>>>);
    impl Registers for Echo {
        fn bytes(&self) -> usize {
            0x20_0000
        }
        fn read_u32(&self, offset: usize) -> u32 {
            (offset as u32).to_le()
        }
        fn write_u32(&self, offset: usize, value: u32) {
            self.0.borrow_mut().push(Access('w', 32, offset as u64, u32::from_le(value)));
        }
        fn read_u8(&self, _: usize) -> u8 {
            panic!("configuration space is accessed by words")
        }
        fn read_u16(&self, _: usize) -> u16 {
            panic!("configuration space is accessed by words")
        }
        fn write_u8(&self, _: usize, _: u8) {
            panic!("configuration space is accessed by words")
        }
        fn write_u16(&self, _: usize, _: u16) {
            panic!("configuration space is accessed by words")
        }
    }

    let echo = Echo::default();
    // Two buses, from bus 5 on.
    let ecam = Ecam::new(echo.clone(), 5);
    // SAFETY: nothing is behind these registers.
    let read = |address, offset| unsafe { ecam.read(address, offset) };
    assert_eq!(read(at(5, 0, 0), 0), 0);
    assert_eq!(read(at(6, 31, 7), 0xffc), 0x1f_fffc);
    assert_eq!(read(at(5, 3, 2), 0x10), 0x1_a010);
    for (address, offset) in [
        (at(4, 0, 0), 0),
        (at(7, 0, 0), 0),
        (at(255, 0, 0), 0),
        (at(5, 0, 0), 2),
        (at(5, 0, 0), 0x1000),
        (PciAddress::new(1, 5, 0, 0), 0),
    ] {
        assert_eq!(read(address, offset), u32::MAX, "{address} {offset:#x}");
        // SAFETY: as above.
        unsafe { ecam.write(address, offset, 1) };
    }
    // SAFETY: as above.
    unsafe { ecam.write(at(6, 1, 0), 4, 0x1234_5678) };
    assert_eq!(*echo.0.borrow(), [Access('w', 32, 0x10_8004, 0x1234_5678)]);
}

#[test]
fn pins_take_turns_behind_bridges() {
    let machine = Pcie::new(tree());
    let host = host(&machine);
    host.assign();
    let route = |address| host.functions().find(|it| it.address() == address).unwrap().interrupt();
    assert_eq!(route(at(0, 5, 0)), Some(InterruptRoute { address: at(0, 5, 0), pin: 1 }));
    // A function without a pin, and one behind a bridge without one.
    assert_eq!(route(at(0, 6, 0)), None);
    assert_eq!(route(at(1, 0, 0)), None);
    // Device 2 behind bridge 1 behind bridge 2 on the root bus: INTA moves on by 2, then by 1.
    assert_eq!(route(at(2, 2, 0)), Some(InterruptRoute { address: at(0, 2, 0), pin: 4 }));
    // Device 3, INTB: by 3 and by 1.
    assert_eq!(route(at(2, 3, 0)), Some(InterruptRoute { address: at(0, 2, 0), pin: 2 }));
}

#[test]
fn which_functions_are_virtio_devices() {
    let transitional = |id: u16, subsystem: u32| {
        let mut node = Node::new(1, 0x1af4, id);
        node.space[11] = subsystem << 16 | 0x1af4;
        node
    };
    for (node, wanted) in [
        (Node::new(1, 0x1af4, 0x1042), Some(DeviceType::BLOCK)),
        (Node::new(1, 0x1af4, 0x107f), Some(DeviceType(0x3f))),
        (Node::new(1, 0x1af4, 0x1080), None),
        (Node::new(1, 0x1af4, 0x0fff), None),
        (Node::new(1, 0x1af5, 0x1042), None),
        (transitional(0x1001, 2), Some(DeviceType::BLOCK)),
        (transitional(0x1000, 1), Some(DeviceType::NETWORK)),
        (transitional(0x103f, 4), Some(DeviceType::ENTROPY)),
    ] {
        let machine = Pcie::new(vec![node]);
        let found = host(&machine).functions().next().map(|function| function.virtio_type());
        assert_eq!(found, Some(wanted));
    }
}

fn probe(machine: &Pcie, host: &Host<'_, Pcie>, address: PciAddress) -> Option<Pci<machine::Mapped>> {
    let function = host.functions().find(|it| it.address() == address)?;
    Pci::probe(&function, |region| machine.map(region)).unwrap()
}

#[test]
fn registers_are_reached_through_bridges_and_windows() {
    use virtio_transport::Transport;
    let machine = Pcie::new(tree());
    let host = host(&machine);
    host.assign();
    for address in [at(2, 2, 0), at(0, 5, 0)] {
        let mut device = probe(&machine, &host, address).unwrap();
        assert_eq!((device.address(), device.device_type()), (address, DeviceType::BLOCK));
        assert_eq!(device.device_features(), 0x181_3000_0254);
        assert_eq!(machine.with(address, |node| node.space[1] & 7), MEMORY | BUS_MASTER);
    }
    // The addresses are the processor's, which are others than the devices'.
    assert!(machine.0.borrow().mapped.iter().all(|region| region.address >= 0x9_4000_0000));
}
