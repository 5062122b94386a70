//! The walk over all buses behind a host bridge.

use pci_types::{ConfigRegionAccess, HeaderType, PciAddress};

use super::{
    Function, Host,
    function::{Route, register},
};

/// How many bridges may be behind one another. What is behind more of them is not found.
///
/// It bounds the memory of a walk, which lives on the caller's stack: less than 256 bytes for [`Functions`]. While
/// [`Host::assign`] works, each bridge behind another takes about 400 bytes more (riscv64, optimized).
pub const MAX_BRIDGE_DEPTH: usize = 8;

/// The functions behind a host bridge. See [`Host::functions`].
///
/// Each bus is visited once, so the walk ends whatever bridges say of their buses.
#[derive(Clone, Debug)]
pub struct Functions<'h, A> {
    host: &'h Host<'h, A>,
    /// The buses from the root to where the walk is, the root bus first.
    buses: [Bus; MAX_BRIDGE_DEPTH + 1],
    depth: usize,
    /// A bit for each bus that was entered.
    entered: [u64; 4],
}

const _: () = assert!(size_of::<Functions<'_, ()>>() < 256);

impl<'h, A: ConfigRegionAccess> Functions<'h, A> {
    pub(super) fn new(host: &'h Host<'h, A>) -> Self {
        let (first, last) = (*host.buses.start(), *host.buses.end());
        let mut walk = Self { host, buses: Default::default(), depth: 0, entered: [0; 4] };
        walk.enter(first, last, Route::default());
        walk
    }

    /// Goes on with another bus, unless it was entered before or is too deep.
    fn enter(&mut self, bus: u8, last: u8, route: Route) {
        let (word, bit) = (usize::from(bus) / 64, 1 << (bus % 64));
        let Some(entered) = self.entered.get_mut(word).filter(|entered| **entered & bit == 0) else { return };
        let Some(level) = self.buses.get_mut(self.depth) else { return };
        *entered |= bit;
        *level = Bus { bus, last, next: 0, has_functions: false, route };
        self.depth += 1;
    }
}

impl<'h, A: ConfigRegionAccess> Iterator for Functions<'h, A> {
    type Item = Function<'h, A>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let level = self.buses.get_mut(..self.depth)?.last_mut()?;
            let Some((function, place)) = level.next(self.host) else {
                self.depth -= 1;
                continue;
            };
            if place == HeaderType::PciPciBridge {
                let (bus, last, route) = (level.bus, level.last, level.route.behind(function.address));
                let behind = function.bridge_buses();
                // A bridge leads to higher numbers, within those that lead to it.
                if behind.secondary > bus && behind.secondary <= behind.subordinate.min(last) {
                    self.enter(behind.secondary, behind.subordinate.min(last), route);
                }
            }
            return Some(function);
        }
    }
}

/// A bus that is being walked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bus {
    bus: u8,
    /// The highest number of a bus behind it.
    last: u8,
    /// The device and function to look at next: five bits and three.
    next: u16,
    /// Whether the device that is being looked at has more functions than the first.
    has_functions: bool,
    route: Route,
}

impl Bus {
    /// A bus by itself.
    pub(super) fn new(bus: u8) -> Self {
        Self { bus, ..Self::default() }
    }

    /// The next function that is there, and what kind it is.
    pub(super) fn next<'h, A: ConfigRegionAccess>(
        &mut self,
        host: &'h Host<'h, A>,
    ) -> Option<(Function<'h, A>, HeaderType)> {
        while let Ok(number) = u8::try_from(self.next) {
            let (device, number) = (number >> 3, number & 7);
            self.next += 1;
            let address = PciAddress::new(0, self.bus, device, number);
            let function = Function { host, address, route: self.route };
            let is_there = function.id().0 != u16::MAX;
            if number == 0 {
                let [_, _, kind, _] = function.read(register::HEADER_TYPE).to_le_bytes();
                self.has_functions = is_there && kind & 0x80 != 0;
                if !self.has_functions {
                    // To the next device.
                    self.next += 7;
                }
            }
            if is_there {
                return Some((function, function.header_type()));
            }
        }
        None
    }
}
