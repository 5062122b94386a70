//! rCore's disk: its block device traits, its cell, its condition variables and its memory functions, around the driver
//! [`virtio_blk`].
//!
//! While the kernel boots, requests are polled. Once tasks run, a task that reads or writes sleeps until the device
//! interrupts; which of the two is decided at each call. Several tasks may have requests in flight. What that takes is in
//! [`virtio_blk_threads`]; here is what makes it rCore's.
//!
//! # The whole of the kernel's part
//!
//! In rCore-Tutorial-v3, branch ch9, this is `os/src/drivers/block/virtio_blk.rs`:
//!
//! ```
//! # mod easy_fs { pub trait BlockDevice: Send + Sync + core::any::Any {
//! #     fn read_block(&self, block_id: usize, buf: &mut [u8]);
//! #     fn write_block(&self, block_id: usize, buf: &[u8]);
//! #     fn handle_irq(&self);
//! # } }
//! # pub struct VirtioHal;
//! # trait Hal {
//! #     fn dma_alloc(_pages: usize) -> usize { 0 }
//! #     fn dma_dealloc(_pa: usize, _pages: usize) -> i32 { 0 }
//! #     fn phys_to_virt(pa: usize) -> usize { pa }
//! #     fn virt_to_phys(va: usize) -> usize { va }
//! # }
//! # impl Hal for VirtioHal {}
//! # pub struct UPIntrFreeCell<T>(core::cell::RefCell<T>);
//! # unsafe impl<T> Sync for UPIntrFreeCell<T> {}
//! # impl<T> UPIntrFreeCell<T> {
//! #     const unsafe fn new(value: T) -> Self { Self(core::cell::RefCell::new(value)) }
//! #     fn exclusive_access(&self) -> core::cell::RefMut<'_, T> { self.0.borrow_mut() }
//! #     fn exclusive_session<V>(&self, f: impl FnOnce(&mut T) -> V) -> V { f(&mut self.0.borrow_mut()) }
//! # }
//! # pub struct TaskContext;
//! # pub struct Condvar;
//! # impl Condvar {
//! #     fn new() -> Self { Self }
//! #     fn signal(&self) {}
//! #     fn wait_no_sched(&self) -> *mut TaskContext { core::ptr::null_mut() }
//! # }
//! # fn schedule(_: *mut TaskContext) {}
//! # static DEV_NON_BLOCKING_ACCESS: UPIntrFreeCell<bool> = unsafe { UPIntrFreeCell::new(false) };
//! use easy_fs::BlockDevice;
//! use virtio_blk_rcore::Disk;
//!
//! virtio_blk_rcore::kernel! {
//!     pub struct Os;
//!     // SAFETY: its pages are contiguous, and its addresses those of the kernel's page table.
//!     unsafe memory: VirtioHal;
//!     cell: UPIntrFreeCell;
//!     condvar: Condvar;
//!     schedule: schedule, TaskContext;
//!     sleeps: *DEV_NON_BLOCKING_ACCESS.exclusive_access();
//! }
//!
//! virtio_blk_rcore::easy_fs! {
//!     pub struct VirtIOBlock(Os): BlockDevice, handle_irq;
//!     failed: |error| panic!("the disk failed: {error}");
//! }
//!
//! impl VirtIOBlock {
//!     pub fn new() -> Self {
//!         // SAFETY: QEMU's registers of the first virtio device, which this driver alone uses.
//!         let disk = unsafe { Disk::open(0x1000_8000) };
//!         Self(disk.unwrap_or_else(|error| panic!("no disk: {error}")))
//!     }
//! }
//! ```
//!
//! # Other kernels
//!
//! - rCore before ch9, whose `BlockDevice` has no `handle_irq`: the same without that word. A kernel without tasks that
//!   sleep gives its memory functions alone ([`Polled`]).
//! - Kernels with rcore-fs: [`rcore_fs!`].
//! - A device tree instead of an address: [`Disk::find`].
//! - Other names than rCore's: implement [`Dma`], [`Cell`] and [`Tasks`] by hand.
//!
//! # What is asked of the kernel
//!
//! - `signal` is called inside of a cell, and in the interrupt handler; `wait_no_sched` inside of two.
//! - The heap can be used with interrupts off: a few bytes for each task that sleeps beside more others than ever before.
//! - The disk's interrupt is enabled at the controller before [`Tasks::sleeps`] says `true`.
//! - Each call needs less than 1 KiB of the caller's stack, opening the disk 8 KiB.

#![no_std]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::unreachable))]

extern crate alloc;

mod disk;
mod error;
mod kernel;
mod macros;
mod memory;
mod waiting;

pub use disk::Disk;
pub use error::OpenError;
pub use kernel::{Cell, Dma, Kernel, NoTasks, Polled, SpinCell, Tasks};
// What calls return, and the transports that a kernel may give to `Disk::new`.
pub use virtio_blk::Error;
pub use virtio_transport as transport;

/// Logs an error, for interfaces that have no room for it.
#[doc(hidden)]
#[inline]
pub fn logged(result: Result<(), Error>) -> Result<(), Error> {
    if let Err(error) = &result {
        log_error(error);
    }
    result
}

/// Apart, so that a call that goes well needs no stack for it.
#[cold]
#[inline(never)]
fn log_error(error: &Error) {
    log::error!("virtio disk: {error}");
}
