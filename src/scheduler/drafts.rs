//! Speculation: tokens that are computed before it is known whether they are what is sampled.
//!
//! Drafts of a sequence are tokens of the row that computes its newest one, at the positions after it. The step samples at each of
//! them what it would have sampled there alone, and the samples come in order: as long as each is the draft at its place, the next
//! is one of the sequence, too; the first that is not is the last. Until then the row is *unsettled*, and the sequence has no other.
//! What was computed beyond is as if it had not been: its places are written again, and pages that only drafts needed are given back.
//!
//! A state cannot forget a token. Where drafts were refused the state after them is dropped, and the tokens since the one before
//! are computed *again*, in a row of the next step's decoding. Rows with drafts end where a page does, so that the states that
//! a conversation goes on from are saved as ever.

use super::{Scheduler, Sequence, SequenceHandle};
use crate::cache::{Keep, NO_FRAME};
use crate::limits;

impl Scheduler {
    /// How many drafts a sequence could use in its next row; 0 for one that does not wait for its next token alone, or whose
    /// newest is not known yet.
    pub fn drafts_max(&self, handle: SequenceHandle) -> usize {
        let waits = |s: &&Sequence| {
            s.can_run() && s.unknown == 0 && s.pending() == 1 && s.logits_from + 1 == s.tokens.len() && s.pin.is_none()
        };
        let Some(sequence) = self.sequences.get(handle).filter(waits) else { return 0 };
        let page_tokens = self.capacity.page_tokens;
        let places = sequence.tables.first().map_or(0, |table| table.capacity() * page_tokens);
        let most = limits::DRAFT_TOKENS_MAX.min(places.saturating_sub(sequence.tokens.len()));
        match self.capacity.groups.iter().any(|group| group.keep == Keep::State) {
            true => most.min(page_tokens - 1 - sequence.computed % page_tokens).min(sequence.to_checkpoint() - 1),
            false => most,
        }
    }

    /// Offers drafts of what follows a sequence's newest token, for its next row, of which it uses what it can.
    pub fn offer_drafts(&mut self, handle: SequenceHandle, drafts: &[u32]) {
        let most = self.drafts_max(handle);
        // Those of a row in flight are compared with its samples.
        if let Some(sequence) = self.sequences.get_mut(handle).filter(|s| s.unsettled.is_none()) {
            sequence.drafts.clear();
            sequence.drafts.extend_from_slice(&drafts[..drafts.len().min(most)]);
        }
    }

    /// Drafts of a sequence for which nobody else has to give up a page: `others` still want one for their next token.
    pub(super) fn affordable_drafts(&self, sequence: &Sequence, others: usize) -> usize {
        let drafts = sequence.drafts.len();
        let needed = 1 + drafts.div_ceil(self.capacity.page_tokens) + others;
        if self.pools.iter().all(|pool| pool.free() + pool.cached() >= needed) { drafts } else { 0 }
    }

    /// Whether samples at the places of a sequence's drafts are of use to it: all before them were as drafted.
    pub fn is_unsettled(&self, handle: SequenceHandle) -> bool {
        self.accepted_drafts(handle).is_some()
    }

    /// The draft that a sequence's next token is compared with, while its row is unsettled.
    pub fn next_draft(&self, handle: SequenceHandle) -> Option<u32> {
        let sequence = self.sequences.get(handle)?;
        sequence.drafts.get(sequence.unsettled?).copied()
    }

    /// The next token of a sequence was sampled and will be appended later: what its row has of samples behind it is of no use.
    pub fn hold(&mut self, handle: SequenceHandle) {
        let next = self.sequences.get(handle).map_or(0, |s| s.tokens.len());
        self.settle_drafts(handle, next);
    }

    /// How many of the drafts of an unsettled row are tokens of the sequence so far; `None` when its samples are of no use.
    pub fn accepted_drafts(&self, handle: SequenceHandle) -> Option<usize> {
        self.sequences.get(handle)?.unsettled
    }

    /// A row with drafts was computed: what comes of it shows when its samples are there.
    pub(super) fn await_samples(&mut self, handle: SequenceHandle, drafts: usize) {
        let Some(sequence) = self.sequences.get_mut(handle) else { return };
        sequence.drafts.truncate(drafts);
        (sequence.unsettled, sequence.logits_from) = (Some(0), sequence.computed + 1);
        sequence.drafted += drafts as u64;
        self.counters.drafted += drafts as u64;
    }

    /// A token was appended to a sequence.
    pub(super) fn compare_draft(&mut self, handle: SequenceHandle, token: u32) {
        let Some(sequence) = self.sequences.get_mut(handle) else { return };
        match sequence.unsettled {
            None => sequence.drafts.clear(),
            Some(accepted) if sequence.drafts.get(accepted) == Some(&token) => {
                sequence.unsettled = Some(accepted + 1);
                sequence.accepted += 1;
                self.counters.accepted += 1;
            }
            Some(_) => {
                let next = sequence.tokens.len() - 1;
                self.settle_drafts(handle, next);
            }
        }
    }

    /// Nobody takes more of what an unsettled row sampled, but for the first sample, which is used in any case.
    pub(super) fn cut_short(&mut self, handle: SequenceHandle) {
        let next = self.sequences.get(handle).map_or(0, |s| (s.tokens.len() - 1).max(s.computed + 1));
        self.settle_drafts(handle, next);
    }

    /// Of an unsettled row the samples from position `next` on are not used, those before it were: the sequence goes on there.
    fn settle_drafts(&mut self, handle: SequenceHandle, next: usize) {
        let Some(sequence) = self.sequences.get_mut(handle).filter(|s| s.unsettled.is_some()) else { return };
        let row_end = sequence.computed + 1 + sequence.drafts.len();
        let tokens = sequence.tokens.len();
        sequence.forget_drafts();
        sequence.logits_from = next;
        let keeps_state = sequence.states.iter().any(|states| states.next != NO_FRAME);
        if keeps_state && next != row_end {
            sequence.again = true;
            for (states, pool) in sequence.states.iter_mut().zip(&mut self.pools) {
                let dropped = std::mem::replace(&mut states.next, NO_FRAME);
                if dropped != NO_FRAME {
                    pool.release(dropped);
                }
            }
        } else {
            sequence.computed = next;
            self.advance_states(handle);
            self.publish_pages(handle);
        }
        self.trim(handle, tokens);
    }
}

impl Sequence {
    /// Tokens that a row of decoding computes beside the drafts: its newest, or those that states have to see again.
    pub(super) fn decodes(&self) -> bool {
        self.pending() == 1 || self.again
    }

    pub(super) fn forget_drafts(&mut self) {
        self.drafts.clear();
        self.unsettled = None;
    }
}
