//! `cargo xtask run`: boots the guest with a disk, and proves from the image that what it did is right.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::json;
use testing_guest::{Arguments, MemoryKind, Report, Ring};

use crate::{
    check::{self, Expected, Observed},
    fat::Contents,
    guest,
    image::{self, Format},
    progress::Progress,
    properties::{self, Asked},
    qemu::{Drive, Machine, NODE, Transport},
    qmp::Qmp,
    scenarios, session,
    tools::{self, Tool},
    workspace,
};

/// Boot the guest kernel in QEMU with a disk, and check in the image that every byte arrived.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct Options {
    /// What the guest does: `tour`; `blocks`, `async`, `errors`, `resize`, `crash`, `rcore`, `rcore-fs`, `alien`, `alien-sleep`
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

    /// The most entries of the queue, from 4 to 1024. QEMU is told the next power of two; a split ring has the one below.
    #[arg(long, value_name = "N", value_parser = parse_queue_size)]
    pub(crate) queue_size: Option<u16>,

    /// The form of the ring in `tour` and `blocks`: either (packed where the disk has it: --property packed=on), split
    /// or packed.
    #[arg(long, value_name = "FORM", default_value = "either")]
    pub(crate) ring: Ring,

    /// The memory of the driver in `tour` and `blocks`: direct, or bounce for a pool that is set apart for the disk, as
    /// --property iommu_platform=on asks for.
    #[arg(long, value_name = "KIND", default_value = "direct")]
    pub(crate) memory: MemoryKind,

    /// A further property of QEMU's disk, such as `logical_block_size=4096`, `packed=on`, `config-wce=off`,
    /// `write-cache=off` or `cyls=500`; may be given several times. What the guest finds is held against it.
    #[arg(long, value_name = "KEY=VALUE", value_parser = properties::parse)]
    pub(crate) property: Vec<String>,

    /// Let what `blocks` discards become holes in the image (QEMU's discard=unmap).
    #[arg(long)]
    pub(crate) unmap: bool,

    /// Connect the disk so that it cannot be written.
    #[arg(long)]
    pub(crate) read_only: bool,

    /// How often each task of `async` does something.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
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
            ring: Ring::Either,
            memory: MemoryKind::Direct,
            property: Vec::new(),
            unmap: false,
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
        self.guest_arguments(seed).to_string()
    }

    /// The same, before it becomes text.
    pub(crate) fn guest_arguments(&self, seed: u64) -> Arguments {
        let Self { demo, rounds, log, ring, queue_size, memory, .. } = self.clone();
        Arguments { demo, seed, rounds, log, ring, queue_size, memory }
    }

    /// The properties of QEMU's disk.
    pub(crate) fn properties(&self) -> Vec<String> {
        let queue_size = self.queue_size.map(|size| format!("queue-size={}", size.next_power_of_two()));
        self.property.iter().cloned().chain(queue_size).collect()
    }

    /// How long the guest may take, if the user says nothing else.
    pub(crate) fn limit(&self, seconds: u64) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(seconds))
    }
}

fn parse_queue_size(text: &str) -> Result<u16, String> {
    let size = text.parse().ok().filter(|size: &u16| (4..=1024).contains(size));
    size.ok_or_else(|| "expected a number from 4 to 1024".into())
}

