//! A machine with one disk, and watching it until it ends.

use std::{
    collections::VecDeque,
    io::Read,
    path::Path,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use duct::{Expression, ReaderHandle};
use serde_json::Value;

/// The program.
pub(crate) const PROGRAM: &str = "qemu-system-riscv64";

/// How many of the last lines are kept for the message when a machine ends badly.
const LAST_LINES: usize = 15;
/// How long a machine that was killed may take to close its output.
const AFTERMATH: Duration = Duration::from_secs(5);

/// How the disk is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// Memory-mapped registers as virtio 1.0 and later have them.
    Modern,
    /// Memory-mapped registers from before virtio 1.0.
    Legacy,
    /// On the PCI bus, with interrupts by a pin.
    Pci,
    /// The same device, as one that drivers from before virtio 1.0 could use as well.
    PciTransitional,
    /// Behind a PCI bridge.
    PciBridge,
    /// On the PCI bus of a machine that takes messages as interrupts: one for each queue.
    PciMsix,
}

impl Transport {
    /// The machine that has it.
    fn machine(self) -> &'static str {
        match self {
            Self::PciMsix => "virt,aia=aplic-imsic",
            _ => "virt",
        }
    }

    /// The device, and how its bus is to be. A disk of one queue, unless a property says otherwise: on PCI it would have
    /// one for each processor.
    fn device(self) -> (&'static str, &'static [&'static str]) {
        const LEGACY: [&str; 2] = ["-global", "virtio-mmio.force-legacy=on"];
        const MODERN: [&str; 2] = ["-global", "virtio-mmio.force-legacy=off"];
        // A root port, and behind it what was PCI before PCI Express: devices there have numbers, and pins in turns.
        const BRIDGE: [&str; 4] =
            ["-device", "pcie-root-port,id=root,chassis=1,addr=3", "-device", "pcie-pci-bridge,id=bridge,bus=root"];
        match self {
            Self::Modern => ("virtio-blk-device", &MODERN),
            Self::Legacy => ("virtio-blk-device", &LEGACY),
            Self::Pci | Self::PciMsix => ("virtio-blk-pci,disable-legacy=on,num-queues=1", &[]),
            Self::PciTransitional => ("virtio-blk-pci,disable-legacy=off,num-queues=1", &[]),
            Self::PciBridge => ("virtio-blk-pci,disable-legacy=on,num-queues=1,bus=bridge,addr=2", &BRIDGE),
        }
    }
}

/// What to start.
pub(crate) struct Machine<'a> {
    /// The ELF file of the kernel.
    pub(crate) kernel: &'a Path,
    /// What the kernel reads on its command line.
    pub(crate) arguments: &'a str,
    /// What is behind the disk.
    pub(crate) drive: Drive<'a>,
    /// How the disk is connected.
    pub(crate) transport: Transport,
    /// Further properties of the disk, `key=value` as in QEMU's `-device`.
    pub(crate) properties: &'a [String],
    /// Further arguments of QEMU, such as `-smp`.
    pub(crate) extra: &'a [String],
}

/// What is behind a disk.
#[derive(Clone, Copy)]
pub(crate) enum Drive<'a> {
    /// An image.
    Image {
        /// The file.
        file: &'a Path,
        /// Its format, as QEMU calls it.
        format: &'a str,
        /// Whether the disk cannot be written.
        read_only: bool,
    },
    /// What QEMU's `-blockdev` makes of this, which names it [`NODE`].
    Node(&'a Value),
}

/// The name of the disk's block node.
pub(crate) const NODE: &str = "disk0";

