//! Bringing devices up: the order, and what becomes of failures.

mod common;

use common::{Fake, r, w};
use virtio_transport::{
    ConfigError, DeviceStatus, DeviceType, GaveUp, InitError, Mmio, Negotiation, Notifier, QueueConfig, QueueError,
    QueueResetError, Running, Spin, SpinLimit,
};

const VERSION_1: u64 = 1 << 32;
const FAILED: u32 = 0x80;

fn probe(fake: &Fake) -> Mmio<Fake> {
    let device = Mmio::probe(fake.clone()).unwrap().unwrap();
    fake.log();
    device
}

fn begin(fake: &Fake) -> Result<Negotiation<Mmio<Fake>>, InitError> {
    Negotiation::begin(probe(fake), DeviceType::BLOCK, &mut SpinLimit { looks: 10 })
}

fn queue() -> QueueConfig {
    QueueConfig { index: 0, size: 128, descriptor_area: 0x8000, driver_area: 0x8800, device_area: 0x9000 }
}

fn run(fake: &Fake) -> Running<Mmio<Fake>> {
    let negotiation = begin(fake).unwrap();
    let features = negotiation.offered();
    let mut setup = negotiation.accept(features).unwrap();
    setup.enable_queue(&queue()).unwrap();
    setup.start()
}

#[test]
fn a_modern_device_from_reset_to_running() {
    let fake = Fake::new(2);
    let negotiation = begin(&fake).unwrap();
    assert_eq!(negotiation.offered(), 0x1_3000_0254);
    assert_eq!(
        fake.log(),
        [
            w(0x70, 0),
            r(0x70, 0),
            r(0x70, 0),
            w(0x70, 1),
            r(0x70, 1),
            w(0x70, 3),
            w(0x14, 0),
            r(0x10, 0x3000_0254),
            w(0x14, 1),
            r(0x10, 1),
        ]
    );
    let mut setup = negotiation.accept(VERSION_1 | 0x200).unwrap();
    assert_eq!(setup.features(), VERSION_1 | 0x200);
    assert_eq!(
        fake.log(),
        [w(0x24, 0), w(0x20, 0x200), w(0x24, 1), w(0x20, 1), r(0x70, 3), w(0x70, 0xb), r(0x70, 0xb)]
    );
    assert_eq!(setup.enable_queue(&queue()), Ok(()));
    assert_eq!(
        fake.log(),
        [
            w(0x30, 0),
            r(0x44, 0),
            w(0x30, 0),
            r(0x34, 256),
            w(0x30, 0),
            w(0x38, 128),
            w(0x80, 0x8000),
            w(0x84, 0),
            w(0x90, 0x8800),
            w(0x94, 0),
            w(0xa0, 0x9000),
            w(0xa4, 0),
            w(0x44, 1),
            r(0x44, 1),
        ]
    );
    let running = setup.start();
    assert_eq!(fake.log(), [r(0x70, 0xb), w(0x70, 0xf)]);
    assert_eq!(running.features(), VERSION_1 | 0x200);
    assert!(!running.needs_reset());
    drop(running);
    assert_eq!(fake.log(), [r(0x70, 0xf)]);
}

#[test]
fn a_legacy_device_from_reset_to_running() {
    let fake = Fake::new(1);
    let negotiation = begin(&fake).unwrap();
    assert_eq!(negotiation.offered(), 0x3000_0254);
    let mut setup = negotiation.accept(0x200).unwrap();
    assert_eq!(setup.enable_queue(&queue()), Ok(()));
    let running = setup.start();
    assert_eq!(
        fake.log(),
        [
            w(0x70, 0),
            r(0x70, 0),
            r(0x70, 0),
            w(0x70, 1),
            r(0x70, 1),
            w(0x70, 3),
            w(0x14, 0),
            r(0x10, 0x3000_0254),
            w(0x24, 0),
            w(0x20, 0x200),
            w(0x30, 0),
            r(0x40, 0),
            w(0x30, 0),
            r(0x34, 256),
            w(0x28, 4096),
            w(0x30, 0),
            w(0x38, 128),
            w(0x3c, 4096),
            w(0x40, 8),
            r(0x40, 8),
            r(0x70, 3),
            w(0x70, 7),
        ]
    );
    assert_eq!(running.config_generation(), None);
}

#[test]
fn a_device_of_another_type_is_not_touched() {
    let fake = Fake::new(2);
    let error = Negotiation::begin(probe(&fake), DeviceType::NETWORK, &mut Spin).unwrap_err();
    assert_eq!(error, InitError::WrongDevice { expected: DeviceType::NETWORK, found: DeviceType::BLOCK });
    assert_eq!(fake.log(), []);
    assert_eq!(error.to_string(), "this is a virtio BLOCK device, expected NETWORK; give it to the driver of its type");
}

