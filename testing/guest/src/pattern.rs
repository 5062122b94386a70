//! Bytes that look random and that both sides can make from one number.
//!
//! The kernel fills the files that it writes with them; the host, which chose the number, knows what must be in the
//! image afterwards without asking the kernel.

use alloc::{vec, vec::Vec};

/// `count` bytes of the pattern that starts at `seed`. Different seeds give different patterns.
pub fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    fill(seed, &mut bytes);
    bytes
}

/// The same, in memory that is there.
pub fn fill(seed: u64, bytes: &mut [u8]) {
    for (index, chunk) in (0..).zip(bytes.chunks_mut(8)) {
        let word = word(seed, index).to_le_bytes();
        chunk.iter_mut().zip(word).for_each(|(to, from)| *to = from);
    }
}

/// The word at `index`: the SplitMix64 generator, which is a function of the position alone.
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_one_is_the_start_of_a_longer_one() {
        assert_eq!(bytes(5, 13), bytes(5, 100)[..13]);
        assert_eq!(bytes(5, 100).len(), 100);
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(bytes(1, 64), bytes(2, 64));
    }

    #[test]
    fn the_generator_is_the_published_one() {
        // The first outputs of SplitMix64 for the seed 1234567, as its users publish them.
        assert_eq!(word(1_234_567, 0), 6_457_827_717_110_365_317);
        assert_eq!(word(1_234_567, 1), 3_203_168_211_198_807_973);
    }
}
