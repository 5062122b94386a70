//! Requests that consist of ranges of sectors: discard, write zeroes, secure erase.

use core::ops::Range;

use virtio_spec::block::DiscardWriteZeroesFlags;
use virtio_transport::{Notifier, Transport, Wait};
use virtqueue::{Memory, RingFormat, Token};

use crate::blocking::BlockingQueue;
use crate::buffer::Buffer;
use crate::device::DeviceHandle;
use crate::disk::Disk;
use crate::error::Error;
use crate::queue::Queue;
use crate::request::{Operation, Owner, slot};
use crate::task::{AsyncQueue, Command, SharedQueue};

/// The most ranges of one request, should the device allow that many: so many have room beside the request's header.
pub const RANGES_MAX: usize = slot::RANGES_MAX;

/// Some sectors in a row: a segment of a request (5.2.6, "Device Operation").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SectorRange {
    /// The first sector.
    pub sector: u64,
    /// The number of sectors.
    pub sectors: u64,
}

impl From<Range<u64>> for SectorRange {
    /// From the first sector to the one behind the last; empty if that is before it.
    fn from(range: Range<u64>) -> Self {
        Self { sector: range.start, sectors: range.end.saturating_sub(range.start) }
    }
}

/// Whether a device may free the sectors that are to read as zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmap {
    /// It keeps room for what will be written there.
    Never,
    /// It may free them, if it does that at all
    /// ([`write_zeroes_may_unmap`](crate::Info::write_zeroes_may_unmap)).
    Allowed,
}

/// The data of a request that consists of ranges; without any for other requests.
#[derive(Clone, Copy)]
pub(crate) struct Ranges<'a> {
    pub(crate) ranges: &'a [SectorRange],
    pub(crate) unmap: Unmap,
}

impl<'a> Ranges<'a> {
    pub(crate) const NONE: Self = Self { ranges: &[], unmap: Unmap::Never };

    fn new(ranges: &'a [SectorRange]) -> Self {
        Self { ranges, unmap: Unmap::Never }
    }

