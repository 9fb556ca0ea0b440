//! Pages for running sequences: from the pool, from the prefix tree, from pins, at last from each other.

use super::{Computes, Scheduler, SequenceHandle, State};
use crate::cache::prefix::ROOT;
use crate::cache::{Keep, NO_FRAME};

impl Scheduler {
    /// Sets what a sequence computes itself; before its first step. One that is computed at once has no more tokens than a step.
    pub fn set_computes(&mut self, handle: SequenceHandle, computes: Computes) {
        if let Some(sequence) = self.sequences.get_mut(handle) {
            debug_assert!(computes != Computes::AtOnce || sequence.pending() <= self.capacity.step_tokens);
            sequence.computes = computes;
        }
    }

    /// Makes the tables cover `count` more tokens, preempting others for the first of them; returns for how many that
    /// succeeded.
    pub(super) fn grow(&mut self, handle: SequenceHandle, count: usize) -> usize {
        let page_tokens = self.capacity.page_tokens;
        loop {
            let sequence = self.sequences.get_mut(handle).expect("scheduled sequences exist");
            let target = sequence.computed + count;
            let own = sequence.tables.iter_mut().zip(&mut sequence.states);
            for (group, ((table, states), pool)) in own.zip(&mut self.pools).enumerate() {
                match self.capacity.groups[group].keep {
                    Keep::State if states.next == NO_FRAME => states.next = pool.alloc().unwrap_or(NO_FRAME),
                    Keep::State => {}
                    Keep::All | Keep::Window(_) => {
                        while table.len() * page_tokens < target {
                            let Some(page) = pool.alloc() else { break };
                            table.push(page);
                        }
                    }
                }
            }
            let computed = sequence.computed;
            let covered = (0..self.pools.len()).map(|group| self.covers(handle, group)).min().unwrap_or(0);
            // Whoever is short gets what nobody uses.
            let found = covered < target
                && (0..self.pools.len()).any(|group| {
                    let is_short = self.covers(handle, group) < target;
                    is_short && (self.tree.evict_frame(group, &mut self.pools) || self.drop_saved(handle, group))
                });
            if found {
                continue;
            }
            if covered > computed {
                self.trim(handle, covered.min(target));
                return count.min(covered - computed);
            }
            let victim = self.victim(handle);
            if victim.is_none_or(|v| v == handle) && self.is_last_hope(handle) && self.take_pinned_page() {
                continue;
            }
            match victim {
                Some(victim) => {
                    self.preempt(victim);
                    if victim == handle {
                        return 0;
                    }
                }
                None => {
                    self.trim(handle, computed + 1);
                    return 0;
                }
            }
        }
    }

    /// For how many tokens a sequence has what a group has to keep.
    fn covers(&self, handle: SequenceHandle, group: usize) -> usize {
        let Some(sequence) = self.sequences.get(handle) else { return 0 };
        match self.capacity.groups[group].keep {
            Keep::State if sequence.states[group].next == NO_FRAME => sequence.computed,
            Keep::State => usize::MAX,
            Keep::All | Keep::Window(_) => sequence.tables[group].len() * self.capacity.page_tokens,
        }
    }

    /// Gives back pages beyond so many tokens, which a group got while another was short.
    pub(super) fn trim(&mut self, handle: SequenceHandle, tokens: usize) {
        let pages = tokens.div_ceil(self.capacity.page_tokens);
        let Some(sequence) = self.sequences.get_mut(handle) else { return };
        for (table, pool) in sequence.tables.iter_mut().zip(&mut self.pools) {
            while table.len() > pages {
                table.pop().into_iter().filter(|&page| page != NO_FRAME).for_each(|page| pool.release(page));
            }
        }
    }

    /// Who gives way to `handle`: a paused sequence if there is one, else the last in rank that does not rank before
    /// `handle`; possibly itself, never one that has a row in this step already.
    fn victim(&self, handle: SequenceHandle) -> Option<SequenceHandle> {
        let own = self.sequences.get(handle)?.rank;
        let mut last = None;
        for &other in self.running.iter().rev() {
            let Some(sequence) = self.sequences.get(other) else { continue };
            let holds_pages = sequence.tables.iter().any(|t| !t.is_empty());
            if !holds_pages || sequence.scheduled == self.step || sequence.finished {
                continue;
            }
            if sequence.paused {
                return Some(other);
            }
            if last.is_none() && sequence.rank >= own {
                last = Some(other);
            }
            if last.is_some() && self.paused_running == 0 {
                break;
            }
        }
        last
    }

    /// Takes slot and pages away; the sequence waits at its rank's place and is computed again.
    pub(super) fn preempt(&mut self, handle: SequenceHandle) {
        self.counters.preemptions += 1;
        self.note_preemption(handle);
        self.leave_slot(handle);
        if let Some(sequence) = self.sequences.get_mut(handle) {
            sequence.preemptions += 1;
        }
        self.enqueue(handle);
    }

    /// Ends the stay in the queue or in a slot.
    pub(super) fn leave_slot(&mut self, handle: SequenceHandle) {
        let Some(sequence) = self.sequences.get(handle) else { return };
        let State::Running(slot) = sequence.state else { return };
        if let Ok(at) = self.place_of(sequence.rank) {
            self.running.remove(at);
        }
        self.slots.remove(slot);
        self.tree.detach(sequence.node);
        self.paused_running -= usize::from(sequence.paused);
        let Some(sequence) = self.sequences.get_mut(handle) else { return };
        sequence.state = State::Waiting;
        (sequence.node, sequence.tree_pages, sequence.computed, sequence.passed) = (ROOT, 0, 0, 0);
        sequence.forget_drafts();
        sequence.again = false;
        for ((table, states), pool) in sequence.tables.iter_mut().zip(&mut sequence.states).zip(&mut self.pools) {
            table.drain(..).filter(|&page| page != NO_FRAME).for_each(|page| pool.release(page));
            std::mem::take(states).frames().for_each(|frame| pool.release(frame));
        }
    }
}
