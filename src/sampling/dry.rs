//! DRY: a penalty on tokens that would make a repetition longer.
//!
//! Where the end of a sequence has occurred before, the token that followed there is made less likely by
//! `multiplier * base^(length - allowed_length)`, with the length of the longest such end. A repetition does not reach across a
//! sequence breaker. The penalties of the next token are known as soon as its sequence is, on the host: to a device they are
//! biases.
//!
//! After each token the lengths of all ends are updated in one pass over the window, whatever it holds; the places that have a penalty
//! are then sorted by token. Called on the engine thread; all memory is taken by [`Dry::new`] and [`Dry::reserve`].

use super::{LogitAdjustment, SamplingParams};
use crate::error::{Error, Result, copied, filled};
use crate::limits::DRY_PENALTY_MAX;
use std::sync::Arc;

/// Tokens and texts that repetitions do not reach across.
#[derive(Debug, Default, PartialEq)]
pub struct DryBreakers {
    /// Bits of the tokens that are or have one.
    tokens: Vec<u32>,
    /// Those that are several tokens.
    sequences: Vec<Vec<u32>>,
}

impl DryBreakers {
    /// Breakers from bits of tokens, bit `id % 32` of word `id / 32`, and from sequences of tokens.
    pub fn new(tokens: Vec<u32>, sequences: Vec<Vec<u32>>) -> DryBreakers {
        DryBreakers { tokens, sequences }
    }

    fn has(&self, token: u32) -> bool {
        self.tokens.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// Whether one ends with the last of these tokens.
    fn ends(&self, tokens: &[u32]) -> bool {
        tokens.last().is_some_and(|&last| self.has(last))
            || self.sequences.iter().any(|sequence| !sequence.is_empty() && tokens.ends_with(sequence))
    }
}

/// The state of a sequence with DRY.
#[derive(Debug)]
pub struct Dry {
    multiplier: f32,
    base: f32,
    allowed_length: u32,
    /// Tokens that are looked at.
    window: usize,
    breakers: Arc<DryBreakers>,
    tokens: Vec<u32>,
    /// For each token but the last how many tokens up to it are those up to the last one, which the window cuts.
    lengths: Vec<u32>,
    /// Tokens behind the last breaker.
    unbroken: usize,
    /// Token, and the longest repetition that it would make longer; ascending.
    found: Vec<(u32, u32)>,
}

impl Dry {
    /// The state after a prompt; `None` for parameters without DRY.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(params: &SamplingParams, breakers: &Arc<DryBreakers>, prompt: &[u32]) -> Result<Option<Dry>> {
        if !params.uses_dry() {
            return Ok(None);
        }
        let window = usize::try_from(params.dry_penalty_last_n).unwrap_or(usize::MAX);
        let mut dry = Dry {
            multiplier: params.dry_multiplier,
            base: params.dry_base,
            allowed_length: params.dry_allowed_length,
            window,
            breakers: breakers.clone(),
            tokens: copied("the tokens of DRY", prompt)?,
            lengths: filled("the lengths of DRY", prompt.len(), 0)?,
            unbroken: 0,
            found: Vec::new(),
        };
        let broken =
            (1..=prompt.len()).rev().find(|&end| prompt.get(..end).is_some_and(|tokens| breakers.ends(tokens)));
        dry.unbroken = prompt.len() - broken.unwrap_or(0);
        dry.compare_all();
        dry.reserve(0)?;
        dry.find();
        Ok(Some(dry))
    }

