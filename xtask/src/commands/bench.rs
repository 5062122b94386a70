//! `cargo xtask bench guest`: what a request costs, beside the crate `virtio-drivers`.
//!
//! Both drivers are in one guest image and use the same disk, one after the other. QEMU counts instructions exactly
//! (`-icount shift=0`); the disk is one that answers at once with nothing (`null-co`), and does not merge requests.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::json;
use testing_guest::{Arguments, Report};

use crate::{
    qemu::{Drive, Machine, NODE, Transport},
    scenarios, session,
};

/// Measure what a request costs, in instructions, notifications and interrupts.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum What {
    /// In the guest, with both drivers in one image.
    Guest,
}

/// How long the guest may take: a million requests among them.
const LIMIT: Duration = Duration::from_secs(600);
/// The size of the disk.
const DISK_BYTES: u64 = 1 << 30;

/// Runs the measurements and prints them.
pub(crate) fn run(options: &Options) -> Result<()> {
    let What::Guest = options.what;
    let kernel = scenarios::kernel()?;
    let node = json!({ "driver": "null-co", "node-name": NODE, "size": DISK_BYTES });
    let arguments = Arguments { demo: "bench".into(), log: "warn".into(), ..Arguments::default() };
    let machine = Machine {
        kernel: &kernel,
        arguments: &arguments.to_string(),
        drive: Drive::Node(&node),
        transport: Transport::Modern,
        properties: &["request-merging=off".into()],
        extra: &["-icount".into(), "shift=0".into()],
    };
    let (ending, observed) = session::observe(&machine, LIMIT, false, |_| Ok(()))?;
    session::judge(&ending, &observed)?;

    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "driver",
        "in flight",
        "submit",
        "complete",
        "together",
        "notifications",
    ]);
    for report in observed.reports() {
        if let Report::Cost { driver, depth, submit_instructions, complete_instructions, notifications } = report {
            table.add_row([
                driver.clone(),
                depth.to_string(),
                format!("{submit_instructions:.0}"),
                format!("{complete_instructions:.0}"),
                format!("{:.0}", submit_instructions + complete_instructions),
                format!("{notifications:.4}"),
            ]);
        }
    }
    println!("\nper read of 4 KiB: instructions, and notifications of the device\n\n{}\n", table.trim_fmt());
    for report in observed.reports() {
        if let Report::Interrupts { depth, requests, interrupts, notifications } = report {
            let per_interrupt = f64::from(*requests) / f64::from(*interrupts);
            println!(
                "{requests} reads, {depth} in flight, looked for at interrupts only: all came back; {interrupts} \
                 interrupts (one for {per_interrupt:.1} reads), {notifications} notifications"
            );
        }
    }
    Ok(())
}
