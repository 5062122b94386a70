//! Zoned disks: reports, appends, what is done to zones, and how transfers keep to them.

mod common;

use std::cell::RefCell;

use common::{Counted, Placed, TestDisk, counted, defaults, drive, few, open, open_with, pattern, try_open};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use testing_device::{
    BlockDevice, Builder, Data, DeviceRegisters, IommuMemory, Mode, Order, Outcome, RangeLimits, ScatterMemory,
    SectorState, TestMemory, ZoneSetup,
};
use virtio_blk::{
    AsyncQueue, BlockFeatures, Device, DeviceError, Error, FeatureSet, Features, Info, OpenError, Operation, Options,
    Queue, SectorRange, Unmap, Zone, ZoneAction, ZoneModel, ZoneReport, ZoneReportError, ZoneState, ZoneType, Zoned,
};
use virtio_transport::{Mmio, MmioNotifier, Spin};

/// Zones of 64 sectors, of which 48 can be written; the first two are conventional.
const SETUP: ZoneSetup = ZoneSetup {
    zone_sectors: 64,
    capacity_sectors: 48,
    conventional: 2,
    max_open: 0,
    max_active: 0,
    max_append_sectors: 16,
    write_granularity_bytes: 1024,
};

/// The first sector of a zone.
const fn start(zone: u64) -> u64 {
    zone * 64
}

/// Eight zones, the last of them of half the size.
const SECTORS: u64 = 7 * 64 + 32;

fn zoned() -> Builder {
    BlockDevice::builder().capacity(SECTORS).zoned(SETUP)
}

fn failed<V>(operation: Operation, sector: u64, status: DeviceError) -> Result<V, Error> {
    Err(Error::Device { operation, sector, status })
}

fn no_action(action: Operation, zone: u64) -> Result<(), Error> {
    failed(action, zone, DeviceError::ZoneInvalidCommand)
}

type OwningQueue<M> = Queue<M, MmioNotifier<DeviceRegisters>, Counted>;
type Tasks<M> = AsyncQueue<RefCell<OwningQueue<M>>>;

fn split<M: TestMemory>(disk: TestDisk<M, Counted>) -> (Device<Mmio<DeviceRegisters>, M>, Tasks<M>) {
    let (device, queue) = disk.split();
    (device, AsyncQueue::new(RefCell::new(queue)))
}

fn shut_down<M: TestMemory>(mut device: Device<Mmio<DeviceRegisters>, M>, shared: Tasks<M>) {
    let mut queue = shared.into_inner().into_inner();
    drop(device.shutdown(&mut [&mut queue], &mut Spin).unwrap());
}

#[test]
fn the_configuration_says_how_a_disk_is_divided() {
    let memory = ScatterMemory::new();
    let limits = ZoneSetup { max_open: 3, max_active: 5, ..SETUP };
    let device = BlockDevice::builder().capacity(SECTORS).zoned(limits).build(&memory);
    let disk = open(&device, &memory, &defaults());
    let expected = Zoned {
        model: ZoneModel::HM,
        zone_sectors: 64,
        max_open_zones: Some(3),
        max_active_zones: Some(5),
        max_append_sectors: 16,
        write_granularity_bytes: 1024,
    };
    assert_eq!(disk.info().zoned, Some(expected));
    assert_eq!((expected.zone_start(63), expected.zone_start(64), expected.zone_start(u64::MAX)), (0, 64, !63));
    drop(disk);
    let disk = open(&zoned().build(&memory), &memory, &defaults());
    let zoned = disk.info().zoned.unwrap();
    assert_eq!((zoned.max_open_zones, zoned.max_active_zones), (None, None));
}

/// Opens a device of another model, or with other numbers, and returns what it says.
fn info_with(model: ZoneModel, zone_sectors: u32, blk_size: u32) -> Result<Info, OpenError> {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder()
        .capacity(SECTORS)
        .offer(BlockFeatures::ZONED.bits())
        .config(|config| {
            config.blk_size = blk_size.into();
            config.zoned = SETUP.characteristics();
            config.zoned.model = model;
            config.zoned.zone_sectors = zone_sectors.into();
            config.zoned.write_granularity = 0.into();
        })
        .build(&memory);
    let info = try_open(&device, &memory, &defaults()).map(|disk| *disk.info());
    device.assert_conformant();
    info
}

#[test]
fn a_disk_that_is_not_zoned_after_all_has_no_zones() {
    let info = info_with(ZoneModel::NONE, 0, 512).unwrap();
    assert_eq!((info.zoned, info.features.contains(BlockFeatures::ZONED)), (None, true));
    let info = info_with(ZoneModel::HA, 64, 4096).unwrap();
    let zoned = info.zoned.unwrap();
    assert_eq!((zoned.model, zoned.write_granularity_bytes), (ZoneModel::HA, 4096));
}

#[test]
fn zones_of_an_impossible_size_are_refused() {
    for (zone_sectors, blk_size) in [(0, 512), (0, 4096), (4, 4096), (63, 1024), (u32::MAX, 1024)] {
        let error = info_with(ZoneModel::HM, zone_sectors, blk_size).unwrap_err();
        assert_eq!(error, OpenError::ZoneSize { found: zone_sectors, block_sectors: blk_size / 512 });
    }
}

#[test]
fn discard_is_not_accepted_of_a_host_managed_disk() {
    let memory = ScatterMemory::new();
    let device = zoned().discard(RangeLimits::default()).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let feature = FeatureSet::from(BlockFeatures::DISCARD);
    assert!(!disk.info().features.contains(feature) && disk.info().discard.is_none());
    let error = Error::NotNegotiated { operation: Operation::Discard, feature };
    assert_eq!(disk.discard(&[(0..8).into()], &mut Spin), Err(error));
    drop(disk);
    let options = Options { require: feature, ..defaults() };
    let Some(OpenError::MissingFeatures { missing, .. }) = try_open(&device, &memory, &options).err() else {
        panic!("not refused");
    };
    assert_eq!(missing, feature);
    // A kernel that knows nothing of zones does not get the disk.
    let options = Options { forbid: BlockFeatures::ZONED.into(), ..defaults() };
    assert!(matches!(try_open(&device, &memory, &options).err(), Some(OpenError::Init(_))));
}

