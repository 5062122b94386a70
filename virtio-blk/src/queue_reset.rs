//! Resetting one queue, for kernels that have chosen RING_RESET.

use virtio_transport::{Transport, Wait};
use virtqueue::{Memory, RingFormat};

use crate::buffer::Buffer;
use crate::device::{Device, Recovered};
use crate::error::{Error, OpenError};
use crate::queue::Queue;
use crate::setup::enable;

impl<T: Transport, M: Memory> Device<T, M> {
    /// Brings one queue back while the others go on (2.6.1, "Virtqueue Reset"): for one request that takes too long, on
    /// a device that keeps to the specification. As with [`recover`](Device::recover), requests that somebody waits for
    /// are issued again, cancelled and dropped ones are not, and flushes end with [`Error::FlushInDoubt`].
    ///
    /// It takes RING_RESET, which is accepted only if [`Options::opt_in`](crate::Options::opt_in) or
    /// [`Options::require`](crate::Options::require) asks for it. There are devices that say they are done and write to
    /// buffers afterwards: over PCI, that of QEMU 7.2. This call finds a device out that has not reset anything; it
    /// cannot find out one that lies. Where that is not known, [`recover`](Device::recover) is the way.
    ///
    /// # Errors
    ///
    /// - [`Error::QueueReset`]: the device has not reset the queue, or not in time. Everything is in flight as before;
    ///   what comes next is [`recover`](Device::recover).
    /// - [`Error::ForeignQueue`]: the queue is not this device's. Nothing was done.
    /// - [`Error::NotRecovered`]: the device does not take the queue again. Its requests have ended with
    ///   [`Error::GivenUp`].
    pub fn reset_queue<B: Buffer, R: RingFormat>(
        &mut self,
        queue: &mut Queue<M, T::Notifier, B, R>,
        wait: &mut impl Wait,
    ) -> Result<Recovered, Error> {
        if !self.owns(queue.epoch()) {
            return Err(Error::ForeignQueue);
        }
        let running = self.running_mut()?;
        running.reset_queue(queue.index(), wait).map_err(Error::QueueReset)?;
        // SAFETY: the reset of the queue was acknowledged.
        let ended = unsafe { queue.stop() };
        if let Err(error) = enable(queue, |config| running.enable_queue(config)) {
            // SAFETY: the ring was restarted just now, and nothing was reissued.
            unsafe { queue.give_up() };
            return Err(Error::NotRecovered(OpenError::Queue(error)));
        }
        queue.set_notifier(running.notifier(queue.index()));
        // SAFETY: the ring was restarted above, and this is the only time since.
        let reissued = unsafe { queue.reissue() };
        queue.commit();
        Ok(Recovered { reissued, ended, writes_in_doubt: false })
    }
}
