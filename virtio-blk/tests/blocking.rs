//! Calls that block, on every memory, both interfaces, both implementations of the ring and every shape of a queue.

mod common;

use common::{Placed, defaults, few, open, pattern};
use testing_device::{BlockDevice, Builder, Interface, IommuMemory, Mode, Order, ScatterMemory, TestMemory};
#[cfg(not(miri))]
use testing_device::{BounceMemory, Mover};
use virtio_blk::{Features, Options};
use virtio_transport::Spin;

/// Sector, number of sectors, and where in its page the buffer begins.
const TRANSFERS: &[(u64, usize, usize)] = if cfg!(miri) {
    &[(0, 1, 0), (7, 3, 4095)]
} else {
    &[
        (0, 1, 0),
        (4095, 1, 4095),
        (7, 3, 1),
        (8, 8, 0),
        (9, 8, 3584),
        (17, 9, 3585),
        (100, 64, 511),
        (1000, 65, 2048),
        (2000, 400, 4093),
        (3000, 257, 0),
    ]
};

fn round_trip<M: TestMemory>(builder: Builder, memory: &M, options: &Options) {
    let device = builder.capacity(4096).build(memory);
    let mut disk = open(&device, memory, options);
    assert_eq!(disk.info().capacity_sectors, 4096);
    for &(sector, sectors, place) in TRANSFERS {
        let data = Placed::filled(place, sectors * 512, sector + 1);
        disk.write(sector, &data, &mut Spin).unwrap();
        assert!(device.read_disk(sector, sectors) == pattern(sectors * 512, sector + 1), "sector {sector}");
        assert!(data[..] == pattern(sectors * 512, sector + 1), "a write leaves its buffer as it is");

        let disk_bytes = pattern(sectors * 512, !sector);
        device.write_disk(sector, &disk_bytes);
        let mut back = Placed::new((place * 3 + 5) % 4096, sectors * 512);
        disk.read(sector, &mut back, &mut Spin).unwrap();
        assert!(back[..] == disk_bytes, "sector {sector}");
        assert!(back.rest_is_zero(), "nothing around the buffer was written");
    }
    disk.flush(&mut Spin).unwrap();
    let counts = device.counts();
    let sectors: usize = TRANSFERS.iter().map(|transfer| transfer.1).sum();
    assert_eq!((counts.sectors_read, counts.sectors_written), (sectors as u64, sectors as u64));
    assert_eq!((counts.flushes, counts.failures, counts.needless_notifications), (1, 0, 0));
    drop(disk);
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
}

/// Every interface, ring feature and size of queue.
fn shapes(mut test: impl FnMut(Builder, &Options)) {
    let sizes: &[u16] = if cfg!(miri) { &[4] } else { &[4, 16, 256] };
    for interface in [Interface::Modern, Interface::Legacy] {
        for without in [
            Features::empty(),
            Features::INDIRECT_DESC | Features::EVENT_IDX,
            #[cfg(not(miri))]
            Features::INDIRECT_DESC,
            #[cfg(not(miri))]
            Features::EVENT_IDX,
        ] {
            for &queue_size in sizes {
                let builder = BlockDevice::builder().interface(interface).withhold(without.bits());
                test(builder, &Options { queue_size, ..defaults() });
            }
        }
    }
}

#[test]
fn what_is_written_is_read_back_from_scattered_memory() {
    shapes(|builder, options| round_trip(builder, &ScatterMemory::new(), options));
}

#[test]
fn what_is_written_is_read_back_behind_an_iommu() {
    shapes(|builder, options| round_trip(builder, &IommuMemory::new(), options));
}

#[test]
#[cfg(not(miri))]
fn what_is_written_is_read_back_through_bounce_buffers() {
    shapes(|builder, options| round_trip(builder, &BounceMemory::new(), options));
}

#[test]
#[cfg(not(miri))]
fn what_is_written_is_read_back_from_a_ring_that_others_wrote() {
    shapes(|builder, options| round_trip(builder.mover(Mover::RustVmm), &BounceMemory::new(), options));
}

