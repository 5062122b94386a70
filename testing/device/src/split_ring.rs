//! The device's end of a split ring, which checks the driver's end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_spec::Features;
use virtio_spec::split_ring::{AvailableFlags, Descriptor, DescriptorFlags, UsedFlags};

use crate::chain::{Chain, Segment};
use crate::chain_parts::{ChainParts, table_entries};
use crate::device_memory::{DeviceMemory, Fault};
use crate::raw_ring::{RawDescriptor, RawRing, RingSetup, crosses};
use crate::ring_mover::{Judgement, RingMover};
use crate::violation::{Rule, Violation};

/// The device's end of a split ring. Every rule for the driver that can be seen broken from there is recorded.
///
/// It can be used by itself, without registers and without a block device:
///
/// ```
/// use std::sync::Arc;
/// use testing_device::{DeviceRing, RingMover, RingSetup, ScatterMemory};
/// use virtio_spec::Features;
/// use virtqueue::{Memory, PageRequest, Purpose};
///
/// let memory = ScatterMemory::new();
/// let request = PageRequest { bytes: 4096, align: 16, max_address: u64::MAX, purpose: Purpose::Shared };
/// let pages = memory.allocate(&request)?;
/// let mut ring = DeviceRing::new(
///     Arc::new(memory.clone()),
///     RingSetup {
///         size: 4,
///         descriptor_area: pages.device_address,
///         driver_area: pages.device_address + 0x40,
///         device_area: pages.device_address + 0x80,
///         features: Features::VERSION_1,
///     },
/// );
/// assert_eq!(ring.pop(), None);
/// assert_eq!(ring.violations(), []);
/// # // SAFETY: allocated so above, and freed once.
/// # unsafe { memory.free(pages, &request) };
/// # Ok::<(), virtqueue::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct DeviceRing {
    raw: RawRing,
    next_available: u16,
    next_used: u16,
    /// The used index when the driver was last considered for an interrupt.
    signalled: u16,
    /// The available index up to which it was judged whether a notification was due.
    judged: u16,
    in_flight: BTreeMap<u16, InFlight>,
    /// The descriptors of the queue's table that chains in flight are made of, and those chains.
    busy: BTreeMap<u16, u16>,
    /// Where the next chain begins under IN_ORDER.
    next_in_order: u16,
    violations: Vec<Violation>,
    /// Whether the available index makes no sense any more.
    broken: bool,
    /// The flags that were recorded last as wrong.
    wrong_flags: u16,
}

#[derive(Debug, Default)]
struct InFlight {
    /// Indices in the queue's table.
    descriptors: Vec<u16>,
    /// All descriptors: the table, the index there, and what was read.
    seen: Vec<(u64, u16, RawDescriptor)>,
}

impl DeviceRing {
    /// The device's end of the ring in `memory`, which the driver has just set up.
    #[must_use]
    pub fn new(memory: Arc<dyn DeviceMemory>, setup: RingSetup) -> Self {
        assert!(setup.size.is_power_of_two(), "queue size {}", setup.size);
        Self {
            raw: RawRing::new(memory, setup),
            next_available: 0,
            next_used: 0,
            signalled: 0,
            judged: 0,
            in_flight: BTreeMap::new(),
            busy: BTreeMap::new(),
            next_in_order: 0,
            violations: Vec::new(),
            broken: false,
            wrong_flags: 0,
        }
    }

    /// The fields of the ring, to do with them what no honest device does.
    #[must_use]
    pub fn raw(&self) -> &RawRing {
        &self.raw
    }

    /// What the driver did against the specification.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How many chains were taken and not given back.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The available index up to which chains were taken.
    #[must_use]
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    /// The used index at which the next chain is given back.
    #[must_use]
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    fn negotiated(&self, feature: Features) -> bool {
        self.raw.setup().features.contains(feature)
    }

