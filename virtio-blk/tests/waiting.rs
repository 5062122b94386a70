//! Policies that give up, policies and memories that panic: the device lets go before the buffer is the caller's again.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Counted, Placed, TestDisk, Trapped, defaults, open, open_with, pattern};
#[cfg(not(miri))]
use testing_device::BounceMemory;
use testing_device::{BlockDevice, DeviceMemory, IommuMemory, Mode, Outcome, ResetAnswer, ScatterMemory, TestMemory};
use virtio_blk::{Error, Options};
use virtio_transport::{GaveUp, Spin, SpinLimit};

fn held<M: TestMemory>(memory: &M) -> BlockDevice {
    let device = BlockDevice::builder().build(memory);
    device.write_disk(0, &pattern(SECTORS * 512, 4));
    device.faults(|faults| faults.hold = true);
    device
}

/// The length of a transfer that takes several requests.
const SECTORS: usize = if cfg!(miri) { 24 } else { 64 };

fn options() -> Options {
    Options { segments: 2, ..defaults() }
}

#[test]
fn a_policy_that_gives_up_gets_its_buffer_back_after_a_reset() {
    for looks in [0, 1, 100] {
        let memory = ScatterMemory::new();
        let device = held(&memory);
        let mut disk = open(&device, &memory, &options());
        let mut buffer = Placed::new(0, SECTORS * 512);
        assert_eq!(disk.read(0, &mut buffer, &mut SpinLimit { looks }), Err(Error::GaveUp));
        assert_eq!(device.counts().resets, 2);
        buffer.fill(0x77);
        assert_eq!(device.release(), 0, "nothing is written later");
        assert!(buffer.is_all(0x77));
        assert_eq!(disk.read(0, &mut buffer, &mut Spin), Err(Error::Stopped));
        drop(disk);
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn what_the_device_holds_in_its_hand_is_void_after_giving_up() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    device.write_disk(0, &pattern(SECTORS * 512, 4));
    let mut disk = open(&device, &memory, &options());
    let mut in_hand = Vec::new();
    let mut looks = 0;
    let mut policy = || {
        in_hand.extend(device.take());
        looks += 1;
        if looks < 3 { Ok(()) } else { Err(GaveUp) }
    };
    let mut buffer = Placed::new(0, SECTORS * 512);
    assert_eq!(disk.read(0, &mut buffer, &mut policy), Err(Error::GaveUp));
    assert!(in_hand.len() > 1, "several are in the device's hand");
    for pending in in_hand {
        assert!(!device.complete(pending, Outcome::HONEST));
    }
    assert!(buffer.is_all(0));
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn giving_up_waits_for_the_acknowledgement_however_long_it_takes() {
    let memory = ScatterMemory::new();
    let device = held(&memory);
    let mut disk = open(&device, &memory, &options());
    device.faults(|faults| faults.reset = ResetAnswer::AfterReads(if cfg!(miri) { 50 } else { 5000 }));
    let mut buffer = Placed::new(0, 512);
    assert_eq!(disk.read(0, &mut buffer, &mut SpinLimit { looks: 1 }), Err(Error::GaveUp));
    assert_eq!((device.counts().resets, device.release()), (2, 0));
    drop(disk);
    memory.assert_clean();
}

#[test]
fn every_call_can_be_given_up() {
    type Call = fn(&mut TestDisk<ScatterMemory>) -> Result<(), Error>;
    let calls: [Call; 4] = [
        |disk| disk.write(9, &[1; 512], &mut SpinLimit { looks: 3 }),
        |disk| disk.flush(&mut SpinLimit { looks: 3 }),
        |disk| disk.device_id(&mut SpinLimit { looks: 3 }).map(drop),
        |disk| disk.set_cache_mode(virtio_blk::CacheMode::WriteThrough, &mut SpinLimit { looks: 3 }),
    ];
    for call in calls {
        let memory = ScatterMemory::new();
        let device = held(&memory);
        let mut disk = open(&device, &memory, &options());
        assert_eq!(call(&mut disk), Err(Error::GaveUp));
        assert_eq!((device.counts().resets, device.release()), (2, 0));
        assert_eq!(device.read_disk(9, 1), pattern(SECTORS * 512, 4)[9 * 512..10 * 512], "not written");
        // Whoever shuts down now has nothing to wait for.
        let asked = AtomicUsize::new(0);
        let mut policy = || {
            asked.fetch_add(1, Ordering::Relaxed);
            if asked.load(Ordering::Relaxed) < 10 { Ok(()) } else { Err(GaveUp) }
        };
        disk.shutdown(&mut policy).unwrap();
        assert_eq!(asked.into_inner(), 0);
        memory.assert_clean();
    }
}

#[test]
fn no_mapping_is_left_when_a_policy_has_given_up() {
    let memory = IommuMemory::new();
    let device = held(&memory);
    let mut disk = open(&device, &memory, &options());
    let mut buffer = Placed::new(100, 16 * 512);
    assert_eq!(disk.read(0, &mut buffer, &mut SpinLimit { looks: 1 }), Err(Error::GaveUp));
    // The buffer is the caller's again, so the device must not be able to reach it.
    assert_eq!(memory.mapped(), 0);
    drop(buffer);
    drop(disk);
    memory.assert_clean();
}

/// What happens to a buffer after the call that borrowed it was given up.
#[cfg(not(miri))]
fn given_up_then(after: impl FnOnce(TestDisk<BounceMemory>)) {
    let memory = BounceMemory::new();
    let device = held(&memory);
    let mut disk = open(&device, &memory, &options());
    let mut buffer = Placed::new(100, 16 * 512);
    assert_eq!(disk.read(0, &mut buffer, &mut SpinLimit { looks: 1 }), Err(Error::GaveUp));
    // It may be freed now, or become something else.
    buffer.fill(0x66);
    after(disk);
    assert!(buffer.is_all(0x66), "the driver wrote to a buffer that it had given back");
    drop(device);
    memory.assert_clean();
}

#[test]
#[cfg(not(miri))]
fn a_buffer_that_was_given_back_is_not_written_when_the_disk_recovers() {
    given_up_then(|mut disk| {
        let _ = disk.recover(&mut Spin).unwrap();
    });
}

#[test]
#[cfg(not(miri))]
fn a_buffer_that_was_given_back_is_not_written_when_the_disk_is_dropped() {
    given_up_then(drop);
}

#[test]
#[cfg(not(miri))]
fn a_buffer_that_was_given_back_is_not_written_when_the_disk_is_given_up() {
    given_up_then(|mut disk| disk.give_up());
}

#[test]
fn a_disk_recovers_after_a_policy_gave_up() {
    let memory = ScatterMemory::new();
    let device = held(&memory);
    let mut disk = open(&device, &memory, &options());
    let mut buffer = Placed::new(100, 16 * 512);
    assert_eq!(disk.read(0, &mut buffer, &mut SpinLimit { looks: 1 }), Err(Error::GaveUp));
    device.faults(|faults| faults.hold = false);
    let recovered = disk.recover(&mut Spin).unwrap();
    assert_eq!(recovered.reissued, 0, "nobody waits for it any more");
    assert_eq!((device.counts().reads, disk.queue().in_flight()), (0, 0));
    disk.read(0, &mut buffer, &mut Spin).unwrap();
    assert!(buffer[..] == pattern(SECTORS * 512, 4)[..16 * 512]);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_policy_that_panics_leaves_nothing_in_flight() {
    for looks in [0, 3] {
        let memory = ScatterMemory::new();
        let device = held(&memory);
        let mut disk = open(&device, &memory, &options());
        let mut buffer = Placed::new(0, SECTORS * 512);
        let mut left = looks;
        let mut policy = || {
            if left == 0 {
                assert!(device.held() > 1, "several are in flight");
                panic!("the policy was told to panic");
            }
            left -= 1;
            Ok(())
        };
        let result = catch_unwind(AssertUnwindSafe(|| disk.read(0, &mut buffer, &mut policy)));
        assert!(result.is_err());
        assert_eq!(device.counts().resets, 2, "reset before the panic went on");
        buffer.fill(0x77);
        assert_eq!(device.release(), 0);
        assert!(buffer.is_all(0x77));
        assert_eq!(disk.read(0, &mut buffer, &mut Spin), Err(Error::Stopped));
        drop(disk);
        device.assert_conformant();
        memory.assert_clean();
    }
}

#[test]
fn a_policy_that_panics_during_a_reset_is_survived() {
    let memory = ScatterMemory::new();
    let device = held(&memory);
    let disk = open(&device, &memory, &options());
    device.faults(|faults| faults.reset = ResetAnswer::AfterReads(3));
    let mut policy = || -> Result<(), GaveUp> { panic!("the policy was told to panic") };
    let result = catch_unwind(AssertUnwindSafe(|| drop(disk.shutdown(&mut policy))));
    assert!(result.is_err());
    // Nobody knows whether the device has let go: what it may use is leaked.
    assert_eq!(memory.outstanding(), 2);
    assert!(memory.faults().is_empty());
}

const PAGES: usize = if cfg!(miri) { 3 } else { 6 };

/// A blocking read behind an IOMMU, whose memory panics at one of its calls. Returns whether the device was reset.
fn panicking(calls: i64, arm: impl Fn(&Trapped<IommuMemory>, i64)) -> bool {
    let inner = IommuMemory::new();
    let memory = Trapped::new(inner.clone());
    let device = BlockDevice::builder().build(&inner);
    device.write_disk(0, &pattern(SECTORS * 512, 4));
    let mut disk: TestDisk<_> = open(&device, &memory, &options());
    let mut buffer = Placed::new(0, PAGES * 4096);
    arm(&memory, calls);
    let result = catch_unwind(AssertUnwindSafe(|| disk.read(0, &mut buffer, &mut Spin)));
    if let Ok(done) = result {
        // It was over before the call that was to panic.
        assert_eq!(done, Ok(()));
        arm(&memory, -1);
    }
    let reset = device.counts().resets > 1;
    buffer.fill(0x77);
    device.run();
    assert!(buffer.is_all(0x77), "nothing is written later");
    if reset {
        assert_eq!(disk.read(0, &mut buffer, &mut Spin), Err(Error::Stopped));
    } else {
        // Nothing was in flight, so nothing was lost.
        disk.read(0, &mut buffer, &mut Spin).unwrap();
        assert!(buffer[..] == pattern(SECTORS * 512, 4)[..PAGES * 4096]);
    }
    drop(disk);
    device.assert_conformant();
    assert_eq!(inner.outstanding(), 0);
    assert!(inner.faults().is_empty());
    reset
}

#[test]
fn a_memory_that_panics_while_mapping_leaves_nothing_in_flight() {
    let resets: Vec<_> = (0..16)
        .step_by(if cfg!(miri) { 5 } else { 1 })
        .map(|calls| panicking(calls, |memory, calls| memory.panic_in_map(calls)))
        .collect();
    assert!(!resets[0] && resets.contains(&true), "{resets:?}");
}

#[test]
fn a_memory_that_panics_while_unmapping_leaves_nothing_in_flight() {
    let resets: Vec<_> = (0..16)
        .step_by(if cfg!(miri) { 5 } else { 1 })
        .map(|calls| panicking(calls, |memory, calls| memory.panic_in_unmap(calls)))
        .collect();
    assert!(resets.contains(&true), "{resets:?}");
}

#[test]
fn an_owned_buffer_outlives_a_memory_that_panics() {
    let alive = Arc::new(AtomicUsize::new(0));
    for unmap in [true, false] {
        let inner = IommuMemory::new();
        let memory = Trapped::new(inner.clone());
        let device = BlockDevice::builder().build(&inner);
        let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &options());
        if unmap {
            memory.panic_in_unmap(0);
        } else {
            memory.panic_in_map(0);
        }
        let buffer = Counted::new(vec![1; 4096], &alive);
        // Whether the buffer crosses a page or not, the panic comes with its first piece.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let submitted = disk.queue().submit_write(0, buffer);
            disk.queue().commit();
            let completion = disk.queue().poll();
            (submitted.is_ok(), completion.is_ok())
        }));
        if let Ok((submitted, _)) = result {
            // Too many pieces for one request: nothing was mapped for good.
            assert!(!submitted);
        }
        drop(disk);
        device.assert_conformant();
        assert_eq!(inner.outstanding(), 0);
    }
}

#[test]
fn giving_up_a_blocking_call_ends_polled_requests_only_with_the_disk() {
    let alive = Arc::new(AtomicUsize::new(0));
    let memory = ScatterMemory::new();
    let device = held(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    disk.queue().submit_read(0, Counted::new(vec![0; 512], &alive)).ok().unwrap();
    let mut buffer = Placed::new(0, 512);
    assert_eq!(disk.read(0, &mut buffer, &mut SpinLimit { looks: 1 }), Err(Error::GaveUp));
    assert_eq!(disk.queue().poll().map(|completion| completion.is_some()), Ok(false));
    assert_eq!(alive.load(Ordering::Relaxed), 1);
    drop(disk);
    assert_eq!(alive.load(Ordering::Relaxed), 0, "the device has let go of it");
    device.assert_conformant();
    memory.assert_clean();
}
