//! Shared memory and fences as loom models them: what [`shared`](crate::shared) and [`barrier`](crate::barrier) take
//! the place of the processor's from, under `--cfg loom`.
//!
//! A loom object does not fit where a word lies in memory. So a word keeps its size and its place, its address names
//! the loom object that stands for it, and memory itself stays as it was allocated. Whoever reaches the same address,
//! driver or device, reaches the same object. It comes into being with the first access, as zero; an [`AtomicU16`]
//! has to be accessed once before there are threads.

#![allow(clippy::panic, reason = "only tests come here")]

extern crate std;

use core::cell::{Cell, RefCell};
use core::sync::atomic::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use crate::shared::SharedObject;

/// What stands for one word.
enum Object {
    /// A word that either side accesses at any moment; a load may be of any value that its barriers allow.
    AnyTime(loom::sync::atomic::AtomicU16),
    /// A word that is handed over: loom fails where two accesses are not ordered. Its width in bytes is `width`.
    Handed { width: usize, value: loom::cell::UnsafeCell<u64> },
}

loom::lazy_static! {
    /// The objects of the current execution, by address.
    static ref OBJECTS: RefCell<HashMap<usize, Rc<Object>>> = RefCell::new(HashMap::new());
}

/// The object for the word at `address`. What it returns is not borrowed, as the other thread may run in between.
fn object(address: usize, new: impl FnOnce() -> Object) -> Rc<Object> {
    let known = OBJECTS.borrow().get(&address).cloned();
    known.unwrap_or_else(|| {
        let object = Rc::new(new());
        OBJECTS.borrow_mut().insert(address, Rc::clone(&object));
        object
    })
}

/// A word that either side accesses at any moment: an index, an event, flags.
#[repr(transparent)]
pub(crate) struct AtomicU16(core::sync::atomic::AtomicU16);

// SAFETY: an atomic integer.
unsafe impl SharedObject for AtomicU16 {}

impl AtomicU16 {
    pub(crate) fn load(&self, order: Ordering) -> u16 {
        self.with(|object| object.load(order))
    }

    pub(crate) fn store(&self, value: u16, order: Ordering) {
        self.with(|object| object.store(value, order));
    }

    fn with<R>(&self, access: impl FnOnce(&loom::sync::atomic::AtomicU16) -> R) -> R {
        let new = || Object::AnyTime(loom::sync::atomic::AtomicU16::new(0));
        match &*object(core::ptr::from_ref(self).addr(), new) {
            Object::AnyTime(object) => access(object),
            Object::Handed { .. } => panic!("the same word is accessed at any time, and handed over"),
        }
    }
}

macro_rules! handed {
    ($name:ident, $atomic:ty, $value:ty) => {
        /// A word that belongs to one side at a time.
        #[repr(transparent)]
        pub(crate) struct $name($atomic);

        // SAFETY: an atomic integer.
        unsafe impl SharedObject for $name {}

        #[allow(dead_code, reason = "some words the driver only loads, some it only stores")]
        impl $name {
            pub(crate) fn load(&self, _: Ordering) -> $value {
                // SAFETY: loom fails rather than to let two threads be here.
                self.with(|object| object.with(|value| unsafe { *value }) as $value)
            }

            pub(crate) fn store(&self, new: $value, _: Ordering) {
                // SAFETY: as above.
                self.with(|object| object.with_mut(|value| unsafe { *value = new.into() }));
            }

            fn with<R>(&self, access: impl FnOnce(&loom::cell::UnsafeCell<u64>) -> R) -> R {
                let width = size_of::<$value>();
                let new = || Object::Handed { width, value: loom::cell::UnsafeCell::new(0) };
                match &*object(core::ptr::from_ref(self).addr(), new) {
                    Object::Handed { width: known, value } if *known == width => access(value),
                    _ => panic!("the same word is accessed in two ways"),
                }
            }
        }
    };
}

handed!(HandedU8, core::sync::atomic::AtomicU8, u8);
handed!(HandedU16, core::sync::atomic::AtomicU16, u16);
handed!(HandedU32, core::sync::atomic::AtomicU32, u32);
handed!(HandedU64, core::sync::atomic::AtomicU64, u64);

std::thread_local! {
    /// The kind of fence that is missing from the driver.
    static OMITTED: Cell<Option<Ordering>> = const { Cell::new(None) };
}

/// Leaves one kind of fence out of the driver, or none, to see that it is missed.
#[cfg(test)]
pub(crate) fn omit(order: Option<Ordering>) {
    OMITTED.set(order);
}

/// A fence of the driver's.
pub(crate) fn fence(order: Ordering) {
    if OMITTED.get() != Some(order) {
        loom::sync::atomic::fence(order);
    }
}
