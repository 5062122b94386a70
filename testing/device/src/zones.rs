//! The zones of a host-managed device: which there are, their states, and what may be written where.

use virtio_spec::block::{
    RequestStatus, SECTOR_SIZE, ZoneDescriptor, ZoneModel, ZoneState, ZoneType, ZonedCharacteristics,
};

/// How the zones of a device are laid out and limited. Sectors of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneSetup {
    /// The size of a zone in sectors. The last one ends with the device.
    pub zone_sectors: u32,
    /// How many of them can be written: at most `zone_sectors`.
    pub capacity_sectors: u32,
    /// How many of the first zones are conventional.
    pub conventional: u32,
    /// How many zones may be open at a time; 0 for no limit.
    pub max_open: u32,
    /// How many zones may be active at a time; 0 for no limit.
    pub max_active: u32,
    /// The most sectors that a ZONE_APPEND may have; 0 if there is no such request.
    pub max_append_sectors: u32,
    /// What writes to sequential zones are a multiple of, in bytes.
    pub write_granularity_bytes: u32,
}

impl Default for ZoneSetup {
    /// Zones of 64 sectors that can be written in full, the first of them conventional, without limits.
    fn default() -> Self {
        Self {
            zone_sectors: 64,
            capacity_sectors: 64,
            conventional: 1,
            max_open: 0,
            max_active: 0,
            max_append_sectors: 64,
            write_granularity_bytes: SECTOR_SIZE as u32,
        }
    }
}

impl ZoneSetup {
    /// The fields of the configuration space that say so.
    #[must_use]
    pub fn characteristics(&self) -> ZonedCharacteristics {
        ZonedCharacteristics {
            zone_sectors: self.zone_sectors.into(),
            max_open_zones: self.max_open.into(),
            max_active_zones: self.max_active.into(),
            max_append_sectors: self.max_append_sectors.into(),
            write_granularity: self.write_granularity_bytes.into(),
            model: ZoneModel::HM,
            unused2: [0; 3],
        }
    }
}

/// One zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its first sector.
    pub start: u64,
    /// How many sectors it has.
    pub sectors: u64,
    /// How many of them can be written.
    pub capacity: u64,
    /// How many were written since it was empty: the write pointer is so many sectors behind the start.
    pub written: u64,
    /// Its type.
    pub zone_type: ZoneType,
    /// Its state.
    pub state: ZoneState,
}

impl Zone {
    /// The sector of the next write.
    #[must_use]
    pub fn write_pointer(&self) -> u64 {
        self.start + self.written
    }

    /// Whether it takes one of the places for open zones.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, ZoneState::IOPEN | ZoneState::EOPEN)
    }

    /// Whether it takes one of the places for active zones.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.is_open() || self.state == ZoneState::CLOSED
    }

    /// Whether it is to be written at the write pointer only.
    #[must_use]
    pub fn is_sequential(&self) -> bool {
        self.zone_type == ZoneType::SWR
    }

    /// What a report says of it. Where the write pointer is undefined, it is all ones.
    #[must_use]
    pub fn descriptor(&self) -> ZoneDescriptor {
        let undefined =
            matches!(self.state, ZoneState::NOT_WP | ZoneState::RDONLY | ZoneState::FULL | ZoneState::OFFLINE);
        ZoneDescriptor {
            z_cap: self.capacity.into(),
            z_start: self.start.into(),
            z_wp: if undefined { u64::MAX } else { self.write_pointer() }.into(),
            z_type: self.zone_type,
            z_state: self.state,
            reserved: [0; 38],
        }
    }
}

/// The zones of a host-managed device, without their contents (5.2.6).
///
/// Every request is a method here; what cannot be done is the status that the device answers. When the places for
/// open zones are used up, the first zone that is open implicitly is closed, as a device may.
///
/// The model keeps to the letter of the specification's list of transitions: ZONE_FINISH acts on open zones (and is
/// done for full ones), not on empty or closed ones, and ZONE_CLOSE not on empty ones.
///
/// ```
/// use testing_device::{ZoneSetup, Zones};
/// use virtio_spec::block::{RequestStatus, ZoneState};
///
/// let mut zones = Zones::new(ZoneSetup::default(), 256);
/// assert_eq!(zones.all().len(), 4);
/// assert_eq!(zones.append(64, 8), Ok(64));
/// assert_eq!(zones.append(64, 8), Ok(72));
/// assert_eq!(zones.write(64, 8), Err(RequestStatus::ZONE_UNALIGNED_WP));
/// assert_eq!(zones.all()[1].state, ZoneState::IOPEN);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zones {
    setup: ZoneSetup,
    zones: Vec<Zone>,
}

