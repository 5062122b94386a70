//! A request on its way to the device: the chain of header, data and status, and what is in the slot of it (5.2.6,
//! "Device Operation").

use core::ptr::NonNull;

use virtqueue::{Access, ChainError, Memory, Queue as Ring, Ready, RingFormat, SlotMemory};

use crate::buffer::Buffer;
use crate::erase::Ranges;
use crate::request::{Operation, Pending, slot};

/// What the device does with the data of an operation.
#[inline(always)]
pub(crate) fn access(operation: Operation) -> Access {
    if matches!(operation, Operation::Write | Operation::ZoneAppend) {
        Access::DeviceReads
    } else {
        Access::DeviceWrites
    }
}

/// Builds the chain of a request.
///
/// # Safety
///
/// As for `Queue::start`.
pub(crate) unsafe fn chain<M: Memory, B: Buffer, R: RingFormat>(
    ring: &mut Ring<M, Pending<B>, R>,
    operation: Operation,
    sector: u64,
    data: impl Iterator<Item = (NonNull<u8>, usize)>,
) -> Result<Ready<'_, M, Pending<B>, R>, ChainError> {
    let mut chain = ring.chain()?;
    write_header(chain.slot(), operation, sector);
    chain.slot_part(slot::HEADER, slot::HEADER_BYTES, Access::DeviceReads)?;
    for (start, bytes) in data {
        // SAFETY: as the caller promises.
        unsafe { chain.buffer(start, bytes, access(operation)) }?;
    }
    if operation == Operation::ZoneAppend {
        // A sector that no disk has: what was there before must not be taken for an answer.
        chain.slot().store(slot::TAIL, &u64::MAX.to_le_bytes())?;
        chain.slot_part(slot::TAIL, slot::TAIL_BYTES, Access::DeviceWrites)?;
    } else {
        chain.slot_part(slot::STATUS, slot::STATUS_BYTES, Access::DeviceWrites)?;
    }
    chain.ready()
}

/// Builds the chain of a request whose data are ranges, of which there is room for in the slot.
pub(crate) fn range_chain<'q, M: Memory, B: Buffer, R: RingFormat>(
    ring: &'q mut Ring<M, Pending<B>, R>,
    operation: Operation,
    sector: u64,
    ranges: Ranges<'_>,
) -> Result<Ready<'q, M, Pending<B>, R>, ChainError> {
    // With the legacy interface, the device has the byte order of the machine.
    let little_endian = ring.settings().contiguous_align.is_none();
    let mut chain = ring.chain()?;
    let mut bytes = 0;
    for range in ranges.encoded(little_endian) {
        chain.slot().store(slot::RANGES + bytes, &range)?;
        bytes += slot::RANGE_BYTES;
    }
    write_header(chain.slot(), operation, sector);
    chain.slot_part(slot::HEADER, slot::HEADER_BYTES, Access::DeviceReads)?;
    chain.slot_part(slot::RANGES, bytes, Access::DeviceReads)?;
    chain.slot_part(slot::STATUS, slot::STATUS_BYTES, Access::DeviceWrites)?;
    chain.ready()
}

/// The sector that the device has left as the place of an append. Read once.
pub(crate) fn appended_sector<B: Buffer>(slot: &SlotMemory<'_, Pending<B>>) -> u64 {
    let mut bytes = [0; 8];
    // It lies inside the slot. The last number is in no zone.
    slot.load(slot::TAIL, &mut bytes).map_or(u64::MAX, |()| u64::from_le_bytes(bytes))
}

/// Writes the header of a request, and a status that no device leaves there. `sector` as it is [kept](Pending::sector).
#[inline(always)]
pub(crate) fn write_header<B: Buffer>(header: &SlotMemory<'_, Pending<B>>, operation: Operation, sector: u64) {
    header.store_u32::<{ slot::TYPE }>(operation.request_type().0);
    header.store_u64::<{ slot::SECTOR }>(operation.header_sector(sector));
    header.store_u8::<{ slot::STATUS }>(slot::UNANSWERED);
}
