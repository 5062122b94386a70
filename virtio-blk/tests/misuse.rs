//! What a caller does wrong: each has its error, and the device sees nothing of it.

mod common;

use common::{TestDisk, defaults, open, open_with};
use testing_device::{BlockDevice, Builder, ScatterMemory};
use virtio_blk::{BlockFeatures, CacheMode, Error, FeatureSet, Operation, Options};
use virtio_transport::{GaveUp, Spin};

/// A policy that is not to be asked.
fn never() -> Result<(), GaveUp> {
    panic!("there is nothing to wait for")
}

fn with_disk(builder: Builder, test: impl FnOnce(&mut TestDisk<ScatterMemory>)) {
    let memory = ScatterMemory::new();
    let device = builder.build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    test(&mut disk);
    assert_eq!((device.counts().notifications, device.counts().requests()), (0, 0), "the device saw nothing");
    assert_eq!(device.raw_ring(0).unwrap().available_idx().unwrap(), 0);
    // And it works nevertheless.
    let mut buffer = vec![0; disk.info().block_bytes as usize];
    disk.read(0, &mut buffer, &mut Spin).unwrap();
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

fn blocks_of(bytes: u32) -> Builder {
    BlockDevice::builder().config(|config| config.blk_size = bytes.into()).capacity(64)
}

#[test]
fn a_length_that_is_no_whole_sectors_is_refused() {
    with_disk(blocks_of(512), |disk| {
        for bytes in [1, 511, 513, 1000, 1025] {
            let expected = Err(Error::UnalignedLength { bytes, block_bytes: 512 });
            assert_eq!(disk.read(0, &mut vec![0; bytes], &mut never), expected);
            assert_eq!(disk.write(0, &vec![0; bytes], &mut never), expected);
        }
    });
}

#[test]
fn a_length_that_is_no_whole_blocks_is_refused() {
    with_disk(blocks_of(4096), |disk| {
        for bytes in [512, 2048, 4095, 4097, 4096 + 512] {
            let expected = Err(Error::UnalignedLength { bytes, block_bytes: 4096 });
            assert_eq!(disk.read(0, &mut vec![0; bytes], &mut never), expected);
            assert_eq!(disk.write(0, &vec![0; bytes], &mut never), expected);
        }
    });
}

#[test]
fn a_sector_inside_a_block_is_refused() {
    with_disk(blocks_of(4096), |disk| {
        for sector in [1, 4, 7, 9, 63, u64::MAX] {
            let expected = Err(Error::UnalignedSector { sector, block_sectors: 8 });
            assert_eq!(disk.read(sector, &mut [0; 4096], &mut never), expected);
            assert_eq!(disk.write(sector, &[0; 4096], &mut never), expected);
        }
    });
}

#[test]
fn what_lies_beyond_the_capacity_is_refused_also_where_numbers_end() {
    with_disk(blocks_of(512), |disk| {
        for (sector, sectors) in [
            (64, 1),
            (63, 2),
            (0, 65),
            (65, 1),
            (65, 0),
            (u64::MAX, 1),
            (u64::MAX, 2),
            (u64::MAX - 1, 2),
            (u64::MAX / 512, 1),
            (u64::MAX / 512 + 1, 1),
            (1 << 55, 8),
        ] {
            let expected = Err(Error::BeyondCapacity { sector, sectors, capacity_sectors: 64 });
            let bytes = sectors as usize * 512;
            assert_eq!(disk.read(sector, &mut vec![0; bytes], &mut never), expected);
            assert_eq!(disk.write(sector, &vec![0; bytes], &mut never), expected);
        }
    });
}

#[test]
fn the_last_sector_is_not_beyond_the_capacity() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().capacity(u64::MAX / 512).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let last = u64::MAX / 512 - 1;
    disk.write(last, &[7; 512], &mut Spin).unwrap();
    assert_eq!(device.read_disk(last, 1), [7; 512]);
    assert!(matches!(disk.write(last, &[7; 1024], &mut Spin), Err(Error::BeyondCapacity { sectors: 2, .. })));
    drop(disk);

    // More bytes than a number can hold.
    let device = BlockDevice::builder().capacity(u64::MAX).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    assert_eq!(disk.info().capacity_bytes(), u64::MAX);
    disk.write(u64::MAX - 9, &[8; 512], &mut Spin).unwrap();
    assert_eq!(device.read_disk(u64::MAX - 9, 1), [8; 512]);
}

#[test]
fn a_disk_without_sectors_has_no_first_one() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().capacity(0).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let expected = Err(Error::BeyondCapacity { sector: 0, sectors: 1, capacity_sectors: 0 });
    assert_eq!(disk.read(0, &mut [0; 512], &mut never), expected);
    disk.flush(&mut Spin).unwrap();
}

