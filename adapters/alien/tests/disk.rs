//! The kernel's interface: what it reads and writes, and the numbers of its errors.

mod kernel;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kernel::constants::LinuxErrno;
use kernel::device_interface::{DeviceBase, LowBlockDevice};
use kernel::{Host, Polled0, become_task, polled, sleeping, try_open};
use proptest::prelude::*;
use testing_device::{BlockDevice, Interface, Mode, Outcome};
use virtio_blk_alien::{Errno, OpenError, Options, Polling};
use virtio_spec::InterruptStatus;
use virtio_spec::block::RequestStatus;

#[test]
fn the_kernel_s_traits_reach_the_device() {
    let device = BlockDevice::builder().capacity(64).build(Host::<0>::memory());
    let disk = Polled0(polled(&device));
    let (bytes, blocks, base): (&dyn kernel::device_interface::BlockDevice, &dyn LowBlockDevice, &dyn DeviceBase) =
        (&disk, &disk, &disk);
    assert_eq!((bytes.size(), blocks.capacity()), (64 * 512, 64));

    assert_eq!(bytes.write(b"across the border", 1020), Ok(17));
    let mut sectors = [0; 1024];
    assert_eq!(blocks.read_block(1, &mut sectors), Ok(()));
    assert_eq!(sectors[508..525], *b"across the border");
    sectors[0] = 1;
    assert_eq!(blocks.write_block_async(1, &sectors), Ok(()));
    assert_eq!(blocks.write_block(3, &[7; 512]), Ok(()));
    assert_eq!(blocks.read_block_async(3, &mut sectors[..512]), Ok(()));
    assert_eq!(sectors[..512], [7; 512]);
    let mut one = [0];
    assert_eq!((bytes.read(&mut one, 512), one), (Ok(1), [1]));

    assert_eq!(bytes.flush(), Ok(()));
    blocks.flush();
    assert_eq!(device.counts().flushes, 2);
    base.handle_irq();
    blocks.handle_irq();
    assert_eq!(format!("{disk:?}"), "Polled0(Disk { sectors: 64, .. })");

    assert_eq!(blocks.read_block(63, &mut [0; 1024]), Err(LinuxErrno::EINVAL));
    device.faults(|faults| faults.bad_flush = true);
    assert_eq!(bytes.flush(), Err(LinuxErrno::EIO));
    blocks.flush();
    drop(disk);
    Host::<0>::memory().assert_clean();
}

#[test]
fn the_end_of_the_disk_is_no_error_for_bytes() {
    let device = BlockDevice::builder().capacity(8).build(Host::<1>::memory());
    let disk = polled::<1>(&device);
    let end = 8 * 512;
    let mut buffer = [0; 1000];
    assert_eq!(disk.read(&mut buffer, end - 10), Ok(10));
    assert_eq!(disk.read(&mut buffer, end - 513), Ok(513));
    for behind in [end, end + 1, usize::MAX - 500, usize::MAX] {
        assert_eq!(disk.read(&mut buffer, behind), Ok(0));
        assert_eq!(disk.write(&buffer, behind), Err(Errno::ENOSPC));
        assert_eq!(disk.write(&[], behind), Ok(0));
    }
    assert_eq!(disk.write(&[3; 1000], end - 7), Ok(7));
    assert_eq!(device.read_disk(7, 1)[505..], [3; 7]);
}

#[test]
fn sectors_are_all_there_or_an_error() {
    let device = BlockDevice::builder().capacity(8).build(Host::<2>::memory());
    let disk = polled::<2>(&device);
    for (sector, bytes) in [(8, 512), (7, 1024), (0, 511), (0, 513), (usize::MAX, 512), (usize::MAX / 512, 512)] {
        assert_eq!(disk.read_block(sector, &mut vec![0; bytes]), Err(Errno::EINVAL), "{sector} {bytes}");
        assert_eq!(disk.write_block(sector, &vec![0; bytes]), Err(Errno::EINVAL), "{sector} {bytes}");
    }
    assert_eq!(device.counts().requests(), 0);
    assert_eq!((disk.read_block(8, &mut []), disk.write_block(8, &[])), (Ok(()), Ok(())));
    assert_eq!(disk.read_block(0, &mut [0; 8 * 512]), Ok(()));
    assert_eq!(device.counts().reads, 1);
}

#[test]
fn what_the_device_says_has_a_number() {
    let device = BlockDevice::builder().capacity(8).build(Host::<3>::memory());
    let disk = polled::<3>(&device);
    let answers = [
        (Outcome::failure(RequestStatus::IOERR), Errno::EIO),
        (Outcome::failure(RequestStatus::UNSUPP), Errno::EOPNOTSUPP),
        (Outcome::status_byte(77), Errno::EIO),
    ];
    for (outcome, errno) in answers {
        let answer = || device.faults(|faults| faults.next.push_back(outcome));
        answer();
        assert_eq!(disk.read(&mut [0; 512], 0), Err(errno));
        answer();
        assert_eq!(disk.write(&[0; 3], 700), Err(errno));
        answer();
        assert_eq!(disk.write_block(1, &[0; 512]), Err(errno));
        answer();
        assert_eq!(disk.flush(), Err(errno));
        // And it goes on.
        assert_eq!(disk.write(&[0; 3], 700), Ok(3));
    }
    // Once, a device that breaks the rules is asked again; again and again, it is not.
    let nonsense = Outcome { id: Some(5000), ..Outcome::HONEST };
    device.faults(|faults| faults.next.push_back(nonsense));
    assert_eq!(disk.write(&[9; 512], 0), Ok(512));
    device.faults(|faults| faults.next.push_back(nonsense));
    assert_eq!(disk.flush(), Err(Errno::EIO), "what it would have made safe is in doubt");
    device.faults(|faults| faults.outcome = nonsense);
    assert_eq!(disk.read(&mut [0; 512], 0), Err(Errno::EIO));
    device.faults(|faults| faults.outcome = Outcome::HONEST);
    assert_eq!(disk.flush(), Ok(()));
    assert_eq!(device.read_disk(0, 1), [9; 512]);
    drop(disk);
    device.assert_conformant();
    Host::<3>::memory().assert_clean();
}

