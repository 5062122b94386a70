//! A queue: a ring, and a slot for each chain that can be in flight.

use core::ptr::NonNull;

use virtio_spec::split_ring::MAX_QUEUE_SIZE;

use crate::chain::Chain;
use crate::error::{ChainError, QueueSetupError, Violation};
use crate::layout::{PackedLayout, SplitLayout};
use crate::memory::{Access, Memory, MemoryError, PageRequest, Purpose};
use crate::owned::{OwnedPages, PrivateSlice};
use crate::ring::{Ring, RingFormat, Split};
use crate::segment::Segment;
use crate::settings::{Areas, MemoryNeed, Settings};
use crate::shared::{Shared, SharedDescriptor};
use crate::slot::{Attachment, Frame, Slot, SlotMemory, State, Token};
use crate::used::Used;

/// The fewest entries of a queue: a read of a block device takes three descriptors.
const MIN_QUEUE_SIZE: u16 = 4;

/// Slots start at multiples of a usual cache line, so that the device, which writes into one, does not take the line of
/// another from the processor.
const SLOT_ALIGN: usize = 64;

/// One virtqueue, as its driver sees it.
///
/// `M` is the kernel's memory, `T` what the driver attaches to each chain.
///
/// While the device may know the queue ([`areas`](Queue::areas) was called and no reset acknowledged since,
/// [`device_let_go`](Queue::device_let_go)), dropping it leaks the memory that it shares with the device, and what is
/// attached to chains in flight: it must not become something else while the device may still touch it.
pub struct Queue<M: Memory, T: Attachment, R: RingFormat = Split> {
    ring: R::Ring<M>,
    slots: PrivateSlice<Slot<T>, M>,
    /// For each slot `recorded` segments: `chain_max`, or none at all.
    segments: PrivateSlice<Segment, M>,
    recorded: usize,
    /// For each slot its shared bytes and its indirect table.
    shared: OwnedPages<M>,
    slot_stride: usize,
    memory: M,
    settings: Settings,
    /// The most bytes of a frame's buffer: one descriptor, and with the status no more than 32 bits can say.
    framed_max_bytes: u32,
    /// With indirect tables, the first free slot; a number that no slot has if there is none.
    first_free: u16,
    /// How many slots may be taken: all, or none once the device broke the rules. Never more than there are.
    usable: u16,
    /// The number of chains in flight, less those that the ring counts: of those that were in flight at a restart,
    /// the ring has only those that were reissued.
    off_ring: u16,
    broken: Option<Violation>,
    exposed: bool,
}

impl<M: Memory, T: Attachment, R: RingFormat> Queue<M, T, R> {
    /// Where the indirect table of a slot starts, behind the driver's own bytes.
    const TABLE_OFFSET: usize = T::SLOT_BYTES.next_multiple_of(size_of::<SharedDescriptor>());

    /// A frame is part of the slot's own bytes.
    const FRAME_IS_INSIDE: () = if let Some(Frame { header, status }) = T::FRAME {
        assert!(header.0 + header.1 as usize <= T::SLOT_BYTES && status.0 + status.1 as usize <= T::SLOT_BYTES);
        assert!(header.1 > 0 && status.1 > 0, "a descriptor is never empty");
    };

