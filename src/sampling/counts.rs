//! Which tokens a sequence has seen, for the penalties.

use crate::error::{Error, Result};
use std::collections::HashMap;

/// Occurrences of one token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// It stands in the prompt.
    pub in_prompt: bool,
    /// Times it stands in the output.
    pub output: u32,
}

/// Tokens of one sequence, prompt and output apart. Its size is that of the distinct tokens seen, not of the vocabulary.
/// A sequence whose parameters do not [use counts](super::SamplingParams::uses_counts) can leave it empty.
///
/// Invariant: `places` has each token of `counts` once, with its index there.
#[derive(Clone, Debug, Default)]
pub struct TokenCounts {
    /// In the order in which they were first seen. Gone through for every token, however much room the table below has.
    counts: Vec<(u32, Count)>,
    places: HashMap<u32, u32>,
}

impl TokenCounts {
    /// Nothing seen.
    pub fn new() -> TokenCounts {
        TokenCounts::default()
    }

    /// Marks the tokens of the prompt.
    pub fn add_prompt(&mut self, tokens: &[u32]) -> Result<()> {
        for &token in tokens {
            self.entry(token)?.in_prompt = true;
        }
        Ok(())
    }

    /// Makes room for so many different tokens more.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        let bytes = (self.counts.len() as u64).saturating_add(tokens as u64).saturating_mul(ENTRY_BYTES);
        let refused = || Error::memory("the counts of the penalties", bytes);
        self.counts.try_reserve(tokens).map_err(|_| refused())?;
        self.places.try_reserve(tokens).map_err(|_| refused())
    }

    /// Counts one generated token.
    pub fn push(&mut self, token: u32) -> Result<()> {
        let count = self.entry(token)?;
        count.output = count.output.saturating_add(1);
        Ok(())
    }

    /// Forgets everything and keeps the memory, for the next sequence.
    pub fn clear(&mut self) {
        self.counts.clear();
        self.places.clear();
    }

    /// Occurrences of `token`.
    pub fn get(&self, token: u32) -> Count {
        let place = self.places.get(&token).and_then(|&at| self.counts.get(at as usize));
        place.map_or(Count::default(), |entry| entry.1)
    }

    /// Tokens seen, each counted once.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Every token seen.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Count)> {
        self.counts.iter().copied()
    }

    fn entry(&mut self, token: u32) -> Result<&mut Count> {
        if !self.places.contains_key(&token) {
            self.reserve(1)?;
        }
        let new = u32::try_from(self.counts.len()).map_err(|_| Error::internal("more tokens than ids"))?;
        let at = *self.places.entry(token).or_insert(new);
        if at == new {
            self.counts.push((token, Count::default()));
        }
        let entry = self.counts.get_mut(at as usize).ok_or_else(|| Error::internal("a token without a count"))?;
        Ok(&mut entry.1)
    }
}

const ENTRY_BYTES: u64 = (size_of::<(u32, Count)>() + size_of::<(u32, u32)>()) as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_and_output_are_counted_apart() {
        let mut counts = TokenCounts::new();
        counts.add_prompt(&[3, 3, 9]).expect("memory");
        for token in [9, 4, 9] {
            counts.push(token).expect("memory");
        }
        assert_eq!(counts.get(3), Count { in_prompt: true, output: 0 });
        assert_eq!(counts.get(9), Count { in_prompt: true, output: 2 });
        assert_eq!(counts.get(4), Count { in_prompt: false, output: 1 });
        assert_eq!((counts.get(5), counts.iter().count()), (Count::default(), 3));
        counts.clear();
        assert_eq!(counts.iter().count(), 0);
    }
}
