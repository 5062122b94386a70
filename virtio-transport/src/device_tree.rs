//! Finding virtio-mmio devices in a flattened device tree.
//!
//! Parsing is safe and takes any bytes: a damaged or truncated tree is an error value. It happens in one walk over the
//! whole tree ([`DeviceTree::parse`]), so that what walks it later meets nothing unexpected. Nothing is allocated,
//! nothing recurses, the blob may have any alignment.
//!
//! This is a walk of our own and not that of a general device tree crate, because those at hand trust the bytes (they
//! panic on damaged ones, or recurse as deep as the tree says), and because translating addresses needs all ancestors
//! of a node. Words like "cells" and "ranges" are those of the Devicetree Specification 0.4, chapters 2 and 5; the
//! node of a device is that of virtio 1.4, section 4.2.1.

use core::{fmt, slice};

use virtio_spec::mmio::COMPATIBLE;

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

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

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
        MmioNodes { tokens: Tokens { tree: *self, offset: 0 }, path: Path::new(), node: None }
    }

    /// Walks the tree once to see that it is one.
    fn check(&self) -> Result<(), DeviceTreeError> {
        let mut tokens = Tokens { tree: *self, offset: 0 };
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

    /// The `#interrupt-cells` of the node that has this phandle.
    fn interrupt_cells(&self, phandle: u32) -> Option<u32> {
        let mut tokens = Tokens { tree: *self, offset: 0 };
        let (mut found, mut cells) = (false, None);
        loop {
            match tokens.next().ok()? {
                Token::Property { name: "phandle" | "linux,phandle", value } => found |= cell(value) == Some(phandle),
                Token::Property { name: "#interrupt-cells", value } => cells = cell(value),
                Token::Property { .. } => {}
                // The properties of the node before are complete.
                _ if found => return cells,
                Token::BeginNode(_) | Token::EndNode => cells = None,
                Token::End => return None,
            }
        }
    }
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

/// The parts of the structure block, in order.
#[derive(Clone, Debug)]
struct Tokens<'a> {
    tree: DeviceTree<'a>,
    /// Where the next token starts, in bytes from the start of the structure block.
    offset: usize,
}

enum Token<'a> {
    BeginNode(&'a str),
    Property { name: &'a str, value: &'a [u8] },
    EndNode,
    End,
}

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Result<Token<'a>, DeviceTreeError> {
        loop {
            let offset = self.offset;
            let damaged = |what| DeviceTreeError::Damaged { offset, what };
            let word = self.word().ok_or(damaged("the block ends, expected a token"))?;
            return Ok(match word {
                NOP => continue,
                BEGIN_NODE => Token::BeginNode(self.node_name().ok_or(damaged("a node's name is damaged"))?),
                PROPERTY => self.property().ok_or(damaged("a property's length or name is damaged"))?,
                END_NODE => Token::EndNode,
                END => Token::End,
                _ => return Err(damaged("an unknown token")),
            });
        }
    }

    fn word(&mut self) -> Option<u32> {
        cell(self.bytes(size_of::<u32>())?)
    }

    /// The next bytes of the block, and the padding behind them.
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.tree.structure.get(self.offset..)?.get(..count)?;
        // No overflow: a slice is shorter than half of the address space.
        self.offset = (self.offset + count).next_multiple_of(size_of::<u32>());
        Some(bytes)
    }

    fn node_name(&mut self) -> Option<&'a str> {
        let name = until_nul(self.tree.structure.get(self.offset..)?)?;
        self.bytes(name.len() + 1)?;
        Some(name)
    }

    fn property(&mut self) -> Option<Token<'a>> {
        let length = self.word()?;
        let name = self.word()?;
        let name = until_nul(self.tree.strings.get(name as usize..)?)?;
        let value = self.bytes(length as usize)?;
        Some(Token::Property { name, value })
    }
}

/// The text before the first NUL.
fn until_nul(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    core::str::from_utf8(bytes.get(..end)?).ok()
}

