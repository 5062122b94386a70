//! The slots for virtio devices behind memory-mapped registers.

use virtio_spec::mmio::COMPATIBLE;

use super::{DeviceTree, InterruptSpecifier, NodeError, Region, walk::Walk};

/// The `virtio,mmio` nodes of a tree. See [`DeviceTree::virtio_mmio`].
#[derive(Clone, Debug)]
pub struct MmioNodes<'a> {
    walk: Walk<'a>,
}

impl<'a> MmioNodes<'a> {
    pub(super) fn new(tree: DeviceTree<'a>) -> Self {
        Self { walk: Walk::new(tree) }
    }
}

impl<'a> Iterator for MmioNodes<'a> {
    type Item = Result<MmioNode<'a>, NodeError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.walk.find(|tree, node, own, ancestors| {
            if !node.is_compatible(COMPATIBLE) {
                return None;
            }
            let found = node.region(ancestors).and_then(|region| {
                let interrupt = node.interrupt(tree, own, ancestors)?;
                Ok(MmioNode { name: node.name, region, interrupt })
            });
            Some(found.map_err(|problem| NodeError { name: node.name, problem }))
        })
    }
}

/// A slot for a virtio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioNode<'a> {
    /// The name of the node, such as `virtio_mmio@10001000`.
    pub name: &'a str,
    /// Where its registers are.
    pub region: Region,
    /// Its interrupt. `None` when the tree says none.
    pub interrupt: Option<InterruptSpecifier>,
}
