//! A request queue: requests go in, completions come out.

mod completion;
mod recovery;
mod submission;
mod tasks;

use virtio_transport::Notifier;
use virtqueue::{Memory, Queue as Ring, RingFormat, Split, Token};

pub use self::completion::Completion;
pub use self::submission::Rejected;
use crate::buffer::{Buffer, NoBuffer};
use crate::epoch::{Epoch, FlushNumber};
use crate::limits::Limits;
use crate::request::Pending;
use crate::waiters::Waiters;

/// A request queue of a disk: as many requests in flight as the queue has entries, no allocation for any of them.
///
/// `B` is the type of the buffers that requests own while they are in flight. A kernel with several kinds of buffers
/// implements [`Buffer`] for an enumeration of them.
///
/// `R` is the form of the ring: [`Split`], [`Packed`](crate::Packed), or [`Either`](crate::Either), as negotiated.
///
/// [`submit_read`](Queue::submit_read) and its like put requests on the ring; [`commit`](Queue::commit) lets the device
/// see all of them at once; [`poll`](Queue::poll) yields those that are done, in whatever order the device chose.
///
/// ```
/// use virtio_blk::{Buffer, Error, Queue};
/// use virtio_transport::{Notifier, Wait};
/// use virtqueue::Memory;
///
/// /// Reads several places at once: one notification, or none, for all of them.
/// fn read_all<M: Memory, N: Notifier, B: Buffer>(
///     queue: &mut Queue<M, N, B>,
///     reads: impl IntoIterator<Item = (u64, B)>,
///     mut done: impl FnMut(u64, Option<B>),
/// ) -> Result<(), Error> {
///     let mut in_flight = 0;
///     for (sector, buffer) in reads {
///         queue.submit_read(sector, buffer).map_err(|rejected| rejected.error)?;
///         in_flight += 1;
///     }
///     queue.commit();
///     while in_flight > 0 {
///         let Some(completion) = queue.poll()? else {
///             core::hint::spin_loop();
///             continue;
///         };
///         completion.result?;
///         done(completion.sector, completion.buffer);
///         in_flight -= 1;
///     }
///     Ok(())
/// }
/// ```
pub struct Queue<M: Memory, N, B: Buffer = NoBuffer, R: RingFormat = Split> {
    ring: Ring<M, Pending<B>, R>,
    notifier: N,
    limits: Limits,
    index: u16,
    epoch: Epoch<M>,
    waiters: Waiters<M>,
    /// `Some`: the device is asked for an interrupt once it has used so many requests.
    interrupts: Option<u16>,
    /// Requests that had ended when another call looked, in the order in which they did.
    first_done: Option<Token>,
    last_done: Option<Token>,
    /// There are tasks to wake whose requests ended without the device.
    ended: bool,
    /// The last flush, on any queue, that was submitted before the last write of this queue completed.
    last_write: Option<FlushNumber>,
    /// The device does not have the queue, and takes nothing from it until it has recovered.
    lost: bool,
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat> Queue<M, N, B, R> {
    pub(crate) fn new(
        ring: Ring<M, Pending<B>, R>,
        notifier: N,
        limits: Limits,
        index: u16,
        epoch: Epoch<M>,
        waiters: Waiters<M>,
    ) -> Self {
        Self {
            ring,
            notifier,
            limits,
            index,
            epoch,
            waiters,
            interrupts: None,
            first_done: None,
            last_done: None,
            ended: false,
            last_write: None,
            lost: false,
        }
    }

    /// The index of the queue: 0 for the first.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The number of entries: with INDIRECT_DESC, as many requests can be in flight.
    pub fn size(&self) -> u16 {
        self.ring.settings().size
    }

    /// The number of requests that the device may have.
    pub fn in_flight(&self) -> u16 {
        self.ring.in_flight()
    }

    /// The most data segments of one request.
    pub fn segments(&self) -> u16 {
        self.limits.segments
    }

    /// Asks the device for an interrupt once it has used `requests` requests, or all that are in flight if those are
    /// fewer. Without EVENT_IDX, for each batch. It is asked anew whenever [`poll`](Queue::poll) has found nothing more:
    /// no completion is missed by who polls until then before it sleeps.
    pub fn use_interrupts(&mut self, requests: u16) {
        self.interrupts = Some(requests);
        // What came before this needs no interrupt, but someone to look: who calls this polls next.
        let _ = self.ring.enable_interrupts(requests);
    }

    /// Asks the device for no interrupts. Some may come all the same.
    pub fn use_polling(&mut self) {
        self.interrupts = None;
        self.ring.disable_interrupts();
    }

    /// Takes note of a new capacity, which [`Device::config_changed`](crate::Device::config_changed) found.
    pub fn set_capacity_sectors(&mut self, capacity_sectors: u64) {
        self.limits.capacity_sectors = capacity_sectors;
    }

    /// Whether the device was reset, and the queue takes nothing until it has recovered.
    pub fn is_stopped(&self) -> bool {
        self.epoch.stopped()
    }

    /// Notifies the device in this way from now on: a reset may have changed where it listens.
    pub(crate) fn set_notifier(&mut self, notifier: N) {
        self.notifier = notifier;
    }

    /// Whether the device does nothing with the queue: it was reset, or suspended, or has lost it.
    pub(crate) fn is_paused(&self) -> bool {
        self.lost || !self.epoch.takes_requests()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn epoch(&self) -> &Epoch<M> {
        &self.epoch
    }

    pub(crate) fn pending(&mut self, token: Token) -> Option<&mut Pending<B>> {
        self.ring.attachment(token)
    }

    pub(crate) fn waiters(&mut self) -> &mut Waiters<M> {
        &mut self.waiters
    }

    pub(crate) fn areas(&mut self) -> virtqueue::Areas {
        self.ring.areas()
    }
}
