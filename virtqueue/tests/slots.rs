//! What a slot is worth after something unwound, or was refused.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

use common::{Form, Rig, SLOT_BYTES, Tag, in_every_form, settings};
use testing_device::{RawPackedRing, RawRing, RingMover, RingSetup, ScatterMemory};
use virtio_spec::Features;
use virtqueue::{
    Access, Areas, Attachment, ChainError, InOrder, Memory, MemoryError, Packed, PageRequest, Pages, Piece, Queue,
    QueueSetupError, RingFormat, Settings, Split, Violation,
};

in_every_form! {
    a_slot_is_free_when_the_drop_of_what_was_attached_unwinds,
    what_was_refused_is_not_counted_as_writable,
}

/// Panics when it is dropped, if it is told to.
struct Fragile(bool);

impl Attachment for Fragile {
    const SLOT_BYTES: usize = SLOT_BYTES;
}

impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(!self.0, "told to panic");
    }
}

fn a_slot_is_free_when_the_drop_of_what_was_attached_unwinds<F: Form>() {
    for indirect in [true, false] {
        let mut rig = Rig::<_, F, _>::of(&ScatterMemory::new(), settings::<F>(indirect, true));
        let free = rig.queue.free();
        let token = rig.submit_small(Fragile(true)).unwrap();
        rig.commit();
        rig.serve();
        let used = rig.queue.pop().unwrap().unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| used.free())).is_err());
        assert!(rig.queue.used(token).is_none(), "nothing is attached any more");
        assert!(rig.queue.attachment(token).is_none());
        assert_eq!((rig.queue.free(), rig.queue.in_flight()), (free, 0));
        // The slot is as good as before.
        rig.submit_small(Fragile(false)).unwrap();
        rig.commit();
        rig.serve();
        rig.queue.pop().unwrap().unwrap().free();
        assert_eq!(rig.queue.free(), free);
        rig.finish();
    }
}

fn what_was_refused_is_not_counted_as_writable<F: Form>() {
    let settings = Settings { chain_max: 1, ..settings::<F>(true, true) };
    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings);
    let mut chain = rig.queue.chain().unwrap();
    chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
    assert_eq!(chain.slot_part(0, 16, Access::DeviceWrites), Err(ChainError::TooManyDescriptors { max: 1 }));
    chain.submit(Tag(1)).unwrap();
    rig.commit();
    let id = rig.take().id;
    rig.device.push_used(id, 17);
    let used = rig.queue.pop().unwrap().unwrap();
    assert_eq!(used.written_bytes(), 1, "as many as the device was allowed to write");
    used.take();
    rig.finish();
}

/// A queue whose device uses chains in order, with `count` of them made available; and the device's end.
fn in_order<F: RingFormat>(
    ring: F,
    memory: &ScatterMemory,
    count: u32,
) -> (Queue<ScatterMemory, Tag, InOrder<F>>, RingSetup) {
    let _ = ring;
    let settings = Settings {
        packed: F::PACKED,
        in_order: true,
        indirect: true,
        event_idx: true,
        chain_max: 2,
        ..Settings::new(8)
    };
    let mut queue = Queue::new(memory.clone(), settings).unwrap();
    let Areas { descriptor_area, driver_area, device_area } = queue.areas();
    let mut features = Features::VERSION_1 | Features::INDIRECT_DESC | Features::EVENT_IDX | Features::IN_ORDER;
    features.set(Features::RING_PACKED, F::PACKED);
    for tag in 0..count {
        let mut chain = queue.chain().unwrap();
        chain.slot_part(0, 16, Access::DeviceReads).unwrap();
        chain.slot_part(16, 4, Access::DeviceWrites).unwrap();
        chain.submit(Tag(tag)).unwrap();
    }
    let _ = queue.commit();
    (queue, RingSetup { size: 8, descriptor_area, driver_area, device_area, features })
}

fn split(memory: &ScatterMemory, count: u32) -> (Queue<ScatterMemory, Tag, InOrder<Split>>, RawRing) {
    let (queue, setup) = in_order(Split, memory, count);
    (queue, RawRing::new(Arc::new(memory.clone()), setup))
}

fn let_go<F: RingFormat>(memory: &ScatterMemory, mut queue: Queue<ScatterMemory, Tag, F>) {
    // SAFETY: the device's end does nothing more.
    unsafe { queue.device_let_go() };
    drop(queue);
    memory.assert_clean();
}

