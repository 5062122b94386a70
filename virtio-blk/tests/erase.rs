//! Discard, write zeroes, secure erase: their effect, their limits, and how ranges are split.

mod common;

use std::cell::RefCell;

#[cfg(not(miri))]
use common::transport;
use common::{Counted, TestDisk, counted, defaults, drive, few, open, open_with, pattern};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use testing_device::{
    BlockDevice, Builder, Interface, IommuMemory, Mode, Outcome, RangeLimits, ScatterMemory, SectorState, TestMemory,
};
use virtio_blk::{
    AsyncQueue, BlockFeatures, DeviceError, EraseLimits, Error, FeatureSet, Features, Operation, Options, RANGES_MAX,
    SectorRange, SharedQueue, Unmap,
};
use virtio_spec::block::RequestStatus;
use virtio_transport::Spin;

/// A kind of request: which one, and what it makes of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Discard,
    Zero,
    Unmap,
    Erase,
}

const KINDS: [Kind; 4] = [Kind::Discard, Kind::Zero, Kind::Unmap, Kind::Erase];

impl Kind {
    fn operation(self) -> Operation {
        match self {
            Self::Discard => Operation::Discard,
            Self::Zero | Self::Unmap => Operation::WriteZeroes,
            Self::Erase => Operation::SecureErase,
        }
    }

    fn feature(self) -> BlockFeatures {
        match self {
            Self::Discard => BlockFeatures::DISCARD,
            Self::Zero | Self::Unmap => BlockFeatures::WRITE_ZEROES,
            Self::Erase => BlockFeatures::SECURE_ERASE,
        }
    }

    fn effect(self) -> SectorState {
        match self {
            Self::Discard => SectorState::Discarded,
            Self::Zero => SectorState::Zeroed,
            Self::Unmap => SectorState::Unmapped,
            Self::Erase => SectorState::Erased,
        }
    }

    /// Without blocking.
    fn submit<M: TestMemory>(self, disk: &mut TestDisk<M>, ranges: &[SectorRange]) -> Result<(), Error> {
        let queue = disk.queue();
        let token = match self {
            Self::Discard => queue.submit_discard(ranges),
            Self::Zero => queue.submit_write_zeroes(ranges, Unmap::Never),
            Self::Unmap => queue.submit_write_zeroes(ranges, Unmap::Allowed),
            Self::Erase => queue.submit_secure_erase(ranges),
        }?;
        queue.commit();
        let completion = queue.poll()?.expect("it is done");
        assert_eq!((completion.token, completion.operation), (token, self.operation()));
        assert_eq!((completion.sector, completion.buffer.is_none()), (ranges[0].sector, true));
        completion.result
    }

    fn block<M: TestMemory>(self, disk: &mut TestDisk<M>, ranges: &[SectorRange]) -> Result<(), Error> {
        match self {
            Self::Discard => disk.discard(ranges, &mut Spin),
            Self::Zero => disk.write_zeroes(ranges, Unmap::Never, &mut Spin),
            Self::Unmap => disk.write_zeroes(ranges, Unmap::Allowed, &mut Spin),
            Self::Erase => disk.secure_erase(ranges, &mut Spin),
        }
    }

    fn wait<S: SharedQueue>(self, disk: &AsyncQueue<S>, ranges: &[SectorRange]) -> Result<(), Error> {
        match self {
            Self::Discard => drive(disk, disk.discard(ranges)),
            Self::Zero => drive(disk, disk.write_zeroes(ranges, Unmap::Never)),
            Self::Unmap => drive(disk, disk.write_zeroes(ranges, Unmap::Allowed)),
            Self::Erase => drive(disk, disk.secure_erase(ranges)),
        }
    }
}

/// A disk that has all of them.
fn with_all(limits: RangeLimits) -> Builder {
    BlockDevice::builder().discard(limits).write_zeroes(limits, true).secure_erase(limits).check_range_alignment()
}

