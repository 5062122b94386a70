//! PCI host bridges, by the bindings for PCI (IEEE 1275) and for hosts with a generic memory-mapped configuration space.

use super::{
    DeviceTree, InterruptSpecifier, NodeError, NodeProblem, Region,
    node::{Node, to_root},
    path::Bus,
    tokens::take_number,
    walk::Walk,
};
use crate::pci::{InterruptRoute, MAX_WINDOWS, Window};

/// What a node is compatible with.
const COMPATIBLE: &str = "pci-host-ecam-generic";
/// The cells of a PCI address: what kind of address it is, and 64 bits of it.
const ADDRESS_CELLS: u32 = 3;
/// The cells of a size.
const SIZE_CELLS: u32 = 2;
/// The first cell of a PCI address: which space it is in, and whether reading has no side effects.
const SPACE_SHIFT: u32 = 24;
const SPACE_MASK: u32 = 3;
const SPACE_MEMORY_32: u32 = 2;
const SPACE_MEMORY_64: u32 = 3;
const PREFETCHABLE: u32 = 1 << 30;
/// How much configuration space a bus has.
const BUS_BYTES: u64 = 1 << 20;

/// The PCI host bridges of a tree. See [`DeviceTree::pci_hosts`].
#[derive(Clone, Debug)]
pub struct PciHostNodes<'a> {
    walk: Walk<'a>,
}

impl<'a> PciHostNodes<'a> {
    pub(super) fn new(tree: DeviceTree<'a>) -> Self {
        Self { walk: Walk::new(tree) }
    }
}

impl<'a> Iterator for PciHostNodes<'a> {
    type Item = Result<PciHostNode<'a>, NodeError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.walk.find(|tree, node, own, ancestors| {
            if !node.is_compatible(COMPATIBLE) {
                return None;
            }
            let found = PciHostNode::read(tree, node, own, ancestors);
            Some(found.map_err(|problem| NodeError { name: node.name, problem }))
        })
    }
}

/// A PCI host bridge.
#[derive(Clone, Copy, Debug)]
pub struct PciHostNode<'a> {
    /// The name of the node, such as `pci@30000000`.
    pub name: &'a str,
    /// Where its configuration space is, from that of bus [`first_bus`](Self::first_bus) on.
    pub config_space: Region,
    /// The number of its root bus.
    pub first_bus: u8,
    /// The highest number of a bus behind it.
    pub last_bus: u8,
    windows: [Window; MAX_WINDOWS],
    window_count: usize,
    tree: DeviceTree<'a>,
    interrupt_map: &'a [u8],
    interrupt_mask: [u32; MASK_CELLS],
}

/// The cells of a child in an `interrupt-map`: a PCI address, and the pin.
const MASK_CELLS: usize = 4;

impl<'a> PciHostNode<'a> {
    fn read(tree: &DeviceTree<'a>, node: &Node<'a>, own: &Bus<'a>, ancestors: &[Bus<'a>]) -> Result<Self, NodeProblem> {
        let config_space = node.region(ancestors)?;
        let (first_bus, last_bus) = buses(node.bus_range, config_space.bytes)?;
        let (windows, window_count) = windows(own, ancestors)?;
        let mut interrupt_mask = [u32::MAX; MASK_CELLS];
        if let Some(mut mask) = node.interrupt_map_mask {
            for cell in &mut interrupt_mask {
                *cell = take_cell(&mut mask).ok_or(NodeProblem::BadInterruptMap)?;
            }
        }
        Ok(Self {
            name: node.name,
            config_space,
            first_bus,
            last_bus,
            windows,
            window_count,
            tree: *tree,
            interrupt_map: node.interrupt_map.unwrap_or(&[]),
            interrupt_mask,
        })
    }

    /// The memory addresses that devices behind it may have. Windows for I/O ports are left out.
    pub fn windows(&self) -> &[Window] {
        self.windows.get(..self.window_count).unwrap_or(&self.windows)
    }

    /// Which interrupt of the machine a function's pin is connected to (`interrupt-map`). `None` when the tree does not
    /// say.
    ///
    /// ```
    /// # use virtio_transport::{NodeProblem, PciHostNode, pci::{ConfigRegionAccess, Function}};
    /// fn interrupt_of<A: ConfigRegionAccess>(
    ///     node: &PciHostNode<'_>,
    ///     function: &Function<'_, A>,
    /// ) -> Result<Option<u32>, NodeProblem> {
    ///     let Some(route) = function.interrupt() else { return Ok(None) };
    ///     Ok(node.interrupt(&route)?.and_then(|interrupt| interrupt.number()))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`NodeProblem::BadInterruptMap`], [`NodeProblem::BadInterrupts`], [`NodeProblem::UnsupportedCells`] and
    /// [`NodeProblem::NoInterruptController`] when the map is damaged.
    pub fn interrupt(&self, route: &InterruptRoute) -> Result<Option<InterruptSpecifier>, NodeProblem> {
        let damaged = NodeProblem::BadInterruptMap;
        let address = u32::from(route.address.bus()) << 16
            | u32::from(route.address.device()) << 11
            | u32::from(route.address.function()) << 8;
        let wanted = [address, 0, 0, route.pin.into()];
        let mut map = self.interrupt_map;
        while !map.is_empty() {
            let mut matches = true;
            for (wanted, mask) in wanted.into_iter().zip(self.interrupt_mask) {
                let cell = take_cell(&mut map).ok_or(damaged)?;
                matches &= cell & mask == wanted & mask;
            }
            let controller = take_cell(&mut map).ok_or(damaged)?;
            let cells = self.tree.controller_cells(controller)?;
            // The controller's own address for it, which is of no use here.
            for _ in 0..cells.address {
                take_cell(&mut map).ok_or(damaged)?;
            }
            if matches {
                return InterruptSpecifier::read(Some(controller), map, cells.interrupt).map(Some);
            }
            for _ in 0..cells.interrupt {
                take_cell(&mut map).ok_or(damaged)?;
            }
        }
        Ok(None)
    }
}

