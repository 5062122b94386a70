//! The crate `virtio-drivers`, to be measured beside this driver.

use alloc::{vec, vec::Vec};
use core::ptr::NonNull;

use anyhow::Context;
use virtio_drivers::{
    BufferDirection, Hal, PhysAddr, Result,
    device::blk::{BlkReq, BlkResp, VirtIOBlk},
    transport::{
        DeviceStatus, DeviceType, InterruptStatus, Transport,
        mmio::{MmioTransport, VirtIOHeader},
    },
};
use virtqueue::{Memory, PageRequest, Pages, Purpose};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::bench::{Counter, Sums};
use crate::kernel::{devices::DiskPlace, memory::KernelMemory};

/// The most requests that it keeps in flight: the size of its queue is fixed.
pub(super) const MAX_DEPTH: u16 = 16;

/// The kernel's memory, in the form that this crate wants it.
struct KernelHal;

fn request(pages: usize) -> PageRequest {
    PageRequest { bytes: pages * 4096, align: 4096, max_address: u64::MAX, purpose: Purpose::Shared }
}

// SAFETY: the kernel's memory is zeroed, contiguous and aligned; addresses are physical ones.
unsafe impl Hal for KernelHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let pages = KernelMemory.allocate(&request(pages)).expect("memory for the other driver");
        (pages.device_address, pages.start)
    }

    unsafe fn dma_dealloc(address: PhysAddr, start: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the driver gives back what `dma_alloc` returned.
        unsafe { KernelMemory.free(Pages { start, device_address: address }, &request(pages)) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).expect("registers are not at address 0")
    }

    #[inline]
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().addr().get() as PhysAddr
    }

    #[inline]
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Its transport, and how often it notified.
struct Counting {
    inner: MmioTransport<'static>,
    notifications: &'static core::sync::atomic::AtomicU32,
}

static NOTIFICATIONS: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);

impl Transport for Counting {
    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }
    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features()
    }
    fn write_driver_features(&mut self, features: u64) {
        self.inner.write_driver_features(features);
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }
    #[inline]
    fn notify(&mut self, queue: u16) {
        // Two loads and stores that its count of instructions includes.
        let ordering = core::sync::atomic::Ordering::Relaxed;
        self.notifications.store(self.notifications.load(ordering) + 1, ordering);
        self.inner.notify(queue);
    }
    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.inner.set_status(status);
    }
    fn set_guest_page_size(&mut self, bytes: u32) {
        self.inner.set_guest_page_size(bytes);
    }
    fn requires_legacy_layout(&self) -> bool {
        self.inner.requires_legacy_layout()
    }
    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.inner.queue_set(queue, size, descriptors, driver, device);
    }
    fn queue_unset(&mut self, queue: u16) {
        self.inner.queue_unset(queue);
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }
    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }
    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V> {
        self.inner.read_config_space(offset)
    }
    fn write_config_space<V: IntoBytes + Immutable>(&mut self, offset: usize, value: V) -> Result<()> {
        self.inner.write_config_space(offset, value)
    }
}

/// A read in flight: its parts stay where they are until it is done.
struct Read {
    token: u16,
    request: BlkReq,
    response: BlkResp,
    buffer: Vec<u8>,
}

/// Submits `depth` reads and takes them back, again and again.
pub(super) fn polled(place: &DiskPlace<'_>, counter: &Counter, depth: u16, requests: u32) -> anyhow::Result<Sums> {
    let header = NonNull::new(place.address() as *mut VirtIOHeader).context("registers at address 0")?;
    // SAFETY: the registers are mapped at their physical address, and this kernel's driver was shut down.
    let inner = unsafe { MmioTransport::new(header, 0x1000) }.map_err(|error| anyhow::anyhow!("{error}"))?;
    let before = NOTIFICATIONS.load(core::sync::atomic::Ordering::Relaxed);
    let transport = Counting { inner, notifications: &NOTIFICATIONS };
    let mut disk: VirtIOBlk<KernelHal, _> =
        VirtIOBlk::new(transport).map_err(|error| anyhow::anyhow!("virtio-drivers: {error}"))?;
    let mut reads: Vec<Read> = (0..depth)
        .map(|_| Read { token: 0, request: BlkReq::default(), response: BlkResp::default(), buffer: vec![0; 4096] })
        .collect();
    let mut sums = Sums::default();
    let failed = |error| anyhow::anyhow!("virtio-drivers: {error}");
    while sums.requests < requests {
        for (read, n) in reads.iter_mut().zip(0..) {
            let Read { request, response, buffer, token } = read;
            // SAFETY: nothing of it is touched until it is completed below.
            let (cost, submitted) = counter.of(|| unsafe { disk.read_blocks_nb(n * 8, request, buffer, response) });
            *token = submitted.map_err(failed)?;
            sums.submit += cost;
        }
        for _ in 0..depth {
            let (looking, token) = loop {
                // Looks that find nothing are waiting, and are not counted.
                if let (cost, Some(token)) = counter.of(|| disk.peek_used()) {
                    break (cost, token);
                }
            };
            // Which request a token belongs to is the caller's to know.
            let read = reads.iter_mut().find(|read| read.token == token).context("an unknown token")?;
            let Read { request, response, buffer, .. } = read;
            // SAFETY: the parts that it was submitted with.
            let (cost, done) = counter.of(|| unsafe { disk.complete_read_blocks(token, request, buffer, response) });
            done.map_err(failed)?;
            sums.complete += looking + cost;
            sums.requests += 1;
        }
    }
    sums.notifications = NOTIFICATIONS.load(core::sync::atomic::Ordering::Relaxed) - before;
    Ok(sums)
}
