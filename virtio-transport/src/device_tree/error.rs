//! What can be wrong with a tree, and with a node of one.

use core::fmt;

use super::{MAGIC, MAX_DEPTH, Region, VERSION};
use crate::pci::MAX_WINDOWS;

/// Why a blob is no device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceTreeError {
    /// The blob is shorter than its header, or than its header says.
    Truncated {
        /// How many bytes there should be.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// The blob does not begin with the magic number of device trees.
    BadMagic {
        /// What is there.
        found: u32,
    },
    /// A version of the format that is not compatible with 17.
    UnsupportedVersion {
        /// The version of the tree.
        version: u32,
        /// The oldest version that it is compatible with.
        compatible: u32,
    },
    /// A block is not inside the tree.
    BlockOutside {
        /// Which block.
        block: &'static str,
        /// Where it should start, in bytes from the start of the tree.
        offset: u32,
        /// How long it should be, in bytes.
        bytes: u32,
        /// The length of the whole tree in bytes.
        total: u32,
    },
    /// The structure block is damaged.
    Damaged {
        /// Where, in bytes from the start of the structure block.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// Nodes are nested deeper than [`MAX_DEPTH`].
    TooDeep {
        /// Where, in bytes from the start of the structure block.
        offset: usize,
    },
}

impl fmt::Display for DeviceTreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { needed, found } => {
                write!(f, "the device tree is cut off: {found} bytes, expected {needed}")
            }
            Self::BadMagic { found } => {
                write!(f, "no device tree: the magic number is {found:#010x}, expected {MAGIC:#010x}")
            }
            Self::UnsupportedVersion { version, compatible } => write!(
                f,
                "a device tree of version {version}, compatible with {compatible}; expected one compatible with \
                 {VERSION}"
            ),
            Self::BlockOutside { block, offset, bytes, total } => write!(
                f,
                "the device tree's {block} block ({bytes} bytes at {offset:#x}) is outside of its {total} bytes"
            ),
            Self::Damaged { offset, what } => {
                write!(f, "the device tree is damaged at {offset:#x} of its structure block: {what}")
            }
            Self::TooDeep { offset } => write!(
                f,
                "the device tree's nodes are nested deeper than {MAX_DEPTH}, at {offset:#x} of its structure block"
            ),
        }
    }
}

impl core::error::Error for DeviceTreeError {}

/// A node that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeError<'a> {
    /// The name of the node.
    pub name: &'a str,
    /// What is wrong with it.
    pub problem: NodeProblem,
}

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeProblem {
    /// `reg` is missing, too short, or wraps around the end of the address space.
    BadReg,
    /// Addresses or sizes of other than one or two cells, in the node's parent or one above it.
    UnsupportedCells {
        /// The `#address-cells`.
        address_cells: u32,
        /// The `#size-cells`.
        size_cells: u32,
    },
    /// A node above it does not map this region to its own parent (`ranges`): the processor cannot reach it.
    NotMapped {
        /// The region, as the children of that node see it.
        region: Region,
    },
    /// `interrupts` or `interrupts-extended` is too short, or its controller wants no cells or more than
    /// [`MAX_INTERRUPT_CELLS`](crate::MAX_INTERRUPT_CELLS).
    BadInterrupts,
    /// `interrupt-map` or `interrupt-map-mask` ends in the middle of an entry.
    BadInterruptMap,
    /// `ranges` of a PCI host bridge ends in the middle of an entry, wraps around, or has more memory windows than
    /// [`MAX_WINDOWS`](crate::pci::MAX_WINDOWS).
    BadRanges,
    /// `bus-range` is not two bus numbers from 0 to 255, the first one first.
    BadBusRange,
    /// The tree has no interrupt controller with this phandle, or one that does not say how many cells it wants.
    NoInterruptController {
        /// The phandle.
        phandle: u32,
    },
}

impl fmt::Display for NodeError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device tree node {}: ", self.name)?;
        match self.problem {
            NodeProblem::BadReg => write!(f, "reg does not say where the registers are"),
            NodeProblem::UnsupportedCells { address_cells, size_cells } => write!(
                f,
                "addresses of {address_cells} and sizes of {size_cells} cells in a node above it, expected 1 or 2 each"
            ),
            NodeProblem::NotMapped { region: Region { address, bytes } } => {
                write!(f, "its {bytes:#x} bytes at {address:#x} are in none of the ranges of a node above it")
            }
            NodeProblem::BadInterrupts => write!(f, "its interrupt does not have the cells that its controller wants"),
            NodeProblem::BadInterruptMap => {
                write!(f, "its interrupt-map or the map's mask ends in the middle of an entry")
            }
            NodeProblem::BadRanges => {
                write!(
                    f,
                    "its ranges end in the middle of an entry, wrap around, or have more than {MAX_WINDOWS} memory windows"
                )
            }
            NodeProblem::BadBusRange => {
                write!(f, "its bus-range is not two bus numbers from 0 to 255, the lower one first")
            }
            NodeProblem::NoInterruptController { phandle } => {
                write!(f, "no interrupt controller with phandle {phandle:#x} and #interrupt-cells is in the tree")
            }
        }
    }
}

impl core::error::Error for NodeError<'_> {}
