//! What the device does that no driver can foresee, and the way back.

use super::*;

impl<'a, M: Memory, R: RingFormat> World<'a, M, R> {
    pub(super) fn violate(&mut self, place: usize, jump: bool) -> Checked {
        self.broken[place] = true;
        if self.packed {
            // Both sides write to the same descriptors. So that the device does not take its own for the driver's, it
            // has taken all before, and the driver finds out before it writes more.
            while let Some(pending) = self.device.take_from(place as u16) {
                self.hand.push(pending);
            }
            self.device.push_raw(place as u16, if jump { 60_000 } else { 40_000 }, 0);
            return self.poll(place);
        }
        if jump {
            self.device.skip_used(place as u16, 5000);
        } else {
            self.device.push_raw(place as u16, 70_000, 0);
        }
        Ok(())
    }

    pub(super) fn recover(&mut self, reads: u8, first: u8) -> Checked {
        // The status of a device that was reset before reads as 0 at once.
        let reads = if self.stopped { 0 } else { reads };
        self.device.faults(|faults| faults.reset = ResetAnswer::AfterReads(reads.into()));
        let recovered = loop {
            let mut all: Vec<_> = self.queues.iter().map(|shared| shared.queue().borrow_mut()).collect();
            let mut all: Vec<_> = all.iter_mut().map(|queue| &mut **queue).collect();
            let count = all.len();
            all.rotate_left(usize::from(first) % count);
            match self.handle.borrow_mut().recover(&mut all, &mut SpinLimit { looks: 7 }) {
                Ok(recovered) => break recovered,
                Err(Error::NotAcknowledged) => prop_assert!(reads >= 7),
                Err(error) => prop_assert!(false, "not recovered: {error}"),
            }
        };
        self.device.faults(|faults| faults.reset = ResetAnswer::Prompt);
        self.resets += 1;
        self.stopped = false;
        self.broken.fill(false);
        self.hand.clear();
        let in_flight: u16 = self.queues.iter().map(|shared| shared.queue().borrow().in_flight()).sum();
        prop_assert_eq!(recovered.reissued, u32::from(in_flight));
        // Nobody waits for these, so they are over.
        for request in std::mem::take(&mut self.dropped) {
            prop_assert_eq!(request.alive.load(Ordering::Relaxed), 0);
            self.void(&request);
        }
        for place in 0..self.queues.len() {
            self.poll(place)?;
        }
        prop_assert!(self.polled.iter().all(|polled| !polled.request.cancelled), "one that was cancelled goes on");
        if !recovered.writes_in_doubt {
            self.settle()?;
            self.model.check_no_doubt(&self.device)?;
        }
        prop_assert!(!self.handle.borrow().needs_reset());
        Ok(())
    }

    /// Lets all be told of what has ended.
    pub(super) fn settle(&mut self) -> Checked {
        for place in 0..self.queues.len() {
            self.process(place)?;
            self.poll(place)?;
        }
        for nth in (0..self.tasks.len()).rev() {
            self.poll_task(nth)?;
        }
        self.sweep();
        Ok(())
    }

    pub(super) fn power_cut(&mut self) -> Checked {
        if self.broken.contains(&true) {
            // What the device has done, and nobody believes, is not known to the model.
            return Ok(());
        }
        self.settle()?;
        if !self.stopped {
            self.device.needs_reset();
        }
        // What the device had begun is lost with it.
        self.hand.clear();
        while let Some(held) = self.device.take() {
            drop(held);
        }
        self.device.power_cut();
        self.model.power_cut();
        Ok(())
    }

    pub(super) fn resize(&mut self, sectors: u8) -> Checked {
        let new_sectors = SECTORS as u64 - u64::from(sectors) % 8;
        self.device.set_capacity(new_sectors);
        let found = self.handle.borrow_mut().config_changed();
        if self.stopped {
            prop_assert_eq!(found, Err(Error::Stopped));
            // Before the driver knows, it would go by the old one.
            self.device.set_capacity(self.capacity);
            return Ok(());
        }
        let old_sectors = std::mem::replace(&mut self.capacity, new_sectors);
        prop_assert_eq!(found, Ok((old_sectors != new_sectors).then_some(Resized { old_sectors, new_sectors })));
        for shared in self.queues {
            shared.queue().borrow_mut().set_capacity_sectors(new_sectors);
        }
        self.change_faults();
        Ok(())
    }

    pub(super) fn set_mode(&mut self, through: bool, looks: u8) -> Checked {
        let mode = if through { CacheMode::WriteThrough } else { CacheMode::WriteBack };
        let flush = self.model.begin_flush();
        self.keep_order();
        let mut policy = self.policy(looks);
        let result = {
            let mut all: Vec<_> = self.queues.iter().map(|shared| shared.queue().borrow_mut()).collect();
            let mut all: Vec<_> = all.iter_mut().map(|queue| &mut **queue).collect();
            self.handle.borrow_mut().set_cache_mode(mode, &mut all, &mut policy)
        };
        self.model.end_flush(&flush, false);
        match result {
            Ok(()) => {
                prop_assert_eq!(self.handle.borrow().cache_mode(), Ok(mode));
                prop_assert!(self.queues.iter().all(|shared| shared.queue().borrow().in_flight() == 0));
                self.settle()?;
                self.model.change_mode(through);
                return Ok(());
            }
            Err(Error::Stopped) => prop_assert!(self.stopped),
            Err(Error::GaveUp | Error::Violation(_)) => {
                let stopped = self.queues.iter().all(|shared| shared.queue().borrow().is_stopped());
                prop_assert!(!self.stopped && stopped);
                self.stopped = true;
                self.resets += 1;
            }
            Err(Error::Device { operation: Operation::Flush, .. }) => prop_assert!(self.bad_flush),
            Err(Error::QueueFull) => prop_assert!(self.held(0) > 0),
            Err(error) => prop_assert!(false, "the mode: {error}"),
        }
        self.model.doubt_mode();
        Ok(())
    }

    /// The device acknowledges no reset any more: everything ends, and what the device may touch is left to it.
    pub(crate) fn give_up(&mut self) -> Checked {
        self.device.faults(|faults| faults.reset = ResetAnswer::Never);
        let acknowledged = self.stopped;
        {
            let mut all: Vec<_> = self.queues.iter().map(|shared| shared.queue().borrow_mut()).collect();
            let mut all: Vec<_> = all.iter_mut().map(|queue| &mut **queue).collect();
            let mut handle = self.handle.borrow_mut();
            prop_assert!(handle.recover(&mut all[1..], &mut Spin).is_err());
            if !acknowledged {
                prop_assert_eq!(handle.recover(&mut all, &mut SpinLimit { looks: 9 }), Err(Error::NotAcknowledged));
            }
            prop_assert_eq!(handle.give_up(&mut all), Ok(()));
            prop_assert!(handle.recover(&mut all, &mut Spin).is_err());
        }
        (self.given_up, self.stopped) = (Some(!acknowledged), true);
        self.resets += u32::from(acknowledged);
        for place in 0..self.queues.len() {
            self.process(place)?;
            self.poll(place)?;
            self.process(place)?;
        }
        while self.poll_woken()? {}
        prop_assert_eq!((self.polled.len(), self.tasks.len()), (0, 0), "these were not told");
        for shared in self.queues {
            prop_assert_eq!(shared.queue().borrow().in_flight(), 0);
        }
        // Its late answers go where they were asked for, and nobody listens.
        self.device.faults(|faults| faults.hold = false);
        self.device.release();
        self.device.run();
        for place in 0..self.queues.len() {
            self.poll(place)?;
        }
        Ok(())
    }
}
