//! Pinned prefixes: whole pages of tokens that stay in the prefix tree until they are unpinned.
//!
//! A pin whose pages are not there yet is computed by a sequence of its own, which is queued, admitted, preempted and
//! cancelled like any other; it wants no logits and ends with its last page. A restored one owns empty pages first
//! ([`Scheduler::adopt`]), which enter the tree when the engine has filled them ([`Scheduler::adopted`]). Either way the pin
//! is then an owner of its page frames, as a sequence is of its own, so a pinned page counts as used and not as cached.
//!
//! Pins may take one page in [`limits::PINNED_SHARE`]. Requests are accepted against all pages, so a long one may still
//! need a pinned one: when the only sequence that could run has no other way, the pin that was met longest ago gives its
//! deepest page up ([`Scheduler::take_pinned_page`]).
//!
//! Invariants ([`Scheduler::check_pins`]): a pin either has a sequence and owns nothing, or owns the same number of frames
//! in every group, of which the first `tree_pages` lead to its node in the tree.

use super::{Error, GroupCapacity, Page, Result, Scheduler, SequenceHandle, Slots, Status, Unit};
use crate::cache::prefix::{NodeId, ROOT};
use crate::cache::{Keep, NO_FRAME, PagePool, PrefixTree};
use crate::error::{copied, reserved};
use crate::limits;
use std::collections::HashSet;

/// A pinned prefix, or one on its way there.
#[derive(Debug)]
pub struct Pin {
    /// Whole pages.
    tokens: Vec<u32>,
    /// For each page, a hash of it and all before it.
    chain: Vec<u64>,
    /// What it owns, a page table for each layer group.
    tables: Vec<Vec<Page>>,
    /// Pages of the tables that are in the tree, and the deepest node on their way: pinned unless there is a sequence.
    tree_pages: usize,
    node: NodeId,
    /// Computes the pages.
    sequence: Option<SequenceHandle>,
    last_used: u64,
}

impl Pin {
    /// Pages it owns in each layer group, filled or not.
    pub fn pages(&self) -> usize {
        self.tables.first().map_or(0, Vec::len)
    }

    /// Whether nothing is left to be computed or filled.
    pub fn is_ready(&self) -> bool {
        self.sequence.is_none() && self.tree_pages == self.pages()
    }

    /// The tokens that are pinned now.
    pub fn tokens(&self) -> &[u32] {
        let page_tokens = self.tokens.len() / self.chain.len().max(1);
        &self.tokens[..self.tree_pages * page_tokens]
    }

    /// The frames of a layer group, by page.
    pub fn frames(&self, group: usize) -> &[Page] {
        self.tables.get(group).map_or(&[], Vec::as_slice)
    }
}

/// What happened to pins since the last [`Scheduler::pin_news`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinNews {
    /// Some pin became ready or shorter.
    pub changed: bool,
    /// Tokens that pins gave up for a request that had no other way.
    pub given_up: usize,
}

/// All pins of a scheduler.
pub(super) struct Pins {
    slots: Slots<Pin>,
    clock: u64,
    news: PinNews,
}

impl Pins {
    pub fn new() -> Result<Pins> {
        let slots = Slots::new(limits::PINS_MAX)?;
        Ok(Pins { slots, clock: 0, news: PinNews::default() })
    }
}

impl Scheduler {
    /// Pins the whole pages of `tokens`. Those the tree lacks are computed in turn; [`Scheduler::pin_news`] tells when.
    ///
    /// # Errors
    /// `Memory` when pins would take more than their share of the pages, in tokens; `QueueFull` when there are too many pins or
    /// waiting sequences.
    pub fn pin(&mut self, tokens: Vec<u32>) -> Result<SequenceHandle> {
        let (tokens, pin) = self.new_pin(tokens)?;
        let there = self.tree.matched(&tokens, tokens.len(), &self.pools).0;
        if there == tokens.len() / self.capacity.page_tokens {
            self.counters.prefix_tokens_seen += tokens.len() as u64;
            self.counters.prefix_tokens_hit += tokens.len() as u64;
            self.share_into(pin);
            self.pins.news.changed = true;
            return Ok(pin);
        }
        let len = tokens.len();
        let sequence = self.submit(tokens, len, len, 0).inspect_err(|_| _ = self.pins.slots.remove(pin))?;
        if let (Some(s), Some(p)) = (self.sequences.get_mut(sequence), self.pins.slots.get_mut(pin)) {
            s.pin = Some(pin);
            p.sequence = Some(sequence);
        }
        Ok(pin)
    }

