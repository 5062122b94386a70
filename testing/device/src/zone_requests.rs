//! Requests for zones: the rules for them, and what they do.

use virtio_spec::block::{
    BlockFeatures, RequestStatus, RequestType, SECTOR_SIZE, ZoneAppendTail, ZoneDescriptor, ZoneReportHeader, ZoneState,
};
use zerocopy::IntoBytes;

use crate::request::{Parser, Request, bytes_in, gather};
use crate::state::State;
use crate::violation::Rule;

/// What ZONE_APPEND answers before the status, in bytes.
const APPEND_SECTOR_BYTES: u64 = (size_of::<ZoneAppendTail>() - size_of::<RequestStatus>()) as u64;

impl Parser<'_> {
    /// Holds a request for zones against the rules. Returns the status that it ends with if it is not executed: what
    /// depends on the state of zones is found out when it is.
    pub(crate) fn check_zone_request(&mut self, request_type: RequestType, request: &Request) -> Option<RequestStatus> {
        if !self.check_negotiated(request_type, BlockFeatures::ZONED) {
            return Some(RequestStatus::UNSUPP);
        }
        let (readable, writable) = (bytes_in(&request.readable), bytes_in(&request.writable));
        let lengths_fit = match request_type {
            RequestType::ZONE_APPEND => writable == APPEND_SECTOR_BYTES && readable.is_multiple_of(SECTOR_SIZE as u64),
            RequestType::ZONE_REPORT => readable == 0,
            _ => readable == 0 && writable == 0,
        };
        if !lengths_fit {
            let text = format!("{request_type} with {readable} device-readable and {writable} device-writable bytes");
            self.violate(Rule::RequestLength, text);
            return Some(RequestStatus::IOERR);
        }
        match request_type {
            RequestType::ZONE_REPORT => {
                self.check_range(request_type, request.sector, 1);
                return None;
            }
            RequestType::ZONE_RESET_ALL => self.check_no_sector(request_type, request),
            _ => self.check_zone_sector(request_type, request.sector),
        }
        if request_type == RequestType::ZONE_APPEND {
            self.check_granularity(request_type, request);
            let limit = self.rules.config.zoned.max_append_sectors.get();
            let sectors = readable / SECTOR_SIZE as u64;
            if sectors > u64::from(limit) {
                let text = format!("{request_type} of {sectors} sectors, {limit} are allowed");
                self.violate(Rule::AppendLimit, text);
            }
        }
        if self.check_writable(request_type) { None } else { Some(RequestStatus::IOERR) }
    }

    fn check_zone_sector(&mut self, request_type: RequestType, sector: u64) {
        let Some(zones) = self.rules.zones else { return };
        if zones.index_of(sector).is_none_or(|index| zones.all()[index].start != sector) {
            self.violate(Rule::ZoneSector, format!("{request_type} at sector {sector}"));
        }
    }

    /// Whether a write to a sequential zone keeps to the write granularity.
    pub(crate) fn check_granularity(&mut self, request_type: RequestType, request: &Request) {
        let Some(zones) = self.rules.zones else { return };
        let sequential = zones.index_of(request.sector).is_some_and(|index| zones.all()[index].is_sequential());
        let granularity = u64::from(zones.setup().write_granularity_bytes.max(1));
        let (start, bytes) = (request.sector.wrapping_mul(SECTOR_SIZE as u64), bytes_in(&request.readable));
        if sequential && !(start.is_multiple_of(granularity) && bytes.is_multiple_of(granularity)) {
            let text = format!("{request_type} of {bytes} bytes at sector {}, not of {granularity}", request.sector);
            self.violate(Rule::WriteGranularity, text);
        }
    }
}

/// How a request ends: its status, and the data for the driver.
type Answer = (RequestStatus, Vec<u8>);

fn answer(result: Result<Vec<u8>, RequestStatus>) -> Answer {
    match result {
        Ok(data) => (RequestStatus::OK, data),
        Err(status) => (status, Vec::new()),
    }
}

