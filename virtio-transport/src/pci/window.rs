//! The addresses that a host bridge forwards to devices.

/// The most memory windows of a host bridge in a device tree.
pub const MAX_WINDOWS: usize = 8;

/// A range of memory addresses that a host bridge forwards to devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The first address as devices see it: what is written to a BAR.
    pub pci_address: u64,
    /// The same address as the processor sees it.
    pub address: u64,
    /// The length in bytes.
    pub bytes: u64,
    /// Whether the bridge may read ahead there: for memory, not for registers that change when read.
    pub prefetchable: bool,
}

impl Window {
    /// The last address that devices see, if the window is not empty and does not wrap around.
    pub(super) fn last(&self) -> Option<u64> {
        self.pci_address.checked_add(self.bytes.checked_sub(1)?)
    }

    /// The processor's address of a range that devices see; `None` when it is not inside the window.
    pub(super) fn translate(&self, pci_address: u64, bytes: u64) -> Option<u64> {
        let from = pci_address.checked_sub(self.pci_address)?;
        let inside = from <= self.bytes && bytes <= self.bytes - from;
        if inside { self.address.checked_add(from) } else { None }
    }
}

/// The processor's address of a range that devices see. Without any window the two are the same.
pub(super) fn translate(windows: &[Window], pci_address: u64, bytes: u64) -> Option<u64> {
    match windows {
        [] => pci_address.checked_add(bytes).map(|_| pci_address),
        _ => windows.iter().find_map(|window| window.translate(pci_address, bytes)),
    }
}
