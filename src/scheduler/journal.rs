//! What happened, for whoever traces the steps: what refill and preemption did here, and what the engine keeps in the same way.

use super::{Scheduler, SequenceHandle};
use crate::error::{Result, reserved};
use crate::limits;

/// Something that happened to a sequence; `tag` is [`super::Sequence::tag`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// It was given a slot.
    Admitted {
        /// Of the sequence.
        tag: u64,
        /// Tokens that it has.
        tokens: usize,
        /// Of these, tokens that the prefix tree had.
        reused: usize,
    },
    /// Its slot and pages were taken away.
    Preempted {
        /// Of the sequence.
        tag: u64,
        /// Tokens that were computed.
        computed: usize,
        /// Of these, tokens whose pages are in the prefix tree, which keeps them while there is room.
        kept: usize,
    },
}

/// What happened since it was last taken, as far as there is room. Nothing is kept, and nothing takes memory, until it is asked for.
#[derive(Debug)]
pub struct Journal<T> {
    notes: Option<Vec<T>>,
    /// Notes for which there was no room.
    lost: u64,
}

impl<T> Default for Journal<T> {
    fn default() -> Journal<T> {
        Journal { notes: None, lost: 0 }
    }
}

impl<T> Journal<T> {
    /// Begins or ends to keep notes, and forgets those that are there.
    ///
    /// # Errors
    /// `Memory` for [`limits::TRACE_EVENTS_MAX`] notes.
    pub fn keep(&mut self, keep: bool) -> Result<()> {
        let notes = if keep { Some(reserved("the events of a trace", limits::TRACE_EVENTS_MAX)?) } else { None };
        *self = Journal { notes, lost: 0 };
        Ok(())
    }

    /// Keeps a note, if they are kept.
    pub fn push(&mut self, note: impl FnOnce() -> T) {
        match &mut self.notes {
            Some(notes) if notes.len() < notes.capacity() => notes.push(note()),
            Some(_) => self.lost += 1,
            None => {}
        }
    }

    /// Gives the notes since the last call to `take`, and returns how many more there were than there is room for.
    pub fn take(&mut self, take: impl FnMut(T)) -> u64 {
        self.notes.iter_mut().flat_map(|notes| notes.drain(..)).for_each(take);
        std::mem::take(&mut self.lost)
    }
}

impl Scheduler {
    /// What refill and preemption did.
    pub fn journal(&mut self) -> &mut Journal<Note> {
        &mut self.journal
    }

    pub(super) fn note_admission(&mut self, handle: SequenceHandle) {
        if let Some(sequence) = self.sequences.get(handle) {
            let (tag, tokens, reused) = (sequence.tag, sequence.tokens.len(), sequence.computed);
            self.journal.push(|| Note::Admitted { tag, tokens, reused });
        }
    }

    /// Before its pages are taken away.
    pub(super) fn note_preemption(&mut self, handle: SequenceHandle) {
        if let Some(sequence) = self.sequences.get(handle) {
            let (tag, computed) = (sequence.tag, sequence.computed);
            let kept = sequence.tree_pages * self.capacity.page_tokens;
            self.journal.push(|| Note::Preempted { tag, computed, kept });
        }
    }

    /// Sets what the caller knows a sequence by.
    pub fn set_tag(&mut self, handle: SequenceHandle, tag: u64) {
        if let Some(sequence) = self.sequences.get_mut(handle) {
            sequence.tag = tag;
        }
    }
}
