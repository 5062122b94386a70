//! `--demo crash`: the guest panics with requests in flight and locks held, and still writes its last words.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use anyhow::{Context, Result, ensure};
use testing_guest::{Report, dump};

use super::{blank, kernel, raw};
use crate::{
    commands::run::{Options, seed},
    qemu::{Cause, Machine},
    session,
};

/// Runs and checks it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let kernel = kernel()?;
    let image = blank("crash.img", 4 << 20)?;
    let seed = seed();
    let machine = Machine {
        kernel: &kernel,
        arguments: &options.arguments(seed),
        drive: raw(&image),
        transport: options.transport,
        properties: &options.properties(),
        extra: &[],
    };
    let (ending, observed) = session::observe(&machine, options.limit(60), options.verbose, |_| Ok(()))?;
    let dumped = observed.reports().contains(&Report::Dumped { sector: dump::SECTOR });
    ensure!(
        ending.cause == Cause::Exit(Some(1)) && dumped,
        "the guest did not panic and dump, but ended with {:?}; the last lines were:\n  {}",
        ending.cause,
        ending.last_lines.join("\n  ")
    );

    let mut found = [0; 512];
    let mut file = File::open(&image).context("opening the image")?;
    file.seek(SeekFrom::Start(dump::SECTOR * 512)).and_then(|_| file.read_exact(&mut found)).context("reading it")?;
    ensure!(found == dump::contents(seed), "sector {} of the image is not what the guest dumped", dump::SECTOR);
    println!("the guest's last words are in sector {} of the image {}", dump::SECTOR, image.display());
    Ok(())
}
