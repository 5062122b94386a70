//! The registers of queues, and the rules for who sets up, notifies and stops a queue.

use virtio_spec::mmio::Register;
use virtio_spec::split_ring::{
    AVAILABLE_RING_ALIGNMENT, DESCRIPTOR_TABLE_ALIGNMENT, MAX_QUEUE_SIZE, USED_RING_ALIGNMENT, available_ring_size,
    descriptor_table_size, legacy_available_ring_offset, legacy_used_ring_offset, used_ring_size,
};
use virtio_spec::{DeviceStatus, Features};
use virtqueue::Access;

use crate::builder::{Mode, Mover};
use crate::queue::{Queue, Ring};
use crate::raw_ring::{RawRing, RingSetup};
use crate::ring_mover::RingMover;
use crate::split_ring::DeviceRing;
use crate::state::State;
use crate::violation::{Rule, Violation};

impl State {
    pub(crate) fn read_queue_size_max(&mut self) -> u32 {
        self.check_setup_time(Register::QUEUE_SIZE_MAX);
        let (legacy, max) = (self.legacy(), self.setup.queue_size_max);
        let index = self.queue_sel;
        let Some(queue) = self.selected() else { return 0 };
        queue.max_read = true;
        if legacy && queue.in_use() {
            self.violate(Rule::QueueInUse, format!("the maximum size of queue {index} was read"));
        }
        max
    }

    pub(crate) fn selected(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }

    pub(crate) fn with_selected(&mut self, body: impl FnOnce(&mut Queue)) {
        if let Some(queue) = self.selected() {
            body(queue);
        }
    }

    pub(crate) fn check_setup_time(&mut self, register: Register) {
        let ready = if self.legacy() { DeviceStatus::DRIVER } else { DeviceStatus::FEATURES_OK };
        if !self.status.contains(ready) {
            self.violate(Rule::QueueEarly, format!("{register} was accessed with status {:?}", self.status));
        } else if self.driver.features_ok_unread {
            // Once for each negotiation is enough.
            self.driver.features_ok_unread = false;
            self.violate(Rule::FeaturesOkNotReadBack, format!("{register} was accessed"));
        }
    }

    /// Holds a write to a queue's register against the rules. Returns whether there is such a queue.
    pub(crate) fn check_queue_write(&mut self, register: Register) -> bool {
        self.check_setup_time(register);
        let live = self.status.contains(DeviceStatus::DRIVER_OK);
        let index = self.queue_sel;
        let Some(queue) = self.selected() else {
            self.violate(Rule::QueueUnknown, format!("{register} of queue {index}"));
            return false;
        };
        let (in_use, late) = (queue.in_use(), live && !queue.was_reset);
        if in_use {
            self.violate(Rule::QueueInUse, format!("{register} of queue {index} was written"));
        } else if late {
            self.violate(Rule::QueueLate, format!("{register} of queue {index} was written"));
        }
        !in_use
    }

    pub(crate) fn write_queue_size(&mut self, value: u32) {
        if !self.check_queue_write(Register::QUEUE_SIZE) {
            return;
        }
        let (index, max) = (self.queue_sel, self.setup.queue_size_max);
        if value > max || !value.is_power_of_two() || value > u32::from(MAX_QUEUE_SIZE) {
            self.violate(Rule::QueueSize, format!("{value} entries for queue {index}, the maximum is {max}"));
        }
        if self.selected().is_some_and(|queue| !queue.max_read) {
            self.violate(Rule::QueueSizeNotRead, format!("{value} entries for queue {index}"));
        }
        self.with_selected(|queue| queue.size = value);
    }

    pub(crate) fn write_area(&mut self, register: Register, body: impl FnOnce(&mut Queue)) {
        if self.check_queue_write(register) {
            self.with_selected(body);
        }
    }

