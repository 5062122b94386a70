//! `--demo blocks`: transfers of every kind on a disk without a file system. The host makes the same changes to a copy,
//! and the image must be equal to that.

use std::{fs, ops::Range, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};
use testing_guest::{
    Report,
    blocks::{DISCARDED, DISK_SECTORS, ZEROED, initial_seed},
    hex, pattern,
};

use super::kernel;
use crate::{
    check::Row,
    commands::run::{Options, seed},
    properties::Asked,
    qemu::{Drive, Machine, NODE},
    session::{self, Show},
    workspace,
};

/// Builds the guest, runs and checks it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let show = if options.verbose { Show::Everything } else { Show::Kernel };
    let rows = run_kernel(options, &kernel()?, show)?;
    println!("\n{}\n", crate::check::table(&rows).trim_fmt());
    println!("the image holds what the guest was to write, and nothing else has changed");
    Ok(())
}

/// Runs and checks a kernel that is there. Returns what was found of the disk.
pub(crate) fn run_kernel(options: &Options, kernel: &Path, show: Show) -> Result<Vec<Row>> {
    let image = workspace::scratch_folder()?.join("blocks.img");
    let seed = seed();
    let mut contents = pattern::bytes(initial_seed(seed), DISK_SECTORS as usize * 512);
    let initial = hex(&Sha256::digest(&contents));
    fs::write(&image, &contents).with_context(|| format!("making the image {}", image.display()))?;

    let discard = if options.unmap { Discard::Zeroes } else { Discard::Nothing };
    let node = json!({
        "driver": "raw",
        "node-name": NODE,
        "discard": if options.unmap { "unmap" } else { "ignore" },
        "file": { "driver": "file", "filename": image },
    });
    let arguments = options.guest_arguments(seed);
    let properties = options.properties();
    let machine = Machine {
        kernel,
        arguments: &arguments.to_string(),
        drive: Drive::Node(&node),
        transport: options.transport,
        properties: &properties,
        extra: &[],
    };
    let (ending, observed) = session::observe_showing(show, &machine, options.limit(60), |_| Ok(()))?;
    session::judge(&ending, &observed)?;

    let asked = Asked { transport: options.transport, properties: &properties, arguments: &arguments };
    let rows = asked.check(observed.reports());
    let problems: Vec<String> = rows.iter().filter_map(Row::problem).collect();
    if !problems.is_empty() {
        bail!("what the guest found is not what QEMU was told:\n  {}", problems.join("\n  "));
    }

    let done = repeat(&mut contents, observed.reports(), discard)?;
    let wanted = Done { written: WRITTEN, zeroed: ZEROED.into(), discarded: vec![DISCARDED] };
    ensure!(done == wanted, "the guest has done {done:?}, expected {wanted:?}");
    let found = fs::read(&image).with_context(|| format!("reading the image {}", image.display()))?;
    if let Some(byte) = difference(&found, &contents) {
        bail!("the image {} differs at byte {byte} from what the guest was to write", image.display());
    }
    let read: Vec<&str> = observed.reports().iter().filter_map(digest).collect();
    let wanted = [initial, hex(&Sha256::digest(&contents))];
    ensure!(read == wanted, "the guest read disks of SHA-256 {read:?}, expected {wanted:?}");
    Ok(rows)
}

/// What a discard does to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Discard {
    /// QEMU ignores it.
    Nothing,
    /// QEMU makes a hole in the file, which reads as zeroes.
    Zeroes,
}

/// What the guest says that it did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    /// How many regions it wrote.
    written: usize,
    /// What it made read as zeroes.
    zeroed: Vec<Range<u64>>,
    /// What it discarded.
    discarded: Vec<Range<u64>>,
}

/// How many regions the guest writes.
const WRITTEN: usize = 5;

/// Does to a copy what the guest says that it did.
fn repeat(contents: &mut [u8], reports: &[Report], discard: Discard) -> Result<Done> {
    let mut done = Done::default();
    for report in reports {
        match *report {
            Report::Region { first_sector, sectors, seed } => {
                pattern::fill(seed, part(contents, first_sector, sectors)?);
                done.written += 1;
            }
            Report::Zeroed { first_sector, sectors } => {
                part(contents, first_sector, sectors)?.fill(0);
                done.zeroed.push(first_sector..first_sector + sectors);
            }
            Report::Discarded { first_sector, sectors } => {
                if discard == Discard::Zeroes {
                    part(contents, first_sector, sectors)?.fill(0);
                }
                done.discarded.push(first_sector..first_sector + sectors);
            }
            _ => (),
        }
    }
    Ok(done)
}

/// The bytes of sectors.
fn part(contents: &mut [u8], first_sector: u64, sectors: u64) -> Result<&mut [u8]> {
    let range = first_sector as usize * 512..(first_sector + sectors) as usize * 512;
    contents.get_mut(range).context("the guest reports sectors behind the end of the disk")
}

/// Where two images differ first.
fn difference(found: &[u8], wanted: &[u8]) -> Option<usize> {
    let differs = found.iter().zip(wanted).position(|(found, wanted)| found != wanted);
    differs.or((found.len() != wanted.len()).then_some(found.len().min(wanted.len())))
}

/// The digest of the whole disk.
fn digest(report: &Report) -> Option<&str> {
    match report {
        Report::WholeDisk { sha256, .. } => Some(sha256),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    #[test]
    fn what_was_done_is_repeated_in_order() {
        let reports = [
            Report::Region { first_sector: 1, sectors: 3, seed: 7 },
            Report::Region { first_sector: 2, sectors: 1, seed: 8 },
            Report::Zeroed { first_sector: 1, sectors: 1 },
            Report::Discarded { first_sector: 3, sectors: 1 },
        ];
        let (first, second) = (pattern::bytes(7, 3 * 512), pattern::bytes(8, 512));
        for (discard, last) in [(Discard::Nothing, first[1024..].to_vec()), (Discard::Zeroes, vec![0; 512])] {
            let mut contents = vec![1; 5 * 512];
            let done = repeat(&mut contents, &reports, discard).unwrap();
            assert_eq!(done.written, 2);
            assert_eq!(done.zeroed, from_ref(&(1..2)));
            assert_eq!(done.discarded, from_ref(&(3..4)));
            let wanted = [vec![1; 512], vec![0; 512], second.clone(), last, vec![1; 512]].concat();
            assert_eq!(difference(&contents, &wanted), None);
            contents[600] ^= 1;
            assert_eq!(difference(&contents, &wanted), Some(600));
            assert_eq!(difference(&wanted[..700], &wanted), Some(700));
        }
        let beyond = [Report::Region { first_sector: 3, sectors: 2, seed: 7 }];
        assert!(repeat(&mut [0; 4 * 512], &beyond, Discard::Nothing).is_err());
    }
}
