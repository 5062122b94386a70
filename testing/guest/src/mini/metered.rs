//! A disk that counts how calls waited, and measures how much of a stack they needed.

use core::sync::atomic::{AtomicU64, Ordering};

use testing_guest::Report;

use super::{
    interrupts, stack, threads,
    volume::{Failed, Sectors},
};

/// A disk, and what was counted.
pub(crate) struct Metered<D> {
    disk: D,
    calls: AtomicU64,
    slept: AtomicU64,
    waiting: AtomicU64,
    depth: AtomicU64,
    read: Peak,
    write: Peak,
    sync: Peak,
}

/// The most that a call needed of a stack.
pub(crate) struct Peak(AtomicU64);

impl Peak {
    /// Nothing was called yet.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Does something on the stack whose lowest address is `bottom`, and takes note of what that needed.
    pub(crate) fn measure<R>(&self, bottom: usize, work: impl FnOnce() -> R) -> R {
        let (result, bytes) = stack::measure(bottom, work);
        self.0.fetch_max(bytes as u64, Ordering::Relaxed);
        result
    }

    /// Tells the host.
    pub(crate) fn report(&self, entry: &str) {
        report!(Report::Stack { entry: entry.into(), bytes: self.0.load(Ordering::Relaxed) });
    }
}

impl<D: Sectors> Metered<D> {
    /// Counts from now on.
    pub(crate) const fn new(disk: D) -> Self {
        Self {
            disk,
            calls: AtomicU64::new(0),
            slept: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            depth: AtomicU64::new(0),
            read: Peak::new(),
            write: Peak::new(),
            sync: Peak::new(),
        }
    }

    /// The disk inside.
    pub(crate) fn disk(&self) -> &D {
        &self.disk
    }

    fn call<R>(&self, peak: &Peak, work: impl FnOnce(&D) -> R) -> R {
        let Some(thread) = threads::current() else {
            // While the kernel boots.
            return work(&self.disk);
        };
        let before = thread.switches();
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        self.depth.fetch_max(waiting, Ordering::Relaxed);
        let result = peak.measure(thread.stack_bottom(), || work(&self.disk));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.slept.fetch_add(u64::from(thread.switches() != before), Ordering::Relaxed);
        result
    }

    /// Tells the host.
    pub(crate) fn report(&self) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        report!(Report::Waited {
            calls: count(&self.calls),
            slept: count(&self.slept),
            depth: count(&self.depth),
            interrupts: interrupts::taken(),
        });
        self.read.report("read");
        self.write.report("write");
        self.sync.report("sync");
    }
}

impl<D: Sectors> Sectors for Metered<D> {
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Failed> {
        self.call(&self.read, |disk| disk.read(sector, buffer))
    }

    fn write(&self, sector: u64, buffer: &[u8]) -> Result<(), Failed> {
        self.call(&self.write, |disk| disk.write(sector, buffer))
    }

    fn sync(&self) -> Result<(), Failed> {
        self.call(&self.sync, |disk| disk.sync())
    }
}
