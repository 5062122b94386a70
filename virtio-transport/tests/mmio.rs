//! The registers of virtio-mmio, access by access.

mod common;

use common::{Access, Fake, r, w};
use virtio_transport::{
    DeviceType, Interface, Interrupt, InterruptStatus, MemoryMapped, Mmio, Notifier, ProbeError, QueueConfig,
    QueueError, QueueMemory, Region, Transport,
};

fn probe(fake: &Fake) -> Mmio<Fake> {
    let device = Mmio::probe(fake.clone()).unwrap().unwrap();
    fake.log();
    device
}

#[test]
fn probe_reads_three_registers_and_writes_none() {
    for (version, interface) in [(1, Interface::Legacy), (2, Interface::Modern)] {
        let fake = Fake::new(version);
        let device = Mmio::probe(fake.clone()).unwrap().unwrap();
        assert_eq!(device.interface(), interface);
        assert_eq!(device.device_type(), DeviceType::BLOCK);
        assert_eq!(fake.log(), [r(0, 0x7472_6976), r(4, version), r(8, 2)]);
    }
}

#[test]
fn probe_stops_at_the_first_thing_that_is_wrong() {
    let fake = Fake::new(2).with(|device| device.window = 0xff);
    assert_eq!(Mmio::probe(fake.clone()).unwrap_err(), ProbeError::TooSmall { found: 0xff });
    assert_eq!(fake.log(), []);

    let fake = Fake::new(2).with(|device| device.magic = 0x7669_7274);
    assert_eq!(Mmio::probe(fake.clone()).unwrap_err(), ProbeError::BadMagic { found: 0x7669_7274 });
    assert_eq!(fake.log(), [r(0, 0x7669_7274)]);

    for version in [0, 3, u32::MAX] {
        let fake = Fake::new(version);
        assert_eq!(Mmio::probe(fake.clone()).unwrap_err(), ProbeError::BadVersion { found: version });
        assert_eq!(fake.log(), [r(0, 0x7472_6976), r(4, version)]);
    }
}

#[test]
fn an_empty_slot_is_no_error() {
    let fake = Fake::new(2).with(|device| device.id = 0);
    assert!(Mmio::probe(fake.clone()).unwrap().is_none());
    assert_eq!(fake.log(), [r(0, 0x7472_6976), r(4, 2), r(8, 0)]);
}

#[test]
fn probe_errors_say_what_was_found() {
    assert_eq!(
        ProbeError::BadMagic { found: 0 }.to_string(),
        "no virtio registers: the magic number is 0x00000000, expected 0x74726976; check the address and its mapping"
    );
    assert!(ProbeError::TooSmall { found: 8 }.to_string().contains("8 bytes"));
    assert!(ProbeError::BadVersion { found: 77 }.to_string().contains("77"));
}

#[test]
fn open_takes_an_address() {
    let mut registers = vec![0_u32; 0x80];
    registers[..3].copy_from_slice(&[0x7472_6976_u32.to_le(), 2_u32.to_le(), 2_u32.to_le()]);
    let region = Region { address: registers.as_mut_ptr().expose_provenance() as u64, bytes: 0x200 };
    // SAFETY: memory that is readable and writable there, and nothing else uses it.
    let device = unsafe { Mmio::<MemoryMapped>::open(&region) }.unwrap().unwrap();
    assert_eq!((device.device_type(), device.config_bytes()), (DeviceType::BLOCK, 0x100));

    for address in [0, region.address + 2] {
        // SAFETY: addresses that are refused before anything is read.
        let error = unsafe { Mmio::<MemoryMapped>::open(&Region { address, ..region }) }.unwrap_err();
        assert_eq!(error, ProbeError::BadAddress { address });
    }
}

#[test]
fn features_by_words() {
    let modern = Fake::new(2).with(|device| device.features = 0x8000_0001_4000_0002);
    let mut device = probe(&modern);
    assert_eq!(device.device_features(), 0x8000_0001_4000_0002);
    assert_eq!(modern.log(), [w(0x14, 0), r(0x10, 0x4000_0002), w(0x14, 1), r(0x10, 0x8000_0001)]);
    device.set_driver_features(0x1234_5678_9abc_def0);
    assert_eq!(modern.log(), [w(0x24, 0), w(0x20, 0x9abc_def0), w(0x24, 1), w(0x20, 0x1234_5678)]);

    let legacy = Fake::new(1).with(|device| device.features = 0x8000_0001_4000_0002);
    let mut device = probe(&legacy);
    assert_eq!(device.device_features(), 0x4000_0002);
    assert_eq!(legacy.log(), [w(0x14, 0), r(0x10, 0x4000_0002)]);
    device.set_driver_features(0x1234_5678_9abc_def0);
    assert_eq!(legacy.log(), [w(0x24, 0), w(0x20, 0x9abc_def0)]);
}

