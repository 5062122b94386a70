//! `--demo errors`: a disk with a sector that cannot be read, one that cannot be written, and flushes that fail.

use anyhow::{Result, ensure};
use serde_json::json;
use testing_guest::{
    Report,
    faults::{BAD_READ_SECTOR, BAD_WRITE_SECTOR},
};

use super::{blank, kernel};
use crate::{
    commands::run::{Options, seed},
    qemu::{Drive, Machine, NODE},
    session,
};

/// Runs and checks it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let kernel = kernel()?;
    let image = blank("errors.img", 4 << 20)?;
    // QEMU's block driver that makes errors.
    let node = json!({
        "driver": "blkdebug",
        "node-name": NODE,
        "image": { "driver": "file", "filename": image },
        "inject-error": [
            { "event": "none", "iotype": "read", "sector": BAD_READ_SECTOR },
            { "event": "none", "iotype": "write", "sector": BAD_WRITE_SECTOR },
            { "event": "none", "iotype": "flush" },
        ],
    });
    let mut properties = options.properties();
    // Otherwise some errors stop the machine.
    properties.extend(["rerror=report".into(), "werror=report".into()]);
    let machine = Machine {
        kernel: &kernel,
        arguments: &options.arguments(seed()),
        drive: Drive::Node(&node),
        transport: options.transport,
        properties: &properties,
        extra: &[],
    };
    let (ending, observed) = session::observe(&machine, options.limit(60), options.verbose, |_| Ok(()))?;
    session::judge(&ending, &observed)?;

    let failed: Vec<(&str, u64)> = observed.reports().iter().filter_map(failure).collect();
    let wanted = [("read", BAD_READ_SECTOR), ("write", BAD_WRITE_SECTOR), ("flush", 0)];
    ensure!(failed == wanted, "these requests failed: {failed:?}, expected {wanted:?}");
    println!("the requests that failed are those that the host made fail");
    Ok(())
}

/// What failed, and at which sector.
fn failure(report: &Report) -> Option<(&str, u64)> {
    match report {
        Report::RequestFailed { operation, sector, .. } => Some((operation, *sector)),
        _ => None,
    }
}
