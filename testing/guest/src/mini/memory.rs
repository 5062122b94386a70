//! Memory: page tables, a heap whose pages are scattered over the physical memory, and contiguous pages for drivers.
//!
//! | virtual address     | what is there                                                   |
//! |---------------------|-----------------------------------------------------------------|
//! | 0                   | device registers, the first GiB of physical addresses           |
//! | 0x8000_0000         | the kernel's image, at its physical address                     |
//! | [`LINEAR`]          | all of the above and all RAM, at its physical address plus this |
//! | [`SCATTERED`]       | the heap, in pages of [`scattered`] frames                      |
//! | [`STACKS`]          | stacks, in further such pages, with a hole below each           |

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr::NonNull,
};

use anyhow::{Context, ensure};
use buddy_system_allocator::LockedHeap;
use fdt::Fdt;
use riscv::register::satp;

use super::{interrupts::Off, masked::Masked, stack::unmeasured};

/// The size of a page and of a frame, in bytes.
pub(crate) const PAGE: usize = 4096;
/// How far above its physical address all memory is mapped.
const LINEAR: usize = 0x10_0000_0000;
/// Where the heap starts.
const SCATTERED: usize = 0x20_0000_0000;
/// Where the stacks start.
const STACKS: usize = 0x30_0000_0000;

/// The number of frames that are scattered: a power of two.
const FRAMES: usize = 8192;
/// How many of them the stacks have; the heap has the others.
const STACK_FRAMES: usize = 512;
/// The pages of a stack: 8 KiB, as rCore and Alien have them.
const STACK_PAGES: usize = 2;
/// The size of a stack in bytes.
pub(crate) const STACK_BYTES: usize = STACK_PAGES * PAGE;
/// How much is looked at of the stack that the kernel boots on, which is larger: what is too much is to be seen, too.
pub(crate) const BOOT_STACK_BYTES: usize = 64 << 10;
/// How many stacks there are.
pub(crate) const STACK_COUNT: usize = STACK_FRAMES / STACK_PAGES;

/// A large page of the second level.
const MEGAPAGE: usize = 2 << 20;
/// A large page of the first level.
const GIGAPAGE: usize = 1 << 30;
/// Where RAM starts on this machine.
const RAM: usize = 0x8000_0000;

/// Bits of a page table entry: valid, readable, writable, executable, accessed, dirty.
const VALID: usize = 1;
const DATA: usize = VALID | 1 << 1 | 1 << 2 | 1 << 6 | 1 << 7;
const CODE: usize = DATA | 1 << 3;
/// The bits that make an entry a leaf.
const LEAF: usize = 7 << 1;

/// A page table.
#[repr(C, align(4096))]
struct Table([usize; 512]);

/// All page tables: the root first, the others in the order in which they were needed.
static TABLES: Masked<Tables> = Masked::new(Tables { tables: [const { Table([0; 512]) }; 24], used: 1 });

struct Tables {
    tables: [Table; 24],
    used: usize,
}

/// The contiguous pages, where they are mapped linearly.
static CONTIGUOUS: LockedHeap<33> = LockedHeap::empty();

/// The heap, with interrupts off while it is used: a handler may allocate, too.
struct Heap(LockedHeap<33>);

#[global_allocator]
static HEAP: Heap = Heap(LockedHeap::empty());

// SAFETY: the inner allocator holds to it.
unsafe impl GlobalAlloc for Heap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unmeasured(|| {
            let _off = Off::new();
            // SAFETY: as the caller promises.
            unsafe { self.0.alloc(layout) }
        })
    }

    #[inline(never)]
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        unmeasured(|| {
            let _off = Off::new();
            // SAFETY: as the caller promises.
            unsafe { self.0.dealloc(start, layout) }
        });
    }
}

unsafe extern "C" {
    /// The first address behind the kernel's image; only its address means something.
    static __kernel_end: u8;
}

impl Tables {
    /// Maps one page of the size of `level`: 2 for a GiB, 1 for 2 MiB, 0 for 4 KiB.
    fn map(&mut self, address: usize, physical: usize, level: usize, bits: usize) -> anyhow::Result<()> {
        let mut table = 0;
        for upper in (level + 1..=2).rev() {
            let entry = self.tables[table].0[index(address, upper)];
            table = if entry & VALID == 0 {
                let next = self.used;
                ensure!(next < self.tables.len(), "all {} page tables are in use", self.tables.len());
                self.used += 1;
                // The tables lie in the image, which is mapped at its physical address.
                let frame = (&raw const self.tables[next]).addr();
                self.tables[table].0[index(address, upper)] = frame >> 12 << 10 | VALID;
                next
            } else {
                ((entry >> 10 << 12) - (&raw const self.tables).addr()) / PAGE
            };
        }
        self.tables[table].0[index(address, level)] = physical >> 12 << 10 | bits;
        Ok(())
    }

    /// Where an address is, as the processor finds it.
    fn translate(&self, address: usize) -> Option<usize> {
        let mut table = 0;
        for level in (0..=2).rev() {
            let entry = self.tables[table].0[index(address, level)];
            if entry & VALID == 0 {
                return None;
            }
            if entry & LEAF != 0 {
                let within = (PAGE << (9 * level)) - 1;
                return Some((entry >> 10 << 12) & !within | address & within);
            }
            table = ((entry >> 10 << 12) - (&raw const self.tables).addr()) / PAGE;
        }
        None
    }
}

