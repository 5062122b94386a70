//! What the kernels that are shaped like someone else's have in common.
//!
//! Each of them is a binary of this package and has a module `kernel`, which lists what it is made of: modules of the
//! larger kernel in `kernel/` as they are, this one, and what makes it rCore or Alien. `rcore/kernel.rs` shows how.
//! What they tell the host is in `slices` (how the disk is cut up) and `report` of this package's library.
//!
//! - [`machine`]: from the firmware to `work`, and from there to the end of the machine.
//! - [`memory`]: paging (Sv39). Nothing but the kernel's image and the device registers is mapped at its physical
//!   address. The heap and the stacks of threads lie in pages whose neighbours are elsewhere: what crosses a page is
//!   never contiguous for a device. `phys_to_virt`, `virt_to_phys`, and contiguous pages for drivers.
//! - [`interrupts`]: handlers by the number of their interrupt, and [`Off`](interrupts::Off).
//! - [`masked`]: a cell that keeps interrupts off while it is borrowed.
//! - [`threads`]: threads that switch when they say so, on stacks of 8 KiB; a run queue; an idle loop that sleeps.
//! - [`metered`]: a disk that counts how calls waited, and measures their stacks.
//! - [`sleep_lock`]: a lock whose waiters sleep.
//! - [`stack`]: how much of its stack a call uses.
//! - [`volume`]: FAT volumes on slices of a disk, for several threads at once.
//! - [`work`]: what the threads do: files on a volume for each, files on a volume for all, large reads.
//! - [`harts`]: the one processor.

pub(crate) mod harts;
pub(crate) mod interrupts;
pub(crate) mod machine;
pub(crate) mod masked;
pub(crate) mod memory;
pub(crate) mod metered;
pub(crate) mod sleep_lock;
pub(crate) mod stack;
pub(crate) mod threads;
pub(crate) mod volume;
pub(crate) mod work;
