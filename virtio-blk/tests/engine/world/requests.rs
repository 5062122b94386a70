//! Requests by token and by blocking calls, and how each may end.

use super::*;

impl<'a, M: Memory, R: RingFormat> World<'a, M, R> {
    /// Up to three sectors.
    pub(super) fn sectors(at: u8) -> Range<usize> {
        let first = usize::from(at) % SECTORS;
        first..(first + 1 + usize::from(at) / SECTORS % 3).min(SECTORS)
    }

    /// What the device would fail at this moment.
    pub(super) fn is_bad(&self, what: &What) -> bool {
        match what {
            What::Flush(_) => self.bad_flush,
            What::Read(sectors, _) | What::Write(sectors, _) => {
                let (first, end) = (sectors.start as u64, sectors.end as u64);
                end > self.capacity || self.bad.as_ref().is_some_and(|bad| bad.start < end && first < bad.end)
            }
        }
    }

    pub(super) fn request(&mut self, queue: usize, ask: Ask, at: u8) -> Request {
        let sectors = Self::sectors(at);
        let what = match ask {
            Ask::Read => What::Read(sectors.clone(), self.model.snapshot(sectors)),
            Ask::Write => What::Write(sectors.clone(), self.model.begin_write(sectors)),
            Ask::Flush => What::Flush(self.model.begin_flush()),
        };
        let bad = self.is_bad(&what);
        let (resets, alive) = (self.resets, Arc::default());
        Request { queue, what, resets, cancelled: false, may_fail: bad, must_fail: bad, alive }
    }

    /// What the device would fail has changed.
    pub(super) fn change_faults(&mut self) {
        let (bad, bad_flush) = (self.bad.clone(), self.bad_flush);
        self.device.faults(|faults| {
            faults.bad_sectors = bad.into_iter().collect();
            faults.bad_flush = bad_flush;
        });
        let mut polled = std::mem::take(&mut self.polled);
        let mut tasks = std::mem::take(&mut self.tasks);
        let requests = polled.iter_mut().map(|polled| &mut polled.request);
        for request in requests.chain(tasks.iter_mut().map(|waiting| &mut waiting.request)) {
            let bad = self.is_bad(&request.what);
            request.may_fail |= bad;
            request.must_fail &= bad;
        }
        (self.polled, self.tasks) = (polled, tasks);
    }

    pub(super) fn buffer(request: &Request) -> Option<Counted> {
        let bytes = match &request.what {
            What::Read(sectors, _) => vec![0xee; sectors.len() * 512],
            What::Write(sectors, stamp) => data(*stamp, sectors.clone()),
            What::Flush(_) => return None,
        };
        Some(Counted::new(bytes, &request.alive))
    }

    /// A request has not been begun, or cannot happen any more for another reason.
    pub(super) fn void(&mut self, request: &Request) {
        match &request.what {
            What::Read(..) => {}
            What::Write(_, stamp) => self.model.end_write(*stamp, false),
            What::Flush(snapshot) => self.model.end_flush(snapshot, false),
        }
    }

    /// Whether it is right that a request was refused.
    pub(super) fn check_refused(&self, request: &Request, error: Error) -> Checked {
        let queue = request.queue;
        match error {
            Error::Stopped => prop_assert!(self.stopped),
            Error::Violation(_) => prop_assert!(self.broken[queue] && !self.stopped),
            Error::BeyondCapacity { capacity_sectors, .. } => {
                prop_assert!(capacity_sectors == self.capacity && request.may_fail);
            }
            Error::QueueFull => {
                let size = self.queues[queue].queue().borrow().size();
                let held = self.held(queue);
                prop_assert!(if self.indirect { held >= usize::from(size) } else { held > 0 }, "{held} hold {size}");
            }
            error => prop_assert!(false, "refused: {error}"),
        }
        Ok(())
    }

    /// How many requests can hold entries of a queue.
    pub(super) fn held(&self, queue: usize) -> usize {
        let polled = self.polled.iter().map(|polled| &polled.request);
        let tasks = self.tasks.iter().map(|waiting| &waiting.request);
        polled.chain(tasks).chain(&self.dropped).filter(|request| request.queue == queue).count()
    }

    /// A request has ended: with its data, if it had some.
    pub(super) fn end(&mut self, request: Request, result: Result<(), Error>, bytes: Option<&[u8]>) -> Checked {
        let reset = self.resets > request.resets;
        match result {
            Ok(()) => prop_assert!(!request.must_fail),
            Err(Error::Device { operation, sector, status }) => {
                let (expected, first) = match &request.what {
                    What::Read(sectors, _) => (Operation::Read, sectors.start),
                    What::Write(sectors, _) => (Operation::Write, sectors.start),
                    What::Flush(_) => (Operation::Flush, 0),
                };
                prop_assert_eq!((operation, sector, status), (expected, first as u64, DeviceError::Io));
                prop_assert!(request.may_fail);
            }
            Err(Error::Cancelled { .. }) => prop_assert!(request.cancelled && reset),
            Err(Error::FlushInDoubt) => prop_assert!(matches!(request.what, What::Flush(_)) && reset),
            Err(Error::GivenUp { .. }) => prop_assert!(self.given_up.is_some()),
            Err(error) => prop_assert!(false, "ended with {error}"),
        }
        let done = result.is_ok();
        match &request.what {
            What::Read(_, snapshot) if done => self.model.end_read(snapshot, bytes.unwrap())?,
            What::Read(..) => {}
            What::Write(sectors, stamp) => {
                prop_assert!(bytes.is_none_or(|bytes| bytes == data(*stamp, sectors.clone())));
                self.model.end_write(*stamp, done);
            }
            What::Flush(snapshot) => self.model.end_flush(snapshot, done),
        }
        Ok(())
    }

