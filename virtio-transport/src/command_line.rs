//! Finding virtio-mmio devices on a kernel's command line, for machines without a device tree: QEMU's `microvm`,
//! Firecracker.

use core::fmt;

use crate::Region;

/// How the parameter is called; `-` and `_` are the same letter.
const NAME: &str = "virtio_mmio.device";

/// A kernel's command line.
///
/// ```
/// use virtio_transport::{CommandLine, Region};
///
/// let line = CommandLine("console=ttyS0 virtio_mmio.device=4K@0xd0000000:5 root=/dev/vda");
/// for device in line.virtio_mmio() {
///     let device = device?;
///     assert_eq!(device.region, Region { address: 0xd000_0000, bytes: 4096 });
///     assert_eq!(device.interrupt, 5);
///     // And then: `Mmio::open(&device.region)`.
/// }
/// # Ok::<(), virtio_transport::ParameterError<'static>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLine<'a>(pub &'a str);

impl<'a> CommandLine<'a> {
    /// The devices of the parameters `virtio_mmio.device=<size>@<address>:<interrupt>[:<id>]`, in order, as Linux
    /// understands them: sizes may end with K, M, G and so on, numbers but the interrupt and the id may be hexadecimal
    /// (`0x`) or octal (`0`), parameters may be in quotes, and `--` ends those for the kernel.
    ///
    /// A parameter that cannot be understood is an error for this one alone. A device may be there or not, as with a
    /// slot in a device tree.
    pub fn virtio_mmio(&self) -> MmioParameters<'a> {
        MmioParameters { rest: self.0 }
    }
}

/// The devices on a command line. See [`CommandLine::virtio_mmio`].
#[derive(Clone, Debug)]
pub struct MmioParameters<'a> {
    rest: &'a str,
}

impl<'a> MmioParameters<'a> {
    /// The next parameter. Spaces within quotes are part of it.
    fn word(&mut self) -> Option<&'a str> {
        let line = self.rest.trim_start();
        let mut quoted = false;
        let end = line.find(|letter: char| {
            quoted ^= letter == '"';
            letter.is_whitespace() && !quoted
        });
        let (word, rest) = line.split_at_checked(end.unwrap_or(line.len()))?;
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }
}

impl<'a> Iterator for MmioParameters<'a> {
    type Item = Result<MmioParameter, ParameterError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let word = self.word()?;
            if word == "--" {
                self.rest = "";
                return None;
            }
            let Some((name, value)) = unquoted(word).split_once('=') else { continue };
            if name.chars().map(|letter| if letter == '-' { '_' } else { letter }).eq(NAME.chars()) {
                let value = unquoted(value);
                return Some(MmioParameter::parse(value).map_err(|problem| ParameterError { value, problem }));
            }
        }
    }
}

/// A text without quotes around it. Linux takes a missing second one for granted.
fn unquoted(text: &str) -> &str {
    match text.strip_prefix('"') {
        Some(text) => text.strip_suffix('"').unwrap_or(text),
        None => text,
    }
}

/// A virtio-mmio device, as a command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioParameter {
    /// Where its registers are.
    pub region: Region,
    /// The number of its interrupt, as the machine's interrupt controller counts.
    pub interrupt: u32,
    /// The number that the device is to have among its kind.
    pub id: Option<i32>,
}

impl MmioParameter {
    /// Reads what is behind the equals sign.
    fn parse(value: &str) -> Result<Self, ParameterProblem> {
        let (bytes, rest) = value.split_once('@').ok_or(ParameterProblem::NoAddress)?;
        let (address, rest) = rest.split_once(':').ok_or(ParameterProblem::NoInterrupt)?;
        let (interrupt, id) = match rest.split_once(':') {
            Some((interrupt, id)) => (interrupt, Some(id)),
            None => (rest, None),
        };
        let bytes = size(bytes).filter(|&bytes| bytes > 0).ok_or(ParameterProblem::Size)?;
        let address = number(address).ok_or(ParameterProblem::Address)?;
        address.checked_add(bytes).ok_or(ParameterProblem::Address)?;
        Ok(Self {
            region: Region { address, bytes },
            interrupt: digits(interrupt, 10)
                .and_then(|number| u32::try_from(number).ok())
                .filter(|&number| number > 0)
                .ok_or(ParameterProblem::Interrupt)?,
            id: id.map(|id| id.parse().map_err(|_| ParameterProblem::Id)).transpose()?,
        })
    }
}

/// A number, perhaps with a suffix that multiplies it.
fn size(text: &str) -> Option<u64> {
    let shift = |suffix: char| "kmgtpe".find(suffix.to_ascii_lowercase()).map(|place| 10 * (place + 1));
    let last = text.chars().next_back()?;
    // `e` is a digit of a hexadecimal number as well, and is one there.
    let is_digit = last.is_ascii_digit() || (is_hexadecimal(text) && last.is_ascii_hexdigit());
    match shift(last).filter(|_| !is_digit) {
        Some(shift) => number(text.strip_suffix(last)?)?.checked_mul(1 << shift),
        None => number(text),
    }
}

/// A number as C writes it.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(text) => digits(text, 16),
        None if text.len() > 1 && text.starts_with('0') => digits(text, 8),
        None => digits(text, 10),
    }
}

fn is_hexadecimal(text: &str) -> bool {
    text.starts_with("0x") || text.starts_with("0X")
}

/// A number of nothing but digits: no sign.
fn digits(text: &str, radix: u32) -> Option<u64> {
    if text.starts_with(['+', '-']) { None } else { u64::from_str_radix(text, radix).ok() }
}

/// A `virtio_mmio.device` parameter that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterError<'a> {
    /// What is behind its equals sign.
    pub value: &'a str,
    /// What is wrong with it.
    pub problem: ParameterProblem,
}

/// What is wrong with a `virtio_mmio.device` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParameterProblem {
    /// The size is no number, or 0.
    Size,
    /// There is no `@` with an address behind it.
    NoAddress,
    /// The address is no number, or the device goes over the end of the address space.
    Address,
    /// There is no `:` with an interrupt behind it.
    NoInterrupt,
    /// The interrupt is no decimal number from 1 to 4294967295.
    Interrupt,
    /// The id is no decimal number of 32 bits.
    Id,
}

impl fmt::Display for ParameterError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = match self.problem {
            ParameterProblem::Size => "the size is no number above 0",
            ParameterProblem::NoAddress => "there is no @ with an address behind it",
            ParameterProblem::Address => "the address is no number, or the device does not fit behind it",
            ParameterProblem::NoInterrupt => "there is no : with an interrupt behind it",
            ParameterProblem::Interrupt => "the interrupt is no decimal number from 1 on",
            ParameterProblem::Id => "the id is no decimal number",
        };
        write!(
            f,
            "command line: {NAME}={}: {problem}; expected <size>@<address>:<interrupt>[:<id>], such as \
             4K@0xd0000000:5",
            self.value
        )
    }
}

impl core::error::Error for ParameterError<'_> {}
