//! Requests that the device answers about itself: its lifetime, its name.

mod common;

use std::cell::RefCell;
use std::ptr::NonNull;

use common::{Counted, Placed, TestDisk, counted, defaults, drive, open, open_with};
use testing_device::{BlockDevice, Builder, Data, Interface, IommuMemory, Outcome, ScatterMemory};
use virtio_blk::{
    AsyncQueue, BlockFeatures, DeviceError, DeviceId, Error, Lifetime, LifetimeEstimate, Operation, Options, PreEolInfo,
};
use virtio_spec::block::{Lifetime as Answer, RequestStatus};
use virtio_transport::Spin;

fn worn() -> Builder {
    BlockDevice::builder().id("a name").lifetime(Answer {
        pre_eol_info: 2.into(),
        device_lifetime_est_typ_a: 0x0304.into(),
        device_lifetime_est_typ_b: 11.into(),
    })
}

const EXPECTED: Lifetime = Lifetime {
    pre_eol_info: PreEolInfo::WARNING,
    estimate_typ_a: LifetimeEstimate(0x0304),
    estimate_typ_b: LifetimeEstimate::EXCEEDED,
};

#[test]
fn every_way_brings_the_same_answers() {
    for interface in [Interface::Modern, Interface::Legacy] {
        let memory = IommuMemory::new();
        let device = worn().interface(interface).build(&memory);
        let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &Options { queue_size: 4, ..defaults() });
        assert_eq!(disk.lifetime(&mut Spin), Ok(EXPECTED));
        assert_eq!(disk.device_id(&mut Spin).unwrap().as_bytes(), b"a name");

        let queue = disk.queue();
        // Longer than need be: the rest is left alone.
        let lifetime = queue.submit_lifetime(counted(vec![0xee; 30])).ok().unwrap();
        let id = queue.submit_device_id(counted(vec![0xee; DeviceId::BYTES + 1])).ok().unwrap();
        let mut borrowed = Placed::new(4096 - 3, Lifetime::BYTES);
        // SAFETY: nobody touches it before the device is done with it.
        let third = unsafe { queue.submit_lifetime_borrowed(NonNull::from(&mut borrowed[..])) }.unwrap();
        queue.commit();
        let done: Vec<_> = std::iter::from_fn(|| queue.poll().unwrap()).collect();
        let shape: Vec<_> = done.iter().map(|done| (done.token, done.operation, done.sector, done.result)).collect();
        let expected = [
            (lifetime, Operation::Lifetime, 0, Ok(())),
            (id, Operation::DeviceId, 0, Ok(())),
            (third, Operation::Lifetime, 0, Ok(())),
        ];
        assert_eq!(shape, expected);
        let bytes = |index: usize| &done[index].buffer.as_ref().unwrap().bytes;
        assert_eq!((Lifetime::from_bytes(bytes(0)), &bytes(0)[6..]), (Some(EXPECTED), &[0xee; 24][..]));
        assert_eq!((DeviceId::from_bytes(bytes(1)).unwrap().as_bytes(), bytes(1)[20]), (&b"a name"[..], 0xee));
        assert_eq!((Lifetime::from_bytes(&borrowed), borrowed.rest_is_zero()), (Some(EXPECTED), true));
        drop(done);

        let (mut handle, queue) = disk.split();
        let shared = AsyncQueue::new(RefCell::new(queue));
        let buffer = drive(&shared, shared.lifetime(counted(vec![0; 6]))).ok().unwrap();
        assert_eq!(Lifetime::from_bytes(&buffer.bytes), Some(EXPECTED));
        let buffer = drive(&shared, shared.device_id(counted(vec![0; 20]))).ok().unwrap();
        assert_eq!(DeviceId::from_bytes(&buffer.bytes).unwrap().to_string(), "a name");
        let mut queue = shared.into_inner().into_inner();
        drop(handle.shutdown(&mut [&mut queue], &mut Spin).unwrap());
        device.assert_conformant();
        drop((handle, queue, device, buffer));
        memory.assert_clean();
    }
}

#[test]
fn a_buffer_that_is_too_short_is_refused() {
    let memory = ScatterMemory::new();
    let device = worn().build(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    for bytes in [0, 5] {
        let error = Error::AnswerTooShort { operation: Operation::Lifetime, bytes, min_bytes: 6 };
        let rejected = disk.queue().submit_lifetime(counted(vec![1; bytes])).err().unwrap();
        assert_eq!((rejected.error, &rejected.buffer.bytes[..]), (error, &vec![1; bytes][..]));
        assert_eq!(Lifetime::from_bytes(&rejected.buffer.bytes), None);
    }
    let error = Error::AnswerTooShort { operation: Operation::DeviceId, bytes: 19, min_bytes: 20 };
    assert_eq!(disk.queue().submit_device_id(counted(vec![1; 19])).err().unwrap().error, error);
    assert_eq!(DeviceId::from_bytes(&[65; 19]), None);
    assert_eq!(device.counts().requests(), 0);
}

#[test]
fn without_its_feature_lifetime_is_an_error() {
    let memory = ScatterMemory::new();
    let feature = BlockFeatures::LIFETIME.into();
    let error = Error::NotNegotiated { operation: Operation::Lifetime, feature };
    let device = BlockDevice::builder().build(&memory);
    let mut disk: TestDisk<_, Counted> = open_with(&device, &memory, &defaults());
    assert_eq!(disk.lifetime(&mut Spin), Err(error));
    assert_eq!(disk.queue().submit_lifetime(counted(vec![0; 6])).err().unwrap().error, error);
    drop(disk);
    // Offered is not negotiated.
    let device = worn().build(&memory);
    let mut disk = open(&device, &memory, &Options { forbid: feature, ..defaults() });
    assert_eq!(disk.lifetime(&mut Spin), Err(error));
    assert_eq!(device.counts().requests(), 0);
}

#[test]
fn what_the_device_does_not_answer_is_not_made_up() {
    let memory = ScatterMemory::new();
    let device = worn().build(&memory);
    let mut disk = open(&device, &memory, &defaults());
    for (status, expected) in
        [(RequestStatus::IOERR, DeviceError::Io), (RequestStatus::UNSUPP, DeviceError::Unsupported)]
    {
        device.faults(|faults| faults.next.push_back(Outcome::failure(status)));
        let failed = Error::Device { operation: Operation::Lifetime, sector: 0, status: expected };
        assert_eq!(disk.lifetime(&mut Spin), Err(failed));
    }
    // It says that all went well, and has written nothing: that is all undefined.
    device.faults(|faults| faults.next.push_back(Outcome { data: Data::Unwritten, ..Outcome::HONEST }));
    let undefined = Lifetime {
        pre_eol_info: PreEolInfo::UNDEFINED,
        estimate_typ_a: LifetimeEstimate::UNDEFINED,
        estimate_typ_b: LifetimeEstimate::UNDEFINED,
    };
    assert_eq!(disk.lifetime(&mut Spin), Ok(undefined));
    assert_eq!(disk.lifetime(&mut Spin), Ok(EXPECTED));
}
