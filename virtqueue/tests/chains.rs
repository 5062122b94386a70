//! What the device sees of a chain, and what happens to one that cannot be built.

mod common;

use common::{Bytes, DeviceEnd, Form, Rig, SLOT_BYTES, Tag, in_every_form, pattern, settings, shapes};
#[cfg(not(miri))]
use testing_device::BounceMemory;
use testing_device::{DeviceMemory, IommuMemory, RawDescriptor, RingMover, ScatterMemory, TestMemory};
use virtqueue::{Access, ChainError, Memory, MemoryError, Settings, Split};

in_every_form! {
    chains_are_seen_in_the_order_of_submission_and_not_before_commit,
    a_buffer_has_a_descriptor_for_each_page_that_it_crosses,
    a_piece_longer_than_the_longest_segment_becomes_several_and_is_mapped_once,
    a_segment_limit_of_zero_is_taken_as_one_byte,
    too_many_descriptors_are_refused_and_nothing_stays_mapped,
    what_the_device_reads_comes_first,
    what_the_device_reads_comes_first_even_behind_an_empty_writable_part,
    an_empty_chain_is_refused_and_the_attachment_comes_back,
    an_empty_buffer_adds_no_descriptor,
    a_part_outside_the_slot_is_refused,
    an_indirect_queue_holds_as_many_chains_as_entries,
    a_direct_queue_is_full_when_its_descriptors_are_used_up,
    a_mapping_that_fails_undoes_those_before_it,
    a_chain_dropped_before_submit_leaves_no_trace,
    a_chain_that_is_forgotten_costs_its_slot_and_no_more,
    memory_that_the_device_cannot_reach_is_an_error_with_its_address,
}

/// How often something is done that must not leave a trace.
const REPEATS: u64 = if cfg!(miri) { 3 } else { 20 };

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Submits header, `data` and status; the header's bytes say `tag`.
fn submit<M: TestMemory, F: Form>(
    rig: &mut Rig<M, F>,
    data: &Bytes,
    access: Access,
    tag: u32,
) -> Result<(), ChainError> {
    let mut chain = rig.queue.chain()?;
    chain.slot().store_u32::<0>(tag);
    chain.slot().store_u32::<4>(0x0403_0201);
    chain.slot().store_u64::<8>(0x0807_0605_0403_0201);
    chain.slot().store_u8::<16>(0xee);
    chain.slot_part(0, 16, Access::DeviceReads)?;
    // SAFETY: the tests keep the bytes until the chain was taken, or the rig ended.
    unsafe { chain.buffer(data.start(), data.len(), access) }?;
    chain.slot_part(16, 1, Access::DeviceWrites)?;
    chain.submit(Tag(tag)).map(drop).map_err(|failed| failed.error)
}

#[test]
fn an_indirect_chain_is_one_descriptor_and_a_table_behind_the_slot() {
    for contiguous_align in [None, Some(4096)] {
        let memory = ScatterMemory::new();
        let mut rig = Rig::<_, Split>::new(&memory, Settings { contiguous_align, ..settings::<Split>(true, false) });
        let data = Bytes::new(123, 400);
        for turn in 0..3_u16 {
            submit(&mut rig, &data, Access::DeviceWrites, 0x1234_5678).unwrap();
            assert_eq!(rig.raw().available_idx().unwrap(), turn, "invisible before commit");
            rig.commit();
            assert_eq!(rig.raw().available_idx().unwrap(), turn + 1);

            let head = rig.raw().available_entry(turn).unwrap();
            let first = rig.raw().descriptor(head).unwrap();
            assert_eq!((first.bytes, first.flags, first.next), (3 * 16, INDIRECT, 0));
            assert_eq!(first.address % 16, 0);
            let slot = first.address - SLOT_BYTES.next_multiple_of(16) as u64;
            let data_address = memory.translate(data.start(), data.len()).unwrap().device_address;
            let table: Vec<_> = (0..3).map(|index| rig.raw().descriptor_at(first.address, index).unwrap()).collect();
            assert_eq!(
                table,
                [
                    RawDescriptor { address: slot, bytes: 16, flags: NEXT, next: 1 },
                    RawDescriptor { address: data_address, bytes: 400, flags: NEXT | WRITE, next: 2 },
                    RawDescriptor { address: slot + 16, bytes: 1, flags: WRITE, next: 0 },
                ]
            );
            let mut header = [0; 17];
            memory.read(slot, &mut header).unwrap();
            assert_eq!(header, [0x78, 0x56, 0x34, 0x12, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 0xee]);

            let chain = rig.take();
            memory.write(data_address, &pattern(400, 7)).unwrap();
            memory.write(slot + 16, &[0]).unwrap();
            rig.device.push_used(chain.id, 401);
            let used = rig.queue.pop().unwrap().unwrap();
            assert_eq!((used.written_bytes(), used.slot().load_u8::<16>()), (401, 0));
            assert_eq!(used.take(), Tag(0x1234_5678));
            assert_eq!(data.get(), pattern(400, 7));
        }
        rig.finish();
    }
}

