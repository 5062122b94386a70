//! Memory whose pages lie elsewhere for the device.

use std::collections::BTreeMap;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtqueue::{Access, Memory, MemoryError, PageRequest, Pages, Piece};

use crate::device_memory::{DeviceMemory, Fault};
use crate::pages::{ALLOCATED_END, DEFAULT_BASE, Found, PAGE_BYTES, PagePool, unknown};
use crate::violation::panic_if_any;

/// Memory without an IOMMU, whose device addresses are not the virtual ones.
///
/// Any buffer can be translated: on the heap, on the stack, static. Every page boundary is a break: what continues
/// for the driver lies elsewhere for the device. Allocated pages have contiguous device addresses from a range of
/// their own; private ones have none. The device reaches what was translated or allocated and nothing else.
///
/// Nothing is ever unmapped, so that a translated address stays reachable although its buffer may be gone.
///
/// Clones share everything.
#[derive(Clone, Debug)]
pub struct ScatterMemory(Arc<Mutex<Scatter>>);

#[derive(Debug)]
struct Scatter {
    pool: PagePool,
    /// Translated ranges of device addresses: start and end, neither overlapping nor touching.
    translated: BTreeMap<u64, u64>,
    faults: Vec<Fault>,
}

impl Default for ScatterMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl ScatterMemory {
    /// Memory whose allocated pages have device addresses of more than 32 bits, low enough for a legacy queue.
    #[must_use]
    pub fn new() -> Self {
        Self::with_base(DEFAULT_BASE)
    }

    /// Memory whose allocated pages begin at a device address: a multiple of 4096, not 0, below 2^52.
    #[must_use]
    pub fn with_base(base: u64) -> Self {
        let scatter = Scatter { pool: PagePool::new(base), translated: BTreeMap::new(), faults: Vec::new() };
        Self(Arc::new(Mutex::new(scatter)))
    }

    /// Makes one allocation fail: the next one for 0, the one after it for 1, and so on.
    pub fn fail_allocation(&self, calls: u32) {
        self.lock().pool.failure.set(calls);
    }

    /// How many allocations were not freed yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.lock().pool.outstanding()
    }

    /// Panics if there were faults or if pages were not freed.
    #[track_caller]
    pub fn assert_clean(&self) {
        panic_if_any("faults", &self.faults());
        assert_eq!(self.outstanding(), 0, "allocations that were not freed");
    }

    fn lock(&self) -> MutexGuard<'_, Scatter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The device address of a virtual one: pages are swapped in pairs, and all are moved up.
const fn scatter(address: usize) -> u64 {
    (address as u64 ^ PAGE_BYTES as u64) + ALLOCATED_END
}

/// The virtual address of a scattered one.
fn gather(address: u64) -> Option<usize> {
    usize::try_from(address.checked_sub(ALLOCATED_END)? ^ PAGE_BYTES as u64).ok()
}

impl Scatter {
    /// Notes that the device may be told about a range.
    fn insert(&mut self, mut start: u64, mut end: u64) {
        while let Some((&first, &last)) = self.translated.range(..=end).next_back() {
            if last < start {
                break;
            }
            if first <= start && end <= last {
                return;
            }
            start = start.min(first);
            end = end.max(last);
            self.translated.remove(&first);
        }
        self.translated.insert(start, end);
    }

    fn locate(&self, address: u64) -> Option<(NonNull<u8>, usize)> {
        if let Some(found) = self.pool.locate(address) {
            return Some(found);
        }
        let (_, &end) = self.translated.range(..=address).next_back()?;
        let left = end.checked_sub(address).filter(|left| *left > 0)?;
        let start = gather(address)?;
        let in_page = PAGE_BYTES - start % PAGE_BYTES;
        let left = usize::try_from(left).unwrap_or(usize::MAX).min(in_page);
        Some((NonNull::new(ptr::with_exposed_provenance_mut(start))?, left))
    }
}

// SAFETY: allocated pages are fresh, zeroed and aligned, and contiguous for the device, which reaches them through
// `locate` alone. A piece ends with its page, and `gather` undoes `scatter`, so that the device's view of it is the
// driver's memory. Clones share one state.
unsafe impl Memory for ScatterMemory {
    const UNMAPS: bool = false;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        self.lock().pool.allocate(request)
    }

    unsafe fn free(&self, pages: Pages, request: &PageRequest) {
        let mut scatter = self.lock();
        // SAFETY: as the caller promises.
        if let Err(fault) = unsafe { scatter.pool.free(pages, request) } {
            scatter.faults.push(fault);
        }
    }

    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        let mut memory = self.lock();
        let address = start.as_ptr().expose_provenance();
        match memory.pool.find(address) {
            Found::Private => Err(MemoryError::NotMapped { address }),
            Found::Shared { device_address, left } => Ok(Piece { device_address, bytes: bytes.min(left) }),
            Found::Elsewhere if bytes == 0 => Err(MemoryError::NotMapped { address }),
            Found::Elsewhere => {
                let device_address = scatter(address);
                let bytes = bytes.min(PAGE_BYTES - address % PAGE_BYTES);
                memory.insert(device_address, device_address + bytes as u64);
                Ok(Piece { device_address, bytes })
            }
        }
    }
}

// SAFETY: `locate` finds only what was allocated and not freed, or translated, which the driver keeps valid.
unsafe impl DeviceMemory for ScatterMemory {
    fn access(
        &self,
        address: u64,
        bytes: usize,
        access: Access,
        body: &mut dyn FnMut(NonNull<u8>, usize),
    ) -> Result<usize, Fault> {
        let memory = self.lock();
        let (start, left) = memory.locate(address).ok_or(unknown(address, access))?;
        let run = left.min(bytes);
        body(start, run);
        Ok(run)
    }

    fn record(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    fn faults(&self) -> Vec<Fault> {
        self.lock().faults.clone()
    }
}
