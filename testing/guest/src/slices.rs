//! How a disk is cut up for a kernel that is shaped like someone else's, and what its threads write there: files on
//! volumes for each thread and for all of them, and behind those a region without a file system for each thread.

use alloc::{format, string::String, vec::Vec};

/// How many threads there are.
pub const THREADS: u64 = 8;
/// How many files each thread writes to its own volume, and to that of all.
pub const FILES: u64 = 2;
/// The volumes: one for each thread, and one that all of them use.
pub const SLICES: u64 = THREADS + 1;
/// The length of a volume's slice in sectors of 512 bytes. It is like a disk, with a partition table.
pub const SLICE_SECTORS: u64 = (32 << 20) / 512;
/// The length of a thread's region in sectors.
pub const REGION_SECTORS: u64 = (1 << 20) / 512;

/// The length of the disk in sectors.
pub const DISK_SECTORS: u64 = SLICES * SLICE_SECTORS + THREADS * REGION_SECTORS;

/// The first sector of a slice.
pub fn slice(number: u64) -> u64 {
    number * SLICE_SECTORS
}

/// The first sector of a thread's region.
pub fn region(thread: u64) -> u64 {
    SLICES * SLICE_SECTORS + thread * REGION_SECTORS
}

/// Where the [`pattern`](crate::pattern) starts that a thread's region holds, of a kernel that was given `seed`.
pub fn region_seed(seed: u64, thread: u64) -> u64 {
    nth_seed(seed, thread, 2 * FILES)
}

/// A file that a thread writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The slice of its volume.
    pub slice: u64,
    /// Its name in the root directory.
    pub name: String,
    /// Where the [`pattern`](crate::pattern) starts that it holds.
    pub seed: u64,
    /// Its length.
    pub bytes: usize,
}

impl File {
    fn new(slice: u64, name: String, seed: u64) -> Self {
        // Long enough for several clusters, and no whole number of sectors as a rule.
        Self { slice, name, seed, bytes: 20_000 + (seed % 7000) as usize }
    }

    /// How it is called in reports.
    pub fn path(&self) -> String {
        format!("{}/{}", self.slice, self.name)
    }
}

/// The files that a thread writes to its own volume.
pub fn own_files(seed: u64, thread: u64) -> Vec<File> {
    let file = |number| File::new(thread, format!("FILE{number}.BIN"), nth_seed(seed, thread, number));
    (0..FILES).map(file).collect()
}

/// The files that a thread writes to the volume of all.
pub fn shared_files(seed: u64, thread: u64) -> Vec<File> {
    let name = |number| format!("T{thread}F{number}.BIN");
    let file = |number| File::new(THREADS, name(number), nth_seed(seed, thread, FILES + number));
    (0..FILES).map(file).collect()
}

fn nth_seed(seed: u64, thread: u64, number: u64) -> u64 {
    seed.wrapping_add(thread << 8).wrapping_add(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_writes_what_another_one_does() {
        let files = (0..THREADS).flat_map(|thread| [own_files(7, thread), shared_files(7, thread)].concat());
        let mut files: Vec<File> = files.collect();
        let mut seeds: Vec<u64> = files.iter().map(|file| file.seed).collect();
        seeds.extend((0..THREADS).map(|thread| region_seed(7, thread)));
        let count = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), count);
        files.sort_by_key(File::path);
        files.dedup_by_key(|file| file.path());
        assert_eq!(files.len() as u64, THREADS * FILES * 2);
    }

    #[test]
    fn the_parts_of_the_disk_follow_each_other() {
        assert_eq!(slice(SLICES), region(0));
        assert_eq!(region(THREADS), DISK_SECTORS);
    }
}
