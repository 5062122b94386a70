//! Memory that the device shares in one arena, apart from all other memory.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtqueue::{Access, Memory, MemoryError, PageRequest, Pages, Piece, Purpose};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::device_memory::{DeviceMemory, Fault};
use crate::pages::{Countdown, DEFAULT_BASE, Found, PAGE_BYTES, PagePool, unknown};
use crate::violation::panic_if_any;

/// The length of the arena unless said otherwise.
const DEFAULT_BYTES: usize = 16 << 20;

/// Memory that the device shares in one arena of rust-vmm's: mapping a buffer copies it there, unmapping copies back
/// what the device was to write.
///
/// A bounce buffer has whole pages of its own, and ends where the page of the driver's buffer ends, so that a buffer
/// that crosses a page has several. Private pages are outside the arena. The arena is addressed by the device from a
/// base on, and is what [`Mover::RustVmm`](crate::Mover::RustVmm) needs.
///
/// Clones share everything.
#[derive(Clone, Debug)]
pub struct BounceMemory {
    arena: GuestMemoryMmap,
    state: Arc<Mutex<Bounce>>,
}

#[derive(Debug)]
struct Bounce {
    base: u64,
    /// For private pages only.
    private: PagePool,
    /// What is allocated or mapped in the arena, by page: the number of pages and the use.
    used: BTreeMap<u64, (u64, Use)>,
    pages: u64,
    /// Where to look for free pages first, so that addresses are not used again soon.
    hint: u64,
    failure: Countdown,
    map_failure: Countdown,
    faults: Vec<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Allocated { start: usize, request: PageRequest },
    Mapped { start: usize, bytes: usize, access: Access },
}

impl Default for BounceMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl BounceMemory {
    /// Memory with an arena of 16 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::with_arena(DEFAULT_BASE, DEFAULT_BYTES)
    }

    /// Memory with an arena at a device address, of a length in bytes; both are multiples of 4096 and not 0.
    #[must_use]
    pub fn with_arena(base: u64, bytes: usize) -> Self {
        assert!(base != 0 && base.is_multiple_of(PAGE_BYTES as u64), "base {base:#x}");
        assert!(bytes != 0 && bytes.is_multiple_of(PAGE_BYTES), "{bytes} bytes");
        let arena = GuestMemoryMmap::from_ranges(&[(GuestAddress(base), bytes)]).expect("memory for the arena");
        let state = Bounce {
            base,
            private: PagePool::new(DEFAULT_BASE),
            used: BTreeMap::new(),
            pages: (bytes / PAGE_BYTES) as u64,
            hint: 0,
            failure: Countdown::default(),
            map_failure: Countdown::default(),
            faults: Vec::new(),
        };
        Self { arena, state: Arc::new(Mutex::new(state)) }
    }

    /// The arena.
    #[must_use]
    pub fn arena(&self) -> &GuestMemoryMmap {
        &self.arena
    }

    /// Makes one allocation fail: the next one for 0, the one after it for 1, and so on.
    pub fn fail_allocation(&self, calls: u32) {
        self.lock().failure.set(calls);
    }

    /// Makes one mapping fail: the next one for 0, the one after it for 1, and so on.
    pub fn fail_map(&self, calls: u32) {
        self.lock().map_failure.set(calls);
    }

    /// How many allocations were not freed yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        let state = self.lock();
        state.used.values().filter(|(_, what)| matches!(what, Use::Allocated { .. })).count()
            + state.private.outstanding()
    }

    /// How many mappings there are.
    #[must_use]
    pub fn mapped(&self) -> usize {
        self.lock().used.values().filter(|(_, what)| matches!(what, Use::Mapped { .. })).count()
    }

    /// Panics if there were faults, if a mapping is left, or if pages were not freed.
    #[track_caller]
    pub fn assert_clean(&self) {
        panic_if_any("faults", &self.faults());
        assert_eq!(self.mapped(), 0, "mappings that were left");
        assert_eq!(self.outstanding(), 0, "allocations that were not freed");
    }

    fn lock(&self) -> MutexGuard<'_, Bounce> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self, address: u64) -> Option<NonNull<u8>> {
        NonNull::new(self.arena.get_host_address(GuestAddress(address)).ok()?)
    }
}

impl Bounce {
    /// A range of free pages.
    fn find_free(&mut self, count: u64) -> Option<u64> {
        let from_hint = self.find_free_from(self.hint, count);
        let page = from_hint.or_else(|| self.find_free_from(0, count))?;
        self.hint = page + count;
        Some(page)
    }

    fn find_free_from(&self, mut page: u64, count: u64) -> Option<u64> {
        if let Some((&first, &(length, _))) = self.used.range(..page).next_back() {
            page = page.max(first + length);
        }
        for (&first, &(length, _)) in self.used.range(page..) {
            if page + count <= first {
                return Some(page);
            }
            page = first + length;
        }
        (page + count <= self.pages).then_some(page)
    }

    fn address(&self, page: u64) -> u64 {
        self.base + page * PAGE_BYTES as u64
    }

    fn page(&self, address: u64) -> Option<u64> {
        Some(address.checked_sub(self.base)? / PAGE_BYTES as u64)
    }

    /// What is at a device address: the use, and where it begins.
    fn at(&self, address: u64) -> Option<(u64, Use)> {
        let page = self.page(address)?;
        let (&first, &(length, what)) = self.used.range(..=page).next_back()?;
        (page < first + length).then_some((self.address(first), what))
    }
}

