//! One sequence as the scheduler sees it.

use super::Capacity;
use super::queue::Rank;
use crate::cache::prefix::{NodeId, ROOT};
use crate::cache::{Keep, NO_FRAME, Page, SequenceHandle};

/// Stands for a token that is not known yet: no vocabulary has it.
pub const UNKNOWN: u32 = u32::MAX;

/// Where a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In the queue, without slot or pages.
    Waiting,
    /// In a slot.
    Running(SequenceHandle),
}

/// What of its tokens a sequence computes itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Computes {
    /// Those that the prefix tree lacks, and the last.
    #[default]
    Missing,
    /// All: something is made of each of them that is not in the pages.
    All,
    /// All, for nobody else: it may be taken back, by as many tokens as a step drafts. Where groups keep all pages or windows.
    Alone,
    /// All in one step: they depend on later ones, so that their pages are of no use to others, and not in the tree.
    AtOnce,
}

/// What a sequence has of a layer group that keeps a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States {
    /// The frame with the state after all computed tokens; [`NO_FRAME`] at the beginning.
    pub current: Page,
    /// The frame that the step being scheduled writes the next one to.
    pub next: Page,
    /// The state at the end of a page that is not in the prefix tree yet: the page and the frame.
    pub(super) saved: Option<(usize, Page)>,
    /// The last node of the tree that got a state while the sequence generated.
    pub(super) last: NodeId,
}

impl Default for States {
    fn default() -> States {
        States { current: NO_FRAME, next: NO_FRAME, saved: None, last: ROOT }
    }
}

impl States {
    /// The frames that a step reads, which is [`NO_FRAME`] at the beginning, and writes.
    pub fn step(&self) -> [Page; 2] {
        [self.current, self.next]
    }

    /// The state at the end of a page.
    pub(super) fn saved_at(&self, page: usize) -> Option<Page> {
        self.saved.filter(|(at, _)| *at == page).map(|(_, frame)| frame)
    }

    /// Its frames, each as often as the sequence owns it.
    pub(super) fn frames(&self) -> impl Iterator<Item = Page> {
        let all = [self.current, self.next, self.saved.map_or(NO_FRAME, |(_, frame)| frame)];
        all.into_iter().filter(|&frame| frame != NO_FRAME)
    }
}

/// A prompt and what was generated after it.
///
/// Token ranges: `[0, computed)` is in the pages; `[computed, tokens.len())` has yet to pass through the model; the newest
/// sampled token is always in the second range. The last `unknown` tokens have been sampled by steps that nobody has waited for:
/// their places hold [`UNKNOWN`].
#[derive(Debug)]
pub struct Sequence {
    /// Prompt, then generated tokens.
    pub tokens: Vec<u32>,
    /// Tokens at the end that are not known yet.
    pub unknown: usize,
    /// The row of the last step's draws that gives the last of them.
    pub unknown_row: u32,
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// Tokens whose keys and values are in the pages.
    pub computed: usize,
    /// First position whose logits nobody has seen yet.
    pub logits_from: usize,
    /// What may follow the newest token, for its next row; of the row in flight, while that is unsettled.
    pub drafts: Vec<u32>,
    /// Of a row in flight with drafts, how many of them were what was sampled, so far.
    pub(super) unsettled: Option<usize>,
    /// Its states have not seen tokens that a row with drafts computed.
    pub(super) again: bool,
    /// Drafts that were computed for it, and those that were what was sampled.
    pub drafted: u64,
    /// See `drafted`.
    pub accepted: u64,
    /// Place among the others.
    pub(super) rank: Rank,
    /// Admissions when it began to wait, and those it saw in earlier waits; see [`super::queue::Queue`].
    pub(super) waits_since: u64,
    pub(super) waited: u64,
    /// The last step it had a row in.
    pub(super) scheduled: u64,
    /// The last step it had a row in or was admitted in.
    pub(super) served: u64,
    /// Of each whole page of known tokens, a hash of it and all before it; with room for the longest that the sequence may
    /// become. It is brought up to date where it is needed: for those who wait and who are admitted.
    pub(super) chain: Vec<u64>,
    /// Version of the prefix tree that was asked last, the pages it had for this sequence, and how many of them can be used.
    pub(super) matched: (u64, usize, usize),
    /// Page tables, one for each layer group, with room for the longest that the sequence may become. What a group no longer
    /// keeps is [`NO_FRAME`]; so is all of one that keeps a state.
    pub tables: Vec<Vec<Page>>,
    /// What it has of the groups that keep a state, one for each layer group.
    pub states: Vec<States>,
    /// Lengths at which a state is saved while the prompt is computed, where there are such groups: where the tree goes on
    /// otherwise, the end of what is given, and what one that waits has in common with it.
    pub(super) checkpoints: [usize; 3],
    /// Of each table, the pages that were given back in front: the same for all, by what each keeps.
    pub(super) passed: usize,
    /// Deepest node of the prefix tree on its way, and how many pages lead there; attached while running.
    pub node: NodeId,
    /// Pages of the table that are in the prefix tree.
    pub tree_pages: usize,
    /// Tokens the prefix tree had when the sequence was first admitted.
    pub cached_tokens: Option<usize>,
    /// Where it is.
    pub state: State,
    /// Its consumer is slow; it gets no rows.
    pub paused: bool,
    /// It has ended; the next cleanup removes it.
    pub finished: bool,
    /// Times it gave its pages back.
    pub preemptions: u32,
    /// What the caller knows it by; 0 until [`super::Scheduler::set_tag`].
    pub tag: u64,
    /// The pin it is computed for: it ends with its last page and samples nothing.
    pub pin: Option<SequenceHandle>,
    /// What it computes itself.
    pub computes: Computes,
}

