//! What the kernel provides, in small traits: memory, a cell, tasks that sleep.

use core::marker::PhantomData;

/// The kernel's memory functions, as rCore has them for its drivers: all addresses are plain numbers.
///
/// # Safety
///
/// - Pages from [`dma_alloc`](Dma::dma_alloc) are contiguous, of 4096 bytes each, and used by nobody else until they are
///   given back.
/// - The other two say where memory really is: the device reads and writes there.
pub unsafe trait Dma: 'static {
    /// Takes contiguous pages, and returns their physical address; 0 if there are none.
    fn dma_alloc(pages: usize) -> usize;

    /// Gives pages back.
    fn dma_dealloc(physical: usize, pages: usize);

    /// The virtual address of a physical one: of pages from [`dma_alloc`](Dma::dma_alloc), and of device registers.
    fn phys_to_virt(physical: usize) -> usize;

    /// The physical address of a virtual one: of any byte that the kernel reads into or writes from, also on a stack.
    fn virt_to_phys(address: usize) -> usize;
}

/// A cell whose value is used by one at a time: by tasks, and by the interrupt handler, so that interrupts are off
/// meanwhile.
pub trait Cell<T>: Send + Sync {
    /// Puts a value into a cell.
    fn new(value: T) -> Self;

    /// Does something with the value. Other cells may be entered inside, but nothing is waited for.
    fn session<R>(&self, body: impl FnOnce(&mut T) -> R) -> R;
}

/// How a task sleeps, and is woken.
pub trait Tasks: 'static {
    /// What tasks wait for. One that is signalled with nobody waiting does nothing.
    type Condvar: Send;
    /// What a task leaves behind while others run.
    type Context;

    /// Whether the disk interrupts at all. Without, nothing ever sleeps.
    const INTERRUPTS: bool = true;

    /// Makes a condition variable.
    fn condvar() -> Self::Condvar;

    /// Wakes one task that waits. Called in the interrupt handler, too, and inside of the cell.
    fn signal(condvar: &Self::Condvar);

    /// Says that the task that runs waits, but lets it run on until [`schedule`](Tasks::schedule). Called inside of the
    /// cell.
    fn wait_no_sched(condvar: &Self::Condvar) -> *mut Self::Context;

    /// Lets others run until the task is woken; if it was woken already, it may go on at once. Called outside of any
    /// cell.
    fn schedule(context: *mut Self::Context);

    /// Whether there is a task to put to sleep. If not, as while the kernel boots, the device is polled. Asked before each
    /// wait, inside of the cell.
    fn sleeps() -> bool;

    /// Called between two looks at the device while a request is polled.
    fn relax() {
        core::hint::spin_loop();
    }
}

/// All that a disk needs of a kernel. [`kernel!`](crate::kernel!) implements it for one that has rCore's names.
pub trait Kernel: 'static {
    /// Its memory.
    type Memory: Dma;
    /// Its cell.
    type Cell<T: Send>: Cell<T>;
    /// Its tasks.
    type Tasks: Tasks;
}

/// A kernel whose disk is polled, now and later: it has memory functions, and nothing else is asked of it. For rCore's
/// branches without non-blocking I/O, and for kernels with rcore-fs.
///
/// Others wait at a spin lock while a request is under way. An interrupt handler stays away from the disk.
pub struct Polled<M>(PhantomData<M>);

impl<M: Dma> Kernel for Polled<M> {
    type Memory = M;
    type Cell<T: Send> = SpinCell<T>;
    type Tasks = NoTasks;
}

/// The cell of a kernel that is [`Polled`].
pub struct SpinCell<T>(spin::mutex::SpinMutex<T>);

impl<T: Send> Cell<T> for SpinCell<T> {
    fn new(value: T) -> Self {
        Self(spin::mutex::SpinMutex::new(value))
    }

    fn session<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        body(&mut self.0.lock())
    }
}

/// The tasks of a kernel that is [`Polled`]: none that sleeps.
pub struct NoTasks;

impl Tasks for NoTasks {
    type Condvar = ();
    type Context = ();

    const INTERRUPTS: bool = false;

    fn condvar() {}

    fn signal((): &()) {}

    fn wait_no_sched((): &()) -> *mut () {
        core::ptr::null_mut()
    }

    fn schedule(_: *mut ()) {}

    fn sleeps() -> bool {
        false
    }
}
