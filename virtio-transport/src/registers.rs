//! Access to a window of device registers.

/// A window of device registers: a real one in memory ([`MemoryMapped`](crate::MemoryMapped)), or a device in the
/// same process that a test stands behind it.
///
/// Offsets are in bytes from the start of the window. Values are in the driver's own byte order: an implementation
/// moves bytes and swaps none.
///
/// Every access has exactly the width of its name and happens exactly once. Calls are made only with
/// `offset + width <= self.bytes()` and `offset` a multiple of the width; an implementation answers others with zero
/// (reads) or ignores them (writes), and never touches anything outside its window.
pub trait Registers: Clone {
    /// The length of the window in bytes.
    fn bytes(&self) -> usize;
    /// Reads one byte.
    fn read_u8(&self, offset: usize) -> u8;
    /// Reads two bytes.
    fn read_u16(&self, offset: usize) -> u16;
    /// Reads four bytes.
    fn read_u32(&self, offset: usize) -> u32;
    /// Writes one byte.
    fn write_u8(&self, offset: usize, value: u8);
    /// Writes two bytes.
    fn write_u16(&self, offset: usize, value: u16);
    /// Writes four bytes.
    fn write_u32(&self, offset: usize, value: u32);
}
