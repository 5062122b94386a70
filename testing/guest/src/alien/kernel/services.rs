//! The services of this kernel, under the names that Alien has for them: a ticket lock, tasks, frames.

use core::sync::atomic::{AtomicBool, Ordering};

/// Whether tasks run: until then, there is nobody to sleep.
pub(super) static TASKS_RUN: AtomicBool = AtomicBool::new(false);

/// The processor.
pub(super) mod arch {
    use riscv::register::sstatus;

    /// Whether interrupts are on.
    pub(in super::super) fn is_interrupt_enable() -> bool {
        sstatus::read().sie()
    }

    /// Switches interrupts off.
    pub(in super::super) fn interrupt_disable() {
        // SAFETY: nothing goes wrong without interrupts.
        unsafe { sstatus::clear_sie() };
    }

    /// Switches interrupts on.
    pub(in super::super) fn interrupt_enable() {
        // SAFETY: whoever switched them off is done.
        unsafe { sstatus::set_sie() };
    }
}

/// Locks.
pub(super) mod ksync {
    use core::{
        cell::UnsafeCell,
        ops::{Deref, DerefMut},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::super::mini::interrupts::Off;

    /// How many locks are held: on the one processor that there is.
    static HELD: AtomicUsize = AtomicUsize::new(0);

    /// How many locks are held.
    pub(in super::super) fn held() -> usize {
        HELD.load(Ordering::Relaxed)
    }

    /// A lock that is given in the order in which it was asked for, with interrupts off while it is held.
    pub(in super::super) struct Mutex<T> {
        next: AtomicUsize,
        serving: AtomicUsize,
        value: UnsafeCell<T>,
    }

    // SAFETY: who has the lock has the value, and nobody else.
    unsafe impl<T: Send> Sync for Mutex<T> {}

    /// A lock that is held.
    pub(in super::super) struct MutexGuard<'a, T> {
        mutex: &'a Mutex<T>,
        _off: Off,
    }

    impl<T> Mutex<T> {
        pub(in super::super) const fn new(value: T) -> Self {
            Self { next: AtomicUsize::new(0), serving: AtomicUsize::new(0), value: UnsafeCell::new(value) }
        }

        pub(in super::super) fn lock(&self) -> MutexGuard<'_, T> {
            let off = Off::new();
            let ticket = self.next.fetch_add(1, Ordering::Relaxed);
            // On one processor, who holds it could never give it back.
            assert!(self.serving.load(Ordering::Acquire) == ticket, "a lock was asked for that is held");
            HELD.fetch_add(1, Ordering::Relaxed);
            MutexGuard { mutex: self, _off: off }
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            // SAFETY: the lock is held.
            unsafe { &*self.mutex.value.get() }
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            // SAFETY: the lock is held, by this guard alone.
            unsafe { &mut *self.mutex.value.get() }
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            HELD.fetch_sub(1, Ordering::Relaxed);
            self.mutex.serving.fetch_add(1, Ordering::Release);
        }
    }
}

/// Tasks, as drivers know them.
pub(super) mod shim {
    use alloc::sync::Arc;
    use core::sync::atomic::{AtomicBool, Ordering};

    use super::{
        super::mini::{
            stack::unmeasured,
            threads::{self, Thread},
        },
        arch,
    };

    /// What a driver can do with a task.
    pub(in super::super) trait KTask: Send + Sync {
        fn to_wait(&self);
        fn to_wakeup(&self);
        #[doc(hidden)]
        fn waits(&self) -> bool;
        #[doc(hidden)]
        fn thread(&self) -> Arc<Thread>;
    }

    struct Task {
        thread: Arc<Thread>,
        waits: AtomicBool,
    }

    impl KTask for Task {
        fn to_wait(&self) {
            self.waits.store(true, Ordering::Relaxed);
        }

        fn to_wakeup(&self) {
            assert!(self.waits.swap(false, Ordering::Relaxed), "a task was woken that did not wait");
        }

        fn waits(&self) -> bool {
            self.waits.load(Ordering::Relaxed)
        }

        fn thread(&self) -> Arc<Thread> {
            self.thread.clone()
        }
    }

    /// The task that runs.
    #[inline(never)]
    pub(in super::super) fn take_current_task() -> Option<Arc<dyn KTask>> {
        unmeasured(|| {
            let task = Task { thread: threads::current()?, waits: AtomicBool::new(false) };
            Some(Arc::new(task) as Arc<dyn KTask>)
        })
    }

    /// Puts a task to those that are ready.
    #[inline(never)]
    pub(in super::super) fn put_task(task: Arc<dyn KTask>) {
        unmeasured(|| threads::make_ready(task.thread()));
    }

    /// Leaves the task that runs. If it does not wait, it is ready at once.
    ///
    /// Interrupts are off: between saying that it waits and this, nobody must wake it. The loop that looks for the next
    /// task takes them.
    #[inline(never)]
    pub(in super::super) fn schedule_now(task: Arc<dyn KTask>) {
        unmeasured(|| leave(task));
    }

    fn leave(task: Arc<dyn KTask>) {
        assert!(!arch::is_interrupt_enable(), "somebody could have woken the task before it was left");
        let thread = task.thread();
        if !task.waits() {
            threads::make_ready(thread.clone());
        }
        drop(task);
        let context = thread.context();
        // The scheduler, or whoever wakes it, has another count of it.
        drop(thread);
        arch::interrupt_enable();
        threads::switch_away(context);
        arch::interrupt_disable();
    }
}

/// Frames.
pub(super) mod mem {
    use core::ptr;

    use super::super::mini::memory;

    /// Takes frames that follow each other.
    pub(in super::super) fn alloc_frames(count: usize) -> *mut u8 {
        match memory::allocate_contiguous(count) {
            Some(physical) => ptr::with_exposed_provenance_mut(memory::phys_to_virt(physical)),
            None => ptr::null_mut(),
        }
    }

    /// Gives frames back.
    ///
    /// # Safety
    ///
    /// They were taken, and nobody uses them.
    pub(in super::super) unsafe fn free_frames(start: *mut u8, count: usize) {
        let physical = memory::virt_to_phys(start.addr()).expect("frames are mapped");
        // SAFETY: as the caller promises.
        unsafe { memory::free_contiguous(physical, count) };
    }
}

/// Whether tasks run.
pub(super) fn tasks_run() -> bool {
    TASKS_RUN.load(Ordering::Relaxed)
}
