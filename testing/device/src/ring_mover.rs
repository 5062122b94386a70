//! What moves chains out of a ring and back.

use crate::chain::Chain;
use crate::violation::Violation;

/// What the device finds when it looks whether it should have been notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// How much was made available since the look before: chains in a split ring, entries in a packed one.
    pub added: u64,
    /// Whether the driver had to notify the device of it.
    pub due: bool,
}

/// The device's end of one ring.
///
/// There are three: [`DeviceRing`](crate::DeviceRing) and [`PackedDeviceRing`](crate::PackedDeviceRing), which check
/// the driver, and one over rust-vmm's `virtio-queue`, which was written by others.
pub trait RingMover: Send {
    /// Takes the next chain that the driver made available.
    fn pop(&mut self) -> Option<Chain>;

    /// Gives a chain back.
    fn push_used(&mut self, id: u16, bytes: u32);

    /// Gives several chains back, oldest first, with one element: that of the last one. With IN_ORDER only.
    fn push_batch(&mut self, skipped: &[u16], id: u16, bytes: u32);

    /// Writes the next used element, whatever it says, and moves on over it: by one entry.
    fn push_raw(&mut self, id: u32, bytes: u32);

    /// Moves on by some used elements without writing them.
    fn skip_used(&mut self, entries: u16);

    /// Has these flags inverted in the next used descriptor. Packed rings only.
    fn invert_flags(&mut self, _flags: u16) {}

    /// Whether the driver wants to be told about what was given back since the last call.
    fn interrupt_wanted(&mut self) -> bool;

    /// Says whether the device wants to be notified of the next chain. Returns whether there is one already.
    fn set_notifications(&mut self, wanted: bool) -> bool;

    /// Looks at what was made available since the last call, and whether the driver had to notify the device of it.
    ///
    /// To be called before the device changes what it suppresses. `None` if the ring cannot be read.
    fn judge(&mut self) -> Option<Judgement>;

    /// What a notification carries beside the queue's index at this moment, with NOTIFICATION_DATA: the available
    /// index, or in a packed ring the place of the next descriptor that is not available.
    fn notification_data(&mut self) -> Option<u16>;

    /// What the driver did against the specification since the last call, as far as this implementation looks.
    fn take_violations(&mut self) -> Vec<Violation>;
}
