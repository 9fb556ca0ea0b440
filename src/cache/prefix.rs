//! The prefix tree: which full pages of tokens are in memory, so that a sequence that begins alike can use them.
//!
//! A node is one full page: its tokens under its parent's, matched exactly, and one page frame in every layer group. The
//! tree is one owner of those frames, each sequence that uses them another ([`PagePool`]). A sequence is *attached* to the
//! deepest node of its own beginning; what is above cannot go away, because it has children.
//!
//! Invariants ([`PrefixTree::check`]): a node without children, attachments and pins is in the list of what may be
//! evicted, ordered by last use; no other node is. Frames of a node have the tree as an owner exactly once.

use super::pages::{Page, PagePool};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// Index of a node.
pub type NodeId = u32;

/// The node every sequence begins at.
pub const ROOT: NodeId = 0;
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node {
    parent: NodeId,
    /// `page_tokens` tokens; empty for the root and for free nodes.
    tokens: Vec<u32>,
    /// A frame in each layer group.
    pages: Vec<Page>,
    children: u32,
    /// Sequences attached here.
    attached: u32,
    /// Pins and attachments keep a node alike; pins are counted apart for the statistics.
    pinned: u32,
    last_used: u64,
    hash: u64,
    /// Next node of the same hash.
    next_same: NodeId,
    /// Neighbours in the list of what may be evicted: older, younger.
    older: NodeId,
    younger: NodeId,
    listed: bool,
}

impl Node {
    fn new() -> Node {
        Node {
            parent: NONE,
            tokens: Vec::new(),
            pages: Vec::new(),
            children: 0,
            attached: 0,
            pinned: 0,
            last_used: 0,
            hash: 0,
            next_same: NONE,
            older: NONE,
            younger: NONE,
            listed: false,
        }
    }

    fn may_go(&self) -> bool {
        self.children == 0 && self.attached == 0 && self.pinned == 0
    }
}

/// Full pages by the tokens that lead to them.
#[derive(Debug)]
pub struct PrefixTree {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    /// First node of each hash.
    index: HashMap<u64, NodeId>,
    hasher: RandomState,
    page_tokens: usize,
    clock: u64,
    oldest: NodeId,
    youngest: NodeId,
    evictions: u64,
}

impl PrefixTree {
    /// An empty tree over pages of `page_tokens` tokens.
    pub fn new(page_tokens: usize) -> PrefixTree {
        PrefixTree {
            nodes: vec![Node::new()],
            free: Vec::new(),
            index: HashMap::new(),
            hasher: RandomState::new(),
            page_tokens,
            clock: 0,
            oldest: NONE,
            youngest: NONE,
            evictions: 0,
        }
    }

