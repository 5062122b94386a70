//! What the kernel tells the host, in lines that a program reads.

use alloc::string::String;
use core::fmt;

use serde::{Deserialize, Serialize};

/// How a line of the console starts that is a [`Report`] and not text for people.
pub const PREFIX: &str = "@@ ";

/// One thing that the kernel did. What follows a [`Report::Disk`] is about that disk.
///
/// It travels as one line of the console: [`PREFIX`], then JSON.
///
/// ```
/// use testing_guest::Report;
///
/// let report = Report::Volume { kind: "FAT16".into() };
/// let line = report.to_string();
/// assert_eq!(line, r#"@@ {"volume":{"kind":"FAT16"}}"#);
/// assert_eq!(Report::parse(&line), Some(Ok(report)));
/// assert_eq!(Report::parse("some text for people"), None);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The kernel runs.
    Started {
        /// Which demonstration it is going to run.
        demo: String,
    },
    /// A disk was found and its driver is up.
    Disk {
        /// The address of its registers.
        address: u64,
        /// Its size in sectors of 512 bytes.
        capacity_sectors: u64,
    },
    /// What the driver and the disk have agreed on.
    Negotiated {
        /// How the disk is connected: `modern` or `legacy` registers in memory, or `pci`.
        transport: String,
        /// The bits of the features.
        features: u64,
        /// The number of entries of the queue.
        queue_size: u16,
    },
    /// What the disk says of itself.
    Properties {
        /// The size of a logical block.
        block_bytes: u32,
        /// The geometry, if it has one.
        geometry: Option<Geometry>,
        /// The topology, if it has one.
        topology: Option<Topology>,
        /// Whether it writes back now, and does not write through.
        write_back: bool,
        /// Whether that can be changed.
        cache_mode_can_change: bool,
    },
    /// The cache mode was changed. The kernel waits for the host, which looks what QEMU thinks of it, and then lets the
    /// disk interrupt for a change of its configuration.
    CacheMode {
        /// Whether the disk writes back now, and does not write through.
        write_back: bool,
    },
    /// Buffers were copied for the disk, and back.
    Bounced {
        /// How many pieces.
        pieces: u64,
        /// How many are left that were not given back.
        left: u64,
    },
    /// A file system was mounted.
    Volume {
        /// What kind of file system.
        kind: String,
    },
    /// A file was read from its first to its last byte.
    Read {
        /// The path from the root directory, with `/` between names.
        path: String,
        /// Its length.
        bytes: u64,
        /// The SHA-256 of what was read, in hexadecimal digits.
        sha256: String,
    },
    /// A file was written, closed and flushed. A second report with the same path says that it was overwritten.
    Written {
        /// The path from the root directory.
        path: String,
        /// Its length.
        bytes: u64,
        /// Where the [`pattern`](crate::pattern) starts that it holds.
        seed: u64,
    },
    /// A file was read back and compared with what was written.
    Verified {
        /// The path from the root directory.
        path: String,
        /// The SHA-256 of what was read back, in hexadecimal digits.
        sha256: String,
    },
    /// The whole disk is being read.
    Progress {
        /// How much is done.
        done_bytes: u64,
        /// How much there is.
        total_bytes: u64,
    },
    /// The whole disk was read.
    WholeDisk {
        /// Its length.
        bytes: u64,
        /// The SHA-256 of all of it, in hexadecimal digits.
        sha256: String,
    },
    /// What a request costs, on average.
    Cost {
        /// Which driver.
        driver: String,
        /// How many requests were in flight.
        depth: u32,
        /// The instructions to submit one, its share of publishing and notifying included.
        submit_instructions: f64,
        /// The instructions to take one back.
        complete_instructions: f64,
        /// The notifications of the device.
        notifications: f64,
    },
    /// How many interrupts requests took.
    Interrupts {
        /// How many requests were in flight.
        depth: u32,
        /// How many requests were done.
        requests: u32,
        /// How many interrupts there were for them.
        interrupts: u32,
        /// How many notifications of the device.
        notifications: u32,
    },
    /// A request failed, as it should; the others of its batch did not.
    RequestFailed {
        /// What was asked for.
        operation: String,
        /// The sector that its error named.
        sector: u64,
        /// How many others there were.
        succeeded: u32,
    },
    /// The kernel waits for the host to change the size of the disk.
    Waiting {
        /// The size that it knows.
        capacity_sectors: u64,
    },
    /// The disk has changed its size.
    Resized {
        /// The size before.
        old_sectors: u64,
        /// The size now.
        new_sectors: u64,
    },
    /// A block of the [`journal`](crate::journal) was written, and, if that is asked for, the flush after it was `Ok`.
    Journaled {
        /// Its number.
        block: u64,
    },
    /// After a panic, the [`dump`](crate::dump) was written.
    Dumped {
        /// Where to.
        sector: u64,
    },
    /// What the tasks of one hart did with its queue.
    Queue {
        /// The index of the queue.
        queue: u16,
        /// How many requests tasks have waited for to the end.
        requests: u64,
        /// How many were dropped before.
        dropped: u64,
        /// How many notifications of the device there were.
        notifications: u64,
        /// The most requests that were in flight at once.
        depth: u16,
        /// The first of the blocks of 4096 bytes that are this hart's.
        first_block: u64,
        /// How many they are.
        blocks: u64,
        /// The sum of the [`checksum`](crate::checksum())s of what the tasks last read from them.
        checksum: u64,
    },
    /// What the tasks of all harts did.
    Tasks {
        /// How many requests they have waited for to the end.
        requests: u64,
        /// How many interrupts there were for them.
        interrupts: u64,
        /// The sum of the checksums.
        checksum: u64,
    },
    /// A part of the disk was written and read back.
    Region {
        /// Its first sector.
        first_sector: u64,
        /// How many sectors it has.
        sectors: u64,
        /// Where the [`pattern`](crate::pattern) starts that it holds.
        seed: u64,
    },
    /// A part of the disk was told to hold zeroes (write zeroes), and reads as such.
    Zeroed {
        /// Its first sector.
        first_sector: u64,
        /// How many sectors it has.
        sectors: u64,
    },
    /// A part of the disk was discarded.
    Discarded {
        /// Its first sector.
        first_sector: u64,
        /// How many sectors it has.
        sectors: u64,
    },
    /// How the calls of threads waited for the disk.
    Waited {
        /// How many calls there were.
        calls: u64,
        /// How many of them put their thread to sleep.
        slept: u64,
        /// The most calls that were waiting at once.
        depth: u64,
        /// How many interrupts there were.
        interrupts: u64,
    },
    /// How much of a stack a call needed at the most.
    Stack {
        /// The function that was called.
        entry: String,
        /// How many bytes.
        bytes: u64,
    },
    /// The demonstration did all that it was asked to.
    Finished,
    /// The demonstration ended with an error.
    Failed {
        /// Why, as text for people.
        reason: String,
    },
}

