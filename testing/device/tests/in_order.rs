//! IN_ORDER in both rings: requests go back in the order in which they came, several with one used element.

mod raw;

use raw::packed::PackedQueue;
use raw::{DATA, Driver, NEXT, Queue, Request, STATUS, WRITE, base};
use testing_device::{BlockDevice, Builder, Data, Mode, Order, Outcome, ScatterMemory, UsedLength};
#[cfg(not(miri))]
use testing_device::{BounceMemory, Mover};
use virtio_spec::Features;
use virtio_spec::block::{RequestStatus, RequestType};

const IN_ORDER: u64 = Features::IN_ORDER.bits();

/// Reads of the sectors from 0 on, in either ring.
struct Reads {
    driver: Driver<ScatterMemory>,
    ring: Ring,
    requests: Vec<Request<ScatterMemory>>,
}

enum Ring {
    Split(Queue<ScatterMemory>),
    Packed(PackedQueue<ScatterMemory>, Vec<u16>),
}

impl Reads {
    fn both(change: impl Fn(Builder) -> Builder, count: u16, test: impl Fn(&mut Self)) {
        for packed in [false, true] {
            let builder = change(BlockDevice::builder().in_order().mode(Mode::Manual));
            let builder = if packed { builder.packed() } else { builder };
            let driver = Driver::new(builder, &ScatterMemory::new(), false);
            let ring = if packed {
                Ring::Packed(driver.ready_packed(base(false) | IN_ORDER, 16), Vec::new())
            } else {
                Ring::Split(driver.ready(base(false) | IN_ORDER, 16))
            };
            let mut reads = Self { driver, ring, requests: Vec::new() };
            reads.submit(count);
            test(&mut reads);
            reads.driver.reset();
            reads.driver.device.assert_conformant();
        }
    }

    fn submit(&mut self, count: u16) {
        for id in 0..count {
            let request = Request::new(&self.driver.memory, RequestType::IN, u64::from(id));
            match &mut self.ring {
                Ring::Split(queue) => {
                    let at = |step: u16| (3 * id + step) % 16;
                    queue.descriptor(at(0), request.at(0), 16, NEXT, at(1));
                    queue.descriptor(at(1), request.at(DATA), 512, NEXT | WRITE, at(2));
                    queue.descriptor(at(2), request.at(STATUS), 1, WRITE, 0);
                    queue.offer(at(0));
                    queue.publish();
                }
                Ring::Packed(queue, ids) => {
                    queue.list(id, &request.pieces(512, true));
                    ids.push(id);
                }
            }
            self.requests.push(request);
        }
        self.driver.notify(0);
    }

    /// The used elements since the last look: how many requests each stands for, which one it names, and its length.
    fn used(&mut self) -> Vec<(u16, u32, u32)> {
        let mut found = Vec::new();
        match &mut self.ring {
            Ring::Split(queue) => {
                while queue.used_idx() != queue.seen {
                    let before = queue.seen;
                    let (id, bytes) = queue.used().expect("one");
                    // The index moved over the batch; the element is in the entry of its first one.
                    let count = (1..=5).find(|count| u32::from(before + count - 1) * 3 % 16 == id).expect("a batch");
                    queue.seen = before + count;
                    found.push((count, u32::from(before + count - 1), bytes));
                }
            }
            Ring::Packed(queue, ids) => {
                while let Some((batch, bytes)) = queue.used_in_order(ids) {
                    found.push((batch.len() as u16, u32::from(*batch.last().expect("one")), bytes));
                }
            }
        }
        found
    }
}

#[test]
fn one_used_element_stands_for_a_batch() {
    Reads::both(
        |builder| builder,
        5,
        |reads| {
            assert_eq!(reads.driver.device.run(), 5);
            assert_eq!(reads.used(), [(5, 4, 513)]);
            assert!(reads.requests.iter().all(|request| request.status() == 0));
            assert_eq!(reads.driver.device.counts().interrupts, 1);
        },
    );
}

#[test]
fn batches_are_as_long_as_told() {
    Reads::both(
        |builder| builder.used_batch_max(2),
        5,
        |reads| {
            reads.driver.device.run();
            assert_eq!(reads.used(), [(2, 1, 513), (2, 3, 513), (1, 4, 513)]);
        },
    );
    Reads::both(
        |builder| builder.used_batch_max(1),
        3,
        |reads| {
            reads.driver.device.run();
            assert_eq!(reads.used(), [(1, 0, 513), (1, 1, 513), (1, 2, 513)]);
        },
    );
}

