//! What the device does with its queues.

use virtio_spec::{DeviceStatus, Features};

use crate::pending::PendingRequest;
use crate::queue::{Ring, Taken};
use crate::request::{Request, Rules};
use crate::ring_mover::Judgement;
use crate::state::State;
use crate::violation::{Rule, Violation};

impl State {
    /// Does something with an enabled ring, and keeps the violations that it finds.
    pub(crate) fn with_ring<R>(&mut self, queue: u16, body: impl FnOnce(&mut Ring) -> R) -> Option<R> {
        let ring = self.queues.get_mut(usize::from(queue))?.ring.as_mut()?;
        let result = body(ring);
        self.violations.extend(ring.mover.take_violations());
        Some(result)
    }

    /// Looks whether a notification was due for what was made available since the last look. `notified`: whether it
    /// comes right now.
    ///
    /// To be called before the device changes what it suppresses.
    pub(crate) fn judge(&mut self, index: u16, notified: bool) {
        let Some(Some(Judgement { added, due })) = self.with_ring(index, |ring| ring.mover.judge()) else { return };
        if notified && !due {
            self.counts.needless_notifications += 1;
        }
        if self.suspending() && added > 0 {
            self.violate(Rule::WhileSuspended, format!("queue {index}: {added} more became available"));
            return;
        }
        let before_driver_ok = !self.status.contains(DeviceStatus::DRIVER_OK);
        if due && !notified && !before_driver_ok && !self.setup.tolerate_late_notifications {
            let text = format!("queue {index}: {added} more became available without a notification");
            let packed = self.has(Features::RING_PACKED);
            let violation = if packed { Violation::packed } else { Violation::new };
            self.violations.push(violation(Rule::NotifyMissing, text));
        }
    }

    /// Looks at all queues whether a notification was due.
    pub(crate) fn judge_all(&mut self) {
        for queue in 0..self.queues.len() as u16 {
            self.judge(queue, false);
        }
    }

    /// Takes one request from a queue.
    pub(crate) fn pop(&mut self, queue: u16) -> Option<PendingRequest> {
        if !self.live() {
            return None;
        }
        self.judge(queue, false);
        let chain = self.with_ring(queue, |ring| ring.mover.pop())??;
        let rules = Rules {
            memory: &*self.memory,
            config: &self.config,
            offered: self.offered(),
            negotiated: self.negotiated(),
            legacy: self.legacy(),
            zones: self.zones.as_ref(),
            check_range_alignment: self.setup.check_range_alignment,
            whole_blocks_only: self.setup.whole_blocks_only,
            tolerate_beyond_capacity: self.setup.tolerate_beyond_capacity,
            tolerate_write_to_read_only: self.setup.tolerate_write_to_read_only,
        };
        let mut violations = Vec::new();
        let request = Request::parse(&chain, &rules, &mut violations);
        self.violations.append(&mut violations);
        self.in_hand += 1;
        self.counts.depth = self.counts.depth.max(self.in_hand);
        if self.has(Features::IN_ORDER) {
            self.queues[usize::from(queue)].in_order.push_back(Taken { id: chain.id, done: None });
        }
        let epochs = (self.epoch, self.queues[usize::from(queue)].epoch);
        Some(PendingRequest { queue, chain, request, epochs })
    }

    /// Takes one request, from the queues in turn.
    pub(crate) fn take(&mut self) -> Option<PendingRequest> {
        if let Some(pending) = self.held.pop_front() {
            return Some(pending);
        }
        let count = self.queues.len();
        for step in 0..count {
            let queue = (self.next_queue + step) % count;
            if let Some(pending) = self.take_from(queue as u16) {
                self.next_queue = (queue + 1) % count;
                return Some(pending);
            }
        }
        None
    }

    /// Takes one request from a queue, and says up to where it knows of others.
    pub(crate) fn take_from(&mut self, queue: u16) -> Option<PendingRequest> {
        let pending = self.pop(queue)?;
        self.rearm(queue);
        Some(pending)
    }

    /// Tells the driver whether to notify. Returns whether there is something already.
    pub(crate) fn rearm(&mut self, queue: u16) -> bool {
        self.judge(queue, false);
        let wanted = self.notifications_wanted;
        self.with_ring(queue, |ring| ring.mover.set_notifications(wanted)).unwrap_or(false)
    }

    /// Takes and completes all there is: in one queue or in all. Returns how many requests that were.
    pub(crate) fn process(&mut self, only: Option<u16>) -> usize {
        let queues = match only {
            Some(queue) => queue..queue + 1,
            None => 0..self.queues.len() as u16,
        };
        let mut completed = 0;
        while self.live() {
            let mut batch = Vec::new();
            for queue in queues.clone() {
                while let Some(pending) = self.pop(queue) {
                    batch.push(pending);
                }
            }
            if self.faults.hold {
                self.held.extend(batch);
            } else {
                completed += self.complete_all(batch);
            }
            let mut more = false;
            for queue in queues.clone() {
                more |= self.rearm(queue);
            }
            if !more {
                break;
            }
        }
        completed
    }
}
