//! Configuration fields that belong together.

mod common;

use common::{Access, Fake, r};
use virtio_transport::{CONFIG_READ_ATTEMPTS, ConfigError, Mmio, read_config};

fn probe(fake: &Fake) -> Mmio<Fake> {
    let device = Mmio::probe(fake.clone()).unwrap().unwrap();
    fake.log();
    device
}

#[test]
fn a_quiet_modern_device_is_read_once() {
    let fake = Fake::new(2);
    let device = probe(&fake);
    assert_eq!(read_config(&device, |config| config.u64(8)), Ok(0x0f0e_0d0c_0b0a_0908));
    assert_eq!(fake.log(), [r(0xfc, 7), r(0x108, 0x0b0a_0908), r(0x10c, 0x0f0e_0d0c), r(0xfc, 7)]);
}

#[test]
fn each_field_has_its_width() {
    let fake = Fake::new(2);
    let device = probe(&fake);
    let read = read_config(&device, |config| Ok((config.u8(1)?, config.u16(2)?, config.u32(4)?)));
    assert_eq!(read, Ok((1, 0x0302, 0x0706_0504)));
    assert_eq!(
        fake.log(),
        [r(0xfc, 7), Access('r', 1, 0x101, 1), Access('r', 2, 0x102, 0x0302), r(0x104, 0x0706_0504), r(0xfc, 7)]
    );
}

#[test]
fn a_generation_that_changes_is_read_again() {
    // What was read under generations 7 to 8 and 8 to 9 is thrown away.
    let fake = Fake::new(2).with(|device| {
        device.generations = [7, 8, 9, 9].into();
        device.config_changes = 2;
    });
    let device = probe(&fake);
    assert_eq!(read_config(&device, |config| config.u8(0)), Ok(2));
    assert_eq!(
        fake.log(),
        [
            r(0xfc, 7),
            Access('r', 1, 0x100, 0),
            r(0xfc, 8),
            Access('r', 1, 0x100, 1),
            r(0xfc, 9),
            Access('r', 1, 0x100, 2),
            r(0xfc, 9),
        ]
    );
}

#[test]
fn a_generation_that_never_rests_is_an_error() {
    for changes in [CONFIG_READ_ATTEMPTS as u32 - 1, CONFIG_READ_ATTEMPTS as u32] {
        let fake = Fake::new(2).with(|device| device.generations = (0..=changes).collect());
        let read = read_config(&probe(&fake), |config| config.u8(0));
        if changes < CONFIG_READ_ATTEMPTS as u32 {
            assert_eq!(read, Ok(0));
        } else {
            assert_eq!(read, Err(ConfigError::Unstable { attempts: CONFIG_READ_ATTEMPTS }));
        }
    }
}

#[test]
fn a_legacy_device_is_read_until_two_reads_agree() {
    let fake = Fake::new(1);
    let device = probe(&fake);
    assert_eq!(read_config(&device, |config| config.u8(3)), Ok(3));
    assert_eq!(fake.log(), [Access('r', 1, 0x103, 3); 2]);

    fake.0.borrow_mut().config_changes = 3;
    assert_eq!(read_config(&device, |config| config.u8(0)), Ok(3));
    assert_eq!(fake.log(), [0, 1, 2, 3, 3].map(|value| Access('r', 1, 0x100, value)));

    let fake = fake.with(|device| device.config_changes = CONFIG_READ_ATTEMPTS as u32);
    assert_eq!(
        read_config(&probe(&fake), |config| config.u8(0)),
        Err(ConfigError::Unstable { attempts: CONFIG_READ_ATTEMPTS })
    );
    assert_eq!(fake.log().len(), CONFIG_READ_ATTEMPTS);
}

#[test]
fn nothing_outside_or_unaligned() {
    let fake = Fake::new(2);
    let device = probe(&fake);
    for (offset, width) in [(0x40, 1), (0x3f, 2), (0x3d, 4), (0x3c, 8), (usize::MAX, 1), (usize::MAX, 8)] {
        let read = read_config(&device, |config| match width {
            1 => config.u8(offset).map(u64::from),
            2 => config.u16(offset).map(u64::from),
            4 => config.u32(offset).map(u64::from),
            _ => config.u64(offset),
        });
        assert!(matches!(read, Err(ConfigError::OutOfBounds { bytes: 0x40, .. })), "{offset} {width}: {read:?}");
    }
    assert_eq!(read_config(&device, |config| config.u16(3)), Err(ConfigError::Unaligned { offset: 3, width: 2 }));
    assert_eq!(read_config(&device, |config| config.u64(2)), Err(ConfigError::Unaligned { offset: 2, width: 4 }));
    assert!(read_config(&device, |config| config.u64(4)).is_ok());
}
