//! A device that breaks the rules of the ring gets an error, a reset, and nothing of the kernel's memory.

mod common;

use common::{Placed, TestDisk, defaults, few, open, pattern, transport};
use testing_device::{BlockDevice, DeviceRegisters, IommuMemory, Mode, Outcome, ScatterMemory};
use virtio_blk::{BlockFeatures, Disk, Error, Options};
use virtio_transport::{GaveUp, Mmio, Spin, SpinLimit};
use virtqueue::Violation;

fn options() -> Options {
    Options { queue_size: 16, segments: 2, ..defaults() }
}

/// After the error the device was reset, every call says so, and the disk can be opened anew.
#[track_caller]
fn assert_stopped(device: &BlockDevice, memory: &ScatterMemory, mut disk: TestDisk<ScatterMemory>) {
    assert_eq!(device.counts().resets, 2, "one when it was opened, one now");
    assert_eq!((device.release(), device.run()), (0, 0), "nothing is left to be written");
    for _ in 0..2 {
        assert_eq!(disk.read(0, &mut [0; 512], &mut Spin), Err(Error::Stopped));
        assert_eq!(disk.write(0, &[0; 512], &mut Spin), Err(Error::Stopped));
        assert_eq!(disk.flush(&mut Spin), Err(Error::Stopped));
        assert_eq!(disk.device_id(&mut Spin).map(drop), Err(Error::Stopped));
        assert_eq!(disk.cache_mode(), Err(Error::Stopped));
        assert_eq!(disk.queue().submit_flush(), Err(Error::Stopped));
        assert!(!disk.queue().commit());
    }
    assert!(disk.device().needs_reset() && disk.device().interrupt().is_none());
    device.faults(|faults| *faults = testing_device::Faults::default());
    device.assert_conformant();

    let transport: Mmio<DeviceRegisters> = disk.shutdown(&mut Spin).unwrap();
    memory.assert_clean();
    let mut disk: TestDisk<_> = Disk::open(transport, memory.clone(), &options(), &mut Spin).unwrap();
    let mut policy = || {
        device.run();
        Ok(())
    };
    disk.write(3, &pattern(512, 3), &mut policy).unwrap();
    assert_eq!(device.read_disk(3, 1), pattern(512, 3));
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

/// A blocking read of three pages in three requests, whose outcomes are these.
#[track_caller]
fn read(outcomes: &[Outcome], mode: Mode) -> Violation {
    let memory = ScatterMemory::new();
    // Two segments of half a page in a request.
    let builder = BlockDevice::builder().mode(mode).offer(BlockFeatures::SIZE_MAX.bits());
    let device = builder.config(|config| config.size_max = 2048.into()).build(&memory);
    device.write_disk(0, &pattern(24 * 512, 4));
    let mut disk = open(&device, &memory, &options());
    device.faults(|faults| faults.next.extend(outcomes));
    let mut buffer = Placed::new(0, 24 * 512);
    let mut taken = Vec::new();
    let mut looks = 0;
    // In manual mode the driver sees each completion by itself.
    let mut policy = || {
        if let Some(pending) = device.take() {
            let outcome = device.faults(|faults| faults.next.pop_front()).unwrap_or_default();
            device.complete(pending.clone(), outcome);
            taken.push(pending);
        }
        looks += 1;
        if looks < 100 { Ok(()) } else { Err(GaveUp) }
    };
    let Err(Error::Violation(violation)) = disk.read(0, &mut buffer, &mut policy) else { panic!("no violation") };
    // Nothing that the device still has can reach the buffer now.
    let before = buffer.to_vec();
    for pending in taken {
        assert!(!device.complete(pending, Outcome::HONEST));
    }
    assert!(buffer[..] == before && buffer.rest_is_zero());
    buffer.fill(0x55);
    assert_stopped(&device, &memory, disk);
    assert!(buffer.is_all(0x55));
    violation
}

#[test]
fn an_id_that_is_out_of_range_ends_a_read() {
    let ids: &[u32] = if cfg!(miri) { &[0x1_0001] } else { &[16, 0xffff, 0x1_0000, 0x1_0001, u32::MAX] };
    for &id in ids {
        let wrong = Outcome { id: Some(id), ..Outcome::HONEST };
        for mode in [Mode::Immediate, Mode::Manual] {
            assert_eq!(read(&[wrong], mode), Violation::IdOutOfRange { id, size: 16 });
            assert_eq!(read(&[Outcome::HONEST, wrong], mode), Violation::IdOutOfRange { id, size: 16 });
        }
    }
}

#[test]
fn an_id_that_is_not_in_flight_ends_a_read() {
    let wrong = Outcome { id: Some(15), ..Outcome::HONEST };
    for mode in [Mode::Immediate, Mode::Manual] {
        assert_eq!(read(&[wrong], mode), Violation::NotInFlight { id: 15 });
    }
}

#[test]
fn a_request_that_comes_back_twice_ends_a_read() {
    let twice = Outcome { repeat: 1, ..Outcome::HONEST };
    let Violation::NotInFlight { id } = read(&[twice], Mode::Manual) else { panic!("another violation") };
    assert!(id < 16);
    // All three and one more are there at the first look: more than there can be.
    let jumped = Violation::UsedIndexJumped { seen: 0, found: 4, available: 3 };
    assert_eq!(read(&[twice], Mode::Immediate), jumped);
}

#[test]
fn an_index_that_jumps_ends_a_read() {
    let skips: &[u16] = if cfg!(miri) { &[3] } else { &[3, 100, 0x7fff, 0xfff0] };
    for &skip in skips {
        let jumping = Outcome { skip, ..Outcome::HONEST };
        let expected = Violation::UsedIndexJumped { seen: 0, found: 1 + skip, available: 3 };
        assert_eq!(read(&[jumping], Mode::Manual), expected);
    }
}

#[test]
fn elements_that_were_never_written_end_a_read() {
    // The index is possible, but the elements are those of a fresh ring: number 0, again and again.
    let skipping = Outcome { skip: 2, ..Outcome::HONEST };
    let Violation::NotInFlight { id } = read(&[skipping], Mode::Manual) else { panic!("another violation") };
    assert_eq!(id, 0);
}

#[test]
fn a_violation_ends_a_write_a_flush_and_the_name() {
    type Call = fn(&mut TestDisk<ScatterMemory>) -> Result<(), Error>;
    let calls: [Call; 4] = [
        |disk| disk.write(9, &[1; 512], &mut Spin),
        |disk| disk.flush(&mut Spin),
        |disk| disk.device_id(&mut Spin).map(drop),
        |disk| disk.set_cache_mode(virtio_blk::CacheMode::WriteThrough, &mut Spin),
    ];
    for call in few(2, calls) {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().build(&memory);
        let mut disk = open(&device, &memory, &options());
        device.faults(|faults| faults.outcome.id = Some(77));
        let violation = Violation::IdOutOfRange { id: 77, size: 16 };
        assert_eq!(call(&mut disk), Err(Error::Violation(violation)));
        assert_stopped(&device, &memory, disk);
    }
}

#[test]
fn completions_before_the_violation_count() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    device.write_disk(0, &pattern(512, 1));
    let mut disk = open(&device, &memory, &options());
    let mut buffer = [0; 512];
    // The duplicate is seen by the next call.
    device.faults(|faults| faults.next.push_back(Outcome { skip: 0, ..Outcome::HONEST }));
    disk.read(0, &mut buffer, &mut Spin).unwrap();
    device.push_raw(0, 0, 1);
    assert_eq!(buffer[..], pattern(512, 1));
    let error = disk.read(0, &mut buffer, &mut Spin);
    assert!(matches!(error, Err(Error::Violation(_))), "{error:?}");
    assert_stopped(&device, &memory, disk);
}

