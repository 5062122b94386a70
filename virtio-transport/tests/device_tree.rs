//! Device trees: whole ones, odd ones and damaged ones.
//!
//! `data/machine.dtb` is compiled from `data/machine.dts` beside it.

use proptest::{prelude::*, test_runner::RngSeed};
use virtio_transport::{DeviceTree, DeviceTreeError, MAX_DEPTH, MmioNode, NodeProblem, Region};

const MACHINE: &[u8] = include_bytes!("data/machine.dtb");

fn region(address: u64, bytes: u64) -> Region {
    Region { address, bytes }
}

#[test]
fn nodes_in_order_with_regions_and_interrupts() {
    let tree = DeviceTree::parse(MACHINE).unwrap();
    let found: Vec<_> = tree
        .virtio_mmio()
        .filter_map(Result::ok)
        .map(|MmioNode { name, region, interrupt }| {
            let (cells, number) = interrupt.map_or((vec![], None), |it| (it.cells().to_vec(), it.number()));
            (name, region, cells, number)
        })
        .collect();
    assert_eq!(
        found,
        [
            ("virtio_mmio@1000", region(0x1000, 0x200), vec![42], Some(42)),
            ("virtio_mmio@10001000", region(0x1000_1000, 0x1000), vec![1], Some(1)),
            ("disk@10002000", region(0x1000_2000, 0x1000), vec![0, 16, 1], Some(48)),
            ("virtio_mmio@1010005000", region(0x10_1000_5000, 0x1000), vec![], None),
            ("virtio_mmio@10006000", region(0x1000_6000, 0x1000), vec![1, 13, 4], Some(29)),
            ("virtio_mmio@9000", region(0x1_3000_1000, 0x1000), vec![9], Some(9)),
            ("virtio_mmio@500000200", region(0x1_3000_0200, 0x200), vec![2], Some(2)),
        ]
    );
}

#[test]
fn nodes_that_make_no_sense_are_errors_of_their_own() {
    let tree = DeviceTree::parse(MACHINE).unwrap();
    let problems: Vec<_> =
        tree.virtio_mmio().filter_map(Result::err).map(|error| (error.name, error.problem)).collect();
    assert_eq!(
        problems,
        [
            ("virtio_mmio@9800", NodeProblem::NotMapped { region: region(0x9800, 0x1000) }),
            ("virtio_mmio@0", NodeProblem::UnsupportedCells { address_cells: 3, size_cells: 2 }),
            ("virtio_mmio@2000", NodeProblem::NotMapped { region: region(0x2000, 0x1000) }),
            ("virtio_mmio@2000", NodeProblem::BadReg),
            ("virtio_mmio@3000", NodeProblem::NoInterruptController { phandle: 0x77 }),
            ("virtio_mmio@4000", NodeProblem::BadInterrupts),
            ("virtio_mmio@ffffffffffffff00", NodeProblem::BadReg),
        ]
    );
    for error in tree.virtio_mmio().filter_map(Result::err) {
        assert!(error.to_string().starts_with("device tree node virtio_mmio@"), "{error}");
    }
}

/// The same nodes as an independent reader finds them, where that one can follow: it translates no addresses.
#[test]
#[cfg_attr(miri, ignore = "slow there, and nothing of ours to be found")]
fn agrees_with_the_fdt_crate() {
    let theirs: Vec<_> = fdt::Fdt::new(MACHINE)
        .unwrap()
        .all_nodes()
        .filter(|node| node.compatible().is_some_and(|names| names.all().any(|name| name == "virtio,mmio")))
        .filter(|node| node.property("status").is_none_or(|status| status.as_str() == Some("okay")))
        .map(|node| node.name.to_owned())
        .collect();
    let ours: Vec<_> = DeviceTree::parse(MACHINE)
        .unwrap()
        .virtio_mmio()
        .map(|node| node.map_or_else(|error| error.name, |node| node.name).to_owned())
        .collect();
    // It knows nothing of nodes that are off with the node above them.
    let theirs: Vec<_> = theirs.into_iter().filter(|name| name != "virtio_mmio@1").collect();
    assert_eq!(ours, theirs);

    let fdt = fdt::Fdt::new(MACHINE).unwrap();
    for node in DeviceTree::parse(MACHINE).unwrap().virtio_mmio().filter_map(Result::ok).skip(1).take(4) {
        let theirs = fdt.find_node(&format!("/soc/{}", node.name)).unwrap().reg().unwrap().next().unwrap();
        assert_eq!(theirs.starting_address as u64, node.region.address, "{}", node.name);
        assert_eq!(theirs.size.map(|size| size as u64), Some(node.region.bytes), "{}", node.name);
    }
}

