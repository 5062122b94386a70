//! Random histories of a queue, held against a model: what is in flight, in which state, with which bytes.

mod common;

use std::collections::{BTreeMap, VecDeque};

use common::{Bytes, Form, Rig, Tag, in_every_form, of_size, pattern};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
#[cfg(not(miri))]
use testing_device::BounceMemory;
use testing_device::{Chain, IommuMemory, RingMover, ScatterMemory, TestMemory};
use virtqueue::{Access, ChainError, Settings};

in_every_form! {
    any_history_on_scattered_memory_is_that_of_the_model,
    any_history_behind_an_iommu_is_that_of_the_model,
    #[cfg(not(miri))]
    any_history_through_bounce_buffers_is_that_of_the_model,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    offset: usize,
    bytes: usize,
    writes: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// Builds a chain of these parts, and submits it or drops it.
    Chain(Vec<Part>, bool),
    Commit,
    /// The device takes a chain.
    Take,
    /// The device fills what it may write of one of the chains that it has, and gives it back.
    Complete(prop::sample::Index),
    Pop,
}

fn part() -> impl Strategy<Value = Part> {
    (0..4096_usize, prop_oneof![1..64_usize, 1..6000_usize], any::<bool>()).prop_map(|(offset, bytes, writes)| Part {
        offset,
        bytes,
        writes,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (prop::collection::vec(part(), 1..4), prop::bool::weighted(0.9)).prop_map(|(mut parts, submit)| {
            parts.sort_by_key(|part| part.writes);
            Step::Chain(parts, submit)
        }),
        3 => Just(Step::Commit),
        3 => Just(Step::Take),
        3 => any::<prop::sample::Index>().prop_map(Step::Complete),
        3 => Just(Step::Pop),
    ]
}

fn shape<F: Form>() -> impl Strategy<Value = Settings> {
    let limit = prop_oneof![Just(u32::MAX), 1000..5000_u32];
    (4..17_u16, any::<[bool; 3]>(), limit).prop_map(|(entries, [indirect, event_idx, legacy], segment_max_bytes)| {
        // A split ring has a power of two of entries.
        let size = if F::PACKED { entries } else { 1 << entries.ilog2() };
        Settings {
            chain_max: size.min(10),
            indirect,
            event_idx,
            segment_max_bytes,
            contiguous_align: (legacy && !F::PACKED).then_some(4096),
            ..of_size::<F>(size)
        }
    })
}

/// A chain that was submitted and not taken back.
struct Live {
    parts: Vec<(Part, Bytes)>,
    descriptors: u16,
}

/// How many descriptors the parts of a chain take.
fn descriptors(parts: &[(Part, Bytes)], settings: &Settings) -> usize {
    let max = settings.segment_max_bytes as usize;
    parts.iter().flat_map(|(_, bytes)| bytes.pages()).map(|(_, bytes)| bytes.div_ceil(max)).sum()
}

/// What the device sees of a chain is what the driver has put there.
fn compare<M: TestMemory>(memory: &M, chain: &Chain, live: &Live, tag: u32) {
    assert_eq!(chain.segments.len(), usize::from(live.descriptors));
    for writes in [false, true] {
        let length: usize =
            live.parts.iter().filter(|(part, _)| part.writes == writes).map(|(part, _)| part.bytes).sum();
        let segments = || chain.segments.iter().filter(|segment| segment.writable == writes);
        assert_eq!(segments().map(|segment| segment.bytes as usize).sum::<usize>(), length);
        if writes {
            continue;
        }
        let mut read = Vec::new();
        for segment in segments() {
            let mut bytes = vec![0; segment.bytes as usize];
            memory.read(segment.address, &mut bytes).unwrap();
            read.extend(bytes);
        }
        let put: Vec<u8> =
            live.parts.iter().filter(|(part, _)| !part.writes).flat_map(|(_, bytes)| bytes.get()).collect();
        assert!(read == put, "chain {tag}");
    }
}

fn run<M: TestMemory, F: Form>(memory: &M, settings: Settings, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut rig = Rig::<_, F>::new(memory, settings);
    let mut live = BTreeMap::<u32, Live>::new();
    let mut submitted = VecDeque::new();
    let mut available = VecDeque::new();
    let mut held: Vec<(u32, Chain)> = Vec::new();
    let mut used = VecDeque::new();
    let mut free = settings.size;

    for (tag, step) in (0..).zip(steps) {
        match step {
            Step::Chain(parts, submit) => {
                let parts: Vec<_> =
                    parts.into_iter().map(|part| (part, Bytes::filled(part.offset, part.bytes, tag))).collect();
                let needed = descriptors(&parts, &settings);
                let expected = if free == 0 {
                    Err(ChainError::Full)
                } else if needed > usize::from(settings.chain_max) {
                    Err(ChainError::TooManyDescriptors { max: settings.chain_max })
                } else if submit && !settings.indirect && needed > usize::from(free) {
                    Err(ChainError::Full)
                } else {
                    Ok(submit)
                };
                let mut build = || {
                    let mut chain = rig.queue.chain()?;
                    for (part, bytes) in &parts {
                        let access = if part.writes { Access::DeviceWrites } else { Access::DeviceReads };
                        // SAFETY: the model keeps the bytes until the chain was taken or the queue has ended.
                        unsafe { chain.buffer(bytes.start(), bytes.len(), access) }?;
                    }
                    if submit {
                        chain.submit(Tag(tag)).map_err(|failed| failed.error)?;
                    }
                    Ok(submit)
                };
                prop_assert_eq!(build(), expected);
                if expected == Ok(true) {
                    free -= if settings.indirect { 1 } else { needed as u16 };
                    live.insert(tag, Live { parts, descriptors: needed as u16 });
                    submitted.push_back(tag);
                }
            }
            Step::Commit => {
                let _ = rig.queue.commit();
                available.append(&mut submitted);
            }
            Step::Take => {
                let chain = rig.device.pop();
                prop_assert_eq!(chain.is_some(), !available.is_empty());
                if let (Some(chain), Some(tag)) = (chain, available.pop_front()) {
                    prop_assert!(!chain.malformed);
                    compare(memory, &chain, &live[&tag], tag);
                    held.push((tag, chain));
                }
            }
            Step::Complete(index) => {
                if !held.is_empty() {
                    let (tag, chain) = held.swap_remove(index.index(held.len()));
                    let mut answer = Vec::new();
                    for segment in chain.segments.iter().filter(|segment| segment.writable) {
                        let bytes = pattern(segment.bytes as usize, (!tag).into());
                        memory.write(segment.address, &bytes).unwrap();
                        answer.extend(bytes);
                    }
                    rig.device.push_used(chain.id, answer.len() as u32);
                    used.push_back((tag, answer));
                }
            }
            Step::Pop => {
                prop_assert_eq!(rig.queue.has_used(), !used.is_empty());
                let popped = rig.queue.pop().unwrap().map(|used| (used.written_bytes(), used.take().0));
                let expected = used.pop_front();
                prop_assert_eq!(popped, expected.as_ref().map(|(tag, answer)| (answer.len() as u32, *tag)));
                if let Some((tag, answer)) = expected {
                    let done = live.remove(&tag).unwrap();
                    free += if settings.indirect { 1 } else { done.descriptors };
                    let (mut written, mut untouched) = (Vec::new(), true);
                    for (part, bytes) in &done.parts {
                        match part.writes {
                            true => written.extend(bytes.get()),
                            false => untouched &= bytes.get() == pattern(part.bytes, tag.into()),
                        }
                    }
                    prop_assert!(written == answer && untouched, "chain {}", tag);
                }
            }
        }
        prop_assert_eq!(usize::from(rig.queue.in_flight()), live.len());
        prop_assert_eq!(rig.queue.free(), free);
    }

    // All that is left comes back.
    rig.commit();
    available.append(&mut submitted);
    for (_, chain) in held {
        rig.device.push_used(chain.id, 0);
    }
    rig.serve();
    let mut left = Vec::new();
    left.extend(std::iter::from_fn(|| rig.pop()));
    left.sort_unstable();
    prop_assert_eq!(left, live.keys().copied().collect::<Vec<_>>());
    prop_assert_eq!((rig.queue.in_flight(), rig.queue.free()), (0, settings.size));
    rig.finish();
    Ok(())
}

fn histories<M: TestMemory, F: Form>(new: impl Fn() -> M) {
    let (cases, steps) = if cfg!(miri) { (1, 15) } else { (256, 120) };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(&(shape::<F>(), prop::collection::vec(step(), 1..steps)), |(shape, steps)| {
            run::<M, F>(&new(), shape, steps)
        })
        .unwrap();
}

fn any_history_on_scattered_memory_is_that_of_the_model<F: Form>() {
    histories::<_, F>(ScatterMemory::new);
}

fn any_history_behind_an_iommu_is_that_of_the_model<F: Form>() {
    histories::<_, F>(IommuMemory::new);
}

#[cfg(not(miri))]
fn any_history_through_bounce_buffers_is_that_of_the_model<F: Form>() {
    histories::<_, F>(BounceMemory::new);
}
