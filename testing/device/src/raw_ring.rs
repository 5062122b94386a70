//! The fields of a split ring, with nothing checked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_spec::Features;
use virtio_spec::split_ring::{
    AVAILABLE_ENTRY_SIZE, AVAILABLE_FLAGS_OFFSET, AVAILABLE_IDX_OFFSET, AVAILABLE_RING_OFFSET, Descriptor,
    USED_FLAGS_OFFSET, USED_IDX_OFFSET, USED_RING_OFFSET, UsedElement, UsedFlags, avail_event_offset,
    used_event_offset,
};

use crate::device_memory::{DeviceMemory, Fault};
use crate::ring_mover::Judgement;

/// Where a ring is, and what was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSetup {
    /// The number of entries: in a split ring a power of two.
    pub size: u16,
    /// The device address of the descriptor table; packed: of the descriptor ring.
    pub descriptor_area: u64,
    /// The device address of the available ring; packed: of the driver's event suppression structure.
    pub driver_area: u64,
    /// The device address of the used ring; packed: of the device's event suppression structure.
    pub device_area: u64,
    /// What was negotiated. Without VERSION_1 the ring is in the byte order of the machine.
    pub features: Features,
}

/// One descriptor as it is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawDescriptor {
    /// The device address of the piece.
    pub address: u64,
    /// The length of the piece in bytes.
    pub bytes: u32,
    /// The flags.
    pub flags: u16,
    /// The index of the next descriptor.
    pub next: u16,
}

/// The fields of a split ring, each read or written once per call, with nothing checked and nothing remembered.
///
/// For tests of what a hostile device may do to a ring.
#[derive(Clone)]
pub struct RawRing {
    memory: Arc<dyn DeviceMemory>,
    setup: RingSetup,
}

impl fmt::Debug for RawRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawRing").field("setup", &self.setup).finish_non_exhaustive()
    }
}

impl RawRing {
    /// The ring in `memory`.
    #[must_use]
    pub fn new(memory: Arc<dyn DeviceMemory>, setup: RingSetup) -> Self {
        Self { memory, setup }
    }

    /// Where the ring is.
    #[must_use]
    pub fn setup(&self) -> &RingSetup {
        &self.setup
    }

    /// The memory that it is in.
    #[must_use]
    pub fn memory(&self) -> &Arc<dyn DeviceMemory> {
        &self.memory
    }

    /// Whether it is in little-endian order rather than in the machine's.
    fn little(&self) -> bool {
        self.setup.features.contains(Features::VERSION_1)
    }

    fn u16(&self, value: u16) -> u16 {
        if self.little() { u16::from_le(value) } else { value }
    }

    fn load(&self, address: u64, order: Ordering) -> Result<u16, Fault> {
        Ok(self.u16(self.memory.load_u16(address, order)?))
    }

    fn store(&self, address: u64, value: u16, order: Ordering) -> Result<(), Fault> {
        self.memory.store_u16(address, self.u16(value), order)
    }

    fn slot(&self, index: u16) -> u64 {
        u64::from(index % self.setup.size)
    }

    /// The available ring's flags.
    ///
    /// # Errors
    ///
    /// As all here: [`Fault`] when the memory is not reachable.
    pub fn available_flags(&self) -> Result<u16, Fault> {
        self.load(self.setup.driver_area + AVAILABLE_FLAGS_OFFSET as u64, Ordering::Relaxed)
    }

