//! A chain that is being built.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use crate::error::ChainError;
use crate::memory::{Access, Memory, Piece};
use crate::ring::{Ring, RingFormat, Split};
use crate::segment::Segment;
use crate::shared::{Shared, SharedDescriptor};
use crate::slot::{Attachment, Slot, SlotMemory, State, Token, inside};

/// The most bytes that a chain has (2.7.5.2).
const CHAIN_BYTES_MAX: u64 = 1 << 32;

/// A chain that is being built, in a slot that was taken for it. What the device reads comes first, then what it
/// writes.
///
/// Dropped without [`submit`](Chain::submit), it ends the mappings that it made and frees its slot.
pub struct Chain<'q, M: Memory, T: Attachment, R: RingFormat = Split> {
    pub(crate) ring: &'q mut R::Ring<M>,
    /// The first free slot.
    pub(crate) first_free: &'q mut u16,
    pub(crate) memory: &'q M,
    pub(crate) slot: &'q mut Slot<T>,
    pub(crate) slot_memory: SlotMemory<'q, T>,
    /// The device address of the slot's shared bytes.
    pub(crate) slot_address: u64,
    /// The indirect table behind the slot's shared bytes, with room for `chain_max` descriptors. `None`: direct.
    pub(crate) table: Option<NonNull<SharedDescriptor>>,
    /// Its device address.
    pub(crate) table_address: u64,
    /// Room for `chain_max` segments, or none where the shared table is all that is needed.
    pub(crate) segments: &'q mut [Segment],
    pub(crate) chain_max: u16,
    pub(crate) segment_max_bytes: u32,
    pub(crate) little_endian: bool,
    pub(crate) id: u16,
    pub(crate) count: u16,
    pub(crate) bytes: u64,
    /// How many of them the device writes.
    pub(crate) writable_bytes: u64,
    /// Length and access of the last descriptor.
    pub(crate) last: (u32, Access),
}

/// A chain that could not be submitted, and what was to be attached to it.
#[derive(Debug)]
pub struct SubmitError<T> {
    /// Why not.
    pub error: ChainError,
    /// What was to be attached.
    pub attachment: T,
}

impl<'q, M: Memory, T: Attachment, R: RingFormat> Chain<'q, M, T, R> {
    /// The slot's own shared memory.
    #[inline(always)]
    pub fn slot(&self) -> &SlotMemory<'_, T> {
        &self.slot_memory
    }

    /// Adds a part of the slot's own memory, from `offset` on, as one descriptor. An empty part adds none.
    ///
    /// # Errors
    ///
    /// [`ChainError::OutsideSlot`], [`ChainError::TooManyDescriptors`], [`ChainError::ReadableAfterWritable`].
    #[inline(always)]
    pub fn slot_part(&mut self, offset: usize, bytes: usize, access: Access) -> Result<(), ChainError> {
        inside::<T>(offset, bytes)?;
        let Ok(bytes) = u32::try_from(bytes) else {
            return Err(ChainError::TooManyBytes);
        };
        if bytes == 0 {
            return Ok(());
        }
        self.push(Segment {
            start: None,
            device_address: self.slot_address.wrapping_add(offset as u64),
            bytes,
            access,
            mapped_bytes: 0,
        })
    }

    /// Adds a buffer: one descriptor for each piece of it that is contiguous for the device and no longer than the
    /// longest segment. An empty buffer adds none.
    ///
    /// # Errors
    ///
    /// What [`slot_part`](Chain::slot_part) returns, and [`ChainError::Memory`]. Part of the buffer may have been added
    /// then: drop the chain.
    ///
    /// # Safety
    ///
    /// `start` is valid for reads of `bytes` bytes, and for writes if the device writes them, until one of these: the
    /// chain was dropped without having been submitted; what is attached to it was taken from the queue
    /// ([`Used::take`](crate::Used::take)) after the device had used it, or after it was
    /// [retired](crate::Queue::retire) from a ring that had been restarted; or the device has acknowledged a reset and
    /// the queue was dropped. Until then nobody else writes to them, nor reads them if the device writes. A reset
    /// alone is not the end: the chain may be [reissued](crate::Queue::reissue), and what it has mapped is still mapped.
    #[inline(always)]
    pub unsafe fn buffer(&mut self, start: NonNull<u8>, bytes: usize, access: Access) -> Result<(), ChainError> {
        let mut done = 0;
        while done < bytes {
            // SAFETY: `done` is less than `bytes`, for which `start` is valid.
            let from = unsafe { start.add(done) };
            // SAFETY: the rest of the buffer is valid as long as the caller promises.
            let piece = unsafe { self.memory.map(from, bytes - done, access) }?;
            let mapped = piece.bytes.min(bytes - done);
            if mapped == 0 {
                return Err(ChainError::Memory(crate::MemoryError::NotMapped { address: from.addr().get() }));
            }
            self.piece(from, Piece { bytes: mapped, ..piece }, access)?;
            done += mapped;
        }
        Ok(())
    }

    /// Adds a piece that was just mapped: as one segment, or as several if it is longer than one may be.
    // Inlined whole, loop and all: what is passed by reference to a function has to be in memory, and all of a chain
    // is in registers while it is built.
    #[inline(always)]
    fn piece(&mut self, start: NonNull<u8>, piece: Piece, access: Access) -> Result<(), ChainError> {
        let mut segment = Segment {
            start: Some(start),
            device_address: piece.device_address,
            bytes: 0,
            access,
            mapped_bytes: piece.bytes,
        };
        let mut left = piece.bytes;
        while left > 0 {
            // At the most `segment_max_bytes`, so it is not cut off.
            let bytes = left.min(self.segment_max_bytes as usize) as u32;
            segment.bytes = bytes;
            if let Err(error) = self.push(segment) {
                // The mapping of a segment that was recorded ends with the chain; this one's ends here.
                if M::UNMAPS {
                    // SAFETY: the chain was not submitted, and the segment was not recorded.
                    unsafe { segment.unmap(self.memory) };
                }
                return Err(error);
            }
            left -= bytes as usize;
            segment.start = None;
            segment.device_address = segment.device_address.wrapping_add(u64::from(bytes));
        }
        Ok(())
    }

    /// Adds one descriptor.
    #[inline(always)]
    fn push(&mut self, segment: Segment) -> Result<(), ChainError> {
        if segment.access == Access::DeviceReads && self.writable_bytes > 0 {
            return Err(ChainError::ReadableAfterWritable);
        }
        if self.count >= self.chain_max {
            return Err(ChainError::TooManyDescriptors { max: self.chain_max });
        }
        if segment.access == Access::DeviceWrites {
            self.writable_bytes += u64::from(segment.bytes);
        }
        self.bytes += u64::from(segment.bytes);
        let table = self.table_entry(self.count);
        if M::UNMAPS || table.is_none() {
            if let Some(recorded) = self.segments.get_mut(usize::from(self.count)) {
                *recorded = segment;
            }
        }
        self.count += 1;
        if let Some(entry) = table {
            let address = segment.device_address;
            entry.at(0).address.store(if self.little_endian { address.to_le() } else { address });
            entry.at(0).rest.store(self.ring.table_entry(segment.bytes, segment.access, Some(self.count)));
        }
        self.last = (segment.bytes, segment.access);
        Ok(())
    }

    /// The descriptor `index` of the slot's table, which must be less than `chain_max`.
    #[inline(always)]
    fn table_entry(&self, index: u16) -> Option<Shared<SharedDescriptor>> {
        let table = self.table?;
        // SAFETY: callers hold `index < chain_max`, the length of the table.
        Some(unsafe { Shared::one(table.add(usize::from(index)).cast(), 0) })
    }

    /// Puts the chain on the ring. The device sees it after [`Queue::commit`](crate::Queue::commit).
    ///
    /// # Errors
    ///
    /// [`ChainError::Empty`]; [`ChainError::TooManyBytes`]; [`ChainError::Full`] on a queue without INDIRECT_DESC that
    /// has too few free descriptors left for this chain. What was to be attached comes back.
    #[inline(always)]
    pub fn submit(self, attachment: T) -> Result<Token, SubmitError<T>> {
        match self.check() {
            Ok(()) => Ok(Ready(self).submit(attachment)),
            Err(error) => Err(SubmitError { error, attachment }),
        }
    }

    /// Checks that the chain can go on the ring: nothing can fail after it.
    ///
    /// # Errors
    ///
    /// Those of [`submit`](Chain::submit).
    #[inline(always)]
    pub fn ready(self) -> Result<Ready<'q, M, T, R>, ChainError> {
        self.check()?;
        Ok(Ready(self))
    }

    /// Whether the chain can go on the ring.
    #[inline(always)]
    fn check(&self) -> Result<(), ChainError> {
        if self.count == 0 {
            return Err(ChainError::Empty);
        }
        if self.bytes > CHAIN_BYTES_MAX {
            return Err(ChainError::TooManyBytes);
        }
        // Where the ring chose the id, the head was taken when the chain was begun.
        if self.table.is_none() && self.count - u16::from(self.ring.numbers_slots()) > self.ring.free() {
            return Err(ChainError::Full);
        }
        Ok(())
    }
}

