//! Random histories of a disk, held against a plain vector of bytes.

mod common;

use common::{Counted, Placed, defaults, pattern, transport};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
#[cfg(not(miri))]
use testing_device::BounceMemory;
use testing_device::{BlockDevice, Builder, DeviceRegisters, Interface, IommuMemory, Order, ScatterMemory, TestMemory};
use virtio_blk::{BlockFeatures, Disk, Either, Features, Options, Packed, RingFormat, Split};
use virtio_transport::{Mmio, Spin};

const SECTORS: u64 = if cfg!(miri) { 32 } else { 256 };

/// How many requests are polled at the most: there is room for others beside them.
const POLLED: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    Read { at: prop::sample::Index, blocks: usize, place: usize },
    Write { at: prop::sample::Index, blocks: usize, place: usize },
    ReadVectored { at: prop::sample::Index, blocks: usize, cuts: Vec<prop::sample::Index> },
    WriteVectored { at: prop::sample::Index, blocks: usize, cuts: Vec<prop::sample::Index> },
    SubmitRead(prop::sample::Index),
    SubmitWrite(prop::sample::Index),
    Commit,
    Poll,
    Flush,
    PowerCut,
}

fn step() -> impl Strategy<Value = Step> {
    let at = any::<prop::sample::Index>;
    let blocks = || prop_oneof![4 => 1..5_usize, 1 => 1..if cfg!(miri) { 6 } else { 60_usize }];
    let place = || 0..4096_usize;
    let cuts = || prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    prop_oneof![
        3 => (at(), blocks(), place()).prop_map(|(at, blocks, place)| Step::Read { at, blocks, place }),
        3 => (at(), blocks(), place()).prop_map(|(at, blocks, place)| Step::Write { at, blocks, place }),
        2 => (at(), blocks(), cuts()).prop_map(|(at, blocks, cuts)| Step::ReadVectored { at, blocks, cuts }),
        2 => (at(), blocks(), cuts()).prop_map(|(at, blocks, cuts)| Step::WriteVectored { at, blocks, cuts }),
        3 => at().prop_map(Step::SubmitRead),
        3 => at().prop_map(Step::SubmitWrite),
        2 => Just(Step::Commit),
        3 => Just(Step::Poll),
        1 => Just(Step::Flush),
        1 => Just(Step::PowerCut),
    ]
}

/// A device with or without packed rings, and the options for it.
fn shape<R: RingFormat>() -> impl Strategy<Value = (Builder, Options)> {
    let limits =
        (prop_oneof![Just(0), Just(512_u32), 512..5000_u32], 4..20_u32, prop_oneof![Just(512_u32), Just(1024)]);
    let exponents = if cfg!(miri) { 3..4_u32 } else { 3..7 };
    let order = prop_oneof![Just(Order::Fifo), Just(Order::Lifo), any::<u64>().prop_map(Order::Shuffled)];
    (any::<[bool; 4]>(), limits, exponents, order, 0..4_u16).prop_map(
        |([legacy, indirect, event_idx, packed], (size_max, seg_max, blk_size), exponent, order, further)| {
            let legacy = legacy && R::SPLIT;
            let packed = R::PACKED && (packed || !R::SPLIT);
            let mut offered = BlockFeatures::SIZE_MAX.bits();
            if packed && !legacy {
                offered |= Features::RING_PACKED.bits();
            }
            let mut without = Features::empty();
            without.set(Features::INDIRECT_DESC, !indirect);
            without.set(Features::EVENT_IDX, !event_idx);
            let builder = BlockDevice::builder()
                .interface(if legacy { Interface::Legacy } else { Interface::Modern })
                .offer(offered)
                .withhold(without.bits())
                .capacity(SECTORS)
                .config(|config| {
                    config.size_max = size_max.into();
                    config.seg_max = seg_max.into();
                    config.blk_size = blk_size.into();
                    // The order of completion rides along in a field that nobody reads.
                    config.max_discard_sectors = seed_of(order).into();
                });
            // Direct chains take as many entries as descriptors.
            let queue_size = if indirect { 1 << exponent } else { 8 << exponent };
            // A packed ring has any number of them.
            let queue_size = if packed { queue_size + further } else { queue_size };
            (builder, Options { queue_size, segments: 18, ..defaults() })
        },
    )
}

