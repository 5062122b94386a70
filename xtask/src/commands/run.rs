//! `cargo xtask run`: boots the guest with a disk, and proves from the image that what it did is right.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use testing_guest::Arguments;

use crate::{
    check::{self, Expected, Observed},
    fat::Contents,
    guest,
    image::{self, Format},
    progress::Progress,
    qemu::{Drive, Machine, Transport},
    scenarios, session,
    tools::{self, Tool},
    workspace,
};

/// Boot the guest kernel in QEMU with a disk, and check in the image that every byte arrived.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct Options {
    /// What the guest does: `tour`; `async`, `errors`, `resize`, `crash`, `rcore`, `rcore-fs`, `alien`, `alien-sleep`
    /// or `alien-read`, each with a disk of its own; or one of the mistakes `panic`, `trap` and `hang`, to see how those end.
    #[arg(long, value_name = "NAME", default_value = "tour")]
    pub(crate) demo: String,

    /// How the disk is connected.
    #[arg(long, value_enum, default_value = "modern")]
    pub(crate) transport: Transport,

    /// A raw disk image of your own with a FAT16 or FAT32 volume, partitioned or not. The guest gets a copy. Without
    /// this, an image with a few files is made.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) disk: Option<PathBuf>,

    /// Give the guest the image itself and not a copy; it will write to it.
    #[arg(long, requires = "disk")]
    pub(crate) in_place: bool,

    /// The volume of the image that is made.
    #[arg(long, value_enum, default_value = "fat16", conflicts_with = "disk")]
    pub(crate) format: Format,

    /// Put a partition table on the image that is made.
    #[arg(long, conflicts_with = "disk")]
    pub(crate) partitioned: bool,

    /// The size of the queue that QEMU is told: a power of two from 4 to 1024.
    #[arg(long, value_name = "N", value_parser = parse_queue_size)]
    pub(crate) queue_size: Option<u16>,

    /// A further property of QEMU's disk, such as `logical_block_size=4096`; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) property: Vec<String>,

    /// Connect the disk so that it cannot be written.
    #[arg(long)]
    pub(crate) read_only: bool,

    /// How often each task of `async` does something.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) rounds: u32,

    /// End the guest after so many seconds. Without this: a minute, and a second for each mebibyte of the disk.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,

    /// The most detailed level of log lines that the guest prints: off, error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log: String,

    /// Show what the firmware prints, too.
    #[arg(long)]
    pub(crate) verbose: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            demo: "tour".into(),
            transport: Transport::Modern,
            disk: None,
            in_place: false,
            format: Format::Fat16,
            partitioned: false,
            queue_size: None,
            property: Vec::new(),
            read_only: false,
            rounds: 32,
            timeout: None,
            log: "info".into(),
            verbose: false,
        }
    }
}

impl Options {
    /// What the guest reads on its command line.
    pub(crate) fn arguments(&self, seed: u64) -> String {
        let Self { demo, rounds, log, .. } = self.clone();
        Arguments { demo, seed, rounds, log }.to_string()
    }

    /// The properties of QEMU's disk.
    pub(crate) fn properties(&self) -> Vec<String> {
        let queue_size = self.queue_size.map(|size| format!("queue-size={size}"));
        self.property.iter().cloned().chain(queue_size).collect()
    }

    /// How long the guest may take, if the user says nothing else.
    pub(crate) fn limit(&self, seconds: u64) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(seconds))
    }
}

fn parse_queue_size(text: &str) -> Result<u16, String> {
    let size = text.parse().ok().filter(|size: &u16| size.is_power_of_two() && (4..=1024).contains(size));
    size.ok_or_else(|| "expected a power of two from 4 to 1024".into())
}

/// Boots and checks; an error says what is wrong.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(scenario) = scenarios::find(&options.demo) {
        ensure!(options.disk.is_none(), "--disk is for the tour: the demo {} has a disk of its own", options.demo);
        return scenario(options);
    }
    // What the user gave is looked at first, before anything is installed or built.
    let original = options.disk.as_deref().map(|disk| image::inspect(disk, options.in_place)).transpose()?;
    let contents = original.as_deref().map(Contents::read).transpose()?;
    let disk = prepare(options, original.as_deref())?;
    let before = contents.map_or_else(|| Contents::read(&disk), Ok)?;
    let fsck_before = check::fsck(&disk, &before)?;

    tools::ensure_all(&[Tool::BareTarget, Tool::Qemu, Tool::Firmware])?;
    let kernel = guest::build(guest::GUEST)?;

    let seed = seed();
    let observed = boot(options, &kernel, &disk, seed)?;

    let expected = Expected { before: &before, fsck_before, seed, read_only: options.read_only };
    let rows = {
        let _progress = Progress::new("checking the image");
        check::check(&disk, &observed, &expected)?
    };
    println!("\n{}\n", check::table(&rows).trim_fmt());
    let problems: Vec<String> = rows.iter().filter_map(check::Row::problem).collect();
    if !problems.is_empty() {
        bail!("the host's check of {} does not agree with the guest:\n  {}", disk.display(), problems.join("\n  "));
    }
    println!("the host's check agrees with the guest; the image is {}", disk.display());
    Ok(())
}

/// Makes the image that the guest gets, and returns its path.
fn prepare(options: &Options, original: Option<&Path>) -> Result<PathBuf> {
    if let Some(original) = original.filter(|_| options.in_place) {
        return Ok(original.to_path_buf());
    }
    let folder = workspace::scratch_folder()?;
    match original {
        Some(original) => {
            let name = original.file_name().context("an image has a name")?;
            let copy = fs::canonicalize(&folder)?.join(name);
            image::copy(original, &copy)?;
            Ok(copy)
        }
        None => {
            let image = folder.join("example.img");
            image::make(&image, options.format, options.partitioned)?;
            Ok(image)
        }
    }
}

/// Runs the machine until it ends.
fn boot(options: &Options, kernel: &Path, disk: &Path, seed: u64) -> Result<Observed> {
    let bytes = fs::metadata(disk).with_context(|| format!("looking at {}", disk.display()))?.len();
    let machine = Machine {
        kernel,
        arguments: &options.arguments(seed),
        drive: Drive::Image { file: disk, format: "raw", read_only: options.read_only },
        transport: options.transport,
        properties: &options.properties(),
        extra: &[],
    };
    let (ending, observed) =
        session::observe(&machine, options.limit(60 + (bytes >> 20)), options.verbose, |_| Ok(()))?;
    session::judge(&ending, &observed)?;
    Ok(observed)
}

/// A number that differs from run to run, so that what an earlier run wrote cannot be taken for this one's.
pub(crate) fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() ^ u64::from(now.subsec_nanos()) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_sizes_are_those_of_qemu() {
        assert_eq!(parse_queue_size("4"), Ok(4));
        assert_eq!(parse_queue_size("1024"), Ok(1024));
        for wrong in ["0", "2", "12", "2048", "-4", "many"] {
            assert!(parse_queue_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_default_is_a_command_line_without_options() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let line: Line = clap::Parser::parse_from(["run"]);
        assert_eq!(line.options, Options::default());
    }
}
