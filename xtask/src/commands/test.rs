//! `cargo xtask test`: everything that must hold before a change is taken.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use super::{matrix, miri, power_cuts, run};
use crate::{
    image::Format,
    qemu::Transport,
    tools::{self, Tool},
    workspace::{BARE_TARGET, MINIMUM_RUST, Metadata, cargo, cargo_of, succeed},
};

/// Run every check: formatting, lints, documentation, tests, the oldest Rust, and the guest in QEMU.
///
/// All steps run, even if one fails. The last line says how many passed and failed.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run what takes longer as well: Miri, loom, and the guest in more variants.
    #[arg(long)]
    full: bool,
}

/// One thing to check.
struct Step {
    name: String,
    tools: &'static [Tool],
    check: Box<dyn Fn() -> Result<()>>,
}

/// What a step needs that starts the guest.
const GUEST: &[Tool] = &[Tool::BareTarget, Tool::Qemu, Tool::Firmware];
/// The same, and looks into images.
const CUTS: &[Tool] = &[Tool::BareTarget, Tool::Qemu, Tool::Firmware, Tool::QemuImg];

/// Runs all steps.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut results = Vec::new();
    for step in steps(options.full)? {
        println!("\n==> {}", step.name);
        let start = Instant::now();
        let result = tools::ensure_all(step.tools).and_then(|()| (step.check)());
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        results.push((step.name, result.is_ok(), start.elapsed()));
    }
    println!("\n{}\n", table(&results).trim_fmt());
    println!("{}", verdict(&results));
    Ok(if results.iter().all(|(_, passed, _)| *passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All steps, in the order in which a mistake shows soonest.
fn steps(full: bool) -> Result<Vec<Step>> {
    let mut steps = vec![
        step("formatting", &[Tool::Rustfmt], || check(&["fmt", "--all", "--check"])),
        step("lints, host", &[Tool::Clippy], || {
            check(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "--deny=warnings"])
        }),
        step("lints, guest", &[Tool::Clippy, Tool::BareTarget], || {
            check(&["clippy", "--package=testing-guest", "--release", "--target", BARE_TARGET, "--", "--deny=warnings"])
        }),
        step("documentation", &[], || {
            let command =
                cargo(["doc", "--workspace", "--all-features", "--no-deps"]).env("RUSTDOCFLAGS", "--deny=warnings");
            succeed(&command, "cargo doc")
        }),
        step("unit and doc tests", &[], || check(&["test", "--workspace", "--all-features", "--no-fail-fast"])),
    ];
    for package in Metadata::read()?.bare_packages()? {
        let name = format!("{package} alone, Rust {MINIMUM_RUST}, {BARE_TARGET}");
        steps.push(step(name, &[Tool::MinimumRust], move || {
            let command = cargo_of(MINIMUM_RUST, ["build", "--package", &package, "--target", BARE_TARGET]);
            succeed(&command, "cargo build")
        }));
    }
    steps.extend([
        guest("guest, modern", || run::Options { transport: Transport::Modern, ..Default::default() }),
        guest("guest, legacy, FAT32 in a partition", || run::Options {
            transport: Transport::Legacy,
            format: Format::Fat32,
            partitioned: true,
            ..Default::default()
        }),
        guest("guest, PCI", || run::Options { transport: Transport::Pci, ..Default::default() }),
        guest("guest, PCI behind bridges, FAT32", || run::Options {
            transport: Transport::PciBridge,
            format: Format::Fat32,
            ..Default::default()
        }),
        guest("guest, a cache mode that cannot be changed, write-through", || run::Options {
            property: vec!["config-wce=off".into(), "write-cache=off".into()],
            ..Default::default()
        }),
        matrix(full),
        demo("guest, four harts and queues, tasks", "async", Transport::Modern),
        demo("guest, four harts and queues, tasks, PCI with messages", "async", Transport::PciMsix),
        demo("guest, errors of the disk", "errors", Transport::Modern),
        demo("guest, a disk that changes its size", "resize", Transport::Modern),
        demo("guest, a dump after a panic", "crash", Transport::Modern),
        demo("a kernel like rCore, easy-fs, legacy", "rcore", Transport::Legacy),
        demo("a kernel like rCore, rcore-fs, modern", "rcore-fs", Transport::Modern),
        demo("a kernel like Alien, polling, modern", "alien", Transport::Modern),
        demo("a kernel like Alien, sleeping, legacy", "alien-sleep", Transport::Legacy),
        demo("a kernel like Alien, sleeping, modern", "alien-sleep", Transport::Modern),
        demo("a kernel like Alien, a long read", "alien-read", Transport::Modern),
        power_cuts(5),
    ]);
    if full {
        steps.extend([
            step("Miri", &[Tool::Miri], || miri::run(&miri::Options::default())),
            step("every interleaving of the ring (loom)", &[], || {
                // Other flags, so another folder: or everything would be built anew each time.
                let folder = Metadata::read()?.target_folder()?.join("loom");
                let folder = folder.to_str().context("the target folder's path is not UTF-8")?;
                let command = cargo(["test", "--package=virtqueue", "--lib", "--release", "--target-dir", folder]);
                succeed(&command.env("RUSTFLAGS", "--cfg loom"), "cargo test")
            }),
            guest("guest, smallest queue", || run::Options { queue_size: Some(4), ..Default::default() }),
            guest("guest, smallest queue, legacy", || run::Options {
                transport: Transport::Legacy,
                queue_size: Some(4),
                ..Default::default()
            }),
            guest("guest, transitional PCI", || run::Options {
                transport: Transport::PciTransitional,
                ..Default::default()
            }),
            guest("guest, PCI with messages", || run::Options { transport: Transport::PciMsix, ..Default::default() }),
            guest("guest, smallest queue, PCI", || run::Options {
                transport: Transport::Pci,
                queue_size: Some(4),
                ..Default::default()
            }),
            demo("guest, four harts and queues, tasks, PCI", "async", Transport::Pci),
            demo("guest, errors of the disk, PCI", "errors", Transport::Pci),
            demo("guest, a disk that changes its size, PCI", "resize", Transport::Pci),
            demo("guest, a disk that changes its size, PCI with messages", "resize", Transport::PciMsix),
            demo("guest, a dump after a panic, PCI with messages", "crash", Transport::PciMsix),
            demo("guest, four harts and queues, tasks, legacy", "async", Transport::Legacy),
            demo("guest, errors of the disk, legacy", "errors", Transport::Legacy),
            demo("guest, a disk that changes its size, legacy", "resize", Transport::Legacy),
            demo("guest, a dump after a panic, legacy", "crash", Transport::Legacy),
            demo("a kernel like rCore, easy-fs, modern", "rcore", Transport::Modern),
            demo("a kernel like rCore, rcore-fs, legacy", "rcore-fs", Transport::Legacy),
            demo("a kernel like Alien, polling, legacy", "alien", Transport::Legacy),
            demo("a kernel like Alien, a long read, legacy", "alien-read", Transport::Legacy),
            guest("a kernel like Alien, sleeping, smallest queue", || run::Options {
                demo: "alien-sleep".into(),
                queue_size: Some(4),
                ..Default::default()
            }),
            guest("a kernel like rCore, smallest queue, legacy", || run::Options {
                demo: "rcore".into(),
                transport: Transport::Legacy,
                queue_size: Some(4),
                ..Default::default()
            }),
            power_cuts(100),
            bad_guest("guest that panics", "panic", "exit code 1"),
            bad_guest("guest that traps", "trap", "load access fault"),
            bad_guest("guest that hangs", "hang", "by the deadline"),
            guest("guest, read-only disk", || run::Options { read_only: true, ..Default::default() }),
            guest("guest, blocks of 4096 bytes", || run::Options {
                property: vec!["logical_block_size=4096".into(), "physical_block_size=4096".into()],
                ..Default::default()
            }),
        ]);
    }
    Ok(steps)
}

fn step(name: impl Into<String>, tools: &'static [Tool], check: impl Fn() -> Result<()> + 'static) -> Step {
    Step { name: name.into(), tools, check: Box::new(check) }
}

/// A step that boots the guest.
fn guest(name: &str, options: impl Fn() -> run::Options + 'static) -> Step {
    step(name, GUEST, move || run::run(&options()))
}

/// A step that boots a guest for one of the demonstrations with a disk of its own.
fn demo(name: &str, demo: &'static str, transport: Transport) -> Step {
    guest(name, move || run::Options { demo: demo.into(), transport, ..Default::default() })
}

/// A step that boots the guest on disks of many kinds.
fn matrix(full: bool) -> Step {
    let name = if full { "guest, every transport, ring and block size" } else { "guest, each two settings of a disk" };
    step(name, GUEST, move || matrix::run(&matrix::Options { full }))
}

/// A step that cuts the power so often.
fn power_cuts(rounds: u32) -> Step {
    step(format!("{rounds} power cuts"), CUTS, move || {
        power_cuts::run(&power_cuts::Options { rounds, transport: Transport::Modern })
    })
}

/// A step that boots a guest that makes a mistake, which must end the command with an error that says `reason`.
fn bad_guest(name: &'static str, demo: &'static str, reason: &'static str) -> Step {
    step(name, GUEST, move || {
        let options = run::Options { demo: demo.into(), timeout: Some(30), ..Default::default() };
        let error = run::run(&options).err().with_context(|| format!("demo {demo} ended without an error"))?;
        let text = format!("{error:#}");
        println!("ended, as it should, with: {text}");
        ensure!(text.contains(reason), "the error does not say \"{reason}\"");
        Ok(())
    })
}

/// Runs cargo.
fn check(arguments: &[&str]) -> Result<()> {
    let what = format!("cargo {}", arguments.first().copied().unwrap_or_default());
    succeed(&cargo(arguments.iter().copied()), &what)
}

/// A step's name, whether it passed, and how long it took.
type StepResult = (String, bool, Duration);

fn table(results: &[StepResult]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["step", "result", "seconds"]);
    for (name, passed, duration) in results {
        let result = if *passed { "passed" } else { "FAILED" };
        table.add_row([name.as_str(), result, &duration.as_secs().to_string()]);
    }
    if let Some(seconds) = table.column_mut(2) {
        seconds.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The last line. Programs read it: keep its form.
fn verdict(results: &[StepResult]) -> String {
    let passed = results.iter().filter(|(_, passed, _)| *passed).count();
    format!("{passed} passed, {} failed", results.len() - passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let result = |passed| ("name".to_owned(), passed, Duration::from_secs(1));
        assert_eq!(verdict(&[result(true), result(false), result(true)]), "2 passed, 1 failed");
    }

    #[test]
    fn every_crate_of_a_kernel_is_built_alone() {
        let names: Vec<String> = steps(false).unwrap().into_iter().map(|step| step.name).collect();
        for package in ["virtio-spec", "virtqueue", "virtio-transport", "virtio-blk"] {
            assert!(names.iter().any(|name| name.starts_with(&format!("{package} alone"))), "{names:?}");
        }
        assert!(!names.iter().any(|name| name.starts_with("xtask") || name.starts_with("testing")), "{names:?}");
    }
}
