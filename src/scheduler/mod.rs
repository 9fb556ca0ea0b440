//! Continuous batching: decides, before each step, which tokens of which sequences run.
//!
//! A step has four phases, each a function: **cleanup** returns what finished sequences held, **refill** admits waiting
//! ones into free slots, **decode** gives every running stream its next row, **prefill** fills the rest of the step's token
//! budget with pieces of prompts. The result is a [`Batch`] of plain integers; the engine runs it and reports back
//! with [`Scheduler::computed`] and [`Scheduler::append`].
//!
//! Pages are taken when the next token needs one, never for the longest possible sequence. A full page enters the prefix
//! tree as soon as it is computed; a sequence begins with the pages the tree has for it, and one whose beginning another is
//! just computing waits for that. When pages run out, the least recently used ones nobody uses leave the tree; then a
//! sequence gives all of its pages back and waits again: a paused one, else the last in [`Rank`]. Its tokens are computed
//! again later, mostly from the tree, which nobody can see in the result (law 1).
//!
//! Who runs gets a row in every step it can use one, prompts as far as the step's budget goes; of these, one that went
//! without for [`limits::UNSERVED_STEPS_MAX`] steps comes first, whatever its rank.
//!
//! A step costs time in proportion to the running sequences, not to the waiting ones, of which it looks at some at most, nor to
//! the length of any, and allocates nothing; a sequence's tokens may when one is appended, and say so when they cannot.
//!
//! Invariants ([`Scheduler::check`]): a page belongs to exactly the sequences and pins whose tables name it and to the tree if
//! it is there; a running sequence owns pages for its computed tokens, at most one page more, and those of its drafts; a waiting one
//! owns none.

mod capacity;
mod check;
mod drafts;
mod growth;
mod journal;
mod pins;
mod queue;
mod sequence;
mod states;
mod tokens;
mod view;

pub use crate::cache::SequenceHandle;
pub use crate::cache::prefix::NodeView;
pub use capacity::{Capacity, GroupCapacity};
pub use journal::{Journal, Note};
pub use pins::{Pin, PinNews};
pub use queue::Rank;
pub use sequence::{Computes, Sequence, State, States, UNKNOWN};
pub use view::{OwnedPage, PageOwner};

use crate::cache::{Keep, Page, PagePool, PrefixTree, Slots};
use crate::error::{Error, Result, Status, Unit, copied, reserved};
use crate::limits;
use queue::Queue;

/// Adjacent tokens of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence.
    pub sequence: SequenceHandle,
    /// Position of the first token.
    pub first: usize,
    /// Tokens.
    pub count: usize,
    /// First position whose logits are wanted; the row's end when none are.
    pub logits_from: usize,
    /// Of the tokens, those at the end that are drafts.
    pub drafts: usize,
    /// It computes tokens that were given rather than the newest one sampled.
    pub prefill: bool,
}

/// One step: decode rows, then prefill rows.
#[derive(Clone, Debug, Default)]
pub struct Batch {
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
    /// Drafts that were computed.
    pub drafted: u64,
    /// Of these, those that were what was sampled.
    pub accepted: u64,
}

/// Schedules a step in place of [`Scheduler::schedule`], by its phases or by single rows ([`Scheduler::add_row`]); for measurements.
pub type ScheduleFn = Box<dyn FnMut(&mut Scheduler, &mut Batch) + Send>;

/// The scheduler of one engine.
pub struct Scheduler {
    capacity: Capacity,
    sequences: Slots<Sequence>,
    /// Slot numbers of running sequences.
    slots: Slots<SequenceHandle>,
    /// Running sequences by rank.
    running: Vec<SequenceHandle>,
    waiting: Queue,
    /// Ended, not yet removed.
    finished: Vec<SequenceHandle>,
    /// Sequences that are paused; of these, how many are running.
    paused: usize,
    paused_running: usize,
    pools: Vec<PagePool>,
    tree: PrefixTree,
    counters: Counters,
    pins: pins::Pins,
    journal: Journal<Note>,
    arrivals: u64,
    /// Number of the step being scheduled.
    step: u64,
    /// The frames of one page, while it enters the tree.
    scratch: Vec<Page>,
    /// `running`, while a phase may change it.
    order: Vec<SequenceHandle>,
    /// During refill: running sequences that are computing their prompt.
    prefilling: Vec<SequenceHandle>,
}

