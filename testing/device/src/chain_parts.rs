//! What is checked of every piece of a chain, in both kinds of ring.

use virtqueue::Access;

use crate::chain::{Chain, Segment};
use crate::device_memory::DeviceMemory;
use crate::violation::{Rule, Violation};

/// A chain while it is read, piece by piece.
pub(crate) struct ChainParts {
    pub(crate) chain: Chain,
    bytes: u64,
}

impl ChainParts {
    pub(crate) fn new(id: u16) -> Self {
        Self { chain: Chain { id, segments: Vec::new(), indirect: false, malformed: false }, bytes: 0 }
    }

    /// Adds a piece. `Err`: the chain cannot be followed any further.
    pub(crate) fn add(
        &mut self,
        memory: &dyn DeviceMemory,
        size: u16,
        what: &dyn Fn() -> String,
        segment: Segment,
        violations: &mut Vec<Violation>,
    ) -> Result<(), Violation> {
        let Segment { address, bytes, writable } = segment;
        if !writable && self.chain.segments.last().is_some_and(|before| before.writable) {
            let text = format!("{} is device-readable behind a device-writable one", what());
            violations.push(Violation::new(Rule::ChainOrder, text));
        }
        let access = if writable { Access::DeviceWrites } else { Access::DeviceReads };
        if !memory.reaches(address, bytes as usize, access) {
            let text = format!("{}: {bytes} bytes at {address:#x}, {access:?}", what());
            return Err(Violation::new(Rule::Unreachable, text));
        }
        self.bytes += u64::from(bytes);
        self.chain.segments.push(segment);
        if self.chain.segments.len() > usize::from(size) {
            return Err(Violation::new(Rule::ChainTooLong, format!("{} is one more than {size}", what())));
        }
        if self.bytes > 1 << 32 {
            return Err(Violation::new(
                Rule::ChainTooLarge,
                format!("up to {} there are {} bytes", what(), self.bytes),
            ));
        }
        Ok(())
    }
}

/// The number of entries of an indirect table, if the device can read all of it.
pub(crate) fn table_entries(
    memory: &dyn DeviceMemory,
    what: &dyn Fn() -> String,
    address: u64,
    bytes: u32,
    entry: usize,
) -> Result<u32, Violation> {
    let entry = entry as u32;
    if bytes == 0 || !bytes.is_multiple_of(entry) {
        return Err(Violation::new(
            Rule::IndirectLength,
            format!("the indirect table of {} has {bytes} bytes", what()),
        ));
    }
    if !memory.reaches(address, bytes as usize, Access::DeviceReads) {
        let text = format!("the indirect table of {}: {bytes} bytes at {address:#x}", what());
        return Err(Violation::new(Rule::Unreachable, text));
    }
    Ok(bytes / entry)
}
