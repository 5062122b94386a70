//! A device that breaks the rules of a packed ring gets an error, a reset, and nothing of the kernel's memory.

mod common;

use common::{Placed, defaults, few, pattern, transport};
use testing_device::{BlockDevice, DeviceRegisters, IommuMemory, Mode, Outcome, RawEvent, ScatterMemory};
use virtio_blk::{Disk, Error, NoBuffer, Options, Packed};
use virtio_transport::{GaveUp, Mmio, SpinLimit};
use virtqueue::{Memory, Violation};

type TestDisk<M> = Disk<Mmio<DeviceRegisters>, M, NoBuffer, Packed>;

/// More looks than anything here needs, so that nothing waits for ever.
const SOON: SpinLimit = SpinLimit { looks: 1000 };

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

const SIZE: u16 = 11;

fn open<M: Memory>(device: &BlockDevice, memory: &M) -> TestDisk<M> {
    let options = Options { queue_size: SIZE, segments: 2, ..defaults() };
    Disk::open_with(Packed, transport(device), memory.clone(), &options, &mut SOON.clone()).unwrap()
}

/// After the error the device was reset, and the disk works when it has recovered.
#[track_caller]
fn assert_recovers(device: &BlockDevice, mut disk: TestDisk<ScatterMemory>, memory: &ScatterMemory) {
    assert_eq!(device.counts().resets, 2, "one when it was opened, one now");
    assert_eq!(disk.read(0, &mut [0; 512], &mut SOON.clone()), Err(Error::Stopped));
    device.faults(|faults| *faults = testing_device::Faults::default());
    // A ring that the device has scribbled on shows as rules broken by the driver.
    let _ = device.take_violations();
    let _ = disk.recover(&mut SOON.clone()).unwrap();
    let mut policy = || {
        device.run();
        Ok(())
    };
    for turn in 0..2 * u64::from(SIZE) {
        disk.write(turn, &pattern(512, turn), &mut policy).unwrap();
        assert_eq!(device.read_disk(turn, 1), pattern(512, turn));
    }
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

/// A blocking read of which the first request ends like this, and what the driver says to that.
fn read(outcome: Outcome, mode: Mode) -> Result<(), Error> {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().packed().mode(mode).build(&memory);
    device.write_disk(0, &pattern(3 * 512, 4));
    let mut disk = open(&device, &memory);
    device.faults(|faults| faults.next.push_back(outcome));
    let mut buffer = Placed::new(100, 3 * 512);
    let mut looks = 0;
    let mut policy = || {
        device.run();
        looks += 1;
        if looks < 100 { Ok(()) } else { Err(GaveUp) }
    };
    let result = disk.read(0, &mut buffer, &mut policy);
    assert!(buffer.rest_is_zero());
    if result.is_ok() {
        assert_eq!(buffer[..], pattern(3 * 512, 4));
        // What is left of it shows at the next call.
        let next = disk.read(0, &mut buffer, &mut SOON.clone());
        assert!(matches!(next, Err(Error::Violation(_) | Error::GaveUp)), "{next:?}");
    }
    assert_recovers(&device, disk, &memory);
    result
}

#[test]
fn an_id_that_is_out_of_range_ends_a_read() {
    for id in few(1, [SIZE, 16, 255, u16::MAX]) {
        let wrong = Outcome { id: Some(id.into()), ..Outcome::HONEST };
        for mode in [Mode::Immediate, Mode::Manual] {
            let violation = Violation::IdOutOfRange { id: id.into(), size: SIZE };
            assert_eq!(read(wrong, mode), Err(Error::Violation(violation)));
        }
    }
}

#[test]
fn an_id_that_is_not_in_flight_ends_a_read() {
    let wrong = Outcome { id: Some(10), ..Outcome::HONEST };
    for mode in [Mode::Immediate, Mode::Manual] {
        assert_eq!(read(wrong, mode), Err(Error::Violation(Violation::NotInFlight { id: 10 })));
    }
}

#[test]
fn a_request_that_comes_back_twice_is_a_violation_for_the_next_call() {
    let twice = Outcome { repeat: 1, ..Outcome::HONEST };
    for mode in [Mode::Immediate, Mode::Manual] {
        assert_eq!(read(twice, mode), Ok(()));
    }
}

#[test]
fn a_used_descriptor_of_another_lap_is_none() {
    for flags in few(1, [AVAIL | USED, AVAIL, USED]) {
        let wrong = Outcome { flags, ..Outcome::HONEST };
        for mode in [Mode::Immediate, Mode::Manual] {
            assert_eq!(read(wrong, mode), Err(Error::GaveUp));
        }
    }
}

#[test]
fn a_completion_between_calls_that_nobody_asked_for_is_told_by_the_next_poll() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().packed().build(&memory);
    let mut disk = open(&device, &memory);
    device.push_raw(0, 3, 1);
    let violation = Violation::NotInFlight { id: 3 };
    for _ in 0..3 {
        assert_eq!(disk.queue().poll().map(drop), Err(Error::Violation(violation)));
    }
    assert_eq!(disk.flush(&mut SOON.clone()), Err(Error::Violation(violation)));
    assert_recovers(&device, disk, &memory);
}

#[test]
fn no_mapping_is_left_when_a_violation_ends_a_read() {
    let memory = IommuMemory::new();
    let device = BlockDevice::builder().packed().build(&memory);
    let mut disk = open(&device, &memory);
    device.faults(|faults| faults.outcome.id = Some(77));
    let mut buffer = Placed::new(0, 24 * 512);
    assert!(matches!(disk.read(0, &mut buffer, &mut SOON.clone()), Err(Error::Violation(_))));
    assert_eq!(memory.mapped(), 0);
    drop(buffer);
    drop(disk);
    memory.assert_clean();
}

#[test]
fn a_device_that_rewrites_its_ring_all_the_time_does_no_harm() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().packed().mode(Mode::Manual).build(&memory);
    let mut seed = 12345_u32;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed
    };
    for _ in 0..if cfg!(miri) { 4 } else { 400 } {
        let mut disk = open(&device, &memory);
        let raw = device.raw_packed_ring(0).unwrap();
        let mut buffer = Placed::new(100, 8 * 512);
        let mut looks = 0;
        let mut policy = || {
            looks += 1;
            for offset in 0..SIZE {
                if random() % 3 == 0 {
                    let id = if random() % 4 == 0 { random() } else { random() % u32::from(SIZE) };
                    raw.set_id(offset, id as u16, random()).unwrap();
                    let flags = if random() % 2 == 0 { AVAIL | USED } else { random() as u16 };
                    raw.set_flags(offset, flags).unwrap();
                }
            }
            raw.set_device_event(RawEvent { position: random() as u16, flags: random() as u16 }).unwrap();
            if looks < 50 { Ok(()) } else { Err(GaveUp) }
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
