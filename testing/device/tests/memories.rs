//! The memories, each used as a driver and a device would.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

#[cfg(not(miri))]
use testing_device::BounceMemory;
use testing_device::{DeviceMemory, Fault, IommuMemory, ScatterMemory, TestMemory};
use virtqueue::{Access, Memory, MemoryError, PageRequest, Pages, Purpose};

const PAGE: usize = 4096;

fn request(bytes: usize, align: usize) -> PageRequest {
    PageRequest { bytes, align, max_address: u64::MAX, purpose: Purpose::Shared }
}

fn start_of(buffer: &mut [u8]) -> NonNull<u8> {
    NonNull::from(buffer).cast()
}

/// # Safety
///
/// That of [`virtqueue::Memory::free`].
unsafe fn free(memory: &impl TestMemory, pages: Pages, request: &PageRequest) {
    // SAFETY: as the caller promises.
    unsafe { memory.free(pages, request) }
}

fn allocation(memory: &impl TestMemory) {
    for (bytes, align) in [(1, 1), (100, 16), (PAGE, PAGE), (3 * PAGE + 1, 64)] {
        let request = request(bytes, align);
        let pages = memory.allocate(&request).unwrap();
        assert!(pages.device_address.is_multiple_of(align as u64) && pages.start.addr().get().is_multiple_of(align));
        assert_ne!(pages.device_address, pages.start.addr().get() as u64);
        let mut seen = vec![1; bytes];
        memory.read(pages.device_address, &mut seen).unwrap();
        assert!(seen.iter().all(|byte| *byte == 0));
        memory.write(pages.device_address + bytes as u64 - 1, &[7]).unwrap();
        // SAFETY: the last of the pages' bytes.
        assert_eq!(unsafe { pages.start.add(bytes - 1).read() }, 7);
        assert_eq!(memory.translate(pages.start, bytes).unwrap().device_address, pages.device_address);
        assert_eq!(memory.outstanding(), 1);
        assert!(memory.reaches(pages.device_address, bytes, Access::DeviceReads));
        assert!(!memory.reaches(pages.device_address, bytes + 1, Access::DeviceReads));
        // SAFETY: allocated so, freed once.
        unsafe { free(memory, pages, &request) };
        assert!(!memory.reaches(pages.device_address, 1, Access::DeviceReads));
    }
    memory.assert_clean();

    // Private pages have no device address.
    let private = PageRequest { purpose: Purpose::Private, ..request(64, 8) };
    let pages = memory.allocate(&private).unwrap();
    assert!(!memory.reaches(pages.device_address, 1, Access::DeviceReads));
    assert!(matches!(memory.translate(pages.start, 1), Err(MemoryError::NotMapped { .. })));
    // SAFETY: valid for 64 bytes; it does not get mapped.
    assert!(unsafe { memory.map(pages.start, 64, Access::DeviceReads) }.is_err());
    // SAFETY: allocated so, freed once.
    unsafe { free(memory, pages, &private) };

    memory.fail_allocation(1);
    let first = memory.allocate(&request(64, 8)).unwrap();
    assert_eq!(memory.allocate(&request(64, 8)), Err(MemoryError::OutOfMemory));
    // SAFETY: allocated so, freed once.
    unsafe { free(memory, first, &request(64, 8)) };
    let low = PageRequest { max_address: 0xffff, ..request(64, 8) };
    assert_eq!(memory.allocate(&low), Err(MemoryError::AddressTooHigh));
    memory.assert_clean();
}

#[test]
fn pages_are_zeroed_contiguous_and_counted() {
    allocation(&ScatterMemory::new());
    allocation(&IommuMemory::new());
    #[cfg(not(miri))]
    allocation(&BounceMemory::new());
}

#[test]
fn the_base_can_be_too_high_for_a_legacy_queue() {
    let legacy = PageRequest { max_address: (1 << 44) - 1, ..request(PAGE, PAGE) };
    let high = ScatterMemory::with_base(1 << 44);
    assert_eq!(high.allocate(&legacy), Err(MemoryError::AddressTooHigh));
    let memory = ScatterMemory::new();
    let pages = memory.allocate(&legacy).unwrap();
    assert!(pages.device_address > u64::from(u32::MAX));
    // SAFETY: allocated so, freed once.
    unsafe { memory.free(pages, &legacy) };
}

#[test]
fn scattered_pages_break_at_every_boundary() {
    let memory = ScatterMemory::new();
    let mut buffer = vec![0; 4 * PAGE];
    let start = start_of(&mut buffer);
    let mut done = 0;
    let mut pieces = Vec::new();
    while done < 4 * PAGE {
        // SAFETY: inside the buffer.
        let piece = memory.translate(unsafe { start.add(done) }, 4 * PAGE - done).unwrap();
        assert_ne!(piece.device_address, start.addr().get() as u64 + done as u64);
        pieces.push(piece);
        done += piece.bytes;
    }
    for pair in pieces.windows(2) {
        assert_ne!(pair[0].device_address + pair[0].bytes as u64, pair[1].device_address);
    }
    let mut value = 0u8;
    for piece in &pieces {
        value += 1;
        memory.write(piece.device_address, &vec![value; piece.bytes]).unwrap();
    }
    let mut expected = Vec::new();
    for (piece, value) in pieces.iter().zip(1u8..) {
        expected.resize(expected.len() + piece.bytes, value);
    }
    assert!(buffer == expected);
    memory.assert_clean();
}

