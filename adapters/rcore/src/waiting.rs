//! How tasks share the disk: the kernel's cell and its condition variables, as `virtio-blk-threads` wants them.

use alloc::vec::Vec;
use core::marker::PhantomData;

use virtio_blk_threads::{Lock, Sleep};
use virtio_transport::GaveUp;

use crate::kernel::{Cell, Kernel, Tasks};

/// The kernel's cell.
pub(crate) struct CellLock<K>(PhantomData<K>);

impl<K: Kernel> Lock for CellLock<K> {
    type Mutex<V: Send> = K::Cell<V>;

    fn new<V: Send>(value: V) -> K::Cell<V> {
        Cell::new(value)
    }

    fn with<V: Send, R>(cell: &K::Cell<V>, body: impl FnOnce(&mut V) -> R) -> R {
        cell.session(body)
    }
}

/// Tasks that sleep, each on a condition variable of its own.
///
/// A task says that it waits inside of the disk's cell, in the same session in which its request was submitted: an
/// interrupt that came in between would wake nobody.
pub(crate) struct Sleeping<K: Kernel> {
    /// As many as there were tasks asleep at once.
    places: K::Cell<Vec<Place<K>>>,
}

/// A condition variable, and whether a task has it.
struct Place<K: Kernel> {
    condvar: <K::Tasks as Tasks>::Condvar,
    taken: bool,
}

/// What a task needs to leave, and which place it gives back afterwards.
pub(crate) struct Ticket<C> {
    context: *mut C,
    place: usize,
}

impl<K: Kernel> Sleeping<K> {
    pub(crate) fn new() -> Self {
        Self { places: Cell::new(Vec::new()) }
    }
}

impl<K: Kernel> Sleep for Sleeping<K> {
    type Waiter = usize;
    type Ticket = Ticket<<K::Tasks as Tasks>::Context>;

    fn prepare(&self) -> Option<(usize, Self::Ticket)> {
        if !K::Tasks::sleeps() {
            return None;
        }
        self.places.session(|places| {
            let number = places.iter().position(|place| !place.taken).unwrap_or_else(|| {
                places.push(Place { condvar: K::Tasks::condvar(), taken: false });
                places.len() - 1
            });
            let place = places.get_mut(number)?;
            place.taken = true;
            let context = K::Tasks::wait_no_sched(&place.condvar);
            Some((number, Ticket { context, place: number }))
        })
    }

    fn sleep(&self, ticket: Self::Ticket) {
        K::Tasks::schedule(ticket.context);
        self.places.session(|places| {
            if let Some(place) = places.get_mut(ticket.place) {
                place.taken = false;
            }
        });
    }

    fn wake(&self, number: usize) {
        self.places.session(|places| {
            if let Some(place) = places.get(number) {
                K::Tasks::signal(&place.condvar);
            }
        });
    }

    fn pause(&self, _: u64) -> Result<(), GaveUp> {
        K::Tasks::relax();
        Ok(())
    }
}
