//! The device as a test holds it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use virtio_spec::block::{BlockConfig, SECTOR_SIZE, ZoneState};
use virtio_spec::{DeviceStatus, InterruptStatus};

use crate::builder::Builder;
use crate::counts::Counts;
use crate::device_memory::DeviceMemory;
use crate::disk::SectorState;
use crate::faults::{Faults, Outcome};
use crate::pending::PendingRequest;
use crate::queue::Raw;
use crate::raw_packed_ring::RawPackedRing;
use crate::raw_ring::RawRing;
use crate::registers::DeviceRegisters;
use crate::state::State;
use crate::violation::{Violation, panic_if_any};
use crate::zones::Zone;

/// A virtio-mmio block device in this process, which checks the driver that uses it.
///
/// The driver gets its [`registers`](Self::registers), the test keeps the device. When the last of both is dropped, it
/// panics if the driver has broken rules, unless the test took them with [`take_violations`](Self::take_violations).
///
/// Clones are the same device.
#[derive(Clone)]
pub struct BlockDevice(Arc<Shared>);

impl fmt::Debug for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockDevice").finish_non_exhaustive()
    }
}

/// What all handles share.
pub(crate) struct Shared(Mutex<State>);

impl Shared {
    /// Does something with the state, then calls the test's hook for the interrupts that it raised.
    pub(crate) fn with<R>(&self, body: impl FnOnce(&mut State) -> R) -> R {
        let (result, signals, hook) = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let result = body(&mut state);
            (result, std::mem::take(&mut state.signals), state.hook.clone())
        };
        if let Some(hook) = hook {
            for _ in 0..signals {
                hook();
            }
        }
        result
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !std::thread::panicking() {
            state.check_queues_left();
            panic_if_any("the driver broke rules", &state.violations);
        }
    }
}

