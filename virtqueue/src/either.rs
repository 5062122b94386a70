//! A ring of whichever form was negotiated.

use crate::error::{QueueSetupError, Violation};
use crate::memory::{Access, Memory};
use crate::packed::PackedRing;
use crate::ring::Ring;
use crate::segment::Segment;
use crate::settings::{Areas, Settings};
use crate::split::SplitRing;

/// A ring of one form or the other.
pub enum EitherRing<M: Memory> {
    Split(SplitRing<M>),
    Packed(PackedRing<M>),
}

/// Calls the same method of whichever ring it is.
macro_rules! either {
    ($self:ident, $ring:ident => $call:expr) => {
        match $self {
            EitherRing::Split($ring) => $call,
            EitherRing::Packed($ring) => $call,
        }
    };
}

impl<M: Memory> Ring<M> for EitherRing<M> {
    fn new(memory: &M, settings: &Settings) -> Result<Self, QueueSetupError> {
        Ok(if settings.packed {
            Self::Packed(PackedRing::new(memory, settings)?)
        } else {
            Self::Split(SplitRing::new(memory, settings)?)
        })
    }

    fn areas(&self) -> Areas {
        either!(self, ring => ring.areas())
    }

    fn numbers_slots(&self) -> bool {
        either!(self, ring => ring.numbers_slots())
    }

    fn reserve(&mut self) -> Option<u16> {
        either!(self, ring => ring.reserve())
    }

    fn unreserve(&mut self, id: u16) {
        either!(self, ring => ring.unreserve(id));
    }

    fn free(&self) -> u16 {
        either!(self, ring => ring.free())
    }

    #[inline(always)]
    fn table_entry(&self, bytes: u32, access: Access, next: Option<u16>) -> u64 {
        either!(self, ring => ring.table_entry(bytes, access, next))
    }

    fn prepare(&self, id: u16, table: u64, descriptors: u16) {
        either!(self, ring => ring.prepare(id, table, descriptors));
    }

    #[inline(always)]
    fn add(&mut self, id: u16, table: u64, descriptors: u16) {
        either!(self, ring => ring.add(id, table, descriptors));
    }

    fn add_direct(&mut self, id: u16, segments: &[Segment]) {
        either!(self, ring => ring.add_direct(id, segments));
    }

    fn add_direct_again(&mut self, id: u16, segments: &[Segment]) {
        either!(self, ring => ring.add_direct_again(id, segments));
    }

    fn release_direct(&mut self, id: u16, descriptors: u16) {
        either!(self, ring => ring.release_direct(id, descriptors));
    }

    #[inline(always)]
    fn commit(&mut self) -> bool {
        either!(self, ring => ring.commit())
    }

    fn notification_data(&self) -> u16 {
        either!(self, ring => ring.notification_data())
    }

    #[inline(always)]
    fn unused(&self) -> u16 {
        either!(self, ring => ring.unused())
    }

    #[inline(always)]
    fn is_exhausted(&self) -> bool {
        either!(self, ring => ring.is_exhausted())
    }

    #[inline(always)]
    fn look(&mut self) -> Result<bool, u16> {
        either!(self, ring => ring.look())
    }

    fn jumped(&self, found: u16) -> Violation {
        either!(self, ring => ring.jumped(found))
    }

    #[inline(always)]
    fn element(&self) -> (u32, u32) {
        either!(self, ring => ring.element())
    }

    #[inline(always)]
    fn advance(&mut self, entries: u16) {
        either!(self, ring => ring.advance(entries));
    }

    fn has_more(&self) -> bool {
        either!(self, ring => ring.has_more())
    }

    fn close(&mut self) {
        either!(self, ring => ring.close());
    }

    fn seen_unused(&self) -> u16 {
        either!(self, ring => ring.seen_unused())
    }

    fn disable_interrupts(&self) {
        either!(self, ring => ring.disable_interrupts());
    }

    fn enable_interrupts(&mut self, chains: u16) -> u16 {
        either!(self, ring => ring.enable_interrupts(chains))
    }

    fn restart(&mut self) {
        either!(self, ring => ring.restart());
    }

    fn leak(&mut self) {
        either!(self, ring => ring.leak());
    }
}
