//! The programs that the commands need, why, and how to get them.

use std::{fmt, io, path::Path};

use anyhow::{Context, Result, bail, ensure};
use duct::Expression;

use crate::{
    check, qemu,
    workspace::{BARE_TARGET, MINIMUM_RUST, cargo, cargo_of},
};

/// The firmware that QEMU looks for when it is told `-bios default`.
const FIRMWARE: &str = "opensbi-riscv64-generic-fw_dynamic.bin";

/// Something that a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Rust's `core` and `alloc` for the machine of the guest.
    BareTarget,
    /// `cargo fmt`.
    Rustfmt,
    /// `cargo clippy`.
    Clippy,
    /// The oldest Rust that builds what a kernel links, for the machine of the guest.
    MinimumRust,
    /// The interpreter that finds undefined behaviour.
    Miri,
    /// The machine emulator.
    Qemu,
    /// The firmware of the emulated machine.
    Firmware,
    /// The program that makes and converts images.
    QemuImg,
}

/// What every command but `miri` needs.
pub(crate) const USUAL: &[Tool] =
    &[Tool::BareTarget, Tool::Rustfmt, Tool::Clippy, Tool::MinimumRust, Tool::Qemu, Tool::Firmware, Tool::QemuImg];

/// How a tool is got.
enum Source {
    /// By these arguments of rustup.
    Rustup(&'static [&'static str]),
    /// As a package of the system.
    Package,
}

impl Tool {
    /// What it is, and what for.
    fn what_and_why(self) -> (String, &'static str) {
        match self {
            Self::BareTarget => (format!("Rust for {BARE_TARGET}"), "the guest is a kernel for that machine"),
            Self::Rustfmt => ("cargo fmt".into(), "the tests include the formatting"),
            Self::Clippy => ("cargo clippy".into(), "the tests include the lints"),
            Self::MinimumRust => (
                format!("Rust {MINIMUM_RUST} for {BARE_TARGET}"),
                "what kernels link must build with the oldest Rust that is promised",
            ),
            Self::Miri => {
                ("Miri and a nightly Rust".into(), "Miri finds undefined behaviour, and is part of nightly only")
            }
            Self::QemuImg => ("qemu-img".into(), "the power cuts look into images of a kind that it reads"),
            Self::Qemu => (qemu::PROGRAM.into(), "the guest runs in this machine emulator"),
            Self::Firmware => (
                format!("OpenSBI ({FIRMWARE})"),
                "it is the firmware that starts the guest, and some systems package it apart from QEMU",
            ),
        }
    }

    fn source(self) -> Source {
        match self {
            Self::BareTarget => Source::Rustup(&["target", "add", BARE_TARGET]),
            Self::Rustfmt => Source::Rustup(&["component", "add", "rustfmt"]),
            Self::Clippy => Source::Rustup(&["component", "add", "clippy"]),
            Self::MinimumRust => Source::Rustup(&[
                "toolchain",
                "install",
                MINIMUM_RUST,
                "--profile",
                "minimal",
                "--no-self-update",
                "--target",
                BARE_TARGET,
            ]),
            Self::Miri => Source::Rustup(&[
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--no-self-update",
                "--component",
                "miri",
                "--component",
                "rust-src",
            ]),
            Self::Qemu | Self::Firmware | Self::QemuImg => Source::Package,
        }
    }

    /// Whether it is there and works.
    fn is_there(self) -> bool {
        match self {
            Self::BareTarget => has_target(&duct::cmd!("rustc", "--print", "target-libdir", "--target", BARE_TARGET)),
            Self::Rustfmt => works(&cargo(["fmt", "--version"])),
            Self::Clippy => works(&cargo(["clippy", "--version"])),
            Self::MinimumRust => has_target(&duct::cmd!(
                "rustup",
                "run",
                MINIMUM_RUST,
                "rustc",
                "--print",
                "target-libdir",
                "--target",
                BARE_TARGET
            )),
            Self::Miri => {
                let sysroot = read(&duct::cmd!("rustup", "run", "nightly", "rustc", "--print", "sysroot"));
                works(&cargo_of("nightly", ["miri", "--version"]))
                    && sysroot.is_some_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library").is_dir())
            }
            Self::QemuImg => works(&duct::cmd!("qemu-img", "--version")),
            Self::Qemu => works(&duct::cmd!(qemu::PROGRAM, "--version")),
            Self::Firmware => read(&duct::cmd!(qemu::PROGRAM, "-L", "help"))
                .is_some_and(|folders| folders.lines().any(|folder| Path::new(folder).join(FIRMWARE).is_file())),
        }
    }
}

/// Gets those of the tools that are missing, and says so.
pub(crate) fn ensure_all(tools: &[Tool]) -> Result<()> {
    let missing: Vec<Tool> = tools.iter().copied().filter(|tool| !tool.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages = false;
    for &tool in &missing {
        let (what, why) = tool.what_and_why();
        println!("missing: {what} ({why})");
        match tool.source() {
            Source::Rustup(arguments) => install_by_rustup(&what, arguments)?,
            Source::Package => packages = true,
        }
    }
    if packages {
        install_packages(REQUIRED)?;
    }
    if let Some(tool) = missing.into_iter().find(|tool| !tool.is_there()) {
        let (what, why) = tool.what_and_why();
        bail!("{what} is still missing after it was installed; {why}. Does it run when you start it yourself?");
    }
    Ok(())
}

fn install_by_rustup(what: &str, arguments: &[&str]) -> Result<()> {
    let shown = format!("rustup {}", arguments.join(" "));
    println!("installing: {shown}");
    let output = duct::cmd("rustup", arguments).unchecked().run();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => bail!("{what} is missing, and `{shown}` failed ({}): see above", output.status),
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "{what} is missing, and there is no rustup to install it: get rustup from https://rustup.rs, or install it \
             the way your Rust was installed"
        ),
        Err(error) => Err(error).with_context(|| format!("`{shown}` could not be started")),
    }
}

