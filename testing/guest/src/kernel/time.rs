//! The machine's clock, and how long the kernel waits for a device.

use core::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fdt::Fdt;
use riscv::register::time;
use virtio_transport::{GaveUp, Wait};

/// How often the clock ticks per second; the device tree knows.
static TICKS_PER_SECOND: AtomicU64 = AtomicU64::new(10_000_000);

/// How long a device may take for one request before the kernel gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads the speed of the clock from the device tree.
pub(super) fn set_up(tree: &Fdt<'_>) {
    let frequency = tree.find_node("/cpus").and_then(|cpus| cpus.property("timebase-frequency")?.as_usize());
    if let Some(frequency) = frequency.filter(|&frequency| frequency > 0) {
        TICKS_PER_SECOND.store(frequency as u64, Ordering::Relaxed);
    }
}

/// A moment after which the kernel does not wait any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    ticks: u64,
}

impl Deadline {
    /// So far away that a device that has not answered by then has failed.
    pub(super) fn patient() -> Self {
        Self { ticks: ticks() + PATIENCE.as_secs() * TICKS_PER_SECOND.load(Ordering::Relaxed) }
    }

    /// Whether it has passed.
    pub(super) fn has_passed(self) -> bool {
        ticks() >= self.ticks
    }

    /// Asks the firmware for a timer interrupt when it passes, on this hart. There is one timer: the last call counts.
    pub(super) fn arm(self) {
        sbi_rt::set_timer(self.ticks);
    }

    /// Asks for no timer interrupt, and takes back one that is pending.
    pub(super) fn disarm() {
        sbi_rt::set_timer(u64::MAX);
    }
}

/// Ticks since the machine was switched on.
fn ticks() -> u64 {
    time::read64()
}

/// Measures how long something takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch {
    start: u64,
}

impl Stopwatch {
    /// Starts now.
    pub(super) fn start() -> Self {
        Self { start: ticks() }
    }

    /// The time since the start.
    pub(super) fn elapsed(self) -> Duration {
        let micros =
            u128::from(ticks() - self.start) * 1_000_000 / u128::from(TICKS_PER_SECOND.load(Ordering::Relaxed));
        Duration::from_micros(micros as u64)
    }

    /// The time since the start and what it means for a number of bytes, as text for people.
    pub(super) fn speed(self, bytes: u64) -> impl fmt::Display {
        let millis = self.elapsed().as_millis().max(1);
        let kib_per_second = u128::from(bytes) * 1000 / 1024 / millis;
        alloc::format!("{}.{:03} s, {kib_per_second} KiB/s", millis / 1000, millis % 1000)
    }
}

/// Waits for a device: looks again and again, and gives up after [`PATIENCE`]. For what a device does without an
/// interrupt, such as a reset.
pub(super) fn patiently() -> impl Wait {
    let watch = Stopwatch::start();
    move || {
        if watch.elapsed() > PATIENCE {
            return Err(GaveUp);
        }
        core::hint::spin_loop();
        Ok(())
    }
}
