//! What is done about a device that fails, and about one that somebody will not wait for any longer.

use virtio_blk::Error;
use virtio_transport::{SpinLimit, Transport};
use virtqueue::Memory;

use super::Requests;
use crate::job::Job;

/// How often the acknowledgement of a reset is looked for before others get the lock again.
const RESET_LOOKS: u64 = 1 << 20;

/// How often a request is issued again after the device has failed. A request may be what it fails at.
const REISSUES_MAX: u8 = 3;

impl<T: Transport, M: Memory, W> Requests<T, M, W> {
    /// Gives a job up. If the device has requests of it, it is reset; those of others are issued again.
    #[cold]
    #[inline(never)]
    pub(crate) fn give_up(&mut self, job: &mut Job) {
        job.gave_up = true;
        let place = job.place;
        if job.has_more() {
            match place.or_else(|| self.calls.begin()).and_then(|place| {
                job.place = Some(place);
                self.calls.get(place)
            }) {
                Some(call) => call.fail(&Error::GaveUp),
                None => return,
            }
            job.stop();
        }
        let mut cancelled = false;
        for request in self.in_flight.iter().flatten().filter(|request| Some(request.call) == place) {
            cancelled |= self.disk.queue().cancel(request.token);
        }
        if cancelled {
            self.recover();
        }
    }

    /// Resets a device that has failed. What was asked of it is asked again, unless it has failed too often at that.
    #[cold]
    #[inline(never)]
    pub(super) fn recover_from_failure(&mut self) {
        for request in self.in_flight.iter_mut().flatten() {
            if request.reissued >= REISSUES_MAX {
                self.disk.queue().cancel(request.token);
            }
            request.reissued = request.reissued.saturating_add(1);
        }
        self.recover();
    }

    /// Resets the device, and brings it up again.
    #[cold]
    #[inline(never)]
    pub(super) fn recover(&mut self) {
        let recovered = self.disk.recover(&mut SpinLimit { looks: RESET_LOOKS });
        self.unacknowledged = recovered == Err(Error::NotAcknowledged);
        match recovered {
            Ok(recovered) if recovered.writes_in_doubt => {
                log::error!("virtio disk: the device was reset; writes since the last flush may be lost");
            }
            Ok(_) => log::warn!("virtio disk: the device was reset"),
            Err(error) => log::error!("virtio disk: {error}"),
        }
    }
}
