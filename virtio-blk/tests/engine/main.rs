//! Any sequence of what can happen to a disk, held against a model of it: requests by token, by blocking calls and by
//! tasks, on several queues; a device that hangs, answers out of order, fails, breaks the rules, loses its power; and the
//! way back.

#[path = "../common/mod.rs"]
mod common;
mod model;
mod steps;
mod world;

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
#[cfg(not(miri))]
use testing_device::BounceMemory;
use testing_device::{IommuMemory, ScatterMemory, TestMemory};
use virtio_blk::{AsyncQueue, Either, InOrder, Packed, RingFormat, Setup, Split};
use virtio_transport::{Spin, SpinLimit};

use crate::common::transport;
use crate::steps::{Form, Shape, Step, shape, step};
use crate::world::{Shared, World};

fn run<M: TestMemory, R: RingFormat>(ring: R, memory: &M, shape: Shape, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let Shape { builder, options, interrupts, indirect, form, give_up } = shape;
    let device = builder.build(memory);
    let mut setup = Setup::negotiate_with(ring, transport(&device), memory.clone(), &options, &mut Spin).unwrap();
    let mut queues: Vec<Shared<M, R>> = Vec::new();
    for _ in 0..setup.num_queues() {
        let mut queue = setup.add_queue().unwrap();
        if let Some(requests) = interrupts {
            queue.use_interrupts(requests);
        }
        queues.push(AsyncQueue::new(RefCell::new(queue)));
    }
    let handle = RefCell::new(setup.start());
    let mut world = World::new(&device, &handle, &queues, indirect, form);
    for step in steps {
        world.step(step)?;
    }
    if give_up {
        world.give_up()?;
        drop(world);
        drop((queues, handle));
        // What it had is left to it, and it touches nothing else.
        prop_assert!(memory.faults().is_empty());
        device.assert_conformant();
        return Ok(());
    }
    world.finish(interrupts.is_some())?;
    drop(world);
    let mut queues: Vec<_> = queues.into_iter().map(|shared| shared.into_inner().into_inner()).collect();
    let mut all: Vec<_> = queues.iter_mut().collect();
    let transport = handle.into_inner().shutdown(&mut all, &mut SpinLimit { looks: 2 });
    prop_assert!(transport.is_ok());
    drop(transport);
    drop(queues);
    device.assert_conformant();
    drop(device);
    memory.assert_clean();
    Ok(())
}

fn sequences<M: TestMemory, R: RingFormat + Copy>(ring: R, form: Form, new: impl Fn() -> M) {
    let (cases, steps) = if cfg!(miri) { (3, 25) } else { (200, 150) };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 50_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(&(shape(form), prop::collection::vec(step(), 1..steps)), |(shape, steps)| run(ring, &new(), shape, steps))
        .unwrap();
}

#[test]
fn any_sequence_on_scattered_memory_is_one_that_the_model_allows() {
    sequences(Split, Form::Split, ScatterMemory::new);
}

#[test]
fn any_sequence_behind_an_iommu_is_one_that_the_model_allows() {
    sequences(Split, Form::Split, IommuMemory::new);
}

#[test]
#[cfg(not(miri))]
fn any_sequence_through_bounce_buffers_is_one_that_the_model_allows() {
    sequences(Split, Form::Split, BounceMemory::new);
}

#[test]
fn any_sequence_on_a_packed_ring_is_one_that_the_model_allows() {
    sequences(Packed, Form::Packed, ScatterMemory::new);
}

#[test]
fn any_sequence_on_a_packed_ring_behind_an_iommu_is_one_that_the_model_allows() {
    sequences(Either, Form::Packed, IommuMemory::new);
}

#[test]
fn any_sequence_in_order_is_one_that_the_model_allows() {
    sequences(InOrder(Split), Form::SplitInOrder, IommuMemory::new);
}

#[test]
fn any_sequence_in_order_on_a_packed_ring_is_one_that_the_model_allows() {
    sequences(InOrder(Packed), Form::PackedInOrder, IommuMemory::new);
}
