//! The services of this kernel, under the names that rCore has for them: cell, condition variable, switching, memory.

use alloc::{collections::VecDeque, sync::Arc};
use core::{
    cell::{RefCell, RefMut},
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicBool, Ordering},
};

use super::mini::{
    interrupts::Off,
    memory,
    stack::unmeasured,
    threads::{self, Context, Thread},
};

/// What a task leaves behind while others run.
pub(super) type TaskContext = Context;

/// Whether tasks run: until then, there is nobody to sleep.
pub(super) static TASKS_RUN: AtomicBool = AtomicBool::new(false);

/// A cell with interrupts off while it is borrowed; it panics if it is borrowed twice.
pub(super) struct UPIntrFreeCell<T>(RefCell<T>);

// SAFETY: there is one processor, and while the value is borrowed, neither another task nor a handler runs.
unsafe impl<T> Sync for UPIntrFreeCell<T> {}

/// The borrowed value of a cell.
pub(super) struct UPIntrRefMut<'a, T> {
    // Dropped in this order: interrupts may come only when the value is given back.
    value: RefMut<'a, T>,
    _off: Off,
}

impl<T> UPIntrFreeCell<T> {
    /// Puts a value into a cell.
    ///
    /// # Safety
    ///
    /// There is one processor.
    pub(super) unsafe fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Borrows the value.
    pub(super) fn exclusive_access(&self) -> UPIntrRefMut<'_, T> {
        let off = Off::new();
        UPIntrRefMut { value: self.0.borrow_mut(), _off: off }
    }

    /// Does something with the value.
    pub(super) fn exclusive_session<F: FnOnce(&mut T) -> V, V>(&self, f: F) -> V {
        f(&mut self.exclusive_access())
    }
}

impl<T> Deref for UPIntrRefMut<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for UPIntrRefMut<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// What tasks wait for.
pub(super) struct Condvar {
    waiting: UPIntrFreeCell<VecDeque<Arc<Thread>>>,
}

impl Condvar {
    /// Nobody waits for it.
    pub(super) fn new() -> Self {
        // SAFETY: there is one processor.
        Self { waiting: unsafe { UPIntrFreeCell::new(VecDeque::new()) } }
    }

    /// Wakes the task that has waited longest.
    #[inline(never)]
    pub(super) fn signal(&self) {
        unmeasured(|| {
            if let Some(thread) = self.waiting.exclusive_access().pop_front() {
                threads::make_ready(thread);
            }
        });
    }

    /// Says that the task that runs waits. It goes on until it is [left](schedule).
    #[inline(never)]
    pub(super) fn wait_no_sched(&self) -> *mut TaskContext {
        unmeasured(|| {
            let thread = threads::current().expect("a task runs");
            let context = thread.context();
            self.waiting.exclusive_session(|waiting| waiting.push_back(thread));
            context
        })
    }
}

/// Leaves the task that runs.
#[inline(never)]
pub(super) fn schedule(context: *mut TaskContext) {
    unmeasured(|| threads::switch_away(context));
}

/// Whether tasks run.
pub(super) fn tasks_run() -> bool {
    TASKS_RUN.load(Ordering::Relaxed)
}

/// The memory functions. Nothing but the kernel's image and device registers is where it is mapped.
pub(super) struct VirtioHal;

impl VirtioHal {
    pub(super) fn dma_alloc(pages: usize) -> usize {
        memory::allocate_contiguous(pages).unwrap_or(0)
    }

    pub(super) fn dma_dealloc(physical: usize, pages: usize) -> i32 {
        // SAFETY: the driver gives back what it took, once.
        unsafe { memory::free_contiguous(physical, pages) };
        0
    }

    pub(super) fn phys_to_virt(physical: usize) -> usize {
        memory::phys_to_virt(physical)
    }

    pub(super) fn virt_to_phys(address: usize) -> usize {
        memory::virt_to_phys(address).unwrap_or_else(|| panic!("nothing is mapped at {address:#x}"))
    }
}
