//! From the firmware to what a kernel is there for, and from there to the end of the machine.

use anyhow::Context;
use fdt::Fdt;
use testing_guest::{Arguments, Report};

use super::{
    super::{console, plic, power, time, trap},
    interrupts, memory, stack,
};

/// Sets everything up, and ends the machine after `work`.
///
/// `device_tree` is the physical address of the description of this machine. `work` gets it where it is mapped.
pub(crate) fn run(device_tree: *const u8, work: fn(&Arguments, &[u8]) -> anyhow::Result<()>) -> ! {
    trap::set_up();
    console::set_up();
    // The firmware would be given addresses that are no physical ones.
    console::use_single_bytes();
    match start(device_tree, work) {
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

fn start(device_tree: *const u8, work: fn(&Arguments, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    // SAFETY: the firmware passed this address in register a1: the tree is there, in memory that nobody writes.
    let tree = unsafe { Fdt::from_ptr(device_tree) }.ok().context("the firmware's device tree is damaged")?;
    // SAFETY: `from_ptr` has read the header, so that many bytes are there.
    let blob = unsafe { core::slice::from_raw_parts(device_tree, tree.total_size()) };
    memory::set_up(&tree, blob)?;

    // Its physical address means nothing any more.
    let mapped = core::ptr::with_exposed_provenance(memory::phys_to_virt(device_tree.addr()));
    // SAFETY: the same bytes as above.
    let blob = unsafe { core::slice::from_raw_parts(mapped, blob.len()) };
    let tree = Fdt::new(blob).ok().context("the device tree is gone")?;
    time::set_up(&tree);
    plic::set_up(&tree);
    interrupts::switch_on();

    let line = tree.chosen().bootargs().unwrap_or("");
    let arguments: Arguments = line.parse().context("the kernel's command line (QEMU's -append)")?;
    console::set_level(&arguments.log)?;
    report!(Report::Started { demo: arguments.demo.clone() });
    stack::check(stack::pointer() - memory::BOOT_STACK_BYTES)?;
    work(&arguments, blob)
}
