//! What a disk says of itself: each field through its feature, and only so.

mod common;

use common::{defaults, few, open, pattern, transport, try_open};
use testing_device::{BlockDevice, Builder, Flicker, Generation, Interface, ScatterMemory};
use virtio_blk::{
    BlockFeatures, Disk, Either, EraseLimits, Error, FeatureSet, Features, Geometry, Info, NoBuffer, OpenError,
    Options, Topology,
};
use virtio_spec::block::BlockConfig;
use virtio_transport::{CONFIG_READ_ATTEMPTS, ConfigError, Spin};

const INTERFACES: [Interface; 2] = [Interface::Modern, Interface::Legacy];

/// Every field of the configuration with a value of its own.
fn distinct(config: &mut BlockConfig) {
    config.capacity = 0x1_2345_6789_u64.into();
    config.size_max = 0x0011_2233.into();
    config.seg_max = 77.into();
    config.geometry.cylinders = 1234.into();
    config.geometry.heads = 56;
    config.geometry.sectors = 78;
    config.blk_size = 2048.into();
    config.topology.physical_block_exp = 3;
    config.topology.alignment_offset = 5;
    config.topology.min_io_size = 7.into();
    config.topology.opt_io_size = 11.into();
    config.num_queues = 3.into();
    config.max_discard_sectors = 21.into();
    config.max_discard_seg = 22.into();
    config.discard_sector_alignment = 23.into();
    config.max_write_zeroes_sectors = 31.into();
    config.max_write_zeroes_seg = 32.into();
    config.write_zeroes_may_unmap = 1;
    config.max_secure_erase_sectors = 41.into();
    config.max_secure_erase_seg = 42.into();
    config.secure_erase_sector_alignment = 43.into();
}

/// The block features that have fields, but for CONFIG_WCE.
const WITH_FIELDS: [BlockFeatures; 9] = [
    BlockFeatures::SIZE_MAX,
    BlockFeatures::SEG_MAX,
    BlockFeatures::GEOMETRY,
    BlockFeatures::BLK_SIZE,
    BlockFeatures::TOPOLOGY,
    BlockFeatures::MQ,
    BlockFeatures::DISCARD,
    BlockFeatures::WRITE_ZEROES,
    BlockFeatures::SECURE_ERASE,
];

fn device_with(interface: Interface, features: BlockFeatures) -> Builder {
    BlockDevice::builder().features(features.bits()).interface(interface).config(distinct)
}

fn info_of(builder: Builder) -> Info {
    let memory = ScatterMemory::new();
    let device = builder.build(&memory);
    let info = *open(&device, &memory, &defaults()).info();
    device.assert_conformant();
    memory.assert_clean();
    info
}

fn bare(interface: Interface) -> Info {
    let features = match interface {
        Interface::Modern => Features::VERSION_1,
        Interface::Legacy => Features::ANY_LAYOUT,
    };
    Info {
        features: features.into(),
        capacity_sectors: 0x1_2345_6789,
        read_only: false,
        block_bytes: 512,
        geometry: None,
        topology: None,
        size_max_bytes: None,
        seg_max: 1,
        cache_mode_can_change: false,
        num_queues: 1,
        discard: None,
        write_zeroes: None,
        write_zeroes_may_unmap: false,
        secure_erase: None,
        zoned: None,
    }
}

/// What a feature adds.
fn add(info: &mut Info, feature: BlockFeatures) {
    info.features = info.features | feature;
    match feature {
        BlockFeatures::SIZE_MAX => info.size_max_bytes = Some(0x0011_2233),
        BlockFeatures::SEG_MAX => info.seg_max = 77,
        BlockFeatures::GEOMETRY => info.geometry = Some(Geometry { cylinders: 1234, heads: 56, sectors: 78 }),
        BlockFeatures::BLK_SIZE => info.block_bytes = 2048,
        BlockFeatures::MQ => info.num_queues = 3,
        BlockFeatures::DISCARD => {
            info.discard = Some(EraseLimits { max_sectors: 21, max_segments: 22, alignment_sectors: 23 });
        }
        BlockFeatures::WRITE_ZEROES => {
            info.write_zeroes = Some(EraseLimits { max_sectors: 31, max_segments: 32, alignment_sectors: 1 });
            info.write_zeroes_may_unmap = true;
        }
        BlockFeatures::SECURE_ERASE => {
            info.secure_erase = Some(EraseLimits { max_sectors: 41, max_segments: 42, alignment_sectors: 43 });
        }
        _ => {}
    }
    if feature == BlockFeatures::TOPOLOGY || info.topology.is_some() {
        let block = u64::from(info.block_bytes);
        info.topology = Some(Topology {
            physical_block_bytes: 8 * block,
            alignment_offset_bytes: 5 * block,
            min_io_bytes: 7 * block,
            opt_io_bytes: 11 * block,
        });
    }
}

