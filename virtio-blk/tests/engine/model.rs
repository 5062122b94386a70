//! What a disk may hold, going by what its driver has said.
//!
//! Each write puts its number into its sectors. For each sector, the model knows which numbers may be there: all whose
//! write may have happened, and that no later write must have replaced. So requests may overlap in any way.

use std::collections::BTreeSet;
use std::ops::Range;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use testing_device::BlockDevice;

/// The number of a write. 0: what was there at first.
pub(crate) type Stamp = u32;

type Sector = usize;
type Stamps = BTreeSet<Stamp>;

#[derive(Debug)]
struct Write {
    sectors: Range<Sector>,
    begun: u64,
    /// Since when it cannot happen any more.
    ended: Option<u64>,
}

/// What a read, or a flush, found when it began.
#[derive(Debug)]
pub(crate) struct Snapshot {
    begun: u64,
    first: Sector,
    stamps: Vec<Stamps>,
}

pub(crate) struct Model {
    /// What each sector may hold.
    now: Vec<Stamps>,
    /// What a power cut may leave of it.
    stable: Vec<Stamps>,
    writes: Vec<Write>,
    /// What power cuts left.
    cuts: Vec<(u64, Vec<Stamps>)>,
    /// Flushes that may still happen.
    flushes: usize,
    clock: u64,
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    WriteBack,
    /// Write-through, and everything before was flushed.
    WriteThrough,
    /// One of them, or write-through without that flush.
    Either,
}

/// A sector that a write has written.
pub(crate) fn contents(stamp: Stamp, sector: Sector) -> [u8; 512] {
    let mut bytes = [0; 512];
    if stamp > 0 {
        let word = (u64::from(stamp) << 32 | sector as u64).to_le_bytes();
        bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&word));
    }
    bytes
}

/// All sectors of a write.
pub(crate) fn data(stamp: Stamp, sectors: Range<Sector>) -> Vec<u8> {
    sectors.flat_map(|sector| contents(stamp, sector)).collect()
}

/// Which write a sector is of.
fn stamp_of(bytes: &[u8], sector: Sector) -> Result<Stamp, TestCaseError> {
    let stamp = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    prop_assert!(bytes == contents(stamp, sector), "sector {sector} is not what write {stamp} has written");
    Ok(stamp)
}