#[test]
fn requests_wait_for_those_before_them() {
    Reads::both(
        |builder| builder,
        4,
        |reads| {
            let mut pending: Vec<_> = std::iter::from_fn(|| reads.driver.device.take()).collect();
            assert_eq!(pending.len(), 4);
            for (which, used) in [(3, vec![]), (1, vec![]), (0, vec![(2, 1, 513)]), (0, vec![(2, 3, 513)])] {
                let request = pending.remove(which);
                assert!(reads.driver.device.complete(request, Outcome::HONEST));
                assert_eq!(reads.used(), used);
            }
        },
    );
    // The same, completed in any order by the device itself.
    for order in [Order::Lifo, Order::Shuffled(7)] {
        Reads::both(
            |builder| builder,
            4,
            |reads| {
                reads.driver.device.faults(|faults| faults.order = order);
                reads.driver.device.run();
                assert_eq!(reads.used(), [(4, 3, 513)]);
            },
        );
    }
}

#[test]
fn only_what_was_used_completely_is_passed_over() {
    Reads::both(
        |builder| builder,
        4,
        |reads| {
            reads.driver.device.faults(|faults| {
                faults.next = [Outcome::HONEST, Outcome::failure(RequestStatus::IOERR)].into();
            });
            reads.driver.device.run();
            assert_eq!(reads.used(), [(2, 1, 0), (2, 3, 513)], "the second one was not read");
        },
    );
}

#[test]
fn devices_lie_about_the_order() {
    Reads::both(
        |builder| builder,
        3,
        |reads| {
            reads.driver.device.faults(|faults| {
                faults.out_of_order = true;
                faults.order = Order::Lifo;
            });
            reads.driver.device.run();
            match &mut reads.ring {
                Ring::Split(queue) => {
                    let used: Vec<_> = std::iter::from_fn(|| queue.used()).collect();
                    assert_eq!(used, [(6, 513), (3, 513), (0, 513)]);
                }
                Ring::Packed(queue, _) => {
                    let used: Vec<_> = std::iter::from_fn(|| queue.used()).map(|used| used.0).collect();
                    assert_eq!(used, [2, 1, 0]);
                }
            }
        },
    );
    // A used element that names a request which is not completed.
    Reads::both(
        |builder| builder,
        3,
        |reads| {
            let first = reads.driver.device.take().unwrap();
            let lie =
                Outcome { id: Some(2 * if matches!(reads.ring, Ring::Split(_)) { 3 } else { 1 }), ..Outcome::HONEST };
            reads.driver.device.complete(first, lie);
            match &mut reads.ring {
                Ring::Split(queue) => assert_eq!((queue.used(), queue.used_idx()), (Some((6, 513)), 1)),
                Ring::Packed(queue, _) => assert_eq!(queue.used().map(|used| used.0), Some(2)),
            }
        },
    );
    // Lies about lengths and data do not part a batch from its order.
    Reads::both(
        |builder| builder,
        3,
        |reads| {
            reads.driver.device.faults(|faults| {
                faults.next = [
                    Outcome { length: UsedLength::Value(7), ..Outcome::HONEST },
                    Outcome { data: Data::Short(100), ..Outcome::HONEST },
                    Outcome { length: UsedLength::Value(u32::MAX), ..Outcome::HONEST },
                ]
                .into();
            });
            reads.driver.device.run();
            assert_eq!(reads.used(), [(2, 1, 100), (1, 2, u32::MAX)]);
        },
    );
}

#[test]
#[cfg(not(miri))]
fn rust_vmm_moves_batches_too() {
    let builder = BlockDevice::builder().in_order().mode(Mode::Manual).mover(Mover::RustVmm);
    let driver = Driver::new(builder, &BounceMemory::new(), false);
    let mut queue = driver.ready(base(false) | IN_ORDER, 8);
    let requests = [0, 3].map(|head| {
        let request = Request::new(&driver.memory, RequestType::IN, u64::from(head));
        queue.descriptor(head, request.at(0), 16, NEXT, head + 1);
        queue.descriptor(head + 1, request.at(DATA), 512, NEXT | WRITE, head + 2);
        queue.descriptor(head + 2, request.at(STATUS), 1, WRITE, 0);
        queue.offer(head);
        request
    });
    queue.publish();
    driver.notify(0);
    assert_eq!(driver.device.run(), 2);
    assert_eq!((queue.used_idx(), queue.used()), (2, Some((3, 513))));
    assert_eq!(requests.map(|request| request.status()), [0, 0]);
    driver.reset();
    driver.device.assert_conformant();
}
