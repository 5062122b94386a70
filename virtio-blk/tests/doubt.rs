//! Which writes are in doubt after a reset, and what is done when a device does not do as it is told.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Placed, TestDisk, counted, defaults, open, open_with, transport};
use testing_device::{BlockDevice, DeviceRegisters, Mode, Outcome, ScatterMemory};
use virtio_blk::{BlockFeatures, CacheMode, DeviceError, Disk, Error, Operation, Options, Setup};
use virtio_spec::block::CacheMode as CacheModeByte;
use virtio_transport::{Mmio, Registers, Spin, SpinLimit};

fn doubt<B: virtio_blk::Buffer>(disk: &mut TestDisk<ScatterMemory, B>) -> bool {
    disk.recover(&mut Spin).unwrap().writes_in_doubt
}

#[test]
fn writes_of_a_device_that_has_left_write_through_by_itself_are_in_doubt() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().config(|config| config.writeback = CacheModeByte::WRITETHROUGH).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    disk.write(1, &[1; 512], &mut Spin).unwrap();
    assert!(!doubt(&mut disk));
    device.change_config(|config| config.writeback = CacheModeByte::WRITEBACK);
    disk.write(1, &[2; 512], &mut Spin).unwrap();
    assert!(doubt(&mut disk));
    drop(disk);
    device.assert_conformant();
}

#[test]
fn a_doubt_outlives_a_change_to_write_through_that_could_not_flush() {
    // The mode that the device begins with does not matter.
    for first in [CacheModeByte::WRITEBACK, CacheModeByte::WRITETHROUGH] {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().config(|config| config.writeback = first).build(&memory);
        let mut disk = open(&device, &memory, &defaults());
        disk.set_cache_mode(CacheMode::WriteBack, &mut Spin).unwrap();
        disk.write(1, &[1; 512], &mut Spin).unwrap();
        device.faults(|faults| faults.bad_flush = true);
        let failed = disk.set_cache_mode(CacheMode::WriteThrough, &mut Spin);
        let expected = Error::Device { operation: Operation::Flush, sector: 0, status: DeviceError::Io };
        assert_eq!(failed, Err(expected));
        assert!(doubt(&mut disk));
        assert_eq!(disk.cache_mode(), Ok(CacheMode::WriteThrough));
        assert!(doubt(&mut disk), "it stays so");
        device.faults(|faults| faults.bad_flush = false);
        disk.flush(&mut Spin).unwrap();
        assert!(!doubt(&mut disk), "until a flush is Ok");
        drop(disk);
        device.assert_conformant();
    }
}

#[test]
fn without_flush_nothing_says_that_earlier_writes_are_safe() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().withhold(BlockFeatures::FLUSH.bits()).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    disk.write(1, &[1; 512], &mut Spin).unwrap();
    disk.set_cache_mode(CacheMode::WriteThrough, &mut Spin).unwrap();
    assert!(doubt(&mut disk));
    drop(disk);
    device.assert_conformant();
}

#[test]
fn a_disk_that_has_always_written_through_stays_without_doubt_when_it_is_told_to() {
    let memory = ScatterMemory::new();
    let builder = BlockDevice::builder().withhold(BlockFeatures::FLUSH.bits());
    let device = builder.config(|config| config.writeback = CacheModeByte::WRITETHROUGH).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    disk.write(1, &[1; 512], &mut Spin).unwrap();
    disk.set_cache_mode(CacheMode::WriteThrough, &mut Spin).unwrap();
    assert!(!doubt(&mut disk));
    drop(disk);
    device.assert_conformant();
}

#[test]
fn a_flush_that_ends_late_takes_nothing_back_of_what_a_later_one_has_covered() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    let mut disk = open_with::<_, common::Counted>(&device, &memory, &defaults());
    let queue = disk.queue();
    queue.submit_flush().unwrap();
    queue.commit();
    let early = device.take().unwrap();
    queue.submit_write(1, counted(vec![1; 512])).unwrap();
    queue.commit();
    device.run();
    assert_eq!(queue.poll().unwrap().unwrap().result, Ok(()));
    queue.submit_flush().unwrap();
    queue.commit();
    device.run();
    assert_eq!(queue.poll().unwrap().unwrap().result, Ok(()));
    assert!(device.complete(early, Outcome::HONEST));
    assert_eq!(queue.poll().unwrap().unwrap().result, Ok(()));
    assert!(!doubt(&mut disk));
    drop(disk);
    device.assert_conformant();
}

#[test]
fn after_an_error_no_more_requests_are_sent() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().queue_size_max(4).config(|config| config.seg_max = 1.into()).build(&memory);
    device.faults(|faults| faults.bad_sectors.push(0..1));
    let mut disk = open(&device, &memory, &Options { queue_size: 4, segments: 1, ..defaults() });
    // A page is one segment at the most: 32 requests, 4 at once.
    let data = Placed::filled(0, 32 * 4096, 7);
    let failed = disk.write(0, &data, &mut Spin).unwrap_err();
    assert_eq!(failed, Error::Device { operation: Operation::Write, sector: 0, status: DeviceError::Io });
    assert!(device.read_disk(8 * 5, 8 * 27).iter().all(|byte| *byte == 0), "only what was in flight was written");
    drop(disk);
    device.assert_conformant();
}

