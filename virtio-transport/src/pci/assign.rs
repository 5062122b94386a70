//! Giving numbers to buses and addresses to BARs, where firmware has not.

use pci_types::{CommandRegister, ConfigRegionAccess, HeaderType};

use super::{Function, Host, MAX_BRIDGE_DEPTH, Window, bar::Bar, function::register, walk::Bus};

/// The lowest alignment of a BAR: no two functions share a page of the processor.
const PAGE: u64 = 4096;
/// The units in which a bridge has its windows.
const BRIDGE_UNIT: u64 = 1 << 20;
/// The end of what a 32-bit BAR, or the window of a bridge for registers, can express.
const END_32_BIT: u64 = 1 << 32;
/// What the prefetchable window of a bridge reads as if it can be above 4 GiB.
const WINDOW_IS_64_BIT: u32 = 1;

/// What [`Host::assign`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// How many BARs have got an address.
    pub bars: u32,
    /// How many bridges have got numbers for their buses.
    pub bridges: u32,
    /// How many BARs and bridges have not got what they need, because it has run out. Who drives such a function is told
    /// with [`CapabilityProblem::NoAddress`](super::CapabilityProblem::NoAddress).
    pub refused: u32,
}

/// The state of the work.
pub(super) struct Assigner<'h, A> {
    host: &'h Host<'h, A>,
    /// Addresses below 4 GiB.
    low: Pool,
    /// Addresses for 64-bit prefetchable BARs, above.
    high: Pool,
    /// The number of the next bus.
    next_bus: u16,
    assigned: Assigned,
}

impl<'h, A: ConfigRegionAccess> Assigner<'h, A> {
    /// Does all of it.
    pub(super) fn run(host: &'h Host<'h, A>) -> Assigned {
        if !host.functions().any(|function| lacks_something(&function)) {
            return Assigned::default();
        }
        let mut this = Self {
            host,
            low: Pool::below_4_gib(host.windows),
            high: Pool::above_4_gib(host.windows),
            next_bus: u16::from(*host.buses.start()) + 1,
            assigned: Assigned::default(),
        };
        for function in host.functions() {
            this.reserve(&function);
        }
        this.low.settle();
        this.high.settle();
        this.bus(*host.buses.start(), true, 0);
        log::debug!("PCI: {:?}", this.assigned);
        this.assigned
    }

    /// Notes what is in use already.
    fn reserve(&mut self, function: &Function<'_, A>) {
        for bar in function.bars().iter().flatten().filter(|bar| bar.address != 0) {
            self.reserve_range(bar.address, bar.address.saturating_add(bar.bytes - 1));
        }
        if function.header_type() != HeaderType::PciPciBridge {
            return;
        }
        let buses = function.bridge_buses();
        if buses.secondary != 0 {
            self.next_bus = self.next_bus.max(u16::from(buses.subordinate.max(buses.secondary)) + 1);
            for (first, last) in open_windows(function).into_iter().flatten() {
                self.reserve_range(first, last);
            }
        }
    }

    fn reserve_range(&mut self, first: u64, last: u64) {
        self.low.reserve(first, last);
        self.high.reserve(first, last);
    }

    /// Sets up the functions on a bus. `high`: whether addresses above 4 GiB are forwarded to it.
    fn bus(&mut self, bus: u8, high: bool, depth: usize) {
        let mut level = Bus::new(bus);
        while let Some((function, kind)) = level.next(self.host) {
            let lacks_something = lacks_something(&function);
            if kind == HeaderType::PciPciBridge && function.bridge_buses().secondary == 0 {
                self.bridge(&function, bus, high, depth);
            }
            if lacks_something {
                self.bars(&function, high);
            }
        }
    }