    pub(crate) fn write_ready(&mut self, value: u32) {
        let index = self.queue_sel;
        match value {
            0 => self.with_selected(|queue| {
                queue.stop();
                queue.stop_unread = true;
            }),
            1 => {
                if !self.check_queue_write(Register::QUEUE_READY) {
                    return;
                }
                if self.selected().is_some_and(|queue| queue.stop_unread) {
                    self.violate(Rule::QueueStopNotReadBack, format!("queue {index} was made ready again"));
                }
                if !self.faults.refuse_queues {
                    self.enable_queue();
                }
            }
            _ => self.violate(Rule::QueueReadyValue, format!("{value:#x} was written for queue {index}")),
        }
    }

    pub(crate) fn write_page_number(&mut self, value: u32) {
        if value == 0 {
            self.with_selected(Queue::stop);
            return;
        }
        if !self.check_queue_write(Register::QUEUE_PFN) {
            return;
        }
        let page_size = self.page_size;
        if !page_size.is_power_of_two() {
            self.violate(Rule::QueuePageSize, format!("a queue was set up with page size {page_size:#x}"));
            return;
        }
        let index = self.queue_sel;
        let Some(queue) = self.selected() else { return };
        let align = queue.align;
        if !align.is_power_of_two() {
            self.violate(Rule::QueueAlign, format!("queue {index} was set up with alignment {align:#x}"));
            return;
        }
        let start = u64::from(value) * u64::from(page_size);
        let size = u16::try_from(queue.size).unwrap_or(0);
        queue.page_number = value;
        queue.descriptor_area = start;
        queue.driver_area = start + legacy_available_ring_offset(size) as u64;
        queue.device_area = start + legacy_used_ring_offset(size, align as usize) as u64;
        self.enable_queue();
        self.with_selected(|queue| {
            if !queue.in_use() {
                queue.page_number = 0;
            }
        });
    }

    /// Holds the selected queue against the rules and, where that can be, begins to use it.
    pub(crate) fn enable_queue(&mut self) {
        let (index, max) = (self.queue_sel, self.setup.queue_size_max);
        let Some(queue) = self.selected() else { return };
        let size = match u16::try_from(queue.size) {
            Ok(size) if size.is_power_of_two() && u32::from(size) <= max => size,
            _ => {
                let text = format!("queue {index} was enabled with {} entries", queue.size);
                self.violate(Rule::QueueSize, text);
                return;
            }
        };
        let parts = parts_of(queue, size);
        let mut usable = true;
        for (what, start, bytes, align, access) in parts {
            if start % align as u64 != 0 {
                self.violate(Rule::QueueMisaligned, format!("queue {index}: {what} at {start:#x}"));
                usable = false;
            }
            let reaches = start.checked_add(bytes as u64).is_some() && self.memory.reaches(start, bytes, access);
            if !reaches {
                self.violate(Rule::QueueUnreachable, format!("queue {index}: {what}, {bytes} bytes at {start:#x}"));
                usable = false;
            }
        }
        if usable {
            usable = self.check_overlap(index, &parts);
        }
        if !usable {
            return;
        }
        let features = Features::from_bits_truncate(self.negotiated());
        let [(_, descriptor_area, ..), (_, driver_area, ..), (_, device_area, ..)] = parts;
        let setup = RingSetup { size, descriptor_area, driver_area, device_area, features };
        let raw = RawRing::new(self.memory.clone(), setup);
        match (raw.used_flags(), raw.used_idx()) {
            (Ok(0), Ok(0)) => {}
            found => self.violate(Rule::QueueNotZeroed, format!("queue {index}: flags and idx are {found:?}")),
        }
        match self.mover_of(&raw) {
            Ok(mover) => self.with_selected(|queue| {
                queue.judged = 0;
                queue.ring = Some(Ring { mover, raw });
            }),
            Err(violation) => self.violations.push(violation),
        }
    }