#[test]
fn a_direct_chain_hangs_together_in_the_table_of_the_ring() {
    for contiguous_align in [None, Some(4096)] {
        let memory = ScatterMemory::new();
        let mut rig = Rig::<_, Split>::new(&memory, Settings { contiguous_align, ..settings::<Split>(false, false) });
        let data = Bytes::filled(4000, 300, 3);
        submit(&mut rig, &data, Access::DeviceReads, 9).unwrap();
        rig.commit();

        let head = rig.raw().available_entry(0).unwrap();
        let mut descriptors = vec![rig.raw().descriptor(head).unwrap()];
        while let Some(last) = descriptors.last().filter(|last| last.flags & NEXT != 0) {
            descriptors.push(rig.raw().descriptor(last.next).unwrap());
        }
        let slot = descriptors[0].address;
        let address = |offset: usize| {
            let at = std::ptr::NonNull::new(data.start().as_ptr().wrapping_add(offset)).unwrap();
            memory.translate(at, 1).unwrap().device_address
        };
        let seen: Vec<_> = descriptors.iter().map(|it| (it.address, it.bytes, it.flags)).collect();
        assert_eq!(seen, [(slot, 16, NEXT), (address(0), 96, NEXT), (address(96), 204, NEXT), (slot + 16, 1, WRITE)]);
        let mut all: Vec<_> = descriptors.iter().map(|it| it.next).collect();
        all[3] = head;
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4, "four different descriptors");
        assert_eq!(rig.queue.free(), 4);

        rig.serve();
        assert_eq!(rig.pop(), Some(9));
        assert_eq!(rig.queue.free(), 8, "all of them are free again");
        rig.finish();
    }
}

fn chains_are_seen_in_the_order_of_submission_and_not_before_commit<F: Form>() {
    for settings in shapes::<F>(8, 4) {
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
        for tag in 0..3 {
            rig.submit_small(Tag(tag)).unwrap();
            assert_eq!(rig.device.pop(), None);
        }
        assert_eq!(rig.queue.in_flight(), 3);
        rig.commit();
        assert_eq!(rig.serve(), 3);
        assert_eq!([rig.pop(), rig.pop(), rig.pop(), rig.pop()], [Some(0), Some(1), Some(2), None]);
        assert_eq!(rig.queue.in_flight(), 0);
        rig.finish();
    }
}

/// Where in its page a buffer begins, and how long it is.
const CROSSING: &[(usize, usize)] = if cfg!(miri) {
    &[(4095, 2), (4090, 20)]
} else {
    &[(0, 4096), (1, 4096), (4095, 2), (4095, 4098), (100, 20_000), (2048, 4096 * 8)]
};