const WIDE: RangeLimits = RangeLimits { max_sectors: 1024, max_ranges: 8, alignment_sectors: 1 };

fn range(sector: u64, sectors: u64) -> SectorRange {
    SectorRange { sector, sectors }
}

/// Whether the ranges of a device that was full of data, and they alone, have become what a request makes of them.
#[track_caller]
fn assert_effect(device: &BlockDevice, sectors: u64, ranges: &[SectorRange], kind: Kind) {
    let inside = |sector| ranges.iter().any(|range| (range.sector..range.sector + range.sectors).contains(&sector));
    for sector in 0..sectors {
        let expected = if inside(sector) { kind.effect() } else { SectorState::Written };
        assert_eq!(device.sector_state(sector), expected, "{kind:?}, sector {sector}");
        if !inside(sector) {
            assert_eq!(device.read_disk(sector, 1), pattern(512, sector), "{kind:?}, sector {sector}");
        }
    }
}

fn fill(device: &BlockDevice, sectors: u64) {
    for sector in 0..sectors {
        device.write_disk(sector, &pattern(512, sector));
    }
}

#[test]
fn each_request_has_its_effect_on_its_ranges_alone_whichever_way_it_is_made() {
    let ranges = [range(3, 5), range(16, 8), range(31, 1)];
    for kind in few(2, KINDS) {
        for way in 0..3 {
            let memory = IommuMemory::new();
            let device = with_all(WIDE).build(&memory);
            fill(&device, 40);
            let mut disk = open(&device, &memory, &defaults());
            match way {
                0 => kind.block(&mut disk, &ranges).unwrap(),
                1 => kind.submit(&mut disk, &ranges).unwrap(),
                _ => {
                    let (mut handle, queue) = disk.split();
                    let shared = AsyncQueue::new(RefCell::new(queue));
                    kind.wait(&shared, &ranges).unwrap();
                    let mut queue = shared.into_inner().into_inner();
                    drop(handle.shutdown(&mut [&mut queue], &mut Spin).unwrap());
                }
            }
            let counts = device.counts();
            assert_eq!((counts.requests(), counts.ranges), (1, 3), "{kind:?}, way {way}");
            assert_effect(&device, 40, &ranges, kind);
        }
    }
}

#[test]
fn every_interface_and_chain_carries_ranges() {
    let ranges = [range(0, 2), range(4, 2)];
    let indirect = Features::INDIRECT_DESC.bits();
    for builder in [
        with_all(WIDE).interface(Interface::Legacy),
        with_all(WIDE).withhold(indirect),
        with_all(WIDE).withhold(BlockFeatures::SEG_MAX.bits()),
    ] {
        let memory = ScatterMemory::new();
        let device = builder.build(&memory);
        fill(&device, 8);
        let mut disk = open(&device, &memory, &Options { queue_size: 4, ..defaults() });
        Kind::Unmap.block(&mut disk, &ranges).unwrap();
        assert_effect(&device, 8, &ranges, Kind::Unmap);
    }
}

// Miri cannot follow a packed ring's fields being written together by the device and one by one by the driver.
#[test]
#[cfg(not(miri))]
fn a_packed_ring_carries_ranges() {
    use virtio_blk::{Disk, NoBuffer, Packed};
    let ranges = [range(0, 2), range(4, 2)];
    let memory = ScatterMemory::new();
    let device = with_all(WIDE).packed().build(&memory);
    fill(&device, 8);
    let mut disk: Disk<_, _, NoBuffer, Packed> =
        Disk::open_with(Packed, transport(&device), memory.clone(), &defaults(), &mut Spin).unwrap();
    disk.secure_erase(&ranges, &mut Spin).unwrap();
    assert_effect(&device, 8, &ranges, Kind::Erase);
}