#[test]
fn a_reset_takes_as_long_as_the_policy_allows() {
    // Asked between two looks: one look more than it is asked.
    for (reset_looks, works) in [(0, true), (10, true), (11, false), (u32::MAX, false)] {
        let fake = Fake::new(2).with(|device| {
            device.status = 0xf;
            device.reset_looks = reset_looks;
        });
        match begin(&fake) {
            Ok(_) => assert!(works, "{reset_looks}"),
            Err(error) => {
                assert!(!works, "{reset_looks}");
                assert_eq!(error, InitError::ResetTimedOut { status: DeviceStatus::from_bits_retain(0xf) });
                // Eleven looks and no write but the reset.
                assert_eq!(fake.log(), [&[w(0x70, 0)], &[r(0x70, 0xf); 11][..]].concat());
            }
        }
    }
}

#[test]
fn features_must_be_offered() {
    for (version, accepted, missing) in [(2, VERSION_1 | 0x1001, 0x1001), (1, 1 << 40 | 0x200, 1 << 40)] {
        let fake = Fake::new(version);
        let error = begin(&fake).unwrap().accept(accepted).unwrap_err();
        assert_eq!(error, InitError::NotOffered { features: missing });
        assert_eq!(fake.0.borrow().driver_features, [None; 2]);
        assert_eq!(fake.status(), 3 | FAILED);
    }
}

#[test]
fn a_modern_device_needs_version_1() {
    let fake = Fake::new(2);
    let error = begin(&fake).unwrap().accept(0x200).unwrap_err();
    assert_eq!(error, InitError::MissingVersion1 { offered: 0x1_3000_0254, accepted: 0x200 });
    assert!(error.to_string().contains("did not get accepted"), "{error}");
    assert_eq!(fake.status(), 3 | FAILED);

    let fake = Fake::new(2).with(|device| device.features = 0x200);
    let error = begin(&fake).unwrap().accept(VERSION_1 | 0x200).unwrap_err();
    assert_eq!(error, InitError::MissingVersion1 { offered: 0x200, accepted: VERSION_1 | 0x200 });
    assert!(error.to_string().contains("did not offer"), "{error}");
}

#[test]
fn features_may_be_refused() {
    let fake = Fake::new(2).with(|device| device.refused_status = 8);
    let error = begin(&fake).unwrap().accept(VERSION_1).unwrap_err();
    assert_eq!(error, InitError::FeaturesRefused { features: VERSION_1 });
    assert_eq!(fake.status() & FAILED, FAILED);
    assert!(error.to_string().contains("0x100000000"));
}

#[test]
fn a_device_that_fails_meanwhile() {
    for own in [0x40, 0x80] {
        let fake = Fake::new(2);
        let negotiation = begin(&fake).unwrap();
        fake.0.borrow_mut().own_status = own;
        let error = negotiation.accept(VERSION_1).unwrap_err();
        assert_eq!(error, InitError::DeviceFailed { status: DeviceStatus::from_bits_retain(3 | own as u8) });
        assert_eq!(fake.status(), 3 | FAILED | own & 0x40);
    }
    // With the last step it is no error any more, and no bit of the device's is cleared.
    let fake = Fake::new(2);
    let setup = begin(&fake).unwrap().accept(VERSION_1).unwrap();
    fake.0.borrow_mut().own_status = 0x40;
    let running = setup.start();
    assert!(running.needs_reset());
    assert_eq!(fake.status(), 0x4f);
}

#[test]
fn bits_that_the_device_makes_up_are_not_written_back() {
    let fake = Fake::new(2).with(|device| device.own_status = 0);
    let negotiation = begin(&fake).unwrap();
    fake.0.borrow_mut().own_status = 0x34;
    let running = negotiation.accept(VERSION_1).unwrap().start();
    assert_eq!(fake.status(), 0xf);
    assert!(!running.needs_reset());
}

#[test]
fn dropped_halfway_sets_failed() {
    let fake = Fake::new(2);
    drop(begin(&fake).unwrap());
    assert_eq!(fake.status(), 3 | FAILED);

    let fake = Fake::new(2);
    drop(begin(&fake).unwrap().accept(VERSION_1).unwrap());
    assert_eq!(fake.status(), 0xb | FAILED);

    let fake = Fake::new(1);
    drop(begin(&fake).unwrap().accept(0).unwrap());
    assert_eq!(fake.status(), 3 | FAILED);

    let fake = Fake::new(2);
    drop(run(&fake));
    assert_eq!(fake.status(), 0xf);
}

#[test]
fn queues_are_checked() {
    for version in [1, 2] {
        let fake = Fake::new(version);
        let negotiation = begin(&fake).unwrap();
        let features = negotiation.offered();
        let mut setup = negotiation.accept(features).unwrap();
        assert_eq!((setup.max_queue_size(0), setup.max_queue_size(1), setup.max_queue_size(9)), (256, 0, 0));
        fake.log();
        assert_eq!(
            setup.enable_queue(&QueueConfig { size: 512, ..queue() }),
            Err(QueueError::TooLarge { queue: 0, size: 512, max: 256 })
        );
        assert_eq!(
            setup.enable_queue(&QueueConfig { index: 1, ..queue() }),
            Err(QueueError::TooLarge { queue: 1, size: 128, max: 0 })
        );
        assert_eq!(setup.enable_queue(&QueueConfig { size: 0, ..queue() }), Err(QueueError::Empty { queue: 0 }));
        assert!(fake.log().iter().all(|access| access.0 == 'r' || access.2 == 0x30), "only the queue is selected");

        assert_eq!(setup.enable_queue(&queue()), Ok(()));
        assert_eq!(setup.enable_queue(&queue()), Err(QueueError::InUse { queue: 0 }));
    }
}

