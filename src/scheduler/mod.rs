//! Continuous batching: decides, before each step, which tokens of which sequences run.
//!
//! A step has four phases, each a function: **cleanup** returns what finished sequences held, **refill** admits waiting
//! ones into free slots, **decode** gives every running stream its next row, **prefill** fills the rest of the step's token
//! budget with pieces of prompts. The result is a [`BatchPlan`] of plain integers; the engine runs it and reports back
//! with [`Scheduler::computed`] and [`Scheduler::append`].
//!
//! Pages are taken when the next token needs one, never for the longest possible sequence. A full page enters the prefix
//! tree as soon as it is computed; a sequence begins with the pages the tree has for it, and one whose beginning another is
//! just computing waits for that. When pages run out, the least recently used ones nobody uses leave the tree; then the
//! youngest sequence gives all of its pages back and waits at the head of the queue. Its tokens are computed again later,
//! mostly from the tree, which nobody can see in the result (law 1).
//!
//! Invariants ([`Scheduler::check`]): a page belongs to exactly the sequences whose tables name it and to the tree if it is
//! there; a running sequence owns pages for its computed tokens, at most one page more; a waiting one owns none.

mod sequence;
mod view;

pub use crate::cache::Handle;
pub use sequence::{Sequence, State};
pub use view::PageOwner;

use crate::cache::prefix::ROOT;
use crate::cache::{Page, PagePool, PrefixTree, Slots};
use crate::error::{Error, Result, Status, Unit};
use std::collections::VecDeque;

/// How requests are batched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// A freed slot is filled at the next step.
    #[default]
    Continuous,
    /// A batch runs until its longest request is done.
    Static,
    /// One forward pass for each distinct position.
    Grouped,
}

/// What a scheduler may use.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// Sequences running at once.
    pub running_max: usize,
    /// Sequences waiting.
    pub waiting_max: usize,
    /// Tokens of a step.
    pub step_tokens: usize,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Page frames of each layer group.
    pub frames: Vec<usize>,
    /// How requests are batched.
    pub policy: Policy,
}

/// Adjacent tokens of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence.
    pub sequence: Handle,
    /// Position of the first token.
    pub first: usize,
    /// Tokens.
    pub count: usize,
    /// First position whose logits are wanted; the row's end when none are.
    pub logits_from: usize,
}

impl Row {
    /// Whether the row computes tokens that were given rather than the newest one sampled.
    pub fn is_prefill(&self, sequence: &Sequence) -> bool {
        self.count > 1 || self.first < sequence.prompt_len
    }
}

/// One step: decode rows, then prefill rows.
#[derive(Clone, Debug, Default)]
pub struct BatchPlan {
    /// The rows.
    pub rows: Vec<Row>,
    /// Tokens of all rows.
    pub tokens: usize,
}

/// Counters for the statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sequences that gave their pages back.
    pub preemptions: u64,
    /// Tokens of admitted sequences.
    pub prefix_tokens_seen: u64,
    /// Of these, tokens the prefix tree had.
    pub prefix_tokens_hit: u64,
    /// Pages that left the prefix tree, over all layer groups.
    pub evictions: u64,
}

/// The scheduler of one engine.
pub struct Scheduler {
    capacity: Capacity,
    sequences: Slots<Sequence>,
    /// Slot numbers of running sequences.
    slots: Slots<Handle>,
    /// Running sequences, oldest admission first.
    running: Vec<Handle>,
    waiting: VecDeque<Handle>,
    finished: Vec<Handle>,
    pools: Vec<PagePool>,
    tree: PrefixTree,
    counters: Counters,
    /// The frames of one page, while it enters the tree.
    scratch: Vec<Page>,
}

impl Scheduler {
    /// An idle scheduler.
    pub fn new(capacity: Capacity) -> Scheduler {
        Scheduler {
            sequences: Slots::new(capacity.running_max + capacity.waiting_max),
            slots: Slots::new(capacity.running_max),
            running: Vec::with_capacity(capacity.running_max),
            waiting: VecDeque::new(),
            finished: Vec::new(),
            pools: capacity.frames.iter().map(|&f| PagePool::new(f)).collect(),
            tree: PrefixTree::new(capacity.page_tokens),
            counters: Counters::default(),
            scratch: Vec::new(),
            capacity,
        }
    }

