//! Devices that fail, threads that give up, kernels that unwind.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::thread;

use common::{
    HostLock, Parking, TestDisk, beside_the_device, concurrent_device, defaults, open, pattern, polled, transport,
};
#[cfg(not(miri))]
use testing_device::ResetAnswer;
use testing_device::{BlockDevice, Mode, Outcome, ScatterMemory};
use virtio_blk::{BlockFeatures, DeviceError, Error, Operation, Options};
use virtio_blk_threads::{Never, Polling, SharedDisk, Sleep};
use virtio_spec::InterruptStatus;
use virtio_spec::block::RequestStatus;
use virtio_transport::{GaveUp, Spin};

/// A device that comes back is reset twice: to get its buffers back, and when it is brought up.
const RECOVERY: u64 = 2;

#[test]
fn an_error_of_the_device_is_the_error_of_its_thread() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().capacity(64).build(&memory);
    let disk = polled(&device, &memory);
    let failed = |operation, sector| Error::Device { operation, sector, status: DeviceError::Io };
    let fail_next = || device.faults(|faults| faults.next.push_back(Outcome::failure(RequestStatus::IOERR)));

    fail_next();
    assert_eq!(disk.read(5, &mut [0; 512]), Err(failed(Operation::Read, 5)));
    fail_next();
    assert_eq!(disk.write(6, &[0; 512]), Err(failed(Operation::Write, 6)));
    fail_next();
    assert_eq!(disk.flush(), Err(failed(Operation::Flush, 0)));
    fail_next();
    assert_eq!(disk.write_at(700, &[7; 10]), Err(failed(Operation::Read, 1)), "what is around it cannot be read");
    device.faults(|faults| {
        faults.next.extend([Outcome::HONEST, Outcome::failure(RequestStatus::IOERR)]);
    });
    assert_eq!(disk.write_at(700, &[7; 10]), Err(failed(Operation::Write, 1)));
    // As often as there is memory for parts of sectors, and then some.
    for _ in 0..20 {
        fail_next();
        disk.read_at(1, &mut [0; 3]).unwrap_err();
    }
    assert_eq!(disk.write_at(700, &[7; 10]), Ok(10));
    assert_eq!(device.read_disk(1, 1)[188..198], [7; 10]);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_disk_without_flush_has_nothing_to_flush() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().withhold(BlockFeatures::FLUSH.bits()).build(&memory);
    let disk = polled(&device, &memory);
    assert_eq!(disk.flush(), Ok(()));
    assert_eq!(device.counts().requests(), 0);
}

#[test]
fn interrupts_for_nothing_do_no_harm() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Immediate).build(&memory);
    let parking = Parking::default();
    let disk = open(&device, &memory, parking.clone(), &defaults());
    assert!(!disk.handle_interrupt(), "it was not this device's");
    disk.use_interrupts();
    parking.0.awake.store(true, Ordering::Relaxed);
    device.spurious_interrupt(InterruptStatus::USED_BUFFER);
    assert!(disk.handle_interrupt());
    // The answer is noticed by the thread itself; its interrupt comes later, for nothing.
    let mut buffer = [0; 512];
    disk.read(0, &mut buffer).unwrap();
    disk.handle_interrupt();
    device.spurious_interrupt(InterruptStatus::USED_BUFFER | InterruptStatus::CONFIGURATION_CHANGE);
    assert!(disk.handle_interrupt());
    assert!(!disk.handle_interrupt());
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_completion_that_nobody_waits_for_resets_the_device_and_the_disk_goes_on() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Immediate).build(&memory);
    let disk = open(&device, &memory, Polling::default(), &Options { queue_size: 16, ..defaults() });
    // Of a request that is not in flight, of one that cannot be, and more of them than there can be.
    let nonsense: [fn(&BlockDevice); 3] = [
        |device| device.push_raw(0, 3, 513),
        |device| device.push_raw(0, 70_000, 1),
        |device| device.skip_used(0, 100),
    ];
    for (index, nonsense) in nonsense.into_iter().enumerate() {
        nonsense(&device);
        device.spurious_interrupt(InterruptStatus::USED_BUFFER);
        assert!(disk.handle_interrupt());
        assert_eq!(device.counts().resets, 1 + RECOVERY * (1 + index as u64));
        disk.write(index as u64, &[index as u8; 512]).unwrap();
        assert_eq!(device.read_disk(index as u64, 1), [index as u8; 512]);
    }
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

/// The next request is answered with the number of one that is not in flight.
fn break_the_rules(device: &BlockDevice) {
    device.faults(|faults| faults.next.push_back(Outcome { id: Some(99), ..Outcome::HONEST }));
}

