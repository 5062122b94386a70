//! A virtio disk that the threads of a kernel share.
//!
//! Any number of threads call [`SharedDisk::read`], [`write`](SharedDisk::write) and [`flush`](SharedDisk::flush) at the
//! same time, with buffers of their own. Their requests are in flight together; each thread waits for its own, asleep
//! or looking again and again, as is decided anew for each wait. The kernel brings a lock ([`Lock`]) and, if threads are
//! to sleep, three functions of its scheduler ([`Sleep`]).
//!
//! # A disk that is polled
//!
//! ```
//! use std::sync::Mutex;
//!
//! use virtio_blk::{Error, OpenError, Options};
//! use virtio_blk_threads::{Lock, Polling, SendTransport, SharedDisk};
//! use virtio_transport::Spin;
//! use virtqueue::Memory;
//!
//! struct KernelLock;
//!
//! impl Lock for KernelLock {
//!     type Mutex<V: Send> = Mutex<V>;
//!
//!     fn new<V: Send>(value: V) -> Mutex<V> {
//!         Mutex::new(value)
//!     }
//!
//!     fn with<V: Send, R>(mutex: &Mutex<V>, body: impl FnOnce(&mut V) -> R) -> R {
//!         body(&mut mutex.lock().unwrap())
//!     }
//! }
//!
//! fn open<T: SendTransport, M: Memory + Send>(
//!     transport: T,
//!     memory: M,
//! ) -> Result<SharedDisk<T, M, KernelLock>, OpenError> {
//!     SharedDisk::open(transport, memory, Polling::default(), &Options::default(), &mut Spin)
//! }
//!
//! fn copy<T: SendTransport, M: Memory + Send>(disk: &SharedDisk<T, M, KernelLock>) -> Result<(), Error> {
//!     let mut sectors = [0; 4096];
//!     disk.read(0, &mut sectors)?;
//!     disk.write(8, &sectors)?;
//!     disk.flush()
//! }
//! ```
//!
//! # Reading the code
//!
//! [`SharedDisk`] (`shared`) is the loop that every call is: look, and wait until it is worth to look again. What is left
//! of a call (`job`) is put on the ring in as many requests at once as there is room for. What is looked at, under the
//! lock, is in `requests`: what the device has, and to which call it belongs. Threads wait for their own requests (`calls`)
//! or, before they have one, for room in the queue (`line`). Less than a block takes memory beside the buffer (`bounce`).
//! `lock` and `sleep` are what the kernel brings.

#![no_std]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

extern crate alloc;

mod bounce;
mod calls;
mod job;
mod line;
mod lock;
mod requests;
mod shared;
mod sleep;

pub use lock::Lock;
pub use shared::{SendTransport, SharedDisk};
pub use sleep::{Never, Polling, Sleep};
