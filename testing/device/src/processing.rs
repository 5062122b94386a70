//! What the device does with its queues.

use virtio_spec::block::{RequestHeader, RequestStatus, RequestType, SECTOR_SIZE};
use virtio_spec::split_ring::UsedFlags;
use virtio_spec::{DeviceStatus, Features, InterruptStatus};
use zerocopy::IntoBytes;

use crate::faults::{Data, Outcome, StatusByte, UsedLength, arrange};
use crate::pending::PendingRequest;
use crate::queue::Ring;
use crate::request::{Request, Rules, bytes_in, gather, scatter};
use crate::split_ring::crosses;
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
        let event_idx = self.has(Features::EVENT_IDX);
        let Some(queue) = self.queues.get_mut(usize::from(index)) else { return };
        let Some(ring) = &queue.ring else { return };
        let Ok(idx) = ring.raw.available_idx() else { return };
        let old = std::mem::replace(&mut queue.judged, idx);
        let due = old != idx
            && if event_idx {
                ring.raw.avail_event().is_ok_and(|event| crosses(event, old, idx))
            } else {
                let no_notify = |flags| UsedFlags::from_bits_truncate(flags).contains(UsedFlags::NO_NOTIFY);
                ring.raw.used_flags().is_ok_and(|flags| !no_notify(flags))
            };
        if notified && !due {
            self.counts.needless_notifications += 1;
        }
        let before_driver_ok = !self.status.contains(DeviceStatus::DRIVER_OK);
        if due && !notified && !before_driver_ok && !self.setup.tolerate_late_notifications {
            self.violate(
                Rule::NotifyMissing,
                format!("queue {index}: available idx went from {old} to {idx} without a notification"),
            );
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
            tolerate_beyond_capacity: self.setup.tolerate_beyond_capacity,
            tolerate_write_to_read_only: self.setup.tolerate_write_to_read_only,
        };
        let mut violations = Vec::new();
        let request = Request::parse(&chain, &rules, &mut violations);
        self.violations.append(&mut violations);
        self.in_hand += 1;
        self.counts.depth = self.counts.depth.max(self.in_hand);
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

    /// Completes a batch, with one interrupt for each queue at the most.
    pub(crate) fn complete_all(&mut self, mut batch: Vec<PendingRequest>) -> usize {
        arrange(&mut batch, &mut self.faults.order);
        let mut touched = Vec::new();
        let mut completed = 0;
        for pending in batch {
            let outcome = self.faults.next.pop_front().unwrap_or(self.faults.outcome);
            let queue = pending.queue;
            if self.finish(pending, outcome) {
                completed += 1;
                if !touched.contains(&queue) {
                    touched.push(queue);
                }
            }
        }
        for queue in touched {
            self.signal(queue);
        }
        completed
    }

    /// Raises an interrupt if the driver wants one for what a queue has used.
    pub(crate) fn signal(&mut self, queue: u16) {
        let out_of_buffers = self.has(Features::NOTIFY_ON_EMPTY) && self.in_hand == 0;
        let wanted = self.with_ring(queue, |ring| ring.mover.interrupt_wanted());
        if wanted.is_some_and(|wanted| wanted || out_of_buffers) {
            self.raise(InterruptStatus::USED_BUFFER);
        }
    }

    /// Completes a request. Returns whether it was still the device's: a reset takes all of them away.
    pub(crate) fn finish(&mut self, pending: PendingRequest, outcome: Outcome) -> bool {
        let PendingRequest { queue, chain, request, epochs } = pending;
        let current = self.queues.get(usize::from(queue)).map(|queue| (self.epoch, queue.epoch));
        if current != Some(epochs) {
            return false;
        }
        self.in_hand = self.in_hand.saturating_sub(1);
        self.check_header_unaltered(chain.id, &chain, &request);

        let (status, data) = match (outcome.result, request.refused) {
            (Some(status), _) | (None, Some(status)) => (status, Vec::new()),
            (None, None) => self.execute(&request),
        };
        self.count(&request, status);

        let data = match outcome.data {
            Data::Honest => &data[..],
            Data::Short(bytes) => &data[..bytes.min(data.len())],
            Data::Unwritten => &[],
        };
        let mut written = scatter(&*self.memory, &request.writable, data);
        if let Some(at) = request.status_at {
            let byte = match outcome.status {
                StatusByte::Honest => Some(status.0),
                StatusByte::Unwritten => None,
                StatusByte::Value(value) => Some(value),
            };
            let status_written = byte.is_some_and(|byte| self.memory.write(at, &[byte]).is_ok());
            if status_written && written as u64 == bytes_in(&request.writable) {
                written += 1;
            }
        }

        let length = match outcome.length {
            UsedLength::Honest => written as u32,
            UsedLength::WholeChain => chain.segments.iter().fold(0, |sum: u32, piece| sum.wrapping_add(piece.bytes)),
            UsedLength::Value(length) => length,
        };
        self.with_ring(queue, |ring| {
            match outcome.id {
                None => ring.mover.push_used(chain.id, length),
                Some(id) => ring.mover.push_raw(id, length),
            }
            for _ in 0..outcome.repeat {
                ring.mover.push_raw(outcome.id.unwrap_or(u32::from(chain.id)), length);
            }
            if outcome.skip > 0 {
                ring.mover.skip_used(outcome.skip);
            }
        });
        true
    }

    fn check_header_unaltered(&mut self, id: u16, chain: &crate::Chain, request: &Request) {
        if request.header.is_empty() {
            return;
        }
        let mut left = size_of::<RequestHeader>() as u32;
        let mut pieces = Vec::new();
        for segment in chain.segments.iter().filter(|segment| !segment.writable) {
            let now = segment.bytes.min(left);
            left -= now;
            if now > 0 {
                pieces.push((segment.address, now));
            }
        }
        if gather(&*self.memory, &pieces).as_ref() != Some(&request.header) {
            let text = format!("the header of the request at {id} has changed or is gone");
            self.violations.push(Violation::new(Rule::AlteredInFlight, text));
        }
    }

    fn count(&mut self, request: &Request, status: RequestStatus) {
        let counts = &mut self.counts;
        let sectors = request.data_bytes() / SECTOR_SIZE as u64;
        match request.request_type {
            Some(RequestType::IN) => {
                counts.reads += 1;
                counts.sectors_read += if status == RequestStatus::OK { sectors } else { 0 };
            }
            Some(RequestType::OUT) => {
                counts.writes += 1;
                counts.sectors_written += if status == RequestStatus::OK { sectors } else { 0 };
            }
            Some(RequestType::FLUSH | RequestType::FLUSH_OUT) => counts.flushes += 1,
            _ => counts.others += 1,
        }
        if status != RequestStatus::OK {
            counts.failures += 1;
        }
    }

    /// Does what a request that keeps to all rules asks for. Returns its status and the data for the driver.
    fn execute(&mut self, request: &Request) -> (RequestStatus, Vec<u8>) {
        let failed = (RequestStatus::IOERR, Vec::new());
        let done = (RequestStatus::OK, Vec::new());
        let through = self.write_through();
        let sectors = request.data_bytes() / SECTOR_SIZE as u64;
        match request.request_type {
            // The capacity may have changed since the request was taken.
            Some(RequestType::IN | RequestType::OUT) if self.is_bad(request.sector, sectors) => failed,
            Some(RequestType::IN) => {
                let mut data = vec![0; request.data_bytes() as usize];
                self.disk.read(request.sector, &mut data);
                (RequestStatus::OK, data)
            }
            Some(RequestType::OUT) => match gather(&*self.memory, &request.readable) {
                Some(data) => {
                    self.disk.write(request.sector, &data, through);
                    done
                }
                None => failed,
            },
            Some(RequestType::FLUSH | RequestType::FLUSH_OUT) if self.faults.bad_flush => failed,
            Some(RequestType::FLUSH | RequestType::FLUSH_OUT) => {
                self.disk.flush();
                done
            }
            Some(RequestType::GET_ID) => (RequestStatus::OK, self.setup.id.to_vec()),
            Some(RequestType::GET_LIFETIME) => (RequestStatus::OK, self.setup.lifetime.as_bytes().to_vec()),
            Some(RequestType::DISCARD | RequestType::WRITE_ZEROES | RequestType::SECURE_ERASE) => {
                let Some(ranges) = request.ranges(&*self.memory, !self.legacy()) else { return failed };
                if ranges.iter().any(|range| self.is_bad(range.sector, u64::from(range.sectors))) {
                    return failed;
                }
                for range in ranges {
                    self.disk.zero(range.sector, u64::from(range.sectors), through);
                }
                done
            }
            _ => (RequestStatus::UNSUPP, Vec::new()),
        }
    }

    /// Whether a range is to fail, or ends beyond the capacity.
    fn is_bad(&self, sector: u64, sectors: u64) -> bool {
        let end = sector.saturating_add(sectors);
        end > self.config.capacity.get()
            || self.faults.bad_sectors.iter().any(|bad| bad.start < end && sector < bad.end)
    }
}
