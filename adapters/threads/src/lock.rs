//! Mutual exclusion between threads, and between threads and interrupt handlers.

/// The kernel's lock.
///
/// A type without a value stands for it: `ksync::Mutex<V>`, `UPIntrFreeCell<V>` and `spin::Mutex<V>` are all said to be
/// [`Mutex`](Lock::Mutex) in a few lines. It is held for short: no request is waited for inside of it.
pub trait Lock {
    /// A value behind the lock.
    type Mutex<V: Send>;

    /// Puts a value behind the lock.
    fn new<V: Send>(value: V) -> Self::Mutex<V>;

    /// Does something with the value, while nobody else does. If an interrupt handler calls
    /// [`handle_interrupt`](crate::SharedDisk::handle_interrupt), interrupts are off inside of it.
    fn with<V: Send, R>(mutex: &Self::Mutex<V>, body: impl FnOnce(&mut V) -> R) -> R;
}
