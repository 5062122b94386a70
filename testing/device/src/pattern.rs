//! What tests write: bytes of which a misplaced piece shows.

/// Bytes without a period, computed while compiling: tests copy from here, as computing is slow under Miri.
const NOISE: [u8; 4096] = {
    let mut noise = [0; 4096];
    let mut state = 0x9e37_79b9_u32;
    let mut index = 0;
    while index < noise.len() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        noise[index] = (state >> 11) as u8;
        index += 1;
    }
    noise
};

/// Bytes that differ from seed to seed and from sector to sector.
#[must_use]
pub fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(bytes);
    for sector in 0..bytes.div_ceil(512) {
        let mix = (seed as usize).wrapping_mul(0x9e37_79b1).wrapping_add(sector.wrapping_mul(0x85eb_ca77));
        let from = (mix ^ mix >> 15) % (NOISE.len() - 512);
        pattern.extend_from_slice(&NOISE[from..from + 512.min(bytes - pattern.len())]);
    }
    pattern
}
