//! The kernel's command line.

use alloc::string::{String, ToString};
use core::fmt;

/// What the kernel is asked to do, as words of the form `key=value` on its command line.
///
/// ```
/// use testing_guest::Arguments;
///
/// let arguments: Arguments = "demo=tour seed=7 rounds=3 log=debug".parse()?;
/// assert_eq!((arguments.demo.as_str(), arguments.seed), ("tour", 7));
/// assert_eq!(arguments.to_string().parse(), Ok(arguments));
/// # Ok::<(), testing_guest::ArgumentsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// Which demonstration to run.
    pub demo: String,
    /// Where the [`pattern`](crate::pattern) starts that written files are filled with.
    pub seed: u64,
    /// How often a demonstration does what it does again and again.
    pub rounds: u32,
    /// The most detailed level of log lines to print, in the words of the `log` crate.
    pub log: String,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { demo: "tour".into(), seed: 1, rounds: 32, log: "info".into() }
    }
}

impl fmt::Display for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { demo, seed, rounds, log } = self;
        write!(f, "demo={demo} seed={seed} rounds={rounds} log={log}")
    }
}

impl core::str::FromStr for Arguments {
    type Err = ArgumentsError;

    fn from_str(line: &str) -> Result<Self, ArgumentsError> {
        let mut arguments = Self::default();
        for word in line.split_whitespace() {
            let unknown = || ArgumentsError { word: word.to_string() };
            let (key, value) = word.split_once('=').ok_or_else(unknown)?;
            match key {
                "demo" => arguments.demo = value.into(),
                "seed" => arguments.seed = value.parse().map_err(|_| unknown())?,
                "rounds" => arguments.rounds = value.parse().map_err(|_| unknown())?,
                "log" => arguments.log = value.into(),
                _ => return Err(unknown()),
            }
        }
        Ok(arguments)
    }
}

/// A word on the command line that the kernel does not understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentsError {
    word: String,
}

impl fmt::Display for ArgumentsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command line: `{}` is none of demo=NAME, seed=NUMBER, rounds=NUMBER, log=LEVEL", self.word)
    }
}

impl core::error::Error for ArgumentsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_is_the_default() {
        assert_eq!("".parse(), Ok(Arguments::default()));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for word in ["verbose", "seed=x", "seed=-1", "rounds=x", "disk=3"] {
            let error = word.parse::<Arguments>().unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
