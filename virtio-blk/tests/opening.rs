//! How a disk is opened, and all that can keep it from being opened.

mod common;

use common::{defaults, few, open, open_with, pattern, transport, try_open};
use testing_device::{BlockDevice, DeviceMemory, Interface, IommuMemory, ResetAnswer, ScatterMemory};
use virtio_blk::{BlockFeatures, Disk, FeatureSet, Features, NoBuffer, OpenError, Options, Setup};
use virtio_transport::{DeviceStatus, DeviceType, InitError, Mmio, QueueError, Spin, SpinLimit};
use virtqueue::{MemoryError, QueueSetupError};

const INTERFACES: [Interface; 2] = [Interface::Modern, Interface::Legacy];

/// Afterwards nothing stands in the way of opening it.
#[track_caller]
fn assert_opens(device: &BlockDevice, memory: &ScatterMemory) {
    device.faults(|faults| *faults = testing_device::Faults::default());
    let mut disk = open(device, memory, &defaults());
    disk.write(1, &pattern(512, 1), &mut Spin).unwrap();
    assert_eq!(device.read_disk(1, 1), pattern(512, 1));
    drop(disk);
    device.assert_conformant();
}

#[test]
fn an_open_disk_runs_with_what_was_negotiated() {
    for interface in INTERFACES {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().interface(interface).build(&memory);
        let disk = open(&device, &memory, &defaults());
        assert!(device.status().contains(DeviceStatus::DRIVER_OK));
        assert!(!device.status().intersects(DeviceStatus::FAILED | DeviceStatus::DEVICE_NEEDS_RESET));
        assert_eq!(disk.info().features.bits(), device.negotiated());
        let version = if interface == Interface::Modern { Features::VERSION_1 } else { Features::ANY_LAYOUT };
        let expected = FeatureSet::from(version)
            | Features::INDIRECT_DESC
            | Features::EVENT_IDX
            | BlockFeatures::SEG_MAX
            | BlockFeatures::BLK_SIZE
            | BlockFeatures::FLUSH
            | BlockFeatures::CONFIG_WCE;
        assert_eq!(disk.info().features, expected);
        drop(disk);
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn a_device_of_another_type_is_not_touched() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().device_type(DeviceType::NETWORK.0).build(&memory);
    let error = try_open(&device, &memory, &defaults()).err();
    let (expected, found) = (DeviceType::BLOCK, DeviceType::NETWORK);
    assert_eq!(error, Some(OpenError::Init(InitError::WrongDevice { expected, found })));
    assert_eq!((device.counts().resets, device.status()), (0, DeviceStatus::empty()));
}

#[test]
fn required_features_that_are_missing_are_listed() {
    for interface in INTERFACES {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().interface(interface).withhold(BlockFeatures::FLUSH.bits()).build(&memory);
        let require = FeatureSet::from(BlockFeatures::FLUSH | BlockFeatures::SEG_MAX | BlockFeatures::DISCARD);
        let options = Options { require, ..defaults() };
        let Some(OpenError::MissingFeatures { missing, offered }) = try_open(&device, &memory, &options).err() else {
            panic!("not refused");
        };
        assert_eq!(missing, (BlockFeatures::FLUSH | BlockFeatures::DISCARD).into());
        assert_eq!((missing.to_string(), offered.contains(BlockFeatures::SEG_MAX)), ("FLUSH, DISCARD".into(), true));
        assert!(!offered.contains(BlockFeatures::FLUSH));
        assert!(device.status().contains(DeviceStatus::FAILED));
        memory.assert_clean();
        assert_opens(&device, &memory);
    }
}

#[test]
fn a_required_feature_that_the_driver_does_not_know_or_may_not_use_is_missing() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().offer(1 << 50).build(&memory);
    for (require, forbid) in
        [(FeatureSet::from_bits(1 << 50), FeatureSet::NONE), (BlockFeatures::FLUSH.into(), BlockFeatures::FLUSH.into())]
    {
        let options = Options { require, forbid, ..defaults() };
        let Some(OpenError::MissingFeatures { missing, offered }) = try_open(&device, &memory, &options).err() else {
            panic!("not refused");
        };
        assert_eq!((missing, offered.contains(require)), (require, true));
    }
    assert_opens(&device, &memory);
}

#[test]
fn forbidden_features_are_not_accepted_but_for_the_one_that_must_be() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let disk = open(&device, &memory, &Options { forbid: FeatureSet::from_bits(u64::MAX), ..defaults() });
    assert_eq!(disk.info().features, Features::VERSION_1.into());
    assert_eq!((disk.info().seg_max, device.negotiated()), (1, Features::VERSION_1.bits()));
    drop(disk);
    device.assert_conformant();
}

