//! What QEMU was told of the disk, and whether the guest found it so.

use testing_guest::{Arguments, Geometry, MemoryKind, Report, Ring, Topology};
use virtio_spec::Features;

use crate::{check::Row, qemu::Transport};

/// How many entries a queue has at the most, if nobody says anything: the driver's own choice.
const DRIVER_QUEUE_SIZE: u16 = 128;
/// What QEMU takes over memory-mapped registers, whatever its property says.
const MMIO_QUEUE_SIZE: u16 = 1024;
/// What QEMU takes over PCI if its property says nothing.
const PCI_QUEUE_SIZE: u16 = 256;

/// What was asked of QEMU and of the guest.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// How the disk is connected.
    pub(crate) transport: Transport,
    /// The properties of QEMU's disk.
    pub(crate) properties: &'a [String],
    /// The guest's command line.
    pub(crate) arguments: &'a Arguments,
}

impl Asked<'_> {
    /// Compares it with what the guest reports of its disk.
    pub(crate) fn check(&self, reports: &[Report]) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |what, verdict| rows.push(Row::other(what, verdict));
        let negotiated = reports.iter().find_map(|report| match report {
            Report::Negotiated { transport, features, queue_size } => {
                Some((transport.as_str(), Features::from_bits_truncate(*features), *queue_size))
            }
            _ => None,
        });
        match negotiated {
            None => row("disk", Err("the guest did not report what was negotiated".into())),
            Some((transport, features, queue_size)) => {
                row("transport", same(transport, self.reported_transport()));
                for (what, feature, wanted) in [
                    ("packed ring", Features::RING_PACKED, self.packed()),
                    ("indirect tables", Features::INDIRECT_DESC, self.is_on("indirect_desc", true)),
                    ("event idx", Features::EVENT_IDX, self.is_on("event_idx", true)),
                    ("access platform", Features::ACCESS_PLATFORM, self.platform()),
                ] {
                    row(what, same(on_off(features.contains(feature)), on_off(wanted)));
                }
                row("queue size", same(queue_size, self.queue_size()));
            }
        }
        let properties = reports.iter().find_map(|report| match report {
            Report::Properties { block_bytes, geometry, topology, write_back, cache_mode_can_change } => {
                Some((*block_bytes, *geometry, *topology, *write_back, *cache_mode_can_change))
            }
            _ => None,
        });
        match properties {
            None => row("disk", Err("the guest did not report what the disk says of itself".into())),
            Some((block_bytes, geometry, topology, write_back, can_change)) => {
                row("block size", same(u64::from(block_bytes), self.block_bytes()));
                if let Some(wanted) = self.geometry() {
                    row("geometry", same(geometry.map_or("none".into(), geometry_text), geometry_text(wanted)));
                }
                row("topology", self.check_topology(topology));
                let mode = |write_back| if write_back { "write-back" } else { "write-through" };
                row("cache mode", same(mode(write_back), mode(self.is_on("write-cache", true))));
                row("can be changed", same(on_off(can_change), on_off(self.is_on("config-wce", true))));
            }
        }
        if self.arguments.memory == MemoryKind::Bounce {
            row("bounce buffers", bounced(reports));
        }
        rows
    }

    fn property(&self, key: &str) -> Option<&str> {
        property(self.properties, key)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.property(key)?.parse().ok()
    }

    fn is_on(&self, key: &str, default: bool) -> bool {
        if self.property(key).is_some() { is_on(self.properties, key) } else { default }
    }

    fn is_legacy(&self) -> bool {
        self.transport == Transport::Legacy
    }

    fn reported_transport(&self) -> &'static str {
        match self.transport {
            Transport::Modern => "modern",
            Transport::Legacy => "legacy",
            Transport::Pci | Transport::PciTransitional | Transport::PciBridge | Transport::PciMsix => "pci",
        }
    }

    /// Legacy devices have no feature of so high a number.
    fn packed(&self) -> bool {
        self.is_on("packed", false) && !self.is_legacy() && self.arguments.ring != Ring::Split
    }

    fn platform(&self) -> bool {
        self.is_on("iommu_platform", false) && !self.is_legacy()
    }

    fn queue_size(&self) -> u16 {
        let device = match self.reported_transport() {
            "pci" => self.number("queue-size").and_then(|size| size.try_into().ok()).unwrap_or(PCI_QUEUE_SIZE),
            _ => MMIO_QUEUE_SIZE,
        };
        let most = self.arguments.queue_size.unwrap_or(DRIVER_QUEUE_SIZE).min(device);
        // A split ring has a power of two of entries.
        if self.packed() { most } else { 1 << most.ilog2() }
    }

    fn block_bytes(&self) -> u64 {
        self.number("logical_block_size").unwrap_or(512)
    }

    /// Where it was given. QEMU lets a track hold whole blocks.
    fn geometry(&self) -> Option<Geometry> {
        let block_sectors = u8::try_from(self.block_bytes() / 512).ok()?;
        let sectors: u8 = self.number("secs")?.try_into().ok()?;
        Some(Geometry {
            cylinders: self.number("cyls")?.try_into().ok()?,
            heads: self.number("heads")?.try_into().ok()?,
            sectors: sectors - sectors % block_sectors,
        })
    }

    /// Each size that was given.
    fn check_topology(&self, found: Option<Topology>) -> Result<String, String> {
        let found = found.ok_or("the disk has none")?;
        let sizes = [
            ("physical_block_size", found.physical_block_bytes),
            ("min_io_size", found.min_io_bytes),
            ("opt_io_size", found.opt_io_bytes),
        ];
        for (key, bytes) in sizes {
            if let Some(wanted) = self.number(key).filter(|wanted| *wanted != bytes) {
                return Err(format!("{key}: the guest found {bytes} bytes, QEMU was told {wanted}"));
            }
        }
        let given = sizes.map(|(key, bytes)| format!("{key} {bytes}"));
        Ok(given.join(", "))
    }
}

