//! The block device: a disk (5.2 Block Device).
//!
//! - [`BlockFeatures`]: what a device can offer.
//! - [`BlockConfig`] and its parts: what a device says about itself, each field readable only through its feature.
//! - [`RequestHeader`], [`RequestType`], [`RequestStatus`], [`DiscardWriteZeroes`]: what a request is made of.
//! - [`Lifetime`]: the answer to a GET_LIFETIME request.
//! - [`ZoneReportHeader`], [`ZoneDescriptor`], [`ZoneAppendTail`]: what zoned devices add.
//! - [`ScsiTail`]: what legacy SCSI requests add.
//!
//! A request is a [`RequestHeader`], data, and one byte of [`RequestStatus`]. The unit of the protocol is always the
//! sector of [`SECTOR_SIZE`] bytes, whatever the device's block size.

mod config;
mod features;
mod lifetime;
mod request;
mod scsi;
mod zone;

pub use config::{BlockConfig, CacheMode, Geometry, Topology, ZonedCharacteristics};
pub use features::BlockFeatures;
pub use lifetime::{Lifetime, LifetimeEstimate, PreEolInfo};
pub use request::{
    BARRIER, DEVICE_ID_LENGTH, DiscardWriteZeroes, DiscardWriteZeroesFlags, RequestHeader, RequestStatus, RequestType,
    SECTOR_SIZE,
};
pub use scsi::{SENSE_BUFFER_LENGTH, ScsiTail};
pub use zone::{ZoneAppendTail, ZoneDescriptor, ZoneModel, ZoneReportHeader, ZoneState, ZoneType};