#[test]
fn those_before_the_last_of_a_batch_are_used_completely() {
    let memory = ScatterMemory::new();
    let (mut queue, ring) = split(&memory, 3);
    ring.set_used_element(0, 2, 1).unwrap();
    ring.set_used_idx(3).unwrap();
    for (tag, written) in [(0, 4), (1, 4), (2, 1)] {
        let used = queue.pop().unwrap().unwrap();
        assert_eq!((used.written_bytes(), used.take()), (written, Tag(tag)));
    }
    assert!(queue.pop().unwrap().is_none());
    let_go(&memory, queue);
}

#[test]
fn it_is_not_safe_to_sleep_while_a_batch_is_taken_apart() {
    let memory = ScatterMemory::new();
    let (mut queue, ring) = split(&memory, 6);
    // Elements of an earlier lap: what is not written anew is not read.
    for index in 1..8 {
        ring.set_used_element(index, 7, 0).unwrap();
    }
    ring.set_used_element(0, 2, 1).unwrap();
    ring.set_used_idx(3).unwrap();
    assert_eq!(queue.pop().unwrap().unwrap().take(), Tag(0));
    assert!(!queue.enable_interrupts(1), "two are there");
    assert!(!queue.enable_interrupts(2), "two are there");
    assert!(queue.enable_interrupts(3), "a third one is not");
    // The next batch, which came without an interrupt if the device looked before.
    ring.set_used_element(3, 4, 1).unwrap();
    ring.set_used_idx(5).unwrap();
    assert!(!queue.enable_interrupts(4), "four are there");
    assert!(queue.enable_interrupts(5), "a fifth one is not");
    for tag in 1..5 {
        assert_eq!(queue.pop().unwrap().unwrap().take(), Tag(tag));
    }
    assert!(queue.pop().unwrap().is_none());
    let_go(&memory, queue);
}

#[test]
fn it_is_not_safe_to_sleep_while_a_batch_of_a_packed_ring_is_taken_apart() {
    let memory = ScatterMemory::new();
    let (mut queue, setup) = in_order(Packed, &memory, 3);
    let ring = RawPackedRing::new(Arc::new(memory.clone()), setup);
    ring.set_id(0, 2, 1).unwrap();
    ring.set_flags(0, ring.place(0).used().bits()).unwrap();
    for tag in 0..3 {
        assert!(!queue.enable_interrupts(3), "chain {tag} is there");
        assert_eq!(queue.pop().unwrap().unwrap().take(), Tag(tag));
    }
    assert!(queue.enable_interrupts(1));
    assert!(queue.pop().unwrap().is_none());
    let_go(&memory, queue);
}

#[test]
fn an_id_in_order_is_not_cut_to_16_bits() {
    let memory = ScatterMemory::new();
    let (mut queue, ring) = split(&memory, 2);
    ring.set_used_element(0, 0x1_0001, 1).unwrap();
    ring.set_used_idx(2).unwrap();
    assert!(matches!(queue.pop().err(), Some(Violation::IdOutOfRange { size: 8, .. })));
    assert_eq!(queue.in_flight(), 2);
    let_go(&memory, queue);
}

/// Memory that a machine of 32 bits could have.
#[derive(Clone)]
struct Small(ScatterMemory);

// SAFETY: the memory inside does it all, if it is little.
unsafe impl Memory for Small {
    const UNMAPS: bool = false;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
        if request.bytes > 1 << 28 { Err(MemoryError::OutOfMemory) } else { self.0.allocate(request) }
    }

    unsafe fn free(&self, pages: Pages, request: &PageRequest) {
        // SAFETY: as the caller promises.
        unsafe { self.0.free(pages, request) }
    }

    fn translate(&self, start: NonNull<u8>, bytes: usize) -> Result<Piece, MemoryError> {
        self.0.translate(start, bytes)
    }
}

/// With 32768 entries of 32768 descriptors, the tables have 2^34 bytes: more than an address of 32 bits can say.
#[test]
fn tables_that_no_memory_holds_are_refused() {
    let shapes: &[bool] = if cfg!(miri) { &[true] } else { &[true, false] };
    for &indirect in shapes {
        let memory = Small(ScatterMemory::new());
        let settings = Settings { chain_max: 1 << 15, indirect, ..Settings::new(1 << 15) };
        let failed = Queue::<_, Tag>::new(memory.clone(), settings).err();
        assert!(matches!(failed, Some(QueueSetupError::Memory { error: MemoryError::OutOfMemory, .. })), "{failed:?}");
        assert!(Queue::<Small, Tag>::memory_need(&settings).slots >= 1 << 21);
        memory.0.assert_clean();
    }
}