    /// Adds a sequence to the queue. `prompt` is not empty; `len_max` is the longest it may become. It waits behind
    /// those of its own or a higher priority.
    pub fn submit(&mut self, prompt: Vec<u32>, len_max: usize, logits_from: usize, priority: i32) -> Result<Handle> {
        let needed = len_max.div_ceil(self.capacity.page_tokens);
        let available = self.capacity.frames.iter().copied().min().unwrap_or(0);
        if needed > available {
            let tokens = available * self.capacity.page_tokens;
            return Err(Error::new(
                Status::NeverFits,
                format!("the request may grow to {len_max} tokens, but all KV pages together hold {tokens}; lower max_tokens or raise the memory budget"),
            )
            .numbers(Unit::Tokens, len_max as u64, tokens as u64));
        }
        if self.sequences.is_full() {
            self.cleanup();
        }
        let sequence = Sequence::new(prompt, logits_from, priority, self.pools.len());
        let handle = self.sequences.insert(sequence).map_err(|_| {
            let max = (self.capacity.running_max + self.capacity.waiting_max) as u64;
            Error::new(Status::QueueFull, format!("{max} requests are running or waiting already; try again later"))
                .numbers(Unit::Count, max + 1, max)
        })?;
        let lower = |w: &Handle| self.sequences.get(*w).is_some_and(|s| s.priority < priority);
        let at = self.waiting.iter().position(lower).unwrap_or(self.waiting.len());
        self.waiting.insert(at, handle);
        Ok(handle)
    }

    /// Plans the next step into `plan`. An empty plan means that nothing can run now.
    pub fn plan(&mut self, plan: &mut BatchPlan) {
        plan.rows.clear();
        plan.tokens = 0;
        self.cleanup();
        self.refill();
        self.decode(plan);
        self.prefill(plan);
    }

    /// Returns slots and pages of finished sequences.
    pub fn cleanup(&mut self) {
        if self.finished.is_empty() {
            return;
        }
        for handle in std::mem::take(&mut self.finished) {
            self.leave_slot(handle);
            self.sequences.remove(handle);
        }
        let sequences = &self.sequences;
        self.waiting.retain(|w| sequences.get(*w).is_some());
    }

    /// Admits waiting sequences, in order, while there are slots and pages for what they have so far. A paused sequence
    /// gives way to one that could run.
    pub fn refill(&mut self) {
        let mut at = 0;
        while let Some(&handle) = self.waiting.get(at) {
            let paused = |r: &&Handle| self.sequences.get(**r).is_some_and(|s| s.paused);
            if self.slots.is_full() && !self.running.iter().any(|r| paused(&r)) {
                return;
            }
            if self.sequences.get(handle).is_none_or(|s| s.paused) || self.is_being_computed(handle) {
                at += 1;
            } else if self.has_room_for(handle) {
                self.waiting.remove(at);
                self.admit(handle);
            } else {
                let Some(&paused) = self.running.iter().rev().find(paused) else { return };
                self.preempt(paused);
                at += 1;
            }
        }
    }

    fn admit(&mut self, handle: Handle) {
        let Ok(slot) = self.slots.insert(handle) else { unreachable!("has_room_for found a slot") };
        let Some(sequence) = self.sequences.get_mut(handle) else { unreachable!("waiting sequences exist") };
        let hit_max = sequence.hit_max();
        sequence.state = State::Running(slot);
        sequence.node = self.tree.share(&sequence.tokens, hit_max, &mut sequence.tables, &mut self.pools);
        sequence.tree_pages = sequence.tables.first().map_or(0, Vec::len);
        sequence.computed = sequence.tree_pages * self.capacity.page_tokens;
        if sequence.cached_tokens.is_none() {
            sequence.cached_tokens = Some(sequence.computed);
            self.counters.prefix_tokens_seen += sequence.prompt_len as u64;
            self.counters.prefix_tokens_hit += sequence.computed as u64;
        }
        self.running.push(handle);
    }

    /// Whether there is a slot, and pages for the sequence itself and for one page of growth of everyone who runs.
    fn has_room_for(&self, handle: Handle) -> bool {
        let Some(sequence) = self.sequences.get(handle) else { return false };
        if self.slots.is_full() {
            return false;
        }
        if self.running.is_empty() {
            return true;
        }
        let (matched, unused) = self.tree.matched(&sequence.tokens, sequence.hit_max(), &self.pools);
        let new = (sequence.tokens.len() + 1).div_ceil(self.capacity.page_tokens) - matched + self.running.len();
        self.pools.iter().all(|p| p.free() + p.cached() - unused >= new)
    }

