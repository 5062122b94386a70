//! Requests that the device fails, and answers that make no sense.

mod common;

use common::{Placed, defaults, few, open, pattern};
use testing_device::{BlockDevice, Data, IommuMemory, Outcome, ScatterMemory, StatusByte, UsedLength};
use virtio_blk::{BlockFeatures, DeviceError, Error, Operation, Options};
use virtio_spec::block::RequestStatus;
use virtio_transport::Spin;

fn failed(operation: Operation, sector: u64, status: DeviceError) -> Result<(), Error> {
    Err(Error::Device { operation, sector, status })
}

/// A device that takes eight sectors in a request, if they fill a page.
fn eight_sectors<M: testing_device::TestMemory>(memory: &M) -> BlockDevice {
    let builder = BlockDevice::builder().offer(BlockFeatures::SIZE_MAX.bits());
    builder.config(|config| (config.size_max, config.seg_max) = (4096.into(), 1.into())).build(memory)
}

#[test]
fn a_bad_sector_fails_its_request_and_the_error_names_it() {
    let memory = IommuMemory::new();
    let device = eight_sectors(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let disk_bytes = pattern(64 * 512, 5);
    device.write_disk(0, &disk_bytes);
    device.faults(|faults| faults.bad_sectors.push(19..20));
    let mut buffer = Placed::new(0, 64 * 512);
    assert_eq!(disk.read(0, &mut buffer, &mut Spin), failed(Operation::Read, 16, DeviceError::Io));
    assert_eq!((device.counts().reads, device.counts().failures), (8, 1), "only that one");
    assert!(buffer[..16 * 512] == disk_bytes[..16 * 512] && buffer[24 * 512..] == disk_bytes[24 * 512..]);
    assert!(buffer[16 * 512..24 * 512] == [0; 8 * 512]);

    let one = Placed::filled(0, 512, 1);
    assert_eq!(disk.write(19, &one, &mut Spin), failed(Operation::Write, 19, DeviceError::Io));
    for sector in [18, 20] {
        disk.write(sector, &one, &mut Spin).unwrap();
        assert!(device.read_disk(sector, 1) == one[..]);
    }
    device.faults(|faults| faults.bad_sectors.clear());
    disk.write(19, &one, &mut Spin).unwrap();
    assert!(device.read_disk(19, 1) == one[..]);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn the_first_of_several_failures_is_told() {
    let memory = ScatterMemory::new();
    let device = eight_sectors(&memory);
    let mut disk = open(&device, &memory, &defaults());
    device.faults(|faults| faults.bad_sectors.extend([9..10, 40..41]));
    let buffer = Placed::new(0, 64 * 512);
    assert_eq!(disk.write(0, &buffer, &mut Spin), failed(Operation::Write, 8, DeviceError::Io));
    assert_eq!(disk.queue().in_flight(), 0, "all parts have come back");
    drop(disk);
    memory.assert_clean();
}

#[test]
fn every_status_has_its_error() {
    for (status, expected) in few(
        2,
        [
            (RequestStatus::IOERR.0, DeviceError::Io),
            (RequestStatus::UNSUPP.0, DeviceError::Unsupported),
            (3, DeviceError::ZoneInvalidCommand),
            (4, DeviceError::ZoneUnalignedWritePointer),
            (5, DeviceError::ZoneOpenResource),
            (6, DeviceError::ZoneActiveResource),
            (7, DeviceError::Unknown(7)),
            (77, DeviceError::Unknown(77)),
            (0xfe, DeviceError::Unknown(0xfe)),
            (0xff, DeviceError::NoStatus),
        ],
    ) {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().build(&memory);
        let mut disk = open(&device, &memory, &defaults());
        device.faults(|faults| faults.outcome = Outcome::status_byte(status));
        assert_eq!(disk.read(4, &mut [0; 512], &mut Spin), failed(Operation::Read, 4, expected));
        assert_eq!(disk.write(5, &[0; 512], &mut Spin), failed(Operation::Write, 5, expected));
        assert_eq!(disk.flush(&mut Spin), failed(Operation::Flush, 0, expected));
        assert_eq!(disk.device_id(&mut Spin).map(drop), failed(Operation::DeviceId, 0, expected));
        device.faults(|faults| faults.outcome = Outcome::HONEST);
        disk.read(4, &mut [0; 512], &mut Spin).unwrap();
        assert_eq!(device.counts().resets, 1, "a failed request is no reason for a reset");
    }
}

#[test]
fn a_status_that_is_not_written_is_an_error_also_in_a_slot_that_was_used_before() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &Options { queue_size: 4, ..defaults() });
    for _ in 0..if cfg!(miri) { 3 } else { 10 } {
        disk.read(4, &mut [0; 512], &mut Spin).unwrap();
        let silent = Outcome { status: StatusByte::Unwritten, ..Outcome::HONEST };
        device.faults(|faults| faults.next.push_back(silent));
        assert_eq!(disk.read(4, &mut [0; 512], &mut Spin), failed(Operation::Read, 4, DeviceError::NoStatus));
    }
}

