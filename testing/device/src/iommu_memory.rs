//! Memory behind an IOMMU.

use std::collections::BTreeMap;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtqueue::{Access, Memory, MemoryError, PageRequest, Pages, Piece};

use crate::device_memory::{DeviceMemory, Fault};
use crate::pages::{ALLOCATED_END, Countdown, DEFAULT_BASE, Found, PAGE_BYTES, PagePool, unknown};
use crate::violation::panic_if_any;

/// Memory of which the device reaches what is mapped at that moment, in the direction it was mapped for.
///
/// Every mapping has a new device address; none is used twice. A mapping ends with its page. Allocated pages are
/// reachable in both directions until they are freed, private ones never.
///
/// Clones share everything.
#[derive(Clone, Debug)]
pub struct IommuMemory(Arc<Mutex<Iommu>>);

#[derive(Debug)]
struct Iommu {
    pool: PagePool,
    mappings: BTreeMap<u64, Mapping>,
    next: u64,
    made: u64,
    failure: Countdown,
    faults: Vec<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    /// The exposed address.
    start: usize,
    bytes: usize,
    access: Access,
}

impl Default for IommuMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl IommuMemory {
    /// Memory whose allocated pages have device addresses of more than 32 bits, low enough for a legacy queue.
    #[must_use]
    pub fn new() -> Self {
        Self::with_base(DEFAULT_BASE)
    }

    /// Memory whose allocated pages begin at a device address: a multiple of 4096, not 0, below 2^52.
    #[must_use]
    pub fn with_base(base: u64) -> Self {
        Self(Arc::new(Mutex::new(Iommu {
            pool: PagePool::new(base),
            mappings: BTreeMap::new(),
            next: ALLOCATED_END,
            made: 0,
            failure: Countdown::default(),
            faults: Vec::new(),
        })))
    }

    /// Makes one allocation fail: the next one for 0, the one after it for 1, and so on.
    pub fn fail_allocation(&self, calls: u32) {
        self.lock().pool.failure.set(calls);
    }

    /// Makes one mapping fail: the next one for 0, the one after it for 1, and so on.
    pub fn fail_map(&self, calls: u32) {
        self.lock().failure.set(calls);
    }

    /// How many allocations were not freed yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.lock().pool.outstanding()
    }

    /// How many mappings there are.
    #[must_use]
    pub fn mapped(&self) -> usize {
        self.lock().mappings.len()
    }

    /// How many mappings were ever made.
    #[must_use]
    pub fn mappings_made(&self) -> u64 {
        self.lock().made
    }

    /// Panics if there were faults, if a mapping is left, or if pages were not freed.
    #[track_caller]
    pub fn assert_clean(&self) {
        panic_if_any("faults", &self.faults());
        assert_eq!(self.mapped(), 0, "mappings that were left");
        assert_eq!(self.outstanding(), 0, "allocations that were not freed");
    }

    fn lock(&self) -> MutexGuard<'_, Iommu> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: allocated pages are fresh, zeroed and aligned, and contiguous for the device. A mapping ends with its page
// and leads to the memory that it was made for. Clones share one state.
unsafe impl Memory for IommuMemory {
    const UNMAPS: bool = true;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        self.lock().pool.allocate(request)
    }

    unsafe fn free(&self, pages: Pages, request: &PageRequest) {
        let mut iommu = self.lock();
        // SAFETY: as the caller promises.
        if let Err(fault) = unsafe { iommu.pool.free(pages, request) } {
            iommu.faults.push(fault);
        }
    }

    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        match self.lock().pool.find(start.addr().get()) {
            Found::Shared { device_address, left } if bytes > 0 => Ok(Piece { device_address, bytes: bytes.min(left) }),
            // Behind an IOMMU, a buffer has no address before it is mapped.
            _ => Err(MemoryError::NotMapped { address: start.addr().get() }),
        }
    }

    unsafe fn map(&self, start: NonNull<u8>, bytes: usize, access: Access) -> Result<Piece, MemoryError> {
        let mut iommu = self.lock();
        let address = start.as_ptr().expose_provenance();
        if iommu.failure.fails() {
            return Err(MemoryError::OutOfMemory);
        }
        if bytes == 0 || matches!(iommu.pool.find(address), Found::Private) {
            return Err(MemoryError::NotMapped { address });
        }
        let in_page = address % PAGE_BYTES;
        let bytes = bytes.min(PAGE_BYTES - in_page);
        let device_address = iommu.next + in_page as u64;
        iommu.next += 2 * PAGE_BYTES as u64;
        iommu.made += 1;
        iommu.mappings.insert(device_address, Mapping { start: address, bytes, access });
        Ok(Piece { device_address, bytes })
    }

    unsafe fn unmap(&self, start: NonNull<u8>, piece: Piece, access: Access) {
        let mut iommu = self.lock();
        let asked = Mapping { start: start.addr().get(), bytes: piece.bytes, access };
        if iommu.mappings.get(&piece.device_address) == Some(&asked) {
            iommu.mappings.remove(&piece.device_address);
        } else {
            iommu.faults.push(Fault::Unmap { address: piece.device_address });
        }
    }
}

// SAFETY: it finds only what is allocated, or mapped in this direction, which the driver keeps valid that long. The
// state is locked meanwhile.
unsafe impl DeviceMemory for IommuMemory {
    fn access(
        &self,
        address: u64,
        bytes: usize,
        access: Access,
        body: &mut dyn FnMut(NonNull<u8>, usize),
    ) -> Result<usize, Fault> {
        let iommu = self.lock();
        if let Some((start, left)) = iommu.pool.locate(address) {
            let run = left.min(bytes);
            body(start, run);
            return Ok(run);
        }
        let (first, mapping) = iommu.mappings.range(..=address).next_back().ok_or(unknown(address, access))?;
        let within = usize::try_from(address - first).unwrap_or(usize::MAX);
        let run = mapping.bytes.saturating_sub(within).min(bytes);
        let start = NonNull::new(ptr::with_exposed_provenance_mut(mapping.start.wrapping_add(within)));
        match start {
            Some(start) if run > 0 => {
                if mapping.access != access {
                    return Err(Fault::Direction { address, access });
                }
                body(start, run);
                Ok(run)
            }
            _ => Err(unknown(address, access)),
        }
    }

    fn record(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    fn faults(&self) -> Vec<Fault> {
        self.lock().faults.clone()
    }
}
