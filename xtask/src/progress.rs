//! Showing that something goes on: a line at the bottom of a terminal, plain lines elsewhere.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// A line at the bottom of the terminal. It vanishes when it is dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Starts to show what goes on.
    pub(crate) fn new(what: &str) -> Self {
        // A template that does not parse is a mistake in this file; the default style is the answer to it.
        let template = "{spinner} {elapsed} {wide_msg}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        if !io::stderr().is_terminal() {
            eprintln!("{what} ...");
        }
        Self { bar }
    }

    /// Changes the text.
    pub(crate) fn say(&self, what: String) {
        self.bar.set_message(what);
    }

    /// Prints a line above.
    pub(crate) fn print(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A number of bytes as people write it.
pub(crate) fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