impl BlockDevice {
    /// Begins the set-up of a device.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(setup: Builder, memory: Arc<dyn DeviceMemory>) -> Self {
        Self(Arc::new(Shared(Mutex::new(State::new(setup, memory)))))
    }

    /// The window of registers, for the driver.
    #[must_use]
    pub fn registers(&self) -> DeviceRegisters {
        DeviceRegisters(self.0.clone())
    }

    fn with<R>(&self, body: impl FnOnce(&mut State) -> R) -> R {
        self.0.with(body)
    }

    // What the driver did.

    /// The rules that the driver has broken up to now. A buffer that is available at this moment and was not notified,
    /// though it had to be, counts.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.with(|state| {
            state.judge_all();
            state.violations.clone()
        })
    }

    /// The rules that the driver has broken since the last call; they are forgotten.
    pub fn take_violations(&self) -> Vec<Violation> {
        self.with(|state| {
            state.judge_all();
            std::mem::take(&mut state.violations)
        })
    }

    /// Panics if the driver has broken rules, with the list of them.
    #[track_caller]
    pub fn assert_conformant(&self) {
        panic_if_any("the driver broke rules", &self.take_violations());
    }

    /// What the device has counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.with(|state| state.counts)
    }

    /// How often the driver notified a queue.
    #[must_use]
    pub fn notifications(&self, queue: u16) -> u64 {
        self.with(|state| state.queues.get(usize::from(queue)).map_or(0, |queue| queue.notifications))
    }

    /// The device status.
    #[must_use]
    pub fn status(&self) -> DeviceStatus {
        self.with(|state| state.status)
    }

    /// The feature bits that were negotiated.
    #[must_use]
    pub fn negotiated(&self) -> u64 {
        self.with(|state| state.negotiated())
    }

    /// The events that are pending.
    #[must_use]
    pub fn interrupt(&self) -> InterruptStatus {
        self.with(|state| state.interrupt)
    }

    /// The number of entries of a queue that is in use.
    #[must_use]
    pub fn queue_size(&self, queue: u16) -> Option<u16> {
        self.raw(queue).map(|ring| ring.setup().size)
    }

    // Queues.

    /// Takes and completes all requests in all queues. Returns how many that were.
    ///
    /// Each queue has one interrupt at the most for a batch: until its ring is empty.
    pub fn run(&self) -> usize {
        self.with(|state| state.process(None))
    }

    /// Takes and completes all requests in one queue.
    pub fn run_queue(&self, queue: u16) -> usize {
        self.with(|state| state.process(Some(queue)))
    }

    /// Takes one request into the device's hand: one that is held, or else one from the queues in turn.
    pub fn take(&self) -> Option<PendingRequest> {
        self.with(State::take)
    }

    /// Takes one request from a queue into the device's hand.
    pub fn take_from(&self, queue: u16) -> Option<PendingRequest> {
        self.with(|state| state.take_from(queue))
    }

    /// Completes a request, and raises an interrupt if the driver wants one.
    ///
    /// `false`: it is not the device's any more, as the device or its queue was reset. Nothing was touched.
    pub fn complete(&self, pending: PendingRequest, outcome: Outcome) -> bool {
        self.with(|state| {
            let queue = pending.queue();
            let finished = state.finish(pending, outcome);
            if finished {
                state.signal(queue);
            }
            finished
        })
    }

    /// How many requests are held ([`Faults::hold`]).
    #[must_use]
    pub fn held(&self) -> usize {
        self.with(|state| state.held.len())
    }

    /// Completes the requests that are held. Returns how many that were. Those to come are held as before.
    pub fn release(&self) -> usize {
        self.with(|state| {
            let held = std::mem::take(&mut state.held);
            state.complete_all(held.into())
        })
    }

    /// Tells the driver whether notifications are wanted. They are at first.
    ///
    /// Without them, the test must [`run`](Self::run) the device.
    pub fn want_notifications(&self, wanted: bool) {
        self.with(|state| {
            state.notifications_wanted = wanted;
            for queue in 0..state.queues.len() as u16 {
                state.rearm(queue);
            }
        });
    }

    /// The fields of a queue's split ring, to do with them what no honest device does. `None` if it is not in use, or
    /// is packed.
    #[must_use]
    pub fn raw_ring(&self, queue: u16) -> Option<RawRing> {
        match self.raw(queue)? {
            Raw::Split(ring) => Some(ring),
            Raw::Packed(_) => None,
        }
    }

    /// The fields of a queue's packed ring, to do with them what no honest device does. `None` if it is not in use, or
    /// is split.
    #[must_use]
    pub fn raw_packed_ring(&self, queue: u16) -> Option<RawPackedRing> {
        match self.raw(queue)? {
            Raw::Split(_) => None,
            Raw::Packed(ring) => Some(ring),
        }
    }

    fn raw(&self, queue: u16) -> Option<Raw> {
        self.with(|state| {
            state.judge(queue, false);
            Some(state.queues.get(usize::from(queue))?.ring.as_ref()?.raw.clone())
        })
    }

    /// Writes a queue's next used element, whatever it says, and raises an interrupt if the driver wants one.
    pub fn push_raw(&self, queue: u16, id: u32, bytes: u32) {
        self.with(|state| {
            state.with_ring(queue, |ring| ring.mover.push_raw(id, bytes));
            state.signal(queue);
        });
    }

    /// Moves a queue's used index, or in a packed ring the place of the next used descriptor, without writing any.
    pub fn skip_used(&self, queue: u16, entries: u16) {
        self.with(|state| {
            state.with_ring(queue, |ring| ring.mover.skip_used(entries));
            state.signal(queue);
        });
    }

    // What the device does wrong.

    /// Changes what the device does wrong.
    pub fn faults<R>(&self, change: impl FnOnce(&mut Faults) -> R) -> R {
        self.with(|state| change(&mut state.faults))
    }

    /// Sets DEVICE_NEEDS_RESET: the device stops, until it is reset.
    pub fn needs_reset(&self) {
        self.with(State::fail);
    }

    /// Raises an interrupt for nothing.
    pub fn spurious_interrupt(&self, event: InterruptStatus) {
        self.with(|state| state.raise(event));
    }

    /// What is called for each interrupt, in the thread that caused it, with no lock of the device's held.
    pub fn on_interrupt(&self, hook: impl Fn() + Send + Sync + 'static) {
        // The hook before it may hold this device: it is dropped after the lock.
        let before = self.with(|state| state.hook.replace(Arc::new(hook)));
        drop(before);
    }

    // Configuration and contents.

    /// The configuration structure.
    #[must_use]
    pub fn config(&self) -> BlockConfig {
        self.with(|state| state.config)
    }

    /// Changes the configuration, and tells the driver if it has set DRIVER_OK.
    pub fn change_config(&self, change: impl FnOnce(&mut BlockConfig)) {
        self.with(|state| state.change_config(change));
    }

    /// Changes the capacity, and tells the driver if it has set DRIVER_OK.
    pub fn set_capacity(&self, sectors: u64) {
        self.change_config(|config| config.capacity = sectors.into());
    }

    /// What the device stores, from a sector on.
    #[must_use]
    pub fn read_disk(&self, sector: u64, sectors: usize) -> Vec<u8> {
        let mut bytes = vec![0; sectors * SECTOR_SIZE];
        self.with(|state| state.read_disk(sector, &mut bytes));
        bytes
    }

    /// What a power cut would leave, from a sector on.
    #[must_use]
    pub fn read_stable(&self, sector: u64, sectors: usize) -> Vec<u8> {
        let mut bytes = vec![0; sectors * SECTOR_SIZE];
        self.with(|state| state.read_stable(sector, &mut bytes));
        bytes
    }

    /// Changes what the device stores, stably, from a sector on. `bytes` are whole sectors.
    pub fn write_disk(&self, sector: u64, bytes: &[u8]) {
        self.with(|state| state.disk.write(sector, bytes, true));
    }

    /// What became of a sector.
    #[must_use]
    pub fn sector_state(&self, sector: u64) -> SectorState {
        self.with(|state| state.sector_state(sector))
    }

    /// The zones of a host-managed device, in the order of their sectors; none of other devices.
    #[must_use]
    pub fn zones(&self) -> Vec<Zone> {
        self.with(|state| state.zones.as_ref().map_or_else(Vec::new, |zones| zones.all().to_vec()))
    }

    /// Lets a zone fail: it becomes read-only or offline.
    ///
    /// # Panics
    ///
    /// If there is no such zone, if that is another state, or if an offline zone is to be read-only.
    pub fn fail_zone(&self, index: usize, state: ZoneState) {
        self.with(|device| device.zones.as_mut().expect("a zoned device").fail(index, state));
    }

    /// Forgets every write that is not stable: completed in write-back mode, and not flushed since. The write pointers of
    /// zones go back to before what was lost.
    pub fn power_cut(&self) {
        self.with(State::power_cut);
    }
}
