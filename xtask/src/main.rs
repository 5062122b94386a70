//! The commands of this repository. `cargo xtask run` is the main one.
//!
//! One file per command in `commands`; beside them what they share.

mod check;
mod commands;
mod digest;
#[cfg(test)]
mod docs;
mod fat;
mod guest;
mod image;
mod matrix;
mod progress;
mod properties;
mod qemu;
mod qmp;
mod scenarios;
mod session;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// The commands of this repository. Each one gets what it needs and is missing, and says so.
#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
enum Command {
    Run(commands::run::Options),
    Test(commands::test::Options),
    Matrix(commands::matrix::Options),
    Bench(commands::bench::Options),
    Miri(commands::miri::Options),
    PowerCuts(commands::power_cuts::Options),
    Setup(commands::setup::Options),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Run(options) => commands::run::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Test(options) => commands::test::run(&options),
        Command::Matrix(options) => commands::matrix::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Bench(options) => commands::bench::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Miri(options) => commands::miri::run(&options).map(|()| ExitCode::SUCCESS),
        Command::PowerCuts(options) => commands::power_cuts::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Setup(options) => commands::setup::run(&options).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
