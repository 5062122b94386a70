//! Calls that block, on every memory, both interfaces and both implementations of the ring.

use testing_device::{BlockDevice, Builder, DeviceRegisters, Interface, IommuMemory, ScatterMemory, TestMemory};
use virtio_blk::{Disk, Options};
use virtio_transport::{Mmio, Spin};

fn open<M: TestMemory>(device: &BlockDevice, memory: &M, options: &Options) -> Disk<Mmio<DeviceRegisters>, M> {
    let transport = Mmio::probe(device.registers()).unwrap().expect("a device");
    Disk::open(transport, memory.clone(), options, &mut Spin).unwrap()
}

fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|index| (index as u8).wrapping_mul(31).wrapping_add((index >> 8) as u8) ^ seed).collect()
}

fn round_trip<M: TestMemory>(builder: Builder, memory: &M) {
    let device = builder.capacity(4096).build(memory);
    let mut disk = open(&device, memory, &Options::default());
    assert_eq!(disk.info().capacity_sectors, 4096);
    for (sector, sectors) in [(0, 1), (7, 3), (100, 400), (4095, 1)] {
        let data = pattern(sectors * 512, sector as u8);
        disk.write(sector, &data, &mut Spin).unwrap();
        assert_eq!(device.read_disk(sector, sectors), data);
        let mut back = vec![0; data.len()];
        disk.read(sector, &mut back, &mut Spin).unwrap();
        assert!(back == data, "sector {sector}");
    }
    disk.flush(&mut Spin).unwrap();
    assert_eq!(device.counts().flushes, 1);
    drop(disk);
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
}

#[test]
fn what_is_written_is_read_back() {
    for interface in [Interface::Modern, Interface::Legacy] {
        let builder = BlockDevice::builder().interface(interface);
        round_trip(builder.clone(), &ScatterMemory::new());
        round_trip(builder, &IommuMemory::new());
    }
}
