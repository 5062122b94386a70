//! What requests do.

use virtio_spec::block::{DiscardWriteZeroesFlags, RequestStatus, RequestType, SECTOR_SIZE};
use zerocopy::IntoBytes;

use crate::disk::{NO_DATA, SectorState};
use crate::range_requests::SectorRange;
use crate::request::{Request, gather};
use crate::state::State;

impl State {
    pub(crate) fn count(&mut self, request: &Request, status: RequestStatus) {
        let counts = &mut self.counts;
        let sectors = request.data_bytes() / SECTOR_SIZE as u64;
        let done = if status == RequestStatus::OK { sectors } else { 0 };
        match request.request_type {
            Some(RequestType::IN) => {
                counts.reads += 1;
                counts.sectors_read += done;
            }
            Some(RequestType::OUT) => {
                counts.writes += 1;
                counts.sectors_written += done;
            }
            Some(RequestType::FLUSH | RequestType::FLUSH_OUT) => counts.flushes += 1,
            Some(RequestType::DISCARD) => counts.discards += 1,
            Some(RequestType::WRITE_ZEROES) => counts.write_zeroes += 1,
            Some(RequestType::SECURE_ERASE) => counts.secure_erases += 1,
            Some(RequestType::ZONE_APPEND) => {
                counts.appends += 1;
                counts.sectors_written += done;
            }
            _ => counts.others += 1,
        }
        counts.ranges += request.ranges.len() as u64;
        if status != RequestStatus::OK {
            counts.failures += 1;
        }
    }

    /// Does what a request that keeps to all rules asks for. Returns its status and the data for the driver.
    pub(crate) fn execute(&mut self, request: &Request) -> (RequestStatus, Vec<u8>) {
        let failed = (RequestStatus::IOERR, Vec::new());
        let done = (RequestStatus::OK, Vec::new());
        let through = self.write_through();
        let sectors = request.data_bytes() / SECTOR_SIZE as u64;
        let Some(request_type) = request.request_type else { return failed };
        match request_type {
            // The capacity may have changed since the request was taken.
            RequestType::IN | RequestType::OUT if self.is_bad(request.sector, sectors) => failed,
            RequestType::IN => {
                if let Err(status) = self.zones_allow_read(request.sector, sectors) {
                    return (status, Vec::new());
                }
                let mut data = vec![0; request.data_bytes() as usize];
                self.read_disk(request.sector, &mut data);
                (RequestStatus::OK, data)
            }
            RequestType::OUT => {
                let Some(data) = gather(&*self.memory, &request.readable) else { return failed };
                if let Err(status) = self.zones_allow_write(request.sector, sectors) {
                    return (status, Vec::new());
                }
                self.disk.write(request.sector, &data, through);
                done
            }
            RequestType::FLUSH | RequestType::FLUSH_OUT if self.faults.bad_flush => failed,
            RequestType::FLUSH | RequestType::FLUSH_OUT => {
                self.disk.flush();
                done
            }
            RequestType::GET_ID => (RequestStatus::OK, self.setup.id.to_vec()),
            RequestType::GET_LIFETIME => (RequestStatus::OK, self.setup.lifetime.as_bytes().to_vec()),
            RequestType::DISCARD | RequestType::WRITE_ZEROES | RequestType::SECURE_ERASE => {
                let Some(ranges) = request.read_ranges(&*self.memory, !self.legacy()) else { return failed };
                if ranges.iter().any(|range| self.is_bad(range.sector, u64::from(range.sectors))) {
                    return failed;
                }
                for range in ranges {
                    if let Err(status) = self.clear(request_type, &range, through) {
                        return (status, Vec::new());
                    }
                }
                done
            }
            RequestType::ZONE_APPEND if self.is_bad(request.sector, sectors) => failed,
            // Others that are not known were refused before.
            zone_request => self.execute_zone_request(zone_request, request),
        }
    }

    /// Discards, zeroes or erases a range.
    fn clear(&mut self, request_type: RequestType, range: &SectorRange, through: bool) -> Result<(), RequestStatus> {
        let sectors = u64::from(range.sectors);
        let unmap = range.flags & DiscardWriteZeroesFlags::UNMAP.bits() != 0;
        let state = match request_type {
            RequestType::DISCARD => SectorState::Discarded,
            RequestType::SECURE_ERASE => {
                self.erase_zones(range.sector, sectors)?;
                SectorState::Erased
            }
            _ => {
                // To a sequential zone, zeroes are written as all else is.
                self.zones_allow_write(range.sector, sectors)?;
                let deallocates = unmap && self.config.write_zeroes_may_unmap != 0;
                if deallocates { SectorState::Unmapped } else { SectorState::Zeroed }
            }
        };
        self.disk.clear(range.sector, sectors, state, through);
        Ok(())
    }

    /// Copies from a sector on, as a driver would see it.
    pub(crate) fn read_disk(&self, first: u64, bytes: &mut [u8]) {
        self.disk.read(first, bytes);
        self.hide_unwritten(first, bytes);
    }

    /// Copies from a sector on what a power cut would leave.
    pub(crate) fn read_stable(&self, first: u64, bytes: &mut [u8]) {
        self.disk.read_stable(first, bytes);
        self.hide_unwritten(first, bytes);
    }

    /// Takes out of data what lies behind the write pointers of zones.
    fn hide_unwritten(&self, first: u64, bytes: &mut [u8]) {
        let Some(zones) = &self.zones else { return };
        for (sector, bytes) in (first..).zip(bytes.chunks_mut(SECTOR_SIZE)) {
            if !zones.is_written(sector) {
                bytes.fill(NO_DATA);
            }
        }
    }

    /// What became of a sector.
    pub(crate) fn sector_state(&self, sector: u64) -> SectorState {
        match &self.zones {
            Some(zones) if !zones.is_written(sector) => SectorState::Erased,
            _ => self.disk.state(sector),
        }
    }

    /// Forgets what is not stable. The write pointer of a zone goes back to the first sector that was lost.
    pub(crate) fn power_cut(&mut self) {
        let lost = self.disk.power_cut();
        if let Some(zones) = &mut self.zones {
            zones.power_cut(&lost);
        }
    }

    /// Whether a range is to fail, or ends beyond the capacity.
    fn is_bad(&self, sector: u64, sectors: u64) -> bool {
        let end = sector.saturating_add(sectors);
        end > self.config.capacity.get()
            || self.faults.bad_sectors.iter().any(|bad| bad.start < end && sector < bad.end)
    }
}
