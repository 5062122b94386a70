//! What a device accepts, checked before it sees a request.

use virtio_spec::block::{
    BlockFeatures, DEVICE_ID_LENGTH, Lifetime as LifetimeAnswer, ZoneDescriptor, ZoneReportHeader,
};

use crate::SECTOR_BYTES;
use crate::erase::SectorRange;
use crate::error::Error;
use crate::features::FeatureSet;
use crate::info::{EraseLimits, Info, Zoned};
use crate::request::{Operation, slot};

/// Two to this power is the size of a sector.
const SECTOR_SHIFT: u32 = SECTOR_BYTES.ilog2();

/// The shortest zone report that says something.
const REPORT_MIN_BYTES: usize = size_of::<ZoneReportHeader>() + size_of::<ZoneDescriptor>();

/// The limits of one disk, in the form in which requests are checked against them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) capacity_sectors: u64,
    pub(crate) block_bytes: u32,
    /// The bits of a number of bytes that are inside a block. On a host-managed disk all bits, so that the quick check
    /// of a transfer never suffices.
    block_mask: u64,
    /// The most data segments of a request.
    pub(crate) segments: u16,
    /// The most bytes that any one request can have: all segments at their longest, rounded down to blocks.
    pub(crate) request_max_bytes: usize,
    read_only: bool,
    features: FeatureSet,
    discard: RangeLimits,
    write_zeroes: RangeLimits,
    secure_erase: RangeLimits,
    zoned: Option<Zoned>,
}

/// The limits of requests that have ranges.
#[derive(Clone, Copy, Debug)]
struct RangeLimits {
    /// The most ranges of a request: of the device's, as many as a slot has room for.
    max_ranges: usize,
    /// The most sectors of a range.
    max_sectors: u32,
    /// What ranges start and end at multiples of.
    alignment_sectors: u64,
}

impl RangeLimits {
    /// In the specification no limit is 0. Devices have it all the same, and mean that they do not care; one range suits
    /// all of them.
    fn new(limits: Option<EraseLimits>, size_max_bytes: Option<u32>, alignment_sectors: u64) -> Self {
        let limits = limits.unwrap_or(EraseLimits { max_sectors: 0, max_segments: 0, alignment_sectors: 1 });
        // Ranges are one data segment.
        let fitting = size_max_bytes.map_or(usize::MAX, |bytes| bytes as usize / slot::RANGE_BYTES);
        let max_ranges = usize::try_from(limits.max_segments.max(1)).unwrap_or(usize::MAX);
        Self {
            max_ranges: max_ranges.min(slot::RANGES_MAX).min(fitting),
            max_sectors: if limits.max_sectors == 0 { u32::MAX } else { limits.max_sectors },
            alignment_sectors: common_multiple(alignment_sectors, u64::from(limits.alignment_sectors)),
        }
    }
}

/// The least common multiple of two numbers, or the largest number that there is; 0 counts as 1.
fn common_multiple(a: u64, b: u64) -> u64 {
    let (a, b) = (a.max(1), b.max(1));
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor).saturating_mul(b)
}

impl Limits {
    /// The limits of a disk, for requests of at the most `segments` data segments.
    pub(crate) fn new(info: &Info, segments: u16) -> Self {
        let segment = u64::from(info.size_max_bytes.unwrap_or(u32::MAX));
        // A chain has 2^32 bytes at the most, header and status included.
        let bytes = (segment * u64::from(segments)).min(1 << 31);
        let bytes = bytes - bytes % u64::from(info.block_bytes);
        let managed = info.zoned.filter(Zoned::is_host_managed);
        let block_sectors = u64::from(info.block_sectors());
        let ranges = |limits, alignment| RangeLimits::new(limits, info.size_max_bytes, alignment);
        // Zeroes are written to zones as all else is; and zones are erased as a whole.
        let zeroes = managed.map_or(1, |zoned| u64::from(zoned.write_granularity_bytes) >> SECTOR_SHIFT);
        let erased = managed.map_or(1, |zoned| u64::from(zoned.zone_sectors));
        Self {
            capacity_sectors: info.capacity_sectors,
            block_bytes: info.block_bytes,
            block_mask: if managed.is_some() { u64::MAX } else { u64::from(info.block_bytes - 1) },
            segments,
            request_max_bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            read_only: info.read_only,
            features: info.features,
            discard: ranges(info.discard, block_sectors),
            write_zeroes: ranges(info.write_zeroes, common_multiple(block_sectors, zeroes)),
            secure_erase: ranges(info.secure_erase, common_multiple(block_sectors, erased)),
            zoned: info.zoned,
        }
    }

