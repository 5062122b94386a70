//! The device's end of a split ring as rust-vmm moves it.

use std::num::Wrapping;

use virtio_queue::{Queue, QueueT};
use virtio_spec::Features;
use vm_memory::GuestMemoryMmap;

use crate::chain::{Chain, Segment};
use crate::raw_ring::RawRing;
use crate::ring_mover::{Judgement, RingMover};
use crate::violation::{Rule, Violation};

/// A ring moved by `virtio-queue`. It checks little of what the driver does.
#[derive(Debug)]
pub(crate) struct RustVmmRing {
    queue: Queue,
    memory: GuestMemoryMmap,
    raw: RawRing,
    violations: Vec<Violation>,
    /// Whether something was written past `virtio-queue`.
    raw_used: bool,
    /// The available index up to which it was judged whether a notification was due.
    judged: u16,
}

impl RustVmmRing {
    /// The ring in `memory`, or what `virtio-queue` finds wrong with it.
    pub(crate) fn new(raw: RawRing, memory: GuestMemoryMmap) -> Result<Self, Violation> {
        let setup = raw.setup();
        let size = setup.size;
        let mut queue = Queue::new(size)
            .map_err(|error| Violation::new(Rule::QueueSize, format!("virtio-queue refuses size {size}: {error}")))?;
        #[expect(clippy::cast_possible_truncation, reason = "a register's half")]
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let (low, high) = halves(setup.descriptor_area);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(setup.driver_area);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(setup.device_area);
        queue.set_used_ring_address(low, high);
        queue.set_event_idx(setup.features.contains(Features::EVENT_IDX));
        queue.set_ready(true);
        if !queue.is_valid(&memory) {
            return Err(Violation::new(Rule::QueueUnreachable, format!("virtio-queue refuses {setup:x?}")));
        }
        Ok(Self { queue, memory, raw, violations: Vec::new(), raw_used: false, judged: 0 })
    }

    fn failed(&mut self, what: &str, error: &virtio_queue::Error) {
        self.violations.push(Violation::new(Rule::Unreachable, format!("virtio-queue, {what}: {error}")));
    }
}

impl RingMover for RustVmmRing {
    fn pop(&mut self) -> Option<Chain> {
        let chain = self.queue.pop_descriptor_chain(&self.memory)?;
        let id = chain.head_index();
        let segments = chain
            .map(|descriptor| Segment {
                address: descriptor.addr().0,
                bytes: descriptor.len(),
                writable: descriptor.is_write_only(),
            })
            .collect();
        Some(Chain { id, segments, indirect: false, malformed: false })
    }

    fn push_used(&mut self, id: u16, bytes: u32) {
        if let Err(error) = self.queue.add_used(&self.memory, id, bytes) {
            self.failed("used element", &error);
        }
    }

    fn push_batch(&mut self, skipped: &[u16], id: u16, bytes: u32) {
        if skipped.is_empty() {
            return self.push_used(id, bytes);
        }
        self.push_raw(u32::from(id), bytes);
        self.skip_used(skipped.len() as u16);
    }

    fn push_raw(&mut self, id: u32, bytes: u32) {
        if let Err(fault) = self.raw.set_used_element(self.queue.next_used(), id, bytes) {
            self.violations.push(Violation::new(Rule::Unreachable, format!("used element: {fault}")));
        }
        self.skip_used(1);
    }

    fn skip_used(&mut self, entries: u16) {
        let next = self.queue.next_used().wrapping_add(entries);
        self.queue.set_next_used(next);
        self.raw_used = true;
        if let Err(fault) = self.raw.set_used_idx(next) {
            self.violations.push(Violation::new(Rule::Unreachable, format!("used idx: {fault}")));
        }
    }

    fn interrupt_wanted(&mut self) -> bool {
        let raw_used = std::mem::take(&mut self.raw_used);
        match self.queue.needs_notification(&self.memory) {
            Ok(wanted) => wanted || raw_used,
            Err(error) => {
                self.failed("used_event", &error);
                false
            }
        }
    }

    fn set_notifications(&mut self, wanted: bool) -> bool {
        let more = if wanted {
            self.queue.enable_notification(&self.memory)
        } else {
            self.queue.disable_notification(&self.memory).and_then(|()| {
                let idx = self.queue.avail_idx(&self.memory, std::sync::atomic::Ordering::Acquire)?;
                Ok(idx != Wrapping(self.queue.next_avail()))
            })
        };
        match more {
            Ok(more) => more,
            Err(error) => {
                self.failed("suppression of notifications", &error);
                false
            }
        }
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