    /// Gives addresses to the BARs of a function that have none. Not inlined: what it knows of them stays off the stack
    /// while buses behind bridges are set up.
    #[inline(never)]
    fn bars(&mut self, function: &Function<'_, A>, high: bool) {
        for bar in function.bars().iter().flatten().filter(|bar| bar.address == 0) {
            match self.place(bar, high) {
                Some(address) => {
                    function.set_bar(bar, address);
                    self.assigned.bars += 1;
                }
                None => {
                    self.assigned.refused += 1;
                    let (address, Bar { index, bytes, .. }) = (function.address(), bar);
                    log::warn!("PCI function {address}: no address is left for the {bytes:#x} bytes of BAR {index}");
                }
            }
        }
    }

    fn place(&mut self, bar: &Bar, high: bool) -> Option<u64> {
        let align = bar.bytes.max(PAGE);
        // Low ones first: a processor of 32 bits reaches no others.
        let low = self.low.take(bar.bytes, align);
        low.or_else(|| if high && bar.is_64_bit && bar.prefetchable { self.high.take(bar.bytes, align) } else { None })
    }

    /// Numbers the bus behind a bridge, sets up what is on it, and opens the bridge for that.
    fn bridge(&mut self, bridge: &Function<'_, A>, bus: u8, high: bool, depth: usize) {
        let last = *self.host.buses.end();
        let number = u8::try_from(self.next_bus).ok().filter(|&number| number <= last && depth < MAX_BRIDGE_DEPTH);
        let Some(number) = number else {
            self.assigned.refused += 1;
            log::warn!("PCI bridge {}: no bus number is left for what is behind it", bridge.address());
            return;
        };
        self.next_bus += 1;
        self.assigned.bridges += 1;
        // All numbers from here on lead through it, until it is known how many there are.
        set_buses(bridge, bus, number, last);
        let high = high && bridge.read(register::PREFETCHABLE_WINDOW) & 0xf == WINDOW_IS_64_BIT;
        let starts = [&mut self.low, &mut self.high].map(|pool| pool.align(BRIDGE_UNIT));
        self.bus(number, high, depth + 1);
        let ends = [&mut self.low, &mut self.high].map(|pool| pool.align(BRIDGE_UNIT));
        set_buses(bridge, bus, number, u8::try_from(self.next_bus - 1).unwrap_or(last));
        let [low, high] = [0, 1].map(|pool: usize| {
            let (start, end) = (*starts.get(pool)?, *ends.get(pool)?);
            (start < end).then_some((start, end - 1))
        });
        set_windows(bridge, low, high);
        let command = bridge.command();
        bridge.set_command(command | CommandRegister::MEMORY_ENABLE | CommandRegister::BUS_MASTER_ENABLE);
    }
}

/// Whether a function has a BAR without an address, or a bridge no number for what is behind it.
///
/// A function that answers at its addresses has them: it is left in peace.
#[inline(never)]
fn lacks_something<A: ConfigRegionAccess>(function: &Function<'_, A>) -> bool {
    let is_bridge = function.header_type() == HeaderType::PciPciBridge;
    if is_bridge && function.bridge_buses().secondary == 0 {
        return true;
    }
    let answers = function.command().contains(CommandRegister::MEMORY_ENABLE);
    !answers && function.bars().iter().flatten().any(|bar| bar.address == 0)
}

fn set_buses<A: ConfigRegionAccess>(bridge: &Function<'_, A>, primary: u8, secondary: u8, subordinate: u8) {
    let [_, _, _, latency] = bridge.read(register::BUSES).to_le_bytes();
    bridge.write(register::BUSES, u32::from_le_bytes([primary, secondary, subordinate, latency]));
}

/// Opens a bridge for these addresses, the first and the last of each kind; closes it where there are none.
fn set_windows<A: ConfigRegionAccess>(bridge: &Function<'_, A>, low: Option<(u64, u64)>, high: Option<(u64, u64)>) {
    // From a high address to a lower one: closed.
    const CLOSED: (u64, u64) = (0xfff0_0000, 0);
    let ends = |(first, last): (u64, u64)| {
        let unit = |address: u64| (address >> 16) as u32 & 0xfff0;
        unit(last) << 16 | unit(first)
    };
    bridge.write(register::MEMORY_WINDOW, ends(low.unwrap_or(CLOSED)));
    let (first, last) = high.unwrap_or(CLOSED);
    bridge.write(register::PREFETCHABLE_WINDOW, ends((first, last)));
    bridge.write(register::PREFETCHABLE_BASE_HIGH, (first >> 32) as u32);
    bridge.write(register::PREFETCHABLE_LIMIT_HIGH, (last >> 32) as u32);
}