/// The first and the last bus: those of `bus-range`, as far as there is configuration space.
fn buses(range: Option<&[u8]>, config_bytes: u64) -> Result<(u8, u8), NodeProblem> {
    let (first, last) = match range {
        None => (0, u8::MAX),
        Some(mut range) => {
            let mut bus = || u8::try_from(take_cell(&mut range)?).ok();
            let buses = bus().zip(bus()).filter(|(first, last)| first <= last);
            buses.ok_or(NodeProblem::BadBusRange)?
        }
    };
    match config_bytes / BUS_BYTES {
        0 => Err(NodeProblem::BadReg),
        count => {
            let reachable = u8::try_from(count - 1).unwrap_or(u8::MAX);
            Ok((first, last.min(first.saturating_add(reachable))))
        }
    }
}

/// The memory windows of `ranges`, and how many there are.
fn windows(own: &Bus<'_>, ancestors: &[Bus<'_>]) -> Result<([Window; MAX_WINDOWS], usize), NodeProblem> {
    let (address_cells, size_cells) = (own.address_cells, own.size_cells);
    if (address_cells, size_cells) != (ADDRESS_CELLS, SIZE_CELLS) {
        return Err(NodeProblem::UnsupportedCells { address_cells, size_cells });
    }
    let parent = ancestors.last().ok_or(NodeProblem::BadRanges)?;
    parent.check_cells()?;
    let mut windows = [Window::default(); MAX_WINDOWS];
    let mut free = windows.iter_mut();
    let mut count = 0;
    let mut ranges = own.ranges.unwrap_or(&[]);
    while !ranges.is_empty() {
        let kind = take_cell(&mut ranges).ok_or(NodeProblem::BadRanges)?;
        let pci_address = take_number(&mut ranges, 2).ok_or(NodeProblem::BadRanges)?;
        let address = take_number(&mut ranges, parent.address_cells).ok_or(NodeProblem::BadRanges)?;
        let bytes = take_number(&mut ranges, SIZE_CELLS).ok_or(NodeProblem::BadRanges)?;
        let space = kind >> SPACE_SHIFT & SPACE_MASK;
        if space != SPACE_MEMORY_32 && space != SPACE_MEMORY_64 {
            continue;
        }
        let region = to_root(Region { address, bytes }.checked()?, ancestors)?;
        pci_address.checked_add(bytes).ok_or(NodeProblem::BadRanges)?;
        *free.next().ok_or(NodeProblem::BadRanges)? =
            Window { pci_address, address: region.address, bytes, prefetchable: kind & PREFETCHABLE != 0 };
        count += 1;
    }
    Ok((windows, count))
}

/// Takes a cell off the front of a property.
fn take_cell(value: &mut &[u8]) -> Option<u32> {
    take_number(value, 1).map(|cell| cell as u32)
}
