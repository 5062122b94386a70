//! Memory as the device sees it: by device address, checked.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use virtqueue::Access;

/// Memory as the device sees it.
///
/// A test's memory implements [`virtqueue::Memory`] for the driver and this for the device. The device has no other
/// way to memory, so that an address which the driver did not translate, mapped for the other direction or has
/// unmapped already is seen.
///
/// What lies behind an address is the driver's: the device touches it through raw pointers with exposed provenance.
/// A driver that hands out memory and then frees it makes that undefined behaviour; to show it is Miri's task.
///
/// # Safety
///
/// [`access`](Self::access) passes pointers that are valid for the length and the direction, as far as the driver
/// keeps to what it promised to [`virtqueue::Memory`].
pub unsafe trait DeviceMemory: Send + Sync {
    /// Calls `body` with a pointer to what the device sees at `address`, and with the number of bytes, at least 1
    /// and at most `bytes`, that are contiguous there. Returns that number.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the device cannot reach the address, or not in this direction. It is not recorded.
    fn access(
        &self,
        address: u64,
        bytes: usize,
        access: Access,
        body: &mut dyn FnMut(NonNull<u8>, usize),
    ) -> Result<usize, Fault>;

    /// Keeps a fault, to be seen in [`faults`](Self::faults).
    fn record(&self, fault: Fault);

    /// The faults up to now.
    fn faults(&self) -> Vec<Fault>;

    /// The memory as rust-vmm wants it, if it is that.
    #[cfg(not(miri))]
    fn guest_memory(&self) -> Option<vm_memory::GuestMemoryMmap> {
        None
    }

    /// Copies from the device address to `bytes`.
    ///
    /// # Errors
    ///
    /// [`Fault`], also recorded, when the device cannot read all of it.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &mut bytes[done..];
            let length = rest.len();
            done += self
                .access(address.wrapping_add(done as u64), length, Access::DeviceReads, &mut |from, run| {
                    // SAFETY: `access` vouches for `run` readable bytes, `rest` has at least as many and is ours.
                    unsafe { from.copy_to_nonoverlapping(NonNull::from(&mut *rest).cast(), run) }
                })
                .inspect_err(|fault| self.record(*fault))?;
        }
        Ok(())
    }

    /// Copies `bytes` to the device address.
    ///
    /// # Errors
    ///
    /// [`Fault`], also recorded, when the device cannot write all of it. What comes before was written.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            done += self
                .access(address.wrapping_add(done as u64), rest.len(), Access::DeviceWrites, &mut |to, run| {
                    // SAFETY: `access` vouches for `run` writable bytes, `rest` has at least as many.
                    unsafe { to.copy_from_nonoverlapping(NonNull::from(rest).cast(), run) }
                })
                .inspect_err(|fault| self.record(*fault))?;
        }
        Ok(())
    }

    /// Whether the device reaches all bytes of a range, in this direction. A fault is not recorded.
    fn reaches(&self, address: u64, bytes: usize, access: Access) -> bool {
        let mut done = 0;
        while done < bytes {
            match self.access(address.wrapping_add(done as u64), bytes - done, access, &mut |_, _| {}) {
                Ok(run) => done += run,
                Err(_) => return false,
            }
        }
        true
    }

    /// Loads 16 bits at once, in the order of the bytes in memory.
    ///
    /// # Errors
    ///
    /// [`Fault`], also recorded, when the device cannot read there or the address is not aligned.
    fn load_u16(&self, address: u64, order: Ordering) -> Result<u16, Fault> {
        let mut value = 0;
        at_once::<AtomicU16>(self, address, Access::DeviceReads, &mut |field| value = field.load(order))?;
        Ok(value)
    }

    /// Loads 32 bits at once.
    ///
    /// # Errors
    ///
    /// Those of [`load_u16`](Self::load_u16).
    fn load_u32(&self, address: u64, order: Ordering) -> Result<u32, Fault> {
        let mut value = 0;
        at_once::<AtomicU32>(self, address, Access::DeviceReads, &mut |field| value = field.load(order))?;
        Ok(value)
    }

    /// Loads 64 bits at once.
    ///
    /// # Errors
    ///
    /// Those of [`load_u16`](Self::load_u16).
    fn load_u64(&self, address: u64, order: Ordering) -> Result<u64, Fault> {
        let mut value = 0;
        at_once::<AtomicU64>(self, address, Access::DeviceReads, &mut |field| value = field.load(order))?;
        Ok(value)
    }

    /// Stores 16 bits at once, in the order of the bytes in memory.
    ///
    /// # Errors
    ///
    /// [`Fault`], also recorded, when the device cannot write there or the address is not aligned.
    fn store_u16(&self, address: u64, value: u16, order: Ordering) -> Result<(), Fault> {
        at_once::<AtomicU16>(self, address, Access::DeviceWrites, &mut |field| field.store(value, order))
    }

    /// Stores 32 bits at once.
    ///
    /// # Errors
    ///
    /// Those of [`store_u16`](Self::store_u16).
    fn store_u32(&self, address: u64, value: u32, order: Ordering) -> Result<(), Fault> {
        at_once::<AtomicU32>(self, address, Access::DeviceWrites, &mut |field| field.store(value, order))
    }
}

/// Calls `body` with the atomic at an address, which must be contiguous and aligned for it.
fn at_once<A>(
    memory: &(impl DeviceMemory + ?Sized),
    address: u64,
    access: Access,
    body: &mut dyn FnMut(&A),
) -> Result<(), Fault> {
    let mut whole = false;
    memory
        .access(address, size_of::<A>(), access, &mut |start, run| {
            let start = start.cast::<A>();
            whole = run == size_of::<A>() && start.is_aligned();
            if whole {
                // SAFETY: valid for the size of `A` as `access` says, aligned as just seen, and accessed atomically
                // by the driver too. `A` is an atomic integer in all calls.
                body(unsafe { start.as_ref() });
            }
        })
        .and(if whole { Ok(()) } else { Err(Fault::NotWhole { address, bytes: size_of::<A>() }) })
        .inspect_err(|fault| memory.record(*fault))
}

/// Something about memory that went wrong, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The device was told an address behind which nothing is.
    Unknown {
        /// The device address.
        address: u64,
        /// What the device wanted to do there.
        access: Access,
    },
    /// The device was told an address that is mapped for the other direction.
    Direction {
        /// The device address.
        address: u64,
        /// What the device wanted to do there.
        access: Access,
    },
    /// A field of the ring that is misaligned or cut by the end of a piece.
    NotWhole {
        /// The device address.
        address: u64,
        /// The length of the field.
        bytes: usize,
    },
    /// The driver freed what it had not allocated, or freed it with another request.
    Free {
        /// The device address.
        address: u64,
    },
    /// The driver unmapped what was not mapped, or not so.
    Unmap {
        /// The device address.
        address: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown { address, access } => {
                write!(f, "nothing is mapped at device address {address:#x} ({access:?})")
            }
            Self::Direction { address, access } => {
                write!(f, "device address {address:#x} is mapped for the other direction ({access:?})")
            }
            Self::NotWhole { address, bytes } => {
                write!(f, "the {bytes}-byte field at device address {address:#x} is misaligned or cut")
            }
            Self::Free { address } => {
                write!(f, "the driver freed device address {address:#x}, which it had not allocated so")
            }
            Self::Unmap { address } => {
                write!(f, "the driver unmapped device address {address:#x}, which was not mapped so")
            }
        }
    }
}

impl std::error::Error for Fault {}