// SAFETY: allocated pages are those of the arena that nobody else has, zeroed; the arena is contiguous for both sides.
// A piece is a bounce buffer, which the driver's buffer is copied to and from. Clones share one state.
unsafe impl Memory for BounceMemory {
    const UNMAPS: bool = true;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        let mut state = self.lock();
        if state.failure.fails() {
            return Err(MemoryError::OutOfMemory);
        }
        if request.purpose == Purpose::Private {
            return state.private.allocate(request);
        }
        let count = request.bytes.div_ceil(PAGE_BYTES) as u64;
        let page = state.find_free(count).ok_or(MemoryError::OutOfMemory)?;
        let device_address = state.address(page);
        if device_address + (request.bytes as u64 - 1) > request.max_address {
            return Err(MemoryError::AddressTooHigh);
        }
        let start = self.host(device_address).ok_or(MemoryError::OutOfMemory)?;
        // SAFETY: the pages are in the arena and nobody's.
        unsafe { start.write_bytes(0, request.bytes) };
        let what = Use::Allocated { start: start.addr().get(), request: *request };
        state.used.insert(page, (count, what));
        Ok(Pages { start, device_address })
    }

    unsafe fn free(&self, pages: Pages, request: &PageRequest) {
        let mut state = self.lock();
        if request.purpose == Purpose::Private {
            // SAFETY: as the caller promises.
            if let Err(fault) = unsafe { state.private.free(pages, request) } {
                state.faults.push(fault);
            }
            return;
        }
        let asked = Use::Allocated { start: pages.start.addr().get(), request: *request };
        match (state.at(pages.device_address), state.page(pages.device_address)) {
            (Some((first, what)), Some(page)) if first == pages.device_address && what == asked => {
                state.used.remove(&page);
            }
            _ => state.faults.push(Fault::Free { address: pages.device_address }),
        }
    }

    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        let state = self.lock();
        let address = start.addr().get();
        state
            .used
            .iter()
            .find_map(|(&page, &(_, what))| match what {
                Use::Allocated { start, request } => {
                    let within = address.checked_sub(start)?;
                    let left = request.bytes.checked_sub(within).filter(|left| *left > 0 && bytes > 0)?;
                    Some(Piece { device_address: state.address(page) + within as u64, bytes: bytes.min(left) })
                }
                Use::Mapped { .. } => None,
            })
            .ok_or(MemoryError::NotMapped { address })
    }

    unsafe fn map(&self, start: NonNull<u8>, bytes: usize, access: Access) -> Result<Piece, MemoryError> {
        let mut state = self.lock();
        let address = start.addr().get();
        if state.map_failure.fails() {
            return Err(MemoryError::OutOfMemory);
        }
        if bytes == 0 || matches!(state.private.find(address), Found::Private) {
            return Err(MemoryError::NotMapped { address });
        }
        let in_page = address % PAGE_BYTES;
        let bytes = bytes.min(PAGE_BYTES - in_page);
        let page = state.find_free(1).ok_or(MemoryError::OutOfMemory)?;
        let device_address = state.address(page) + in_page as u64;
        let bounce = self.host(device_address).ok_or(MemoryError::OutOfMemory)?;
        // SAFETY: the buffer is valid for `bytes`, as the caller promises; the page is in the arena and nobody's. What
        // the device is to write is copied too, as it may write less than the whole.
        unsafe { bounce.copy_from_nonoverlapping(start, bytes) };
        state.used.insert(page, (1, Use::Mapped { start: address, bytes, access }));
        Ok(Piece { device_address, bytes })
    }

    unsafe fn unmap(&self, start: NonNull<u8>, piece: Piece, access: Access) {
        let mut state = self.lock();
        let asked = Use::Mapped { start: start.addr().get(), bytes: piece.bytes, access };
        let known = state.at(piece.device_address).is_some_and(|(first, what)| {
            what == asked && piece.device_address - first == (start.addr().get() % PAGE_BYTES) as u64
        });
        match (state.page(piece.device_address), self.host(piece.device_address)) {
            (Some(page), Some(bounce)) if known => {
                if access == Access::DeviceWrites {
                    // SAFETY: the buffer is valid for writes until now, as the caller of `map` promised.
                    unsafe { start.copy_from_nonoverlapping(bounce, piece.bytes) };
                }
                state.used.remove(&page);
            }
            _ => state.faults.push(Fault::Unmap { address: piece.device_address }),
        }
    }
}

// SAFETY: it finds only what is allocated, or mapped in this direction, in the arena, which lives as long as `self`.
unsafe impl DeviceMemory for BounceMemory {
    fn access(
        &self,
        address: u64,
        bytes: usize,
        access: Access,
        body: &mut dyn FnMut(NonNull<u8>, usize),
    ) -> Result<usize, Fault> {
        let state = self.lock();
        let (first, what) = state.at(address).ok_or(unknown(address, access))?;
        let end = match what {
            Use::Allocated { request, .. } => first + request.bytes as u64,
            Use::Mapped { start, bytes, access: mapped } => {
                let begin = first + (start % PAGE_BYTES) as u64;
                if address < begin {
                    return Err(unknown(address, access));
                }
                if address < begin + bytes as u64 && mapped != access {
                    return Err(Fault::Direction { address, access });
                }
                begin + bytes as u64
            }
        };
        let left = usize::try_from(end.saturating_sub(address)).unwrap_or(usize::MAX);
        let run = left.min(bytes);
        match self.host(address) {
            Some(start) if run > 0 => {
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

    fn guest_memory(&self) -> Option<GuestMemoryMmap> {
        Some(self.arena.clone())
    }
}
