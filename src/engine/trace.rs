//! Trace of each step, for measurements and for showing an engine at work: which rows ran, who owns which page frames, what
//! happened to requests, the prefix tree, and the time of the host.
//!
//! Without a [`Trace`] it costs one comparison per step.

use super::event::FinishReason;
use std::ops::Range;
use std::time::Duration;

/// Called on the engine thread after each step. The engine waits for it: copy what is needed and return.
pub type TraceFn = Box<dyn FnMut(&StepTrace) + Send>;

/// A trace callback and its options.
pub struct Trace {
    /// The callback.
    pub call: TraceFn,
    /// Fill in [`StepTrace::pages`], which takes time proportional to the number of page frames.
    pub pages: bool,
    /// Fill in [`StepTrace::detail`].
    pub detail: Option<DetailOptions>,
}

impl Trace {
    /// A trace of what costs nothing to know.
    pub fn new(call: TraceFn) -> Trace {
        Trace { call, pages: false, detail: None }
    }
}

/// What [`StepTrace::detail`] has. Filling it in takes time proportional to the owners of page frames. With it the callback is also
/// called, with a record without rows, when the trace is set and whenever there is nothing to compute, so that the last record
/// always shows the engine as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct DetailOptions {
    /// At least so long from one to the next; records between have none. Records without rows always have it.
    pub every: Duration,
    /// Fill in token ids.
    pub tokens: bool,
}

/// The record of one step.
#[derive(Clone, Debug, Default)]
pub struct StepTrace {
    /// Number of the step, from 1, counted since the trace was set; in a record without rows that of the last step.
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
    /// Everything else, if [`Trace::detail`] asks for it and it is due.
    pub detail: Option<Box<TraceDetail>>,
}

/// Requests, page frames and the prefix tree after a step, and what happened since the last [`TraceDetail`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceDetail {
    /// Requests that run or wait, and those that have ended and hold their pages until the next step; in no particular order.
    pub requests: Vec<TraceRequest>,
    /// The layer groups.
    pub groups: Vec<TraceGroup>,
    /// The nodes of the prefix tree, in no particular order.
    pub nodes: Vec<TraceNode>,
    /// What happened, in order, but that ends come last.
    pub events: Vec<TraceEvent>,
    /// Events for which there was no room.
    pub events_lost: u64,
    /// Token ids of requests and nodes, if they were asked for.
    pub token_ids: Vec<u32>,
}

/// A request in a [`TraceDetail`].
#[derive(Clone, Debug, PartialEq)]
pub struct TraceRequest {
    /// [`super::Request::id`].
    pub id: u64,
    /// Where it is.
    pub place: TracePlace,
    /// Its consumer is slow: it gets no rows.
    pub paused: bool,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Tokens it has, with those that were generated.
    pub tokens: usize,
    /// Tokens whose keys and values are in its pages.
    pub computed: usize,
    /// Tokens that the prefix tree had when it was first admitted.
    pub reused: usize,
    /// Times its pages were taken away.
    pub preemptions: u32,
    /// Those of its tokens that are known, in [`TraceDetail::token_ids`]; empty unless they were asked for.
    pub token_ids: Range<usize>,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracePlace {
    /// It waits for a slot or for pages, and owns none.
    Waiting,
    /// It has a slot.
    Running,
    /// It has ended, and holds its pages until the next step.
    Ended,
}

/// The page frames of a layer group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceGroup {
    /// Frames, free ones included.
    pub frames: usize,
    /// Every owner of every frame, in no particular order.
    pub owners: Vec<FrameOwner>,
}

/// An owner of a page frame. A frame may have several; one without is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameOwner {
    /// The frame.
    pub frame: u32,
    /// Who owns it.
    pub owner: TraceOwner,
    /// Which page of the owner's tokens it holds: number `index` from the first on.
    pub index: u32,
}

/// Who owns a page frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TraceOwner {
    /// A request, by id.
    Request(u64),
    /// The prefix tree, by node.
    Tree(u32),
    /// A pinned prefix, by its place among the pins; also while it is computed.
    Pin(u32),
}

/// A node of the prefix tree: one full page of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceNode {
    /// Its number, which another may have once it is gone.
    pub id: u32,
    /// The node above; 0 is the root, which is in no record.
    pub parent: u32,
    /// Tokens of its page.
    pub tokens: u32,
    /// Requests and pins that were given its page.
    pub hits: u32,
    /// The tokens, in [`TraceDetail::token_ids`]; empty unless they were asked for.
    pub token_ids: Range<usize>,
}

/// Something that happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceEvent {
    /// It got a slot: for the first time, or again after a preemption.
    Admitted {
        /// The request.
        request_id: u64,
        /// Tokens that it has.
        tokens: usize,
        /// Of these, tokens that the prefix tree had.
        reused: usize,
    },
    /// Its slot and pages were taken away.
    Preempted {
        /// The request.
        request_id: u64,
        /// Tokens that were computed.
        computed: usize,
        /// Of these, tokens whose pages are in the prefix tree, which keeps them while there is room.
        kept: usize,
    },
    /// It has ended, by itself or from outside.
    Ended {
        /// The request.
        request_id: u64,
        /// Why.
        finish: FinishReason,
        /// Tokens of its prompt.
        prompt_tokens: usize,
        /// Tokens that were generated.
        generated_tokens: usize,
    },
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
    /// Of these, drafts at the end.
    pub drafts: usize,
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
