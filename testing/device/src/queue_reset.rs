//! The reset of one queue, and how the device answers it.

use virtio_spec::Features;
use virtio_spec::mmio::Register;

use crate::faults::QueueResetAnswer;
use crate::state::State;
use crate::violation::Rule;

impl State {
    fn check_ring_reset(&mut self, register: Register) -> bool {
        let negotiated = self.has(Features::RING_RESET);
        if !negotiated {
            self.violate(Rule::RegisterNotNegotiated, format!("{register} without RING_RESET"));
        }
        negotiated
    }

    /// A write of the register that resets a queue.
    pub(crate) fn write_queue_reset(&mut self, value: u32) {
        if !self.check_ring_reset(Register::QUEUE_RESET) {
            return;
        }
        let index = self.queue_sel;
        if value != 1 {
            self.violate(Rule::QueueResetValue, format!("{value:#x} was written for queue {index}"));
            return;
        }
        let Some(queue) = self.selected() else {
            self.violate(Rule::QueueUnknown, format!("queue {index} was reset"));
            return;
        };
        queue.reset_unread = true;
        queue.resetting = true;
        match self.faults.queue_reset {
            QueueResetAnswer::Prompt | QueueResetAnswer::Early => self.end_queue_reset(),
            QueueResetAnswer::Ignored => self.with_selected(|queue| queue.resetting = false),
            QueueResetAnswer::AfterReads(_) | QueueResetAnswer::Never => {}
        }
    }

    /// A read of the register that resets a queue: 1 as long as that takes.
    pub(crate) fn read_queue_reset(&mut self) -> u32 {
        if !self.check_ring_reset(Register::QUEUE_RESET) {
            return 0;
        }
        if self.selected().is_some_and(|queue| queue.resetting) {
            match &mut self.faults.queue_reset {
                QueueResetAnswer::Never => {}
                QueueResetAnswer::AfterReads(reads @ 1..) => *reads -= 1,
                QueueResetAnswer::AfterReads(0) => {
                    self.faults.queue_reset = QueueResetAnswer::Prompt;
                    self.end_queue_reset();
                }
                QueueResetAnswer::Prompt | QueueResetAnswer::Early => self.end_queue_reset(),
                QueueResetAnswer::Ignored => self.with_selected(|queue| queue.resetting = false),
            }
        }
        let Some(queue) = self.selected() else { return 0 };
        queue.reset_unread &= queue.resetting;
        u32::from(queue.resetting)
    }

    /// Ends the reset of the selected queue.
    fn end_queue_reset(&mut self) {
        let index = self.queue_sel;
        let early = self.faults.queue_reset == QueueResetAnswer::Early;
        if !early {
            let before = self.held.len();
            self.held.retain(|pending| u32::from(pending.queue) != index);
            self.in_hand = self.in_hand.saturating_sub((before - self.held.len()) as u64);
        }
        self.with_selected(|queue| {
            let unread = queue.reset_unread;
            let epoch = queue.epoch;
            let ring = queue.ring.take().filter(|_| early);
            let mut left = std::mem::take(&mut queue.left);
            left.extend(ring.map(|ring| (epoch, ring)));
            queue.reset();
            (queue.reset_unread, queue.was_reset, queue.left) = (unread, true, left);
        });
    }
}
