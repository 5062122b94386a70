//! A value that threads and interrupt handlers use in turn.

use core::cell::RefCell;

use super::interrupts::Off;

/// A cell that keeps interrupts off while it is borrowed. Like every borrow of a `RefCell`, it panics when nested.
pub(crate) struct Masked<T>(RefCell<T>);

// SAFETY: there is one processor; a thread gives it up only where it says so, and not inside of `with`; an interrupt
// handler does not run while the value is borrowed. So nobody borrows it meanwhile.
unsafe impl<T: Send> Sync for Masked<T> {}

impl<T> Masked<T> {
    /// Puts a value into a cell.
    pub(crate) const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Does something with the value, while nobody else does. Not to be left by switching to another thread.
    pub(crate) fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        let _off = Off::new();
        body(&mut self.0.borrow_mut())
    }
}