#[test]
fn a_violation_between_calls_is_told_by_the_next_poll() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &options());
    device.skip_used(0, 5);
    let violation = Violation::UsedIndexJumped { seen: 0, found: 5, available: 0 };
    for _ in 0..3 {
        assert_eq!(disk.queue().poll().map(drop), Err(Error::Violation(violation)));
    }
    // Nobody but the owner of the device can reset it; the next call that may does.
    assert_eq!(disk.flush(&mut Spin), Err(Error::Violation(violation)));
    assert_stopped(&device, &memory, disk);
}

#[test]
fn a_device_that_rewrites_its_ring_all_the_time_does_no_harm() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    let turns = if cfg!(miri) { 4 } else { 400 };
    let mut seed = 12345_u32;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed
    };
    for _ in 0..turns {
        let mut disk: TestDisk<_> = Disk::open(transport(&device), memory.clone(), &options(), &mut Spin).unwrap();
        let raw = device.raw_ring(0).unwrap();
        let mut buffer = Placed::new(100, 8 * 512);
        let mut limit = 0;
        let mut policy = || {
            limit += 1;
            for index in 0..16 {
                let id = if random() % 4 == 0 { random() } else { random() % 20 };
                raw.set_used_element(index, id, random()).unwrap();
            }
            raw.set_used_idx((random() % 6) as u16).unwrap();
            raw.set_avail_event(random() as u16).unwrap();
            raw.set_used_flags(random() as u16).unwrap();
            if limit < 50 { Ok(()) } else { Err(GaveUp) }
        };
        // Never a success: the status byte was not written.
        let result = disk.read(0, &mut buffer, &mut policy);
        assert!(
            matches!(result, Err(Error::Violation(_) | Error::GaveUp | Error::Device { .. })),
            "the device has done nothing: {result:?}"
        );
        assert!(buffer.is_all(0) && buffer.rest_is_zero());
        drop(disk);
        // Rings that the device has scribbled on show as rules broken by the driver.
        let _ = device.take_violations();
        memory.assert_clean();
    }
}

#[test]
fn no_mapping_is_left_when_a_violation_ends_a_read() {
    let memory = IommuMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &options());
    device.faults(|faults| faults.outcome.id = Some(77));
    let mut buffer = Placed::new(0, 24 * 512);
    assert!(matches!(disk.read(0, &mut buffer, &mut Spin), Err(Error::Violation(_))));
    // The buffer is the caller's again, so the device must not be able to reach it.
    assert_eq!(memory.mapped(), 0);
    drop(buffer);
    drop(disk);
    memory.assert_clean();
}

#[test]
fn a_device_that_never_acknowledges_after_a_violation_is_waited_for_where_a_buffer_is_at_stake() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &options());
    device.faults(|faults| {
        faults.outcome.id = Some(77);
        faults.reset = testing_device::ResetAnswer::AfterReads(if cfg!(miri) { 50 } else { 5000 });
    });
    let mut buffer = Placed::new(0, 512);
    assert!(matches!(disk.read(0, &mut buffer, &mut SpinLimit { looks: 10 }), Err(Error::Violation(_))));
    assert_stopped(&device, &memory, disk);
}
