//! Finding virtio-mmio devices and PCI host bridges in a flattened device tree.
//!
//! Parsing is safe and takes any bytes: a damaged or truncated tree is an error value. It happens in one walk over the
//! whole tree ([`DeviceTree::parse`]), so that what walks it later meets nothing unexpected. Nothing is allocated,
//! nothing recurses, the blob may have any alignment.
//!
//! This is a walk of our own and not that of a general device tree crate, because those at hand trust the bytes (they
//! panic on damaged ones, or recurse as deep as the tree says), and because translating addresses needs all ancestors
//! of a node. Words like "cells" and "ranges" are those of the Devicetree Specification 0.4, chapters 2 and 5; the
//! node of a device is that of virtio 1.4, section 4.2.1.

use core::slice;

pub use error::{DeviceTreeError, NodeError, NodeProblem};
pub use interrupt::InterruptSpecifier;
pub use mmio::{MmioNode, MmioNodes};
pub use pci::{PciHostNode, PciHostNodes};
use tokens::{Token, Tokens, cell};

mod error;
mod interrupt;
mod mmio;
mod node;
mod path;
mod pci;
mod tokens;
mod walk;

/// How deep the nodes of a tree may be nested, the root included. Real ones have about half of it.
///
/// It bounds the memory of a walk, which lives on the caller's stack (less than 1 KiB).
pub const MAX_DEPTH: usize = 16;

/// The most cells that an [`InterruptSpecifier`] has.
pub const MAX_INTERRUPT_CELLS: usize = 4;

/// The length of the header in bytes (section 5.2 of the Devicetree Specification).
const HEADER_BYTES: usize = 40;
const MAGIC: u32 = 0xd00d_feed;
/// The version of the format that is read here. It and later ones have the length of the structure block.
const VERSION: u32 = 17;

/// A flattened device tree whose structure was checked.
#[derive(Clone, Copy, Debug)]
pub struct DeviceTree<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
}

impl<'a> DeviceTree<'a> {
    /// Checks a tree, from its header to the end of its structure. Bytes behind the tree are ignored.
    ///
    /// # Errors
    ///
    /// [`DeviceTreeError`] says what is damaged, and where.
    pub fn parse(blob: &'a [u8]) -> Result<Self, DeviceTreeError> {
        let header = Header::read(blob)?;
        let total = header.total_bytes as usize;
        let blob = blob.get(..total).ok_or(DeviceTreeError::Truncated { needed: total, found: blob.len() })?;
        let tree = Self {
            structure: header.structure.slice(blob).ok_or(DeviceTreeError::BlockOutside {
                block: "structure",
                offset: header.structure.offset,
                bytes: header.structure.bytes,
                total: header.total_bytes,
            })?,
            strings: header.strings.slice(blob).ok_or(DeviceTreeError::BlockOutside {
                block: "strings",
                offset: header.strings.offset,
                bytes: header.strings.bytes,
                total: header.total_bytes,
            })?,
        };
        tree.check()?;
        Ok(tree)
    }

    /// Checks a tree at an address, as firmware hands it to a kernel. Its header says how long it is; `max_bytes` is
    /// the most that the caller believes.
    ///
    /// # Errors
    ///
    /// [`DeviceTreeError`], as with [`parse`](Self::parse); [`DeviceTreeError::Truncated`] also for a null pointer and
    /// for a tree that says it is longer than `max_bytes`.
    ///
    /// # Safety
    ///
    /// `pointer` is null; or the 40 bytes of a header are readable there, and, if those say that a tree of no more
    /// than `max_bytes` bytes follows, all of these; and nothing writes to them for as long as the tree or anything
    /// made of it is used.
    pub unsafe fn from_ptr(pointer: *const u8, max_bytes: usize) -> Result<Self, DeviceTreeError> {
        let truncated = |needed, found| Err(DeviceTreeError::Truncated { needed, found });
        if pointer.is_null() || max_bytes < HEADER_BYTES {
            return truncated(HEADER_BYTES, if pointer.is_null() { 0 } else { max_bytes });
        }
        // SAFETY: not null; readable, and not written to, as asked of the caller.
        let header = Header::read(unsafe { slice::from_raw_parts(pointer, HEADER_BYTES) })?;
        let total = header.total_bytes as usize;
        // No range of memory is longer than half of the address space.
        if total > max_bytes.min(isize::MAX as usize) {
            return truncated(total, max_bytes);
        }
        // SAFETY: as above; no longer than `max_bytes`.
        Self::parse(unsafe { slice::from_raw_parts(pointer, total) })
    }