/// Which entry of a table of this level an address goes through.
fn index(address: usize, level: usize) -> usize {
    address >> (12 + 9 * level) & 0x1ff
}

/// Which of the frames backs the page `page`: neighbours are far apart, in no order, and no two pages share one.
fn scattered(page: usize) -> usize {
    // An odd factor, so that it is a permutation of the numbers below a power of two.
    page.wrapping_mul(2731).wrapping_add(1234) % FRAMES
}

/// Switches paging on, and gives the memory to its allocators.
pub(crate) fn set_up(tree: &Fdt<'_>, blob: &[u8]) -> anyhow::Result<()> {
    let blob = blob.as_ptr_range();
    let region = tree.memory().regions().next().context("the device tree names no memory")?;
    let start = region.starting_address.addr();
    let end = start + region.size.context("the device tree does not say how much memory there is")?;
    let image_end = (&raw const __kernel_end).addr().next_multiple_of(MEGAPAGE);
    let frames_end = image_end + FRAMES * PAGE;
    // The device tree is somewhere behind the frames, and stays there.
    let contiguous_end = if blob.start.addr() >= frames_end { blob.start.addr().min(end) } else { end };
    ensure!(start == RAM && end <= RAM + GIGAPAGE, "memory at {start:#x}, expected {RAM:#x} and a GiB at the most");
    ensure!(blob.start.addr() >= frames_end || blob.end.addr() <= image_end, "the device tree is where frames are");
    ensure!(contiguous_end > frames_end + (1 << 20), "no memory is left behind {frames_end:#x}");

    let frame = |page: usize| image_end + scattered(page) * PAGE;
    TABLES.with(|tables| {
        tables.map(0, 0, 2, DATA)?;
        tables.map(LINEAR, 0, 2, DATA)?;
        tables.map(LINEAR + RAM, RAM, 2, DATA)?;
        for address in (RAM..image_end).step_by(MEGAPAGE) {
            tables.map(address, address, 1, CODE)?;
        }
        for page in STACK_FRAMES..FRAMES {
            tables.map(SCATTERED + (page - STACK_FRAMES) * PAGE, frame(page), 0, DATA)?;
        }
        for page in 0..STACK_FRAMES {
            let (stack, within) = (page / STACK_PAGES, page % STACK_PAGES);
            tables.map(stack_bottom(stack) + within * PAGE, frame(page), 0, DATA)?;
        }
        let root = (&raw const tables.tables).addr();
        // SAFETY: the image, on which this runs, stays where it is.
        unsafe { satp::set(satp::Mode::Sv39, 0, root >> 12) };
        riscv::asm::sfence_vma_all();
        Ok::<_, anyhow::Error>(())
    })?;
    let _off = Off::new();
    // SAFETY: mapped just now, to frames that nobody else has.
    unsafe { HEAP.0.lock().init(SCATTERED, (FRAMES - STACK_FRAMES) * PAGE) };
    // SAFETY: RAM in which nothing is, mapped just now.
    unsafe { CONTIGUOUS.lock().init(LINEAR + frames_end, contiguous_end - frames_end) };
    Ok(())
}

/// The lowest address of a stack. The page below it is a hole.
pub(crate) fn stack_bottom(number: usize) -> usize {
    STACKS + number * (STACK_PAGES + 1) * PAGE + PAGE
}

/// Which stack an address is on; `None` if it is on none of these.
pub(crate) fn stack_number(address: usize) -> Option<usize> {
    let number = address.checked_sub(STACKS + PAGE)? / ((STACK_PAGES + 1) * PAGE);
    (number < STACK_COUNT).then_some(number)
}

/// Where the kernel finds a physical address.
pub(crate) fn phys_to_virt(physical: usize) -> usize {
    LINEAR + physical
}

/// Where an address of the kernel is in physical memory.
#[inline(never)]
pub(crate) fn virt_to_phys(address: usize) -> Option<usize> {
    unmeasured(|| TABLES.with(|tables| tables.translate(address)))
}

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE)?, PAGE).ok()
}

/// Takes contiguous pages, and returns their physical address.
#[inline(never)]
pub(crate) fn allocate_contiguous(pages: usize) -> Option<usize> {
    let start = unmeasured(|| {
        let _off = Off::new();
        CONTIGUOUS.lock().alloc(layout(pages)?).ok()
    });
    Some(start?.addr().get() - LINEAR)
}

/// Gives contiguous pages back.
///
/// # Safety
///
/// [`allocate_contiguous`] returned them for as many pages, and nobody uses them any more.
#[inline(never)]
pub(crate) unsafe fn free_contiguous(physical: usize, pages: usize) {
    let start = NonNull::new(core::ptr::with_exposed_provenance_mut(LINEAR + physical));
    if let (Some(start), Some(layout)) = (start, layout(pages)) {
        unmeasured(|| {
            let _off = Off::new();
            // SAFETY: as the caller promises.
            unsafe { CONTIGUOUS.lock().dealloc(start, layout) };
        });
    }
}