impl Sequence {
    pub(super) fn new(
        prompt: Vec<u32>,
        logits_from: usize,
        rank: Rank,
        tables: Vec<Vec<Page>>,
        states: Vec<States>,
        chain: Vec<u64>,
        drafts: Vec<u32>,
    ) -> Sequence {
        Sequence {
            unknown: 0,
            unknown_row: 0,
            prompt_len: prompt.len(),
            tokens: prompt,
            computed: 0,
            logits_from,
            drafts,
            unsettled: None,
            again: false,
            drafted: 0,
            accepted: 0,
            rank,
            waits_since: 0,
            waited: 0,
            scheduled: 0,
            served: 0,
            chain,
            matched: (u64::MAX, 0, 0),
            tables,
            states,
            checkpoints: [0; 3],
            passed: 0,
            node: ROOT,
            tree_pages: 0,
            cached_tokens: None,
            state: State::Waiting,
            paused: false,
            finished: false,
            preemptions: 0,
            tag: 0,
            pin: None,
            computes: Computes::Missing,
        }
    }

    /// Tokens that are known, from the first on.
    pub fn known(&self) -> usize {
        self.tokens.len() - self.unknown
    }

    /// Tokens that have yet to pass through the model.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Most tokens it may take from the prefix tree: positions whose logits are wanted have to be computed.
    /// A pin wants none, so all of it may be there already.
    pub fn hit_max(&self) -> usize {
        if self.computes != Computes::Missing {
            return 0;
        }
        self.logits_from.min(self.tokens.len() - usize::from(self.pin.is_none()))
    }

    /// Hashes of the pages it may take from the prefix tree, as far as the chain goes.
    pub(super) fn wanted(&self, page_tokens: usize) -> &[u64] {
        &self.chain[..(self.hit_max() / page_tokens).min(self.chain.len())]
    }

    /// Begins with `pages` pages of the prefix tree, which its tables have, and whose end has its states. The tree has the first
    /// `present` of its pages, usable or not.
    pub(super) fn begin(&mut self, pages: usize, present: usize, capacity: &Capacity) {
        (self.tree_pages, self.passed) = (pages, 0);
        self.computed = pages * capacity.page_tokens;
        let mut keeps_state = false;
        for ((table, states), group) in self.tables.iter_mut().zip(&mut self.states).zip(&capacity.groups) {
            if group.keep == Keep::State {
                keeps_state = true;
                *states = States::default();
                if let Some(last) = table.last_mut() {
                    states.current = std::mem::replace(last, NO_FRAME);
                }
            }
        }
        // Where the tree goes on otherwise, and at the end of what is given: there others will begin. A pin wants its own end.
        let end = if self.pin.is_some() { self.known() } else { self.known() - 1 };
        let whole = end / capacity.page_tokens * capacity.page_tokens;
        self.checkpoints = if keeps_state { [present * capacity.page_tokens, whole, 0] } else { [0; 3] };
    }

    /// Another waits for what it computes, and has this many tokens in common with it, in whole pages: a state is saved there, the
    /// nearest first.
    pub(super) fn ask_for_state(&mut self, length: usize) {
        let [.., whole, asked] = &mut self.checkpoints;
        if *whole > 0 && length > self.computed && (*asked <= self.computed || length < *asked) {
            *asked = length;
        }
    }

    /// Tokens to the next length at which a state is saved.
    pub(super) fn to_checkpoint(&self) -> usize {
        let ahead = self.checkpoints.iter().filter_map(|&length| length.checked_sub(self.computed));
        ahead.filter(|&tokens| tokens > 0).min().unwrap_or(usize::MAX)
    }

    /// Whether it may have a row in a step.
    pub fn can_run(&self) -> bool {
        self.pending() > 0 && self.unsettled.is_none() && !self.paused && !self.finished && self.is_running()
    }

    /// Whether it has a slot.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// The invariants of the module.
    pub(super) fn check(&self, page_tokens: usize) -> Result<(), String> {
        let unknown = self.tokens.iter().rev().take_while(|&&t| t == UNKNOWN).count();
        if unknown != self.unknown {
            return Err(format!("{unknown} tokens are unknown, {} are counted", self.unknown));
        }
        if self.tree_pages * page_tokens > self.known() {
            return Err(format!("{} pages in the tree of {} known tokens", self.tree_pages, self.known()));
        }
        if self.computed > self.tokens.len() {
            return Err(format!("{} tokens computed of {}", self.computed, self.tokens.len()));
        }
        if self.unsettled.is_some_and(|accepted| accepted > self.drafts.len() || !self.is_running()) {
            return Err(format!("{:?} of {} drafts accepted, {:?}", self.unsettled, self.drafts.len(), self.state));
        }
        for table in &self.tables {
            // No page beyond the one the next token and its drafts go to. A group that keeps a state has a table, too, of nothing.
            let (computed, tokens) = (self.computed, self.tokens.len() + self.drafts.len());
            if table.len() * page_tokens < computed || table.len() > tokens.div_ceil(page_tokens) {
                return Err(format!("{} pages for {computed} computed tokens of {tokens}", table.len()));
            }
            if self.state == State::Waiting && !table.is_empty() {
                return Err(format!("a waiting sequence owns {} pages", table.len()));
            }
        }
        Ok(())
    }
}