#[test]
fn notification_data_is_sent_only_if_negotiated() {
    let data = 1 << 38;
    for (accepted, word) in [(VERSION_1, 5), (VERSION_1 | data, 0x1234_0005)] {
        let fake = Fake::new(2).with(|device| device.features |= data);
        let setup = begin(&fake).unwrap().accept(accepted).unwrap();
        fake.log();
        setup.notifier(5).notify(0x1234);
        let running = setup.start();
        running.notifier(5).notify(0x1234);
        assert_eq!(fake.log(), [w(0x50, word), r(0x70, 0xb), w(0x70, 0xf), w(0x50, word)]);
    }
}

#[test]
fn a_running_device_is_reset_and_brought_up_again() {
    let fake = Fake::new(2);
    let running = run(&fake);
    fake.log();
    let transport = running.reset(&mut Spin).unwrap();
    assert_eq!(fake.log(), [w(0x70, 0), r(0x70, 0)]);
    let negotiation = Negotiation::begin(transport, DeviceType::BLOCK, &mut Spin).unwrap();
    assert!(negotiation.accept(VERSION_1).is_ok());
}

#[test]
fn a_reset_that_is_not_acknowledged_gives_the_device_back() {
    let fake = Fake::new(2);
    let running = run(&fake);
    fake.0.borrow_mut().reset_looks = u32::MAX;
    let not_reset = running.reset(&mut SpinLimit { looks: 3 }).unwrap_err();
    assert_eq!((not_reset.status.bits(), not_reset.reason), (0xf, GaveUp));
    assert_eq!(
        not_reset.to_string(),
        "the virtio BLOCK device did not acknowledge a reset: its status is 0x0f, expected 0; its memory cannot be \
         freed yet"
    );
    fake.0.borrow_mut().reset_looks = 2;
    assert!(not_reset.running.reset(&mut SpinLimit { looks: 3 }).is_ok());
}

#[test]
fn configuration_in_each_state() {
    let fake = Fake::new(2);
    let negotiation = begin(&fake).unwrap();
    assert_eq!(negotiation.read_config(|config| config.u8(1)), Ok(1));
    let mut setup = negotiation.accept(VERSION_1).unwrap();
    assert_eq!(setup.write_config_u8(0x20, 9), Ok(()));
    assert_eq!(setup.read_config(|config| config.u8(0x20)), Ok(9));
    let mut running = setup.start();
    assert_eq!(running.write_config_u8(0x21, 8), Ok(()));
    assert_eq!(running.read_config(|config| config.u16(0x20)), Ok(0x0809));
    assert_eq!(running.write_config_u8(0x40, 0), Err(ConfigError::OutOfBounds { offset: 0x40, width: 1, bytes: 0x40 }));
    assert_eq!(running.config_generation(), Some(7));
}

#[test]
fn features_without_registers_here_are_not_offered() {
    let fake = Fake::new(2).with(|device| device.features |= 1 << 38 | 1 << 39);
    let negotiation = begin(&fake).unwrap();
    assert_eq!(negotiation.offered() >> 38, 1);
    assert_eq!(negotiation.accept(VERSION_1 | 1 << 39).unwrap_err(), InitError::NotOffered { features: 1 << 39 });
}

#[test]
fn one_queue_is_reset_if_the_device_knows_how() {
    let resettable = |device: &mut common::Device| device.features |= 1 << 40;
    let fake = Fake::new(2).with(resettable);
    let mut running = run(&fake);
    fake.log();
    assert_eq!(running.reset_queue(0, &mut Spin), Ok(()));
    assert_eq!(fake.log(), [w(0x30, 0), w(0xc0, 1), w(0x30, 0), r(0xc0, 0), w(0x30, 0), r(0x44, 0)]);
    assert_eq!(running.enable_queue(&queue()), Ok(()));
    assert_eq!(running.enable_queue(&queue()), Err(QueueError::InUse { queue: 0 }));

    // One that offers the feature without having the register.
    let fake = Fake::new(2).with(resettable).with(|device| device.resets_queues = false);
    let mut running = run(&fake);
    assert_eq!(running.reset_queue(0, &mut Spin), Err(QueueResetError::StillInUse { queue: 0 }));

    // One that does not offer it, and a legacy one, are not asked.
    for version in [1, 2] {
        let fake = Fake::new(version);
        let mut running = run(&fake);
        fake.log();
        assert_eq!(running.reset_queue(0, &mut Spin), Err(QueueResetError::NotNegotiated));
        assert_eq!(fake.log(), []);
    }
}