    fn violate(&mut self, rule: Rule, text: impl Into<String>) {
        self.violations.push(Violation::new(rule, text));
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

    /// How many chains the driver made available that were not taken.
    fn available(&mut self) -> Option<u16> {
        if self.broken {
            return None;
        }
        let idx = self.raw.available_idx();
        let idx = self.reached("available idx", idx)?;
        let count = idx.wrapping_sub(self.next_available);
        if count > self.raw.setup().size {
            self.broken = true;
            self.violate(
                Rule::AvailableIndex,
                format!(
                    "idx is {idx}, {} chains were taken, the queue has {}",
                    self.next_available,
                    self.raw.setup().size
                ),
            );
            return None;
        }
        Some(count)
    }

    fn check_available_flags(&mut self) -> Option<()> {
        let flags = self.raw.available_flags();
        let flags = self.reached("available flags", flags)?;
        let event_idx = self.negotiated(Features::EVENT_IDX);
        let wrong = if event_idx { flags != 0 } else { AvailableFlags::from_bits(flags).is_none() };
        if wrong && flags != self.wrong_flags {
            let with = if event_idx { "with" } else { "without" };
            self.violate(Rule::AvailableFlags, format!("flags are {flags:#x}, {with} EVENT_IDX"));
        }
        self.wrong_flags = if wrong { flags } else { 0 };
        Some(())
    }

    /// Follows a chain, in the queue's table and then, perhaps, in an indirect one.
    fn walk(&mut self, head: u16) -> (Chain, InFlight) {
        let size = self.raw.setup().size;
        let mut parts = ChainParts::new(head);
        let mut record = InFlight::default();
        let mut table = self.raw.setup().descriptor_area;
        let mut table_length = size;
        let mut index = head;
        let mut visited = BTreeSet::new();

        parts.chain.malformed = loop {
            if !visited.insert(index) {
                self.violate(Rule::ChainLoop, format!("the chain at {head} comes back to descriptor {index}"));
                break true;
            }
            let descriptor = match self.raw.descriptor_at(table, index) {
                Ok(descriptor) => descriptor,
                Err(fault) => {
                    self.violate(Rule::Unreachable, format!("descriptor {index} of the chain at {head}: {fault}"));
                    break true;
                }
            };
            record.seen.push((table, index, descriptor));
            if !parts.chain.indirect {
                match self.busy.get(&index) {
                    Some(&other) if other != head => self.violate(
                        Rule::DescriptorInFlight,
                        format!("descriptor {index} of the chain at {head} belongs to the one at {other}, in flight"),
                    ),
                    _ => record.descriptors.push(index),
                }
            }
            let Some(flags) = DescriptorFlags::from_bits(descriptor.flags) else {
                self.violate(
                    Rule::DescriptorFlags,
                    format!("descriptor {index} of the chain at {head} has flags {:#x}", descriptor.flags),
                );
                break true;
            };

            if flags.contains(DescriptorFlags::INDIRECT) {
                if parts.chain.indirect {
                    self.violate(Rule::IndirectNested, format!("entry {index} of the indirect table of {head}"));
                    break true;
                }
                if !self.negotiated(Features::INDIRECT_DESC) {
                    self.violate(Rule::IndirectNotNegotiated, format!("descriptor {index} of the chain at {head}"));
                    break true;
                }
                if flags.contains(DescriptorFlags::NEXT) {
                    self.violate(Rule::IndirectWithNext, format!("descriptor {index} of the chain at {head}"));
                    break true;
                }
                let name = || format!("the chain at {head}");
                let entry = size_of::<Descriptor>();
                let memory = &**self.raw.memory();
                let entries = match table_entries(memory, &name, descriptor.address, descriptor.bytes, entry) {
                    Ok(entries) => entries,
                    Err(violation) => {
                        self.violations.push(violation);
                        break true;
                    }
                };
                parts.chain.indirect = true;
                table = descriptor.address;
                table_length = u16::try_from(entries).unwrap_or(u16::MAX);
                index = 0;
                visited.clear();
                continue;
            }

            let writable = flags.contains(DescriptorFlags::WRITE);
            let segment = Segment { address: descriptor.address, bytes: descriptor.bytes, writable };
            let what = || format!("descriptor {index} of the chain at {head}");
            if let Err(violation) = parts.add(&**self.raw.memory(), size, &what, segment, &mut self.violations) {
                self.violations.push(violation);
                break true;
            }
            if !flags.contains(DescriptorFlags::NEXT) {
                break false;
            }
            if descriptor.next >= table_length {
                self.violate(
                    Rule::NextOutOfRange,
                    format!(
                        "descriptor {index} of the chain at {head} continues at {}, the table has {table_length}",
                        descriptor.next
                    ),
                );
                break true;
            }
            if self.negotiated(Features::IN_ORDER) {
                let expected = if parts.chain.indirect { index + 1 } else { (index + 1) % size };
                if descriptor.next != expected {
                    self.violate(
                        Rule::InOrderNext,
                        format!("descriptor {index} of the chain at {head} continues at {}", descriptor.next),
                    );
                }
            }
            index = descriptor.next;
        };
        (parts.chain, record)
    }

    /// Whether what was read of a chain is still so.
    fn check_unaltered(&mut self, id: u16, record: &InFlight) {
        for &(table, index, before) in &record.seen {
            match self.raw.descriptor_at(table, index) {
                Ok(now) if now == before => {}
                Ok(now) => self.violate(
                    Rule::AlteredInFlight,
                    format!("descriptor {index} of the chain at {id} was {before:?} and is {now:?}"),
                ),
                Err(fault) => self.violate(
                    Rule::AlteredInFlight,
                    format!("descriptor {index} of the chain at {id} was taken away: {fault}"),
                ),
            }
        }
    }
}

impl RingMover for DeviceRing {
    fn pop(&mut self) -> Option<Chain> {
        loop {
            if self.available()? == 0 {
                return None;
            }
            self.check_available_flags()?;
            let head = self.raw.available_entry(self.next_available);
            let head = self.reached("available entry", head)?;
            let entry = self.next_available;
            self.next_available = self.next_available.wrapping_add(1);
            if head >= self.raw.setup().size {
                self.violate(Rule::HeadOutOfRange, format!("available entry {entry} names descriptor {head}"));
                continue;
            }
            if self.in_flight.contains_key(&head) {
                self.violate(Rule::HeadInFlight, format!("available entry {entry} names chain {head} again"));
                continue;
            }
            if self.negotiated(Features::IN_ORDER) && head != self.next_in_order {
                self.violate(
                    Rule::InOrderNext,
                    format!("available entry {entry} names descriptor {head}, not {}", self.next_in_order),
                );
            }
            let (chain, record) = self.walk(head);
            for &descriptor in &record.descriptors {
                self.busy.insert(descriptor, head);
            }
            if let Some(last) = record.descriptors.last() {
                self.next_in_order = (last + 1) % self.raw.setup().size;
            }
            self.in_flight.insert(head, record);
            return Some(chain);
        }
    }

