//! A structure of a virtio device: a part of a BAR.

use crate::Registers;

/// A window of registers that begins and ends where a capability says. All fields are little-endian.
#[derive(Clone, Copy, Debug)]
pub(super) struct Structure<R> {
    registers: R,
    /// Where it starts in the window, which starts at a multiple of 4.
    start: usize,
    bytes: usize,
}

impl<R: Registers> Structure<R> {
    /// `bytes` bytes from `start` on; `None` when the window ends before.
    pub(super) fn new(registers: R, start: usize, bytes: usize) -> Option<Self> {
        let inside = start.checked_add(bytes).is_some_and(|end| end <= registers.bytes());
        inside.then_some(Self { registers, start, bytes })
    }

    /// Its length in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The window that the structure is in.
    pub(super) fn registers(&self) -> &R {
        &self.registers
    }

    /// Where a field is in the window, if it is inside the structure and aligned.
    #[inline]
    pub(super) fn place(&self, offset: usize, width: usize) -> Option<usize> {
        let inside = offset.checked_add(width).is_some_and(|end| end <= self.bytes);
        // No overflow: the structure is inside the window.
        let place = self.start.wrapping_add(offset);
        if inside && place % width == 0 { Some(place) } else { None }
    }

    /// Reads a byte; 0 outside of the structure or where it is not aligned, as do the others.
    #[inline]
    pub(super) fn read_u8(&self, offset: usize) -> u8 {
        self.place(offset, 1).map_or(0, |place| self.registers.read_u8(place))
    }

    #[inline]
    pub(super) fn read_u16(&self, offset: usize) -> u16 {
        self.place(offset, 2).map_or(0, |place| u16::from_le(self.registers.read_u16(place)))
    }

    #[inline]
    pub(super) fn read_u32(&self, offset: usize) -> u32 {
        self.place(offset, 4).map_or(0, |place| u32::from_le(self.registers.read_u32(place)))
    }

    /// Writes a byte; nothing outside of the structure or where it is not aligned, as do the others.
    #[inline]
    pub(super) fn write_u8(&self, offset: usize, value: u8) {
        if let Some(place) = self.place(offset, 1) {
            self.registers.write_u8(place, value);
        }
    }

    #[inline]
    pub(super) fn write_u16(&self, offset: usize, value: u16) {
        if let Some(place) = self.place(offset, 2) {
            self.registers.write_u16(place, value.to_le());
        }
    }

    #[inline]
    pub(super) fn write_u32(&self, offset: usize, value: u32) {
        if let Some(place) = self.place(offset, 4) {
            self.registers.write_u32(place, value.to_le());
        }
    }

    /// Writes a 64-bit field as two halves, the lower one first (section 4.1.3.1).
    pub(super) fn write_u64(&self, offset: usize, value: u64) {
        // The casts cut the value in halves: that is what they are for.
        self.write_u32(offset, value as u32);
        self.write_u32(offset + 4, (value >> 32) as u32);
    }
}
