//! Sampling on the device: what each row of logits is asked for, as plain numbers, and what came of it.
//!
//! The meaning of every number is that of [`crate::sampling`], whose tokens the device gives for the same logits.

use crate::error::{Result, reserved};
use crate::limits;

/// What is done for a row of logits; as `Kind` of the kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum SamplingKind {
    /// Nothing.
    #[default]
    Idle = 0,
    /// A token is sampled.
    Sample = 1,
    /// The log probability of a given token is wanted.
    Given = 2,
}

/// What a row asks for; as `SamplingRequest` of the kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct SamplingRequest {
    /// Of the request's random stream.
    pub seed: u64,
    /// Of the token that is drawn.
    pub position: u64,
    /// 0 takes the largest.
    pub temperature: f32,
    /// Draw from the smallest set whose probability reaches this; 1 = all.
    pub top_p: f32,
    /// Draw from tokens at least this fraction as probable as the best; 0 = all.
    pub min_p: f32,
    /// Draw from that many largest; 0 = all.
    pub top_k: i32,
    /// Of tokens seen in prompt or output; 1 = none.
    pub repetition_penalty: f32,
    /// Of tokens seen in the output; 0 = none.
    pub presence_penalty: f32,
    /// Of each time; 0 = none.
    pub frequency_penalty: f32,
    /// -1: no log probability; else that of the token, and of so many most probable ones.
    pub logprobs: i32,
    /// The row's [`LogitAdjustment`]s.
    pub first_adjustment: i32,
    /// How many those are.
    pub adjustments: i32,
    /// What is done.
    pub kind: SamplingKind,
    /// Of [`SamplingKind::Given`].
    pub given: u32,
}

/// A token whose logit is changed; as `LogitAdjustment` of the kernels. A row's are in ascending order of their tokens; of several with
/// one token, all but the first give a bias alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct LogitAdjustment {
    /// The token.
    pub token: u32,
    /// Whether it stands in the prompt.
    pub in_prompt: u32,
    /// Times it stands in the output.
    pub outputs: u32,
    /// Added after the penalties.
    pub bias: f32,
    /// The device's own.
    pub raw: f32,
}

/// What a step's rows of logits are asked for.
#[derive(Clone, Debug, Default)]
pub struct SamplingRequests {
    /// One for each row of logits.
    pub rows: Vec<SamplingRequest>,
    /// Of all rows, one after the other.
    pub adjustments: Vec<LogitAdjustment>,
}

/// Where the output of a step may be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u32);

/// What was sampled in a step.
#[derive(Clone, Debug, Default)]
pub struct SamplingOutput {
    /// `[rows]`: the token of each; [`NO_TOKEN`] where none may be sampled.
    pub tokens: Vec<u32>,
    /// `[rows]`: the log probability of the token, or of the one that was given, where it was asked for.
    pub logprobs: Vec<f32>,
    /// `[rows, TOP_LOGPROBS_MAX]`: the most probable tokens, best first, where they were asked for.
    pub top_tokens: Vec<u32>,
    /// Their log probabilities.
    pub top_logprobs: Vec<f32>,
}

/// No token may be sampled.
pub const NO_TOKEN: u32 = u32::MAX;

/// A token of [`super::Step::tokens`] with this bit set is not an id: the other bits are a row of the step before, whose sampled
/// token the device puts there.
pub const FROM_LAST_STEP: u32 = 1 << 31;

/// Most [`LogitAdjustment`]s of a step: enough for any one row.
pub fn adjustments_max(vocab: usize) -> usize {
    vocab + limits::BIASES_MAX
}

impl SamplingRequests {
    /// With room for `rows` rows of `vocab` logits.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(rows: usize, vocab: usize) -> Result<SamplingRequests> {
        let what = "what is sampled of a step";
        Ok(SamplingRequests { rows: reserved(what, rows)?, adjustments: reserved(what, adjustments_max(vocab))? })
    }

    /// Empties it and keeps the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.adjustments.clear();
    }
}

impl SamplingOutput {
    /// With room for `rows` rows.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(rows: usize) -> Result<SamplingOutput> {
        let what = "what was sampled of a step";
        Ok(SamplingOutput {
            tokens: reserved(what, rows)?,
            logprobs: reserved(what, rows)?,
            top_tokens: reserved(what, rows * limits::TOP_LOGPROBS_MAX)?,
            top_logprobs: reserved(what, rows * limits::TOP_LOGPROBS_MAX)?,
        })
    }

    /// The most probable tokens of a row, and their log probabilities.
    pub fn tops(&self, row: usize, count: usize) -> (&[u32], &[f32]) {
        let at = row * limits::TOP_LOGPROBS_MAX;
        (&self.top_tokens[at..at + count], &self.top_logprobs[at..at + count])
    }
}