#[test]
fn wrong_used_lengths_do_not_matter() {
    for length in
        few(1, [UsedLength::Value(0), UsedLength::Value(1), UsedLength::Value(u32::MAX), UsedLength::WholeChain])
    {
        let memory = IommuMemory::new();
        let device = BlockDevice::builder().build(&memory);
        let mut disk = open(&device, &memory, &defaults());
        device.faults(|faults| faults.outcome = Outcome { length, ..Outcome::HONEST });
        let data = Placed::filled(100, 10 * 512, 8);
        disk.write(7, &data, &mut Spin).unwrap();
        let mut back = Placed::new(4095, 10 * 512);
        disk.read(7, &mut back, &mut Spin).unwrap();
        assert!(back[..] == data[..] && back.rest_is_zero());
        disk.flush(&mut Spin).unwrap();
        assert_eq!(disk.device_id(&mut Spin).unwrap().as_bytes(), b"testing-device");
        // A failure is one, whatever the length.
        let failure = Outcome { length, ..Outcome::failure(RequestStatus::IOERR) };
        device.faults(|faults| faults.next.push_back(failure));
        assert_eq!(disk.read(7, &mut back, &mut Spin), failed(Operation::Read, 7, DeviceError::Io));
        drop(disk);
        memory.assert_clean();
    }
}

#[test]
fn a_failed_read_does_not_touch_what_the_device_did_not_write() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    device.write_disk(0, &[1; 1024]);
    let short = Outcome { data: Data::Short(600), ..Outcome::status_byte(RequestStatus::IOERR.0) };
    device.faults(|faults| faults.next.push_back(short));
    let mut buffer = [0xee; 1024];
    assert_eq!(disk.read(0, &mut buffer, &mut Spin), failed(Operation::Read, 0, DeviceError::Io));
    assert_eq!((&buffer[..600], &buffer[600..]), (&[1; 600][..], &[0xee; 424][..]));
}

#[test]
fn the_name_is_what_comes_before_the_first_zero() {
    for (id, expected, shown) in few(
        3,
        [
            ("", &b""[..], ""),
            ("disk", b"disk", "disk"),
            ("exactly-20-bytes-abc", b"exactly-20-bytes-abc", "exactly-20-bytes-abc"),
            ("more-than-twenty-bytes", b"more-than-twenty-byt", "more-than-twenty-byt"),
            ("with space", b"with space", "with space"),
            ("a\0b", b"a", "a"),
            ("\0hidden", b"", ""),
            ("\x1b[2J\n", b"\x1b[2J\n", "\\x1b[2J\\n"),
            ("pl\u{e4}tte", "pl\u{e4}tte".as_bytes(), "pl\\xc3\\xa4tte"),
            ("a\"b'c\\d", b"a\"b'c\\d", "a\\\"b\\'c\\\\d"),
        ],
    ) {
        let memory = IommuMemory::new();
        let device = BlockDevice::builder().id(id).build(&memory);
        let mut disk = open(&device, &memory, &Options { queue_size: 4, segments: 1, ..defaults() });
        let name = disk.device_id(&mut Spin).unwrap();
        assert_eq!((name.as_bytes(), name.to_string()), (expected, shown.to_string()));
        assert_eq!(format!("{name:?}"), format!("DeviceId({shown})"));
        drop(disk);
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn a_device_without_a_name_says_so() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    device.faults(|faults| faults.next.push_back(Outcome::failure(RequestStatus::UNSUPP)));
    let error = disk.device_id(&mut Spin).unwrap_err();
    let unsupported = DeviceError::Unsupported;
    assert_eq!(error, Error::Device { operation: Operation::DeviceId, sector: 0, status: unsupported });
}

#[test]
fn memory_that_cannot_be_mapped_is_an_error_and_nothing_stays_mapped() {
    let memory = IommuMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &Options { segments: 2, ..defaults() });
    let data = Placed::filled(100, 40 * 512, 8);
    for failing in 0..6 {
        memory.fail_map(failing);
        let error = disk.write(0, &data, &mut Spin);
        assert_eq!(error, Err(Error::Memory(virtqueue::MemoryError::OutOfMemory)), "mapping {failing}");
        assert_eq!((memory.mapped(), disk.queue().in_flight()), (0, 0));
    }
    disk.write(0, &data, &mut Spin).unwrap();
    assert!(device.read_disk(0, 40) == data[..]);
    assert_eq!(device.counts().resets, 1);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}