/// The number in a property that has one cell.
fn cell(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// Takes a number of one or two cells off the front of a property. Other counts are `None`, as is a property that
/// ends before.
fn take_number(value: &mut &[u8], cells: u32) -> Option<u64> {
    match cells {
        1 => {
            let (number, rest) = value.split_first_chunk()?;
            *value = rest;
            Some(u32::from_be_bytes(*number).into())
        }
        2 => {
            let (number, rest) = value.split_first_chunk()?;
            *value = rest;
            Some(u64::from_be_bytes(*number))
        }
        _ => None,
    }
}

/// What a node says about its children, and about its own place in the tree.
#[derive(Clone, Copy, Debug)]
struct Bus<'a> {
    address_cells: u32,
    size_cells: u32,
    /// How the children's addresses map to this node's parent: empty for "the same"; `None` for "not at all".
    ranges: Option<&'a [u8]>,
    interrupt_parent: Option<u32>,
    interrupt_cells: Option<u32>,
    in_use: bool,
}

impl Bus<'_> {
    /// The Devicetree Specification's defaults (section 2.3.5).
    const DEFAULT: Self = Self {
        address_cells: 2,
        size_cells: 1,
        ranges: None,
        interrupt_parent: None,
        interrupt_cells: None,
        in_use: true,
    };

    fn check_cells(&self) -> Result<(), NodeProblem> {
        match (self.address_cells, self.size_cells) {
            (1..=2, 1..=2) => Ok(()),
            (address_cells, size_cells) => Err(NodeProblem::UnsupportedCells { address_cells, size_cells }),
        }
    }

    /// Translates a child's region to this node's own parent.
    fn translate(&self, region: Region, parent: &Bus<'_>) -> Result<Region, NodeProblem> {
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
struct Path<'a> {
    buses: [Bus<'a>; MAX_DEPTH],
    depth: usize,
}

impl<'a> Path<'a> {
    fn new() -> Self {
        Self { buses: [Bus::DEFAULT; MAX_DEPTH], depth: 0 }
    }

    /// Enters a child node. `None` when it is too deep.
    fn push(&mut self) -> Option<()> {
        let in_use = self.current().is_none_or(|(parent, _)| parent.in_use);
        *self.buses.get_mut(self.depth)? = Bus { in_use, ..Bus::DEFAULT };
        self.depth += 1;
        Some(())
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// The node where the walk is, and those above it, the root first.
    fn current(&self) -> Option<(&Bus<'a>, &[Bus<'a>])> {
        self.buses.get(..self.depth)?.split_last()
    }

    fn current_mut(&mut self) -> Option<&mut Bus<'a>> {
        self.buses.get_mut(..self.depth)?.last_mut()
    }
}

/// A node whose properties are being read.
#[derive(Clone, Debug)]
struct Node<'a> {
    name: &'a str,
    is_virtio_mmio: bool,
    reg: &'a [u8],
    interrupts: Option<&'a [u8]>,
    interrupts_extended: Option<&'a [u8]>,
}

impl<'a> Node<'a> {
    fn new(name: &'a str) -> Self {
        Self { name, is_virtio_mmio: false, reg: &[], interrupts: None, interrupts_extended: None }
    }

    fn read(&mut self, bus: &mut Bus<'a>, name: &str, value: &'a [u8]) {
        // A number of cells that is none is one that nobody supports.
        let cells = || cell(value).unwrap_or(u32::MAX);
        match name {
            "#address-cells" => bus.address_cells = cells(),
            "#size-cells" => bus.size_cells = cells(),
            "#interrupt-cells" => bus.interrupt_cells = Some(cells()),
            "ranges" => bus.ranges = Some(value),
            "interrupt-parent" => bus.interrupt_parent = cell(value),
            "status" => bus.in_use &= matches!(value, b"okay\0" | b"ok\0"),
            "compatible" => self.is_virtio_mmio = value.split(|&byte| byte == 0).any(|it| it == COMPATIBLE.as_bytes()),
            "reg" => self.reg = value,
            "interrupts" => self.interrupts = Some(value),
            "interrupts-extended" => self.interrupts_extended = Some(value),
            _ => {}
        }
    }

