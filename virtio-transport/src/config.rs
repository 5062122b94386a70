//! Reading a device's configuration space so that what was read belongs together.

use core::fmt;

use crate::Transport;

/// How often [`read_config`] reads before it says that the configuration does not keep still.
///
/// A device changes its configuration now and then, on an administrator's command. One that changes it during this
/// many reads in a row is broken, or wants to keep its driver from ever starting.
pub const CONFIG_READ_ATTEMPTS: usize = 64;

/// A view of the configuration space during one attempt to read it. See [`read_config`].
///
/// Offsets are in bytes from the start of the space, values in the driver's byte order. Each method reads with the
/// width that the specification asks for (section 4.2.2.2): 8, 16 or 32 bits, and 64-bit fields in two halves.
#[derive(Debug)]
pub struct ConfigSpace<'a, T> {
    transport: &'a T,
}

impl<T: Transport> ConfigSpace<'_, T> {
    /// Reads an 8-bit field.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfBounds`] when the field is not inside the space.
    pub fn u8(&self, offset: usize) -> Result<u8, ConfigError> {
        check::<T, u8>(self.transport, offset)?;
        Ok(self.transport.read_config_u8(offset))
    }

    /// Reads a 16-bit field.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfBounds`] when the field is not inside the space, [`ConfigError::Unaligned`] when the offset
    /// is not a multiple of 2.
    pub fn u16(&self, offset: usize) -> Result<u16, ConfigError> {
        check::<T, u16>(self.transport, offset)?;
        Ok(self.transport.read_config_u16(offset))
    }

    /// Reads a 32-bit field.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfBounds`] when the field is not inside the space, [`ConfigError::Unaligned`] when the offset
    /// is not a multiple of 4.
    pub fn u32(&self, offset: usize) -> Result<u32, ConfigError> {
        check::<T, u32>(self.transport, offset)?;
        Ok(self.transport.read_config_u32(offset))
    }

    /// Reads a 64-bit field, as two 32-bit ones: the first, then the second.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfBounds`] when the field is not inside the space, [`ConfigError::Unaligned`] when the offset
    /// is not a multiple of 4.
    pub fn u64(&self, offset: usize) -> Result<u64, ConfigError> {
        let first = self.u32(offset)?;
        let second = self.u32(offset.saturating_add(size_of::<u32>()))?;
        // Which half is the upper one: a modern device's first, always; a legacy device's by the driver's byte order.
        let (low, high) = match self.transport.interface() {
            crate::Interface::Legacy if cfg!(target_endian = "big") => (second, first),
            _ => (first, second),
        };
        Ok(u64::from(high) << 32 | u64::from(low))
    }
}

/// Whether a field of type `V` can be read or written at this offset.
fn check<T: Transport, V>(transport: &T, offset: usize) -> Result<(), ConfigError> {
    let width = size_of::<V>();
    let bytes = transport.config_bytes();
    if offset.checked_add(width).is_none_or(|end| end > bytes) {
        return Err(ConfigError::OutOfBounds { offset, width, bytes });
    }
    if offset % width != 0 {
        return Err(ConfigError::Unaligned { offset, width });
    }
    Ok(())
}

/// Reads fields of the configuration space that belong together (section 2.5.1).
///
/// `read` is called once or more, and what it answers last is the answer. On a modern device that is when the
/// generation before it equals the generation behind it; on a legacy device, which has none, when it answers twice in
/// a row with the same. Either way no more than [`CONFIG_READ_ATTEMPTS`] times.
///
/// Only read fields that exist: most do through a feature bit alone, and others may read as anything.
///
/// # Errors
///
/// What `read` answers, at once; [`ConfigError::Unstable`] when the configuration changed on every attempt.
///
/// # Example
///
/// ```
/// use virtio_transport::{ConfigError, Transport, read_config};
///
/// /// The capacity of a block device, in sectors of 512 bytes.
/// fn capacity_sectors(device: &impl Transport) -> Result<u64, ConfigError> {
///     read_config(device, |config| config.u64(0))
/// }
/// ```
pub fn read_config<T: Transport, V: PartialEq>(
    transport: &T,
    mut read: impl FnMut(&ConfigSpace<'_, T>) -> Result<V, ConfigError>,
) -> Result<V, ConfigError> {
    let space = ConfigSpace { transport };
    let mut generation = transport.config_generation();
    let mut previous = None;
    for _ in 0..CONFIG_READ_ATTEMPTS {
        let value = read(&space)?;
        match generation {
            Some(before) => {
                let after = transport.config_generation();
                if after == Some(before) {
                    return Ok(value);
                }
                generation = after;
            }
            None if previous.as_ref() == Some(&value) => return Ok(value),
            None => previous = Some(value),
        }
    }
    Err(ConfigError::Unstable { attempts: CONFIG_READ_ATTEMPTS })
}

/// Writes one byte of the configuration space.
pub(crate) fn write_config_u8<T: Transport>(transport: &mut T, offset: usize, value: u8) -> Result<(), ConfigError> {
    check::<T, u8>(transport, offset)?;
    transport.write_config_u8(offset, value);
    Ok(())
}

/// Why the configuration space could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The field is not inside the configuration space that can be reached.
    OutOfBounds {
        /// Where the field starts, in bytes.
        offset: usize,
        /// How long it is, in bytes.
        width: usize,
        /// The length of the space, in bytes.
        bytes: usize,
    },
    /// The field's offset is not a multiple of its width.
    Unaligned {
        /// Where the field starts, in bytes.
        offset: usize,
        /// How long it is, in bytes.
        width: usize,
    },
    /// The device changed its configuration during each attempt to read it.
    Unstable {
        /// The number of attempts.
        attempts: usize,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfBounds { offset, width, bytes } => write!(
                f,
                "a field of {width} bytes at offset {offset} is outside the configuration space, which has {bytes} \
                 bytes"
            ),
            Self::Unaligned { offset, width } => {
                write!(f, "a field of {width} bytes at offset {offset} of the configuration space is not aligned")
            }
            Self::Unstable { attempts } => {
                write!(f, "the device changed its configuration during each of {attempts} attempts to read it")
            }
        }
    }
}

impl core::error::Error for ConfigError {}