    /// Takes the memory for so many more tokens.
    ///
    /// # Errors
    /// `Memory`.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        let most = self.tokens.len().saturating_add(tokens);
        let refused = |_| Error::memory("the history of DRY", (most * 16) as u64);
        self.tokens.try_reserve(tokens).map_err(refused)?;
        self.lengths.try_reserve(tokens).map_err(refused)?;
        self.found.try_reserve(most.saturating_sub(self.found.len())).map_err(refused)
    }

    /// Where the window begins.
    fn start(&self) -> usize {
        self.tokens.len().saturating_sub(self.window)
    }

    /// The lengths of a new history: how much of its end each place repeats (the Z algorithm, from the end).
    fn compare_all(&mut self) {
        let n = self.tokens.len();
        let from_end = |index: usize| self.tokens.get(n - 1 - index);
        let mut lengths = vec![];
        std::mem::swap(&mut lengths, &mut self.lengths);
        // The part that is known to repeat the end: from `left` up to, not including, `right`, counted from the end.
        let (mut left, mut right) = (0, 0);
        for at in 1..n {
            // Of the place that `at` repeats: it was seen before.
            let known = if at < right {
                lengths.get(n - 1 - (at - left)).map_or(0, |&length| length as usize).min(right - at)
            } else {
                0
            };
            let mut length = if at < right { known } else { 0 };
            while at + length < n && from_end(length) == from_end(at + length) {
                length += 1;
            }
            if at + length > right {
                (left, right) = (at, at + length);
            }
            if let Some(slot) = lengths.get_mut(n - 1 - at) {
                *slot = length as u32;
            }
        }
        self.lengths = lengths;
    }

    /// Appends a token.
    ///
    /// # Errors
    /// `Memory`.
    pub fn push(&mut self, token: u32) -> Result<()> {
        self.reserve(1)?;
        // From the end: each length is that of the token before, with one more.
        let start = self.start();
        for at in (start..self.tokens.len()).rev() {
            let before = if at > start { self.lengths.get(at - 1).copied().unwrap_or(0) } else { 0 };
            let is_same = self.tokens.get(at) == Some(&token);
            if let Some(length) = self.lengths.get_mut(at) {
                *length = if is_same { before + 1 } else { 0 };
            }
        }
        self.tokens.push(token);
        self.lengths.push(0);
        self.unbroken = if self.breakers.ends(&self.tokens) { 0 } else { self.unbroken + 1 };
        self.find();
        Ok(())
    }

    /// Finds the tokens that would go on with a repetition. Allocates nothing: there is room for one for each token.
    fn find(&mut self) {
        self.found.clear();
        let most = u32::try_from(self.unbroken).unwrap_or(u32::MAX);
        if most < self.allowed_length {
            return;
        }
        let start = self.start();
        let next = self.tokens.iter().skip(start + 1);
        for ((&length, &token), places) in self.lengths.iter().skip(start).zip(next).zip(1u32..) {
            let length = length.min(places).min(most);
            if length >= self.allowed_length && length > 0 && !self.breakers.has(token) {
                self.found.push((token, length));
            }
        }
        self.found.sort_unstable();
        // Of one token the longest, which is the last.
        self.found.reverse();
        self.found.dedup_by_key(|found| found.0);
        self.found.reverse();
    }

    /// What is subtracted from a logit for a repetition of this length. Powers are products, of which every processor has the same.
    fn penalty(&self, length: u32) -> f32 {
        let mut penalty = f64::from(self.multiplier);
        if self.base == 1.0 {
            return penalty.min(DRY_PENALTY_MAX) as f32;
        }
        for _ in self.allowed_length..length {
            penalty *= f64::from(self.base);
            if penalty >= DRY_PENALTY_MAX || penalty < f64::from(f32::MIN_POSITIVE) {
                break;
            }
        }
        penalty.min(DRY_PENALTY_MAX) as f32
    }

    /// Appends a request's other adjustments with the penalties, ascending by token. Adds at most one entry for a token.
    pub fn merge(&self, others: &[LogitAdjustment], out: &mut Vec<LogitAdjustment>) {
        let mut found = self.found.iter().peekable();
        let entry = |&(token, length): &(u32, u32)| LogitAdjustment {
            token,
            bias: -self.penalty(length),
            ..LogitAdjustment::default()
        };
        let mut last = None;
        for other in others {
            while let Some(one) = found.next_if(|one| one.0 < other.token) {
                out.push(entry(one));
            }
            let mut other = *other;
            // The first of several has the counts, and takes the penalty.
            if last != Some(other.token)
                && let Some(one) = found.next_if(|one| one.0 == other.token)
            {
                other.bias -= self.penalty(one.1);
            }
            last = Some(other.token);
            out.push(other);
        }
        out.extend(found.map(entry));
    }

    /// The most entries that [`Dry::merge`] adds.
    pub fn entries(&self) -> usize {
        self.found.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::philox::uniform;
    use std::collections::BTreeMap;

    fn params(last_n: i32) -> SamplingParams {
        SamplingParams { dry_multiplier: 0.8, dry_penalty_last_n: last_n, ..SamplingParams::default() }
    }

    fn breakers(tokens: &[u32], sequences: &[&[u32]]) -> Arc<DryBreakers> {
        let mut bits = vec![0; 4];
        tokens.iter().for_each(|token| bits[*token as usize / 32] |= 1 << (token % 32));
        Arc::new(DryBreakers::new(bits, sequences.iter().map(|sequence| sequence.to_vec()).collect()))
    }

    /// As it is defined: every place of the window compared with the end, token by token.
    fn spec(tokens: &[u32], params: &SamplingParams, breakers: &DryBreakers) -> BTreeMap<u32, u32> {
        let window = usize::try_from(params.dry_penalty_last_n).unwrap_or(usize::MAX);
        let (all, tokens) = (tokens, &tokens[tokens.len().saturating_sub(window)..]);
        let mut longest = BTreeMap::new();
        for at in 0..tokens.len().saturating_sub(1) {
            let mut length = 0;
            while length <= at
                && tokens[at - length] == tokens[tokens.len() - 1 - length]
                && !breakers.ends(&all[..all.len() - length])
            {
                length += 1;
            }
            let next = tokens[at + 1];
            if length > 0 && length >= params.dry_allowed_length as usize && !breakers.has(next) {
                let found = longest.entry(next).or_insert(0);
                *found = u32::max(*found, length as u32);
            }
        }
        longest
    }

    #[test]
    fn penalties_are_those_of_the_definition() {
        for seed in 0..200 {
            let draw = |index: usize, below: u32| (uniform(seed, 0, index as u64, 2) * f64::from(below)) as u32;
            let few = 2 + draw(0, 4);
            let tokens: Vec<u32> = (1..120).map(|index| draw(index, few)).collect();
            let breakers = match seed % 3 {
                0 => breakers(&[], &[]),
                1 => breakers(&[1], &[]),
                _ => breakers(&[], &[&[0, 1], &[1, 1, 0]]),
            };
            let params = SamplingParams { dry_allowed_length: draw(200, 4), ..params([-1, 7, 40][seed as usize % 3]) };
            let begin = draw(300, 60) as usize;
            let mut dry = Dry::new(&params, &breakers, &tokens[..begin]).unwrap().unwrap();
            for end in begin..=tokens.len() {
                let found: BTreeMap<u32, u32> = dry.found.iter().copied().collect();
                assert_eq!(found.len(), dry.found.len(), "seed {seed}");
                assert!(dry.found.is_sorted(), "seed {seed}");
                assert_eq!(found, spec(&tokens[..end], &params, &breakers), "seed {seed}: {:?}", &tokens[..end]);
                if let Some(&token) = tokens.get(end) {
                    dry.push(token).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_penalty_grows_with_the_repetition_and_has_an_end() {
        let mut dry = Dry::new(&params(-1), &breakers(&[], &[]), &[1, 2, 3, 4, 9, 1, 2]).unwrap().unwrap();
        let told = |dry: &Dry| {
            let mut out = Vec::new();
            dry.merge(&[], &mut out);
            out.iter().map(|entry| (entry.token, entry.bias)).collect::<Vec<_>>()
        };
        assert_eq!(told(&dry), [(3, -0.8)]);
        dry.push(3).unwrap();
        assert_eq!(told(&dry), [(4, -(0.8 * 1.75))]);
        let long = SamplingParams { dry_base: 1e9, ..params(-1) };
        let dry = Dry::new(&long, &breakers(&[], &[]), &[5; 200]).unwrap().unwrap();
        assert_eq!(told(&dry), [(5, -(DRY_PENALTY_MAX as f32))]);
    }

    #[test]
    fn penalties_find_their_place_among_other_adjustments() {
        let dry = Dry::new(&params(-1), &breakers(&[], &[]), &[7, 8, 3, 7, 8, 5, 7, 8]).unwrap().unwrap();
        let other = |token, outputs, bias| LogitAdjustment { token, outputs, bias, ..LogitAdjustment::default() };
        let mut out = Vec::new();
        dry.merge(&[other(2, 0, 1.0), other(5, 2, 0.0), other(5, 0, 0.25), other(9, 1, 0.0)], &mut out);
        let told: Vec<_> = out.iter().map(|entry| (entry.token, entry.outputs, entry.bias)).collect();
        assert_eq!(told, [(2, 0, 1.0), (3, 0, -0.8), (5, 2, -0.8), (5, 0, 0.25), (9, 1, 0.0)]);
        assert_eq!(dry.entries(), 2);
    }

    #[test]
    fn without_a_multiplier_or_a_window_there_is_none() {
        let none = breakers(&[], &[]);
        assert!(Dry::new(&SamplingParams::default(), &none, &[1, 1]).unwrap().is_none());
        assert!(Dry::new(&params(0), &none, &[1, 1]).unwrap().is_none());
    }
}
