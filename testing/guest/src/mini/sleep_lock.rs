//! A lock whose waiters sleep, for what is held while a disk is waited for.

use alloc::{collections::VecDeque, sync::Arc};
use core::cell::UnsafeCell;

use super::{
    masked::Masked,
    threads::{self, Thread},
};

/// A value that threads use in turn.
pub(crate) struct SleepLock<T> {
    state: Masked<State>,
    value: UnsafeCell<T>,
}

struct State {
    held: bool,
    /// Those who wait, in the order in which they came. The lock is handed to the first: nobody overtakes.
    waiting: VecDeque<Arc<Thread>>,
}

// SAFETY: one thread at a time has the value.
unsafe impl<T: Send> Sync for SleepLock<T> {}

impl<T> SleepLock<T> {
    /// Puts a value behind a lock.
    pub(crate) const fn new(value: T) -> Self {
        let state = State { held: false, waiting: VecDeque::new() };
        Self { state: Masked::new(state), value: UnsafeCell::new(value) }
    }

    /// Does something with the value, which may put the thread to sleep, while no other thread does.
    pub(crate) fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        let thread = threads::current();
        let must_wait = self.state.with(|state| {
            let held = core::mem::replace(&mut state.held, true);
            if held {
                state.waiting.extend(thread.clone());
            }
            held
        });
        if must_wait {
            // Nobody else runs while the kernel boots, so nobody holds it then.
            let context = thread.expect("a lock is held while the kernel boots").context();
            threads::switch_away(context);
        }
        // SAFETY: `held` was false and is true now, or whoever held it has handed it to this thread.
        let result = body(unsafe { &mut *self.value.get() });
        let next = self.state.with(|state| {
            let next = state.waiting.pop_front();
            state.held = next.is_some();
            next
        });
        if let Some(thread) = next {
            threads::make_ready(thread);
        }
        result
    }
}