/// A chain that can go on the ring. Made by [`Chain::ready`].
pub struct Ready<'q, M: Memory, T: Attachment, R: RingFormat = Split>(Chain<'q, M, T, R>);

impl<M: Memory, T: Attachment, R: RingFormat> Ready<'_, M, T, R> {
    /// Puts the chain on the ring. The device sees it after [`Queue::commit`](crate::Queue::commit).
    #[inline(always)]
    pub fn submit(self, attachment: T) -> Token {
        let mut chain = ManuallyDrop::new(self.0);
        let chain = &mut *chain;
        let (id, count) = (chain.id, chain.count);
        match chain.table_entry(count.wrapping_sub(1)) {
            Some(last) => {
                let (bytes, access) = chain.last;
                last.at(0).rest.store(chain.ring.table_entry(bytes, access, None));
                chain.ring.prepare(id, chain.table_address, count);
                chain.ring.add(id, chain.table_address, count);
            }
            None => chain.ring.add_direct(id, chain.segments.get(..usize::from(count)).unwrap_or_default()),
        }
        let slot = &mut *chain.slot;
        // SAFETY: it is a place for such a value. Nothing is dropped that was there before, as the slot was free.
        unsafe { core::ptr::from_mut(&mut slot.attachment).write(Some(attachment)) };
        // A device can say no more than fits either.
        slot.writable_bytes = u32::try_from(chain.writable_bytes).unwrap_or(u32::MAX);
        slot.segments = count;
        slot.state = State::InFlight;
        Token { id, generation: slot.generation }
    }
}

impl<M: Memory, T: Attachment, R: RingFormat> Drop for Chain<'_, M, T, R> {
    #[inline(always)]
    fn drop(&mut self) {
        if M::UNMAPS {
            for segment in self.segments.iter_mut().take(usize::from(self.count)) {
                // SAFETY: the device never saw the chain; each segment is unmapped once, here.
                unsafe { segment.unmap(self.memory) };
            }
        }
        if self.ring.numbers_slots() {
            self.ring.unreserve(self.id);
        } else {
            self.slot.next = *self.first_free;
            *self.first_free = self.id;
        }
    }
}
