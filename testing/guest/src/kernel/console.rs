//! Text for the host: by way of the firmware, which knows the machine's serial port.

use core::fmt::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};
use spin::Mutex;

/// The firmware's console. The lock keeps lines whole when several harts print.
static CONSOLE: Mutex<Console> = Mutex::new(Console { debug_console: false });

struct Console {
    /// Whether the firmware has the call that takes a whole string. Older ones take one byte at a time.
    debug_console: bool,
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.debug_console {
            let mut left = text.as_bytes();
            while !left.is_empty() {
                let address = left.as_ptr() as usize;
                let printed = sbi_rt::console_write(sbi_rt::Physical::new(left.len(), address, 0));
                // The firmware may print less than it was given.
                left = left.get(printed.value..).filter(|_| printed.is_ok()).ok_or(fmt::Error)?;
            }
        } else {
            for byte in text.bytes() {
                #[expect(deprecated, reason = "old firmware has nothing newer")]
                sbi_rt::legacy::console_putchar(byte.into());
            }
        }
        Ok(())
    }
}

/// Finds out what the firmware can do, and makes `log` lines appear.
pub(super) fn set_up() {
    CONSOLE.lock().debug_console = sbi_rt::probe_extension(sbi_rt::Console).is_available();
    // It fails only if a logger is set already.
    let _ = log::set_logger(&Logger);
    log::set_max_level(LevelFilter::Warn);
}

/// Gives the firmware one byte at a time from now on: for a kernel whose addresses are not physical ones.
#[allow(dead_code, reason = "of a kernel without paging")]
pub(super) fn use_single_bytes() {
    CONSOLE.lock().debug_console = false;
}

/// Sets how detailed log lines are: `off`, `error`, `warn`, `info`, `debug` or `trace`.
pub(super) fn set_level(level: &str) -> anyhow::Result<()> {
    let level = level
        .parse()
        .map_err(|_| anyhow::anyhow!("log={level}: expected one of off, error, warn, info, debug, trace"))?;
    log::set_max_level(level);
    Ok(())
}

/// Frees the console from whoever holds it: for a panic or a trap in the middle of printing.
pub(super) fn take_over() {
    // SAFETY: the holder is this hart and never runs again, or another hart whose line gets mixed up with ours; the
    // guarded value is a constant by now.
    unsafe { CONSOLE.force_unlock() };
}

/// Prints formatted text; use `println!`.
pub(super) fn print(arguments: fmt::Arguments<'_>) {
    // There is nobody to tell about a console that does not work.
    let _ = CONSOLE.lock().write_fmt(arguments);
}

/// Prints a line of text.
macro_rules! println {
    () => { $crate::kernel::console::print(format_args!("\n")) };
    ($format:literal $($rest:tt)*) => {
        $crate::kernel::console::print(format_args!("{}\n", format_args!($format $($rest)*)))
    };
}

/// Prints a [`Report`](testing_guest::Report) for the program on the host.
macro_rules! report {
    ($report:expr) => {
        println!("{}", $report)
    };
}

/// Prints what the drivers log.
struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        println!("[{:5}] {}: {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}