    /// The zones, if the driver must keep their rules.
    fn managed(&self) -> Option<&Zoned> {
        self.zoned.as_ref().filter(|zoned| zoned.is_host_managed())
    }

    /// Checks a read or a write of `bytes` bytes, in one request.
    #[inline(always)]
    pub(crate) fn check_data(&self, operation: Operation, sector: u64, bytes: usize) -> Result<(), Error> {
        // A power of two, as `Info` made sure. Shifting loses bits of sectors that no disk has, and that the next
        // check refuses.
        let in_block = (bytes as u64 | sector << SECTOR_SHIFT) & self.block_mask;
        let sectors = bytes as u64 >> SECTOR_SHIFT;
        let inside = sector <= self.capacity_sectors && sectors <= self.capacity_sectors - sector;
        if in_block == 0 && inside && !(self.read_only && operation == Operation::Write) {
            return Ok(());
        }
        self.check_slowly(operation, sector, bytes)
    }

    /// As [`check_data`](Limits::check_data), where it takes more: with a reason why it is refused, if it is.
    #[cold]
    #[inline(never)]
    fn check_slowly(&self, operation: Operation, sector: u64, bytes: usize) -> Result<(), Error> {
        self.check_transfer(operation, sector, bytes)?;
        self.check_inside_zone(sector, bytes as u64 >> SECTOR_SHIFT)
    }

    /// Checks a read or a write of `bytes` bytes, in however many requests.
    pub(crate) fn check_transfer(&self, operation: Operation, sector: u64, bytes: usize) -> Result<(), Error> {
        let (block_bytes, sectors) = (self.block_bytes, bytes as u64 >> SECTOR_SHIFT);
        let block_sectors = block_bytes >> SECTOR_SHIFT;
        if bytes % block_bytes as usize != 0 {
            return Err(Error::UnalignedLength { bytes, block_bytes });
        }
        if sector % u64::from(block_sectors) != 0 {
            return Err(Error::UnalignedSector { sector, block_sectors });
        }
        self.check_inside(sector, sectors)?;
        self.check_writable(operation)?;
        match self.managed() {
            Some(zoned) if operation == Operation::Write => check_granularity(zoned, sector, bytes),
            _ => Ok(()),
        }
    }

    /// Whether a range lies on the disk.
    fn check_inside(&self, sector: u64, sectors: u64) -> Result<(), Error> {
        let capacity_sectors = self.capacity_sectors;
        match sector.checked_add(sectors) {
            Some(end) if end <= capacity_sectors => Ok(()),
            _ => Err(Error::BeyondCapacity { sector, sectors, capacity_sectors }),
        }
    }

    /// Whether a range lies in one zone, where it must.
    fn check_inside_zone(&self, sector: u64, sectors: u64) -> Result<(), Error> {
        match self.managed() {
            Some(zoned) if sectors > left_in_zone(zoned, sector) => {
                Err(Error::CrossesZone { sector, sectors, zone_sectors: zoned.zone_sectors })
            }
            _ => Ok(()),
        }
    }

    fn check_writable(&self, operation: Operation) -> Result<(), Error> {
        if self.read_only && !operation.only_reads() { Err(Error::ReadOnly) } else { Ok(()) }
    }

    /// Whether requests must reach the device one after the other: writes to zones, at their write pointers.
    pub(crate) fn in_order(&self, operation: Operation) -> bool {
        self.managed().is_some() && matches!(operation, Operation::Write | Operation::WriteZeroes)
    }

