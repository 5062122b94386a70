//! Contiguous pages at device addresses of their own.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::{self, NonNull};

use virtqueue::{Access, MemoryError, PageRequest, Pages, Purpose};

use crate::device_memory::Fault;

/// The length of a page.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Where device addresses of allocated pages begin unless said otherwise: more than 32 bits, and less than the 44
/// bits that a legacy queue can express.
pub(crate) const DEFAULT_BASE: u64 = 0x1_2340_0000;

/// The end of the device addresses that allocated pages may have.
pub(crate) const ALLOCATED_END: u64 = 1 << 52;

/// What an address that the device must not use is shown as.
const PRIVATE_ADDRESS: u64 = 0xdead_dead_dead_d000;

/// Countdown to one failure.
#[derive(Debug, Default)]
pub(crate) struct Countdown(Option<u32>);

impl Countdown {
    /// The `calls`-th call from now on fails: 0 is the next one.
    pub(crate) fn set(&mut self, calls: u32) {
        self.0 = Some(calls);
    }

    /// Whether this call fails.
    pub(crate) fn fails(&mut self) -> bool {
        match &mut self.0 {
            Some(0) => {
                self.0 = None;
                true
            }
            Some(calls) => {
                *calls -= 1;
                false
            }
            None => false,
        }
    }
}

/// An allocation that was not freed.
#[derive(Debug)]
struct Allocation {
    /// The exposed address.
    start: usize,
    request: PageRequest,
}

/// An allocator of pages for the driver, with the device's view of them.
#[derive(Debug)]
pub(crate) struct PagePool {
    next: u64,
    shared: BTreeMap<u64, Allocation>,
    private: BTreeMap<usize, PageRequest>,
    pub(crate) failure: Countdown,
}

impl PagePool {
    pub(crate) fn new(base: u64) -> Self {
        assert!(base.is_multiple_of(PAGE_BYTES as u64) && base != 0 && base < ALLOCATED_END, "base {base:#x}");
        Self { next: base, shared: BTreeMap::new(), private: BTreeMap::new(), failure: Countdown::default() }
    }

    fn layout(request: &PageRequest) -> Layout {
        assert!(request.bytes > 0, "a page request of no bytes");
        assert!(request.align.is_power_of_two() && request.align <= PAGE_BYTES, "alignment {}", request.align);
        Layout::from_size_align(request.bytes, request.align).expect("a page request larger than memory")
    }

    pub(crate) fn allocate(&mut self, request: &PageRequest) -> Result<Pages, MemoryError> {
        let layout = Self::layout(request);
        if self.failure.fails() {
            return Err(MemoryError::OutOfMemory);
        }
        let device_address = match request.purpose {
            Purpose::Private => PRIVATE_ADDRESS,
            Purpose::Shared => {
                // No better aligned than asked for, and with a hole behind it.
                let within = if request.align < PAGE_BYTES { request.align as u64 } else { 0 };
                let address = self.next + within;
                if address + (request.bytes as u64 - 1) > request.max_address {
                    return Err(MemoryError::AddressTooHigh);
                }
                let page = PAGE_BYTES as u64;
                self.next = (address + request.bytes as u64).next_multiple_of(page) + page;
                assert!(self.next < ALLOCATED_END, "out of device addresses");
                address
            }
        };
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(MemoryError::OutOfMemory)?;
        let exposed = start.as_ptr().expose_provenance();
        match request.purpose {
            Purpose::Private => {
                self.private.insert(exposed, *request);
            }
            Purpose::Shared => {
                self.shared.insert(device_address, Allocation { start: exposed, request: *request });
            }
        }
        Ok(Pages { start, device_address })
    }

    /// # Safety
    ///
    /// That of [`virtqueue::Memory::free`].
    pub(crate) unsafe fn free(&mut self, pages: Pages, request: &PageRequest) -> Result<(), Fault> {
        let start = pages.start.as_ptr();
        let known = match request.purpose {
            Purpose::Private => self.private.get(&start.addr()) == Some(request),
            Purpose::Shared => self
                .shared
                .get(&pages.device_address)
                .is_some_and(|known| known.start == start.addr() && known.request == *request),
        };
        if !known {
            return Err(Fault::Free { address: pages.device_address });
        }
        match request.purpose {
            Purpose::Private => {
                self.private.remove(&start.addr());
            }
            Purpose::Shared => {
                self.shared.remove(&pages.device_address);
            }
        }
        // SAFETY: `allocate` allocated it with this layout; it was not freed, as it was still known.
        unsafe { dealloc(start, Self::layout(request)) };
        Ok(())
    }

    /// How many allocations were not freed.
    pub(crate) fn outstanding(&self) -> usize {
        self.shared.len() + self.private.len()
    }

    /// The pointer behind a device address, and how many bytes follow it.
    pub(crate) fn locate(&self, address: u64) -> Option<(NonNull<u8>, usize)> {
        let (first, allocation) = self.shared.range(..=address).next_back()?;
        let within = usize::try_from(address - first).ok()?;
        let left = allocation.request.bytes.checked_sub(within).filter(|left| *left > 0)?;
        Some((NonNull::new(ptr::with_exposed_provenance_mut(allocation.start + within))?, left))
    }

    /// What a virtual address is to this pool.
    pub(crate) fn find(&self, start: usize) -> Found {
        if let Some((first, request)) = self.private.range(..=start).next_back()
            && start - first < request.bytes
        {
            return Found::Private;
        }
        self.shared
            .iter()
            .find_map(|(device, allocation)| {
                let within = start.checked_sub(allocation.start)?;
                let left = allocation.request.bytes.checked_sub(within).filter(|left| *left > 0)?;
                Some(Found::Shared { device_address: device + within as u64, left })
            })
            .unwrap_or(Found::Elsewhere)
    }
}

/// What a virtual address is to a pool.
pub(crate) enum Found {
    /// Inside private pages.
    Private,
    /// Inside shared pages.
    Shared { device_address: u64, left: usize },
    /// In none of its pages.
    Elsewhere,
}

/// The fault of an address that is not known.
pub(crate) const fn unknown(address: u64, access: Access) -> Fault {
    Fault::Unknown { address, access }
}
