//! What happens to a device in part: one of its queues is reset, or all of it is suspended and resumed.

mod common;

use common::{defaults, transport};
use testing_device::{BlockDevice, Builder, Mode, QueueResetAnswer, ScatterMemory, SuspendAnswer};
use virtio_blk::{
    CacheMode, Device, Either, Error, FeatureSet, Features, Operation, Options, Queue, Recovered, RingFormat, Setup,
    Split,
};
use virtio_transport::{Mmio, MmioNotifier, QueueResetError, Spin, SpinLimit, SuspendError};

type Buffer = Box<[u8]>;
type Registers = testing_device::DeviceRegisters;
type TestQueue<R> = Queue<ScatterMemory, MmioNotifier<Registers>, Buffer, R>;

const SOON: SpinLimit = SpinLimit { looks: 10 };

struct Rig<R: RingFormat> {
    device: BlockDevice,
    handle: Device<Mmio<Registers>, ScatterMemory>,
    queues: [TestQueue<R>; 2],
}

/// A device of two queues that offers a feature, which the driver asks for or not.
fn rig<R: RingFormat>(ring: R, builder: Builder, offered: Features, asked: bool) -> Rig<R> {
    let memory = ScatterMemory::new();
    let device = builder.queues(2).offer(offered.bits()).mode(Mode::Manual).build(&memory);
    let opt_in = if asked { offered.into() } else { FeatureSet::NONE };
    let options = Options { queues: 2, queue_size: 16, opt_in, ..defaults() };
    let mut setup = Setup::negotiate_with(ring, transport(&device), memory, &options, &mut Spin).unwrap();
    assert_eq!(setup.info().features.contains(offered), asked, "only who asks for it gets it");
    let queues = [setup.add_queue().unwrap(), setup.add_queue().unwrap()];
    Rig { device, handle: setup.start(), queues }
}

fn sector(byte: u8) -> Buffer {
    vec![byte; 512].into()
}

impl<R: RingFormat> Rig<R> {
    /// A write in flight on either queue, and a cancelled one and a flush on the first.
    fn busy(&mut self) {
        let [first, second] = &mut self.queues;
        first.submit_write(1, sector(1)).unwrap();
        let cancelled = first.submit_write(2, sector(2)).unwrap();
        first.submit_flush().unwrap();
        second.submit_write(3, sector(3)).unwrap();
        first.commit();
        second.commit();
        assert!(first.cancel(cancelled));
    }

    /// What the completions of a queue say, by their sectors.
    fn results(&mut self, queue: usize) -> Vec<(Operation, u64, Result<(), Error>)> {
        let queue = &mut self.queues[queue];
        let mut results = Vec::new();
        while let Some(completion) = queue.poll().unwrap() {
            results.push((completion.operation, completion.sector, completion.result));
        }
        results.sort_by_key(|(_, sector, _)| *sector);
        assert_eq!(queue.in_flight(), 0);
        results
    }

    fn suspend(&mut self) -> Result<(), Error> {
        let [first, second] = &mut self.queues;
        self.handle.suspend(&mut [first, second], &mut SOON.clone())
    }

    fn finish(mut self) {
        let [first, second] = &mut self.queues;
        self.handle.shutdown(&mut [first, second], &mut Spin).unwrap();
        self.device.assert_conformant();
    }
}

fn one_queue_is_reset<R: RingFormat>(ring: R, builder: Builder, answer: QueueResetAnswer) {
    let mut rig = rig(ring, builder, Features::RING_RESET, true);
    rig.busy();
    rig.device.faults(|faults| faults.queue_reset = answer);
    let [first, second] = &mut rig.queues;
    let recovered = rig.handle.reset_queue(first, &mut SOON.clone()).unwrap();
    assert_eq!(recovered, Recovered { reissued: 1, ended: 2, writes_in_doubt: false });
    assert_eq!((second.in_flight(), rig.device.counts().resets), (1, 1), "nothing else was reset");
    assert_eq!(rig.device.run(), 2);
    assert_eq!(
        rig.results(0),
        [
            (Operation::Flush, 0, Err(Error::FlushInDoubt)),
            (Operation::Write, 1, Ok(())),
            (Operation::Write, 2, Err(Error::Cancelled { operation: Operation::Write, sector: 2 })),
        ]
    );
    assert_eq!(rig.results(1), [(Operation::Write, 3, Ok(()))]);
    assert_eq!(rig.device.read_disk(1, 3), [[1; 512], [0; 512], [3; 512]].concat());
    rig.queues[0].submit_write(2, sector(4)).unwrap();
    rig.queues[0].commit();
    rig.device.run();
    assert_eq!(rig.results(0), [(Operation::Write, 2, Ok(()))]);
    rig.finish();
}

#[test]
fn one_queue_is_reset_while_the_other_goes_on() {
    for withheld in [0, Features::INDIRECT_DESC.bits()] {
        for answer in [QueueResetAnswer::Prompt, QueueResetAnswer::AfterReads(3)] {
            let builder = || BlockDevice::builder().withhold(withheld);
            one_queue_is_reset(Split, builder().queue_size_max(16), answer);
            one_queue_is_reset(Either, builder().queue_size_max(16).packed(), answer);
        }
    }
}

