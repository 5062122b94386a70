//! `--demo alien` and `--demo alien-sleep`: a kernel that is shaped like Alien, whose tasks poll or sleep. `--demo
//! alien-read`: how many requests a long read takes. QEMU says what arrived.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use testing_guest::{
    Report,
    slices::{DISK_SECTORS, FILES, THREADS},
};

use super::{
    blank, kernel_of,
    mini::{self, Waiting},
    raw,
};
use crate::{
    commands::run::{Options, seed},
    qemu::{Machine, NODE},
    qmp::Qmp,
    session,
};

/// The binary of `testing-guest`.
const BIN: &str = "alien-guest";
/// How much `alien-read` reads, and how often it flushes afterwards.
const LONG_SECTORS: u64 = (32 << 20) / 512;
const LONG_FLUSHES: u64 = 3;
/// By how much the disk grows when the guest is told that QEMU was asked.
const GROWTH_BYTES: u64 = 1 << 20;
/// How many sectors a request has on average, at least.
const SECTORS_PER_REQUEST: u64 = 16;

/// Runs and checks the kernel whose tasks use files.
pub(crate) fn run(options: &Options) -> Result<()> {
    let waiting = if options.demo == "alien" { Waiting::Awake } else { Waiting::Asleep };
    let mut counts = Counts::new()?;
    let arguments = counts.arguments();
    mini::run(options, BIN, waiting, &arguments, |report| counts.note(report))?;
    // Each file and each region is made safe once.
    let wanted = THREADS * (2 * FILES + 1);
    let found = counts.count("flush_operations")?;
    ensure!(found == wanted, "QEMU counted {found} flushes, expected {wanted}");
    println!("{found} flushes have reached QEMU");
    Ok(())
}

/// Runs and checks the kernel that reads a lot.
pub(crate) fn long_read(options: &Options) -> Result<()> {
    let kernel = kernel_of(BIN)?;
    let image = blank("alien-read.img", DISK_SECTORS * 512)?;
    let mut counts = Counts::new()?;
    let machine = Machine {
        kernel: &kernel,
        arguments: &options.arguments(seed()),
        drive: raw(&image),
        transport: options.transport,
        properties: &options.properties(),
        extra: &counts.arguments(),
    };
    let (ending, observed) =
        session::observe(&machine, options.limit(60), options.verbose, |report| counts.note(report))?;
    session::judge(&ending, &observed)?;
    let (reads, bytes, flushes) =
        (counts.count("rd_operations")?, counts.count("rd_bytes")?, counts.count("flush_operations")?);
    ensure!(bytes >= LONG_SECTORS * 512, "QEMU has read {bytes} bytes, expected {} at least", LONG_SECTORS * 512);
    ensure!(
        reads * SECTORS_PER_REQUEST <= LONG_SECTORS,
        "{reads} requests for {LONG_SECTORS} sectors, expected one for {SECTORS_PER_REQUEST} at the most"
    );
    ensure!(flushes == LONG_FLUSHES, "QEMU counted {flushes} flushes, expected {LONG_FLUSHES}");
    println!("{LONG_SECTORS} sectors were read in {reads} requests; {flushes} flushes have reached QEMU");
    Ok(())
}

/// What QEMU has counted by the time when the guest waits to be told so.
struct Counts {
    socket: PathBuf,
    _folder: TempDir,
    counted: Option<Value>,
}

impl Counts {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder for a socket")?;
        Ok(Self { socket: folder.path().join("qmp"), _folder: folder, counted: None })
    }

    /// The arguments of QEMU.
    fn arguments(&self) -> [String; 2] {
        Qmp::arguments(&self.socket)
    }

    /// Asks when the guest waits: nothing is in flight then. Tells it by a change of the disk's size.
    fn note(&mut self, report: &Report) -> Result<()> {
        if let Report::Waiting { capacity_sectors } = report {
            let mut control = Qmp::connect(&self.socket)?;
            self.counted = Some(control.execute("query-blockstats", json!({}))?);
            let size = capacity_sectors * 512 + GROWTH_BYTES;
            control.execute("block_resize", json!({ "device": NODE, "size": size }))?;
        }
        Ok(())
    }

    /// One of the numbers, by QEMU's name.
    fn count(&self, name: &str) -> Result<u64> {
        let disk = self.counted.as_ref().context("the guest did not wait to be counted")?;
        let count = &disk[0]["stats"][name];
        count.as_u64().with_context(|| format!("QEMU's {name} of the disk is {count}"))
    }
}
