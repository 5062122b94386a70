//! A number that stands for the contents of many blocks, whoever reads them and in whatever order.

/// What one block adds to the sum: it depends on every byte and on where the block is. Sums wrap.
///
/// It finds mistakes, and is no defence against someone who makes them on purpose.
pub fn checksum(block: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    });
    words.fold(mix(block), |sum, word| mix(sum ^ word))
}

/// The finish of the SplitMix64 generator: each bit of the result depends on each bit of the number.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn every_byte_and_the_place_count() {
        let block = [7; 4096];
        let sum = checksum(3, &block);
        assert_ne!(sum, checksum(4, &block));
        for at in [0, 7, 8, 4095] {
            let mut other = block;
            other[at] ^= 1;
            assert_ne!(sum, checksum(3, &other), "byte {at}");
        }
    }
}
