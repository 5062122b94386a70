//! Large values that are made where they are to stay.

use core::mem::ManuallyDrop;

/// A part of a larger value, made in its place. Dropped, it drops that part; forgotten, it leaves it to the whole.
pub(crate) struct Made<T>(*mut T);

impl<T> Made<T> {
    /// Makes the part. Only here it is on the stack, for as long as it takes to be put in its place.
    ///
    /// # Safety
    ///
    /// The place is valid for writes, and aligned; nothing is there. It stays, and is used by nobody else, until this is
    /// dropped or forgotten.
    #[inline(never)]
    pub(crate) unsafe fn new<E>(place: *mut T, make: impl FnOnce() -> Result<T, E>) -> Result<Self, E> {
        // Not taken apart, which would be another copy.
        let made = ManuallyDrop::new(make());
        match &*made {
            Ok(part) => {
                // SAFETY: as the caller promises; it is moved, as what is here is not dropped.
                unsafe { place.copy_from_nonoverlapping(part, 1) };
                Ok(Self(place))
            }
            // SAFETY: moved likewise.
            Err(error) => Err(unsafe { core::ptr::read(error) }),
        }
    }

    /// Takes over a part that is there.
    ///
    /// # Safety
    ///
    /// As for [`new`](Made::new), but that the part is there.
    pub(crate) unsafe fn there(place: *mut T) -> Self {
        Self(place)
    }

    /// The part.
    pub(crate) fn get(&self) -> &T {
        // SAFETY: made by `new`, and nobody else uses it.
        unsafe { &*self.0 }
    }
}

impl<T> Drop for Made<T> {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and dropped once: what is forgotten does not get here.
        unsafe { self.0.drop_in_place() };
    }
}