#[test]
fn what_was_not_translated_is_out_of_reach() {
    let memory = ScatterMemory::new();
    let mut buffer = [0; 16];
    let start = start_of(&mut buffer);
    let piece = memory.translate(start, 8).unwrap();
    assert!(memory.reaches(piece.device_address, 8, Access::DeviceWrites));
    assert!(memory.write(piece.device_address + 8, &[1]).is_err());
    assert!(memory.write(start.addr().get() as u64, &[1]).is_err(), "the virtual address");
    let unknown = |address| Fault::Unknown { address, access: Access::DeviceWrites };
    assert_eq!(memory.faults(), [unknown(piece.device_address + 8), unknown(start.addr().get() as u64)]);
}

#[test]
fn fields_are_whole() {
    let memory = ScatterMemory::new();
    let request = request(16, 16);
    let pages = memory.allocate(&request).unwrap();
    memory.store_u16(pages.device_address + 2, 0x1234, Ordering::Release).unwrap();
    // SAFETY: aligned and inside the pages, and atomic on both sides.
    let field = unsafe { pages.start.add(2).cast::<AtomicU16>().as_ref() };
    assert_eq!(field.load(Ordering::Acquire), 0x1234);
    let misaligned = pages.device_address + 1;
    assert_eq!(memory.load_u16(misaligned, Ordering::Relaxed), Err(Fault::NotWhole { address: misaligned, bytes: 2 }));
    let cut = pages.device_address + 12;
    assert_eq!(memory.load_u64(cut, Ordering::Relaxed), Err(Fault::NotWhole { address: cut, bytes: 8 }));
    // SAFETY: allocated so, freed once.
    unsafe { memory.free(pages, &request) };
}

fn mapping(memory: &impl TestMemory) {
    let mut buffer = vec![0x11; PAGE + 100];
    let start = start_of(&mut buffer);
    assert!(memory.translate(start, 8).is_err(), "a buffer has no address before it is mapped");

    // SAFETY: the buffer is valid until it is unmapped.
    let reads = unsafe { memory.map(start, PAGE + 100, Access::DeviceReads) }.unwrap();
    assert!(reads.bytes <= PAGE);
    let mut seen = [0; 4];
    memory.read(reads.device_address, &mut seen).unwrap();
    assert_eq!(seen, [0x11; 4]);
    let direction = Fault::Direction { address: reads.device_address, access: Access::DeviceWrites };
    assert_eq!(memory.write(reads.device_address, &[0]), Err(direction));
    // SAFETY: mapped so.
    unsafe { memory.unmap(start, reads, Access::DeviceReads) };
    assert!(memory.read(reads.device_address, &mut seen).is_err());

    // SAFETY: the buffer is valid until it is unmapped.
    let writes = unsafe { memory.map(start, 8, Access::DeviceWrites) }.unwrap();
    assert_ne!(writes.device_address, reads.device_address, "no address is used again at once");
    memory.write(writes.device_address, &[0x22; 4]).unwrap();
    // SAFETY: mapped so.
    unsafe { memory.unmap(start, writes, Access::DeviceWrites) };
    assert_eq!(buffer[..8], [0x22, 0x22, 0x22, 0x22, 0x11, 0x11, 0x11, 0x11]);

    // Unmapped twice, and not as it was mapped.
    // SAFETY: wrong on purpose; the memory looks it up before it touches anything.
    unsafe { memory.unmap(start_of(&mut buffer), writes, Access::DeviceWrites) };
    assert_eq!(memory.faults().last(), Some(&Fault::Unmap { address: writes.device_address }));
}

#[test]
fn mappings_end_and_have_a_direction() {
    mapping(&IommuMemory::new());
    #[cfg(not(miri))]
    mapping(&BounceMemory::new());
}

#[test]
#[should_panic(expected = "mappings that were left")]
fn a_mapping_that_is_left_is_seen() {
    let memory = IommuMemory::new();
    let mut buffer = [0; 8];
    // SAFETY: valid for as long as the device could use it.
    unsafe { memory.map(start_of(&mut buffer), 8, Access::DeviceReads) }.unwrap();
    assert_eq!(memory.mapped(), 1);
    memory.assert_clean();
}

#[test]
fn one_mapping_fails_as_told() {
    let memory = IommuMemory::new();
    memory.fail_map(1);
    let mut buffer = [0; 8];
    let start = start_of(&mut buffer);
    // SAFETY: valid for as long as the device could use it.
    let results: Vec<_> = (0..3).map(|_| unsafe { memory.map(start, 8, Access::DeviceReads) }).collect();
    assert!(results[0].is_ok() && results[1] == Err(MemoryError::OutOfMemory) && results[2].is_ok());
    assert_eq!(memory.mappings_made(), 2);
}

#[cfg(not(miri))]
#[test]
fn a_bounce_arena_is_used_up_and_given_back() {
    let memory = BounceMemory::with_arena(0x10_0000, 4 * PAGE);
    let mut buffer = vec![0; 16];
    let start = start_of(&mut buffer);
    for _ in 0..10 {
        // SAFETY: valid until they are unmapped.
        let pieces: Vec<_> = (0..4).map(|_| unsafe { memory.map(start, 16, Access::DeviceReads) }.unwrap()).collect();
        // SAFETY: not mapped, as there is no room.
        assert_eq!(unsafe { memory.map(start, 16, Access::DeviceReads) }, Err(MemoryError::OutOfMemory));
        for piece in pieces {
            // SAFETY: mapped so.
            unsafe { memory.unmap(start, piece, Access::DeviceReads) };
        }
    }
    memory.assert_clean();
}
