//! A driver for virtio block devices, for any kernel.
//!
//! It needs no allocator, no clock, no scheduler and no lock: memory comes through [`virtqueue::Memory`], waiting is the
//! caller's policy ([`virtio_transport::Wait`]), and the device is behind a [`virtio_transport::Transport`]. The device
//! is not trusted: whatever it writes, and whenever, the kernel gets an error value, and its memory stays intact.
//!
//! # A disk in one screen
//!
//! ```
//! use virtio_blk::{Disk, Error, Options};
//! use virtio_transport::{Spin, Transport};
//! use virtqueue::Memory;
//!
//! fn boot<T: Transport, M: Memory>(transport: T, memory: M) -> Result<(), Box<dyn core::error::Error>> {
//!     let mut disk: Disk<T, M> = Disk::open(transport, memory, &Options::default(), &mut Spin)?;
//!     let name = disk.device_id(&mut Spin)?;
//!     println!("{} sectors, named {name}", disk.info().capacity_sectors);
//!
//!     let mut first = [0; 512];
//!     disk.read(0, &mut first, &mut Spin)?;
//!     disk.write(1, &first, &mut Spin)?;
//!     disk.flush(&mut Spin)?;
//!     Ok(())
//! }
//! ```
//!
//! # Reading the code
//!
//! From the outside in: [`Disk`] (`disk`) is a [`Device`] (`device`) with one [`Queue`] (`queue`), which [`Setup`]
//! (`setup`) made. A request (`request`) is checked against the disk's limits (`limits`, from `info`) before it goes on
//! the ring (`chain`). Calls that wait (`blocking`) are made from calls that do not.

#![no_std]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod blocking;
mod buffer;
mod chain;
mod device;
mod device_id;
mod disk;
mod epoch;
mod erase;
mod error;
mod exclusive;
mod features;
mod info;
mod lifetime;
mod limits;
mod options;
mod pieces;
mod queue;
mod queue_reset;
mod request;
mod setup;
mod suspend;
mod task;
mod waiters;
mod zone_report;
mod zones;

pub use blocking::BlockingQueue;
pub use buffer::{Buffer, NoBuffer, RawBuffer};
pub use device::{Device, DeviceHandle, Recovered, Resized};
pub use device_id::DeviceId;
pub use disk::{Disk, NotShutDown};
pub use erase::{RANGES_MAX, SectorRange, Unmap};
pub use error::{DeviceError, Error, OpenError};
pub use exclusive::Exclusive;
pub use features::FeatureSet;
pub use info::{CacheMode, EraseLimits, Geometry, Info, Topology, Zoned};
pub use lifetime::Lifetime;
pub use options::Options;
pub use queue::{Completion, Queue, Rejected};
pub use request::Operation;
pub use setup::Setup;
pub use task::{AsyncQueue, Causes, Command, Failed, Flush, SharedQueue, Transfer};
pub use zone_report::{Zone, ZoneReport, ZoneReportError};
pub use zones::{Append, ZoneAction};
// The types of other crates that stand in the signatures here.
pub use virtio_spec::Features;
pub use virtio_spec::block::{BlockFeatures, LifetimeEstimate, PreEolInfo, ZoneModel, ZoneState, ZoneType};
pub use virtqueue::{Either, InOrder, Packed, RingFormat, Split, Token};

/// The example in the README is compiled, too.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The size of a sector in bytes: always this, whatever the size of a logical block.
pub const SECTOR_BYTES: usize = virtio_spec::block::SECTOR_SIZE;

/// The number of whole sectors in so many bytes.
pub(crate) fn bytes_to_sectors(bytes: usize) -> u64 {
    (bytes / SECTOR_BYTES) as u64
}

/// The number of bytes in so many sectors, or the largest number that there is.
pub(crate) fn sectors_to_bytes(sectors: u64) -> u64 {
    sectors.saturating_mul(SECTOR_BYTES as u64)
}
