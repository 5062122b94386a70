//! Tasks that sleep while the disk works.

use core::marker::PhantomData;

use virtio_blk_threads::Sleep;

/// The kernel's tasks: Alien's `shim`, and its interrupts.
///
/// # When it is safe to sleep
///
/// A task that sleeps lets others run, and they may do what its callers thought that nobody does meanwhile. So
/// [`may_sleep`](Tasks::may_sleep) is true only if
///
/// - the scheduler runs, and there is a running task: not while the kernel boots, and not in an interrupt handler;
/// - no lock of the kernel is held but the disk's. Others would spin for it on the processor that has to run the one who
///   holds it. `ksync` counts its locks, in `noff` of the processor's `mycpu()`, and the disk's own is 1 of them; nobody
///   counts those of `spin`, so callers must not hold any;
/// - the task can be left in the middle of a call to the kernel. What it has borrowed from its `TaskInner` by then, for
///   instance, is not used by whoever runs meanwhile.
///
/// And of the kernel it takes that
///
/// - one processor runs tasks. With several, one may pick a task that was woken before the other has left it;
/// - the loop that waits for a task to become ready takes interrupts;
/// - the disk's interrupt leads to `handle_irq`, and is on before [`Disk::use_interrupts`](crate::Disk::use_interrupts)
///   is called. Until then tasks look again and again.
pub trait Tasks: 'static {
    /// A task: `Arc<dyn KTask>`.
    type Task: Clone + Send;

    /// Whether the running task may sleep now, as said [above](Tasks).
    fn may_sleep() -> bool;

    /// Takes the running task from its processor, to leave it.
    fn take_current_task() -> Option<Self::Task>;

    /// Says of a task that it waits: it is not ready when it is left.
    fn to_wait(task: &Self::Task);

    /// Leaves the running task, which this is, until it is ready and has its turn.
    fn schedule_now(task: Self::Task);

    /// Makes a task that waits ready, and puts it to those that are: `to_wakeup` and `put_task`.
    fn wake(task: Self::Task);

    /// Switches interrupts off on this processor; whether they were on.
    fn interrupts_off() -> bool;

    /// Switches interrupts on.
    fn interrupts_on();
}

/// Tasks sleep while the disk works, where they may.
pub struct Sleeping<K>(PhantomData<fn() -> K>);

impl<K> Default for Sleeping<K> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<K: Tasks> Sleep for Sleeping<K> {
    type Waiter = K::Task;
    type Ticket = K::Task;

    fn prepare(&self) -> Option<(K::Task, K::Task)> {
        if !K::may_sleep() {
            return None;
        }
        let task = K::take_current_task()?;
        K::to_wait(&task);
        Some((task.clone(), task))
    }

    fn sleep(&self, task: K::Task) {
        K::schedule_now(task);
    }

    fn wake(&self, task: K::Task) {
        K::wake(task);
    }

    /// With interrupts off: were a task woken before it is left, `schedule_now` would make it ready a second time.
    #[inline(always)]
    fn undisturbed(&self, body: impl FnOnce()) {
        let were_on = K::interrupts_off();
        body();
        if were_on {
            K::interrupts_on();
        }
    }
}
