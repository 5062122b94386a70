//! Block requests as the device reads them, and what is wrong with them.

use virtio_spec::Features;
use virtio_spec::block::{
    BARRIER, BlockConfig, BlockFeatures, DEVICE_ID_LENGTH, Lifetime, RequestHeader, RequestStatus, RequestType,
    SECTOR_SIZE,
};

use crate::chain::Chain;
use crate::device_memory::DeviceMemory;
use crate::range_requests::SectorRange;
use crate::violation::{Rule, Violation};
use crate::zones::Zones;

/// A piece of memory: device address and length.
pub(crate) type Piece = (u64, u32);

/// A request as the device read it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The header as it was in memory.
    pub(crate) header: Vec<u8>,
    pub(crate) request_type: Option<RequestType>,
    pub(crate) sector: u64,
    /// Data for the device.
    pub(crate) readable: Vec<Piece>,
    /// Data for the driver.
    pub(crate) writable: Vec<Piece>,
    /// Where the status goes.
    pub(crate) status_at: Option<u64>,
    /// What the request ends with, if it cannot be executed.
    pub(crate) refused: Option<RequestStatus>,
    /// The ranges of a discard, erase or write zeroes request.
    pub(crate) ranges: Vec<SectorRange>,
}

/// What a request is held against.
pub(crate) struct Rules<'a> {
    pub(crate) memory: &'a dyn DeviceMemory,
    pub(crate) config: &'a BlockConfig,
    pub(crate) offered: u64,
    pub(crate) negotiated: u64,
    pub(crate) legacy: bool,
    pub(crate) zones: Option<&'a Zones>,
    pub(crate) check_range_alignment: bool,
    pub(crate) whole_blocks_only: bool,
    pub(crate) tolerate_beyond_capacity: bool,
    pub(crate) tolerate_write_to_read_only: bool,
}

pub(crate) fn bytes_in(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| u64::from(piece.1)).sum()
}

/// Reads all of the pieces.
pub(crate) fn gather(memory: &dyn DeviceMemory, pieces: &[Piece]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(bytes_in(pieces)).ok()?];
    let mut done = 0;
    for &(address, length) in pieces {
        let end = done + length as usize;
        memory.read(address, &mut bytes[done..end]).ok()?;
        done = end;
    }
    Some(bytes)
}

/// Writes to the pieces as many bytes as there are, and returns how many were written.
pub(crate) fn scatter(memory: &dyn DeviceMemory, pieces: &[Piece], mut bytes: &[u8]) -> usize {
    let mut done = 0;
    for &(address, length) in pieces {
        let (now, later) = bytes.split_at(bytes.len().min(length as usize));
        if memory.write(address, now).is_err() {
            break;
        }
        done += now.len();
        bytes = later;
    }
    done
}

/// Cuts the first `count` bytes off.
fn cut_front(pieces: &mut Vec<Piece>, mut count: u32) -> Vec<Piece> {
    let mut front = Vec::new();
    while count > 0 {
        let Some((address, length)) = pieces.first_mut() else { break };
        let now = count.min(*length);
        if now > 0 {
            front.push((*address, now));
        }
        *address = address.wrapping_add(u64::from(now));
        *length -= now;
        count -= now;
        if *length == 0 {
            pieces.remove(0);
        }
    }
    front
}

pub(crate) fn u32_of(bytes: &[u8], little: bool) -> u32 {
    let bytes = bytes.try_into().expect("four bytes");
    if little { u32::from_le_bytes(bytes) } else { u32::from_ne_bytes(bytes) }
}

pub(crate) fn u64_of(bytes: &[u8], little: bool) -> u64 {
    let bytes = bytes.try_into().expect("eight bytes");
    if little { u64::from_le_bytes(bytes) } else { u64::from_ne_bytes(bytes) }
}

impl Request {
    /// Reads a request from its chain and holds it against the rules.
    pub(crate) fn parse(chain: &Chain, rules: &Rules<'_>, violations: &mut Vec<Violation>) -> Self {
        let mut parser = Parser { chain, rules, violations };
        parser.parse()
    }

    /// The length of the data, in either direction.
    pub(crate) fn data_bytes(&self) -> u64 {
        // What the device writes for ZONE_APPEND is where the data went.
        let appends = self.request_type == Some(RequestType::ZONE_APPEND);
        bytes_in(&self.readable) + if appends { 0 } else { bytes_in(&self.writable) }
    }
}

/// Holds one request against the rules.
pub(crate) struct Parser<'a> {
    chain: &'a Chain,
    pub(crate) rules: &'a Rules<'a>,
    violations: &'a mut Vec<Violation>,
}

