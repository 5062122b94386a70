//! What the kernel can be asked to do: one file per demonstration, chosen by `demo=` on its command line.

mod mistakes;
mod tour;

use anyhow::bail;
use testing_guest::Arguments;

/// Runs what the command line asks for. `device_tree` describes this machine.
pub(super) fn run(arguments: &Arguments, device_tree: &[u8]) -> anyhow::Result<()> {
    match arguments.demo.as_str() {
        "tour" => tour::run(arguments, device_tree),
        "panic" => mistakes::panic(),
        "trap" => mistakes::trap(),
        "hang" => mistakes::hang(),
        other => bail!("demo={other}: this kernel has tour, panic, trap, hang"),
    }
}
