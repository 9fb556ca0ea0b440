//! Trace of each step, for measurements: which rows ran, how the page frames were used, and the time of the host.
//!
//! Without a [`Trace`] it costs one comparison per step.

use std::time::Duration;

/// Called on the engine thread after each step. The engine waits for it: copy what is needed and return.
pub type TraceFn = Box<dyn FnMut(&StepTrace) + Send>;

/// A trace callback and its options.
pub struct Trace {
    /// The callback.
    pub call: TraceFn,
    /// Fill in [`StepTrace::pages`], which takes time proportional to the number of page frames.
    pub pages: bool,
}

/// The record of one step.
#[derive(Clone, Debug, Default)]
pub struct StepTrace {
    /// Number of the step, from 1.
    pub step: u64,
    /// Steps in flight when this one had been submitted, itself included.
    pub in_flight: usize,
    /// The rows of the step, in batch order.
    pub rows: Vec<TraceRow>,
    /// Page frames owned by sequences or pins, over all layer groups.
    pub pages_used: usize,
    /// Page frames owned by the prefix cache only, over all layer groups.
    pub pages_cached: usize,
    /// Free page frames, over all layer groups.
    pub pages_free: usize,
    /// Tokens that the used page frames have room for.
    pub token_places: usize,
    /// Tokens that the used page frames hold.
    pub tokens_held: usize,
    /// Use of each page frame of the first layer group, by frame; empty unless [`Trace::pages`] is set.
    pub pages: Vec<PageUse>,
    /// Time the engine thread spent on scheduling, submitting and delivering. Waiting for a GPU is left out; computation
    /// on the CPU is included.
    pub host: Duration,
}

/// Consecutive tokens of one request in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceRow {
    /// [`super::Request::id`]; 0 for a row of a pinned prefix, and for one that a `schedule_fn` adds for a request that has ended.
    pub request_id: u64,
    /// Position of the first token.
    pub first: usize,
    /// Number of tokens.
    pub count: usize,
    /// Prefill row: prompt tokens or recomputed ones, not one newly sampled token.
    pub prefill: bool,
}

/// Use of a page frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageUse {
    /// Not in use.
    #[default]
    Free,
    /// Owned by the prefix cache or pins only.
    Cached,
    /// Owned by one request, given by id.
    Used(u64),
    /// Shared by several requests.
    Shared,
}
