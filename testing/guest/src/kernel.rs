//! The kernel, in the order in which it comes to life.

mod boot;
#[macro_use]
mod console;
mod bounce;
mod demos;
mod devices;
mod fat;
mod harts;
mod imsic;
mod interrupts;
mod memory;
mod panic;
mod place;
mod plic;
mod power;
mod sectors;
mod time;
mod trap;

use anyhow::Context;
use fdt::Fdt;
use testing_guest::{Arguments, Report};

/// The first Rust code, called by [`boot`] on the one processor that the firmware started.
///
/// `device_tree` is the address of the description of this machine.
extern "C" fn main(hart: usize, device_tree: *const u8) -> ! {
    trap::set_up();
    console::set_up();
    println!("testing-guest: a kernel on hart {hart}, device tree at {device_tree:p}");

    match start(device_tree) {
        Ok(()) => {
            report!(Report::Finished);
            power::off(power::Exit::Success)
        }
        Err(error) => {
            println!("error: {error:#}");
            report!(Report::Failed { reason: alloc::format!("{error:#}") });
            power::off(power::Exit::Failure)
        }
    }
}

/// Sets up what needs the device tree, then runs what the command line asks for.
fn start(device_tree: *const u8) -> anyhow::Result<()> {
    // SAFETY: the firmware passed this address in register a1: the tree is there, in memory that nobody writes.
    let tree = unsafe { Fdt::from_ptr(device_tree) }
        .map_err(|error| anyhow::anyhow!("the firmware's device tree at {device_tree:p} is damaged: {error}"))?;
    // SAFETY: `from_ptr` has read the header, so that many bytes are there.
    let blob = unsafe { core::slice::from_raw_parts(device_tree, tree.total_size()) };

    // Nothing before this line may allocate.
    memory::set_up(&tree, blob)?;
    time::set_up(&tree);
    plic::set_up(&tree);
    imsic::set_up(&tree);
    interrupts::switch_on();

    let line = tree.chosen().bootargs().unwrap_or("");
    let arguments: Arguments = line.parse().context("the kernel's command line (QEMU's -append)")?;
    console::set_level(&arguments.log)?;
    report!(Report::Started { demo: arguments.demo.clone() });

    demos::run(&arguments, blob)
}
