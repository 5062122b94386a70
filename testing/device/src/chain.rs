//! A descriptor chain that the device took.

/// A descriptor chain that the device took from a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The index of its first descriptor, or in a packed ring the buffer's id: by which it is given back.
    pub id: u16,
    /// Its pieces of memory, in order.
    pub segments: Vec<Segment>,
    /// Whether it came in an indirect table.
    pub indirect: bool,
    /// Whether it ended where it should not: the segments are those before that.
    pub malformed: bool,
}

/// A piece of memory in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The device address.
    pub address: u64,
    /// The length in bytes.
    pub bytes: u32,
    /// Whether it is for the device to write; otherwise to read.
    pub writable: bool,
}