fn page_crossing<M: TestMemory, F: Form>(memory: &M) {
    for settings in shapes::<F>(16, 16) {
        for &(offset, bytes) in CROSSING {
            for access in [Access::DeviceReads, Access::DeviceWrites] {
                let mut rig = Rig::<_, F>::new(memory, settings);
                let data = Bytes::filled(offset, bytes, 1);
                submit(&mut rig, &data, access, 1).unwrap();
                rig.commit();
                let chain = rig.take();
                let pieces: Vec<_> = chain.segments[1..chain.segments.len() - 1].to_vec();
                let lengths: Vec<_> = pieces.iter().map(|piece| piece.bytes as usize).collect();
                let expected: Vec<_> = data.pages().iter().map(|piece| piece.1).collect();
                assert_eq!(lengths, expected, "{bytes} bytes at {offset}");
                assert!(pieces.iter().all(|piece| piece.writable == (access == Access::DeviceWrites)));

                let answer = pattern(bytes, 99);
                for (piece, (from, length)) in pieces.iter().zip(data.pages()) {
                    match access {
                        Access::DeviceReads => {
                            let mut read = vec![0; length];
                            memory.read(piece.address, &mut read).unwrap();
                            assert!(read == pattern(bytes, 1)[from..from + length], "{bytes} bytes at {offset}");
                        }
                        Access::DeviceWrites => memory.write(piece.address, &answer[from..from + length]).unwrap(),
                    }
                }
                rig.device.push_used(chain.id, 1);
                assert_eq!(rig.pop(), Some(1));
                match access {
                    Access::DeviceReads => assert!(data.get() == pattern(bytes, 1), "only read"),
                    Access::DeviceWrites => assert!(data.get() == answer, "{bytes} bytes at {offset}"),
                }
                rig.finish();
            }
        }
    }
}

fn a_buffer_has_a_descriptor_for_each_page_that_it_crosses<F: Form>() {
    page_crossing::<_, F>(&ScatterMemory::new());
    page_crossing::<_, F>(&IommuMemory::new());
    #[cfg(not(miri))]
    page_crossing::<_, F>(&BounceMemory::new());
}

fn a_piece_longer_than_the_longest_segment_becomes_several_and_is_mapped_once<F: Form>() {
    for (segment_max_bytes, expected) in
        [(1000, vec![1000, 1000, 1000, 1000, 96]), (4095, vec![4095, 1]), (4096, vec![4096]), (u32::MAX, vec![4096])]
    {
        for indirect in [true, false] {
            let memory = IommuMemory::new();
            let mut rig = Rig::<_, F>::new(&memory, Settings { segment_max_bytes, ..settings::<F>(indirect, false) });
            let data = Bytes::new(0, 4096);
            submit(&mut rig, &data, Access::DeviceWrites, 1).unwrap();
            assert_eq!((memory.mappings_made(), memory.mapped()), (1, 1));
            rig.commit();
            let chain = rig.take();
            let pieces = &chain.segments[1..chain.segments.len() - 1];
            assert_eq!(pieces.iter().map(|piece| piece.bytes).collect::<Vec<_>>(), expected);
            let mut next = pieces[0].address;
            for piece in pieces {
                assert_eq!(piece.address, next, "each begins where the one before it ends");
                next += u64::from(piece.bytes);
            }
            rig.device.push_used(chain.id, 4097);
            assert_eq!(rig.pop(), Some(1));
            assert_eq!(memory.mapped(), 0);
            rig.finish();
        }
    }
}

fn a_segment_limit_of_zero_is_taken_as_one_byte<F: Form>() {
    let mut rig =
        Rig::<_, F>::new(&ScatterMemory::new(), Settings { segment_max_bytes: 0, ..settings::<F>(true, false) });
    let data = Bytes::new(0, 6);
    submit(&mut rig, &data, Access::DeviceWrites, 1).unwrap();
    rig.commit();
    assert_eq!(rig.take().segments.iter().map(|it| it.bytes).collect::<Vec<_>>(), [16, 1, 1, 1, 1, 1, 1, 1]);
    rig.finish();
}

fn too_many_descriptors_are_refused_and_nothing_stays_mapped<F: Form>() {
    for indirect in [true, false] {
        for segment_max_bytes in [u32::MAX, 1500] {
            let memory = IommuMemory::new();
            let mut rig = Rig::<_, F>::new(
                &memory,
                Settings { chain_max: 5, segment_max_bytes, ..settings::<F>(indirect, false) },
            );
            let data = Bytes::new(1, 4 * 4096);
            for _ in 0..REPEATS {
                let error = submit(&mut rig, &data, Access::DeviceReads, 1).unwrap_err();
                assert_eq!(error, ChainError::TooManyDescriptors { max: 5 });
                assert_eq!((memory.mapped(), rig.queue.free(), rig.queue.in_flight()), (0, 8, 0));
            }
            assert!(memory.mappings_made() >= REPEATS);
            // As many as there may be.
            let data = Bytes::new(0, if segment_max_bytes == 1500 { 4096 } else { 3 * 4096 });
            submit(&mut rig, &data, Access::DeviceReads, 2).unwrap();
            rig.commit();
            let chain = rig.take();
            assert_eq!(chain.segments.len(), 5);
            rig.device.push_used(chain.id, 1);
            assert_eq!(rig.pop(), Some(2));
            rig.finish();
        }
    }
}