#[test]
fn a_queue_that_is_not_reset_stays_as_it_is() {
    let never = |answer, error| {
        let mut rig = rig(Split, BlockDevice::builder().queue_size_max(16), Features::RING_RESET, true);
        rig.busy();
        rig.device.faults(|faults| faults.queue_reset = answer);
        let [first, second] = &mut rig.queues;
        assert_eq!(rig.handle.reset_queue(first, &mut SOON.clone()), Err(Error::QueueReset(error)));
        assert_eq!((first.in_flight(), second.in_flight()), (3, 1));
        // What comes next resets the device.
        let recovered = rig.handle.recover(&mut [first, second], &mut Spin).unwrap();
        assert_eq!(recovered.reissued, 2);
        rig.device.run();
        assert_eq!((rig.results(0).len(), rig.results(1).len()), (3, 1));
    };
    never(QueueResetAnswer::Never, QueueResetError::TimedOut { queue: 0 });
    never(QueueResetAnswer::Ignored, QueueResetError::StillInUse { queue: 0 });
}

#[test]
fn a_queue_is_reset_only_by_its_own_device_and_only_if_that_was_asked_for() {
    let rig_of = |asked| rig(Split, BlockDevice::builder(), Features::RING_RESET, asked);
    let (mut one, mut other, mut plain) = (rig_of(true), rig_of(true), rig_of(false));
    let error = one.handle.reset_queue(&mut other.queues[0], &mut Spin);
    assert_eq!(error, Err(Error::ForeignQueue));
    let error = plain.handle.reset_queue(&mut plain.queues[0], &mut Spin);
    assert_eq!(error, Err(Error::QueueReset(QueueResetError::NotNegotiated)));
    for rig in [one, other, plain] {
        rig.finish();
    }
}

#[test]
fn a_suspended_device_goes_on_with_what_was_in_its_queues() {
    for answer in [SuspendAnswer::Prompt, SuspendAnswer::AfterReads(3)] {
        for packed in [false, true] {
            let builder = BlockDevice::builder();
            let builder = if packed { builder.packed() } else { builder };
            let mut rig = rig(Either, builder, Features::SUSPEND, true);
            rig.device.faults(|faults| faults.suspend = answer);
            rig.busy();
            // Submitted, and not yet seen by the device.
            rig.queues[1].submit_write(4, sector(4)).unwrap();
            rig.suspend().unwrap();
            let [first, second] = &mut rig.queues;
            assert_eq!(second.submit_write(5, sector(5)).map_err(|it| it.error), Err(Error::Stopped));
            assert!(!second.commit());
            // Nor is the device, which has what was in flight, taken for one that was reset.
            let result = second.blocking(&mut rig.handle).unwrap().read(1, &mut [0; 512], &mut Spin);
            assert_eq!(result, Err(Error::Stopped));
            assert_eq!((second.in_flight(), second.is_stopped()), (2, false));
            let mode = rig.handle.set_cache_mode(CacheMode::WriteThrough, &mut [first, second], &mut Spin);
            assert_eq!(mode, Err(Error::Stopped));
            assert!(second.poll().unwrap().is_none());
            assert_eq!(rig.device.run(), 0, "a suspended device does nothing");

            rig.device.faults(|faults| faults.suspend = answer);
            rig.handle.resume(&mut [first, second], &mut SOON.clone()).unwrap();
            second.submit_write(5, sector(5)).unwrap();
            second.commit();
            assert_eq!(rig.device.run(), 6);
            assert_eq!(rig.results(0).into_iter().filter(|(_, _, result)| result.is_ok()).count(), 3);
            let expected = [3, 4, 5].map(|sector| (Operation::Write, sector, Ok(())));
            assert_eq!(rig.results(1), expected);
            rig.finish();
        }
    }
}

#[test]
fn a_device_that_does_not_stop_or_go_on_says_so() {
    let mut rig = rig(Split, BlockDevice::builder(), Features::SUSPEND, true);
    rig.device.faults(|faults| faults.suspend = SuspendAnswer::Never);
    let result = rig.suspend();
    assert!(matches!(result, Err(Error::Suspend(SuspendError::TimedOut { .. }))), "{result:?}");
    rig.device.faults(|faults| faults.suspend = SuspendAnswer::Prompt);
    rig.suspend().unwrap();
    rig.device.faults(|faults| faults.suspend = SuspendAnswer::NeedsReset);
    let [first, second] = &mut rig.queues;
    let result = rig.handle.resume(&mut [first, second], &mut SOON.clone());
    assert_eq!(result, Err(Error::Suspend(SuspendError::NeedsReset)));
    rig.device.faults(|faults| faults.suspend = SuspendAnswer::Prompt);
    let recovered = rig.handle.recover(&mut [first, second], &mut Spin).unwrap();
    assert_eq!(recovered, Recovered::default());
    first.submit_write(1, sector(1)).unwrap();
    first.commit();
    rig.device.run();
    assert_eq!(rig.results(0), [(Operation::Write, 1, Ok(()))]);
    rig.finish();
}

#[test]
fn a_device_is_suspended_only_if_that_was_asked_for() {
    let mut rig = rig(Split, BlockDevice::builder(), Features::SUSPEND, false);
    assert_eq!(rig.suspend(), Err(Error::Suspend(SuspendError::NotNegotiated)));
    rig.queues[0].submit_write(1, sector(1)).unwrap();
    rig.queues[0].commit();
    rig.device.run();
    assert_eq!(rig.results(0), [(Operation::Write, 1, Ok(()))]);
    rig.finish();
}
