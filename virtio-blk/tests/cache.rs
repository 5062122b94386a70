//! The cache mode, and what a flush makes of completed writes.

mod common;

use common::{defaults, few, open, pattern, transport};
use testing_device::{BlockDevice, Builder, Interface, Mode, ScatterMemory};
use virtio_blk::{BlockFeatures, CacheMode, DeviceError, Error, Operation, Options, Setup};
use virtio_spec::block::CacheMode as CacheModeByte;
use virtio_transport::Spin;

const INTERFACES: [Interface; 2] = [Interface::Modern, Interface::Legacy];

fn with(interface: Interface, features: BlockFeatures) -> Builder {
    let all = BlockFeatures::FLUSH | BlockFeatures::CONFIG_WCE;
    let writeback = features.contains(BlockFeatures::FLUSH);
    let byte = if writeback { CacheModeByte::WRITEBACK } else { CacheModeByte::WRITETHROUGH };
    BlockDevice::builder()
        .interface(interface)
        .withhold(all.difference(features).bits())
        .config(move |config| config.writeback = byte)
}

#[test]
fn the_mode_follows_from_what_was_negotiated() {
    for interface in INTERFACES {
        for (features, expected) in few(
            2,
            [
                (BlockFeatures::empty(), CacheMode::WriteThrough),
                (BlockFeatures::FLUSH, CacheMode::WriteBack),
                (BlockFeatures::CONFIG_WCE, CacheMode::WriteThrough),
                (BlockFeatures::FLUSH | BlockFeatures::CONFIG_WCE, CacheMode::WriteBack),
            ],
        ) {
            let memory = ScatterMemory::new();
            let device = with(interface, features).build(&memory);
            let mut disk = open(&device, &memory, &defaults());
            assert_eq!(disk.cache_mode(), Ok(expected), "{features:?}");
            assert_eq!(disk.info().cache_mode_can_change, features.contains(BlockFeatures::CONFIG_WCE));
            // The contract: a completed write survives a power cut in write-through mode, and in write-back mode once it
            // was flushed.
            disk.write(3, &pattern(512, 3), &mut Spin).unwrap();
            let stable = device.read_stable(3, 1) == pattern(512, 3);
            assert_eq!(stable, expected == CacheMode::WriteThrough, "{features:?}");
            if features.contains(BlockFeatures::FLUSH) {
                disk.flush(&mut Spin).unwrap();
                assert_eq!(device.read_stable(3, 1), pattern(512, 3));
                device.power_cut();
                let mut back = [0; 512];
                disk.read(3, &mut back, &mut Spin).unwrap();
                assert_eq!(back[..], pattern(512, 3));
            }
            drop(disk);
            device.assert_conformant();
        }
    }
}

#[test]
fn changing_to_write_through_flushes_and_changing_back_does_not() {
    for interface in INTERFACES {
        let memory = ScatterMemory::new();
        let device = with(interface, BlockFeatures::FLUSH | BlockFeatures::CONFIG_WCE).build(&memory);
        let mut disk = open(&device, &memory, &defaults());
        disk.write(1, &pattern(512, 1), &mut Spin).unwrap();
        assert_ne!(device.read_stable(1, 1), pattern(512, 1));

        disk.set_cache_mode(CacheMode::WriteThrough, &mut Spin).unwrap();
        assert_eq!(disk.cache_mode(), Ok(CacheMode::WriteThrough));
        assert_eq!(device.config().writeback, CacheModeByte::WRITETHROUGH);
        assert_eq!(device.counts().flushes, 1);
        assert_eq!(device.read_stable(1, 1), pattern(512, 1), "earlier writes are safe as well");
        disk.write(2, &pattern(512, 2), &mut Spin).unwrap();
        assert_eq!(device.read_stable(2, 1), pattern(512, 2));

        disk.set_cache_mode(CacheMode::WriteBack, &mut Spin).unwrap();
        assert_eq!(disk.cache_mode(), Ok(CacheMode::WriteBack));
        assert_eq!((device.config().writeback, device.counts().flushes), (CacheModeByte::WRITEBACK, 1));
        disk.write(2, &pattern(512, 9), &mut Spin).unwrap();
        assert_eq!(device.read_stable(2, 1), pattern(512, 2));
        drop(disk);
        device.assert_conformant();
    }
}

#[test]
fn a_disk_that_only_writes_through_needs_no_flush_to_be_told_so() {
    // CONFIG_WCE without FLUSH: the device starts in write-through mode (5.2.5.2).
    let memory = ScatterMemory::new();
    let device = with(Interface::Modern, BlockFeatures::CONFIG_WCE).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    assert_eq!(disk.set_cache_mode(CacheMode::WriteThrough, &mut Spin), Ok(()));
    assert_eq!(disk.cache_mode(), Ok(CacheMode::WriteThrough));
    assert_eq!(device.counts().flushes, 0);
    drop(disk);
    device.assert_conformant();
}

