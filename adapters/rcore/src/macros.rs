//! Types that are the kernel's own: the traits to be implemented are in the kernel's tree, and only its own types may
//! implement them there.

/// Says which of the kernel's types give the services, for a kernel that has rCore's names.
///
/// - `memory`: a type with the functions of [`Dma`](crate::Dma), such as the one that implements `virtio_drivers::Hal`.
///   It is `unsafe` to say so: they have to be as that trait asks, and there is one processor, as the cell asks.
/// - `cell`: a type with `unsafe fn new(T)` and `exclusive_session`.
/// - `condvar`: a type with `new`, `signal` and `wait_no_sched`.
/// - `schedule`: the function that leaves a task, and what it takes.
/// - `sleeps`: whether tasks run, or the kernel still boots.
///
/// See the [crate's example](crate). A kernel with other names implements [`Kernel`](crate::Kernel) and what belongs to
/// it by hand.
#[macro_export]
macro_rules! kernel {
    (
        $(#[$attribute:meta])* $visibility:vis struct $name:ident;
        unsafe memory: $memory:ty;
        cell: $cell:ident;
        condvar: $condvar:ty;
        schedule: $schedule:path, $context:ty;
        sleeps: $sleeps:expr;
    ) => {
        $(#[$attribute])* $visibility struct $name;

        impl $crate::Kernel for $name {
            type Memory = Self;
            type Cell<T: Send> = $cell<T>;
            type Tasks = Self;
        }

        $crate::memory! { unsafe $memory as $name }

        impl<T: Send> $crate::Cell<T> for $cell<T> {
            fn new(value: T) -> Self {
                // SAFETY: there is one processor, says who used the macro.
                unsafe { $cell::new(value) }
            }

            fn session<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
                self.exclusive_session(body)
            }
        }

        impl $crate::Tasks for $name {
            type Condvar = $condvar;
            type Context = $context;

            fn condvar() -> $condvar {
                <$condvar>::new()
            }

            fn signal(condvar: &$condvar) {
                condvar.signal();
            }

            fn wait_no_sched(condvar: &$condvar) -> *mut $context {
                condvar.wait_no_sched()
            }

            fn schedule(context: *mut $context) {
                $schedule(context);
            }

            fn sleeps() -> bool {
                $sleeps
            }
        }
    };
}

/// Says which of the kernel's types has the memory functions, for a kernel whose disk is [`Polled`](crate::Polled).
///
/// ```
/// # struct VirtioHal;
/// # impl VirtioHal {
/// #     fn dma_alloc(_pages: usize) -> usize { 0 }
/// #     fn dma_dealloc(_pa: usize, _pages: usize) -> i32 { 0 }
/// #     fn phys_to_virt(pa: usize) -> usize { pa }
/// #     fn virt_to_phys(va: usize) -> usize { va }
/// # }
/// struct Memory;
///
/// // `VirtioHal` returns contiguous pages, and translates by the kernel's page table.
/// virtio_blk_rcore::memory! { unsafe VirtioHal as Memory }
///
/// type Disk = virtio_blk_rcore::Disk<virtio_blk_rcore::Polled<Memory>>;
/// ```
#[macro_export]
macro_rules! memory {
    (unsafe $memory:ty as $name:ty) => {
        // SAFETY: so says who used the macro.
        unsafe impl $crate::Dma for $name {
            fn dma_alloc(pages: usize) -> usize {
                <$memory>::dma_alloc(pages)
            }

            fn dma_dealloc(physical: usize, pages: usize) {
                let _ = <$memory>::dma_dealloc(physical, pages);
            }

            fn phys_to_virt(physical: usize) -> usize {
                <$memory>::phys_to_virt(physical)
            }

            #[inline]
            fn virt_to_phys(address: usize) -> usize {
                <$memory>::virt_to_phys(address)
            }
        }
    };
}

/// Makes a type that implements easy-fs's `BlockDevice` around a [`Disk`](crate::Disk).
///
/// The functions of that trait return nothing, so `failed` says what becomes of an error. It does not return: a read
/// that failed has no data to go on with, and a write that failed must not be taken for done. It gets the
/// [`Error`](crate::Error), which says what failed and where.
///
/// Branches of rCore whose trait has `handle_irq` say so; for the others the function is there all the same, to be called
/// from the trap handler.
///
/// See the [crate's example](crate).
#[macro_export]
macro_rules! easy_fs {
    (
        $(#[$attribute:meta])* $visibility:vis struct $name:ident($($disk:ty),+): $device:path;
        failed: $failed:expr;
    ) => {
        $crate::easy_fs! { @type [$(#[$attribute])* $visibility] $name $($disk),+ }

        impl $device for $name {
            $crate::easy_fs! { @blocks $failed }
        }
    };
    (
        $(#[$attribute:meta])* $visibility:vis struct $name:ident($($disk:ty),+): $device:path, handle_irq;
        failed: $failed:expr;
    ) => {
        $crate::easy_fs! { @type [$(#[$attribute])* $visibility] $name $($disk),+ }

        impl $device for $name {
            $crate::easy_fs! { @blocks $failed }

            fn handle_irq(&self) {
                self.0.handle_irq();
            }
        }
    };
    (@type [$($declaration:tt)*] $name:ident $($disk:ty),+) => {
        $($declaration)* struct $name(pub $crate::Disk<$($disk),+>);
    };
    (@blocks $failed:expr) => {
        fn read_block(&self, block_id: usize, buf: &mut [u8]) {
            if let Err(error) = self.0.read(block_id as u64, buf) {
                let failed: fn($crate::Error) -> ! = $failed;
                failed(error)
            }
        }

        fn write_block(&self, block_id: usize, buf: &[u8]) {
            if let Err(error) = self.0.write(block_id as u64, buf) {
                let failed: fn($crate::Error) -> ! = $failed;
                failed(error)
            }
        }
    };
}

/// Makes a type that implements rcore-fs's `dev::BlockDevice` around a [`Disk`](crate::Disk), with blocks of 512 bytes.
/// `sync` is a flush that reaches the device. Errors are logged, as `DevError` has no room for what happened.
///
/// ```
/// # mod rcore_fs { pub mod dev {
/// #     pub struct DevError;
/// #     pub type Result<T> = core::result::Result<T, DevError>;
/// #     pub trait BlockDevice: Send + Sync {
/// #         const BLOCK_SIZE_LOG2: u8;
/// #         fn read_at(&self, block_id: usize, buf: &mut [u8]) -> Result<()>;
/// #         fn write_at(&self, block_id: usize, buf: &[u8]) -> Result<()>;
/// #         fn sync(&self) -> Result<()>;
/// #     }
/// # } }
/// # struct Memory;
/// # struct Hal;
/// # impl Hal {
/// #     fn dma_alloc(_pages: usize) -> usize { 0 }
/// #     fn dma_dealloc(_pa: usize, _pages: usize) -> i32 { 0 }
/// #     fn phys_to_virt(pa: usize) -> usize { pa }
/// #     fn virt_to_phys(va: usize) -> usize { va }
/// # }
/// # virtio_blk_rcore::memory! { unsafe Hal as Memory }
/// use rcore_fs::dev;
/// use virtio_blk_rcore::{Disk, OpenError, Polled};
///
/// virtio_blk_rcore::rcore_fs! {
///     /// The disk of the Simple File System.
///     pub struct VirtioDisk(Polled<Memory>): dev;
/// }
///
/// /// # Safety: the devices of the tree are mapped, and nobody else's.
/// unsafe fn find_disk(device_tree: &[u8]) -> Result<VirtioDisk, OpenError> {
///     let (disk, _interrupt) = unsafe { Disk::find(device_tree) }?;
///     Ok(VirtioDisk(disk))
/// }
/// ```
#[macro_export]
macro_rules! rcore_fs {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident($($disk:ty),+): $dev:ident;) => {
        $(#[$attribute])* $visibility struct $name(pub $crate::Disk<$($disk),+>);

        impl $dev::BlockDevice for $name {
            const BLOCK_SIZE_LOG2: u8 = 9;

            fn read_at(&self, block_id: usize, buf: &mut [u8]) -> $dev::Result<()> {
                $crate::logged(self.0.read(block_id as u64, buf)).map_err(|_| $dev::DevError)
            }

            fn write_at(&self, block_id: usize, buf: &[u8]) -> $dev::Result<()> {
                $crate::logged(self.0.write(block_id as u64, buf)).map_err(|_| $dev::DevError)
            }

            fn sync(&self) -> $dev::Result<()> {
                $crate::logged(self.0.flush()).map_err(|_| $dev::DevError)
            }
        }
    };
}
