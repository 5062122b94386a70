//! The fields of the configuration space.

use virtio_spec::block::{BlockConfig, BlockFeatures};
use zerocopy::IntoBytes;

/// A field of the configuration space.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) offset: usize,
    pub(crate) width: usize,
    /// The feature that it exists through.
    pub(crate) feature: BlockFeatures,
}

const fn field(name: &'static str, offset: usize, width: usize, feature: BlockFeatures) -> Field {
    Field { name, offset, width, feature }
}

/// Where the capacity is.
pub(crate) const CAPACITY_OFFSET: usize = 0;

/// Where the cache mode is.
pub(crate) const WRITEBACK_OFFSET: usize = 32;

/// All fields (5.2.4).
const FIELDS: &[Field] = &[
    field("capacity", CAPACITY_OFFSET, 8, BlockFeatures::empty()),
    field("size_max", 8, 4, BlockFeatures::SIZE_MAX),
    field("seg_max", 12, 4, BlockFeatures::SEG_MAX),
    field("geometry.cylinders", 16, 2, BlockFeatures::GEOMETRY),
    field("geometry.heads", 18, 1, BlockFeatures::GEOMETRY),
    field("geometry.sectors", 19, 1, BlockFeatures::GEOMETRY),
    field("blk_size", 20, 4, BlockFeatures::BLK_SIZE),
    field("topology.physical_block_exp", 24, 1, BlockFeatures::TOPOLOGY),
    field("topology.alignment_offset", 25, 1, BlockFeatures::TOPOLOGY),
    field("topology.min_io_size", 26, 2, BlockFeatures::TOPOLOGY),
    field("topology.opt_io_size", 28, 4, BlockFeatures::TOPOLOGY),
    field("writeback", WRITEBACK_OFFSET, 1, BlockFeatures::CONFIG_WCE),
    field("num_queues", 34, 2, BlockFeatures::MQ),
    field("max_discard_sectors", 36, 4, BlockFeatures::DISCARD),
    field("max_discard_seg", 40, 4, BlockFeatures::DISCARD),
    field("discard_sector_alignment", 44, 4, BlockFeatures::DISCARD),
    field("max_write_zeroes_sectors", 48, 4, BlockFeatures::WRITE_ZEROES),
    field("max_write_zeroes_seg", 52, 4, BlockFeatures::WRITE_ZEROES),
    field("write_zeroes_may_unmap", 56, 1, BlockFeatures::WRITE_ZEROES),
    field("max_secure_erase_sectors", 60, 4, BlockFeatures::SECURE_ERASE),
    field("max_secure_erase_seg", 64, 4, BlockFeatures::SECURE_ERASE),
    field("secure_erase_sector_alignment", 68, 4, BlockFeatures::SECURE_ERASE),
    field("zoned.zone_sectors", 72, 4, BlockFeatures::ZONED),
    field("zoned.max_open_zones", 76, 4, BlockFeatures::ZONED),
    field("zoned.max_active_zones", 80, 4, BlockFeatures::ZONED),
    field("zoned.max_append_sectors", 84, 4, BlockFeatures::ZONED),
    field("zoned.write_granularity", 88, 4, BlockFeatures::ZONED),
    field("zoned.model", 92, 1, BlockFeatures::ZONED),
];

/// The field that has a byte; padding belongs to none.
pub(crate) fn field_at(offset: usize) -> Option<&'static Field> {
    FIELDS.iter().find(|field| (field.offset..field.offset + field.width).contains(&offset))
}

/// The configuration space as it is in memory: little-endian, or for a legacy device in the machine's byte order,
/// with all ones where a field does not exist.
pub(crate) fn bytes_of(config: &BlockConfig, offered: u64, legacy: bool) -> [u8; size_of::<BlockConfig>()] {
    let mut bytes = [0; size_of::<BlockConfig>()];
    bytes.copy_from_slice(config.as_bytes());
    for field in FIELDS {
        let bytes = &mut bytes[field.offset..field.offset + field.width];
        if offered & field.feature.bits() != field.feature.bits() {
            bytes.fill(0xff);
        } else if legacy && cfg!(target_endian = "big") {
            bytes.reverse();
        }
    }
    bytes
}
