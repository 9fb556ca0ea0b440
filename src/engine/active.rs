//! A request on the engine thread: its sampling state, its text, its end.

use super::adjustments::LogitAdjustments;
use super::api::{EventKind, FinishReason, RequestOptions, Usage};
use super::delivery::{Dispatch, Outbox, PerToken, Piece, Produced, with_nul};
use crate::cache::SequenceHandle;
use crate::error::{Error, Result, Status};
use crate::limits;
use crate::sampling::{SamplingParams, TokenCounts};
use crate::text::{StopFilter, TextStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request as `submit` hands it over: everything checked, all defaults resolved.
pub(super) struct NewRequest {
    pub delivery: Arc<Outbox>,
    pub prompt: Vec<u32>,
    pub params: SamplingParams,
    pub stream: Option<TextStream>,
    pub stops: StopFilter,
    /// Tokens that end the sequence; empty when they are to be ignored.
    pub eos_tokens: Vec<u32>,
    pub stop_tokens: Vec<u32>,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    pub prompt_logprobs: bool,
    pub priority: i32,
    pub submitted: Instant,
    pub deadline: Option<Instant>,
}

impl NewRequest {
    /// When the request must have ended.
    pub fn deadline_of(options: &RequestOptions, now: Instant) -> Option<Instant> {
        (options.deadline_ms > 0).then(|| now.checked_add(Duration::from_millis(options.deadline_ms as u64))).flatten()
    }

    /// Sends the terminal event of a request that never ran; its kind, as [`Outbox::finish`] gives it.
    pub fn finish(&self, end: End, dispatch: &Dispatch) -> Option<EventKind> {
        let usage = Usage {
            prompt_tokens: self.prompt.len() as u32,
            seed: self.params.seed,
            total_us: u64::try_from(self.submitted.elapsed().as_micros()).unwrap_or(u64::MAX),
            ..Usage::default()
        };
        self.delivery.finish(dispatch, end.parts(), Produced::default(), |event| event.usage = Some(usage))
    }
}

/// A request that the scheduler knows.
pub(super) struct Active {
    pub request: NewRequest,
    pub handle: SequenceHandle,
    /// For the penalties: of a host that samples, or of a device that does.
    pub counts: TokenCounts,
    pub adjustments: LogitAdjustments,
    on_device: bool,
    pub generated: usize,
    /// Tokens sampled by steps that have not been waited for.
    pub ahead: usize,
    pub prompt_logprobs: Vec<f32>,
    pub admitted: Option<Instant>,
    pub first_token: Option<Instant>,
    pub prefill: Duration,
    /// It is counted among the engine's pending requests.
    pub counted: bool,
    /// Bytes of text so far, dropped ones included.
    text_bytes: u64,
    /// Reused for each token.
    text: String,
    filtered: String,
}

/// One sampled token on its way to the consumer.
pub(super) struct Token<'a> {
    pub id: u32,
    pub logprob: Option<f32>,
    pub top_tokens: &'a [u32],
    pub top_logprobs: &'a [f32],
}

impl Active {
    /// `on_device`: tokens are sampled there.
    pub fn new(request: NewRequest, handle: SequenceHandle, on_device: bool) -> Result<Active> {
        let mut counts = TokenCounts::new();
        if request.params.uses_counts() {
            counts.add_prompt(&request.prompt)?;
        }
        let adjustments =
            if on_device { LogitAdjustments::new(&request.params, &counts)? } else { LogitAdjustments::default() };
        let mut prompt_logprobs = Vec::new();
        if request.prompt_logprobs {
            let bytes = request.prompt.len() as u64 * 4;
            prompt_logprobs
                .try_reserve_exact(request.prompt.len())
                .map_err(|_| Error::memory("prompt logprobs", bytes))?;
            prompt_logprobs.push(f32::NAN);
        }
        Ok(Active {
            request,
            handle,
            counts,
            adjustments,
            on_device,
            generated: 0,
            ahead: 0,
            prompt_logprobs,
            admitted: None,
            first_token: None,
            prefill: Duration::ZERO,
            counted: true,
            text_bytes: 0,
            text: String::new(),
            filtered: String::new(),
        })
    }

    /// Makes room for all that the request's tokens will need, so that no step has to.
    ///
    /// # Errors
    /// `Memory`.
    pub fn reserve(&mut self, vocab: usize) -> Result<()> {
        let request = &mut self.request;
        let most = request.max_tokens;
        if request.params.uses_counts() {
            let different = most.min(vocab);
            if self.on_device { self.adjustments.reserve(different)? } else { self.counts.reserve(different)? }
        }
        let text_max = if request.stream.is_some() { limits::TOKEN_TEXT_BYTES + request.stops.held_max() } else { 0 };
        let refused = |_| Error::memory("the text of a request", text_max as u64);
        self.text.try_reserve(text_max).map_err(refused)?;
        self.filtered.try_reserve(text_max).map_err(refused)?;
        request.stops.reserve(text_max)?;
        if let Some(stream) = &mut request.stream {
            stream.reserve(text_max)?;
        }
        let top = request.params.logprobs.map_or(0, |n| (n as usize).min(limits::TOP_LOGPROBS_MAX));
        let of = PerToken { text_max, logprobs: request.params.logprobs.is_some(), top };
        request.delivery.reserve(most, of)
    }