impl Machine<'_> {
    /// The command that starts it. Its serial port is the standard output.
    pub(crate) fn command(&self) -> Expression {
        let (device, bus) = self.transport.device();
        let device = format!("{device},drive={NODE},serial=xtask");
        let device = [device.as_str()].into_iter().chain(self.properties.iter().map(String::as_str));
        let options: [(&str, String); 9] = [
            ("-machine", self.transport.machine().into()),
            ("-m", "256M".into()),
            ("-display", "none".into()),
            ("-serial", "stdio".into()),
            ("-monitor", "none".into()),
            ("-bios", "default".into()),
            ("-append", self.arguments.into()),
            self.drive.option(),
            ("-device", device.collect::<Vec<_>>().join(",")),
        ];
        let mut arguments = vec!["-nodefaults".into(), "-no-reboot".into()];
        arguments.extend(bus.iter().map(|&argument| argument.into()));
        arguments.extend(options.into_iter().flat_map(|(option, value)| [option.into(), value]));
        arguments.extend(["-kernel".into(), self.kernel.display().to_string()]);
        arguments.extend_from_slice(self.extra);
        duct::cmd(PROGRAM, arguments)
    }
}

impl Drive<'_> {
    /// The option that makes it, and its value.
    fn option(&self) -> (&'static str, String) {
        match self {
            Self::Image { file, format, read_only } => {
                let read_only = if *read_only { "on" } else { "off" };
                // A comma ends an option's value unless it is doubled.
                let file = file.display().to_string().replace(',', ",,");
                let value =
                    format!("if=none,id={NODE},format={format},cache=writeback,readonly={read_only},file={file}");
                ("-drive", value)
            }
            Self::Node(node) => ("-blockdev", node.to_string()),
        }
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Why.
    pub(crate) cause: Cause,
    /// The last lines that it printed.
    pub(crate) last_lines: Vec<String>,
}

/// Why a program ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It ended by itself with this exit code; none if a signal ended it.
    Exit(Option<i32>),
    /// It was killed, as it had not ended after this time.
    Deadline(Duration),
}

/// Runs a program, hands over each line that it prints as it comes, and kills it if it has not ended by the deadline.
pub(crate) fn watch(command: &Expression, limit: Duration, mut line: impl FnMut(&str)) -> Result<Ending> {
    watch_until(command, limit, |text| {
        line(text);
        None
    })
}

/// The same, for who decides at a line how much longer the program may run: as long from now on as is returned.
pub(crate) fn watch_until(
    command: &Expression,
    limit: Duration,
    mut line: impl FnMut(&str) -> Option<Duration>,
) -> Result<Ending> {
    let mut deadline = Instant::now() + limit;
    let program = command.stdin_null().stderr_to_stdout().unchecked().reader().context("it could not be started")?;
    let program = Arc::new(program);
    // Bounded, so that a program that prints without end is held up and not kept in memory.
    let (sender, receiver) = mpsc::sync_channel(1024);
    let output = Arc::clone(&program);
    thread::spawn(move || read_lines(&output, &mut |line| sender.send(line).is_ok()));

    let mut last_lines = VecDeque::new();
    let mut take = |text: String| {
        let left = line(&text);
        last_lines.push_back(text);
        if last_lines.len() > LAST_LINES {
            last_lines.pop_front();
        }
        left.map(|left| Instant::now() + left)
    };
    let cause = match take_until(&receiver, &mut deadline, &mut take) {
        Taken::All => {
            let output = program.try_wait().context("asking how it ended")?;
            Cause::Exit(output.and_then(|output| output.status.code()))
        }
        Taken::Some => {
            program.kill().context("killing it at the deadline")?;
            // What was printed before it was killed, a last line without an end among it.
            let mut aftermath = Instant::now() + AFTERMATH;
            take_until(&receiver, &mut aftermath, &mut |text| {
                take(text);
                None
            });
            Cause::Deadline(limit)
        }
    };
    Ok(Ending { cause, last_lines: last_lines.into() })
}

/// How much was taken from a channel.
enum Taken {
    /// All that there was: the other side is gone.
    All,
    /// What there was until the deadline.
    Some,
}

