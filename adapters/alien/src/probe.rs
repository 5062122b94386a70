//! Where the device tree says that virtio devices may be.

use alloc::string::String;
use alloc::vec::Vec;

use virtio_transport::{DeviceTree, DeviceTreeError};

/// A slot for a device, as the kernel has it from the device tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The node's name.
    pub name: String,
    /// The physical address of its registers.
    pub base_addr: usize,
    /// The number of its interrupt; 0 if it has none.
    pub irq: usize,
    /// What it is compatible with.
    pub compatible: String,
}

/// The slots for virtio-mmio devices in a device tree, whether there is something in them or not.
/// [`Disk::open`](crate::Disk::open) tells. Nodes that make no sense are left out, with a warning in the log.
///
/// # Errors
///
/// The tree is damaged.
///
/// ```
/// use virtio_blk_alien::probe_virtio;
///
/// assert!(probe_virtio(b"no device tree").is_err());
/// ```
pub fn probe_virtio(device_tree: &[u8]) -> Result<Vec<DeviceInfo>, DeviceTreeError> {
    let mut found = Vec::new();
    for node in DeviceTree::parse(device_tree)?.virtio_mmio() {
        match node {
            Ok(node) => match usize::try_from(node.region.address) {
                Ok(base_addr) => found.push(DeviceInfo {
                    name: node.name.into(),
                    base_addr,
                    irq: node.interrupt.and_then(|interrupt| interrupt.number()).unwrap_or(0) as usize,
                    compatible: "virtio,mmio".into(),
                }),
                Err(_) => log::warn!("{}: address {:#x} is beyond this machine", node.name, node.region.address),
            },
            Err(error) => log::warn!("{error}"),
        }
    }
    Ok(found)
}
