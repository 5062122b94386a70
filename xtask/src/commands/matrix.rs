//! `cargo xtask matrix`: the guest on every kind of ring, over every bus.

use std::{collections::HashMap, time::Instant};

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::{Table, presets};

use crate::{
    check::Row,
    matrix,
    progress::Progress,
    scenarios::{self, blocks},
    session::Show,
};

/// Run the guest on disks that differ in transport, ring, and block size: reads, writes, zeroes and discards, checked in the
/// image.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Every combination. Without this, so many that each two settings meet in one.
    #[arg(long)]
    pub(crate) full: bool,
}

/// What is shown of what the guest found.
const FOUND: [&str; 8] = [
    "transport",
    "packed ring",
    "indirect tables",
    "event idx",
    "queue size",
    "block size",
    "access platform",
    "bounce buffers",
];

/// Runs all variants, even if one fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let kernel = scenarios::kernel()?;
    let mut variants = if options.full { matrix::all() } else { matrix::each_pair() };
    variants.extend(matrix::others());

    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(FOUND.into_iter().chain(["discard", "image", "seconds"]));
    let mut failures = Vec::new();
    for (index, variant) in (1..).zip(&variants) {
        let start = Instant::now();
        let _progress = Progress::new(&format!("{index} of {}: {variant}", variants.len()));
        match blocks::run_kernel(&variant.options(), &kernel, Show::Nothing) {
            Ok(rows) => {
                let found: HashMap<&str, &str> = rows.iter().filter_map(Row::found).collect();
                let found = FOUND.map(|what| found.get(what).copied().unwrap_or_default().to_owned());
                let discard = if variant.unmap { "zeroes" } else { "ignored" };
                let seconds = format!("{:.1}", start.elapsed().as_secs_f32());
                table.add_row(found.into_iter().chain([discard.into(), "as it should be".into(), seconds]));
            }
            Err(error) => failures.push(format!("{variant}: {error:#}")),
        }
    }
    println!("\nwhat the guest found, as QEMU and it were told\n\n{}\n", table.trim_fmt());
    if !failures.is_empty() {
        bail!("{} of {} variants failed:\n  {}", failures.len(), variants.len(), failures.join("\n  "));
    }
    println!("{} variants: reads, writes, zeroes and discards are in the images as they should be", variants.len());
    Ok(())
}
