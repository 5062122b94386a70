//! A host bridge: the way to a number of buses.

use core::ops::RangeInclusive;

use pci_types::ConfigRegionAccess;

use super::{Assigned, Ecam, Functions, Window, assign::Assigner};
use crate::{MemoryMapped, PciHostNode};

/// A PCI host bridge, and the buses behind it.
///
/// Made by [`open`](Host::open) for a machine with a device tree, by [`new`](Host::new) for any.
#[derive(Clone, Debug)]
pub struct Host<'w, A> {
    pub(super) access: A,
    pub(super) buses: RangeInclusive<u8>,
    pub(super) windows: &'w [Window],
}

impl<'w, A: ConfigRegionAccess> Host<'w, A> {
    /// The host bridge whose root bus is the first of `buses`. The buses behind it have numbers from there to the last.
    ///
    /// `windows` are the memory addresses that it forwards to devices. Without any, devices and processor see the same
    /// addresses, and all devices have theirs already: what firmware on a PC leaves behind.
    ///
    /// # Safety
    ///
    /// - `access` reaches the configuration space of these buses, in segment 0. It may be read anywhere, of functions
    ///   that are there or not, at every multiple of 4 below 256.
    /// - Nothing else writes to the configuration space of functions that this is used for, and no driver works on
    ///   functions while [`assign`](Self::assign) runs.
    /// - The windows' addresses are forwarded to devices and are in use by nothing but devices behind this bridge.
    pub unsafe fn new(access: A, buses: RangeInclusive<u8>, windows: &'w [Window]) -> Self {
        Self { access, buses, windows }
    }

    /// The functions on all buses, bridges among them.
    ///
    /// Buses that nobody has numbered yet cannot be looked at; [`assign`](Self::assign) does that.
    pub fn functions(&self) -> Functions<'_, A> {
        Functions::new(self)
    }

    /// Numbers the buses that have no number yet, and gives an address to each memory BAR that has none, and to bridges
    /// the windows for what is behind them. What firmware has set up stays as it is, so does what an earlier call has.
    ///
    /// Addresses come from the windows: below 4 GiB as long as there are some, above only for 64-bit prefetchable BARs.
    /// I/O ports are left alone, as the modern interface of virtio needs none. Bridges that were numbered before are
    /// not entered: what is behind them was set up by whoever numbered them.
    ///
    /// What cannot be done is logged and counted: one device that wants too much does not keep the others from theirs.
    pub fn assign(&self) -> Assigned {
        Assigner::run(self)
    }
}

impl<'n> Host<'n, Ecam<MemoryMapped>> {
    /// The host bridge of a node in the device tree, for kernels that map device registers at their physical addresses.
    /// `None` when its configuration space is at an address that no registers can have.
    ///
    /// # Safety
    ///
    /// The configuration space is mapped at its own address, as [`MemoryMapped::new`] asks; the tree tells the truth;
    /// and nothing else uses the host bridge or configures functions behind it, as [`new`](Host::new) asks.
    pub unsafe fn open(node: &'n PciHostNode<'_>) -> Option<Self> {
        // SAFETY: asked of the caller.
        let access = unsafe { Ecam::open(&node.config_space, node.first_bus) }?;
        // SAFETY: asked of the caller; configuration space that is not there reads as all ones.
        Some(unsafe { Self::new(access, node.first_bus..=node.last_bus, node.windows()) })
    }
}