/// Submits something that is refused, in every way, and whatever the device would say.
#[track_caller]
fn assert_refused(builder: &Builder, kind: Kind, ranges: &[SectorRange], expected: Error) {
    let memory = ScatterMemory::new();
    let device = builder.clone().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    assert_eq!(kind.submit(&mut disk, ranges), Err(expected), "{kind:?}");
    assert_eq!((disk.queue().in_flight(), disk.queue().commit()), (0, false));
    let (mut handle, queue) = disk.split();
    let shared = AsyncQueue::new(RefCell::new(queue));
    assert_eq!(kind.wait(&shared, ranges), Err(expected), "{kind:?}");
    let mut queue = shared.into_inner().into_inner();
    drop(handle.shutdown(&mut [&mut queue], &mut Spin).unwrap());
    assert_eq!((device.counts().requests(), device.counts().notifications), (0, 0));
}

/// The same for a blocking call.
#[track_caller]
fn assert_refused_blocking(builder: &Builder, kind: Kind, ranges: &[SectorRange], expected: Error) {
    let memory = ScatterMemory::new();
    let device = builder.clone().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    assert_eq!(kind.block(&mut disk, ranges), Err(expected), "{kind:?}");
    assert_eq!((device.counts().requests(), device.counts().notifications), (0, 0));
}

#[test]
fn a_request_keeps_to_the_limits_of_its_kind() {
    let limits = RangeLimits { max_sectors: 30, max_ranges: 2, alignment_sectors: 1 };
    for kind in few(2, KINDS) {
        let operation = kind.operation();
        let memory = ScatterMemory::new();
        let device = with_all(limits).build(&memory);
        fill(&device, 100);
        let mut disk = open(&device, &memory, &defaults());
        let most = [range(0, 30), range(40, 30)];
        kind.submit(&mut disk, &most).unwrap();
        assert_effect(&device, 100, &most, kind);
        let too_long = Error::TooManySectors { operation, sectors: 31, max_sectors: 30 };
        assert_refused(&with_all(limits), kind, &[range(0, 1), range(40, 31)], too_long);
        let too_many = Error::TooManyRanges { operation, found: 3, max: 2 };
        assert_refused(&with_all(limits), kind, &[range(0, 1), range(2, 1), range(4, 1)], too_many);
    }
}

#[test]
fn however_many_ranges_the_device_takes_a_request_has_as_many_as_there_is_room_for() {
    let limits = RangeLimits { max_ranges: 100, ..WIDE };
    let ranges: Vec<_> = (0..RANGES_MAX as u64 + 1).map(|index| range(index * 4, 2)).collect();
    let memory = ScatterMemory::new();
    let device = with_all(limits).build(&memory);
    fill(&device, 40);
    let mut disk = open(&device, &memory, &defaults());
    Kind::Zero.submit(&mut disk, &ranges[..RANGES_MAX]).unwrap();
    assert_effect(&device, 40, &ranges[..RANGES_MAX], Kind::Zero);
    let operation = Operation::WriteZeroes;
    let error = Error::TooManyRanges { operation, found: RANGES_MAX + 1, max: RANGES_MAX };
    assert_refused(&with_all(limits), Kind::Zero, &ranges, error);
    // One segment has room for one range.
    let short = with_all(limits).offer(BlockFeatures::SIZE_MAX.bits()).config(|config| config.size_max = 16.into());
    let error = Error::TooManyRanges { operation, found: 2, max: 1 };
    assert_refused(&short, Kind::Zero, &ranges[..2], error);
}

