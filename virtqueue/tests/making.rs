//! How a queue comes into being: its sizes, its memory, its layout, and how it ends.

mod common;

use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;

use common::{Form, Rig, Tag, in_every_form, interfaces, of_size, settings};
#[cfg(not(miri))]
use testing_device::BounceMemory;
use testing_device::{IommuMemory, ScatterMemory, TestMemory};
use virtqueue::{
    Access, Attachment, Memory, MemoryError, MemoryNeed, PageRequest, Pages, Piece, Purpose, Queue, QueueSetupError,
    Settings,
};

in_every_form! {
    every_power_of_two_from_4_on_is_a_size_that_works,
    a_chain_is_never_empty_nor_longer_than_the_queue,
    the_memory_need_is_what_is_taken_where_mappings_are_kept,
    the_memory_need_is_what_is_taken_where_nothing_is_unmapped,
    slots_may_have_no_bytes_of_their_own,
    an_allocation_that_fails_leaves_nothing_allocated,
    a_queue_that_no_device_knows_is_freed_when_dropped,
    a_queue_that_the_device_may_use_leaks_its_shared_memory_and_nothing_else,
    a_queue_moves_to_another_thread,
}

const MODES: [bool; 2] = [true, false];

fn every_power_of_two_from_4_on_is_a_size_that_works<F: Form>() {
    let largest = if cfg!(miri) { 8 } else { 32768 };
    let sizes: Vec<u16> = (2..16).map(|exponent| 1 << exponent).filter(|size| *size <= largest).collect();
    for size in sizes {
        for indirect in MODES {
            for &contiguous_align in interfaces::<F>() {
                let settings = Settings { chain_max: 4, indirect, contiguous_align, ..of_size::<F>(size) };
                let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
                assert_eq!((rig.queue.free(), rig.queue.settings().size), (size, size));
                let chains = if indirect { size } else { size / 2 };
                for tag in 0..u32::from(chains) {
                    rig.submit_small(Tag(tag)).unwrap();
                }
                assert_eq!(rig.queue.free(), 0);
                rig.commit();
                assert_eq!(rig.serve(), chains);
                for tag in 0..u32::from(chains) {
                    assert_eq!(rig.pop(), Some(tag));
                }
                assert_eq!((rig.pop(), rig.queue.free()), (None, size));
                rig.finish();
            }
        }
    }
}

#[test]
fn every_other_size_is_refused() {
    let memory = ScatterMemory::new();
    let step = if cfg!(miri) { 997 } else { 1 };
    for size in (0..=u16::MAX).step_by(step).filter(|size| !size.is_power_of_two() || *size < 4) {
        for indirect in MODES {
            let settings = Settings { indirect, ..Settings::new(size) };
            let error = Queue::<_, Tag>::new(memory.clone(), settings).err();
            assert_eq!(error, Some(QueueSetupError::Size { size }));
        }
    }
    memory.assert_clean();
}

fn a_chain_is_never_empty_nor_longer_than_the_queue<F: Form>() {
    let memory = ScatterMemory::new();
    for indirect in MODES {
        for (chain_max, fits) in [(0, false), (1, true), (16, true), (17, false), (u16::MAX, false)] {
            let settings = Settings { chain_max, indirect, ..of_size::<F>(16) };
            let error = Queue::<_, Tag, F::Format>::new(memory.clone(), settings).err();
            assert_eq!(error, (!fits).then_some(QueueSetupError::ChainMax { chain_max, size: 16 }));
        }
    }
    memory.assert_clean();
}

/// A memory that writes down what was asked of it.
#[derive(Clone)]
struct Recorder<M> {
    inner: M,
    requests: Rc<RefCell<Vec<PageRequest>>>,
}

impl<M> Recorder<M> {
    fn new(inner: M) -> Self {
        Self { inner, requests: Rc::default() }
    }

    fn bytes(&self, purpose: Purpose) -> Vec<usize> {
        let requests = self.requests.borrow();
        requests.iter().filter(|request| request.purpose == purpose).map(|request| request.bytes).collect()
    }
}

// SAFETY: the memory inside does it all.
unsafe impl<M: Memory> Memory for Recorder<M> {
    const UNMAPS: bool = M::UNMAPS;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        self.requests.borrow_mut().push(*request);
        self.inner.allocate(request)
    }

    unsafe fn free(&self, pages: Pages, request: &PageRequest) {
        // SAFETY: as the caller promises.
        unsafe { self.inner.free(pages, request) }
    }

    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        self.inner.translate(start, bytes)
    }

    unsafe fn map(&self, start: NonNull<u8>, bytes: usize, access: Access) -> Result<Piece, MemoryError> {
        // SAFETY: as the caller promises.
        unsafe { self.inner.map(start, bytes, access) }
    }

    unsafe fn unmap(&self, start: NonNull<u8>, piece: Piece, access: Access) {
        // SAFETY: as the caller promises.
        unsafe { self.inner.unmap(start, piece, access) }
    }
}

