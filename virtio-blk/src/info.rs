//! What a disk says of itself.

use core::mem::offset_of;

use virtio_spec::block::{
    BlockConfig, BlockFeatures, CacheMode as CacheModeByte, Geometry as GeometryConfig, Topology as TopologyConfig,
    ZoneModel, ZonedCharacteristics,
};
use virtio_transport::{ConfigError, ConfigSpace, Transport};

use crate::erase::SectorRange;
use crate::error::OpenError;
use crate::features::FeatureSet;
use crate::{SECTOR_BYTES, sectors_to_bytes};

/// What a disk says of itself in its configuration space (5.2.4, "Device configuration layout").
///
/// A field that the specification ties to a feature is `Some` only if that feature was negotiated: without it, a device
/// may have anything there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// The features that were negotiated.
    pub features: FeatureSet,
    /// The number of sectors of 512 bytes, whatever the block size.
    pub capacity_sectors: u64,
    /// The device takes no writes (RO).
    pub read_only: bool,
    /// The logical block size in bytes: requests start and end at multiples of it. A power of two, 512 without
    /// BLK_SIZE.
    pub block_bytes: u32,
    /// The geometry of old (GEOMETRY). It says nothing about the capacity.
    pub geometry: Option<Geometry>,
    /// Sizes and alignment that suit the device (TOPOLOGY).
    pub topology: Option<Topology>,
    /// The most bytes of one data segment (SIZE_MAX); `None`: no limit.
    pub size_max_bytes: Option<u32>,
    /// The most data segments of one request (SEG_MAX); 1 where the device says nothing.
    pub seg_max: u32,
    /// Whether the cache mode can be changed (CONFIG_WCE).
    pub cache_mode_can_change: bool,
    /// The number of request queues (MQ); 1 without.
    pub num_queues: u16,
    /// Limits of discard requests (DISCARD).
    pub discard: Option<EraseLimits>,
    /// Limits of write-zeroes requests (WRITE_ZEROES); they have no alignment.
    pub write_zeroes: Option<EraseLimits>,
    /// Whether a write-zeroes request may free the sectors on the device.
    pub write_zeroes_may_unmap: bool,
    /// Limits of secure-erase requests (SECURE_ERASE).
    pub secure_erase: Option<EraseLimits>,
    /// The zones (ZONED); `None` also for a device that has the feature and no zones.
    pub zoned: Option<Zoned>,
}

/// Cylinders, heads and sectors, for software that still asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The number of cylinders.
    pub cylinders: u16,
    /// The number of heads.
    pub heads: u8,
    /// The number of sectors of a track.
    pub sectors: u8,
}

/// Sizes and alignment that suit a device, in bytes. They are hints: requests need not follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The size of a physical block.
    pub physical_block_bytes: u64,
    /// Where the first physical block starts that is aligned.
    pub alignment_offset_bytes: u64,
    /// The smallest size that costs nothing extra.
    pub min_io_bytes: u64,
    /// The size that suits best; 0: the device does not say.
    pub opt_io_bytes: u64,
}

/// The limits of requests that erase ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EraseLimits {
    /// The most sectors of one range. 0, which the specification does not have, is taken for any number.
    pub max_sectors: u32,
    /// The most ranges of one request. 0, which the specification does not have, is taken for one.
    pub max_segments: u32,
    /// Ranges start and end at multiples of this many sectors, and of whole blocks; at least 1.
    pub alignment_sectors: u32,
}

impl EraseLimits {
    /// The part of a range that is aligned: for a discard, which may leave out what it cannot do. `None`: there is none.
    ///
    /// ```
    /// use virtio_blk::{EraseLimits, SectorRange};
    ///
    /// let limits = EraseLimits { max_sectors: 1024, max_segments: 1, alignment_sectors: 8 };
    /// let freed = SectorRange { sector: 3, sectors: 30 };
    /// assert_eq!(limits.aligned_part(freed), Some(SectorRange { sector: 8, sectors: 24 }));
    /// ```
    #[must_use]
    pub fn aligned_part(&self, range: SectorRange) -> Option<SectorRange> {
        let alignment = u64::from(self.alignment_sectors.max(1));
        let sector = range.sector.checked_next_multiple_of(alignment)?;
        let end = range.sector.checked_add(range.sectors)?;
        let end = end - end % alignment;
        let sectors = end.checked_sub(sector).filter(|sectors| *sectors > 0)?;
        Some(SectorRange { sector, sectors })
    }
}

