//! What the demonstration `journal` writes: one block after the other, until the power fails.

use alloc::vec::Vec;

use crate::pattern;

/// The length of a block.
pub const BLOCK_BYTES: usize = 4096;
/// The distance from one block to the next: each gets a cluster of the image to itself, and so an entry in the tables
/// by which the image's clusters are found.
pub const STRIDE_BYTES: u64 = 64 << 10;

/// The contents of block number `block`.
pub fn contents(seed: u64, block: u64) -> Vec<u8> {
    pattern::bytes(seed.wrapping_add(block), BLOCK_BYTES)
}
