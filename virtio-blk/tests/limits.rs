//! What the device allows in one request, and how a transfer becomes several.

mod common;

use common::{Placed, defaults, open, open_with, pattern};
use testing_device::{BlockDevice, Builder, IommuMemory, ScatterMemory, TestMemory};
use virtio_blk::{BlockFeatures, Error, Options};
use virtio_transport::{Spin, SpinLimit};

fn limited(size_max: Option<u32>, seg_max: Option<u32>) -> Builder {
    let mut builder = BlockDevice::builder().config(|config| {
        config.size_max = size_max.unwrap_or(0).into();
        config.seg_max = seg_max.unwrap_or(0).into();
    });
    if size_max.is_some() {
        builder = builder.offer(BlockFeatures::SIZE_MAX.bits());
    }
    if seg_max.is_none() {
        builder = builder.withhold(BlockFeatures::SEG_MAX.bits());
    }
    builder
}

/// Writes and reads a buffer that starts at a page; returns how many requests the write took, and the most in flight.
#[track_caller]
fn requests<M: TestMemory>(builder: Builder, memory: &M, options: &Options, sectors: usize) -> (u64, u64) {
    let device = builder.build(memory);
    let mut disk = open(&device, memory, options);
    let data = Placed::filled(0, sectors * 512, 9);
    disk.write(8, &data, &mut Spin).unwrap();
    assert!(device.read_disk(8, sectors) == data[..]);
    let (writes, depth) = (device.counts().writes, device.counts().depth);
    let mut back = Placed::new(0, sectors * 512);
    disk.read(8, &mut back, &mut Spin).unwrap();
    assert!(back[..] == data[..]);
    assert_eq!(device.counts().reads, writes, "a read is split as a write is");
    assert_eq!(device.counts().sectors_read, sectors as u64);
    drop(disk);
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
    (writes, depth)
}

#[test]
fn a_transfer_is_split_at_the_limits_and_its_parts_are_in_flight_together() {
    let wide = Options { segments: 64, ..defaults() };
    // 64 sectors in 8 pages.
    for (size_max, seg_max, options, expected) in [
        (None, Some(254), wide, 1),
        (Some(0), Some(254), wide, 1),
        (None, Some(8), wide, 1),
        (Some(4096), Some(4), wide, 2),
        (Some(2048), Some(4), wide, 4),
        (Some(512), Some(4), wide, 16),
        // One segment: a page at a time.
        (Some(4096), Some(1), wide, 8),
        (Some(4096), None, wide, 8),
        (Some(4096), Some(0), wide, 8),
        (Some(512), Some(1), wide, 64),
        (Some(512), None, wide, 64),
        // 1000 bytes a segment are 512 in a request of one.
        (Some(1000), Some(1), wide, 64),
        // The options allow less than the device.
        (Some(4096), Some(254), Options { segments: 2, ..wide }, 4),
        (Some(4096), Some(254), Options { segments: 1, ..wide }, 8),
        (Some(4096), Some(254), Options { segments: 0, ..wide }, 8),
    ] {
        // Under Miri the queue is smaller, and patience too.
        if cfg!(miri) && expected != 2 {
            continue;
        }
        let memory = ScatterMemory::new();
        let found = requests(limited(size_max, seg_max), &memory, &options, 64);
        assert_eq!(found, (expected, expected), "size_max {size_max:?}, seg_max {seg_max:?}");
    }
}

#[test]
fn without_a_size_limit_a_transfer_is_split_where_its_pieces_are_too_many() {
    for size_max in [None, Some(0), Some(u32::MAX)].into_iter().skip(if cfg!(miri) { 2 } else { 0 }) {
        let wide = Options { segments: 64, ..defaults() };
        let (writes, depth) = requests(limited(size_max, Some(4)), &ScatterMemory::new(), &wide, 64);
        // Four pages a request, or three where one is kept in reserve for a buffer that begins inside a page.
        assert!((2..=3).contains(&writes) && depth == writes, "{writes} requests, {depth} in flight");
    }
}

#[test]
fn a_queue_that_is_too_small_for_all_parts_is_kept_full() {
    let options = Options { queue_size: 4, ..defaults() };
    let (writes, depth) = requests(limited(Some(512), Some(1)), &IommuMemory::new(), &options, 10);
    assert_eq!((writes, depth), (10, 4));
    // A chain is no longer than the queue, whatever the device allows: two segments beside header and status.
    let (writes, depth) = requests(limited(Some(4096), Some(254)), &IommuMemory::new(), &options, 64);
    assert_eq!((writes, depth), (4, 4));
}