/// How a zoned device is divided, and what it allows (5.2.4, "Device configuration layout").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zoned {
    /// Who keeps the order of writes: [`ZoneModel::HM`], the driver must; [`ZoneModel::HA`], it should.
    pub model: ZoneModel,
    /// The size of a zone in sectors; the last one may be smaller. Not 0.
    pub zone_sectors: u32,
    /// How many zones can be open at a time; `None`: any number.
    pub max_open_zones: Option<u32>,
    /// How many zones can be open or closed, that is, partly written, at a time; `None`: any number.
    pub max_active_zones: Option<u32>,
    /// The most sectors of an append; 0: the device has no appends.
    pub max_append_sectors: u32,
    /// What position and length of a write to a sequential zone are multiples of, in bytes. Not 0.
    pub write_granularity_bytes: u32,
}

impl Zoned {
    /// The first sector of the zone that a sector is in.
    #[must_use]
    pub fn zone_start(&self, sector: u64) -> u64 {
        sector - sector % u64::from(self.zone_sectors.max(1))
    }

    /// Whether writes to sequential zones must be in order, and no request may go beyond its zone.
    pub(crate) fn is_host_managed(&self) -> bool {
        self.model == ZoneModel::HM
    }
}

/// When a completed write is safe from a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// When a flush that was submitted after it has completed.
    WriteBack,
    /// When it has completed.
    WriteThrough,
}

impl CacheMode {
    pub(crate) fn from_byte(byte: u8) -> Self {
        if byte == CacheModeByte::WRITETHROUGH.0 { Self::WriteThrough } else { Self::WriteBack }
    }

    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::WriteBack => CacheModeByte::WRITEBACK.0,
            Self::WriteThrough => CacheModeByte::WRITETHROUGH.0,
        }
    }
}

/// The offset of the byte that holds the cache mode.
pub(crate) const WRITEBACK: usize = offset_of!(BlockConfig, writeback);

/// Whether a device that offers ZONED is host-managed: then DISCARD is not accepted (5.2.5.1).
pub(crate) fn is_host_managed<T: Transport>(config: &ConfigSpace<'_, T>) -> Result<bool, ConfigError> {
    let model = config.u8(offset_of!(BlockConfig, zoned) + offset_of!(ZonedCharacteristics, model))?;
    Ok(ZoneModel(model) == ZoneModel::HM)
}

/// Reads the capacity: a field that is always valid.
pub(crate) fn read_capacity<T: Transport>(config: &ConfigSpace<'_, T>) -> Result<u64, ConfigError> {
    config.u64(offset_of!(BlockConfig, capacity))
}