impl Scheduler {
    /// An idle scheduler.
    ///
    /// # Errors
    /// `Memory` when the accounting for that many pages cannot be had.
    pub fn new(capacity: Capacity) -> Result<Scheduler> {
        let groups = capacity.groups.len();
        let keeps: Vec<Keep> = capacity.groups.iter().map(|group| group.keep).collect();
        Ok(Scheduler {
            sequences: Slots::new(capacity.running_max + capacity.waiting_max)?,
            slots: Slots::new(capacity.running_max)?,
            running: reserved("running sequences", capacity.running_max)?,
            waiting: Queue::default(),
            finished: reserved("finished sequences", capacity.running_max + capacity.waiting_max)?,
            paused: 0,
            paused_running: 0,
            pools: capacity.groups.iter().map(|group| PagePool::new(group.frames)).collect::<Result<_>>()?,
            tree: PrefixTree::new(capacity.page_tokens, &keeps, capacity.tree_pages())?,
            counters: Counters::default(),
            pins: pins::Pins::new()?,
            journal: Journal::default(),
            arrivals: 0,
            step: 0,
            scratch: reserved("the frames of a page", groups)?,
            order: reserved("running sequences", capacity.running_max)?,
            prefilling: reserved("running sequences", capacity.running_max)?,
            capacity,
        })
    }

    /// Adds a sequence to the queue. `prompt` is not empty; `len_max` is the longest it may become, not more than all pages
    /// hold: no context is; logits are wanted from position `logits_from` on; a higher `priority` is admitted first.
    ///
    /// # Errors
    /// `QueueFull`; `Memory` for its page tables.
    pub fn submit(
        &mut self,
        prompt: Vec<u32>,
        len_max: usize,
        logits_from: usize,
        priority: i32,
    ) -> Result<SequenceHandle> {
        let needed = len_max.div_ceil(self.capacity.page_tokens);
        debug_assert!(needed <= self.capacity.pages(), "{len_max} tokens never fit");
        if self.sequences.is_full() {
            self.cleanup();
        }
        let full = || {
            let max = (self.capacity.running_max + self.capacity.waiting_max) as u64;
            Error::new(Status::QueueFull, format!("{max} requests are running or waiting already; try again later"))
                .numbers(Unit::Count, max + 1, max)
        };
        if self.sequences.is_full() {
            return Err(full());
        }
        let rank = Rank::new(priority, self.arrivals);
        let tables = self.pools.iter().map(|_| reserved("a page table", needed)).collect::<Result<_>>()?;
        let mut chain = reserved("the hashes of a sequence's pages", needed)?;
        self.tree.extend(&mut chain, &prompt);
        let states = copied("the states of a sequence", &vec![States::default(); self.pools.len()])?;
        let drafts = reserved("the drafts of a sequence", limits::DRAFT_TOKENS_MAX)?;
        let sequence = Sequence::new(prompt, logits_from, rank, tables, states, chain, drafts);
        let Ok(handle) = self.sequences.insert(sequence) else { return Err(full()) };
        self.arrivals += 1;
        self.enqueue(handle);
        Ok(handle)
    }

    /// Puts a sequence that waits into the line, unless it is paused.
    fn enqueue(&mut self, handle: SequenceHandle) {
        if let Some(sequence) = self.sequences.get_mut(handle).filter(|s| !s.paused) {
            sequence.waits_since = self.waiting.insert(sequence.rank, handle, sequence.waited);
        }
    }

    /// Schedules the next step into `batch`. An empty batch means that nothing can run now.
    pub fn schedule(&mut self, batch: &mut Batch) {
        self.begin(batch);
        self.cleanup();
        self.refill();
        self.decode(batch);
        self.prefill(batch);
    }

