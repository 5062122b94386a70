//! A virtio-mmio block device in the same process, which checks the driver that uses it.
//!
//! It is made for the tests of the driver crates. The driver gets [`DeviceRegisters`] in place of mapped registers and
//! one of three memories in place of a kernel's; the test keeps the [`BlockDevice`] and looks at what arrived:
//!
//! - Every "driver MUST" of the specification that the device can see broken is a [`Violation`] with the number of its
//!   section, in the registers, the ring and the requests. A device that is dropped with violations panics.
//! - The device has another view of memory than the driver: what was not translated, not mapped or mapped for the
//!   other direction is out of its reach ([`ScatterMemory`], [`IommuMemory`], [`BounceMemory`]).
//! - It does wrong what the test tells it to ([`Faults`], [`Outcome`], [`RawRing`], [`RawPackedRing`]).
//! - It has what no device at hand has: zones ([`Builder::zoned`]), IN_ORDER, SUSPEND, secure erasure, a lifetime.
//! - Its rings are moved by a strict implementation ([`DeviceRing`], [`PackedDeviceRing`]) or by rust-vmm's `virtio-queue`
//!   ([`Mover::RustVmm`]), which was written by others.
//!
//! Everything but [`BounceMemory`] and rust-vmm's ring runs under Miri, with `-Zmiri-permissive-provenance`.
//!
//! # Example
//!
//! ```
//! use testing_device::{BlockDevice, Interface, Mode, Rule, ScatterMemory, rules_of};
//! use virtio_spec::mmio::Register;
//! use virtio_transport::Registers;
//!
//! let memory = ScatterMemory::new();
//! let device = BlockDevice::builder().interface(Interface::Modern).mode(Mode::Manual).capacity(64).build(&memory);
//! let registers = device.registers();
//! assert_eq!(registers.read_u32(Register::MAGIC_VALUE.0), u32::from_le_bytes(*b"virt").to_le());
//!
//! // A driver that writes the magic value.
//! registers.write_u32(Register::MAGIC_VALUE.0, 0);
//! assert_eq!(rules_of(&device.take_violations()), [Rule::RegisterReadOnly]);
//! ```

#[cfg(not(miri))]
mod bounce_memory;
mod builder;
mod chain;
mod chain_parts;
mod completion;
mod config;
mod config_space;
mod counts;
mod device;
mod device_memory;
mod disk;
mod execution;
mod faults;
mod iommu_memory;
mod negotiation;
mod packed_ring;
mod pages;
mod pattern;
mod pending;
mod processing;
mod queue;
mod queue_reset;
mod queue_setup;
mod range_requests;
mod raw_packed_ring;
mod raw_ring;
mod registers;
mod request;
mod ring_mover;
#[cfg(not(miri))]
mod rust_vmm_ring;
mod scatter_memory;
mod split_ring;
mod state;
mod suspend;
mod test_memory;
mod violation;
mod words;
mod zone_requests;
mod zones;

#[cfg(not(miri))]
pub use bounce_memory::BounceMemory;
pub use builder::{Builder, Interface, Mode, Mover, RangeLimits};
pub use chain::{Chain, Segment};
pub use counts::Counts;
pub use device::BlockDevice;
pub use device_memory::{DeviceMemory, Fault};
pub use disk::{NO_DATA, SectorState};
pub use faults::{
    Data, Faults, Flicker, Generation, Order, Outcome, QueueResetAnswer, ResetAnswer, StatusByte, SuspendAnswer,
    UsedLength,
};
pub use iommu_memory::IommuMemory;
pub use packed_ring::PackedDeviceRing;
pub use pattern::pattern;
pub use pending::PendingRequest;
pub use range_requests::SectorRange;
pub use raw_packed_ring::{Place, RawEvent, RawPackedDescriptor, RawPackedRing};
pub use raw_ring::{RawDescriptor, RawRing, RingSetup};
pub use registers::DeviceRegisters;
pub use ring_mover::{Judgement, RingMover};
pub use scatter_memory::ScatterMemory;
pub use split_ring::DeviceRing;
pub use test_memory::TestMemory;
pub use violation::{Rule, Violation, rules_of};
pub use zones::{Zone, ZoneSetup, Zones};
