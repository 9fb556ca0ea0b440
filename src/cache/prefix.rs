//! The prefix tree: which full pages of tokens are in memory, so that a sequence that begins alike can use them.
//!
//! A node is one full page: its tokens under its parent's, matched exactly, and one page frame in every layer group. The
//! tree is one owner of those frames, each sequence that uses them another ([`PagePool`]). A sequence is *attached* to the
//! deepest node of its own beginning; what is above cannot go away, because it has children.
//!
//! Invariants ([`PrefixTree::check`]): a node without children, attachments and pins is in the list of what may be
//! evicted, ordered by last use; no other node is. Frames of a node have the tree as an owner exactly once.
//!
//! Pages are found by a hash of their tokens and all before them ([`PrefixTree::extend`]). What a sequence is given is compared
//! token by token; for how much it would be given ([`PrefixTree::reach`]) the hashes suffice, so that asking costs the same
//! for short and for long sequences.
//!
//! All memory is reserved by [`PrefixTree::new`]: a step allocates nothing here.

use super::pages::{Page, PagePool};
use crate::error::{Error, Result};
use std::hash::{BuildHasher, RandomState};

/// Index of a node.
pub type NodeId = u32;

/// The node every sequence begins at.
pub const ROOT: NodeId = 0;
const NONE: u32 = u32::MAX;

#[derive(Debug, Default)]
struct Node {
    parent: NodeId,
    /// It is the root or holds a page.
    alive: bool,
    children: u32,
    /// Sequences attached here.
    attached: u32,
    /// Pins and attachments keep a node alike; pins are counted apart because [`PrefixTree::check_pins`] compares them with
    /// their owners.
    pinned: u32,
    last_used: u64,
    /// Pages from the root's child to here; the root has none above it.
    depth: u32,
    /// Sequences and pins that were given its page since it is in the tree.
    hits: u32,
    /// Of its tokens and all above.
    hash: u64,
    /// Next node of the same bucket.
    next_same: NodeId,
    /// Neighbours in the list of what may be evicted: older, younger.
    older: NodeId,
    younger: NodeId,
    listed: bool,
}

impl Node {
    fn new() -> Node {
        Node { parent: NONE, next_same: NONE, older: NONE, younger: NONE, ..Node::default() }
    }

    fn may_go(&self) -> bool {
        self.children == 0 && self.attached == 0 && self.pinned == 0
    }
}

/// A node as it looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeView<'a> {
    /// Its index.
    pub id: NodeId,
    /// The node above it.
    pub parent: NodeId,
    /// Pages on the way to it, its own included.
    pub depth: usize,
    /// Sequences and pins that were given its page.
    pub hits: u32,
    /// The tokens of its page.
    pub tokens: &'a [u32],
    /// Its frame in each layer group.
    pub frames: &'a [Page],
}

/// Full pages by the tokens that lead to them.
#[derive(Debug)]
pub struct PrefixTree {
    nodes: Vec<Node>,
    /// `[nodes][page_tokens]`: the tokens of each node's page.
    tokens: Vec<u32>,
    /// `[nodes][groups]`: its frame in each layer group.
    frames: Vec<Page>,
    free: Vec<NodeId>,
    /// First node of each bucket of hashes; a power of two of them.
    buckets: Vec<NodeId>,
    hasher: RandomState,
    page_tokens: usize,
    groups: usize,
    clock: u64,
    oldest: NodeId,
    youngest: NodeId,
    evictions: u64,
    /// Counts additions and evictions.
    version: u64,
    /// Searches so far.
    #[cfg(test)]
    pub looks: std::cell::Cell<u64>,
}

impl PrefixTree {
    /// An empty tree over pages of `page_tokens` tokens with a frame in each of `groups` layer groups, of which there are
    /// `frames` at most.
    ///
    /// # Errors
    /// `Memory` when the room for that many pages cannot be had.
    pub fn new(page_tokens: usize, groups: usize, frames: usize) -> Result<PrefixTree> {
        let nodes = frames + 1;
        let bytes = nodes.saturating_mul(size_of::<Node>() + 4 * (page_tokens + groups + 3));
        let full = |_| Error::memory("the prefix tree", bytes as u64);
        let mut tree = PrefixTree {
            nodes: Vec::new(),
            tokens: Vec::new(),
            frames: Vec::new(),
            free: Vec::new(),
            buckets: Vec::new(),
            hasher: RandomState::new(),
            page_tokens,
            groups,
            clock: 0,
            oldest: NONE,
            youngest: NONE,
            evictions: 0,
            version: 0,
            #[cfg(test)]
            looks: std::cell::Cell::new(0),
        };
        tree.nodes.try_reserve_exact(nodes).map_err(full)?;
        tree.tokens.try_reserve_exact(nodes.saturating_mul(page_tokens)).map_err(full)?;
        tree.frames.try_reserve_exact(nodes.saturating_mul(groups)).map_err(full)?;
        tree.free.try_reserve_exact(nodes).map_err(full)?;
        let buckets = nodes.next_power_of_two();
        tree.buckets.try_reserve_exact(buckets).map_err(full)?;
        tree.buckets.resize(buckets, NONE);
        tree.new_node();
        Ok(tree)
    }