fn what_the_device_reads_comes_first<F: Form>() {
    let memory = IommuMemory::new();
    let mut rig = Rig::<_, F>::new(&memory, settings::<F>(true, false));
    let data = Bytes::new(0, 64);
    let mut chain = rig.queue.chain().unwrap();
    chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
    assert_eq!(chain.slot_part(0, 16, Access::DeviceReads), Err(ChainError::ReadableAfterWritable));
    // SAFETY: `data` outlives the chain, which is dropped.
    let result = unsafe { chain.buffer(data.start(), data.len(), Access::DeviceReads) };
    assert_eq!(result, Err(ChainError::ReadableAfterWritable));
    assert_eq!(memory.mapped(), 0, "the buffer that was refused is not mapped");
    drop(chain);
    assert_eq!(rig.queue.free(), 8);
    rig.finish();
}

fn what_the_device_reads_comes_first_even_behind_an_empty_writable_part<F: Form>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(true, false));
    let mut chain = rig.queue.chain().unwrap();
    chain.slot_part(16, 0, Access::DeviceWrites).unwrap();
    // Either the empty part is no descriptor, or what comes behind it is refused.
    if chain.slot_part(0, 16, Access::DeviceReads).is_ok() {
        chain.submit(Tag(1)).unwrap();
        rig.commit();
        let chain = rig.take();
        assert_eq!(rig.device.violations(), []);
        assert!(chain.segments.is_sorted_by_key(|segment| segment.writable), "{chain:?}");
    } else {
        drop(chain);
    }
    rig.finish();
}

fn an_empty_chain_is_refused_and_the_attachment_comes_back<F: Form>() {
    for indirect in [true, false] {
        let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(indirect, false));
        let data = Bytes::new(0, 64);
        let mut chain = rig.queue.chain().unwrap();
        // SAFETY: no bytes.
        unsafe { chain.buffer(data.start(), 0, Access::DeviceReads) }.unwrap();
        let failed = chain.submit(Tag(77)).unwrap_err();
        assert_eq!((failed.error, failed.attachment), (ChainError::Empty, Tag(77)));
        assert_eq!((rig.queue.free(), rig.queue.in_flight()), (8, 0));
        assert_eq!(rig.queue.commit(), None);
        rig.finish();
    }
}

fn an_empty_buffer_adds_no_descriptor<F: Form>() {
    let mut rig = Rig::<_, F>::new(&IommuMemory::new(), settings::<F>(true, false));
    let data = Bytes::new(0, 0);
    submit(&mut rig, &data, Access::DeviceWrites, 1).unwrap();
    rig.commit();
    assert_eq!(rig.take().segments.iter().map(|it| it.bytes).collect::<Vec<_>>(), [16, 1]);
    rig.finish();
}

fn a_part_outside_the_slot_is_refused<F: Form>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(true, false));
    let mut chain = rig.queue.chain().unwrap();
    for (offset, bytes) in
        [(0, 21), (20, 1), (21, 0), (4, 17), (usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX)]
    {
        let expected = Err(ChainError::OutsideSlot { offset, bytes });
        assert_eq!(chain.slot_part(offset, bytes, Access::DeviceReads), expected);
        if bytes < 100 {
            assert_eq!(chain.slot().store(offset, &vec![1; bytes]), expected);
            assert_eq!(chain.slot().load(offset, &mut vec![1; bytes]), expected);
        }
    }
    let mut all = [9; SLOT_BYTES];
    chain.slot().load(0, &mut all).unwrap();
    assert_eq!(all, [0; SLOT_BYTES], "what was refused was not copied");
    chain.slot().store(3, &[1, 2, 3]).unwrap();
    chain.slot().store(17, &[7, 8, 9]).unwrap();
    chain.slot().load(0, &mut all).unwrap();
    assert_eq!(all, [0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 8, 9]);
    chain.slot_part(19, 1, Access::DeviceReads).unwrap();
    drop(chain);
    rig.finish();
}

