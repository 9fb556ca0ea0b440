//! The prefix tree: which full pages of tokens are in memory, so that a sequence that begins alike can use them.
//!
//! A node is one full page: its tokens under its parent's, matched exactly, and its page frames in the layer groups. The
//! tree is one owner of those frames, each sequence that uses them another ([`PagePool`]). A sequence is *attached* to the
//! deepest node of its own beginning; what is above cannot go away, because it has children.
//!
//! Of a layer group of which a sequence needs only the end ([`Keep`]), a node may lack its frame: it was never kept, or was
//! given up alone ([`PrefixTree::evict_frame`]). A beginning is *usable* when its last pages have what the next token needs
//! ([`PrefixTree::usable`]).
//!
//! Invariants ([`PrefixTree::check`]): a node without children, attachments and pins is in the list of what may be
//! evicted, ordered by last use; no other node is. Frames of a node have the tree as an owner exactly once.
//!
//! Pages are found by a hash of their tokens and all before them ([`PrefixTree::extend`]). What a sequence is given is compared
//! token by token; for how much it would be given ([`PrefixTree::reach`]) the hashes suffice, so that asking costs the same
//! for short and for long sequences.
//!
//! All memory is reserved by [`PrefixTree::new`]: a step allocates nothing here.

mod check;

use super::keep::Keep;
use super::pages::{NO_FRAME, Page, PagePool};
use crate::error::{Error, Result, copied};
use crate::limits;
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
    /// Its frame in each layer group, or [`NO_FRAME`].
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
    /// What is needed of each layer group.
    keeps: Vec<Keep>,
    nodes_max: usize,
    clock: u64,
    oldest: NodeId,
    youngest: NodeId,
    /// Frames given up.
    evictions: u64,
    /// Counts additions and evictions.
    version: u64,
    /// Searches so far.
    #[cfg(test)]
    pub looks: std::cell::Cell<u64>,
}

