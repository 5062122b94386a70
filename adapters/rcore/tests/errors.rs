//! What goes wrong, and who is told.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use common::{Model, World, pattern};
use testing_device::{BlockDevice, Builder, DeviceRegisters, Mode, ResetAnswer, ScatterMemory};
use virtio_blk::{DeviceError, Operation};
use virtio_blk_rcore::transport::{Mmio, ProbeError};
use virtio_blk_rcore::{Disk, Error, OpenError, Polled};
use virtio_spec::block::BlockFeatures;

fn world(change: impl FnOnce(Builder) -> Builder) -> &'static World {
    let memory = ScatterMemory::new();
    let device = change(BlockDevice::builder()).build(&memory);
    World::new(&memory, device)
}

#[test]
fn misuse_is_an_error_before_anything_happens() {
    let world = world(|builder| builder.capacity(64));
    let disk = world.open();
    let mut buffer = vec![0; 2 * 512];
    assert_eq!(disk.read(0, &mut buffer[..700]), Err(Error::UnalignedLength { bytes: 700, block_bytes: 512 }));
    let beyond = Error::BeyondCapacity { sector: 63, sectors: 2, capacity_sectors: 64 };
    assert_eq!(disk.read(63, &mut buffer), Err(beyond));
    assert_eq!(disk.write(63, &buffer), Err(beyond));
    assert!(disk.read(u64::MAX, &mut buffer).is_err());
    assert_eq!(disk.read(0, &mut []), Ok(()), "nothing is nothing");
    assert_eq!(world.device.read_disk(63, 1), [0; 512]);
    world.device.assert_conformant();
}

#[test]
fn the_last_sectors_of_the_disk_can_be_used() {
    let world = world(|builder| builder.capacity(64));
    let disk = world.open();
    disk.write(62, &pattern(1024, 2)).unwrap();
    let mut buffer = [0; 1024];
    disk.read(62, &mut buffer).unwrap();
    assert_eq!(buffer[..], pattern(1024, 2));
}

#[test]
fn an_error_of_the_device_goes_to_the_call_that_it_belongs_to() {
    let world = world(|builder| builder.mode(Mode::Manual));
    world.device.faults(|faults| faults.bad_sectors.push(20..21));
    world.open();
    let results = Mutex::new([Ok(()); 4]);
    world.run_tasks(4, |number| {
        let result = world.disk().write(number as u64 * 10, &pattern(8 * 512, number));
        results.lock().unwrap()[number] = result;
    });
    let failed = Error::Device { operation: Operation::Write, sector: 20, status: DeviceError::Io };
    assert_eq!(results.into_inner().unwrap(), [Ok(()), Ok(()), Err(failed), Ok(())]);
    assert_eq!(world.device.read_disk(10, 8), pattern(8 * 512, 1));
    world.device.assert_conformant();
}

#[test]
fn writing_to_a_disk_that_takes_no_writes() {
    let world = world(Builder::read_only);
    assert_eq!(world.open().write(0, &[0; 512]), Err(Error::ReadOnly));
    world.device.assert_conformant();
}

#[test]
fn a_flush_reaches_the_device_and_its_failure_the_caller() {
    let world = world(|builder| builder.mode(Mode::Manual));
    world.open();
    world.run_tasks(1, |_| {
        world.disk().write(5, &pattern(512, 1)).unwrap();
        world.disk().flush().unwrap();
        assert_eq!(world.device.read_stable(5, 1), pattern(512, 1));
        world.device.faults(|faults| faults.bad_flush = true);
        assert!(matches!(world.disk().flush(), Err(Error::Device { .. })));
    });
    world.device.assert_conformant();
}

#[test]
fn a_disk_without_a_cache_has_nothing_to_flush() {
    let world = world(|builder| builder.withhold(BlockFeatures::FLUSH.bits() | BlockFeatures::CONFIG_WCE.bits()));
    assert_eq!(world.open().flush(), Ok(()));
    world.device.assert_conformant();
}

/// How often a device that comes back is reset: to get buffers back, and when it is brought up.
const RECOVERY: u64 = 2;

/// Lets tasks write a sector each, with `trouble` in the last of them while the others sleep. Returns what became of it.
fn write_with_trouble(
    world: &'static World,
    tasks: usize,
    trouble: impl Fn(&BlockDevice) + Sync,
) -> Vec<Result<(), Error>> {
    let results = Mutex::new(vec![Ok(()); tasks]);
    world.run_tasks(tasks, |number| {
        if number == tasks - 1 {
            trouble(&world.device);
        }
        let result = world.disk().write(number as u64, &pattern(512, number));
        results.lock().unwrap()[number] = result;
    });
    results.into_inner().unwrap()
}

