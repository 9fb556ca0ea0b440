//! What a device is asked to sample, and what it sampled, as plain numbers. Every device samples the same tokens from the same
//! logits.

use crate::error::{Result, reserved};
use crate::limits;

/// What is computed from a row of logits. Matches `Kind` in the device code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum SamplingKind {
    /// Nothing: the row's output is not used.
    #[default]
    Idle = 0,
    /// Sample a token.
    Sample = 1,
    /// Compute the log probability of [`SamplingRequest::given`], e.g. of a prompt token.
    Given = 2,
    /// Nothing but the logits, which the host reads.
    Host = 3,
}

/// Sampling parameters of one row of logits. Same layout as `SamplingRequest` in the device code.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct SamplingRequest {
    /// Seed of the request's random stream.
    pub seed: u64,
    /// Absolute position of the sampled token in its sequence; selects the random number of the stream.
    pub position: u64,
    /// Temperature; 0 = greedy, the token with the largest logit.
    pub temperature: f32,
    /// Top-p: sample from the smallest set of most probable tokens with at least this total probability; 1 = off.
    pub top_p: f32,
    /// Min-p: sample from tokens with at least this fraction of the largest probability; 0 = off.
    pub min_p: f32,
    /// Top-k: sample from this many tokens with the largest logits; 0 = off.
    pub top_k: i32,
    /// Divides positive and multiplies negative logits of tokens in the prompt or the output; 1 = off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of each token that occurs in the output; 0 = off.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once for each of its occurrences in the output; 0 = off.
    pub frequency_penalty: f32,
    /// -1 = compute no log probabilities; otherwise that of the token, and of this many most probable tokens.
    pub logprobs: i32,
    /// Index in [`SamplingRequests::adjustments`] of the row's first entry.
    pub first_adjustment: i32,
    /// Number of the row's entries.
    pub adjustments: i32,
    /// What is computed for the row.
    pub kind: SamplingKind,
    /// The token whose log probability is computed with [`SamplingKind::Given`].
    pub given: u32,
    /// Which of [`SamplingRequests::masks`] says what may be sampled, plus one; 0 = all tokens.
    pub mask: u32,
    /// XTC: of the tokens that are left with at least this probability, all but the least likely are removed if there are several;
    /// 0 = off. Whether a token's draw has it is up to the host.
    pub xtc_threshold: f32,
}

/// A change to the logit of one token. Same layout as `LogitAdjustment` in the device code. The entries of a row are
/// sorted by token; if several have the same token, only the first may have counts, and the biases of all are added.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct LogitAdjustment {
    /// Token id.
    pub token: u32,
    /// 1 if the token occurs in the prompt, otherwise 0.
    pub in_prompt: u32,
    /// Number of occurrences in the output.
    pub outputs: u32,
    /// Added to the logit after the penalties.
    pub bias: f32,
    /// Used by the device to keep the unadjusted logit while it samples; the value from the host is ignored.
    pub raw: f32,
}

/// The sampling requests of the rows of logits of a step.
#[derive(Clone, Debug, Default)]
pub struct SamplingRequests {
    /// One for each row of logits.
    pub rows: Vec<SamplingRequest>,
    /// The entries of all rows, concatenated.
    pub adjustments: Vec<LogitAdjustment>,
    /// Masks over the vocabulary, each of [`mask_words`] words: bit `id % 32` of word `id / 32` is set where the id may be sampled.
    pub masks: Vec<u32>,
}

/// Words of a mask over a vocabulary.
pub const fn mask_words(vocab: usize) -> usize {
    vocab.div_ceil(32)
}

/// The sampling results of one step.
#[derive(Clone, Debug, Default)]
pub struct SamplingOutput {
    /// `[rows]`: sampled token; [`NO_TOKEN`] where no token may be sampled. Undefined unless the row asked for a token.
    pub tokens: Vec<u32>,
    /// `[rows]`: log probability of the sampled or given token. Undefined unless the row asked for it.
    pub logprobs: Vec<f32>,
    /// `[rows, TOP_LOGPROBS_MAX]`: most probable tokens, in descending order; empty if no row asked for any. Entries
    /// that a row did not ask for are undefined.
    pub top_tokens: Vec<u32>,
    /// Log probabilities of `top_tokens`.
    pub top_logprobs: Vec<f32>,
}

