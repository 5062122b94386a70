//! A host-managed device behind its rings: requests for zones, and what they do to data.

mod raw;

use raw::{DATA, Driver, NEXT, Owned, Queue, Request, STATUS, WRITE, base};
use testing_device::{BlockDevice, Builder, NO_DATA, RangeLimits, Rule, ScatterMemory, SectorState, ZoneSetup};
use virtio_spec::block::{BlockFeatures, RequestStatus, RequestType, ZoneState};
use virtio_spec::mmio::Register;
use virtio_spec::{DeviceStatus, Features};
use virtio_transport::Registers;

const INVALID: u8 = RequestStatus::ZONE_INVALID_CMD.0;
const UNALIGNED: u8 = RequestStatus::ZONE_UNALIGNED_WP.0;

/// Four zones of 64 sectors, 48 of them to be written; the first one is conventional.
fn builder() -> Builder {
    let zones = ZoneSetup { capacity_sectors: 48, max_append_sectors: 16, ..ZoneSetup::default() };
    BlockDevice::builder().zoned(zones).capacity(256)
}

struct Zoned {
    driver: Driver<ScatterMemory>,
    queue: Queue<ScatterMemory>,
    data: Owned<ScatterMemory>,
}

impl Zoned {
    fn new(builder: Builder, features: BlockFeatures) -> Self {
        let driver = Driver::new(builder, &ScatterMemory::new(), false);
        let queue = driver.ready(base(false) | BlockFeatures::ZONED.bits() | features.bits(), 4);
        let data = Owned::new(&driver.memory, 64 * 512, 16);
        Self { driver, queue, data }
    }

    /// Sends a request with so many bytes of data. Returns the used length and the status.
    fn send(&mut self, request_type: RequestType, sector: u64, bytes: u32) -> (u32, u8) {
        let request = Request::new(&self.driver.memory, request_type, sector);
        let flags = match request_type {
            RequestType::IN | RequestType::ZONE_REPORT => WRITE,
            _ => 0,
        };
        self.queue.descriptor(0, request.at(0), 16, NEXT, if bytes > 0 { 1 } else { 2 });
        self.queue.descriptor(1, self.data.address(), bytes, NEXT | flags, 2);
        self.queue.descriptor(2, request.at(STATUS), 1, WRITE, 0);
        self.driver.submit(&mut self.queue, 0);
        let (id, used) = self.queue.used().expect("a completion");
        assert_eq!(id, 0);
        (used, request.status())
    }

    fn status(&mut self, request_type: RequestType, sector: u64, bytes: u32) -> u8 {
        self.send(request_type, sector, bytes).1
    }

    /// Appends so many sectors full of a byte. Returns where they went, or the status.
    fn append(&mut self, sector: u64, sectors: u32, fill: u8) -> Result<u64, u8> {
        let bytes = sectors * 512;
        self.data.write(0, &vec![fill; bytes as usize]);
        let request = Request::new(&self.driver.memory, RequestType::ZONE_APPEND, sector);
        request.0.write(DATA, &[0xee; 9]);
        self.queue.descriptor(0, request.at(0), 16, NEXT, 1);
        self.queue.descriptor(1, self.data.address(), bytes, NEXT, 2);
        self.queue.descriptor(2, request.at(DATA), 9, WRITE, 0);
        self.driver.submit(&mut self.queue, 0);
        let used = self.queue.used().expect("a completion").1;
        let tail = request.0.read(DATA, 9);
        match tail[8] {
            0 => {
                assert_eq!(used, 9);
                Ok(u64::from_le_bytes(tail[..8].try_into().unwrap()))
            }
            status => {
                assert_eq!((used, &tail[..8]), (0, &[0xee; 8][..]), "status only");
                Err(status)
            }
        }
    }