fn need_is_what_is_taken<M: TestMemory, F: Form, T: Attachment>(memory: &M) {
    for size in if cfg!(miri) { [4, 8, 8] } else { [4, 8, 128] } {
        for chain_max in [1, 2, 4] {
            for indirect in MODES {
                for &contiguous_align in interfaces::<F>() {
                    let settings = Settings { chain_max, indirect, contiguous_align, ..of_size::<F>(size) };
                    let recorder = Recorder::new(memory.clone());
                    let queue = Queue::<_, T, F::Format>::new(recorder.clone(), settings).unwrap();
                    let need: MemoryNeed = Queue::<Recorder<M>, T, F::Format>::memory_need(&settings);
                    assert_eq!(recorder.bytes(Purpose::Shared), [need.ring, need.slots], "{settings:?}");
                    let private = recorder.bytes(Purpose::Private);
                    assert_eq!(private.iter().sum::<usize>(), need.private, "{settings:?}: {private:?}");
                    assert!(private.len() <= 3);
                    drop(queue);
                    memory.assert_clean();
                }
            }
        }
    }
}

fn the_memory_need_is_what_is_taken_where_mappings_are_kept<F: Form>() {
    need_is_what_is_taken::<_, F, Tag>(&IommuMemory::new());
    #[cfg(not(miri))]
    need_is_what_is_taken::<_, F, Tag>(&BounceMemory::new());
}

fn the_memory_need_is_what_is_taken_where_nothing_is_unmapped<F: Form>() {
    need_is_what_is_taken::<_, F, Tag>(&ScatterMemory::new());
}

#[test]
fn the_memory_need_can_be_evaluated_while_compiling() {
    const SETTINGS: Settings = Settings { chain_max: 4, indirect: true, ..Settings::new(16) };
    const NEED: MemoryNeed = Queue::<ScatterMemory, Tag>::memory_need(&SETTINGS);
    // 256 bytes of descriptors, 38 of available ring, 2 of padding to 4, 134 of used ring.
    assert_eq!(NEED.ring, 256 + 38 + 2 + 134);
    // 20 bytes and a table of 4 descriptors of 16 bytes, at the next multiple of 64.
    assert_eq!(NEED.slots, 16 * 128);
}

/// Nothing of the driver's own in shared memory.
struct Bare;

impl Attachment for Bare {
    const SLOT_BYTES: usize = 0;
}

fn slots_may_have_no_bytes_of_their_own<F: Form>() {
    for indirect in MODES {
        let memory = ScatterMemory::new();
        let mut rig = Rig::<_, F, Bare>::of(&memory, settings::<F>(indirect, false));
        let data = common::Bytes::filled(10, 100, 3);
        let mut chain = rig.queue.chain().unwrap();
        // SAFETY: `data` outlives the rig.
        unsafe { chain.buffer(data.start(), data.len(), Access::DeviceReads) }.unwrap();
        chain.submit(Bare).ok().unwrap();
        rig.commit();
        assert_eq!(rig.take().segments.iter().map(|it| it.bytes).collect::<Vec<_>>(), [100]);
        rig.finish();
    }
}

fn failing_allocations<M: TestMemory, F: Form>(memory: &M) {
    for indirect in MODES {
        for &contiguous_align in interfaces::<F>() {
            let settings = Settings { contiguous_align, ..settings::<F>(indirect, false) };
            let mut failing = 0;
            loop {
                memory.fail_allocation(failing);
                match Queue::<_, Tag, F::Format>::new(memory.clone(), settings) {
                    Ok(_) => break,
                    Err(QueueSetupError::Memory { bytes, error: MemoryError::OutOfMemory }) => assert!(bytes > 0),
                    Err(other) => panic!("{other:?}"),
                }
                memory.assert_clean();
                failing += 1;
            }
            assert!((3..=5).contains(&failing), "{failing} allocations");
            // The failure that is still to come.
            while memory.outstanding() == 0 && Queue::<_, Tag, F::Format>::new(memory.clone(), settings).is_ok() {}
            memory.assert_clean();
        }
    }
}

fn an_allocation_that_fails_leaves_nothing_allocated<F: Form>() {
    failing_allocations::<_, F>(&ScatterMemory::new());
    failing_allocations::<_, F>(&IommuMemory::new());
    #[cfg(not(miri))]
    failing_allocations::<_, F>(&BounceMemory::new());
}

#[test]
fn modern_areas_are_aligned_and_do_not_overlap() {
    for size in [4, 16, 256, 1024_u16] {
        let memory = ScatterMemory::new();
        let mut queue = Queue::<_, Tag>::new(memory.clone(), Settings::new(size)).unwrap();
        let areas = queue.areas();
        let entries = u64::from(size);
        assert_eq!((areas.descriptor_area % 16, areas.driver_area % 2, areas.device_area % 4), (0, 0, 0));
        assert!(areas.driver_area >= areas.descriptor_area + 16 * entries);
        assert!(areas.device_area >= areas.driver_area + 6 + 2 * entries);
        // SAFETY: there is no device.
        unsafe { queue.device_let_go() };
        drop(queue);
        memory.assert_clean();
    }
}