#[test]
fn without_zones_their_requests_are_errors() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    let feature = BlockFeatures::ZONED.into();
    let error = |operation| Error::NotNegotiated { operation, feature };
    let mut buffer = [0; ZoneReport::bytes(1)];
    assert_eq!(disk.report_zones(0, &mut buffer, &mut Spin).map(drop), Err(error(Operation::ZoneReport)));
    assert_eq!(disk.append(0, &[0; 512], &mut Spin), Err(error(Operation::ZoneAppend)));
    assert_eq!(disk.reset_all_zones(&mut Spin), Err(error(Operation::ZoneResetAll)));
    for (action, operation) in ACTIONS {
        assert_eq!(disk.zone_action(action, 0, &mut Spin), Err(error(operation)));
        assert_eq!(disk.queue().submit_zone_action(action, 0), Err(error(operation)));
    }
    assert_eq!(disk.queue().submit_reset_all_zones(), Err(error(Operation::ZoneResetAll)));
    let rejected = disk.queue().submit_append(0, counted(vec![7; 512])).err().unwrap();
    assert_eq!((rejected.error, rejected.buffer.bytes[..].len()), (error(Operation::ZoneAppend), 512));
    let rejected = disk.queue().submit_zone_report(0, counted(vec![0; 512])).err().unwrap();
    assert_eq!(rejected.error, error(Operation::ZoneReport));
    assert_eq!(device.counts().requests(), 0);
    let info = disk.info();
    assert_eq!(ZoneReport::parse(&buffer, info, 0).err(), Some(ZoneReportError::NotZoned));
}

const ACTIONS: [(ZoneAction, Operation); 4] = [
    (ZoneAction::Open, Operation::ZoneOpen),
    (ZoneAction::Close, Operation::ZoneClose),
    (ZoneAction::Finish, Operation::ZoneFinish),
    (ZoneAction::Reset, Operation::ZoneReset),
];

/// What a report is to say, from what the device has.
fn expected(device: &BlockDevice, first: usize, count: usize) -> Vec<Zone> {
    let zone = |zone: &testing_device::Zone| {
        let pointed = matches!(zone.state, ZoneState::EMPTY | ZoneState::IOPEN | ZoneState::EOPEN | ZoneState::CLOSED);
        Zone {
            start: zone.start,
            capacity_sectors: zone.capacity,
            write_pointer: pointed.then_some(zone.start + zone.written),
            zone_type: zone.zone_type,
            state: zone.state,
        }
    };
    device.zones().iter().skip(first).take(count).map(zone).collect()
}

/// A disk with zones in every state.
fn with_every_state<M: TestMemory>(memory: &M) -> (BlockDevice, TestDisk<M, Counted>) {
    let device = zoned().build(memory);
    let mut disk = open_with(&device, memory, &defaults());
    disk.append(start(2), &pattern(1024, 1), &mut Spin).unwrap();
    disk.zone_action(ZoneAction::Open, start(3), &mut Spin).unwrap();
    disk.append(start(4), &pattern(1024, 2), &mut Spin).unwrap();
    disk.zone_action(ZoneAction::Close, start(4), &mut Spin).unwrap();
    for _ in 0..3 {
        disk.append(start(5), &pattern(8192, 3), &mut Spin).unwrap();
    }
    device.fail_zone(6, ZoneState::RDONLY);
    (device, disk)
}

#[test]
fn reports_begin_at_any_sector_and_have_any_length() {
    let memory = IommuMemory::new();
    let (device, mut disk) = with_every_state(&memory);
    let states: Vec<_> = device.zones().iter().map(|zone| zone.state).collect();
    let every = [
        ZoneState::NOT_WP,
        ZoneState::NOT_WP,
        ZoneState::IOPEN,
        ZoneState::EOPEN,
        ZoneState::CLOSED,
        ZoneState::FULL,
        ZoneState::RDONLY,
        ZoneState::EMPTY,
    ];
    assert_eq!(states, every);
    for bytes in few(3, [128, 191, 192, 1000, 64 + 8 * 64, 4096]) {
        for sector in few(3, [0, 63, 64, 200, 448, SECTORS - 1]) {
            let mut buffer = Placed::new(3900, bytes);
            let report = disk.report_zones(sector, &mut buffer, &mut Spin).unwrap();
            let first = (sector / 64) as usize;
            let count = (8 - first).min((bytes - 64) / 64);
            assert_eq!(report.zones().len(), count, "{bytes} bytes from {sector}");
            assert_eq!(report.zones().collect::<Vec<_>>(), expected(&device, first, count));
            let next = (first + count < 8).then(|| start((first + count) as u64));
            assert_eq!(report.next_sector(), next);
            assert!(buffer.rest_is_zero());
        }
    }
    let mut buffer = [0; 4096];
    let report = disk.report_zones(0, &mut buffer, &mut Spin).unwrap();
    let left: Vec<_> = report.zones().map(|zone| (zone.is_sequential(), zone.left_sectors())).collect();
    let sequential = [(true, 46), (true, 48), (true, 46), (true, 0), (true, 0), (true, 32)];
    assert_eq!(left, [&[(false, 0); 2][..], &sequential].concat());
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn reports_of_the_other_ways_are_the_same() {
    let memory = ScatterMemory::new();
    let (device, mut disk) = with_every_state(&memory);
    let info = *disk.info();
    let queue = disk.queue();
    let token = queue.submit_zone_report(70, counted(vec![0; ZoneReport::bytes(3)])).ok().unwrap();
    queue.commit();
    let completion = queue.poll().unwrap().expect("it is done");
    assert_eq!((completion.token, completion.operation, completion.sector), (token, Operation::ZoneReport, 70));
    let buffer = completion.buffer.unwrap();
    let report = ZoneReport::parse(&buffer.bytes, &info, 70).unwrap();
    assert_eq!(report.zones().collect::<Vec<_>>(), expected(&device, 1, 3));
    let (handle, shared) = split(disk);
    let buffer = drive(&shared, shared.report_zones(0, counted(vec![0; 1000]))).ok().unwrap();
    let report = ZoneReport::parse(&buffer.bytes, &info, 0).unwrap();
    assert_eq!(report.zones().collect::<Vec<_>>(), expected(&device, 0, 8));
    shut_down(handle, shared);
}

#[test]
fn a_report_that_is_too_long_for_a_request_is_a_shorter_one() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder()
        .capacity(300 * 64)
        .zoned(SETUP)
        .config(|config| config.seg_max = 2.into())
        .build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let mut buffer = Placed::new(4096 - 256, ZoneReport::bytes(300));
    let (mut next, mut found) = (Some(0), Vec::new());
    while let Some(sector) = next {
        let report = disk.report_zones(sector, &mut buffer, &mut Spin).unwrap();
        found.extend(report.zones());
        next = report.next_sector();
    }
    assert!(device.counts().others > 2, "in {} reports", device.counts().others);
    assert_eq!(found, expected(&device, 0, 300));
    // Where not even one zone fits, there is none.
    let mut crossing = [Placed::new(4096 - 64, 128)];
    let device = zoned().config(|config| config.seg_max = 1.into()).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let error = disk.report_zones(0, &mut crossing[0], &mut Spin).map(drop);
    assert_eq!(error, Err(Error::TooManySegments { max: 1 }));
}

