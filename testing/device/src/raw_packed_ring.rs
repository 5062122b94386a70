//! The fields of a packed ring, with nothing checked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_spec::packed_ring::{Descriptor, DescriptorFlags, EVENT_WRAP_SHIFT};

use crate::device_memory::{DeviceMemory, Fault};
use crate::raw_ring::RingSetup;

/// Offset of the id and of the flags in a descriptor, in bytes.
const ID_OFFSET: u64 = std::mem::offset_of!(Descriptor, id) as u64;
const FLAGS_OFFSET: u64 = std::mem::offset_of!(Descriptor, flags) as u64;
const LENGTH_OFFSET: u64 = std::mem::offset_of!(Descriptor, len) as u64;

/// One descriptor as it is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPackedDescriptor {
    /// The device address of the piece.
    pub address: u64,
    /// The length of the piece in bytes, or how many bytes were written.
    pub bytes: u32,
    /// The buffer's id.
    pub id: u16,
    /// The flags.
    pub flags: u16,
}

/// An event suppression structure as it is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawEvent {
    /// The position: an offset in entries, and in bit 15 a wrap counter.
    pub position: u16,
    /// The flags: 0 for every event, 1 for none, 2 for that at the position.
    pub flags: u16,
}

/// A place in a packed ring: how many entries lie before it since the queue was enabled.
///
/// The offset in the ring and the wrap counter follow from that number and the size (2.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The number of entries before it.
    pub entries: u64,
    /// The size of the ring in entries.
    pub size: u16,
}

impl Place {
    /// The offset in the ring, in entries.
    #[must_use]
    pub fn offset(self) -> u16 {
        (self.entries % u64::from(self.size.max(1))) as u16
    }

    /// The wrap counter: set in the first lap.
    #[must_use]
    pub fn wrap(self) -> bool {
        (self.entries / u64::from(self.size.max(1))).is_multiple_of(2)
    }

    /// Offset and wrap counter, as event suppression structures and notifications have them.
    #[must_use]
    pub fn word(self) -> u16 {
        self.offset() | u16::from(self.wrap()) << EVENT_WRAP_SHIFT
    }

    /// The place so many entries further.
    #[must_use]
    pub fn after(self, entries: u64) -> Self {
        Self { entries: self.entries + entries, ..self }
    }

    /// AVAIL and USED of a descriptor that is available here.
    #[must_use]
    pub fn available(self) -> DescriptorFlags {
        if self.wrap() { DescriptorFlags::AVAIL } else { DescriptorFlags::USED }
    }

    /// AVAIL and USED of a descriptor that is used here.
    #[must_use]
    pub fn used(self) -> DescriptorFlags {
        if self.wrap() { DescriptorFlags::AVAIL | DescriptorFlags::USED } else { DescriptorFlags::empty() }
    }

    /// Whether flags are those of a descriptor that is available here.
    #[must_use]
    pub fn is_available(self, flags: u16) -> bool {
        let both = DescriptorFlags::AVAIL | DescriptorFlags::USED;
        flags & both.bits() == self.available().bits()
    }
}

/// The fields of a packed ring, each read or written once per call, with nothing checked and nothing remembered.
///
/// Offsets are in entries, modulo the size. Flags, ids and the fields of event suppression structures are accessed with
/// 16 bits (the driver's is read with 32), lengths with 32, addresses with 64.
///
/// For tests of what a hostile device may do to a ring.
#[derive(Clone)]
pub struct RawPackedRing {
    memory: Arc<dyn DeviceMemory>,
    setup: RingSetup,
}

impl fmt::Debug for RawPackedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawPackedRing").field("setup", &self.setup).finish_non_exhaustive()
    }
}

impl RawPackedRing {
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

    /// A place in this ring.
    #[must_use]
    pub fn place(&self, entries: u64) -> Place {
        Place { entries, size: self.setup.size }
    }

    fn entry(&self, offset: u16) -> u64 {
        let offset = u64::from(offset % self.setup.size.max(1));
        self.setup.descriptor_area + offset * size_of::<Descriptor>() as u64
    }

    /// The flags of an entry; what the driver wrote before them is visible afterwards.
    ///
    /// # Errors
    ///
    /// As all here: [`Fault`] when the memory is not reachable.
    pub fn flags(&self, offset: u16) -> Result<u16, Fault> {
        let flags = self.memory.load_u16(self.entry(offset) + FLAGS_OFFSET, Ordering::Acquire)?;
        Ok(u16::from_le(flags))
    }

    /// The descriptor at a device address: in an indirect table.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn descriptor_at(&self, address: u64) -> Result<RawPackedDescriptor, Fault> {
        let memory = &self.memory;
        Ok(RawPackedDescriptor {
            flags: u16::from_le(memory.load_u16(address.wrapping_add(FLAGS_OFFSET), Ordering::Acquire)?),
            address: u64::from_le(memory.load_u64(address, Ordering::Relaxed)?),
            bytes: u32::from_le(memory.load_u32(address.wrapping_add(LENGTH_OFFSET), Ordering::Relaxed)?),
            id: u16::from_le(memory.load_u16(address.wrapping_add(ID_OFFSET), Ordering::Relaxed)?),
        })
    }

    /// The descriptor of an entry.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn descriptor(&self, offset: u16) -> Result<RawPackedDescriptor, Fault> {
        self.descriptor_at(self.entry(offset))
    }

    /// Writes length and id of an entry.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn set_id(&self, offset: u16, id: u16, bytes: u32) -> Result<(), Fault> {
        self.memory.store_u32(self.entry(offset) + LENGTH_OFFSET, bytes.to_le(), Ordering::Relaxed)?;
        self.memory.store_u16(self.entry(offset) + ID_OFFSET, id.to_le(), Ordering::Relaxed)
    }

    /// Writes the flags of an entry, after all that was written before.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn set_flags(&self, offset: u16, flags: u16) -> Result<(), Fault> {
        self.memory.store_u16(self.entry(offset) + FLAGS_OFFSET, flags.to_le(), Ordering::Release)
    }

    fn load_event(&self, address: u64) -> Result<RawEvent, Fault> {
        let [a, b, c, d] = self.memory.load_u32(address, Ordering::Relaxed)?.to_ne_bytes();
        Ok(RawEvent { position: u16::from_le_bytes([a, b]), flags: u16::from_le_bytes([c, d]) })
    }

    /// What the driver wants to be told of: the structure in the driver area.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn driver_event(&self) -> Result<RawEvent, Fault> {
        self.load_event(self.setup.driver_area)
    }

    /// What the device wants to be told of: the structure in the device area.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn device_event(&self) -> Result<RawEvent, Fault> {
        self.load_event(self.setup.device_area)
    }

    /// Writes what the device wants to be told of.
    ///
    /// # Errors
    ///
    /// [`Fault`] when the memory is not reachable.
    pub fn set_device_event(&self, event: RawEvent) -> Result<(), Fault> {
        // Two stores, as the driver zeroes them: Miri knows no stores that overlap in part.
        self.memory.store_u16(self.setup.device_area, event.position.to_le(), Ordering::Relaxed)?;
        self.memory.store_u16(self.setup.device_area + 2, event.flags.to_le(), Ordering::Release)
    }
}