#[test]
fn a_write_to_a_read_only_disk_is_refused() {
    with_disk(blocks_of(512).read_only(), |disk| {
        assert!(disk.info().read_only);
        assert_eq!(disk.write(0, &[0; 512], &mut never), Err(Error::ReadOnly));
        assert_eq!(disk.write_vectored(0, &[&[0; 256], &[0; 256]], &mut never), Err(Error::ReadOnly));
    });
}

#[test]
fn a_flush_that_was_not_negotiated_is_refused() {
    let builder = blocks_of(512).withhold((BlockFeatures::FLUSH | BlockFeatures::CONFIG_WCE).bits());
    with_disk(builder, |disk| {
        let expected = Error::NotNegotiated { operation: Operation::Flush, feature: BlockFeatures::FLUSH.into() };
        assert_eq!(disk.flush(&mut never), Err(expected));
        assert_eq!(disk.queue().submit_flush(), Err(expected));
    });
}

#[test]
fn a_flush_that_the_options_forbid_is_refused() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let forbid = FeatureSet::from(BlockFeatures::FLUSH) | BlockFeatures::CONFIG_WCE;
    let mut disk = open(&device, &memory, &Options { forbid, ..defaults() });
    assert!(matches!(disk.flush(&mut never), Err(Error::NotNegotiated { .. })));
    assert_eq!(disk.cache_mode(), Ok(CacheMode::WriteThrough));
}

#[test]
fn a_cache_mode_that_cannot_be_changed_is_not() {
    with_disk(blocks_of(512).withhold(BlockFeatures::CONFIG_WCE.bits()), |disk| {
        for mode in [CacheMode::WriteBack, CacheMode::WriteThrough] {
            let Err(Error::NotNegotiated { feature, .. }) = disk.set_cache_mode(mode, &mut never) else {
                panic!("not refused");
            };
            assert_eq!(feature, BlockFeatures::CONFIG_WCE.into());
        }
        assert_eq!(disk.cache_mode(), Ok(CacheMode::WriteBack));
    });
}

#[test]
fn an_empty_transfer_is_done_without_the_device() {
    with_disk(blocks_of(512), |disk| {
        assert_eq!(disk.read(3, &mut [], &mut never), Ok(()));
        assert_eq!(disk.write(64, &[], &mut never), Ok(()));
        assert_eq!(disk.read_vectored(3, &mut [], &mut never), Ok(()));
        assert_eq!(disk.write_vectored(3, &[&[], &[]], &mut never), Ok(()));
    });
}

#[test]
fn misuse_of_a_queue_gives_the_buffer_back() {
    let memory = ScatterMemory::new();
    let device = blocks_of(4096).build(&memory);
    let mut disk: TestDisk<_, &'static mut [u8]> = open_with(&device, &memory, &defaults());
    let queue = disk.queue();
    for (sector, bytes, expected) in [
        (0, 0, Error::Empty),
        (0, 100, Error::UnalignedLength { bytes: 100, block_bytes: 4096 }),
        (0, 512, Error::UnalignedLength { bytes: 512, block_bytes: 4096 }),
        (1, 4096, Error::UnalignedSector { sector: 1, block_sectors: 8 }),
        (64, 4096, Error::BeyondCapacity { sector: 64, sectors: 8, capacity_sectors: 64 }),
        (u64::MAX - 7, 4096, Error::BeyondCapacity { sector: u64::MAX - 7, sectors: 8, capacity_sectors: 64 }),
    ] {
        let mut buffer = vec![0xab_u8; bytes].leak();
        let address = buffer.as_ptr();
        for write in [true, false] {
            let rejected = if write { queue.submit_write(sector, buffer) } else { queue.submit_read(sector, buffer) };
            let rejected = rejected.unwrap_err();
            assert_eq!((rejected.error, rejected.buffer.as_ptr(), rejected.buffer.len()), (expected, address, bytes));
            assert!(rejected.buffer.iter().all(|byte| *byte == 0xab));
            buffer = rejected.buffer;
        }
        // SAFETY: it was leaked above, with the capacity of its length.
        drop(unsafe { Vec::from_raw_parts(buffer.as_mut_ptr(), bytes, bytes) });
    }
    assert_eq!((queue.in_flight(), queue.commit()), (0, false));
    assert_eq!(device.counts().requests(), 0);
}

#[test]
fn errors_name_what_was_found_and_what_was_expected() {
    let text = Error::BeyondCapacity { sector: 11, sectors: 22, capacity_sectors: 33 }.to_string();
    assert!(text.contains("11") && text.contains("22") && text.contains("33"), "{text}");
    let text = Error::UnalignedLength { bytes: 100, block_bytes: 4096 }.to_string();
    assert!(text.contains("100") && text.contains("4096"), "{text}");
    let text = Error::UnalignedSector { sector: 3, block_sectors: 8 }.to_string();
    assert!(text.contains('3') && text.contains('8'), "{text}");
    let feature = FeatureSet::from(BlockFeatures::FLUSH);
    let text = Error::NotNegotiated { operation: Operation::Flush, feature }.to_string();
    assert!(text.contains("flush") && text.contains("FLUSH"), "{text}");
}
