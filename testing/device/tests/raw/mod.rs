//! A driver written by hand, one step at a time, so that a test can take each step wrongly.
#![allow(dead_code, reason = "every test file uses some of it")]

pub(crate) mod packed;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use testing_device::{BlockDevice, Builder, DeviceRegisters, Interface, Rule, TestMemory, rules_of};
use virtio_spec::block::RequestType;
use virtio_spec::mmio::Register;
use virtio_spec::split_ring::{
    DescriptorFlags, available_ring_size, descriptor_table_size, legacy_queue_size_bytes, legacy_used_ring_offset,
    used_event_offset, used_ring_size,
};
use virtio_spec::{DeviceStatus, Features};
use virtio_transport::Registers;
use virtqueue::{PageRequest, Pages, Purpose};

pub(crate) const NEXT: u16 = DescriptorFlags::NEXT.bits();
pub(crate) const WRITE: u16 = DescriptorFlags::WRITE.bits();
pub(crate) const INDIRECT: u16 = DescriptorFlags::INDIRECT.bits();

/// Pages that are freed when dropped.
pub(crate) struct Owned<M: TestMemory> {
    memory: M,
    pages: Pages,
    request: PageRequest,
    /// Whether fields are little-endian: not those of a legacy device on a big-endian machine.
    little: bool,
}

impl<M: TestMemory> Owned<M> {
    pub(crate) fn new(memory: &M, bytes: usize, align: usize) -> Self {
        let request = PageRequest { bytes, align, max_address: u64::MAX, purpose: Purpose::Shared };
        let pages = memory.allocate(&request).expect("pages");
        Self { memory: memory.clone(), pages, request, little: true }
    }

    pub(crate) fn address(&self) -> u64 {
        self.pages.device_address
    }

    fn at(&self, offset: usize, bytes: usize) -> NonNull<u8> {
        assert!(offset + bytes <= self.request.bytes);
        // SAFETY: inside the pages.
        unsafe { self.pages.start.add(offset) }
    }

    pub(crate) fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: inside the pages, zeroed or written, and accessed atomically by both sides.
        unsafe { self.at(offset, 2).cast().as_ref() }
    }

    pub(crate) fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.at(offset, 4).cast().as_ref() }
    }

    pub(crate) fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { self.at(offset, 8).cast().as_ref() }
    }

    pub(crate) fn read(&self, offset: usize, bytes: usize) -> Vec<u8> {
        // SAFETY: inside the pages, and the device is not at work in these tests while the driver is.
        unsafe { std::slice::from_raw_parts(self.at(offset, bytes).as_ptr(), bytes) }.to_vec()
    }

    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        // SAFETY: as above.
        unsafe { self.at(offset, bytes.len()).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) }
    }

    pub(crate) fn descriptor(&self, offset: usize, address: u64, bytes: u32, flags: u16, next: u16) {
        let mut rest = [0; 8];
        rest[..4].copy_from_slice(&self.order(bytes.to_be_bytes()));
        rest[4..6].copy_from_slice(&self.order(flags.to_be_bytes()));
        rest[6..].copy_from_slice(&self.order(next.to_be_bytes()));
        let address = u64::from_ne_bytes(self.order(address.to_be_bytes()));
        self.u64(offset).store(address, Ordering::Relaxed);
        self.u64(offset + 8).store(u64::from_ne_bytes(rest), Ordering::Relaxed);
    }

    /// Puts the bytes of a big-endian field into the order of these pages.
    pub(crate) fn order<const N: usize>(&self, mut bytes: [u8; N]) -> [u8; N] {
        if self.little || cfg!(target_endian = "little") {
            bytes.reverse();
        }
        bytes
    }

    fn load(&self, offset: usize, order: Ordering) -> u16 {
        u16::from_be_bytes(self.order(self.u16(offset).load(order).to_ne_bytes()))
    }

    fn store(&self, offset: usize, value: u16, order: Ordering) {
        self.u16(offset).store(u16::from_ne_bytes(self.order(value.to_be_bytes())), order);
    }
}

impl<M: TestMemory> Drop for Owned<M> {
    fn drop(&mut self) {
        // SAFETY: allocated for this request, freed once.
        unsafe { self.memory.free(self.pages, &self.request) }
    }
}

/// A queue's memory, and the driver's indices.
pub(crate) struct Queue<M: TestMemory> {
    pub(crate) ring: Owned<M>,
    pub(crate) size: u16,
    pub(crate) driver_area: usize,
    pub(crate) device_area: usize,
    pub(crate) available: u16,
    pub(crate) seen: u16,
}