#[test]
fn a_modern_device_without_version_1_is_refused() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().withhold(Features::VERSION_1.bits()).build(&memory);
    let error = try_open(&device, &memory, &defaults()).err();
    assert!(matches!(error, Some(OpenError::Init(InitError::MissingVersion1 { .. }))), "{error:?}");
    assert!(device.status().contains(DeviceStatus::FAILED));
}

#[test]
fn a_device_that_refuses_the_features_is_given_up() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    device.faults(|faults| faults.refuse_features = true);
    let Some(OpenError::Init(InitError::FeaturesRefused { features })) = try_open(&device, &memory, &defaults()).err()
    else {
        panic!("not refused");
    };
    assert!(FeatureSet::from_bits(features).contains(Features::VERSION_1));
    assert!(device.status().contains(DeviceStatus::FAILED));
    assert_eq!(device.raw_ring(0).map(drop), None, "no queue was set up");
    device.assert_conformant();
    memory.assert_clean();
    assert_opens(&device, &memory);
}

#[test]
fn a_reset_that_is_never_acknowledged_is_an_error() {
    for interface in INTERFACES {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().interface(interface).build(&memory);
        // A driver before this one has left the device running.
        std::mem::forget(open(&device, &memory, &defaults()));
        device.faults(|faults| faults.reset = ResetAnswer::Never);
        let result: Result<Disk<_, _, NoBuffer>, _> =
            Disk::open(transport(&device), memory.clone(), &defaults(), &mut SpinLimit { looks: 100 });
        let Err(OpenError::Init(InitError::ResetTimedOut { status })) = result else { panic!("not refused") };
        assert!(status.contains(DeviceStatus::DRIVER_OK));
        assert!(!device.status().contains(DeviceStatus::FAILED), "nothing more was written");
        device.assert_conformant();
    }
}

#[test]
fn a_reset_that_takes_a_while_is_waited_for() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    // A driver before this one has left the device running.
    std::mem::forget(open(&device, &memory, &defaults()));
    device.faults(|faults| faults.reset = ResetAnswer::AfterReads(3));
    let mut asked = 0;
    let mut policy = || {
        asked += 1;
        Ok(())
    };
    let _: Disk<_, _, NoBuffer> = Disk::open(transport(&device), memory.clone(), &defaults(), &mut policy).unwrap();
    assert_eq!((asked, device.counts().resets), (3, 3), "by the driver before, by this one, and at its end");
    device.assert_conformant();
}

#[test]
fn a_queue_that_the_device_does_not_take_is_leaked_as_the_device_knows_it() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    device.faults(|faults| faults.refuse_queues = true);
    let error = try_open(&device, &memory, &defaults()).err();
    assert_eq!(error, Some(OpenError::Queue(QueueError::NotEnabled { queue: 0 })));
    assert!(device.status().contains(DeviceStatus::FAILED));
    assert_eq!(memory.outstanding(), 2, "the ring, and the slots");
    assert_opens(&device, &memory);
}

