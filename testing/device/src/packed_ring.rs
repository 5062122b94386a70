//! The device's end of a packed ring, which checks the driver's end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_spec::Features;
use virtio_spec::packed_ring::{
    Descriptor, DescriptorFlags, EVENT_FLAGS_MASK, EVENT_OFFSET_MASK, EventFlags, MAX_QUEUE_SIZE,
};

use crate::chain::{Chain, Segment};
use crate::chain_parts::{ChainParts, table_entries};
use crate::device_memory::{DeviceMemory, Fault};
use crate::raw_packed_ring::{Place, RawEvent, RawPackedDescriptor, RawPackedRing};
use crate::raw_ring::RingSetup;
use crate::ring_mover::{Judgement, RingMover};
use crate::violation::{Rule, Violation};

/// The device's end of a packed ring. Every rule for the driver that can be seen broken from there is recorded.
///
/// It can be used by itself, without registers and without a block device:
///
/// ```
/// use std::sync::Arc;
/// use testing_device::{PackedDeviceRing, RingMover, RingSetup, ScatterMemory};
/// use virtio_spec::Features;
/// use virtqueue::{Memory, PageRequest, Purpose};
///
/// let memory = ScatterMemory::new();
/// let request = PageRequest { bytes: 4096, align: 16, max_address: u64::MAX, purpose: Purpose::Shared };
/// let pages = memory.allocate(&request)?;
/// let mut ring = PackedDeviceRing::new(
///     Arc::new(memory.clone()),
///     RingSetup {
///         size: 5,
///         descriptor_area: pages.device_address,
///         driver_area: pages.device_address + 0x50,
///         device_area: pages.device_address + 0x54,
///         features: Features::VERSION_1 | Features::RING_PACKED,
///     },
/// );
/// assert_eq!(ring.pop(), None);
/// assert_eq!(ring.violations(), []);
/// # // SAFETY: allocated so above, and freed once.
/// # unsafe { memory.free(pages, &request) };
/// # Ok::<(), virtqueue::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct PackedDeviceRing {
    raw: RawPackedRing,
    /// How many entries were taken.
    taken: u64,
    /// How many entries were given back, or passed over.
    used: u64,
    /// How many entries were given back when the driver was last considered for an interrupt.
    signalled: u64,
    /// Up to where it was judged whether a notification was due.
    judged: u64,
    in_flight: BTreeMap<u16, InFlight>,
    violations: Vec<Violation>,
    /// Whether the ring makes no sense any more.
    broken: bool,
    /// The event suppression that was recorded last as wrong.
    wrong_event: RawEvent,
    /// Flags to invert in the next used descriptor.
    inverted: u16,
}

#[derive(Debug, Default)]
struct InFlight {
    /// The entries that it has in the ring.
    entries: u64,
    /// Whether the device may write some of it.
    writable: bool,
    /// What was read in the ring, by how many entries lie before it.
    in_ring: Vec<(u64, RawPackedDescriptor)>,
    /// What was read in an indirect table, by device address.
    in_table: Vec<(u64, RawPackedDescriptor)>,
}

impl PackedDeviceRing {
    /// The device's end of the ring in `memory`, which the driver has just set up.
    ///
    /// # Panics
    ///
    /// If there are no entries, or more than 32768.
    #[must_use]
    pub fn new(memory: Arc<dyn DeviceMemory>, setup: RingSetup) -> Self {
        assert!((1..=MAX_QUEUE_SIZE).contains(&setup.size), "queue size {}", setup.size);
        Self {
            raw: RawPackedRing::new(memory, setup),
            taken: 0,
            used: 0,
            signalled: 0,
            judged: 0,
            in_flight: BTreeMap::new(),
            violations: Vec::new(),
            broken: false,
            wrong_event: RawEvent::default(),
            inverted: 0,
        }
    }

    /// The fields of the ring, to do with them what no honest device does.
    #[must_use]
    pub fn raw(&self) -> &RawPackedRing {
        &self.raw
    }

