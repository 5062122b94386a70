//! The line for room in the queue.

use alloc::collections::VecDeque;

/// How many threads can sleep in line. Further ones look again and again.
const LINE_MAX: usize = 64;

/// The number of a thread in the line.
pub(crate) type Number = u32;

/// Threads that sleep until there is room in the queue for a first request, the first in line first.
pub(crate) struct Line<W> {
    asleep: VecDeque<(Number, W)>,
    next_number: Number,
    /// How many of them can be called.
    room: usize,
    /// How many were called, and have not come yet.
    called: usize,
}

impl<W> Line<W> {
    pub(crate) fn new() -> Self {
        Self { asleep: VecDeque::with_capacity(LINE_MAX), next_number: 0, room: 0, called: 0 }
    }

    /// There is room for one more request than before: for the next in line, if there is one.
    pub(crate) fn make_room(&mut self) {
        self.room = self.room.saturating_add(1);
    }

    /// Whether nobody needs what room there is.
    pub(crate) fn is_empty(&self) -> bool {
        self.asleep.is_empty() && self.called == 0
    }

    /// Whether another thread can sleep in it.
    pub(crate) fn takes_more(&self) -> bool {
        self.asleep.len() < LINE_MAX
    }

    /// Puts a thread at its end.
    pub(crate) fn enter(&mut self, waiter: W) -> Number {
        let number = self.next_number;
        self.asleep.push_back((number, waiter));
        self.next_number = number.wrapping_add(1);
        number
    }

    /// The next in line, if there is room for it: it is to be woken.
    pub(crate) fn call(&mut self) -> Option<W> {
        self.room = self.room.checked_sub(1)?;
        match self.asleep.pop_front() {
            Some((_, waiter)) => {
                self.called += 1;
                Some(waiter)
            }
            None => {
                self.room = 0;
                None
            }
        }
    }

    /// A thread has come: called, or woken for something else.
    pub(crate) fn leave(&mut self, number: Number) {
        let before = self.asleep.len();
        self.asleep.retain(|(other, _)| *other != number);
        if self.asleep.len() == before {
            self.called -= 1;
        }
    }
}
