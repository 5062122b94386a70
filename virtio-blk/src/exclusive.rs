//! Mutual exclusion, as the kernel has it.

use core::cell::RefCell;

/// A value that several parts of a kernel use in turn: behind a lock, behind a cell that masks interrupts, or behind
/// whatever else the kernel has.
///
/// It is one method with a closure, so that every kind of lock can implement it, also those that hand out no guard:
///
/// ```
/// # mod kernel { pub struct InterruptsOff; impl InterruptsOff { pub fn new() -> Self { Self } } }
/// use std::sync::Mutex;
/// use virtio_blk::Exclusive;
///
/// /// A kernel's lock that keeps interrupts off while it is held.
/// struct IrqLock<T>(Mutex<T>);
///
/// impl<T> Exclusive for IrqLock<T> {
///     type Value = T;
///
///     fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
///         let _off = kernel::InterruptsOff::new();
///         body(&mut self.0.lock().unwrap())
///     }
/// }
/// ```
///
/// No waker is cloned, called or dropped, and no waiting is done, inside of it. What runs there that is not this crate's
/// is the kernel's [`Memory`](virtqueue::Memory), the register write that notifies the device, and the drop of buffers of
/// requests that nobody waits for any more. A queue that an interrupt handler uses too needs interrupts off inside of it,
/// as with any other lock.
///
/// A [`Device`](crate::Device) is shared in the same way, for [`Queue::blocking`](crate::Queue::blocking). A blocking call
/// that has to reset it waits for that inside.
pub trait Exclusive {
    /// What is shared.
    type Value;

    /// Does something with the value, while nobody else does.
    fn with<R>(&self, body: impl FnOnce(&mut Self::Value) -> R) -> R;
}

/// For one thread without interrupt handlers. Like every borrow of a `RefCell`, it panics when nested.
impl<V> Exclusive for RefCell<V> {
    type Value = V;

    fn with<R>(&self, body: impl FnOnce(&mut V) -> R) -> R {
        body(&mut self.borrow_mut())
    }
}

impl<E: Exclusive + ?Sized> Exclusive for &E {
    type Value = E::Value;

    fn with<R>(&self, body: impl FnOnce(&mut E::Value) -> R) -> R {
        (**self).with(body)
    }
}

/// For several processors. It masks no interrupts: a kernel whose interrupt handler uses the queue wraps it.
#[cfg(feature = "spin")]
impl<V, R: spin::RelaxStrategy> Exclusive for spin::mutex::SpinMutex<V, R> {
    type Value = V;

    fn with<O>(&self, body: impl FnOnce(&mut V) -> O) -> O {
        body(&mut self.lock())
    }
}
