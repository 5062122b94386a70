//! Suspending the device, for kernels that have chosen SUSPEND.

use virtio_transport::{Transport, Wait};
use virtqueue::{Memory, RingFormat};

use crate::buffer::Buffer;
use crate::device::Device;
use crate::error::Error;
use crate::queue::Queue;

impl<T: Transport, M: Memory> Device<T, M> {
    /// Stops the device until [`resume`](Device::resume) (3.4, "Device Suspend"). It ends what it works on; what it has
    /// not begun waits in the queues. Completions can be polled meanwhile, but nothing can be submitted:
    /// [`Error::Stopped`].
    ///
    /// `queues` are all queues of the device, each once: no blocking call is under way on any.
    ///
    /// It takes SUSPEND, which is accepted only if [`Options::opt_in`](crate::Options::opt_in) or
    /// [`Options::require`](crate::Options::require) asks for it.
    ///
    /// # Errors
    ///
    /// [`Error::QueuesMissing`]: nothing was done. [`Error::Suspend`]: not negotiated; or not done, and then the device is
    /// to be asked again, or [recovered](Device::recover).
    pub fn suspend<B: Buffer, R: RingFormat>(
        &mut self,
        queues: &mut [&mut Queue<M, T::Notifier, B, R>],
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        self.check_complete(queues)?;
        if self.running_mut()?.features() & virtio_spec::Features::SUSPEND.bits() != 0 {
            // From when it is asked, the device gets neither requests nor notifications.
            self.epoch().set_suspended();
        }
        self.running_mut()?.suspend(wait).map_err(Error::Suspend)
    }

    /// Lets the device go on, with what was in the queues.
    ///
    /// `queues` are all queues of the device, each once.
    ///
    /// # Errors
    ///
    /// [`Error::QueuesMissing`]: nothing was done. [`Error::Suspend`]: the device does not go on; it is to be
    /// [recovered](Device::recover).
    pub fn resume<B: Buffer, R: RingFormat>(
        &mut self,
        queues: &mut [&mut Queue<M, T::Notifier, B, R>],
        wait: &mut impl Wait,
    ) -> Result<(), Error> {
        self.check_complete(queues)?;
        self.running_mut()?.resume(wait).map_err(Error::Suspend)?;
        self.epoch().set_running();
        for queue in queues.iter_mut() {
            queue.commit();
            // It may have stopped with a notification in its hand.
            queue.notify();
        }
        Ok(())
    }
}