/// The last value of a property that was given.
fn property<'p>(properties: &'p [String], key: &str) -> Option<&'p str> {
    let values = properties.iter().filter_map(|property| property.split_once('='));
    values.filter(|(found, _)| *found == key).map(|(_, value)| value).next_back()
}

/// Whether a switch was given, and is on.
pub(crate) fn is_on(properties: &[String], key: &str) -> bool {
    property(properties, key) == Some("on")
}

/// The properties that are switches, and are held against what the guest finds.
const SWITCHES: [&str; 6] = ["packed", "indirect_desc", "event_idx", "iommu_platform", "write-cache", "config-wce"];
/// Those that are numbers.
const NUMBERS: [&str; 8] =
    ["queue-size", "logical_block_size", "cyls", "heads", "secs", "physical_block_size", "min_io_size", "opt_io_size"];

/// A property as it is given on the command line, in the one spelling that is compared: QEMU knows several.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as logical_block_size=4096")?;
    if SWITCHES.contains(&key) {
        let on = match value {
            "on" | "yes" | "true" | "y" => true,
            "off" | "no" | "false" | "n" => false,
            _ => return Err(format!("{key} is on or off, found {value}")),
        };
        Ok(format!("{key}={}", on_off(on)))
    } else if NUMBERS.contains(&key) {
        let number = number(value).ok_or_else(|| format!("{key} is a number of at most 64 bits, found {value}"))?;
        Ok(format!("{key}={number}"))
    } else {
        Ok(text.to_owned())
    }
}