/// Takes lines until there are no more, or until the deadline, which a line may move.
fn take_until(
    lines: &Receiver<String>,
    deadline: &mut Instant,
    take: &mut impl FnMut(String) -> Option<Instant>,
) -> Taken {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Taken::Some;
        }
        match lines.recv_timeout(left) {
            Ok(line) => *deadline = take(line).unwrap_or(*deadline),
            Err(RecvTimeoutError::Timeout) => return Taken::Some,
            Err(RecvTimeoutError::Disconnected) => return Taken::All,
        }
    }
}

/// Reads to the end, and hands over line by line until that is refused.
fn read_lines(mut output: &ReaderHandle, line: &mut dyn FnMut(String) -> bool) {
    let mut pending = Vec::new();
    let mut buffer = [0; 4096];
    // A failed read ends the lines as the end does; the exit code tells the two apart.
    while let Ok(count @ 1..) = output.read(&mut buffer) {
        pending.extend_from_slice(&buffer[..count]);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let rest = pending.split_off(end + 1);
            if !line(text(&pending)) {
                return;
            }
            pending = rest;
        }
    }
    if !pending.is_empty() {
        line(text(&pending));
    }
}

/// A line without its end. What is not UTF-8 on a console is replaced.
fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Expression {
        duct::cmd("sh", ["-c", script])
    }

    #[test]
    fn lines_and_exit_code_arrive() {
        let mut lines = Vec::new();
        let script = "echo one; echo two >&2; printf 'three\\r\\n'; printf four; exit 7";
        let ending = watch(&shell(script), Duration::from_secs(600), |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(ending.cause, Cause::Exit(Some(7)));
        assert_eq!(lines, ["one", "two", "three", "four"]);
        assert_eq!(ending.last_lines, lines);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let ending = watch(&shell("seq 100"), Duration::from_secs(600), |_| ()).unwrap();
        assert_eq!(ending.last_lines.len(), LAST_LINES);
        assert_eq!(ending.last_lines.last().unwrap(), "100");
    }

    #[test]
    fn what_hangs_is_killed_and_its_unfinished_line_is_kept() {
        // `exec`, so that the one process that is killed is the one that hangs.
        let script = "echo started; printf 'waiting for'; exec sleep 1000";
        let ending = watch(&shell(script), Duration::from_secs(2), |_| ()).unwrap();
        assert!(matches!(ending.cause, Cause::Deadline(_)));
        assert_eq!(ending.last_lines, ["started", "waiting for"]);
    }

    #[test]
    fn what_prints_without_end_is_killed() {
        let ending = watch(&duct::cmd!("yes"), Duration::from_secs(1), |_| ()).unwrap();
        assert!(matches!(ending.cause, Cause::Deadline(_)));
        assert_eq!(ending.last_lines.len(), LAST_LINES);
    }

    #[test]
    fn a_line_can_move_the_deadline() {
        let script = "echo now; exec sleep 1000";
        let soon = |_: &str| Some(Duration::from_millis(300));
        let ending = watch_until(&shell(script), Duration::from_secs(600), soon).unwrap();
        assert!(matches!(ending.cause, Cause::Deadline(_)));
    }

    #[test]
    fn what_cannot_be_started_is_an_error() {
        let error = watch(&duct::cmd!("/nonexistent/program"), Duration::from_secs(1), |_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("could not be started"), "{error:#}");
    }

    #[test]
    fn a_comma_in_a_path_is_doubled() {
        let machine = Machine {
            kernel: Path::new("/k"),
            arguments: "demo=tour",
            drive: Drive::Image { file: Path::new("/a,b.img"), format: "raw", read_only: false },
            transport: Transport::Legacy,
            properties: &["queue-size=4".into()],
            extra: &["-smp".into(), "4".into()],
        };
        let command = format!("{:?}", machine.command());
        assert!(command.contains("file=/a,,b.img"), "{command}");
        assert!(command.contains("virtio-blk-device,drive=disk0,serial=xtask,queue-size=4"), "{command}");
        assert!(command.contains("force-legacy=on"), "{command}");
        assert!(command.ends_with(r#""-smp", "4"])"#), "{command}");
    }
}