    /// The available ring's idx; what the driver wrote before it is visible afterwards.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn available_idx(&self) -> Result<u16, Fault> {
        self.load(self.setup.driver_area + AVAILABLE_IDX_OFFSET as u64, Ordering::Acquire)
    }

    /// The available ring's entry for an index, modulo the size.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn available_entry(&self, index: u16) -> Result<u16, Fault> {
        let offset = AVAILABLE_RING_OFFSET as u64 + self.slot(index) * AVAILABLE_ENTRY_SIZE as u64;
        self.load(self.setup.driver_area + offset, Ordering::Relaxed)
    }

    /// The available ring's used_event.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn used_event(&self) -> Result<u16, Fault> {
        self.load(self.setup.driver_area + used_event_offset(self.setup.size) as u64, Ordering::Relaxed)
    }

    /// The descriptor at an index of the table at a device address.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn descriptor_at(&self, table: u64, index: u16) -> Result<RawDescriptor, Fault> {
        let at = table.wrapping_add(u64::from(index) * size_of::<Descriptor>() as u64);
        // Two words, as the driver stores it: address; length, flags and next.
        let address = self.memory.load_u64(at, Ordering::Relaxed)?.to_ne_bytes();
        let rest = self.memory.load_u64(at.wrapping_add(8), Ordering::Relaxed)?.to_ne_bytes();
        let [a, b, c, d, e, f, g, h] = rest;
        let (bytes, flags, next) =
            (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]), u16::from_ne_bytes([g, h]));
        let address = u64::from_ne_bytes(address);
        Ok(if self.little() {
            RawDescriptor {
                address: u64::from_le(address),
                bytes: u32::from_le(bytes),
                flags: u16::from_le(flags),
                next: u16::from_le(next),
            }
        } else {
            RawDescriptor { address, bytes, flags, next }
        })
    }

    /// The descriptor at an index of the queue's table.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn descriptor(&self, index: u16) -> Result<RawDescriptor, Fault> {
        self.descriptor_at(self.setup.descriptor_area, index)
    }

    /// The used ring's flags.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn used_flags(&self) -> Result<u16, Fault> {
        self.load(self.setup.device_area + USED_FLAGS_OFFSET as u64, Ordering::Relaxed)
    }

    /// The used ring's idx.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn used_idx(&self) -> Result<u16, Fault> {
        self.load(self.setup.device_area + USED_IDX_OFFSET as u64, Ordering::Relaxed)
    }

    /// The used ring's avail_event.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn avail_event(&self) -> Result<u16, Fault> {
        self.load(self.setup.device_area + avail_event_offset(self.setup.size) as u64, Ordering::Relaxed)
    }

    /// Writes the used ring's flags.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn set_used_flags(&self, flags: u16) -> Result<(), Fault> {
        self.store(self.setup.device_area + USED_FLAGS_OFFSET as u64, flags, Ordering::Relaxed)
    }

    /// Writes the used ring's idx, after all that was written before it.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn set_used_idx(&self, idx: u16) -> Result<(), Fault> {
        self.store(self.setup.device_area + USED_IDX_OFFSET as u64, idx, Ordering::Release)
    }

    /// Writes the used ring's element for an index, modulo the size.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn set_used_element(&self, index: u16, id: u32, bytes: u32) -> Result<(), Fault> {
        let (id, bytes) = if self.little() { (id.to_le(), bytes.to_le()) } else { (id, bytes) };
        let offset = USED_RING_OFFSET as u64 + self.slot(index) * size_of::<UsedElement>() as u64;
        let address = self.setup.device_area + offset;
        self.memory.store_u32(address, id, Ordering::Relaxed)?;
        self.memory.store_u32(address + 4, bytes, Ordering::Relaxed)
    }

    /// Writes the used ring's avail_event.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn set_avail_event(&self, event: u16) -> Result<(), Fault> {
        self.store(self.setup.device_area + avail_event_offset(self.setup.size) as u64, event, Ordering::Relaxed)
    }

    /// Looks whether a notification was due for what was made available since index `judged`, which moves on.
    pub(crate) fn judge(&self, judged: &mut u16) -> Option<Judgement> {
        let idx = self.available_idx().ok()?;
        let old = std::mem::replace(judged, idx);
        let due = old != idx
            && if self.setup.features.contains(Features::EVENT_IDX) {
                self.avail_event().is_ok_and(|event| crosses(event, old, idx))
            } else {
                let no_notify = |flags| UsedFlags::from_bits_truncate(flags).contains(UsedFlags::NO_NOTIFY);
                self.used_flags().is_ok_and(|flags| !no_notify(flags))
            };
        Some(Judgement { added: u64::from(idx.wrapping_sub(old)), due })
    }
}

/// Whether an index that moved from `old` to `new` passed the entry that `event` names.
pub(crate) const fn crosses(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
