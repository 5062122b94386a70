//! Interrupts: who handles them, and how a hart sleeps until one comes.

use alloc::format;
use core::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use riscv::register::{sie, sip, sstatus};
use spin::Once;
use virtio_spec::InterruptStatus;
use virtio_transport::{GaveUp, Interrupt, MemoryMapped, MmioInterrupt, Wait};

use super::{harts, plic, time::Deadline};

/// The causes of supervisor mode, as scause has them.
const SOFTWARE: usize = 1;
const TIMER: usize = 5;
const EXTERNAL: usize = 9;

/// The devices that have a handler, by the number of their interrupt.
static LINES: [Once<Line>; 64] = [const { Once::new() }; 64];

/// How many device interrupts were taken.
static TAKEN: AtomicU64 = AtomicU64::new(0);
/// How often a hart went to sleep.
static SLEEPS: AtomicU64 = AtomicU64::new(0);

/// The interrupt of a virtio device.
pub(super) struct Line {
    device: MmioInterrupt<MemoryMapped>,
    /// How often it was taken for requests, and for a change of the configuration.
    used: AtomicU64,
    configuration: AtomicU64,
    /// The harts to ring when requests are done, a bit each.
    owners: AtomicU64,
}

impl Line {
    /// How often it was taken because requests were done.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// How often it was taken because the configuration changed.
    pub(super) fn configuration(&self) -> u64 {
        self.configuration.load(Ordering::Acquire)
    }

    /// Rings this hart when requests are done, from now on.
    pub(super) fn ring(&self, hart: usize) {
        self.owners.fetch_or(1 << hart, Ordering::Relaxed);
    }

    /// Does not ring this hart any more.
    pub(super) fn leave_alone(&self, hart: usize) {
        self.owners.fetch_and(!(1 << hart), Ordering::Relaxed);
    }

    /// The whole of the handler. Over virtio-mmio nothing tells which queue it is for, so every owner of one looks.
    fn handle(&self) {
        let causes = self.device.acknowledge();
        if causes.contains(InterruptStatus::CONFIGURATION_CHANGE) {
            self.configuration.fetch_add(1, Ordering::Release);
        }
        if causes.contains(InterruptStatus::USED_BUFFER) {
            self.used.fetch_add(1, Ordering::Release);
            let owners = self.owners.load(Ordering::Relaxed);
            (0..u64::BITS as usize).filter(|hart| owners >> hart & 1 != 0).for_each(harts::ring);
        }
    }
}

/// Lets this hart have the interrupts of a device. A second time for the same device changes nothing.
pub(super) fn attach(number: u32, device: MmioInterrupt<MemoryMapped>) -> anyhow::Result<&'static Line> {
    let line = LINES.get(number as usize).with_context(|| format!("interrupt {number}: expected one below 64"))?;
    let line = line.call_once(|| Line {
        device,
        used: AtomicU64::new(0),
        configuration: AtomicU64::new(0),
        owners: AtomicU64::new(0),
    });
    ensure!(plic::enable(number, harts::this()), "the device tree names no interrupt controller of a kind known here");
    Ok(line)
}

/// Switches interrupts on, on this hart.
pub(super) fn switch_on() {
    // SAFETY: the trap handler is set up, and handles these three.
    unsafe {
        sie::set_ssoft();
        sie::set_stimer();
        sie::set_sext();
        sstatus::set_sie();
    }
}

/// Handles an interrupt; `false` if it is none that this kernel has switched on.
///
/// It prints nothing and allocates nothing: the interrupted code may hold the lock for it.
pub(super) fn handle(code: usize) -> bool {
    match code {
        // Only a wake-up: what there is to do stands elsewhere. Cleared before that is looked at.
        // SAFETY: a supervisor may clear this one.
        SOFTWARE => unsafe { sip::clear_ssoft() },
        TIMER => Deadline::disarm(),
        EXTERNAL => {
            let hart = harts::this();
            while let Some(number) = plic::claim(hart) {
                if let Some(line) = LINES.get(number as usize).and_then(Once::get) {
                    line.handle();
                }
                TAKEN.fetch_add(1, Ordering::Release);
                plic::complete(hart, number);
            }
        }
        _ => return false,
    }
    true
}

/// How many device interrupts were taken, and how often a hart went to sleep.
pub(super) fn counts() -> (u64, u64) {
    (TAKEN.load(Ordering::Acquire), SLEEPS.load(Ordering::Relaxed))
}

/// While it lives, this hart takes no interrupts.
pub(super) struct Off {
    were_on: bool,
}

impl Off {
    /// Switches them off.
    pub(super) fn new() -> Self {
        let were_on = sstatus::read().sie();
        // SAFETY: nothing goes wrong without interrupts.
        unsafe { sstatus::clear_sie() };
        Self { were_on }
    }
}

impl Drop for Off {
    fn drop(&mut self) {
        if self.were_on {
            // SAFETY: they were on before.
            unsafe { sstatus::set_sie() };
        }
    }
}

/// Sleeps until `ready`, which an interrupt handler or another hart brings about.
///
/// # Errors
///
/// [`GaveUp`] when the deadline has passed: a lost interrupt is an error, not a kernel that hangs.
pub(super) fn sleep_until(mut ready: impl FnMut() -> bool, deadline: Deadline) -> Result<(), GaveUp> {
    if ready() {
        return Ok(());
    }
    // The timer's interrupt ends the sleep.
    deadline.arm();
    loop {
        {
            // An interrupt between the look and the sleep would be slept through. With interrupts off it stays pending,
            // and `wfi` ends for a pending one even so.
            let _off = Off::new();
            if ready() {
                return Ok(());
            }
            if deadline.has_passed() {
                return Err(GaveUp);
            }
            SLEEPS.fetch_add(1, Ordering::Relaxed);
            riscv::asm::wfi();
        }
        // Interrupts are on again: the handler runs here, and `ready` may become true.
    }
}

/// Waits for a device by sleeping until it interrupts, and gives up as [`patiently`](super::time::patiently) does. For
/// a queue that uses interrupts.
pub(super) fn asleep() -> impl Wait {
    let taken = || TAKEN.load(Ordering::Acquire);
    // Counted from here, before the first look at the queue: an interrupt since then is a reason to look again.
    let mut seen = taken();
    let deadline = Deadline::patient();
    move || {
        sleep_until(|| taken() != seen, deadline)?;
        seen = taken();
        Ok(())
    }
}
