//! What a node says about its children, and the way from the root to where a walk is.

use super::{MAX_DEPTH, NodeProblem, Region, tokens::take_number};

/// What a node says about its children, and about its own place in the tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bus<'a> {
    pub(super) address_cells: u32,
    pub(super) size_cells: u32,
    /// How the children's addresses map to this node's parent: empty for "the same"; `None` for "not at all".
    pub(super) ranges: Option<&'a [u8]>,
    pub(super) interrupt_parent: Option<u32>,
    pub(super) interrupt_cells: Option<u32>,
    pub(super) in_use: bool,
}

impl Bus<'_> {
    /// The Devicetree Specification's defaults (section 2.3.5).
    pub(super) const DEFAULT: Self = Self {
        address_cells: 2,
        size_cells: 1,
        ranges: None,
        interrupt_parent: None,
        interrupt_cells: None,
        in_use: true,
    };

    /// Whether addresses and sizes of the children have one or two cells each.
    pub(super) fn check_cells(&self) -> Result<(), NodeProblem> {
        match (self.address_cells, self.size_cells) {
            (1..=2, 1..=2) => Ok(()),
            (address_cells, size_cells) => Err(NodeProblem::UnsupportedCells { address_cells, size_cells }),
        }
    }

    /// Translates a child's region to this node's own parent.
    pub(super) fn translate(&self, region: Region, parent: &Bus<'_>) -> Result<Region, NodeProblem> {
        let not_mapped = NodeProblem::NotMapped { region };
        let mut ranges = self.ranges.ok_or(not_mapped)?;
        if ranges.is_empty() {
            return Ok(region);
        }
        self.check_cells()?;
        parent.check_cells()?;
        loop {
            let child = take_number(&mut ranges, self.address_cells).ok_or(not_mapped)?;
            let target = take_number(&mut ranges, parent.address_cells).ok_or(not_mapped)?;
            let bytes = take_number(&mut ranges, self.size_cells).ok_or(not_mapped)?;
            let inside =
                region.address.checked_sub(child).filter(|&from| from <= bytes && region.bytes <= bytes - from);
            if let Some(from) = inside {
                let address = target.checked_add(from).ok_or(not_mapped)?;
                return Region { address, ..region }.checked();
            }
        }
    }
}

/// The nodes from the root to where a walk is.
#[derive(Clone, Debug)]
pub(super) struct Path<'a> {
    buses: [Bus<'a>; MAX_DEPTH],
    depth: usize,
}

impl<'a> Path<'a> {
    /// At no node yet.
    pub(super) fn new() -> Self {
        Self { buses: [Bus::DEFAULT; MAX_DEPTH], depth: 0 }
    }

    /// Enters a child node. `None` when it is too deep.
    pub(super) fn push(&mut self) -> Option<()> {
        let in_use = self.current().is_none_or(|(parent, _)| parent.in_use);
        *self.buses.get_mut(self.depth)? = Bus { in_use, ..Bus::DEFAULT };
        self.depth += 1;
        Some(())
    }

    /// Leaves a node.
    pub(super) fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// The node where the walk is, and those above it, the root first.
    pub(super) fn current(&self) -> Option<(&Bus<'a>, &[Bus<'a>])> {
        self.buses.get(..self.depth)?.split_last()
    }

    /// The node where the walk is.
    pub(super) fn current_mut(&mut self) -> Option<&mut Bus<'a>> {
        self.buses.get_mut(..self.depth)?.last_mut()
    }
}
