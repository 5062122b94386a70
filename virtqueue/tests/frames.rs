//! Chains in the usual form of a request, the descriptors of which are written beforehand.

mod common;

use common::{Bytes, Form, Rig, Tag, in_every_form, interfaces, pattern, settings};
use testing_device::{Chain, IommuMemory, RingMover, ScatterMemory, TestMemory};
use virtqueue::{Access, Attachment, ChainError, Frame, Settings};

in_every_form! {
    frames_and_other_chains_take_turns_in_the_same_slots,
    what_is_not_as_simple_as_a_frame_is_left_alone,
    a_full_or_broken_queue_takes_no_frame,
}

/// What is attached to a chain: its number.
#[derive(Debug, PartialEq, Eq)]
struct Request(u32);

impl Attachment for Request {
    const SLOT_BYTES: usize = 20;
    const FRAME: Option<Frame> = Some(Frame { header: (0, 16), status: (16, 1) });
}

/// Submits a frame around `data`. The header's first bytes say `number`. Whether that was possible.
fn submit<M: TestMemory, F: Form>(rig: &mut Rig<M, F, Request>, data: &Bytes, access: Access, number: u32) -> bool {
    // SAFETY: the tests keep the bytes until the chain was taken, or the rig ended.
    let token = unsafe {
        rig.queue.submit_framed(data.start(), data.len(), access, |slot| {
            slot.store_u32::<0>(number);
            slot.store_u8::<16>(0xff);
            Request(number)
        })
    };
    token.is_some()
}

/// What the device finds of a chain: for each part its length and whether the device writes it.
fn shape(chain: &Chain) -> Vec<(u32, bool)> {
    chain.segments.iter().map(|segment| (segment.bytes, segment.writable)).collect()
}

/// Takes the next chain in the device, which must be the frame of `number`, and answers it.
#[track_caller]
fn serve<M: TestMemory, F: Form>(rig: &mut Rig<M, F, Request>, data: &Bytes, access: Access, number: u32) {
    let chain = rig.take();
    let writes = access == Access::DeviceWrites;
    assert_eq!(shape(&chain), [(16, false), (data.len() as u32, writes), (1, true)]);
    let mut header = [0; 4];
    rig.memory.read(chain.segments[0].address, &mut header).unwrap();
    assert_eq!(u32::from_le_bytes(header), number);
    if writes {
        rig.memory.write(chain.segments[1].address, &pattern(data.len(), number.into())).unwrap();
    } else {
        let mut sent = vec![0; data.len()];
        rig.memory.read(chain.segments[1].address, &mut sent).unwrap();
        assert_eq!(sent, data.get());
    }
    rig.memory.write(chain.segments[2].address, &[7]).unwrap();
    rig.device.push_used(chain.id, u32::MAX);

    let used = rig.queue.pop().unwrap().unwrap();
    assert_eq!(used.slot().load_u8::<16>(), 7);
    let writable = 1 + if writes { data.len() as u32 } else { 0 };
    assert_eq!(used.written_bytes(), writable, "bounded by what the device was allowed to write");
    assert_eq!(used.take(), Request(number));
    if writes {
        assert_eq!(data.get(), pattern(data.len(), number.into()));
    }
}

fn frames_and_other_chains_take_turns_in_the_same_slots<F: Form>() {
    for &contiguous_align in interfaces::<F>() {
        let memory = ScatterMemory::new();
        let mut rig = Rig::<_, F, Request>::of(&memory, Settings { contiguous_align, ..settings::<F>(true, true) });
        let read = Bytes::new(123, 400);
        let write = Bytes::filled(0, 512, 5);
        // Several times around the ring.
        for number in 0..30 {
            assert!(submit(&mut rig, &read, Access::DeviceWrites, number));
            assert_eq!(rig.queue.in_flight(), 1);
            rig.commit();
            serve(&mut rig, &read, Access::DeviceWrites, number);
            if number % 3 == 0 {
                rig.submit_small(Request(number)).unwrap();
                rig.commit();
                let chain = rig.take();
                assert_eq!(shape(&chain), [(16, false), (1, true)], "the same slot without a buffer");
                rig.device.push_used(chain.id, 1);
                assert_eq!(rig.queue.pop().unwrap().unwrap().take(), Request(number));
            }
            // After another chain the frame is written anew.
            assert!(submit(&mut rig, &write, Access::DeviceReads, number));
            rig.commit();
            serve(&mut rig, &write, Access::DeviceReads, number);
        }
        assert_eq!((rig.queue.in_flight(), rig.queue.free()), (0, 8));
        rig.finish();
    }
}

fn what_is_not_as_simple_as_a_frame_is_left_alone<F: Form>() {
    let submits = |settings: Settings, data: &Bytes| {
        let mut rig = Rig::<_, F, Request>::of(&ScatterMemory::new(), settings);
        let submitted = submit(&mut rig, data, Access::DeviceWrites, 1);
        rig.commit();
        assert_eq!(rig.queue.in_flight(), u16::from(submitted));
        assert_eq!(rig.device.pop().is_some(), submitted);
        submitted
    };
    let page = Bytes::new(0, 4096);
    assert!(submits(settings::<F>(true, false), &page));
    assert!(!submits(settings::<F>(false, false), &page), "no indirect tables");
    assert!(!submits(Settings { chain_max: 2, ..settings::<F>(true, false) }, &page), "no room for a buffer");
    assert!(submits(Settings { segment_max_bytes: 4096, ..settings::<F>(true, false) }, &page));
    assert!(
        !submits(Settings { segment_max_bytes: 4095, ..settings::<F>(true, false) }, &page),
        "too long for a descriptor"
    );
    assert!(!submits(settings::<F>(true, false), &Bytes::new(4000, 200)), "two pieces");
    assert!(!submits(settings::<F>(true, false), &Bytes::new(0, 0)), "no buffer");

    let mut rig = Rig::<_, F, Request>::of(&IommuMemory::new(), settings::<F>(true, false));
    assert!(!submit(&mut rig, &page, Access::DeviceWrites, 1), "what has to be mapped");
    assert_eq!(rig.memory.mapped(), 0);
    rig.finish();

    let mut rig = Rig::<_, F>::new(&ScatterMemory::new(), settings::<F>(true, false));
    // SAFETY: `page` lives longer than the queue.
    let token = unsafe { rig.queue.submit_framed(page.start(), page.len(), Access::DeviceReads, |_| Tag(1)) };
    assert_eq!(token, None, "an attachment without a frame");
}

fn a_full_or_broken_queue_takes_no_frame<F: Form>() {
    let mut rig = Rig::<_, F, Request>::of(&ScatterMemory::new(), settings::<F>(true, false));
    let data = Bytes::new(0, 512);
    for number in 0..8 {
        assert!(submit(&mut rig, &data, Access::DeviceWrites, number));
    }
    assert!(!submit(&mut rig, &data, Access::DeviceWrites, 8) && !rig.queue.has_free());
    rig.commit();
    assert_eq!(rig.serve(), 8);
    for number in 0..8 {
        assert_eq!(rig.queue.pop().unwrap().unwrap().take(), Request(number));
    }
    assert!(submit(&mut rig, &data, Access::DeviceWrites, 9) && rig.queue.has_free());
    rig.commit();
    rig.device.push_raw(77, 1);
    let violation = rig.queue.pop().err().unwrap();
    assert!(!submit(&mut rig, &data, Access::DeviceWrites, 10));
    assert_eq!(rig.queue.chain().err(), Some(ChainError::Broken(violation)));
    assert_eq!(rig.queue.in_flight(), 1);
}