fn seed_of(order: Order) -> u32 {
    match order {
        Order::Fifo => 0,
        Order::Lifo => 1,
        Order::Shuffled(seed) => (seed as u32).max(2),
    }
}

/// Cuts bytes into buffers.
fn cut(bytes: usize, cuts: &[prop::sample::Index]) -> Vec<usize> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes + 1)).collect();
    at.extend([0, bytes]);
    at.sort_unstable();
    at.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

struct Model {
    now: Vec<u8>,
    /// What a power cut leaves.
    stable: Vec<u8>,
}

fn run<M: TestMemory, R: RingFormat>(
    ring: R,
    memory: &M,
    (builder, options): (Builder, Options),
    steps: Vec<Step>,
) -> Result<(), TestCaseError> {
    let device = builder.build(memory);
    let order = device.config().max_discard_sectors.get();
    device.faults(|faults| {
        faults.order = match order {
            0 => Order::Fifo,
            1 => Order::Lifo,
            seed => Order::Shuffled(seed.into()),
        };
    });
    let mut disk: Disk<Mmio<DeviceRegisters>, M, Counted, R> =
        Disk::open_with(ring, transport(&device), memory.clone(), &options, &mut Spin).unwrap();
    let alive = std::sync::Arc::default();
    let bytes = SECTORS as usize * 512;
    let mut model = Model { now: vec![0; bytes], stable: vec![0; bytes] };
    let block = disk.info().block_bytes as usize;
    let block_sectors = u64::from(disk.info().block_sectors());
    // Requests in flight: their sectors are left alone by others, as nobody knows which comes first.
    let mut in_flight: Vec<(virtio_blk::Token, usize, bool, Vec<u8>)> = Vec::new();

    for (seed, step) in (1..).zip(steps) {
        let place_of = |at: &prop::sample::Index, blocks: usize| {
            let first = at.index(bytes / block - blocks.min(bytes / block - 1)) * block;
            (first, blocks.min(bytes / block - 1) * block)
        };
        let free = |first: usize, length: usize| {
            in_flight.iter().all(|(_, other, _, data)| first + length <= *other || other + data.len() <= first)
        };
        match step {
            Step::Read { at, blocks, place } => {
                let (first, length) = place_of(&at, blocks);
                if free(first, length) {
                    let mut buffer = Placed::new(place, length);
                    disk.read(first as u64 / 512, &mut buffer, &mut Spin).unwrap();
                    prop_assert!(buffer[..] == model.now[first..first + length]);
                    prop_assert!(buffer.rest_is_zero());
                }
            }
            Step::Write { at, blocks, place } => {
                let (first, length) = place_of(&at, blocks);
                if free(first, length) {
                    let buffer = Placed::filled(place, length, seed);
                    disk.write(first as u64 / 512, &buffer, &mut Spin).unwrap();
                    model.now[first..first + length].copy_from_slice(&buffer);
                }
            }
            Step::ReadVectored { at, blocks, cuts } => {
                let (first, length) = place_of(&at, blocks);
                if free(first, length) {
                    let mut buffers: Vec<_> =
                        cut(length, &cuts).into_iter().map(|length| Placed::new(seed as usize, length)).collect();
                    let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
                    let result = disk.read_vectored(first as u64 / 512, &mut slices, &mut Spin);
                    if fits(result)? {
                        let read: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.to_vec()).collect();
                        prop_assert!(read == model.now[first..first + length]);
                    }
                }
            }
            Step::WriteVectored { at, blocks, cuts } => {
                let (first, length) = place_of(&at, blocks);
                if free(first, length) {
                    let buffers: Vec<_> = (seed..)
                        .zip(cut(length, &cuts))
                        .map(|(seed, length)| Placed::filled(seed as usize, length, seed))
                        .collect();
                    let slices: Vec<_> = buffers.iter().map(|buffer| &buffer[..]).collect();
                    let result = disk.write_vectored(first as u64 / 512, &slices, &mut Spin);
                    if fits(result)? {
                        let written: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.to_vec()).collect();
                        model.now[first..first + length].copy_from_slice(&written);
                    } else {
                        // Some of its blocks were written, as an error of the last part says nothing of the first.
                        let found = device.read_disk(first as u64 / 512, length / 512);
                        model.now[first..first + length].copy_from_slice(&found);
                    }
                }
            }
            Step::SubmitRead(at) | Step::SubmitWrite(at) if !free(place_of(&at, 1).0, block) => {}
            Step::SubmitRead(at) => {
                if in_flight.len() < POLLED {
                    let (first, length) = place_of(&at, 1);
                    let expected = model.now[first..first + length].to_vec();
                    let buffer = Counted::new(vec![0; length], &alive);
                    if let Ok(token) = disk.queue().submit_read(first as u64 / 512, buffer) {
                        in_flight.push((token, first, false, expected));
                    }
                }
            }
            Step::SubmitWrite(at) => {
                if in_flight.len() < POLLED {
                    let (first, length) = place_of(&at, 1);
                    let data = pattern(length, seed);
                    let buffer = Counted::new(data.clone(), &alive);
                    if let Ok(token) = disk.queue().submit_write(first as u64 / 512, buffer) {
                        in_flight.push((token, first, true, data));
                    }
                }
            }
            Step::Commit => {
                disk.queue().commit();
            }
            Step::Poll => {
                while let Some(completion) = disk.queue().poll().unwrap() {
                    let place = in_flight.iter().position(|(token, ..)| *token == completion.token).unwrap();
                    let (_, first, write, data) = in_flight.swap_remove(place);
                    prop_assert_eq!(completion.sector, first as u64 / 512);
                    prop_assert_eq!(completion.result, Ok(()));
                    prop_assert!(completion.buffer.unwrap().bytes == data);
                    if write {
                        model.now[first..first + data.len()].copy_from_slice(&data);
                    }
                }
            }
            Step::Flush => {
                disk.flush(&mut Spin).unwrap();
                // It may cover writes that were in flight beside it.
                model.stable.clone_from(&model.now);
                let stable = device.read_stable(0, SECTORS as usize);
                for (_, first, _, data) in &in_flight {
                    let range = *first..first + data.len();
                    model.stable[range.clone()].copy_from_slice(&stable[range]);
                }
            }
            Step::PowerCut => {
                if in_flight.is_empty() {
                    device.power_cut();
                    model.now.clone_from(&model.stable);
                }
            }
        }
        prop_assert_eq!(disk.info().block_sectors(), block_sectors as u32);
        prop_assert_eq!(alive.load(std::sync::atomic::Ordering::Relaxed), in_flight.len());
    }
    let transport = disk.shutdown(&mut Spin);
    prop_assert!(transport.is_ok());
    for (_, first, write, data) in in_flight {
        if write {
            model.now[first..first + data.len()].copy_from_slice(&data);
        }
    }
    prop_assert!(device.read_disk(0, SECTORS as usize) == model.now);
    drop(transport);
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
    Ok(())
}