#[test]
fn the_mode_is_changed_when_nothing_is_in_flight() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    let mut disk: common::TestDisk<_, &'static mut [u8]> = common::open_with(&device, &memory, &defaults());
    let buffer = vec![6_u8; 512].leak();
    let token = disk.queue().submit_write(5, buffer).unwrap();
    let mut looks = 0;
    let mut policy = || {
        if device.counts().writes == 0 {
            assert_eq!(device.config().writeback, CacheModeByte::WRITEBACK, "not before the write has ended");
        }
        looks += 1;
        if looks % 4 == 0 {
            device.run();
        }
        Ok(())
    };
    disk.set_cache_mode(CacheMode::WriteThrough, &mut policy).unwrap();
    assert_eq!((device.counts().writes, device.counts().flushes), (1, 1));
    assert_eq!(device.read_stable(5, 1), [6; 512]);
    let completion = disk.queue().poll().unwrap().unwrap();
    assert_eq!((completion.token, completion.result), (token, Ok(())));
    let buffer = completion.buffer.unwrap();
    // SAFETY: it was leaked above, with the capacity of its length.
    drop(unsafe { Vec::from_raw_parts(buffer.as_mut_ptr(), 512, 512) });
}

#[test]
fn any_byte_but_zero_is_write_back() {
    for (byte, expected) in [(0, CacheMode::WriteThrough), (1, CacheMode::WriteBack), (2, CacheMode::WriteBack)] {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().config(|config| config.writeback = CacheModeByte(byte)).build(&memory);
        assert_eq!(open(&device, &memory, &defaults()).cache_mode(), Ok(expected));
    }
}

#[test]
fn a_flush_that_fails_says_so_and_the_next_one_may_succeed() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    disk.write(1, &pattern(512, 1), &mut Spin).unwrap();
    device.faults(|faults| faults.bad_flush = true);
    let failed = Err(Error::Device { operation: Operation::Flush, sector: 0, status: DeviceError::Io });
    assert_eq!(disk.flush(&mut Spin), failed);
    assert_eq!(disk.set_cache_mode(CacheMode::WriteThrough, &mut Spin), failed);
    assert_ne!(device.read_stable(1, 1), pattern(512, 1));
    device.faults(|faults| faults.bad_flush = false);
    disk.flush(&mut Spin).unwrap();
    assert_eq!(device.read_stable(1, 1), pattern(512, 1));
}

#[test]
fn a_recovered_disk_says_which_writes_are_in_doubt() {
    let (none, flush) = (BlockFeatures::empty(), BlockFeatures::FLUSH);
    for (features, flushed, in_doubt) in [(flush, false, true), (flush, true, false), (none, false, false)] {
        let memory = ScatterMemory::new();
        let device = with(Interface::Modern, features).build(&memory);
        let mut disk = open(&device, &memory, &defaults());
        assert!(!disk.recover(&mut Spin).unwrap().writes_in_doubt, "nothing was written");
        disk.write(1, &pattern(512, 1), &mut Spin).unwrap();
        if flushed {
            disk.flush(&mut Spin).unwrap();
        }
        let found = disk.recover(&mut Spin).unwrap().writes_in_doubt;
        assert_eq!(found, in_doubt, "{features:?}, flushed: {flushed}");
    }
}

#[test]
fn writes_to_a_disk_that_started_in_write_through_mode_are_not_in_doubt() {
    let memory = ScatterMemory::new();
    let builder = BlockDevice::builder().config(|config| config.writeback = CacheModeByte::WRITETHROUGH);
    let device = builder.build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    assert_eq!(disk.cache_mode(), Ok(CacheMode::WriteThrough));
    disk.write(1, &pattern(512, 1), &mut Spin).unwrap();
    assert_eq!(device.read_stable(1, 1), pattern(512, 1));
    assert!(!disk.recover(&mut Spin).unwrap().writes_in_doubt);
}

#[test]
fn a_flush_on_one_queue_covers_the_writes_of_another() {
    // A flush is the device's, whichever queue it comes through (5.2.6.2).
    for flushed in [true, false] {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().queues(2).build(&memory);
        let options = Options { queues: 2, ..defaults() };
        let mut setup = Setup::negotiate(transport(&device), memory.clone(), &options, &mut Spin).unwrap();
        let mut first = setup.add_queue::<&'static mut [u8]>().unwrap();
        let mut second = setup.add_queue::<&'static mut [u8]>().unwrap();
        let mut running = setup.start();
        first.submit_write(3, pattern(512, 3).leak()).unwrap();
        first.commit();
        let written = first.poll().unwrap().unwrap();
        assert_eq!(written.result, Ok(()));
        if flushed {
            second.submit_flush().unwrap();
            second.commit();
            assert_eq!(second.poll().unwrap().unwrap().result, Ok(()));
            assert_eq!(device.read_stable(3, 1), pattern(512, 3));
        }
        let recovered = running.recover(&mut [&mut first, &mut second], &mut Spin).unwrap();
        assert_eq!(recovered.writes_in_doubt, !flushed);
        let buffer = written.buffer.unwrap();
        // SAFETY: it was leaked above, with the capacity of its length.
        drop(unsafe { Vec::from_raw_parts(buffer.as_mut_ptr(), 512, 512) });
    }
}
