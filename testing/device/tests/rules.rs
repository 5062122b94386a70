//! A driver that breaks one rule at a time: the device sees that one and no other.

mod raw;

use raw::packed::{AVAIL, USED, packed_with};
use raw::{DATA, Driver, INDIRECT, NEXT, Owned, Queue, Request, STATUS, TABLE, WRITE, base};
use testing_device::{BlockDevice, Builder, Mode, RangeLimits, Rule, ScatterMemory, ZoneSetup, rules_of};
use virtio_spec::block::{BlockFeatures, RequestType};
use virtio_spec::mmio::Register;
use virtio_spec::{DeviceStatus, Features};
use virtio_transport::Registers;

type ScatterDriver = Driver<ScatterMemory>;

fn driver_of(builder: Builder, legacy: bool) -> ScatterDriver {
    Driver::new(builder, &ScatterMemory::new(), legacy)
}

fn modern() -> ScatterDriver {
    driver_of(BlockDevice::builder(), false)
}

fn legacy() -> ScatterDriver {
    driver_of(BlockDevice::builder(), true)
}

fn manual() -> ScatterDriver {
    driver_of(BlockDevice::builder().mode(Mode::Manual), false)
}

fn bits(features: impl IntoIterator<Item = u64>) -> u64 {
    features.into_iter().fold(base(false), |all, one| all | one)
}

/// One read of a sector, with the chain as `change` makes it of a right one.
fn read_with(
    driver: ScatterDriver,
    features: u64,
    change: impl Fn(&Queue<ScatterMemory>, &Request<ScatterMemory>),
) -> Vec<Rule> {
    request_with(driver, features, RequestType::IN, 1, change)
}

fn request_with(
    driver: ScatterDriver,
    features: u64,
    request_type: RequestType,
    sector: u64,
    change: impl Fn(&Queue<ScatterMemory>, &Request<ScatterMemory>),
) -> Vec<Rule> {
    let mut queue = driver.ready(features, 4);
    let request = Request::of(&driver.memory, driver.legacy, request_type, sector);
    driver.chain(&queue, &request, 512, request_type == RequestType::IN);
    change(&queue, &request);
    driver.submit(&mut queue, 0);
    driver.device.run();
    driver.reset();
    driver.broken()
}

/// One request without data.
fn empty_request(driver: ScatterDriver, features: u64, request_type: RequestType, sector: u64) -> Vec<Rule> {
    request_with(driver, features, request_type, sector, |queue, request| {
        queue.descriptor(0, request.at(0), 16, NEXT, 1);
        queue.descriptor(1, request.at(STATUS), 1, WRITE, 0);
    })
}

/// A request with ranges as its data.
fn ranges(ranges: &[(u64, u32, u32)]) -> Vec<Rule> {
    let feature = BlockFeatures::WRITE_ZEROES.bits();
    let builder = BlockDevice::builder().offer(feature).config(|config| {
        config.max_write_zeroes_sectors = 8.into();
        config.max_write_zeroes_seg = 1.into();
    });
    request_with(driver_of(builder, false), bits([feature]), RequestType::WRITE_ZEROES, 0, |queue, request| {
        for (index, (sector, sectors, flags)) in ranges.iter().enumerate() {
            let mut range = [0; 16];
            range[..8].copy_from_slice(&sector.to_le_bytes());
            range[8..12].copy_from_slice(&sectors.to_le_bytes());
            range[12..].copy_from_slice(&flags.to_le_bytes());
            request.0.write(DATA + 16 * index, &range);
        }
        queue.descriptor(1, request.at(DATA), 16 * ranges.len() as u32, NEXT, 2);
    })
}

/// Sets up queue 0 of 4 entries in areas that `place` changes.
fn queue_at(place: impl Fn(&mut [u64; 3])) -> Vec<Rule> {
    let driver = modern();
    driver.negotiate(base(false));
    let queue = Queue::modern(&driver.memory, 4);
    driver.write(Register::QUEUE_SEL, 0);
    driver.read(Register::QUEUE_SIZE_MAX);
    driver.write(Register::QUEUE_SIZE, 4);
    let start = queue.ring.address();
    let mut areas = [start, start + queue.driver_area as u64, start + queue.device_area as u64];
    place(&mut areas);
    driver.areas(areas[0], areas[1], areas[2]);
    driver.write(Register::QUEUE_READY, 1);
    assert_eq!(driver.read(Register::QUEUE_READY), 0, "the device does not use such a queue");
    driver.broken()
}

