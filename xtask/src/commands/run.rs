//! `cargo xtask run`: boots the guest with a disk, and proves from the image that what it did is right.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use testing_guest::{Arguments, Report};

use crate::{
    check::{self, Expected, Observed},
    fat::Contents,
    guest,
    image::{self, Format},
    progress::{Progress, human_bytes},
    qemu::{self, Cause, Ending, Machine, Transport},
    tools::{self, Tool},
    workspace::Metadata,
};

/// Boot the guest kernel in QEMU with a disk, and check in the image that every byte arrived.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct Options {
    /// What the guest does: `tour`, or one of the mistakes `panic`, `trap` and `hang`, to see how those end.
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
            timeout: None,
            log: "info".into(),
            verbose: false,
        }
    }
}

fn parse_queue_size(text: &str) -> Result<u16, String> {
    let size = text.parse().ok().filter(|size: &u16| size.is_power_of_two() && (4..=1024).contains(size));
    size.ok_or_else(|| "expected a power of two from 4 to 1024".into())
}

/// Boots and checks; an error says what is wrong.
pub(crate) fn run(options: &Options) -> Result<()> {
    // What the user gave is looked at first, before anything is installed or built.
    let original = options.disk.as_deref().map(|disk| image::inspect(disk, options.in_place)).transpose()?;
    let contents = original.as_deref().map(Contents::read).transpose()?;
    let disk = prepare(options, original.as_deref())?;
    let before = contents.map_or_else(|| Contents::read(&disk), Ok)?;
    let fsck_before = check::fsck(&disk, &before)?;

    tools::ensure_all(&[Tool::BareTarget, Tool::Qemu, Tool::Firmware])?;
    let kernel = guest::build()?;

    let seed = seed();
    let mut observed = Observed::default();
    let ending = boot(options, &kernel, &disk, seed, &mut observed)?;
    judge(&ending, &observed)?;

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
    let folder = Metadata::read()?.target_folder()?.join("xtask");
    fs::create_dir_all(&folder).with_context(|| format!("making the folder {}", folder.display()))?;
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

/// Runs the machine until it ends, showing what the guest prints and noting what it reports.
fn boot(options: &Options, kernel: &Path, disk: &Path, seed: u64, observed: &mut Observed) -> Result<Ending> {
    let bytes = fs::metadata(disk).with_context(|| format!("looking at {}", disk.display()))?.len();
    let seconds = options.timeout.unwrap_or(60 + (bytes >> 20));
    let arguments = Arguments { demo: options.demo.clone(), seed, log: options.log.clone() }.to_string();
    let mut properties = options.property.clone();
    properties.extend(options.queue_size.map(|size| format!("queue-size={size}")));
    let machine = Machine {
        kernel,
        arguments: &arguments,
        disk,
        transport: options.transport,
        properties: &properties,
        read_only: options.read_only,
    };

    let progress = Progress::new("booting the guest");
    let mut damaged = None;
    let ending = qemu::watch(&machine.command(), Duration::from_secs(seconds), |line| match Report::parse(line) {
        Some(Ok(report)) => {
            progress.say(activity(&report));
            observed.note(report);
        }
        Some(Err(error)) => damaged = damaged.take().or(Some(error)),
        // Before the kernel reports that it runs, it is the firmware that prints.
        None if observed.started() || options.verbose => progress.print(line),
        None => (),
    });
    drop(progress);
    let ending = ending.with_context(|| format!("running {}", qemu::PROGRAM))?;
    match damaged {
        Some(error) => Err(error.into()),
        None => Ok(ending),
    }
}

/// What the guest is doing after a report, for the line at the bottom.
fn activity(report: &Report) -> String {
    match report {
        Report::Progress { done_bytes, total_bytes } => {
            format!("reading the whole disk: {} of {}", human_bytes(*done_bytes), human_bytes(*total_bytes))
        }
        Report::Read { path, .. } => format!("read {path}"),
        Report::Written { path, .. } => format!("wrote {path}"),
        Report::WholeDisk { .. } => "shutting down".into(),
        _ => "the guest runs".into(),
    }
}

/// Turns a machine that did not end well into one message.
fn judge(ending: &Ending, observed: &Observed) -> Result<()> {
    let what = match (&ending.cause, observed.failure()) {
        (Cause::Exit(Some(0)), None) if observed.finished() => return Ok(()),
        (_, Some(reason)) => bail!("the guest gave up: {reason}"),
        (Cause::Deadline(limit), _) => {
            format!(
                "the guest had not ended by the deadline of {} s (set by --timeout) and was killed",
                limit.as_secs()
            )
        }
        (Cause::Exit(Some(0)), None) => "the guest ended, but did not say that it was done".into(),
        (Cause::Exit(Some(code)), None) if observed.started() => format!("the guest failed (exit code {code})"),
        (Cause::Exit(Some(code)), None) => format!("QEMU or the guest failed at the start (exit code {code})"),
        (Cause::Exit(None), None) => "QEMU was ended by a signal".into(),
    };
    bail!("{what}; the last lines were:\n  {}", ending.last_lines.join("\n  "))
}

/// A number that differs from run to run, so that what an earlier run wrote cannot be taken for this one's.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() ^ u64::from(now.subsec_nanos()) << 32
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

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

    fn judged(cause: Cause, reports: &[Report]) -> String {
        let mut observed = Observed::default();
        reports.iter().for_each(|report| observed.note(report.clone()));
        let ending = Ending { cause, last_lines: vec!["the last line".into()] };
        judge(&ending, &observed).map_or_else(|error| error.to_string(), |()| "good".into())
    }

    #[test]
    fn only_a_guest_that_says_so_is_done() {
        let started = Report::Started { demo: "tour".into() };
        let failed = Report::Failed { reason: "no disk".into() };
        assert_eq!(judged(Cause::Exit(Some(0)), &[started.clone(), Report::Finished]), "good");
        assert!(judged(Cause::Exit(Some(0)), from_ref(&started)).contains("did not say"));
        assert!(judged(Cause::Exit(Some(1)), &[started.clone(), Report::Finished]).contains("exit code 1"));
        assert!(judged(Cause::Exit(Some(1)), &[started.clone(), failed]).contains("no disk"));
        assert!(judged(Cause::Exit(Some(1)), &[]).contains("at the start"));
        assert!(judged(Cause::Exit(None), from_ref(&started)).contains("signal"));
        let deadline = judged(Cause::Deadline(Duration::from_secs(7)), &[started]);
        assert!(deadline.contains("deadline of 7 s") && deadline.contains("the last line"), "{deadline}");
    }
}