#[test]
fn each_field_is_read_through_its_feature_and_no_other() {
    for interface in INTERFACES {
        assert_eq!(info_of(device_with(interface, BlockFeatures::empty())), bare(interface));
        for feature in few(3, WITH_FIELDS) {
            let mut expected = bare(interface);
            add(&mut expected, feature);
            assert_eq!(info_of(device_with(interface, feature)), expected, "{interface:?}, {feature:?}");
        }
    }
}

#[test]
fn all_fields_are_read_together() {
    for interface in INTERFACES {
        let mut expected = bare(interface);
        let mut all = BlockFeatures::empty();
        for feature in WITH_FIELDS {
            add(&mut expected, feature);
            all |= feature;
        }
        add(&mut expected, BlockFeatures::RO);
        expected.read_only = true;
        assert_eq!(info_of(device_with(interface, all | BlockFeatures::RO)), expected);
        assert_eq!(expected.capacity_bytes(), 0x1_2345_6789 * 512);
        assert_eq!(expected.block_sectors(), 4);
    }
}

#[test]
fn a_field_whose_feature_is_forbidden_is_as_if_it_were_not_there() {
    for feature in few(2, WITH_FIELDS) {
        let memory = ScatterMemory::new();
        let device = device_with(Interface::Modern, WITH_FIELDS.into_iter().collect()).build(&memory);
        let options = Options { forbid: feature.into(), ..defaults() };
        let info = *open(&device, &memory, &options).info();
        let mut expected = bare(Interface::Modern);
        for other in WITH_FIELDS.into_iter().filter(|other| *other != feature) {
            add(&mut expected, other);
        }
        assert_eq!(info, expected, "without {feature:?}");
        assert_eq!(device.negotiated(), 0, "the disk was dropped");
    }
}

#[test]
fn features_that_the_driver_does_not_know_are_not_accepted() {
    let unknown = FeatureSet::from(BlockFeatures::BARRIER | BlockFeatures::SCSI)
        | Features::NOTIFY_ON_EMPTY
        | Features::SR_IOV
        | Features::ADMIN_VQ
        | FeatureSet::from_bits(1 << 30 | 1 << 50 | 1 << 63);
    assert!((FeatureSet::SUPPORTED & unknown).is_empty());
    // Nor those that have to be asked for, and those that the ring was not chosen for.
    let unwanted = Features::RING_PACKED | Features::IN_ORDER | Features::RING_RESET | Features::SUSPEND;
    for (interface, other) in [(Interface::Modern, Features::ANY_LAYOUT), (Interface::Legacy, Features::empty())] {
        let memory = ScatterMemory::new();
        let more = !FeatureSet::SUPPORTED.bits() | unwanted.bits() | other.bits();
        let more = if interface == Interface::Modern { more } else { more & u64::from(u32::MAX) };
        let device = BlockDevice::builder().interface(interface).offer(more).build(&memory);
        let disk = open(&device, &memory, &defaults());
        assert_eq!(device.negotiated() & more, 0);
        assert_eq!(disk.info().features.bits(), device.negotiated());
        assert!(FeatureSet::SUPPORTED.contains(disk.info().features));
        drop(disk);
        device.assert_conformant();
    }
}

#[test]
fn a_legacy_device_has_any_layout_or_the_one_of_old() {
    for offered in [true, false] {
        let memory = ScatterMemory::new();
        let bit = Features::ANY_LAYOUT;
        let builder = BlockDevice::builder().interface(Interface::Legacy);
        let device = if offered { builder } else { builder.withhold(bit.bits()) }.build(&memory);
        // Accepted where it is offered: that is no wish of the kernel's.
        let options = Options { forbid: bit.into(), ..defaults() };
        let mut disk = open(&device, &memory, &options);
        assert_eq!(disk.info().features.contains(bit), offered);
        let data = pattern(5 * 512, 3);
        disk.write(2, &data, &mut Spin).unwrap();
        let mut back = vec![0; data.len()];
        disk.read(2, &mut back, &mut Spin).unwrap();
        disk.flush(&mut Spin).unwrap();
        assert_eq!(disk.device_id(&mut Spin).unwrap().as_bytes(), b"testing-device");
        assert_eq!((&back, device.read_disk(2, 5)), (&data, data.clone()));
        drop(disk);
        device.assert_conformant();
    }
}