    /// Whether a running sequence is about to compute a page this one could share.
    fn is_being_computed(&self, handle: Handle) -> bool {
        let Some(sequence) = self.sequences.get(handle) else { return false };
        let page_tokens = self.capacity.page_tokens;
        let wanted = &sequence.tokens[..sequence.hit_max() / page_tokens * page_tokens];
        let coming = |other: &Sequence| {
            let common = wanted.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
            common / page_tokens * page_tokens
        };
        let best = self.running.iter().filter_map(|r| self.sequences.get(*r)).filter(|o| !o.paused && o.pending() > 1);
        let best = best.map(|o| (coming(o), o.computed)).filter(|(end, computed)| end > computed).map(|b| b.0).max();
        best.is_some_and(|end| {
            self.tree.matched(&sequence.tokens, sequence.hit_max(), &self.pools).0 * page_tokens < end
        })
    }

    /// One row for every sequence that waits for its next token, oldest first.
    pub fn decode(&mut self, plan: &mut BatchPlan) {
        for handle in self.running.clone() {
            let Some(sequence) = self.sequences.get(handle) else { continue };
            let ready = sequence.pending() == 1 && sequence.is_running() && !sequence.paused;
            if ready && plan.tokens < self.capacity.step_tokens && self.grow(handle, 1, plan) == 1 {
                self.add_row(handle, 1, plan);
            }
        }
    }

    /// Pieces of prompts into what is left of the budget, oldest first.
    pub fn prefill(&mut self, plan: &mut BatchPlan) {
        for handle in self.running.clone() {
            let Some(sequence) = self.sequences.get(handle) else { continue };
            let pending = sequence.pending();
            let chunk = pending.min(self.capacity.step_tokens - plan.tokens);
            if chunk == 0 || pending == 1 || sequence.paused || !sequence.is_running() {
                continue;
            }
            let count = self.grow(handle, chunk, plan);
            if count > 0 {
                self.add_row(handle, count, plan);
            }
        }
    }

    fn add_row(&mut self, handle: Handle, count: usize, plan: &mut BatchPlan) {
        let sequence = self.sequences.get(handle).expect("planned sequences exist");
        let first = sequence.computed;
        let logits_from = sequence.logits_from.clamp(first, first + count);
        plan.rows.push(Row { sequence: handle, first, count, logits_from });
        plan.tokens += count;
    }

    /// Makes the tables cover `count` more tokens, preempting others for the first of them; returns for how many that
    /// succeeded.
    fn grow(&mut self, handle: Handle, count: usize, plan: &BatchPlan) -> usize {
        let page_tokens = self.capacity.page_tokens;
        loop {
            let sequence = self.sequences.get_mut(handle).expect("planned sequences exist");
            let target = sequence.computed + count;
            let mut covered = usize::MAX;
            for (table, pool) in sequence.tables.iter_mut().zip(&mut self.pools) {
                while table.len() * page_tokens < target {
                    let Some(page) = pool.alloc() else { break };
                    table.push(page);
                }
                covered = covered.min(table.len() * page_tokens);
            }
            let computed = sequence.computed;
            if covered < target && self.tree.evict(&mut self.pools) {
                continue;
            }
            if covered > computed {
                return count.min(covered - computed);
            }
            match self.victim(handle, plan) {
                Some(victim) => {
                    self.preempt(victim);
                    if victim == handle {
                        return 0;
                    }
                }
                None => return 0,
            }
        }
    }

    /// Who gives way to `handle`: a paused sequence if there is one, else the youngest that is not older than `handle`;
    /// possibly itself, never one that is in this step's plan.
    fn victim(&self, handle: Handle, plan: &BatchPlan) -> Option<Handle> {
        let free_to_go = |h: &&Handle| {
            let holds_pages = self.sequences.get(**h).is_some_and(|s| s.tables.iter().any(|t| !t.is_empty()));
            holds_pages && !plan.rows.iter().any(|r| r.sequence == **h)
        };
        let paused = |h: &&Handle| self.sequences.get(**h).is_some_and(|s| s.paused);
        let own_place = self.running.iter().position(|r| *r == handle)?;
        let by_age = || self.running.iter().rev().filter(free_to_go);
        by_age().find(paused).or_else(|| self.running[own_place..].iter().rev().find(free_to_go)).copied()
    }

    /// Takes slot and pages away; the sequence waits at the head of the queue and is computed again.
    fn preempt(&mut self, handle: Handle) {
        self.counters.preemptions += 1;
        self.leave_slot(handle);
        if let Some(sequence) = self.sequences.get_mut(handle) {
            sequence.preemptions += 1;
            self.waiting.push_front(handle);
        }
    }

