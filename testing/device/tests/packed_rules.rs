//! Rules for packed rings, beside those of `rules.rs`.

mod raw;

use raw::packed::{PackedQueue, packed_with};
use raw::{Driver, Request, STATUS, TABLE, WRITE, base};
use testing_device::{BlockDevice, Mode, Rule, ScatterMemory, rules_of};
use virtio_spec::Features;
use virtio_spec::block::RequestType;
use virtio_spec::mmio::Register;

const INDIRECT_DESC: u64 = Features::INDIRECT_DESC.bits();

/// What breaks rules in packed rings that split rings have too, with the section there.
#[test]
fn rules_of_both_rings_are_seen_broken_in_packed_ones() {
    type Publish = fn(&Driver<ScatterMemory>, &mut PackedQueue<ScatterMemory>, &Request<ScatterMemory>);
    let cases: [(Rule, &str, u64, Publish); 11] = [
        (Rule::DescriptorFlags, "2.8.13", 0, |_, queue, request| {
            let mut pieces = request.pieces(512, true);
            pieces[1].2 |= 8;
            queue.list(0, &pieces);
        }),
        (Rule::ChainOrder, "2.8.17", 0, |_, queue, request| {
            let mut pieces = request.pieces(512, true);
            pieces.swap(0, 1);
            queue.list(0, &pieces);
        }),
        (Rule::ChainTooLong, "2.8.17", INDIRECT_DESC, |_, queue, request| {
            let table = request.packed_table(TABLE, &[(request.at(0), 16, 0); 5]);
            queue.list(0, &[table]);
        }),
        (Rule::IndirectNotNegotiated, "2.8.19", 0, |_, queue, request| {
            let table = request.packed_table(TABLE, &request.pieces(512, true));
            queue.list(0, &[table]);
        }),
        (Rule::IndirectWithNext, "2.8.19", INDIRECT_DESC, |_, queue, request| {
            let table = request.packed_table(TABLE, &request.pieces(512, true));
            queue.list(0, &[(request.at(0), 16, 0), table]);
        }),
        (Rule::IndirectWithNext, "2.8.19", INDIRECT_DESC, |_, queue, request| {
            let table = request.packed_table(TABLE, &request.pieces(512, true));
            queue.list(0, &[table, (request.at(STATUS), 1, WRITE)]);
        }),
        (Rule::IndirectLength, "2.8.7", INDIRECT_DESC, |_, queue, request| {
            let (address, bytes, flags) = request.packed_table(TABLE, &request.pieces(512, true));
            queue.list(0, &[(address, bytes + 1, flags)]);
        }),
        (Rule::Unreachable, "2.8.4", 0, |_, queue, request| {
            let mut pieces = request.pieces(512, true);
            pieces[1].0 = 0x10;
            queue.list(0, &pieces);
        }),
        (Rule::AlteredInFlight, "2.8.16", INDIRECT_DESC, |driver, queue, request| {
            driver.device.faults(|faults| faults.hold = true);
            let table = request.packed_table(TABLE, &request.pieces(512, true));
            queue.list(0, &[table]);
            driver.notify(0);
            request.packed_table(TABLE, &request.pieces(256, true));
            driver.device.release();
        }),
        (Rule::AlteredInFlight, "2.8.16", 0, |driver, queue, request| {
            driver.device.faults(|faults| faults.hold = true);
            queue.list(0, &request.pieces(512, true));
            driver.notify(0);
            queue.fill(0, request.at(0), 17, 0);
            driver.device.release();
        }),
        (Rule::AlteredInFlight, "2.8.16", 0, |driver, queue, request| {
            driver.device.faults(|faults| faults.hold = true);
            queue.list(0, &request.pieces(512, true));
            driver.notify(0);
            queue.fill(2, request.at(STATUS), 2, 0);
            driver.device.release();
        }),
    ];
    for (rule, section, features, publish) in cases {
        let found = packed_with(features, publish);
        let found: Vec<_> = found.iter().map(|violation| (violation.rule, violation.section)).collect();
        // A request that cannot be read to its end may break rules for requests too.
        assert_eq!(found.first(), Some(&(rule, section)), "{found:?}");
        assert!(found[1..].iter().all(|(rule, _)| rule.section().starts_with('5')), "{found:?}");
    }
}

#[test]
fn packed_queues_are_set_up_by_the_rules() {
    let built = || {
        let driver = Driver::new(BlockDevice::builder().packed().queue_size_max(6), &ScatterMemory::new(), false);
        driver.negotiate(base(false) | Features::RING_PACKED.bits());
        driver
    };
    let driver = built();
    let queue = PackedQueue::new(&driver.memory, 7);
    driver.enable_packed(0, &queue);
    assert_eq!(driver.broken(), [Rule::QueueSize, Rule::QueueSize]);

    let driver = built();
    let queue = PackedQueue::new(&driver.memory, 5);
    queue.fill(4, 0, 0, 1);
    driver.enable_packed(0, &queue);
    driver.reset();
    let found = driver.device.take_violations();
    assert_eq!((found[0].rule, found[0].section, found.len()), (Rule::QueueNotZeroed, "2.8.13", 1));

    let driver = built();
    driver.read(Register::QUEUE_SIZE_MAX);
    driver.write(Register::QUEUE_SIZE, 5);
    let start = queue.ring.address();
    driver.areas(start + 8, start + 80, start + 80);
    driver.write(Register::QUEUE_READY, 1);
    assert_eq!(driver.read(Register::QUEUE_READY), 0);
    let found: Vec<_> = driver.device.take_violations().iter().map(|found| (found.rule, found.section)).collect();
    let out_of_reach = [(Rule::QueueUnreachable, "2.8"); 3];
    assert_eq!(found, [&[(Rule::QueueMisaligned, "2.8.11")], &out_of_reach[..]].concat(), "another memory");
}

#[test]
fn a_missing_notification_is_seen_in_packed_rings() {
    for features in [0, Features::EVENT_IDX.bits()] {
        let driver = Driver::new(BlockDevice::builder().packed().mode(Mode::Manual), &ScatterMemory::new(), false);
        let mut queue = driver.ready_packed(base(false) | features, 5);
        let request = Request::new(&driver.memory, RequestType::IN, 1);
        for round in 0..5 {
            queue.list(round, &request.pieces(512, true));
            driver.device.run();
            let found = driver.device.take_violations();
            assert_eq!(rules_of(&found), [Rule::NotifyMissing], "round {round}");
            assert_eq!(found[0].section, "2.8.10");
            assert!(queue.used().is_some());
        }
        driver.reset();
    }
}

#[test]
fn event_suppression_names_a_place_in_the_ring() {
    for (position, flags, wrong) in
        [(3, 2, false), (0x8003, 2, false), (4, 2, true), (0x8004, 2, true), (0, 3, true), (0, 4, true)]
    {
        let found = packed_with(Features::EVENT_IDX.bits(), |_, queue, request| {
            queue.set_event(position, flags);
            queue.list(0, &request.pieces(512, true));
        });
        assert_eq!(rules_of(&found), vec![Rule::EventSuppression; usize::from(wrong)], "{position:#x} {flags}");
    }
}
