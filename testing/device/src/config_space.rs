//! The configuration space, and the rules for who reads and writes it.

use virtio_spec::DeviceStatus;
use virtio_spec::block::{BlockConfig, BlockFeatures, CacheMode};

use crate::config::{CAPACITY_OFFSET, WRITEBACK_OFFSET, bytes_of, field_at};
use crate::faults::Generation;
use crate::state::State;
use crate::violation::Rule;

impl State {
    pub(crate) fn read_generation(&mut self) -> u32 {
        match &mut self.faults.generation {
            Generation::Honest | Generation::Moves(0) => {}
            Generation::Moves(reads) => {
                *reads -= 1;
                self.generation = self.generation.wrapping_add(1);
            }
            Generation::NeverSettles => self.generation = self.generation.wrapping_add(1),
        }
        self.generation
    }

    /// Holds an access to the configuration space against the rules. Returns whether it reaches a field.
    pub(crate) fn check_config(&mut self, offset: usize, width: usize) -> Option<&'static str> {
        let Some(field) = field_at(offset) else {
            let what = if offset < size_of::<BlockConfig>() { "padding" } else { "nothing" };
            self.violate(Rule::ConfigUnknown, format!("{width} bytes at {offset:#x}: {what}"));
            return None;
        };
        if self.offered() & field.feature.bits() != field.feature.bits() {
            self.violate(Rule::ConfigNotOffered, format!("{} without {:?}", field.name, field.feature));
        }
        // A legacy driver may read any field byte by byte.
        let whole = width == field.width.min(4) && (offset - field.offset).is_multiple_of(width);
        if !(whole || self.legacy() && width == 1) {
            self.violate(Rule::ConfigWidth, format!("{width} bytes at {offset:#x} of {}", field.name));
        }
        Some(field.name)
    }

    pub(crate) fn read_config(&mut self, offset: usize, to: &mut [u8]) {
        let known = self.check_config(offset, to.len()).is_some();
        if known && offset == WRITEBACK_OFFSET && !self.legacy() && !self.status.contains(DeviceStatus::FEATURES_OK) {
            self.violate(Rule::WritebackReadEarly, format!("it was read with status {:?}", self.status));
        }
        let mut config = self.config;
        if offset < CAPACITY_OFFSET + 8
            && let Some(flicker) = &mut self.faults.flicker
        {
            if flicker.reads % 2 == 1 {
                config.capacity = flicker.other_sectors.into();
            }
            self.generation = self.generation.wrapping_add(1);
            flicker.reads = flicker.reads.saturating_sub(1);
            if flicker.reads == 0 {
                self.faults.flicker = None;
            }
        }
        let bytes = bytes_of(&config, self.offered(), self.legacy());
        for (index, to) in (offset..).zip(to) {
            *to = bytes.get(index).copied().unwrap_or(0xff);
        }
    }

    pub(crate) fn write_config(&mut self, offset: usize, bytes: &[u8]) {
        let Some(name) = self.check_config(offset, bytes.len()) else { return };
        if self.suspending() {
            self.violate(Rule::WhileSuspended, format!("{name} was written"));
            return;
        }
        let negotiated = if self.legacy() { self.offered() } else { self.negotiated() };
        if !self.legacy() && !self.status.contains(DeviceStatus::FEATURES_OK) {
            self.violate(Rule::ConfigWrittenEarly, format!("{name} was written with status {:?}", self.status));
        } else if offset != WRITEBACK_OFFSET || negotiated & BlockFeatures::CONFIG_WCE.bits() == 0 {
            self.violate(Rule::ConfigReadOnly, format!("{name} was written"));
        } else if let [mode] = bytes {
            self.config.writeback = CacheMode(*mode);
        }
    }
}