fn an_indirect_queue_holds_as_many_chains_as_entries<F: Form>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(true, false));
    for tag in 0..8 {
        assert_eq!(rig.queue.free(), 8 - tag as u16);
        rig.submit_small(Tag(tag)).unwrap();
    }
    assert_eq!(rig.submit_small(Tag(8)).unwrap_err(), ChainError::Full);
    rig.commit();
    rig.serve();
    assert_eq!(rig.submit_small(Tag(8)).unwrap_err(), ChainError::Full, "used, and not taken");
    assert_eq!(rig.pop(), Some(0));
    rig.submit_small(Tag(8)).unwrap();
    assert_eq!(rig.submit_small(Tag(9)).unwrap_err(), ChainError::Full);
    rig.finish();
}

fn a_direct_queue_is_full_when_its_descriptors_are_used_up<F: Form>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(false, false));
    let data = Bytes::new(0, 64);
    submit(&mut rig, &data, Access::DeviceWrites, 0).unwrap();
    submit(&mut rig, &data, Access::DeviceWrites, 1).unwrap();
    assert_eq!(rig.queue.free(), 2);
    // A slot is free, but not three descriptors.
    let mut chain = rig.queue.chain().unwrap();
    chain.slot_part(0, 16, Access::DeviceReads).unwrap();
    // SAFETY: `data` outlives the rig.
    unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
    chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
    let failed = chain.submit(Tag(2)).unwrap_err();
    assert_eq!((failed.error, failed.attachment), (ChainError::Full, Tag(2)));
    assert_eq!((rig.queue.free(), rig.queue.in_flight()), (2, 2));
    // A shorter one fits, then nothing does.
    rig.submit_small(Tag(3)).unwrap();
    assert_eq!(rig.queue.free(), 0);
    assert_eq!(rig.queue.chain().err(), Some(ChainError::Full));
    rig.commit();
    assert_eq!(rig.serve(), 3);
    assert_eq!([rig.pop(), rig.pop(), rig.pop(), rig.pop()], [Some(0), Some(1), Some(3), None]);
    assert_eq!(rig.queue.free(), 8);
    rig.finish();
}

trait FailMap: TestMemory {
    fn fail_map(&self, calls: u32);
    fn mapped(&self) -> usize;
}

impl FailMap for IommuMemory {
    fn fail_map(&self, calls: u32) {
        self.fail_map(calls);
    }
    fn mapped(&self) -> usize {
        self.mapped()
    }
}

#[cfg(not(miri))]
impl FailMap for BounceMemory {
    fn fail_map(&self, calls: u32) {
        self.fail_map(calls);
    }
    fn mapped(&self) -> usize {
        self.mapped()
    }
}

fn roll_back<M: FailMap, F: Form>(memory: &M) {
    for settings in shapes::<F>(8, 8) {
        let mut rig = Rig::<_, F>::new(memory, settings);
        let data = Bytes::new(3000, 4 * 4096);
        let pieces = data.pages().len();
        assert_eq!(pieces, 5);
        for failing in 0..pieces as u32 {
            memory.fail_map(failing);
            let error = submit(&mut rig, &data, Access::DeviceReads, 1).unwrap_err();
            assert_eq!(error, ChainError::Memory(MemoryError::OutOfMemory), "mapping {failing}");
            assert_eq!((memory.mapped(), rig.queue.free(), rig.queue.in_flight()), (0, 8, 0), "mapping {failing}");
        }
        assert_eq!(rig.queue.commit(), None, "nothing was put on the ring");
        submit(&mut rig, &data, Access::DeviceReads, 2).unwrap();
        assert_eq!(memory.mapped(), pieces);
        rig.commit();
        assert_eq!(rig.serve(), 1);
        assert_eq!(rig.pop(), Some(2));
        assert_eq!(memory.mapped(), 0);
        rig.finish();
    }
}

fn a_mapping_that_fails_undoes_those_before_it<F: Form>() {
    roll_back::<_, F>(&IommuMemory::new());
    #[cfg(not(miri))]
    roll_back::<_, F>(&BounceMemory::new());
}

