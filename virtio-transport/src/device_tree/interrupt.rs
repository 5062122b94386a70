//! Interrupts, as a tree names them.

use super::{MAX_INTERRUPT_CELLS, NodeProblem, tokens::cell};

/// An interrupt as an interrupt controller's node in the tree understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptSpecifier {
    /// The phandle of the controller; `None` where the tree names none.
    pub controller: Option<u32>,
    cells: [u32; MAX_INTERRUPT_CELLS],
    count: usize,
}

impl InterruptSpecifier {
    /// Takes `count` cells off the front of a property.
    pub(super) fn read(controller: Option<u32>, value: &[u8], count: u32) -> Result<Self, NodeProblem> {
        let count = count as usize;
        let mut cells = [0; MAX_INTERRUPT_CELLS];
        let wanted = cells.get_mut(..count).filter(|wanted| !wanted.is_empty()).ok_or(NodeProblem::BadInterrupts)?;
        let mut value = value.chunks_exact(size_of::<u32>());
        for to in wanted {
            *to = value.next().and_then(cell).ok_or(NodeProblem::BadInterrupts)?;
        }
        Ok(Self { controller, cells, count })
    }

    /// The raw cells, in the tree's order. What they mean is the controller's matter: one, the number, for a PLIC; the
    /// number and flags for an APLIC; type, number and flags for an ARM GIC.
    pub fn cells(&self) -> &[u32] {
        self.cells.get(..self.count).unwrap_or(&self.cells)
    }

    /// The number of the interrupt at its controller: the first of one or two cells; of three and more what the ARM
    /// GIC's binding makes of them (32 and up for a shared one, 16 and up for a private one; `None` for other types).
    pub fn number(&self) -> Option<u32> {
        match *self.cells() {
            [number] | [number, _] => Some(number),
            [0, number, ..] => number.checked_add(32),
            [1, number, ..] => number.checked_add(16),
            _ => None,
        }
    }
}