/// How a request ends that is not carried out.
type Refused = RequestStatus;

const INVALID: Refused = RequestStatus::ZONE_INVALID_CMD;

impl Zones {
    /// The zones of a device with so many sectors, the sequential ones empty.
    ///
    /// # Panics
    ///
    /// If zones have no sectors, or a larger capacity than size.
    #[must_use]
    pub fn new(setup: ZoneSetup, sectors: u64) -> Self {
        assert!(setup.zone_sectors > 0, "zones have sectors");
        assert!(setup.capacity_sectors <= setup.zone_sectors, "a zone's capacity is at most its size");
        let zone = |index: u64| {
            let start = index * u64::from(setup.zone_sectors);
            let size = u64::from(setup.zone_sectors).min(sectors - start);
            let conventional = index < u64::from(setup.conventional);
            Zone {
                start,
                sectors: size,
                capacity: if conventional { size } else { size.min(u64::from(setup.capacity_sectors)) },
                written: 0,
                zone_type: if conventional { ZoneType::CONV } else { ZoneType::SWR },
                state: if conventional { ZoneState::NOT_WP } else { ZoneState::EMPTY },
            }
        };
        let zones = (0..sectors.div_ceil(u64::from(setup.zone_sectors))).map(zone).collect();
        Self { setup, zones }
    }

    /// How they are laid out and limited.
    #[must_use]
    pub fn setup(&self) -> &ZoneSetup {
        &self.setup
    }

    /// All of them, in the order of their sectors.
    #[must_use]
    pub fn all(&self) -> &[Zone] {
        &self.zones
    }

    /// How many zones are open.
    #[must_use]
    pub fn open_zones(&self) -> usize {
        self.zones.iter().filter(|zone| zone.is_open()).count()
    }

    /// How many zones are active.
    #[must_use]
    pub fn active_zones(&self) -> usize {
        self.zones.iter().filter(|zone| zone.is_active()).count()
    }

    /// The index of the zone that has a sector.
    #[must_use]
    pub fn index_of(&self, sector: u64) -> Option<usize> {
        let index = usize::try_from(sector / u64::from(self.setup.zone_sectors)).ok()?;
        let zone = self.zones.get(index)?;
        (sector < zone.start + zone.sectors).then_some(index)
    }

    /// The index of the zone that begins at a sector, if it is sequential.
    fn target(&self, sector: u64) -> Result<usize, Refused> {
        let index = self.index_of(sector).ok_or(INVALID)?;
        let zone = &self.zones[index];
        if zone.start == sector && zone.is_sequential() { Ok(index) } else { Err(INVALID) }
    }

    /// The indices of the zones that a range touches. A range that is not in one zone must be in conventional ones.
    fn touched(&self, sector: u64, sectors: u64) -> Result<std::ops::RangeInclusive<usize>, Refused> {
        let last = sector.checked_add(sectors.max(1) - 1).ok_or(INVALID)?;
        let (first, last) = (self.index_of(sector).ok_or(INVALID)?, self.index_of(last).ok_or(INVALID)?);
        if first != last && self.zones[first..=last].iter().any(Zone::is_sequential) {
            return Err(INVALID);
        }
        Ok(first..=last)
    }

    /// Whether a range can be read.
    ///
    /// # Errors
    ///
    /// ZONE_INVALID_CMD for more than one zone, unless all are conventional, and for a zone that is offline.
    pub fn check_read(&self, sector: u64, sectors: u64) -> Result<(), RequestStatus> {
        let offline = |index: usize| self.zones[index].state == ZoneState::OFFLINE;
        if self.touched(sector, sectors)?.any(offline) { Err(INVALID) } else { Ok(()) }
    }

    /// Whether a sector holds data, or may.
    #[must_use]
    pub fn is_written(&self, sector: u64) -> bool {
        let zone = self.index_of(sector).map(|index| &self.zones[index]);
        zone.is_some_and(|zone| !zone.is_sequential() || sector < zone.write_pointer())
    }

