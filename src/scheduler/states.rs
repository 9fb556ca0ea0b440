//! What a sequence keeps of groups that do not keep all: the pages of a window, and states.
//!
//! A step reads one state of a sequence and writes another, so that a state that was saved stays as it is. One is saved at the
//! end of a page where others are likely to begin: at the end of the prompt, where the tree has gone on otherwise before, and of
//! what is generated the last whole page, which a conversation goes on from. The tree keeps it with the page; when frames run out
//! the one that was not used for longest goes ([`crate::cache::PrefixTree::evict_frame`]).

use super::{Computes, Scheduler, SequenceHandle};
use crate::cache::prefix::ROOT;
use crate::cache::{Keep, NO_FRAME};
use crate::limits;

impl Scheduler {
    /// The states that the last step wrote are the current ones.
    pub(super) fn advance_states(&mut self, handle: SequenceHandle) {
        let page_tokens = self.capacity.page_tokens;
        let Some(sequence) = self.sequences.get_mut(handle) else { return };
        let end = sequence.computed;
        let generated = end > sequence.prompt_len;
        let saves = end.is_multiple_of(page_tokens) && (generated || sequence.checkpoints.contains(&end));
        let own = sequence.states.iter_mut().zip(&mut sequence.tables).zip(&mut self.pools);
        for ((states, table), pool) in own.filter(|((states, _), _)| states.next != NO_FRAME) {
            table.resize(end.div_ceil(page_tokens), NO_FRAME);
            if states.current != NO_FRAME {
                pool.release(states.current);
            }
            states.current = std::mem::replace(&mut states.next, NO_FRAME);
            if saves {
                pool.share(states.current);
                let before = states.saved.replace((end / page_tokens - 1, states.current));
                before.into_iter().for_each(|(_, frame)| pool.release(frame));
            }
        }
    }

    /// A page has entered the tree, with the states saved at its end, which `scratch` has: they are the tree's now. What the
    /// sequence saved before while it generated is of no use any more, unless somebody has branched off there.
    pub(super) fn publish_states(&mut self, handle: SequenceHandle, page: usize) {
        let page_tokens = self.capacity.page_tokens;
        let Some(sequence) = self.sequences.get_mut(handle) else { return };
        let (node, generated) = (sequence.node, (page + 1) * page_tokens > sequence.prompt_len);
        for (group, states) in sequence.states.iter_mut().enumerate() {
            if states.saved_at(page).is_none() {
                continue;
            }
            states.saved = None;
            // The tree's, if it had one there already.
            self.pools[group].release(self.scratch[group]);
            if !generated {
                continue;
            }
            let last = std::mem::replace(&mut states.last, node);
            if last != ROOT && last != node && self.tree.is_passed(last, group, &self.pools) {
                self.tree.forget(last, group, &mut self.pools);
            }
        }
    }

    /// Gives back the frames of published pages that no later token of the sequence needs.
    pub(super) fn release_passed(&mut self, handle: SequenceHandle) {
        let page_tokens = self.capacity.page_tokens;
        let Some(sequence) = self.sequences.get_mut(handle) else { return };
        let computed = sequence.computed;
        let mut passed = usize::MAX;
        for ((table, pool), group) in sequence.tables.iter_mut().zip(&mut self.pools).zip(&self.capacity.groups) {
            let Keep::Window(_) = group.keep else { continue };
            let first = match sequence.computes {
                Computes::Alone => {
                    group.keep.first_needed(computed.saturating_sub(limits::DRAFT_TOKENS_MAX), page_tokens)
                }
                _ => group.keep.first_needed(computed, page_tokens).min(sequence.tree_pages),
            };
            for frame in table.iter_mut().take(first).skip(sequence.passed).filter(|frame| **frame != NO_FRAME) {
                // Few will begin here: the ends of what was computed are worth more.
                pool.release_as_oldest(std::mem::replace(frame, NO_FRAME));
            }
            passed = passed.min(first);
        }
        if passed != usize::MAX {
            sequence.passed = sequence.passed.max(passed);
        }
    }

    /// Gives up a state that a sequence has saved for others, for want of frames; false when there is none.
    pub(super) fn drop_saved(&mut self, handle: SequenceHandle, group: usize) -> bool {
        let Some(sequence) = self.sequences.get_mut(handle) else { return false };
        let saved = sequence.states[group].saved.take();
        saved.into_iter().for_each(|(_, frame)| self.pools[group].release(frame));
        saved.is_some()
    }
}
