//! Alien's disk: the kernel's block device traits on the virtio block stack.
//!
//! The traits live in the kernel's own tree, so this crate cannot implement them. [`block_device!`] does it there, for a
//! type of the kernel. What the kernel gives is in small traits: frames ([`Frames`]), a lock ([`Lock`]) and, if tasks
//! are to sleep while the disk works, its tasks ([`Tasks`]).
//!
//! This is the whole glue of a kernel whose disk is polled:
//!
//! ```
//! # mod mem {
//! #     pub fn alloc_frames(_count: usize) -> *mut u8 { core::ptr::null_mut() }
//! #     pub fn free_frames(_start: *mut u8, _count: usize) {}
//! # }
//! # mod ksync {
//! #     pub struct Mutex<T>(std::sync::Mutex<T>);
//! #     impl<T> Mutex<T> {
//! #         pub fn new(value: T) -> Self { Self(std::sync::Mutex::new(value)) }
//! #         pub fn lock(&self) -> std::sync::MutexGuard<'_, T> { self.0.lock().unwrap() }
//! #     }
//! # }
//! # mod constants {
//! #     pub enum LinuxErrno { EIO, ENOMEM, EFAULT, EINVAL, ENOSPC, EROFS, EOPNOTSUPP }
//! #     pub type AlienResult<T> = Result<T, LinuxErrno>;
//! # }
//! # mod device_interface {
//! #     use super::constants::AlienResult;
//! #     pub trait DeviceBase: Sync + Send { fn handle_irq(&self); }
//! #     pub trait BlockDevice: DeviceBase {
//! #         fn read(&self, buf: &mut [u8], offset: usize) -> AlienResult<usize>;
//! #         fn write(&self, buf: &[u8], offset: usize) -> AlienResult<usize>;
//! #         fn size(&self) -> usize;
//! #         fn flush(&self) -> AlienResult<()>;
//! #     }
//! #     pub trait LowBlockDevice {
//! #         fn read_block(&self, block_id: usize, buf: &mut [u8]) -> AlienResult<()>;
//! #         fn write_block(&self, block_id: usize, buf: &[u8]) -> AlienResult<()>;
//! #         fn capacity(&self) -> usize;
//! #         fn read_block_async(&self, block_id: usize, buf: &mut [u8]) -> AlienResult<()>;
//! #         fn write_block_async(&self, block_id: usize, buf: &[u8]) -> AlienResult<()>;
//! #         fn handle_irq(&self);
//! #         fn flush(&self) {}
//! #     }
//! # }
//! # fn main() {}
//! use virtio_blk_alien::{Disk, Frames, Lock, OpenError};
//!
//! pub struct Alien;
//!
//! // SAFETY: frames are contiguous and nobody else's, and the kernel maps all memory at its physical address.
//! unsafe impl Frames for Alien {
//!     fn alloc_frames(count: usize) -> *mut u8 {
//!         mem::alloc_frames(count)
//!     }
//!
//!     unsafe fn free_frames(start: *mut u8, count: usize) {
//!         mem::free_frames(start, count)
//!     }
//! }
//!
//! impl Lock for Alien {
//!     type Mutex<V: Send> = ksync::Mutex<V>;
//!
//!     fn new<V: Send>(value: V) -> ksync::Mutex<V> {
//!         ksync::Mutex::new(value)
//!     }
//!
//!     fn with<V: Send, R>(mutex: &ksync::Mutex<V>, body: impl FnOnce(&mut V) -> R) -> R {
//!         body(&mut mutex.lock())
//!     }
//! }
//!
//! virtio_blk_alien::block_device! {
//!     /// The disk.
//!     pub struct VirtioDisk(Disk<Alien>);
//!     errors: constants::LinuxErrno;
//!     traits: device_interface;
//! }
//!
//! /// # Safety
//! ///
//! /// The registers of a virtio device are at this address, and no other driver uses it.
//! unsafe fn open(base_addr: usize) -> Result<VirtioDisk, OpenError> {
//!     unsafe { Disk::open(base_addr) }.map(VirtioDisk)
//! }
//! ```
//!
//! Its requests are as long as the device allows, `flush` reaches the device, any byte can be read and written, and
//! nothing that a caller or the device does makes the kernel panic.
//!
//! # Asleep
//!
//! With `pub struct VirtioDisk(Disk<Alien, Sleeping<Alien>>);` and [`Tasks`] implemented, a task sleeps while the disk works, if
//! [`Tasks::may_sleep`] says at that moment that it may. See there for when that is safe.
//!
//! # Reading the code
//!
//! [`Disk`] (`disk`) is a [`SharedDisk`](virtio_blk_threads::SharedDisk) with the kernel's numbers for errors (`errno`),
//! on the kernel's `frames`, and its `tasks`. `probe` finds disks in a device tree. `macros` is all that the kernel
//! expands.

#![no_std]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

extern crate alloc;

mod disk;
mod errno;
mod frames;
mod macros;
mod probe;
mod tasks;

pub use disk::{Disk, OpenError};
pub use errno::Errno;
pub use frames::{FrameMemory, Frames};
pub use probe::{DeviceInfo, probe_virtio};
pub use tasks::{Sleeping, Tasks};
// What stands in the signatures here.
pub use virtio_blk::{Info, Options};
pub use virtio_blk_threads::{Lock, Polling, SendTransport, Sleep};
