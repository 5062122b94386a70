//! The numbers and shapes of virtio 1.4, without behaviour.
//!
//! Everything that the OASIS specification "Virtual I/O Device (VIRTIO) Version 1.4" (Committee Specification 01)
//! fixes as a number or as a layout in memory, and that a driver or a device for a block device needs: for both
//! ring formats, for MMIO and PCI, and for the legacy interface. The crate needs neither `std` nor an allocator,
//! contains no `unsafe` code, and does nothing: rings are moved, registers accessed and features negotiated
//! elsewhere.
//!
//! | module           | what it holds                                                    | specification       |
//! |------------------|------------------------------------------------------------------|---------------------|
//! | [`device_type`]  | [`DeviceType`]: what kind of device answers                      | 5                   |
//! | [`status`]       | [`DeviceStatus`]: how far driver and device have come            | 2.1                 |
//! | [`features`]     | [`Features`]: feature bits of every device type                  | 6                   |
//! | [`notification`] | the word that notifies a device                                  | 2.9                 |
//! | [`mmio`]         | registers, modern and legacy, and [`InterruptStatus`]            | 4.2                 |
//! | [`pci`]          | ids, capabilities, common configuration                          | 4.1                 |
//! | [`split_ring`]   | descriptors, available and used ring                             | 2.7                 |
//! | [`packed_ring`]  | descriptors and event suppression                                | 2.8                 |
//! | [`block`]        | the block device: features, configuration, requests, zones       | 5.2                 |
//!
//! # Reading the types
//!
//! - Sets of bits are [`bitflags`] types. They can hold unknown bits (`from_bits_retain`) or drop them
//!   (`from_bits_truncate`).
//! - Numbers with names are newtypes with associated constants, such as [`DeviceType::BLOCK`]. A device may present
//!   a value without a name, so there are no enums. `Debug` and `Display` print the name where there is one.
//! - Structures are `#[repr(C)]`, have an alignment of one byte, and implement the [`zerocopy`] traits, so that they
//!   can be viewed in any byte buffer. Their sizes and the offsets of all their fields are asserted at compile time.
//! - Names are those of the specification without their prefixes; the numbers in parentheses are its sections.
//!
//! # Byte order
//!
//! Every field of more than one byte is **little-endian**, and its type says so. A **legacy** device uses the byte
//! order of the driver's CPU instead, for its rings, its requests and its configuration space (2.7.3, 2.5.3,
//! 5.2.4.1, 5.2.6.3): on a big-endian machine the types here do not fit it. MMIO registers and the PCI header are
//! little-endian on legacy devices too.
//!
//! # Example
//!
//! The header of a request that reads the sectors from 7 on, as the device sees it:
//!
//! ```
//! use virtio_spec::{
//!     block::{RequestHeader, RequestType},
//!     zerocopy::IntoBytes,
//! };
//!
//! let header = RequestHeader {
//!     request_type: RequestType::IN.0.into(),
//!     reserved: 0.into(),
//!     sector: 7.into(),
//! };
//! assert_eq!(header.as_bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
//! ```
//!
//! And what a device offers, taken apart into what every device may offer and what a block device may:
//!
//! ```
//! use virtio_spec::{Features, block::BlockFeatures};
//!
//! let offered = 0x1_1000_0204;
//! assert_eq!(
//!     Features::from_bits_truncate(offered),
//!     Features::VERSION_1 | Features::INDIRECT_DESC
//! );
//! assert_eq!(
//!     BlockFeatures::from_bits_truncate(offered),
//!     BlockFeatures::SEG_MAX | BlockFeatures::FLUSH
//! );
//! ```

#![no_std]
#![forbid(unsafe_code)]

mod macros;

pub mod block;
pub mod device_type;
pub mod features;
pub mod mmio;
pub mod notification;
pub mod packed_ring;
pub mod pci;
pub mod split_ring;
pub mod status;

// Their traits are part of this crate's interface: users need the same versions.
pub use {bitflags, zerocopy};

pub use device_type::DeviceType;
pub use features::Features;
pub use mmio::InterruptStatus;
pub use status::DeviceStatus;
