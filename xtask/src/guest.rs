//! Building the kernels in `testing/guest`.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    progress::Progress,
    workspace::{BARE_TARGET, cargo},
};

/// The binary of `testing-guest` that most demonstrations run in.
pub(crate) const GUEST: &str = "guest";

/// Builds a kernel, a binary of `testing-guest`, and returns the path of its ELF file, wherever cargo has put it.
pub(crate) fn build(bin: &str) -> Result<PathBuf> {
    let progress = Progress::new("building the guest kernel");
    let command = cargo([
        "build",
        "--quiet",
        "--package=testing-guest",
        "--bin",
        bin,
        "--release",
        "--target",
        BARE_TARGET,
        "--message-format=json-render-diagnostics",
    ]);
    // Errors and warnings of the compiler go to the user as they are.
    let output = command.unchecked().reader().context("cargo could not be started")?;

    let mut kernel = None;
    let mut done = 0;
    for line in BufReader::new(&output).lines() {
        // Something else than JSON comes from a build script or a wrapper, and is none of our business.
        let Ok(message) = serde_json::from_str::<Value>(&line.context("reading what cargo says")?) else { continue };
        if message["reason"] != "compiler-artifact" {
            continue;
        }
        done += 1;
        let name = message["target"]["name"].as_str().unwrap_or("?");
        progress.say(format!("building the guest kernel: {name} ({done} crates done)"));
        if name == bin {
            kernel = message["executable"].as_str().map(PathBuf::from).or(kernel);
        }
    }
    let finished = output.try_wait().context("waiting for cargo")?;
    match (finished, kernel) {
        (Some(output), Some(kernel)) if output.status.success() => Ok(kernel),
        (Some(output), None) if output.status.success() => {
            bail!(
                "cargo built the guest kernel but named no executable for it: is `{bin}` still a [[bin]] of testing-guest?"
            )
        }
        _ => bail!(
            "the guest kernel does not build (package testing-guest for {BARE_TARGET}); the compiler says why above"
        ),
    }
}
