//! What happens to a disk, in random order.

use proptest::prelude::*;
use testing_device::{BlockDevice, Builder, Interface, Mode, Order};
use virtio_blk::{Features, Options};

pub(crate) const SECTORS: usize = 24;

/// What is asked of the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    Read,
    Write,
    Flush,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Puts a request on a ring, with a buffer that it owns or one that is lent to it.
    Submit {
        queue: u8,
        ask: Ask,
        at: u8,
        lent: bool,
    },
    Commit(u8),
    Poll(u8),
    Cancel(u8),
    /// A blocking call, which gives up after so many looks.
    Block {
        queue: u8,
        ask: Ask,
        at: u8,
        looks: u8,
    },
    /// A task begins, is polled, goes away.
    Begin {
        queue: u8,
        ask: Ask,
        at: u8,
    },
    PollTask(u8),
    DropTask(u8),
    Process(u8),
    /// The device does all there is to do; or takes one request in hand; or completes one of those.
    Run,
    Take,
    Complete(u8),
    /// The device hangs, or goes on.
    Hold(bool),
    Order(u64),
    /// Some sectors go bad, or flushes; or all is well again.
    Bad(u8),
    BadFlush(bool),
    NeedsReset,
    /// The device breaks the rules of a ring.
    Violate {
        queue: u8,
        jump: bool,
    },
    /// The way back, with a device that acknowledges its reset after so many looks.
    Recover {
        reads: u8,
        first: u8,
    },
    /// The device loses what is not stable, and needs a reset.
    PowerCut,
    Resize(u8),
    SetMode {
        through: bool,
        looks: u8,
    },
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![3 => Just(Ask::Read), 4 => Just(Ask::Write), 1 => Just(Ask::Flush)]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let n = any::<u8>;
    prop_oneof![
        12 => (n(), ask(), n(), any::<bool>()).prop_map(|(queue, ask, at, lent)| Step::Submit { queue, ask, at, lent }),
        5 => n().prop_map(Step::Commit),
        5 => n().prop_map(Step::Poll),
        2 => n().prop_map(Step::Cancel),
        3 => (n(), ask(), n(), 1..20_u8).prop_map(|(queue, ask, at, looks)| Step::Block { queue, ask, at, looks }),
        8 => (n(), ask(), n()).prop_map(|(queue, ask, at)| Step::Begin { queue, ask, at }),
        6 => n().prop_map(Step::PollTask),
        3 => n().prop_map(Step::DropTask),
        5 => n().prop_map(Step::Process),
        6 => Just(Step::Run),
        4 => Just(Step::Take),
        4 => n().prop_map(Step::Complete),
        1 => any::<bool>().prop_map(Step::Hold),
        1 => n().prop_map(|seed| Step::Order(seed.into())),
        1 => n().prop_map(Step::Bad),
        1 => any::<bool>().prop_map(Step::BadFlush),
        1 => Just(Step::NeedsReset),
        1 => (n(), any::<bool>()).prop_map(|(queue, jump)| Step::Violate { queue, jump }),
        3 => (0..20_u8, n()).prop_map(|(reads, first)| Step::Recover { reads, first }),
        1 => Just(Step::PowerCut),
        1 => n().prop_map(Step::Resize),
        1 => (any::<bool>(), 1..20_u8).prop_map(|(through, looks)| Step::SetMode { through, looks }),
    ]
}

/// The form of the ring that a device offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Split,
    Packed,
    SplitInOrder,
    PackedInOrder,
}

impl Form {
    pub(crate) fn is_packed(self) -> bool {
        matches!(self, Self::Packed | Self::PackedInOrder)
    }

    pub(crate) fn is_in_order(self) -> bool {
        matches!(self, Self::SplitInOrder | Self::PackedInOrder)
    }
}

/// A device, and how its driver is set up.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) builder: Builder,
    pub(crate) options: Options,
    /// Asked for an interrupt after so many requests.
    pub(crate) interrupts: Option<u16>,
    pub(crate) indirect: bool,
    pub(crate) form: Form,
    /// In the end, the device acknowledges no reset and is given up.
    pub(crate) give_up: bool,
}

pub(crate) fn shape(form: Form) -> impl Strategy<Value = Shape> {
    let exponents = if cfg!(miri) { 2..4_u32 } else { 2..7 };
    let waiters = prop_oneof![Just(0), Just(1), Just(8_u16)];
    let interrupts = prop_oneof![Just(None), (1..40_u16).prop_map(Some)];
    (any::<[bool; 3]>(), 1..4_u16, exponents, waiters, interrupts, 0..5_u8).prop_map(
        move |([legacy, indirect, event_idx], queues, exponent, waiters, interrupts, end)| {
            // Neither is there on a legacy device.
            let legacy = legacy && form == Form::Split;
            let mut without = Features::empty();
            without.set(Features::INDIRECT_DESC, !indirect);
            without.set(Features::EVENT_IDX, !event_idx);
            let builder = BlockDevice::builder()
                .interface(if legacy { Interface::Legacy } else { Interface::Modern })
                .mode(Mode::Manual)
                .withhold(without.bits())
                .queues(queues)
                .capacity(SECTORS as u64)
                .tolerate_beyond_capacity();
            let builder = if form.is_packed() { builder.packed() } else { builder };
            let builder = if form.is_in_order() { builder.in_order() } else { builder };
            // A packed ring has any size.
            let queue_size = (1 << exponent) + u16::from(form.is_packed() && event_idx);
            let options = Options { queue_size, queues, waiters, segments: 4, ..Options::default() };
            Shape { builder, options, interrupts, indirect, form, give_up: end == 0 }
        },
    )
}

/// In which order a device completes a batch.
pub(crate) fn order(seed: u64) -> Order {
    match seed {
        0..64 => Order::Fifo,
        64..128 => Order::Lifo,
        seed => Order::Shuffled(seed),
    }
}