    fn leave_slot(&mut self, handle: Handle) {
        let Some(sequence) = self.sequences.get_mut(handle) else { return };
        if let State::Running(slot) = sequence.state {
            self.slots.remove(slot);
            self.running.retain(|r| *r != handle);
            self.tree.detach(sequence.node);
        }
        sequence.state = State::Waiting;
        (sequence.node, sequence.tree_pages, sequence.computed) = (ROOT, 0, 0);
        for (table, pool) in sequence.tables.iter_mut().zip(&mut self.pools) {
            table.drain(..).for_each(|page| pool.release(page));
        }
    }

    /// A sequence.
    pub fn get(&self, handle: Handle) -> Option<&Sequence> {
        self.sequences.get(handle)
    }

    /// Reports that a row of the plan has run. Pages it completed enter the prefix tree.
    pub fn computed(&mut self, row: &Row) {
        let page_tokens = self.capacity.page_tokens;
        let Some(sequence) = self.sequences.get_mut(row.sequence) else { return };
        sequence.computed = row.first + row.count;
        sequence.logits_from = sequence.logits_from.max(sequence.computed);
        while (sequence.tree_pages + 1) * page_tokens <= sequence.computed {
            let page = sequence.tree_pages;
            self.scratch.clear();
            self.scratch.extend(sequence.tables.iter().map(|t| t[page]));
            let tokens = &sequence.tokens[page * page_tokens..(page + 1) * page_tokens];
            sequence.node = self.tree.insert(sequence.node, tokens, &mut self.scratch, &mut self.pools);
            sequence.tables.iter_mut().zip(&self.scratch).for_each(|(t, &frame)| t[page] = frame);
            sequence.tree_pages += 1;
        }
    }

    /// Appends a sampled token.
    pub fn append(&mut self, handle: Handle, token: u32) {
        if let Some(sequence) = self.sequences.get_mut(handle) {
            sequence.tokens.push(token);
        }
    }

    /// Marks a sequence as ended; the next cleanup returns what it holds.
    pub fn finish(&mut self, handle: Handle) {
        if let Some(sequence) = self.sequences.get_mut(handle)
            && !sequence.finished
        {
            sequence.finished = true;
            self.finished.push(handle);
        }
    }

    /// Pauses or resumes a sequence whose consumer is slow.
    pub fn set_paused(&mut self, handle: Handle, paused: bool) {
        if let Some(sequence) = self.sequences.get_mut(handle) {
            sequence.paused = paused;
        }
    }

    /// Sequences running, waiting and paused.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.running.len(), self.waiting.len(), self.sequences.iter().filter(|(_, s)| s.paused).count())
    }

    /// Page frames used, cached and free, over all groups.
    pub fn pages(&self) -> (usize, usize, usize) {
        let sum = |f: fn(&PagePool) -> usize| self.pools.iter().map(f).sum::<usize>();
        let (cached, free) = (sum(PagePool::cached), sum(PagePool::free));
        (sum(PagePool::total) - cached - free, cached, free)
    }

    /// Counters for the statistics.
    pub fn counters(&self) -> Counters {
        Counters { evictions: self.tree.evictions() * self.pools.len() as u64, ..self.counters }
    }

    /// Proves law 3, or says what is wrong.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Error::internal(format!("the scheduler's books are wrong: {what}"));
        for (group, pool) in self.pools.iter().enumerate() {
            let owned = self.sequences.iter().flat_map(|(_, s)| s.tables[group].iter().copied());
            pool.check(owned.chain(self.tree.pages(group))).map_err(|e| wrong(format!("group {group}: {e}")))?;
        }
        self.tree.check(self.running.iter().filter_map(|r| Some(self.sequences.get(*r)?.node))).map_err(wrong)?;
        if self.slots.len() != self.running.len() {
            return Err(wrong(format!("{} slots for {} running sequences", self.slots.len(), self.running.len())));
        }
        if self.sequences.len() != self.running.len() + self.waiting.len() {
            return Err(wrong(format!(
                "{} sequences are neither running nor waiting",
                self.sequences.len() - self.running.len() - self.waiting.len()
            )));
        }
        for (handle, sequence) in self.sequences.iter() {
            sequence.check(self.capacity.page_tokens).map_err(wrong)?;
            let listed = self.running.contains(&handle);
            if listed != sequence.is_running() {
                return Err(wrong(format!("{handle:?} is in state {:?}", sequence.state)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
