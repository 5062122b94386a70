//! How the device is suspended and resumed (3.4).

use virtio_spec::{DeviceStatus, Features, InterruptStatus};

use crate::faults::SuspendAnswer;
use crate::state::State;
use crate::violation::Rule;

impl State {
    /// Whether the driver has asked for a suspension that has not ended.
    pub(crate) fn suspending(&self) -> bool {
        self.status.contains(DeviceStatus::SUSPEND)
    }

    /// The driver sets SUSPEND. Returns whether the device takes note of it.
    pub(crate) fn begin_suspend(&mut self) -> bool {
        if !self.has(Features::SUSPEND) {
            self.violate(Rule::StatusBitUnknown, "SUSPEND was set and not negotiated");
            return false;
        }
        if !self.status.contains(DeviceStatus::DRIVER_OK) {
            self.violate(Rule::StatusOrder, format!("SUSPEND was set with status {:?}", self.status));
            return false;
        }
        self.judge_all();
        self.driver.suspend_unread = true;
        true
    }

    /// Ends the work of the device, if it was asked to and is ready: it has no request in hand.
    pub(crate) fn try_suspend(&mut self) {
        let both = DeviceStatus::SUSPEND | DeviceStatus::DRIVER_OK;
        if !self.status.contains(both) || self.in_hand > 0 || self.driver.resume_unread {
            return;
        }
        match self.faults.suspend {
            SuspendAnswer::Prompt => self.status -= DeviceStatus::DRIVER_OK,
            SuspendAnswer::AfterReads(_) | SuspendAnswer::Never => {}
            SuspendAnswer::NeedsReset => self.fail(),
        }
    }

    /// The driver sets DRIVER_OK while the device is suspended.
    pub(crate) fn begin_resume(&mut self) {
        self.driver.resume_unread = true;
        match self.faults.suspend {
            SuspendAnswer::Prompt => self.resume(),
            SuspendAnswer::AfterReads(_) | SuspendAnswer::Never => {}
            SuspendAnswer::NeedsReset => self.fail(),
        }
    }

    fn resume(&mut self) {
        self.judge_all();
        self.status = (self.status - DeviceStatus::SUSPEND) | DeviceStatus::DRIVER_OK;
        if std::mem::take(&mut self.config_changed_meanwhile) {
            self.raise(InterruptStatus::CONFIGURATION_CHANGE);
        }
    }

    /// A look at the status while the device is on its way to be suspended or to resume.
    pub(crate) fn answer_suspend(&mut self) {
        if self.suspending() && (self.driver.suspend_unread || self.driver.resume_unread) {
            let now = match &mut self.faults.suspend {
                SuspendAnswer::AfterReads(reads @ 1..) => {
                    *reads -= 1;
                    false
                }
                SuspendAnswer::AfterReads(0) => {
                    self.faults.suspend = SuspendAnswer::Prompt;
                    true
                }
                SuspendAnswer::Prompt => true,
                SuspendAnswer::Never | SuspendAnswer::NeedsReset => false,
            };
            if now && self.driver.resume_unread {
                self.resume();
            } else if now {
                self.try_suspend();
            }
        }
        let running = self.status.contains(DeviceStatus::DRIVER_OK);
        self.driver.suspend_unread &= running || !self.suspending();
        self.driver.resume_unread &= !running || self.suspending();
    }

    /// Sets DEVICE_NEEDS_RESET, and tells the driver if it is there.
    pub(crate) fn fail(&mut self) {
        self.status |= DeviceStatus::DEVICE_NEEDS_RESET;
        if self.status.contains(DeviceStatus::DRIVER_OK) {
            self.raise(InterruptStatus::CONFIGURATION_CHANGE);
        }
    }
}
