//! What refill and preemption did, for whoever traces the steps. Kept only when it is asked for.

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

/// Notes since they were last taken.
#[derive(Debug, Default)]
pub(super) struct Journal {
    notes: Option<Vec<Note>>,
    /// Notes for which there was no room.
    lost: u64,
}

impl Journal {
    fn push(&mut self, note: Note) {
        match &mut self.notes {
            Some(notes) if notes.len() < notes.capacity() => notes.push(note),
            Some(_) => self.lost += 1,
            None => {}
        }
    }
}

impl Scheduler {
    /// Begins or ends to keep notes, and forgets those that are there.
    ///
    /// # Errors
    /// `Memory` for [`limits::TRACE_EVENTS_MAX`] notes.
    pub fn keep_notes(&mut self, keep: bool) -> Result<()> {
        let notes = if keep { Some(reserved("the events of a trace", limits::TRACE_EVENTS_MAX)?) } else { None };
        self.journal = Journal { notes, lost: 0 };
        Ok(())
    }

    /// Gives the notes since the last call to `take`, and returns how many more there were than there is room for.
    pub fn take_notes(&mut self, take: impl FnMut(Note)) -> u64 {
        self.journal.notes.iter_mut().flat_map(|notes| notes.drain(..)).for_each(take);
        std::mem::take(&mut self.journal.lost)
    }

    pub(super) fn note_admission(&mut self, handle: SequenceHandle) {
        if self.journal.notes.is_some()
            && let Some(sequence) = self.sequences.get(handle)
        {
            let (tag, tokens, reused) = (sequence.tag, sequence.tokens.len(), sequence.computed);
            self.journal.push(Note::Admitted { tag, tokens, reused });
        }
    }

    /// Before its pages are taken away.
    pub(super) fn note_preemption(&mut self, handle: SequenceHandle) {
        if self.journal.notes.is_some()
            && let Some(sequence) = self.sequences.get(handle)
        {
            let kept = sequence.tree_pages * self.capacity.page_tokens;
            self.journal.push(Note::Preempted { tag: sequence.tag, computed: sequence.computed, kept });
        }
    }

    /// Sets what the caller knows a sequence by.
    pub fn set_tag(&mut self, handle: SequenceHandle, tag: u64) {
        if let Some(sequence) = self.sequences.get_mut(handle) {
            sequence.tag = tag;
        }
    }
}