impl Info {
    /// Reads those fields that the features make valid. To be called by
    /// [`read_config`](virtio_transport::read_config), which calls it again when the device changes them meanwhile.
    pub(crate) fn read<T: Transport>(
        features: FeatureSet,
        config: &ConfigSpace<'_, T>,
    ) -> Result<RawInfo, ConfigError> {
        const GEOMETRY: usize = offset_of!(BlockConfig, geometry);
        const TOPOLOGY: usize = offset_of!(BlockConfig, topology);
        const ZONED: usize = offset_of!(BlockConfig, zoned);
        let has = |feature: BlockFeatures| features.contains(feature);
        let limits = |feature, max_sectors, max_segments, alignment: Option<usize>| {
            if !has(feature) {
                return Ok(None);
            }
            Ok(Some(EraseLimits {
                max_sectors: config.u32(max_sectors)?,
                max_segments: config.u32(max_segments)?,
                alignment_sectors: alignment.map_or(Ok(1), |offset| config.u32(offset))?.max(1),
            }))
        };
        Ok(RawInfo {
            capacity_sectors: read_capacity(config)?,
            size_max: optional(has(BlockFeatures::SIZE_MAX), || config.u32(offset_of!(BlockConfig, size_max)))?,
            seg_max: optional(has(BlockFeatures::SEG_MAX), || config.u32(offset_of!(BlockConfig, seg_max)))?,
            geometry: optional(has(BlockFeatures::GEOMETRY), || {
                Ok(Geometry {
                    cylinders: config.u16(GEOMETRY + offset_of!(GeometryConfig, cylinders))?,
                    heads: config.u8(GEOMETRY + offset_of!(GeometryConfig, heads))?,
                    sectors: config.u8(GEOMETRY + offset_of!(GeometryConfig, sectors))?,
                })
            })?,
            blk_size: optional(has(BlockFeatures::BLK_SIZE), || config.u32(offset_of!(BlockConfig, blk_size)))?,
            topology: optional(has(BlockFeatures::TOPOLOGY), || {
                Ok(RawTopology {
                    physical_block_exp: config.u8(TOPOLOGY + offset_of!(TopologyConfig, physical_block_exp))?,
                    alignment_offset: config.u8(TOPOLOGY + offset_of!(TopologyConfig, alignment_offset))?,
                    min_io_size: config.u16(TOPOLOGY + offset_of!(TopologyConfig, min_io_size))?,
                    opt_io_size: config.u32(TOPOLOGY + offset_of!(TopologyConfig, opt_io_size))?,
                })
            })?,
            num_queues: optional(has(BlockFeatures::MQ), || config.u16(offset_of!(BlockConfig, num_queues)))?,
            discard: limits(
                BlockFeatures::DISCARD,
                offset_of!(BlockConfig, max_discard_sectors),
                offset_of!(BlockConfig, max_discard_seg),
                Some(offset_of!(BlockConfig, discard_sector_alignment)),
            )?,
            write_zeroes: limits(
                BlockFeatures::WRITE_ZEROES,
                offset_of!(BlockConfig, max_write_zeroes_sectors),
                offset_of!(BlockConfig, max_write_zeroes_seg),
                None,
            )?,
            write_zeroes_may_unmap: optional(has(BlockFeatures::WRITE_ZEROES), || {
                config.u8(offset_of!(BlockConfig, write_zeroes_may_unmap))
            })?,
            secure_erase: limits(
                BlockFeatures::SECURE_ERASE,
                offset_of!(BlockConfig, max_secure_erase_sectors),
                offset_of!(BlockConfig, max_secure_erase_seg),
                Some(offset_of!(BlockConfig, secure_erase_sector_alignment)),
            )?,
            zoned: optional(has(BlockFeatures::ZONED), || {
                Ok(RawZoned {
                    zone_sectors: config.u32(ZONED + offset_of!(ZonedCharacteristics, zone_sectors))?,
                    max_open_zones: config.u32(ZONED + offset_of!(ZonedCharacteristics, max_open_zones))?,
                    max_active_zones: config.u32(ZONED + offset_of!(ZonedCharacteristics, max_active_zones))?,
                    max_append_sectors: config.u32(ZONED + offset_of!(ZonedCharacteristics, max_append_sectors))?,
                    write_granularity: config.u32(ZONED + offset_of!(ZonedCharacteristics, write_granularity))?,
                    model: config.u8(ZONED + offset_of!(ZonedCharacteristics, model))?,
                })
            })?,
        })
    }

