//! Requests that take data away: discard, write zeroes, secure erase. And the lifetime.

mod raw;

use raw::{DATA, Driver, NEXT, Queue, Request, STATUS, WRITE, base};
use testing_device::{BlockDevice, Builder, Mode, NO_DATA, RangeLimits, Rule, ScatterMemory, SectorRange, SectorState};
use virtio_spec::block::{BlockFeatures, Lifetime, RequestStatus, RequestType};

const LIMITS: RangeLimits = RangeLimits { max_sectors: 8, max_ranges: 2, alignment_sectors: 4 };

fn builder() -> Builder {
    BlockDevice::builder().discard(LIMITS).write_zeroes(LIMITS, true).secure_erase(LIMITS)
}

const ALL: u64 =
    BlockFeatures::DISCARD.bits() | BlockFeatures::WRITE_ZEROES.bits() | BlockFeatures::SECURE_ERASE.bits();

/// First sector, number of sectors, flags.
type Range = (u64, u32, u32);

/// A driver that sends ranges.
struct Ranges {
    driver: Driver<ScatterMemory>,
    queue: Queue<ScatterMemory>,
}

impl Ranges {
    fn new(builder: Builder, features: u64) -> Self {
        let driver = Driver::new(builder, &ScatterMemory::new(), false);
        driver.device.write_disk(0, &[0x55; 64 * 512]);
        let queue = driver.ready(base(false) | features, 4);
        Self { driver, queue }
    }

    /// The status of a request with these ranges.
    fn send(&mut self, request_type: RequestType, ranges: &[Range]) -> u8 {
        let request = Request::new(&self.driver.memory, request_type, 0);
        for (index, (sector, sectors, flags)) in ranges.iter().enumerate() {
            request.0.write(DATA + 16 * index, &sector.to_le_bytes());
            request.0.write(DATA + 16 * index + 8, &sectors.to_le_bytes());
            request.0.write(DATA + 16 * index + 12, &flags.to_le_bytes());
        }
        self.driver.chain(&self.queue, &request, 16 * ranges.len() as u32, false);
        self.driver.submit(&mut self.queue, 0);
        self.driver.device.run();
        assert_eq!(self.queue.used().map(|used| used.1), Some(1));
        request.status()
    }

    fn sector(&self, sector: u64) -> (SectorState, u8) {
        let bytes = self.driver.device.read_disk(sector, 1);
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        (self.driver.device.sector_state(sector), bytes[0])
    }
}

impl Drop for Ranges {
    fn drop(&mut self) {
        self.driver.reset();
    }
}

#[test]
fn ranges_lose_their_data() {
    let mut ranges = Ranges::new(builder(), ALL);
    assert_eq!(ranges.send(RequestType::DISCARD, &[(4, 4, 0), (12, 8, 0)]), 0);
    assert_eq!(ranges.send(RequestType::WRITE_ZEROES, &[(24, 2, 0)]), 0);
    assert_eq!(ranges.send(RequestType::WRITE_ZEROES, &[(26, 2, 1)]), 0);
    assert_eq!(ranges.send(RequestType::SECURE_ERASE, &[(28, 4, 0)]), 0);
    for (sector, expected) in [
        (3, (SectorState::Written, 0x55)),
        (4, (SectorState::Discarded, NO_DATA)),
        (7, (SectorState::Discarded, NO_DATA)),
        (8, (SectorState::Written, 0x55)),
        (19, (SectorState::Discarded, NO_DATA)),
        (20, (SectorState::Written, 0x55)),
        (25, (SectorState::Zeroed, 0)),
        (27, (SectorState::Unmapped, 0)),
        (31, (SectorState::Erased, NO_DATA)),
        (100, (SectorState::Untouched, 0)),
    ] {
        assert_eq!(ranges.sector(sector), expected, "sector {sector}");
    }
    let counts = ranges.driver.device.counts();
    assert_eq!((counts.discards, counts.write_zeroes, counts.secure_erases, counts.ranges), (1, 2, 1, 5));
    assert_eq!(counts.requests(), 4);
    ranges.driver.device.assert_conformant();
}

