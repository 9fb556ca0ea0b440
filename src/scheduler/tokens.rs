//! The tokens of sequences: those that steps sampled, and places for those that nobody has waited for.

use super::{Scheduler, SequenceHandle, UNKNOWN};
use crate::error::{Error, Result};

impl Scheduler {
    /// Makes room for so many tokens beyond a sequence's own.
    ///
    /// # Errors
    /// `Memory`.
    pub fn reserve(&mut self, handle: SequenceHandle, tokens: usize) -> Result<()> {
        let Some(sequence) = self.sequences.get_mut(handle) else { return Ok(()) };
        let bytes = (sequence.tokens.len() as u64).saturating_add(tokens as u64) * size_of::<u32>() as u64;
        sequence.tokens.try_reserve_exact(tokens).map_err(|_| Error::memory("the tokens of a sequence", bytes))
    }

    /// Appends a sampled token; not to a sequence that has ended.
    ///
    /// # Errors
    /// `Memory`; the sequence is as it was, and may only be finished.
    pub fn append(&mut self, handle: SequenceHandle, token: u32) -> Result<()> {
        if let Some(sequence) = self.sequences.get_mut(handle).filter(|s| !s.finished) {
            let bytes = (sequence.tokens.len() as u64 + 1) * size_of::<u32>() as u64;
            sequence.tokens.try_reserve(1).map_err(|_| Error::memory("the tokens of a sequence", bytes))?;
            sequence.tokens.push(token);
            self.compare_draft(handle, token);
        }
        Ok(())
    }

    /// Appends a token that a step samples which nobody has waited for, as its `row`-th draw; the next step may compute it.
    ///
    /// # Errors
    /// As of [`Scheduler::append`].
    pub fn append_unknown(&mut self, handle: SequenceHandle, row: u32) -> Result<()> {
        self.append(handle, UNKNOWN)?;
        if let Some(sequence) = self.sequences.get_mut(handle).filter(|s| !s.finished) {
            sequence.unknown += 1;
            sequence.unknown_row = row;
        }
        Ok(())
    }

    /// The first unknown token of a sequence is known now.
    pub fn know(&mut self, handle: SequenceHandle, token: u32) {
        let Some(sequence) = self.sequences.get_mut(handle).filter(|s| s.unknown > 0) else { return };
        let at = sequence.known();
        sequence.tokens[at] = token;
        sequence.unknown -= 1;
        if sequence.is_running() {
            self.publish_pages(handle);
        }
    }

    /// Makes `text` the tokens of a sequence that is computed [alone](super::Computes::Alone), which has at least the beginning of it;
    /// the logits of its last are wanted next.
    ///
    /// # Errors
    /// As of [`Scheduler::append`].
    pub fn replace_text(&mut self, handle: SequenceHandle, text: &[u32]) -> Result<()> {
        let page_tokens = self.capacity.page_tokens;
        let Some(sequence) = self.sequences.get_mut(handle).filter(|s| !s.finished) else { return Ok(()) };
        let same = sequence.tokens.iter().zip(text).take_while(|(a, b)| a == b).count();
        sequence.tokens.truncate(same);
        sequence.chain.truncate(same / page_tokens);
        let bytes = size_of_val(text) as u64;
        sequence.tokens.try_reserve(text.len() - same).map_err(|_| Error::memory("the tokens of a sequence", bytes))?;
        sequence.tokens.extend_from_slice(&text[same..]);
        let last = text.len().saturating_sub(1);
        sequence.computed = sequence.computed.min(same).min(last);
        sequence.logits_from = last;
        sequence.matched = (u64::MAX, 0, 0);
        self.trim(handle, text.len());
        Ok(())
    }
}