    /// Empties `batch` for the next step; the four phases follow.
    pub fn begin(&mut self, batch: &mut Batch) {
        batch.rows.clear();
        batch.tokens = 0;
        self.step += 1;
    }

    /// Returns slots and pages of finished sequences.
    pub fn cleanup(&mut self) {
        for index in 0..self.finished.len() {
            let handle = self.finished[index];
            self.leave_slot(handle);
            self.sequences.remove(handle);
        }
        self.finished.clear();
    }

    /// Admits waiting sequences, in order, while there are slots and pages for what they have so far. A paused sequence
    /// gives way to one that could run.
    pub fn refill(&mut self) {
        if self.waiting.is_empty() || (self.slots.is_full() && self.paused_running == 0) {
            return;
        }
        self.find_prefilling();
        loop {
            while let Some((handle, rank)) = self.waiting.promote() {
                self.sequences.get_mut(handle).expect("waiting sequences exist").rank = rank;
            }
            let Some(handle) = self.candidate() else { return };
            if self.has_room_for(handle) {
                self.admit(handle);
                continue;
            }
            let Some(paused) = self.last_paused() else { return };
            self.preempt(paused);
        }
    }

    /// The first in line that could use its turn; of its bucket, the one with the longest cached prefix.
    fn candidate(&mut self) -> Option<SequenceHandle> {
        let (tree, version, page_tokens) = (&self.tree, self.tree.version(), self.capacity.page_tokens);
        let (sequences, prefilling) = (&mut self.sequences, &self.prefilling);
        let mut best: Option<(usize, Rank, SequenceHandle)> = None;
        for (rank, handle) in self.waiting.iter().take(limits::REFILL_SCAN_MAX) {
            if best.is_some_and(|(_, first, _)| !first.same_bucket(rank)) {
                break;
            }
            let Some(sequence) = sequences.get_mut(handle) else { continue };
            let known = sequence.known();
            tree.extend(&mut sequence.chain, &sequence.tokens[..known]);
            if sequence.matched.0 != version {
                let present = tree.reach(sequence.wanted(page_tokens), sequence.matched.1);
                sequence.matched = (version, present, tree.usable(sequence.wanted(page_tokens), present));
            }
            let (_, present, matched) = sequence.matched;
            let sequence = sequences.get(handle)?;
            let others = prefilling.iter().filter_map(|&p| Some((p, sequences.get(p)?)));
            let computing = if rank.is_overdue() { None } else { who_computes(sequence, present, others, page_tokens) };
            if let Some((other, common)) = computing {
                if let Some(other) = sequences.get_mut(other) {
                    other.ask_for_state(common * page_tokens);
                }
                continue;
            }
            if best.is_none_or(|(most, ..)| matched > most) {
                best = Some((matched, rank, handle));
            }
        }
        best.map(|b| b.2)
    }

    fn find_prefilling(&mut self) {
        let sequences = &self.sequences;
        let computing =
            |h: &SequenceHandle| sequences.get(*h).is_some_and(|s| s.pending() > 1 && !s.paused && !s.finished);
        self.prefilling.clear();
        self.prefilling.extend(self.running.iter().copied().filter(computing));
    }

    /// The lowest-ranking paused sequence that runs.
    fn last_paused(&self) -> Option<SequenceHandle> {
        if self.paused_running == 0 {
            return None;
        }
        self.running.iter().rev().copied().find(|h| self.sequences.get(*h).is_some_and(|s| s.paused && !s.finished))
    }

    /// Where a rank is, or belongs, among the running.
    fn place_of(&self, rank: Rank) -> std::result::Result<usize, usize> {
        self.running.binary_search_by_key(&Some(rank), |&h| self.sequences.get(h).map(|s| s.rank))
    }