impl<M: TestMemory> Queue<M> {
    pub(crate) fn modern(memory: &M, size: u16) -> Self {
        let driver_area = descriptor_table_size(size);
        let device_area = (driver_area + available_ring_size(size)).next_multiple_of(4);
        let ring = Owned::new(memory, device_area + used_ring_size(size), 16);
        Self { ring, size, driver_area, device_area, available: 0, seen: 0 }
    }

    pub(crate) fn legacy(memory: &M, size: u16) -> Self {
        let mut ring = Owned::new(memory, legacy_queue_size_bytes(size, 4096), 4096);
        ring.little = false;
        let (driver_area, device_area) = (descriptor_table_size(size), legacy_used_ring_offset(size, 4096));
        Self { ring, size, driver_area, device_area, available: 0, seen: 0 }
    }

    pub(crate) fn descriptor(&self, index: u16, address: u64, bytes: u32, flags: u16, next: u16) {
        self.ring.descriptor(usize::from(index) * 16, address, bytes, flags, next);
    }

    /// Puts a head into the ring without moving the index.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = usize::from(self.available % self.size);
        self.ring.store(self.driver_area + 4 + 2 * slot, head, Ordering::Relaxed);
        self.available = self.available.wrapping_add(1);
    }

    pub(crate) fn publish(&self) {
        self.ring.store(self.driver_area + 2, self.available, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn set_available_flags(&self, flags: u16) {
        self.ring.store(self.driver_area, flags, Ordering::Relaxed);
    }

    pub(crate) fn set_used_event(&self, event: u16) {
        let offset = self.driver_area + used_event_offset(self.size);
        self.ring.store(offset, event, Ordering::Relaxed);
    }

    pub(crate) fn used_idx(&self) -> u16 {
        self.ring.load(self.device_area + 2, Ordering::Acquire)
    }

    pub(crate) fn used_flags(&self) -> u16 {
        self.ring.load(self.device_area, Ordering::Relaxed)
    }

    /// The next used element.
    pub(crate) fn used(&mut self) -> Option<(u32, u32)> {
        if self.used_idx() == self.seen {
            return None;
        }
        let offset = self.device_area + 4 + 8 * usize::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        let load = |offset| {
            let field = self.ring.u32(offset).load(Ordering::Relaxed).to_ne_bytes();
            u32::from_be_bytes(self.ring.order(field))
        };
        Some((load(offset), load(offset + 4)))
    }
}

/// A request's memory: header at 0, status at 16, an indirect table at 32, data at 512.
pub(crate) struct Request<M: TestMemory>(pub(crate) Owned<M>);

pub(crate) const STATUS: usize = 16;
pub(crate) const TABLE: usize = 32;
pub(crate) const DATA: usize = 512;

impl<M: TestMemory> Request<M> {
    /// For a modern device.
    pub(crate) fn new(memory: &M, request_type: RequestType, sector: u64) -> Self {
        Self::of(memory, false, request_type, sector)
    }

    pub(crate) fn of(memory: &M, legacy: bool, request_type: RequestType, sector: u64) -> Self {
        let mut owned = Owned::new(memory, 4096, 4096);
        owned.little = !legacy;
        let mut header = [0; 16];
        header[..4].copy_from_slice(&owned.order(request_type.0.to_be_bytes()));
        header[8..].copy_from_slice(&owned.order(sector.to_be_bytes()));
        owned.write(0, &header);
        owned.write(STATUS, &[0xee]);
        Self(owned)
    }

    pub(crate) fn at(&self, offset: usize) -> u64 {
        self.0.address() + offset as u64
    }

    pub(crate) fn status(&self) -> u8 {
        self.0.read(STATUS, 1)[0]
    }
}

/// The driver.
pub(crate) struct Driver<M: TestMemory> {
    pub(crate) device: BlockDevice,
    pub(crate) registers: DeviceRegisters,
    pub(crate) memory: M,
    pub(crate) legacy: bool,
}

impl<M: TestMemory> Driver<M> {
    pub(crate) fn new(builder: Builder, memory: &M, legacy: bool) -> Self {
        let interface = if legacy { Interface::Legacy } else { Interface::Modern };
        let device = builder.interface(interface).build(memory);
        Self { registers: device.registers(), device, memory: memory.clone(), legacy }
    }

    pub(crate) fn read(&self, register: Register) -> u32 {
        u32::from_le(self.registers.read_u32(register.0))
    }

    pub(crate) fn write(&self, register: Register, value: u32) {
        self.registers.write_u32(register.0, value.to_le());
    }

    pub(crate) fn status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.read(Register::STATUS) as u8)
    }

    pub(crate) fn set(&self, status: DeviceStatus) {
        let status = status | self.device.status();
        self.write(Register::STATUS, u32::from(status.bits()));
    }

    pub(crate) fn identify(&self) {
        for register in [Register::MAGIC_VALUE, Register::VERSION, Register::DEVICE_ID] {
            self.read(register);
        }
    }

    pub(crate) fn reset(&self) {
        self.write(Register::STATUS, 0);
        assert_eq!(self.status(), DeviceStatus::empty());
    }

    /// Up to DRIVER.
    pub(crate) fn start(&self) {
        self.identify();
        self.reset();
        self.set(DeviceStatus::ACKNOWLEDGE);
        self.set(DeviceStatus::DRIVER);
    }

    pub(crate) fn offered(&self) -> u64 {
        self.write(Register::DEVICE_FEATURES_SEL, 0);
        let low = self.read(Register::DEVICE_FEATURES);
        self.write(Register::DEVICE_FEATURES_SEL, 1);
        let high = self.read(Register::DEVICE_FEATURES);
        u64::from(high) << 32 | u64::from(low)
    }

    pub(crate) fn accept(&self, features: u64) {
        self.write(Register::DRIVER_FEATURES_SEL, 0);
        self.write(Register::DRIVER_FEATURES, features as u32);
        self.write(Register::DRIVER_FEATURES_SEL, 1);
        self.write(Register::DRIVER_FEATURES, (features >> 32) as u32);
    }

    /// Up to the set-up of queues.
    pub(crate) fn negotiate(&self, features: u64) {
        self.start();
        self.offered();
        self.accept(features);
        if !self.legacy {
            self.set(DeviceStatus::FEATURES_OK);
            self.status();
        }
    }

    pub(crate) fn queue(&self, index: u16, size: u16) -> Queue<M> {
        let queue = if self.legacy { Queue::legacy(&self.memory, size) } else { Queue::modern(&self.memory, size) };
        self.enable(index, &queue);
        queue
    }

    pub(crate) fn enable(&self, index: u16, queue: &Queue<M>) {
        if self.legacy {
            self.write(Register::GUEST_PAGE_SIZE, 4096);
        }
        self.write(Register::QUEUE_SEL, index.into());
        self.read(if self.legacy { Register::QUEUE_PFN } else { Register::QUEUE_READY });
        self.read(Register::QUEUE_SIZE_MAX);
        self.write(Register::QUEUE_SIZE, queue.size.into());
        let start = queue.ring.address();
        if self.legacy {
            self.write(Register::QUEUE_ALIGN, 4096);
            self.write(Register::QUEUE_PFN, (start / 4096) as u32);
        } else {
            self.areas(start, start + queue.driver_area as u64, start + queue.device_area as u64);
            self.write(Register::QUEUE_READY, 1);
        }
    }

    pub(crate) fn areas(&self, descriptor_area: u64, driver_area: u64, device_area: u64) {
        for (register, address) in [
            (Register::QUEUE_DESC_LOW, descriptor_area),
            (Register::QUEUE_DRIVER_LOW, driver_area),
            (Register::QUEUE_DEVICE_LOW, device_area),
        ] {
            self.write(register, address as u32);
            self.write(Register(register.0 + 4), (address >> 32) as u32);
        }
    }

    /// All of it, with one queue.
    pub(crate) fn ready(&self, features: u64, size: u16) -> Queue<M> {
        self.negotiate(features);
        let queue = self.queue(0, size);
        self.set(DeviceStatus::DRIVER_OK);
        queue
    }

    pub(crate) fn notify(&self, queue: u16) {
        self.write(Register::QUEUE_NOTIFY, queue.into());
    }

    /// The violations up to now, forgotten.
    pub(crate) fn broken(&self) -> Vec<Rule> {
        rules_of(&self.device.take_violations())
    }

    /// Writes a direct chain of header, one piece of data, and status at the first descriptors.
    pub(crate) fn chain(&self, queue: &Queue<M>, request: &Request<M>, bytes: u32, device_writes: bool) {
        queue.descriptor(0, request.at(0), 16, NEXT, 1);
        queue.descriptor(1, request.at(DATA), bytes, NEXT | if device_writes { WRITE } else { 0 }, 2);
        queue.descriptor(2, request.at(STATUS), 1, WRITE, 0);
    }

    /// Makes a head available and notifies.
    pub(crate) fn submit(&self, queue: &mut Queue<M>, head: u16) {
        queue.offer(head);
        queue.publish();
        self.notify(0);
    }
}

/// What a driver must accept at the least.
pub(crate) fn base(legacy: bool) -> u64 {
    if legacy { Features::ANY_LAYOUT.bits() } else { Features::VERSION_1.bits() }
}