#[test]
fn any_alignment() {
    let expected: Vec<_> = DeviceTree::parse(MACHINE).unwrap().virtio_mmio().collect();
    for shift in 1..8 {
        let mut shifted = vec![0xee; shift];
        shifted.extend_from_slice(MACHINE);
        let tree = DeviceTree::parse(&shifted[shift..]).unwrap();
        assert!(tree.virtio_mmio().eq(expected.iter().copied()), "shifted by {shift}");
    }
}

#[test]
fn from_a_pointer() {
    let pointer = MACHINE.as_ptr();
    // SAFETY: a tree that lives for ever, and its length.
    let tree = unsafe { DeviceTree::from_ptr(pointer, MACHINE.len()) }.unwrap();
    assert_eq!(tree.virtio_mmio().count(), 14);
    // SAFETY: the header says how long it is, which is less than this.
    assert!(unsafe { DeviceTree::from_ptr(pointer, usize::MAX) }.is_ok());
    for max_bytes in [0, 39, 40, MACHINE.len() - 1] {
        // SAFETY: less than the tree.
        let error = unsafe { DeviceTree::from_ptr(pointer, max_bytes) }.unwrap_err();
        assert!(matches!(error, DeviceTreeError::Truncated { found, .. } if found == max_bytes), "{error}");
    }
    // SAFETY: null is allowed.
    let error = unsafe { DeviceTree::from_ptr(core::ptr::null(), 4096) }.unwrap_err();
    assert_eq!(error, DeviceTreeError::Truncated { needed: 40, found: 0 });
}

#[test]
fn every_truncation_is_an_error() {
    let step = if cfg!(miri) { 97 } else { 1 };
    for length in (0..MACHINE.len()).step_by(step) {
        assert!(DeviceTree::parse(&MACHINE[..length]).is_err(), "{length} bytes");
        // Also when the header is made to agree.
        let mut blob = MACHINE[..length].to_vec();
        if length >= 8 {
            blob[4..8].copy_from_slice(&(length as u32).to_be_bytes());
            assert!(DeviceTree::parse(&blob).is_err(), "{length} bytes, and a header that says so");
        }
    }
}

/// A blob around a structure block and a strings block.
fn blob(structure: &[u8], strings: &[u8]) -> Vec<u8> {
    let structure_offset = 56_u32;
    let strings_offset = structure_offset + structure.len() as u32;
    let total = strings_offset + strings.len() as u32;
    let header = [
        0xd00d_feed,
        total,
        structure_offset,
        strings_offset,
        40,
        17,
        16,
        0,
        strings.len() as u32,
        structure.len() as u32,
    ];
    let mut blob: Vec<u8> = header.into_iter().flat_map(u32::to_be_bytes).collect();
    blob.resize(56, 0);
    blob.extend_from_slice(structure);
    blob.extend_from_slice(strings);
    blob
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A node's beginning without a name, a node's end, a property, nothing, the end of the tree.
const BEGIN: [u32; 2] = [1, 0];
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        let mut structure = BEGIN.repeat(depth);
        structure.extend(vec![END_NODE; depth]);
        structure.push(END);
        blob(&words(&structure), b"")
    };
    assert!(DeviceTree::parse(&nested(MAX_DEPTH)).is_ok());
    let error = DeviceTree::parse(&nested(MAX_DEPTH + 1)).unwrap_err();
    assert_eq!(error, DeviceTreeError::TooDeep { offset: 8 * MAX_DEPTH });
    assert!(matches!(
        DeviceTree::parse(&nested(if cfg!(miri) { 100 } else { 100_000 })),
        Err(DeviceTreeError::TooDeep { .. })
    ));
}