    /// The ranges as the device reads them, each within the limits.
    pub(crate) fn encoded(self, little_endian: bool) -> impl Iterator<Item = [u8; slot::RANGE_BYTES]> + use<'a> {
        let flags = match self.unmap {
            Unmap::Never => DiscardWriteZeroesFlags::empty(),
            Unmap::Allowed => DiscardWriteZeroesFlags::UNMAP,
        };
        self.ranges.iter().map(move |range| {
            // A legacy device has the byte order of the machine.
            let in_order = |number: u64| if little_endian { number.to_le_bytes() } else { number.to_ne_bytes() };
            let in_order_32 = |number: u32| if little_endian { number.to_le_bytes() } else { number.to_ne_bytes() };
            let [a, b, c, d, e, f, g, h] = in_order(range.sector);
            let [i, j, k, l] = in_order_32(u32::try_from(range.sectors).unwrap_or(u32::MAX));
            let [m, n, o, p] = in_order_32(flags.bits());
            [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
        })
    }
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat> Queue<M, N, B, R> {
    /// Puts a discard of some ranges on the ring, in one request: what they hold is not needed any more, and the device
    /// may forget it or not. The device sees it after [`commit`](Queue::commit).
    ///
    /// The ranges are copied; the [`Completion`](crate::Completion) names the first sector of the first one.
    ///
    /// # Errors
    ///
    /// - [`Error::NotNegotiated`] on a disk without DISCARD, [`Error::ReadOnly`].
    /// - [`Error::TooManyRanges`]: more than the device allows, or than [`RANGES_MAX`].
    /// - [`Error::TooManySectors`], [`Error::UnalignedRange`]: what
    ///   [`EraseLimits`](crate::EraseLimits) does not allow, and ranges that are no whole blocks.
    /// - [`Error::BeyondCapacity`]; [`Error::Empty`] without ranges, and for one without sectors.
    /// - [`Error::QueueFull`].
    ///
    /// # Example
    ///
    /// ```
    /// use virtio_blk::{Buffer, Error, Queue, SectorRange, Token};
    /// use virtio_transport::Notifier;
    /// use virtqueue::Memory;
    ///
    /// /// Tells the device that a file was deleted, and does not wait for it.
    /// fn forget<M: Memory, N: Notifier, B: Buffer>(
    ///     queue: &mut Queue<M, N, B>,
    ///     extent: SectorRange,
    /// ) -> Result<Token, Error> {
    ///     let token = queue.submit_discard(&[extent])?;
    ///     queue.commit();
    ///     Ok(token)
    /// }
    /// ```
    pub fn submit_discard(&mut self, ranges: &[SectorRange]) -> Result<Token, Error> {
        self.submit_ranges(Operation::Discard, Ranges::new(ranges), Owner::Poller)
    }

    /// Puts a request on the ring that makes some ranges read as zeroes. As [`submit_discard`](Queue::submit_discard)
    /// otherwise.
    ///
    /// # Errors
    ///
    /// Those of [`submit_discard`](Queue::submit_discard), for WRITE_ZEROES; on a host-managed zoned disk also
    /// [`Error::CrossesZone`].
    pub fn submit_write_zeroes(&mut self, ranges: &[SectorRange], unmap: Unmap) -> Result<Token, Error> {
        self.submit_ranges(Operation::WriteZeroes, Ranges { ranges, unmap }, Owner::Poller)
    }

    /// Puts a request on the ring that erases some ranges, so that what they held cannot be found any more, and copies of
    /// it neither. As [`submit_discard`](Queue::submit_discard) otherwise.
    ///
    /// # Errors
    ///
    /// Those of [`submit_discard`](Queue::submit_discard), for SECURE_ERASE. On a host-managed zoned disk ranges are
    /// whole zones.
    pub fn submit_secure_erase(&mut self, ranges: &[SectorRange]) -> Result<Token, Error> {
        self.submit_ranges(Operation::SecureErase, Ranges::new(ranges), Owner::Poller)
    }
}

impl<M: Memory, N: Notifier, B: Buffer, R: RingFormat, D: DeviceHandle<M>> BlockingQueue<'_, M, N, B, R, D> {
    /// Tells the device that ranges are not needed any more. See [`Disk::discard`].
    ///
    /// # Errors
    ///
    /// Those of [`Disk::discard`].
    pub fn discard(&mut self, ranges: &[SectorRange], wait: &mut impl Wait) -> Result<(), Error> {
        self.erase(Operation::Discard, Ranges::new(ranges), wait)
    }

    /// Makes ranges read as zeroes, without data being moved. See [`Disk::write_zeroes`].
    ///
    /// # Errors
    ///
    /// Those of [`Disk::write_zeroes`].
    pub fn write_zeroes(&mut self, ranges: &[SectorRange], unmap: Unmap, wait: &mut impl Wait) -> Result<(), Error> {
        self.erase(Operation::WriteZeroes, Ranges { ranges, unmap }, wait)
    }

    /// Erases ranges, so that what they held cannot be found any more. See [`Disk::secure_erase`].
    ///
    /// # Errors
    ///
    /// Those of [`Disk::secure_erase`].
    pub fn secure_erase(&mut self, ranges: &[SectorRange], wait: &mut impl Wait) -> Result<(), Error> {
        self.erase(Operation::SecureErase, Ranges::new(ranges), wait)
    }

    fn erase(&mut self, operation: Operation, ranges: Ranges<'_>, wait: &mut impl Wait) -> Result<(), Error> {
        let result = self.call().erase(operation, ranges, wait);
        self.stop_if_fatal(result)
    }
}

