//! How the kernel's threads wait.

use virtio_transport::GaveUp;

/// How the kernel's threads wait for a request.
///
/// A thread that has nothing to do but to wait goes through this:
///
/// 1. with the lock held, [`prepare`](Sleep::prepare) says of the running thread that it waits, and how to wake it;
/// 2. with the lock free, [`sleep`](Sleep::sleep) leaves the thread;
/// 3. [`wake`](Sleep::wake) is called by an interrupt handler or by another thread, perhaps before 2.
///
/// No wake-up is lost if a `wake` between 1 and 2 makes 2 return soon. Where the scheduler cannot do that on its own,
/// [`undisturbed`](Sleep::undisturbed) keeps interrupts off over both.
///
/// If `prepare` says that the thread cannot be left now, it looks again and again, with [`pause`](Sleep::pause) in
/// between. That does not depend on any other thread: what a thread waits for is done by the device, and whoever
/// looks first takes note of it for all.
pub trait Sleep {
    /// What it takes to wake a thread: a counted reference to it, for instance.
    type Waiter: Send;

    /// What it takes to leave a thread: the place where its registers go, for instance.
    type Ticket;

    /// Says of the running thread that it waits. `None`, and nothing was said: it cannot be left now, as the scheduler
    /// does not run yet, or as it holds a lock that must not be held for long. Called with the disk's lock held.
    fn prepare(&self) -> Option<(Self::Waiter, Self::Ticket)>;

    /// Leaves the running thread until somebody wakes it. May return too soon.
    fn sleep(&self, ticket: Self::Ticket);

    /// Wakes a thread. Called without the disk's lock, from wherever requests are noticed: interrupt handlers, too.
    fn wake(&self, waiter: Self::Waiter);

    /// Calls `body` once, which looks and perhaps sleeps. A scheduler that must not be interrupted between
    /// [`prepare`](Sleep::prepare) and the end of its switch keeps interrupts off meanwhile.
    #[inline]
    fn undisturbed(&self, body: impl FnOnce()) {
        body();
    }

    /// Waits a little, between two looks of a thread that does not sleep. `looks` is how many it has made.
    ///
    /// # Errors
    ///
    /// [`GaveUp`] to wait no longer: the device is reset, as [`SharedDisk`](crate::SharedDisk) says.
    fn pause(&self, looks: u64) -> Result<(), GaveUp> {
        let _ = looks;
        core::hint::spin_loop();
        Ok(())
    }
}

/// Threads that never sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polling {
    /// How often a thread looks before it gives up.
    pub looks: u64,
}

impl Default for Polling {
    /// Does not give up.
    fn default() -> Self {
        Self { looks: u64::MAX }
    }
}

/// What a thread that never sleeps is woken by: there is no value of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {}

impl Sleep for Polling {
    type Waiter = Never;
    type Ticket = Never;

    fn prepare(&self) -> Option<(Never, Never)> {
        None
    }

    fn sleep(&self, ticket: Never) {
        match ticket {}
    }

    fn wake(&self, waiter: Never) {
        match waiter {}
    }

    fn pause(&self, looks: u64) -> Result<(), GaveUp> {
        core::hint::spin_loop();
        if looks < self.looks { Ok(()) } else { Err(GaveUp) }
    }
}