    /// The zones of a report into so many bytes: how many it says, and start, write pointer and state of each.
    fn report(&mut self, sector: u64, bytes: u32) -> (u64, Vec<(u64, u64, u8)>) {
        self.data.write(0, &[0xee; 64 * 5]);
        let (used, status) = self.send(RequestType::ZONE_REPORT, sector, bytes);
        assert_eq!(status, 0);
        let whole = self.data.read(0, bytes as usize);
        let number = |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().unwrap());
        let count = number(0);
        let written = 64 + 64 * count as usize;
        assert_eq!(
            used as usize,
            written + usize::from(written == bytes as usize),
            "with the status, if nothing lies between"
        );
        assert!(whole[8..64].iter().all(|byte| *byte == 0), "reserved");
        assert!(whole[written..].iter().all(|byte| *byte == 0xee), "nothing of a zone that does not fit");
        let zone = |index: usize| {
            let at = 64 + 64 * index;
            assert!(whole[at + 26..at + 64].iter().all(|byte| *byte == 0), "reserved");
            (number(at + 8), number(at + 16), whole[at + 25])
        };
        (count, (0..count as usize).map(zone).collect())
    }

    fn state(&self, zone: usize) -> (ZoneState, u64) {
        let zone = self.driver.device.zones()[zone];
        (zone.state, zone.written)
    }
}

impl Drop for Zoned {
    fn drop(&mut self) {
        self.driver.reset();
    }
}

#[test]
fn a_host_managed_device_needs_its_feature() {
    let driver = Driver::new(builder(), &ScatterMemory::new(), false);
    driver.negotiate(base(false));
    assert!(!driver.status().contains(DeviceStatus::FEATURES_OK));
    driver.device.assert_conformant();
}

#[test]
fn the_configuration_describes_the_zones() {
    let zoned = Zoned::new(builder(), BlockFeatures::empty());
    let config = |offset| u32::from_le(zoned.driver.registers.read_u32(Register::CONFIG.0 + offset));
    assert_eq!([72, 76, 80, 84, 88].map(config), [64, 0, 0, 16, 512]);
    assert_eq!(zoned.driver.registers.read_u8(Register::CONFIG.0 + 92), 1);
    zoned.driver.device.assert_conformant();
}

#[test]
fn appends_say_where_they_went() {
    let mut zoned = Zoned::new(builder(), BlockFeatures::empty());
    assert_eq!(zoned.append(64, 16, 1), Ok(64));
    assert_eq!(zoned.append(64, 8, 2), Ok(80));
    assert_eq!(zoned.append(128, 1, 3), Ok(128));
    assert_eq!(zoned.driver.device.read_disk(80, 9), [[2; 8 * 512].as_slice(), &[NO_DATA; 512]].concat());
    assert_eq!((zoned.state(1), zoned.state(2)), ((ZoneState::IOPEN, 24), (ZoneState::IOPEN, 1)));
    let counts = zoned.driver.device.counts();
    assert_eq!((counts.appends, counts.sectors_written, counts.requests()), (3, 25, 3));
    zoned.driver.device.assert_conformant();
}

#[test]
fn an_append_may_not_go_over_the_end() {
    for (builder, rules) in [(builder(), &[Rule::ZoneCapacity][..]), (builder().tolerate_zone_overrun(), &[])] {
        let mut zoned = Zoned::new(builder, BlockFeatures::empty());
        for _ in 0..3 {
            zoned.append(64, 13, 7).unwrap();
        }
        assert_eq!(zoned.append(64, 10, 7), Err(INVALID));
        assert_eq!(zoned.driver.broken(), rules);
        assert_eq!(zoned.append(64, 9, 7), Ok(64 + 39));
        assert_eq!(zoned.state(1), (ZoneState::FULL, 48));
        assert_eq!(zoned.append(64, 1, 7), Err(INVALID));
        assert_eq!(zoned.driver.broken(), rules);
    }
}