#[test]
fn what_is_in_flight_is_asked_for_again_when_the_device_breaks_the_rules() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Immediate).build(&memory);
    let disk = polled(&device, &memory);
    break_the_rules(&device);
    assert_eq!(disk.write(0, &[1; 512]), Ok(()));
    break_the_rules(&device);
    assert_eq!(disk.write_at(5, &[2; 9]), Ok(9), "when the block is read");
    device.faults(|faults| faults.next.push_back(Outcome::HONEST));
    break_the_rules(&device);
    assert_eq!(disk.write_at(600, &[3; 9]), Ok(9), "when it is written");
    let mut found = [0; 1024];
    break_the_rules(&device);
    assert_eq!(disk.read(0, &mut found), Ok(()));
    let mut wanted = [[1; 512], [0; 512]].concat();
    wanted[5..14].fill(2);
    wanted[600..609].fill(3);
    assert!(found == *wanted);
    break_the_rules(&device);
    assert_eq!(disk.flush(), Err(Error::FlushInDoubt));
    assert_eq!(disk.flush(), Ok(()));
    assert_eq!(device.counts().resets, 1 + 5 * RECOVERY);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn what_the_device_fails_at_again_and_again_is_given_up() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Immediate).build(&memory);
    let disk = polled(&device, &memory);
    for round in 1..=3 {
        device.faults(|faults| faults.outcome = Outcome { id: Some(99), ..Outcome::HONEST });
        let cancelled = |operation, sector| Error::Cancelled { operation, sector };
        let failed = match round {
            1 => (disk.write(1, &[1; 512]), cancelled(Operation::Write, 1)),
            2 => (disk.read(2, &mut [0; 512]), cancelled(Operation::Read, 2)),
            _ => (disk.write_at(5, &[1; 9]).map(drop), cancelled(Operation::Write, 0)),
        };
        // The block of a part is read first.
        let wanted = if round == 3 { cancelled(Operation::Read, 0) } else { failed.1 };
        assert_eq!(failed.0, Err(wanted));
        assert_eq!(device.counts().resets, 1 + round * 4 * RECOVERY, "once, and three times more");
        device.faults(|faults| faults.outcome = Outcome::HONEST);
        assert_eq!(disk.write_at(5, &[2; 9]), Ok(9));
    }
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn threads_that_sleep_notice_nothing_when_the_device_breaks_the_rules() {
    const THREADS: u64 = if cfg!(miri) { 3 } else { 8 };
    let memory = ScatterMemory::new();
    let device = concurrent_device().capacity(64).build(&memory);
    let parking = Parking::default();
    let disk = open(&device, &memory, parking.clone(), &Options { queue_size: 4, ..defaults() });
    disk.use_interrupts();
    device.faults(|faults| {
        for _ in 0..3 {
            faults.next.extend([Outcome::HONEST; 15]);
            faults.next.push_back(Outcome { id: Some(99), ..Outcome::HONEST });
        }
    });
    beside_the_device(&device, &disk, || {
        thread::scope(|scope| {
            for number in 0..THREADS {
                let disk = &disk;
                scope.spawn(move || {
                    for round in 0..10 {
                        assert_eq!(disk.write(number, &[round; 512]), Ok(()));
                        let mut found = [0; 512];
                        assert_eq!(disk.read(number, &mut found), Ok(()));
                        assert_eq!(found, [round; 512]);
                    }
                });
            }
        });
    });
    assert_eq!(device.counts().resets, 1 + 3 * RECOVERY);
    assert_eq!(parking.pauses(), 0, "nobody looked again and again");
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn threads_that_sleep_are_told_when_the_device_does_not_come_back() {
    let memory = ScatterMemory::new();
    let device = concurrent_device().capacity(64).build(&memory);
    let disk = open(&device, &memory, Parking::default(), &defaults());
    disk.use_interrupts();
    device.faults(|faults| faults.hold = true);
    beside_the_device(&device, &disk, || {
        thread::scope(|scope| {
            let reader = scope.spawn(|| disk.read(8, &mut [0; 512]));
            let writer = scope.spawn(|| disk.write_at(700, &[9; 5]));
            while device.held() < 2 {
                thread::yield_now();
            }
            // After its reset it comes up with other features.
            device.faults(|faults| faults.refuse_features = true);
            device.needs_reset();
            let gone = |sector| Error::GivenUp { operation: Operation::Read, sector };
            assert_eq!(reader.join().unwrap(), Err(gone(8)));
            assert_eq!(writer.join().unwrap(), Err(gone(1)));
        });
    });
    assert_eq!(disk.read(0, &mut [0; 512]), Err(Error::Stopped));
    drop(disk);
    memory.assert_clean();
}

#[test]
fn a_device_that_needs_a_reset_gets_it_and_the_requests_again() {
    let memory = ScatterMemory::new();
    let device = concurrent_device().capacity(64).build(&memory);
    let parking = Parking::default();
    let disk = open(&device, &memory, parking.clone(), &defaults());
    disk.use_interrupts();
    device.faults(|faults| faults.hold = true);
    beside_the_device(&device, &disk, || {
        thread::scope(|scope| {
            let writer = scope.spawn(|| disk.write(9, &[9; 512]));
            while device.held() == 0 {
                thread::yield_now();
            }
            device.faults(|faults| faults.hold = false);
            device.needs_reset();
            assert_eq!(writer.join().unwrap(), Ok(()));
        });
    });
    assert_eq!((device.counts().resets, device.counts().writes), (1 + RECOVERY, 1));
    assert_eq!(device.read_disk(9, 1), [9; 512]);
    assert_eq!(parking.pauses(), 0);
    drop(disk);
    memory.assert_clean();
}

#[test]
fn a_disk_that_grows_is_used_to_its_new_end() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Immediate).capacity(8).build(&memory);
    let disk = polled(&device, &memory);
    assert_eq!((disk.size_bytes(), disk.write_at(4090, &[1; 20])), (4096, Ok(6)));
    device.set_capacity(16);
    assert!(disk.handle_interrupt());
    assert_eq!((disk.size_bytes(), disk.write_at(4090, &[1; 20])), (8192, Ok(20)));
    assert_eq!(disk.write(15, &[3; 512]), Ok(()));
}

