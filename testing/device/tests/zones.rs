//! The model of zones, transition by transition (5.2.6).

use testing_device::{ZoneSetup, Zones};
use virtio_spec::block::{RequestStatus, ZoneState, ZoneType};

const INVALID: Result<(), RequestStatus> = Err(RequestStatus::ZONE_INVALID_CMD);
const UNALIGNED: Result<(), RequestStatus> = Err(RequestStatus::ZONE_UNALIGNED_WP);
const NO_OPEN: Result<(), RequestStatus> = Err(RequestStatus::ZONE_OPEN_RESOURCE);
const NO_ACTIVE: Result<(), RequestStatus> = Err(RequestStatus::ZONE_ACTIVE_RESOURCE);

/// Six zones of 16 sectors of which 12 can be written, the first one conventional, the last one with 8 sectors.
fn zones(max_open: u32, max_active: u32) -> Zones {
    let setup = ZoneSetup {
        zone_sectors: 16,
        capacity_sectors: 12,
        conventional: 1,
        max_open,
        max_active,
        max_append_sectors: 6,
        ..ZoneSetup::default()
    };
    Zones::new(setup, 5 * 16 + 8)
}

/// Brings zone 1, at sector 16, into a state from empty.
fn in_state(state: ZoneState, written: u64) -> Zones {
    let mut zones = zones(0, 0);
    if written > 0 {
        zones.write(16, written).unwrap();
    }
    match state {
        ZoneState::EMPTY | ZoneState::IOPEN => {}
        ZoneState::EOPEN => zones.open(16).unwrap(),
        ZoneState::CLOSED => zones.close(16).unwrap(),
        ZoneState::FULL => zones.finish(16).unwrap(),
        failed => zones.fail(1, failed),
    }
    assert_eq!((zones.all()[1].state, zones.all()[1].written), (state, written));
    zones
}

const EMPTY: ZoneState = ZoneState::EMPTY;
const IOPEN: ZoneState = ZoneState::IOPEN;
const EOPEN: ZoneState = ZoneState::EOPEN;
const CLOSED: ZoneState = ZoneState::CLOSED;
const FULL: ZoneState = ZoneState::FULL;
const RDONLY: ZoneState = ZoneState::RDONLY;
const OFFLINE: ZoneState = ZoneState::OFFLINE;

/// What a request does to zone 1: its state and how much is written, the request, the answer, and both afterwards.
type Transition = (ZoneState, u64, Request, Result<(), RequestStatus>, ZoneState, u64);
type Request = fn(&mut Zones) -> Result<(), RequestStatus>;