    /// What the driver did against the specification.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How many buffers were taken and not given back.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Where the next buffer is taken.
    #[must_use]
    pub fn next_available(&self) -> Place {
        self.raw.place(self.taken)
    }

    /// Where the next buffer is given back.
    #[must_use]
    pub fn next_used(&self) -> Place {
        self.raw.place(self.used)
    }

    fn size(&self) -> u16 {
        self.raw.setup().size
    }

    fn negotiated(&self, feature: Features) -> bool {
        self.raw.setup().features.contains(feature)
    }

    fn violate(&mut self, rule: Rule, text: impl Into<String>) {
        self.violations.push(Violation::packed(rule, text));
    }

    /// Takes a value, or records why there is none.
    fn reached<T>(&mut self, what: &str, value: Result<T, Fault>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(fault) => {
                self.violate(Rule::Unreachable, format!("{what}: {fault}"));
                None
            }
        }
    }

    /// Whether the entry at a place is available.
    fn is_available(&mut self, place: Place) -> bool {
        let flags = self.raw.flags(place.offset());
        self.reached("flags", flags).is_some_and(|flags| place.is_available(flags))
    }

    /// Up to where entries are available, from a place on that was passed already.
    fn available_until(&mut self, from: u64) -> u64 {
        let mut entries = from.max(self.taken);
        let end = self.used + u64::from(self.size());
        while entries < end && self.is_available(self.raw.place(entries)) {
            entries += 1;
        }
        entries
    }

    /// Reads the list at the next place. `None` if it cannot be given back, for want of an id.
    fn walk(&mut self) -> Option<(Chain, InFlight)> {
        let mut parts = ChainParts::new(0);
        let mut record = InFlight::default();
        loop {
            let entries = self.taken + record.entries;
            let place = self.raw.place(entries);
            let first = self.next_available().offset();
            let what = || format!("descriptor {} of the list at {first}", place.offset());
            let descriptor = self.raw.descriptor(place.offset());
            let descriptor = self.reached("a descriptor", descriptor)?;
            if !place.is_available(descriptor.flags) {
                let text = format!("{} has flags {:#x}", what(), descriptor.flags);
                self.violate(Rule::PackedListFlags, text);
                return None;
            }
            if entries >= self.used + u64::from(self.size()) {
                let text = format!("{} was made available again before it was used", what());
                self.violate(Rule::PackedOverrun, text);
                return None;
            }
            let added = self.add(&mut parts, &mut record, descriptor, &what);
            if let Err(Violation { rule, text, .. }) = added {
                // The rest is followed nevertheless: the id comes last.
                parts.chain.malformed = true;
                self.violate(rule, text);
            }
            record.in_ring.push((entries, descriptor));
            record.entries += 1;
            if descriptor.flags & DescriptorFlags::NEXT.bits() == 0 {
                parts.chain.id = descriptor.id;
                record.writable = parts.chain.segments.iter().any(|segment| segment.writable);
                return Some((parts.chain, record));
            }
        }
    }

    /// Adds a descriptor of the ring to a list.
    fn add(
        &mut self,
        parts: &mut ChainParts,
        record: &mut InFlight,
        descriptor: RawPackedDescriptor,
        what: &dyn Fn() -> String,
    ) -> Result<(), Violation> {
        if parts.chain.malformed {
            return Ok(());
        }
        let Some(flags) = DescriptorFlags::from_bits(descriptor.flags) else {
            let text = format!("{} has flags {:#x}", what(), descriptor.flags);
            return Err(Violation::packed(Rule::DescriptorFlags, text));
        };
        if !flags.contains(DescriptorFlags::INDIRECT) {
            let writable = flags.contains(DescriptorFlags::WRITE);
            let segment = Segment { address: descriptor.address, bytes: descriptor.bytes, writable };
            return parts.add(&**self.raw.memory(), self.size(), what, segment, &mut self.violations);
        }
        if !self.negotiated(Features::INDIRECT_DESC) {
            return Err(Violation::packed(Rule::IndirectNotNegotiated, what()));
        }
        if flags.contains(DescriptorFlags::NEXT) || record.entries > 0 {
            return Err(Violation::packed(Rule::IndirectWithNext, what()));
        }
        let memory = self.raw.memory().clone();
        let entry = size_of::<Descriptor>();
        let entries = table_entries(&*memory, what, descriptor.address, descriptor.bytes, entry)?;
        parts.chain.indirect = true;
        for index in 0..entries {
            let address = descriptor.address + u64::from(index) * entry as u64;
            let what = || format!("entry {index} of the indirect table of {}", what());
            let inner = self.raw.descriptor_at(address);
            let inner = inner.map_err(|fault| Violation::packed(Rule::Unreachable, format!("{}: {fault}", what())))?;
            record.in_table.push((address, inner));
            if inner.flags & !DescriptorFlags::WRITE.bits() != 0 {
                let text = format!("{} has flags {:#x}", what(), inner.flags);
                return Err(Violation::packed(Rule::IndirectFlags, text));
            }
            let writable = inner.flags & DescriptorFlags::WRITE.bits() != 0;
            let segment = Segment { address: inner.address, bytes: inner.bytes, writable };
            parts.add(&*memory, self.size(), &what, segment, &mut self.violations)?;
        }
        Ok(())
    }

    /// Whether what was read of a list is still so, but for entries in the place of which a used descriptor came.
    fn check_unaltered(&mut self, id: u16, record: &InFlight) {
        let in_ring = record.in_ring.iter().filter(|(entries, _)| *entries >= self.used);
        let in_ring = in_ring.map(|&(entries, before)| {
            let offset = self.raw.place(entries).offset();
            (format!("descriptor {offset}"), before, self.raw.descriptor(offset))
        });
        let in_table = record.in_table.iter().map(|&(address, before)| {
            (format!("the entry at {address:#x} of the indirect table"), before, self.raw.descriptor_at(address))
        });
        let all: Vec<_> = in_ring.chain(in_table).collect();
        for (what, before, now) in all {
            match now {
                Ok(now) if now == before => {}
                Ok(now) => self.violate(
                    Rule::AlteredInFlight,
                    format!("{what} of the buffer with id {id} was {before:?} and is {now:?}"),
                ),
                Err(fault) => self.violate(
                    Rule::AlteredInFlight,
                    format!("{what} of the buffer with id {id} was taken away: {fault}"),
                ),
            }
        }
    }

    /// Takes a buffer out of those in flight. Returns its entries, and whether the device may write some of it.
    fn release(&mut self, id: u16) -> Option<(u64, bool)> {
        let record = self.in_flight.remove(&id)?;
        self.check_unaltered(id, &record);
        Some((record.entries, record.writable))
    }

    /// Writes a used descriptor, and moves on by some entries.
    fn write_used(&mut self, id: u16, bytes: u32, written: bool, entries: u64) {
        let place = self.next_used();
        let write = if written { DescriptorFlags::WRITE } else { DescriptorFlags::empty() };
        let flags = (place.used() | write).bits() ^ std::mem::take(&mut self.inverted);
        let stored = self.raw.set_id(place.offset(), id, bytes);
        let stored = stored.and_then(|()| self.raw.set_flags(place.offset(), flags));
        self.reached("used descriptor", stored);
        self.used += entries;
    }

    /// Reads what the driver wants to be told of, and holds it against the rules.
    fn driver_event(&mut self) -> Option<RawEvent> {
        let event = self.raw.driver_event();
        let event = self.reached("the driver's event suppression", event)?;
        let wrong = match EventFlags(event.flags) {
            EventFlags::ENABLE | EventFlags::DISABLE => false,
            EventFlags::DESC => {
                !self.negotiated(Features::EVENT_IDX) || event.position & EVENT_OFFSET_MASK >= self.size()
            }
            _ => true,
        };
        if wrong && event != self.wrong_event {
            self.violate(Rule::EventSuppression, format!("{event:x?}, with a queue of {}", self.size()));
        }
        self.wrong_event = if wrong { event } else { RawEvent::default() };
        Some(event)
    }

    /// Whether an event is wanted for the entries between two places.
    fn wanted(&self, event: RawEvent, from: u64, to: u64) -> bool {
        from != to
            && match EventFlags(event.flags & EVENT_FLAGS_MASK) {
                EventFlags::DISABLE => false,
                EventFlags::DESC => {
                    let size = u64::from(self.size());
                    let (first, lap) = (self.raw.place(from), 2 * size);
                    let position = |word: u16| {
                        let second = if word & !EVENT_OFFSET_MASK == 0 { size } else { 0 };
                        second + u64::from(word & EVENT_OFFSET_MASK)
                    };
                    // How far it is from the first place to the event's: places repeat after two laps.
                    (position(event.position) + lap - position(first.word())) % lap < to - from
                }
                _ => true,
            }
    }
}