#[test]
fn a_read_only_disk_says_so() {
    let device = BlockDevice::builder().capacity(8).read_only().build(Host::<4>::memory());
    let disk = polled::<4>(&device);
    assert_eq!(disk.write(&[1], 5), Err(Errno::EROFS));
    assert_eq!(disk.write(&[1; 512], 512), Err(Errno::EROFS));
    assert_eq!(disk.write_block(1, &[1; 512]), Err(Errno::EROFS));
    assert_eq!(device.counts().requests(), 0);
}

#[test]
fn thirty_two_mebibytes_are_read_in_few_requests() {
    // Miri reads a few pieces.
    const BYTES: usize = if cfg!(miri) { 1 << 20 } else { 32 << 20 };
    let device = BlockDevice::builder().capacity(BYTES as u64 / 512).build(Host::<5>::memory());
    let disk = polled::<5>(&device);
    // As a file system reads that knows nothing of sectors.
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 1;
    while offset < BYTES {
        let bytes = disk.read(&mut buffer, offset).unwrap();
        assert!(bytes > 0);
        offset += bytes;
    }
    assert_eq!(offset, BYTES);
    let (requests, sectors) = (device.counts().reads, BYTES as u64 / 512);
    assert!(requests * 16 <= sectors, "{requests} requests for {sectors} sectors");
}

#[test]
fn frames_that_are_missing_or_too_high_are_an_error() {
    let memory = Host::<6>::memory();
    for calls in 0..4 {
        let device = BlockDevice::builder().build(memory);
        memory.fail_allocation(calls);
        let opened = try_open::<6, _>(&device, Polling::default(), &Options::default());
        let Err(OpenError::Disk(error)) = opened else { panic!("call {calls}") };
        assert!(error.to_string().contains("memory"), "{error}");
        memory.assert_clean();
    }
}

#[test]
fn interrupts_end_the_sleep_of_tasks() {
    const TASKS: usize = if cfg!(miri) { 3 } else { 8 };
    const ROUNDS: usize = if cfg!(miri) { 2 } else { 50 };
    let memory = Host::<7>::memory();
    for interface in [Interface::Modern, Interface::Legacy] {
        let device = BlockDevice::builder()
            .interface(interface)
            .mode(Mode::Manual)
            .tolerate_late_notifications()
            .capacity(1024)
            .build(memory);
        let disk = sleeping::<7>(&device);
        let raised = std::sync::Arc::new(AtomicBool::new(false));
        let raise = raised.clone();
        device.on_interrupt(move || raise.store(true, Ordering::SeqCst));
        disk.use_interrupts();
        let before = kernel::SLEEPS.load(Ordering::Relaxed);
        let left = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut turn = 0_u32;
                while !left.load(Ordering::SeqCst) {
                    device.run();
                    turn += 1;
                    if turn % 16 == 0 {
                        device.spurious_interrupt(InterruptStatus::USED_BUFFER);
                    }
                    // The handler, on a processor of its own.
                    if raised.swap(false, Ordering::SeqCst) {
                        disk.handle_irq();
                    }
                    thread::yield_now();
                }
            });
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let disk = &disk;
                    scope.spawn(move || {
                        become_task();
                        for round in 0..ROUNDS {
                            let (offset, wanted) = (task * 40_000 + round, vec![(task + round) as u8; 3000]);
                            assert_eq!(disk.write(&wanted, offset), Ok(3000));
                            disk.flush().unwrap();
                            let mut found = vec![0; 3000];
                            assert_eq!(disk.read(&mut found, offset), Ok(3000));
                            assert!(found == wanted, "task {task}, round {round}");
                        }
                    })
                })
                .collect();
            let results: Vec<_> = tasks.into_iter().map(|task| task.join()).collect();
            left.store(true, Ordering::SeqCst);
            assert!(results.iter().all(Result::is_ok));
        });
        assert!(kernel::SLEEPS.load(Ordering::Relaxed) > before + (TASKS * ROUNDS) as u64);
        drop(disk);
        device.assert_conformant();
    }
    memory.assert_clean();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 100 }, failure_persistence: None, ..Default::default() })]

    #[test]
    fn bytes_and_sectors_are_those_of_an_array(
        calls in prop::collection::vec((any::<bool>(), 0..20_000_usize, 0..9_000_usize, any::<u8>()), 1..20)
    ) {
        const BYTES: usize = 16_384;
        let device = BlockDevice::builder().capacity(BYTES as u64 / 512).build(Host::<8>::memory());
        let disk = polled::<8>(&device);
        let mut model = vec![0; BYTES];
        for (write, offset, bytes, byte) in calls {
            let inside = offset.min(BYTES)..(offset + bytes).min(BYTES);
            let mut buffer = vec![byte; bytes];
            if write {
                let expected = if inside.is_empty() && bytes > 0 { Err(Errno::ENOSPC) } else { Ok(inside.len()) };
                prop_assert_eq!(disk.write(&buffer, offset), expected);
                model[inside].fill(byte);
            } else {
                prop_assert_eq!(disk.read(&mut buffer, offset), Ok(inside.len()));
                prop_assert_eq!(&buffer[..inside.len()], &model[inside]);
            }
        }
        prop_assert_eq!(device.read_disk(0, BYTES / 512), model);
    }
}
