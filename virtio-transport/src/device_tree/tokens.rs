//! The parts of a tree's structure block, one after the other.

use super::{DeviceTree, DeviceTreeError};

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// The parts of the structure block, in order.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'a> {
    pub(super) tree: DeviceTree<'a>,
    /// Where the next token starts, in bytes from the start of the structure block.
    pub(super) offset: usize,
}

/// One of them.
pub(super) enum Token<'a> {
    BeginNode(&'a str),
    Property { name: &'a str, value: &'a [u8] },
    EndNode,
    End,
}

impl<'a> Tokens<'a> {
    /// Those of a whole tree.
    pub(super) fn new(tree: DeviceTree<'a>) -> Self {
        Self { tree, offset: 0 }
    }

    /// The next one; an error where the block is damaged.
    pub(super) fn next(&mut self) -> Result<Token<'a>, DeviceTreeError> {
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
pub(super) fn cell(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// Takes a number of one or two cells off the front of a property. Other counts are `None`, as is a property that
/// ends before.
pub(super) fn take_number(value: &mut &[u8], cells: u32) -> Option<u64> {
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