impl Model {
    pub(crate) fn new(sectors: usize) -> Self {
        let zero = vec![Stamps::from([0]); sectors];
        let (writes, cuts) = (Vec::new(), Vec::new());
        Self { now: zero.clone(), stable: zero, writes, cuts, flushes: 0, clock: 0, mode: Mode::WriteBack }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(crate) fn begin_write(&mut self, sectors: Range<Sector>) -> Stamp {
        let begun = self.tick();
        self.writes.push(Write { sectors: sectors.clone(), begun, ended: None });
        let stamp = self.writes.len() as Stamp;
        for sector in sectors {
            self.now[sector].insert(stamp);
            if self.flushes > 0 || self.mode != Mode::WriteBack {
                self.stable[sector].insert(stamp);
            }
        }
        stamp
    }

    /// The write cannot happen any more. `done`: it has happened.
    pub(crate) fn end_write(&mut self, stamp: Stamp, done: bool) {
        let clock = self.tick();
        let write = &mut self.writes[stamp as usize - 1];
        write.ended = Some(clock);
        let (begun, sectors) = (write.begun, write.sectors.clone());
        if done {
            for sector in sectors {
                let writes = &self.writes;
                // What was over before it began was replaced by it.
                let over = |other: Stamp| match other.checked_sub(1) {
                    None => true,
                    Some(index) => writes[index as usize].ended.is_some_and(|ended| ended < begun),
                };
                self.now[sector].retain(|&other| other == stamp || !over(other));
                if self.mode == Mode::WriteThrough {
                    self.stable[sector].clone_from(&self.now[sector]);
                }
            }
        }
    }

    pub(crate) fn snapshot(&mut self, sectors: Range<Sector>) -> Snapshot {
        let begun = self.tick();
        Snapshot { begun, first: sectors.start, stamps: self.now[sectors].to_vec() }
    }

    /// What a sector may have held at some time since a snapshot.
    fn since(&self, snapshot: &Snapshot, sector: Sector) -> Stamps {
        let mut stamps = snapshot.stamps[sector - snapshot.first].clone();
        let later = self.writes.iter().zip(1..).filter(|(write, _)| write.begun > snapshot.begun);
        stamps.extend(later.filter(|(write, _)| write.sectors.contains(&sector)).map(|(_, stamp)| stamp));
        stamps
    }

    /// A read has ended well, with these bytes.
    pub(crate) fn end_read(&self, snapshot: &Snapshot, bytes: &[u8]) -> Result<(), TestCaseError> {
        prop_assert_eq!(bytes.len(), snapshot.stamps.len() * 512);
        for (sector, bytes) in (snapshot.first..).zip(bytes.chunks_exact(512)) {
            let stamp = stamp_of(bytes, sector)?;
            let mut allowed = self.since(snapshot, sector);
            for (_, left) in self.cuts.iter().filter(|(clock, _)| *clock > snapshot.begun) {
                allowed.extend(&left[sector]);
            }
            prop_assert!(allowed.contains(&stamp), "read {stamp} from sector {sector}, which held one of {allowed:?}");
        }
        Ok(())
    }

    pub(crate) fn begin_flush(&mut self) -> Snapshot {
        self.flushes += 1;
        for (stable, now) in self.stable.iter_mut().zip(&self.now) {
            stable.extend(now);
        }
        self.snapshot(0..self.now.len())
    }

    /// The flush cannot happen any more. `done`: it has happened.
    pub(crate) fn end_flush(&mut self, snapshot: &Snapshot, done: bool) {
        self.flushes -= 1;
        if done {
            for sector in 0..self.now.len() {
                let allowed = self.since(snapshot, sector);
                self.stable[sector].retain(|stamp| allowed.contains(stamp));
                self.now[sector].retain(|stamp| allowed.contains(stamp));
            }
        }
    }

    /// The mode was changed, while nothing was in flight. `through`: to write-through, and flushed.
    pub(crate) fn change_mode(&mut self, through: bool) {
        self.mode = if through { Mode::WriteThrough } else { Mode::WriteBack };
        if through {
            self.stable.clone_from(&self.now);
        }
    }

    /// The mode was to be changed, and nobody knows whether it was.
    pub(crate) fn doubt_mode(&mut self) {
        self.mode = Mode::Either;
        for (stable, now) in self.stable.iter_mut().zip(&self.now) {
            stable.extend(now);
        }
    }

    /// Everything that is not stable is lost. Everything that has happened is known to have.
    pub(crate) fn power_cut(&mut self) {
        let clock = self.tick();
        self.now.clone_from(&self.stable);
        self.cuts.push((clock, self.stable.clone()));
        for (write, stamp) in self.writes.iter().zip(1..).filter(|(write, _)| write.ended.is_none()) {
            for sector in write.sectors.clone() {
                self.now[sector].insert(stamp);
            }
        }
    }

    /// Holds the device's disk against the model.
    pub(crate) fn check(&self, device: &BlockDevice) -> Result<(), TestCaseError> {
        let count = self.now.len();
        let layers =
            [("now", &self.now, device.read_disk(0, count)), ("stable", &self.stable, device.read_stable(0, count))];
        for (name, allowed, found) in layers {
            for (sector, bytes) in found.chunks_exact(512).enumerate() {
                let (stamp, allowed) = (stamp_of(bytes, sector)?, &allowed[sector]);
                prop_assert!(allowed.contains(&stamp), "{name}: sector {sector} holds {stamp}, not one of {allowed:?}");
            }
        }
        Ok(())
    }

    /// The driver says that no completed write is in doubt: then each that is known to have happened is stable.
    pub(crate) fn check_no_doubt(&self, device: &BlockDevice) -> Result<(), TestCaseError> {
        for (sector, allowed) in self.now.iter().enumerate().filter(|(_, allowed)| allowed.len() == 1) {
            let stamp = stamp_of(&device.read_stable(sector as u64, 1), sector)?;
            prop_assert!(allowed.contains(&stamp), "not in doubt, but sector {sector} is not stable");
        }
        Ok(())
    }
}