    fn produced(&self) -> Produced {
        Produced { tokens: self.generated as u64, bytes: self.text_bytes }
    }

    /// Takes in a sampled token: text, stops, queue. Says why the request ends, if it does, and whether its queue is
    /// full.
    pub fn accept(&mut self, token: Token, dispatch: &Dispatch) -> Result<(Option<FinishReason>, bool)> {
        self.generated += 1;
        self.first_token.get_or_insert_with(Instant::now);
        if self.request.params.uses_counts() {
            if self.on_device { self.adjustments.push(token.id)? } else { self.counts.push(token.id)? }
        }
        self.text.clear();
        self.filtered.clear();
        let mut finish = None;
        if self.request.eos_tokens.contains(&token.id) {
            finish = Some(FinishReason::Eos);
        } else if self.request.stop_tokens.contains(&token.id) {
            finish = Some(FinishReason::Stop);
        } else if let Some(stream) = &mut self.request.stream {
            stream.push(token.id, &mut self.text)?;
            if self.request.stops.push(&self.text, &mut self.filtered) {
                finish = Some(FinishReason::Stop);
                self.request.stream = None;
            }
        }
        if finish.is_none() && self.generated >= self.request.max_tokens {
            finish = Some(FinishReason::Length);
        }
        if finish.is_some() {
            self.flush()?;
        }
        self.text_bytes += self.filtered.len() as u64;
        let piece = Piece {
            token: token.id,
            text: &self.filtered,
            logprob: token.logprob,
            top_tokens: token.top_tokens,
            top_logprobs: token.top_logprobs,
        };
        let full = self.request.delivery.push(dispatch, &piece, self.produced())?;
        Ok((finish, full))
    }

    /// What the stream and the stop filter still hold becomes certain; after a completed stop nothing does.
    fn flush(&mut self) -> Result<()> {
        let Some(mut stream) = self.request.stream.take() else { return Ok(()) };
        self.text.clear();
        stream.finish(&mut self.text)?;
        if !self.request.stops.push(&self.text, &mut self.filtered) {
            self.request.stops.finish(&mut self.filtered);
        }
        Ok(())
    }

    /// Sends the terminal event; its kind, as [`Outbox::finish`] gives it. `history`: preemptions, and tokens taken from the
    /// prefix tree.
    pub fn finish(&mut self, end: End, history: (u32, usize), dispatch: &Dispatch) -> Option<EventKind> {
        let now = Instant::now();
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let since = |t: Option<Instant>| t.map_or(0, |t| micros(t.duration_since(self.request.submitted)));
        let usage = Usage {
            prompt_tokens: self.request.prompt.len() as u32,
            cached_tokens: history.1 as u32,
            generated_tokens: self.generated as u32,
            preemptions: history.0,
            seed: self.request.params.seed,
            queue_us: since(self.admitted),
            first_token_us: since(self.first_token),
            prefill_us: micros(self.prefill),
            decode_us: self.first_token.map_or(0, |t| micros(now.duration_since(t))),
            total_us: micros(now.duration_since(self.request.submitted)),
        };
        let prompt_logprobs = std::mem::take(&mut self.prompt_logprobs);
        let end = end.parts();
        // Text held back for a stop that never came belongs to the reader, unless the reader turned away.
        let wanted = matches!(end.1, FinishReason::Length | FinishReason::Deadline | FinishReason::Close);
        self.filtered.clear();
        if wanted && self.request.stream.is_some() && self.flush().is_err() {
            self.filtered.clear();
        }
        let rest = &self.filtered;
        let mut after = self.produced();
        after.bytes += rest.len() as u64;
        self.request.delivery.finish(dispatch, end, after, |event| {
            // It may be longer than there is room for, and a NUL may have to follow.
            if event.text.try_reserve(with_nul(rest)).is_ok() {
                event.text.push_str(rest);
            } else {
                let error = Error::memory("the text of a request", rest.len() as u64);
                (event.kind, event.finish, event.error) = (EventKind::Failed, FinishReason::Error, Some(error));
            }
            event.prompt_logprobs = prompt_logprobs;
            event.usage = Some(usage);
        })
    }
}

/// How a request ends.
pub(super) enum End {
    /// By itself.
    Finished(FinishReason),
    /// From outside.
    Cancelled(FinishReason),
    /// By an error.
    Failed(Error),
}

impl End {
    pub fn parts(self) -> (EventKind, FinishReason, Option<Error>) {
        match self {
            End::Finished(reason) => (EventKind::Finished, reason, None),
            End::Cancelled(reason) => (EventKind::Cancelled, reason, None),
            End::Failed(error) => (EventKind::Failed, FinishReason::Error, Some(error)),
        }
    }
}

/// The error every request of an engine gets when its thread panicked.
pub(super) fn panicked() -> Error {
    Error::new(
        Status::Internal,
        "the engine thread failed because of a defect in the library; the engine takes no more requests: close it and open it again",
    )
}
