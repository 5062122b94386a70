//! How much of its stack a call uses: what is below the stack pointer is painted, and then looked at.
//!
//! What the kernel's own services need for their part of the work is not the call's: whoever provides one does so in
//! [`unmeasured`]. Traps have a stack of their own.

use core::{
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::ensure;

use super::memory::{self, STACK_COUNT};

/// What unused memory is painted with.
const PAINT: u64 = 0x7061_696e_7465_6421;
/// What is being measured on each stack of threads, on the one that the kernel boots on, and on that for traps.
static WATCHES: [Watch; STACK_COUNT + 2] = [const { Watch::new() }; STACK_COUNT + 2];

/// What is being measured on a stack. Nobody else touches it: a stack is used by one at a time.
struct Watch {
    /// The lowest address that was painted; 0 if nothing is measured, or a service is at work.
    bottom: AtomicUsize,
    /// The lowest address that the call was seen to use.
    lowest: AtomicUsize,
}

unsafe extern "C" {
    /// The end of the stack that the kernel boots on, where that for traps begins; only its address means something.
    static __stack_top: u8;
}

/// Does something, and says how many bytes of the stack that took. `bottom` is the lowest address of the stack.
#[inline(never)]
pub(crate) fn measure<R>(bottom: usize, work: impl FnOnce() -> R) -> (R, usize) {
    let here = pointer();
    let watch = Watch::of(here);
    paint(bottom, here);
    watch.lowest.store(here, Ordering::Relaxed);
    watch.bottom.store(bottom, Ordering::Relaxed);
    let result = call(work);
    watch.bottom.store(0, Ordering::Relaxed);
    (result, here - lowest_used(bottom, watch.lowest.load(Ordering::Relaxed)))
}

/// Does something for a call that is being measured, and that is not to be blamed for more than the frame of the function
/// that this is used in.
#[inline(always)]
pub(crate) fn unmeasured<R>(service: impl FnOnce() -> R) -> R {
    let here = pointer();
    let watch = Watch::of(here);
    // If a service calls another, only the outer one is that of the call.
    let bottom = watch.bottom.swap(0, Ordering::Relaxed);
    if bottom == 0 {
        return service();
    }
    let lowest = watch.lowest.load(Ordering::Relaxed).min(here);
    watch.lowest.store(lowest_used(bottom, lowest), Ordering::Relaxed);
    let result = call(service);
    paint(bottom, here);
    watch.bottom.store(bottom, Ordering::Relaxed);
    result
}

impl Watch {
    /// Nothing is measured.
    const fn new() -> Self {
        Self { bottom: AtomicUsize::new(0), lowest: AtomicUsize::new(0) }
    }

    /// That of the stack which this address is on.
    #[inline(always)]
    fn of(address: usize) -> &'static Self {
        let boot = (&raw const __stack_top).addr();
        let number = memory::stack_number(address).unwrap_or(STACK_COUNT + usize::from(address > boot));
        &WATCHES[number]
    }
}

/// A frame of its own, below what is measured from.
#[inline(never)]
fn call<R>(work: impl FnOnce() -> R) -> R {
    work()
}

// These two are part of who uses them: a frame of their own would lie in what they look at.

/// Paints everything from `bottom` to `end`, below which no frame is in use.
#[inline(always)]
fn paint(bottom: usize, end: usize) {
    for address in (bottom..end).step_by(size_of::<u64>()) {
        // SAFETY: below every frame that is in use, and on the stack.
        unsafe { ptr::with_exposed_provenance_mut::<u64>(address).write_volatile(PAINT) };
    }
}

/// How far down the stack was used, from `end` on, since it was painted.
#[inline(always)]
fn lowest_used(bottom: usize, end: usize) -> usize {
    // SAFETY: on the stack; it was painted.
    let word = |address| unsafe { ptr::with_exposed_provenance::<u64>(address).read_volatile() };
    (bottom..end).step_by(size_of::<u64>()).find(|&address| word(address) != PAINT).unwrap_or(end)
}

/// Where the stack ends right now.
#[inline(always)]
pub(crate) fn pointer() -> usize {
    let address: usize;
    // SAFETY: it only reads the register.
    unsafe { core::arch::asm!("mv {}, sp", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// Makes sure that what is measured is what was used: by a call, and not by a service that it calls.
///
/// # Errors
///
/// It is not so.
pub(crate) fn check(bottom: usize) -> anyhow::Result<()> {
    /// Uses at least so many bytes.
    #[inline(never)]
    fn use_bytes<const BYTES: usize>() {
        core::hint::black_box([0_u8; BYTES].as_mut_ptr());
    }
    const OWN: usize = 1000;
    const OTHERS: usize = 3000;
    let alone = measure(bottom, use_bytes::<OWN>).1;
    ensure!((OWN..OWN + 300).contains(&alone), "{OWN} bytes of stack are measured as {alone}");
    let blamed = measure(bottom, use_bytes::<OTHERS>).1;
    ensure!(blamed >= OTHERS, "{OTHERS} bytes of stack are measured as {blamed}");
    let work = || {
        unmeasured(|| unmeasured(use_bytes::<OTHERS>));
        use_bytes::<OWN>();
        unmeasured(use_bytes::<OTHERS>);
    };
    let own = measure(bottom, work).1;
    ensure!((OWN..OWN + 300).contains(&own), "{OWN} bytes of stack, and services, are measured as {own}");
    Ok(())
}
