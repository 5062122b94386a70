//! What a device reports of its zones.

use core::fmt;

use virtio_spec::block::{ZoneDescriptor, ZoneReportHeader, ZoneState, ZoneType};
use zerocopy::FromBytes;

use crate::info::Info;

/// One zone, as a report has it. Sectors of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its first sector.
    pub start: u64,
    /// How many of its sectors can be written: at most the size of a zone.
    pub capacity_sectors: u64,
    /// The sector of the next write; `None` where there is none, as in conventional zones and full ones.
    pub write_pointer: Option<u64>,
    /// How it may be written.
    pub zone_type: ZoneType,
    /// What state it is in.
    pub state: ZoneState,
}

impl Zone {
    /// Whether it is written at the write pointer only.
    #[must_use]
    pub fn is_sequential(&self) -> bool {
        self.zone_type == ZoneType::SWR
    }

    /// How many sectors can still be written at the write pointer.
    #[must_use]
    pub fn left_sectors(&self) -> u64 {
        self.write_pointer.map_or(0, |at| self.capacity_sectors.saturating_sub(at.saturating_sub(self.start)))
    }
}

/// What makes no sense about a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZoneReportError {
    /// The disk has no zones.
    NotZoned,
    /// The buffer has no room for one zone.
    TooShort {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It says that it has more zones than there is room for, or none.
    Count {
        /// How many it says.
        found: u64,
        /// For how many there is room.
        room: usize,
    },
    /// A zone does not start where the one before it ends.
    Start {
        /// Where it should.
        expected: u64,
        /// Where it does.
        found: u64,
    },
    /// A zone has a larger capacity than size.
    Capacity {
        /// The first sector of the zone.
        start: u64,
        /// The capacity in sectors.
        found: u64,
        /// The size in sectors.
        zone_sectors: u32,
    },
    /// The write pointer of a zone is outside of it.
    WritePointer {
        /// The first sector of the zone.
        start: u64,
        /// The write pointer.
        found: u64,
    },
}

impl fmt::Display for ZoneReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the zone report of the disk makes no sense: ")?;
        match self {
            Self::NotZoned => write!(f, "the disk has no zones"),
            Self::TooShort { bytes } => write!(f, "{bytes} bytes have no room for a zone"),
            Self::Count { found, room } => write!(f, "it has {found} zones, expected 1 to {room}"),
            Self::Start { expected, found } => {
                write!(f, "a zone starts at sector {found}, expected at sector {expected}")
            }
            Self::Capacity { start, found, zone_sectors } => write!(
                f,
                "the zone at sector {start} has a capacity of {found} sectors, expected at most its size, \
                 {zone_sectors}"
            ),
            Self::WritePointer { start, found } => {
                write!(f, "the zone at sector {start} has its write pointer at sector {found}, outside of it")
            }
        }
    }
}

impl core::error::Error for ZoneReportError {}

/// A report of zones, in the buffer that the device wrote it to.
///
/// It was checked as a whole: its zones follow each other without a gap, as those of a disk do, and write pointers are
/// inside of them. Whether they are where the device says, only the device knows.
#[derive(Clone, Copy, Debug)]
pub struct ZoneReport<'a> {
    descriptors: &'a [ZoneDescriptor],
    zone_sectors: u32,
    capacity_sectors: u64,
}

impl<'a> ZoneReport<'a> {
    /// The bytes that a report takes of so many zones.
    #[must_use]
    pub const fn bytes(zones: usize) -> usize {
        size_of::<ZoneReportHeader>().saturating_add(size_of::<ZoneDescriptor>().saturating_mul(zones))
    }

    /// Checks a report which [`Queue::submit_zone_report`](crate::Queue::submit_zone_report) was asked for from `sector`
    /// on: its buffer, when the request has completed. `info` is that of the disk.
    ///
    /// # Errors
    ///
    /// [`ZoneReportError`] if it makes no sense. Nothing of it is to be believed then.
    pub fn parse(buffer: &'a [u8], info: &Info, sector: u64) -> Result<Self, ZoneReportError> {
        let zoned = info.zoned.ok_or(ZoneReportError::NotZoned)?;
        let too_short = ZoneReportError::TooShort { bytes: buffer.len() };
        let Ok((header, rest)) = ZoneReportHeader::ref_from_prefix(buffer) else {
            return Err(too_short);
        };
        let room = rest.len() / size_of::<ZoneDescriptor>();
        let found = header.nr_zones.get();
        let count = usize::try_from(found).unwrap_or(usize::MAX);
        if !(1..=room).contains(&count) {
            return Err(ZoneReportError::Count { found, room });
        }
        let Ok((descriptors, _)) = <[ZoneDescriptor]>::ref_from_prefix_with_elems(rest, count) else {
            return Err(too_short);
        };
        let mut expected = zoned.zone_start(sector);
        for descriptor in descriptors {
            check(descriptor, expected, zoned.zone_sectors)?;
            expected = expected.saturating_add(u64::from(zoned.zone_sectors));
        }
        Ok(Self { descriptors, zone_sectors: zoned.zone_sectors, capacity_sectors: info.capacity_sectors })
    }

    /// The zones, in the order of their sectors. There is at least one.
    pub fn zones(&self) -> impl ExactSizeIterator<Item = Zone> + use<'a> {
        self.descriptors.iter().map(zone)
    }

    /// Where a further report goes on; `None` if the disk ends with the last zone of this one.
    #[must_use]
    pub fn next_sector(&self) -> Option<u64> {
        let last = self.descriptors.last()?;
        let next = last.z_start.get().checked_add(u64::from(self.zone_sectors))?;
        (next < self.capacity_sectors).then_some(next)
    }
}

/// Whether a zone has a write pointer that means something.
fn has_write_pointer(descriptor: &ZoneDescriptor) -> bool {
    descriptor.z_type != ZoneType::CONV
        && matches!(descriptor.z_state, ZoneState::EMPTY | ZoneState::IOPEN | ZoneState::EOPEN | ZoneState::CLOSED)
}

fn check(descriptor: &ZoneDescriptor, expected: u64, zone_sectors: u32) -> Result<(), ZoneReportError> {
    let (start, capacity, pointer) = (descriptor.z_start.get(), descriptor.z_cap.get(), descriptor.z_wp.get());
    if start != expected {
        return Err(ZoneReportError::Start { expected, found: start });
    }
    if capacity > u64::from(zone_sectors) {
        return Err(ZoneReportError::Capacity { start, found: capacity, zone_sectors });
    }
    let inside = pointer.checked_sub(start).is_some_and(|written| written <= capacity);
    if has_write_pointer(descriptor) && !inside {
        return Err(ZoneReportError::WritePointer { start, found: pointer });
    }
    Ok(())
}

fn zone(descriptor: &ZoneDescriptor) -> Zone {
    Zone {
        start: descriptor.z_start.get(),
        capacity_sectors: descriptor.z_cap.get(),
        write_pointer: has_write_pointer(descriptor).then_some(descriptor.z_wp.get()),
        zone_type: descriptor.z_type,
        state: descriptor.z_state,
    }
}