    /// The distance from one slot to the next in shared memory.
    const fn slot_stride(settings: &Settings) -> usize {
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
    fn write_frames(&mut self) {
        for id in 0..self.settings.size {
            self.write_frame(id);
        }
    }

    /// Writes the descriptors around a frame's buffer into the table of a slot that is free. Returns whether there is a
    /// frame now.
    #[cold]
    #[inline(never)]
    fn write_frame(&mut self, id: u16) -> bool {
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

    /// The device address of a slot's shared bytes.
    #[inline(always)]
    fn slot_address(&self, id: u16) -> u64 {
        self.shared.device_address().wrapping_add((usize::from(id) * self.slot_stride) as u64)
    }

    /// The device address of a slot's indirect table.
    #[inline(always)]
    fn table_address(&self, id: u16) -> u64 {
        self.slot_address(id).wrapping_add(Self::TABLE_OFFSET as u64)
    }

    /// The first four descriptors of the indirect table of the slot whose shared bytes these are.
    #[inline(always)]
    fn table(slot: NonNull<u8>) -> Shared<SharedDescriptor> {
        // SAFETY: the table lies behind the driver's bytes in the same slot, aligned; callers hold that its length is
        // more than the index that they access.
        unsafe { Shared::array(slot, Self::TABLE_OFFSET, 3) }
    }

    /// Where the queue is, to be told to the device.
    ///
    /// From now on the device may touch it: it is leaked when dropped, until
    /// [`device_let_go`](Queue::device_let_go).
    pub fn areas(&mut self) -> Areas {
        self.exposed = true;
        self.ring.areas()
    }

    /// Says that the device will not touch the queue, nor any buffer in it, any more: dropping it now frees all of it,
    /// and ends the mappings of what is in flight. It ends none by itself, nor any of a chain that was
    /// [retired](Queue::retire) before.
    ///
    /// # Safety
    ///
    /// The device was never told of the queue, or it was reset since and has acknowledged the reset.
    pub unsafe fn device_let_go(&mut self) {
        self.exposed = false;
    }

    /// Whether the device may know the queue, and what is in flight.
    pub fn exposed(&self) -> bool {
        self.exposed
    }

    /// The kernel's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The settings that the queue was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The number of chains that the device may have.
    #[inline]
    pub fn in_flight(&self) -> u16 {
        self.ring.unused().wrapping_add(self.off_ring)
    }

    /// Whether a chain can be started, unless the device broke the rules.
    pub fn has_free(&self) -> bool {
        (self.ring.numbers_slots() || self.first_free < self.settings.size)
            && (self.settings.indirect || self.ring.free() > 0)
    }

    /// The number of chains that can still be started; without INDIRECT_DESC an upper bound, as each takes several
    /// entries. It goes through all of them.
    pub fn free(&self) -> u16 {
        if self.ring.numbers_slots() {
            return self.ring.free();
        }
        let mut free = 0;
        let mut id = self.first_free;
        while let Some(slot) = self.slots.get(usize::from(id)) {
            free += 1;
            id = slot.next;
        }
        if self.settings.indirect { free } else { free.min(self.ring.free()) }
    }

    /// How the device broke the rules, if it did.
    pub fn broken(&self) -> Option<Violation> {
        self.broken
    }

    /// Starts a chain in a free slot.
    ///
    /// # Errors
    ///
    /// [`ChainError::Full`], [`ChainError::Broken`].
    #[inline(always)]
    pub fn chain(&mut self) -> Result<Chain<'_, M, T, R>, ChainError> {
        if let Some(violation) = self.broken {
            return Err(ChainError::Broken(violation));
        }
        if !self.has_free() {
            return Err(ChainError::Full);
        }
        let chosen = if self.ring.numbers_slots() { self.ring.reserve() } else { None };
        let id = chosen.unwrap_or(self.first_free);
        let (slot_address, table_address) = (self.slot_address(id), self.table_address(id));
        let index = usize::from(id);
        let Some(slot) = self.slots.get_mut(index) else {
            return Err(ChainError::Full);
        };
        if chosen.is_none() {
            self.first_free = slot.next;
        }
        slot.framed = false;
        let segments: &mut [Segment] = if M::UNMAPS || !self.settings.indirect {
            recorded(&mut self.segments, index, self.recorded)
        } else {
            &mut []
        };
        let base = slot.shared;
        Ok(Chain {
            ring: &mut self.ring,
            first_free: &mut self.first_free,
            memory: &self.memory,
            slot,
            // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
            slot_memory: unsafe { SlotMemory::new(base, self.settings.contiguous_align.is_none()) },
            slot_address,
            table_address,
            table: if self.settings.indirect {
                // SAFETY: the table lies behind the driver's bytes in the same slot.
                Some(unsafe { base.add(Self::TABLE_OFFSET) }.cast())
            } else {
                None
            },
            segments,
            chain_max: self.settings.chain_max,
            segment_max_bytes: self.settings.segment_max_bytes,
            little_endian: self.settings.contiguous_align.is_none(),
            id,
            count: 0,
            bytes: 0,
            writable_bytes: 0,
            last: (0, Access::DeviceReads),
        })
    }

    /// Puts a chain on the ring that is a [`Frame`] around one buffer: the usual form of a request, in the fewest steps.
    /// The device sees it after [`commit`](Queue::commit).
    ///
    /// `fill` writes the slot's own memory and returns what is to be attached. `None`, and nothing was done, whenever it
    /// is not as simple as that: there is no free slot, the device broke the rules, the buffer takes several
    /// descriptors, or none, or has to be mapped, or the queue has no indirect tables. Then build the chain piece by
    /// piece, which says what is wrong if something is.
    ///
    /// # Safety
    ///
    /// As for [`Chain::buffer`].
    #[inline(always)]
    pub unsafe fn submit_framed(
        &mut self,
        start: NonNull<u8>,
        bytes: usize,
        access: Access,
        fill: impl FnOnce(&SlotMemory<'_, T>) -> T,
    ) -> Option<Token> {
        let id = self.first_free;
        if M::UNMAPS || id >= self.usable {
            return None;
        }
        // SAFETY: `usable` is not more than the number of slots.
        if !unsafe { self.slots.get_unchecked(usize::from(id)) }.framed && !self.write_frame(id) {
            return None;
        }
        let table_address = self.table_address(id);
        // SAFETY: as above.
        let slot = unsafe { self.slots.get_unchecked_mut(usize::from(id)) };
        // What is empty is refused as what is too long is.
        if bytes.wrapping_sub(1) >= self.framed_max_bytes as usize {
            return None;
        }
        let piece = self.memory.translate(start, bytes).ok()?;
        if piece.bytes < bytes {
            return None;
        }
        let (length, little_endian) = (bytes as u32, self.settings.contiguous_align.is_none());
        // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
        let attachment = fill(&unsafe { SlotMemory::new(slot.shared, little_endian) });
        let status = match T::FRAME {
            Some(frame) => frame.status.1,
            None => 0,
        };
        let writable_bytes = match access {
            Access::DeviceReads => status,
            Access::DeviceWrites => length + status,
        };
        let address = piece.device_address;
        let table = Self::table(slot.shared);
        table.at(1).address.store(if little_endian { address.to_le() } else { address });
        table.at(1).rest.store(self.ring.table_entry(length, access, Some(2)));
        self.ring.add(id, table_address, Frame::DESCRIPTORS);
        self.first_free = slot.next;
        // SAFETY: it is a place for such a value. Nothing is dropped that was there before, as the slot was free.
        unsafe { core::ptr::from_mut(&mut slot.attachment).write(Some(attachment)) };
        slot.writable_bytes = writable_bytes;
        slot.state = State::InFlight;
        Some(Token { id, generation: slot.generation })
    }

    /// Lets the device see every chain that was submitted since the last call, with one store of the index. `Some` if
    /// the device wants to be notified of it: then notify it.
    #[must_use = "a device that wants a notification does nothing without it"]
    #[inline(always)]
    pub fn commit(&mut self) -> Option<Notification> {
        self.ring.commit().then(|| Notification { next: self.ring.notification_data() })
    }

    /// What a notification carries now, with NOTIFICATION_DATA: for one that is sent again.
    pub fn notification_data(&self) -> u16 {
        self.ring.notification_data()
    }

    /// Takes note of the next chain that the device has used. Its slot stays taken until
    /// [`Used::take`](crate::Used::take).
    ///
    /// # Errors
    ///
    /// The [`Violation`] by which the device broke the queue, now or earlier.
    pub fn pop(&mut self) -> Result<Option<Used<'_, M, T, R>>, Violation> {
        if let Some(id) = self.pop_unless_broken().map(|used| used.id) {
            return Ok(self.used_slot(id));
        }
        self.broken.map_or(Ok(None), Err)
    }

    /// As [`pop`](Queue::pop), for a fast path: `None` also when the device broke the rules, which
    /// [`broken`](Queue::broken) tells.
    #[inline(always)]
    pub fn pop_unless_broken(&mut self) -> Option<Used<'_, M, T, R>> {
        if self.ring.is_exhausted() && !self.look() {
            return None;
        }
        let (id, written_bytes) = self.ring.element();
        let index = id as usize;
        // SAFETY: there are as many slots as entries, and the index is looked at once it is known to be less.
        if id >= u32::from(self.settings.size) || unsafe { self.slots.get_unchecked(index) }.state != State::InFlight {
            self.distrust(id);
            return None;
        }
        // SAFETY: as above.
        let slot = unsafe { self.slots.get_unchecked_mut(index) };
        // SAFETY: the device has returned the chain, which was in flight until now. Should the kernel's memory unwind
        // here, the slot stays in flight: its buffers are leaked, or given back after a reset.
        unsafe { unmap(&self.memory, &mut self.segments, index * self.recorded, slot.segments) };
        self.ring.advance(if self.settings.indirect { 1 } else { slot.segments });
        slot.state = State::Used;
        slot.used_bytes = written_bytes;
        // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
        let slot_memory = unsafe { SlotMemory::new(slot.shared, self.settings.contiguous_align.is_none()) };
        Some(Used {
            indirect: self.settings.indirect,
            ring: &mut self.ring,
            first_free: &mut self.first_free,
            slot,
            slot_memory,
            id: id as u16,
        })
    }