    /// Pins `tokens`, whole pages of them, whose contents the caller has: those the tree has are shared, for the others the
    /// pin owns frames that the caller fills before it calls [`Scheduler::adopted`]. Returns how many pages were there.
    ///
    /// # Errors
    /// As for [`Scheduler::pin`]; `Memory` also when the pages that running sequences leave do not suffice. Nothing changed then.
    pub fn adopt(&mut self, tokens: Vec<u32>) -> Result<(SequenceHandle, usize)> {
        // Ended requests still hold their pages until the next step.
        self.cleanup();
        let (tokens, pin) = self.new_pin(tokens)?;
        let page_tokens = self.capacity.page_tokens;
        let (there, unused) = self.tree.matched(&tokens, tokens.len(), &self.pools);
        let (needed, pages) = (tokens.len() / page_tokens - there, tokens.len() / page_tokens);
        // Of a group that does not keep all, the end is needed, and while it is shared what the beginning in the tree ends with.
        let fits = |(pool, group): (&PagePool, &GroupCapacity)| {
            let there_is = pool.free() + pool.cached();
            let Keep::All = group.keep else {
                let first = group.keep.first_needed(tokens.len(), page_tokens);
                let shared = there - group.keep.first_needed(there * page_tokens, page_tokens).min(there);
                let short = (pages - first.max(there).min(pages) + shared).saturating_sub(there_is);
                return needed.saturating_sub(short);
            };
            there_is.saturating_sub(unused)
        };
        let available = self.pools.iter().zip(&self.capacity.groups).map(fits).min().unwrap_or(0);
        if needed > available {
            self.pins.slots.remove(pin);
            let (needed, available) = (needed * page_tokens, available * page_tokens);
            let message = format!(
                "the prefix takes pages for {needed} more tokens, running requests and pins leave {available}; try again later or raise memory_budget"
            );
            let error = Error::new(Status::Memory, message).about("memory_budget");
            return Err(error.numbers(Unit::Tokens, needed as u64, available as u64));
        }
        self.share_into(pin);
        let Some(entry) = self.pins.slots.get_mut(pin) else { unreachable!("it was just made") };
        for (table, group) in entry.tables.iter_mut().zip(0..) {
            let first = self.capacity.groups[group].keep.first_needed(tokens.len(), page_tokens);
            // The tree may have had other ends of it than the one it has now.
            for page in table.iter_mut().take(first).filter(|page| **page != NO_FRAME) {
                self.pools[group].release(std::mem::replace(page, NO_FRAME));
            }
            for index in table.len()..pages {
                let page = loop {
                    if index < first {
                        break NO_FRAME;
                    }
                    match self.pools[group].alloc() {
                        Some(page) => break page,
                        // What is cached is not in use, so the leaves among it can go one after the other.
                        None => {
                            let evicted = self.tree.evict_frame(group, &mut self.pools);
                            assert!(evicted, "cached pages were counted and are not there")
                        }
                    }
                };
                table.push(page);
            }
        }
        Ok((pin, there))
    }

    /// The frames of an adopted pin hold what its tokens say: they enter the tree.
    pub fn adopted(&mut self, pin: SequenceHandle) {
        let page_tokens = self.capacity.page_tokens;
        let Some(entry) = self.pins.slots.get_mut(pin).filter(|p| p.sequence.is_none()) else { return };
        self.tree.attach(entry.node);
        self.tree.unpin(entry.node);
        for page in entry.tree_pages..entry.pages() {
            self.scratch.clear();
            self.scratch.extend(entry.tables.iter().map(|t| t[page]));
            let tokens = &entry.tokens[page * page_tokens..(page + 1) * page_tokens];
            entry.node = self.tree.insert(entry.node, tokens, &mut self.scratch, &mut self.pools);
            entry.tables.iter_mut().zip(&self.scratch).for_each(|(t, &frame)| t[page] = frame);
            entry.tree_pages += 1;
        }
        self.tree.pin(entry.node);
        self.tree.detach(entry.node);
        self.pins.news.changed = true;
    }

    /// Lets a pin go, or stops computing it. A stale handle does nothing.
    pub fn unpin(&mut self, pin: SequenceHandle) {
        let Some(mut entry) = self.pins.slots.remove(pin) else { return };
        match entry.sequence {
            Some(sequence) => self.finish(sequence),
            None => self.tree.unpin(entry.node),
        }
        for (table, pool) in entry.tables.iter_mut().zip(&mut self.pools) {
            table.drain(..).filter(|&page| page != NO_FRAME).for_each(|page| pool.release(page));
        }
    }

    /// A pin, unless the handle is stale.
    pub fn pinned(&self, pin: SequenceHandle) -> Option<&Pin> {
        self.pins.slots.get(pin)
    }

    /// Sequences that compute pins.
    pub fn pins_computing(&self) -> usize {
        self.pins.slots.iter().filter(|(_, p)| p.sequence.is_some()).count()
    }

