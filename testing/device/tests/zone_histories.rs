//! Random histories of zones, held against what a plain account of each zone says.

use proptest::prelude::*;
use testing_device::{ZoneSetup, Zones};
use virtio_spec::block::{RequestStatus, ZoneState};

/// Six zones of 16 sectors, 12 of them to be written; the first one is conventional.
const ZONE: u64 = 16;
const CAPACITY: u64 = 12;
const COUNT: u64 = 6;
const MAX_OPEN: usize = 2;
const MAX_ACTIVE: usize = 3;
const GRANULARITY: u64 = 2;
const APPEND_MAX: u64 = 8;

fn zones() -> Zones {
    let setup = ZoneSetup {
        zone_sectors: ZONE as u32,
        capacity_sectors: CAPACITY as u32,
        conventional: 1,
        max_open: MAX_OPEN as u32,
        max_active: MAX_ACTIVE as u32,
        max_append_sectors: APPEND_MAX as u32,
        write_granularity_bytes: GRANULARITY as u32 * 512,
    };
    Zones::new(setup, COUNT * ZONE)
}

#[derive(Clone, Copy, Debug)]
enum Request {
    /// At so many sectors from the zone's write pointer.
    Write(u64, i64, u64),
    Append(u64, u64),
    Open(u64),
    Close(u64),
    Finish(u64),
    Reset(u64),
    ResetAll,
}

fn request() -> impl Strategy<Value = Request> {
    let zone = 0..COUNT;
    prop_oneof![
        4 => (zone.clone(), prop_oneof![5 => Just(0), 1 => -3..3i64], 0..10u64)
            .prop_map(|(zone, off, sectors)| Request::Write(zone, off, sectors)),
        4 => (zone.clone(), 0..10u64).prop_map(|(zone, sectors)| Request::Append(zone, sectors)),
        2 => zone.clone().prop_map(Request::Open),
        2 => zone.clone().prop_map(Request::Close),
        1 => zone.clone().prop_map(Request::Finish),
        2 => zone.prop_map(Request::Reset),
        1 => Just(Request::ResetAll),
    ]
}

/// What is known of a sequential zone without the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    written: u64,
    full: bool,
    explicit: bool,
}

/// How a request ends, and what it says.
type Answer = Result<Option<u64>, RequestStatus>;

/// Where a write goes.
fn at(accounts: &[Account], zone: u64, off: i64) -> u64 {
    (zone * ZONE + accounts[zone as usize].written).saturating_add_signed(off)
}

fn send(zones: &mut Zones, accounts: &[Account], request: Request) -> Answer {
    let start = |zone: u64| zone * ZONE;
    match request {
        Request::Write(zone, off, sectors) => zones.write(at(accounts, zone, off), sectors).map(|()| None),
        Request::Append(zone, sectors) => zones.append(start(zone), sectors).map(Some),
        Request::Open(zone) => zones.open(start(zone)).map(|()| None),
        Request::Close(zone) => zones.close(start(zone)).map(|()| None),
        Request::Finish(zone) => zones.finish(start(zone)).map(|()| None),
        Request::Reset(zone) => zones.reset(start(zone)).map(|()| None),
        Request::ResetAll => {
            zones.reset_all();
            Ok(None)
        }
    }
}

/// Whether a write of so many sectors is one that an account allows, limits of open and active zones apart.
fn fits(account: &Account, sectors: u64) -> bool {
    !account.full && sectors <= CAPACITY - account.written && (account.written + sectors).is_multiple_of(GRANULARITY)
}

/// Enters a request that succeeded into the accounts. Fails if it should not have.
fn enter(accounts: &mut [Account], request: Request, answer: Option<u64>) -> Result<(), TestCaseError> {
    let write = |account: &mut Account, sectors: u64| {
        account.written += sectors;
        if account.written == CAPACITY {
            (account.full, account.explicit) = (true, false);
        }
    };
    match request {
        Request::Write(zone, off, sectors) => {
            let start = at(accounts, zone, off);
            let (zone, last) = (start / ZONE, (start + sectors.max(1) - 1) / ZONE);
            prop_assert_eq!(zone, last, "one zone");
            if zone > 0 {
                let account = &mut accounts[zone as usize];
                prop_assert!(start == zone * ZONE + account.written && fits(account, sectors));
                write(account, sectors);
            }
        }
        Request::Append(zone, sectors) => {
            let account = &mut accounts[zone as usize];
            prop_assert!(zone > 0 && sectors <= APPEND_MAX && fits(account, sectors));
            prop_assert_eq!(answer, Some(zone * ZONE + account.written));
            write(account, sectors);
        }
        Request::Open(zone) => {
            prop_assert!(zone > 0 && !accounts[zone as usize].full);
            accounts[zone as usize].explicit = true;
        }
        Request::Close(zone) => {
            let account = &mut accounts[zone as usize];
            prop_assert!(zone > 0 && !account.full && (account.explicit || account.written > 0));
            account.explicit = false;
        }
        Request::Finish(zone) => {
            let account = &mut accounts[zone as usize];
            prop_assert!(zone > 0 && (account.full || account.explicit || account.written > 0));
            (account.full, account.explicit) = (true, false);
        }
        Request::Reset(zone) => {
            prop_assert!(zone > 0);
            accounts[zone as usize] = Account::default();
        }
        Request::ResetAll => accounts.fill(Account::default()),
    }
    Ok(())
}

/// Whether the zones are as the accounts say, within their limits.
fn compare(zones: &Zones, accounts: &[Account]) -> Result<(), TestCaseError> {
    prop_assert!(zones.open_zones() <= MAX_OPEN && zones.active_zones() <= MAX_ACTIVE);
    for (zone, account) in zones.all().iter().zip(accounts).skip(1) {
        prop_assert_eq!(zone.written, account.written);
        let states: &[ZoneState] = match account {
            Account { full: true, .. } => &[ZoneState::FULL],
            Account { explicit: true, .. } => &[ZoneState::EOPEN],
            Account { written: 0, .. } => &[ZoneState::EMPTY],
            // Which of them depends on what else was opened.
            _ => &[ZoneState::IOPEN, ZoneState::CLOSED],
        };
        prop_assert!(states.contains(&zone.state), "{zone:?} and {account:?}");
    }
    let report = zones.report(0).expect("there is a zone");
    let pointers: Vec<_> = report.iter().map(|zone| (zone.z_start.get(), zone.z_state)).collect();
    let expected: Vec<_> = zones.all().iter().map(|zone| (zone.start, zone.state)).collect();
    prop_assert_eq!(pointers, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn zones_keep_to_their_accounts(requests in prop::collection::vec(request(), 1..if cfg!(miri) { 20 } else { 200 })) {
        let mut zones = zones();
        let mut accounts = [Account::default(); COUNT as usize];
        for request in requests {
            let before = zones.clone();
            match send(&mut zones, &accounts, request) {
                Ok(answer) => enter(&mut accounts, request, answer)?,
                Err(status) => {
                    prop_assert_eq!(&zones, &before, "{:?} was refused with {}", request, status);
                    let limits = [RequestStatus::ZONE_OPEN_RESOURCE, RequestStatus::ZONE_ACTIVE_RESOURCE];
                    let explicit = before.all().iter().filter(|zone| zone.state == ZoneState::EOPEN).count();
                    if status == limits[0] {
                        prop_assert_eq!(explicit, MAX_OPEN, "nothing could be closed");
                    } else if status == limits[1] {
                        prop_assert_eq!(before.active_zones(), MAX_ACTIVE);
                    }
                }
            }
            compare(&zones, &accounts)?;
        }
    }
}