#[test]
fn unmap_may_deallocate_nothing() {
    let mut ranges =
        Ranges::new(BlockDevice::builder().write_zeroes(LIMITS, false), BlockFeatures::WRITE_ZEROES.bits());
    assert_eq!(ranges.send(RequestType::WRITE_ZEROES, &[(0, 1, 1)]), 0);
    assert_eq!(ranges.sector(0), (SectorState::Zeroed, 0));
    ranges.driver.device.assert_conformant();
}

#[test]
fn zeroes_are_volatile_until_flushed() {
    let features = BlockFeatures::WRITE_ZEROES.bits() | BlockFeatures::FLUSH.bits();
    let mut ranges = Ranges::new(builder(), features);
    ranges.send(RequestType::WRITE_ZEROES, &[(0, 1, 0)]);
    ranges.driver.device.power_cut();
    assert_eq!(ranges.sector(0), (SectorState::Written, 0x55));
}

#[test]
fn limits_and_flags_are_enforced() {
    let (ok, ioerr, unsupp) = (0, RequestStatus::IOERR.0, RequestStatus::UNSUPP.0);
    for request_type in [RequestType::DISCARD, RequestType::WRITE_ZEROES, RequestType::SECURE_ERASE] {
        let unmap: (u8, &[Rule]) =
            if request_type == RequestType::WRITE_ZEROES { (ok, &[]) } else { (unsupp, &[Rule::RangeFlags]) };
        let cases: &[(&[Range], u8, &[Rule])] = &[
            (&[(0, 8, 0), (8, 8, 0)], ok, &[]),
            (&[(0, 9, 0)], ioerr, &[Rule::RangeLimit]),
            (&[(0, 1, 0), (1, 1, 0), (2, 1, 0)], ioerr, &[Rule::RangeLimit]),
            (&[(0, 1, 2)], unsupp, &[Rule::RangeFlags]),
            (&[(0, 1, 0), (0, 1, 1 << 31)], unsupp, &[Rule::RangeFlags]),
            (&[(0, 4, 1)], unmap.0, unmap.1),
            (&[(2047, 2, 0)], ioerr, &[Rule::BeyondCapacity]),
            (&[(u64::MAX, 2, 0)], ioerr, &[Rule::BeyondCapacity]),
        ];
        for (index, (sent, status, rules)) in cases.iter().enumerate() {
            let mut ranges = Ranges::new(builder(), ALL);
            assert_eq!(ranges.send(request_type, sent), *status, "{request_type} {index}");
            assert_eq!(ranges.driver.broken(), *rules, "{request_type} {index}");
            let untouched = *status != ok;
            assert_eq!(ranges.sector(0) == (SectorState::Written, 0x55), untouched, "{request_type} {index}");
        }
    }
}

#[test]
fn alignment_is_checked_where_a_test_asks_for_it() {
    for (checked, rules) in [(false, &[][..]), (true, &[Rule::RangeAlignment, Rule::RangeAlignment])] {
        let builder = if checked { builder().check_range_alignment() } else { builder() };
        let mut ranges = Ranges::new(builder, ALL);
        assert_eq!(ranges.send(RequestType::DISCARD, &[(4, 4, 0), (9, 4, 0)]), 0);
        assert_eq!(ranges.send(RequestType::SECURE_ERASE, &[(4, 5, 0)]), 0);
        assert_eq!(ranges.send(RequestType::WRITE_ZEROES, &[(1, 1, 0)]), 0, "has no alignment");
        assert_eq!(ranges.driver.broken(), rules);
    }
}

#[test]
fn what_was_not_negotiated_is_unsupported() {
    for request_type in [RequestType::DISCARD, RequestType::WRITE_ZEROES, RequestType::SECURE_ERASE] {
        let mut ranges = Ranges::new(builder(), 0);
        assert_eq!(ranges.send(request_type, &[(0, 1, 0)]), RequestStatus::UNSUPP.0);
        assert_eq!(ranges.driver.broken(), [Rule::RequestNotNegotiated]);
    }
}

