//! What the tests of disks share: opening one on an in-process device, and buffers at chosen addresses.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

pub(crate) use testing_device::pattern;
use testing_device::{BlockDevice, DeviceRegisters};
use virtio_blk::{AsyncQueue, Buffer, Disk, NoBuffer, OpenError, Options, RawBuffer, SharedQueue};
use virtio_transport::{Mmio, Spin};
use virtqueue::{Access, Memory, MemoryError, PageRequest, Pages, Piece};

/// A disk on an in-process device.
pub(crate) type TestDisk<M, B = NoBuffer> = Disk<Mmio<DeviceRegisters>, M, B>;

/// The default options, with a smaller queue where everything is slow.
pub(crate) fn defaults() -> Options {
    let options = Options::default();
    if cfg!(miri) { Options { queue_size: 8, waiters: 1, ..options } } else { options }
}

/// All of them, or the first few where everything is slow.
pub(crate) fn few<T>(count: usize, all: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    all.into_iter().take(if cfg!(miri) { count } else { usize::MAX })
}

pub(crate) fn transport(device: &BlockDevice) -> Mmio<DeviceRegisters> {
    Mmio::probe(device.registers()).unwrap().expect("a device")
}

pub(crate) fn try_open<M: Memory>(
    device: &BlockDevice,
    memory: &M,
    options: &Options,
) -> Result<TestDisk<M>, OpenError> {
    Disk::open(transport(device), memory.clone(), options, &mut Spin)
}

#[track_caller]
pub(crate) fn open<M: Memory>(device: &BlockDevice, memory: &M, options: &Options) -> TestDisk<M> {
    try_open(device, memory, options).unwrap()
}

/// A disk whose requests own buffers.
#[track_caller]
pub(crate) fn open_with<M: Memory, B: Buffer>(device: &BlockDevice, memory: &M, options: &Options) -> TestDisk<M, B> {
    Disk::open(transport(device), memory.clone(), options, &mut Spin).unwrap()
}

/// Bytes at a chosen place in their page.
pub(crate) struct Placed {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Placed {
    pub(crate) fn new(place: usize, len: usize) -> Self {
        let bytes = vec![0; len + 2 * 4096];
        let start = bytes.as_ptr().addr().wrapping_neg() % 4096 + place % 4096;
        Self { bytes, start, len }
    }

    pub(crate) fn filled(place: usize, len: usize, seed: u64) -> Self {
        let mut placed = Self::new(place, len);
        placed.copy_from_slice(&pattern(len, seed));
        placed
    }

    /// Whether the bytes around it are untouched.
    pub(crate) fn rest_is_zero(&self) -> bool {
        let (before, rest) = self.bytes.split_at(self.start);
        let after = &rest[self.len..];
        *before == vec![0; before.len()] && *after == vec![0; after.len()]
    }

    /// Whether all of it is this byte.
    pub(crate) fn is_all(&self, byte: u8) -> bool {
        self[..] == vec![byte; self.len]
    }
}

impl Deref for Placed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for Placed {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// A buffer on the heap that counts how many of its kind there are.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) bytes: Vec<u8>,
    pub(crate) alive: Arc<AtomicUsize>,
}

impl Counted {
    pub(crate) fn new(bytes: Vec<u8>, alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        Self { bytes, alive: alive.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

// SAFETY: the vector is held by a box that was given up, and its heap block stays where it is.
unsafe impl Buffer for Counted {
    fn into_raw(mut self) -> RawBuffer {
        let start = NonNull::new(self.bytes.as_mut_ptr()).unwrap();
        let bytes = self.bytes.len();
        RawBuffer { start, bytes, extra: Box::into_raw(Box::new(self)).expose_provenance() }
    }

    unsafe fn from_raw(raw: RawBuffer) -> Self {
        // SAFETY: the box that `into_raw` gave up, which is taken back once.
        *unsafe { Box::from_raw(std::ptr::with_exposed_provenance_mut::<Self>(raw.extra)) }
    }
}

/// Such a buffer that nobody counts.
pub(crate) fn counted(bytes: Vec<u8>) -> Counted {
    Counted::new(bytes, &Arc::default())
}

/// Polls a future whose request is done as soon as the device was notified.
#[track_caller]
pub(crate) fn drive<S: SharedQueue, F: Future>(disk: &AsyncQueue<S>, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..3 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        disk.process().unwrap();
    }
    panic!("it is not done");
}

/// A memory that panics at one of its calls: the next one for 0, the one after it for 1, and so on.
#[derive(Clone)]
pub(crate) struct Trapped<M> {
    inner: M,
    map: Arc<AtomicI64>,
    unmap: Arc<AtomicI64>,
}

impl<M> Trapped<M> {
    pub(crate) fn new(inner: M) -> Self {
        Self { inner, map: Arc::new(AtomicI64::new(-1)), unmap: Arc::new(AtomicI64::new(-1)) }
    }

    pub(crate) fn panic_in_map(&self, calls: i64) {
        self.map.store(calls, Ordering::Relaxed);
    }

    pub(crate) fn panic_in_unmap(&self, calls: i64) {
        self.unmap.store(calls, Ordering::Relaxed);
    }
}

fn step(calls: &AtomicI64, what: &str) {
    if calls.fetch_sub(1, Ordering::Relaxed) == 0 {
        panic!("the memory's {what} was told to panic");
    }
}

// SAFETY: the memory inside does it all, if it is let.
unsafe impl<M: Memory> Memory for Trapped<M> {
    const UNMAPS: bool = M::UNMAPS;

    fn allocate(&self, request: &PageRequest) -> Result<Pages, MemoryError> {
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
        step(&self.map, "map");
        // SAFETY: as the caller promises.
        unsafe { self.inner.map(start, bytes, access) }
    }

    unsafe fn unmap(&self, start: NonNull<u8>, piece: Piece, access: Access) {
        step(&self.unmap, "unmap");
        // SAFETY: as the caller promises.
        unsafe { self.inner.unmap(start, piece, access) }
    }
}