impl RingMover for PackedDeviceRing {
    fn pop(&mut self) -> Option<Chain> {
        if self.broken || !self.is_available(self.next_available()) {
            return None;
        }
        let walked = self.walk();
        for violation in &mut self.violations {
            violation.section = violation.rule.packed_section();
        }
        let Some((chain, record)) = walked else {
            self.broken = true;
            return None;
        };
        if self.in_flight.contains_key(&chain.id) {
            self.broken = true;
            let text =
                format!("the list at {} has id {}, which is in flight", self.next_available().offset(), chain.id);
            self.violate(Rule::BufferIdInFlight, text);
            return None;
        }
        self.taken += record.entries;
        self.in_flight.insert(chain.id, record);
        Some(chain)
    }

    fn push_used(&mut self, id: u16, bytes: u32) {
        self.push_batch(&[], id, bytes);
    }

    fn push_batch(&mut self, skipped: &[u16], id: u16, bytes: u32) {
        let before: u64 = skipped.iter().filter_map(|&id| self.release(id)).map(|(entries, _)| entries).sum();
        let (entries, writable) = self.release(id).unwrap_or((1, bytes > 0));
        self.write_used(id, bytes, writable, before + entries);
    }

    fn push_raw(&mut self, id: u32, bytes: u32) {
        self.write_used(id as u16, bytes, bytes > 0, 1);
    }