    /// Pages evicted so far, counted once for all layer groups.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    fn hash(&self, parent: NodeId, tokens: &[u32]) -> u64 {
        self.hasher.hash_one((parent, tokens))
    }

    fn child(&self, parent: NodeId, tokens: &[u32]) -> Option<NodeId> {
        let mut at = *self.index.get(&self.hash(parent, tokens))?;
        while at != NONE {
            let node = self.node(at);
            if node.parent == parent && node.tokens == tokens {
                return Some(at);
            }
            at = node.next_same;
        }
        None
    }

    /// Full pages at the beginning of `tokens` that are in the tree, at most `tokens_max` tokens of them: how many, and how
    /// many of these no sequence uses.
    pub fn matched(&self, tokens: &[u32], tokens_max: usize, pools: &[PagePool]) -> (usize, usize) {
        let (mut at, mut pages, mut unused) = (ROOT, 0, 0);
        for page in tokens.chunks_exact(self.page_tokens).take(tokens_max / self.page_tokens) {
            let Some(child) = self.child(at, page) else { break };
            at = child;
            pages += 1;
            // A node's frames are used alike in every group.
            unused += usize::from(pools[0].is_cached(self.node(at).pages[0]));
        }
        (pages, unused)
    }

    /// Shares the pages [`PrefixTree::matched`] counts into `tables` and attaches the sequence to the last of them.
    pub fn share(
        &mut self,
        tokens: &[u32],
        tokens_max: usize,
        tables: &mut [Vec<Page>],
        pools: &mut [PagePool],
    ) -> NodeId {
        let mut at = ROOT;
        for page in tokens.chunks_exact(self.page_tokens).take(tokens_max / self.page_tokens) {
            let Some(child) = self.child(at, page) else { break };
            at = child;
            for ((table, pool), &frame) in tables.iter_mut().zip(pools.iter_mut()).zip(&self.nodes[at as usize].pages) {
                pool.share(frame);
                table.push(frame);
            }
        }
        self.attach(at);
        at
    }

    /// Adds the page `tokens` under `parent`, to which the caller is attached, and moves the attachment to it. When the
    /// tree has that page already, `pages` are exchanged for the tree's and given back.
    pub fn insert(&mut self, parent: NodeId, tokens: &[u32], pages: &mut [Page], pools: &mut [PagePool]) -> NodeId {
        let id = match self.child(parent, tokens) {
            Some(existing) => {
                for ((mine, pool), &frame) in pages.iter_mut().zip(pools).zip(&self.nodes[existing as usize].pages) {
                    if *mine != frame {
                        pool.share(frame);
                        pool.release(*mine);
                        *mine = frame;
                    }
                }
                existing
            }
            None => self.add(parent, tokens, pages, pools),
        };
        self.attach(id);
        self.detach(parent);
        id
    }

    fn add(&mut self, parent: NodeId, tokens: &[u32], pages: &[Page], pools: &mut [PagePool]) -> NodeId {
        let hash = self.hash(parent, tokens);
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::new());
            (self.nodes.len() - 1) as NodeId
        });
        let next_same = self.index.insert(hash, id).unwrap_or(NONE);
        let node = self.node_mut(id);
        node.parent = parent;
        node.tokens.extend_from_slice(tokens);
        node.pages.extend_from_slice(pages);
        (node.hash, node.next_same) = (hash, next_same);
        pages.iter().zip(pools).for_each(|(&page, pool)| pool.cache(page));
        self.node_mut(parent).children += 1;
        id
    }

    /// A sequence uses `id` from now on.
    pub fn attach(&mut self, id: NodeId) {
        self.node_mut(id).attached += 1;
        self.unlist(id);
    }

    /// A sequence no longer uses `id`.
    pub fn detach(&mut self, id: NodeId) {
        self.clock += 1;
        let clock = self.clock;
        let node = self.node_mut(id);
        node.attached -= 1;
        node.last_used = clock;
        self.list(id);
    }

    /// Keeps `id` and what leads to it until [`PrefixTree::unpin`].
    pub fn pin(&mut self, id: NodeId) {
        self.node_mut(id).pinned += 1;
        self.unlist(id);
    }

    /// Takes one pin back.
    pub fn unpin(&mut self, id: NodeId) {
        self.node_mut(id).pinned -= 1;
        self.list(id);
    }

    /// The node above `id`; the root's is the root.
    pub fn parent(&self, id: NodeId) -> NodeId {
        if id == ROOT { ROOT } else { self.node(id).parent }
    }

    /// Gives the pages of the least recently used node back; false when every node is in use.
    pub fn evict(&mut self, pools: &mut [PagePool]) -> bool {
        let id = self.oldest;
        if id == NONE {
            return false;
        }
        self.unlist(id);
        self.unindex(id);
        self.evictions += 1;
        let node = self.node_mut(id);
        let parent = node.parent;
        node.tokens.clear();
        let mut pages = std::mem::take(&mut node.pages);
        pages.drain(..).zip(pools).for_each(|(page, pool)| pool.uncache(page));
        self.node_mut(id).pages = pages;
        self.free.push(id);
        self.node_mut(parent).children -= 1;
        self.list(parent);
        true
    }

    fn unindex(&mut self, id: NodeId) {
        let (hash, next) = (self.node(id).hash, self.node(id).next_same);
        let first = self.index[&hash];
        if first == id {
            if next == NONE {
                self.index.remove(&hash)
            } else {
                self.index.insert(hash, next)
            };
            return;
        }
        let mut at = first;
        while self.node(at).next_same != id {
            at = self.node(at).next_same;
        }
        self.node_mut(at).next_same = next;
    }

    /// Lists a node that may go, at its place by last use. A parent that became free was used about when its child was,
    /// so the walk from the old end is short; everything else belongs at the young end.
    fn list(&mut self, id: NodeId) {
        if id == ROOT || self.node(id).listed || !self.node(id).may_go() {
            return;
        }
        let used = self.node(id).last_used;
        let mut older = self.youngest;
        if older != NONE && self.node(older).last_used > used {
            older = NONE;
            let mut next = self.oldest;
            while next != NONE && self.node(next).last_used <= used {
                older = next;
                next = self.node(next).younger;
            }
        }
        let younger = if older == NONE { self.oldest } else { self.node(older).younger };
        let node = self.node_mut(id);
        (node.older, node.younger, node.listed) = (older, younger, true);
        if older == NONE {
            self.oldest = id
        } else {
            self.node_mut(older).younger = id
        }
        if younger == NONE { self.youngest = id } else { self.node_mut(younger).older = id }
    }

    fn unlist(&mut self, id: NodeId) {
        if !self.node(id).listed {
            return;
        }
        let (older, younger) = (self.node(id).older, self.node(id).younger);
        if older == NONE {
            self.oldest = younger
        } else {
            self.node_mut(older).younger = younger
        }
        if younger == NONE {
            self.youngest = older
        } else {
            self.node_mut(younger).older = older
        }
        let node = self.node_mut(id);
        (node.older, node.younger, node.listed) = (NONE, NONE, false);
    }

    /// Frames the tree owns in a layer group.
    pub fn pages(&self, group: usize) -> impl Iterator<Item = Page> {
        self.nodes.iter().filter_map(move |n| n.pages.get(group).copied())
    }

    /// Proves that exactly these nodes are pinned, each as often as it is named.
    pub fn check_pins(&self, pins: impl Iterator<Item = NodeId>) -> Result<(), String> {
        let mut pinned = vec![0u32; self.nodes.len()];
        pins.for_each(|id| pinned[id as usize] += 1);
        let differs = self.nodes.iter().zip(&pinned).position(|(node, &pins)| node.pinned != pins);
        differs.map_or(Ok(()), |id| {
            Err(format!("node {id} counts {} pins, there are {}", self.nodes[id].pinned, pinned[id]))
        })
    }

    /// Proves the invariants, given the sequences' attachments.
    pub fn check(&self, attachments: impl Iterator<Item = NodeId>) -> Result<(), String> {
        let mut attached = vec![0u32; self.nodes.len()];
        let mut children = vec![0u32; self.nodes.len()];
        attachments.for_each(|id| attached[id as usize] += 1);
        let alive = |id: usize| id == 0 || !self.nodes[id].tokens.is_empty();
        for (id, node) in self.nodes.iter().enumerate().filter(|(id, _)| *id != 0 && alive(*id)) {
            children[node.parent as usize] += 1;
            if !alive(node.parent as usize) || self.child(node.parent, &node.tokens) != Some(id as NodeId) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn page(pools: &mut [PagePool]) -> Vec<Page> {
        pools.iter_mut().map(|p| p.alloc().unwrap()).collect()
    }

    /// Computes `tokens` (whole pages) as a sequence would and leaves.
    fn visit(tree: &mut PrefixTree, pools: &mut [PagePool], tokens: &[u32]) -> usize {
        let mut tables = vec![Vec::new(); pools.len()];
        let mut at = tree.share(tokens, tokens.len(), &mut tables, pools);
        let hit = tables[0].len();
        for chunk in tokens.chunks_exact(2).skip(hit) {
            let mut pages = page(pools);
            at = tree.insert(at, chunk, &mut pages, pools);
            tables.iter_mut().zip(&pages).for_each(|(t, &p)| t.push(p));
        }
        tree.check([at].into_iter()).unwrap();
        tree.detach(at);
        tables.iter().zip(pools.iter_mut()).for_each(|(t, pool)| t.iter().for_each(|&p| pool.release(p)));
        tree.check(std::iter::empty()).unwrap();
        hit
    }

    #[test]
    fn shares_what_is_equal_and_evicts_the_oldest_leaf() {
        let mut pools = [PagePool::new(8), PagePool::new(8)];
        let mut tree = PrefixTree::new(2);
        assert_eq!(visit(&mut tree, &mut pools, &[1, 2, 3, 4]), 0);
        assert_eq!(visit(&mut tree, &mut pools, &[1, 2, 3, 4, 5, 6]), 2);
        assert_eq!(visit(&mut tree, &mut pools, &[1, 2, 9, 9]), 1);
        assert_eq!(visit(&mut tree, &mut pools, &[3, 4]), 0, "the same tokens under another parent are another page");
        let matched = |tree: &PrefixTree, max| tree.matched(&[1, 2, 3, 4, 5, 6], max, &pools).0;
        assert_eq!((matched(&tree, 6), matched(&tree, 5)), (3, 2));
        assert_eq!(pools.each_ref().map(|p| (p.free(), p.cached())), [(3, 5); 2]);
        assert!(tree.evict(&mut pools));
        assert_eq!(
            tree.matched(&[1, 2, 3, 4, 5, 6], 6, &pools),
            (2, 2),
            "the deepest page of the oldest visit went first"
        );
        while tree.evict(&mut pools) {
            tree.check(std::iter::empty()).unwrap();
        }
        assert_eq!(pools.each_ref().map(|p| (p.free(), p.cached())), [(8, 0); 2]);
    }

    #[test]
    fn two_that_computed_the_same_page_end_with_one() {
        let mut pools = [PagePool::new(4)];
        let mut tree = PrefixTree::new(2);
        let (mut a, mut b) = (page(&mut pools), page(&mut pools));
        (0..2).for_each(|_| tree.attach(ROOT));
        let first = tree.insert(ROOT, &[7, 7], &mut a, &mut pools);
        let second = tree.insert(ROOT, &[7, 7], &mut b, &mut pools);
        assert_eq!((first, a.clone()), (second, b));
        assert_eq!(pools[0].free(), 3);
        tree.check([first, second].into_iter()).unwrap();
        assert!(!tree.evict(&mut pools), "it is in use");
        tree.pin(first);
        (0..2).for_each(|_| tree.detach(first));
        assert!(!tree.evict(&mut pools), "it is pinned");
        tree.unpin(first);
        (0..2).for_each(|_| pools[0].release(a[0]));
        assert!(tree.evict(&mut pools));
        assert_eq!(pools[0].free(), 4);
    }
}
