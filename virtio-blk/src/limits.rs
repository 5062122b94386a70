//! What a device accepts, checked before it sees a request.

use virtio_spec::block::BlockFeatures;

use crate::SECTOR_BYTES;
use crate::error::Error;
use crate::features::FeatureSet;
use crate::info::Info;
use crate::request::Operation;

/// Two to this power is the size of a sector.
const SECTOR_SHIFT: u32 = SECTOR_BYTES.ilog2();

/// The limits of one disk, in the form in which requests are checked against them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) capacity_sectors: u64,
    pub(crate) block_bytes: u32,
    /// The bits of a number of bytes that are inside a block.
    block_mask: u64,
    /// The most data segments of a request.
    pub(crate) segments: u16,
    /// The most bytes that any one request can have: all segments at their longest, rounded down to blocks.
    pub(crate) request_max_bytes: usize,
    read_only: bool,
    flush: bool,
}

impl Limits {
    /// The limits of a disk, for requests of at the most `segments` data segments.
    pub(crate) fn new(info: &Info, segments: u16) -> Self {
        let segment = u64::from(info.size_max_bytes.unwrap_or(u32::MAX));
        // A chain has 2^32 bytes at the most, header and status included.
        let bytes = (segment * u64::from(segments)).min(1 << 31);
        let bytes = bytes - bytes % u64::from(info.block_bytes);
        Self {
            capacity_sectors: info.capacity_sectors,
            block_bytes: info.block_bytes,
            block_mask: u64::from(info.block_bytes - 1),
            segments,
            request_max_bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            read_only: info.read_only,
            flush: info.features.contains(BlockFeatures::FLUSH),
        }
    }

    /// Checks a read or a write of `bytes` bytes.
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
        Err(self.refuse(sector, bytes))
    }

    /// Why a read or write is refused.
    #[cold]
    #[inline(never)]
    fn refuse(&self, sector: u64, bytes: usize) -> Error {
        let (block_bytes, capacity_sectors) = (self.block_bytes, self.capacity_sectors);
        let (block_sectors, sectors) = (block_bytes >> SECTOR_SHIFT, bytes as u64 >> SECTOR_SHIFT);
        if bytes % block_bytes as usize != 0 {
            Error::UnalignedLength { bytes, block_bytes }
        } else if sector % u64::from(block_sectors) != 0 {
            Error::UnalignedSector { sector, block_sectors }
        } else if sector.checked_add(sectors).is_none_or(|end| end > capacity_sectors) {
            Error::BeyondCapacity { sector, sectors, capacity_sectors }
        } else {
            Error::ReadOnly
        }
    }

    /// Checks an operation that needs a feature.
    pub(crate) fn check_feature(&self, operation: Operation) -> Result<(), Error> {
        if operation == Operation::Flush && !self.flush {
            return Err(Error::NotNegotiated { operation, feature: FeatureSet::from(BlockFeatures::FLUSH) });
        }
        Ok(())
    }
}
