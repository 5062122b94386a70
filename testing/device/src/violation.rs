//! What a driver did against the specification.

use std::fmt;

macro_rules! rules {
    ($($Rule:ident, $section:literal, $text:literal;)*) => {
        /// A rule for drivers that the device sees kept or broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = concat!($text, " (", $section, ")")] $Rule,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$Rule),*];

            /// The section of the virtio 1.4 specification that has the rule.
            #[must_use]
            pub const fn section(self) -> &'static str {
                match self { $(Self::$Rule => $section,)* }
            }

            /// The rule in a few words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$Rule => $text,)* }
            }
        }
    };
}

rules! {
    // Registers.
    RegisterWidth, "4.2.2.2", "control registers are accessed with 32 bits, aligned";
    RegisterUnknown, "4.2.2.2", "there is nothing at this offset";
    RegisterReadOnly, "4.2.2.2", "a read-only register is not written";
    RegisterWriteOnly, "4.2.2.2", "a write-only register is not read";
    RegisterOfOtherVersion, "4.2.4", "the register belongs to the other version of the interface";
    RegisterNotNegotiated, "4.2.2.2", "the register belongs to a feature that was not negotiated";
    SharedMemoryRegister, "4.2.3.1.1", "a driver without shared memory does not use its registers";
    NotIdentified, "4.2.3.1.1", "magic value and version, then the device id, are read before anything else";
    PlaceholderAccessed, "4.2.3.1.1", "a device with id 0 is left alone";
    FeaturesSelNotWritten, "4.2.2.2", "the features selector is written before the features";
    InterruptAckUndefined, "4.2.2.2", "undefined bits are not acknowledged";
    InterruptAckNotPending, "4.2.2.2", "only events that are pending are acknowledged";

    // Device status and negotiation.
    StatusOrder, "3.1.1", "initialisation is reset, ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK";
    StatusBitCleared, "2.1.1", "a status bit is cleared by a reset only";
    StatusBitUnknown, "2.1", "the status bit is not one that this driver may set";
    StatusAfterFailed, "2.1.1", "after FAILED comes a reset";
    ResetNotAwaited, "2.4.2", "a reset is done when the status reads back as 0";
    FeaturesEarly, "3.1.1", "features are negotiated after DRIVER";
    FeaturesLate, "3.1.1", "no feature is accepted after FEATURES_OK (legacy: DRIVER_OK)";
    FeatureNotOffered, "2.2.1", "only offered features are accepted";
    FeatureUndefined, "2.2.1", "no feature is accepted that is not defined for this device, interface and transport";
    Version1Declined, "6.1", "VERSION_1 is accepted where it is offered";
    AnyLayoutDeclined, "6.3", "ANY_LAYOUT is accepted where it is offered";
    FeaturesOkNotReadBack, "3.1.1", "FEATURES_OK is read back before the device is set up";
    SuspendNotReadBack, "3.4.1", "SUSPEND is read back, and DRIVER_OK as clear, before anything else";
    ResumeNotAwaited, "3.4.1", "a resumed device works when DRIVER_OK reads back as set and SUSPEND as clear";
    WhileSuspended, "3.4.1", "a suspended device gets no buffers, no notifications and no configuration";
    DiscardOnZoned, "5.2.5.1", "DISCARD is not accepted of a host-managed zoned device";
    FeaturesRefused, "3.1.1", "initialisation ends when FEATURES_OK reads back as clear";

    // Configuration space.
    ConfigWidth, "4.2.2.2", "a configuration field is accessed with its width (64 bits: as two halves), aligned";
    ConfigUnknown, "4.2.2.2", "the configuration space has nothing at this offset";
    ConfigNotOffered, "2.5.1", "a configuration field is accessed only if its feature is offered";
    ConfigReadOnly, "5.2.4", "only writeback is written, and only with CONFIG_WCE negotiated";
    ConfigWrittenEarly, "3.1.1", "the configuration is not written before FEATURES_OK";
    WritebackReadEarly, "5.2.5.1", "writeback is not read before FEATURES_OK";

    // Queues.
    QueueEarly, "3.1.1", "queues are set up after FEATURES_OK (legacy: after DRIVER)";
    QueueLate, "3.1.1", "queues are set up before DRIVER_OK, or after a reset of that queue";
    QueueUnknown, "4.2.3.2", "the device has no such queue";
    QueueSize, "4.2.2.2", "a queue's size is at most the maximum that the device shows, in a split ring a power of two";
    QueueSizeNotRead, "4.2.3.2", "the maximum size of a queue is read before it is set up";
    QueueInUse, "4.2.2.2", "the registers of a queue that is in use are not accessed";
    QueueReadyValue, "4.2.2", "the register holds 0 or 1";
    QueueStopNotReadBack, "4.2.2.2", "a queue that was stopped is read back as stopped";
    QueueResetValue, "4.2.2", "1 is written to reset a queue";
    QueueResetNotReadBack, "4.2.2.2", "the reset of a queue is done when it reads back as 0";
    QueueMisaligned, "2.7.1", "the parts of a queue are aligned (split: 16, 2 and 4 bytes; packed: 16, 4 and 4)";
    QueueOverlap, "2.7", "the parts of a queue do not overlap each other, nor those of another queue";
    QueueUnreachable, "2.7", "the parts of a queue are memory that the device can reach, contiguous";
    QueueNotZeroed, "2.7.10.1", "flags and idx of the used ring, and all of a packed ring, are 0 before the queue is enabled";
    QueuePageSize, "4.2.4", "the page size is a power of two, written before any queue";
    QueueAlign, "4.2.4", "the queue alignment is a power of two, written before the queue is enabled";
    QueueFreedWhileLive, "3.3.1", "the memory of a live queue is not taken away";
    NotifyEarly, "3.1.1", "the device is notified after DRIVER_OK only";
    NotifyUnknownQueue, "4.2.3.3", "only queues that are in use are notified";
    NotifyData, "2.9", "a notification with data carries the available index, or the place of the next descriptor";
    NotifyMissing, "2.7.10.1", "the device is notified of buffers unless it suppressed that";

    // The split ring.
    AvailableIndex, "2.7.6.1", "the available index never goes back, nor ahead by more than the queue's size";
    AvailableFlags, "2.7.7.1", "flags of the available ring are 0 or 1, with EVENT_IDX 0";
    HeadOutOfRange, "2.7.6", "an available entry names a descriptor of the table";
    HeadInFlight, "2.7.13.1", "a chain is made available once until it was used";
    DescriptorInFlight, "2.7.13.1", "a chain is made of free descriptors";
    DescriptorFlags, "2.7.5", "a descriptor has the flags NEXT, WRITE and INDIRECT only";
    NextOutOfRange, "2.7.5", "next names a descriptor of the same table";
    ChainLoop, "2.7.5.2", "a chain has no loop";
    ChainTooLong, "2.7.5.3.1", "a chain is not longer than the queue's size";
    ChainTooLarge, "2.7.5.2", "a chain is not larger than 2^32 bytes";
    ChainOrder, "2.7.4.2", "device-writable descriptors come after all device-readable ones";
    IndirectNotNegotiated, "2.7.5.3.1", "INDIRECT needs INDIRECT_DESC";
    IndirectNested, "2.7.5.3.1", "an indirect table has no indirect descriptor";
    IndirectWithNext, "2.7.5.3.1", "INDIRECT and NEXT are not set together";
    IndirectLength, "2.7.5.3", "an indirect table is one or more whole descriptors";
    InOrderNext, "2.7.5.2", "with IN_ORDER, chains use descriptors in the order of the table";
    // The packed ring has these, and those above that are not about indices and heads.
    PackedListFlags, "2.8.6", "all descriptors of a list are available in the lap that they are in";
    PackedOverrun, "2.8.16", "an entry is not made available again before it was used";
    BufferIdInFlight, "2.8.21.1", "a buffer has an id that is free";
    IndirectFlags, "2.8.19", "the entries of an indirect table have the flag WRITE only";
    EventSuppression, "2.8.14", "event flags are 0, 1 or, with EVENT_IDX, 2, for a place in the ring; reserved bits are 0";

    Unreachable, "2.7.5", "a descriptor names memory that the device can reach, in the direction of its flag";
    AlteredInFlight, "3.3.1", "what was made available is not altered until it was used";

    // Block requests.
    RequestHeader, "5.2.6", "a request begins with 16 device-readable bytes";
    RequestStatus, "5.2.6", "a request ends in a device-writable status byte";
    RequestDirection, "5.2.6", "the data of a request has the direction of its type";
    RequestReserved, "5.2.6", "the reserved field of a request is 0";
    RequestSector, "5.2.6.1", "sector is 0 for requests that have none";
    RequestLength, "5.2.6.1", "the length of the data is what the request's type asks for";
    RequestNotNegotiated, "5.2.3", "the request's type needs a feature that was not negotiated";
    BeyondCapacity, "5.2.6.1", "no request reaches beyond the capacity";
    WriteToReadOnly, "5.2.3", "a read-only device is not written";
    SegmentTooLarge, "5.2.3", "no data segment is larger than size_max";
    TooManySegments, "5.2.3", "a request has at most seg_max data segments (one where there is no seg_max)";
    RangeFlags, "5.2.6.1", "a segment of a discard, erase or write zeroes request has allowed flags only";
    RangeLimit, "5.2.6.1", "a discard, erase or write zeroes request keeps to its limits";
    RangeAlignment, "5.2.6.2", "erased ranges are whole zones; where a test asks for it, ranges keep to their alignment";
    ZoneSector, "5.2.6.1", "a request for a zone names its first sector";
    ZoneCapacity, "5.2.6.1", "no write reaches beyond the capacity of its zone";
    WriteGranularity, "5.2.6.1", "writes to sequential zones are multiples of the write granularity";
    AppendLimit, "5.2.6.1", "no ZONE_APPEND is longer than max_append_sectors";
    LegacyFraming, "5.2.6.4", "without ANY_LAYOUT, header (16 bytes) and status (1 byte) have descriptors of their own";
}