#[test]
fn ranges_keep_to_the_alignment_and_to_whole_blocks() {
    let aligned = with_all(RangeLimits { alignment_sectors: 12, ..WIDE });
    for kind in few(1, [Kind::Discard, Kind::Erase]) {
        let operation = kind.operation();
        for (sector, sectors) in few(1, [(6, 12), (12, 6), (1, 1)]) {
            let error = Error::UnalignedRange { operation, sector, sectors, alignment_sectors: 12 };
            assert_refused(&aligned, kind, &[range(24, 12), range(sector, sectors)], error);
            assert_refused_blocking(&aligned, kind, &[range(24, 12), range(sector, sectors)], error);
        }
        let memory = ScatterMemory::new();
        let device = aligned.clone().build(&memory);
        fill(&device, 60);
        kind.submit(&mut open(&device, &memory, &defaults()), &[range(24, 12)]).unwrap();
        assert_effect(&device, 60, &[range(24, 12)], kind);
    }
    // Blocks of 4096 bytes are 8 sectors; with an alignment of 12, ranges are multiples of both.
    let blocks = aligned.clone().config(|config| config.blk_size = 4096.into());
    let operation = Operation::Discard;
    let error = Error::UnalignedRange { operation, sector: 12, sectors: 12, alignment_sectors: 24 };
    assert_refused(&blocks, Kind::Discard, &[range(12, 12)], error);
    // WRITE_ZEROES has no alignment but that of blocks.
    let operation = Operation::WriteZeroes;
    let error = Error::UnalignedRange { operation, sector: 8, sectors: 12, alignment_sectors: 8 };
    assert_refused(&blocks, Kind::Unmap, &[range(8, 12)], error);
    let memory = ScatterMemory::new();
    let device = blocks.build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    Kind::Unmap.block(&mut disk, &[range(8, 16)]).unwrap();
    Kind::Discard.block(&mut disk, &[range(24, 24)]).unwrap();
    assert_eq!(device.sector_state(47), SectorState::Discarded);
}

#[test]
fn what_is_no_range_of_the_disk_is_refused() {
    let builder = with_all(RangeLimits { max_sectors: u32::MAX, ..WIDE });
    for kind in few(1, KINDS) {
        let capacity_sectors = 2048;
        let beyond = |sector, sectors| Error::BeyondCapacity { sector, sectors, capacity_sectors };
        for (sector, sectors) in few(2, [(2047, 2), (u64::MAX, 1), (2048, 1), (1, u64::MAX), (0, 1 << 32)]) {
            assert_refused(&builder, kind, &[range(0, 1), range(sector, sectors)], beyond(sector, sectors));
            assert_refused_blocking(&builder, kind, &[range(0, 1), range(sector, sectors)], beyond(sector, sectors));
        }
        for ranges in few(1, [&[][..], &[range(0, 0)], &[range(0, 8), range(9, 0)]]) {
            assert_refused(&builder, kind, ranges, Error::Empty);
            assert_refused_blocking(&builder, kind, ranges, Error::Empty);
        }
        assert_refused(&builder.clone().read_only(), kind, &[range(0, 1)], Error::ReadOnly);
        assert_refused_blocking(&builder.clone().read_only(), kind, &[range(0, 1)], Error::ReadOnly);
    }
}

#[test]
fn without_its_feature_a_request_is_an_error_and_not_nothing() {
    for kind in few(2, KINDS) {
        let feature = FeatureSet::from(kind.feature());
        let error = Error::NotNegotiated { operation: kind.operation(), feature };
        let without = with_all(WIDE).withhold(feature.bits());
        assert_refused(&without, kind, &[range(0, 1)], error);
        assert_refused_blocking(&without, kind, &[range(0, 1)], error);
        // Offered is not negotiated.
        let memory = ScatterMemory::new();
        let device = with_all(WIDE).build(&memory);
        let mut disk = open(&device, &memory, &Options { forbid: feature, ..defaults() });
        assert_eq!(kind.block(&mut disk, &[range(0, 1)]), Err(error));
    }
}