/// The addresses that a bridge is open for, the first and the last of each kind.
fn open_windows<A: ConfigRegionAccess>(bridge: &Function<'_, A>) -> [Option<(u64, u64)>; 2] {
    let ends = |raw: u32| {
        let unit = |half: u32| u64::from(half & 0xfff0) << 16;
        (unit(raw & 0xffff), unit(raw >> 16) | (BRIDGE_UNIT - 1))
    };
    let open = |(first, last)| (first <= last && first != 0).then_some((first, last));
    let (mut first, mut last) = ends(bridge.read(register::PREFETCHABLE_WINDOW));
    if bridge.read(register::PREFETCHABLE_WINDOW) & 0xf == WINDOW_IS_64_BIT {
        first |= u64::from(bridge.read(register::PREFETCHABLE_BASE_HIGH)) << 32;
        last |= u64::from(bridge.read(register::PREFETCHABLE_LIMIT_HIGH)) << 32;
    }
    [open(ends(bridge.read(register::MEMORY_WINDOW))), open((first, last))]
}

/// Addresses to give away, from the lowest on.
struct Pool {
    /// The next one.
    next: u64,
    /// The one behind the last.
    end: u64,
    /// What is in use already, as one range: its first address and the one behind it.
    used: Option<(u64, u64)>,
}

impl Pool {
    /// The first window that registers can be in and every BAR can express.
    fn below_4_gib(windows: &[Window]) -> Self {
        let is_low = |window: &&Window| window.pci_address < END_32_BIT && window.bytes > 0;
        let window = windows.iter().find(|window| is_low(window) && !window.prefetchable);
        Self::new(window, END_32_BIT)
    }

    /// The first window above.
    fn above_4_gib(windows: &[Window]) -> Self {
        Self::new(windows.iter().find(|window| window.pci_address >= END_32_BIT), u64::MAX)
    }

    fn new(window: Option<&Window>, limit: u64) -> Self {
        let range = window.and_then(|window| Some((window.pci_address, window.last()?)));
        let (first, last) = range.unwrap_or((1, 0));
        // Address 0 means "none".
        Self { next: first.max(PAGE), end: last.saturating_add(1).min(limit), used: None }
    }

    /// Notes that a range is in use.
    fn reserve(&mut self, first: u64, last: u64) {
        if first < self.end && last >= self.next {
            let (used_first, used_end) = self.used.unwrap_or((u64::MAX, 0));
            self.used = Some((used_first.min(first), used_end.max(last.saturating_add(1))));
        }
    }

    /// Keeps the larger of the parts before and behind what is in use.
    fn settle(&mut self) {
        let Some((used_first, used_end)) = self.used.take() else { return };
        let before = used_first.saturating_sub(self.next);
        let behind = self.end.saturating_sub(used_end);
        if before > behind {
            self.end = used_first;
        } else {
            self.next = self.next.max(used_end);
        }
    }

    /// Takes a range of this length and alignment, a power of two, if one is left.
    fn take(&mut self, bytes: u64, align: u64) -> Option<u64> {
        let start = self.next.checked_next_multiple_of(align)?;
        let end = start.checked_add(bytes).filter(|&end| end <= self.end)?;
        self.next = end;
        Some(start)
    }

    /// Goes on at a multiple of this, or at the end.
    fn align(&mut self, align: u64) -> u64 {
        self.next = self.next.checked_next_multiple_of(align).unwrap_or(self.end).min(self.end);
        self.next
    }
}