#[test]
fn a_report_needs_room_for_a_zone_of_the_disk() {
    let memory = ScatterMemory::new();
    let device = zoned().build(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    for bytes in [0, 63, 64, 127] {
        let error = Error::AnswerTooShort { operation: Operation::ZoneReport, bytes, min_bytes: 128 };
        assert_eq!(disk.report_zones(0, &mut vec![0; bytes], &mut Spin).map(drop), Err(error));
        let rejected = disk.queue().submit_zone_report(0, counted(vec![0; bytes])).err().unwrap();
        assert_eq!((rejected.error, rejected.buffer.bytes.len()), (error, bytes));
    }
    for sector in [SECTORS, u64::MAX] {
        let error = Error::BeyondCapacity { sector, sectors: 1, capacity_sectors: SECTORS };
        assert_eq!(disk.report_zones(sector, &mut [0; 128], &mut Spin).map(drop), Err(error));
    }
    assert_eq!(device.counts().requests(), 0);
}

#[test]
fn a_report_of_more_zones_than_there_is_room_for_is_not_believed() {
    let memory = ScatterMemory::new();
    let device = zoned().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    for (claimed, room) in [(u64::MAX, 8), (9, 8), (1 << 32, 8), (1 << 58, 1), (2, 1), (0, 1)] {
        device.faults(|faults| faults.zone_report_count = Some(claimed));
        let error = disk.report_zones(0, &mut vec![0; ZoneReport::bytes(room)], &mut Spin).map(drop);
        assert_eq!(error, Err(Error::ZoneReport(ZoneReportError::Count { found: claimed, room })));
    }
    device.faults(|faults| faults.zone_report_count = None);
    let mut buffer = [0; 1000];
    assert_eq!(disk.report_zones(0, &mut buffer, &mut Spin).unwrap().zones().len(), 8);
}

#[test]
fn zones_that_make_no_sense_are_not_believed() {
    let memory = ScatterMemory::new();
    let device = zoned().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let mut good = vec![0; ZoneReport::bytes(4)];
    disk.report_zones(start(1), &mut good, &mut Spin).unwrap();
    let info = *disk.info();
    let parse = |at: usize, value: u64| {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        ZoneReport::parse(&bytes, &info, start(1)).map(|report| report.zones().count())
    };
    // The second zone of the report, at 128: capacity, start, write pointer.
    let second = start(2);
    assert_eq!(parse(128, 48), Ok(4));
    let capacity = |found| ZoneReportError::Capacity { start: second, found, zone_sectors: 64 };
    assert_eq!(parse(128, 64), Ok(4));
    assert_eq!(parse(128, 65), Err(capacity(65)));
    assert_eq!(parse(128, u64::MAX), Err(capacity(u64::MAX)));
    for found in [0, second - 1, second + 64, u64::MAX] {
        assert_eq!(parse(136, found), Err(ZoneReportError::Start { expected: second, found }));
    }
    assert_eq!(parse(144, second + 48), Ok(4));
    for found in [0, second - 1, second + 49, u64::MAX] {
        assert_eq!(parse(144, found), Err(ZoneReportError::WritePointer { start: second, found }));
    }
    // That of a conventional one means nothing.
    assert_eq!(parse(80, u64::MAX), Ok(4));
    // Another report than the one that was asked for.
    let other = ZoneReport::parse(&good, &info, start(2)).err();
    assert_eq!(other, Some(ZoneReportError::Start { expected: second, found: start(1) }));
    for bytes in [0, 1, 63] {
        assert_eq!(ZoneReport::parse(&good[..bytes], &info, 0).err(), Some(ZoneReportError::TooShort { bytes }));
    }
    let cut = ZoneReport::parse(&good[..ZoneReport::bytes(3)], &info, start(1)).err();
    assert_eq!(cut, Some(ZoneReportError::Count { found: 4, room: 3 }));
    // At the end of what numbers can say.
    let huge = Info { capacity_sectors: u64::MAX, ..info };
    let mut bytes = good.clone();
    for (index, start) in [(0, !63_u64), (1, u64::MAX)] {
        bytes[64 * (index + 1)..][..8].fill(0);
        bytes[64 * (index + 1) + 8..][..8].copy_from_slice(&start.to_le_bytes());
        bytes[64 * (index + 1) + 24] = ZoneType::CONV.0;
    }
    bytes[..8].copy_from_slice(&2_u64.to_le_bytes());
    let report = ZoneReport::parse(&bytes, &huge, u64::MAX).unwrap();
    assert_eq!((report.zones().len(), report.next_sector()), (2, None));
}

#[test]
fn an_append_says_where_it_landed_whichever_way_it_is_made() {
    let memory = IommuMemory::new();
    let device = zoned().build(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    assert_eq!(disk.append(start(3), &Placed::filled(4000, 1024, 1), &mut Spin), Ok(start(3)));
    assert_eq!(disk.append(start(3), &Placed::filled(0, 8192, 2), &mut Spin), Ok(start(3) + 2));
    let queue = disk.queue();
    // Several in flight: one behind the other.
    let first = queue.submit_append(start(3), counted(pattern(2048, 3))).ok().unwrap();
    let second = queue.submit_append(start(3), counted(pattern(1024, 4))).ok().unwrap();
    queue.commit();
    for (token, sector, bytes) in [(first, start(3) + 18, 2048), (second, start(3) + 22, 1024)] {
        let completion = queue.poll().unwrap().expect("it is done");
        assert_eq!((completion.token, completion.operation), (token, Operation::ZoneAppend));
        assert_eq!((completion.sector, completion.result), (sector, Ok(())));
        assert_eq!(completion.buffer.unwrap().bytes.len(), bytes);
    }
    let borrowed = pattern(1024, 5);
    // SAFETY: the device only reads it, and is done with it before it is dropped.
    let token = unsafe { queue.submit_append_borrowed(start(3), std::ptr::NonNull::from(&borrowed[..])) }.unwrap();
    queue.commit();
    let completion = queue.poll().unwrap().expect("it is done");
    assert_eq!((completion.token, completion.sector), (token, start(3) + 24));
    let (handle, shared) = split(disk);
    let (sector, buffer) = drive(&shared, shared.append(start(3), counted(pattern(1024, 6)))).ok().unwrap();
    assert_eq!((sector, &buffer.bytes[..]), (start(3) + 26, &pattern(1024, 6)[..]));
    shut_down(handle, shared);
    let written: Vec<_> = [(1024, 1), (8192, 2), (2048, 3), (1024, 4), (1024, 5), (1024, 6)]
        .into_iter()
        .flat_map(|(bytes, seed)| pattern(bytes, seed))
        .collect();
    assert!(device.read_disk(start(3), 28) == written);
    let counts = device.counts();
    assert_eq!((counts.appends, counts.sectors_written, counts.writes), (6, 28, 0));
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
}

#[test]
fn an_append_is_never_split_and_keeps_to_its_limits() {
    let memory = ScatterMemory::new();
    let device = zoned().config(|config| config.seg_max = 2.into()).build(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    let operation = Operation::ZoneAppend;
    let granularity_bytes = 1024;
    let zone_sectors = 64;
    let long = Error::TooManySectors { operation, sectors: 18, max_sectors: 16 };
    let beyond = Error::BeyondCapacity { sector: SECTORS, sectors: 1, capacity_sectors: SECTORS };
    for (zone, bytes, error) in [
        (start(2), 18 * 512, long),
        (start(2), 512, Error::WriteGranularity { sector: start(2), bytes: 512, granularity_bytes }),
        (start(2), 1536, Error::WriteGranularity { sector: start(2), bytes: 1536, granularity_bytes }),
        (start(2), 100, Error::UnalignedLength { bytes: 100, block_bytes: 512 }),
        (start(2), 0, Error::Empty),
        (start(2) + 2, 1024, Error::NotZoneStart { operation, sector: start(2) + 2, zone_sectors }),
        (start(3) - 1, 1024, Error::NotZoneStart { operation, sector: start(3) - 1, zone_sectors }),
        (SECTORS, 1024, beyond),
    ] {
        assert_eq!(disk.append(zone, &pattern(bytes, 0), &mut Spin), Err(error));
        let rejected = disk.queue().submit_append(zone, counted(pattern(bytes, 0))).err().unwrap();
        assert_eq!((rejected.error, &rejected.buffer.bytes[..]), (error, &pattern(bytes, 0)[..]));
    }
    // Three pages.
    let scattered = Placed::filled(4096 - 512, 8192 - 1024, 1);
    assert_eq!(disk.append(start(2), &scattered, &mut Spin), Err(Error::TooManySegments { max: 2 }));
    assert_eq!((device.counts().requests(), device.counts().notifications), (0, 0));
    assert_eq!(disk.append(start(2), &Placed::filled(0, 8192, 1), &mut Spin), Ok(start(2)), "as long as may be");
    drop(disk);

    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().zoned(ZoneSetup { max_append_sectors: 0, ..SETUP }).build(&memory);
    let error = Error::TooManySectors { operation, sectors: 2, max_sectors: 0 };
    assert_eq!(open(&device, &memory, &defaults()).append(start(2), &[0; 1024], &mut Spin), Err(error));
    let device = zoned().read_only().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    assert_eq!(disk.append(start(2), &[0; 1024], &mut Spin), Err(Error::ReadOnly));
    assert_eq!(disk.zone_action(ZoneAction::Reset, start(2), &mut Spin), Err(Error::ReadOnly));
    assert_eq!(disk.reset_all_zones(&mut Spin), Err(Error::ReadOnly));
    disk.report_zones(0, &mut [0; 1000], &mut Spin).unwrap();
}

#[test]
fn an_append_is_in_doubt_until_a_flush() {
    for flushed in [false, true] {
        let memory = ScatterMemory::new();
        let device = zoned().build(&memory);
        let mut disk = open(&device, &memory, &defaults());
        disk.append(start(2), &pattern(1024, 1), &mut Spin).unwrap();
        if flushed {
            disk.flush(&mut Spin).unwrap();
        }
        assert_eq!(disk.recover(&mut Spin).unwrap().writes_in_doubt, !flushed);
    }
}

#[test]
fn an_append_that_landed_outside_of_its_zone_is_not_believed() {
    let memory = ScatterMemory::new();
    let device = zoned().build(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    for sector in [0, start(3) - 1, start(4), SECTORS, u64::MAX, 1 << 32 | start(3)] {
        device.faults(|faults| faults.append_sector = Some(sector));
        let expected = Error::MisplacedAppend { sector: start(3) };
        assert_eq!(disk.append(start(3), &[1; 1024], &mut Spin), Err(expected));
        disk.queue().submit_append(start(3), counted(vec![2; 1024])).ok().unwrap();
        disk.queue().commit();
        let completion = disk.queue().poll().unwrap().expect("it is done");
        assert_eq!((completion.sector, completion.result), (start(3), Err(expected)));
        assert_eq!(completion.buffer.unwrap().bytes, [2; 1024]);
        disk.zone_action(ZoneAction::Reset, start(3), &mut Spin).unwrap();
    }
    // A device that says nothing: what an earlier append left there does not count.
    device.faults(|faults| faults.append_sector = None);
    assert_eq!(disk.append(start(3), &[1; 1024], &mut Spin), Ok(start(3)));
    for _ in 0..2 * disk.queue().size() {
        device.faults(|faults| faults.next.push_back(Outcome { data: Data::Unwritten, ..Outcome::HONEST }));
        let expected = Error::MisplacedAppend { sector: start(3) };
        assert_eq!(disk.append(start(3), &[1; 1024], &mut Spin), Err(expected));
        disk.zone_action(ZoneAction::Reset, start(3), &mut Spin).unwrap();
    }
    // Inside of the zone, the device is taken at its word.
    device.faults(|faults| faults.append_sector = Some(start(3) + 63));
    assert_eq!(disk.append(start(3), &[1; 1024], &mut Spin), Ok(start(3) + 63));
    assert_eq!(device.counts().resets, 1);
}

#[test]
fn what_a_zone_does_not_allow_is_an_error_of_the_device() {
    let memory = ScatterMemory::new();
    let setup = ZoneSetup { max_open: 1, max_active: 2, ..SETUP };
    let device = BlockDevice::builder().zoned(setup).tolerate_zone_overrun().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let mut append = |zone, sectors: usize| disk.append(start(zone), &vec![5; sectors * 512], &mut Spin);
    let refused = |zone, status| failed(Operation::ZoneAppend, start(zone), status);
    assert_eq!(append(1, 2), refused(1, DeviceError::ZoneInvalidCommand), "a conventional zone");
    for at in [0, 16, 32] {
        assert_eq!(append(2, 16), Ok(start(2) + at));
    }
    assert_eq!(append(2, 2), refused(2, DeviceError::ZoneInvalidCommand), "it is full");
    assert_eq!((append(3, 16), append(3, 16), append(3, 10)), (Ok(192), Ok(208), Ok(224)));
    assert_eq!(append(3, 8), refused(3, DeviceError::ZoneInvalidCommand), "over the end");
    // A zone that is open implicitly makes room, one that is open explicitly does not.
    assert_eq!(append(4, 2), Ok(start(4)));
    assert_eq!(append(5, 2), refused(5, DeviceError::ZoneActiveResource));
    let mut act = |action, zone| disk.zone_action(action, start(zone), &mut Spin);
    act(ZoneAction::Open, 4).unwrap();
    assert_eq!(act(ZoneAction::Open, 3), failed(Operation::ZoneOpen, start(3), DeviceError::ZoneOpenResource));
    assert_eq!(act(ZoneAction::Open, 5), failed(Operation::ZoneOpen, start(5), DeviceError::ZoneActiveResource));
    let write = disk.write(start(5), &[0; 1024], &mut Spin);
    assert_eq!(write, failed(Operation::Write, start(5), DeviceError::ZoneActiveResource));
    for at in [0, 4] {
        let sector = start(4) + at;
        let write = disk.write(sector, &[0; 1024], &mut Spin);
        assert_eq!(write, failed(Operation::Write, sector, DeviceError::ZoneUnalignedWritePointer));
    }
    disk.write(start(4) + 2, &[7; 1024], &mut Spin).unwrap();
    assert_eq!(device.read_disk(start(4) + 2, 2), [7; 1024]);
    drop(disk);
    device.assert_conformant();
}

#[test]
fn each_action_has_its_effect_whichever_way_it_is_made() {
    for way in few(2, 0..3) {
        let memory = ScatterMemory::new();
        let device = zoned().build(&memory);
        let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
        for zone in 2..5 {
            disk.append(start(zone), &pattern(1024, zone), &mut Spin).unwrap();
        }
        let state = |zone: usize| device.zones()[zone].state;
        let (handle, shared) = split(disk);
        let run = |submit: &dyn Fn(&mut OwningQueue<_>) -> Result<virtio_blk::Token, Error>| {
            let mut queue = shared.queue().borrow_mut();
            let token = submit(&mut queue)?;
            queue.commit();
            let completion = if way == 0 {
                queue.drain(&mut Spin)?;
                queue.poll()?.expect("it was drained")
            } else {
                queue.poll()?.expect("it is done")
            };
            assert_eq!(completion.token, token);
            completion.result
        };
        let act = |action, zone| {
            if way == 2 {
                drive(&shared, shared.zone_action(action, start(zone)))
            } else {
                run(&|queue| queue.submit_zone_action(action, start(zone)))
            }
        };
        act(ZoneAction::Open, 2).unwrap();
        assert_eq!(state(2), ZoneState::EOPEN);
        act(ZoneAction::Close, 2).unwrap();
        assert_eq!(state(2), ZoneState::CLOSED);
        act(ZoneAction::Finish, 3).unwrap();
        assert_eq!(state(3), ZoneState::FULL);
        act(ZoneAction::Reset, 4).unwrap();
        assert_eq!((state(4), device.sector_state(start(4))), (ZoneState::EMPTY, SectorState::Erased));
        assert_eq!(act(ZoneAction::Close, 3), no_action(Operation::ZoneClose, start(3)));
        assert_eq!(act(ZoneAction::Finish, 4), no_action(Operation::ZoneFinish, start(4)));
        assert_eq!(act(ZoneAction::Open, 0), no_action(Operation::ZoneOpen, 0));
        assert_eq!(act(ZoneAction::Reset, 1), no_action(Operation::ZoneReset, start(1)));
        if way == 2 {
            drive(&shared, shared.reset_all_zones()).unwrap();
        } else {
            run(&|queue| queue.submit_reset_all_zones()).unwrap();
        }
        assert_eq!((2..8).map(state).collect::<Vec<_>>(), [ZoneState::EMPTY; 6]);
        let others = device.counts().others;
        for (action, operation) in ACTIONS {
            let (sector, capacity_sectors) = (start(2) + 1, SECTORS);
            let unaligned = Error::NotZoneStart { operation, sector, zone_sectors: 64 };
            let beyond = Error::BeyondCapacity { sector: start(8), sectors: 1, capacity_sectors };
            assert_eq!(drive(&shared, shared.zone_action(action, sector)), Err(unaligned));
            assert_eq!(drive(&shared, shared.zone_action(action, start(8))), Err(beyond));
        }
        assert_eq!(device.counts().others, others, "the device saw none of these");
        shut_down(handle, shared);
        device.assert_conformant();
    }
}

#[test]
fn transfers_are_cut_where_zones_end() {
    let memory = IommuMemory::new();
    let setup = ZoneSetup { capacity_sectors: 64, ..SETUP };
    let device = BlockDevice::builder().capacity(SECTORS).zoned(setup).build(&memory);
    let mut disk = open(&device, &memory, &Options { queue_size: 32, ..defaults() });
    // The last one first: writes to a zone would be refused if they were in flight together.
    device.faults(|faults| faults.order = Order::Lifo);
    let data = Placed::filled(100, 200 * 512, 1);
    disk.write(start(2), &data, &mut Spin).unwrap();
    assert!(device.read_disk(start(2), 200) == data[..]);
    let writes = device.counts().writes;
    assert_eq!((writes, device.counts().depth), (4, 1), "at three ends of zones, one after the other");
    let mut back = Placed::new(7, 200 * 512 + 64 * 512);
    disk.read(start(1), &mut back, &mut Spin).unwrap();
    assert!(back[64 * 512..] == data[..]);
    assert!(device.counts().depth > 1, "reads are in flight together");
    assert_eq!(device.counts().failures, 0);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn parts_of_a_write_keep_to_the_granularity() {
    let memory = ScatterMemory::new();
    let setup = ZoneSetup { write_granularity_bytes: 8192, capacity_sectors: 64, ..SETUP };
    // Three pages at a time, of which two are written.
    let device = BlockDevice::builder()
        .zoned(setup)
        .offer(BlockFeatures::SIZE_MAX.bits())
        .config(|config| (config.seg_max, config.size_max) = (3.into(), 4096.into()))
        .build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let data = Placed::filled(0, 48 * 512, 1);
    disk.write(start(2), &data, &mut Spin).unwrap();
    assert_eq!((device.counts().writes, device.counts().depth), (3, 1));
    let mut back = Placed::new(0, 48 * 512);
    disk.read(start(2), &mut back, &mut Spin).unwrap();
    assert!(back[..] == data[..]);
    assert_eq!(device.counts().reads, 2);
    drop(disk);
    device.assert_conformant();
}

#[test]
fn a_submitted_transfer_is_in_one_zone_and_keeps_to_the_granularity() {
    let memory = ScatterMemory::new();
    let device = zoned().build(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    let queue = disk.queue();
    let crosses = |sector, sectors| Error::CrossesZone { sector, sectors, zone_sectors: 64 };
    let buffer = || counted(vec![0; 2048]);
    for sector in [start(3) - 2, start(1) - 2] {
        assert_eq!(queue.submit_read(sector, buffer()).err().unwrap().error, crosses(sector, 4));
        assert_eq!(queue.submit_write(sector, buffer()).err().unwrap().error, crosses(sector, 4));
    }
    queue.submit_read(start(3) - 4, buffer()).ok().unwrap();
    queue.submit_write(start(3), buffer()).ok().unwrap();
    queue.submit_read(3, counted(vec![0; 512])).ok().unwrap();
    queue.commit();
    for _ in 0..3 {
        assert_eq!(queue.poll().unwrap().unwrap().result, Ok(()));
    }
    let (sector, granularity_bytes) = (start(3) + 4, 1024);
    let error = queue.submit_write(sector, counted(vec![0; 512])).err().unwrap().error;
    assert_eq!(error, Error::WriteGranularity { sector, bytes: 512, granularity_bytes });
    let error = disk.write(sector + 1, &[0; 1024], &mut Spin);
    assert_eq!(error, Err(Error::WriteGranularity { sector: sector + 1, bytes: 1024, granularity_bytes }));
    // All other checks are made as ever.
    let capacity_sectors = SECTORS;
    let beyond = Error::BeyondCapacity { sector: SECTORS, sectors: 4, capacity_sectors };
    assert_eq!(disk.queue().submit_read(SECTORS, buffer()).err().unwrap().error, beyond);
    assert_eq!(disk.queue().submit_read(0, counted(Vec::new())).err().unwrap().error, Error::Empty);
    let error = disk.queue().submit_read(0, counted(vec![0; 100])).err().unwrap().error;
    assert_eq!(error, Error::UnalignedLength { bytes: 100, block_bytes: 512 });
    assert_eq!(device.counts().requests(), 3);
}

#[test]
fn zeroes_are_written_zone_by_zone_and_zones_are_erased_as_a_whole() {
    let memory = ScatterMemory::new();
    let limits = RangeLimits { max_sectors: 1024, max_ranges: 4, alignment_sectors: 1 };
    let setup = ZoneSetup { capacity_sectors: 64, ..SETUP };
    let builder = BlockDevice::builder().zoned(setup).write_zeroes(limits, true).secure_erase(limits);
    let device = builder.build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    disk.write_zeroes(&[(start(2)..start(4)).into()], Unmap::Never, &mut Spin).unwrap();
    let counts = device.counts();
    assert_eq!((counts.write_zeroes, counts.ranges, counts.depth), (2, 2, 1));
    let zones = device.zones();
    assert_eq!((zones[2].state, zones[3].state), (ZoneState::FULL, ZoneState::FULL));
    assert_eq!(device.sector_state(start(4) - 1), SectorState::Zeroed);
    let range = SectorRange { sector: start(5) - 2, sectors: 4 };
    let crosses = Error::CrossesZone { sector: range.sector, sectors: 4, zone_sectors: 64 };
    assert_eq!(disk.queue().submit_write_zeroes(&[range], Unmap::Never), Err(crosses));
    let odd = SectorRange { sector: start(5), sectors: 3 };
    let (operation, sector, sectors) = (Operation::WriteZeroes, odd.sector, 3);
    let error = Error::UnalignedRange { operation, sector, sectors, alignment_sectors: 2 };
    assert_eq!(disk.queue().submit_write_zeroes(&[odd], Unmap::Never), Err(error));

    let part = SectorRange { sector: start(2), sectors: 32 };
    let (operation, sector, sectors) = (Operation::SecureErase, part.sector, 32);
    let error = Error::UnalignedRange { operation, sector, sectors, alignment_sectors: 64 };
    assert_eq!(disk.secure_erase(&[part], &mut Spin), Err(error));
    disk.secure_erase(&[(start(2)..start(4)).into()], &mut Spin).unwrap();
    assert_eq!(device.counts().secure_erases, 1);
    assert_eq!((device.zones()[2].state, device.zones()[3].state), (ZoneState::EMPTY, ZoneState::EMPTY));
    drop(disk);
    device.assert_conformant();
}

#[test]
fn writes_to_zones_are_not_issued_again_after_a_reset() {
    let memory = ScatterMemory::new();
    let limits = RangeLimits { max_sectors: 64, max_ranges: 1, alignment_sectors: 1 };
    let device = zoned().write_zeroes(limits, false).mode(Mode::Manual).build(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    let queue = disk.queue();
    let write = queue.submit_write(start(2), counted(pattern(1024, 1))).ok().unwrap();
    let append = queue.submit_append(start(3), counted(pattern(1024, 2))).ok().unwrap();
    let zeroes = queue.submit_write_zeroes(&[(start(4)..start(4) + 2).into()], Unmap::Never).unwrap();
    let read = queue.submit_read(0, counted(vec![0; 512])).ok().unwrap();
    let report = queue.submit_zone_report(0, counted(vec![0; 1000])).ok().unwrap();
    let open = queue.submit_zone_action(ZoneAction::Open, start(5)).unwrap();
    queue.commit();
    // The device has them in hand, and nobody knows how far it got.
    device.faults(|faults| faults.hold = true);
    assert_eq!(device.run(), 0);
    device.needs_reset();
    device.faults(|faults| faults.hold = false);
    let recovered = disk.recover(&mut Spin).unwrap();
    assert_eq!((recovered.reissued, recovered.ended), (3, 3));
    assert_eq!(device.run(), 3);
    let done: Vec<_> = std::iter::from_fn(|| disk.queue().poll().unwrap()).collect();
    let result = |token| done.iter().find(|done| done.token == token).map(|done| done.result).unwrap();
    let in_doubt = |operation, sector| Err(Error::ZoneWriteInDoubt { operation, sector });
    assert_eq!(result(write), in_doubt(Operation::Write, start(2)));
    assert_eq!(result(append), in_doubt(Operation::ZoneAppend, start(3)));
    assert_eq!(result(zeroes), in_doubt(Operation::WriteZeroes, start(4)));
    assert_eq!((result(read), result(report), result(open)), (Ok(()), Ok(()), Ok(())));
    assert_eq!(done.iter().filter(|done| done.buffer.is_some()).count(), 4, "buffers come back");
    let counts = device.counts();
    assert_eq!((counts.writes, counts.appends, counts.write_zeroes), (0, 0, 0));
    assert_eq!(device.zones()[5].state, ZoneState::EOPEN);
}

#[test]
fn on_a_disk_of_another_model_zones_do_not_restrict_transfers() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder()
        .capacity(SECTORS)
        .offer(BlockFeatures::ZONED.bits())
        .discard(RangeLimits::default())
        .config(|config| {
            config.zoned = SETUP.characteristics();
            config.zoned.model = ZoneModel::HA;
        })
        .build(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    disk.discard(&[(start(1) - 1..start(2) + 1).into()], &mut Spin).unwrap();
    disk.queue().submit_write(start(3) - 1, counted(pattern(1024, 1))).ok().unwrap();
    disk.queue().commit();
    assert_eq!(disk.queue().poll().unwrap().unwrap().result, Ok(()));
    disk.write(start(1) - 1, &Placed::filled(0, 8192, 2), &mut Spin).unwrap();
    assert_eq!(device.counts().writes, 2);
    drop(disk);
    device.assert_conformant();
}

#[test]
fn a_device_error_of_each_request_has_its_name_and_sector() {
    let memory = ScatterMemory::new();
    let device = zoned().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    device.faults(|faults| faults.outcome = Outcome::failure(virtio_spec::block::RequestStatus::IOERR));
    let io = DeviceError::Io;
    assert_eq!(disk.append(start(2), &[0; 1024], &mut Spin), failed(Operation::ZoneAppend, start(2), io));
    let report = disk.report_zones(70, &mut [0; 128], &mut Spin).map(drop);
    assert_eq!(report, failed(Operation::ZoneReport, 70, io));
    assert_eq!(disk.reset_all_zones(&mut Spin), failed(Operation::ZoneResetAll, 0, io));
    for (action, operation) in ACTIONS {
        assert_eq!(disk.zone_action(action, start(2), &mut Spin), failed(operation, start(2), io));
    }
    let error = disk.zone_action(ZoneAction::Open, start(2), &mut Spin).unwrap_err().to_string();
    assert_eq!(error, "the device answered the zone open of sector 128 with an I/O error");
}

#[test]
fn every_ring_and_chain_carries_an_append() {
    let indirect = Features::INDIRECT_DESC.bits();
    for builder in [zoned().withhold(indirect), zoned().withhold(BlockFeatures::SEG_MAX.bits())] {
        let memory = ScatterMemory::new();
        let device = builder.build(&memory);
        let mut disk = open(&device, &memory, &Options { queue_size: 4, ..defaults() });
        assert_eq!(disk.append(start(2), &Placed::filled(0, 1024, 1), &mut Spin), Ok(start(2)));
        assert_eq!(disk.append(start(2), &Placed::filled(0, 1024, 2), &mut Spin), Ok(start(2) + 2));
        assert_eq!(device.read_disk(start(2) + 2, 2), pattern(1024, 2));
    }
}

/// A step of a history. Zones are counted from the first sequential one; sectors come in units of the granularity.
#[derive(Clone, Debug)]
enum Step {
    Append(usize, usize),
    /// At so many units from the write pointer.
    Write(usize, i64, usize),
    Act(usize, usize),
    ResetAll,
    Report(u64, usize),
    Read(usize, usize, usize),
}

const SEQUENTIAL: usize = 6;

fn steps(length: usize) -> impl Strategy<Value = Vec<Step>> {
    let zone = 0..SEQUENTIAL;
    let step = prop_oneof![
        6 => (zone.clone(), 1..9_usize).prop_map(|(zone, units)| Step::Append(zone, units)),
        4 => (zone.clone(), prop_oneof![5 => Just(0), 1 => -2..3_i64], 1..20_usize)
            .prop_map(|(zone, off, units)| Step::Write(zone, off, units)),
        4 => (0..4_usize, zone.clone()).prop_map(|(action, zone)| Step::Act(action, zone)),
        1 => Just(Step::ResetAll),
        2 => (0..SECTORS, 1..12_usize).prop_map(|(sector, zones)| Step::Report(sector, zones)),
        3 => (zone, 0..48_usize, 1..48_usize).prop_map(|(zone, at, sectors)| Step::Read(zone, at, sectors)),
    ];
    prop::collection::vec(step, 1..length)
}

/// What is known of a sequential zone without the device.
#[derive(Clone, Debug)]
struct Account {
    start: u64,
    capacity: usize,
    data: Vec<u8>,
    state: ZoneState,
}

impl Account {
    fn can_take(&self, sectors: usize) -> bool {
        self.state != ZoneState::FULL && self.data.len() / 512 + sectors <= self.capacity
    }

    fn put(&mut self, data: &[u8]) {
        self.data.extend_from_slice(data);
        if self.data.len() / 512 == self.capacity {
            self.state = ZoneState::FULL;
        } else if self.state != ZoneState::EOPEN {
            self.state = ZoneState::IOPEN;
        }
    }

    fn reset(&mut self) {
        self.data.clear();
        self.state = ZoneState::EMPTY;
    }

    /// Does something to the zone; whether that is allowed.
    fn act(&mut self, action: ZoneAction) -> bool {
        let open = matches!(self.state, ZoneState::IOPEN | ZoneState::EOPEN);
        match action {
            ZoneAction::Open if self.state != ZoneState::FULL => self.state = ZoneState::EOPEN,
            ZoneAction::Close if open && self.data.is_empty() => self.state = ZoneState::EMPTY,
            ZoneAction::Close if open || self.state == ZoneState::CLOSED => self.state = ZoneState::CLOSED,
            ZoneAction::Finish if open || self.state == ZoneState::FULL => self.state = ZoneState::FULL,
            ZoneAction::Reset => self.reset(),
            _ => return false,
        }
        true
    }

    fn reported(&self) -> Zone {
        let pointer = self.start + (self.data.len() / 512) as u64;
        Zone {
            start: self.start,
            capacity_sectors: self.capacity as u64,
            write_pointer: (self.state != ZoneState::FULL).then_some(pointer),
            zone_type: ZoneType::SWR,
            state: self.state,
        }
    }
}

fn history(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let memory = ScatterMemory::new();
    let device = zoned().tolerate_zone_overrun().build(&memory);
    let mut disk = open(&device, &memory, &Options { queue_size: 8, ..defaults() });
    let account = |index: u64| Account {
        start: start(index),
        capacity: if index == 7 { 32 } else { 48 },
        data: Vec::new(),
        state: ZoneState::EMPTY,
    };
    let mut zones: Vec<_> = (2..8).map(account).collect();
    for (seed, step) in (1..).zip(steps) {
        match step {
            Step::Append(zone, units) => {
                let (zone, data) = (&mut zones[zone], Placed::filled(seed as usize, units * 1024, seed));
                let landed = zone.start + (zone.data.len() / 512) as u64;
                let result = disk.append(zone.start, &data, &mut Spin);
                if zone.can_take(units * 2) {
                    zone.put(&data);
                    prop_assert_eq!(result, Ok(landed));
                } else {
                    let status = DeviceError::ZoneInvalidCommand;
                    prop_assert_eq!(result, failed(Operation::ZoneAppend, zone.start, status));
                }
            }
            Step::Write(zone, off, units) => {
                let (zone, data) = (&mut zones[zone], pattern(units * 1024, seed));
                let sector = (zone.start + (zone.data.len() / 512) as u64).saturating_add_signed(off * 2);
                let inside = sector >= zone.start && sector + units as u64 * 2 <= zone.start + 64;
                if !inside || sector + units as u64 * 2 > SECTORS {
                    continue;
                }
                let result = disk.write(sector, &data, &mut Spin);
                // It is one request, as no zone has more pages than a request may have segments.
                let status = match (zone.state, off) {
                    (ZoneState::FULL, _) => Some(DeviceError::ZoneInvalidCommand),
                    (_, 0) if zone.can_take(units * 2) => None,
                    (_, 0) => Some(DeviceError::ZoneInvalidCommand),
                    _ => Some(DeviceError::ZoneUnalignedWritePointer),
                };
                match status {
                    Some(status) => prop_assert_eq!(result, failed(Operation::Write, sector, status)),
                    None => {
                        zone.put(&data);
                        prop_assert_eq!(result, Ok(()));
                    }
                }
            }
            Step::Act(action, zone) => {
                let (action, operation) = ACTIONS[action];
                let zone = &mut zones[zone];
                let result = disk.zone_action(action, zone.start, &mut Spin);
                let expected = if zone.act(action) { Ok(()) } else { no_action(operation, zone.start) };
                prop_assert_eq!(result, expected);
            }
            Step::ResetAll => {
                disk.reset_all_zones(&mut Spin).unwrap();
                zones.iter_mut().for_each(Account::reset);
            }
            Step::Report(sector, room) => {
                let mut buffer = Placed::new(seed as usize * 64, ZoneReport::bytes(room));
                let report = disk.report_zones(sector, &mut buffer, &mut Spin).unwrap();
                let first = (sector / 64) as usize;
                prop_assert_eq!(report.zones().len(), room.min(8 - first));
                for (zone, index) in report.zones().zip(first..) {
                    match index.checked_sub(2) {
                        Some(index) => prop_assert_eq!(zone, zones[index].reported()),
                        None => prop_assert_eq!((zone.zone_type, zone.write_pointer), (ZoneType::CONV, None)),
                    }
                }
            }
            Step::Read(zone, at, sectors) => {
                let zone = &zones[zone];
                let sectors = sectors.min(zone.capacity.saturating_sub(at));
                if sectors == 0 {
                    continue;
                }
                let mut buffer = Placed::new(seed as usize, sectors * 512);
                disk.read(zone.start + at as u64, &mut buffer, &mut Spin).unwrap();
                let written = zone.data.get(at * 512..).unwrap_or_default();
                let known = written.len().min(buffer.len());
                prop_assert!(buffer[..known] == written[..known]);
            }
        }
    }
    for (zone, index) in zones.iter().zip(2..) {
        let found = device.zones()[index];
        prop_assert_eq!((found.state, found.start), (zone.state, zone.start));
        prop_assert!(device.read_disk(zone.start, zone.data.len() / 512) == zone.data);
    }
    drop(disk);
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
    Ok(())
}

#[test]
fn any_history_of_zones_is_that_of_the_account() {
    let (cases, length) = if cfg!(miri) { (1, 10) } else { (200, 60) };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner.run(&steps(length), history).unwrap();
}
