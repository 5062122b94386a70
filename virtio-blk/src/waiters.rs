//! Tasks that wait for room in a queue, served in the order in which they came.

use core::task::Waker;

use virtqueue::{Memory, MemoryError, PrivateSlice};

/// A first-come, first-served line of tasks. It has a fixed number of places.
pub(crate) struct Waiters<M: Memory> {
    /// The place of ticket `t` is `t` modulo the number of places.
    places: PrivateSlice<Place, M>,
    /// The ticket of the first in line.
    first: u32,
    /// The ticket that the next task gets.
    next: u32,
}

/// A place in the line.
enum Place {
    /// Free, or its task has gone.
    Empty,
    /// A task waits.
    Waiting(Waker),
    /// The task was woken, and has not come yet.
    Called,
}

impl Place {
    /// Puts something else there. Returns the waker that was there.
    fn replace(&mut self, place: Self) -> Option<Waker> {
        match core::mem::replace(self, place) {
            Self::Waiting(waker) => Some(waker),
            Self::Empty | Self::Called => None,
        }
    }
}

/// The place of a task in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u32);

impl<M: Memory> Waiters<M> {
    pub(crate) fn new(memory: &M, places: u16) -> Result<Self, MemoryError> {
        // Of a power of two, so that the place of a ticket stays the same when tickets wrap.
        let places = if places == 0 { 0 } else { usize::from(places).next_power_of_two() };
        let places = PrivateSlice::allocate(memory, places, |_| Place::Empty)?;
        Ok(Self { places, first: 0, next: 0 })
    }

    /// Whether a task must line up: others were there before it.
    pub(crate) fn must_wait(&self, ticket: Option<Ticket>) -> bool {
        self.first != self.next && ticket != Some(Ticket(self.first))
    }

    /// Lines a task up, or keeps its place. Returns `Err` with the waker when all places are taken: then the task has to
    /// come again by itself. Otherwise what is returned is to be dropped outside of the lock.
    pub(crate) fn join(&mut self, ticket: &mut Option<Ticket>, waker: Waker) -> Result<Option<Waker>, Waker> {
        let taken = self.next.wrapping_sub(self.first) as usize;
        let Ticket(number) = match *ticket {
            Some(ticket) => ticket,
            None if taken < self.places.len() => Ticket(self.next),
            None => return Err(waker),
        };
        let Some(place) = self.place(number) else {
            return Err(waker);
        };
        // If it was called, it came, found no room after all, and can be called again.
        let old = place.replace(Place::Waiting(waker));
        if ticket.is_none() {
            self.next = self.next.wrapping_add(1);
            *ticket = Some(Ticket(number));
        }
        Ok(old)
    }

    /// A task leaves the line: it has got in, or has gone away. What is returned is to be dropped outside of the lock.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        let waker = self.place(ticket.0).and_then(|place| place.replace(Place::Empty));
        // Those that have gone away in the meantime are passed over.
        while self.first != self.next && self.place(self.first).is_none_or(|place| matches!(place, Place::Empty)) {
            self.first = self.first.wrapping_add(1);
        }
        waker
    }

    /// The waker of the first in line, once, to be called now that there is room.
    #[inline]
    pub(crate) fn call(&mut self) -> Option<Waker> {
        if self.first == self.next {
            return None;
        }
        let place = self.place(self.first)?;
        match place {
            Place::Waiting(_) => place.replace(Place::Called),
            Place::Empty | Place::Called => None,
        }
    }

    fn place(&mut self, number: u32) -> Option<&mut Place> {
        let places = u32::try_from(self.places.len()).ok()?;
        let index = number.checked_rem(places)?;
        self.places.get_mut(index as usize)
    }
}
