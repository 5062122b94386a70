//! What a queue asks of its ring, whichever of the two forms that has.

use crate::either::EitherRing;
use crate::error::{QueueSetupError, Violation};
use crate::in_order::InOrderRing;
use crate::memory::{Access, Memory};
use crate::packed::PackedRing;
use crate::segment::Segment;
use crate::settings::{Areas, Settings};
use crate::split::SplitRing;

/// The form of a queue's ring: [`Split`], [`Packed`], or [`Either`], as negotiated.
///
/// A kernel that chooses one while compiling has no code for the other. The trait cannot be implemented elsewhere.
pub trait RingFormat: sealed::Sealed {
    /// The ring of a queue.
    #[doc(hidden)]
    type Ring<M: Memory>: Ring<M>;

    /// The queue can have a split ring: RING_PACKED need not be negotiated.
    const SPLIT: bool;

    /// The queue can have a packed ring: RING_PACKED may be negotiated.
    const PACKED: bool;

    /// The device uses chains in order: IN_ORDER must be negotiated, and otherwise must not.
    const IN_ORDER: bool = false;
}

/// A split ring, which every device has (2.7, "Split Virtqueues").
#[derive(Clone, Copy, Debug, Default)]
pub struct Split;

/// A packed ring, on devices that offer RING_PACKED (2.8, "Packed Virtqueues").
#[derive(Clone, Copy, Debug, Default)]
pub struct Packed;

/// A packed ring on devices that offer RING_PACKED, a split ring on others. Each access to the ring asks which it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Either;

impl RingFormat for Split {
    type Ring<M: Memory> = SplitRing<M>;
    const SPLIT: bool = true;
    const PACKED: bool = false;
}

impl RingFormat for Packed {
    type Ring<M: Memory> = PackedRing<M>;
    const SPLIT: bool = false;
    const PACKED: bool = true;
}

impl RingFormat for Either {
    type Ring<M: Memory> = EitherRing<M>;
    const SPLIT: bool = true;
    const PACKED: bool = true;
}

/// A ring of the form `F` on a device that uses chains in order, one of which offers IN_ORDER. Completions that the
/// device gives back together cost less.
#[derive(Clone, Copy, Debug, Default)]
pub struct InOrder<F>(pub F);

impl<F: RingFormat> RingFormat for InOrder<F> {
    type Ring<M: Memory> = InOrderRing<M, F::Ring<M>>;
    const SPLIT: bool = F::SPLIT;
    const PACKED: bool = F::PACKED;
    const IN_ORDER: bool = true;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Split {}
    impl Sealed for super::Packed {}
    impl Sealed for super::Either {}
    impl<F: Sealed> Sealed for super::InOrder<F> {}
}

/// A ring. The queue has checked the settings, and holds to what is said here.
///
/// Each chain has an id, the number of its slot. A chain is one entry of the ring, with a table in its slot, or, without
/// INDIRECT_DESC, as many as it has descriptors.
pub trait Ring<M: Memory>: Sized {
    /// Makes an empty ring that asks for no interrupts.
    fn new(memory: &M, settings: &Settings) -> Result<Self, QueueSetupError>;

    /// Where the ring is.
    fn areas(&self) -> Areas;

    /// Whether the ring chooses the id of each chain, by [`reserve`](Ring::reserve): where ids are also the numbers of
    /// descriptors, and a chain takes several. Otherwise any free slot will do.
    fn numbers_slots(&self) -> bool;

    /// Takes a free descriptor, whose number will be the id of a chain.
    fn reserve(&mut self) -> Option<u16>;

    /// Gives a descriptor back that was reserved, and not added.
    fn unreserve(&mut self, id: u16);

    /// The number of descriptors that can be added, where chains are direct.
    fn free(&self) -> u16;

    /// The second word of a descriptor in a table: its length, its flags, and what is `next` in the table, if something
    /// is.
    fn table_entry(&self, bytes: u32, access: Access, next: Option<u16>) -> u64;

    /// Writes what the ring can hold of a chain before it is added: of one with so many descriptors in a table at that
    /// address.
    fn prepare(&self, id: u16, table: u64, descriptors: u16);

    /// Adds a chain that was prepared just like that. The device does not see it yet.
    fn add(&mut self, id: u16, table: u64, descriptors: u16);

    /// Adds a direct chain. There are enough free descriptors.
    fn add_direct(&mut self, id: u16, segments: &[Segment]);

    /// Adds a direct chain that was added before the last [`restart`](Ring::restart), and not released.
    fn add_direct_again(&mut self, id: u16, segments: &[Segment]);

    /// A direct chain of so many descriptors was taken out of its slot.
    fn release_direct(&mut self, id: u16, descriptors: u16);

    /// Lets the device see every chain that was added. Returns whether it wants to be notified of it; if so, what was
    /// written is ordered before a register that the caller writes next.
    fn commit(&mut self) -> bool;

    /// Where the next chain will be added, in the form that a notification carries it (2.9).
    fn notification_data(&self) -> u16;

    /// The number of chains that were added and that the device has not given back, since the ring was empty.
    fn unused(&self) -> u16;

    /// Whether all was taken that was [seen](Ring::look).
    fn is_exhausted(&self) -> bool;

    /// Looks for chains that the device has used and that were not seen. Whether there are some.
    ///
    /// # Errors
    ///
    /// What the device wrote, if it cannot be: see [`jumped`](Ring::jumped).
    fn look(&mut self) -> Result<bool, u16>;

    /// What is wrong with what [`look`](Ring::look) found.
    fn jumped(&self, found: u16) -> Violation;

    /// The next chain that the device has used, of those seen, of which there is one: its id, and the number of bytes
    /// that the device says it wrote. Both are the device's word.
    fn element(&self) -> (u32, u32);

    /// Takes that chain, which is known now to have been in flight. It took so many entries.
    fn advance(&mut self, entries: u16);

    /// Whether the device may have given more chains back than were taken, going by what was seen.
    fn has_more(&self) -> bool;

    /// Ends all business with the device: nothing more is committed, and nothing taken.
    fn close(&mut self);

    /// How many chains were seen and not taken, as far as the ring knows.
    fn seen_unused(&self) -> u16;

    /// Asks the device not to interrupt. It may do so all the same, now and then.
    fn disable_interrupts(&self);

    /// Asks the device to interrupt once it has used `chains` more than were taken. Returns the number from which on,
    /// if so many are [seen](Ring::seen_unused) after another look, they may have come without an interrupt.
    fn enable_interrupts(&mut self, chains: u16) -> u16;

    /// Empties the ring, as for a device that has never seen it. Ids that were reserved stay so.
    fn restart(&mut self);

    /// Keeps the memory that the device knows from being freed.
    fn leak(&mut self);
}
