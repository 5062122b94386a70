//! The kernel's command line.

use alloc::string::{String, ToString};
use core::{fmt, str::FromStr};

/// What the kernel is asked to do, as words of the form `key=value` on its command line.
///
/// ```
/// use testing_guest::{Arguments, Ring};
///
/// let arguments: Arguments = "demo=tour seed=7 rounds=3 log=debug ring=packed queue_size=16".parse()?;
/// assert_eq!((arguments.demo.as_str(), arguments.seed), ("tour", 7));
/// assert_eq!((arguments.ring, arguments.queue_size), (Ring::Packed, Some(16)));
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
    /// The form of the ring.
    pub ring: Ring,
    /// The most entries of a queue; `None`: as many as the driver thinks right.
    pub queue_size: Option<u16>,
    /// The memory that the driver gets.
    pub memory: MemoryKind,
}

/// The form of a queue's ring. The demonstrations `tour` and `blocks` heed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ring {
    /// Packed where the device has it, else split.
    #[default]
    Either,
    /// Split, whatever the device has.
    Split,
    /// Packed; a device without is an error.
    Packed,
}

/// The memory that a driver gets. The demonstrations `tour` and `blocks` heed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryKind {
    /// All of the machine's: the device reads and writes buffers where they are.
    #[default]
    Direct,
    /// A pool that is set apart: buffers are copied there for the device, and back.
    Bounce,
}

/// The words for a type's values on the command line.
macro_rules! words {
    ($type:ident { $($value:ident = $word:literal),+ $(,)? }) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$value => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = ArgumentsError;

            fn from_str(word: &str) -> Result<Self, ArgumentsError> {
                match word {
                    $($word => Ok(Self::$value),)+
                    _ => Err(ArgumentsError { word: word.into(), expected: concat!("one of", $(" ", $word),+) }),
                }
            }
        }
    };
}

words!(Ring { Either = "either", Split = "split", Packed = "packed" });
words!(MemoryKind { Direct = "direct", Bounce = "bounce" });

impl Default for Arguments {
    fn default() -> Self {
        Self {
            demo: "tour".into(),
            seed: 1,
            rounds: 32,
            log: "info".into(),
            ring: Ring::default(),
            queue_size: None,
            memory: MemoryKind::default(),
        }
    }
}

impl fmt::Display for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { demo, seed, rounds, log, ring, queue_size, memory } = self;
        write!(f, "demo={demo} seed={seed} rounds={rounds} log={log} ring={ring} memory={memory}")?;
        queue_size.map_or(Ok(()), |entries| write!(f, " queue_size={entries}"))
    }
}

impl FromStr for Arguments {
    type Err = ArgumentsError;

    fn from_str(line: &str) -> Result<Self, ArgumentsError> {
        let mut arguments = Self::default();
        for word in line.split_whitespace() {
            let unknown = || ArgumentsError { word: word.to_string(), expected: EXPECTED };
            let (key, value) = word.split_once('=').ok_or_else(unknown)?;
            match key {
                "demo" => arguments.demo = value.into(),
                "seed" => arguments.seed = value.parse().map_err(|_| unknown())?,
                "rounds" => arguments.rounds = value.parse().map_err(|_| unknown())?,
                "log" => arguments.log = value.into(),
                "ring" => arguments.ring = value.parse().map_err(|_| unknown())?,
                "queue_size" => arguments.queue_size = Some(value.parse().map_err(|_| unknown())?),
                "memory" => arguments.memory = value.parse().map_err(|_| unknown())?,
                _ => return Err(unknown()),
            }
        }
        Ok(arguments)
    }
}

/// What the command line may hold.
const EXPECTED: &str = "one of demo=NAME, seed=NUMBER, rounds=NUMBER, log=LEVEL, ring=either|split|packed, \
                        queue_size=NUMBER, memory=direct|bounce";

/// A word on the command line that the kernel does not understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentsError {
    word: String,
    expected: &'static str,
}

impl fmt::Display for ArgumentsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command line: `{}`: expected {}", self.word, self.expected)
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
        for word in ["verbose", "seed=x", "seed=-1", "rounds=x", "disk=3", "ring=round", "queue_size=65536", "memory="]
        {
            let error = word.parse::<Arguments>().unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn every_word_is_understood() {
        for ring in [Ring::Either, Ring::Split, Ring::Packed] {
            for memory in [MemoryKind::Direct, MemoryKind::Bounce] {
                let arguments = Arguments { ring, memory, queue_size: Some(4), ..Arguments::default() };
                assert_eq!(arguments.to_string().parse(), Ok(arguments));
            }
        }
    }
}