impl State {
    /// Does what a request for zones asks for.
    pub(crate) fn execute_zone_request(&mut self, request_type: RequestType, request: &Request) -> Answer {
        let sector = request.sector;
        if request_type == RequestType::ZONE_APPEND {
            self.check_zone_overrun(sector, request.data_bytes() / SECTOR_SIZE as u64, true);
        }
        let through = self.write_through();
        let Some(zones) = &mut self.zones else { return (RequestStatus::UNSUPP, Vec::new()) };
        let nothing = |()| Vec::new();
        answer(match request_type {
            RequestType::ZONE_REPORT => {
                let room = bytes_in(&request.writable);
                let claimed = self.faults.zone_report_count;
                zones.report(sector).and_then(|zones| report(&zones, room, claimed))
            }
            RequestType::ZONE_APPEND => {
                let Some(data) = gather(&*self.memory, &request.readable) else {
                    return (RequestStatus::IOERR, Vec::new());
                };
                zones.append(sector, (data.len() / SECTOR_SIZE) as u64).map(|at| {
                    self.disk.write(at, &data, through);
                    self.faults.append_sector.unwrap_or(at).to_le_bytes().to_vec()
                })
            }
            RequestType::ZONE_OPEN => zones.open(sector).map(nothing),
            RequestType::ZONE_CLOSE => zones.close(sector).map(nothing),
            RequestType::ZONE_FINISH => zones.finish(sector).map(nothing),
            RequestType::ZONE_RESET => zones.reset(sector).map(nothing),
            RequestType::ZONE_RESET_ALL => {
                zones.reset_all();
                Ok(Vec::new())
            }
            _ => Err(RequestStatus::UNSUPP),
        })
    }

    /// Whether a range can be read, as far as zones have a say in it.
    pub(crate) fn zones_allow_read(&self, sector: u64, sectors: u64) -> Result<(), RequestStatus> {
        self.zones.as_ref().map_or(Ok(()), |zones| zones.check_read(sector, sectors))
    }

    /// Moves the write pointer over a range that is about to be written, as far as zones have a say in it.
    pub(crate) fn zones_allow_write(&mut self, sector: u64, sectors: u64) -> Result<(), RequestStatus> {
        self.check_zone_overrun(sector, sectors, false);
        self.zones.as_mut().map_or(Ok(()), |zones| zones.write(sector, sectors))
    }

    /// Erases a range of zones.
    pub(crate) fn erase_zones(&mut self, sector: u64, sectors: u64) -> Result<(), RequestStatus> {
        let Some(zones) = &mut self.zones else { return Ok(()) };
        let starts: Vec<u64> = zones.all().iter().map(|zone| zone.start).collect();
        let end = sector.saturating_add(sectors);
        starts.into_iter().filter(|start| (sector..end).contains(start)).try_for_each(|start| zones.reset(start))
    }

    /// Holds a write to a zone that can be written against the room that is left in it.
    fn check_zone_overrun(&mut self, sector: u64, sectors: u64, append: bool) {
        let found = self.zones.as_ref().and_then(|zones| Some(zones.all()[zones.index_of(sector)?]));
        let Some(zone) = found.filter(|zone| zone.is_sequential() && !self.setup.tolerate_zone_overrun) else {
            return;
        };
        let at = if append { zone.write_pointer() } else { sector };
        let known = !matches!(zone.state, ZoneState::RDONLY | ZoneState::OFFLINE);
        if known && at.saturating_add(sectors) > zone.start + zone.capacity {
            let (pointer, capacity) = (zone.write_pointer(), zone.capacity);
            let text =
                format!("{sectors} sectors at {at}: the zone at {} has {capacity}, it is at {pointer}", zone.start);
            self.violate(Rule::ZoneCapacity, text);
        }
    }
}

/// A report with as many zones as there is room for.
fn report(zones: &[ZoneDescriptor], room: u64, claimed: Option<u64>) -> Result<Vec<u8>, RequestStatus> {
    let room = room.checked_sub(size_of::<ZoneReportHeader>() as u64).ok_or(RequestStatus::ZONE_INVALID_CMD)?;
    let count = zones.len().min(usize::try_from(room).unwrap_or(usize::MAX) / size_of::<ZoneDescriptor>());
    let header = ZoneReportHeader { nr_zones: claimed.unwrap_or(count as u64).into(), reserved: [0; 56] };
    let mut bytes = header.as_bytes().to_vec();
    for zone in &zones[..count] {
        bytes.extend_from_slice(zone.as_bytes());
    }
    Ok(bytes)
}
