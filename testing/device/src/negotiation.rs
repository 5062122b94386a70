//! Device status and features, and the rules for how a driver sets them.

use virtio_spec::block::BlockFeatures;
use virtio_spec::{DeviceStatus, Features};

use crate::state::State;
use crate::violation::Rule;
use crate::words::{set_high, set_low};

impl State {
    pub(crate) fn read_features(&mut self) -> u32 {
        if !self.status.contains(DeviceStatus::DRIVER) {
            self.violate(Rule::FeaturesEarly, format!("features were read with status {:?}", self.status));
        }
        match self.device_features_sel {
            None => {
                self.violate(Rule::FeaturesSelNotWritten, "features were read");
                self.offered() as u32
            }
            Some(0) => self.offered() as u32,
            Some(1) => (self.offered() >> 32) as u32,
            Some(_) => 0,
        }
    }

    pub(crate) fn read_status(&mut self) -> u32 {
        if self.reset_pending {
            self.answer_reset();
        }
        if !self.reset_pending {
            if self.status.is_empty() {
                self.driver.reset_unread = false;
            }
            self.driver.features_ok_unread = false;
            self.answer_suspend();
        }
        u32::from(self.status.bits())
    }

    pub(crate) fn write_features(&mut self, value: u32) {
        if !self.status.contains(DeviceStatus::DRIVER) {
            self.violate(Rule::FeaturesEarly, format!("features were written with status {:?}", self.status));
        }
        let over = if self.legacy() {
            self.status.contains(DeviceStatus::DRIVER_OK) || self.queues.iter().any(|queue| queue.in_use())
        } else {
            self.status.contains(DeviceStatus::FEATURES_OK)
        };
        if over {
            self.violate(Rule::FeaturesLate, format!("features were written with status {:?}", self.status));
            return;
        }
        match self.driver_features_sel {
            None => self.violate(Rule::FeaturesSelNotWritten, "features were written"),
            Some(0) => set_low(&mut self.driver_features, value),
            Some(1) => set_high(&mut self.driver_features, value),
            Some(_) if value == 0 => {}
            Some(word) => self.violate(Rule::FeatureNotOffered, format!("word {word}: {value:#x}")),
        }
    }

    /// Holds what the driver accepted against what it may accept. Returns whether the device goes along.
    pub(crate) fn check_features(&mut self) -> bool {
        let (offered, accepted, legacy) = (self.offered(), self.driver_features, self.legacy());
        let not_offered = accepted & !offered;
        if not_offered != 0 {
            self.violate(Rule::FeatureNotOffered, format!("{not_offered:#x}"));
        }
        let legacy_only = Features::NOTIFY_ON_EMPTY.bits()
            | Features::ANY_LAYOUT.bits()
            | BlockFeatures::BARRIER.bits()
            | BlockFeatures::SCSI.bits();
        let elsewhere = Features::SR_IOV.bits() | Features::ADMIN_VQ.bits() | Features::NOTIF_CONFIG_DATA.bits();
        let defined = Features::all().bits() | BlockFeatures::all().bits();
        let here = if legacy { u64::from(u32::MAX) & !BlockFeatures::ZONED.bits() } else { !legacy_only };
        let undefined = accepted & offered & !(defined & here & !elsewhere);
        if undefined != 0 {
            self.violate(Rule::FeatureUndefined, format!("{undefined:#x}"));
        }
        let declined = offered & !accepted;
        if declined & Features::VERSION_1.bits() != 0 {
            self.violate(Rule::Version1Declined, "it was not accepted");
        }
        if legacy && declined & Features::ANY_LAYOUT.bits() != 0 {
            self.violate(Rule::AnyLayoutDeclined, "it was not accepted");
        }
        let zoned = BlockFeatures::ZONED.bits();
        if self.zones.is_some() && accepted & zoned != 0 && accepted & BlockFeatures::DISCARD.bits() != 0 {
            self.violate(Rule::DiscardOnZoned, "DISCARD was accepted");
        }
        let needed = self.setup.needed | if self.zones.is_some() { zoned } else { 0 };
        not_offered == 0 && needed & !accepted == 0 && !self.faults.refuse_features
    }

