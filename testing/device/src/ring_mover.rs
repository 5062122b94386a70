//! What moves chains out of a ring and back.

use crate::chain::Chain;
use crate::violation::Violation;

/// The device's end of one split ring.
///
/// There are two: [`DeviceRing`](crate::DeviceRing), which checks the driver, and one over rust-vmm's `virtio-queue`,
/// which was written by others.
pub trait RingMover: Send {
    /// Takes the next chain that the driver made available.
    fn pop(&mut self) -> Option<Chain>;

    /// Gives a chain back.
    fn push_used(&mut self, id: u16, bytes: u32);

    /// Writes the next element of the used ring, whatever it says, and moves idx over it.
    fn push_raw(&mut self, id: u32, bytes: u32);

    /// Moves the used ring's idx without writing elements.
    fn skip_used(&mut self, entries: u16);

    /// Whether the driver wants to be told about what was given back since the last call.
    fn interrupt_wanted(&mut self) -> bool;

    /// Says whether the device wants to be notified of the next chain. Returns whether there is one already.
    fn set_notifications(&mut self, wanted: bool) -> bool;

    /// What the driver did against the specification since the last call, as far as this implementation looks.
    fn take_violations(&mut self) -> Vec<Violation>;
}