    fn push_used(&mut self, id: u16, bytes: u32) {
        self.push_batch(&[], id, bytes);
    }

    fn push_batch(&mut self, skipped: &[u16], id: u16, bytes: u32) {
        for id in skipped.iter().copied().chain([id]) {
            if let Some(record) = self.in_flight.remove(&id) {
                self.check_unaltered(id, &record);
                for descriptor in record.descriptors {
                    self.busy.remove(&descriptor);
                }
            }
        }
        let written = self.raw.set_used_element(self.next_used, u32::from(id), bytes);
        self.reached("used element", written);
        self.skip_used(skipped.len() as u16 + 1);
    }

    fn push_raw(&mut self, id: u32, bytes: u32) {
        let written = self.raw.set_used_element(self.next_used, id, bytes);
        self.reached("used element", written);
        self.skip_used(1);
    }

    fn skip_used(&mut self, entries: u16) {
        self.next_used = self.next_used.wrapping_add(entries);
        let written = self.raw.set_used_idx(self.next_used);
        self.reached("used idx", written);
    }

    fn interrupt_wanted(&mut self) -> bool {
        // The index is seen by the driver before its suppression is looked at.
        fence(Ordering::SeqCst);
        let (old, new) = (self.signalled, self.next_used);
        self.signalled = new;
        if old == new || self.check_available_flags().is_none() {
            return false;
        }
        if self.negotiated(Features::EVENT_IDX) {
            let event = self.raw.used_event();
            self.reached("used_event", event).is_some_and(|event| crosses(event, old, new))
        } else {
            let flags = self.raw.available_flags().unwrap_or(0);
            !AvailableFlags::from_bits_truncate(flags).contains(AvailableFlags::NO_INTERRUPT)
        }
    }

    fn set_notifications(&mut self, wanted: bool) -> bool {
        let written = if self.negotiated(Features::EVENT_IDX) {
            // Unwanted: an event that was just passed does not come again for a long time.
            let event = if wanted { self.next_available } else { self.next_available.wrapping_sub(1) };
            self.raw.set_avail_event(event)
        } else {
            let flags = if wanted { UsedFlags::empty() } else { UsedFlags::NO_NOTIFY };
            self.raw.set_used_flags(flags.bits())
        };
        self.reached("suppression of notifications", written);
        // What was made available before the driver could see this, is seen here.
        fence(Ordering::SeqCst);
        self.available().is_some_and(|count| count > 0)
    }

    fn judge(&mut self) -> Option<Judgement> {
        self.raw.judge(&mut self.judged)
    }

    fn notification_data(&mut self) -> Option<u16> {
        self.raw.available_idx().ok()
    }

    fn take_violations(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.violations)
    }
}
