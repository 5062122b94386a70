//! What a queue is made from, and where it ends up.

/// The shape of a queue: what was negotiated with the device, and what the driver chose.
///
/// ```
/// use virtqueue::Settings;
///
/// // 128 entries, up to 6 descriptors a request, on a device with both ring features.
/// let settings = Settings { chain_max: 6, indirect: true, event_idx: true, ..Settings::new(128) };
/// assert_eq!(settings.max_address, u64::MAX);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// RING_PACKED was negotiated. The queue's [format](crate::RingFormat) must allow it.
    pub packed: bool,
    /// IN_ORDER was negotiated. The queue's format must be [`InOrder`](crate::InOrder) exactly then.
    pub in_order: bool,
    /// The number of entries, from 4 to 32768; of a split ring a power of two.
    pub size: u16,
    /// The most descriptors that one chain has. Each slot owns an indirect table of this length.
    pub chain_max: u16,
    /// The most bytes that one descriptor has; a longer piece becomes several. At least 1.
    pub segment_max_bytes: u32,
    /// INDIRECT_DESC was negotiated: a request takes one entry, however many descriptors it has.
    pub indirect: bool,
    /// EVENT_IDX was negotiated: notifications and interrupts are suppressed by index.
    pub event_idx: bool,
    /// ORDER_PLATFORM was negotiated: barriers are those that the platform has for bus masters.
    pub order_platform: bool,
    /// `Some` on a legacy interface: the alignment of the whole and of its device area, in bytes. Fields are then in
    /// the byte order of this machine.
    pub contiguous_align: Option<usize>,
    /// The highest address, as seen by the device, that the ring's last byte may have.
    pub max_address: u64,
}

impl Settings {
    /// A queue of `size` entries on a device of virtio 1.0 or later, without optional features, one descriptor a
    /// chain.
    pub const fn new(size: u16) -> Self {
        Self {
            packed: false,
            in_order: false,
            size,
            chain_max: 1,
            segment_max_bytes: u32::MAX,
            indirect: false,
            event_idx: false,
            order_platform: false,
            contiguous_align: None,
            max_address: u64::MAX,
        }
    }
}

/// Where a queue is, as its device is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Areas {
    /// The device address of the descriptor area: the descriptor table.
    pub descriptor_area: u64,
    /// The device address of the driver area: the available ring.
    pub driver_area: u64,
    /// The device address of the device area: the used ring.
    pub device_area: u64,
}

/// The memory that a queue takes from the kernel, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Shared with the device: the ring in one piece.
    pub ring: usize,
    /// Shared with the device: the slots and their indirect tables in one piece.
    pub slots: usize,
    /// Private to the driver, in up to three pieces.
    pub private: usize,
}
