//! Requests of tasks.

use super::*;

impl<'a, M: Memory, R: RingFormat> World<'a, M, R> {
    pub(super) fn begin(&mut self, place: usize, ask: Ask, at: u8) -> Checked {
        let request = self.request(place, ask, at);
        let (shared, sector) = (&self.queues[place], Self::sectors(at).start as u64);
        let task: Task<'a> = match (Self::buffer(&request), ask) {
            (None, _) => {
                let flush = shared.flush();
                Box::pin(async move { flush.await.map(|()| None).map_err(|error| Failed { error, buffer: None }) })
            }
            (Some(buffer), Ask::Read) => {
                let read = shared.read(sector, buffer);
                Box::pin(async move { read.await.map(Some) })
            }
            (Some(buffer), _) => {
                let write = shared.write(sector, buffer);
                Box::pin(async move { write.await.map(Some) })
            }
        };
        self.tasks.push(Waiting { task, woken: Arc::default(), request });
        self.poll_task(self.tasks.len() - 1)
    }

    pub(super) fn poll_task(&mut self, nth: usize) -> Checked {
        let Waiting { task, woken, .. } = &mut self.tasks[nth];
        woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(woken.clone());
        let Poll::Ready(ended) = task.as_mut().poll(&mut Context::from_waker(&waker)) else {
            return Ok(());
        };
        let Waiting { task, request, .. } = self.tasks.swap_remove(nth);
        drop(task);
        let (error, buffer) = match ended {
            Ok(buffer) => (None, buffer),
            Err(Failed { error, buffer }) => (Some(error), buffer),
        };
        let kept = matches!(error, Some(Error::GivenUp { .. })) && self.given_up == Some(true);
        let has_buffer = !matches!(request.what, What::Flush(_)) && !kept;
        prop_assert_eq!(buffer.is_some(), has_buffer);
        match error {
            Some(error @ (Error::Stopped | Error::Violation(_) | Error::BeyondCapacity { .. })) => {
                self.check_refused(&request, error)?;
                self.void(&request);
                Ok(())
            }
            error => self.end(request, error.map_or(Ok(()), Err), buffer.as_ref().map(|buffer| &buffer.bytes[..])),
        }
    }

    pub(super) fn process(&mut self, place: usize) -> Checked {
        if let Err(error) = self.queues[place].process() {
            prop_assert!(matches!(error, Error::Violation(_)) && self.broken[place] && !self.stopped);
        }
        Ok(())
    }

    /// Looks which requests of tasks that went away have ended.
    pub(super) fn sweep(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        for request in dropped {
            let ended = match &request.what {
                // Of one without a buffer, nobody is told.
                What::Flush(_) => self.queues[request.queue].queue().borrow().in_flight() == 0,
                What::Read(..) | What::Write(..) => request.alive.load(Ordering::Relaxed) == 0,
            };
            if ended {
                self.void(&request);
            } else {
                self.dropped.push(request);
            }
        }
    }
}
