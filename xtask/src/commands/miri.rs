//! `cargo xtask miri`: the tests of the driver under an interpreter that finds undefined behaviour.

use anyhow::Result;
use clap::Args;

use crate::{
    tools::{self, Tool},
    workspace::{cargo_of, succeed},
};

/// Run the tests of the driver's crates under Miri, which finds undefined behaviour.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Arguments for the test programs, such as a part of the names of the tests to run.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// The crates with `unsafe` in them.
const PACKAGES: [&str; 6] = [
    "--package=virtqueue",
    "--package=virtio-transport",
    "--package=virtio-blk",
    "--package=virtio-blk-threads",
    "--package=virtio-blk-rcore",
    "--package=virtio-blk-alien",
];

/// Runs Miri.
pub(crate) fn run(options: &Options) -> Result<()> {
    tools::ensure_all(&[Tool::Miri])?;
    let mut arguments = vec!["miri", "test", "--all-features", "--no-fail-fast"];
    arguments.extend(PACKAGES);
    if !options.arguments.is_empty() {
        arguments.push("--");
        arguments.extend(options.arguments.iter().map(String::as_str));
    }
    // A device's addresses are numbers, and turn into pointers again in the device that tests run against. What a
    // device may still use is leaked on purpose; the tests count it.
    let flags = std::env::var("MIRIFLAGS").unwrap_or_default() + " -Zmiri-permissive-provenance -Zmiri-ignore-leaks";
    succeed(&cargo_of("nightly", arguments).env("MIRIFLAGS", flags.trim()), "Miri")
}