    /// Writes a range: in a sequential zone, at the write pointer.
    ///
    /// # Errors
    ///
    /// The status that the device answers, for a sequential zone: ZONE_UNALIGNED_WP away from the write pointer or
    /// with an end that is no multiple of the write granularity, ZONE_INVALID_CMD beyond the capacity, in several
    /// zones or in a state that cannot be written, and those for the want of open and active zones.
    pub fn write(&mut self, sector: u64, sectors: u64) -> Result<(), RequestStatus> {
        let touched = self.touched(sector, sectors)?;
        let index = *touched.start();
        if !self.zones[index].is_sequential() {
            let failed = |index: usize| matches!(self.zones[index].state, ZoneState::RDONLY | ZoneState::OFFLINE);
            return if touched.clone().any(failed) { Err(INVALID) } else { Ok(()) };
        }
        let zone = &self.zones[index];
        if !matches!(zone.state, ZoneState::EMPTY | ZoneState::IOPEN | ZoneState::EOPEN | ZoneState::CLOSED) {
            return Err(INVALID);
        }
        if sector != zone.write_pointer() {
            return Err(RequestStatus::ZONE_UNALIGNED_WP);
        }
        self.write_at_pointer(index, sectors)
    }

    /// Writes at the write pointer of the zone that begins at a sector. Returns the first sector that is written.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write); ZONE_INVALID_CMD for a sector that begins no sequential zone and for more
    /// sectors than `max_append_sectors`; UNSUPP where that is 0.
    pub fn append(&mut self, sector: u64, sectors: u64) -> Result<u64, RequestStatus> {
        if self.setup.max_append_sectors == 0 {
            return Err(RequestStatus::UNSUPP);
        }
        let index = self.target(sector)?;
        if sectors > u64::from(self.setup.max_append_sectors) {
            return Err(INVALID);
        }
        let zone = &self.zones[index];
        if !matches!(zone.state, ZoneState::EMPTY | ZoneState::IOPEN | ZoneState::EOPEN | ZoneState::CLOSED) {
            return Err(INVALID);
        }
        let start = zone.write_pointer();
        self.write_at_pointer(index, sectors)?;
        Ok(start)
    }

    /// Writes to a sequential zone that can be written.
    fn write_at_pointer(&mut self, index: usize, sectors: u64) -> Result<(), RequestStatus> {
        let zone = &self.zones[index];
        if sectors > zone.capacity - zone.written {
            return Err(INVALID);
        }
        let end_bytes = (zone.write_pointer() + sectors) * SECTOR_SIZE as u64;
        if !end_bytes.is_multiple_of(u64::from(self.setup.write_granularity_bytes.max(1))) {
            return Err(RequestStatus::ZONE_UNALIGNED_WP);
        }
        if sectors == 0 {
            return Ok(());
        }
        if !zone.is_open() {
            self.make_room(index)?;
            self.zones[index].state = ZoneState::IOPEN;
        }
        let zone = &mut self.zones[index];
        zone.written += sectors;
        if zone.written == zone.capacity {
            zone.state = ZoneState::FULL;
        }
        Ok(())
    }

    /// Sees to it that a zone that is not open can be opened.
    fn make_room(&mut self, index: usize) -> Result<(), RequestStatus> {
        let used_up = |limit: u32, count: usize| limit != 0 && count as u64 >= u64::from(limit);
        let zone = &self.zones[index];
        // Closing a zone does not make it inactive.
        if !zone.is_active() && used_up(self.setup.max_active, self.active_zones()) {
            return Err(RequestStatus::ZONE_ACTIVE_RESOURCE);
        }
        if used_up(self.setup.max_open, self.open_zones()) {
            let implicit = self.zones.iter_mut().find(|zone| zone.state == ZoneState::IOPEN);
            implicit.ok_or(RequestStatus::ZONE_OPEN_RESOURCE)?.state = ZoneState::CLOSED;
        }
        Ok(())
    }

