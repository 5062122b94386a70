//! What the tests of queues share: a driver's queue and the device's end of it, in one memory.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

pub(crate) mod forms;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

#[allow(unused_imports, reason = "each file of tests uses a part of it")]
pub(crate) use forms::{DeviceEnd, EitherPacked, EitherSplit, Form, in_every_form, in_packed_forms};
pub(crate) use testing_device::pattern;
use testing_device::{Chain, RingMover, RingSetup, TestMemory};
use virtio_spec::Features;
use virtqueue::{Access, Attachment, ChainError, Queue, Settings, Token};

/// The shared bytes of each slot: a header of 16 bytes, a status of one, and some that do not fill a descriptor.
pub(crate) const SLOT_BYTES: usize = 20;

/// What is attached to a chain: its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(pub(crate) u32);

impl Attachment for Tag {
    const SLOT_BYTES: usize = SLOT_BYTES;
}

/// A queue of 8 entries with chains of up to 8 descriptors.
pub(crate) fn settings<F: Form>(indirect: bool, event_idx: bool) -> Settings {
    Settings { chain_max: 8, indirect, event_idx, ..of_size::<F>(8) }
}

/// A queue of so many entries without optional features.
pub(crate) fn of_size<F: Form>(size: u16) -> Settings {
    Settings { packed: F::PACKED, ..Settings::new(size) }
}

/// The interfaces on which a ring can be: those with the layout of virtio 1.0, and the legacy one where there is one.
pub(crate) fn interfaces<F: Form>() -> &'static [Option<usize>] {
    if F::PACKED { &[None] } else { &[None, Some(4096)] }
}

/// The shapes in which most things are tested: direct and indirect, modern and legacy.
pub(crate) fn shapes<F: Form>(size: u16, chain_max: u16) -> Vec<Settings> {
    let mut shapes = Vec::new();
    for indirect in [true, false] {
        for &contiguous_align in interfaces::<F>() {
            shapes.push(Settings { chain_max, indirect, contiguous_align, ..of_size::<F>(size) });
        }
    }
    shapes
}

/// A queue, and the device's end of it.
pub(crate) struct Rig<M: TestMemory, F: Form, T: Attachment = Tag> {
    pub(crate) memory: M,
    pub(crate) queue: Queue<M, T, F::Format>,
    pub(crate) device: F::Device,
}

impl<M: TestMemory, F: Form, T: Attachment> Rig<M, F, T> {
    /// A rig with any attachment.
    pub(crate) fn of(memory: &M, settings: Settings) -> Self {
        let mut queue = Queue::new(memory.clone(), settings).unwrap();
        let areas = queue.areas();
        let mut features = Features::empty();
        features.set(Features::VERSION_1, settings.contiguous_align.is_none());
        features.set(Features::INDIRECT_DESC, settings.indirect);
        features.set(Features::EVENT_IDX, settings.event_idx);
        features.set(Features::RING_PACKED, settings.packed);
        let setup = RingSetup {
            size: settings.size,
            descriptor_area: areas.descriptor_area,
            driver_area: areas.driver_area,
            device_area: areas.device_area,
            features,
        };
        Self { memory: memory.clone(), queue, device: F::Device::new(Arc::new(memory.clone()), setup) }
    }

    pub(crate) fn raw(&self) -> &<F::Device as DeviceEnd>::Raw {
        self.device.raw()
    }

    /// Submits header and status of the slot, without data.
    pub(crate) fn submit_small(&mut self, attachment: T) -> Result<Token, ChainError> {
        let mut chain = self.queue.chain()?;
        chain.slot_part(0, 16, Access::DeviceReads)?;
        chain.slot_part(16, 1, Access::DeviceWrites)?;
        chain.submit(attachment).map_err(|failed| failed.error)
    }

    /// Lets the device see everything, whether it wants to be notified or not.
    pub(crate) fn commit(&mut self) {
        let _ = self.queue.commit();
    }

    /// What the device takes next.
    #[track_caller]
    pub(crate) fn take(&mut self) -> Chain {
        let chain = self.device.pop().expect("an available chain");
        assert!(!chain.malformed, "{chain:?}: {:?}", self.device.violations());
        chain
    }

    /// Takes, and gives back, everything that is available. Returns how many chains that were.
    pub(crate) fn serve(&mut self) -> u16 {
        let mut served = 0;
        while let Some(chain) = self.device.pop() {
            self.device.push_used(chain.id, 1);
            served += 1;
        }
        served
    }

    /// Ends the queue as after an acknowledged reset, and checks that both sides kept to the rules.
    #[track_caller]
    pub(crate) fn finish(self) {
        let Self { memory, mut queue, device } = self;
        assert_eq!(device.violations(), []);
        drop(device);
        // SAFETY: the device's end is gone.
        unsafe { queue.device_let_go() };
        drop(queue);
        memory.assert_clean();
    }
}

impl<M: TestMemory, F: Form> Rig<M, F> {
    pub(crate) fn new(memory: &M, settings: Settings) -> Self {
        Self::of(memory, settings)
    }

    /// The number of the next chain that the device has used, which is taken.
    #[track_caller]
    pub(crate) fn pop(&mut self) -> Option<u32> {
        Some(self.queue.pop().unwrap()?.take().0)
    }
}

/// Bytes outside of every allocation of the queue's, at a chosen place in their first page, touched through raw pointers
/// only.
#[derive(Debug)]
pub(crate) struct Bytes {
    base: NonNull<u8>,
    layout: Layout,
    offset: usize,
    len: usize,
}

impl Bytes {
    pub(crate) fn new(offset: usize, len: usize) -> Self {
        let layout = Layout::from_size_align(offset + len.max(1), 4096).unwrap();
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
        Self { base, layout, offset, len }
    }

    /// With a pattern in it that begins at `seed`.
    pub(crate) fn filled(offset: usize, len: usize, seed: u32) -> Self {
        let bytes = Self::new(offset, len);
        bytes.set(&pattern(len, seed.into()));
        bytes
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        // SAFETY: inside the allocation.
        unsafe { self.base.add(self.offset) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn set(&self, from: &[u8]) {
        assert_eq!(from.len(), self.len);
        // SAFETY: inside the allocation, which the tests use from one thread.
        unsafe { self.start().copy_from_nonoverlapping(NonNull::from(from).cast(), self.len) }
    }

    pub(crate) fn get(&self) -> Vec<u8> {
        let mut to = vec![0; self.len];
        // SAFETY: inside the allocation, which the tests use from one thread.
        unsafe { self.start().copy_to_nonoverlapping(NonNull::from(&mut to[..]).cast(), self.len) }
        to
    }

    /// The pieces in which it lies, if each page is one: offset and length.
    pub(crate) fn pages(&self) -> Vec<(usize, usize)> {
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < self.len {
            let bytes = (4096 - (self.offset + done) % 4096).min(self.len - done);
            pieces.push((done, bytes));
            done += bytes;
        }
        pieces
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, freed once.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}
