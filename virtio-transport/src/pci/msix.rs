//! Interrupts by messages (PCI Local Bus 3.0, section 6.8.2; virtio 1.4, section 4.1.5.1.2).

use pci_types::{CommandRegister, ConfigRegionAccess};
use virtio_spec::pci::MSIX_VECTOR_LAST;

use super::{
    CapabilityProblem, Function,
    bar::Bars,
    capability::{in_bar, map},
    function::halves,
    structure::Structure,
};
use crate::Registers;

const CAPABILITY_MSIX: u8 = 0x11;
const CAPABILITY_BYTES: u16 = 12;
/// In the upper half of the capability's first word.
const ENABLE: u32 = 1 << 31;
const MASK_ALL: u32 = 1 << 30;
const COUNT_MASK: u16 = 0x7ff;
/// In the word that says where the table is.
const BAR_MASK: u32 = 7;

/// The length of an entry of the table, and where its fields are.
const ENTRY_BYTES: usize = 16;
const ENTRY_ADDRESS: usize = 0;
const ENTRY_DATA: usize = 8;
const ENTRY_CONTROL: usize = 12;

/// What a device writes to interrupt, and where. The machine's interrupt controller says what that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixMessage {
    /// The device address that is written to.
    pub address: u64,
    /// What is written there.
    pub data: u32,
}

/// The table of messages of a function.
#[derive(Clone, Debug)]
pub(super) struct MsixTable<R> {
    /// Where the capability is in configuration space.
    capability: u16,
    /// How many entries there are.
    pub(super) count: u16,
    entries: Structure<R>,
}

impl<R: Registers> MsixTable<R> {
    /// Finds the table, and switches messages off. `None` when there is none, or none that can be used.
    pub(super) fn find<A: ConfigRegionAccess>(
        function: &Function<'_, A>,
        bars: &Bars,
        mapper: &mut impl FnMut(&crate::Region) -> Option<R>,
    ) -> Option<Self> {
        let capability = function.capabilities().find_map(|(offset, id)| {
            let inside = offset + CAPABILITY_BYTES <= 256;
            (id == CAPABILITY_MSIX && inside).then_some(offset)
        })?;
        let control = function.read(capability);
        if control & ENABLE != 0 {
            function.write(capability, control & !ENABLE);
        }
        let found = Self::locate(function, bars, mapper, capability, control);
        found.inspect_err(|problem| log::warn!("PCI function {}: MSI-X table: {problem}", function.address())).ok()
    }

    fn locate<A: ConfigRegionAccess>(
        function: &Function<'_, A>,
        bars: &Bars,
        mapper: &mut impl FnMut(&crate::Region) -> Option<R>,
        capability: u16,
        control: u32,
    ) -> Result<Self, CapabilityProblem> {
        let count = (halves(control)[1] & COUNT_MASK) + 1;
        let place = function.read(capability + 4);
        let bytes = u64::from(count) * ENTRY_BYTES as u64;
        let region = in_bar(function, bars, (place & BAR_MASK) as u8, (place & !BAR_MASK).into(), bytes)?;
        let entries = map(&region, mapper)?;
        Ok(Self { capability, count: count.min(MSIX_VECTOR_LAST + 1), entries })
    }

    /// Fills the table from its start, and lets the function use it instead of its pin.
    pub(super) fn enable<A: ConfigRegionAccess>(&self, function: &Function<'_, A>, messages: &[MsixMessage]) {
        let control = function.read(self.capability) | ENABLE;
        function.write(self.capability, control | MASK_ALL);
        function.set_command(function.command() | CommandRegister::INTERRUPT_DISABLE);
        // The table is elsewhere, on another way to the device: what was written there or here has arrived before what
        // comes next when it is read back.
        function.read(self.capability);
        for (entry, message) in messages.iter().enumerate() {
            let start = entry * ENTRY_BYTES;
            // Masked while it is half of one message and half of another.
            self.entries.write_u32(start + ENTRY_CONTROL, 1);
            self.entries.write_u64(start + ENTRY_ADDRESS, message.address);
            self.entries.write_u32(start + ENTRY_DATA, message.data);
            self.entries.write_u32(start + ENTRY_CONTROL, 0);
            self.entries.read_u32(start + ENTRY_CONTROL);
        }
        function.write(self.capability, control & !MASK_ALL);
    }
}