impl PrefixTree {
    /// An empty tree over pages of `page_tokens` tokens of layer groups that keep so much. It has at most `pages` pages, which are
    /// more than those that sequences and pins use at one time.
    ///
    /// # Errors
    /// `Memory` when the room for that many pages cannot be had.
    pub fn new(page_tokens: usize, keeps: &[Keep], pages: usize) -> Result<PrefixTree> {
        let (nodes, groups) = (pages + 1, keeps.len());
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
            keeps: copied("layer groups", keeps)?,
            nodes_max: nodes,
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
            self.frames.resize(self.nodes.len() * self.groups(), 0);
            (self.nodes.len() - 1) as NodeId
        });
        self.node_mut(id).alive = true;
        id
    }

    fn groups(&self) -> usize {
        self.keeps.len()
    }

    /// Frames evicted so far, of all layer groups.
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
        &self.frames[id as usize * self.groups()..][..self.groups()]
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
        let is_used = |&hash: &u64| self.find(hash).is_some_and(|node| !self.is_cached(node, pools));
        chain.len() - chain.partition_point(is_used)
    }

    /// Whether no sequence uses a node's page. Its frames are used alike in every group that keeps all pages.
    fn is_cached(&self, id: NodeId, pools: &[PagePool]) -> bool {
        let whole = self.keeps.iter().position(|keep| *keep == Keep::All);
        whole.is_some_and(|group| pools[group].is_cached(self.frames_of(id)[group]))
    }

    /// Of the first `pages` pages of a sequence, all of them in the tree, by the hashes of its chain: how many can be used.
    pub fn usable(&self, chain: &[u64], pages: usize) -> usize {
        if self.keeps_all() {
            return pages;
        }
        let last = pages.checked_sub(1).and_then(|last| self.find(*chain.get(last)?));
        self.usable_to(last.unwrap_or(ROOT))
    }

    /// Whether every group keeps all pages.
    fn keeps_all(&self) -> bool {
        self.keeps.iter().all(|keep| *keep == Keep::All)
    }

    /// How many pages on the way to a node can be used: the longest beginning whose last pages have their frames. Looked for in so
    /// many pages at most that asking costs little; what lies before those is not found.
    fn usable_to(&self, deepest: NodeId) -> usize {
        let (mut end, mut looks) = (deepest, 0);
        // Each turn looks at the pages that a beginning needs; the first that lacks its frame ends the next one.
        'shorter: loop {
            let depth = self.node(end).depth as usize;
            for (group, keep) in self.keeps.iter().enumerate().filter(|(_, keep)| **keep != Keep::All) {
                let first = keep.first_needed(depth * self.page_tokens, self.page_tokens);
                let mut at = end;
                for _ in first..depth {
                    looks += 1;
                    if looks > limits::USABLE_PAGES_LOOKED_AT_MAX {
                        return 0;
                    }
                    if self.frames_of(at)[group] == NO_FRAME {
                        end = self.node(at).parent;
                        continue 'shorter;
                    }
                    at = self.node(at).parent;
                }
            }
            return depth;
        }
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

    /// Full pages at the beginning of `tokens` that are in the tree and can be used, at most `tokens_max` tokens of them: how
    /// many, and how many of these no sequence uses.
    pub fn matched(&self, tokens: &[u32], tokens_max: usize, pools: &[PagePool]) -> (usize, usize) {
        let deepest = self.walk(tokens, tokens_max).last().unwrap_or(ROOT);
        let usable = self.usable_to(deepest);
        let unused = self.walk(tokens, tokens_max).take(usable).filter(|&at| self.is_cached(at, pools)).count();
        (usable, unused)
    }

    /// Full pages at the beginning of `tokens` that are in the tree, whether they can be used or not; 0 where all can.
    pub fn present_beyond_usable(&self, tokens: &[u32], tokens_max: usize) -> usize {
        if self.keeps_all() { 0 } else { self.walk(tokens, tokens_max).count() }
    }

    /// Pages on the way to a node.
    pub fn depth(&self, id: NodeId) -> usize {
        self.node(id).depth as usize
    }

    /// Shares the pages [`PrefixTree::matched`] counts into `tables` and attaches the sequence to the last of them. Of a group of
    /// which only the end is needed, only that is shared; the table has [`NO_FRAME`] before it.
    pub fn share(
        &mut self,
        tokens: &[u32],
        tokens_max: usize,
        tables: &mut [Vec<Page>],
        pools: &mut [PagePool],
    ) -> NodeId {
        let pages = match self.keeps_all() {
            true => tokens_max / self.page_tokens,
            false => self.usable_to(self.walk(tokens, tokens_max).last().unwrap_or(ROOT)),
        };
        let mut last = ROOT;
        for (index, page) in tokens.chunks_exact(self.page_tokens).take(pages).enumerate() {
            let Some(at) = self.child(last, page) else { break };
            last = at;
            self.node_mut(at).hits = self.node(at).hits.saturating_add(1);
            let own = self.keeps.iter().zip(self.frames_of(at));
            for ((table, pool), (keep, &frame)) in tables.iter_mut().zip(pools.iter_mut()).zip(own) {
                match index >= keep.first_needed(pages * self.page_tokens, self.page_tokens) {
                    true => {
                        pool.share(frame);
                        table.push(frame);
                    }
                    false => table.push(NO_FRAME),
                }
            }
        }
        self.attach(last);
        last
    }

    /// Adds the page `tokens` under `parent`, to which the caller is attached, and moves the attachment to it. When the
    /// tree has that page already, `pages` are exchanged for the tree's and given back; a frame that the tree lacks is taken.
    pub fn insert(&mut self, parent: NodeId, tokens: &[u32], pages: &mut [Page], pools: &mut [PagePool]) -> NodeId {
        let id = match self.child(parent, tokens) {
            Some(existing) => {
                let own = self.frames.iter_mut().skip(existing as usize * self.keeps.len());
                for ((mine, pool), frame) in pages.iter_mut().zip(pools).zip(own) {
                    match (*mine, *frame) {
                        (NO_FRAME, _) => {}
                        (_, NO_FRAME) => {
                            pool.cache(*mine, existing);
                            *frame = *mine;
                            self.version += 1;
                        }
                        (one, other) if one != other => {
                            pool.share(other);
                            pool.release(one);
                            *mine = other;
                        }
                        _ => {}
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
        if self.free.is_empty() && self.nodes.len() == self.nodes_max {
            // Only where no group keeps all pages: there are more places than pages in use.
            assert!(self.evict(pools), "all pages of the tree are in use");
        }
        self.version += 1;
        let hash = self.hash(parent, tokens);
        let id = self.new_node();
        let depth = self.node(parent).depth + 1;
        let next_same = std::mem::replace(self.bucket(hash), id);
        self.tokens[id as usize * self.page_tokens..][..self.page_tokens].copy_from_slice(tokens);
        let groups = self.groups();
        self.frames[id as usize * groups..][..groups].copy_from_slice(pages);
        let node = self.node_mut(id);
        (node.parent, node.hash, node.next_same) = (parent, hash, next_same);
        (node.depth, node.hits) = (depth, 0);
        let kept = pages.iter().zip(pools).filter(|(page, _)| **page != NO_FRAME);
        kept.for_each(|(&page, pool)| pool.cache(page, id));
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
        self.version += 1;
        let node = self.node_mut(id);
        node.alive = false;
        let parent = node.parent;
        let kept = self.frames_of(id).iter().zip(pools).filter(|(page, _)| **page != NO_FRAME);
        self.evictions += kept.map(|(&page, pool)| pool.uncache(page)).count() as u64;
        self.free.push(id);
        self.node_mut(parent).children -= 1;
        self.list(parent);
        true
    }

    /// Gives back the frame of a layer group that was used longest ago and that no sequence uses: with its node, or of a group
    /// of which only the end is needed alone. False when there is none.
    pub fn evict_frame(&mut self, group: usize, pools: &mut [PagePool]) -> bool {
        if self.keeps[group] == Keep::All {
            return self.evict(pools);
        }
        let Some((_, node)) = pools[group].oldest_cached() else { return false };
        self.forget(node, group, pools);
        true
    }

    /// Gives up a node's frame of one layer group.
    pub fn forget(&mut self, id: NodeId, group: usize, pools: &mut [PagePool]) {
        let at = id as usize * self.groups() + group;
        let frame = std::mem::replace(&mut self.frames[at], NO_FRAME);
        if frame != NO_FRAME {
            pools[group].uncache(frame);
            (self.evictions, self.version) = (self.evictions + 1, self.version + 1);
        }
    }

    /// Whether a node's frame of a layer group is of use to nobody but those who begin with exactly its pages: no sequence uses
    /// it, and the tree goes on in one direction at most.
    pub fn is_passed(&self, id: NodeId, group: usize, pools: &[PagePool]) -> bool {
        let (node, frame) = (self.node(id), self.frames_of(id)[group]);
        id != ROOT && node.children < 2 && node.pinned == 0 && frame != NO_FRAME && pools[group].is_cached(frame)
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
        pages.map(move |id| self.frames[id * self.groups() + group]).filter(|&page| page != NO_FRAME)
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
}

#[cfg(test)]
mod tests;
