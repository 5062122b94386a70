//! What the kernel can be asked to do: one file per demonstration, chosen by `demo=` on its command line.

mod bench;
mod blocks;
mod crash;
mod errors;
mod journal;
mod mistakes;
mod resize;
mod rival;
mod tasks;
mod tour;

use anyhow::bail;
use testing_guest::Arguments;

/// Runs what the command line asks for. `device_tree` describes this machine.
pub(super) fn run(arguments: &Arguments, device_tree: &[u8]) -> anyhow::Result<()> {
    match arguments.demo.as_str() {
        "tour" => tour::run(arguments, device_tree),
        "async" => tasks::run(arguments, device_tree),
        "blocks" => blocks::run(arguments, device_tree),
        "bench" => bench::run(arguments, device_tree),
        "errors" => errors::run(arguments, device_tree),
        "resize" => resize::run(arguments, device_tree),
        "journal" => journal::run(arguments, device_tree, true),
        "unflushed" => journal::run(arguments, device_tree, false),
        "crash" => crash::run(arguments, device_tree),
        "panic" => mistakes::panic(),
        "trap" => mistakes::trap(),
        "hang" => mistakes::hang(),
        other => bail!(
            "demo={other}: this kernel has tour, async, blocks, bench, errors, resize, journal, unflushed, crash, panic, \
             trap, hang"
        ),
    }
}