    /// Looks at the device's index, now that all is taken that the last look allowed. Whether there is more.
    #[inline(always)]
    fn look(&mut self) -> bool {
        match self.ring.look() {
            Ok(more) => more,
            Err(found) => {
                let violation = self.ring.jumped(found);
                self.break_off(violation);
                false
            }
        }
    }

    /// The device returned a chain that it did not have.
    #[cold]
    #[inline(never)]
    fn distrust(&mut self, id: u32) {
        let size = self.settings.size;
        self.break_off(match u16::try_from(id) {
            Ok(id) if id < size => Violation::NotInFlight { id },
            _ => Violation::IdOutOfRange { id, size },
        });
    }

    /// The device broke the rules: from now on there is nothing on the ring, for either side.
    #[cold]
    #[inline(never)]
    fn break_off(&mut self, violation: Violation) {
        self.off_ring = self.in_flight();
        self.ring.close();
        self.usable = 0;
        self.broken = self.broken.or(Some(violation));
    }

    /// The chain of a token, if the device has used it and nobody has taken it.
    #[inline(always)]
    pub fn used(&mut self, token: Token) -> Option<Used<'_, M, T, R>> {
        let slot = self.slots.get(usize::from(token.id))?;
        if slot.generation == token.generation { self.used_slot(token.id) } else { None }
    }

    #[inline(always)]
    fn used_slot(&mut self, id: u16) -> Option<Used<'_, M, T, R>> {
        let index = usize::from(id);
        let slot = self.slots.get_mut(index).filter(|slot| slot.state == State::Used)?;
        // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
        let slot_memory = unsafe { SlotMemory::new(slot.shared, self.settings.contiguous_align.is_none()) };
        Some(Used {
            ring: &mut self.ring,
            first_free: &mut self.first_free,
            slot,
            slot_memory,
            id,
            indirect: self.settings.indirect,
        })
    }

    /// What is attached to the chain of a token, in flight or used.
    #[inline(always)]
    pub fn attachment(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(usize::from(token.id))?;
        if slot.generation == token.generation { slot.attachment.as_mut() } else { None }
    }

    /// The shared memory of the slot of a token, in flight or used, and what is attached to it.
    pub fn slot_and_attachment(&mut self, token: Token) -> Option<(SlotMemory<'_, T>, &mut T)> {
        let index = usize::from(token.id);
        let slot = self.slots.get_mut(index)?;
        if slot.generation != token.generation {
            return None;
        }
        let attachment = slot.attachment.as_mut()?;
        // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
        let memory = unsafe { SlotMemory::new(slot.shared, self.settings.contiguous_align.is_none()) };
        Some((memory, attachment))
    }

    /// The chain in a slot, if the device has used it and nobody has taken it.
    pub fn used_in_slot(&mut self, id: u16) -> Option<Used<'_, M, T, R>> {
        self.used_slot(id)
    }

    /// The chain in flight with the lowest slot number of `from` or above. For going through all of them, after
    /// something went wrong.
    pub fn in_flight_from(&self, from: u16) -> Option<Token> {
        let slots = self.slots.iter().zip(0_u16..).skip(usize::from(from));
        slots
            .filter(|(slot, _)| slot.state == State::InFlight)
            .map(|(slot, id)| Token { id, generation: slot.generation })
            .next()
    }

    /// Empties the ring after a reset of the device, as for a device that has never seen it. What was in flight still
    /// is, but on no ring: each chain is to be [reissued](Queue::reissue) or [retired](Queue::retire).
    ///
    /// # Safety
    ///
    /// The device was reset and has acknowledged it, and was not told of the queue since.
    pub unsafe fn restart(&mut self) {
        self.off_ring = self.in_flight();
        self.ring.restart();
        self.broken = None;
        self.usable = self.settings.size;
        // The device may have written there.
        self.write_frames();
        self.exposed = false;
    }

    /// Puts a chain that is in flight on the ring again, after [`restart`](Queue::restart). Returns `false` if there
    /// is no such chain in flight.
    ///
    /// # Safety
    ///
    /// The ring was restarted, and the chain was not reissued since. Its buffers are still as
    /// [`Chain::buffer`](crate::Chain::buffer) asks for.
    pub unsafe fn reissue(&mut self, token: Token) -> bool {
        let index = usize::from(token.id);
        let Some(slot) = self.slots.get(index) else {
            return false;
        };
        if slot.generation != token.generation || slot.state != State::InFlight {
            return false;
        }
        self.off_ring = self.off_ring.wrapping_sub(1);
        if self.settings.indirect {
            let (table, descriptors) = (self.table_address(token.id), slot.segments);
            self.ring.prepare(token.id, table, descriptors);
            self.ring.add(token.id, table, descriptors);
        } else {
            let segments = self.segments.get(index * self.recorded..).unwrap_or_default();
            self.ring.add_direct_again(token.id, segments.get(..usize::from(slot.segments)).unwrap_or_default());
        }
        true
    }

    /// Takes a chain out of flight that the device will not return: it counts as used, with nothing written. Returns
    /// `false` if there is no such chain in flight.
    ///
    /// After a [`restart`](Queue::restart), this ends the mappings of its buffers. While the device may know the queue
    /// ([`exposed`](Queue::exposed): since [`areas`](Queue::areas)), it does not: they stay for ever, as the device may
    /// go on using the buffers, and so does what a bounce buffer or an IOMMU keeps for them.
    ///
    /// # Safety
    ///
    /// Either the ring was [restarted](Queue::restart), and the chain was not reissued since. Or the queue will not be
    /// used again but to take what is attached, and the caller sees to it that the buffers are leaked.
    pub unsafe fn retire(&mut self, token: Token) -> bool {
        let index = usize::from(token.id);
        let Some(slot) = self.slots.get_mut(index) else {
            return false;
        };
        if slot.generation != token.generation || slot.state != State::InFlight {
            return false;
        }
        // While the device may still have it, a mapping stays for ever, as the buffer does.
        if !self.exposed {
            // SAFETY: the device was reset.
            unsafe { unmap(&self.memory, &mut self.segments, index * self.recorded, slot.segments) };
        }
        slot.state = State::Used;
        slot.used_bytes = 0;
        self.off_ring = self.off_ring.wrapping_sub(1);
        true
    }

    /// Whether [`pop`](Queue::pop) has something to say: a chain, or a violation.
    pub fn has_used(&mut self) -> bool {
        !self.ring.is_exhausted() || self.look() || self.broken.is_some()
    }

    /// Asks the device not to interrupt when it has used chains. It is a hint: some interrupts may come all the same.
    pub fn disable_interrupts(&mut self) {
        self.ring.disable_interrupts();
    }

    /// Asks the device to interrupt once it has used `chains` chains more than were popped (at the most as many as are
    /// in flight; without EVENT_IDX: once it has used one).
    ///
    /// Returns `false` if it has used that many already: then there may be no interrupt for them, and
    /// [`pop`](Queue::pop) has something to say. Only after `true` is it safe to sleep.
    #[must_use = "where it is false, no interrupt may come"]
    pub fn enable_interrupts(&mut self, chains: u16) -> bool {
        // A chain that the device used before it saw this came without an interrupt; so look once more.
        let wanted = self.ring.enable_interrupts(chains);
        self.look();
        self.broken.is_none() && self.ring.seen_unused() < wanted
    }
}