/// Packages of one purpose, by the names that package managers have for them.
pub(crate) struct Packages {
    /// What they are for.
    what: &'static str,
    /// In the order of [`MANAGERS`].
    names: [&'static [&'static str]; 7],
}

/// A package manager: the program by which it is found, and the command that installs.
struct Manager {
    program: &'static str,
    install: &'static str,
}

/// Debian-likes are first: there the packages are installed without being asked for, if that is allowed.
const MANAGERS: [Manager; 7] = [
    Manager { program: "apt-get", install: "sudo apt-get install" },
    Manager { program: "dnf", install: "sudo dnf install" },
    Manager { program: "pacman", install: "sudo pacman -S" },
    Manager { program: "zypper", install: "sudo zypper install" },
    Manager { program: "apk", install: "sudo apk add" },
    Manager { program: "brew", install: "brew install" },
    Manager { program: "nix-shell", install: "nix-shell -p" },
];

/// The emulator, its firmware and its images.
pub(crate) const REQUIRED: &Packages = &Packages {
    what: "QEMU for riscv64, its firmware and qemu-img",
    names: [
        // A name that several releases give to different packages.
        &["qemu-system-riscv64", "opensbi", "qemu-utils"],
        &["qemu-system-riscv", "qemu-img"],
        &["qemu-system-riscv", "qemu-system-riscv-firmware", "qemu-img"],
        &["qemu-extra", "qemu-tools"],
        &["qemu-system-riscv64", "opensbi", "qemu-img"],
        &["qemu"],
        &["qemu"],
    ],
};

/// What makes checks better and is not needed.
const OPTIONAL: &Packages = &Packages {
    what: "fsck.fat, which checks the image once more after the guest",
    names: [
        &["dosfstools"],
        &["dosfstools"],
        &["dosfstools"],
        &["dosfstools"],
        &["dosfstools"],
        &["dosfstools"],
        &["dosfstools"],
    ],
};

/// Installs packages where that may be done without asking, else says how.
fn install_packages(packages: &Packages) -> Result<()> {
    let manual = || format!("Install it by {}, then try again", packages.command());
    let Some(prefix) = apt_prefix() else {
        bail!("{} is missing, and cannot be installed from here without a password. {}", packages.what, manual())
    };
    let [update, install] =
        [vec!["update"], [&["install", "--yes", "--no-install-recommends"], packages.names[0]].concat()];
    for arguments in [update, install] {
        let line = [prefix, &["apt-get"], &arguments].concat();
        println!("installing: {}", line.join(" "));
        let (program, arguments) = line.split_first().context("a command has a program")?;
        let output = duct::cmd(*program, arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin_null()
            .unchecked()
            .run()
            .with_context(|| format!("`{}` could not be started", line.join(" ")))?;
        ensure!(output.status.success(), "`{}` failed ({}). {}", line.join(" "), output.status, manual());
    }
    Ok(())
}

/// What has to stand before `apt-get` so that it may install without a question; `None` where it may not.
fn apt_prefix() -> Option<&'static [&'static str]> {
    if !works(&duct::cmd!("apt-get", "--version")) {
        return None;
    }
    if read(&duct::cmd!("id", "-u")).is_some_and(|id| id == "0") {
        return Some(&[]);
    }
    works(&duct::cmd!("sudo", "-n", "true")).then_some(&["sudo", "-n"])
}

impl Packages {
    /// The command for the package manager that is there, or for all that are known.
    fn command(&self) -> String {
        let commands = || MANAGERS.iter().zip(self.names);
        let line = |(manager, names): (&Manager, &[&str])| format!("`{} {}`", manager.install, names.join(" "));
        let found = commands().find(|(manager, _)| works(&duct::cmd!(manager.program, "--version")));
        found.map_or_else(|| commands().map(line).collect::<Vec<_>>().join(" or "), line)
    }
}

/// Gets what makes checks better; says so where it cannot be got, which is no error.
pub(crate) fn install_optional() {
    if check::fsck_program().is_some() {
        return;
    }
    println!("missing, not needed: {OPTIONAL}");
    if let Err(error) = install_packages(OPTIONAL) {
        println!("note: {error:#}");
    }
}

impl fmt::Display for Packages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
}

/// Whether a command can be started and succeeds.
fn works(command: &Expression) -> bool {
    command.stdin_null().stdout_null().stderr_null().run().is_ok()
}

/// What a command prints, if it succeeds.
fn read(command: &Expression) -> Option<String> {
    command.stdin_null().stderr_null().read().ok()
}

/// Whether a compiler has the library of the target that it prints the folder of.
fn has_target(print_folder: &Expression) -> bool {
    read(print_folder).is_some_and(|folder| Path::new(&folder).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_manager_has_a_command() {
        for packages in [REQUIRED, OPTIONAL] {
            assert!(packages.names.iter().all(|names| !names.is_empty()));
            assert!(!packages.command().is_empty());
        }
    }

    #[test]
    fn what_does_not_exist_does_not_work() {
        assert!(!works(&duct::cmd!("/nonexistent/program")));
        assert!(!works(&duct::cmd!("false")));
        assert!(works(&duct::cmd!("true")));
    }
}