    /// Opens the zone that begins at a sector explicitly.
    ///
    /// # Errors
    ///
    /// ZONE_INVALID_CMD if it is not sequential or cannot be written; those for the want of open and active zones.
    pub fn open(&mut self, sector: u64) -> Result<(), RequestStatus> {
        let index = self.target(sector)?;
        match self.zones[index].state {
            ZoneState::EMPTY | ZoneState::CLOSED => self.make_room(index)?,
            ZoneState::IOPEN | ZoneState::EOPEN => {}
            _ => return Err(INVALID),
        }
        self.zones[index].state = ZoneState::EOPEN;
        Ok(())
    }

    /// Closes the zone that begins at a sector: it is closed, or empty if nothing was written to it.
    ///
    /// # Errors
    ///
    /// ZONE_INVALID_CMD if it is neither open nor closed.
    pub fn close(&mut self, sector: u64) -> Result<(), RequestStatus> {
        let index = self.target(sector)?;
        let zone = &mut self.zones[index];
        zone.state = match zone.state {
            ZoneState::EOPEN if zone.written == 0 => ZoneState::EMPTY,
            ZoneState::IOPEN | ZoneState::EOPEN | ZoneState::CLOSED => ZoneState::CLOSED,
            _ => return Err(INVALID),
        };
        Ok(())
    }

    /// Makes the zone that begins at a sector full. What was not written to it has no data.
    ///
    /// # Errors
    ///
    /// ZONE_INVALID_CMD if it is neither open nor full.
    pub fn finish(&mut self, sector: u64) -> Result<(), RequestStatus> {
        let index = self.target(sector)?;
        let zone = &mut self.zones[index];
        zone.state = match zone.state {
            ZoneState::IOPEN | ZoneState::EOPEN | ZoneState::FULL => ZoneState::FULL,
            _ => return Err(INVALID),
        };
        Ok(())
    }

    /// Makes the zone that begins at a sector empty.
    ///
    /// # Errors
    ///
    /// ZONE_INVALID_CMD if it is not sequential, read-only or offline.
    pub fn reset(&mut self, sector: u64) -> Result<(), RequestStatus> {
        let index = self.target(sector)?;
        let zone = &mut self.zones[index];
        if matches!(zone.state, ZoneState::RDONLY | ZoneState::OFFLINE) {
            return Err(INVALID);
        }
        (zone.state, zone.written) = (ZoneState::EMPTY, 0);
        Ok(())
    }

    /// Makes all sequential zones empty but for those that are read-only or offline.
    pub fn reset_all(&mut self) {
        let starts: Vec<u64> = self.zones.iter().map(|zone| zone.start).collect();
        for start in starts {
            // Those that cannot be reset stay as they are.
            let _ = self.reset(start);
        }
    }

    /// Lets a zone fail: it becomes read-only or offline.
    ///
    /// # Panics
    ///
    /// If there is no such zone, if that is another state, or if an offline zone is to be read-only.
    pub fn fail(&mut self, index: usize, state: ZoneState) {
        let zone = &mut self.zones[index];
        assert!(matches!(state, ZoneState::RDONLY | ZoneState::OFFLINE), "{state} is no failure");
        assert!(zone.state != ZoneState::OFFLINE || state == ZoneState::OFFLINE, "an offline zone stays so");
        zone.state = state;
    }

    /// Loses sectors that were written: their zones go back to before the first of them. No zone stays open.
    pub(crate) fn power_cut(&mut self, lost: &[u64]) {
        for zone in self.zones.iter_mut().filter(|zone| zone.is_sequential()) {
            let inside = lost.iter().filter(|sector| (zone.start..zone.write_pointer()).contains(sector));
            if let Some(first) = inside.min() {
                zone.written = first - zone.start;
            } else if !zone.is_open() {
                continue;
            }
            zone.state = match zone.state {
                failed @ (ZoneState::RDONLY | ZoneState::OFFLINE) => failed,
                _ if zone.written == 0 => ZoneState::EMPTY,
                _ => ZoneState::CLOSED,
            };
        }
    }

    /// What a report says that begins with the zone which has a sector.
    ///
    /// # Errors
    ///
    /// ZONE_INVALID_CMD for a sector that no zone has.
    pub fn report(&self, sector: u64) -> Result<Vec<ZoneDescriptor>, RequestStatus> {
        let index = self.index_of(sector).ok_or(INVALID)?;
        Ok(self.zones[index..].iter().map(Zone::descriptor).collect())
    }
}
