//! Base address registers: where a function's registers are, and how many.

use pci_types::{CommandRegister, ConfigRegionAccess, HeaderType};

use super::{Function, function::register};

/// The most BARs of a function.
pub(super) const MAX_BARS: usize = 6;

const IS_IO: u32 = 1;
const KIND_MASK: u32 = 0b110;
const KIND_32: u32 = 0b000;
const KIND_64: u32 = 0b100;
const IS_PREFETCHABLE: u32 = 1 << 3;
/// The bits of a BAR that are no part of the address.
const FLAGS: u32 = 0xf;

/// A BAR for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bar {
    /// Its number, that of its lower half if it has two.
    pub(super) index: u8,
    /// Its address as devices see it; 0 when nobody has given it one.
    pub(super) address: u64,
    /// Its length in bytes, a power of two.
    pub(super) bytes: u64,
    pub(super) is_64_bit: bool,
    pub(super) prefetchable: bool,
}

/// The memory BARs of a function, by their numbers. Those that are no BARs, or for I/O ports, are `None`.
pub(super) type Bars = [Option<Bar>; MAX_BARS];

impl<A: ConfigRegionAccess> Function<'_, A> {
    /// Finds out where the memory BARs are and how long. While it does, the function does not answer at their addresses.
    pub(super) fn bars(&self) -> Bars {
        let count = match self.header_type() {
            HeaderType::Endpoint => MAX_BARS,
            HeaderType::PciPciBridge => 2,
            _ => 0,
        };
        let command = self.command();
        let decode = CommandRegister::MEMORY_ENABLE | CommandRegister::IO_ENABLE;
        // The length is asked for by writing ones, where the function would answer for a moment.
        if command.intersects(decode) {
            self.set_command(command.difference(decode));
        }
        let mut bars = [None; MAX_BARS];
        let mut places = (0..).zip(&mut bars).take(count);
        while let Some((index, bar)) = places.next() {
            let raw = self.read(offset(index));
            if raw & IS_IO != 0 {
                continue;
            }
            let is_64_bit = match raw & KIND_MASK {
                KIND_32 => false,
                // Its upper half is where the next one would be.
                KIND_64 if places.next().is_some() => true,
                _ => continue,
            };
            *bar = self.measure(index, is_64_bit);
        }
        if command.intersects(decode) {
            self.set_command(command);
        }
        bars
    }

    fn measure(&self, index: u8, is_64_bit: bool) -> Option<Bar> {
        let ask = |offset| {
            let before = self.read(offset);
            self.write(offset, u32::MAX);
            let answer = self.read(offset);
            self.write(offset, before);
            (before, answer)
        };
        let (low, low_mask) = ask(offset(index));
        let (high, high_mask) = if is_64_bit { ask(offset(index + 1)) } else { (0, 0) };
        let mask = u64::from(high_mask) << 32 | u64::from(low_mask & !FLAGS);
        // The lowest bit that can be written is the length; none can where there is no BAR.
        let bytes = mask & mask.wrapping_neg();
        let address = u64::from(high) << 32 | u64::from(low & !FLAGS);
        let prefetchable = low & IS_PREFETCHABLE != 0;
        (bytes != 0).then_some(Bar { index, address, bytes, is_64_bit, prefetchable })
    }

    /// Gives a BAR an address.
    pub(super) fn set_bar(&self, bar: &Bar, address: u64) {
        // The casts cut the address in halves. Flags cannot be written.
        self.write(offset(bar.index), address as u32);
        if bar.is_64_bit {
            self.write(offset(bar.index + 1), (address >> 32) as u32);
        }
    }
}

fn offset(index: u8) -> u16 {
    register::BAR + 4 * u16::from(index)
}