#[test]
fn broken_structures() {
    let cases: &[(&[u32], &str)] = &[
        (&[], "the block ends, expected a token"),
        (&[END], "the end of the tree, expected the end of a node"),
        (&[1, 0], "the block ends, expected a token"),
        (&[1, 0, END], "the end of the tree, expected the end of a node"),
        (&[END_NODE, END], "the end of a node that did not begin"),
        (&[1, 0, END_NODE, 1, 0, END_NODE, END], "a second root node"),
        (&[1, 0, 1, 0, END_NODE, PROPERTY, 0, 0, END_NODE, END], "a property that is not at the start of a node"),
        (&[PROPERTY, 0, 0, END], "a property that is not at the start of a node"),
        (&[1, 0, PROPERTY, 0, 9, END_NODE, END], "a property's length or name is damaged"),
        (&[1, 0, PROPERTY, u32::MAX, 0, END_NODE, END], "a property's length or name is damaged"),
        (&[1, 0, PROPERTY, 9, 0, END_NODE, END], "a property's length or name is damaged"),
        (&[1, 0x6161_6161], "a node's name is damaged"),
        (&[1, 0xff00_0000, END_NODE, END], "a node's name is damaged"),
        (&[1, 0, 5, END_NODE, END], "an unknown token"),
        (&[1, 0, 0, END_NODE, END], "an unknown token"),
    ];
    for &(structure, expected) in cases {
        match DeviceTree::parse(&blob(&words(structure), b"name\0")) {
            Err(DeviceTreeError::Damaged { what, .. }) => assert_eq!(what, expected, "{structure:x?}"),
            other => panic!("{structure:x?}: {other:?}"),
        }
    }
    let good = [NOP, 1, 0, NOP, PROPERTY, 3, 0, 0x6162_0000, NOP, 1, 0, NOP, END_NODE, NOP, END_NODE, NOP, END];
    assert!(DeviceTree::parse(&blob(&words(&good), b"name\0")).is_ok());
}