#[test]
fn appends_and_requests_for_zones_keep_to_the_rules() {
    let mut zoned = Zoned::new(builder(), BlockFeatures::empty());
    assert_eq!(zoned.append(65, 1, 0), Err(INVALID));
    assert_eq!(zoned.driver.broken(), [Rule::ZoneSector]);
    assert_eq!(zoned.append(64, 17, 0), Err(INVALID));
    assert_eq!(zoned.driver.broken(), [Rule::AppendLimit]);
    assert_eq!(zoned.append(0, 1, 0), Err(INVALID), "conventional");
    assert_eq!(zoned.status(RequestType::ZONE_RESET, 0, 0), INVALID, "conventional");
    zoned.driver.device.assert_conformant();
    assert_eq!(zoned.status(RequestType::ZONE_OPEN, 70, 0), INVALID);
    assert_eq!(zoned.driver.broken(), [Rule::ZoneSector]);
    assert_eq!(zoned.status(RequestType::ZONE_RESET_ALL, 64, 0), 0);
    assert_eq!(zoned.driver.broken(), [Rule::RequestSector]);
    assert_eq!(zoned.status(RequestType::ZONE_OPEN, 64, 512), RequestStatus::IOERR.0, "it has no data");
    assert_eq!(zoned.driver.broken(), [Rule::RequestLength]);
    assert_eq!(zoned.status(RequestType::ZONE_APPEND, 64, 512), RequestStatus::IOERR.0, "no room for the sector");
    assert_eq!(zoned.driver.broken(), [Rule::RequestLength]);
    assert_eq!(zoned.status(RequestType::ZONE_REPORT, 256, 128), INVALID);
    assert_eq!(zoned.driver.broken(), [Rule::BeyondCapacity]);
    assert_eq!(zoned.status(RequestType::ZONE_REPORT, 0, 63), INVALID, "no room for the header");
    zoned.driver.device.assert_conformant();
}

#[test]
fn zones_are_opened_closed_finished_and_reset() {
    let mut zoned = Zoned::new(builder(), BlockFeatures::empty());
    assert_eq!(zoned.status(RequestType::ZONE_OPEN, 64, 0), 0);
    assert_eq!(zoned.state(1), (ZoneState::EOPEN, 0));
    zoned.append(64, 2, 9).unwrap();
    assert_eq!(zoned.status(RequestType::ZONE_CLOSE, 64, 0), 0);
    assert_eq!(zoned.state(1), (ZoneState::CLOSED, 2));
    zoned.append(64, 2, 9).unwrap();
    assert_eq!(zoned.status(RequestType::ZONE_FINISH, 64, 0), 0);
    assert_eq!(zoned.state(1), (ZoneState::FULL, 4));
    assert_eq!(zoned.driver.device.sector_state(67), SectorState::Written);
    assert_eq!(zoned.driver.device.sector_state(68), SectorState::Erased);
    assert_eq!(zoned.status(RequestType::ZONE_RESET, 64, 0), 0);
    assert_eq!(zoned.state(1), (ZoneState::EMPTY, 0));
    assert_eq!(zoned.driver.device.sector_state(67), SectorState::Erased);
    zoned.append(64, 1, 9).unwrap();
    zoned.append(128, 1, 9).unwrap();
    assert_eq!(zoned.status(RequestType::ZONE_RESET_ALL, 0, 0), 0);
    assert_eq!((zoned.state(1), zoned.state(2)), ((ZoneState::EMPTY, 0), (ZoneState::EMPTY, 0)));
    zoned.driver.device.assert_conformant();
}

#[test]
fn writes_come_at_the_write_pointer_and_reads_stay_in_a_zone() {
    let mut zoned = Zoned::new(builder(), BlockFeatures::empty());
    zoned.data.write(0, &[4; 2048]);
    assert_eq!(zoned.status(RequestType::OUT, 66, 1024), UNALIGNED);
    assert_eq!(zoned.status(RequestType::OUT, 64, 1024), 0);
    assert_eq!(zoned.status(RequestType::OUT, 64, 1024), UNALIGNED);
    assert_eq!(zoned.status(RequestType::OUT, 66, 1024), 0);
    assert_eq!(zoned.status(RequestType::OUT, 10, 2048), 0, "conventional");
    assert_eq!(zoned.status(RequestType::OUT, 63, 1024), INVALID, "two zones");
    // What was not written reads as anything but zero.
    assert_eq!(zoned.send(RequestType::IN, 67, 1024), (1025, 0));
    assert_eq!(zoned.data.read(0, 1024), [[4; 512], [NO_DATA; 512]].concat());
    assert_eq!(zoned.status(RequestType::IN, 127, 1024), INVALID, "two zones");
    zoned.driver.device.assert_conformant();
}

