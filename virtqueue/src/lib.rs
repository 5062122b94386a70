//! The virtio ring, as a driver sees it: any virtio driver, on any bus, in any kernel.
//!
//! A [`Queue`] hands buffers to a device and takes them back. It needs no allocator: all its memory comes from the
//! kernel, through the trait [`Memory`], once, when the queue is made. It trusts nothing that the device writes: every
//! value is read once and checked against private memory before it is used, and a device that breaks the rules gets an
//! error value, the [`Violation`], and a queue that takes nothing more from it.
//!
//! # How a driver uses it
//!
//! ```
//! use core::ptr::NonNull;
//! use virtqueue::{Access, Attachment, ChainError, Memory, Queue};
//!
//! /// What this driver remembers about a request in flight: here, where its data goes.
//! struct Request {
//!     data: NonNull<u8>,
//! }
//!
//! impl Attachment for Request {
//!     // Each slot has a header of 16 bytes and a status of one byte, in memory that is shared with the device.
//!     const SLOT_BYTES: usize = 17;
//! }
//!
//! /// # Safety
//! ///
//! /// `data` is valid for writes of 512 bytes until the request was taken from the queue.
//! unsafe fn read_sector<M: Memory>(queue: &mut Queue<M, Request>, data: NonNull<u8>) -> Result<(), ChainError> {
//!     let mut chain = queue.chain()?;
//!     chain.slot().store_u64::<8>(7);
//!     chain.slot().store_u8::<16>(0xff);
//!     chain.slot_part(0, 16, Access::DeviceReads)?;
//!     // SAFETY: as the caller promises.
//!     unsafe { chain.buffer(data, 512, Access::DeviceWrites) }?;
//!     chain.slot_part(16, 1, Access::DeviceWrites)?;
//!     chain.submit(Request { data }).map_err(|failed| failed.error)?;
//!     if let Some(notification) = queue.commit() {
//!         // Notify the device, by its transport.
//!         # let _ = notification;
//!     }
//!     Ok(())
//! }
//!
//! /// Takes one request back, if the device is done with it: its status, and where its data is.
//! fn poll<M: Memory>(queue: &mut Queue<M, Request>) -> Option<(u8, NonNull<u8>)> {
//!     let used = queue.pop().ok()??;
//!     let status = used.slot().load_u8::<16>();
//!     Some((status, used.take().data))
//! }
//! ```
//!
//! # Reading the code
//!
//! From the outside in: [`Queue`] (`queue`) owns a slot (`slot`) for each chain that can be in flight; a [`Chain`]
//! (`chain`) is one being built, a [`Used`] (`used`) one that came back. Below, the ring (`ring`)
//! in its two forms (`split`, `packed`), perhaps used in order (`in_order`), where it lies (`layout`), how shared memory is touched (`shared`) and in what order
//! (`barrier`).

#![no_std]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

mod barrier;
mod chain;
mod either;
mod error;
mod in_order;
#[cfg(all(test, loom))]
mod interleaving;
mod layout;
mod memory;
#[cfg(loom)]
mod modelled;
mod owned;
mod packed;
mod queue;
mod ring;
mod segment;
mod settings;
mod shared;
mod slot;
mod split;
mod used;

pub use chain::{Chain, Ready, SubmitError};
pub use error::{ChainError, QueueSetupError, Violation};
pub use memory::{Access, Memory, MemoryError, PageRequest, Pages, Piece, Purpose};
pub use owned::PrivateSlice;
pub use queue::{Notification, Queue};
pub use ring::{Either, InOrder, Packed, RingFormat, Split};
pub use settings::{Areas, MemoryNeed, Settings};
pub use slot::{Attachment, Frame, SlotMemory, Token};
pub use used::Used;
