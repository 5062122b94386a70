//! Registers that are mapped into memory.

use core::ptr::NonNull;

use crate::{Region, Registers};

/// A window of device registers in memory.
///
/// Cheap to copy: an address and a length. All copies are the same window.
///
/// # What an access is
///
/// One load or store instruction of exactly the asked width. On aarch64 it is written in assembly: a compiler is free
/// to fold the next address into a volatile access (`ldr w0, [x1], #4`), and a hypervisor that emulates the device is
/// not told by the processor what such an instruction wanted.
///
/// # Order
///
/// Accesses to the window happen in program order. A read is done before every later access to memory, so that what
/// the device wrote before it answered is seen: a used ring after an interrupt was acknowledged, buffers after a
/// reset. The other direction is the caller's: whoever tells a device about memory with a write here has made that
/// memory visible before.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMapped {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the window is no Rust memory that a thread could own, and its mapping is good for every thread (`new` asks
// for that). Each access is a single instruction, so accesses from several threads interleave but do not tear.
unsafe impl Send for MemoryMapped {}
// SAFETY: as for `Send`: `&MemoryMapped` can do no more than a copy of it can.
unsafe impl Sync for MemoryMapped {}

impl MemoryMapped {
    /// A window of `bytes` bytes that starts at `base`.
    ///
    /// # Safety
    ///
    /// - `base` is a multiple of 4, and the `bytes` bytes from there are mapped for reading and writing: as device
    ///   memory (uncached, unordered accesses forbidden), on every processor that uses this window or a copy of it,
    ///   for as long as one of them is used.
    /// - Reading and writing there breaks no memory that Rust knows of: it is a device's registers, or memory that
    ///   nothing else uses.
    pub const unsafe fn new(base: NonNull<u8>, bytes: usize) -> Self {
        Self { base, bytes }
    }

    /// The window at a region's own address. `None` for an address that no registers can have: 0, not a multiple of 4,
    /// or beyond the pointers of this machine.
    ///
    /// # Safety
    ///
    /// The region is mapped at its own address, as [`new`](Self::new) asks.
    pub unsafe fn at(region: &Region) -> Option<Self> {
        let address = usize::try_from(region.address).ok()?;
        let base = NonNull::new(core::ptr::with_exposed_provenance_mut::<u8>(address))?;
        // A window longer than the address space is cut.
        let bytes = usize::try_from(region.bytes).unwrap_or(usize::MAX).min(usize::MAX - address);
        if address % size_of::<u32>() != 0 {
            return None;
        }
        // SAFETY: aligned, as was just checked; the rest is asked of the caller.
        Some(unsafe { Self::new(base, bytes) })
    }

    /// The address of a field of type `T`, if it is inside the window and aligned.
    #[inline]
    fn field<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let width = size_of::<T>();
        let inside = offset.checked_add(width).is_some_and(|end| end <= self.bytes);
        if !inside || offset % width != 0 {
            return None;
        }
        // SAFETY: `offset` is inside the window, which is one mapped range (asked for by `new`).
        Some(unsafe { self.base.add(offset) }.cast())
    }
}

impl Registers for MemoryMapped {
    #[inline]
    fn bytes(&self) -> usize {
        self.bytes
    }

    #[inline]
    fn read_u8(&self, offset: usize) -> u8 {
        // SAFETY: `field` answers only with addresses that are mapped and aligned.
        self.field(offset).map_or(0, |field| unsafe { access::read_u8(field) })
    }

    #[inline]
    fn read_u16(&self, offset: usize) -> u16 {
        // SAFETY: as in `read_u8`.
        self.field(offset).map_or(0, |field| unsafe { access::read_u16(field) })
    }

    #[inline]
    fn read_u32(&self, offset: usize) -> u32 {
        // SAFETY: as in `read_u8`.
        self.field(offset).map_or(0, |field| unsafe { access::read_u32(field) })
    }

    #[inline]
    fn write_u8(&self, offset: usize, value: u8) {
        if let Some(field) = self.field(offset) {
            // SAFETY: as in `read_u8`.
            unsafe { access::write_u8(field, value) }
        }
    }

    #[inline]
    fn write_u16(&self, offset: usize, value: u16) {
        if let Some(field) = self.field(offset) {
            // SAFETY: as in `read_u8`.
            unsafe { access::write_u16(field, value) }
        }
    }

    #[inline]
    fn write_u32(&self, offset: usize, value: u32) {
        if let Some(field) = self.field(offset) {
            // SAFETY: as in `read_u8`.
            unsafe { access::write_u32(field, value) }
        }
    }
}

/// One load or store each, by volatile accesses.
#[cfg(any(not(target_arch = "aarch64"), miri))]
mod access {
    use core::ptr::NonNull;

    use volatile::{
        VolatilePtr,
        access::{ReadOnly, WriteOnly},
    };

