//! What the guest does on a disk of its own, and what the host then checks: one file per demonstration.

mod alien;
pub(crate) mod blocks;
mod crash;
mod errors;
mod mini;
mod resize;
mod tasks;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    commands::run::Options,
    guest,
    qemu::Drive,
    tools::{self, Tool},
    workspace,
};

/// Runs a demonstration, and checks it.
pub(crate) type Scenario = fn(&Options) -> Result<()>;

/// The names of all of them.
pub(crate) const NAMES: [&str; 10] =
    ["async", "blocks", "errors", "resize", "crash", "rcore", "rcore-fs", "alien", "alien-sleep", "alien-read"];

/// The demonstration of this name, if it is one of these.
pub(crate) fn find(demo: &str) -> Option<Scenario> {
    match demo {
        "async" => Some(tasks::run),
        "blocks" => Some(blocks::run),
        "errors" => Some(errors::run),
        "resize" => Some(resize::run),
        "crash" => Some(crash::run),
        "rcore" | "rcore-fs" => Some(mini::rcore),
        "alien" | "alien-sleep" => Some(alien::run),
        "alien-read" => Some(alien::long_read),
        _ => None,
    }
}

/// Builds the kernel, after getting what is missing for it and for starting it.
pub(crate) fn kernel() -> Result<PathBuf> {
    kernel_of(guest::GUEST)
}

/// The same for another binary of `testing-guest`.
pub(crate) fn kernel_of(bin: &str) -> Result<PathBuf> {
    tools::ensure_all(&[Tool::BareTarget, Tool::Qemu, Tool::Firmware])?;
    guest::build(bin)
}

/// Makes a raw image of zeros.
fn blank(name: &str, bytes: u64) -> Result<PathBuf> {
    let image = workspace::scratch_folder()?.join(name);
    let made = File::create(&image).and_then(|file| file.set_len(bytes));
    made.with_context(|| format!("making the image {}", image.display()))?;
    Ok(image)
}

/// A disk of a raw image.
fn raw(file: &Path) -> Drive<'_> {
    Drive::Image { file, format: "raw", read_only: false }
}
