//! The reset of one queue, as honest and other devices answer it.

mod raw;

use raw::packed::PackedQueue;
use raw::{DATA, Driver, Queue, Request, base};
use testing_device::{BlockDevice, QueueResetAnswer, ScatterMemory};
use virtio_spec::Features;
use virtio_spec::block::RequestType;
use virtio_spec::mmio::Register;

const RING_RESET: u64 = Features::RING_RESET.bits();

/// A driver with a read of sector 1, full of 0xaa, that the device holds, and its answer to a queue's reset.
fn held(answer: QueueResetAnswer) -> (Driver<ScatterMemory>, Queue<ScatterMemory>, Request<ScatterMemory>) {
    let driver = Driver::new(BlockDevice::builder().offer(RING_RESET), &ScatterMemory::new(), false);
    driver.device.write_disk(1, &[0xaa; 512]);
    let mut queue = driver.ready(base(false) | RING_RESET, 4);
    driver.device.faults(|faults| {
        faults.hold = true;
        faults.queue_reset = answer;
    });
    let request = Request::new(&driver.memory, RequestType::IN, 1);
    driver.chain(&queue, &request, 512, true);
    driver.submit(&mut queue, 0);
    driver.write(Register::QUEUE_RESET, 1);
    (driver, queue, request)
}

/// What the registers show: QueueReset and QueueReady.
fn registers(driver: &Driver<ScatterMemory>) -> (u32, u32) {
    (driver.read(Register::QUEUE_RESET), driver.read(Register::QUEUE_READY))
}

#[test]
fn a_prompt_reset_touches_nothing_any_more() {
    let (driver, mut queue, request) = held(QueueResetAnswer::Prompt);
    assert_eq!(registers(&driver), (0, 0));
    assert_eq!((driver.device.held(), driver.device.release()), (0, 0));
    assert_eq!((queue.used(), request.status()), (None, 0xee));

    // Another queue in its place, of another size.
    driver.device.faults(|faults| faults.hold = false);
    let mut queue = driver.queue(0, 8);
    driver.chain(&queue, &request, 512, true);
    driver.submit(&mut queue, 0);
    assert_eq!((queue.used(), request.status()), (Some((0, 513)), 0));
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn a_late_reset_goes_on_until_then() {
    let (driver, mut queue, request) = held(QueueResetAnswer::AfterReads(2));
    assert_eq!(registers(&driver), (1, 1));
    assert_eq!(driver.device.release(), 1);
    assert_eq!((queue.used(), request.status()), (Some((0, 513)), 0));
    assert_eq!(registers(&driver), (1, 1));
    assert_eq!(registers(&driver), (0, 0));
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn a_reset_may_never_be_acknowledged() {
    let (driver, mut queue, _request) = held(QueueResetAnswer::Never);
    for _ in 0..10 {
        assert_eq!(registers(&driver), (1, 1));
    }
    assert_eq!(driver.device.release(), 1);
    assert_eq!(queue.used(), Some((0, 513)));
    driver.reset();
    assert_eq!(registers_after_reset(&driver), 0, "a reset of the device ends it");
    driver.device.assert_conformant();
}

fn registers_after_reset(driver: &Driver<ScatterMemory>) -> u32 {
    driver.negotiate(base(false) | RING_RESET);
    driver.read(Register::QUEUE_RESET)
}

#[test]
fn a_reset_that_is_ignored_reads_as_done() {
    let (driver, mut queue, _request) = held(QueueResetAnswer::Ignored);
    assert_eq!(registers(&driver), (0, 1));
    assert_eq!(driver.device.release(), 1);
    assert_eq!(queue.used(), Some((0, 513)));
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn a_reset_that_is_acknowledged_early_still_writes() {
    let (driver, mut queue, request) = held(QueueResetAnswer::Early);
    assert_eq!(registers(&driver), (0, 0));
    let again = driver.queue(0, 8);
    // The driver may use the memory for something else: it was told that the device is done with it.
    request.0.write(0, &[0; 16]);
    assert_eq!(driver.device.release(), 1);
    assert_eq!((queue.used(), request.status()), (Some((0, 513)), 0), "to the ring that was");
    assert_eq!(request.0.read(DATA, 512), [0xaa; 512]);
    assert_eq!(again.used_idx(), 0);
    driver.reset();
    driver.device.assert_conformant();

    // After a reset of the device it is over.
    let (driver, mut queue, request) = held(QueueResetAnswer::Early);
    assert_eq!(registers(&driver), (0, 0));
    driver.reset();
    assert_eq!((driver.device.release(), queue.used(), request.status()), (0, None, 0xee));
    driver.device.assert_conformant();
}

#[test]
fn packed_queues_are_reset_too() {
    let driver = Driver::new(BlockDevice::builder().packed().offer(RING_RESET), &ScatterMemory::new(), false);
    let mut queue = driver.ready_packed(base(false) | RING_RESET, 5);
    let request = Request::new(&driver.memory, RequestType::IN, 1);
    queue.list(3, &request.pieces(512, true));
    driver.notify(0);
    assert!(queue.used().is_some());
    driver.write(Register::QUEUE_RESET, 1);
    assert_eq!(registers(&driver), (0, 0));
    // Both wrap counters begin anew.
    let mut queue = PackedQueue::new(&driver.memory, 7);
    driver.enable_packed(0, &queue);
    queue.list(6, &request.pieces(512, true));
    driver.notify(0);
    assert_eq!(queue.used().map(|used| used.0), Some(6));
    driver.reset();
    driver.device.assert_conformant();
}