    /// What the parts of a transfer are multiples of, in bytes.
    pub(crate) fn part_bytes(&self, operation: Operation) -> usize {
        let granularity = self.managed().filter(|_| operation == Operation::Write);
        let granularity = granularity.map_or(1, |zoned| u64::from(zoned.write_granularity_bytes));
        let bytes = common_multiple(u64::from(self.block_bytes), granularity);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// The most bytes, of `bytes`, that a request may have which begins at a sector.
    pub(crate) fn inside_zone(&self, sector: u64, bytes: usize) -> usize {
        let left = self.managed().map(|zoned| crate::sectors_to_bytes(left_in_zone(zoned, sector)));
        left.and_then(|left| usize::try_from(left).ok()).map_or(bytes, |left| bytes.min(left))
    }

    /// Checks an operation that needs a feature.
    pub(crate) fn check_feature(&self, operation: Operation) -> Result<(), Error> {
        match operation.feature() {
            // A device may have the feature of zones, and none.
            Some(feature)
                if !self.features.contains(feature) || feature == BlockFeatures::ZONED && self.zoned.is_none() =>
            {
                Err(Error::NotNegotiated { operation, feature: feature.into() })
            }
            _ => Ok(()),
        }
    }

    /// Checks a request that is no transfer and has no ranges, with `bytes` bytes of data. Returns how many of them it
    /// needs.
    pub(crate) fn check_other(&self, operation: Operation, sector: u64, bytes: usize) -> Result<usize, Error> {
        self.check_feature(operation)?;
        self.check_writable(operation)?;
        let answer = |min_bytes| {
            if bytes < min_bytes { Err(Error::AnswerTooShort { operation, bytes, min_bytes }) } else { Ok(min_bytes) }
        };
        match (operation, &self.zoned) {
            (Operation::DeviceId, _) => answer(DEVICE_ID_LENGTH),
            (Operation::Lifetime, _) => answer(size_of::<LifetimeAnswer>()),
            (Operation::ZoneReport, _) => {
                self.check_inside(sector, 1)?;
                answer(REPORT_MIN_BYTES).map(|_| bytes)
            }
            (Operation::ZoneAppend, Some(zoned)) => {
                self.check_zone(zoned, operation, sector)?;
                self.check_append(zoned, sector, bytes)?;
                Ok(bytes)
            }
            (
                Operation::ZoneOpen | Operation::ZoneClose | Operation::ZoneFinish | Operation::ZoneReset,
                Some(zoned),
            ) => self.check_zone(zoned, operation, sector).map(|()| 0),
            _ => Ok(0),
        }
    }

    /// Whether a sector is the first of a zone.
    fn check_zone(&self, zoned: &Zoned, operation: Operation, sector: u64) -> Result<(), Error> {
        self.check_inside(sector, 1)?;
        if zoned.zone_start(sector) == sector {
            Ok(())
        } else {
            Err(Error::NotZoneStart { operation, sector, zone_sectors: zoned.zone_sectors })
        }
    }

    /// Whether so many bytes can be appended to a zone.
    fn check_append(&self, zoned: &Zoned, sector: u64, bytes: usize) -> Result<(), Error> {
        let (sectors, block_bytes) = (bytes as u64 >> SECTOR_SHIFT, self.block_bytes);
        if bytes == 0 {
            return Err(Error::Empty);
        }
        if bytes % block_bytes as usize != 0 {
            return Err(Error::UnalignedLength { bytes, block_bytes });
        }
        let max_sectors = zoned.max_append_sectors.min(zoned.zone_sectors);
        if sectors > u64::from(max_sectors) {
            return Err(Error::TooManySectors { operation: Operation::ZoneAppend, sectors, max_sectors });
        }
        check_granularity(zoned, sector, bytes)
    }

    /// Whether an append to the zone at a sector can have landed at another sector.
    pub(crate) fn is_in_zone(&self, zone: u64, found: u64) -> bool {
        self.zoned.as_ref().is_some_and(|zoned| zoned.zone_start(found) == zone) && found < self.capacity_sectors
    }

    fn range_limits(&self, operation: Operation) -> &RangeLimits {
        match operation {
            Operation::WriteZeroes => &self.write_zeroes,
            Operation::SecureErase => &self.secure_erase,
            _ => &self.discard,
        }
    }

    /// Checks a request that has ranges.
    pub(crate) fn check_ranges(&self, operation: Operation, ranges: &[SectorRange]) -> Result<(), Error> {
        self.check_any_ranges(operation, ranges)?;
        let RangeLimits { max_ranges, max_sectors, .. } = *self.range_limits(operation);
        if ranges.len() > max_ranges {
            return Err(Error::TooManyRanges { operation, found: ranges.len(), max: max_ranges });
        }
        for &SectorRange { sector, sectors } in ranges {
            if sectors > u64::from(max_sectors) {
                return Err(Error::TooManySectors { operation, sectors, max_sectors });
            }
            if operation == Operation::WriteZeroes {
                self.check_inside_zone(sector, sectors)?;
            }
        }
        Ok(())
    }

    /// Checks ranges of any length and number, which become several requests.
    fn check_any_ranges(&self, operation: Operation, ranges: &[SectorRange]) -> Result<(), Error> {
        self.check_feature(operation)?;
        self.check_writable(operation)?;
        let alignment_sectors = self.range_limits(operation).alignment_sectors;
        if ranges.is_empty() {
            return Err(Error::Empty);
        }
        for &SectorRange { sector, sectors } in ranges {
            if sectors == 0 {
                return Err(Error::Empty);
            }
            self.check_inside(sector, sectors)?;
            if sector % alignment_sectors != 0 || sectors % alignment_sectors != 0 {
                return Err(Error::UnalignedRange { operation, sector, sectors, alignment_sectors });
            }
        }
        Ok(())
    }

    /// Splits ranges into as many requests as it takes.
    pub(crate) fn split<'a>(&self, operation: Operation, ranges: &'a [SectorRange]) -> Result<Split<'a>, Error> {
        self.check_any_ranges(operation, ranges)?;
        let RangeLimits { max_ranges, max_sectors, alignment_sectors } = *self.range_limits(operation);
        let longest = u64::from(max_sectors) - u64::from(max_sectors) % alignment_sectors;
        if longest == 0 {
            return Err(Error::TooManySectors { operation, sectors: alignment_sectors, max_sectors });
        }
        if max_ranges == 0 {
            return Err(Error::TooManyRanges { operation, found: 1, max: 0 });
        }
        // What is in order goes range by range, as a device may begin with any of a request.
        let max_ranges = if self.in_order(operation) { 1 } else { max_ranges };
        Ok(Split {
            ranges,
            done_sectors: 0,
            longest,
            max_ranges,
            zoned: self.managed().copied().filter(|_| operation == Operation::WriteZeroes),
        })
    }
}