    fn admit(&mut self, handle: SequenceHandle) {
        let Ok(slot) = self.slots.insert(handle) else { unreachable!("has_room_for found a slot") };
        let Some(sequence) = self.sequences.get_mut(handle) else { unreachable!("waiting sequences exist") };
        let (hit_max, rank) = (sequence.hit_max(), sequence.rank);
        sequence.waited = self.waiting.remove(rank, sequence.waits_since);
        self.waiting.count_admission();
        sequence.served = self.step;
        sequence.state = State::Running(slot);
        let present = self.tree.present_beyond_usable(&sequence.tokens, hit_max);
        sequence.node = self.tree.share(&sequence.tokens, hit_max, &mut sequence.tables, &mut self.pools);
        sequence.begin(self.tree.depth(sequence.node), present, &self.capacity);
        if sequence.cached_tokens.is_none() {
            sequence.cached_tokens = Some(sequence.computed);
            self.counters.prefix_tokens_seen += sequence.prompt_len as u64;
            self.counters.prefix_tokens_hit += sequence.computed as u64;
        }
        if sequence.pending() > 1 {
            self.prefilling.push(handle);
        }
        let at = self.place_of(rank).unwrap_or_else(|at| at);
        self.running.insert(at, handle);
        self.note_admission(handle);
        self.pins_met(handle);
        self.settle_pin(handle);
    }

    /// Whether there is a slot, and pages for the sequence itself and for one page of growth of everyone who runs.
    fn has_room_for(&self, handle: SequenceHandle) -> bool {
        let Some(sequence) = self.sequences.get(handle) else { return false };
        if self.slots.is_full() {
            return false;
        }
        if self.running.is_empty() {
            return true;
        }
        let page_tokens = self.capacity.page_tokens;
        let wanted = sequence.wanted(page_tokens);
        let matched = self.tree.usable(wanted, self.tree.reach(wanted, sequence.matched.1));
        let unused = self.tree.unused(&wanted[..matched], &self.pools);
        let new = (sequence.tokens.len() + 1).div_ceil(page_tokens) - matched;
        self.pools.iter().zip(&self.capacity.groups).all(|(pool, group)| {
            let (taken, own) = match group.keep {
                Keep::All => (unused, new),
                // Of the pages that it begins with, those that its next token needs, and as many new ones as it holds at a time.
                keep => (
                    matched - keep.first_needed(matched * page_tokens, page_tokens),
                    new.min(keep.pages_max(page_tokens)),
                ),
            };
            pool.free() + pool.cached() >= own + taken + self.running.len()
        })
    }

    /// One row for every sequence that waits for its next token, by rank, with what it has of drafts. The first tokens of all fit
    /// before others do.
    pub fn decode(&mut self, batch: &mut Batch) {
        let order = self.copy_running();
        let sequences = &self.sequences;
        let decodes = |h: &&SequenceHandle| sequences.get(**h).is_some_and(|s| s.decodes() && s.can_run());
        let mut others = order.iter().filter(decodes).count();
        for &handle in &order {
            if self.sequences.get(handle).is_some_and(|s| s.decodes() && s.can_run()) {
                others = others.saturating_sub(1);
                self.add_row_beside(handle, batch, others);
            }
        }
        self.order = order;
    }

    /// Pieces of prompts into what is left of the budget, by rank.
    pub fn prefill(&mut self, batch: &mut Batch) {
        let mut order = self.copy_running();
        self.put_unserved_first(&mut order);
        for &handle in &order {
            if self.sequences.get(handle).is_some_and(|s| !s.decodes()) {
                self.add_row(handle, batch);
            }
        }
        self.order = order;
    }

    /// Moves the prompt that has waited longest for a row to the front, if that is too long.
    fn put_unserved_first(&self, order: &mut [SequenceHandle]) {
        let served = |handle: &SequenceHandle| {
            let sequence = self.sequences.get(*handle).filter(|s| s.pending() > 1 && !s.paused && !s.finished)?;
            (self.step - sequence.served > limits::UNSERVED_STEPS_MAX as u64).then_some(sequence.served)
        };
        let unserved = order.iter().enumerate().filter_map(|(at, handle)| Some((served(handle)?, at)));
        if let Some((_, at)) = unserved.min() {
            order[..=at].rotate_right(1);
        }
    }

    /// A copy of the running sequences to go through while preemption changes the original; to be put back into `order`.
    fn copy_running(&mut self) -> Vec<SequenceHandle> {
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend_from_slice(&self.running);
        order
    }