#[test]
fn a_device_that_needs_the_barriers_of_the_platform_gets_them() {
    for packed in [false, true] {
        let memory = ScatterMemory::new();
        let bit = Features::ORDER_PLATFORM;
        let builder = BlockDevice::builder().require(bit.bits());
        let device = if packed { builder.packed() } else { builder }.build(&memory);
        let transport = transport(&device);
        let mut disk: Disk<_, _, NoBuffer, _> =
            Disk::open_with(Either, transport, memory.clone(), &defaults(), &mut Spin).unwrap();
        assert!(disk.info().features.contains(bit));
        let data = pattern(9 * 512, 4);
        disk.write(1, &data, &mut Spin).unwrap();
        let mut back = vec![0; data.len()];
        disk.read(1, &mut back, &mut Spin).unwrap();
        assert_eq!(back, data);
        drop(disk);
        device.assert_conformant();
    }
}

#[test]
fn topology_counts_in_logical_blocks_and_is_told_in_bytes() {
    for (blk_size, exponent, physical) in few(
        2,
        [
            (512, 0, 512),
            (512, 3, 4096),
            (4096, 0, 4096),
            (4096, 4, 65536),
            (512, 54, 1 << 63),
            // Absurd ones end at the largest number there is.
            (512, 55, u64::MAX),
            (512, 63, u64::MAX),
            (512, 64, u64::MAX),
            (4096, 255, u64::MAX),
            (1 << 31, 255, u64::MAX),
        ],
    ) {
        let info = info_of(BlockDevice::builder().offer(BlockFeatures::TOPOLOGY.bits()).config(|config| {
            config.blk_size = blk_size.into();
            config.topology.physical_block_exp = exponent;
            config.topology.alignment_offset = 255;
            config.topology.min_io_size = u16::MAX.into();
            config.topology.opt_io_size = u32::MAX.into();
        }));
        let block = u64::from(blk_size);
        let expected = Topology {
            physical_block_bytes: physical,
            alignment_offset_bytes: 255 * block,
            min_io_bytes: 65535 * block,
            opt_io_bytes: u64::from(u32::MAX) * block,
        };
        assert_eq!(info.topology, Some(expected), "{blk_size}, {exponent}");
    }
}

#[test]
fn zero_means_no_limit_or_the_least_one() {
    let features = BlockFeatures::SIZE_MAX
        | BlockFeatures::SEG_MAX
        | BlockFeatures::DISCARD
        | BlockFeatures::WRITE_ZEROES
        | BlockFeatures::SECURE_ERASE
        | BlockFeatures::MQ;
    let info =
        info_of(BlockDevice::builder().features(features.bits()).interface(Interface::Modern).config(|config| {
            config.num_queues = 0.into();
            config.seg_max = 0.into();
        }));
    assert_eq!((info.size_max_bytes, info.seg_max, info.num_queues), (None, 1, 1));
    let none = Some(EraseLimits { max_sectors: 0, max_segments: 0, alignment_sectors: 1 });
    assert_eq!((info.discard, info.write_zeroes, info.secure_erase), (none, none, none));
    assert!(!info.write_zeroes_may_unmap);
}

#[test]
fn a_block_size_that_no_driver_can_use_is_an_error() {
    for interface in INTERFACES {
        let all = [0, 1, 256, 511, 513, 1000, 3 << 9, 0xffff_ffff];
        for found in all.into_iter().skip(if cfg!(miri) { 6 } else { 0 }) {
            let memory = ScatterMemory::new();
            let builder = BlockDevice::builder().interface(interface);
            let device = builder.config(|config| config.blk_size = found.into()).build(&memory);
            let error = try_open(&device, &memory, &defaults()).err();
            assert_eq!(error, Some(OpenError::BlockSize { found }));
            assert!(device.status().contains(virtio_transport::DeviceStatus::FAILED));
            device.assert_conformant();
            memory.assert_clean();
            // Without the feature the field is not looked at.
            let forbid = BlockFeatures::BLK_SIZE.into();
            let disk = try_open(&device, &memory, &Options { forbid, ..defaults() }).unwrap();
            assert_eq!(disk.info().block_bytes, 512);
        }
    }
}