#[test]
fn a_modern_queue() {
    let fake = Fake::new(2);
    let mut device = probe(&fake);
    assert_eq!(device.queue_memory(), QueueMemory { contiguous_align: None, max_address: u64::MAX });
    assert!(!device.queue_in_use(0));
    assert_eq!(device.max_queue_size(0), 256);
    assert_eq!(fake.log(), [w(0x30, 0), r(0x44, 0), w(0x30, 0), r(0x34, 256)]);
    let queue = QueueConfig {
        index: 0,
        size: 8,
        descriptor_area: 0x1122_3344_5566_7000,
        driver_area: 0x1122_3344_5566_7080,
        device_area: 0xffff_ffff_0000_0000,
    };
    assert_eq!(device.enable_queue(&queue), Ok(()));
    assert_eq!(
        fake.log(),
        [
            w(0x30, 0),
            w(0x38, 8),
            w(0x80, 0x5566_7000),
            w(0x84, 0x1122_3344),
            w(0x90, 0x5566_7080),
            w(0x94, 0x1122_3344),
            w(0xa0, 0),
            w(0xa4, 0xffff_ffff),
            w(0x44, 1),
            r(0x44, 1),
        ]
    );
    assert!(device.queue_in_use(0));
}

/// A queue where a legacy device expects it, for a size of 256: 4096 bytes of descriptors, then the rings.
fn legacy_queue(address: u64) -> QueueConfig {
    QueueConfig {
        index: 0,
        size: 256,
        descriptor_area: address,
        driver_area: address + 0x1000,
        device_area: address + 0x2000,
    }
}

#[test]
fn a_legacy_queue() {
    let fake = Fake::new(1);
    let mut device = probe(&fake);
    let max_address = 0xfff_ffff_ffff;
    assert_eq!(device.queue_memory(), QueueMemory { contiguous_align: Some(4096), max_address });
    assert!(!device.queue_in_use(0));
    assert_eq!(device.max_queue_size(0), 256);
    assert_eq!(fake.log(), [w(0x30, 0), r(0x40, 0), w(0x30, 0), r(0x34, 256)]);
    assert_eq!(device.enable_queue(&legacy_queue(0x8765_4000)), Ok(()));
    let configured = [w(0x30, 0), w(0x38, 256), w(0x3c, 4096), w(0x40, 0x8_7654), r(0x40, 0x8_7654)];
    assert_eq!(fake.log(), [&[w(0x28, 4096)], &configured[..]].concat());
    assert!(device.queue_in_use(0));
    fake.log();

    // The page size is said once, and again after a reset.
    assert_eq!(device.enable_queue(&legacy_queue(0x8765_4000)), Ok(()));
    assert_eq!(fake.log(), configured);
    device.set_status(virtio_transport::DeviceStatus::empty());
    assert_eq!(device.enable_queue(&legacy_queue(0x8765_4000)), Ok(()));
    assert_eq!(fake.log(), [&[w(0x70, 0), w(0x28, 4096)], &configured[..]].concat());
}

#[test]
fn a_legacy_queue_has_its_layout() {
    // Sizes and where the used ring starts: 16 bytes per descriptor, then 6 + 2 per entry, then the next page.
    for (size, driver, device) in [(4, 64, 4096), (128, 2048, 4096), (256, 4096, 8192), (1024, 16384, 20480)] {
        let fake = Fake::new(1);
        let good = QueueConfig {
            index: 0,
            size,
            descriptor_area: 0x10_0000,
            driver_area: 0x10_0000 + driver,
            device_area: 0x10_0000 + device,
        };
        assert_eq!(probe(&fake).enable_queue(&good), Ok(()), "{size}");
        for bad in [
            QueueConfig { driver_area: good.driver_area + 2, ..good },
            QueueConfig { device_area: good.device_area + 4096, ..good },
            QueueConfig { device_area: good.device_area - 4096, ..good },
        ] {
            let fake = Fake::new(1);
            let mut transport = probe(&fake);
            let error = QueueError::NotContiguous { queue: 0, address: 0x10_0000 };
            assert_eq!(transport.enable_queue(&bad), Err(error), "{size}");
            assert_eq!(fake.log(), []);
        }
    }
}