#[test]
fn legacy_areas_are_where_the_device_assumes_them() {
    for size in [4, 128, 256, 1024_u16] {
        let memory = ScatterMemory::new();
        let settings = Settings { contiguous_align: Some(4096), ..Settings::new(size) };
        let mut queue = Queue::<_, Tag>::new(memory.clone(), settings).unwrap();
        let areas = queue.areas();
        let entries = u64::from(size);
        assert_eq!(areas.descriptor_area % 4096, 0);
        assert_eq!(areas.driver_area, areas.descriptor_area + 16 * entries);
        assert_eq!(areas.device_area, (areas.driver_area + 6 + 2 * entries).next_multiple_of(4096));
        // SAFETY: there is no device.
        unsafe { queue.device_let_go() };
        drop(queue);
        memory.assert_clean();
    }
}

#[test]
fn a_ring_lies_below_the_highest_address_or_is_refused() {
    // The last address that a legacy device can be told: 32 bits of page number.
    let max_address = (1 << 44) - 1;
    let settings = Settings { contiguous_align: Some(4096), max_address, ..Settings::new(16) };
    let ring = Queue::<ScatterMemory, Tag>::memory_need(&settings).ring as u64;
    assert_eq!(ring, 8192);
    for (base, fits) in [(1 << 44, false), ((1 << 44) - 4096, false), ((1 << 44) - 8192, true), (4096, true)] {
        let memory = ScatterMemory::with_base(base);
        match Queue::<_, Tag>::new(memory.clone(), settings) {
            Ok(mut queue) => {
                assert!(fits, "{base:#x}");
                assert_eq!(queue.areas().descriptor_area, base);
                // SAFETY: there is no device.
                unsafe { queue.device_let_go() };
            }
            Err(error) => {
                assert!(!fits, "{base:#x}");
                assert_eq!(error, QueueSetupError::Memory { bytes: 8192, error: MemoryError::AddressTooHigh });
            }
        }
        memory.assert_clean();
    }
}

fn a_queue_that_no_device_knows_is_freed_when_dropped<F: Form>() {
    for indirect in MODES {
        let memory = IommuMemory::new();
        let mut queue = Queue::<_, Tag, F::Format>::new(memory.clone(), settings::<F>(indirect, true)).unwrap();
        let mut chain = queue.chain().unwrap();
        chain.slot_part(0, 16, Access::DeviceReads).unwrap();
        chain.submit(Tag(1)).unwrap();
        drop(queue);
        memory.assert_clean();
    }
}

fn a_queue_that_the_device_may_use_leaks_its_shared_memory_and_nothing_else<F: Form>() {
    for indirect in MODES {
        let memory = ScatterMemory::new();
        let mut queue = Queue::<_, Tag, F::Format>::new(memory.clone(), settings::<F>(indirect, true)).unwrap();
        let areas = queue.areas();
        drop(queue);
        assert_eq!(memory.outstanding(), 2, "the ring, and the slots");
        use testing_device::DeviceMemory;
        assert!(memory.reaches(areas.descriptor_area, 16 * 8, Access::DeviceReads));
        let device_area = if F::PACKED { 4 } else { 6 + 8 * 8 };
        assert!(memory.reaches(areas.device_area, device_area, Access::DeviceWrites));
    }
}

fn a_queue_moves_to_another_thread<F: Form>()
where
    Queue<ScatterMemory, Tag, F::Format>: Send,
{
    fn sendable<T: Send>(_: &T) {}
    let memory = ScatterMemory::new();
    let mut rig = Rig::<_, F>::new(&memory, settings::<F>(true, true));
    sendable(&rig.queue);
    rig.submit_small(Tag(3)).unwrap();
    let mut rig = std::thread::spawn(move || {
        rig.commit();
        assert_eq!(rig.serve(), 1);
        rig
    })
    .join()
    .unwrap();
    assert_eq!(rig.pop(), Some(3));
    rig.finish();
}

#[test]
fn errors_say_what_was_asked_for() {
    let text = |settings| Queue::<_, Tag>::new(ScatterMemory::new(), settings).err().unwrap().to_string();
    assert!(text(Settings::new(12)).contains("12"));
    let error = text(Settings { chain_max: 9, ..Settings::new(8) });
    assert!(error.contains('9') && error.contains('8'), "{error}");
    let memory = ScatterMemory::new();
    memory.fail_allocation(0);
    let error = Queue::<_, Tag>::new(memory, Settings::new(8)).err().unwrap().to_string();
    assert!(error.starts_with("222 bytes"), "{error}");
}
