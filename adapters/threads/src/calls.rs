//! The calls that threads have made: what has become of their requests, and who is to be told.

use alloc::vec::Vec;

use virtio_blk::Error;

/// Where a thread finds out how its call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u16);

/// A call of a thread, and the thread if it sleeps.
pub(crate) struct Call<W> {
    /// How many of its requests the device has.
    pub(crate) in_flight: u16,
    /// The thread is woken once no more than so many are left.
    wake_at: u16,
    waiter: Option<W>,
    /// The first error of its requests.
    pub(crate) result: Result<(), Error>,
}

impl<W> Call<W> {
    const NEW: Self = Self { in_flight: 0, wake_at: 0, waiter: None, result: Ok(()) };

    /// Takes note of an error. Of several, the first counts.
    pub(crate) fn fail(&mut self, error: &Error) {
        if self.result.is_ok() {
            self.result = Err(*error);
        }
    }

    /// Lets a thread sleep until a half of its requests has ended, if it has `more` of them, and otherwise all.
    pub(crate) fn sleep(&mut self, waiter: W, more: bool) {
        self.wake_at = if more { self.in_flight / 2 } else { 0 };
        self.waiter = Some(waiter);
    }

    /// Its thread is awake.
    pub(crate) fn awake(&mut self) {
        self.waiter = None;
    }

    /// The thread, if it is to be woken.
    pub(crate) fn wake(&mut self) -> Option<W> {
        if self.in_flight <= self.wake_at { self.waiter.take() } else { None }
    }
}

/// All calls.
pub(crate) struct Calls<W> {
    calls: Vec<Call<W>>,
    free: Vec<u16>,
}

impl<W> Calls<W> {
    /// Room for so many, and for more when they come.
    pub(crate) fn new(count: u16) -> Self {
        Self { calls: (0..count).map(|_| Call::NEW).collect(), free: (0..count).rev().collect() }
    }

    /// Takes a place for a call. `None` if there are more calls than numbers.
    pub(crate) fn begin(&mut self) -> Option<Place> {
        if self.free.is_empty() {
            self.free.push(u16::try_from(self.calls.len()).ok()?);
            self.calls.push(Call::NEW);
        }
        self.free.pop().map(Place)
    }

    /// The call at a place.
    pub(crate) fn get(&mut self, place: Place) -> Option<&mut Call<W>> {
        self.calls.get_mut(usize::from(place.0))
    }

    /// Takes a call out of its place. None of its requests is in flight.
    pub(crate) fn end(&mut self, place: Place) -> Result<(), Error> {
        let Some(call) = self.get(place) else { return Ok(()) };
        let Call { result, .. } = core::mem::replace(call, Call::NEW);
        self.free.push(place.0);
        result
    }
}
