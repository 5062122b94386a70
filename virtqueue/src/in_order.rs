//! A ring whose device uses chains in the order in which they were made available (IN_ORDER: 2.7.9, 2.8.9).
//!
//! The driver uses descriptors in the order of the ring too, from the first on: the id of a chain is the position of its
//! first descriptor. Which slot that is, is kept here. The device may give several chains back with one used element,
//! which names the last of them; the others are known without a look at shared memory.

use crate::error::{QueueSetupError, Violation};
use crate::memory::{Access, Memory};
use crate::owned::PrivateSlice;
use crate::ring::Ring;
use crate::segment::Segment;
use crate::settings::{Areas, Settings};

/// A ring of either form, used in order.
pub struct InOrderRing<M: Memory, I: Ring<M>> {
    inner: I,
    /// For each position the slot of the chain that begins there.
    slots: PrivateSlice<u16, M>,
    /// Where the next chain begins.
    next: u16,
    /// Where the next chain begins that the device uses.
    used: u16,
    /// Where the last chain begins of those that the device has given back together, and how many bytes it says it
    /// wrote for that one.
    batch: Option<(u16, u32)>,
    /// The device has given more chains back than it had: what it wrote.
    overrun: Option<u16>,
    /// The number of positions that no chain takes.
    free: u16,
    size: u16,
}

impl<M: Memory, I: Ring<M>> InOrderRing<M, I> {
    /// Notes where the chain of a slot begins, and returns that.
    #[inline(always)]
    fn place(&mut self, slot: u16, entries: u16) -> u16 {
        let position = self.next;
        if let Some(place) = self.slots.get_mut(usize::from(position)) {
            *place = slot;
        }
        self.next = self.after(position, entries);
        self.free = self.free.wrapping_sub(entries);
        position
    }

    /// The position so many entries further on.
    #[inline(always)]
    fn after(&self, position: u16, entries: u16) -> u16 {
        // No more than 16 bits: the first is below the size, the second no more than the size, which is 32768 at most.
        let position = position + entries;
        if position >= self.size { position - self.size } else { position }
    }
}

impl<M: Memory, I: Ring<M>> Ring<M> for InOrderRing<M, I> {
    fn new(memory: &M, settings: &Settings) -> Result<Self, QueueSetupError> {
        let size = settings.size;
        let bytes = usize::from(size) * size_of::<u16>();
        Ok(Self {
            inner: I::new(memory, settings)?,
            slots: PrivateSlice::allocate(memory, usize::from(size), |_| 0)
                .map_err(|error| QueueSetupError::Memory { bytes, error })?,
            next: 0,
            used: 0,
            batch: None,
            overrun: None,
            free: size,
            size,
        })
    }

    fn areas(&self) -> Areas {
        self.inner.areas()
    }

    fn numbers_slots(&self) -> bool {
        false
    }

    fn reserve(&mut self) -> Option<u16> {
        None
    }

    fn unreserve(&mut self, _: u16) {}

    fn free(&self) -> u16 {
        self.free
    }

    #[inline(always)]
    fn table_entry(&self, bytes: u32, access: Access, next: Option<u16>) -> u64 {
        self.inner.table_entry(bytes, access, next)
    }

    /// Which descriptor it will be is known only when the chain is added.
    fn prepare(&self, _: u16, _: u64, _: u16) {}

    #[inline(always)]
    fn add(&mut self, id: u16, table: u64, descriptors: u16) {
        let position = self.place(id, 1);
        self.inner.prepare(position, table, descriptors);
        self.inner.add(position, table, descriptors);
    }

    fn add_direct(&mut self, id: u16, segments: &[Segment]) {
        let position = self.place(id, segments.len() as u16);
        self.inner.add_direct_again(position, segments);
    }

    fn add_direct_again(&mut self, id: u16, segments: &[Segment]) {
        self.add_direct(id, segments);
    }

    /// Positions become free when the device has used them.
    fn release_direct(&mut self, _: u16, _: u16) {}

    #[inline(always)]
    fn commit(&mut self) -> bool {
        self.inner.commit()
    }

    fn notification_data(&self) -> u16 {
        self.inner.notification_data()
    }

    #[inline(always)]
    fn unused(&self) -> u16 {
        self.inner.unused()
    }

    #[inline(always)]
    fn is_exhausted(&self) -> bool {
        self.batch.is_none()
    }

    #[inline(always)]
    fn look(&mut self) -> Result<bool, u16> {
        if let Some(last) = self.overrun {
            return Err(last);
        }
        if self.batch.is_some() {
            // There is no element to be read before its end: the device has written one for all. Of what comes behind it,
            // an index may tell.
            if !self.inner.is_exhausted() {
                self.inner.look()?;
            }
            return Ok(true);
        }
        if self.inner.is_exhausted() && !self.inner.look()? {
            return Ok(false);
        }
        let (last, bytes) = self.inner.element();
        let last = u16::try_from(last).unwrap_or(u16::MAX);
        if self.inner.unused() == 0 {
            self.overrun = Some(last);
            return Err(last);
        }
        self.batch = Some((last, bytes));
        Ok(true)
    }

    fn jumped(&self, found: u16) -> Violation {
        match self.overrun {
            Some(last) => Violation::BatchTooLong { last },
            None => self.inner.jumped(found),
        }
    }

    #[inline(always)]
    fn element(&self) -> (u32, u32) {
        match self.batch {
            // Those before the last are used completely.
            Some((last, bytes)) if last < self.size => {
                let slot = self.slots.get(usize::from(self.used)).copied().unwrap_or(u16::MAX);
                (u32::from(slot), if last == self.used { bytes } else { u32::MAX })
            }
            Some((last, bytes)) => (u32::from(last), bytes),
            None => (u32::MAX, 0),
        }
    }

    #[inline(always)]
    fn advance(&mut self, entries: u16) {
        self.inner.advance(entries);
        let done = self.used;
        self.used = self.after(done, entries);
        self.free = self.free.wrapping_add(entries);
        if let Some((last, _)) = self.batch {
            let ends = last == done;
            if !ends && !self.inner.has_more() {
                self.overrun = Some(last);
            }
            if ends || self.overrun.is_some() {
                self.batch = None;
            }
        }
    }

    fn has_more(&self) -> bool {
        self.inner.has_more()
    }

    fn close(&mut self) {
        self.inner.close();
        self.batch = None;
    }

    fn seen_unused(&self) -> u16 {
        self.inner.seen_unused().max(u16::from(self.batch.is_some()))
    }

    fn disable_interrupts(&self) {
        self.inner.disable_interrupts();
    }

    fn enable_interrupts(&mut self, chains: u16) -> u16 {
        self.inner.enable_interrupts(chains)
    }

    fn restart(&mut self) {
        self.inner.restart();
        (self.next, self.used, self.free) = (0, 0, self.size);
        (self.batch, self.overrun) = (None, None);
    }

    fn leak(&mut self) {
        self.inner.leak();
    }
}
