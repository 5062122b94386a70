//! The registers of queues, and the rules for who sets up, notifies and stops a queue.

use virtio_spec::mmio::Register;
use virtio_spec::packed_ring::{
    DESCRIPTOR_RING_ALIGNMENT, EVENT_SUPPRESSION_ALIGNMENT, EventSuppression, descriptor_ring_size,
};
use virtio_spec::split_ring::{
    AVAILABLE_RING_ALIGNMENT, DESCRIPTOR_TABLE_ALIGNMENT, MAX_QUEUE_SIZE, USED_RING_ALIGNMENT, available_ring_size,
    descriptor_table_size, legacy_available_ring_offset, legacy_used_ring_offset, used_ring_size,
};
use virtio_spec::{DeviceStatus, Features};
use virtqueue::Access;

use crate::builder::{Mode, Mover};
use crate::packed_ring::PackedDeviceRing;
use crate::queue::{Queue, Raw, Ring};
use crate::raw_packed_ring::{RawPackedDescriptor, RawPackedRing};
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
        let reset_unread = std::mem::take(&mut queue.reset_unread);
        if reset_unread {
            self.violate(Rule::QueueResetNotReadBack, format!("{register} of queue {index} was written"));
        } else if in_use {
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
        if !self.is_queue_size(value) {
            self.violate(Rule::QueueSize, format!("{value} entries for queue {index}, the maximum is {max}"));
        }
        if self.selected().is_some_and(|queue| !queue.max_read) {
            self.violate(Rule::QueueSizeNotRead, format!("{value} entries for queue {index}"));
        }
        self.with_selected(|queue| queue.size = value);
    }

    /// Whether a queue may have so many entries.
    fn is_queue_size(&self, value: u32) -> bool {
        let packed = self.has(Features::RING_PACKED);
        let limit = u32::from(MAX_QUEUE_SIZE).min(self.setup.queue_size_max);
        (1..=limit).contains(&value) && (packed || value.is_power_of_two())
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
        let index = self.queue_sel;
        let packed = self.has(Features::RING_PACKED);
        let violation = if packed { Violation::packed } else { Violation::new };
        let Some(entries) = self.selected().map(|queue| queue.size) else { return };
        if !self.is_queue_size(entries) {
            self.violate(Rule::QueueSize, format!("queue {index} was enabled with {entries} entries"));
            return;
        }
        let Some(queue) = self.selected() else { return };
        let parts = parts_of(queue, entries as u16, packed);
        let mut usable = true;
        for (what, start, bytes, align, access) in parts {
            if start % align as u64 != 0 {
                let text = format!("queue {index}: {what} at {start:#x}");
                self.violations.push(violation(Rule::QueueMisaligned, text));
                usable = false;
            }
            let reaches = start.checked_add(bytes as u64).is_some()
                && access.iter().all(|access| self.memory.reaches(start, bytes, *access));
            if !reaches {
                let text = format!("queue {index}: {what}, {bytes} bytes at {start:#x}");
                self.violations.push(violation(Rule::QueueUnreachable, text));
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
        let setup = RingSetup { size: entries as u16, descriptor_area, driver_area, device_area, features };
        let raw = if packed {
            Raw::Packed(RawPackedRing::new(self.memory.clone(), setup))
        } else {
            Raw::Split(RawRing::new(self.memory.clone(), setup))
        };
        self.check_zeroed(index, &raw);
        match self.mover_of(&raw) {
            Ok(mover) => self.with_selected(|queue| queue.ring = Some(Ring { mover, raw })),
            Err(violation) => self.violations.push(violation),
        }
    }

    /// Whether a ring that begins to be used is zero where it has to be.
    fn check_zeroed(&mut self, index: u32, raw: &Raw) {
        match raw {
            Raw::Split(ring) => match (ring.used_flags(), ring.used_idx()) {
                (Ok(0), Ok(0)) => {}
                found => self.violate(Rule::QueueNotZeroed, format!("queue {index}: flags and idx are {found:?}")),
            },
            Raw::Packed(ring) => {
                let zero = RawPackedDescriptor { address: 0, bytes: 0, id: 0, flags: 0 };
                let found = (0..ring.setup().size).map(|offset| (offset, ring.descriptor(offset)));
                if let Some((offset, found)) = found.into_iter().find(|(_, found)| *found != Ok(zero)) {
                    let text = format!("queue {index}: descriptor {offset} is {found:?}");
                    self.violations.push(Violation::packed(Rule::QueueNotZeroed, text));
                }
            }
        }
    }

    pub(crate) fn mover_of(&self, raw: &Raw) -> Result<Box<dyn RingMover>, Violation> {
        match (raw, self.setup.mover) {
            (Raw::Split(raw), Mover::Strict) => Ok(Box::new(DeviceRing::new(raw.memory().clone(), *raw.setup()))),
            #[cfg(not(miri))]
            (Raw::Split(raw), Mover::RustVmm) => {
                let memory = self.memory.guest_memory().expect("looked for when the device was built");
                Ok(Box::new(crate::rust_vmm_ring::RustVmmRing::new(raw.clone(), memory)?))
            }
            // Not offered where virtio-queue moves rings.
            (Raw::Packed(raw), _) => Ok(Box::new(PackedDeviceRing::new(raw.memory().clone(), *raw.setup()))),
        }
    }

    pub(crate) fn check_overlap(&mut self, index: u32, parts: &[Part; 3]) -> bool {
        let packed = self.has(Features::RING_PACKED);
        let violation = if packed { Violation::packed } else { Violation::new };
        let others = self.queues.iter().enumerate().filter(|(other, queue)| *other as u32 != index && queue.in_use());
        let mut all: Vec<(usize, Part)> = others
            .flat_map(|(other, queue)| {
                let size = u16::try_from(queue.size).unwrap_or(0);
                parts_of(queue, size, packed).map(|part| (other, part))
            })
            .collect();
        for part in parts {
            let (what, start, bytes, ..) = *part;
            let end = start + bytes as u64;
            let found = all.iter().find(|(_, other)| start < other.1 + other.2 as u64 && other.1 < end);
            if let Some((other, (other_what, ..))) = found {
                let text = format!("queue {index}: {what} overlaps {other_what} of queue {other}");
                self.violations.push(violation(Rule::QueueOverlap, text));
                return false;
            }
            all.push((index as usize, *part));
        }
        true
    }

    pub(crate) fn notify(&mut self, value: u32) {
        self.counts.notifications += 1;
        let with_data = self.has(Features::NOTIFICATION_DATA);
        if !self.status.intersects(DeviceStatus::DRIVER_OK | DeviceStatus::SUSPEND) {
            self.violate(Rule::NotifyEarly, format!("{value:#x} was written with status {:?}", self.status));
        }
        if self.suspending() {
            self.violate(Rule::WhileSuspended, format!("{value:#x} was written to notify a queue"));
        } else if self.driver.resume_unread {
            self.driver.resume_unread = false;
            self.violate(Rule::ResumeNotAwaited, format!("{value:#x} was written to notify a queue"));
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
            let expected = self.with_ring(queue, |ring| ring.mover.notification_data());
            if let Some(Some(expected)) = expected
                && value >> 16 != u32::from(expected)
            {
                let text = format!("{value:#x} was written, the upper half is to be {expected:#x}");
                self.violate(Rule::NotifyData, text);
            }
        }
        self.judge(queue, true);
        if self.setup.mode == Mode::Immediate {
            self.process(Some(queue));
        }
    }
}

/// A part of a queue: what, where, how long, how aligned, and what the device does with it.
type Part = (&'static str, u64, usize, usize, &'static [Access]);

const READS: &[Access] = &[Access::DeviceReads];
const WRITES: &[Access] = &[Access::DeviceWrites];
const BOTH: &[Access] = &[Access::DeviceReads, Access::DeviceWrites];

fn parts_of(queue: &Queue, size: u16, packed: bool) -> [Part; 3] {
    let (first, second, third) = (queue.descriptor_area, queue.driver_area, queue.device_area);
    if packed {
        let (bytes, align) = (size_of::<EventSuppression>(), EVENT_SUPPRESSION_ALIGNMENT);
        [
            ("the descriptor ring", first, descriptor_ring_size(size), DESCRIPTOR_RING_ALIGNMENT, BOTH),
            ("the driver's event suppression", second, bytes, align, READS),
            ("the device's event suppression", third, bytes, align, WRITES),
        ]
    } else {
        [
            ("the descriptor table", first, descriptor_table_size(size), DESCRIPTOR_TABLE_ALIGNMENT, READS),
            ("the available ring", second, available_ring_size(size), AVAILABLE_RING_ALIGNMENT, READS),
            ("the used ring", third, used_ring_size(size), USED_RING_ALIGNMENT, WRITES),
        ]
    }
}
