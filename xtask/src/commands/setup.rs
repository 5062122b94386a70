//! `cargo xtask setup`: what the other commands call when something is missing.

use anyhow::Result;
use clap::Args;

use crate::tools::{self, Tool};

/// Get what the other commands need and is missing: Rust's parts by rustup, QEMU by the system's package manager.
///
/// The other commands do this by themselves. Packages are installed only on Debian-likes, as root or with sudo that asks
/// for no password; elsewhere you are told the command.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Get what `cargo xtask miri` needs as well: a nightly Rust with Miri.
    #[arg(long)]
    miri: bool,
}

/// Gets everything.
pub(crate) fn run(options: &Options) -> Result<()> {
    tools::ensure_all(tools::USUAL)?;
    if options.miri {
        tools::ensure_all(&[Tool::Miri])?;
    }
    tools::install_optional();
    println!("everything is there");
    Ok(())
}