/// Returned as the token of a row in which no token may be sampled.
pub const NO_TOKEN: u32 = u32::MAX;

/// As [`NO_TOKEN`], where the row has no finite logit inside the vocabulary mask. Devices that cannot tell return [`NO_TOKEN`].
pub const NO_FINITE_LOGIT: u32 = u32::MAX - 1;

/// Capacity of [`SamplingRequests::adjustments`]: enough for any single row.
pub fn adjustments_max(vocab: usize) -> usize {
    vocab + limits::BIASES_MAX
}

impl SamplingRequests {
    /// An empty list with capacity for `rows` rows of `vocab` logits.
    ///
    /// # Errors
    /// `Memory` when the lists cannot be allocated.
    pub fn new(rows: usize, vocab: usize) -> Result<SamplingRequests> {
        let what = "what is sampled of a step";
        Ok(SamplingRequests {
            rows: reserved(what, rows)?,
            adjustments: reserved(what, adjustments_max(vocab))?,
            masks: reserved(what, rows.saturating_mul(mask_words(vocab)))?,
        })
    }

    /// Bytes that `new` reserves.
    pub fn bytes(rows: usize, vocab: usize) -> u64 {
        let adjustments = (adjustments_max(vocab) as u64).saturating_mul(size_of::<LogitAdjustment>() as u64);
        let row = size_of::<SamplingRequest>().saturating_add(mask_words(vocab).saturating_mul(size_of::<u32>()));
        adjustments.saturating_add((rows as u64).saturating_mul(row as u64))
    }

    /// Clears all lists and keeps their capacity.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.adjustments.clear();
        self.masks.clear();
    }

    /// The mask of a request over a vocabulary; `None` when it has none.
    pub fn mask(&self, request: &SamplingRequest, vocab: usize) -> Option<&[u32]> {
        let (index, words) = (request.mask.checked_sub(1)? as usize, mask_words(vocab));
        self.masks.get(index * words..(index + 1) * words)
    }
}

impl SamplingOutput {
    /// An empty output with capacity for `rows` rows.
    ///
    /// # Errors
    /// `Memory` when the lists cannot be allocated.
    pub fn new(rows: usize) -> Result<SamplingOutput> {
        let what = "what was sampled of a step";
        Ok(SamplingOutput {
            tokens: reserved(what, rows)?,
            logprobs: reserved(what, rows)?,
            top_tokens: reserved(what, rows * limits::TOP_LOGPROBS_MAX)?,
            top_logprobs: reserved(what, rows * limits::TOP_LOGPROBS_MAX)?,
        })
    }

    /// Bytes that `new` reserves.
    pub fn bytes(rows: usize) -> u64 {
        let row = (1 + limits::TOP_LOGPROBS_MAX) * (size_of::<u32>() + size_of::<f32>());
        (rows as u64).saturating_mul(row as u64)
    }

    /// Gives it this many rows, with `top` also lists of most probable tokens.
    pub fn resize(&mut self, rows: usize, top: bool) {
        let top = if top { rows * limits::TOP_LOGPROBS_MAX } else { 0 };
        self.tokens.resize(rows, NO_TOKEN);
        self.logprobs.resize(rows, 0.0);
        self.top_tokens.resize(top, NO_TOKEN);
        self.top_logprobs.resize(top, 0.0);
    }

    /// Replaces it by another one's rows, for which it has room.
    pub fn copy_from(&mut self, other: &SamplingOutput) {
        fn replace<T: Copy>(to: &mut Vec<T>, from: &[T]) {
            to.clear();
            to.extend_from_slice(from);
        }
        replace(&mut self.tokens, &other.tokens);
        replace(&mut self.logprobs, &other.logprobs);
        replace(&mut self.top_tokens, &other.top_tokens);
        replace(&mut self.top_logprobs, &other.top_logprobs);
    }

    /// The `count` most probable tokens of a row and their log probabilities.
    pub fn tops(&self, row: usize, count: usize) -> (&[u32], &[f32]) {
        let at = row * limits::TOP_LOGPROBS_MAX;
        (&self.top_tokens[at..at + count], &self.top_logprobs[at..at + count])
    }
}