    /// A row for a sequence that can run: as many of its next tokens as budget and pages allow.
    pub fn add_row(&mut self, handle: SequenceHandle, batch: &mut Batch) {
        self.add_row_beside(handle, batch, 0);
    }

    /// As [`Scheduler::add_row`], with room left for `others` tokens.
    fn add_row_beside(&mut self, handle: SequenceHandle, batch: &mut Batch, others: usize) {
        let Some(sequence) = self.sequences.get(handle).filter(|s| s.can_run()) else { return };
        let left = self.capacity.step_tokens - batch.tokens;
        let room = left.saturating_sub(others).max(1).min(left);
        let (at_once, computed) = (sequence.computes == Computes::AtOnce, sequence.computed);
        let pending = sequence.pending();
        let chunk = match at_once {
            true => Some(pending).filter(|&all| all <= room).unwrap_or(0),
            false if pending == 1 => (1 + self.affordable_drafts(sequence, others)).min(room),
            false => pending.min(sequence.to_checkpoint()).min(room),
        };
        let mut count = if chunk == 0 { 0 } else { self.grow(handle, chunk) };
        if at_once && count > 0 && count < chunk {
            self.trim(handle, computed);
            count = 0;
        }
        let Some(sequence) = self.sequences.get_mut(handle).filter(|_| count > 0) else { return };
        (sequence.scheduled, sequence.served) = (self.step, self.step);
        let first = sequence.computed;
        let logits_from = sequence.logits_from.clamp(first, first + count);
        let drafts = count.saturating_sub(pending);
        let prefill = first < sequence.prompt_len || count > 1 + drafts && !sequence.again;
        batch.rows.push(Row { sequence: handle, first, count, logits_from, drafts, prefill });
        batch.tokens += count;
    }

    /// What it may use.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// Running sequences by rank, those included that have ended since the last cleanup.
    pub fn running(&self) -> impl Iterator<Item = SequenceHandle> {
        self.running.iter().copied()
    }

    /// A sequence.
    pub fn get(&self, handle: SequenceHandle) -> Option<&Sequence> {
        self.sequences.get(handle)
    }

    /// Reports that a row of the batch has run, or will have before anything that is scheduled from now on. Pages it completed
    /// enter the prefix tree, those with unknown tokens once they are known.
    pub fn computed(&mut self, row: &Row) {
        if row.drafts > 0 {
            return self.await_samples(row.sequence, row.drafts);
        }
        let Some(sequence) = self.sequences.get_mut(row.sequence) else { return };
        sequence.drafts.clear();
        sequence.computed = row.first + row.count;
        sequence.again &= sequence.pending() > 1;
        sequence.logits_from = sequence.logits_from.max(sequence.computed);
        self.advance_states(row.sequence);
        self.publish_pages(row.sequence);
        self.settle_pin(row.sequence);
    }

    /// Puts full pages of known tokens into the prefix tree.
    fn publish_pages(&mut self, handle: SequenceHandle) {
        let page_tokens = self.capacity.page_tokens;
        let Some(mut sequence) = self.sequences.get_mut(handle) else { return };
        match sequence.computes {
            Computes::AtOnce => return,
            Computes::Alone => return self.release_passed(handle),
            Computes::Missing | Computes::All => {}
        }
        while (sequence.tree_pages + 1) * page_tokens <= sequence.computed.min(sequence.known()) {
            let page = sequence.tree_pages;
            self.scratch.clear();
            self.scratch
                .extend(sequence.tables.iter().zip(&sequence.states).map(|(t, s)| s.saved_at(page).unwrap_or(t[page])));
            let tokens = &sequence.tokens[page * page_tokens..(page + 1) * page_tokens];
            sequence.node = self.tree.insert(sequence.node, tokens, &mut self.scratch, &mut self.pools);
            for ((table, &frame), group) in sequence.tables.iter_mut().zip(&self.scratch).zip(&self.capacity.groups) {
                if group.keep != Keep::State {
                    table[page] = frame;
                }
            }
            sequence.tree_pages += 1;
            self.publish_states(handle, page);
            let Some(again) = self.sequences.get_mut(handle) else { return };
            sequence = again;
        }
        self.release_passed(handle);
    }

