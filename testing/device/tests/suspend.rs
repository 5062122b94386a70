//! A device that is suspended and resumed (3.4), and the features that a device may insist on.

mod raw;

use raw::{DATA, Driver, NEXT, Queue, Request, STATUS, WRITE, base};
use testing_device::{BlockDevice, Mode, Outcome, Rule, ScatterMemory, SuspendAnswer};
use virtio_spec::block::RequestType;
use virtio_spec::mmio::Register;
use virtio_spec::{DeviceStatus, Features};

const SUSPEND: u64 = Features::SUSPEND.bits();

fn ready() -> (Driver<ScatterMemory>, Queue<ScatterMemory>, Request<ScatterMemory>) {
    let driver = Driver::new(BlockDevice::builder().offer(SUSPEND), &ScatterMemory::new(), false);
    let queue = driver.ready(base(false) | SUSPEND, 4);
    let request = Request::new(&driver.memory, RequestType::IN, 1);
    driver.chain(&queue, &request, 512, true);
    (driver, queue, request)
}

/// Whether SUSPEND and DRIVER_OK are set.
fn bits(driver: &Driver<ScatterMemory>) -> (bool, bool) {
    let status = driver.status();
    (status.contains(DeviceStatus::SUSPEND), status.contains(DeviceStatus::DRIVER_OK))
}

#[test]
fn a_device_is_suspended_and_resumed() {
    let (driver, mut queue, request) = ready();
    driver.submit(&mut queue, 0);
    driver.set(DeviceStatus::SUSPEND);
    assert_eq!(bits(&driver), (true, false));
    driver.set(DeviceStatus::DRIVER_OK);
    assert_eq!(bits(&driver), (false, true));
    assert_eq!(driver.device.counts().config_interrupts, 0);
    driver.submit(&mut queue, 0);
    assert_eq!((queue.used(), queue.used(), request.status()), (Some((0, 513)), Some((0, 513)), 0));
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn requests_in_hand_are_used_before() {
    let (driver, mut queue, _request) = ready();
    driver.device.faults(|faults| faults.hold = true);
    driver.submit(&mut queue, 0);
    driver.set(DeviceStatus::SUSPEND);
    assert_eq!(bits(&driver), (true, true));
    assert_eq!(driver.device.release(), 1);
    assert_eq!(driver.device.counts().interrupts, 1);
    assert_eq!((bits(&driver), queue.used()), ((true, false), Some((0, 513))));
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn nothing_more_is_taken_on_the_way() {
    let driver = Driver::new(BlockDevice::builder().offer(SUSPEND).mode(Mode::Manual), &ScatterMemory::new(), false);
    let mut queue = driver.ready(base(false) | SUSPEND, 8);
    let requests = [1, 2].map(|sector| Request::new(&driver.memory, RequestType::IN, sector));
    for (head, request) in [(0, &requests[0]), (3, &requests[1])] {
        queue.descriptor(head, request.at(0), 16, NEXT, head + 1);
        queue.descriptor(head + 1, request.at(DATA), 512, NEXT | WRITE, head + 2);
        queue.descriptor(head + 2, request.at(STATUS), 1, WRITE, 0);
        driver.submit(&mut queue, head);
    }
    let pending = driver.device.take().unwrap();
    driver.set(DeviceStatus::SUSPEND);
    assert_eq!((bits(&driver), driver.device.run()), ((true, true), 0));
    assert!(driver.device.complete(pending, Outcome::HONEST));
    assert_eq!((bits(&driver), queue.used(), queue.used()), ((true, false), Some((0, 513)), None));
    driver.set(DeviceStatus::DRIVER_OK);
    assert_eq!((bits(&driver), driver.device.run(), queue.used()), ((false, true), 1, Some((3, 513))));
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn a_suspended_device_gets_nothing() {
    let (driver, mut queue, request) = ready();
    driver.set(DeviceStatus::SUSPEND);
    driver.status();
    driver.submit(&mut queue, 0);
    assert_eq!(driver.broken(), [Rule::WhileSuspended, Rule::WhileSuspended], "a buffer and a notification");
    assert_eq!((driver.device.run(), queue.used(), request.status()), (0, None, 0xee));
    driver.reset();
}

#[test]
fn a_change_is_told_after_the_suspension() {
    let (driver, _queue, _request) = ready();
    driver.set(DeviceStatus::SUSPEND);
    driver.status();
    driver.device.set_capacity(7);
    assert_eq!(driver.read(Register::INTERRUPT_STATUS), 0);
    driver.set(DeviceStatus::DRIVER_OK);
    driver.status();
    assert_eq!(driver.read(Register::INTERRUPT_STATUS), 2);
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn devices_take_their_time_or_never_answer() {
    let (driver, _queue, _request) = ready();
    let answers = |answer| driver.device.faults(|faults| faults.suspend = answer);
    answers(SuspendAnswer::AfterReads(2));
    driver.set(DeviceStatus::SUSPEND);
    assert_eq!([bits(&driver), bits(&driver), bits(&driver)], [(true, true), (true, true), (true, false)]);
    answers(SuspendAnswer::AfterReads(1));
    driver.set(DeviceStatus::DRIVER_OK);
    assert_eq!([bits(&driver), bits(&driver)], [(true, false), (false, true)]);
    answers(SuspendAnswer::Never);
    driver.set(DeviceStatus::SUSPEND);
    for _ in 0..10 {
        assert_eq!(bits(&driver), (true, true));
    }
    driver.reset();
    driver.device.assert_conformant();
}

#[test]
fn a_device_fails_to_be_suspended() {
    let (driver, _queue, _request) = ready();
    driver.device.faults(|faults| faults.suspend = SuspendAnswer::NeedsReset);
    driver.set(DeviceStatus::SUSPEND);
    assert!(driver.status().contains(DeviceStatus::DEVICE_NEEDS_RESET));
    driver.reset();
    assert_eq!(driver.status(), DeviceStatus::empty());
    driver.device.assert_conformant();
}

#[test]
fn suspension_needs_its_feature_and_a_device_that_works() {
    let driver = Driver::new(BlockDevice::builder().offer(SUSPEND), &ScatterMemory::new(), false);
    let queue = driver.ready(base(false), 4);
    driver.set(DeviceStatus::SUSPEND);
    assert_eq!((bits(&driver), driver.broken()), ((false, true), vec![Rule::StatusBitUnknown]));
    driver.reset();
    drop(queue);
    driver.negotiate(base(false) | SUSPEND);
    driver.set(DeviceStatus::SUSPEND);
    assert_eq!((bits(&driver), driver.broken()), ((false, false), vec![Rule::StatusOrder]));
}

#[test]
fn a_device_may_insist_on_features() {
    let needed = Features::ACCESS_PLATFORM | Features::ORDER_PLATFORM;
    for (accepted, goes_on) in [(needed, true), (Features::ACCESS_PLATFORM, false), (Features::empty(), false)] {
        let driver = Driver::new(BlockDevice::builder().require(needed.bits()), &ScatterMemory::new(), false);
        driver.negotiate(base(false) | accepted.bits());
        assert_eq!(driver.status().contains(DeviceStatus::FEATURES_OK), goes_on);
        driver.device.assert_conformant();
    }
}
