//! What a test can make the device do wrong.

use std::collections::VecDeque;
use std::ops::Range;

use virtio_spec::block::RequestStatus;

/// How one request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `None`: the request is executed, and its status says how that went. `Some`: it is not executed, and this is its
    /// status.
    pub result: Option<RequestStatus>,
    /// What is written as the status byte.
    pub status: StatusByte,
    /// What is written as data for the driver.
    pub data: Data,
    /// What the used ring says about the bytes written.
    pub length: UsedLength,
    /// What the used ring says instead of the chain's id.
    pub id: Option<u32>,
    /// How many times more the same element is given to the driver, each in the next entry.
    pub repeat: u16,
    /// By how many entries more the used index moves, with nothing written there. In a packed ring, the next used
    /// descriptors are so many entries too far.
    pub skip: u16,
    /// Which flags of the used descriptor are the other way round. Packed rings only; AVAIL and USED together make
    /// one of another lap.
    pub flags: u16,
}

impl Outcome {
    /// As an honest device ends requests.
    pub const HONEST: Self = Self {
        result: None,
        status: StatusByte::Honest,
        data: Data::Honest,
        length: UsedLength::Honest,
        id: None,
        repeat: 0,
        skip: 0,
        flags: 0,
    };

    /// An honest failure: nothing is read or written, and the status says so.
    #[must_use]
    pub const fn failure(status: RequestStatus) -> Self {
        Self { result: Some(status), ..Self::HONEST }
    }

    /// The request is executed and its status byte is a lie.
    #[must_use]
    pub const fn status_byte(value: u8) -> Self {
        Self { status: StatusByte::Value(value), ..Self::HONEST }
    }
}

impl Default for Outcome {
    fn default() -> Self {
        Self::HONEST
    }
}

/// What a device writes as the status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusByte {
    /// The status.
    Honest,
    /// Nothing.
    Unwritten,
    /// This value, whatever it means.
    Value(u8),
}

/// What a device writes as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// The data.
    Honest,
    /// Its first bytes only.
    Short(usize),
    /// Nothing.
    Unwritten,
}

/// What a device says about the bytes it has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsedLength {
    /// How many there are without a gap from the first device-writable one on.
    Honest,
    /// The length of the whole chain, as old devices say.
    WholeChain,
    /// This.
    Value(u32),
}

/// In which order a batch of requests is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they came.
    Fifo,
    /// The last one first.
    Lifo,
    /// Shuffled, starting from a seed.
    Shuffled(u64),
}

/// How a device answers a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetAnswer {
    /// At once.
    Prompt,
    /// When the status was read so many times; later resets at once. Until then the device goes on with its queues.
    AfterReads(u32),
    /// Never.
    Never,
}

/// How a device answers the reset of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueResetAnswer {
    /// It is done at once: nothing of the queue is touched any more.
    Prompt,
    /// When the register was read so many times; later resets at once. Until then the device goes on with the queue.
    AfterReads(u32),
    /// Never: the register reads as 1, and the device goes on with the queue.
    Never,
    /// It reads as done, but the queue stays ready and the device goes on with it: as if the register did not exist.
    Ignored,
    /// It reads as done, and the queue is not ready any more. But the device goes on with requests that it has in hand,
    /// and then writes to their buffers and to the ring.
    Early,
}

/// How a device answers SUSPEND, and DRIVER_OK when it is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspendAnswer {
    /// As soon as all requests in hand are completed.
    Prompt,
    /// When the status was read so many times, and all requests in hand are completed; later ones as soon as that.
    AfterReads(u32),
    /// Never.
    Never,
    /// With DEVICE_NEEDS_RESET.
    NeedsReset,
}

/// How the configuration generation behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// It changes with the configuration.
    Honest,
    /// It also changes at so many reads of it.
    Moves(u32),
    /// It also changes at every read of it.
    NeverSettles,
}

/// A capacity that differs between reads of its halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flicker {
    /// The other capacity in sectors, which every second read shows.
    pub other_sectors: u64,
    /// After how many reads of a half it stops.
    pub reads: u32,
}

/// What the device does wrong, from now on. [`Faults::default`] is an honest device.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Requests are taken from the rings and kept: [`BlockDevice::take`](crate::BlockDevice::take) hands them out,
    /// [`BlockDevice::release`](crate::BlockDevice::release) completes them.
    pub hold: bool,
    /// How every request ends that has no outcome of its own.
    pub outcome: Outcome,
    /// How the next requests end, the first of them first.
    pub next: VecDeque<Outcome>,
    /// In which order requests are completed.
    pub order: Order,
    /// Sectors whose requests fail with IOERR.
    pub bad_sectors: Vec<Range<u64>>,
    /// Flushes fail with IOERR.
    pub bad_flush: bool,
    /// How a reset is answered.
    pub reset: ResetAnswer,
    /// FEATURES_OK does not stay set.
    pub refuse_features: bool,
    /// Queues do not become ready (modern).
    pub refuse_queues: bool,
    /// How the configuration generation behaves.
    pub generation: Generation,
    /// A capacity that changes between the reads of its halves. The generation moves with it.
    pub flicker: Option<Flicker>,
    /// Interrupts are neither signalled nor shown as pending.
    pub lose_interrupts: bool,
    /// How the reset of a queue is answered.
    pub queue_reset: QueueResetAnswer,
    /// How SUSPEND and DRIVER_OK after it are answered.
    pub suspend: SuspendAnswer,
    /// Requests go back as they are completed although IN_ORDER was negotiated, each with its own used element.
    pub out_of_order: bool,
    /// The sector that ZONE_APPEND requests say they wrote to.
    pub append_sector: Option<u64>,
    /// How many zones reports say that they have.
    pub zone_report_count: Option<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            hold: false,
            outcome: Outcome::HONEST,
            next: VecDeque::new(),
            order: Order::Fifo,
            bad_sectors: Vec::new(),
            bad_flush: false,
            reset: ResetAnswer::Prompt,
            refuse_features: false,
            refuse_queues: false,
            generation: Generation::Honest,
            flicker: None,
            lose_interrupts: false,
            queue_reset: QueueResetAnswer::Prompt,
            suspend: SuspendAnswer::Prompt,
            out_of_order: false,
            append_sector: None,
            zone_report_count: None,
        }
    }
}

/// Puts a batch in order.
pub(crate) fn arrange<T>(batch: &mut [T], order: &mut Order) {
    match order {
        Order::Fifo => {}
        Order::Lifo => batch.reverse(),
        Order::Shuffled(seed) => {
            for last in (1..batch.len()).rev() {
                // Marsaglia's xorshift; a seed of 0 would stay 0.
                *seed = (*seed).max(1);
                *seed ^= *seed << 13;
                *seed ^= *seed >> 7;
                *seed ^= *seed << 17;
                batch.swap(last, (*seed % (last as u64 + 1)) as usize);
            }
        }
    }
}