/// Whether a transfer went well. It may have been cut into too many pieces.
fn fits(result: Result<(), virtio_blk::Error>) -> Result<bool, TestCaseError> {
    match result {
        Ok(()) => Ok(true),
        Err(virtio_blk::Error::TooManySegments { .. }) => Ok(false),
        Err(error) => Err(TestCaseError::fail(error.to_string())),
    }
}

fn histories<M: TestMemory, R: RingFormat + Copy>(ring: R, new: impl Fn() -> M) {
    let (cases, steps) = if cfg!(miri) { (1, 8) } else { (200, 80) };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(&(shape::<R>(), prop::collection::vec(step(), 1..steps)), |(shape, steps)| run(ring, &new(), shape, steps))
        .unwrap();
}

#[test]
fn any_history_on_scattered_memory_is_that_of_the_model() {
    histories(Split, ScatterMemory::new);
}

#[test]
fn any_history_behind_an_iommu_is_that_of_the_model() {
    histories(Split, IommuMemory::new);
}

#[test]
#[cfg(not(miri))]
fn any_history_through_bounce_buffers_is_that_of_the_model() {
    histories(Split, BounceMemory::new);
}

#[test]
fn any_history_of_a_packed_ring_is_that_of_the_model() {
    histories(Packed, ScatterMemory::new);
}

#[test]
fn any_history_of_a_packed_ring_behind_an_iommu_is_that_of_the_model() {
    histories(Packed, IommuMemory::new);
}

#[test]
fn any_history_of_either_ring_is_that_of_the_model() {
    histories(Either, ScatterMemory::new);
}
