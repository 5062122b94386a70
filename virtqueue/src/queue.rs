//! A queue: a ring, and a slot for each chain that can be in flight.

use virtio_spec::split_ring::{DescriptorFlags, MAX_QUEUE_SIZE};

use crate::chain::Chain;
use crate::error::{ChainError, QueueSetupError, Violation};
use crate::layout::SplitLayout;
use crate::memory::{Memory, PageRequest, Purpose};
use crate::owned::{OwnedPages, PrivateSlice};
use crate::segment::Segment;
use crate::settings::{Areas, MemoryNeed, Settings};
use crate::shared::SharedDescriptor;
use crate::slot::{Attachment, Slot, SlotMemory, State, Token};
use crate::split::SplitRing;
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
pub struct Queue<M: Memory, T: Attachment> {
    ring: SplitRing<M>,
    slots: PrivateSlice<Slot<T>, M>,
    /// For each slot `recorded` segments: `chain_max`, or none at all.
    segments: PrivateSlice<Segment, M>,
    recorded: usize,
    /// For each slot its shared bytes and its indirect table.
    shared: OwnedPages<M>,
    slot_stride: usize,
    memory: M,
    settings: Settings,
    in_flight: u16,
    broken: Option<Violation>,
    exposed: bool,
}

impl<M: Memory, T: Attachment> Queue<M, T> {
    /// Where the indirect table of a slot starts, behind the driver's own bytes.
    const TABLE_OFFSET: usize = T::SLOT_BYTES.next_multiple_of(size_of::<SharedDescriptor>());

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
            ring: SplitLayout::new(settings.size, settings.contiguous_align).bytes,
            slots: size * Self::slot_stride(settings),
            private: size * (size_of::<u16>() + size_of::<Slot<T>>() + Self::recorded(settings) * size_of::<Segment>()),
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
        if !size.is_power_of_two() || !(MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE).contains(&size) {
            return Err(QueueSetupError::Size { size });
        }
        if chain_max == 0 || chain_max > size {
            return Err(QueueSetupError::ChainMax { chain_max, size });
        }
        let ring = SplitRing::new(&memory, &settings)?;
        let count = usize::from(size);
        let failed = |bytes| move |error| QueueSetupError::Memory { bytes, error };
        let slots =
            PrivateSlice::allocate(&memory, count, |_| Slot::free()).map_err(failed(count * size_of::<Slot<T>>()))?;
        let recorded = Self::recorded(&settings);
        let segments = PrivateSlice::allocate(&memory, count * recorded, |_| Segment::EMPTY)
            .map_err(failed(count * recorded * size_of::<Segment>()))?;
        let slot_stride = Self::slot_stride(&settings);
        let bytes = count * slot_stride;
        let request = PageRequest { bytes, align: SLOT_ALIGN, max_address: u64::MAX, purpose: Purpose::Shared };
        let shared = OwnedPages::allocate(&memory, request).map_err(failed(bytes))?;
        if settings.indirect {
            for id in 0..size {
                let offset = usize::from(id) * slot_stride + Self::TABLE_OFFSET;
                ring.set_table(id, shared.device_address().wrapping_add(offset as u64));
            }
        }
        Ok(Self {
            ring,
            slots,
            segments,
            recorded,
            shared,
            slot_stride,
            memory,
            settings,
            in_flight: 0,
            broken: None,
            exposed: false,
        })
    }

    /// Where the queue is, to be told to the device.
    ///
    /// From now on the device may touch it: it is leaked when dropped, until
    /// [`device_let_go`](Queue::device_let_go).
    pub fn areas(&mut self) -> Areas {
        self.exposed = true;
        self.ring.areas()
    }

    /// Says that the device will not touch the queue, nor any buffer in it, any more: dropping it now frees all of it.
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
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// The number of chains that can still be started; without INDIRECT_DESC an upper bound, as each takes several
    /// entries.
    pub fn free(&self) -> u16 {
        self.ring.free()
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
    pub fn chain(&mut self) -> Result<Chain<'_, M, T>, ChainError> {
        if let Some(violation) = self.broken {
            return Err(ChainError::Broken(violation));
        }
        let id = self.ring.reserve().ok_or(ChainError::Full)?;
        let index = usize::from(id);
        let Some(slot) = self.slots.get_mut(index) else {
            return Err(ChainError::Full);
        };
        let segments: &mut [Segment] = if M::UNMAPS || !self.settings.indirect {
            recorded(&mut self.segments, index, self.recorded)
        } else {
            &mut []
        };
        // SAFETY: `id` is less than the number of slots, for each of which `shared` has `slot_stride` bytes.
        let base = unsafe { self.shared.start().add(index * self.slot_stride) };
        Ok(Chain {
            ring: &mut self.ring,
            memory: &self.memory,
            slot,
            // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
            slot_memory: unsafe { SlotMemory::new(base, self.settings.contiguous_align.is_none()) },
            slot_address: self.shared.device_address().wrapping_add((index * self.slot_stride) as u64),
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
            in_flight: &mut self.in_flight,
            id,
            count: 0,
            bytes: 0,
            writable_bytes: 0,
            last: (0, DescriptorFlags::empty()),
        })
    }

    /// Lets the device see every chain that was submitted since the last call, with one store of the index. `Some` if
    /// the device wants to be notified of it: then notify it.
    #[must_use = "a device that wants a notification does nothing without it"]
    #[inline(always)]
    pub fn commit(&mut self) -> Option<Notification> {
        self.ring.commit().then(|| Notification { next: self.ring.notification_data() })
    }

    /// Takes note of the next chain that the device has used. Its slot stays taken until
    /// [`Used::take`](crate::Used::take).
    ///
    /// # Errors
    ///
    /// The [`Violation`] by which the device broke the queue, now or earlier.
    pub fn pop(&mut self) -> Result<Option<Used<'_, M, T>>, Violation> {
        if let Some(id) = self.pop_unless_broken().map(|used| used.id) {
            return Ok(self.used_slot(id));
        }
        self.broken.map_or(Ok(None), Err)
    }

    /// As [`pop`](Queue::pop), for a fast path: `None` also when the device broke the rules, which
    /// [`broken`](Queue::broken) tells.
    #[inline(always)]
    pub fn pop_unless_broken(&mut self) -> Option<Used<'_, M, T>> {
        if self.ring.is_exhausted() && !self.look() {
            return None;
        }
        let (id, written_bytes) = self.ring.take();
        let index = id as usize;
        // There are as many slots as entries: that there is one with this index makes it a number of the ring.
        let slot = match self.slots.get_mut(index) {
            Some(slot) if slot.state == State::InFlight => slot,
            _ => {
                self.broken = Some(self.ring.distrust(id));
                return None;
            }
        };
        // SAFETY: the device has returned the chain, which was in flight until now. Should the kernel's memory unwind
        // here, the slot stays in flight: its buffers are leaked, or given back after a reset.
        unsafe { unmap(&self.memory, &mut self.segments, index * self.recorded, slot.segments) };
        slot.state = State::Used;
        slot.written_bytes = slot.written_bytes.min(u64::from(written_bytes));
        self.in_flight -= 1;
        // SAFETY: the index is one of a slot, for each of which `shared` has `slot_stride` bytes.
        let base = unsafe { self.shared.start().add(index * self.slot_stride) };
        Some(Used {
            indirect: self.settings.indirect,
            ring: &mut self.ring,
            slot,
            // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
            slot_memory: unsafe { SlotMemory::new(base, self.settings.contiguous_align.is_none()) },
            id: id as u16,
        })
    }

    /// Looks at the device's index, now that all is taken that the last look allowed. Whether there is more.
    #[inline(never)]
    fn look(&mut self) -> bool {
        if self.broken.is_none() {
            self.broken = self.ring.look().err();
        }
        self.broken.is_none() && !self.ring.is_exhausted()
    }

    /// The chain of a token, if the device has used it and nobody has taken it.
    #[inline(always)]
    pub fn used(&mut self, token: Token) -> Option<Used<'_, M, T>> {
        let slot = self.slots.get(usize::from(token.id))?;
        if slot.generation == token.generation { self.used_slot(token.id) } else { None }
    }

    #[inline(always)]
    fn used_slot(&mut self, id: u16) -> Option<Used<'_, M, T>> {
        let index = usize::from(id);
        let slot = self.slots.get_mut(index).filter(|slot| slot.state == State::Used)?;
        // SAFETY: `id` is less than the number of slots, for each of which `shared` has `slot_stride` bytes.
        let base = unsafe { self.shared.start().add(index * self.slot_stride) };
        Some(Used {
            ring: &mut self.ring,
            slot,
            // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
            slot_memory: unsafe { SlotMemory::new(base, self.settings.contiguous_align.is_none()) },
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
        // SAFETY: `id` is less than the number of slots, for each of which `shared` has `slot_stride` bytes.
        let base = unsafe { self.shared.start().add(index * self.slot_stride) };
        // SAFETY: the start of the slot, aligned to SLOT_ALIGN, valid as long as `shared` is.
        let memory = unsafe { SlotMemory::new(base, self.settings.contiguous_align.is_none()) };
        Some((memory, attachment))
    }

    /// The chain in a slot, if the device has used it and nobody has taken it.
    pub fn used_in_slot(&mut self, id: u16) -> Option<Used<'_, M, T>> {
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
        self.ring.restart();
        self.broken = None;
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
        if self.settings.indirect {
            self.ring.add_indirect(token.id, slot.segments);
        } else {
            let segments = self.segments.get(index * self.recorded..).unwrap_or_default();
            self.ring.readd_direct(token.id, segments.get(..usize::from(slot.segments)).unwrap_or_default());
        }
        true
    }

    /// Takes a chain out of flight that the device will not return: it counts as used, with nothing written. Returns
    /// `false` if there is no such chain in flight.
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
        slot.written_bytes = 0;
        self.in_flight -= 1;
        true
    }

    /// Whether [`pop`](Queue::pop) has something to say: a chain, or a violation.
    pub fn has_used(&mut self) -> bool {
        self.broken.is_some() || !self.ring.is_exhausted() || self.ring.look().is_err() || !self.ring.is_exhausted()
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
        self.broken.is_none() && self.ring.enable_interrupts(chains).unwrap_or(false)
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

impl<M: Memory, T: Attachment> Drop for Queue<M, T> {
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
