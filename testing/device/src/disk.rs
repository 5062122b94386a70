//! What the device stores.

use std::collections::HashMap;

use virtio_spec::block::SECTOR_SIZE;

/// What every byte of a sector reads as that holds no data: discarded, erased, or in a zone behind the write pointer.
///
/// A driver must not assume anything about such bytes (5.2.6.1, 5.2.6.2); so that a test sees when it does, they are
/// not zero.
pub const NO_DATA: u8 = 0xda;

/// What became of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SectorState {
    /// Nothing yet. It reads as zero.
    Untouched,
    /// It was written.
    Written,
    /// It was made zero by WRITE_ZEROES, and is kept.
    Zeroed,
    /// It was made zero by WRITE_ZEROES with UNMAP, and deallocated.
    Unmapped,
    /// It was deallocated by DISCARD. It reads as [`NO_DATA`].
    Discarded,
    /// It was erased by SECURE_ERASE, or with its zone. It reads as [`NO_DATA`].
    Erased,
}

/// A sector's contents.
#[derive(Clone, Debug)]
enum Sector {
    Data(Box<[u8; SECTOR_SIZE]>),
    Without(SectorState),
}

impl Sector {
    fn state(&self) -> SectorState {
        match self {
            Self::Data(_) => SectorState::Written,
            Self::Without(state) => *state,
        }
    }
}

/// Sectors in memory, with a volatile cache before the stable ones.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    stable: HashMap<u64, Sector>,
    cache: HashMap<u64, Sector>,
}

impl Disk {
    /// Copies from sector `first` on.
    pub(crate) fn read(&self, first: u64, bytes: &mut [u8]) {
        Self::read_from(&[&self.cache, &self.stable], first, bytes);
    }

    /// Copies from sector `first` on what a power cut would leave.
    pub(crate) fn read_stable(&self, first: u64, bytes: &mut [u8]) {
        Self::read_from(&[&self.stable], first, bytes);
    }

    fn read_from(layers: &[&HashMap<u64, Sector>], first: u64, bytes: &mut [u8]) {
        for (sector, bytes) in (first..).zip(bytes.chunks_mut(SECTOR_SIZE)) {
            match layers.iter().find_map(|layer| layer.get(&sector)) {
                Some(Sector::Data(found)) => bytes.copy_from_slice(&found[..bytes.len()]),
                Some(Sector::Without(SectorState::Discarded | SectorState::Erased)) => bytes.fill(NO_DATA),
                Some(Sector::Without(_)) | None => bytes.fill(0),
            }
        }
    }

    /// What became of a sector.
    pub(crate) fn state(&self, sector: u64) -> SectorState {
        let found = self.cache.get(&sector).or_else(|| self.stable.get(&sector));
        found.map_or(SectorState::Untouched, Sector::state)
    }

    fn put(&mut self, sector: u64, contents: Sector, through: bool) {
        if through {
            self.cache.remove(&sector);
            self.stable.insert(sector, contents);
        } else {
            self.cache.insert(sector, contents);
        }
    }

    /// Copies to sector `first` and on. Through the cache: to where a power cut cannot reach it.
    pub(crate) fn write(&mut self, first: u64, bytes: &[u8], through: bool) {
        assert!(bytes.len().is_multiple_of(SECTOR_SIZE), "{} bytes are no whole sectors", bytes.len());
        for (sector, bytes) in (first..).zip(bytes.chunks_exact(SECTOR_SIZE)) {
            let mut contents = Box::new([0; SECTOR_SIZE]);
            contents.copy_from_slice(bytes);
            self.put(sector, Sector::Data(contents), through);
        }
    }

    /// Takes the data out of a range, which then is in a state.
    pub(crate) fn clear(&mut self, first: u64, sectors: u64, state: SectorState, through: bool) {
        for sector in first..first + sectors {
            self.put(sector, Sector::Without(state), through);
        }
    }

    /// Makes everything stable.
    pub(crate) fn flush(&mut self) {
        self.stable.extend(self.cache.drain());
    }

    /// Forgets what is not stable. Returns the sectors that this was.
    pub(crate) fn power_cut(&mut self) -> Vec<u64> {
        self.cache.drain().map(|(sector, _)| sector).collect()
    }
}
