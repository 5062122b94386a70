//! Opening a disk on a small stack.

use alloc::boxed::Box;

use virtio_blk::{Disk, OpenError, Options, Queue, Setup};
use virtio_transport::{Transport, Wait};
use virtqueue::Memory;

use super::Requests;
use crate::bounce::Bounce;
use crate::calls::Calls;
use crate::line::Line;

impl<T: Transport, M: Memory, W> Requests<T, M, W> {
    /// Opens a disk. What is large of it is put on the heap piece by piece: kernels open disks on small stacks, too.
    pub(crate) fn open(
        transport: T,
        memory: M,
        options: &Options,
        wait: &mut impl Wait,
    ) -> Result<Box<Self>, OpenError> {
        let interrupt = transport.interrupt();
        let mut setup = Self::negotiate(transport, memory.clone(), options, wait)?;
        let queue = Self::make_queue(&mut setup)?;
        let mut disk = Self::start(setup, queue)?;
        disk.queue().use_polling();
        Self::around(disk, interrupt, memory)
    }

    // In steps, each with a stack frame of its own, and what they make on the heap: a kernel's stack is small.

    #[inline(never)]
    fn negotiate(
        transport: T,
        memory: M,
        options: &Options,
        wait: &mut impl Wait,
    ) -> Result<Box<Setup<T, M>>, OpenError> {
        Setup::negotiate(transport, memory, options, wait).map(Box::new)
    }

    #[inline(never)]
    fn make_queue(setup: &mut Setup<T, M>) -> Result<Box<Queue<M, T::Notifier>>, OpenError> {
        match setup.add_queue() {
            Ok(queue) => Ok(Box::new(queue)),
            Err(error) => Err(error),
        }
    }

    #[inline(never)]
    #[expect(clippy::boxed_local, reason = "by value, they would be on the stack of the caller too")]
    fn start(setup: Box<Setup<T, M>>, queue: Box<Queue<M, T::Notifier>>) -> Result<Box<Disk<T, M>>, OpenError> {
        match setup.start_disk(*queue) {
            Ok(disk) => Ok(Box::new(disk)),
            Err(error) => Err(error),
        }
    }

    #[inline(never)]
    fn around(mut disk: Box<Disk<T, M>>, interrupt: T::Interrupt, memory: M) -> Result<Box<Self>, OpenError> {
        let bounce = Bounce::new(memory, disk.info().block_bytes as usize).map_err(OpenError::Memory)?;
        let size = disk.queue().size();
        Ok(Box::new(Self {
            disk,
            interrupt,
            in_flight: (0..size).map(|_| None).collect(),
            calls: Calls::new(size),
            line: Line::new(),
            bounce,
            edits: 0,
            interrupts: false,
            unacknowledged: false,
        }))
    }
}