fn a_chain_dropped_before_submit_leaves_no_trace<F: Form>() {
    for settings in shapes::<F>(4, 4) {
        let memory = IommuMemory::new();
        let mut rig = Rig::<_, F>::new(&memory, settings);
        let data = Bytes::new(4000, 200);
        for _ in 0..REPEATS {
            let mut chain = rig.queue.chain().unwrap();
            chain.slot_part(0, 16, Access::DeviceReads).unwrap();
            // SAFETY: `data` outlives the chain, which is dropped.
            unsafe { chain.buffer(data.start(), data.len(), Access::DeviceWrites) }.unwrap();
            drop(chain);
            assert_eq!((memory.mapped(), rig.queue.free(), rig.queue.in_flight()), (0, 4, 0));
            assert_eq!(rig.queue.commit(), None);
            assert_eq!(rig.device.pop(), None);
            rig.device.assert_zeroed();
        }
        assert_eq!(memory.mappings_made(), 2 * REPEATS);
        rig.submit_small(Tag(5)).unwrap();
        rig.commit();
        assert_eq!(rig.serve(), 1);
        assert_eq!(rig.pop(), Some(5));
        rig.finish();
    }
}

fn a_chain_that_is_forgotten_costs_its_slot_and_no_more<F: Form>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(true, false));
    std::mem::forget(rig.queue.chain().unwrap());
    assert_eq!(rig.queue.free(), 7);
    for tag in 0..7 {
        rig.submit_small(Tag(tag)).unwrap();
    }
    assert_eq!(rig.submit_small(Tag(7)).unwrap_err(), ChainError::Full);
    rig.commit();
    assert_eq!(rig.serve(), 7);
    assert_eq!((0..8).filter_map(|_| rig.pop()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
    rig.finish();
}

fn memory_that_the_device_cannot_reach_is_an_error_with_its_address<F: Form>() {
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(true, false));
    let request =
        virtqueue::PageRequest { bytes: 64, align: 1, max_address: u64::MAX, purpose: virtqueue::Purpose::Private };
    let private = rig.memory.allocate(&request).unwrap();
    let mut chain = rig.queue.chain().unwrap();
    // SAFETY: the pages live until the end of this function, and the chain is dropped.
    let result = unsafe { chain.buffer(private.start, 64, Access::DeviceReads) };
    assert_eq!(result, Err(ChainError::Memory(MemoryError::NotMapped { address: private.start.addr().get() })));
    drop(chain);
    // SAFETY: allocated above, freed once.
    unsafe { rig.memory.free(private, &request) };
    rig.finish();
}

/// Memory in which every buffer is contiguous, however long.
#[cfg(all(not(miri), target_pointer_width = "64"))]
mod long {
    use std::ptr::NonNull;

    use testing_device::ScatterMemory;
    use virtqueue::{Access, ChainError, Memory, MemoryError, PageRequest, Pages, Piece, Queue, Settings};

    use super::common::{Bytes, Tag};

    #[derive(Clone)]
    struct Linear(ScatterMemory);

    // SAFETY: pages are those of the memory inside; buffers are contiguous in both views, if they are one.
    unsafe impl Memory for Linear {
        const UNMAPS: bool = false;

        fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
            self.0.allocate(request)
        }

        unsafe fn free(&self, pages: Pages, request: &PageRequest) {
            // SAFETY: as the caller promises.
            unsafe { self.0.free(pages, request) }
        }

        fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
            Ok(Piece { device_address: start.addr().get() as u64, bytes })
        }
    }

    #[test]
    fn a_chain_has_four_gibibytes_and_no_byte_more() {
        // Never touched, so that it takes no memory.
        let data = Bytes::new(0, 1 << 30);
        for indirect in [true, false] {
            let memory = ScatterMemory::new();
            let settings = Settings { chain_max: 8, indirect, ..Settings::new(8) };
            let mut queue = Queue::<_, Tag>::new(Linear(memory.clone()), settings).unwrap();
            for (further, fits) in [(0, true), (1, false)] {
                let mut chain = queue.chain().unwrap();
                for _ in 0..4 {
                    // SAFETY: no device ever sees the chain.
                    unsafe { chain.buffer(data.start(), data.len(), Access::DeviceReads) }.unwrap();
                }
                chain.slot_part(0, further, Access::DeviceReads).unwrap();
                match chain.submit(Tag(1)) {
                    Ok(_) => assert!(fits),
                    Err(failed) => {
                        assert!(!fits);
                        assert_eq!((failed.error, failed.attachment), (ChainError::TooManyBytes, Tag(1)));
                    }
                }
                assert_eq!(queue.in_flight(), 1);
            }
            drop(queue);
            memory.assert_clean();
        }
    }
}
