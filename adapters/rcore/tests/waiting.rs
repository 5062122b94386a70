//! Polling and sleeping: who waits how, that nobody sleeps for ever, and that data arrives.

mod common;

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use common::{World, pattern};
use testing_device::{BlockDevice, Builder, Interface, Mode, Order, ScatterMemory};
use virtio_spec::{Features, InterruptStatus};

fn world(change: impl FnOnce(Builder) -> Builder) -> &'static World {
    let memory = ScatterMemory::new();
    let device = change(BlockDevice::builder()).build(&memory);
    World::new(&memory, device)
}

#[test]
fn while_the_kernel_boots_requests_are_polled() {
    for interface in [Interface::Modern, Interface::Legacy] {
        let world = world(|builder| builder.interface(interface).mode(Mode::Manual));
        // Not set up at the controller yet.
        world.interrupts.store(false, Ordering::Relaxed);
        let disk = world.open();
        disk.write(3, &pattern(1024, 5)).unwrap();
        let mut back = [0; 1024];
        disk.read(3, &mut back).unwrap();
        assert_eq!(back[..], pattern(1024, 5));
        assert!(world.looks.load(Ordering::Relaxed) > 0);
        assert_eq!(world.switches.load(Ordering::Relaxed), 0);
        world.device.assert_conformant();
    }
}

#[test]
fn once_tasks_run_requests_sleep() {
    let world = world(|builder| builder.mode(Mode::Manual));
    world.open();
    world.run_tasks(1, |_| {
        for sector in 0..20 {
            world.disk().write(sector, &pattern(512, 1)).unwrap();
        }
    });
    assert_eq!(world.looks.load(Ordering::Relaxed), 0, "nobody looks again and again");
    assert_eq!(world.switches.load(Ordering::Relaxed), 20);
    assert_eq!(world.handled.load(Ordering::Relaxed), 20);
    world.device.assert_conformant();
}

#[test]
fn an_interrupt_between_the_submission_and_the_switch_is_no_lost_wake_up() {
    // The device is done before it was notified, so the interrupt comes as soon as the cell is left.
    let world = world(|builder| builder.mode(Mode::Immediate));
    world.open();
    world.run_tasks(3, |number| {
        for round in 0..ROUNDS / 2 {
            let mut buffer = pattern(512, round);
            world.disk().write(number as u64, &buffer).unwrap();
            buffer.fill(0);
            world.disk().read(number as u64, &mut buffer).unwrap();
            assert_eq!(buffer, pattern(512, round));
        }
    });
    assert_eq!(world.handled.load(Ordering::Relaxed), 2 * 3 * (ROUNDS / 2));
    world.device.assert_conformant();
}

#[test]
fn what_was_submitted_while_polling_wakes_those_who_sleep() {
    // Interrupts that do not come until the queue is polled by somebody else.
    let world = world(|builder| builder.mode(Mode::Manual));
    world.open();
    world.run_tasks(2, |number| {
        if number == 0 {
            world.disk().write(0, &pattern(512, 9)).unwrap();
        } else {
            world.interrupts.store(false, Ordering::Relaxed);
            // As in a kernel that stops its tasks.
            world.tasks_run.store(false, Ordering::Relaxed);
            world.disk().write(1, &pattern(512, 8)).unwrap();
            assert!(world.looks.load(Ordering::Relaxed) > 0);
        }
    });
    assert_eq!(world.device.read_disk(0, 2), [pattern(512, 9), pattern(512, 8)].concat());
    world.device.assert_conformant();
}

/// How many sectors each of many tasks has, and how many it reads or writes at most.
const SECTORS: usize = if cfg!(miri) { 12 } else { 64 };
const LONGEST: usize = if cfg!(miri) { 9 } else { 40 };
const ROUNDS: usize = if cfg!(miri) { 6 } else { 60 };

