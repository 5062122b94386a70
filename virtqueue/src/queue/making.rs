//! How a queue is made, and how much memory that takes.

use virtio_spec::split_ring::MAX_QUEUE_SIZE;

use super::{MIN_QUEUE_SIZE, Queue, SLOT_ALIGN};
use crate::error::QueueSetupError;
use crate::layout::{PackedLayout, SplitLayout};
use crate::memory::{Access, Memory, MemoryError, PageRequest, Purpose};
use crate::owned::{OwnedPages, PrivateSlice};
use crate::ring::{Ring, RingFormat};
use crate::segment::Segment;
use crate::settings::{MemoryNeed, Settings};
use crate::shared::SharedDescriptor;
use crate::slot::{Attachment, Frame, Slot, State};

impl<M: Memory, T: Attachment, R: RingFormat> Queue<M, T, R> {
    /// Where the indirect table of a slot starts, behind the driver's own bytes.
    pub(super) const TABLE_OFFSET: usize = T::SLOT_BYTES.next_multiple_of(size_of::<SharedDescriptor>());

    /// A frame is part of the slot's own bytes.
    const FRAME_IS_INSIDE: () = if let Some(Frame { header, status }) = T::FRAME {
        assert!(header.0 + header.1 as usize <= T::SLOT_BYTES && status.0 + status.1 as usize <= T::SLOT_BYTES);
        assert!(header.1 > 0 && status.1 > 0, "a descriptor is never empty");
    };

    /// The distance from one slot to the next in shared memory.
    pub(super) const fn slot_stride(settings: &Settings) -> usize {
        let table = if settings.indirect { settings.chain_max as usize * size_of::<SharedDescriptor>() } else { 0 };
        let bytes = (Self::TABLE_OFFSET + table).next_multiple_of(SLOT_ALIGN);
        if bytes == 0 { SLOT_ALIGN } else { bytes }
    }

    /// The number of segments that are kept for each slot in private memory.
    const fn recorded(settings: &Settings) -> usize {
        // An indirect table says all about a chain, unless the kernel wants to know what to unmap: the table lies in
        // shared memory, so the driver does not read it back.
        if M::UNMAPS || !settings.indirect { settings.chain_max as usize } else { 0 }
    }

    /// The memory that a queue of these settings takes; a kernel can evaluate it while compiling.
    ///
    /// ```
    /// # use virtqueue::{Attachment, Memory, MemoryNeed, Queue, Settings};
    /// # struct Request;
    /// # impl Attachment for Request { const SLOT_BYTES: usize = 64; }
    /// # const fn need<M: Memory>() -> MemoryNeed {
    /// const SETTINGS: Settings = Settings { chain_max: 4, indirect: true, ..Settings::new(16) };
    /// let need: MemoryNeed = Queue::<M, Request>::memory_need(&SETTINGS);
    /// # need }
    /// ```
    pub const fn memory_need(settings: &Settings) -> MemoryNeed {
        let size = settings.size as usize;
        MemoryNeed {
            ring: if settings.packed {
                PackedLayout::new(settings.size).bytes
            } else {
                SplitLayout::new(settings.size, settings.contiguous_align).bytes
            },
            slots: size.saturating_mul(Self::slot_stride(settings)),
            private: size.saturating_mul(
                size_of::<Slot<T>>()
                    + Self::recorded(settings) * size_of::<Segment>()
                    + if settings.indirect || settings.packed { 0 } else { size_of::<u16>() }
                    + if settings.in_order { size_of::<u16>() } else { 0 },
            ),
        }
    }

