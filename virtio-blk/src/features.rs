//! Sets of feature bits, and which of them this driver understands.

use core::{fmt, ops};

use virtio_spec::Features;
use virtio_spec::block::BlockFeatures;

/// A set of feature bits: those that every device may have, and those of a block device.
///
/// ```
/// use virtio_blk::{BlockFeatures, FeatureSet, Features};
///
/// let set = FeatureSet::from(BlockFeatures::FLUSH) | Features::EVENT_IDX;
/// assert!(set.contains(BlockFeatures::FLUSH));
/// assert_eq!(set.to_string(), "FLUSH, EVENT_IDX");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureSet(u64);

impl FeatureSet {
    /// No feature.
    pub const NONE: Self = Self(0);

    /// What this driver can make use of. Other bits are never accepted.
    pub const SUPPORTED: Self = Self(
        BlockFeatures::SIZE_MAX
            .union(BlockFeatures::SEG_MAX)
            .union(BlockFeatures::GEOMETRY)
            .union(BlockFeatures::RO)
            .union(BlockFeatures::BLK_SIZE)
            .union(BlockFeatures::FLUSH)
            .union(BlockFeatures::TOPOLOGY)
            .union(BlockFeatures::CONFIG_WCE)
            .union(BlockFeatures::MQ)
            .union(BlockFeatures::DISCARD)
            .union(BlockFeatures::WRITE_ZEROES)
            .union(BlockFeatures::LIFETIME)
            .union(BlockFeatures::SECURE_ERASE)
            .union(BlockFeatures::ZONED)
            .bits()
            | Features::ANY_LAYOUT
                .union(Features::INDIRECT_DESC)
                .union(Features::EVENT_IDX)
                .union(Features::VERSION_1)
                .union(Features::NOTIFICATION_DATA)
                .union(Features::RING_PACKED)
                .union(Features::IN_ORDER)
                .union(Features::ACCESS_PLATFORM)
                .union(Features::ORDER_PLATFORM)
                .union(Features::NOTIF_CONFIG_DATA)
                .union(Features::RING_RESET)
                .union(Features::SUSPEND)
                .bits(),
    );

    /// Those of them that a kernel has to ask for: [`Options::opt_in`](crate::Options::opt_in).
    pub const OPT_IN: Self = Self(Features::RING_RESET.union(Features::SUSPEND).bits());

    /// The set of these bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits of the set.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether every feature of the other set is in this one.
    pub fn contains(self, other: impl Into<Self>) -> bool {
        let other = other.into();
        self.0 & other.0 == other.0
    }

    /// Whether there is no feature in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The features of this set that are not in the other.
    #[must_use]
    pub fn without(self, other: impl Into<Self>) -> Self {
        Self(self.0 & !other.into().0)
    }
}

impl From<Features> for FeatureSet {
    fn from(features: Features) -> Self {
        Self(features.bits())
    }
}

impl From<BlockFeatures> for FeatureSet {
    fn from(features: BlockFeatures) -> Self {
        Self(features.bits())
    }
}

impl<F: Into<FeatureSet>> ops::BitOr<F> for FeatureSet {
    type Output = Self;

    fn bitor(self, other: F) -> Self {
        Self(self.0 | other.into().0)
    }
}

impl<F: Into<FeatureSet>> ops::BitAnd<F> for FeatureSet {
    type Output = Self;

    fn bitand(self, other: F) -> Self {
        Self(self.0 & other.into().0)
    }
}

/// The names of the features, in the order of their bits; a bit without a name by its number.
impl fmt::Display for FeatureSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "none");
        }
        let block = BlockFeatures::from_bits_truncate(self.0);
        let every = Features::from_bits_truncate(self.0);
        let unnamed = self.without(block).without(every).0;
        let names = block.iter_names().map(|(name, _)| name).chain(every.iter_names().map(|(name, _)| name));
        let mut separator = "";
        for name in names {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        for bit in (0..u64::BITS).filter(|bit| unnamed >> bit & 1 == 1) {
            write!(f, "{separator}bit {bit}")?;
            separator = ", ";
        }
        Ok(())
    }
}