#[test]
fn a_legacy_page_number_has_32_bits() {
    let fake = Fake::new(1);
    let mut device = probe(&fake);
    let last = legacy_queue(0xfff_ffff_f000);
    assert_eq!(device.enable_queue(&last), Ok(()));
    assert_eq!(fake.0.borrow().queue_in_use[0], u32::MAX);
    fake.log();

    let address = 0x1000_0000_0000;
    let error = QueueError::PageNumberTooLarge { queue: 0, address };
    assert_eq!(device.enable_queue(&legacy_queue(address)), Err(error));
    assert!(error.to_string().contains("0x100000000000"));
    let address = 0x8000_0800;
    assert_eq!(device.enable_queue(&legacy_queue(address)), Err(QueueError::NotContiguous { queue: 0, address }));
    let address = u64::MAX - 0xfff;
    let wrapping = QueueConfig { descriptor_area: address, driver_area: 0, device_area: 0x1000, ..last };
    assert_eq!(device.enable_queue(&wrapping), Err(QueueError::NotContiguous { queue: 0, address }));
    assert_eq!(device.enable_queue(&legacy_queue(0)), Err(QueueError::NotEnabled { queue: 0 }));
    assert_eq!(fake.log(), []);
}

#[test]
fn a_device_that_takes_no_queue() {
    for version in [1, 2] {
        let fake = Fake::new(version).with(|device| device.takes_queues = false);
        assert_eq!(probe(&fake).enable_queue(&legacy_queue(0x10_0000)), Err(QueueError::NotEnabled { queue: 0 }));
    }
}

#[test]
fn notifications() {
    let fake = Fake::new(2);
    let device = probe(&fake);
    device.notifier(3, false).notify(0xabcd);
    assert_eq!(fake.log(), [w(0x50, 3)]);
    device.notifier(3, true).clone().notify(0xabcd);
    assert_eq!(fake.log(), [w(0x50, 0xabcd_0003)]);
}

#[test]
fn only_known_causes_are_acknowledged() {
    let fake = Fake::new(2).with(|device| device.interrupt_status = 0xffff_fff2);
    let interrupt = probe(&fake).interrupt();
    assert_eq!(interrupt.acknowledge(), InterruptStatus::CONFIGURATION_CHANGE);
    assert_eq!(fake.log(), [r(0x60, 0xffff_fff2), w(0x64, 2)]);
    // What is left is nothing that a driver knows: no write.
    assert_eq!(interrupt.acknowledge(), InterruptStatus::empty());
    assert_eq!(fake.log(), [r(0x60, 0xffff_fff0)]);
    fake.0.borrow_mut().interrupt_status = 3;
    assert_eq!(interrupt.clone().acknowledge(), InterruptStatus::all());
    assert_eq!(fake.log(), [r(0x60, 3), w(0x64, 3)]);
}

#[test]
fn configuration_bytes_by_interface() {
    let modern = Fake::new(2);
    let mut device = probe(&modern);
    assert_eq!(device.config_bytes(), 0x40);
    assert_eq!(device.read_config_u8(5), 5);
    assert_eq!(device.read_config_u16(6), 0x0706);
    assert_eq!(device.read_config_u32(8), 0x0b0a_0908);
    device.write_config_u8(0x20, 1);
    let widths: Vec<_> =
        modern.log().iter().map(|&Access(direction, width, offset, _)| (direction, width, offset)).collect();
    assert_eq!(widths, [('r', 1, 0x105), ('r', 2, 0x106), ('r', 4, 0x108), ('w', 1, 0x120)]);
    assert_eq!(device.config_generation(), Some(7));
    assert_eq!(modern.log(), [r(0xfc, 7)]);

    let legacy = Fake::new(1);
    let device = probe(&legacy);
    assert_eq!(device.read_config_u16(6), u16::from_ne_bytes([6, 7]));
    assert_eq!(device.read_config_u32(8), u32::from_ne_bytes([8, 9, 10, 11]));
    assert_eq!(device.config_generation(), None);
    assert_eq!(legacy.log().len(), 2);
}
