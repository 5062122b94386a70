//! A node whose properties are being read.

use super::{
    DeviceTree, InterruptSpecifier, NodeProblem, Region,
    path::Bus,
    tokens::{cell, take_number},
};

/// A node whose properties are being read.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) name: &'a str,
    compatible: &'a [u8],
    reg: &'a [u8],
    interrupts: Option<&'a [u8]>,
    interrupts_extended: Option<&'a [u8]>,
    pub(super) interrupt_map: Option<&'a [u8]>,
    pub(super) interrupt_map_mask: Option<&'a [u8]>,
    pub(super) bus_range: Option<&'a [u8]>,
}

impl<'a> Node<'a> {
    /// Of which only the name is known yet.
    pub(super) fn new(name: &'a str) -> Self {
        Self {
            name,
            compatible: &[],
            reg: &[],
            interrupts: None,
            interrupts_extended: None,
            interrupt_map: None,
            interrupt_map_mask: None,
            bus_range: None,
        }
    }

    /// Takes note of a property.
    pub(super) fn read(&mut self, bus: &mut Bus<'a>, name: &str, value: &'a [u8]) {
        // A number of cells that is none is one that nobody supports.
        let cells = || cell(value).unwrap_or(u32::MAX);
        match name {
            "#address-cells" => bus.address_cells = cells(),
            "#size-cells" => bus.size_cells = cells(),
            "#interrupt-cells" => bus.interrupt_cells = Some(cells()),
            "ranges" => bus.ranges = Some(value),
            "interrupt-parent" => bus.interrupt_parent = cell(value),
            "status" => bus.in_use &= matches!(value, b"okay\0" | b"ok\0"),
            "compatible" => self.compatible = value,
            "interrupt-map" => self.interrupt_map = Some(value),
            "interrupt-map-mask" => self.interrupt_map_mask = Some(value),
            "bus-range" => self.bus_range = Some(value),
            "reg" => self.reg = value,
            "interrupts" => self.interrupts = Some(value),
            "interrupts-extended" => self.interrupts_extended = Some(value),
            _ => {}
        }
    }

    /// Whether one of the names that it is compatible with is this.
    pub(super) fn is_compatible(&self, name: &str) -> bool {
        self.compatible.split(|&byte| byte == 0).any(|it| it == name.as_bytes())
    }

    /// The first entry of `reg`, as the processor sees it.
    pub(super) fn region(&self, ancestors: &[Bus<'a>]) -> Result<Region, NodeProblem> {
        let parent = ancestors.last().ok_or(NodeProblem::BadReg)?;
        parent.check_cells()?;
        let mut reg = self.reg;
        let address = take_number(&mut reg, parent.address_cells).ok_or(NodeProblem::BadReg)?;
        let bytes = take_number(&mut reg, parent.size_cells).ok_or(NodeProblem::BadReg)?;
        to_root(Region { address, bytes }.checked()?, ancestors)
    }

    /// The first interrupt. `interrupts-extended` counts more than `interrupts` (section 2.4.1.1).
    pub(super) fn interrupt(
        &self,
        tree: &DeviceTree<'a>,
        own: &Bus<'a>,
        ancestors: &[Bus<'a>],
    ) -> Result<Option<InterruptSpecifier>, NodeProblem> {
        let cells_of = |phandle| tree.controller_cells(phandle).map(|cells| cells.interrupt);
        if let Some(mut value) = self.interrupts_extended {
            let phandle = take_number(&mut value, 1).ok_or(NodeProblem::BadInterrupts)? as u32;
            return InterruptSpecifier::read(Some(phandle), value, cells_of(phandle)?).map(Some);
        }
        let Some(value) = self.interrupts else { return Ok(None) };
        // The controller: the one that the node or the nearest node above it names, or one of those above itself.
        let mut named = own.interrupt_parent;
        for ancestor in ancestors.iter().rev() {
            if named.is_some() {
                break;
            }
            if let Some(count) = ancestor.interrupt_cells {
                return InterruptSpecifier::read(None, value, count).map(Some);
            }
            named = ancestor.interrupt_parent;
        }
        let count = match named {
            Some(phandle) => cells_of(phandle)?,
            // A tree without controllers. A virtio-mmio device has one interrupt: all cells are for that.
            None => (value.len() / size_of::<u32>()) as u32,
        };
        InterruptSpecifier::read(named, value, count).map(Some)
    }
}

/// A region as the processor sees it, which is given as the children of the last of these nodes see it.
pub(super) fn to_root(mut region: Region, ancestors: &[Bus<'_>]) -> Result<Region, NodeProblem> {
    for pair in ancestors.windows(2).rev() {
        if let [upper, lower] = pair {
            region = lower.translate(region, upper)?;
        }
    }
    Ok(region)
}