    /// Makes an empty queue. The device knows nothing of it yet.
    ///
    /// # Errors
    ///
    /// [`QueueSetupError`] for a size or a chain length that no queue has, or when the kernel has no memory. Nothing
    /// stays allocated.
    pub fn new(memory: M, settings: Settings) -> Result<Self, QueueSetupError> {
        let settings = Settings { segment_max_bytes: settings.segment_max_bytes.max(1), ..settings };
        let Settings { size, chain_max, .. } = settings;
        let Settings { packed, in_order, .. } = settings;
        if !(if packed { R::PACKED } else { R::SPLIT }) || in_order != R::IN_ORDER {
            return Err(QueueSetupError::Format { packed, in_order });
        }
        if !(size.is_power_of_two() || settings.packed) || !(MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE).contains(&size) {
            return Err(QueueSetupError::Size { size });
        }
        if chain_max == 0 || chain_max > size {
            return Err(QueueSetupError::ChainMax { chain_max, size });
        }
        let ring = R::Ring::new(&memory, &settings)?;
        let count = usize::from(size);
        let failed = |bytes| move |error| QueueSetupError::Memory { bytes, error };
        let recorded = Self::recorded(&settings);
        let segments = PrivateSlice::allocate(&memory, count * recorded, |_| Segment::EMPTY)
            .map_err(failed((count * recorded).saturating_mul(size_of::<Segment>())))?;
        let slot_stride = Self::slot_stride(&settings);
        // More than any memory has, where addresses have 32 bits.
        let bytes = PrivateSlice::<u8, M>::bytes(count.saturating_mul(slot_stride));
        let bytes = bytes.ok_or(MemoryError::OutOfMemory).map_err(failed(usize::MAX))?;
        let request = PageRequest { bytes, align: SLOT_ALIGN, max_address: u64::MAX, purpose: Purpose::Shared };
        let shared = OwnedPages::allocate(&memory, request).map_err(failed(bytes))?;
        let slots = PrivateSlice::allocate(&memory, count, |index| Slot {
            attachment: None,
            // SAFETY: there are fewer slots than `count`, for each of which `shared` has `slot_stride` bytes.
            shared: unsafe { shared.start().add(index * slot_stride) },
            generation: 0,
            writable_bytes: 0,
            used_bytes: 0,
            segments: 0,
            // Behind the last one there is none: its number is that of no slot.
            next: index as u16 + 1,
            state: State::Free,
            framed: false,
        })
        .map_err(failed(count * size_of::<Slot<T>>()))?;
        let mut queue = Self {
            ring,
            slots,
            segments,
            recorded,
            shared,
            slot_stride,
            memory,
            settings,
            framed_max_bytes: settings.segment_max_bytes.min(u32::MAX - T::SLOT_BYTES as u32),
            first_free: 0,
            usable: size,
            off_ring: 0,
            broken: None,
            exposed: false,
        };
        queue.write_frames();
        Ok(queue)
    }

    /// Writes what stays in shared memory from one chain to the next: the descriptors of frames.
    pub(super) fn write_frames(&mut self) {
        for id in 0..self.settings.size {
            self.write_frame(id);
        }
    }

    /// Writes the descriptors around a frame's buffer into the table of a slot that is free. Returns whether there is a
    /// frame now.
    #[cold]
    #[inline(never)]
    pub(super) fn write_frame(&mut self, id: u16) -> bool {
        const { Self::FRAME_IS_INSIDE };
        let Some(frame) = T::FRAME else { return false };
        if !self.settings.indirect || self.settings.chain_max < Frame::DESCRIPTORS {
            return false;
        }
        let (address, little_endian) = (self.slot_address(id), self.settings.contiguous_align.is_none());
        let Some(slot) = self.slots.get_mut(usize::from(id)).filter(|slot| slot.state == State::Free) else {
            return false;
        };
        let table = Self::table(slot.shared);
        let parts = [(0, frame.header, Access::DeviceReads, Some(1)), (2, frame.status, Access::DeviceWrites, None)];
        for (index, (offset, bytes), access, next) in parts {
            let address = address.wrapping_add(offset as u64);
            let address = if little_endian { address.to_le() } else { address };
            table.at(index).address.store(address);
            table.at(index).rest.store(self.ring.table_entry(bytes, access, next));
        }
        self.ring.prepare(id, address.wrapping_add(Self::TABLE_OFFSET as u64), Frame::DESCRIPTORS);
        slot.segments = Frame::DESCRIPTORS;
        slot.framed = true;
        true
    }
}
