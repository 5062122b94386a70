//! SHA-256 of things that may not fit into memory.

use std::io::{self, Read};

use sha2::{Digest, Sha256};
use testing_guest::hex;

/// The SHA-256 of all that can be read, in hexadecimal digits, and its length in bytes.
pub(crate) fn sha256(mut source: impl Read) -> io::Result<(String, u64)> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            return Ok((hex(&digest.finalize()), bytes));
        }
        digest.update(&buffer[..count]);
        bytes += count as u64;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_published_example() {
        let (digits, bytes) = super::sha256(&b"abc"[..]).unwrap();
        assert_eq!(digits, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(bytes, 3);
    }
}
