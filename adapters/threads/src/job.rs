//! One call of a thread: what is left to be asked for.

use core::ptr::NonNull;

use virtio_blk::{Operation, SECTOR_BYTES};

use crate::calls::Place;
use crate::line::Number;

/// What a thread wants of the disk in one request.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) operation: Operation,
    pub(crate) sector: u64,
    /// `Some`: a part of the block that starts at the sector, from this byte of it on. What is not written stays as it
    /// is. `None`: whole blocks.
    pub(crate) part: Option<u32>,
    /// Where to read to or write from; empty for a flush.
    pub(crate) buffer: NonNull<[u8]>,
}

impl Wanted {
    /// Whether it writes a part of a block: what is around it must be read before.
    pub(crate) fn is_edit(&self) -> bool {
        self.part.is_some() && self.operation == Operation::Write
    }

    /// The first of its sectors, and the one behind the last.
    pub(crate) fn sectors(&self, block_sectors: u64) -> (u64, u64) {
        let sectors = if self.part.is_some() { block_sectors } else { (self.buffer.len() / SECTOR_BYTES) as u64 };
        (self.sector, self.sector.saturating_add(sectors))
    }
}

/// One call. It lies on the stack of its thread; the device knows nothing of it.
pub(crate) struct Job {
    operation: Operation,
    /// A flush that has not been asked for.
    flush: bool,
    pub(crate) gave_up: bool,
    /// The ring had no room for the next request.
    pub(crate) waits: bool,
    /// The size of a block in bytes, if parts of blocks may be read and written as well; otherwise 0.
    parts_of: u32,
    /// Where on the disk the rest of the buffer belongs, in bytes.
    position: u64,
    /// The rest of the buffer: what was not asked for.
    start: NonNull<u8>,
    left: usize,
    /// The most bytes of a request: more than that did not fit into one.
    longest: usize,
    /// Where others note what becomes of its requests.
    pub(crate) place: Option<Place>,
    /// The number in the line for room.
    pub(crate) number: Option<Number>,
}

impl Job {
    /// Reads into a buffer or writes from it, from the byte `position` of the disk on; or flushes. `parts_of` is the size
    /// of a block if parts of blocks may be read and written, and otherwise 0.
    #[inline(always)]
    pub(crate) fn new(operation: Operation, position: u64, buffer: NonNull<[u8]>, parts_of: u32) -> Self {
        Self {
            operation,
            flush: operation == Operation::Flush,
            gave_up: false,
            waits: false,
            parts_of,
            position,
            start: buffer.cast(),
            left: buffer.len(),
            longest: buffer.len(),
            place: None,
            number: None,
        }
    }

    /// Whether there is something left to be asked for.
    pub(crate) fn has_more(&self) -> bool {
        self.left > 0 || self.flush
    }

    /// Nothing more is asked for.
    pub(crate) fn stop(&mut self) {
        self.left = 0;
        self.flush = false;
    }

    /// The next request.
    pub(crate) fn next(&self) -> Wanted {
        let (bytes, within) = self.next_part();
        let sector = (self.position - u64::from(within.unwrap_or(0))) / SECTOR_BYTES as u64;
        let buffer = NonNull::slice_from_raw_parts(self.start, bytes);
        Wanted { operation: self.operation, sector, part: within, buffer }
    }

    /// How many bytes the next request has, and, if they are a part of a block, from which byte of it on.
    fn next_part(&self) -> (usize, Option<u32>) {
        let most = self.left.min(self.longest);
        let block_bytes = self.parts_of as usize;
        if block_bytes == 0 {
            return (most, None);
        }
        let within = (self.position % block_bytes as u64) as u32;
        if within == 0 && self.left >= block_bytes {
            // `longest` is a number of blocks once it is less than what is left.
            (most - most % block_bytes, None)
        } else {
            (self.left.min(block_bytes - within as usize), Some(within))
        }
    }

    /// The device has the next request.
    pub(crate) fn advance(&mut self) {
        let (bytes, _) = self.next_part();
        // SAFETY: inside of the buffer, or right behind it.
        self.start = unsafe { self.start.add(bytes) };
        self.left -= bytes;
        self.position = self.position.saturating_add(bytes as u64);
        self.flush = false;
    }

    /// The next request does not fit: asks for half of it next, in whole blocks. `false` if not even one is left.
    pub(crate) fn shorten(&mut self, block_bytes: usize) -> bool {
        let (bytes, within) = self.next_part();
        let half = bytes / 2;
        self.longest = half - half.checked_rem(block_bytes).unwrap_or(half);
        self.longest > 0 && within.is_none()
    }
}