/// Boots and checks; an error says what is wrong.
pub(crate) fn run(options: &Options) -> Result<()> {
    check_options(options)?;
    if let Some(scenario) = scenarios::find(&options.demo) {
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
    let mut properties = options.properties();
    if options.disk.is_none() {
        add_shape(&mut properties, fs::metadata(&disk)?.len());
    }
    let observed = boot(options, &kernel, &disk, &properties, seed)?;

    let expected = Expected { before: &before, fsck_before, seed, read_only: options.read_only };
    let asked =
        Asked { transport: options.transport, properties: &properties, arguments: &options.guest_arguments(seed) };
    let mut rows = asked.check(observed.reports());
    rows.extend({
        let _progress = Progress::new("checking the image");
        check::check(&disk, &observed, &expected)?
    });
    println!("\n{}\n", check::table(&rows).trim_fmt());
    let problems: Vec<String> = rows.iter().filter_map(check::Row::problem).collect();
    if !problems.is_empty() {
        bail!("the host's check of {} does not agree with the guest:\n  {}", disk.display(), problems.join("\n  "));
    }
    println!("the host's check agrees with the guest; the image is {}", disk.display());
    Ok(())
}

/// What the guest does without a scenario of the host's: the tour, and mistakes.
const PLAIN: [&str; 4] = ["tour", "panic", "trap", "hang"];

/// Finds what cannot be, and options that would do nothing.
fn check_options(options: &Options) -> Result<()> {
    let demo = options.demo.as_str();
    let plain = PLAIN.contains(&demo);
    ensure!(
        plain || scenarios::find(demo).is_some(),
        "there is no demo {demo}, expected one of: {}, {}",
        PLAIN.join(", "),
        scenarios::NAMES.join(", ")
    );
    ensure!(options.disk.is_none() || plain, "--disk is for the tour: the demo {demo} has a disk of its own");
    let usual = Options::default();
    let idle = [
        ("--format", !plain && options.format != usual.format),
        ("--partitioned", !plain && options.partitioned),
        ("--read-only", !plain && options.read_only),
        ("--ring", !plain && demo != "blocks" && options.ring != usual.ring),
        ("--memory", !plain && demo != "blocks" && options.memory != usual.memory),
        ("--unmap", demo != "blocks" && options.unmap),
        ("--rounds", demo != "async" && options.rounds != usual.rounds),
    ];
    for (option, idle) in idle {
        ensure!(!idle, "{option} does nothing in the demo {demo}: leave it out (see cargo xtask run --help)");
    }
    let packed = properties::is_on(&options.property, "packed");
    let legacy = options.transport == Transport::Legacy;
    ensure!(
        !(packed && legacy),
        "a legacy device has no packed ring: leave --property packed=on out, or take another --transport"
    );
    ensure!(
        options.ring != Ring::Packed || packed,
        "QEMU's disk has a packed ring only with --property packed=on: add that, or leave --ring packed out"
    );
    Ok(())
}

/// Gives a disk that is made here a geometry and a topology, for the guest to find: as far as the user has not.
fn add_shape(properties: &mut Vec<String>, bytes: u64) {
    const HEADS: u64 = 4;
    const SECTORS: u64 = 16;
    let shape = [
        ("cyls", bytes / 512 / HEADS / SECTORS),
        ("heads", HEADS),
        ("secs", SECTORS),
        ("physical_block_size", 4096),
        ("min_io_size", 4096),
        ("opt_io_size", 64 << 10),
    ];
    for (key, value) in shape {
        let key = format!("{key}=");
        if !properties.iter().any(|property| property.starts_with(&key)) {
            properties.push(format!("{key}{value}"));
        }
    }
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
fn boot(options: &Options, kernel: &Path, disk: &Path, properties: &[String], seed: u64) -> Result<Observed> {
    let bytes = fs::metadata(disk).with_context(|| format!("looking at {}", disk.display()))?.len();
    let folder = tempfile::tempdir().context("making a folder for a socket")?;
    let socket = folder.path().join("qmp");
    let machine = Machine {
        kernel,
        arguments: &options.arguments(seed),
        drive: Drive::Image { file: disk, format: "raw", read_only: options.read_only },
        transport: options.transport,
        properties,
        extra: &Qmp::arguments(&socket),
    };
    let mut control = None;
    let mut seen = Vec::new();
    let limit = options.limit(60 + (bytes >> 20));
    let (ending, observed) = session::observe(&machine, limit, options.verbose, |report| {
        let Report::CacheMode { write_back } = *report else { return Ok(()) };
        let control = match &mut control {
            Some(control) => control,
            None => control.insert(Qmp::connect(&socket)?),
        };
        seen.push((write_back, control.writes_back()?));
        // Telling it the size that it has changes nothing, and interrupts the guest, which waits for that.
        control.execute("block_resize", json!({ "device": NODE, "size": bytes })).map(drop)
    })?;
    session::judge(&ending, &observed)?;
    for (guest, qemu) in &seen {
        ensure!(
            guest == qemu,
            "the guest set {}, but QEMU's query-block says {}",
            cache_mode(*guest),
            cache_mode(*qemu)
        );
    }
    if !seen.is_empty() {
        let modes: Vec<&str> = seen.iter().map(|(_, qemu)| cache_mode(*qemu)).collect();
        println!("cache mode as QEMU saw it change: {}", modes.join(", "));
    }
    ensure!(
        seen.len() == changes(&observed, options.read_only),
        "the guest changed the cache mode {} times, expected {}",
        seen.len(),
        changes(&observed, options.read_only)
    );
    Ok(observed)
}

/// How often the guest must have changed the cache mode: there and back, for each disk that can do so.
fn changes(observed: &Observed, read_only: bool) -> usize {
    let can_change = |report: &&Report| matches!(report, Report::Properties { cache_mode_can_change: true, .. });
    if read_only { 0 } else { 2 * observed.reports().iter().filter(can_change).count() }
}

fn cache_mode(write_back: bool) -> &'static str {
    if write_back { "write-back" } else { "write-through" }
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
        for wrong in ["0", "3", "1025", "2048", "-4", "many"] {
            assert!(parse_queue_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn qemu_is_told_a_power_of_two() {
        let told = |size| Options { queue_size: Some(size), ..Options::default() }.properties();
        assert_eq!(told(16), ["queue-size=16"]);
        assert_eq!(told(100), ["queue-size=128"]);
    }

    #[test]
    fn what_the_user_says_of_the_shape_stays() {
        let mut properties = vec!["secs=8".to_owned(), "min_io_size=512".to_owned()];
        add_shape(&mut properties, 32 << 20);
        let wanted = ["secs=8", "min_io_size=512", "cyls=1024", "heads=4", "physical_block_size=4096"];
        assert_eq!(properties[..5], wanted);
        assert_eq!(properties[5..], ["opt_io_size=65536"]);
    }

    #[test]
    fn what_would_do_nothing_is_refused() {
        let refused = |options: Options| format!("{:#}", check_options(&options).expect_err("a refusal"));
        let demo = |demo: &str| Options { demo: demo.into(), ..Options::default() };
        assert!(refused(demo("nonsense")).contains("expected one of: tour"));
        assert!(refused(Options { read_only: true, ..demo("rcore") }).starts_with("--read-only"));
        assert!(refused(Options { unmap: true, ..demo("tour") }).starts_with("--unmap"));
        assert!(refused(Options { rounds: 5, ..demo("tour") }).starts_with("--rounds"));
        assert!(refused(Options { ring: Ring::Packed, ..demo("tour") }).contains("packed=on"));
        let packed = Options { property: vec!["packed=on".into()], ..demo("tour") };
        assert!(check_options(&packed).is_ok());
        assert!(refused(Options { transport: Transport::Legacy, ..packed }).contains("no packed ring"));
        for name in scenarios::NAMES {
            assert!(check_options(&demo(name)).is_ok(), "{name}");
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