/// What many tasks do at once: reads and writes of their own sectors, of all lengths, at odd addresses.
fn many_tasks(world: &'static World, tasks: usize, rounds: usize) {
    let contents: Vec<Mutex<Vec<u8>>> = (0..tasks).map(|_| Mutex::new(vec![0; SECTORS * 512])).collect();
    world.run_tasks(tasks, |number| {
        let mut expected = contents[number].lock().unwrap();
        let base = (number * SECTORS) as u64;
        for round in 0..rounds {
            let first = (round * 7 + number) % SECTORS;
            let count = 1 + (round * 5 + number * 3) % (SECTORS - first).min(LONGEST);
            let range = first * 512..(first + count) * 512;
            let mut buffer = vec![0; 1 + count * 512];
            if round % 3 != 2 {
                buffer[1..].copy_from_slice(&pattern(count * 512, round + number));
                expected[range].copy_from_slice(&buffer[1..]);
                world.disk().write(base + first as u64, &buffer[1..]).unwrap();
            } else {
                world.disk().read(base + first as u64, &mut buffer[1..]).unwrap();
                assert_eq!(buffer[1..], expected[range], "task {number}, round {round}");
            }
            if round % 8 == 7 {
                world.disk().flush().unwrap();
            }
        }
    });
    for (number, expected) in contents.iter().enumerate() {
        assert_eq!(world.device.read_disk((number * SECTORS) as u64, SECTORS), *expected.lock().unwrap());
    }
    assert_eq!(world.looks.load(Ordering::Relaxed), 0);
    world.device.assert_conformant();
}

#[test]
fn many_tasks_sleep_at_once_and_each_gets_its_data() {
    for interface in [Interface::Modern, Interface::Legacy] {
        let world = world(|builder| builder.interface(interface).mode(Mode::Manual));
        world.open();
        many_tasks(world, 8, ROUNDS);
        assert_eq!(world.most_asleep.load(Ordering::Relaxed), 8);
    }
}

#[test]
fn many_tasks_with_a_device_that_answers_in_any_order() {
    for order in [Order::Lifo, Order::Shuffled(7)] {
        let world = world(|builder| builder.mode(Mode::Manual));
        world.device.faults(|faults| faults.order = order);
        world.open();
        many_tasks(world, 8, ROUNDS);
    }
}

#[test]
fn more_tasks_than_the_queue_has_room_for() {
    // The smallest queue; and the same without indirect tables, where one request fills it.
    for withheld in [0, Features::INDIRECT_DESC.bits(), Features::EVENT_IDX.bits()] {
        let world = world(|builder| builder.mode(Mode::Manual).queue_size_max(4).withhold(withheld));
        world.open();
        many_tasks(world, 12, ROUNDS / 2);
    }
}

#[test]
fn tasks_and_a_device_that_answers_at_once() {
    let world = world(|builder| builder.mode(Mode::Immediate).queue_size_max(4));
    world.open();
    many_tasks(world, 6, ROUNDS);
}

#[test]
fn interrupts_without_a_reason_do_no_harm() {
    let world = world(|builder| builder.mode(Mode::Manual));
    let disk = world.open();
    // None at all, one that says nothing, one for a queue that has nothing, one for a configuration that is as it was.
    disk.handle_irq();
    world.device.spurious_interrupt(InterruptStatus::USED_BUFFER);
    disk.handle_irq();
    world.device.spurious_interrupt(InterruptStatus::CONFIGURATION_CHANGE);
    disk.handle_irq();
    assert!(world.device.interrupt().is_empty());
    world.run_tasks(2, |number| {
        if number == 0 {
            let mut buffer = pattern(512, 3);
            world.disk().write(0, &buffer).unwrap();
            world.disk().read(0, &mut buffer).unwrap();
            assert_eq!(buffer, pattern(512, 3));
        } else {
            // The other task sleeps now.
            assert_eq!(world.switches.load(Ordering::Relaxed), 1);
            world.device.spurious_interrupt(InterruptStatus::USED_BUFFER);
            world.disk().handle_irq();
        }
    });
    assert_eq!(world.switches.load(Ordering::Relaxed), 2, "it was not woken for nothing");
    world.device.assert_conformant();
}

#[test]
fn a_disk_that_grows_while_tasks_run() {
    let world = world(|builder| builder.mode(Mode::Manual).capacity(8));
    world.open();
    world.run_tasks(1, |_| {
        assert!(world.disk().write(8, &pattern(512, 1)).is_err());
        world.device.set_capacity(16);
        assert_eq!(world.disk().capacity_sectors(), 8, "the interrupt comes when the cell is left");
        assert_eq!(world.disk().capacity_sectors(), 16);
        world.disk().write(8, &pattern(512, 1)).unwrap();
    });
    assert_eq!(world.device.read_disk(8, 1), pattern(512, 1));
}