#[test]
fn a_device_that_breaks_the_rules_is_reset_and_nobody_notices() {
    let world = world(|builder| builder.mode(Mode::Manual));
    world.open();
    // An element for a request that does not exist, and the interrupt for it.
    let results = write_with_trouble(world, 4, |device| device.push_raw(0, 999, 0));
    assert_eq!(results, [Ok(()); 4], "what was in flight is asked for again");
    assert_eq!(world.device.counts().resets, 1 + RECOVERY, "one when it was opened");
    // It goes on.
    assert_eq!(write_with_trouble(world, 4, |_| ()), [Ok(()); 4]);
    let expected: Vec<u8> = (0..4).flat_map(|number| pattern(512, number)).collect();
    assert_eq!(world.device.read_disk(0, 4), expected);
}

#[test]
fn a_device_that_asks_for_a_reset_gets_it_and_nobody_notices() {
    let world = world(|builder| builder.mode(Mode::Manual));
    world.open();
    assert_eq!(write_with_trouble(world, 3, BlockDevice::needs_reset), [Ok(()); 3]);
    assert_eq!(world.device.counts().resets, 1 + RECOVERY);
    let expected: Vec<u8> = (0..3).flat_map(|number| pattern(512, number)).collect();
    assert_eq!(world.device.read_disk(0, 3), expected);
}

#[test]
fn a_device_that_breaks_the_rules_again_and_again_only_makes_errors() {
    let world = world(|builder| builder.mode(Mode::Manual));
    world.open();
    world.device.faults(|faults| faults.outcome.id = Some(4711));
    for _ in 0..5 {
        for result in write_with_trouble(world, 3, |_| ()) {
            assert!(matches!(result, Err(Error::Cancelled { .. })), "{result:?}");
        }
    }
}

#[test]
fn a_reset_that_takes_long_is_waited_for() {
    let world = world(|builder| builder.mode(Mode::Manual));
    world.open();
    world.device.faults(|faults| faults.reset = ResetAnswer::AfterReads(50));
    assert_eq!(write_with_trouble(world, 2, BlockDevice::needs_reset), [Ok(()); 2]);
    assert_eq!(world.device.read_disk(0, 2), [pattern(512, 0), pattern(512, 1)].concat());
}

/// Not under Miri: the driver looks very often.
#[cfg(not(miri))]
#[test]
fn a_device_that_acknowledges_no_reset_hangs_nobody_who_asks_nothing_of_it() {
    let world = world(|builder| builder.mode(Mode::Manual));
    let disk = world.open();
    world.device.faults(|faults| faults.reset = ResetAnswer::Never);
    world.device.push_raw(0, 999, 0);
    disk.handle_irq();
    for _ in 0..3 {
        assert!(disk.write(0, &[0; 512]).is_err());
    }
}

mod easy_fs {
    pub(super) trait BlockDevice: Send + Sync + std::any::Any {
        fn read_block(&self, block_id: usize, buf: &mut [u8]);
        fn write_block(&self, block_id: usize, buf: &[u8]);
    }
}

mod dev {
    #[derive(Debug, PartialEq)]
    pub(super) struct DevError;
    pub(super) type Result<T> = core::result::Result<T, DevError>;
    pub(super) trait BlockDevice: Send + Sync {
        const BLOCK_SIZE_LOG2: u8;
        fn read_at(&self, block_id: usize, buf: &mut [u8]) -> Result<()>;
        fn write_at(&self, block_id: usize, buf: &[u8]) -> Result<()>;
        fn sync(&self) -> Result<()>;
    }
}

virtio_blk_rcore::easy_fs! {
    /// A disk as branches before ch9 want it: without `handle_irq`.
    struct EasyDisk(Model, Mmio<DeviceRegisters>): easy_fs::BlockDevice;
    failed: |error| panic!("the disk failed: {error}");
}

virtio_blk_rcore::rcore_fs! {
    struct RcoreFsDisk(Polled<Model>, Mmio<DeviceRegisters>): dev;
}

fn transport(device: &BlockDevice) -> Mmio<DeviceRegisters> {
    Mmio::probe(device.registers()).unwrap().unwrap()
}

