//! Requests that consist of ranges of sectors: discard, write zeroes, secure erase.

use virtio_spec::block::{
    BlockConfig, BlockFeatures, DiscardWriteZeroes, DiscardWriteZeroesFlags, RequestStatus, RequestType,
};

use crate::builder::RangeLimits;
use crate::device_memory::DeviceMemory;
use crate::request::{Parser, Request, bytes_in, gather, u32_of, u64_of};
use crate::violation::Rule;
use crate::zones::Zones;

/// One range of a discard, erase or write zeroes request, as the device read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectorRange {
    /// The first sector.
    pub sector: u64,
    /// The number of sectors.
    pub sectors: u32,
    /// The flags.
    pub flags: u32,
}

impl Request {
    /// Reads the ranges of a discard, erase or write zeroes request.
    pub(crate) fn read_ranges(&self, memory: &dyn DeviceMemory, little: bool) -> Option<Vec<SectorRange>> {
        let bytes = gather(memory, &self.readable)?;
        Some(
            bytes
                .chunks_exact(size_of::<DiscardWriteZeroes>())
                .map(|range| SectorRange {
                    sector: u64_of(&range[..8], little),
                    sectors: u32_of(&range[8..12], little),
                    flags: u32_of(&range[12..], little),
                })
                .collect(),
        )
    }
}

/// The feature that such a request needs, and its limits.
fn limits_of(config: &BlockConfig, request_type: RequestType) -> (BlockFeatures, RangeLimits) {
    let (feature, max_sectors, max_ranges, alignment_sectors) = match request_type {
        RequestType::DISCARD => (
            BlockFeatures::DISCARD,
            config.max_discard_sectors,
            config.max_discard_seg,
            config.discard_sector_alignment.get(),
        ),
        RequestType::SECURE_ERASE => (
            BlockFeatures::SECURE_ERASE,
            config.max_secure_erase_sectors,
            config.max_secure_erase_seg,
            config.secure_erase_sector_alignment.get(),
        ),
        _ => (BlockFeatures::WRITE_ZEROES, config.max_write_zeroes_sectors, config.max_write_zeroes_seg, 1),
    };
    let limits = RangeLimits { max_sectors: max_sectors.get(), max_ranges: max_ranges.get(), alignment_sectors };
    (feature, limits)
}

impl Parser<'_> {
    /// Holds such a request against the rules. Returns the status that it ends with if it is not executed.
    pub(crate) fn check_ranges(&mut self, request_type: RequestType, request: &mut Request) -> Option<RequestStatus> {
        let (feature, limits) = limits_of(self.rules.config, request_type);
        self.check_no_sector(request_type, request);
        if !self.check_negotiated(request_type, feature) {
            return Some(RequestStatus::UNSUPP);
        }
        let mut good = self.check_direction(request_type, &request.writable);
        let bytes = bytes_in(&request.readable);
        if bytes == 0 || !bytes.is_multiple_of(size_of::<DiscardWriteZeroes>() as u64) {
            self.violate(Rule::RequestLength, format!("{request_type} with {bytes} bytes of data"));
            return Some(RequestStatus::IOERR);
        }
        let Some(ranges) = request.read_ranges(self.rules.memory, !self.rules.legacy) else {
            return Some(RequestStatus::IOERR);
        };
        request.ranges.clone_from(&ranges);
        let RangeLimits { max_sectors, max_ranges, .. } = limits;
        if ranges.len() as u64 > u64::from(max_ranges) {
            self.violate(
                Rule::RangeLimit,
                format!("{request_type} with {} ranges, {max_ranges} are allowed", ranges.len()),
            );
            good = false;
        }
        let allowed = match request_type {
            RequestType::WRITE_ZEROES => DiscardWriteZeroesFlags::UNMAP,
            _ => DiscardWriteZeroesFlags::empty(),
        };
        for range in ranges {
            if range.flags & !allowed.bits() != 0 {
                self.violate(Rule::RangeFlags, format!("{request_type} with flags {:#x}", range.flags));
                return Some(RequestStatus::UNSUPP);
            }
            if range.sectors > max_sectors {
                self.violate(
                    Rule::RangeLimit,
                    format!("{request_type} of {} sectors, {max_sectors} are allowed", range.sectors),
                );
                good = false;
            }
            self.check_alignment(request_type, &range, limits.alignment_sectors);
            good &= self.check_range(request_type, range.sector, u64::from(range.sectors));
        }
        good &= self.check_writable(request_type);
        if good { None } else { Some(RequestStatus::IOERR) }
    }

    /// Whether a range is aligned: as far as the test asked for that, and for zones always.
    fn check_alignment(&mut self, request_type: RequestType, range: &SectorRange, alignment: u32) {
        let erased = |zones: &&Zones| request_type == RequestType::SECURE_ERASE && !zones.all().is_empty();
        let zone = self.rules.zones.filter(erased).map(|zones| zones.setup().zone_sectors);
        let Some(alignment) = zone.or(self.rules.check_range_alignment.then_some(alignment)) else { return };
        let alignment = u64::from(alignment.max(1));
        if !range.sector.is_multiple_of(alignment) || !u64::from(range.sectors).is_multiple_of(alignment) {
            let text = format!("{request_type} of {} sectors at {}, not of {alignment}", range.sectors, range.sector);
            self.violate(Rule::RangeAlignment, text);
        }
    }
}