#[test]
fn a_device_whose_queue_is_too_small_is_refused() {
    for (max, queue_size, found) in [(2, 128, 2), (0, 128, 0), (256, 3, 3), (256, 0, 0), (3, 128, 3)] {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().queue_size_max(max).build(&memory);
        let error = try_open(&device, &memory, &Options { queue_size, ..defaults() }).err();
        assert_eq!(error, Some(OpenError::QueueTooSmall { queue: 0, max: found }));
        assert!(device.status().contains(DeviceStatus::FAILED));
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn every_allocation_that_fails_is_an_error_and_leaves_nothing() {
    for interface in INTERFACES {
        let memory = IommuMemory::new();
        let device = BlockDevice::builder().interface(interface).build(&memory);
        let mut failing = 0;
        loop {
            memory.fail_allocation(failing);
            match try_open(&device, &memory, &defaults()) {
                Ok(disk) => break drop(disk),
                Err(OpenError::Memory(MemoryError::OutOfMemory)) => {}
                Err(OpenError::QueueSetup(QueueSetupError::Memory { error: MemoryError::OutOfMemory, .. })) => {}
                Err(other) => panic!("{other:?}"),
            }
            assert!(device.status().contains(DeviceStatus::FAILED));
            memory.assert_clean();
            failing += 1;
        }
        assert!(failing >= 5, "{failing} allocations");
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn a_legacy_queue_that_lies_too_high_is_an_error() {
    let memory = ScatterMemory::with_base(1 << 44);
    let device = BlockDevice::builder().interface(Interface::Legacy).build(&memory);
    let error = try_open(&device, &memory, &defaults()).err();
    assert!(
        matches!(
            error,
            Some(OpenError::QueueSetup(QueueSetupError::Memory { error: MemoryError::AddressTooHigh, .. }))
        ),
        "{error:?}"
    );
    device.assert_conformant();
    memory.assert_clean();
    // For a modern device no address is too high.
    let device = BlockDevice::builder().build(&memory);
    assert_opens(&device, &memory);
}

#[test]
fn an_empty_slot_is_no_device() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().device_type(0).build(&memory);
    assert!(Mmio::probe(device.registers()).unwrap().is_none());
}

#[test]
fn as_many_queues_are_set_up_as_the_device_has_and_the_options_allow() {
    for (has, allowed, expected) in few(2, [(4, 3, 3), (2, 0, 1), (4, 8, 4), (1, 8, 1), (4, 1, 1)]) {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().queues(has).build(&memory);
        let options = Options { queues: allowed, ..defaults() };
        let mut setup = Setup::negotiate(transport(&device), memory.clone(), &options, &mut Spin).unwrap();
        assert_eq!(setup.num_queues(), expected);
        let mut queues = Vec::new();
        for index in 0..expected {
            let queue = setup.add_queue::<NoBuffer>().unwrap();
            assert_eq!(queue.index(), index);
            queues.push(queue);
        }
        let error = setup.add_queue::<NoBuffer>().err();
        assert_eq!(error, Some(OpenError::NoMoreQueues { queues: expected }));
        assert_eq!(device.raw_ring(expected).map(drop), None);
        drop(setup);
        assert!(device.status().contains(DeviceStatus::FAILED), "it was never started");
        drop(queues);
        assert_eq!(memory.outstanding(), 2 * usize::from(expected), "the device knows them, and was not reset");
        assert_opens(&device, &memory);
    }
}

#[test]
fn queues_work_each_by_itself() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().queues(3).build(&memory);
    let options = Options { queues: 3, ..defaults() };
    let mut setup = Setup::negotiate(transport(&device), memory.clone(), &options, &mut Spin).unwrap();
    let mut queues: Vec<_> = (0..3).map(|_| setup.add_queue::<&'static mut [u8]>().unwrap()).collect();
    let running = setup.start();
    let mut buffers = Vec::new();
    for (queue, sector) in queues.iter_mut().zip(10..) {
        queue.submit_write(sector, pattern(512, sector).leak()).unwrap();
    }
    for (index, queue) in queues.iter_mut().enumerate().rev() {
        assert!(queue.commit());
        assert_eq!(device.notifications(index as u16), 1);
        let completion = queue.poll().unwrap().unwrap();
        assert_eq!((completion.sector, completion.result), (10 + index as u64, Ok(())));
        buffers.extend(completion.buffer);
    }
    for sector in 10..13 {
        assert_eq!(device.read_disk(sector, 1), pattern(512, sector));
    }
    for buffer in buffers {
        // SAFETY: they were leaked above, with the capacity of their length.
        drop(unsafe { Vec::from_raw_parts(buffer.as_mut_ptr(), 512, 512) });
    }
    drop((running, queues));
    assert!(memory.faults().is_empty());
}

#[test]
fn a_disk_and_its_parts_move_to_other_threads() {
    fn sendable<T: Send>(_: &T) {}
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk: common::TestDisk<_, &'static mut [u8]> = open_with(&device, &memory, &defaults());
    sendable(disk.device());
    sendable(disk.queue());
    let disk = std::thread::spawn(move || {
        disk.write(1, &pattern(512, 1), &mut Spin).unwrap();
        disk
    })
    .join()
    .unwrap();
    assert_eq!(device.read_disk(1, 1), pattern(512, 1));
    drop(disk);
    memory.assert_clean();
}

#[test]
fn sets_of_features_are_shown_by_name_and_unknown_ones_by_number() {
    let set = FeatureSet::from(BlockFeatures::RO) | Features::VERSION_1 | FeatureSet::from_bits(1 << 60);
    assert_eq!(set.to_string(), "RO, VERSION_1, bit 60");
    assert_eq!(FeatureSet::NONE.to_string(), "none");
    assert_eq!(set.without(BlockFeatures::RO).without(FeatureSet::from_bits(1 << 60)), Features::VERSION_1.into());
    assert!(FeatureSet::NONE.is_empty() && !set.is_empty());
    assert!(set.contains(Features::VERSION_1) && !set.contains(BlockFeatures::RO | BlockFeatures::FLUSH));
    assert_eq!(set & Features::VERSION_1, Features::VERSION_1.into());
}
