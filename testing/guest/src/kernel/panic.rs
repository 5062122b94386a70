//! What a panic does: say where, do what was set aside for this moment, and stop the machine.

use core::panic::PanicInfo;

use spin::Once;

use super::{console, interrupts, power};

/// What is done after a panic.
static LAST: Once<fn()> = Once::new();

/// Lets a panic do something before it stops the machine. Nothing of the kernel works then that takes a lock, but the
/// console.
pub(super) fn before_the_end(work: fn()) {
    LAST.call_once(|| work);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // Whoever handles them may need what is broken.
    let _off = interrupts::Off::new();
    console::take_over();
    println!("{info}");
    if let Some(work) = LAST.get() {
        work();
    }
    power::off(power::Exit::Failure)
}