#[test]
fn each_transition_is_as_specified() {
    let write: Request = |zones| zones.write(zones.all()[1].write_pointer(), 4);
    let append: Request = |zones| zones.append(16, 4).map(drop);
    let fill: Request = |zones| zones.write(zones.all()[1].write_pointer(), 12 - zones.all()[1].written);
    let open: Request = |zones| zones.open(16);
    let close: Request = |zones| zones.close(16);
    let finish: Request = |zones| zones.finish(16);
    let reset: Request = |zones| zones.reset(16);
    let reset_all: Request = |zones| {
        zones.reset_all();
        Ok(())
    };
    let table: [Transition; 60] = [
        (EMPTY, 0, write, Ok(()), IOPEN, 4),
        (EMPTY, 0, append, Ok(()), IOPEN, 4),
        (EMPTY, 0, fill, Ok(()), FULL, 12),
        (EMPTY, 0, open, Ok(()), EOPEN, 0),
        (EMPTY, 0, close, INVALID, EMPTY, 0),
        (EMPTY, 0, finish, INVALID, EMPTY, 0),
        (EMPTY, 0, reset, Ok(()), EMPTY, 0),
        (EMPTY, 0, reset_all, Ok(()), EMPTY, 0),
        (IOPEN, 4, write, Ok(()), IOPEN, 8),
        (IOPEN, 4, append, Ok(()), IOPEN, 8),
        (IOPEN, 8, append, Ok(()), FULL, 12),
        (IOPEN, 4, fill, Ok(()), FULL, 12),
        (IOPEN, 4, open, Ok(()), EOPEN, 4),
        (IOPEN, 4, close, Ok(()), CLOSED, 4),
        (IOPEN, 4, finish, Ok(()), FULL, 4),
        (IOPEN, 4, reset, Ok(()), EMPTY, 0),
        (IOPEN, 4, reset_all, Ok(()), EMPTY, 0),
        (EOPEN, 4, write, Ok(()), EOPEN, 8),
        (EOPEN, 0, write, Ok(()), EOPEN, 4),
        (EOPEN, 4, append, Ok(()), EOPEN, 8),
        (EOPEN, 8, append, Ok(()), FULL, 12),
        (EOPEN, 4, fill, Ok(()), FULL, 12),
        (EOPEN, 4, open, Ok(()), EOPEN, 4),
        (EOPEN, 4, close, Ok(()), CLOSED, 4),
        (EOPEN, 0, close, Ok(()), EMPTY, 0),
        (EOPEN, 4, finish, Ok(()), FULL, 4),
        (EOPEN, 4, reset, Ok(()), EMPTY, 0),
        (EOPEN, 4, reset_all, Ok(()), EMPTY, 0),
        (CLOSED, 4, write, Ok(()), IOPEN, 8),
        (CLOSED, 4, append, Ok(()), IOPEN, 8),
        (CLOSED, 4, fill, Ok(()), FULL, 12),
        (CLOSED, 4, open, Ok(()), EOPEN, 4),
        (CLOSED, 4, close, Ok(()), CLOSED, 4),
        (CLOSED, 4, finish, INVALID, CLOSED, 4),
        (CLOSED, 4, reset, Ok(()), EMPTY, 0),
        (CLOSED, 4, reset_all, Ok(()), EMPTY, 0),
        (FULL, 4, write, INVALID, FULL, 4),
        (FULL, 4, append, INVALID, FULL, 4),
        (FULL, 4, fill, INVALID, FULL, 4),
        (FULL, 4, open, INVALID, FULL, 4),
        (FULL, 4, close, INVALID, FULL, 4),
        (FULL, 4, finish, Ok(()), FULL, 4),
        (FULL, 4, reset, Ok(()), EMPTY, 0),
        (FULL, 4, reset_all, Ok(()), EMPTY, 0),
        (RDONLY, 4, write, INVALID, RDONLY, 4),
        (RDONLY, 4, append, INVALID, RDONLY, 4),
        (RDONLY, 4, fill, INVALID, RDONLY, 4),
        (RDONLY, 4, open, INVALID, RDONLY, 4),
        (RDONLY, 4, close, INVALID, RDONLY, 4),
        (RDONLY, 4, finish, INVALID, RDONLY, 4),
        (RDONLY, 4, reset, INVALID, RDONLY, 4),
        (RDONLY, 4, reset_all, Ok(()), RDONLY, 4),
        (OFFLINE, 4, write, INVALID, OFFLINE, 4),
        (OFFLINE, 4, append, INVALID, OFFLINE, 4),
        (OFFLINE, 4, fill, INVALID, OFFLINE, 4),
        (OFFLINE, 4, open, INVALID, OFFLINE, 4),
        (OFFLINE, 4, close, INVALID, OFFLINE, 4),
        (OFFLINE, 4, finish, INVALID, OFFLINE, 4),
        (OFFLINE, 4, reset, INVALID, OFFLINE, 4),
        (OFFLINE, 4, reset_all, Ok(()), OFFLINE, 4),
    ];
    for (row, (from, before, request, answer, to, after)) in table.into_iter().enumerate() {
        let mut zones = in_state(from, before);
        let others = zones.all()[2..].to_vec();
        assert_eq!(request(&mut zones), answer, "row {row}, from {from}");
        let zone = &zones.all()[1];
        assert_eq!((zone.state, zone.written), (to, after), "row {row}, from {from}");
        assert_eq!(zones.all()[2..], others, "row {row}: other zones");
    }
}

#[test]
fn zones_cover_the_device() {
    let zones = zones(0, 0);
    let shape: Vec<_> = zones.all().iter().map(|zone| (zone.start, zone.sectors, zone.capacity)).collect();
    assert_eq!(shape, [(0, 16, 16), (16, 16, 12), (32, 16, 12), (48, 16, 12), (64, 16, 12), (80, 8, 8)]);
    assert_eq!(zones.all()[0].zone_type, ZoneType::CONV);
    assert_eq!(zones.all()[0].state, ZoneState::NOT_WP);
    assert!(zones.all()[1..].iter().all(|zone| zone.zone_type == ZoneType::SWR && zone.state == EMPTY));
    assert_eq!(
        [0, 15, 16, 87, 88, u64::MAX].map(|sector| zones.index_of(sector)),
        [Some(0), Some(0), Some(1), Some(5), None, None]
    );
}