    /// What happened to pins since the last call.
    pub fn pin_news(&mut self) -> PinNews {
        std::mem::take(&mut self.pins.news)
    }

    /// A place in the table for the whole pages of `tokens`, if pins may have that many.
    fn new_pin(&mut self, mut tokens: Vec<u32>) -> Result<(Vec<u32>, SequenceHandle)> {
        let page_tokens = self.capacity.page_tokens;
        tokens.truncate(tokens.len() / page_tokens * page_tokens);
        let mut chain = reserved("the hashes of a prefix's pages", tokens.len() / page_tokens)?;
        self.tree.extend(&mut chain, &tokens);
        let pinned = || {
            self.pins.slots.iter().flat_map(|(_, p)| match p.sequence {
                Some(_) => p.chain.as_slice(),
                None => &p.chain[..p.pages()],
            })
        };
        let (mut others, count) = (HashSet::new(), pinned().count());
        others.try_reserve(count).map_err(|_| Error::memory("the pages of all pins", count as u64 * 16))?;
        others.extend(pinned().copied());
        let new = chain.iter().filter(|hash| !others.contains(hash)).count();
        let most = self.capacity.pages() / limits::PINNED_SHARE;
        if others.len() + new > most {
            let left = most.saturating_sub(others.len()) * page_tokens;
            let (new, most, share) = (new * page_tokens, most * page_tokens, limits::PINNED_SHARE);
            let message = format!(
                "pinning the prefix takes pages for {new} more tokens; pins may have 1/{share} of the pages, {most} tokens, of which {left} are left: free a prefix, shorten this one or raise memory_budget"
            );
            let error = Error::new(Status::Memory, message).about("memory_budget");
            return Err(error.numbers(Unit::Tokens, new as u64, left as u64));
        }
        self.check_ends(&tokens)?;
        let tables = vec![Vec::new(); self.pools.len()];
        let last_used = self.tick();
        let kept = copied("token ids", &tokens)?;
        let pin = Pin { tokens: kept, chain, tables, tree_pages: 0, node: ROOT, sequence: None, last_used };
        let handle = self.pins.slots.insert(pin).map_err(|_| {
            let max = limits::PINS_MAX;
            Error::new(Status::QueueFull, format!("{max} prefixes are pinned already; free one of them")).numbers(
                Unit::Count,
                max as u64 + 1,
                max as u64,
            )
        })?;
        Ok((tokens, handle))
    }

