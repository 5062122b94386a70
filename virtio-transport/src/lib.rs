//! What a driver for a virtio device needs of the bus that the device is on: finding the device, its registers, and
//! bringing it up in the order that the specification (OASIS virtio 1.4) asks for.
//!
//! `no_std`, no allocation, no clock, no lock. Devices behind memory-mapped registers (virtio-mmio) of both kinds, modern
//! (version 2) and legacy (version 1), and devices on PCI buses ([`pci`]), through the modern interface. Rings are in the
//! crate `virtqueue`, which knows nothing of this one.
//!
//! # From a device tree to a device that runs
//!
//! 1. [`DeviceTree::parse`] and [`DeviceTree::virtio_mmio`] say where slots for devices are. Safe, whatever the bytes.
//!    For PCI, see [`pci`].
//! 2. [`Mmio::open`] (or [`MemoryMapped::new`] and [`Mmio::probe`]) look at the registers of one slot. `unsafe`,
//!    because the registers must be mapped there. An empty slot is `None`.
//! 3. [`Negotiation::begin`] resets the device, [`Negotiation::accept`] settles features,
//!    [`QueueSetup::enable_queue`] hands over queues, [`QueueSetup::start`] lets it run. [`Running::reset`] gives
//!    the transport back.
//!
//! Drivers for a device type do step 3. A kernel does steps 1 and 2:
//!
//! ```no_run
//! use virtio_transport::{DeviceTree, DeviceTreeError, DeviceType, MemoryMapped, Mmio};
//!
//! /// Calls `found` with each disk of a device tree and the number of its interrupt.
//! ///
//! /// # Safety
//! ///
//! /// Device registers are mapped at their physical addresses, and no other driver uses the disks.
//! unsafe fn find_disks(
//!     blob: &[u8],
//!     mut found: impl FnMut(Mmio<MemoryMapped>, Option<u32>),
//! ) -> Result<(), DeviceTreeError> {
//!     use virtio_transport::Transport;
//!
//!     for node in DeviceTree::parse(blob)?.virtio_mmio() {
//!         let node = match node {
//!             Ok(node) => node,
//!             Err(error) => {
//!                 log::warn!("{error}");
//!                 continue;
//!             }
//!         };
//!         // SAFETY: asked of the caller; the region is that of a virtio device, as the device tree says.
//!         match unsafe { Mmio::open(&node.region) } {
//!             Ok(Some(device)) if device.device_type() == DeviceType::BLOCK => {
//!                 found(device, node.interrupt.and_then(|interrupt| interrupt.number()));
//!             }
//!             Ok(_) => {} // An empty slot, or a device of another type.
//!             Err(error) => log::warn!("{}: {error}", node.name),
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! A kernel without a device tree has a command line ([`CommandLine`]) or knows the address, and one that maps device registers elsewhere knows a pointer:
//!
//! ```no_run
//! use core::ptr::NonNull;
//!
//! use virtio_transport::{DeviceType, InitError, MemoryMapped, Mmio, Negotiation, ProbeError, Region, Running, Spin};
//!
//! # #[derive(Debug)] enum Error { Probe(ProbeError), Init(InitError) }
//! # impl From<ProbeError> for Error { fn from(it: ProbeError) -> Self { Self::Probe(it) } }
//! # impl From<InitError> for Error { fn from(it: InitError) -> Self { Self::Init(it) } }
//! # fn map_device(physical: u64, bytes: usize) -> NonNull<u8> { NonNull::dangling() }
//! # fn kernel() -> Result<(), Error> {
//! // SAFETY: the machine has a virtio-mmio slot there, mapped at its own address, and no driver for it but this.
//! let at_its_address = unsafe { Mmio::open(&Region { address: 0x1000_1000, bytes: 0x1000 })? };
//!
//! let pointer = map_device(0x1000_2000, 0x1000);
//! // SAFETY: `map_device` mapped the registers of this slot for good; no other driver uses it.
//! let somewhere_else = Mmio::probe(unsafe { MemoryMapped::new(pointer, 0x1000) })?;
//!
//! // What a driver does with it, here one that needs no queue.
//! if let Some(device) = at_its_address {
//!     let negotiation = Negotiation::begin(device, DeviceType::ENTROPY, &mut Spin)?;
//!     let features = negotiation.offered() & (1 << 32);
//!     let running: Running<_> = negotiation.accept(features)?.start();
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Map
//!
//! | module            | what is in it                                                                      |
//! |-------------------|------------------------------------------------------------------------------------|
//! | `registers`       | [`Registers`]: a window of registers; tests stand a device behind it               |
//! | `memory_mapped`   | [`MemoryMapped`]: the window of a real device                                      |
//! | `transport`       | [`Transport`], [`Notifier`], [`Interrupt`]: what a bus can do, without any order   |
//! | `mmio`            | [`Mmio`]: the transport of memory-mapped devices, modern and legacy                |
//! | `config`          | [`read_config`]: configuration fields that belong together                         |
//! | `negotiation`     | [`Negotiation`], [`QueueSetup`], [`Running`]: the order                            |
//! | `queue_reset`     | [`Running::reset_queue`]: one queue, while the others go on                        |
//! | `wait`            | [`Wait`]: the caller's way to wait                                                 |
//! | `device_tree`     | [`DeviceTree`]: where devices and PCI host bridges are                             |
//! | `command_line`    | [`CommandLine`]: the same for machines without a tree                              |
//! | [`pci`]           | [`pci::Host`]: what is on PCI buses; [`pci::Pci`]: the transport of a function     |
//! | `any`             | [`AnyTransport`]: a device on either bus                                           |
//!
//! # Not here
//!
//! Channel I/O; the legacy interface over PCI, and access to BARs through configuration space; shared memory regions; admin
//! queues. In device trees: nodes of single PCI functions, and hosts other than `pci-host-ecam-generic`.
#![no_std]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

#[cfg(test)]
extern crate std;

mod any;
mod command_line;
mod config;
mod device_tree;
mod memory_mapped;
mod mmio;
mod negotiation;
pub mod pci;
mod queue_reset;
mod registers;
mod suspend;
mod transport;
mod wait;

pub use any::{AnyInterrupt, AnyNotifier, AnyTransport};
pub use command_line::{CommandLine, MmioParameter, MmioParameters, ParameterError, ParameterProblem};
pub use config::{CONFIG_READ_ATTEMPTS, ConfigError, ConfigSpace, read_config};
pub use device_tree::{
    DeviceTree, DeviceTreeError, InterruptSpecifier, MAX_DEPTH, MAX_INTERRUPT_CELLS, MmioNode, MmioNodes, NodeError,
    NodeProblem, PciHostNode, PciHostNodes, Region,
};
pub use memory_mapped::MemoryMapped;
pub use mmio::{Mmio, MmioInterrupt, MmioNotifier, ProbeError};
pub use negotiation::{InitError, Negotiation, NotReset, QueueSetup, Running};
pub use queue_reset::QueueResetError;
pub use registers::Registers;
pub use suspend::SuspendError;
pub use transport::{Interface, Interrupt, Notifier, QueueConfig, QueueError, QueueMemory, Transport};
// The types of `virtio-spec` that stand in the signatures here.
pub use virtio_spec::{DeviceStatus, DeviceType, InterruptStatus};
pub use wait::{GaveUp, Spin, SpinLimit, Wait};
