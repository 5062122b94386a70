//! A list of buffers as raw pointers: what one blocking call reads or writes.

use core::marker::PhantomData;
use core::ptr::NonNull;

/// A list of buffers, borrowed from a caller, and how far into it a transfer has come.
///
/// The pointers are those of the caller's references, read out without making new references: making one would, by
/// the rules of Rust, put an end to the pointers that the device still uses.
#[derive(Clone, Copy)]
pub(crate) struct Pieces<'a> {
    pieces: &'a [*mut [u8]],
    /// How many bytes of the first piece are behind us.
    offset: usize,
    borrow: PhantomData<&'a mut [u8]>,
}

impl<'a> Pieces<'a> {
    /// Buffers that the device writes.
    pub(crate) fn writable(buffers: &'a mut [&mut [u8]]) -> Self {
        Self::new(buffers.as_ptr().cast(), buffers.len())
    }

    /// Buffers that the device reads.
    pub(crate) fn readable(buffers: &'a [&[u8]]) -> Self {
        Self::new(buffers.as_ptr().cast(), buffers.len())
    }

    fn new(pieces: *const *mut [u8], count: usize) -> Self {
        // SAFETY: the callers above pass a slice of references, borrowed for 'a; a reference to a slice and a raw
        // pointer to it have the same layout, and every reference is a valid raw pointer.
        let pieces = unsafe { core::slice::from_raw_parts(pieces, count) };
        Self { pieces, offset: 0, borrow: PhantomData }
    }

    /// The number of bytes that are left; as many as there can be, should the sum be too large for a number.
    pub(crate) fn bytes(&self) -> usize {
        let sum = self.pieces.iter().fold(0_usize, |sum, piece| sum.saturating_add(piece.len()));
        sum.saturating_sub(self.offset)
    }

    /// The next `bytes` bytes, piece by piece. None is empty.
    pub(crate) fn take(&self, bytes: usize) -> impl Iterator<Item = (NonNull<u8>, usize)> + use<'a> {
        let mut left = bytes;
        let mut offset = self.offset;
        self.pieces.iter().filter_map(move |piece| {
            let skipped = core::mem::take(&mut offset);
            let bytes = piece.len().saturating_sub(skipped).min(left);
            left -= bytes;
            // Wrapping, as it goes no further than the piece is long.
            let start = NonNull::new(piece.cast::<u8>().wrapping_add(skipped))?;
            (bytes > 0).then_some((start, bytes))
        })
    }

    /// Puts the next `bytes` bytes behind us.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.offset = self.offset.saturating_add(bytes);
        while let [first, rest @ ..] = self.pieces {
            if self.offset < first.len() {
                break;
            }
            self.offset -= first.len();
            self.pieces = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn lengths(pieces: &Pieces<'_>, bytes: usize) -> Vec<usize> {
        pieces.take(bytes).map(|(_, bytes)| bytes).collect()
    }

    #[test]
    fn advancing_crosses_pieces_and_skips_empty_ones() {
        let (mut a, mut b, mut c) = ([1; 3], [2; 0], [3; 5]);
        let mut list: [&mut [u8]; 3] = [&mut a, &mut b, &mut c];
        let mut pieces = Pieces::writable(&mut list);
        assert_eq!(pieces.bytes(), 8);
        assert_eq!(lengths(&pieces, 8), [3, 5]);
        assert_eq!(lengths(&pieces, 2), [2]);
        pieces.advance(2);
        assert_eq!(lengths(&pieces, 4), [1, 3]);
        pieces.advance(4);
        assert_eq!((pieces.bytes(), lengths(&pieces, 9)), (2, [2].to_vec()));
        let (last, _) = pieces.take(1).next().unwrap();
        // SAFETY: the third byte of `c`, which is borrowed by `pieces` alone.
        unsafe { last.write(9) };
        pieces.advance(2);
        assert_eq!((pieces.bytes(), lengths(&pieces, 1)), (0, [].to_vec()));
        assert_eq!(c, [3, 3, 3, 9, 3]);
    }
}