#[test]
fn a_long_range_becomes_several_requests_that_are_in_flight_together() {
    // Of 30 sectors, 28 are a multiple of 4.
    let limits = |max_ranges| RangeLimits { max_sectors: 30, max_ranges, alignment_sectors: 4 };
    for (max_ranges, requests) in few(1, [(3, 3), (1, 8), (4, 2), (64, 2)]) {
        for kind in few(1, [Kind::Discard, Kind::Erase]) {
            let memory = ScatterMemory::new();
            let device = with_all(limits(max_ranges)).build(&memory);
            fill(&device, 260);
            let mut disk = open(&device, &memory, &defaults());
            // Seven ranges of 28 sectors, and a short one.
            let ranges = [range(8, 196), range(220, 4)];
            kind.block(&mut disk, &ranges).unwrap();
            let counts = device.counts();
            assert_eq!((counts.requests(), counts.ranges), (requests, 8), "{max_ranges} ranges");
            assert_eq!((counts.depth, counts.notifications), (requests, 1), "{max_ranges} ranges");
            assert_effect(&device, 260, &ranges, kind);
        }
    }
}

#[test]
fn a_queue_that_is_too_small_for_all_requests_is_kept_full() {
    let memory = ScatterMemory::new();
    let device = with_all(RangeLimits { max_sectors: 1, max_ranges: 1, alignment_sectors: 1 }).build(&memory);
    fill(&device, 16);
    let mut disk = open(&device, &memory, &Options { queue_size: 4, ..defaults() });
    disk.discard(&[(2..12).into()], &mut Spin).unwrap();
    assert_eq!((device.counts().discards, device.counts().depth), (10, 4));
    assert_effect(&device, 16, &[range(2, 10)], Kind::Discard);
}

#[test]
fn limits_that_allow_nothing_end_in_an_error() {
    // No range is aligned and short enough.
    let limits = RangeLimits { max_sectors: 7, max_ranges: 1, alignment_sectors: 8 };
    let operation = Operation::Discard;
    let error = Error::TooManySectors { operation, sectors: 8, max_sectors: 7 };
    assert_refused(&with_all(limits), Kind::Discard, &[range(8, 8)], error);
    assert_refused_blocking(&with_all(limits), Kind::Discard, &[range(8, 8)], error);
    let alignment_sectors = u64::from(u32::MAX);
    let absurd = RangeLimits { max_sectors: 7, max_ranges: 1, alignment_sectors: u32::MAX };
    let error = Error::UnalignedRange { operation, sector: 8, sectors: 8, alignment_sectors };
    assert_refused_blocking(&with_all(absurd), Kind::Discard, &[range(8, 8)], error);
    let tiny = with_all(WIDE).offer(BlockFeatures::SIZE_MAX.bits()).config(|config| config.size_max = 15.into());
    let error = Error::TooManyRanges { operation, found: 1, max: 0 };
    assert_refused(&tiny, Kind::Discard, &[range(8, 8)], error);
    assert_refused_blocking(&tiny, Kind::Discard, &[range(8, 8)], error);
}

#[test]
fn limits_of_zero_are_taken_for_none() {
    let memory = ScatterMemory::new();
    let zero = RangeLimits { max_sectors: 0, max_ranges: 0, alignment_sectors: 0 };
    let device = BlockDevice::builder().discard(zero).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    // What the device says to it is its own affair; the testing device takes zero for zero.
    let failed = Error::Device { operation: Operation::Discard, sector: 4, status: DeviceError::Io };
    assert_eq!(disk.discard(&[range(4, 100)], &mut Spin), Err(failed));
    assert_eq!(device.counts().discards, 1);
    assert!(!device.take_violations().is_empty());
}

#[test]
fn a_part_that_fails_is_named_and_the_others_are_waited_for() {
    for (status, expected) in
        [(RequestStatus::IOERR, DeviceError::Io), (RequestStatus::UNSUPP, DeviceError::Unsupported)]
    {
        let memory = ScatterMemory::new();
        let device = with_all(RangeLimits { max_sectors: 8, max_ranges: 1, alignment_sectors: 1 }).build(&memory);
        fill(&device, 40);
        let mut disk = open(&device, &memory, &defaults());
        device.faults(|faults| faults.next.extend([Outcome::HONEST, Outcome::failure(status)]));
        let operation = Operation::SecureErase;
        let failed = Error::Device { operation, sector: 16, status: expected };
        assert_eq!(disk.secure_erase(&[range(8, 24)], &mut Spin), Err(failed));
        assert_eq!(disk.queue().in_flight(), 0);
        assert_effect(&device, 40, &[range(8, 8), range(24, 8)], Kind::Erase);
    }
}

