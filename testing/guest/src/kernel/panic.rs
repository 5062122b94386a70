//! What a panic does: say where, and stop the machine.

use core::panic::PanicInfo;

use super::{console, power};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::take_over();
    println!("{info}");
    power::off(power::Exit::Failure)
}
