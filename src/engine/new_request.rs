//! A request on its way to the engine thread, and how a request ends.

use super::abilities::Embedding;
use super::guide::Guide;
use super::host_logits::Seat;
use super::{EventKind, FinishReason, Outbox, Permit, Produced, RequestOptions, Usage};
use crate::error::Error;
use crate::sampling::{DryBreakers, SamplingParams};
use crate::text::{StopFilter, TextStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request as `submit` passes it on: validated, with all defaults resolved.
pub(super) struct NewRequest {
    pub delivery: Arc<Outbox>,
    /// Its place among the requests that run or wait; given back before its terminal event, so that a caller that has
    /// read that can submit again at once.
    pub permit: Option<Permit>,
    /// Token ids; empty while the prompt of a deferred request is being prepared.
    pub prompt: Vec<u32>,
    pub params: SamplingParams,
    /// Detokenizer; `None` without a tokenizer, when nothing is generated, and after the last text.
    pub stream: Option<TextStream>,
    pub stops: StopFilter,
    /// The prompt is made of messages: the answer is read into parts.
    pub chat: bool,
    /// End-of-sequence tokens; empty when the request ignores them.
    pub eos_tokens: Vec<u32>,
    pub stop_tokens: Vec<u32>,
    /// Of a request with DRY; else there are none.
    pub dry_breakers: Arc<DryBreakers>,
    /// Of a constrained request.
    pub guide: Option<Arc<Guide>>,
    /// Of a request whose tokens the host chooses.
    pub host: Option<Seat>,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Most drafts of a step, where these are fewer than the engine's options say.
    pub draft_tokens: Option<u32>,
    pub prompt_logprobs: bool,
    /// The embedding that is asked for.
    pub embedding: Option<Embedding>,
    pub priority: i32,
    pub submitted: Instant,
    pub deadline: Option<Instant>,
}

impl NewRequest {
    /// The deadline of a request submitted at `now`; `None` when the options set none.
    pub fn deadline_of(options: &RequestOptions, now: Instant) -> Option<Instant> {
        (options.deadline_ms > 0).then(|| now.checked_add(Duration::from_millis(options.deadline_ms as u64))).flatten()
    }

    /// Sends the terminal event of a request that never ran; returns its kind as [`Outbox::finish`] does.
    pub fn finish(&mut self, end: End) -> Option<EventKind> {
        self.permit = None;
        self.host = None;
        let usage = Usage {
            prompt_tokens: self.prompt.len() as u32,
            seed: self.params.seed,
            total_us: u64::try_from(self.submitted.elapsed().as_micros()).unwrap_or(u64::MAX),
            ..Usage::default()
        };
        self.delivery.finish(end.parts(), Produced::default(), |event| event.usage = Some(usage))
    }
}

/// How a request ends.
pub(super) enum End {
    /// The request ran to its end.
    Finished(FinishReason),
    /// Ended by a cancel, a callback, a deadline or the engine's close.
    Cancelled(FinishReason),
    /// Ended by an error.
    Failed(Error),
}

impl End {
    pub fn reason(&self) -> FinishReason {
        match self {
            End::Finished(reason) | End::Cancelled(reason) => *reason,
            End::Failed(_) => FinishReason::Error,
        }
    }

    pub fn parts(self) -> (EventKind, FinishReason, Option<Error>) {
        match self {
            End::Finished(reason) => (EventKind::Finished, reason, None),
            End::Cancelled(reason) => (EventKind::Cancelled, reason, None),
            End::Failed(error) => (EventKind::Failed, FinishReason::Error, Some(error)),
        }
    }
}