#[test]
fn a_capacity_that_changes_while_it_is_read_is_one_or_the_other() {
    let (one, other) = (0x0000_0001_ffff_ffff, 0x0000_0002_0000_0000);
    for interface in INTERFACES {
        for reads in if cfg!(miri) { 1..4 } else { 1..20 } {
            let memory = ScatterMemory::new();
            let device = BlockDevice::builder().interface(interface).capacity(one).build(&memory);
            device.faults(|faults| faults.flicker = Some(Flicker { other_sectors: other, reads }));
            let disk = open(&device, &memory, &defaults());
            let found = disk.info().capacity_sectors;
            // A legacy device has no generation. Two reads that agree prove little while it changes at every read.
            if interface == Interface::Modern {
                assert!(found == one || found == other, "{found:#x} after {reads} reads");
            }
            drop(disk);
            device.assert_conformant();
        }
    }
}

#[test]
fn a_capacity_that_changed_between_two_reads_is_read_again_on_a_legacy_device() {
    // The first attempt sees the lower half of one and the upper half of the other.
    let (one, other) = (0x0000_0001_ffff_ffff, 0x0000_0002_0000_0000);
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().interface(Interface::Legacy).capacity(one).build(&memory);
    device.faults(|faults| faults.flicker = Some(Flicker { other_sectors: other, reads: 1 }));
    let disk = open(&device, &memory, &defaults());
    assert_eq!(disk.info().capacity_sectors, one);
}

#[test]
fn a_configuration_that_settles_late_is_read_and_one_that_never_does_is_an_error() {
    for (generation, settles) in few(
        2,
        [
            (Generation::Moves(1), true),
            (Generation::NeverSettles, false),
            (Generation::Moves(50), true),
            (Generation::Moves(1000), false),
        ],
    ) {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().build(&memory);
        device.faults(|faults| faults.generation = generation);
        match try_open(&device, &memory, &defaults()) {
            Ok(disk) => {
                assert!(settles, "{generation:?}");
                assert_eq!(disk.info().capacity_sectors, 2048);
            }
            Err(error) => {
                assert!(!settles, "{generation:?}");
                let expected = ConfigError::Unstable { attempts: CONFIG_READ_ATTEMPTS };
                assert_eq!(error, OpenError::Config(expected));
            }
        }
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn a_configuration_space_that_ends_too_early_is_an_error() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().window_bytes(0x108).build(&memory);
    let error = try_open(&device, &memory, &defaults()).err();
    assert_eq!(error, Some(OpenError::Config(ConfigError::OutOfBounds { offset: 12, width: 4, bytes: 8 })));
    // The capacity alone is there.
    let forbid = FeatureSet::from(BlockFeatures::SEG_MAX | BlockFeatures::BLK_SIZE | BlockFeatures::CONFIG_WCE);
    let disk = open(&device, &memory, &Options { forbid, ..defaults() });
    assert_eq!(disk.info().capacity_sectors, 2048);
}

#[test]
fn a_new_capacity_is_found_and_requests_are_held_against_it() {
    for interface in INTERFACES {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().interface(interface).capacity(100).build(&memory);
        let mut disk = open(&device, &memory, &defaults());
        assert_eq!(disk.config_changed(), Ok(None));
        device.set_capacity(200);
        let beyond = Err(Error::BeyondCapacity { sector: 150, sectors: 1, capacity_sectors: 100 });
        assert_eq!(disk.write(150, &[1; 512], &mut virtio_transport::Spin), beyond, "nobody has looked yet");
        let resized = disk.config_changed().unwrap().unwrap();
        assert_eq!((resized.old_sectors, resized.new_sectors), (100, 200));
        assert_eq!(disk.info().capacity_sectors, 200);
        disk.write(150, &[1; 512], &mut virtio_transport::Spin).unwrap();
        device.set_capacity(50);
        assert_eq!(disk.config_changed().unwrap().map(|resized| resized.new_sectors), Some(50));
        let beyond = Err(Error::BeyondCapacity { sector: 50, sectors: 1, capacity_sectors: 50 });
        assert_eq!(disk.write(50, &[1; 512], &mut virtio_transport::Spin), beyond);
        assert_eq!(disk.config_changed(), Ok(None));
        drop(disk);
        device.assert_conformant();
    }
}