/// Puts a good chain into the ring, which is then available as `publish` says.
fn available(
    driver: ScatterDriver,
    features: u64,
    publish: impl Fn(&ScatterDriver, &mut Queue<ScatterMemory>),
) -> Vec<Rule> {
    let mut queue = driver.ready(features, 4);
    let request = Request::new(&driver.memory, RequestType::IN, 1);
    driver.chain(&queue, &request, 512, true);
    publish(&driver, &mut queue);
    driver.device.run();
    driver.reset();
    driver.broken()
}

/// Zones of 64 sectors, the first of them conventional, in blocks of 4096 bytes; the third one has 8 sectors left.
fn zoned(request_type: RequestType, sector: u64, bytes: u32) -> Vec<Rule> {
    let zones = ZoneSetup { max_append_sectors: 16, write_granularity_bytes: 4096, ..ZoneSetup::default() };
    let driver = driver_of(BlockDevice::builder().zoned(zones).capacity(256), false);
    let mut queue = driver.ready(bits([BlockFeatures::ZONED.bits()]), 4);
    let first = Request::new(&driver.memory, RequestType::OUT, 128);
    let data = Owned::new(&driver.memory, 64 * 512, 4096);
    let last = Request::new(&driver.memory, request_type, sector);
    for (request, bytes) in [(&first, 56 * 512), (&last, bytes)] {
        let append = request_type == RequestType::ZONE_APPEND && bytes != 56 * 512;
        queue.descriptor(0, request.at(0), 16, NEXT, if bytes > 0 { 1 } else { 2 });
        queue.descriptor(1, data.address(), bytes, NEXT, 2);
        queue.descriptor(2, request.at(STATUS), if append { 9 } else { 1 }, WRITE, 0);
        driver.submit(&mut queue, 0);
    }
    driver.reset();
    driver.broken()
}

/// A device that is suspended.
fn suspended(features: u64) -> (ScatterDriver, Queue<ScatterMemory>) {
    let driver = driver_of(BlockDevice::builder().offer(Features::SUSPEND.bits()), false);
    let queue = driver.ready(bits([Features::SUSPEND.bits(), features]), 4);
    driver.set(DeviceStatus::SUSPEND);
    (driver, queue)
}

const INDIRECT_DESC: u64 = Features::INDIRECT_DESC.bits();

