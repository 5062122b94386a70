//! `--demo resize`: the disk becomes larger, then smaller, while the guest runs.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testing_guest::Report;

use super::{blank, kernel, raw};
use crate::{
    commands::run::{Options, seed},
    qemu::{Machine, NODE},
    qmp::Qmp,
    session,
};

/// The sizes of the disk in bytes, one after the other.
const SIZES: [u64; 3] = [8 << 20, 12 << 20, 6 << 20];

/// Runs and checks it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let kernel = kernel()?;
    let image = blank("resize.img", SIZES[0])?;
    let folder = tempfile::tempdir().context("making a folder for a socket")?;
    let socket = folder.path().join("qmp");
    let options = Options { rounds: SIZES.len() as u32 - 1, ..options.clone() };
    let machine = Machine {
        kernel: &kernel,
        arguments: &options.arguments(seed()),
        drive: raw(&image),
        transport: options.transport,
        properties: &options.properties(),
        extra: &Qmp::arguments(&socket),
    };

    let mut control = None;
    let mut sizes = SIZES.into_iter().skip(1);
    let (ending, observed) = session::observe(&machine, options.limit(60), options.verbose, |report| {
        let Report::Waiting { .. } = report else { return Ok(()) };
        let control = match &mut control {
            Some(control) => control,
            None => control.insert(Qmp::connect(&socket)?),
        };
        let size = sizes.next().context("the guest waits once too often")?;
        control.execute("block_resize", json!({ "device": NODE, "size": size })).map(drop)
    })?;
    session::judge(&ending, &observed)?;

    let found: Vec<(u64, u64)> = observed.reports().iter().filter_map(change).collect();
    let wanted: Vec<(u64, u64)> = SIZES.windows(2).map(|sizes| (sizes[0] / 512, sizes[1] / 512)).collect();
    ensure!(found == wanted, "the guest saw these sizes, old and new: {found:?}, expected {wanted:?}");
    println!("the guest has seen each size that the host gave the disk");
    Ok(())
}

/// The sizes before and after a change, in sectors.
fn change(report: &Report) -> Option<(u64, u64)> {
    match report {
        Report::Resized { old_sectors, new_sectors } => Some((*old_sectors, *new_sectors)),
        _ => None,
    }
}