    /// A node with room for its tokens and frames, alive.
    fn new_node(&mut self) -> NodeId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::new());
            self.tokens.resize(self.nodes.len() * self.page_tokens, 0);
            self.frames.resize(self.nodes.len() * self.groups, 0);
            (self.nodes.len() - 1) as NodeId
        });
        self.node_mut(id).alive = true;
        id
    }

    /// Pages evicted so far, counted once for all layer groups.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// A number that changes whenever [`PrefixTree::matched`] may have another answer.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    /// The tokens of a node's page.
    fn tokens_of(&self, id: NodeId) -> &[u32] {
        &self.tokens[id as usize * self.page_tokens..][..self.page_tokens]
    }

    /// A node's frame in each layer group.
    fn frames_of(&self, id: NodeId) -> &[Page] {
        &self.frames[id as usize * self.groups..][..self.groups]
    }

    /// Hash of a page that follows a node.
    fn hash(&self, parent: NodeId, tokens: &[u32]) -> u64 {
        self.hasher.hash_one((self.node(parent).hash, tokens))
    }

    /// Appends to `chain`, which has a hash for each page from the first on, those of the whole pages of `tokens` that it lacks.
    pub fn extend(&self, chain: &mut Vec<u64>, tokens: &[u32]) {
        for page in tokens.chunks_exact(self.page_tokens).skip(chain.len()) {
            let above = chain.last().map_or(self.node(ROOT).hash, |&hash| hash);
            chain.push(self.hasher.hash_one((above, page)));
        }
    }

    /// The node of a page with this hash.
    fn find(&self, hash: u64) -> Option<NodeId> {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
        self.in_bucket(hash).find(|&at| self.node(at).hash == hash)
    }

    /// Of a sequence's pages, by the hashes [`PrefixTree::extend`] gives, how many from the first on are in the tree. `guess` is
    /// an answer that may be near. What is above a page that is there is there too, so few have to be looked for.
    pub fn reach(&self, chain: &[u64], guess: usize) -> usize {
        let is_there = |pages: usize| pages == 0 || chain.get(pages - 1).is_some_and(|&hash| self.find(hash).is_some());
        let guess = guess.min(chain.len());
        // `there` pages are, `missing` are not.
        let (mut there, mut missing, mut stride) = (0, chain.len() + 1, 1);
        if is_there(guess) {
            there = guess;
            while there + stride < missing {
                if is_there(there + stride) {
                    there += stride;
                    stride *= 2;
                } else {
                    missing = there + stride;
                }
            }
        } else {
            missing = guess;
            while missing - there > stride {
                if is_there(missing - stride) {
                    there = missing - stride;
                } else {
                    missing -= stride;
                    stride *= 2;
                }
            }
        }
        while missing - there > 1 {
            let middle = there + (missing - there) / 2;
            if is_there(middle) { there = middle } else { missing = middle }
        }
        there
    }

    /// Of the first pages of a sequence, all of them in the tree, how many no sequence uses: whoever uses one uses all above.
    pub fn unused(&self, chain: &[u64], pools: &[PagePool]) -> usize {
        let is_used = |&hash: &u64| match self.find(hash) {
            // A node's frames are used alike in every group.
            Some(node) => !pools[0].is_cached(self.frames_of(node)[0]),
            None => false,
        };
        chain.len() - chain.partition_point(is_used)
    }

    /// The nodes of a hash's bucket.
    fn in_bucket(&self, hash: u64) -> impl Iterator<Item = NodeId> {
        let there = |id: NodeId| (id != NONE).then_some(id);
        let first = self.buckets[hash as usize & (self.buckets.len() - 1)];
        std::iter::successors(there(first), move |&at| there(self.node(at).next_same))
    }

    fn bucket(&mut self, hash: u64) -> &mut NodeId {
        let mask = self.buckets.len() - 1;
        &mut self.buckets[hash as usize & mask]
    }

    fn child(&self, parent: NodeId, tokens: &[u32]) -> Option<NodeId> {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
        let hash = self.hash(parent, tokens);
        self.in_bucket(hash).find(|&at| {
            let node = self.node(at);
            node.hash == hash && node.parent == parent && self.tokens_of(at) == tokens
        })
    }

    /// The nodes of the full pages at the beginning of `tokens`, from the root's child down, as far as they are in the tree.
    fn walk(&self, tokens: &[u32], tokens_max: usize) -> impl Iterator<Item = NodeId> {
        let pages = tokens.chunks_exact(self.page_tokens).take(tokens_max / self.page_tokens);
        pages.scan(ROOT, |at, page| {
            *at = self.child(*at, page)?;
            Some(*at)
        })
    }

    /// Full pages at the beginning of `tokens` that are in the tree, at most `tokens_max` tokens of them: how many, and how
    /// many of these no sequence uses.
    pub fn matched(&self, tokens: &[u32], tokens_max: usize, pools: &[PagePool]) -> (usize, usize) {
        self.walk(tokens, tokens_max).fold((0, 0), |(pages, unused), at| {
            // A node's frames are used alike in every group.
            (pages + 1, unused + usize::from(pools[0].is_cached(self.frames_of(at)[0])))
        })
    }

    /// Shares the pages [`PrefixTree::matched`] counts into `tables` and attaches the sequence to the last of them.
    pub fn share(
        &mut self,
        tokens: &[u32],
        tokens_max: usize,
        tables: &mut [Vec<Page>],
        pools: &mut [PagePool],
    ) -> NodeId {
        let mut last = ROOT;
        let pages = tokens.chunks_exact(self.page_tokens).take(tokens_max / self.page_tokens);
        for page in pages {
            let Some(at) = self.child(last, page) else { break };
            last = at;
            self.node_mut(at).hits = self.node(at).hits.saturating_add(1);
            for ((table, pool), &frame) in tables.iter_mut().zip(pools.iter_mut()).zip(self.frames_of(at)) {
                pool.share(frame);
                table.push(frame);
            }
        }
        self.attach(last);
        last
    }

    /// Adds the page `tokens` under `parent`, to which the caller is attached, and moves the attachment to it. When the
    /// tree has that page already, `pages` are exchanged for the tree's and given back.
    pub fn insert(&mut self, parent: NodeId, tokens: &[u32], pages: &mut [Page], pools: &mut [PagePool]) -> NodeId {
        let id = match self.child(parent, tokens) {
            Some(existing) => {
                for ((mine, pool), &frame) in pages.iter_mut().zip(pools).zip(self.frames_of(existing)) {
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
        self.version += 1;
        let hash = self.hash(parent, tokens);
        let id = self.new_node();
        let depth = self.node(parent).depth + 1;
        let next_same = std::mem::replace(self.bucket(hash), id);
        self.tokens[id as usize * self.page_tokens..][..self.page_tokens].copy_from_slice(tokens);
        self.frames[id as usize * self.groups..][..self.groups].copy_from_slice(pages);
        let node = self.node_mut(id);
        (node.parent, node.hash, node.next_same) = (parent, hash, next_same);
        (node.depth, node.hits) = (depth, 0);
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
        self.version += 1;
        let node = self.node_mut(id);
        node.alive = false;
        let parent = node.parent;
        self.frames_of(id).iter().zip(pools).for_each(|(&page, pool)| pool.uncache(page));
        self.free.push(id);
        self.node_mut(parent).children -= 1;
        self.list(parent);
        true
    }

    fn unindex(&mut self, id: NodeId) {
        let (hash, next) = (self.node(id).hash, self.node(id).next_same);
        let mut at = *self.bucket(hash);
        if at == id {
            *self.bucket(hash) = next;
            return;
        }
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
        self.join(older, id);
        self.join(id, younger);
        self.node_mut(id).listed = true;
    }

    /// Makes two nodes neighbours in the list; `NONE` is beyond its ends.
    fn join(&mut self, older: NodeId, younger: NodeId) {
        *(if older == NONE { &mut self.oldest } else { &mut self.node_mut(older).younger }) = younger;
        *(if younger == NONE { &mut self.youngest } else { &mut self.node_mut(younger).older }) = older;
    }

    fn unlist(&mut self, id: NodeId) {
        if !self.node(id).listed {
            return;
        }
        let (older, younger) = (self.node(id).older, self.node(id).younger);
        self.join(older, younger);
        let node = self.node_mut(id);
        (node.older, node.younger, node.listed) = (NONE, NONE, false);
    }

    /// Frames the tree owns in a layer group.
    pub fn pages(&self, group: usize) -> impl Iterator<Item = Page> {
        let pages = (1..self.nodes.len()).filter(|&id| self.nodes[id].alive);
        pages.map(move |id| self.frames[id * self.groups + group])
    }

    /// All nodes but the root.
    pub fn views(&self) -> impl Iterator<Item = NodeView<'_>> {
        let alive = self.nodes.iter().enumerate().skip(1).filter(|(_, node)| node.alive);
        alive.map(|(id, node)| NodeView {
            id: id as NodeId,
            parent: node.parent,
            depth: node.depth as usize,
            hits: node.hits,
            tokens: self.tokens_of(id as NodeId),
            frames: self.frames_of(id as NodeId),
        })
    }

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
        let mut pools = [PagePool::new(8).unwrap(), PagePool::new(8).unwrap()];
        let mut tree = PrefixTree::new(2, 2, 8).unwrap();
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
        let mut pools = [PagePool::new(4).unwrap()];
        let mut tree = PrefixTree::new(2, 1, 4).unwrap();
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