/// A number in decimal or, behind 0x, hexadecimal; or in decimal with k, M or G behind it.
fn number(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    let (digits, shift) = match text.char_indices().next_back()? {
        (end, 'k' | 'K') => (&text[..end], 10),
        (end, 'M') => (&text[..end], 20),
        (end, 'G') => (&text[..end], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn geometry_text(geometry: Geometry) -> String {
    let Geometry { cylinders, heads, sectors } = geometry;
    format!("{cylinders} cylinders, {heads} heads, {sectors} sectors")
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn same<V: PartialEq + std::fmt::Display>(found: V, wanted: V) -> Result<String, String> {
    if found == wanted { Ok(found.to_string()) } else { Err(format!("the guest found {found}, expected {wanted}")) }
}

/// Whether buffers were copied, and all were given back.
fn bounced(reports: &[Report]) -> Result<String, String> {
    match reports.iter().find(|report| matches!(report, Report::Bounced { .. })) {
        Some(Report::Bounced { pieces: pieces @ 1.., left: 0 }) => Ok(format!("{pieces} pieces were copied")),
        Some(Report::Bounced { pieces, left }) => {
            Err(format!("{pieces} pieces were copied, {left} pages were not given back"))
        }
        _ => Err("the guest did not report them".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a guest reports of a disk as QEMU has it by default, and of one that differs in everything.
    fn reports(other: bool) -> Vec<Report> {
        let features = if other { Features::RING_PACKED } else { Features::INDIRECT_DESC | Features::EVENT_IDX };
        let topology = Topology { physical_block_bytes: 4096, min_io_bytes: 4096, opt_io_bytes: 65536 };
        let geometry = Geometry { cylinders: 7, heads: 3, sectors: 16 };
        vec![
            Report::Negotiated {
                transport: if other { "pci" } else { "modern" }.into(),
                features: features.bits(),
                queue_size: if other { 16 } else { 128 },
            },
            Report::Properties {
                block_bytes: if other { 4096 } else { 512 },
                geometry: Some(geometry),
                topology: Some(topology),
                write_back: !other,
                cache_mode_can_change: !other,
            },
        ]
    }

    fn problems(transport: Transport, properties: &str, reports: &[Report]) -> Vec<String> {
        let properties: Vec<String> = properties.split_whitespace().map(Into::into).collect();
        let asked = Asked { transport, properties: &properties, arguments: &Arguments::default() };
        asked.check(reports).iter().filter_map(Row::problem).collect()
    }

    #[test]
    fn qemus_defaults_are_known() {
        assert_eq!(problems(Transport::Modern, "", &reports(false)), Vec::<String>::new());
    }

    #[test]
    fn properties_are_understood() {
        let properties = "packed=off packed=on indirect_desc=off event_idx=off queue-size=16 logical_block_size=4096 \
                          write-cache=off config-wce=off cyls=7 heads=3 secs=20 physical_block_size=4096 \
                          min_io_size=4096 opt_io_size=65536";
        assert_eq!(problems(Transport::Pci, properties, &reports(true)), Vec::<String>::new());
    }

    #[test]
    fn each_spelling_of_qemus_becomes_the_one_that_is_compared() {
        for (given, kept) in [
            ("packed=true", "packed=on"),
            ("config-wce=n", "config-wce=off"),
            ("cyls=0x10", "cyls=16"),
            ("opt_io_size=64K", "opt_io_size=65536"),
            ("logical_block_size=4k", "logical_block_size=4096"),
            ("serial=abc", "serial=abc"),
        ] {
            assert_eq!(parse(given).as_deref(), Ok(kept));
        }
        for wrong in ["packed", "packed=perhaps", "cyls=many", "cyls=", "opt_io_size=99999999999G"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn everything_that_differs_is_found() {
        let found = problems(Transport::Modern, "cyls=8 heads=3 secs=16 min_io_size=512", &reports(true));
        let whats = [
            "transport",
            "packed ring",
            "indirect tables",
            "event idx",
            "queue size",
            "block size",
            "geometry",
            "topology",
            "cache mode",
            "can be changed",
        ];
        assert_eq!(found.len(), whats.len(), "{found:?}");
        for (found, what) in found.iter().zip(whats) {
            assert!(found.starts_with(what), "{found}: expected {what}");
        }
    }

    #[test]
    fn a_guest_that_says_nothing_is_found() {
        assert_eq!(problems(Transport::Modern, "", &[]).len(), 2);
    }

    #[test]
    fn bounce_buffers_must_be_used_and_given_back() {
        let bounced = |pieces, left| super::bounced(&[Report::Bounced { pieces, left }]);
        assert!(bounced(7, 0).is_ok());
        assert!(bounced(0, 0).is_err());
        assert!(bounced(7, 1).is_err());
        assert!(super::bounced(&[]).is_err());
    }
}
