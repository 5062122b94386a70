//! Transfers from and to several buffers.

mod common;

use common::{Placed, defaults, few, open, pattern};
#[cfg(not(miri))]
use testing_device::BounceMemory;
use testing_device::{BlockDevice, IommuMemory, ScatterMemory, TestMemory};
use virtio_blk::{BlockFeatures, Error, Options};
use virtio_transport::Spin;

/// The lengths of buffers and the places where they begin. The lengths add up to whole sectors.
const LISTS: &[&[(usize, usize)]] = &[
    &[(512, 0)],
    &[(1, 4095), (511, 1)],
    &[(100, 0), (0, 5), (412, 4000)],
    &[(0, 0), (512, 100), (0, 1)],
    &[(256, 4000), (256, 4000), (512, 4000), (3, 1), (1021, 4090)],
    &[(513, 7), (511, 4090), (4096, 1), (1024, 4095)],
    #[cfg(not(miri))]
    &[(40_000, 13), (960, 4095), (20_000, 4001), (480, 0)],
];

fn buffers(list: &[(usize, usize)], filled: Option<&[u8]>) -> Vec<Placed> {
    let mut done = 0;
    list.iter()
        .map(|&(bytes, place)| {
            let mut buffer = Placed::new(place, bytes);
            if let Some(data) = filled {
                buffer.copy_from_slice(&data[done..done + bytes]);
            }
            done += bytes;
            buffer
        })
        .collect()
}

fn gathered_and_scattered<M: TestMemory>(memory: &M) {
    for (seed, list) in (1..).zip(LISTS) {
        for segments in few(1, [16, 2, 3]) {
            let device = BlockDevice::builder().build(memory);
            let mut disk = open(&device, memory, &Options { segments, queue_size: 16, ..defaults() });
            let bytes = list.iter().map(|buffer| buffer.0).sum::<usize>();
            let data = pattern(bytes, seed);

            let from = buffers(list, Some(&data));
            let slices: Vec<&[u8]> = from.iter().map(|buffer| &buffer[..]).collect();
            let written = disk.write_vectored(20, &slices, &mut Spin);
            // A sector in more pieces than a request may have is refused, as nothing can be done about it.
            if let Err(error) = written {
                assert_eq!(error, Error::TooManySegments { max: segments }, "{list:?}");
                assert!(segments < 6);
                continue;
            }
            assert!(device.read_disk(20, bytes / 512) == data, "{list:?}");

            let mut to = buffers(list, None);
            let mut slices: Vec<&mut [u8]> = to.iter_mut().map(|buffer| &mut buffer[..]).collect();
            disk.read_vectored(20, &mut slices, &mut Spin).unwrap();
            let read: Vec<u8> = to.iter().flat_map(|buffer| buffer.to_vec()).collect();
            assert!(read == data, "{list:?}");
            assert!(to.iter().all(Placed::rest_is_zero));
            drop(disk);
            device.assert_conformant();
            drop(device);
            memory.assert_clean();
        }
    }
}

#[test]
fn several_buffers_are_one_transfer_on_every_memory() {
    #[cfg(not(miri))]
    gathered_and_scattered(&ScatterMemory::new());
    gathered_and_scattered(&IommuMemory::new());
    #[cfg(not(miri))]
    gathered_and_scattered(&BounceMemory::new());
}

#[test]
fn buffers_that_fit_into_one_request_are_one_request() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let parts: Vec<_> = (0..4).map(|seed| Placed::filled(0, 128, seed)).collect();
    let slices: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
    disk.write_vectored(0, &slices, &mut Spin).unwrap();
    assert_eq!((device.counts().writes, device.counts().notifications), (1, 1));
    drop(disk);
    device.assert_conformant();
}

#[test]
fn lengths_count_together_and_not_each_by_itself() {
    let memory = ScatterMemory::new();
    let builder = BlockDevice::builder().config(|config| config.blk_size = 4096.into()).capacity(16);
    let device = builder.build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    let (a, b) = ([1; 1000], [2; 3096]);
    let unaligned = |bytes| Err(Error::UnalignedLength { bytes, block_bytes: 4096 });
    assert_eq!(disk.write_vectored(0, &[&a, &a], &mut Spin), unaligned(2000));
    assert_eq!(disk.write_vectored(0, &[&a[..999], &b], &mut Spin), unaligned(4095));
    let beyond = Err(Error::BeyondCapacity { sector: 8, sectors: 16, capacity_sectors: 16 });
    assert_eq!(disk.write_vectored(8, &[&a, &b, &b, &a], &mut Spin), beyond);
    assert_eq!(device.counts().requests(), 0);
    disk.write_vectored(8, &[&a, &b], &mut Spin).unwrap();
    assert_eq!(device.read_disk(8, 8), [&a[..], &b[..]].concat());
    drop(disk);
    device.assert_conformant();
}

#[test]
fn small_buffers_are_split_at_the_limit_of_segments() {
    let memory = IommuMemory::new();
    let device = BlockDevice::builder().config(|config| config.seg_max = 5.into()).build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    const SECTORS: usize = if cfg!(miri) { 3 } else { 10 };
    // Four pieces a sector, so that one sector fits into a request and two do not.
    let data = pattern(SECTORS * 512, 1);
    let parts = data.chunks(128).map(|chunk| {
        let mut part = Placed::new(64, 128);
        part.copy_from_slice(chunk);
        part
    });
    let parts: Vec<_> = parts.collect();
    let slices: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
    disk.write_vectored(3, &slices, &mut Spin).unwrap();
    assert!(device.read_disk(3, SECTORS) == data);
    assert_eq!(device.counts().writes, SECTORS as u64);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_read_only_disk_is_read_into_several_buffers() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().offer(BlockFeatures::RO.bits()).build(&memory);
    device.write_disk(1, &pattern(512, 3));
    let mut disk = open(&device, &memory, &defaults());
    let (mut a, mut b) = ([0; 12], [0; 500]);
    disk.read_vectored(1, &mut [&mut a, &mut b], &mut Spin).unwrap();
    assert_eq!([&a[..], &b[..]].concat(), pattern(512, 3));
    drop(disk);
    device.assert_conformant();
}