#[test]
fn writes_are_multiples_of_the_granularity() {
    let zones = ZoneSetup { write_granularity_bytes: 4096, ..ZoneSetup::default() };
    let mut zoned = Zoned::new(BlockDevice::builder().zoned(zones).capacity(256), BlockFeatures::empty());
    assert_eq!(zoned.append(64, 4, 1), Err(UNALIGNED));
    assert_eq!(zoned.driver.broken(), [Rule::WriteGranularity]);
    assert_eq!(zoned.status(RequestType::OUT, 64, 512), UNALIGNED);
    assert_eq!(zoned.driver.broken(), [Rule::WriteGranularity]);
    assert_eq!(zoned.status(RequestType::OUT, 64, 8192), 0);
    assert_eq!(zoned.append(64, 8, 1), Ok(80));
    assert_eq!(zoned.status(RequestType::OUT, 3, 512), 0, "conventional");
    zoned.driver.device.assert_conformant();
}

#[test]
fn limits_are_told_by_their_statuses() {
    let zones = ZoneSetup { max_open: 1, max_active: 2, ..ZoneSetup::default() };
    let mut zoned = Zoned::new(BlockDevice::builder().zoned(zones).capacity(512), BlockFeatures::empty());
    assert_eq!(zoned.status(RequestType::ZONE_OPEN, 64, 0), 0);
    assert_eq!(zoned.append(128, 1, 0), Err(RequestStatus::ZONE_OPEN_RESOURCE.0));
    assert_eq!(zoned.append(64, 1, 0), Ok(64));
    assert_eq!(zoned.status(RequestType::ZONE_CLOSE, 64, 0), 0);
    assert_eq!(zoned.append(128, 1, 0), Ok(128));
    assert_eq!(zoned.status(RequestType::OUT, 192, 512), RequestStatus::ZONE_ACTIVE_RESOURCE.0);
    zoned.driver.device.assert_conformant();
}

#[test]
fn reports_have_every_length() {
    let mut zoned = Zoned::new(builder(), BlockFeatures::empty());
    zoned.append(128, 3, 1).unwrap();
    let all = [(0, u64::MAX, 0), (64, 64, 1), (128, 131, 2), (192, 192, 1)];
    for (bytes, zones) in [(64, 0), (127, 0), (128, 1), (191, 1), (192, 2), (320, 4)] {
        assert_eq!(zoned.report(0, bytes), (zones, all[..zones as usize].to_vec()), "{bytes} bytes");
    }
    for sector in [128, 130, 191] {
        assert_eq!(zoned.report(sector, 320 - 128), (2, all[2..].to_vec()), "from sector {sector}");
    }
    assert_eq!(zoned.report(255, 200), (1, all[3..].to_vec()));
    zoned.driver.device.assert_conformant();
}

#[test]
fn zones_fail() {
    let mut zoned = Zoned::new(builder(), BlockFeatures::empty());
    zoned.append(64, 1, 6).unwrap();
    zoned.driver.device.fail_zone(1, ZoneState::RDONLY);
    assert_eq!(zoned.append(64, 1, 6), Err(INVALID));
    assert_eq!(zoned.send(RequestType::IN, 64, 512), (513, 0));
    zoned.driver.device.fail_zone(1, ZoneState::OFFLINE);
    assert_eq!(zoned.status(RequestType::IN, 64, 512), INVALID);
    assert_eq!(zoned.status(RequestType::ZONE_RESET, 64, 0), INVALID);
    assert_eq!(zoned.report(64, 128), (1, vec![(64, u64::MAX, 15)]));
    zoned.driver.device.assert_conformant();
}