/// What breaks each rule.
#[expect(clippy::too_many_lines, reason = "a table")]
fn break_rule(rule: Rule) -> Vec<Rule> {
    match rule {
        Rule::RegisterWidth => {
            let driver = modern();
            driver.identify();
            driver.registers.read_u8(Register::STATUS.0);
            driver.broken()
        }
        Rule::RegisterUnknown => {
            let driver = modern();
            driver.identify();
            driver.read(Register(0x018));
            driver.broken()
        }
        Rule::RegisterReadOnly => {
            let driver = modern();
            driver.identify();
            driver.write(Register::MAGIC_VALUE, 0);
            driver.broken()
        }
        Rule::RegisterWriteOnly => {
            let driver = modern();
            driver.identify();
            assert_eq!(driver.read(Register::QUEUE_NOTIFY), 0);
            driver.broken()
        }
        Rule::RegisterOfOtherVersion => {
            let driver = modern();
            driver.identify();
            driver.read(Register::QUEUE_PFN);
            driver.broken()
        }
        Rule::RegisterNotNegotiated => {
            let driver = modern();
            driver.negotiate(base(false));
            driver.read(Register::QUEUE_RESET);
            driver.broken()
        }
        Rule::SharedMemoryRegister => {
            let driver = modern();
            driver.identify();
            driver.read(Register::SHM_LEN_LOW);
            driver.broken()
        }
        Rule::NotIdentified => {
            let driver = modern();
            driver.status();
            driver.status();
            driver.broken()
        }
        Rule::PlaceholderAccessed => {
            let driver = driver_of(BlockDevice::builder().device_type(0), false);
            driver.identify();
            driver.status();
            driver.broken()
        }
        Rule::FeaturesSelNotWritten => {
            let driver = modern();
            driver.start();
            driver.read(Register::DEVICE_FEATURES);
            driver.broken()
        }
        Rule::InterruptAckUndefined => {
            let driver = modern();
            driver.identify();
            driver.write(Register::INTERRUPT_ACK, 4);
            driver.broken()
        }
        Rule::InterruptAckNotPending => {
            let driver = modern();
            driver.identify();
            driver.write(Register::INTERRUPT_ACK, 1);
            driver.broken()
        }
        Rule::StatusOrder => {
            let driver = modern();
            driver.identify();
            driver.reset();
            driver.set(DeviceStatus::DRIVER);
            driver.broken()
        }
        Rule::StatusBitCleared => {
            let driver = modern();
            driver.start();
            driver.write(Register::STATUS, DeviceStatus::DRIVER.bits().into());
            driver.broken()
        }
        Rule::StatusBitUnknown => {
            let driver = modern();
            driver.start();
            driver.write(Register::STATUS, 3 | 32);
            driver.broken()
        }
        Rule::StatusAfterFailed => {
            let driver = modern();
            driver.identify();
            driver.reset();
            driver.set(DeviceStatus::ACKNOWLEDGE);
            driver.set(DeviceStatus::FAILED);
            driver.set(DeviceStatus::DRIVER);
            driver.broken()
        }
        Rule::ResetNotAwaited => {
            let driver = modern();
            driver.identify();
            driver.write(Register::STATUS, 0);
            driver.set(DeviceStatus::ACKNOWLEDGE);
            driver.broken()
        }
        Rule::FeaturesEarly => {
            let driver = modern();
            driver.identify();
            driver.write(Register::DEVICE_FEATURES_SEL, 0);
            driver.read(Register::DEVICE_FEATURES);
            driver.broken()
        }
        Rule::FeaturesLate => {
            let driver = modern();
            driver.negotiate(base(false));
            driver.write(Register::DRIVER_FEATURES, 0);
            driver.broken()
        }
        Rule::FeatureNotOffered => {
            let driver = modern();
            driver.negotiate(bits([Features::RING_PACKED.bits()]));
            assert!(!driver.status().contains(DeviceStatus::FEATURES_OK));
            driver.broken()
        }
        Rule::FeatureUndefined => {
            let driver = driver_of(BlockDevice::builder().offer(1 << 30), false);
            driver.negotiate(bits([1 << 30]));
            driver.broken()
        }
        Rule::Version1Declined => {
            let driver = modern();
            driver.negotiate(0);
            driver.broken()
        }
        Rule::AnyLayoutDeclined => {
            let driver = legacy();
            driver.negotiate(0);
            driver.set(DeviceStatus::DRIVER_OK);
            driver.broken()
        }
        Rule::FeaturesOkNotReadBack => {
            let driver = modern();
            driver.start();
            driver.offered();
            driver.accept(base(false));
            driver.set(DeviceStatus::FEATURES_OK);
            driver.read(Register::QUEUE_SIZE_MAX);
            driver.broken()
        }
        Rule::SuspendNotReadBack => {
            let (driver, _queue) = suspended(0);
            driver.set(DeviceStatus::DRIVER_OK);
            driver.reset();
            driver.broken()
        }
        Rule::ResumeNotAwaited => {
            let (driver, _queue) = suspended(0);
            driver.status();
            driver.set(DeviceStatus::DRIVER_OK);
            driver.notify(0);
            driver.reset();
            driver.broken()
        }
        Rule::WhileSuspended => {
            let (driver, _queue) = suspended(BlockFeatures::CONFIG_WCE.bits());
            driver.registers.write_u8(Register::CONFIG.0 + 32, 0);
            assert_eq!(driver.registers.read_u8(Register::CONFIG.0 + 32), 1);
            driver.reset();
            driver.broken()
        }
        Rule::DiscardOnZoned => {
            let builder = BlockDevice::builder().zoned(ZoneSetup::default()).discard(RangeLimits::default());
            let driver = driver_of(builder, false);
            driver.negotiate(bits([BlockFeatures::ZONED.bits(), BlockFeatures::DISCARD.bits()]));
            driver.broken()
        }
        Rule::FeaturesRefused => {
            let driver = modern();
            driver.device.faults(|faults| faults.refuse_features = true);
            driver.negotiate(base(false));
            assert!(!driver.status().contains(DeviceStatus::FEATURES_OK));
            driver.set(DeviceStatus::FEATURES_OK | DeviceStatus::DRIVER_OK);
            driver.broken()
        }
        Rule::ConfigWidth => {
            let driver = modern();
            driver.identify();
            driver.registers.read_u8(Register::CONFIG.0);
            driver.broken()
        }
        Rule::ConfigUnknown => {
            let driver = modern();
            driver.identify();
            driver.registers.read_u8(Register::CONFIG.0 + 33);
            driver.broken()
        }
        Rule::ConfigNotOffered => {
            let driver = modern();
            driver.identify();
            assert_eq!(driver.registers.read_u32(Register::CONFIG.0 + 8), u32::MAX);
            driver.broken()
        }
        Rule::ConfigReadOnly => {
            let driver = modern();
            driver.negotiate(base(false));
            driver.registers.write_u32(Register::CONFIG.0 + 20, 0);
            driver.broken()
        }
        Rule::ConfigWrittenEarly => {
            let driver = modern();
            driver.start();
            driver.registers.write_u8(Register::CONFIG.0 + 32, 0);
            driver.broken()
        }
        Rule::WritebackReadEarly => {
            let driver = modern();
            driver.start();
            driver.registers.read_u8(Register::CONFIG.0 + 32);
            driver.broken()
        }
        Rule::QueueEarly => {
            let driver = modern();
            driver.start();
            driver.read(Register::QUEUE_SIZE_MAX);
            driver.broken()
        }
        Rule::QueueLate => {
            let driver = driver_of(BlockDevice::builder().queues(2), false);
            let _queue = driver.ready(base(false), 4);
            driver.write(Register::QUEUE_SEL, 1);
            driver.read(Register::QUEUE_SIZE_MAX);
            driver.write(Register::QUEUE_SIZE, 4);
            driver.reset();
            driver.broken()
        }
        Rule::QueueUnknown => {
            let driver = modern();
            driver.negotiate(base(false));
            driver.write(Register::QUEUE_SEL, 1);
            assert_eq!(driver.read(Register::QUEUE_SIZE_MAX), 0);
            driver.write(Register::QUEUE_SIZE, 4);
            driver.broken()
        }
        Rule::QueueSize => {
            let driver = modern();
            driver.negotiate(base(false));
            driver.read(Register::QUEUE_SIZE_MAX);
            driver.write(Register::QUEUE_SIZE, 512);
            driver.broken()
        }
        Rule::QueueSizeNotRead => {
            let driver = modern();
            driver.negotiate(base(false));
            driver.write(Register::QUEUE_SIZE, 4);
            driver.broken()
        }
        Rule::QueueInUse => {
            let driver = modern();
            driver.negotiate(base(false));
            let _queue = driver.queue(0, 4);
            driver.write(Register::QUEUE_SIZE, 4);
            driver.reset();
            driver.broken()
        }
        Rule::QueueReadyValue => {
            let driver = modern();
            driver.negotiate(base(false));
            driver.write(Register::QUEUE_READY, 2);
            driver.broken()
        }
        Rule::QueueStopNotReadBack => {
            let driver = modern();
            driver.negotiate(base(false));
            let _queue = driver.queue(0, 4);
            driver.write(Register::QUEUE_READY, 0);
            driver.write(Register::QUEUE_READY, 1);
            driver.reset();
            driver.broken()
        }
        Rule::QueueResetValue => {
            let feature = Features::RING_RESET.bits();
            let driver = driver_of(BlockDevice::builder().offer(feature), false);
            let _queue = driver.ready(bits([feature]), 4);
            driver.write(Register::QUEUE_RESET, 0);
            driver.reset();
            driver.broken()
        }
        Rule::QueueResetNotReadBack => {
            let feature = Features::RING_RESET.bits();
            let driver = driver_of(BlockDevice::builder().offer(feature), false);
            let _queue = driver.ready(bits([feature]), 4);
            driver.write(Register::QUEUE_RESET, 1);
            driver.read(Register::QUEUE_SIZE_MAX);
            driver.write(Register::QUEUE_SIZE, 4);
            driver.reset();
            driver.broken()
        }
        Rule::QueueMisaligned => queue_at(|areas| areas[1] += 1),
        Rule::QueueOverlap => queue_at(|areas| areas[2] = areas[1]),
        Rule::QueueUnreachable => queue_at(|areas| areas[2] = 0x1000),
        Rule::QueueNotZeroed => {
            let driver = modern();
            driver.negotiate(base(false));
            let queue = Queue::modern(&driver.memory, 4);
            queue.ring.write(queue.device_area, &[1]);
            driver.enable(0, &queue);
            driver.reset();
            driver.broken()
        }
        Rule::QueuePageSize => {
            let driver = legacy();
            driver.negotiate(base(true));
            driver.write(Register::GUEST_PAGE_SIZE, 1000);
            driver.broken()
        }
        Rule::QueueAlign => {
            let driver = legacy();
            driver.negotiate(base(true));
            driver.write(Register::QUEUE_ALIGN, 3);
            driver.broken()
        }
        Rule::QueueFreedWhileLive => {
            let driver = modern();
            drop(driver.ready(base(false), 4));
            driver.reset();
            driver.broken()
        }
        Rule::NotifyEarly => {
            let driver = modern();
            driver.negotiate(base(false));
            let _queue = driver.queue(0, 4);
            driver.notify(0);
            driver.reset();
            driver.broken()
        }
        Rule::NotifyUnknownQueue => available(modern(), base(false), |driver, _| driver.notify(1)),
        Rule::NotifyData => {
            let feature = Features::NOTIFICATION_DATA.bits();
            available(driver_of(BlockDevice::builder().offer(feature), false), bits([feature]), |driver, queue| {
                queue.offer(0);
                queue.publish();
                driver.write(Register::QUEUE_NOTIFY, 2 << 16);
            })
        }
        Rule::NotifyMissing => available(manual(), bits([Features::EVENT_IDX.bits()]), |_, queue| {
            queue.offer(0);
            queue.publish();
        }),
        Rule::AvailableIndex => available(modern(), base(false), |driver, queue| {
            queue.available = 5;
            queue.publish();
            driver.notify(0);
        }),
        Rule::AvailableFlags => available(modern(), bits([Features::EVENT_IDX.bits()]), |driver, queue| {
            queue.set_available_flags(1);
            driver.submit(queue, 0);
        }),
        Rule::HeadOutOfRange => available(modern(), base(false), |driver, queue| driver.submit(queue, 4)),
        Rule::HeadInFlight => available(modern(), base(false), |driver, queue| {
            driver.device.faults(|faults| faults.hold = true);
            driver.submit(queue, 0);
            driver.submit(queue, 0);
        }),
        Rule::DescriptorInFlight => {
            let driver = modern();
            driver.device.faults(|faults| faults.hold = true);
            let mut queue = driver.ready(base(false), 4);
            let request = Request::new(&driver.memory, RequestType::IN, 1);
            driver.chain(&queue, &request, 512, true);
            driver.submit(&mut queue, 0);
            queue.descriptor(3, request.at(0), 16, NEXT, 2);
            driver.submit(&mut queue, 3);
            driver.reset();
            driver.broken()
        }
        Rule::DescriptorFlags => {
            read_with(modern(), base(false), |queue, request| queue.descriptor(0, request.at(0), 16, NEXT | 8, 1))
        }
        Rule::NextOutOfRange => {
            read_with(modern(), base(false), |queue, request| queue.descriptor(0, request.at(0), 16, NEXT, 4))
        }
        Rule::ChainLoop => {
            read_with(modern(), base(false), |queue, request| queue.descriptor(1, request.at(DATA), 512, NEXT, 0))
        }
        Rule::ChainTooLong => read_with(modern(), bits([INDIRECT_DESC]), |queue, request| {
            for entry in 0..5 {
                request.0.descriptor(TABLE + 16 * entry, request.at(0), 16, NEXT, entry as u16 + 1);
            }
            queue.descriptor(0, request.at(TABLE), 6 * 16, INDIRECT, 0);
        }),
        Rule::ChainTooLarge => {
            let driver = driver_of(BlockDevice::builder().queue_size_max(1024), false);
            let mut queue = driver.ready(bits([INDIRECT_DESC]), 1024);
            let large = Owned::new(&driver.memory, 8 << 20, 4096);
            let table = Owned::new(&driver.memory, 1024 * 16, 16);
            for entry in 0..600 {
                table.descriptor(16 * entry, large.address(), 8 << 20, NEXT, entry as u16 + 1);
            }
            queue.descriptor(0, table.address(), 1024 * 16, INDIRECT, 0);
            driver.submit(&mut queue, 0);
            driver.reset();
            driver.broken()
        }
        Rule::ChainOrder => request_with(modern(), base(false), RequestType::OUT, 1, |queue, request| {
            queue.descriptor(1, request.at(STATUS), 1, WRITE | NEXT, 2);
            queue.descriptor(2, request.at(DATA), 512, 0, 0);
        }),
        Rule::IndirectNotNegotiated => {
            read_with(modern(), base(false), |queue, request| queue.descriptor(0, request.at(TABLE), 48, INDIRECT, 0))
        }
        Rule::IndirectNested => read_with(modern(), bits([INDIRECT_DESC]), |queue, request| {
            request.0.descriptor(TABLE, request.at(TABLE), 16, INDIRECT, 0);
            queue.descriptor(0, request.at(TABLE), 16, INDIRECT, 0);
        }),
        Rule::IndirectWithNext => read_with(modern(), bits([INDIRECT_DESC]), |queue, request| {
            queue.descriptor(0, request.at(TABLE), 16, INDIRECT | NEXT, 1);
        }),
        Rule::IndirectLength => read_with(modern(), bits([INDIRECT_DESC]), |queue, request| {
            queue.descriptor(0, request.at(TABLE), 24, INDIRECT, 0);
        }),
        Rule::InOrderNext => {
            let feature = Features::IN_ORDER.bits();
            read_with(driver_of(BlockDevice::builder().offer(feature), false), bits([feature]), |queue, request| {
                queue.descriptor(0, request.at(0), 16, NEXT, 2);
                queue.descriptor(2, request.at(DATA), 512, NEXT | WRITE, 3);
                queue.descriptor(3, request.at(STATUS), 1, WRITE, 0);
            })
        }
        Rule::PackedListFlags => rules_of(&packed_with(0, |_, queue, request| {
            queue.list(0, &request.pieces(512, true));
            queue.set_flags(1, AVAIL | USED | NEXT | WRITE);
        })),
        Rule::PackedOverrun => rules_of(&packed_with(0, |driver, queue, request| {
            driver.device.faults(|faults| faults.hold = true);
            queue.list(0, &request.pieces(512, true));
            driver.notify(0);
            queue.list(1, &request.pieces(512, true));
        })),
        Rule::BufferIdInFlight => rules_of(&packed_with(0, |driver, queue, request| {
            driver.device.faults(|faults| faults.hold = true);
            queue.list(7, &request.pieces(512, true));
            queue.list(7, &[(request.at(0), 16, 0)]);
        })),
        Rule::IndirectFlags => rules_of(&packed_with(INDIRECT_DESC, |_, queue, request| {
            let mut pieces = request.pieces(512, true);
            pieces[0].2 |= NEXT;
            let table = request.packed_table(TABLE, &pieces);
            queue.list(0, &[table]);
        })),
        Rule::EventSuppression => rules_of(&packed_with(0, |_, queue, request| {
            queue.set_event(0, 2);
            queue.list(0, &request.pieces(512, true));
        })),
        Rule::Unreachable => {
            read_with(modern(), base(false), |queue, _| queue.descriptor(1, 0x10, 512, NEXT | WRITE, 2))
        }
        Rule::AlteredInFlight => {
            let driver = modern();
            driver.device.faults(|faults| faults.hold = true);
            let mut queue = driver.ready(base(false), 4);
            let request = Request::new(&driver.memory, RequestType::IN, 1);
            driver.chain(&queue, &request, 512, true);
            driver.submit(&mut queue, 0);
            queue.descriptor(1, request.at(DATA), 256, NEXT | WRITE, 2);
            driver.device.release();
            driver.reset();
            driver.broken()
        }
        Rule::RequestHeader => {
            read_with(modern(), base(false), |queue, request| queue.descriptor(0, request.at(0), 8, NEXT, 1))
        }
        Rule::RequestStatus => request_with(modern(), base(false), RequestType::OUT, 1, |queue, request| {
            queue.descriptor(1, request.at(DATA), 512, 0, 0);
        }),
        Rule::RequestDirection => {
            read_with(modern(), base(false), |queue, request| queue.descriptor(1, request.at(DATA), 512, NEXT, 2))
        }
        Rule::RequestReserved => read_with(modern(), base(false), |_, request| request.0.write(4, &[1])),
        Rule::RequestSector => empty_request(modern(), bits([BlockFeatures::FLUSH.bits()]), RequestType::FLUSH, 1),
        Rule::RequestLength => read_with(modern(), base(false), |queue, request| {
            queue.descriptor(1, request.at(DATA), 500, NEXT | WRITE, 2);
        }),
        Rule::RequestNotNegotiated => empty_request(modern(), base(false), RequestType::FLUSH, 0),
        Rule::BeyondCapacity => request_with(modern(), base(false), RequestType::IN, u64::MAX, |_, _| {}),
        Rule::WriteToReadOnly => {
            let driver = driver_of(BlockDevice::builder().read_only(), false);
            request_with(driver, bits([BlockFeatures::RO.bits()]), RequestType::OUT, 1, |_, _| {})
        }
        Rule::SegmentTooLarge => {
            let feature = BlockFeatures::SIZE_MAX.bits();
            let builder = BlockDevice::builder().offer(feature).config(|config| config.size_max = 256.into());
            read_with(driver_of(builder, false), bits([feature]), |_, _| {})
        }
        Rule::TooManySegments => read_with(modern(), base(false), |queue, request| {
            queue.descriptor(1, request.at(DATA), 256, NEXT | WRITE, 3);
            queue.descriptor(3, request.at(DATA + 256), 256, NEXT | WRITE, 2);
        }),
        Rule::RangeFlags => ranges(&[(0, 1, 2)]),
        Rule::RangeLimit => ranges(&[(0, 1, 0), (1, 1, 0)]),
        Rule::RangeAlignment => {
            let feature = BlockFeatures::DISCARD.bits();
            let limits = RangeLimits { alignment_sectors: 8, ..RangeLimits::default() };
            let builder = BlockDevice::builder().discard(limits).check_range_alignment();
            request_with(driver_of(builder, false), bits([feature]), RequestType::DISCARD, 0, |queue, request| {
                request.0.write(DATA, &[4, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
                queue.descriptor(1, request.at(DATA), 16, NEXT, 2);
            })
        }
        Rule::ZoneSector => zoned(RequestType::ZONE_OPEN, 65, 0),
        Rule::ZoneCapacity => zoned(RequestType::OUT, 184, 16 * 512),
        Rule::WriteGranularity => zoned(RequestType::OUT, 184, 512),
        Rule::AppendLimit => zoned(RequestType::ZONE_APPEND, 64, 24 * 512),
        Rule::LegacyFraming => {
            let memory = ScatterMemory::new();
            let device = BlockDevice::builder().interface(testing_device::Interface::Legacy);
            let device = device.withhold(Features::ANY_LAYOUT.bits()).build(&memory);
            let driver = Driver { registers: device.registers(), device, memory, legacy: true };
            request_with(driver, 0, RequestType::OUT, 1, |queue, request| {
                request.0.write(DATA - 16, &request.0.read(0, 16));
                queue.descriptor(0, request.at(DATA - 16), 528, NEXT, 2);
            })
        }
        other => panic!("nothing breaks {other:?}"),
    }
}

#[test]
fn each_rule_is_seen_broken() {
    let wrong: Vec<_> =
        Rule::ALL.iter().map(|&rule| (rule, break_rule(rule))).filter(|(rule, seen)| *seen != [*rule]).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn rules_cite_sections() {
    for rule in Rule::ALL {
        assert!(rule.section().starts_with(['2', '3', '4', '5', '6']), "{rule:?}");
        assert!(!rule.text().is_empty());
    }
}

#[test]
fn ranges_that_keep_the_rules_break_none() {
    assert_eq!(ranges(&[(8, 8, 1)]), []);
}

#[test]
#[should_panic(expected = "virtio 1.4, 4.2.2.2: a read-only register is not written")]
fn a_device_that_is_dropped_with_violations_panics() {
    let driver = modern();
    driver.identify();
    driver.write(Register::VERSION, 0);
}