/// Cylinders, heads and sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// The number of cylinders.
    pub cylinders: u16,
    /// The number of heads.
    pub heads: u8,
    /// The number of sectors of a track.
    pub sectors: u8,
}

/// Sizes that suit a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The size of a physical block.
    pub physical_block_bytes: u64,
    /// The smallest size that costs nothing extra.
    pub min_io_bytes: u64,
    /// The size that suits best.
    pub opt_io_bytes: u64,
}

impl Report {
    /// Reads a line of the console: `None` if it is text for people, an error if it is damaged.
    pub fn parse(line: &str) -> Option<Result<Self, ReportError>> {
        let json = line.strip_prefix(PREFIX)?;
        Some(serde_json::from_str(json).map_err(|_| ReportError { line: line.into() }))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{json}")
    }
}

/// A line that starts like a [`Report`] and is none: the two sides were built from different sources, or the console
/// lost bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportError {
    line: String,
}

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel printed a report that cannot be read: {}", self.line)
    }
}

impl core::error::Error for ReportError {}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn names_of_files_may_hold_anything() {
        let path = "Größe \"of\" it\\all.txt".to_string();
        let report = Report::Read { path, bytes: 3, sha256: "00ff".into() };
        let line = report.to_string();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(Report::parse(&line), Some(Ok(report)));
    }

    #[test]
    fn a_damaged_line_is_an_error_and_not_text() {
        for line in ["@@ ", "@@ {}", "@@ {\"volume\":{\"kind\":\"FAT", "@@ {\"unheard_of\":{}}"] {
            let error = Report::parse(line).expect("it has the prefix").unwrap_err();
            assert!(error.to_string().contains(line), "{error}");
        }
    }

    #[test]
    fn text_is_not_a_report() {
        for line in ["", "@@", "@ {}", " @@ {}", "OpenSBI v1.1"] {
            assert_eq!(Report::parse(line), None);
        }
    }
}