#[test]
fn what_was_erased_is_in_doubt_until_a_flush() {
    for kind in few(1, KINDS) {
        for flushed in [false, true] {
            let memory = ScatterMemory::new();
            let device = with_all(WIDE).build(&memory);
            let mut disk = open(&device, &memory, &defaults());
            match kind {
                Kind::Discard => disk.discard(&[range(0, 8)], &mut Spin),
                Kind::Zero => disk.write_zeroes(&[range(0, 8)], Unmap::Never, &mut Spin),
                Kind::Unmap => disk.write_zeroes(&[range(0, 8)], Unmap::Allowed, &mut Spin),
                Kind::Erase => disk.secure_erase(&[range(0, 8)], &mut Spin),
            }
            .unwrap();
            if flushed {
                disk.flush(&mut Spin).unwrap();
            }
            assert_eq!(disk.recover(&mut Spin).unwrap().writes_in_doubt, !flushed);
        }
    }
}

#[test]
fn ranges_in_flight_are_issued_again_after_a_reset() {
    let memory = ScatterMemory::new();
    let device = with_all(WIDE).mode(Mode::Manual).build(&memory);
    fill(&device, 40);
    let mut disk = open(&device, &memory, &defaults());
    let ranges = [range(4, 4), range(16, 2)];
    let token = disk.queue().submit_write_zeroes(&ranges, Unmap::Allowed).unwrap();
    let cancelled = disk.queue().submit_discard(&[range(0, 2)]).unwrap();
    disk.queue().commit();
    assert!(disk.queue().cancel(cancelled));
    device.needs_reset();
    let recovered = disk.recover(&mut Spin).unwrap();
    assert_eq!((recovered.reissued, recovered.ended, recovered.writes_in_doubt), (1, 1, false));
    assert_eq!(device.run(), 1);
    let first = disk.queue().poll().unwrap().expect("the cancelled one");
    let (operation, sector) = (Operation::Discard, 0);
    assert_eq!((first.token, first.result), (cancelled, Err(Error::Cancelled { operation, sector })));
    let second = disk.queue().poll().unwrap().expect("the other one");
    assert_eq!((second.token, second.sector, second.result), (token, 4, Ok(())));
    assert_effect(&device, 40, &ranges, Kind::Unmap);
    // It is as much in doubt as a write, until a flush.
    let recovered = disk.recover(&mut Spin).unwrap();
    assert!(recovered.writes_in_doubt);
}

#[test]
fn the_aligned_part_of_a_range() {
    let limits = EraseLimits { max_sectors: 1, max_segments: 1, alignment_sectors: 8 };
    let part = |sector, sectors| limits.aligned_part(range(sector, sectors));
    assert_eq!(part(0, 8), Some(range(0, 8)));
    assert_eq!(part(1, 15), Some(range(8, 8)));
    assert_eq!(part(8, 15), Some(range(8, 8)));
    for (sector, sectors) in [(0, 7), (1, 14), (9, 6), (9, 0), (8, 0), (u64::MAX, 1), (u64::MAX, 0), (0, 0)] {
        assert_eq!(part(sector, sectors), None, "{sectors} sectors at {sector}");
    }
    assert_eq!(part(0, u64::MAX), Some(range(0, u64::MAX - 7)));
    let zero = EraseLimits { alignment_sectors: 0, ..limits };
    assert_eq!(zero.aligned_part(range(3, 4)), Some(range(3, 4)));
    let (ten, backwards) = (SectorRange::from(5..15), SectorRange::from(std::ops::Range { start: 9, end: 3 }));
    assert_eq!((ten, backwards), (range(5, 10), range(9, 0)));
}

const SECTORS: u64 = if cfg!(miri) { 64 } else { 512 };