    /// Refuses a pin whose end would leave too few frames of a group that does not keep all.
    fn check_ends(&self, tokens: &[u32]) -> Result<()> {
        let page_tokens = self.capacity.page_tokens;
        for group in self.capacity.groups.iter().filter(|group| group.keep != Keep::All) {
            let end = |len: usize| len / page_tokens - group.keep.first_needed(len, page_tokens).min(len / page_tokens);
            let others: usize = self.pins.slots.iter().map(|(_, p)| end(p.tokens.len())).sum();
            let (new, most) = (end(tokens.len()), group.frames / limits::PINNED_SHARE);
            if others + new > most {
                let (share, left) = (limits::PINNED_SHARE, most.saturating_sub(others));
                let message = format!(
                    "the end of the prefix takes {new} page frames of layers that keep only ends; pins may have 1/{share} of them, {most}, of which {left} are left: free a prefix or raise max_running"
                );
                let error = Error::new(Status::Memory, message).about("max_running");
                return Err(error.numbers(Unit::Count, new as u64, left as u64));
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> u64 {
        self.pins.clock += 1;
        self.pins.clock
    }

    /// Gives a new pin what the tree has for it.
    fn share_into(&mut self, pin: SequenceHandle) {
        let Some(entry) = self.pins.slots.get_mut(pin) else { return };
        let len = entry.tokens.len();
        entry.node = self.tree.share(&entry.tokens, len, &mut entry.tables, &mut self.pools);
        self.tree.pin(entry.node);
        self.tree.detach(entry.node);
        entry.tree_pages = entry.pages();
    }

    /// An admitted sequence began with these pages: pins on its way were used.
    pub(super) fn pins_met(&mut self, sequence: SequenceHandle) {
        if self.pins.slots.is_empty() {
            return;
        }
        let now = self.tick();
        let Some(sequence) = self.sequences.get(sequence) else { return };
        let met = |pin: &Pin| {
            let last = pin.tree_pages.checked_sub(1).filter(|last| *last < sequence.tree_pages);
            last.is_some_and(|last| pin.chain.get(last) == sequence.chain.get(last))
        };
        self.pins.slots.iter_mut().filter(|p| met(p)).for_each(|p| p.last_used = now);
    }

    /// Ends a sequence that has computed its pin, which takes over its pages.
    pub(super) fn settle_pin(&mut self, handle: SequenceHandle) {
        let Some(sequence) = self.sequences.get_mut(handle) else { return };
        let Some(pin) = sequence.pin.filter(|_| sequence.pending() == 0 && sequence.is_running()) else { return };
        let Some(entry) = self.pins.slots.get_mut(pin) else { return };
        entry.sequence = None;
        entry.tables.iter_mut().zip(&mut sequence.tables).for_each(|(mine, its)| std::mem::swap(mine, its));
        for (table, states) in entry.tables.iter_mut().zip(&mut sequence.states) {
            if let Some(last) = table.last_mut().filter(|_| states.current != NO_FRAME) {
                *last = std::mem::replace(&mut states.current, NO_FRAME);
            }
        }
        (entry.node, entry.tree_pages) = (sequence.node, sequence.tree_pages);
        self.tree.pin(entry.node);
        self.pins.news.changed = true;
        // At once and not at the next cleanup: an empty batch must mean that no slot is held for nothing.
        self.leave_slot(handle);
        self.sequences.remove(handle);
    }

    /// Whether nobody but `handle` could run: none has a row in this step, and none that is awake ranks before it.
    pub(super) fn is_last_hope(&self, handle: SequenceHandle) -> bool {
        let mut others = self.running.iter().filter_map(|&h| Some((h, self.sequences.get(h)?)));
        let awake = others.clone().find(|(_, s)| !s.paused && !s.finished);
        awake.is_some_and(|(first, _)| first == handle) && others.all(|(_, s)| s.scheduled != self.step)
    }

    /// The deepest page of the pin that was met longest ago is no longer pinned; false when nothing is. Where a group keeps only
    /// ends, a pin without its own is of no use: then all of it is given up.
    pub(super) fn take_pinned_page(&mut self) -> bool {
        let keeps_all = self.capacity.groups.iter().all(|group| group.keep == Keep::All);
        let owners = self.pins.slots.iter_mut().filter(|p| p.pages() > 0);
        let Some(pin) = owners.min_by_key(|p| p.last_used) else { return false };
        while !keeps_all && pin.pages() > 1 {
            self.pins.news.given_up += self.capacity.page_tokens;
            Scheduler::take_deepest(pin, &mut self.tree, &mut self.pools);
        }
        Scheduler::take_deepest(pin, &mut self.tree, &mut self.pools);
        self.pins.news.changed = true;
        self.pins.news.given_up += self.capacity.page_tokens;
        true
    }

    /// A pin gives its deepest page up.
    fn take_deepest(pin: &mut Pin, tree: &mut PrefixTree, pools: &mut [PagePool]) {
        if pin.tree_pages == pin.pages() {
            let parent = tree.parent(pin.node);
            tree.pin(parent);
            tree.unpin(pin.node);
            pin.node = parent;
            pin.tree_pages -= 1;
        }
        for (table, pool) in pin.tables.iter_mut().zip(pools) {
            table.pop().into_iter().filter(|&page| page != NO_FRAME).for_each(|page| pool.release(page));
        }
    }

    /// Frames that pins own in a layer group, one entry for each owner.
    pub(super) fn pinned_frames(&self, group: usize) -> impl Iterator<Item = Page> {
        self.pins.slots.iter().flat_map(move |(_, p)| p.frames(group).iter().copied())
    }

    /// The pins, by place, with their frames in a layer group.
    pub(super) fn pins_and_frames(&self, group: usize) -> impl Iterator<Item = (usize, &[Page])> {
        self.pins.slots.iter().map(move |(handle, pin)| (handle.index(), pin.frames(group)))
    }

    /// The invariants of the module.
    pub(super) fn check_pins(&self) -> std::result::Result<(), String> {
        let settled = self.pins.slots.iter().filter(|(_, p)| p.sequence.is_none());
        self.tree.check_pins(settled.map(|(_, p)| p.node))?;
        for (handle, pin) in self.pins.slots.iter() {
            let pages = pin.pages();
            if pin.tables.iter().any(|t| t.len() != pages) || pin.tree_pages > pages || pages > pin.chain.len() {
                return Err(format!("pin {handle:?} has {} of {pages} pages in the tree", pin.tree_pages));
            }
            let mut node = pin.node;
            (0..pin.tree_pages).for_each(|_| node = self.tree.parent(node));
            if node != ROOT {
                return Err(format!("pin {handle:?} has {} pages, its node lies deeper", pin.tree_pages));
            }
            if let Some(sequence) = pin.sequence {
                let back = self.sequences.get(sequence).and_then(|s| s.pin);
                if back != Some(handle) || pages > 0 {
                    return Err(format!("pin {handle:?} and its sequence {sequence:?} do not know each other"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