    /// Checks what was read, and resolves exponents and defaults.
    pub(crate) fn new(features: FeatureSet, raw: &RawInfo) -> Result<Self, OpenError> {
        let block_bytes = raw.blk_size.unwrap_or(SECTOR_BYTES as u32);
        if !block_bytes.is_power_of_two() || block_bytes < SECTOR_BYTES as u32 {
            return Err(OpenError::BlockSize { found: block_bytes });
        }
        let zoned = match raw.zoned {
            Some(zoned) if ZoneModel(zoned.model) != ZoneModel::NONE => Some(zoned.resolve(block_bytes)?),
            _ => None,
        };
        Ok(Self {
            features,
            capacity_sectors: raw.capacity_sectors,
            read_only: features.contains(BlockFeatures::RO),
            block_bytes,
            geometry: raw.geometry,
            topology: raw.topology.map(|topology| topology.resolve(block_bytes)),
            size_max_bytes: raw.size_max.filter(|size| *size > 0),
            seg_max: raw.seg_max.unwrap_or(1).max(1),
            cache_mode_can_change: features.contains(BlockFeatures::CONFIG_WCE),
            num_queues: raw.num_queues.unwrap_or(1).max(1),
            discard: raw.discard,
            write_zeroes: raw.write_zeroes,
            write_zeroes_may_unmap: raw.write_zeroes_may_unmap.is_some_and(|byte| byte != 0),
            secure_erase: raw.secure_erase,
            zoned,
        })
    }

    /// The capacity in bytes; the largest number that there is, should the device claim more.
    pub fn capacity_bytes(&self) -> u64 {
        sectors_to_bytes(self.capacity_sectors)
    }

    /// The number of sectors of a logical block.
    pub fn block_sectors(&self) -> u32 {
        self.block_bytes / SECTOR_BYTES as u32
    }
}

fn optional<V>(valid: bool, read: impl FnOnce() -> Result<V, ConfigError>) -> Result<Option<V>, ConfigError> {
    if valid { read().map(Some) } else { Ok(None) }
}

/// The fields as the device has them; `None` where no feature makes them valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawInfo {
    capacity_sectors: u64,
    size_max: Option<u32>,
    seg_max: Option<u32>,
    geometry: Option<Geometry>,
    blk_size: Option<u32>,
    topology: Option<RawTopology>,
    num_queues: Option<u16>,
    discard: Option<EraseLimits>,
    write_zeroes: Option<EraseLimits>,
    write_zeroes_may_unmap: Option<u8>,
    secure_erase: Option<EraseLimits>,
    zoned: Option<RawZoned>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct RawZoned {
    zone_sectors: u32,
    max_open_zones: u32,
    max_active_zones: u32,
    max_append_sectors: u32,
    write_granularity: u32,
    model: u8,
}

impl RawZoned {
    /// Zones are whole blocks; a limit of 0 is none.
    fn resolve(self, block_bytes: u32) -> Result<Zoned, OpenError> {
        let block_sectors = block_bytes / SECTOR_BYTES as u32;
        if self.zone_sectors == 0 || self.zone_sectors % block_sectors != 0 {
            return Err(OpenError::ZoneSize { found: self.zone_sectors, block_sectors });
        }
        let limit = |limit: u32| (limit != 0).then_some(limit);
        Ok(Zoned {
            model: ZoneModel(self.model),
            zone_sectors: self.zone_sectors,
            max_open_zones: limit(self.max_open_zones),
            max_active_zones: limit(self.max_active_zones),
            max_append_sectors: self.max_append_sectors,
            write_granularity_bytes: self.write_granularity.max(block_bytes),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct RawTopology {
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: u16,
    opt_io_size: u32,
}

impl RawTopology {
    /// In bytes: the device counts in logical blocks. A hint that no number can hold becomes the largest number.
    fn resolve(self, block_bytes: u32) -> Topology {
        let block_bytes = u64::from(block_bytes);
        let physical_blocks = 1_u64.checked_shl(u32::from(self.physical_block_exp)).unwrap_or(u64::MAX);
        Topology {
            physical_block_bytes: physical_blocks.saturating_mul(block_bytes),
            alignment_offset_bytes: u64::from(self.alignment_offset) * block_bytes,
            min_io_bytes: u64::from(self.min_io_size) * block_bytes,
            opt_io_bytes: u64::from(self.opt_io_size) * block_bytes,
        }
    }
}