    pub(crate) fn mover_of(&self, raw: &RawRing) -> Result<Box<dyn RingMover>, Violation> {
        match self.setup.mover {
            Mover::Strict => Ok(Box::new(DeviceRing::new(raw.memory().clone(), *raw.setup()))),
            #[cfg(not(miri))]
            Mover::RustVmm => {
                let memory = self.memory.guest_memory().expect("looked for when the device was built");
                Ok(Box::new(crate::rust_vmm_ring::RustVmmRing::new(raw.clone(), memory)?))
            }
        }
    }

    pub(crate) fn check_overlap(&mut self, index: u32, parts: &[Part; 3]) -> bool {
        let others = self.queues.iter().enumerate().filter(|(other, queue)| *other as u32 != index && queue.in_use());
        let mut all: Vec<(usize, Part)> = others
            .flat_map(|(other, queue)| {
                let size = u16::try_from(queue.size).unwrap_or(0);
                parts_of(queue, size).map(|part| (other, part))
            })
            .collect();
        for part in parts {
            let (what, start, bytes, ..) = *part;
            let end = start + bytes as u64;
            let found = all.iter().find(|(_, other)| start < other.1 + other.2 as u64 && other.1 < end);
            if let Some((other, (other_what, ..))) = found {
                let text = format!("queue {index}: {what} overlaps {other_what} of queue {other}");
                self.violate(Rule::QueueOverlap, text);
                return false;
            }
            all.push((index as usize, *part));
        }
        true
    }

    pub(crate) fn check_ring_reset(&mut self, register: Register) -> bool {
        let negotiated = self.has(Features::RING_RESET);
        if !negotiated {
            self.violate(Rule::RegisterNotNegotiated, format!("{register} without RING_RESET"));
        }
        negotiated
    }

    pub(crate) fn reset_queue(&mut self, register: Register, value: u32) {
        if !self.check_ring_reset(register) || value != 1 || self.faults.ignore_queue_reset {
            return;
        }
        let index = self.queue_sel;
        let before = self.held.len();
        self.held.retain(|pending| u32::from(pending.queue) != index);
        self.in_hand = self.in_hand.saturating_sub((before - self.held.len()) as u64);
        self.with_selected(|queue| {
            queue.reset();
            queue.was_reset = true;
        });
    }

    pub(crate) fn notify(&mut self, value: u32) {
        self.counts.notifications += 1;
        let with_data = self.has(Features::NOTIFICATION_DATA);
        if !self.status.contains(DeviceStatus::DRIVER_OK) {
            self.violate(Rule::NotifyEarly, format!("{value:#x} was written with status {:?}", self.status));
        }
        let index = if with_data { value & 0xffff } else { value };
        let queue =
            u16::try_from(index).ok().filter(|queue| self.queues.get(usize::from(*queue)).is_some_and(Queue::in_use));
        let Some(queue) = queue else {
            self.violate(Rule::NotifyUnknownQueue, format!("{value:#x} was written"));
            return;
        };
        self.queues[usize::from(queue)].notifications += 1;
        if with_data {
            let idx = self.with_ring(queue, |ring| ring.raw.available_idx());
            if let Some(Ok(idx)) = idx
                && value >> 16 != u32::from(idx)
            {
                self.violate(Rule::NotifyData, format!("{value:#x} was written, available idx is {idx:#x}"));
            }
        }
        self.judge(queue, true);
        if self.setup.mode == Mode::Immediate {
            self.process(Some(queue));
        }
    }
}

/// A part of a queue: what, where, how long, how aligned, and what the device does with it.
type Part = (&'static str, u64, usize, usize, Access);

fn parts_of(queue: &Queue, size: u16) -> [Part; 3] {
    [
        (
            "the descriptor table",
            queue.descriptor_area,
            descriptor_table_size(size),
            DESCRIPTOR_TABLE_ALIGNMENT,
            Access::DeviceReads,
        ),
        (
            "the available ring",
            queue.driver_area,
            available_ring_size(size),
            AVAILABLE_RING_ALIGNMENT,
            Access::DeviceReads,
        ),
        ("the used ring", queue.device_area, used_ring_size(size), USED_RING_ALIGNMENT, Access::DeviceWrites),
    ]
}
