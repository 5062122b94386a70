//! Interrupts: who handles them.

use core::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use riscv::register::{sie, sstatus};
use spin::Once;

use super::{
    super::{plic, time::Deadline},
    harts,
};

/// The causes of supervisor mode, as scause has them.
const TIMER: usize = 5;
const EXTERNAL: usize = 9;

/// The handlers, by the number of the interrupt.
static HANDLERS: [Once<fn()>; 64] = [const { Once::new() }; 64];

/// How many device interrupts were taken.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Calls `handler` for each interrupt of this number, with interrupts off.
pub(crate) fn attach(number: u32, handler: fn()) -> anyhow::Result<()> {
    let slot =
        HANDLERS.get(number as usize).with_context(|| alloc::format!("interrupt {number}: expected below 64"))?;
    slot.call_once(|| handler);
    ensure!(plic::enable(number, harts::this()), "the device tree names no interrupt controller of a kind known here");
    Ok(())
}

/// Switches interrupts on.
pub(crate) fn switch_on() {
    // SAFETY: the trap handler is set up, and handles these two.
    unsafe {
        sie::set_stimer();
        sie::set_sext();
        sstatus::set_sie();
    }
}

/// Handles an interrupt; `false` if it is none that this kernel has switched on. Called by the trap handler.
pub(crate) fn handle(code: usize) -> bool {
    match code {
        // Only a wake-up.
        TIMER => Deadline::disarm(),
        EXTERNAL => {
            let hart = harts::this();
            while let Some(number) = plic::claim(hart) {
                TAKEN.fetch_add(1, Ordering::Relaxed);
                if let Some(handler) = HANDLERS.get(number as usize).and_then(Once::get) {
                    handler();
                }
                plic::complete(hart, number);
            }
        }
        _ => return false,
    }
    true
}

/// How many device interrupts were taken.
pub(crate) fn taken() -> u64 {
    TAKEN.load(Ordering::Relaxed)
}

/// While it lives, no interrupts are taken. One may live inside of another.
pub(crate) struct Off {
    were_on: bool,
}

impl Off {
    /// Switches them off.
    pub(crate) fn new() -> Self {
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
