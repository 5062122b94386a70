//! The variants of a disk that the guest is run with: every one, or few enough that each two settings meet in one.

use std::{collections::BTreeSet, fmt, iter};

use testing_guest::{MemoryKind, Ring};

use crate::{
    commands::run::Options,
    qemu::Transport::{self, Legacy, Modern, Pci},
};

/// The sizes of a queue.
const QUEUE_SIZES: [u16; 3] = [4, 16, 256];
/// The sizes of a block in bytes.
const BLOCK_BYTES: [u16; 2] = [512, 4096];
/// Whether something is used.
const EITHER: [bool; 2] = [true, false];

/// A variant of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    /// How it is connected.
    pub(crate) transport: Transport,
    /// Whether its ring can be packed and not only split.
    pub(crate) packed: bool,
    /// The form of the ring that the guest wants.
    pub(crate) ring: Ring,
    /// Whether requests have tables of their own (INDIRECT_DESC).
    pub(crate) indirect: bool,
    /// Whether notifications and interrupts are suppressed by positions in the ring (EVENT_IDX).
    pub(crate) event_idx: bool,
    /// The number of entries of its queue.
    pub(crate) queue_size: u16,
    /// The size of its blocks.
    pub(crate) block_bytes: u16,
    /// Whether it reaches memory as the platform says (ACCESS_PLATFORM): through bounce buffers.
    pub(crate) bounce: bool,
    /// Whether what is discarded becomes a hole in the image.
    pub(crate) unmap: bool,
}

/// A setting of a variant: which one, and its value.
type Setting = (u8, u16);

impl Variant {
    /// Those that are combined with each other.
    fn settings(&self) -> [Setting; 6] {
        [
            (0, self.transport as u16),
            (1, self.packed.into()),
            (2, self.indirect.into()),
            (3, self.event_idx.into()),
            (4, self.queue_size),
            (5, self.block_bytes),
        ]
    }

    /// Each two settings.
    fn pairs(&self) -> BTreeSet<(Setting, Setting)> {
        let settings = self.settings();
        let pairs = settings.iter().flat_map(|first| settings.iter().map(|second| (*first, *second)));
        pairs.filter(|(first, second)| first < second).collect()
    }

    /// How `cargo xtask run` starts it.
    pub(crate) fn options(&self) -> Options {
        let on_off = |on| if on { "on" } else { "off" };
        let mut property = vec![
            format!("packed={}", on_off(self.packed)),
            format!("indirect_desc={}", on_off(self.indirect)),
            format!("event_idx={}", on_off(self.event_idx)),
            format!("logical_block_size={}", self.block_bytes),
            format!("physical_block_size={}", self.block_bytes),
        ];
        if self.bounce {
            property.push("iommu_platform=on".into());
        }
        Options {
            demo: "blocks".into(),
            transport: self.transport,
            queue_size: Some(self.queue_size),
            ring: self.ring,
            property,
            unmap: self.unmap,
            memory: if self.bounce { MemoryKind::Bounce } else { MemoryKind::Direct },
            ..Options::default()
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Modern => "modern",
            Legacy => "legacy",
            _ => "PCI",
        };
        let ring = match (self.packed, self.ring) {
            (true, Ring::Split) => "split though it could be packed",
            (true, _) => "packed",
            (false, _) => "split",
        };
        let tables = if self.indirect { "indirect" } else { "chains" };
        let events = if self.event_idx { "event idx" } else { "flags" };
        let Self { queue_size, block_bytes, .. } = self;
        write!(f, "{transport}, {ring}, {tables}, {events}, {queue_size} entries, blocks of {block_bytes}")?;
        let bounce = if self.bounce { ", bounce buffers" } else { "" };
        let unmap = if self.unmap { ", unmap" } else { "" };
        write!(f, "{bounce}{unmap}")
    }
}