#[test]
fn the_device_decides_the_size_of_the_queue_where_it_allows_less() {
    for (max, wanted, expected) in
        few(1, [(4, 4, 4), (256, 128, 128), (64, 128, 64), (1024, 1000, 512), (100, 100, 64)])
    {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().queue_size_max(max).build(&memory);
        let mut disk = open(&device, &memory, &Options { queue_size: wanted, ..defaults() });
        assert_eq!((disk.queue().size(), device.queue_size(0)), (expected, Some(expected)));
        disk.write(1, &pattern(512, 1), &mut Spin).unwrap();
        assert_eq!(device.read_disk(1, 1), pattern(512, 1));
        drop(disk);
        memory.assert_clean();
    }
}

#[test]
fn parts_of_a_transfer_may_be_done_in_any_order() {
    const SECTORS: usize = if cfg!(miri) { 24 } else { 100 };
    for order in few(1, [Order::Shuffled(5), Order::Lifo, Order::Shuffled(77)]) {
        let memory = IommuMemory::new();
        let device = BlockDevice::builder().build(&memory);
        let mut disk = open(&device, &memory, &Options { segments: 2, ..defaults() });
        device.faults(|faults| faults.order = order);
        let data = Placed::filled(17, SECTORS * 512, 3);
        disk.write(5, &data, &mut Spin).unwrap();
        assert!(device.read_disk(5, SECTORS) == data[..]);
        let mut back = Placed::new(1, SECTORS * 512);
        disk.read(5, &mut back, &mut Spin).unwrap();
        assert!(back[..] == data[..]);
        assert!(device.counts().depth > 1);
        drop(disk);
        memory.assert_clean();
    }
}

#[test]
fn the_policy_is_asked_while_the_device_is_busy_and_not_when_it_is_done() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let mut asked = 0;
    let mut policy = || {
        asked += 1;
        if asked % 3 == 0 {
            device.run();
        }
        Ok(())
    };
    disk.write(1, &pattern(512, 1), &mut policy).unwrap();
    disk.flush(&mut policy).unwrap();
    disk.device_id(&mut policy).unwrap();
    assert_eq!(asked, 9);
    assert_eq!(device.read_disk(1, 1), pattern(512, 1));
    drop(disk);
    device.assert_conformant();
}

#[test]
fn a_device_that_wants_no_notifications_gets_none() {
    for without in [Features::empty(), Features::EVENT_IDX] {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().withhold(without.bits()).build(&memory);
        let mut disk = open(&device, &memory, &defaults());
        device.want_notifications(false);
        let mut policy = || {
            device.run();
            Ok(())
        };
        let count = if cfg!(miri) { 3 } else { 10 };
        for sector in 0..count {
            disk.write(sector, &pattern(512, sector), &mut policy).unwrap();
        }
        assert_eq!((device.counts().notifications, device.counts().writes), (0, count));
        drop(disk);
        device.assert_conformant();
    }
}

#[test]
fn notifications_carry_the_index_where_that_was_negotiated() {
    let memory = ScatterMemory::new();
    const COUNT: u64 = if cfg!(miri) { 6 } else { 50 };
    let device = BlockDevice::builder().offer(Features::NOTIFICATION_DATA.bits()).build(&memory);
    let mut disk = open(&device, &memory, &Options { queue_size: 4, ..defaults() });
    assert!(disk.info().features.contains(Features::NOTIFICATION_DATA));
    for sector in 0..COUNT {
        disk.write(sector, &pattern(512, sector), &mut Spin).unwrap();
    }
    assert_eq!(device.counts().notifications, COUNT);
    drop(disk);
    device.assert_conformant();
}

#[test]
#[cfg(not(miri))]
fn a_disk_works_beyond_the_end_of_the_rings_index() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &Options { queue_size: 8, ..defaults() });
    for turn in 0..66_000_u64 {
        if turn % 1000 == 0 || turn > 65_530 {
            let data = pattern(512, turn);
            disk.write(turn % 2048, &data, &mut Spin).unwrap();
            assert!(device.read_disk(turn % 2048, 1) == data, "request {turn}");
        } else {
            disk.flush(&mut Spin).unwrap();
        }
    }
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}