#[test]
fn one_segment_without_a_size_limit_is_enough_for_any_transfer_of_contiguous_blocks() {
    for seg_max in [None, Some(0), Some(1)].into_iter().skip(if cfg!(miri) { 2 } else { 0 }) {
        let memory = ScatterMemory::new();
        let device = limited(None, seg_max).build(&memory);
        let mut disk = open(&device, &memory, &defaults());
        assert_eq!((disk.info().seg_max, disk.queue().segments()), (1, 1));
        let data = Placed::filled(0, 16 * 512, 1);
        disk.write(0, &data, &mut Spin).unwrap();
        assert!(device.read_disk(0, 16) == data[..]);
        drop(disk);
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn segment_sizes_that_fit_no_sector_are_added_up() {
    const SECTORS: usize = if cfg!(miri) { 9 } else { 40 };
    let (sizes, places): (&[u32], &[usize]) =
        if cfg!(miri) { (&[300], &[4095]) } else { (&[1000, 513, 300, 100, 64], &[0, 1, 4095]) };
    for &size_max in sizes {
        for &place in places {
            let memory = ScatterMemory::new();
            let device = limited(Some(size_max), Some(30)).build(&memory);
            let mut disk = open(&device, &memory, &Options { segments: 30, ..defaults() });
            assert_eq!(disk.info().size_max_bytes, Some(size_max));
            let data = Placed::filled(place, SECTORS * 512, size_max.into());
            disk.write(3, &data, &mut Spin).unwrap();
            assert!(device.read_disk(3, SECTORS) == data[..], "size_max {size_max}");
            let mut back = Placed::new(place, SECTORS * 512);
            disk.read(3, &mut back, &mut Spin).unwrap();
            assert!(back[..] == data[..], "size_max {size_max}");
            drop(disk);
            device.assert_conformant();
            memory.assert_clean();
        }
    }
}

#[test]
fn a_block_in_more_pieces_than_a_request_may_have_is_refused() {
    let memory = ScatterMemory::new();
    let device = limited(None, Some(1)).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let mut crossing = Placed::new(4096 - 256, 512);
    let expected = Err(Error::TooManySegments { max: 1 });
    assert_eq!(disk.read(0, &mut crossing, &mut Spin), expected);
    assert_eq!(disk.write(0, &crossing, &mut Spin), expected);
    let (a, b) = (Placed::new(0, 256), Placed::new(0, 256));
    assert_eq!(disk.write_vectored(0, &[&a, &b], &mut Spin), expected);
    assert_eq!((device.counts().requests(), device.counts().notifications), (0, 0));
    // The queue is as it was.
    disk.write(0, &Placed::filled(0, 512, 4), &mut Spin).unwrap();
    assert_eq!(device.read_disk(0, 1), pattern(512, 4));
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_device_whose_segments_do_not_add_up_to_a_block_gets_no_request() {
    for (size_max, seg_max, blk_size, max) in [(256, 1, 512, 1), (1, 1, 512, 1), (100, 5, 512, 5), (512, 4, 4096, 4)] {
        let memory = ScatterMemory::new();
        let device = limited(Some(size_max), Some(seg_max)).config(|config| config.blk_size = blk_size.into());
        let device = device.build(&memory);
        let mut disk = open(&device, &memory, &defaults());
        // A driver that goes round in circles is stopped.
        device.faults(|faults| faults.hold = true);
        let mut buffer = Placed::new(0, blk_size as usize);
        let error = disk.read(0, &mut buffer, &mut SpinLimit { looks: 1000 });
        assert_eq!(error, Err(Error::TooManySegments { max }), "size_max {size_max}, seg_max {seg_max}");
        assert_eq!(device.counts().notifications, 0);
        drop(disk);
        device.assert_conformant();
    }
}

#[test]
fn large_blocks_are_never_split() {
    let memory = ScatterMemory::new();
    let builder = limited(Some(4096), Some(3)).config(|config| config.blk_size = 8192.into());
    let device = builder.build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    assert_eq!((disk.info().block_bytes, disk.info().block_sectors()), (8192, 16));
    // Three segments have 12288 bytes at the most: one block of 8192.
    let data = Placed::filled(100, 4 * 8192, 6);
    disk.write(16, &data, &mut Spin).unwrap();
    assert!(device.read_disk(16, 64) == data[..]);
    assert_eq!((device.counts().writes, device.counts().sectors_written), (4, 64));
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_submitted_request_is_never_split_and_says_how_many_segments_there_may_be() {
    let memory = ScatterMemory::new();
    let device = limited(Some(4096), Some(3)).build(&memory);
    let mut disk: common::TestDisk<_, &'static mut [u8]> = open_with(&device, &memory, &defaults());
    assert_eq!(disk.queue().segments(), 3);
    let bytes = 4 * 4096 + 512;
    let buffer = vec![5_u8; bytes].leak();
    let rejected = disk.queue().submit_write(0, buffer).unwrap_err();
    assert_eq!((rejected.error, rejected.buffer.len()), (Error::TooManySegments { max: 3 }, bytes));
    assert_eq!((disk.queue().in_flight(), disk.queue().commit()), (0, false));
    // SAFETY: it was leaked above, with the capacity of its length.
    drop(unsafe { Vec::from_raw_parts(rejected.buffer.as_mut_ptr(), bytes, bytes) });
    drop(disk);
    memory.assert_clean();
}