/// Every combination of settings that there is: a legacy device has no packed ring.
pub(crate) fn all() -> Vec<Variant> {
    let rings = [(Modern, false), (Modern, true), (Pci, false), (Pci, true), (Legacy, false)];
    let mut all = Vec::new();
    for (transport, packed) in rings {
        for (indirect, event_idx) in EITHER.into_iter().flat_map(|indirect| EITHER.map(|event| (indirect, event))) {
            for queue_size in QUEUE_SIZES {
                all.extend(BLOCK_BYTES.map(|block_bytes| Variant {
                    transport,
                    packed,
                    ring: Ring::Either,
                    indirect,
                    event_idx,
                    queue_size,
                    block_bytes,
                    bounce: false,
                    unmap: false,
                }));
            }
        }
    }
    // The last one is not combined with the others: it is the host's matter.
    for (variant, unmap) in all.iter_mut().zip([true, false, true, false, false].into_iter().cycle()) {
        variant.unmap = unmap;
    }
    all
}

/// So many that each two settings that can meet do so in one of them: each time the variant that has the most pairs
/// which are not there yet.
pub(crate) fn each_pair() -> Vec<Variant> {
    let all = all();
    let mut missing: BTreeSet<_> = all.iter().flat_map(Variant::pairs).collect();
    let next = || {
        let best = all.iter().max_by_key(|variant| variant.pairs().intersection(&missing).count())?;
        let found = best.pairs();
        let before = missing.len();
        missing.retain(|pair| !found.contains(pair));
        (missing.len() < before).then_some(*best)
    };
    iter::from_fn(next).collect()
}

/// What is beside the settings that are combined.
pub(crate) fn others() -> Vec<Variant> {
    let plain = Variant {
        transport: Modern,
        packed: true,
        ring: Ring::Either,
        indirect: true,
        event_idx: true,
        queue_size: 16,
        block_bytes: 512,
        bounce: false,
        unmap: true,
    };
    let bounce = Variant { bounce: true, ..plain };
    vec![
        // Both forms of ring with bounce buffers, over both buses.
        Variant { packed: false, ..bounce },
        Variant { indirect: false, queue_size: 256, block_bytes: 4096, ..bounce },
        Variant { transport: Pci, queue_size: 256, ..bounce },
        Variant { transport: Pci, packed: false, indirect: false, queue_size: 4, block_bytes: 4096, ..bounce },
        // Packed rings of sizes that no split ring has.
        Variant { ring: Ring::Packed, queue_size: 100, ..plain },
        Variant { transport: Pci, indirect: false, queue_size: 7, ..plain },
        // A guest that does not want the ring that it could have.
        Variant { ring: Ring::Split, queue_size: 256, ..plain },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_all() {
        let all = all();
        assert_eq!(all.len(), (3 * 2 - 1) * 2 * 2 * 3 * 2);
        assert!(all.iter().all(|variant| all.iter().filter(|other| *other == variant).count() == 1));
        assert!(!all.iter().any(|variant| variant.transport == Legacy && variant.packed));
    }

    #[test]
    fn each_two_settings_meet() {
        let selection = each_pair();
        let all = all();
        for (first, second) in all.iter().flat_map(Variant::pairs) {
            let both = |variant: &Variant| {
                let settings = variant.settings();
                settings.contains(&first) && settings.contains(&second)
            };
            assert!(selection.iter().any(both), "{first:?} and {second:?}");
        }
        assert!(selection.iter().all(|variant| all.contains(variant)));
        // Three transports meet three sizes, so nine at the least.
        assert!((9..=16).contains(&selection.len()), "{} variants", selection.len());
    }

    #[test]
    fn some_make_holes_and_some_do_not() {
        for variants in [all(), each_pair()] {
            for unmap in [true, false] {
                assert!(variants.iter().any(|variant| variant.unmap == unmap), "{unmap}");
            }
        }
    }

    #[test]
    fn pairs_are_of_different_settings() {
        // Six settings, each two of them once.
        assert!(all().iter().all(|variant| variant.pairs().len() == 15));
    }
}
