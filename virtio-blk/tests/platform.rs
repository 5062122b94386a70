//! A device that reaches memory as the platform says (ACCESS_PLATFORM), and works in no other way.

mod common;

use common::{defaults, open, pattern, try_open};
use testing_device::{BlockDevice, IommuMemory};
use virtio_blk::{FeatureSet, Features, OpenError, Options};
use virtio_transport::{InitError, Spin};

const PLATFORM: Features = Features::ACCESS_PLATFORM;

#[test]
fn what_is_written_through_an_iommu_is_read_back() {
    let memory = IommuMemory::new();
    let device = BlockDevice::builder().require(PLATFORM.bits()).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    assert!(disk.info().features.contains(PLATFORM));

    let data = pattern(9 * 512, 7);
    disk.write(3, &data, &mut Spin).unwrap();
    assert_eq!(device.read_disk(3, 9), data);
    let mut back = vec![0; data.len()];
    disk.read(3, &mut back, &mut Spin).unwrap();
    assert_eq!(back, data);
    drop(disk);
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
}

#[test]
fn the_device_may_insist_on_it() {
    let memory = IommuMemory::new();
    let device = BlockDevice::builder().require(PLATFORM.bits()).build(&memory);
    let options = Options { forbid: FeatureSet::from(PLATFORM), ..defaults() };
    match try_open(&device, &memory, &options) {
        Err(OpenError::Init(InitError::FeaturesRefused { features })) => {
            assert!(!FeatureSet::from_bits(features).contains(PLATFORM));
        }
        other => panic!("expected a refusal, found {:?}", other.map(drop)),
    }
}