    /// The slots for virtio devices in this tree: every node that is compatible with `virtio,mmio`, in the tree's
    /// order. Nodes of other kinds are skipped, and so are those that are not in use (a `status` other than `okay`),
    /// with all that is below them.
    ///
    /// A slot may be empty, which only its registers tell ([`Mmio::probe`](crate::Mmio::probe)). A node that cannot be
    /// understood is an error for this node alone.
    pub fn virtio_mmio(&self) -> MmioNodes<'a> {
        MmioNodes::new(*self)
    }

    /// The PCI host bridges in this tree whose configuration space is mapped into memory: every node that is compatible
    /// with `pci-host-ecam-generic`, in the tree's order, but those that are not in use.
    pub fn pci_hosts(&self) -> PciHostNodes<'a> {
        PciHostNodes::new(*self)
    }

    /// Walks the tree once to see that it is one.
    fn check(&self) -> Result<(), DeviceTreeError> {
        let mut tokens = Tokens::new(*self);
        let mut depth = 0_usize;
        let mut root_seen = false;
        // The properties of a node come before its children: `MmioNodes` relies on it.
        let mut in_properties = false;
        loop {
            let offset = tokens.offset;
            let damaged = |what| Err(DeviceTreeError::Damaged { offset, what });
            match tokens.next()? {
                Token::BeginNode(_) if depth == 0 && root_seen => return damaged("a second root node"),
                Token::BeginNode(_) if depth >= MAX_DEPTH => return Err(DeviceTreeError::TooDeep { offset }),
                Token::BeginNode(_) => {
                    depth += 1;
                    root_seen = true;
                    in_properties = true;
                }
                Token::Property { .. } if in_properties => {}
                Token::Property { .. } => return damaged("a property that is not at the start of a node"),
                Token::EndNode if depth == 0 => return damaged("the end of a node that did not begin"),
                Token::EndNode => {
                    depth -= 1;
                    in_properties = false;
                }
                Token::End if depth == 0 && root_seen => return Ok(()),
                Token::End => return damaged("the end of the tree, expected the end of a node"),
            }
        }
    }

    /// What the interrupt controller that has this phandle says of its cells.
    fn controller_cells(&self, phandle: u32) -> Result<ControllerCells, NodeProblem> {
        let missing = NodeProblem::NoInterruptController { phandle };
        let mut tokens = Tokens::new(*self);
        let (mut found, mut interrupt, mut address) = (false, None, None);
        loop {
            // No error and no other end than `End`: the tree was checked when it was parsed.
            match tokens.next().map_err(|_| missing)? {
                Token::Property { name: "phandle" | "linux,phandle", value } => found |= cell(value) == Some(phandle),
                Token::Property { name: "#interrupt-cells", value } => interrupt = cell(value),
                Token::Property { name: "#address-cells", value } => address = cell(value),
                Token::Property { .. } => {}
                // The properties of the node before are complete.
                _ if found => {
                    let interrupt = interrupt.ok_or(missing)?;
                    return Ok(ControllerCells { interrupt, address: address.unwrap_or(0) });
                }
                Token::BeginNode(_) | Token::EndNode => (interrupt, address) = (None, None),
                Token::End => return Err(missing),
            }
        }
    }
}

/// How many cells an interrupt controller wants.
struct ControllerCells {
    /// For an interrupt.
    interrupt: u32,
    /// For the address before it in an `interrupt-map`; most controllers want none.
    address: u32,
}

/// A part of the blob, as the header names it.
struct Block {
    offset: u32,
    bytes: u32,
}

impl Block {
    fn slice<'a>(&self, blob: &'a [u8]) -> Option<&'a [u8]> {
        blob.get(self.offset as usize..)?.get(..self.bytes as usize)
    }
}

/// What is needed of the header.
struct Header {
    total_bytes: u32,
    structure: Block,
    strings: Block,
}

impl Header {
    fn read(blob: &[u8]) -> Result<Self, DeviceTreeError> {
        let field = |offset: usize| {
            let bytes = blob.get(offset..).filter(|_| blob.len() >= HEADER_BYTES).and_then(|rest| rest.first_chunk());
            bytes
                .copied()
                .map(u32::from_be_bytes)
                .ok_or(DeviceTreeError::Truncated { needed: HEADER_BYTES, found: blob.len() })
        };
        let magic = field(0)?;
        if magic != MAGIC {
            return Err(DeviceTreeError::BadMagic { found: magic });
        }
        let (version, compatible) = (field(20)?, field(24)?);
        if version < VERSION || compatible > VERSION {
            return Err(DeviceTreeError::UnsupportedVersion { version, compatible });
        }
        Ok(Self {
            total_bytes: field(4)?,
            structure: Block { offset: field(8)?, bytes: field(36)? },
            strings: Block { offset: field(12)?, bytes: field(32)? },
        })
    }
}

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first address.
    pub address: u64,
    /// The length in bytes.
    pub bytes: u64,
}

impl Region {
    /// This region, if it does not wrap around the end of the address space.
    fn checked(self) -> Result<Self, NodeProblem> {
        self.address.checked_add(self.bytes).map(|_| self).ok_or(NodeProblem::BadReg)
    }
}