#[test]
fn an_interface_without_errors_does_what_the_kernel_says_and_never_goes_on() {
    use easy_fs::BlockDevice as _;
    let world = world(|builder| builder.capacity(64));
    let disk = EasyDisk(Disk::new(transport(&world.device)).unwrap());
    disk.write_block(7, &pattern(512, 7));
    let mut buffer = [0; 512];
    disk.read_block(7, &mut buffer);
    assert_eq!(buffer[..], pattern(512, 7));

    world.device.faults(|faults| faults.bad_sectors.push(8..9));
    for call in [
        &mut (|| disk.read_block(8, &mut [0; 512])) as &mut dyn FnMut(),
        &mut || disk.write_block(8, &[0; 512]),
        &mut || disk.write_block(64, &[0; 512]),
    ] {
        let panic = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        let message = panic.downcast::<String>().unwrap();
        assert!(message.starts_with("the disk failed: "), "{message}");
    }
}

#[test]
fn rcore_fs_gets_its_error_and_a_sync_that_syncs() {
    use dev::BlockDevice as _;
    let world = world(|builder| builder.capacity(64));
    let disk = RcoreFsDisk(Disk::new(transport(&world.device)).unwrap());
    assert_eq!(RcoreFsDisk::BLOCK_SIZE_LOG2, 9);
    disk.write_at(2, &pattern(1536, 3)).unwrap();
    assert_ne!(world.device.read_stable(2, 3), pattern(1536, 3));
    disk.sync().unwrap();
    assert_eq!(world.device.read_stable(2, 3), pattern(1536, 3));
    let mut buffer = [0; 1536];
    disk.read_at(2, &mut buffer).unwrap();
    assert_eq!(buffer[..], pattern(1536, 3));
    assert_eq!(disk.read_at(64, &mut buffer), Err(dev::DevError));
    world.device.faults(|faults| faults.bad_flush = true);
    assert_eq!(disk.sync(), Err(dev::DevError));
    assert_eq!(world.device.counts().interrupts, 0, "a disk that is polled asks for none");
}

#[test]
fn a_kernel_without_memory_gets_no_disk() {
    for calls in 0..3 {
        let memory = ScatterMemory::new();
        let device = BlockDevice::builder().build(&memory);
        let world = World::new(&memory, device);
        memory.fail_allocation(calls);
        assert!(matches!(world.try_open(), Err(OpenError::Disk(_))));
        memory.assert_clean();
    }
}

/// Registers in memory that say what they are, at an address of their own.
#[repr(align(4096))]
struct Registers([u32; 128]);

virtio_blk_rcore::memory! { unsafe Identity as Mapped }

struct Mapped;
struct Identity;

impl Identity {
    fn dma_alloc(_: usize) -> usize {
        0
    }

    fn dma_dealloc(_: usize, _: usize) {}

    fn phys_to_virt(physical: usize) -> usize {
        physical
    }

    fn virt_to_phys(address: usize) -> usize {
        address
    }
}

fn open_at(words: [u32; 4]) -> (usize, OpenError) {
    let mut registers = Box::new(Registers([0; 128]));
    registers.0[..4].copy_from_slice(&words);
    let address = (&raw mut *registers).expose_provenance();
    // SAFETY: memory of this test, which nobody else uses meanwhile.
    let error = unsafe { Disk::<Polled<Mapped>>::open(address) }.err().expect("no disk");
    (address, error)
}

#[test]
fn what_is_no_disk_is_named() {
    let magic = u32::from_le_bytes(*b"virt");
    let (address, error) = open_at([magic, 2, 0, 0]);
    assert_eq!(error, OpenError::NotADisk { address, found: None });
    let (address, error) = open_at([magic, 1, 1, 0]);
    assert_eq!(error, OpenError::NotADisk { address, found: Some(virtio_spec::DeviceType::NETWORK) });
    assert!(error.to_string().contains(&format!("{address:#x}")), "{error}");
    let (address, error) = open_at([0x1234, 2, 2, 0]);
    assert_eq!(error, OpenError::Probe { address, error: ProbeError::BadMagic { found: 0x1234 } });
    // SAFETY: nothing is looked at there.
    let error = unsafe { Disk::<Polled<Mapped>>::open(0) }.err().expect("no disk");
    assert!(matches!(error, OpenError::Probe { error: ProbeError::BadAddress { address: 0 }, .. }));
    // SAFETY: likewise.
    let error = unsafe { Disk::<Polled<Mapped>>::find(&[0; 100]) }.err().expect("no disk");
    assert_eq!(error, OpenError::DeviceTree);
}
