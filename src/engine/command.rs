//! What the engine thread can be asked.

use super::answer::AnswerReader;
use super::guide::Guide;
use super::host_logits::Chosen;
use super::{Answer, FinishReason, NewRequest, PrefixCommand, Trace};
use crate::error::Result;
use std::sync::Arc;
use std::time::Instant;

/// The prompt of a deferred request.
pub(super) struct ReadyPrompt {
    pub tokens: Vec<u32>,
    /// How many more tokens the context holds.
    pub room: usize,
    /// The reader of the answer, if the request does not have it.
    pub answer: Option<Box<AnswerReader>>,
    /// Of an answer with rules.
    pub guide: Option<Arc<Guide>>,
}

/// Commands to the engine thread.
pub(super) enum Command {
    Submit(Box<NewRequest>),
    /// A request whose prompt is still being prepared.
    Defer(Box<NewRequest>),
    /// The prompt of the deferred request with this id: token ids, and how many more tokens the context holds, and the reader of
    /// the answer; or an error.
    PromptReady(u64, Result<ReadyPrompt>),
    Cancel(u64, FinishReason),
    CancelAll,
    /// The host has chosen the next token of the request with this id.
    Chosen(u64, Box<Chosen>),
    /// The event queue of a paused request was read: the request with this id can continue.
    Resume(u64),
    /// Check the accounting of pages and slots, and answer.
    Check(Answer),
    /// Drop the cached pages that no request uses and no prefix pins.
    ClearCache,
    Prefix(PrefixCommand),
    /// Trace the steps with this from now on, or no more.
    SetTrace(Option<Box<Trace>>),
    /// Close: accept nothing more, and cancel the requests that still run at this time.
    Close(Instant),
    /// Test hook: panic on the engine thread.
    Panic,
}