impl Rule {
    /// The section that has the rule for packed rings.
    #[must_use]
    pub const fn packed_section(self) -> &'static str {
        match self {
            Self::ChainTooLong | Self::ChainOrder => "2.8.17",
            Self::DescriptorFlags => "2.8.13",
            Self::IndirectNotNegotiated | Self::IndirectWithNext => "2.8.19",
            Self::IndirectLength => "2.8.7",
            Self::Unreachable => "2.8.4",
            Self::AlteredInFlight => "2.8.16",
            Self::QueueMisaligned => "2.8.11",
            Self::QueueNotZeroed => "2.8.13",
            Self::QueueOverlap | Self::QueueUnreachable => "2.8",
            Self::NotifyMissing => "2.8.10",
            other => other.section(),
        }
    }
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The section of the virtio 1.4 specification that has the rule.
    pub section: &'static str,
    /// What the driver did.
    pub text: String,
}

impl Violation {
    /// A violation of `rule`.
    #[must_use]
    pub fn new(rule: Rule, text: impl Into<String>) -> Self {
        Self { rule, section: rule.section(), text: text.into() }
    }

    /// A violation of `rule` in a packed ring.
    #[must_use]
    pub fn packed(rule: Rule, text: impl Into<String>) -> Self {
        Self { rule, section: rule.packed_section(), text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtio 1.4, {}: {} ({:?}): {}", self.section, self.rule.text(), self.rule, self.text)
    }
}

/// The rules of some violations, in order, for comparing in a test.
#[must_use]
pub fn rules_of(violations: &[Violation]) -> Vec<Rule> {
    violations.iter().map(|violation| violation.rule).collect()
}

/// Panics with the list, if there is one.
pub(crate) fn panic_if_any(what: &str, violations: &[impl fmt::Display]) {
    if violations.is_empty() {
        return;
    }
    let list: String = violations.iter().map(|violation| format!("\n  - {violation}")).collect();
    panic!("{what}:{list}");
}
