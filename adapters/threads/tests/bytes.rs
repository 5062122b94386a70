//! Reads and writes of any bytes, against an array of bytes.

mod common;

use common::{TestDisk, defaults, open, pattern, polled};
use proptest::prelude::*;
use testing_device::{BlockDevice, ScatterMemory};
use virtio_blk::{BlockFeatures, Error, Options};
use virtio_blk_threads::Polling;

/// The size of the disk in bytes.
const BYTES: usize = 64 << 10;

#[derive(Clone, Debug)]
enum Call {
    Read { offset: usize, bytes: usize },
    Write { offset: usize, bytes: usize, seed: u64 },
    Flush,
}

fn call() -> impl Strategy<Value = Call> {
    // Near the start of a block, anywhere, around the end of the disk and behind it.
    let offset = prop_oneof![
        (0..BYTES / 512, 0..3_usize).prop_map(|(block, more)| block * 512 + more),
        0..BYTES,
        BYTES - 600..BYTES + 600,
        Just(usize::MAX / 2),
    ];
    let bytes = prop_oneof![0..4_usize, 500..530_usize, 0..9000_usize, Just(4096), Just(8192)];
    (offset, bytes, any::<u64>(), 0..7_u8).prop_map(|(offset, bytes, seed, kind)| match kind {
        0 => Call::Flush,
        1..=3 => Call::Read { offset, bytes },
        _ => Call::Write { offset, bytes, seed },
    })
}

fn check(calls: &[Call], device: &BlockDevice, disk: &TestDisk<Polling>) {
    let mut model = pattern(BYTES, 1);
    device.write_disk(0, &model);
    for call in calls {
        match *call {
            Call::Read { offset, bytes } => {
                let wanted = model.get(offset.min(BYTES)..offset.saturating_add(bytes).min(BYTES)).unwrap();
                let mut found = vec![0xee; bytes];
                assert_eq!(disk.read_at(offset as u64, &mut found), Ok(wanted.len()));
                assert!(found[..wanted.len()] == *wanted, "{call:?}");
                assert!(found[wanted.len()..].iter().all(|&byte| byte == 0xee), "{call:?} went beyond the disk");
            }
            Call::Write { offset, bytes, seed } => {
                let data = pattern(bytes, seed);
                let target = model.get_mut(offset.min(BYTES)..offset.saturating_add(bytes).min(BYTES)).unwrap();
                assert_eq!(disk.write_at(offset as u64, &data), Ok(target.len()));
                let end = target.len();
                target.copy_from_slice(&data[..end]);
            }
            Call::Flush => disk.flush().unwrap(),
        }
    }
    assert!(device.read_disk(0, BYTES / 512) == model);
    device.assert_conformant();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 150 }, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_bytes_as_in_an_array(
        calls in prop::collection::vec(call(), 1..if cfg!(miri) { 4 } else { 40 }),
        large_blocks: bool,
        segments in 1..6_u16,
    ) {
        let memory = ScatterMemory::new();
        let mut builder = BlockDevice::builder().capacity(BYTES as u64 / 512);
        if large_blocks {
            builder = builder.offer(BlockFeatures::BLK_SIZE.bits()).config(|config| config.blk_size = 4096.into());
        }
        let device = builder.build(&memory);
        // Two pieces at least: a block of 4096 bytes of a buffer may cross a page.
        let options = Options { segments: segments.max(if large_blocks { 2 } else { 1 }), ..defaults() };
        let disk = open(&device, &memory, Polling::default(), &options);
        // A sector that crosses a page does not fit into a request of one piece: not a case here.
        if segments > 1 || large_blocks {
            check(&calls, &device, &disk);
        }
        drop(disk);
        memory.assert_clean();
    }
}

#[test]
#[cfg(not(miri))]
fn ends_take_a_request_each_and_the_middle_is_not_cut() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().capacity(2048).build(&memory);
    let disk = open(&device, &memory, Polling::default(), &Options { segments: 64, ..defaults() });
    let mut buffer = vec![0; 100 << 10];
    disk.read_at(1000, &mut buffer).unwrap();
    assert_eq!(device.counts().reads, 3);
    disk.write_at(1000, &buffer).unwrap();
    assert_eq!((device.counts().reads, device.counts().writes), (5, 3));
    disk.read_at(4096, &mut buffer).unwrap();
    assert_eq!(device.counts().reads, 6);
}

#[test]
fn a_read_only_disk_is_not_even_read_for_a_write() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().capacity(16).read_only().build(&memory);
    let disk = polled(&device, &memory);
    assert_eq!(disk.write_at(7, &[1]), Err(Error::ReadOnly));
    assert_eq!(disk.write_at(512, &[1; 1024]), Err(Error::ReadOnly));
    assert_eq!(device.counts().requests(), 0);
    assert_eq!(disk.read_at(7, &mut [0]), Ok(1));
}

#[test]
fn whole_sectors_are_refused_beyond_the_end_and_in_part() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().capacity(16).build(&memory);
    let disk = polled(&device, &memory);
    let beyond = Error::BeyondCapacity { sector: 15, sectors: 2, capacity_sectors: 16 };
    assert_eq!(disk.read(15, &mut [0; 1024]), Err(beyond));
    assert_eq!(disk.write(15, &[0; 1024]), Err(beyond));
    assert_eq!(disk.read(0, &mut [0; 100]), Err(Error::UnalignedLength { bytes: 100, block_bytes: 512 }));
    assert_eq!(disk.read(0, &mut []), Ok(()));
    assert_eq!(device.counts().requests(), 0);
}

#[test]
fn a_buffer_in_more_pieces_than_a_request_has_is_split() {
    const SECTORS: u64 = if cfg!(miri) { 64 } else { 2048 };
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().capacity(SECTORS).build(&memory);
    let wanted = pattern(SECTORS as usize * 512, 3);
    device.write_disk(0, &wanted);
    let disk = open(&device, &memory, Polling::default(), &Options { segments: 5, ..defaults() });
    let mut found = vec![0; wanted.len()];
    disk.read(0, &mut found).unwrap();
    assert!(found == wanted);
    // Of two pages at least.
    assert!(device.counts().reads <= SECTORS / 16, "{} requests", device.counts().reads);
}
