//! How requests end: what is written for the driver, and how they go back into the ring.

use virtio_spec::block::RequestHeader;
use virtio_spec::{Features, InterruptStatus};

use crate::faults::{Data, Outcome, StatusByte, UsedLength, arrange};
use crate::pending::PendingRequest;
use crate::queue::{Done, Ring};
use crate::request::{Request, bytes_in, gather, scatter};
use crate::state::State;
use crate::violation::{Rule, Violation};

impl State {
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

    /// Gives back what is to be given back in order, and raises an interrupt if the driver wants one for what a queue
    /// has used.
    pub(crate) fn signal(&mut self, queue: u16) {
        self.give_back(queue);
        let out_of_buffers = self.has(Features::NOTIFY_ON_EMPTY) && self.in_hand == 0;
        let wanted = self.with_ring(queue, |ring| ring.mover.interrupt_wanted());
        if wanted.is_some_and(|wanted| wanted || out_of_buffers) {
            self.raise(InterruptStatus::USED_BUFFER);
        }
        self.try_suspend();
    }

    /// Completes a request. Returns whether it was still the device's: a reset takes all of them away.
    ///
    /// With IN_ORDER it goes back into the ring only with [`signal`](Self::signal), and when those before it have been
    /// completed too.
    pub(crate) fn finish(&mut self, pending: PendingRequest, outcome: Outcome) -> bool {
        let PendingRequest { queue, chain, request, epochs } = pending;
        let Some(found) = self.queues.get(usize::from(queue)) else { return false };
        let current = (self.epoch, found.epoch) == epochs;
        let left = self.epoch == epochs.0 && found.left.iter().any(|left| left.0 == epochs.1);
        if !current && !left {
            return false;
        }
        self.in_hand = self.in_hand.saturating_sub(1);
        if current {
            self.check_header_unaltered(chain.id, &chain, &request);
        }

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
        let whole = written as u64 == bytes_in(&request.writable);
        if let Some(at) = request.status_at {
            let byte = match outcome.status {
                StatusByte::Honest => Some(status.0),
                StatusByte::Unwritten => None,
                StatusByte::Value(value) => Some(value),
            };
            let status_written = byte.is_some_and(|byte| self.memory.write(at, &[byte]).is_ok());
            if status_written && whole {
                written += 1;
            }
        }

        let bytes = match outcome.length {
            UsedLength::Honest => written as u32,
            UsedLength::WholeChain => chain.segments.iter().fold(0, |sum: u32, piece| sum.wrapping_add(piece.bytes)),
            UsedLength::Value(length) => length,
        };
        let done = Done { outcome, bytes, whole };
        let queue = &mut self.queues[usize::from(queue)];
        if !current {
            if let Some((_, ring)) = queue.left.iter_mut().find(|left| left.0 == epochs.1) {
                push(ring, chain.id, &done);
            }
            return true;
        }
        let in_order = self.negotiated() & Features::IN_ORDER.bits() != 0 && !self.faults.out_of_order;
        let queue = &mut self.queues[usize::from(pending.queue)];
        let waiting = queue.in_order.iter().position(|taken| taken.id == chain.id && taken.done.is_none());
        match waiting {
            Some(waiting) if in_order => queue.in_order[waiting].done = Some(done),
            waiting => {
                waiting.map(|waiting| queue.in_order.remove(waiting));
                self.with_ring(pending.queue, |ring| push(ring, chain.id, &done));
            }
        }
        true
    }

    /// With IN_ORDER: gives back all requests that were completed and have none before them that was not. One used
    /// element stands for as many of them as were used completely, and one more.
    fn give_back(&mut self, index: u16) {
        let limit = usize::from(self.setup.used_batch_max.max(1));
        let mut batch = Vec::new();
        loop {
            let queue = &mut self.queues[usize::from(index)];
            let next = queue.in_order.pop_front_if(|taken| taken.done.is_some());
            let Some((id, done)) = next.and_then(|taken| Some((taken.id, taken.done?))) else { break };
            if done.outcome.is_plain() {
                batch.push((id, done.bytes));
                if !done.whole || batch.len() >= limit {
                    self.give_back_batch(index, &mut batch);
                }
            } else {
                self.give_back_batch(index, &mut batch);
                self.with_ring(index, |ring| push(ring, id, &done));
            }
        }
        self.give_back_batch(index, &mut batch);
    }

    fn give_back_batch(&mut self, queue: u16, batch: &mut Vec<(u16, u32)>) {
        let Some((id, bytes)) = batch.pop() else { return };
        let skipped: Vec<u16> = batch.drain(..).map(|(id, _)| id).collect();
        self.with_ring(queue, |ring| ring.mover.push_batch(&skipped, id, bytes));
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
}

/// Gives one request back, as its outcome says.
fn push(ring: &mut Ring, id: u16, Done { outcome, bytes, .. }: &Done) {
    let mover = &mut ring.mover;
    mover.invert_flags(outcome.flags);
    match outcome.id {
        None => mover.push_used(id, *bytes),
        Some(id) => mover.push_raw(id, *bytes),
    }
    for _ in 0..outcome.repeat {
        mover.push_raw(outcome.id.unwrap_or(u32::from(id)), *bytes);
    }
    if outcome.skip > 0 {
        mover.skip_used(outcome.skip);
    }
}

impl Outcome {
    /// Whether the used element is an honest one.
    fn is_plain(&self) -> bool {
        (self.id, self.repeat, self.skip, self.flags) == (None, 0, 0, 0)
    }
}
