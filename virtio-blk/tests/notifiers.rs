//! A transport on which a reset takes away what a queue notifies through, as PCI may: the device names that anew.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{defaults, pattern, transport};
use testing_device::{BlockDevice, DeviceRegisters, ScatterMemory};
use virtio_blk::{Disk, Features, NoBuffer, Options, Recovered, Split};
use virtio_spec::{DeviceStatus, DeviceType};
use virtio_transport::{
    Interface, Mmio, MmioInterrupt, MmioNotifier, Notifier, QueueConfig, QueueError, QueueMemory, Spin, Transport,
};

/// virtio-mmio whose notifiers are good until the next reset.
struct Fickle {
    inner: Mmio<DeviceRegisters>,
    resets: Rc<Cell<u32>>,
}

struct FickleNotifier {
    inner: MmioNotifier<DeviceRegisters>,
    made_after: u32,
    resets: Rc<Cell<u32>>,
}

impl Notifier for FickleNotifier {
    fn notify(&self, next: u16) {
        assert_eq!(self.made_after, self.resets.get(), "a notification to where the device listened before its reset");
        self.inner.notify(next);
    }
}

impl Transport for Fickle {
    type Notifier = FickleNotifier;
    type Interrupt = MmioInterrupt<DeviceRegisters>;

    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }
    fn interface(&self) -> Interface {
        self.inner.interface()
    }
    fn device_features(&mut self) -> u64 {
        self.inner.device_features()
    }
    fn set_driver_features(&mut self, features: u64) {
        self.inner.set_driver_features(features);
    }
    fn status(&self) -> DeviceStatus {
        self.inner.status()
    }
    fn set_status(&mut self, status: DeviceStatus) {
        if status.is_empty() {
            self.resets.set(self.resets.get() + 1);
        }
        self.inner.set_status(status);
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }
    fn queue_in_use(&mut self, queue: u16) -> bool {
        self.inner.queue_in_use(queue)
    }
    fn enable_queue(&mut self, queue: &QueueConfig) -> Result<(), QueueError> {
        self.inner.enable_queue(queue)
    }
    fn queue_memory(&self) -> QueueMemory {
        self.inner.queue_memory()
    }
    fn config_generation(&self) -> Option<u32> {
        self.inner.config_generation()
    }
    fn config_bytes(&self) -> usize {
        self.inner.config_bytes()
    }
    fn read_config_u8(&self, offset: usize) -> u8 {
        self.inner.read_config_u8(offset)
    }
    fn read_config_u16(&self, offset: usize) -> u16 {
        self.inner.read_config_u16(offset)
    }
    fn read_config_u32(&self, offset: usize) -> u32 {
        self.inner.read_config_u32(offset)
    }
    fn write_config_u8(&mut self, offset: usize, value: u8) {
        self.inner.write_config_u8(offset, value);
    }
    fn start_queue_reset(&mut self, queue: u16) -> bool {
        self.resets.set(self.resets.get() + 1);
        self.inner.start_queue_reset(queue)
    }
    fn queue_reset_runs(&mut self, queue: u16) -> bool {
        self.inner.queue_reset_runs(queue)
    }
    fn notifier(&self, queue: u16, data: bool) -> FickleNotifier {
        let resets = self.resets.clone();
        FickleNotifier { inner: self.inner.notifier(queue, data), made_after: resets.get(), resets }
    }
    fn interrupt(&self) -> MmioInterrupt<DeviceRegisters> {
        self.inner.interrupt()
    }
}

fn open(device: &BlockDevice, memory: &ScatterMemory, options: &Options) -> Disk<Fickle, ScatterMemory, NoBuffer> {
    let transport = Fickle { inner: transport(device), resets: Rc::default() };
    Disk::open_with(Split, transport, memory.clone(), options, &mut Spin).unwrap()
}

#[test]
fn a_device_is_notified_where_it_listens_after_its_reset() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    disk.write(1, &pattern(512, 1), &mut Spin).unwrap();
    assert_eq!(disk.recover(&mut Spin), Ok(Recovered { writes_in_doubt: true, ..Recovered::default() }));
    disk.write(2, &pattern(512, 2), &mut Spin).unwrap();
    assert_eq!(device.read_disk(1, 2), [pattern(512, 1), pattern(512, 2)].concat());
}

#[test]
fn a_device_is_notified_where_it_listens_after_the_reset_of_a_queue() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().offer(Features::RING_RESET.bits()).build(&memory);
    let options = Options { opt_in: Features::RING_RESET.into(), ..defaults() };
    let (mut handle, mut queue) = open(&device, &memory, &options).split();
    assert_eq!(handle.reset_queue(&mut queue, &mut Spin), Ok(Recovered::default()));
    queue.blocking(&mut handle).unwrap().write(2, &pattern(512, 2), &mut Spin).unwrap();
    assert_eq!(device.read_disk(2, 1), pattern(512, 2));
    handle.shutdown(&mut [&mut queue], &mut Spin).unwrap();
}
