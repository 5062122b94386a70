//! What the demonstration `crash` leaves on the disk.

use crate::pattern;

/// The sector that the kernel writes its last words to.
pub const SECTOR: u64 = 77;

/// The last words.
pub fn contents(seed: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    pattern::fill(seed, &mut bytes);
    let text = b"the kernel has crashed";
    bytes.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
    bytes
}
