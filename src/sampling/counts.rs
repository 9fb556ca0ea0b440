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
#[derive(Clone, Debug, Default)]
pub struct TokenCounts {
    counts: HashMap<u32, Count>,
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
        let bytes = (self.counts.len() as u64).saturating_add(tokens as u64) * size_of::<(u32, Count)>() as u64;
        self.counts.try_reserve(tokens).map_err(|_| Error::memory("the counts of the penalties", bytes))
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
    }

    /// Occurrences of `token`.
    pub fn get(&self, token: u32) -> Count {
        self.counts.get(&token).copied().unwrap_or_default()
    }

    /// Tokens seen, each counted once.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Every token seen, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Count)> {
        self.counts.iter().map(|(&token, &count)| (token, count))
    }

    fn entry(&mut self, token: u32) -> Result<&mut Count> {
        let bytes = (self.counts.len() as u64 + 1) * size_of::<(u32, Count)>() as u64;
        self.counts.try_reserve(1).map_err(|_| Error::memory("the counts of the penalties", bytes))?;
        Ok(self.counts.entry(token).or_default())
    }
}

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