impl<T: Transport, M: Memory, B: Buffer, R: RingFormat> Disk<T, M, B, R> {
    /// Tells the device that ranges are not needed any more: it may forget what they hold, or not. How many ranges there
    /// are and how long they are does not matter: they become as many requests as it takes, which are in flight at the
    /// same time.
    ///
    /// # Errors
    ///
    /// Misuse, before anything was done: [`Error::NotNegotiated`] on a disk without DISCARD, [`Error::ReadOnly`],
    /// [`Error::UnalignedRange`] (a discard may leave out what is not aligned:
    /// [`EraseLimits::aligned_part`](crate::EraseLimits::aligned_part)), [`Error::BeyondCapacity`], [`Error::Empty`].
    /// [`Error::Device`] names the first sector of the request that failed. [`Error::GaveUp`] and
    /// [`Error::Violation`]: the device was reset.
    ///
    /// # Example
    ///
    /// ```
    /// use virtio_blk::{Disk, Error, SectorRange};
    /// use virtio_transport::{Spin, Transport};
    /// use virtqueue::Memory;
    ///
    /// /// Gives back what a file system has freed.
    /// fn trim<T: Transport, M: Memory>(disk: &mut Disk<T, M>, freed: &[SectorRange]) -> Result<(), Error> {
    ///     let Some(limits) = disk.info().discard else {
    ///         return Ok(()); // the device does not care
    ///     };
    ///     for range in freed.iter().filter_map(|range| limits.aligned_part(*range)) {
    ///         disk.discard(&[range], &mut Spin)?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn discard(&mut self, ranges: &[SectorRange], wait: &mut impl Wait) -> Result<(), Error> {
        self.blocking()?.discard(ranges, wait)
    }

    /// Makes ranges read as zeroes, without data being moved. As [`discard`](Disk::discard) otherwise; on a host-managed
    /// zoned disk, one request at a time.
    ///
    /// # Errors
    ///
    /// Those of [`discard`](Disk::discard), for WRITE_ZEROES.
    pub fn write_zeroes(&mut self, ranges: &[SectorRange], unmap: Unmap, wait: &mut impl Wait) -> Result<(), Error> {
        self.blocking()?.write_zeroes(ranges, unmap, wait)
    }

    /// Erases ranges, so that what they held cannot be found any more, and copies of it neither. As
    /// [`discard`](Disk::discard) otherwise.
    ///
    /// # Errors
    ///
    /// Those of [`discard`](Disk::discard), for SECURE_ERASE.
    pub fn secure_erase(&mut self, ranges: &[SectorRange], wait: &mut impl Wait) -> Result<(), Error> {
        self.blocking()?.secure_erase(ranges, wait)
    }
}

impl<S: SharedQueue> AsyncQueue<S> {
    /// Tells the device that some ranges are not needed any more, in one request. See [`Queue::submit_discard`].
    ///
    /// ```
    /// use virtio_blk::{AsyncQueue, Error, SharedQueue};
    ///
    /// async fn forget<S: SharedQueue>(disk: &AsyncQueue<S>) -> Result<(), Error> {
    ///     disk.discard(&[(0..64).into(), (128..256).into()]).await
    /// }
    /// ```
    pub fn discard<'a>(&'a self, ranges: &'a [SectorRange]) -> Command<'a, S> {
        Command::new(self, Operation::Discard, 0, Ranges::new(ranges))
    }

    /// Makes some ranges read as zeroes, in one request. See [`Queue::submit_write_zeroes`].
    pub fn write_zeroes<'a>(&'a self, ranges: &'a [SectorRange], unmap: Unmap) -> Command<'a, S> {
        Command::new(self, Operation::WriteZeroes, 0, Ranges { ranges, unmap })
    }

    /// Erases some ranges, in one request. See [`Queue::submit_secure_erase`].
    pub fn secure_erase<'a>(&'a self, ranges: &'a [SectorRange]) -> Command<'a, S> {
        Command::new(self, Operation::SecureErase, 0, Ranges::new(ranges))
    }
}
