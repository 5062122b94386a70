//! Where the three areas of a ring lie in its memory.

use virtio_spec::packed_ring::{self, EventSuppression};
use virtio_spec::split_ring::{
    DESCRIPTOR_TABLE_ALIGNMENT, USED_RING_ALIGNMENT, available_ring_size, descriptor_table_size,
    legacy_available_ring_offset, legacy_queue_size_bytes, legacy_used_ring_offset, used_ring_size,
};

/// The offsets of the three areas inside one contiguous piece of memory, in bytes.
///
/// The interface of virtio 1.0 and later lets the areas be anywhere (2.7, "Split Virtqueues"); here they follow each
/// other, each at its alignment. The legacy interface fixes them (2.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitLayout {
    /// The alignment of the whole.
    pub(crate) align: usize,
    /// The offset of the driver area: the available ring.
    pub(crate) driver_area: usize,
    /// The offset of the device area: the used ring.
    pub(crate) device_area: usize,
    /// The length of the whole.
    pub(crate) bytes: usize,
}

impl SplitLayout {
    /// The layout for a queue of `size` entries; `contiguous_align` is the alignment of the legacy interface, or
    /// `None`.
    pub(crate) const fn new(size: u16, contiguous_align: Option<usize>) -> Self {
        match contiguous_align {
            None => {
                let driver_area = descriptor_table_size(size);
                let device_area = (driver_area + available_ring_size(size)).next_multiple_of(USED_RING_ALIGNMENT);
                Self {
                    align: DESCRIPTOR_TABLE_ALIGNMENT,
                    driver_area,
                    device_area,
                    bytes: device_area + used_ring_size(size),
                }
            }
            Some(align) => Self {
                align,
                driver_area: legacy_available_ring_offset(size),
                device_area: legacy_used_ring_offset(size, align),
                bytes: legacy_queue_size_bytes(size, align),
            },
        }
    }
}

/// The offsets of the parts of a packed ring (2.8.10.1), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedLayout {
    /// The alignment of the whole.
    pub(crate) align: usize,
    /// The offset of the driver area: what the driver wants to be told of.
    pub(crate) driver_area: usize,
    /// The offset of the device area: what the device wants to be told of.
    pub(crate) device_area: usize,
    /// The length of the whole.
    pub(crate) bytes: usize,
}

impl PackedLayout {
    /// The layout for a ring of `size` descriptors, in room for a power of two of them.
    pub(crate) const fn new(size: u16) -> Self {
        let driver_area = (size as usize).next_power_of_two() * size_of::<packed_ring::Descriptor>();
        let device_area = driver_area + size_of::<EventSuppression>();
        Self {
            align: packed_ring::DESCRIPTOR_RING_ALIGNMENT,
            driver_area,
            device_area,
            bytes: device_area + size_of::<EventSuppression>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modern_areas_follow_each_other_at_their_alignment() {
        assert_eq!(
            SplitLayout::new(4, None),
            SplitLayout { align: 16, driver_area: 64, device_area: 80, bytes: 80 + 6 + 4 * 8 }
        );
        // 256 entries: 4096 bytes of descriptors, 6 + 512 bytes of available ring, rounded up to 4.
        assert_eq!(
            SplitLayout::new(256, None),
            SplitLayout { align: 16, driver_area: 4096, device_area: 4616, bytes: 4616 + 6 + 256 * 8 }
        );
    }

    #[test]
    fn a_packed_ring_of_any_size_has_room_for_a_power_of_two() {
        let layout = PackedLayout { align: 16, driver_area: 128, device_area: 132, bytes: 136 };
        assert_eq!((PackedLayout::new(8), PackedLayout::new(5)), (layout, layout));
    }

    #[test]
    fn the_legacy_device_area_starts_on_the_next_page() {
        let layout = SplitLayout::new(256, Some(4096));
        assert_eq!((layout.align, layout.driver_area, layout.device_area), (4096, 4096, 8192));
        assert_eq!(layout.bytes, 8192 + 4096, "2.7.2: both parts are rounded up to whole pages");
        assert_eq!(SplitLayout::new(4, Some(4096)).device_area, 4096);
    }
}
