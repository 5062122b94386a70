//! What the device stores.

use std::collections::HashMap;

use virtio_spec::block::SECTOR_SIZE;

/// A sector's contents.
type Sector = [u8; SECTOR_SIZE];

/// Sectors in memory, with a volatile cache before the stable ones. What was never written is zero.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    stable: HashMap<u64, Box<Sector>>,
    cache: HashMap<u64, Box<Sector>>,
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

    fn read_from(layers: &[&HashMap<u64, Box<Sector>>], first: u64, bytes: &mut [u8]) {
        for (sector, bytes) in (first..).zip(bytes.chunks_mut(SECTOR_SIZE)) {
            match layers.iter().find_map(|layer| layer.get(&sector)) {
                Some(found) => bytes.copy_from_slice(&found[..bytes.len()]),
                None => bytes.fill(0),
            }
        }
    }

    /// Copies to sector `first` and on. Through the cache: to where a power cut cannot reach it.
    pub(crate) fn write(&mut self, first: u64, bytes: &[u8], through: bool) {
        assert!(bytes.len().is_multiple_of(SECTOR_SIZE), "{} bytes are no whole sectors", bytes.len());
        for (sector, bytes) in (first..).zip(bytes.chunks_exact(SECTOR_SIZE)) {
            let mut contents = Box::new([0; SECTOR_SIZE]);
            contents.copy_from_slice(bytes);
            if through {
                self.cache.remove(&sector);
                self.stable.insert(sector, contents);
            } else {
                self.cache.insert(sector, contents);
            }
        }
    }

    /// Makes a range read as zero.
    pub(crate) fn zero(&mut self, first: u64, sectors: u64, through: bool) {
        for sector in first..first + sectors {
            self.write(sector, &[0; SECTOR_SIZE], through);
        }
    }

    /// Makes everything stable.
    pub(crate) fn flush(&mut self) {
        self.stable.extend(self.cache.drain());
    }

    /// Forgets what is not stable.
    pub(crate) fn power_cut(&mut self) {
        self.cache.clear();
    }
}
