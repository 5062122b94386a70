//! The list of capabilities in configuration space, and the structures that virtio's point at (section 4.1.4).

use pci_types::{ConfigRegionAccess, StatusRegister};
use virtio_spec::pci::{BAR_LAST, CAPABILITY_VENDOR_SPECIFIC, Capability, CapabilityType, NotifyCapability};

use super::{
    CapabilityProblem, Function,
    bar::Bars,
    function::{halves, register},
    structure::Structure,
    window::translate,
};
use crate::{Region, Registers};

/// Where capabilities can be in configuration space: behind the header.
const FIRST: u8 = 0x40;
/// The length of the part of configuration space that has them.
const SPACE_BYTES: usize = 256;
/// How many can be there, each with a word of its own.
const MAX: usize = (SPACE_BYTES - FIRST as usize) / 4;

/// The capabilities of a function: where each is, and its id. It ends, even if the list is a circle.
pub(super) struct Capabilities<'f, 'h, A> {
    function: &'f Function<'h, A>,
    next: u8,
    left: usize,
}

impl<'h, A: ConfigRegionAccess> Function<'h, A> {
    pub(super) fn capabilities(&self) -> Capabilities<'_, 'h, A> {
        let status = StatusRegister::new(halves(self.read(register::COMMAND))[1]);
        let [first, ..] = self.read(register::CAPABILITIES).to_le_bytes();
        Capabilities { function: self, next: if status.has_capability_list() { first } else { 0 }, left: MAX }
    }
}

impl<A: ConfigRegionAccess> Iterator for Capabilities<'_, '_, A> {
    type Item = (u16, u8);

    fn next(&mut self) -> Option<Self::Item> {
        // The two lowest bits are reserved.
        let offset = self.next & !3;
        if offset < FIRST {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let [id, next, ..] = self.function.read(offset.into()).to_le_bytes();
        self.next = next;
        Some((offset.into(), id))
    }
}

/// What a driver needs of a structure.
pub(super) struct Need {
    pub(super) kind: CapabilityType,
    /// The least length in bytes.
    pub(super) bytes: usize,
    /// What its address is a multiple of.
    pub(super) align: u64,
}

/// A structure that a capability points at, and that was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located {
    /// Where it is, as the processor sees it.
    pub(super) region: Region,
    /// `notify_off_multiplier`, of the structure that has it.
    pub(super) notify_off_multiplier: u32,
}

/// Finds the first structure of a kind that can be used, as the specification asks for: a device may have several, in
/// the order of its preference. `Err` has what was wrong with the last one, if there was any.
pub(super) fn locate<A: ConfigRegionAccess>(
    function: &Function<'_, A>,
    bars: &Bars,
    need: &Need,
) -> Result<Located, Option<CapabilityProblem>> {
    let mut last = None;
    for (offset, id) in function.capabilities() {
        let [_, _, cap_len, cfg_type] = function.read(offset).to_le_bytes();
        if id != CAPABILITY_VENDOR_SPECIFIC || CapabilityType(cfg_type) != need.kind {
            continue;
        }
        match read(function, bars, need, offset, cap_len) {
            Ok(located) => return Ok(located),
            Err(problem) => {
                log::debug!("PCI function {}: {} capability at {offset:#x}: {problem}", function.address(), need.kind);
                last = Some(problem);
            }
        }
    }
    Err(last)
}

/// Reads one capability and checks what it says.
fn read<A: ConfigRegionAccess>(
    function: &Function<'_, A>,
    bars: &Bars,
    need: &Need,
    offset: u16,
    cap_len: u8,
) -> Result<Located, CapabilityProblem> {
    let has_multiplier = need.kind == CapabilityType::NOTIFY_CFG;
    let needed = if has_multiplier { size_of::<NotifyCapability>() } else { size_of::<Capability>() };
    if usize::from(cap_len) < needed || usize::from(offset) + needed > SPACE_BYTES {
        return Err(CapabilityProblem::CapabilityTooShort { bytes: cap_len, needed });
    }
    let word = |number: u16| function.read(offset + 4 * number);
    let [bar, ..] = word(1).to_le_bytes();
    let (start, length) = (word(2), word(3));
    if (length as usize) < need.bytes {
        return Err(CapabilityProblem::StructureTooShort { bytes: length, needed: need.bytes });
    }
    let region = in_bar(function, bars, bar, start.into(), length.into())?;
    if region.address % need.align != 0 {
        return Err(CapabilityProblem::Unaligned { offset: start, align: need.align });
    }
    Ok(Located { region, notify_off_multiplier: if has_multiplier { word(4) } else { 0 } })
}

/// Where a part of a BAR is, as the processor sees it.
pub(super) fn in_bar<A: ConfigRegionAccess>(
    function: &Function<'_, A>,
    bars: &Bars,
    bar: u8,
    offset: u64,
    length: u64,
) -> Result<Region, CapabilityProblem> {
    if bar > BAR_LAST {
        return Err(CapabilityProblem::ReservedBar { bar });
    }
    let found = bars.get(usize::from(bar)).copied().flatten().ok_or(CapabilityProblem::NoMemoryBar { bar })?;
    if found.address == 0 {
        return Err(CapabilityProblem::NoAddress { bar });
    }
    // Both are numbers of 32 bits.
    if offset + length > found.bytes {
        return Err(CapabilityProblem::OutsideBar { bar, offset, length, bytes: found.bytes });
    }
    let unreachable = CapabilityProblem::Unreachable { bar, address: found.address };
    // All of the BAR, as no bridge ends in the middle of one.
    let start = translate(function.host.windows, found.address, found.bytes).ok_or(unreachable)?;
    let address = start.checked_add(offset).ok_or(unreachable)?;
    Ok(Region { address, bytes: length })
}

/// Lets the caller map a structure, from the multiple of 4 before it on.
pub(super) fn map<R: Registers>(
    region: &Region,
    map: &mut impl FnMut(&Region) -> Option<R>,
) -> Result<Structure<R>, CapabilityProblem> {
    let before = region.address % 4;
    let wider = Region { address: region.address - before, bytes: region.bytes + before };
    let bytes = usize::try_from(region.bytes).ok();
    let mapped = bytes.and_then(|bytes| Structure::new(map(&wider)?, before as usize, bytes));
    mapped.ok_or(CapabilityProblem::NotMapped { region: wider })
}
