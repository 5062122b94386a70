//! All that a device is, behind its lock.

use std::collections::VecDeque;
use std::sync::Arc;

use virtio_spec::block::{BlockConfig, BlockFeatures, CacheMode};
use virtio_spec::{DeviceStatus, Features, InterruptStatus};
use virtqueue::Access;

use crate::builder::{Builder, Interface};
use crate::counts::Counts;
use crate::device_memory::DeviceMemory;
use crate::disk::Disk;
use crate::faults::{Faults, ResetAnswer};
use crate::pending::PendingRequest;
use crate::queue::Queue;
use crate::violation::{Rule, Violation};
use crate::zones::Zones;

/// What is called for each interrupt.
pub(crate) type Hook = Arc<dyn Fn() + Send + Sync>;

pub(crate) struct State {
    pub(crate) setup: Builder,
    pub(crate) memory: Arc<dyn DeviceMemory>,
    pub(crate) config: BlockConfig,
    pub(crate) disk: Disk,
    pub(crate) faults: Faults,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<Violation>,
    pub(crate) hook: Option<Hook>,
    /// Interrupts that the hook was not called for yet.
    pub(crate) signals: u32,

    pub(crate) status: DeviceStatus,
    pub(crate) generation: u32,
    pub(crate) interrupt: InterruptStatus,
    pub(crate) device_features_sel: Option<u32>,
    pub(crate) driver_features_sel: Option<u32>,
    pub(crate) driver_features: u64,
    pub(crate) queue_sel: u32,
    pub(crate) page_size: u32,
    pub(crate) queues: Vec<Queue>,

    pub(crate) driver: DriverSteps,
    /// A reset that was asked for and is not done.
    pub(crate) reset_pending: bool,
    /// Counts resets of the device.
    pub(crate) epoch: u64,
    /// Whether the device wants to be notified.
    pub(crate) notifications_wanted: bool,
    /// Requests that were taken and are kept.
    pub(crate) held: VecDeque<PendingRequest>,
    /// How many requests were taken and not completed.
    pub(crate) in_hand: u64,
    /// Whether the configuration was changed while the device was suspended.
    pub(crate) config_changed_meanwhile: bool,
    /// The zones, of a host-managed device.
    pub(crate) zones: Option<Zones>,
    /// Which queue is looked at first.
    pub(crate) next_queue: usize,
}

/// How far the driver has come.
#[derive(Debug, Default)]
pub(crate) struct DriverSteps {
    pub(crate) magic: bool,
    pub(crate) version: bool,
    pub(crate) id: bool,
    /// Whether the missing identification was recorded.
    pub(crate) unidentified: bool,
    /// Whether there ever was a reset.
    pub(crate) reset: bool,
    /// A reset that was not read back.
    pub(crate) reset_unread: bool,
    /// FEATURES_OK that was not read back.
    pub(crate) features_ok_unread: bool,
    /// SUSPEND that was not read back.
    pub(crate) suspend_unread: bool,
    /// DRIVER_OK of a suspended device that was not read back.
    pub(crate) resume_unread: bool,
}

impl State {
    pub(crate) fn new(setup: Builder, memory: Arc<dyn DeviceMemory>) -> Self {
        let config = setup.config;
        let zones = setup.zones.map(|zones| Zones::new(zones, config.capacity.get()));
        let queues = (0..setup.queues).map(|_| Queue::default()).collect();
        Self {
            setup,
            memory,
            config,
            disk: Disk::default(),
            faults: Faults::default(),
            counts: Counts::default(),
            violations: Vec::new(),
            hook: None,
            signals: 0,
            status: DeviceStatus::empty(),
            generation: 0,
            interrupt: InterruptStatus::empty(),
            device_features_sel: None,
            driver_features_sel: None,
            driver_features: 0,
            queue_sel: 0,
            page_size: 0,
            queues,
            driver: DriverSteps::default(),
            reset_pending: false,
            epoch: 0,
            notifications_wanted: true,
            held: VecDeque::new(),
            in_hand: 0,
            config_changed_meanwhile: false,
            zones,
            next_queue: 0,
        }
    }

    pub(crate) fn legacy(&self) -> bool {
        self.setup.interface == Interface::Legacy
    }