#[test]
fn conventional_zones_are_written_anywhere_and_not_managed() {
    let mut zones = zones(0, 0);
    assert_eq!(zones.write(7, 3), Ok(()));
    assert_eq!(zones.write(0, 16), Ok(()));
    assert_eq!(zones.append(0, 1), Err(RequestStatus::ZONE_INVALID_CMD));
    for request in [Zones::open, Zones::close, Zones::finish, Zones::reset] {
        assert_eq!(request(&mut zones, 0), INVALID);
    }
    assert_eq!(zones.all()[0].state, ZoneState::NOT_WP);
    zones.fail(0, RDONLY);
    assert_eq!((zones.write(0, 1), zones.check_read(0, 1)), (INVALID, Ok(())));
}

#[test]
fn a_sequential_zone_is_written_at_the_write_pointer() {
    let mut zones = zones(0, 0);
    assert_eq!(zones.write(17, 1), UNALIGNED);
    assert_eq!(zones.write(16, 5), Ok(()));
    assert_eq!(zones.write(16, 1), UNALIGNED);
    assert_eq!(zones.write(22, 1), UNALIGNED);
    assert_eq!(zones.write(21, 0), Ok(()), "nothing");
    assert_eq!(zones.write(21, 8), INVALID, "beyond the capacity");
    assert_eq!(zones.all()[1].write_pointer(), 21);
    assert_eq!(zones.append(16, 3), Ok(21));
    assert_eq!(zones.append(17, 1), Err(RequestStatus::ZONE_INVALID_CMD), "not the first sector");
    assert_eq!(zones.append(16, 5), Err(RequestStatus::ZONE_INVALID_CMD), "beyond the capacity");
    assert_eq!(zones.append(16, 7), Err(RequestStatus::ZONE_INVALID_CMD), "longer than one may be");
    assert_eq!(zones.append(16, 4), Ok(24));
    assert_eq!(zones.all()[1].state, FULL);
}

#[test]
fn nothing_opens_with_no_data() {
    let mut zones = zones(0, 0);
    assert_eq!(zones.write(16, 0), Ok(()));
    assert_eq!(zones.append(32, 0), Ok(32));
    assert_eq!(zones.open_zones(), 0);
}

#[test]
fn writes_end_at_the_granularity() {
    let setup = ZoneSetup { write_granularity_bytes: 4096, ..ZoneSetup::default() };
    let mut zones = Zones::new(setup, 256);
    assert_eq!(zones.write(64, 4), UNALIGNED);
    assert_eq!(zones.append(64, 4), Err(RequestStatus::ZONE_UNALIGNED_WP));
    assert_eq!(zones.append(64, 8), Ok(64));
    assert_eq!(zones.write(72, 16), Ok(()));
}

#[test]
fn there_may_be_no_append() {
    let mut zones = Zones::new(ZoneSetup { max_append_sectors: 0, ..ZoneSetup::default() }, 256);
    assert_eq!(zones.append(64, 1), Err(RequestStatus::UNSUPP));
}

#[test]
fn one_request_stays_in_one_zone() {
    let mut zones = zones(0, 0);
    assert_eq!(zones.check_read(16, 16), Ok(()));
    assert_eq!(zones.check_read(31, 2), INVALID);
    assert_eq!(zones.check_read(15, 2), INVALID, "one of them is sequential");
    assert_eq!(zones.check_read(87, 2), INVALID, "beyond the device");
    assert_eq!(zones.write(15, 2), INVALID);
    assert_eq!(zones.write(28, 8), INVALID);
    let setup = ZoneSetup { conventional: 2, ..ZoneSetup::default() };
    let mut conventional = Zones::new(setup, 256);
    assert_eq!((conventional.check_read(60, 8), conventional.write(60, 8)), (Ok(()), Ok(())));
    assert_eq!(conventional.write(120, 16), INVALID);
}