    pub(crate) fn write_status(&mut self, value: u32) {
        if value == 0 {
            self.begin_reset();
            return;
        }
        if self.driver.reset_unread {
            self.violate(Rule::ResetNotAwaited, format!("status {value:#x} was written instead"));
        }
        if self.reset_pending {
            return;
        }
        let Some(new) = u8::try_from(value).ok().and_then(DeviceStatus::from_bits) else {
            self.violate(Rule::StatusBitUnknown, format!("status {value:#x} was written"));
            return;
        };
        let own = DeviceStatus::DEVICE_NEEDS_RESET;
        let old = self.status;
        if new.contains(own) && !old.contains(own) {
            self.violate(Rule::StatusBitUnknown, "DEVICE_NEEDS_RESET was set by the driver");
        }
        let cleared = old.difference(new).difference(own);
        if !cleared.is_empty() {
            self.violate(Rule::StatusBitCleared, format!("{old:?} was replaced by {new:?}"));
        }
        let mut added = new.difference(old).difference(own);
        if old.contains(DeviceStatus::FAILED) && !added.is_empty() {
            self.violate(Rule::StatusAfterFailed, format!("{added:?} was set"));
        }
        if std::mem::take(&mut self.driver.suspend_unread) {
            self.violate(Rule::SuspendNotReadBack, format!("status {value:#x} was written"));
        }
        if old.contains(DeviceStatus::SUSPEND) && added.contains(DeviceStatus::DRIVER_OK) {
            self.begin_resume();
            return;
        }
        self.check_status_order(old, added);
        if added.contains(DeviceStatus::SUSPEND) && !self.begin_suspend() {
            added.remove(DeviceStatus::SUSPEND);
        }
        let legacy = self.legacy();
        if added.contains(DeviceStatus::FEATURES_OK) && !legacy {
            self.driver.features_ok_unread = true;
            if !self.check_features() {
                added.remove(DeviceStatus::FEATURES_OK);
            }
        }
        if added.contains(DeviceStatus::DRIVER_OK) && legacy {
            self.check_features();
        }
        self.status |= added;
        self.try_suspend();
        if added.contains(DeviceStatus::DRIVER_OK) && !self.notifications_wanted {
            for queue in 0..self.queues.len() as u16 {
                self.rearm(queue);
            }
        }
    }

    pub(crate) fn check_status_order(&mut self, old: DeviceStatus, added: DeviceStatus) {
        let legacy = self.legacy();
        let ready = if legacy { DeviceStatus::DRIVER } else { DeviceStatus::FEATURES_OK };
        for (bit, before) in [
            (DeviceStatus::ACKNOWLEDGE, DeviceStatus::empty()),
            (DeviceStatus::DRIVER, DeviceStatus::ACKNOWLEDGE),
            (DeviceStatus::FEATURES_OK, DeviceStatus::DRIVER),
            (DeviceStatus::DRIVER_OK, ready),
        ] {
            if !added.contains(bit) {
                continue;
            }
            if bit == DeviceStatus::FEATURES_OK && legacy {
                self.violate(Rule::StatusOrder, "FEATURES_OK was set on a legacy device");
            } else if bit == DeviceStatus::ACKNOWLEDGE && !self.driver.reset {
                self.violate(Rule::StatusOrder, "ACKNOWLEDGE was set before a reset");
            } else if bit == DeviceStatus::DRIVER_OK && added.contains(DeviceStatus::FEATURES_OK) {
                // Also: set again after it was refused.
                self.violate(Rule::FeaturesRefused, "DRIVER_OK was set together with FEATURES_OK");
            } else if !old.contains(before) {
                self.violate(Rule::StatusOrder, format!("{bit:?} was set with status {old:?}"));
            } else if bit == DeviceStatus::DRIVER_OK && self.driver.features_ok_unread {
                self.violate(Rule::FeaturesOkNotReadBack, "DRIVER_OK was set");
            }
        }
    }
}
