//! PCI host bridges in device trees.
//!
//! `data/pci.dtb` is compiled from `data/pci.dts` beside it.

use proptest::{prelude::*, test_runner::RngSeed};
use virtio_transport::{
    DeviceTree, NodeProblem, PciHostNode, Region,
    pci::{InterruptRoute, PciAddress, Window},
};

const MACHINE: &[u8] = include_bytes!("data/pci.dtb");

fn hosts() -> Vec<PciHostNode<'static>> {
    DeviceTree::parse(MACHINE).unwrap().pci_hosts().filter_map(Result::ok).collect()
}

fn host(name: &str) -> PciHostNode<'static> {
    hosts().into_iter().find(|host| host.name == name).unwrap()
}

#[test]
fn configuration_space_and_buses() {
    let found: Vec<_> =
        hosts().iter().map(|host| (host.name, host.config_space, host.first_bus, host.last_bus)).collect();
    let region = |address, bytes| Region { address, bytes };
    assert_eq!(
        found,
        [
            ("pci@30000000", region(0x3000_0000, 0x1000_0000), 0, 255),
            ("pcie@1000000", region(0x8_8100_0000, 0x80_0000), 4, 7),
            // Two buses and a part of a third.
            ("pci@50000000", region(0x5000_0000, 0x2f_ffff), 0, 1),
            ("short-map", region(0x5000_0000, 0x10_0000), 0, 0),
            ("lost-map", region(0x5000_0000, 0x10_0000), 0, 0),
            ("cut-map", region(0x5000_0000, 0x10_0000), 0, 0),
        ]
    );
}

#[test]
fn windows_for_memory_as_the_processor_sees_them() {
    assert_eq!(
        host("pci@30000000").windows(),
        [
            Window { pci_address: 0x4000_0000, address: 0x4000_0000, bytes: 0x4000_0000, prefetchable: false },
            Window { pci_address: 0x4_0000_0000, address: 0x4_0000_0000, bytes: 0x4_0000_0000, prefetchable: true },
        ]
    );
    let moved = Window { pci_address: 0x1000_0000, address: 0x9_0000_0000, bytes: 0x1000_0000, prefetchable: false };
    assert_eq!(host("pcie@1000000").windows(), [moved]);
    assert_eq!(host("pci@50000000").windows(), []);
}

fn route(bus: u8, device: u8, pin: u8) -> InterruptRoute {
    InterruptRoute { address: PciAddress::new(0, bus, device, 0), pin }
}

#[test]
fn interrupts_of_controllers_of_all_kinds() {
    let virt = host("pci@30000000");
    let found = |route| virt.interrupt(&route).unwrap().map(|it| (it.cells().to_vec(), it.number()));
    assert_eq!(found(route(0, 0, 1)), Some((vec![0x20], Some(0x20))));
    assert_eq!(found(route(0, 0, 2)), Some((vec![0x21], Some(0x21))));
    assert_eq!(found(route(0, 1, 1)), Some((vec![0x21, 4], Some(0x21))));
    assert_eq!(found(route(0, 1, 2)), Some((vec![0, 5, 4], Some(37))));
    // The mask leaves two bits of the device's number, and nothing of the bus and the function.
    assert_eq!(found(route(0, 4, 1)), found(route(0, 0, 1)));
    assert_eq!(found(route(3, 29, 2)), found(route(0, 1, 2)));
    assert_eq!(found(InterruptRoute { address: PciAddress::new(0, 0, 0, 5), pin: 1 }), found(route(0, 0, 1)));
    // Not in the map.
    assert_eq!(found(route(0, 2, 1)), None);
    assert_eq!(found(route(0, 0, 3)), None);

    // Without a mask, every bit counts.
    let other = host("pcie@1000000");
    assert_eq!(other.interrupt(&route(4, 4, 3)).unwrap().unwrap().number(), Some(7));
    assert_eq!(other.interrupt(&route(5, 4, 3)), Ok(None));
    assert_eq!(host("pci@50000000").interrupt(&route(0, 0, 1)), Ok(None));
}

#[test]
fn what_cannot_be_understood_is_an_error_of_its_own() {
    let tree = DeviceTree::parse(MACHINE).unwrap();
    let problems: Vec<_> = tree.pci_hosts().filter_map(Result::err).map(|error| (error.name, error.problem)).collect();
    assert_eq!(
        problems,
        [
            ("bad-reg", NodeProblem::BadReg),
            ("bad-size", NodeProblem::BadReg),
            ("bad-buses", NodeProblem::BadBusRange),
            ("bad-bus", NodeProblem::BadBusRange),
            ("bad-cells", NodeProblem::UnsupportedCells { address_cells: 2, size_cells: 2 }),
            ("bad-ranges", NodeProblem::BadRanges),
            ("many-ranges", NodeProblem::BadRanges),
            ("wrapping-ranges", NodeProblem::BadRanges),
            ("bad-mask", NodeProblem::BadInterruptMap),
        ]
    );
    assert_eq!(host("short-map").interrupt(&route(0, 0, 1)).unwrap().unwrap().number(), Some(0x20));
    assert_eq!(host("short-map").interrupt(&route(0, 1, 1)), Err(NodeProblem::BadInterruptMap));
    assert_eq!(host("lost-map").interrupt(&route(0, 0, 1)), Err(NodeProblem::NoInterruptController { phandle: 0x77 }));
    assert_eq!(host("cut-map").interrupt(&route(0, 0, 1)), Err(NodeProblem::BadInterrupts));
    assert_eq!(host("cut-map").interrupt(&route(0, 0, 2)), Err(NodeProblem::BadInterruptMap));
}

/// The same cases on every run. Miri checks each access, slowly; the fast run is there for the cases.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 2000 },
        rng_seed: RngSeed::Fixed(0x7063_6964),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Damage anywhere: an error or an answer, and an end.
    #[test]
    fn damaged_trees(changes in prop::collection::vec((0..MACHINE.len(), any::<u8>()), 0..8), bus: u8, device in 0_u8..32, pin: u8) {
        let mut blob = MACHINE.to_vec();
        for (place, value) in changes {
            blob[place] = value;
        }
        if let Ok(tree) = DeviceTree::parse(&blob) {
            for host in tree.pci_hosts().flatten() {
                prop_assert!(host.first_bus <= host.last_bus);
                let buses = u64::from(host.last_bus - host.first_bus) + 1;
                prop_assert!(buses << 20 <= host.config_space.bytes);
                for window in host.windows() {
                    prop_assert!(window.address.checked_add(window.bytes).is_some());
                    prop_assert!(window.pci_address.checked_add(window.bytes).is_some());
                }
                let _ = host.interrupt(&route(bus, device, pin));
            }
        }
    }
}