    pub(crate) fn offered(&self) -> u64 {
        self.setup.offered
    }

    /// What was negotiated; on a legacy device, what the driver wrote last.
    pub(crate) fn negotiated(&self) -> u64 {
        if self.legacy() || self.status.contains(DeviceStatus::FEATURES_OK) { self.driver_features } else { 0 }
    }

    pub(crate) fn has(&self, feature: Features) -> bool {
        self.negotiated() & feature.bits() != 0
    }

    pub(crate) fn has_block(&self, feature: BlockFeatures) -> bool {
        self.negotiated() & feature.bits() != 0
    }

    pub(crate) fn violate(&mut self, rule: Rule, text: impl Into<String>) {
        self.violations.push(Violation::new(rule, text));
    }

    /// Whether writes are on the medium when they are completed.
    pub(crate) fn write_through(&self) -> bool {
        if self.has_block(BlockFeatures::CONFIG_WCE) {
            self.config.writeback == CacheMode::WRITETHROUGH
        } else {
            !self.has_block(BlockFeatures::FLUSH)
        }
    }

    /// Whether the device processes its queues.
    pub(crate) fn live(&self) -> bool {
        !self.status.contains(DeviceStatus::DEVICE_NEEDS_RESET)
            && !self.suspending()
            && (self.legacy() || self.status.contains(DeviceStatus::DRIVER_OK))
    }

    /// Presents an event.
    pub(crate) fn raise(&mut self, event: InterruptStatus) {
        if self.faults.lose_interrupts {
            return;
        }
        self.interrupt |= event;
        if event.contains(InterruptStatus::USED_BUFFER) {
            self.counts.interrupts += 1;
        }
        if event.contains(InterruptStatus::CONFIGURATION_CHANGE) {
            self.counts.config_interrupts += 1;
        }
        self.signals += 1;
    }

    /// Changes the configuration and tells the driver, if it is there.
    pub(crate) fn change_config(&mut self, change: impl FnOnce(&mut BlockConfig)) {
        change(&mut self.config);
        self.generation = self.generation.wrapping_add(1);
        if self.suspending() {
            self.config_changed_meanwhile = true;
        } else if self.status.contains(DeviceStatus::DRIVER_OK) {
            self.raise(InterruptStatus::CONFIGURATION_CHANGE);
        }
    }

    /// Begins a reset, and ends it if the device is prompt.
    pub(crate) fn begin_reset(&mut self) {
        self.driver.reset = true;
        self.driver.reset_unread = true;
        self.reset_pending = true;
        if self.faults.reset == ResetAnswer::Prompt {
            self.reset();
        }
    }

    /// A look at the status while a reset is pending.
    pub(crate) fn answer_reset(&mut self) {
        match &mut self.faults.reset {
            ResetAnswer::Prompt => self.reset(),
            ResetAnswer::AfterReads(0) => {
                self.faults.reset = ResetAnswer::Prompt;
                self.reset();
            }
            ResetAnswer::AfterReads(reads) => *reads -= 1,
            ResetAnswer::Never => {}
        }
    }

    fn reset(&mut self) {
        self.check_queues_left();
        self.reset_pending = false;
        self.status = DeviceStatus::empty();
        self.interrupt = InterruptStatus::empty();
        self.driver_features = 0;
        self.device_features_sel = None;
        self.driver_features_sel = None;
        self.queue_sel = 0;
        self.page_size = 0;
        self.driver.features_ok_unread = false;
        self.driver.suspend_unread = false;
        self.driver.resume_unread = false;
        self.config_changed_meanwhile = false;
        for queue in &mut self.queues {
            queue.reset();
        }
        self.config.writeback = self.setup.config.writeback;
        self.held.clear();
        self.in_hand = 0;
        self.epoch += 1;
        self.counts.resets += 1;
    }

    /// Whether the memory of queues in use is still there.
    pub(crate) fn check_queues_left(&mut self) {
        for (index, queue) in self.queues.iter().enumerate() {
            if queue.in_use() && !self.memory.reaches(queue.descriptor_area, 16, Access::DeviceReads) {
                let text = format!("that of queue {index} is gone, and the device was not reset");
                self.violations.push(Violation::new(Rule::QueueFreedWhileLive, text));
            }
        }
    }
}