fn shapes() -> impl Strategy<Value = (RangeLimits, u32, Vec<(u64, u64)>)> {
    let limits = (1..80_u32, 1..7_u32, 1..9_u32).prop_map(|(max_sectors, max_ranges, alignment_sectors)| RangeLimits {
        max_sectors,
        max_ranges,
        alignment_sectors,
    });
    let blocks = prop_oneof![Just(512_u32), Just(1024), Just(2048)];
    (limits, blocks, prop::collection::vec((0..SECTORS, 1..SECTORS), 1..6))
}

fn split((limits, blk_size, wanted): (RangeLimits, u32, Vec<(u64, u64)>)) -> Result<(), TestCaseError> {
    let memory = ScatterMemory::new();
    let builder = with_all(limits).capacity(SECTORS).config(|config| config.blk_size = blk_size.into());
    let device = builder.build(&memory);
    let mut disk = open(&device, &memory, &Options { queue_size: 8, ..defaults() });
    // The smallest number that is a multiple of both.
    let block = u64::from(blk_size / 512);
    let alignment = u64::from(limits.alignment_sectors);
    let unit = (1..).find(|unit| unit % block == 0 && unit % alignment == 0).unwrap();
    let ranges: Vec<_> = wanted
        .into_iter()
        .map(|(at, length)| {
            let at = at / unit * unit;
            range(at, (length / unit * unit).min((SECTORS - at) / unit * unit))
        })
        .filter(|range| range.sectors > 0)
        .collect();
    let longest = u64::from(limits.max_sectors) / unit * unit;
    let result = disk.discard(&ranges, &mut Spin);
    if ranges.is_empty() {
        prop_assert_eq!(result, Err(Error::Empty));
    } else if longest == 0 {
        let (operation, max_sectors) = (Operation::Discard, limits.max_sectors);
        prop_assert_eq!(result, Err(Error::TooManySectors { operation, sectors: unit, max_sectors }));
    } else {
        prop_assert_eq!(result, Ok(()));
        let parts: u64 = ranges.iter().map(|range| range.sectors.div_ceil(longest)).sum();
        let most = u64::from(limits.max_ranges).min(RANGES_MAX as u64);
        prop_assert_eq!((device.counts().ranges, device.counts().discards), (parts, parts.div_ceil(most)));
        for sector in 0..SECTORS {
            let inside = ranges.iter().any(|range| (range.sector..range.sector + range.sectors).contains(&sector));
            let expected = if inside { SectorState::Discarded } else { SectorState::Untouched };
            prop_assert_eq!(device.sector_state(sector), expected, "sector {}", sector);
        }
    }
    device.assert_conformant();
    Ok(())
}

#[test]
fn any_ranges_are_split_into_as_few_requests_as_the_limits_allow() {
    let cases = if cfg!(miri) { 2 } else { 300 };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner.run(&shapes(), split).unwrap();
}

/// Buffers of requests beside requests without.
#[test]
fn ranges_and_buffers_are_in_flight_together() {
    let memory = ScatterMemory::new();
    let device = with_all(WIDE).mode(Mode::Manual).build(&memory);
    fill(&device, 8);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    let queue = disk.queue();
    queue.submit_read(0, counted(vec![0; 512])).map_err(|rejected| rejected.error).unwrap();
    queue.submit_discard(&[range(4, 2)]).unwrap();
    queue.submit_read(1, counted(vec![0; 512])).map_err(|rejected| rejected.error).unwrap();
    queue.commit();
    assert_eq!(device.run(), 3);
    let done: Vec<_> = std::iter::from_fn(|| queue.poll().unwrap()).collect();
    let shape: Vec<_> = done.iter().map(|done| (done.operation, done.sector, done.buffer.is_some())).collect();
    assert_eq!(shape, [(Operation::Read, 0, true), (Operation::Discard, 4, false), (Operation::Read, 1, true)]);
    assert_effect(&device, 8, &[range(4, 2)], Kind::Discard);
}