    /// The first entry of `reg`, as the processor sees it.
    fn region(&self, ancestors: &[Bus<'a>]) -> Result<Region, NodeProblem> {
        let parent = ancestors.last().ok_or(NodeProblem::BadReg)?;
        parent.check_cells()?;
        let mut reg = self.reg;
        let address = take_number(&mut reg, parent.address_cells).ok_or(NodeProblem::BadReg)?;
        let bytes = take_number(&mut reg, parent.size_cells).ok_or(NodeProblem::BadReg)?;
        let mut region = Region { address, bytes }.checked()?;
        for pair in ancestors.windows(2).rev() {
            if let [upper, lower] = pair {
                region = lower.translate(region, upper)?;
            }
        }
        Ok(region)
    }

    /// The first interrupt. `interrupts-extended` counts more than `interrupts` (section 2.4.1.1).
    fn interrupt(
        &self,
        tree: &DeviceTree<'a>,
        own: &Bus<'a>,
        ancestors: &[Bus<'a>],
    ) -> Result<Option<InterruptSpecifier>, NodeProblem> {
        let cells_of = |phandle| tree.interrupt_cells(phandle).ok_or(NodeProblem::NoInterruptController { phandle });
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

/// The `virtio,mmio` nodes of a tree. See [`DeviceTree::virtio_mmio`].
#[derive(Clone, Debug)]
pub struct MmioNodes<'a> {
    tokens: Tokens<'a>,
    path: Path<'a>,
    /// The node whose properties are being read; `None` after its first child.
    node: Option<Node<'a>>,
}

impl<'a> MmioNodes<'a> {
    /// The node whose properties were read, if it is one to report.
    fn complete(&mut self) -> Option<Result<MmioNode<'a>, NodeError<'a>>> {
        let node = self.node.take()?;
        let (own, ancestors) = self.path.current()?;
        if !node.is_virtio_mmio || !own.in_use {
            return None;
        }
        let found = node.region(ancestors).and_then(|region| {
            let interrupt = node.interrupt(&self.tokens.tree, own, ancestors)?;
            Ok(MmioNode { name: node.name, region, interrupt })
        });
        Some(found.map_err(|problem| NodeError { name: node.name, problem }))
    }
}

impl<'a> Iterator for MmioNodes<'a> {
    type Item = Result<MmioNode<'a>, NodeError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // The tree was checked when it was parsed: neither errors nor other depths are left.
            let complete = match self.tokens.next().ok()? {
                Token::Property { name, value } => {
                    if let (Some(node), Some(bus)) = (&mut self.node, self.path.current_mut()) {
                        node.read(bus, name, value);
                    }
                    None
                }
                Token::BeginNode(name) => {
                    let complete = self.complete();
                    self.path.push()?;
                    self.node = Some(Node::new(name));
                    complete
                }
                Token::EndNode => {
                    let complete = self.complete();
                    self.path.pop();
                    complete
                }
                Token::End => return None,
            };
            if complete.is_some() {
                return complete;
            }
        }
    }
}

/// A slot for a virtio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioNode<'a> {
    /// The name of the node, such as `virtio_mmio@10001000`.
    pub name: &'a str,
    /// Where its registers are.
    pub region: Region,
    /// Its interrupt. `None` when the tree says none.
    pub interrupt: Option<InterruptSpecifier>,
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
    fn read(controller: Option<u32>, value: &[u8], count: u32) -> Result<Self, NodeProblem> {
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

/// A `virtio,mmio` node that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeError<'a> {
    /// The name of the node.
    pub name: &'a str,
    /// What is wrong with it.
    pub problem: NodeProblem,
}

/// What is wrong with a `virtio,mmio` node.
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
    /// [`MAX_INTERRUPT_CELLS`].
    BadInterrupts,
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
            NodeProblem::NoInterruptController { phandle } => {
                write!(f, "no interrupt controller with phandle {phandle:#x} and #interrupt-cells is in the tree")
            }
        }
    }
}

impl core::error::Error for NodeError<'_> {}
