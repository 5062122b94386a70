//! The interrupt controller of the `virt` machine, a PLIC: devices on one side, harts on the other.
//!
//! A device that wants attention keeps its line up. A hart claims the interrupt, which is then nobody else's, sees to
//! the device, and completes it; if the line is up again or still, it is pending once more.

use core::{
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use fdt::Fdt;

/// Where its registers are; 0 on a machine that has none.
static BASE: AtomicUsize = AtomicUsize::new(0);

/// Where each interrupt has its priority, a word each.
const PRIORITY: usize = 0;
/// Where each context has a bit for each interrupt, and how much room a context takes there.
const ENABLE: usize = 0x2000;
const ENABLE_STRIDE: usize = 0x80;
/// Where each context has its threshold, and behind it the word to claim and complete; and how much room it takes.
const CONTEXT: usize = 0x20_0000;
const CONTEXT_STRIDE: usize = 0x1000;
const CLAIM: usize = 4;

/// Finds it in the device tree.
pub(super) fn set_up(tree: &Fdt<'_>) {
    let node = tree.find_compatible(&["sifive,plic-1.0.0", "riscv,plic0"]);
    let region = node.and_then(|node| node.reg()?.next());
    BASE.store(region.map_or(0, |region| region.starting_address.addr()), Ordering::Relaxed);
}

/// Where a hart in supervisor mode is connected: each hart has two contexts, the first for machine mode.
fn context(hart: usize) -> usize {
    2 * hart + 1
}

/// A register; `None` on a machine without a PLIC.
fn register(offset: usize) -> Option<*mut u32> {
    let base = BASE.load(Ordering::Relaxed);
    (base != 0).then(|| ptr::with_exposed_provenance_mut(base + offset))
}

/// Lets a hart have a device's interrupts. Returns whether there is a PLIC at all.
pub(super) fn enable(number: u32, hart: usize) -> bool {
    let (word, bit) = (number as usize / 32 * 4, number % 32);
    let enable = register(ENABLE + context(hart) * ENABLE_STRIDE + word);
    let threshold = register(CONTEXT + context(hart) * CONTEXT_STRIDE);
    let priority = register(PRIORITY + number as usize * 4);
    let (Some(enable), Some(threshold), Some(priority)) = (enable, threshold, priority) else {
        return false;
    };
    // SAFETY: the controller's registers, where no Rust memory is. One hart sets up interrupts.
    unsafe {
        priority.write_volatile(1);
        enable.write_volatile(enable.read_volatile() | 1 << bit);
        threshold.write_volatile(0);
    }
    true
}

/// Takes an interrupt that is pending for this hart, if there is one.
pub(super) fn claim(hart: usize) -> Option<u32> {
    let claim = register(CONTEXT + context(hart) * CONTEXT_STRIDE + CLAIM)?;
    // SAFETY: the controller's register; the read takes the interrupt.
    let number = unsafe { claim.read_volatile() };
    (number != 0).then_some(number)
}

/// Says that an interrupt that was claimed is seen to.
pub(super) fn complete(hart: usize, number: u32) {
    if let Some(claim) = register(CONTEXT + context(hart) * CONTEXT_STRIDE + CLAIM) {
        // SAFETY: the controller's register.
        unsafe { claim.write_volatile(number) };
    }
}
