//! `cargo xtask power-cuts`: what a flush is worth when the power fails.
//!
//! The guest writes and flushes without end, and reports each flush that returned `Ok`. QEMU is killed at a random
//! moment, and what was reported must be in the image. The image is a qcow2 one, whose tables QEMU writes back at a
//! flush and seldom else: of a raw one nothing would be lost, as its pages are the host's.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use testing_guest::{Arguments, Report, journal};

use super::run;
use crate::{
    progress::Progress,
    qemu::{self, Cause, Drive, Machine, Transport},
    scenarios,
    tools::{self, Tool},
    workspace::{self, succeed},
};

/// Kill QEMU at random moments while the guest writes and flushes, and check that nothing flushed is lost.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// How often the power fails.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,

    /// How the disk is connected.
    #[arg(long, value_enum, default_value = "modern")]
    pub(crate) transport: Transport,
}

/// One round without flushes for so many with them.
const ROUNDS_PER_CONTROL: u32 = 10;
/// How many rounds without flushes must lose nothing before that is an error.
const MAX_CONTROLS: u32 = 20;
/// The size of the disk, which is never full: the image takes only what is written.
const DISK_BYTES: u64 = 16 << 30;
/// How long the guest may take until its first report.
const BOOT: Duration = Duration::from_secs(60);
/// How long the guest then writes before the power fails, in milliseconds.
const MOMENTS: std::ops::Range<u64> = 1..700;

/// What a round was like.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// How many blocks the guest has reported.
    reported: u64,
    /// How many of them are not in the image.
    lost: u64,
}

/// Cuts the power, again and again.
pub(crate) fn run(options: &Options) -> Result<()> {
    tools::ensure_all(&[Tool::QemuImg])?;
    let rig = Rig {
        kernel: scenarios::kernel()?,
        image: workspace::scratch_folder()?.join("journal.qcow2"),
        raw: workspace::scratch_folder()?.join("journal.img"),
        transport: options.transport,
    };
    let (mut flushed, mut control) = (Vec::new(), Vec::new());
    let progress = Progress::new("cutting the power");
    for round in 1..=options.rounds {
        let outcome = rig.round("journal").with_context(|| format!("round {round}"))?;
        progress.say(format!("round {round} of {}: {} blocks flushed", options.rounds, outcome.reported));
        ensure!(
            outcome.lost == 0,
            "round {round}: {} of {} blocks are lost whose flush was Ok; the image is {}",
            outcome.lost,
            outcome.reported,
            rig.image.display()
        );
        flushed.push(outcome);
    }
    let lost = |rounds: &[Round]| rounds.iter().map(|round| round.lost).sum::<u64>();
    let enough = options.rounds.div_ceil(ROUNDS_PER_CONTROL) as usize;
    while control.len() < enough || (lost(&control) == 0 && control.len() < MAX_CONTROLS as usize) {
        progress.say(format!("control {}: without flushes", control.len() + 1));
        control.push(rig.round("unflushed").context("a round without flushes")?);
    }
    drop(progress);
    for (what, rounds) in [("with flushes", &flushed), ("without flushes, where some must be lost", &control)] {
        let reported: u64 = rounds.iter().map(|round| round.reported).sum();
        let losers = rounds.iter().filter(|round| round.lost > 0).count();
        println!(
            "{what}: the power failed {} times; {reported} blocks were reported, {} are lost, in {losers} rounds",
            rounds.len(),
            lost(rounds)
        );
    }
    ensure!(lost(&control) > 0, "nothing was lost without flushes either: the test proves nothing");
    Ok(())
}

/// What every round uses.
struct Rig {
    kernel: PathBuf,
    image: PathBuf,
    raw: PathBuf,
    transport: Transport,
}

impl Rig {
    /// Lets the guest write to a new image until the power fails, and looks what is there.
    fn round(&self, demo: &str) -> Result<Round> {
        let size = DISK_BYTES.to_string();
        let create = duct::cmd!("qemu-img", "create", "-q", "-f", "qcow2", &self.image, size);
        succeed(&create, "qemu-img create")?;
        let seed = run::seed();
        let reported = self.write(demo, seed)?;
        let convert = duct::cmd!("qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw", &self.image, &self.raw);
        succeed(&convert, "qemu-img convert")?;
        let lost = lost(&self.raw, seed, reported).context("reading the image")?;
        Ok(Round { reported, lost })
    }

    /// Lets the guest write until the power fails, and returns how many blocks it has reported.
    fn write(&self, demo: &str, seed: u64) -> Result<u64> {
        let arguments = Arguments { demo: demo.into(), seed, ..Arguments::default() }.to_string();
        let machine = Machine {
            kernel: &self.kernel,
            arguments: &arguments,
            drive: Drive::Image { file: &self.image, format: "qcow2", read_only: false },
            transport: self.transport,
            properties: &[],
            extra: &[],
        };
        let moment = Duration::from_millis(fastrand::u64(MOMENTS));
        let mut reported = 0;
        let ending = qemu::watch_until(&machine.command(), BOOT, |line| match Report::parse(line) {
            Some(Ok(Report::Journaled { block })) => {
                reported = block + 1;
                (block == 0).then_some(moment)
            }
            // The last line may be cut off.
            _ => None,
        })?;
        match ending.cause {
            Cause::Deadline(_) if reported > 0 => Ok(reported),
            cause => bail!(
                "the guest should have written until it was killed, but: {cause:?}; the last lines were:\n  {}",
                ending.last_lines.join("\n  ")
            ),
        }
    }
}

/// How many of the first blocks are not in a raw image.
fn lost(raw: &Path, seed: u64, blocks: u64) -> io::Result<u64> {
    let mut file = File::open(raw)?;
    let mut found = vec![0; journal::BLOCK_BYTES];
    let mut lost = 0;
    for block in 0..blocks {
        file.seek(SeekFrom::Start(block * journal::STRIDE_BYTES))?;
        file.read_exact(&mut found)?;
        lost += u64::from(found != journal::contents(seed, block));
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn blocks_that_are_not_there_are_counted() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(3 * journal::STRIDE_BYTES).unwrap();
        for block in [0, 2] {
            file.seek(SeekFrom::Start(block * journal::STRIDE_BYTES)).unwrap();
            file.write_all(&journal::contents(9, block)).unwrap();
        }
        assert_eq!(lost(file.path(), 9, 3).unwrap(), 1);
        assert_eq!(lost(file.path(), 9, 1).unwrap(), 0);
        assert_eq!(lost(file.path(), 8, 3).unwrap(), 3);
    }
}
