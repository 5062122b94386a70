//! A walk over the nodes of a tree.

use super::{
    DeviceTree,
    node::Node,
    path::{Bus, Path},
    tokens::{Token, Tokens},
};

/// Visits every node once, in the tree's order.
#[derive(Clone, Debug)]
pub(super) struct Walk<'a> {
    tokens: Tokens<'a>,
    path: Path<'a>,
    /// The node whose properties are being read; `None` after its first child.
    node: Option<Node<'a>>,
}

impl<'a> Walk<'a> {
    /// Before the root.
    pub(super) fn new(tree: DeviceTree<'a>) -> Self {
        Self { tokens: Tokens::new(tree), path: Path::new(), node: None }
    }

    /// Goes on to the next node that is in use and of which `pick` makes something. `pick` is given the node, what it
    /// says as a bus, and the nodes above it, the root first.
    pub(super) fn find<T>(
        &mut self,
        mut pick: impl FnMut(&DeviceTree<'a>, &Node<'a>, &Bus<'a>, &[Bus<'a>]) -> Option<T>,
    ) -> Option<T> {
        loop {
            // The tree was checked when it was parsed: neither errors nor other depths are left.
            let found = match self.tokens.next().ok()? {
                Token::Property { name, value } => {
                    if let (Some(node), Some(bus)) = (&mut self.node, self.path.current_mut()) {
                        node.read(bus, name, value);
                    }
                    None
                }
                Token::BeginNode(name) => {
                    let found = self.complete(&mut pick);
                    self.path.push()?;
                    self.node = Some(Node::new(name));
                    found
                }
                Token::EndNode => {
                    let found = self.complete(&mut pick);
                    self.path.pop();
                    found
                }
                Token::End => return None,
            };
            if found.is_some() {
                return found;
            }
        }
    }

    /// What is made of the node whose properties were read.
    fn complete<T>(
        &mut self,
        pick: &mut impl FnMut(&DeviceTree<'a>, &Node<'a>, &Bus<'a>, &[Bus<'a>]) -> Option<T>,
    ) -> Option<T> {
        let node = self.node.take()?;
        let (own, ancestors) = self.path.current()?;
        if own.in_use { pick(&self.tokens.tree, &node, own, ancestors) } else { None }
    }
}