/// How many sectors there are from a sector to the end of its zone.
fn left_in_zone(zoned: &Zoned, sector: u64) -> u64 {
    let zone_sectors = u64::from(zoned.zone_sectors.max(1));
    zone_sectors - sector % zone_sectors
}

/// Whether a write keeps to the granularity.
fn check_granularity(zoned: &Zoned, sector: u64, bytes: usize) -> Result<(), Error> {
    let granularity_bytes = zoned.write_granularity_bytes;
    let granularity = u64::from(granularity_bytes.max(1));
    if crate::sectors_to_bytes(sector) % granularity == 0 && bytes as u64 % granularity == 0 {
        Ok(())
    } else {
        Err(Error::WriteGranularity { sector, bytes, granularity_bytes })
    }
}

/// Ranges that are being split into requests.
pub(crate) struct Split<'a> {
    ranges: &'a [SectorRange],
    /// How much of the first one is behind us.
    done_sectors: u64,
    longest: u64,
    max_ranges: usize,
    /// The zones that ranges must not cross.
    zoned: Option<Zoned>,
}

/// The ranges of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    ranges: [SectorRange; slot::RANGES_MAX],
    len: usize,
}

impl Batch {
    pub(crate) fn ranges(&self) -> &[SectorRange] {
        self.ranges.get(..self.len).unwrap_or_default()
    }
}

impl Split<'_> {
    /// The ranges of the next request; `None` after the last one.
    pub(crate) fn next_batch(&mut self) -> Option<Batch> {
        let mut batch = Batch { ranges: [SectorRange { sector: 0, sectors: 0 }; slot::RANGES_MAX], len: 0 };
        for place in batch.ranges.iter_mut().take(self.max_ranges) {
            let Some(range) = self.next_range() else { break };
            *place = range;
            batch.len += 1;
        }
        (batch.len > 0).then_some(batch)
    }

    fn next_range(&mut self) -> Option<SectorRange> {
        let (first, rest) = self.ranges.split_first()?;
        let sector = first.sector + self.done_sectors;
        let left = first.sectors - self.done_sectors;
        let zone = self.zoned.as_ref().map_or(u64::MAX, |zoned| left_in_zone(zoned, sector));
        let sectors = left.min(self.longest).min(zone);
        self.done_sectors += sectors;
        if sectors == left {
            (self.ranges, self.done_sectors) = (rest, 0);
        }
        Some(SectorRange { sector, sectors })
    }
}
