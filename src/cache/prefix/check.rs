//! The proof of the tree's invariants.

use super::{NONE, NodeId, PrefixTree};

impl PrefixTree {
    /// Proves that exactly these nodes are pinned, each as often as it is named.
    pub fn check_pins(&self, pins: impl Iterator<Item = NodeId>) -> std::result::Result<(), String> {
        let mut pinned = vec![0u32; self.nodes.len()];
        pins.for_each(|id| pinned[id as usize] += 1);
        let differs = self.nodes.iter().zip(&pinned).position(|(node, &pins)| node.pinned != pins);
        differs.map_or(Ok(()), |id| {
            Err(format!("node {id} counts {} pins, there are {}", self.nodes[id].pinned, pinned[id]))
        })
    }

    /// Proves the invariants, given the sequences' attachments.
    pub fn check(&self, attachments: impl Iterator<Item = NodeId>) -> std::result::Result<(), String> {
        let mut attached = vec![0u32; self.nodes.len()];
        let mut children = vec![0u32; self.nodes.len()];
        attachments.for_each(|id| attached[id as usize] += 1);
        let alive = |id: usize| self.nodes[id].alive;
        for (id, node) in self.nodes.iter().enumerate().filter(|(id, _)| *id != 0 && alive(*id)) {
            children[node.parent as usize] += 1;
            if !alive(node.parent as usize)
                || self.child(node.parent, self.tokens_of(id as NodeId)) != Some(id as NodeId)
            {
                return Err(format!("node {id} cannot be found from its parent {}", node.parent));
            }
        }
        let mut listed = 0;
        for (id, node) in self.nodes.iter().enumerate().filter(|(id, _)| alive(*id)) {
            if (node.attached, node.children) != (attached[id], children[id]) {
                return Err(format!(
                    "node {id} counts {} users and {} children, there are {} and {}",
                    node.attached, node.children, attached[id], children[id]
                ));
            }
            if id != 0 && node.listed != node.may_go() {
                return Err(format!("node {id} is listed: {}, may go: {}", node.listed, node.may_go()));
            }
            listed += node.listed as usize;
        }
        let (mut at, mut last, mut walked) = (self.oldest, 0, 0);
        while at != NONE {
            if self.node(at).last_used < last {
                return Err(format!("node {at} is out of order"));
            }
            last = self.node(at).last_used;
            walked += 1;
            at = self.node(at).younger;
        }
        if walked != listed { Err(format!("{listed} nodes are listed, the list has {walked}")) } else { Ok(()) }
    }
}