/// A queue of another device, given beside the device's own, must not be taken for one that was reset.
#[test]
fn a_queue_of_another_device_is_refused_beside_the_own_one() {
    let memory = ScatterMemory::new();
    let devices = [(); 2].map(|()| BlockDevice::builder().mode(Mode::Manual).build(&memory));
    let disks = [0, 1].map(|index| open_with::<_, common::Counted>(&devices[index], &memory, &defaults()));
    let [(mut handle, mut own), (mut other_handle, mut other)] = disks.map(|disk| disk.split());
    other.submit_write(1, counted(vec![1; 512])).unwrap();
    other.commit();
    let missing = Err(Error::QueuesMissing { expected: 1, found: 1 });
    let both = &mut [&mut own, &mut other];
    assert_eq!(handle.recover(both, &mut Spin).map(drop), missing);
    assert_eq!(handle.shutdown(both, &mut Spin).map(drop), missing);
    assert_eq!(handle.set_cache_mode(CacheMode::WriteBack, both, &mut Spin), missing);
    assert_eq!(handle.suspend(both, &mut Spin), missing);
    assert_eq!(handle.resume(both, &mut Spin), missing);
    assert_eq!(handle.give_up(both), missing);
    assert_eq!((own.is_stopped(), other.is_stopped(), other.in_flight()), (false, false, 1));
    devices[1].run();
    assert_eq!(other.poll().unwrap().unwrap().result, Ok(()));
    handle.shutdown(&mut [&mut own], &mut Spin).unwrap();
    other_handle.shutdown(&mut [&mut other], &mut Spin).unwrap();
    devices.iter().for_each(BlockDevice::assert_conformant);
}

/// Registers of a device that does not always let its cache mode be written.
#[derive(Clone, Debug)]
struct Stubborn(DeviceRegisters, Arc<AtomicBool>);

impl Registers for Stubborn {
    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn read_u8(&self, offset: usize) -> u8 {
        self.0.read_u8(offset)
    }

    fn read_u16(&self, offset: usize) -> u16 {
        self.0.read_u16(offset)
    }

    fn read_u32(&self, offset: usize) -> u32 {
        self.0.read_u32(offset)
    }

    fn write_u8(&self, offset: usize, value: u8) {
        // The only byte that a driver writes.
        if !self.1.load(Ordering::Relaxed) {
            self.0.write_u8(offset, value);
        }
    }

    fn write_u16(&self, offset: usize, value: u16) {
        self.0.write_u16(offset, value);
    }

    fn write_u32(&self, offset: usize, value: u32) {
        self.0.write_u32(offset, value);
    }
}

#[test]
fn a_cache_mode_that_the_device_does_not_take_is_an_error() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    let stubborn = Arc::new(AtomicBool::new(true));
    let transport = Mmio::probe(Stubborn(device.registers(), stubborn.clone())).unwrap().unwrap();
    let disk = Disk::<_, _, common::Counted>::open(transport, memory, &defaults(), &mut Spin).unwrap();
    let (mut handle, mut queue) = disk.split();
    let queues = &mut [&mut queue];
    assert_eq!(handle.set_cache_mode(CacheMode::WriteThrough, queues, &mut Spin), Err(Error::CacheMode));
    assert_eq!(handle.cache_mode(), Ok(CacheMode::WriteBack));
    // Nobody has chosen a mode, so there is none to be set again.
    let _ = handle.recover(queues, &mut Spin).unwrap();

    stubborn.store(false, Ordering::Relaxed);
    let mut wait = || {
        device.run();
        Ok(())
    };
    handle.set_cache_mode(CacheMode::WriteThrough, queues, &mut wait).unwrap();
    queues[0].submit_write(1, counted(vec![1; 512])).unwrap();
    stubborn.store(true, Ordering::Relaxed);
    assert_eq!(handle.recover(queues, &mut Spin), Err(Error::CacheMode), "it would lose what it is said to keep");
    let completion = queue.poll().unwrap().unwrap();
    assert_eq!(completion.result, Err(Error::GivenUp { operation: Operation::Write, sector: 1 }));
    device.assert_conformant();
}

#[test]
fn a_device_that_is_given_up_after_it_was_reset_gives_the_buffers_of_every_queue_back() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().queues(2).mode(Mode::Manual).build(&memory);
    let options = Options { queues: 2, ..defaults() };
    let mut setup = Setup::negotiate(transport(&device), memory.clone(), &options, &mut Spin).unwrap();
    let mut queues = [(); 2].map(|()| setup.add_queue::<common::Counted>().unwrap());
    let mut handle = setup.start();
    let [first, second] = &mut queues;
    second.submit_write(1, counted(vec![1; 512])).unwrap();
    second.commit();
    let mut calls = first.blocking(&mut handle).unwrap();
    assert_eq!(calls.read(0, &mut [0; 512], &mut SpinLimit { looks: 1 }), Err(Error::GaveUp));
    handle.give_up(&mut [&mut *first, &mut *second]).unwrap();
    let completion = second.poll().unwrap().unwrap();
    assert_eq!(completion.result, Err(Error::GivenUp { operation: Operation::Write, sector: 1 }));
    assert_eq!(completion.buffer.expect("the device has let go of it").bytes, [1; 512]);
    drop(queues);
    drop(handle);
    memory.assert_clean();
    device.assert_conformant();
}