impl Parser<'_> {
    pub(crate) fn violate(&mut self, rule: Rule, text: impl AsRef<str>) {
        self.violations.push(Violation::new(rule, format!("the request at {}: {}", self.chain.id, text.as_ref())));
    }

    fn negotiated(&self, feature: BlockFeatures) -> bool {
        self.rules.negotiated & feature.bits() != 0
    }

    fn parse(&mut self) -> Request {
        let pieces = |writable| {
            let segments = self.chain.segments.iter().filter(move |segment| segment.writable == writable);
            segments.map(|segment| (segment.address, segment.bytes)).filter(|piece| piece.1 > 0).collect::<Vec<_>>()
        };
        let (mut readable, mut writable) = (pieces(false), pieces(true));
        let mut request = Request {
            header: Vec::new(),
            request_type: None,
            sector: 0,
            readable: Vec::new(),
            writable: Vec::new(),
            status_at: None,
            refused: Some(RequestStatus::IOERR),
            ranges: Vec::new(),
        };
        if self.chain.malformed {
            return request;
        }

        match writable.last_mut() {
            Some((address, length)) => {
                *length -= 1;
                request.status_at = Some(address.wrapping_add(u64::from(*length)));
                if *length == 0 {
                    writable.pop();
                }
            }
            None => self.violate(Rule::RequestStatus, "nothing is device-writable"),
        }

        let header_bytes = size_of::<RequestHeader>();
        let header = cut_front(&mut readable, header_bytes as u32);
        if bytes_in(&header) != header_bytes as u64 {
            self.violate(Rule::RequestHeader, format!("{} bytes are device-readable", bytes_in(&header)));
            return request;
        }
        let Some(header) = gather(self.rules.memory, &header) else {
            return request;
        };
        let little = !self.rules.legacy;
        let request_type = u32_of(&header[..4], little);
        let reserved = u32_of(&header[4..8], little);
        request.sector = u64_of(&header[8..], little);
        request.header = header;
        request.readable = readable;
        request.writable = writable;

        if reserved != 0 && !self.rules.legacy {
            self.violate(Rule::RequestReserved, format!("it is {reserved:#x}"));
        }
        let barrier = if self.negotiated(BlockFeatures::BARRIER) { BARRIER } else { 0 };
        let request_type = RequestType(request_type & !barrier);
        request.request_type = Some(request_type);
        if self.rules.legacy && self.rules.negotiated & Features::ANY_LAYOUT.bits() == 0 {
            self.check_legacy_framing();
        }
        self.check_segments(&request);
        request.refused = self.check_type(request_type, &mut request);
        request
    }

    fn check_legacy_framing(&mut self) {
        let first = self.chain.segments.first();
        let last = self.chain.segments.last();
        let header = first.is_some_and(|first| !first.writable && first.bytes as usize == size_of::<RequestHeader>());
        let status = last.is_some_and(|last| last.writable && last.bytes == 1);
        if !header || !status {
            self.violate(Rule::LegacyFraming, format!("its descriptors are {:x?}", self.chain.segments));
        }
    }

    fn check_segments(&mut self, request: &Request) {
        let appends = request.request_type == Some(RequestType::ZONE_APPEND);
        let writable = if appends { &[][..] } else { &request.writable };
        let pieces = request.readable.iter().chain(writable);
        let limit = if self.negotiated(BlockFeatures::SEG_MAX) { self.rules.config.seg_max.get().max(1) } else { 1 };
        let count = pieces.clone().count();
        if count as u64 > u64::from(limit) {
            self.violate(Rule::TooManySegments, format!("it has {count} data segments, {limit} are allowed"));
        }
        let size_max = self.rules.config.size_max.get();
        if self.negotiated(BlockFeatures::SIZE_MAX)
            && size_max != 0
            && let Some((_, bytes)) = pieces.clone().find(|piece| piece.1 > size_max)
        {
            self.violate(Rule::SegmentTooLarge, format!("a segment has {bytes} bytes, {size_max} are allowed"));
        }
    }

    /// Whether the request's type was negotiated.
    pub(crate) fn check_negotiated(&mut self, request_type: RequestType, feature: BlockFeatures) -> bool {
        let negotiated = self.negotiated(feature);
        if !negotiated {
            self.violate(Rule::RequestNotNegotiated, format!("{request_type} without {feature:?}"));
        }
        negotiated
    }

    pub(crate) fn check_no_sector(&mut self, request_type: RequestType, request: &Request) {
        if request.sector != 0 {
            self.violate(Rule::RequestSector, format!("{request_type} with sector {}", request.sector));
        }
    }

    /// Whether there is data in the wrong direction.
    pub(crate) fn check_direction(&mut self, request_type: RequestType, wrong: &[Piece]) -> bool {
        let bytes = bytes_in(wrong);
        if bytes != 0 {
            self.violate(
                Rule::RequestDirection,
                format!("{request_type} with {bytes} bytes of data in the other direction"),
            );
        }
        bytes == 0
    }

    /// Holds a request against the rules for its type. Returns the status that it ends with if it is not executed.
    fn check_type(&mut self, request_type: RequestType, request: &mut Request) -> Option<RequestStatus> {
        let refused = Some(RequestStatus::IOERR);
        let unsupported = Some(RequestStatus::UNSUPP);
        match request_type {
            RequestType::IN | RequestType::OUT => {
                let writes = request_type == RequestType::OUT;
                let (data, wrong) = if writes {
                    (&request.readable, &request.writable)
                } else {
                    (&request.writable, &request.readable)
                };
                let mut good = self.check_direction(request_type, wrong);
                let bytes = bytes_in(data);
                if !bytes.is_multiple_of(SECTOR_SIZE as u64) {
                    self.violate(Rule::RequestLength, format!("{request_type} with {bytes} bytes of data"));
                    good = false;
                }
                good &= self.check_range(request_type, request.sector, bytes.div_ceil(SECTOR_SIZE as u64));
                good &= !writes || self.check_writable(request_type);
                good &= self.check_blocks(request.sector, bytes);
                if writes {
                    self.check_granularity(request_type, request);
                }
                if good { None } else { refused }
            }
            RequestType::FLUSH | RequestType::FLUSH_OUT => {
                self.check_no_sector(request_type, request);
                if request_type == RequestType::FLUSH_OUT && !self.rules.legacy {
                    return unsupported;
                }
                if self.check_negotiated(request_type, BlockFeatures::FLUSH) { None } else { unsupported }
            }
            RequestType::GET_ID => {
                self.check_no_sector(request_type, request);
                let good = self.check_direction(request_type, &request.readable);
                let bytes = bytes_in(&request.writable);
                if bytes != DEVICE_ID_LENGTH as u64 {
                    self.violate(Rule::RequestLength, format!("{request_type} with {bytes} bytes of data"));
                    return refused;
                }
                if good { None } else { refused }
            }
            RequestType::GET_LIFETIME => {
                self.check_no_sector(request_type, request);
                if !self.check_negotiated(request_type, BlockFeatures::LIFETIME) {
                    return unsupported;
                }
                let good = self.check_direction(request_type, &request.readable);
                let bytes = bytes_in(&request.writable);
                if bytes != size_of::<Lifetime>() as u64 {
                    self.violate(Rule::RequestLength, format!("{request_type} with {bytes} bytes of data"));
                    return refused;
                }
                if good { None } else { refused }
            }
            RequestType::DISCARD | RequestType::WRITE_ZEROES | RequestType::SECURE_ERASE => {
                self.check_ranges(request_type, request)
            }
            RequestType::ZONE_APPEND
            | RequestType::ZONE_REPORT
            | RequestType::ZONE_OPEN
            | RequestType::ZONE_CLOSE
            | RequestType::ZONE_FINISH
            | RequestType::ZONE_RESET
            | RequestType::ZONE_RESET_ALL => self.check_zone_request(request_type, request),
            _ => unsupported,
        }
    }

    /// Whether a range is whole logical blocks, if the device insists on that.
    fn check_blocks(&self, sector: u64, bytes: u64) -> bool {
        let block = u64::from(self.rules.config.blk_size.get()).max(1);
        let start = sector.wrapping_mul(SECTOR_SIZE as u64);
        !self.rules.whole_blocks_only || bytes.is_multiple_of(block) && start.is_multiple_of(block)
    }

    pub(crate) fn check_range(&mut self, request_type: RequestType, sector: u64, sectors: u64) -> bool {
        let capacity = self.rules.config.capacity.get();
        let inside = sector.checked_add(sectors).is_some_and(|end| end <= capacity);
        if !inside && !self.rules.tolerate_beyond_capacity {
            self.violate(
                Rule::BeyondCapacity,
                format!("{request_type} of {sectors} sectors at sector {sector}, the device has {capacity}"),
            );
        }
        inside
    }

    pub(crate) fn check_writable(&mut self, request_type: RequestType) -> bool {
        let read_only = self.rules.offered & BlockFeatures::RO.bits() != 0;
        if read_only && !self.rules.tolerate_write_to_read_only {
            self.violate(Rule::WriteToReadOnly, format!("{request_type}"));
        }
        !read_only
    }
}
