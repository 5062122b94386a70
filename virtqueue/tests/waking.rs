//! Nobody sleeps for ever: random histories of a driver and a device that both sleep whenever they may.

mod common;

use common::{Bytes, Form, Rig, Tag, in_every_form, of_size};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use testing_device::{RingMover, ScatterMemory};
use virtqueue::{Access, Settings};

in_every_form! {
    no_notification_and_no_interrupt_is_lost,
}

#[derive(Clone, Debug)]
enum Step {
    /// The driver submits chains of so many descriptors, and commits them.
    Send(Vec<u16>),
    /// The driver submits a chain that it does not commit yet.
    Add,
    /// The device takes so many chains, if it is awake.
    Take(usize),
    /// The device gives back some of what it has, each chosen by a number, and then considers an interrupt.
    Complete(Vec<usize>),
    /// The driver takes what is used, if it is awake, and goes to sleep until there are so many more.
    Sleep(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(1..4_u16, 1..4).prop_map(Step::Send),
        1 => Just(Step::Add),
        4 => (1..5_usize).prop_map(Step::Take),
        4 => prop::collection::vec(0..12_usize, 1..4).prop_map(Step::Complete),
        3 => prop_oneof![1..6_u16, Just(u16::MAX)].prop_map(Step::Sleep),
    ]
}

/// A driver and a device.
struct Pair<F: Form> {
    rig: Rig<ScatterMemory, F>,
    data: Bytes,
    device_sleeps: bool,
    /// The driver sleeps until so many chains more were given back.
    driver_sleeps: Option<u16>,
    /// How many were given back since.
    given_back: u16,
    /// What the device has taken.
    held: Vec<u16>,
    /// How many chains were committed, and taken by the driver.
    committed: u16,
    uncommitted: u16,
    event_idx: bool,
    chains: u32,
}

impl<F: Form> Pair<F> {
    fn submit(&mut self, descriptors: u16) -> bool {
        let Ok(mut chain) = self.rig.queue.chain() else { return false };
        for _ in 1..descriptors {
            // SAFETY: `data` lives as long as the rig.
            unsafe { chain.buffer(self.data.start(), self.data.len(), Access::DeviceReads) }.unwrap();
        }
        chain.slot_part(16, 1, Access::DeviceWrites).unwrap();
        self.chains += 1;
        let submitted = chain.submit(Tag(self.chains)).is_ok();
        self.uncommitted += u16::from(submitted);
        submitted
    }

    /// Commits, and wakes the device if it wants that.
    fn commit(&mut self) -> Result<(), TestCaseError> {
        self.committed += std::mem::take(&mut self.uncommitted);
        let notified = self.rig.queue.commit().is_some();
        let judgement = self.rig.device.judge().unwrap();
        prop_assert_eq!(notified, judgement.due);
        if self.device_sleeps && judgement.added > 0 {
            prop_assert!(notified, "the device sleeps, and there is something to do");
        }
        self.device_sleeps &= !notified;
        Ok(())
    }

    /// The device takes chains. When there are no more, it goes to sleep.
    fn take(&mut self, most: usize) {
        for _ in 0..most {
            if self.device_sleeps {
                return;
            }
            match self.rig.device.pop() {
                Some(chain) => self.held.push(chain.id),
                None => self.device_sleeps = !self.rig.device.set_notifications(true),
            }
        }
        if !self.device_sleeps {
            self.rig.device.set_notifications(false);
        }
    }

    /// The device gives chains back, and wakes the driver if it wants that.
    fn complete(&mut self, chosen: &[usize]) -> Result<(), TestCaseError> {
        let mut given_back = 0;
        for number in chosen {
            if !self.held.is_empty() {
                let id = self.held.swap_remove(number % self.held.len());
                self.rig.device.push_used(id, 1);
                given_back += 1;
            }
        }
        self.given_back += given_back;
        let interrupt = self.rig.device.interrupt_wanted();
        if let Some(chains) = self.driver_sleeps {
            let enough = self.given_back >= if self.event_idx { chains } else { 1 };
            prop_assert!(interrupt || !enough, "asleep for {chains}, and {} came", self.given_back);
            if interrupt {
                self.driver_sleeps = None;
            }
        }
        Ok(())
    }

    /// The driver takes all that is used and, unless more comes meanwhile, sleeps.
    fn sleep(&mut self, chains: u16) {
        while self.rig.pop().is_some() {
            self.committed -= 1;
        }
        if self.rig.queue.enable_interrupts(chains) {
            // It is told so in terms of what the device has.
            self.driver_sleeps = Some(chains.min(self.committed.max(1)));
            self.given_back = 0;
        }
    }
}

fn run<F: Form>(settings: Settings, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut pair = Pair::<F> {
        rig: Rig::new(&ScatterMemory::new(), settings),
        data: Bytes::new(0, 8),
        device_sleeps: false,
        driver_sleeps: None,
        given_back: 0,
        held: Vec::new(),
        committed: 0,
        uncommitted: 0,
        event_idx: settings.event_idx,
        chains: 0,
    };
    for step in steps {
        // Who sleeps does nothing.
        match step {
            Step::Send(lengths) if pair.driver_sleeps.is_none() => {
                for descriptors in lengths {
                    pair.submit(descriptors);
                }
                pair.commit()?;
            }
            Step::Add if pair.driver_sleeps.is_none() => {
                pair.submit(1);
            }
            Step::Take(most) => pair.take(most),
            Step::Complete(chosen) => pair.complete(&chosen)?,
            Step::Sleep(chains) if pair.driver_sleeps.is_none() => pair.sleep(chains),
            _ => {}
        }
    }
    // Left to themselves, with the driver asleep for all of it, both come to an end.
    if pair.driver_sleeps.is_none() {
        pair.commit()?;
        pair.sleep(u16::MAX);
    }
    while !pair.device_sleeps || !pair.held.is_empty() {
        pair.take(usize::from(settings.size));
        let all = vec![0; pair.held.len()];
        pair.complete(&all)?;
    }
    if pair.driver_sleeps.is_none() || pair.committed == 0 {
        while pair.rig.pop().is_some() {
            pair.committed -= 1;
        }
        prop_assert_eq!((pair.committed, pair.rig.queue.in_flight()), (0, pair.uncommitted));
    } else {
        prop_assert!(false, "the driver sleeps for ever");
    }
    pair.rig.finish();
    Ok(())
}

fn shape<F: Form>() -> impl Strategy<Value = Settings> {
    (4..12_u16, any::<[bool; 2]>()).prop_map(|(entries, [indirect, event_idx])| {
        let size = if F::PACKED { entries } else { 1 << entries.ilog2() };
        Settings { chain_max: 4, indirect, event_idx, ..of_size::<F>(size) }
    })
}

fn no_notification_and_no_interrupt_is_lost<F: Form>() {
    let (cases, steps) = if cfg!(miri) { (2, 30) } else { (300, 150) };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(&(shape::<F>(), prop::collection::vec(step(), 1..steps)), |(shape, steps)| run::<F>(shape, steps))
        .unwrap();
}