    macro_rules! access {
        ($read:ident, $write:ident, $Width:ty) => {
            /// # Safety
            ///
            /// `field` is mapped and aligned.
            #[inline]
            pub(super) unsafe fn $read(field: NonNull<$Width>) -> $Width {
                // SAFETY: valid by this function's contract. `volatile` wants no thread beside this one for ordinary
                // memory, where a second one would be a data race; registers are made for it, and the pointer does
                // not outlive the access.
                let value = unsafe { VolatilePtr::new_restricted(ReadOnly, field) }.read();
                after_read();
                value
            }

            /// # Safety
            ///
            /// `field` is mapped and aligned.
            #[inline]
            pub(super) unsafe fn $write(field: NonNull<$Width>, value: $Width) {
                // SAFETY: as for the read.
                unsafe { VolatilePtr::new_restricted(WriteOnly, field) }.write(value);
            }
        };
    }

    access!(read_u8, write_u8, u8);
    access!(read_u16, write_u16, u16);
    access!(read_u32, write_u32, u32);

    /// Keeps the read of a register before every later access to memory.
    #[inline]
    fn after_read() {
        #[cfg(all(any(target_arch = "riscv64", target_arch = "riscv32"), not(miri)))]
        // SAFETY: a fence touches neither registers nor memory.
        unsafe {
            // Device input and memory are ordered by their own bits on riscv; no atomic fence of Rust sets `i`.
            core::arch::asm!("fence i, rw", options(nostack, preserves_flags));
        }
        // Elsewhere the compiler is all there is to hold back: x86 orders reads of device memory by itself.
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    }
}

/// One load or store each, by instructions that have one register for the address and nothing to add to it.
#[cfg(all(target_arch = "aarch64", not(miri)))]
mod access {
    use core::{arch::asm, ptr::NonNull};

    macro_rules! access {
        ($read:ident, $load:literal, $write:ident, $store:literal, $Width:ty) => {
            /// # Safety
            ///
            /// `field` is mapped and aligned.
            #[inline]
            pub(super) unsafe fn $read(field: NonNull<$Width>) -> $Width {
                let value: $Width;
                // SAFETY: one load from an address that is mapped and aligned, by this function's contract. The
                // barrier keeps it before every later access to memory.
                unsafe {
                    asm!(
                        concat!($load, " {value:w}, [{field}]"),
                        "dmb oshld",
                        value = out(reg) value,
                        field = in(reg) field.as_ptr(),
                        options(nostack, preserves_flags),
                    );
                }
                value
            }

            /// # Safety
            ///
            /// `field` is mapped and aligned.
            #[inline]
            pub(super) unsafe fn $write(field: NonNull<$Width>, value: $Width) {
                // SAFETY: one store to an address that is mapped and aligned, by this function's contract.
                unsafe {
                    asm!(
                        concat!($store, " {value:w}, [{field}]"),
                        value = in(reg) value,
                        field = in(reg) field.as_ptr(),
                        options(nostack, preserves_flags),
                    );
                }
            }
        };
    }

    access!(read_u8, "ldrb", write_u8, "strb", u8);
    access!(read_u16, "ldrh", write_u16, "strh", u16);
    access!(read_u32, "ldr", write_u32, "str", u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory with the alignment of a real window.
    #[repr(align(4096))]
    struct Page([u8; 16]);

    #[test]
    fn widths_and_places() {
        let mut page = Page([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        // SAFETY: the page is aligned, long enough and used by nothing else while the window is.
        let window = unsafe { MemoryMapped::new(NonNull::from(&mut page.0).cast(), 16) };
        assert_eq!(window.bytes(), 16);
        assert_eq!(window.read_u8(3), 3);
        assert_eq!(window.read_u16(2), u16::from_ne_bytes([2, 3]));
        assert_eq!(window.read_u32(12), u32::from_ne_bytes([12, 13, 14, 15]));
        window.write_u8(0, 0xa0);
        window.write_u16(2, u16::from_ne_bytes([0xb0, 0xb1]));
        window.write_u32(4, u32::from_ne_bytes([0xc0, 0xc1, 0xc2, 0xc3]));
        assert_eq!(page.0, [0xa0, 1, 0xb0, 0xb1, 0xc0, 0xc1, 0xc2, 0xc3, 8, 9, 10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn nothing_outside_or_unaligned() {
        let mut page = Page([0xff; 16]);
        // SAFETY: as above; the window is the first 8 of the 16 bytes.
        let window = unsafe { MemoryMapped::new(NonNull::from(&mut page.0).cast(), 8) };
        for offset in [1, 2, 3, 5, 6, 7, 8, 12, 4096, usize::MAX - 3, usize::MAX] {
            assert_eq!(window.read_u32(offset), 0, "{offset}");
            window.write_u32(offset, 0);
        }
        for offset in [1, 3, 5, 7, 8, usize::MAX] {
            assert_eq!(window.read_u16(offset), 0, "{offset}");
            window.write_u16(offset, 0);
        }
        for offset in [8, 9, usize::MAX] {
            assert_eq!(window.read_u8(offset), 0, "{offset}");
            window.write_u8(offset, 0);
        }
        assert_eq!(page.0, [0xff; 16]);
    }
}