#[test]
fn a_read_only_device_keeps_its_data() {
    let mut ranges = Ranges::new(builder().read_only(), ALL | BlockFeatures::RO.bits());
    assert_eq!(ranges.send(RequestType::DISCARD, &[(0, 4, 0)]), RequestStatus::IOERR.0);
    assert_eq!(ranges.driver.broken(), [Rule::WriteToReadOnly]);
    assert_eq!(ranges.sector(0), (SectorState::Written, 0x55));
}

#[test]
fn bad_sectors_fail_ranges_too() {
    let mut ranges = Ranges::new(builder(), ALL);
    ranges.driver.device.faults(|faults| faults.bad_sectors.push(5..6));
    assert_eq!(ranges.send(RequestType::WRITE_ZEROES, &[(0, 5, 0), (5, 1, 0)]), RequestStatus::IOERR.0);
    assert_eq!(ranges.send(RequestType::WRITE_ZEROES, &[(0, 5, 0), (6, 1, 0)]), 0);
    ranges.driver.device.assert_conformant();
}

#[test]
fn a_pending_request_shows_its_ranges() {
    let driver = Driver::new(builder().mode(Mode::Manual), &ScatterMemory::new(), false);
    let mut queue = driver.ready(base(false) | ALL, 4);
    let request = Request::new(&driver.memory, RequestType::DISCARD, 0);
    request.0.write(DATA, &7u64.to_le_bytes());
    request.0.write(DATA + 8, &3u32.to_le_bytes());
    driver.chain(&queue, &request, 16, false);
    driver.submit(&mut queue, 0);
    let pending = driver.device.take().unwrap();
    assert_eq!(pending.ranges(), [SectorRange { sector: 7, sectors: 3, flags: 0 }]);
    driver.reset();
}

#[test]
fn the_lifetime_is_told() {
    let lifetime =
        Lifetime { pre_eol_info: 2.into(), device_lifetime_est_typ_a: 11.into(), device_lifetime_est_typ_b: 0.into() };
    let driver = Driver::new(BlockDevice::builder().lifetime(lifetime), &ScatterMemory::new(), false);
    let mut queue = driver.ready(base(false) | BlockFeatures::LIFETIME.bits(), 4);
    let request = Request::new(&driver.memory, RequestType::GET_LIFETIME, 0);
    driver.chain(&queue, &request, 6, true);
    driver.submit(&mut queue, 0);
    assert_eq!((queue.used(), request.status()), (Some((0, 7)), 0));
    assert_eq!(request.0.read(DATA, 6), [2, 0, 11, 0, 0, 0]);
    driver.chain(&queue, &request, 8, true);
    driver.submit(&mut queue, 0);
    assert_eq!(request.status(), RequestStatus::IOERR.0);
    assert_eq!(driver.broken(), [Rule::RequestLength]);
    driver.reset();
}

#[test]
fn a_device_may_insist_on_whole_blocks() {
    let builder = BlockDevice::builder().config(|config| config.blk_size = 4096.into()).whole_blocks_only();
    let driver = Driver::new(builder, &ScatterMemory::new(), false);
    let mut queue = driver.ready(base(false) | BlockFeatures::BLK_SIZE.bits(), 4);
    let ioerr = RequestStatus::IOERR.0;
    for (sector, bytes, status) in [(8, 3072, ioerr), (4, 3072, ioerr), (8, 0, 0), (1, 0, ioerr)] {
        let request = Request::new(&driver.memory, RequestType::IN, sector);
        driver.chain(&queue, &request, bytes, true);
        if bytes == 0 {
            queue.descriptor(1, request.at(STATUS), 1, WRITE, 0);
            queue.descriptor(0, request.at(0), 16, NEXT, 1);
        }
        driver.submit(&mut queue, 0);
        assert_eq!(request.status(), status, "{bytes} bytes at {sector}");
    }
    let data = raw::Owned::new(&driver.memory, 4096, 16);
    let request = Request::new(&driver.memory, RequestType::IN, 8);
    driver.chain(&queue, &request, 0, true);
    queue.descriptor(1, data.address(), 4096, NEXT | WRITE, 2);
    driver.submit(&mut queue, 0);
    assert_eq!(request.status(), 0);
    driver.reset();
    driver.device.assert_conformant();
}
