//! How a disk ends: shut down, dropped, or left to a device that acknowledges nothing.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Counted, TestDisk, defaults, open, open_with, pattern};
#[cfg(not(miri))]
use testing_device::BounceMemory;
use testing_device::{
    BlockDevice, DeviceMemory, Interface, IommuMemory, Mode, Outcome, ResetAnswer, ScatterMemory, TestMemory,
};
use virtio_blk::Disk;
use virtio_transport::{DeviceStatus, Spin, SpinLimit};

fn dropped<M: TestMemory>(memory: &M) {
    for interface in [Interface::Modern, Interface::Legacy] {
        let device = BlockDevice::builder().interface(interface).build(memory);
        let mut disk = open(&device, memory, &defaults());
        disk.write(0, &pattern(5 * 512, 1), &mut Spin).unwrap();
        drop(disk);
        assert_eq!((device.status(), device.counts().resets), (DeviceStatus::empty(), 2));
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn a_dropped_disk_resets_its_device_and_frees_everything() {
    dropped(&ScatterMemory::new());
    dropped(&IommuMemory::new());
    #[cfg(not(miri))]
    dropped(&BounceMemory::new());
}

/// A disk with three requests that the device keeps, and one that has ended and was not polled.
fn busy<M: TestMemory>(memory: &M, alive: &Arc<AtomicUsize>) -> (BlockDevice, TestDisk<M, Counted>) {
    let device = BlockDevice::builder().mode(Mode::Manual).build(memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, memory, &defaults());
    for sector in 0..4 {
        let buffer = Counted::new(pattern(512, sector), alive);
        disk.queue().submit_write(sector, buffer).ok().unwrap();
    }
    disk.queue().commit();
    let first = device.take().unwrap();
    device.complete(first, Outcome::HONEST);
    device.faults(|faults| faults.hold = true);
    (device, disk)
}

#[test]
fn a_disk_dropped_with_requests_in_flight_drops_their_buffers_after_the_reset() {
    let (memory, alive) = (ScatterMemory::new(), Arc::default());
    let (device, disk) = busy(&memory, &alive);
    assert_eq!(alive.load(Ordering::Relaxed), 4);
    drop(disk);
    assert_eq!((alive.load(Ordering::Relaxed), device.counts().resets), (0, 2));
    assert_eq!(device.run(), 0);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_disk_dropped_with_requests_in_flight_ends_their_mappings() {
    let (memory, alive) = (IommuMemory::new(), Arc::default());
    let (device, disk) = busy(&memory, &alive);
    drop(disk);
    assert_eq!((alive.load(Ordering::Relaxed), memory.mapped()), (0, 0));
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_device_that_never_acknowledges_keeps_what_it_may_touch() {
    let (memory, alive) = (ScatterMemory::new(), Arc::default());
    let (device, disk) = busy(&memory, &alive);
    device.faults(|faults| faults.reset = ResetAnswer::Never);
    drop(disk);
    assert_eq!(alive.load(Ordering::Relaxed), 4, "one of them has ended, but nobody knows that");
    assert_eq!(memory.outstanding(), 2, "the ring, and the slots");
    // The device goes on, into memory that is still there.
    device.faults(|faults| faults.hold = false);
    assert_eq!(device.run(), 3);
    assert!((0..4).all(|sector| device.read_disk(sector, 1) == pattern(512, sector)));
    device.assert_conformant();
    assert!(memory.faults().is_empty());
}

#[test]
fn shutdown_waits_for_what_is_in_flight() {
    for memory in [IommuMemory::new(), IommuMemory::with_base(0x10_0000)] {
        let alive = Arc::default();
        let (device, disk) = busy(&memory, &alive);
        device.faults(|faults| faults.hold = false);
        let mut policy = || {
            if let Some(pending) = device.take() {
                device.complete(pending, Outcome::HONEST);
            }
            Ok(())
        };
        disk.shutdown(&mut policy).unwrap();
        assert!((0..4).all(|sector| device.read_disk(sector, 1) == pattern(512, sector)));
        assert_eq!((alive.load(Ordering::Relaxed), device.counts().writes), (0, 4));
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn shutdown_commits_what_was_submitted() {
    let (memory, alive) = (ScatterMemory::new(), Arc::default());
    let device = BlockDevice::builder().build(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    disk.queue().submit_write(7, Counted::new(pattern(512, 7), &alive)).ok().unwrap();
    disk.shutdown(&mut Spin).unwrap();
    assert_eq!(device.read_disk(7, 1), pattern(512, 7));
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    memory.assert_clean();
}

#[test]
fn shutdown_cuts_off_what_the_policy_does_not_wait_for() {
    let (memory, alive) = (ScatterMemory::new(), Arc::default());
    let (device, disk) = busy(&memory, &alive);
    disk.shutdown(&mut SpinLimit { looks: 5 }).unwrap();
    assert_eq!((alive.load(Ordering::Relaxed), device.counts().writes), (0, 1));
    assert_eq!(device.run(), 0);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn shutdown_gives_back_a_transport_that_opens_again() {
    for interface in [Interface::Modern, Interface::Legacy] {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().interface(interface).build(&memory);
        let mut disk: TestDisk<_> = open(&device, &memory, &defaults());
        for turn in 0..5 {
            disk.write(turn, &pattern(512, turn), &mut Spin).unwrap();
            let transport = disk.shutdown(&mut Spin).unwrap();
            assert_eq!(device.status(), DeviceStatus::empty());
            memory.assert_clean();
            disk = Disk::open(transport, memory.clone(), &defaults(), &mut Spin).unwrap();
            let mut back = [0; 512];
            disk.read(turn, &mut back, &mut Spin).unwrap();
            assert_eq!(back[..], pattern(512, turn));
        }
        drop(disk);
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn shutdown_can_be_tried_again() {
    let (memory, alive) = (ScatterMemory::new(), Arc::default());
    let (device, disk) = busy(&memory, &alive);
    device.faults(|faults| faults.reset = ResetAnswer::Never);
    let not = disk.shutdown(&mut SpinLimit { looks: 5 }).err().unwrap();
    assert!(not.to_string().contains("did not acknowledge"));
    assert_eq!((alive.load(Ordering::Relaxed), memory.outstanding() > 0), (4, true));
    let not = not.disk.shutdown(&mut SpinLimit { looks: 5 }).err().unwrap();
    device.faults(|faults| faults.reset = ResetAnswer::Prompt);
    let transport = not.disk.shutdown(&mut SpinLimit { looks: 5 }).unwrap();
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    memory.assert_clean();
    let mut disk: TestDisk<_> = Disk::open(transport, memory.clone(), &defaults(), &mut Spin).unwrap();
    device.faults(|faults| faults.hold = false);
    let mut policy = || {
        device.run();
        Ok(())
    };
    disk.write(9, &pattern(512, 9), &mut policy).unwrap();
    assert_eq!(device.read_disk(9, 1), pattern(512, 9));
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_disk_that_was_not_shut_down_and_is_dropped_is_leaked() {
    let (memory, alive) = (ScatterMemory::new(), Arc::default());
    let (device, disk) = busy(&memory, &alive);
    device.faults(|faults| faults.reset = ResetAnswer::Never);
    drop(disk.shutdown(&mut SpinLimit { looks: 5 }).err().unwrap());
    // One has ended and was noticed while shutting down.
    assert_eq!((alive.load(Ordering::Relaxed), memory.outstanding()), (3, 2));
    device.assert_conformant();
}