#[test]
fn a_power_cut_takes_write_pointers_back() {
    let mut zoned = Zoned::new(builder(), BlockFeatures::FLUSH);
    zoned.append(64, 2, 6).unwrap();
    assert_eq!(zoned.status(RequestType::FLUSH, 0, 0), 0);
    zoned.append(64, 2, 7).unwrap();
    zoned.append(128, 2, 7).unwrap();
    assert_eq!(zoned.status(RequestType::ZONE_OPEN, 192, 0), 0);
    zoned.driver.device.power_cut();
    assert_eq!(zoned.state(3), (ZoneState::EMPTY, 0), "no zone stays open");
    assert_eq!((zoned.state(1), zoned.state(2)), ((ZoneState::CLOSED, 2), (ZoneState::EMPTY, 0)));
    assert_eq!(zoned.driver.device.read_disk(65, 2), [[6; 512], [NO_DATA; 512]].concat());
}

#[test]
fn erasing_resets_zones() {
    let limits = RangeLimits { max_sectors: 256, max_ranges: 1, alignment_sectors: 64 };
    let mut zoned = Zoned::new(builder().secure_erase(limits), BlockFeatures::SECURE_ERASE);
    zoned.append(64, 2, 6).unwrap();
    zoned.append(128, 2, 6).unwrap();
    let mut erase = |sector: u8, sectors: u8| {
        let mut range = [0; 16];
        (range[0], range[8]) = (sector, sectors);
        zoned.data.write(0, &range);
        (zoned.status(RequestType::SECURE_ERASE, 0, 16), zoned.driver.broken(), zoned.state(1), zoned.state(2))
    };
    let (written, empty) = ((ZoneState::IOPEN, 2), (ZoneState::EMPTY, 0));
    assert_eq!(erase(64, 64), (0, vec![], empty, written));
    assert_eq!(erase(128, 32), (0, vec![Rule::RangeAlignment], empty, empty));
}

#[test]
fn devices_lie_about_zones() {
    let mut zoned = Zoned::new(builder(), BlockFeatures::empty());
    zoned.driver.device.faults(|faults| {
        faults.append_sector = Some(u64::MAX);
        faults.zone_report_count = Some(1 << 40);
    });
    assert_eq!(zoned.append(64, 1, 1), Ok(u64::MAX));
    let (used, status) = zoned.send(RequestType::ZONE_REPORT, 0, 192);
    assert_eq!((used, status, zoned.data.read(0, 8)), (193, 0, (1u64 << 40).to_le_bytes().to_vec()));
    zoned.driver.device.assert_conformant();
}

#[test]
fn without_zones_such_requests_are_unsupported() {
    let driver = Driver::new(BlockDevice::builder(), &ScatterMemory::new(), false);
    let mut queue = driver.ready(base(false), 4);
    for request_type in [RequestType::ZONE_REPORT, RequestType::ZONE_APPEND, RequestType::ZONE_RESET_ALL] {
        let request = Request::new(&driver.memory, request_type, 0);
        driver.chain(&queue, &request, 512, true);
        driver.submit(&mut queue, 0);
        assert_eq!(request.status(), RequestStatus::UNSUPP.0);
        assert_eq!(driver.broken(), [Rule::RequestNotNegotiated]);
    }
    driver.reset();
}

#[test]
fn zones_work_in_packed_rings() {
    let driver = Driver::new(builder().packed(), &ScatterMemory::new(), false);
    let features = base(false) | BlockFeatures::ZONED.bits() | Features::INDIRECT_DESC.bits();
    let mut queue = driver.ready_packed(features, 5);
    let request = Request::new(&driver.memory, RequestType::ZONE_APPEND, 64);
    let pieces = [(request.at(0), 16, 0), (request.at(DATA), 512, 0), (request.at(DATA + 512), 9, WRITE)];
    let table = request.packed_table(raw::TABLE, &pieces);
    queue.list(1, &[table]);
    driver.notify(0);
    assert_eq!(queue.used().map(|used| used.1), Some(9));
    assert_eq!(request.0.read(DATA + 512, 9), [64, 0, 0, 0, 0, 0, 0, 0, 0]);
    driver.reset();
    driver.device.assert_conformant();
}