    fn skip_used(&mut self, entries: u16) {
        self.used += u64::from(entries);
    }

    fn invert_flags(&mut self, flags: u16) {
        self.inverted = flags;
    }

    fn interrupt_wanted(&mut self) -> bool {
        // The used descriptors are seen by the driver before its suppression is looked at.
        fence(Ordering::SeqCst);
        let from = std::mem::replace(&mut self.signalled, self.used);
        let event = self.driver_event();
        event.is_some_and(|event| self.wanted(event, from, self.used))
    }

    fn set_notifications(&mut self, wanted: bool) -> bool {
        let next = self.next_available();
        let event = if !wanted {
            RawEvent { position: 0, flags: EventFlags::DISABLE.0 }
        } else if self.negotiated(Features::EVENT_IDX) {
            RawEvent { position: next.word(), flags: EventFlags::DESC.0 }
        } else {
            RawEvent { position: 0, flags: EventFlags::ENABLE.0 }
        };
        let written = self.raw.set_device_event(event);
        self.reached("the device's event suppression", written);
        // What was made available before the driver could see this, is seen here.
        fence(Ordering::SeqCst);
        !self.broken && self.is_available(next)
    }

    fn judge(&mut self) -> Option<Judgement> {
        let event = self.raw.device_event().ok()?;
        let to = self.available_until(self.judged);
        let from = std::mem::replace(&mut self.judged, to);
        Some(Judgement { added: to - from, due: self.wanted(event, from, to) })
    }

    fn notification_data(&mut self) -> Option<u16> {
        let next = self.available_until(self.taken);
        Some(self.raw.place(next).word())
    }

    fn take_violations(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.violations)
    }
}