    pub(super) fn submit(&mut self, place: usize, ask: Ask, at: u8, lend: bool) -> Checked {
        let request = self.request(place, ask, at);
        let sector = Self::sectors(at).start as u64;
        let mut queue = self.queues[place].queue().borrow_mut();
        let mut lent = None;
        let submitted = match Self::buffer(&request) {
            None => queue.submit_flush(),
            Some(buffer) if lend => {
                let bytes = NonNull::from(Box::leak(buffer.bytes.clone().into_boxed_slice()));
                lent = Some(bytes);
                // SAFETY: it is leaked, and taken back when the request has ended.
                unsafe {
                    match ask {
                        Ask::Write => queue.submit_write_borrowed(sector, bytes),
                        _ => queue.submit_read_borrowed(sector, bytes),
                    }
                }
            }
            Some(buffer) => {
                let submitted = match ask {
                    Ask::Write => queue.submit_write(sector, buffer),
                    _ => queue.submit_read(sector, buffer),
                };
                submitted.map_err(|rejected| rejected.error)
            }
        };
        drop(queue);
        match submitted {
            Ok(token) => {
                prop_assert!(!self.stopped);
                self.polled.push(Polled { token, request, lent });
            }
            Err(error) => {
                self.check_refused(&request, error)?;
                prop_assert_eq!(request.alive.load(Ordering::Relaxed), 0);
                lent.map(take_back);
                self.void(&request);
            }
        }
        Ok(())
    }

    pub(super) fn poll(&mut self, place: usize) -> Checked {
        loop {
            let polled = self.queues[place].queue().borrow_mut().poll();
            match polled {
                Ok(Some(completion)) => self.complete(place, completion)?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    prop_assert!(matches!(error, Error::Violation(_)) && self.broken[place] && !self.stopped);
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn complete(&mut self, place: usize, completion: Completion<Counted>) -> Checked {
        let Completion { token, result, buffer, .. } = completion;
        let found = self.polled.iter().position(|polled| polled.token == token && polled.request.queue == place);
        prop_assert!(found.is_some(), "a completion of nothing that is under way");
        let Polled { request, lent, .. } = self.polled.swap_remove(found.unwrap());
        if matches!(result, Err(Error::GivenUp { .. })) && self.given_up == Some(true) {
            prop_assert!(buffer.is_none());
            return self.end(request, result, None);
        }
        let lent = lent.map(take_back);
        let owns = lent.is_none() && !matches!(request.what, What::Flush(_));
        prop_assert_eq!((buffer.is_some(), request.alive.load(Ordering::Relaxed)), (owns, usize::from(owns)));
        self.end(request, result, buffer.as_ref().map(|buffer| &buffer.bytes[..]).or(lent.as_deref()))
    }

    pub(super) fn cancel(&mut self, nth: u8) {
        if !self.polled.is_empty() {
            let nth = usize::from(nth) % self.polled.len();
            let Polled { token, request, .. } = &mut self.polled[nth];
            request.cancelled |= self.queues[request.queue].queue().borrow_mut().cancel(*token);
        }
    }

    /// A policy that lets the device work, and gives up after so many looks.
    pub(super) fn policy(&self, looks: u8) -> impl FnMut() -> Result<(), GaveUp> + use<M, R> {
        let (device, mut looks) = (self.device.clone(), looks);
        move || {
            device.run();
            looks = looks.checked_sub(1).ok_or(GaveUp)?;
            Ok(())
        }
    }

    pub(super) fn block(&mut self, place: usize, ask: Ask, at: u8, looks: u8) -> Checked {
        let mut request = self.request(place, ask, at);
        let sector = Self::sectors(at).start as u64;
        let mut buffer = Self::buffer(&request);
        self.keep_order();
        let mut policy = self.policy(looks);
        let mut queue = self.queues[place].queue().borrow_mut();
        let mut blocking = queue.blocking(self.handle).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let result = match (&mut buffer, ask) {
            (Some(buffer), Ask::Read) => blocking.read(sector, &mut buffer.bytes, &mut policy),
            (Some(buffer), _) => blocking.write(sector, &buffer.bytes, &mut policy),
            (None, _) => blocking.flush(&mut policy),
        };
        let (in_flight, stopped) = (queue.in_flight(), queue.is_stopped());
        drop(queue);
        match result {
            Ok(()) | Err(Error::Device { .. }) => {
                prop_assert!(!self.stopped);
                self.end(request, result, buffer.as_ref().map(|buffer| &buffer.bytes[..]))?;
            }
            Err(Error::QueueFull) => {
                prop_assert!(in_flight == 0 && !stopped);
                self.check_refused(&request, Error::QueueFull)?;
                self.void(&request);
            }
            Err(error @ (Error::GaveUp | Error::Violation(_))) => {
                prop_assert!(error == Error::GaveUp || self.broken[place]);
                prop_assert!(!self.stopped && stopped, "{error}, and not reset");
                self.stopped = true;
                self.resets += 1;
                request.cancelled = true;
                self.void(&request);
            }
            Err(error) => {
                self.check_refused(&request, error)?;
                self.void(&request);
            }
        }
        Ok(())
    }
}

/// Takes back a buffer that was lent.
fn take_back(lent: NonNull<[u8]>) -> Box<[u8]> {
    // SAFETY: it was leaked when it was lent, and the device is done with it.
    unsafe { Box::from_raw(lent.as_ptr()) }
}
