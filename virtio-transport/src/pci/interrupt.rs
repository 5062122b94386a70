//! Why a device interrupts.

use virtio_spec::InterruptStatus;

use super::structure::Structure;
use crate::{Interrupt, Registers};

/// Asks a PCI device why it raised its interrupt.
///
/// With the pin, reading the reason is the acknowledgement (section 4.1.4.5). A message needs none, and the device does
/// not say what it was for: that is known by its vector, see [`for_vector`](Self::for_vector).
#[derive(Clone, Debug)]
pub struct PciInterrupt<R> {
    pub(super) isr: Structure<R>,
    /// How many messages there are; 0 for the pin.
    pub(super) messages: u16,
    /// What a message can be for.
    pub(super) causes: InterruptStatus,
}

impl<R: Registers> PciInterrupt<R> {
    /// The handle for the handler of one message: vector 0 is for changes of the configuration, the others for queues,
    /// and a single one for both. With the pin, it changes nothing.
    #[must_use]
    pub fn for_vector(self, vector: u16) -> Self {
        let causes = match (self.messages, vector) {
            (0 | 1, _) => InterruptStatus::all(),
            (_, 0) => InterruptStatus::CONFIGURATION_CHANGE,
            _ => InterruptStatus::USED_BUFFER,
        };
        Self { causes, ..self }
    }
}

impl<R: Registers> Interrupt for PciInterrupt<R> {
    #[inline]
    fn acknowledge(&self) -> InterruptStatus {
        match self.messages {
            0 => InterruptStatus::from_bits_truncate(self.isr.read_u8(0).into()),
            _ => self.causes,
        }
    }
}