/// The segments of a slot.
#[cold]
fn recorded(segments: &mut [Segment], index: usize, recorded: usize) -> &mut [Segment] {
    let segments = segments.get_mut(index * recorded..).unwrap_or_default();
    segments.get_mut(..recorded).unwrap_or_default()
}

/// The device wants to be notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Where the next chain will be added: what a notification carries with NOTIFICATION_DATA (2.9).
    pub next: u16,
}

impl<M: Memory, T: Attachment, R: RingFormat> Drop for Queue<M, T, R> {
    fn drop(&mut self) {
        let in_flight = self.slots.iter_mut().zip(0_usize..).filter(|(slot, _)| slot.state == State::InFlight);
        if self.exposed {
            self.ring.leak();
            self.shared.leak();
            for (slot, _) in in_flight {
                core::mem::forget(slot.attachment.take());
            }
        } else {
            for (slot, index) in in_flight {
                // SAFETY: the device was reset, or never saw the queue.
                unsafe { unmap(&self.memory, &mut self.segments, index * self.recorded, slot.segments) };
            }
        }
    }
}

/// Ends the mappings of `count` segments, from `first` on.
///
/// # Safety
///
/// As for [`Segment::unmap`], for each of them.
#[inline(always)]
unsafe fn unmap<M: Memory>(memory: &M, segments: &mut [Segment], first: usize, count: u16) {
    if M::UNMAPS {
        for segment in segments.iter_mut().skip(first).take(usize::from(count)) {
            // SAFETY: as the caller promises.
            unsafe { segment.unmap(memory) };
        }
    }
}