#[test]
fn a_thread_that_gives_up_resets_the_device_and_the_disk_goes_on() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    let disk = open(&device, &memory, Polling { looks: 20 }, &defaults());
    let mut buffer = [0x77; 512];
    assert_eq!(disk.read(0, &mut buffer), Err(Error::GaveUp));
    assert_eq!(disk.write_at(3, &[1]), Err(Error::GaveUp));
    assert_eq!(disk.flush(), Err(Error::GaveUp));
    assert_eq!((device.counts().resets, device.run()), (1 + 3 * RECOVERY, 0), "nothing is done later");
    assert_eq!(buffer, [0x77; 512]);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
#[cfg(not(miri))]
fn a_reset_that_takes_long_is_waited_for() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    let disk = open(&device, &memory, Polling { looks: 20 }, &defaults());
    // Longer than the lock is held for it: it is asked for again.
    device.faults(|faults| faults.reset = ResetAnswer::AfterReads(3 << 19));
    assert_eq!(disk.read(0, &mut [0; 512]), Err(Error::GaveUp));
    assert_eq!(device.run(), 0, "the device has let go of the buffer");
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

#[test]
fn a_device_that_is_gone_is_an_error() {
    let memory = ScatterMemory::new();
    let device = BlockDevice::builder().mode(Mode::Manual).build(&memory);
    let disk = open(&device, &memory, Polling { looks: 20 }, &defaults());
    // After its reset it comes up with other features.
    device.faults(|faults| faults.refuse_features = true);
    assert_eq!(disk.read(0, &mut [0; 512]), Err(Error::GaveUp));
    assert_eq!(disk.read(0, &mut [0; 512]), Err(Error::Stopped));
    assert_eq!(disk.write_at(1, &[0; 5]), Err(Error::Stopped));
    assert_eq!(disk.flush(), Err(Error::Stopped));
}

/// A kernel that panics while a thread waits.
struct Panicking<'a> {
    device: &'a BlockDevice,
}

impl Sleep for Panicking<'_> {
    type Waiter = Never;
    type Ticket = Never;

    fn prepare(&self) -> Option<(Never, Never)> {
        None
    }

    fn sleep(&self, ticket: Never) {
        match ticket {}
    }

    fn wake(&self, waiter: Never) {
        match waiter {}
    }

    fn pause(&self, _looks: u64) -> Result<(), GaveUp> {
        // The device will do what was asked of it after some more looks.
        let device = self.device.clone();
        thread::spawn(move || {
            for _ in 0..100 {
                thread::yield_now();
            }
            device.run()
        });
        panic!("the scheduler was told to panic");
    }
}

#[test]
fn a_kernel_that_unwinds_keeps_the_buffer_until_the_device_is_done() {
    let memory = ScatterMemory::new();
    let device = concurrent_device().build(&memory);
    let wanted = pattern(512, 3);
    device.write_disk(0, &wanted);
    let disk: TestDisk<Panicking<'_>> =
        SharedDisk::open(transport(&device), memory.clone(), Panicking { device: &device }, &defaults(), &mut Spin)
            .unwrap();
    let mut buffer = vec![0; 512];
    let result = catch_unwind(AssertUnwindSafe(|| disk.read(0, &mut buffer)));
    assert!(result.is_err());
    assert!(buffer == wanted, "the device was done before the panic went on");
    assert_eq!(device.run(), 0);
    drop(disk);
    device.assert_conformant();
    memory.assert_clean();
}

/// Both may be shared between threads if what they are made of may be.
#[test]
fn a_shared_disk_is_send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<TestDisk<Polling>>();
    check::<TestDisk<Parking>>();
    let _: fn() = || check::<HostLock>();
}