#[test]
fn open_zones_are_limited() {
    let mut zones = zones(2, 0);
    zones.write(16, 1).unwrap();
    zones.write(32, 1).unwrap();
    // The first one that is open implicitly makes room.
    zones.write(48, 1).unwrap();
    assert_eq!(zones.all().iter().map(|zone| zone.state).collect::<Vec<_>>()[1..4], [CLOSED, IOPEN, IOPEN]);
    zones.open(64).unwrap();
    assert_eq!(zones.all().iter().map(|zone| zone.state).collect::<Vec<_>>()[1..5], [CLOSED, CLOSED, IOPEN, EOPEN]);
    zones.open(48).unwrap();
    // Two are open explicitly: nothing can be opened any more.
    assert_eq!(zones.write(17, 1), NO_OPEN);
    assert_eq!(zones.append(80, 1), Err(RequestStatus::ZONE_OPEN_RESOURCE));
    assert_eq!(zones.open(32), NO_OPEN);
    assert_eq!(zones.all()[1].written, 1);
    assert_eq!((zones.open_zones(), zones.active_zones()), (2, 4));
    // What is open is written nevertheless.
    assert_eq!(zones.write(49, 1), Ok(()));
    zones.close(48).unwrap();
    assert_eq!(zones.write(17, 1), Ok(()));
}

#[test]
fn active_zones_are_limited() {
    let mut zones = zones(0, 2);
    zones.write(16, 1).unwrap();
    zones.write(32, 1).unwrap();
    zones.close(16).unwrap();
    assert_eq!(zones.write(48, 1), NO_ACTIVE);
    assert_eq!(zones.open(48), NO_ACTIVE);
    assert_eq!(zones.append(48, 1), Err(RequestStatus::ZONE_ACTIVE_RESOURCE));
    assert_eq!(zones.write(17, 1), Ok(()), "it is active already");
    zones.finish(16).unwrap();
    assert_eq!(zones.active_zones(), 1);
    assert_eq!(zones.open(48), Ok(()));
}

#[test]
fn of_both_limits_the_active_one_is_told() {
    let mut zones = zones(1, 1);
    zones.open(16).unwrap();
    assert_eq!(zones.open(32), NO_ACTIVE);
    assert_eq!(zones.write(32, 1), NO_ACTIVE);
}

#[test]
fn full_zones_take_no_place() {
    let mut zones = zones(1, 1);
    zones.write(16, 12).unwrap();
    assert_eq!((zones.open_zones(), zones.active_zones()), (0, 0));
    zones.write(32, 12).unwrap();
    assert_eq!(zones.open(48), Ok(()));
}

#[test]
fn reports_begin_with_any_sector_of_a_zone() {
    let mut zones = zones(0, 0);
    zones.write(16, 5).unwrap();
    zones.write(32, 12).unwrap();
    zones.open(48).unwrap();
    let report = zones.report(31).unwrap();
    let seen: Vec<_> = report.iter().map(|zone| (zone.z_start.get(), zone.z_cap.get(), zone.z_state)).collect();
    assert_eq!(seen, [(16, 12, IOPEN), (32, 12, FULL), (48, 12, EOPEN), (64, 12, EMPTY), (80, 8, EMPTY)]);
    let pointers: Vec<_> = report.iter().map(|zone| zone.z_wp.get()).collect();
    assert_eq!(pointers, [21, u64::MAX, 48, 64, 80], "undefined where a zone is full");
    assert_eq!(zones.report(0).unwrap()[0].z_wp.get(), u64::MAX, "undefined where there is none");
    assert_eq!(zones.report(87).unwrap().len(), 1);
    assert_eq!(zones.report(88), Err(RequestStatus::ZONE_INVALID_CMD));
}

#[test]
fn what_is_behind_the_write_pointer_was_not_written() {
    let mut zones = zones(0, 0);
    zones.write(16, 5).unwrap();
    assert!(zones.is_written(0) && zones.is_written(16) && zones.is_written(20));
    assert!(!zones.is_written(21) && !zones.is_written(31));
    zones.finish(16).unwrap();
    assert!(!zones.is_written(21), "finishing writes nothing");
    zones.reset(16).unwrap();
    assert!(!zones.is_written(16));
}
