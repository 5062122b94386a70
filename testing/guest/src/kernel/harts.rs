//! The processors of the machine ("harts"): which one this is, starting the others, and waking them up.

use alloc::{boxed::Box, vec, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::ensure;
use fdt::Fdt;
use virtio_transport::GaveUp;

use super::{interrupts, time::Deadline, trap};

/// One more than the highest number of a hart that can be used.
const MAX: usize = 64;
/// The size of a further hart's stack.
const STACK_BYTES: usize = 256 << 10;

/// What a hart is rung with.
static BELLS: [Bell; MAX] = [const { Bell { rung: AtomicBool::new(false) } }; MAX];

/// How often a hart has interrupted another one.
static SIGNALS: AtomicU64 = AtomicU64::new(0);

/// On a cache line of its own: nobody else's bell is near.
#[repr(align(64))]
struct Bell {
    rung: AtomicBool,
}

/// What a started hart finds.
#[repr(C)]
pub(super) struct Start {
    /// The end of its stack. The entry code reads it, so it comes first.
    stack_top: usize,
    work: Box<dyn FnOnce() + Send>,
}

unsafe extern "C" {
    /// Where a further hart starts.
    safe fn hart_entry();
}

/// The number of the hart that this runs on.
pub(super) fn this() -> usize {
    let hart: usize;
    // SAFETY: the entry code has put the number there.
    unsafe { core::arch::asm!("mv {}, tp", out(reg) hart, options(nomem, nostack, preserves_flags)) };
    hart
}

/// The harts that are waiting to be started.
pub(super) fn others(device_tree: &[u8]) -> anyhow::Result<Vec<usize>> {
    let tree = Fdt::new(device_tree).map_err(|error| anyhow::anyhow!("device tree: {error}"))?;
    let harts = tree.cpus().map(|cpu| cpu.ids().first());
    Ok(harts.filter(|&hart| hart != this() && hart < MAX).collect())
}

/// Starts a hart, which does this and then sleeps for ever.
pub(super) fn start(hart: usize, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    // Neither is ever freed: the hart keeps the stack.
    let stack = Vec::leak(vec![0_u128; STACK_BYTES / size_of::<u128>()]);
    let start = Box::new(Start { stack_top: stack.as_ptr_range().end.addr(), work: Box::new(work) });
    let entry = hart_entry as *const () as usize;
    let answer = sbi_rt::hart_start(hart, entry, Box::into_raw(start).expose_provenance());
    ensure!(answer.is_ok(), "the firmware did not start hart {hart}: SBI error {}", answer.error as isize);
    Ok(())
}

/// The first Rust code of a further hart.
pub(super) extern "C" fn main(start: *mut Start) -> ! {
    trap::set_up_further();
    interrupts::switch_on();
    // SAFETY: `start` made it for this hart and gave it up.
    let Start { work, .. } = *unsafe { Box::from_raw(start) };
    work();
    loop {
        riscv::asm::wfi();
    }
}

/// Wakes a hart that sleeps in [`sleep_until_rung`], or keeps it from falling asleep the next time.
pub(super) fn ring(hart: usize) {
    let Some(bell) = BELLS.get(hart) else { return };
    // Who finds it rung was not first; the hart has not looked yet, and will.
    if !bell.rung.swap(true, Ordering::AcqRel) && hart != this() {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
        sbi_rt::send_ipi(sbi_rt::HartMask::from_mask_base(1, hart));
    }
}

/// How often a hart has interrupted another one.
pub(super) fn signals() -> u64 {
    SIGNALS.load(Ordering::Relaxed)
}

/// Whether this hart is rung: then it will not sleep.
pub(super) fn is_rung() -> bool {
    BELLS.get(this()).is_some_and(|bell| bell.rung.load(Ordering::Acquire))
}

/// Sleeps until this hart is rung.
///
/// # Errors
///
/// [`GaveUp`] when the deadline has passed.
pub(super) fn sleep_until_rung(deadline: Deadline) -> Result<(), GaveUp> {
    let bell = BELLS.get(this()).ok_or(GaveUp)?;
    interrupts::sleep_until(|| bell.rung.swap(false, Ordering::AcqRel), deadline)
}