    /// Marks a sequence as ended; the next cleanup returns what it holds.
    pub fn finish(&mut self, handle: SequenceHandle) {
        if let Some(sequence) = self.sequences.get_mut(handle)
            && !sequence.finished
        {
            sequence.finished = true;
            self.finished.push(handle);
            let (paused, running) = (std::mem::take(&mut sequence.paused), sequence.is_running());
            self.paused -= usize::from(paused);
            self.paused_running -= usize::from(paused && running);
            if !running && !paused {
                self.waiting.remove(sequence.rank, sequence.waits_since);
            }
        }
    }

    /// Pauses or resumes a sequence whose consumer is slow, unless it has ended.
    pub fn set_paused(&mut self, handle: SequenceHandle, paused: bool) {
        let Some(sequence) = self.sequences.get_mut(handle).filter(|s| s.paused != paused && !s.finished) else {
            return;
        };
        sequence.paused = paused;
        let running = sequence.is_running();
        if paused {
            (self.paused, self.paused_running) = (self.paused + 1, self.paused_running + usize::from(running));
        } else {
            (self.paused, self.paused_running) = (self.paused - 1, self.paused_running - usize::from(running));
        }
        match (running, paused) {
            // Its consumer takes no more of what the step has for it.
            (true, true) => self.cut_short(handle),
            (true, false) => {}
            (false, true) => sequence.waited = self.waiting.remove(sequence.rank, sequence.waits_since),
            (false, false) => self.enqueue(handle),
        }
    }

    /// Gives back every cached page that no sequence uses and nothing pins.
    pub fn clear_cache(&mut self) {
        // Ended sequences hold their pages until the next batch.
        self.cleanup();
        while self.tree.evict(&mut self.pools) {}
        for group in 0..self.pools.len() {
            while self.tree.evict_frame(group, &mut self.pools) {}
        }
    }

    /// Sequences running, waiting and paused; those that have ended do not count as running or waiting.
    pub fn counts(&self) -> (usize, usize, usize) {
        let paused_waiting = self.paused - self.paused_running;
        (self.running.len() - self.finished_running(), self.waiting.len() + paused_waiting, self.paused)
    }

    fn finished_running(&self) -> usize {
        self.finished.iter().filter(|&&h| self.sequences.get(h).is_some_and(Sequence::is_running)).count()
    }

    /// Page frames used, cached and free, over all groups.
    pub fn pages(&self) -> (usize, usize, usize) {
        let sum = |f: fn(&PagePool) -> usize| self.pools.iter().map(f).sum::<usize>();
        let (cached, free) = (sum(PagePool::cached), sum(PagePool::free));
        (sum(PagePool::total) - cached - free, cached, free)
    }

    /// Counters for the statistics.
    pub fn counters(&self) -> Counters {
        Counters { evictions: self.tree.evictions(), ..self.counters }
    }
}

/// Which of `others` is about to compute a page that `sequence` could share, of which the tree has `matched` pages; and how many pages
/// both begin with.
fn who_computes<'a>(
    sequence: &Sequence,
    matched: usize,
    mut others: impl Iterator<Item = (SequenceHandle, &'a Sequence)>,
    page_tokens: usize,
) -> Option<(SequenceHandle, usize)> {
    let wanted = sequence.wanted(page_tokens);
    // Equal hashes mean that all before them are equal, too.
    let same = |other: &Sequence, page: usize| wanted.get(page).is_some_and(|hash| other.chain.get(page) == Some(hash));
    others.find_map(|(handle, other)| {
        // The first page that neither the tree nor the other has.
        let next = matched.max(other.computed / page_tokens);
        if !same(other, next) {
            return None;
        }
        let (mut equal, mut unequal) = (next + 1, wanted.len().min(other.chain.len()));
        while equal < unequal {
            let page = equal.midpoint(unequal);
            if same(other, page) { equal = page + 1 } else { unequal = page }
        }
        Some((handle, equal))
    })
}

#[cfg(test)]
mod keep_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
