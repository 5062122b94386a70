//! Virtio over PCI: virtio 1.4, section 4.1, through the modern interface.
//!
//! Finding functions is a matter of PCI and knows nothing of virtio: [`Host`] walks the buses behind a host bridge and
//! gives addresses to what firmware left without. [`Pci`] is the transport that a virtio function becomes.
//!
//! ```no_run
//! use virtio_transport::{
//!     DeviceTree, DeviceTreeError, DeviceType, MemoryMapped, Transport,
//!     pci::{Host, Pci},
//! };
//!
//! /// Calls `found` with each disk on a PCI bus of a device tree, and the number of its interrupt.
//! ///
//! /// # Safety
//! ///
//! /// Device registers are mapped at their physical addresses, and no other driver uses PCI.
//! unsafe fn find_disks(
//!     blob: &[u8],
//!     mut found: impl FnMut(Pci<MemoryMapped>, Option<u32>),
//! ) -> Result<(), DeviceTreeError> {
//!     for node in DeviceTree::parse(blob)?.pci_hosts() {
//!         let node = match node {
//!             Ok(node) => node,
//!             Err(error) => {
//!                 log::warn!("{error}");
//!                 continue;
//!             }
//!         };
//!         // SAFETY: asked of the caller; the addresses are those of the device tree.
//!         let Some(host) = (unsafe { Host::open(&node) }) else { continue };
//!         host.assign(); // Changes nothing where firmware has given addresses to everything.
//!         for function in host.functions() {
//!             // SAFETY: asked of the caller.
//!             match unsafe { Pci::open(&function) } {
//!                 Ok(Some(device)) if device.device_type() == DeviceType::BLOCK => {
//!                     let interrupt = function.interrupt().and_then(|route| node.interrupt(&route).ok().flatten());
//!                     found(device, interrupt.and_then(|interrupt| interrupt.number()));
//!                 }
//!                 Ok(_) => {} // A device of another type, or no virtio device at all.
//!                 Err(error) => log::warn!("{error}"),
//!             }
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Interrupts
//!
//! A function has one pin, which it shares with others and which is acknowledged ([`PciInterrupt`]); or it writes
//! messages, one for each queue if it has as many ([`Pci::use_msix`]), which need no acknowledgement. The transport
//! starts with the pin.
//!
//! # Other machines
//!
//! A kernel with other ways to configuration space (I/O ports on x86, a hypercall) implements [`ConfigRegionAccess`] of
//! the crate `pci_types` for it, and uses [`Host::new`]. One that maps device registers elsewhere gives [`Pci::probe`] a
//! closure that maps.
//!
//! # What the device says is not believed
//!
//! Capabilities, their offsets and lengths, sizes of BARs, bus numbers of bridges and notification offsets are the
//! device's word: each is checked against what contains it, and walks end, whatever they meet.

mod assign;
mod bar;
mod capability;
mod common;
mod ecam;
mod error;
mod function;
mod host;
mod interrupt;
mod msix;
mod notifier;
mod structure;
mod transport;
mod walk;
mod window;

pub use assign::Assigned;
pub use ecam::Ecam;
pub use error::{CapabilityProblem, MsixError, PciError};
pub use function::{Function, InterruptRoute};
pub use host::Host;
pub use interrupt::PciInterrupt;
pub use msix::MsixMessage;
pub use notifier::PciNotifier;
// The way to configuration space, and the name of a function there: what other PCI crates understand, too.
pub use pci_types::{ConfigRegionAccess, PciAddress};
pub use transport::Pci;
pub use walk::{Functions, MAX_BRIDGE_DEPTH};
pub use window::{MAX_WINDOWS, Window};
