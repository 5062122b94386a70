//! Interrupts: who handles them, and how a hart sleeps until one comes.

use alloc::{format, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use riscv::register::{sie, sip, sstatus};
use spin::Once;
use virtio_spec::InterruptStatus;
use virtio_transport::{AnyInterrupt, GaveUp, Interrupt, MemoryMapped, Wait};

use super::{harts, imsic, plic, time::Deadline};

/// The causes of supervisor mode, as scause has them.
const SOFTWARE: usize = 1;
const TIMER: usize = 5;
const EXTERNAL: usize = 9;

/// The devices that have a handler, by the number of their interrupt: at the PLIC, or of a message.
static LINES: [Once<Line>; 256] = [const { Once::new() }; 256];

/// How many device interrupts were taken.
static TAKEN: AtomicU64 = AtomicU64::new(0);
/// How often a hart went to sleep.
static SLEEPS: AtomicU64 = AtomicU64::new(0);

/// An interrupt of a virtio device.
pub(super) struct Line {
    device: AnyInterrupt<MemoryMapped>,
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

    /// The whole of the handler. A line says nothing of the queue that it is for, so every owner of one looks; a message
    /// of its own rings only who owns the queue.
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

/// How a device is connected.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wiring {
    /// By a line, to the PLIC's input of this number.
    Line(u32),
    /// By messages, so many, with numbers from the first one on.
    Messages { first: u32, count: u16 },
}

/// The interrupts of a device: its line, or its messages in the order of their vectors.
pub(super) struct Attached(Vec<&'static Line>);

impl Attached {
    /// The one for changes of the configuration.
    pub(super) fn configuration(&self) -> Option<&'static Line> {
        self.0.first().copied()
    }

    /// The one for a queue: the device chooses by the same rule.
    pub(super) fn queue(&self, queue: u16) -> Option<&'static Line> {
        match self.0.as_slice() {
            [line] => Some(line),
            [_, queues @ ..] => queues.get(usize::from(queue) % queues.len().max(1)).copied(),
            [] => None,
        }
    }

    /// How often one was taken because requests were done.
    pub(super) fn used(&self) -> u64 {
        self.0.iter().map(|line| line.used()).sum()
    }
}

/// Lets the interrupts of a device be handled: this hart has its line, each message comes to whom it is addressed. A
/// second time for the same device changes nothing.
pub(super) fn attach(wiring: Wiring, device: &AnyInterrupt<MemoryMapped>) -> anyhow::Result<Attached> {
    match wiring {
        Wiring::Line(number) => {
            let line = install(number, device.clone())?;
            ensure!(
                plic::enable(number, harts::this()),
                "the device tree names no interrupt controller of a kind known here"
            );
            Ok(Attached([line].into()))
        }
        Wiring::Messages { first, count } => {
            let lines = (0..count).map(|vector| install(first + u32::from(vector), device.clone().for_vector(vector)));
            Ok(Attached(lines.collect::<anyhow::Result<_>>()?))
        }
    }
}

/// Gives an interrupt its handler.
fn install(number: u32, device: AnyInterrupt<MemoryMapped>) -> anyhow::Result<&'static Line> {
    let line = LINES
        .get(number as usize)
        .with_context(|| format!("interrupt {number}: expected one below {}", LINES.len()))?;
    Ok(line.call_once(|| Line {
        device,
        used: AtomicU64::new(0),
        configuration: AtomicU64::new(0),
        owners: AtomicU64::new(0),
    }))
}

/// Switches interrupts on, on this hart.
pub(super) fn switch_on() {
    imsic::switch_on();
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
            while let Some(number) = if imsic::is_present() { imsic::claim() } else { plic::claim(hart) } {
                if let Some(line) = LINES.get(number as usize).and_then(Once::get) {
                    line.handle();
                }
                TAKEN.fetch_add(1, Ordering::Release);
                // A message is done with when it is taken.
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