#[test]
fn broken_headers() {
    let with = |offset: usize, value: u32| {
        let mut blob = MACHINE.to_vec();
        blob[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
        DeviceTree::parse(&blob).err()
    };
    assert_eq!(with(0, 0xedfe_0dd0), Some(DeviceTreeError::BadMagic { found: 0xedfe_0dd0 }));
    assert_eq!(with(20, 16), Some(DeviceTreeError::UnsupportedVersion { version: 16, compatible: 16 }));
    assert_eq!(with(24, 18), Some(DeviceTreeError::UnsupportedVersion { version: 17, compatible: 18 }));
    assert_eq!(with(20, 18), None);
    for (offset, block) in [(8, "structure"), (36, "structure"), (12, "strings"), (32, "strings")] {
        for value in [u32::MAX, i32::MAX as u32, MACHINE.len() as u32 + 1] {
            match with(offset, value) {
                Some(DeviceTreeError::BlockOutside { block: found, .. }) => assert_eq!(found, block),
                other => panic!("{offset}: {other:?}"),
            }
        }
    }
}

/// A node in a tree without any controller: the example of the specification.
#[test]
fn no_interrupt_controller_at_all() {
    let mut structure = vec![1, 0];
    structure.extend([1, u32::from_be_bytes(*b"disk"), 0]);
    structure.extend([PROPERTY, 12, 0]); // compatible
    structure.extend([u32::from_be_bytes(*b"virt"), u32::from_be_bytes(*b"io,m"), u32::from_be_bytes(*b"mio\0")]);
    structure.extend([PROPERTY, 12, 11, 0, 0x1e000, 0x200]); // reg: two cells and one, as nothing else is said
    structure.extend([PROPERTY, 4, 15, 42]); // interrupts
    structure.extend([END_NODE, END_NODE, END]);
    let blob = blob(&words(&structure), b"compatible\0reg\0interrupts\0");
    let node = DeviceTree::parse(&blob).unwrap().virtio_mmio().next().unwrap().unwrap();
    assert_eq!((node.name, node.region), ("disk", region(0x1e000, 0x200)));
    let interrupt = node.interrupt.unwrap();
    assert_eq!((interrupt.controller, interrupt.cells(), interrupt.number()), (None, &[42][..], Some(42)));
}

/// One way to damage a tree.
#[derive(Clone, Debug)]
enum Damage {
    Flip { at: usize, bits: u8 },
    Word { at: usize, value: u32 },
    Cut { length: usize },
    Copy { from: usize, to: usize, length: usize },
}

fn damage() -> impl Strategy<Value = Damage> {
    let length = MACHINE.len();
    // Small numbers hit tokens, counts of cells and lengths; the others overflow things.
    let value = prop_oneof![0_u32..12, any::<u32>(), (0_u32..64).prop_map(|it| u32::MAX - it), 0..length as u32];
    prop_oneof![
        4 => (0..length, 1..=u8::MAX).prop_map(|(at, bits)| Damage::Flip { at, bits }),
        2 => (0..10_usize, value.clone()).prop_map(|(at, value)| Damage::Word { at: at * 4, value }),
        6 => (10..length / 4, value).prop_map(|(at, value)| Damage::Word { at: at * 4, value }),
        1 => (0..length).prop_map(|length| Damage::Cut { length }),
        1 => (0..length / 4, 0..length / 4, 0..64_usize)
            .prop_map(|(from, to, length)| Damage::Copy { from: from * 4, to: to * 4, length }),
    ]
}

impl Damage {
    fn apply(&self, blob: &mut Vec<u8>) {
        match *self {
            Self::Flip { at, bits } => {
                if let Some(byte) = blob.get_mut(at) {
                    *byte ^= bits;
                }
            }
            Self::Word { at, value } => {
                if let Some(word) = blob.get_mut(at..at + 4) {
                    word.copy_from_slice(&value.to_be_bytes());
                }
            }
            Self::Cut { length } => blob.truncate(length),
            Self::Copy { from, to, length } => {
                if from.max(to) + length <= blob.len() {
                    blob.copy_within(from..from + length, to);
                }
            }
        }
    }
}

/// Everything that can be asked of a tree. Answers how many nodes were fine.
fn use_all(blob: &[u8]) -> Option<usize> {
    let tree = match DeviceTree::parse(blob) {
        Ok(tree) => tree,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    let mut fine = 0;
    for node in tree.virtio_mmio() {
        match node {
            Ok(node) => {
                assert!(node.region.address.checked_add(node.region.bytes).is_some());
                if let Some(interrupt) = node.interrupt {
                    assert!(!interrupt.cells().is_empty());
                    let _ = interrupt.number();
                }
                fine += 1;
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    Some(fine)
}

/// The same cases on every run. Miri checks each access, slowly; the fast run is there for the cases.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 8 } else { cases },
        rng_seed: RngSeed::Fixed(0x7672_7469_6f64_7462),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(60_000))]

    #[test]
    fn damaged_trees_are_answered(damages in prop::collection::vec(damage(), 1..6)) {
        let mut blob = MACHINE.to_vec();
        for damage in damages {
            damage.apply(&mut blob);
        }
        use_all(&blob);
    }
}

proptest! {
    #![proptest_config(config(20_000))]

    /// Structures that never were a tree, around the real strings, so that properties have names that matter.
    #[test]
    #[cfg_attr(miri, ignore = "minutes there, for safe code")]
    fn random_structures_are_answered(
        tokens in prop::collection::vec(prop_oneof![0_u32..10, Just(1), Just(3), any::<u32>(), 0_u32..256], 0..64),
    ) {
        let strings = b"compatible\0reg\0#address-cells\0ranges\0interrupts\0phandle\0#interrupt-cells\0";
        use_all(&blob(&words(&tokens), strings));
    }
}
