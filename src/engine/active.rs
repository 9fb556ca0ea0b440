//! A request on the engine thread: sampling state, text, terminal event.

use super::delivery::{PerToken, Piece, with_nul};
use super::event::SpecialName;
use super::request_drafts::RequestDrafts;
use super::{End, EventKind, FinishReason, NewRequest, Produced, Usage};
use crate::cache::SequenceHandle;
use crate::error::{Error, Result, reserved};
use crate::limits;
use crate::model::embedding::Pooled;
use crate::sampling::{Dry, LogitAdjustments};
use std::time::{Duration, Instant};

/// A request that has a sequence in the scheduler.
pub(super) struct Active {
    pub request: NewRequest,
    pub handle: SequenceHandle,
    /// Penalties and biases, as the device reads them.
    pub adjustments: LogitAdjustments,
    /// Of a request with DRY.
    pub dry: Option<Dry>,
    /// Its part in speculation, if it has one; from its admission on.
    pub drafts: Option<RequestDrafts>,
    /// Tokens generated whose values are known.
    pub generated: usize,
    /// Unknown tokens at the end of the sequence, sampled by steps that are not finished.
    pub ahead: usize,
    /// The host has the logits of the next token.
    pub with_host: bool,
    /// The newest token of a constrained request, delivered, which joins the sequence once its guide is ready.
    pub held: Option<u32>,
    /// How a constrained request ends once its guide is ready, which says whether the answer is complete.
    pub ending: Option<FinishReason>,
    /// A stop string cut the text.
    cut: bool,
    /// Log probabilities of the prompt tokens so far, the first one NaN; empty unless requested.
    pub prompt_logprobs: Vec<f32>,
    /// Of a request for an embedding: the hidden states so far, and what was made of them.
    pub pooled: Option<Pooled>,
    pub vector: Vec<f32>,
    /// When the request had its first row.
    pub admitted: Option<Instant>,
    pub first_token: Option<Instant>,
    /// Time of the steps that had prefill rows of the request.
    pub prefill: Duration,
    /// Bytes of text produced so far, including text that a cancel dropped.
    text_bytes: u64,
    /// Bytes of text that the detokenizer gave.
    detokenized: u64,
    /// Text of the current token, before the stop filter; reused.
    text: String,
    /// Text that the current token releases, after the stop filter; reused.
    filtered: String,
}

/// What happened to the sequence of a request.
#[derive(Clone, Copy, Default)]
pub(super) struct History {
    pub preemptions: u32,
    /// Prompt tokens found in the prefix cache.
    pub cached: usize,
    /// Drafts computed for it, and those of them that were what was sampled.
    pub drafted: u64,
    pub accepted: u64,
}

impl Active {
    /// The state of a request that was just given a sequence.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(request: NewRequest, handle: SequenceHandle) -> Result<Active> {
        let adjustments = LogitAdjustments::new(&request.params, &request.prompt)?;
        let dry = Dry::new(&request.params, &request.dry_breakers, &request.prompt)?;
        let mut prompt_logprobs = Vec::new();
        if request.prompt_logprobs {
            prompt_logprobs = reserved("prompt logprobs", request.prompt.len())?;
            prompt_logprobs.push(f32::NAN);
        }
        let pooled = match &request.embedding {
            Some(embedding) => Some(embedding.embedder.begin(request.prompt.len())?),
            None => None,
        };
        Ok(Active {
            request,
            handle,
            adjustments,
            dry,
            drafts: None,
            generated: 0,
            ahead: 0,
            with_host: false,
            held: None,
            ending: None,
            cut: false,
            prompt_logprobs,
            pooled,
            vector: Vec::new(),
            admitted: None,
            first_token: None,
            prefill: Duration::ZERO,
            text_bytes: 0,
            detokenized: 0,
            text: String::new(),
            filtered: String::new(),
        })
    }

    /// Reserves the memory that the output of the request will need, so that its steps allocate nothing.
    ///
    /// # Errors
    /// `Memory`.
    pub fn reserve(&mut self, vocab: usize) -> Result<()> {
        let request = &mut self.request;
        let most = request.max_tokens;
        if request.params.uses_counts() {
            let different = most.min(vocab);
            self.adjustments.reserve(different)?;
        }
        if let Some(dry) = &mut self.dry {
            dry.reserve(most)?;
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
        let special_names = request.chat;
        let of = PerToken { text_max, logprobs: request.params.logprobs.is_some(), top, special_names };
        request.delivery.reserve(most, of)
    }

    /// Tokens and bytes of text produced so far.
    fn produced(&self) -> Produced {
        Produced { tokens: self.generated as u64, bytes: self.text_bytes }
    }

    /// Processes a sampled token, which comes without text: updates penalties and text, checks the stop conditions, appends to the event queue.
    /// Returns the finish reason, if the token ends the request, and whether the event queue is full.
    ///
    /// # Errors
    /// `Memory`.
    pub fn accept(&mut self, sampled: Piece) -> Result<(Option<FinishReason>, bool)> {
        self.generated += 1;
        self.first_token.get_or_insert_with(Instant::now);
        if self.request.params.uses_counts() {
            self.adjustments.push(sampled.token)?;
        }
        if let Some(dry) = &mut self.dry {
            dry.push(sampled.token)?;
        }
        self.text.clear();
        self.filtered.clear();
        let mut finish = None;
        if self.request.eos_tokens.contains(&sampled.token) {
            finish = Some(FinishReason::Eos);
        } else if self.request.stop_tokens.contains(&sampled.token) {
            finish = Some(FinishReason::Stop);
        }
        let mut special_name = None;
        if let Some(stream) = &mut self.request.stream
            && (finish.is_none() || stream.keeps(sampled.token))
        {
            stream.push(sampled.token, &mut self.text)?;
            self.detokenized += self.text.len() as u64;
            let name = stream.special_name(sampled.token).filter(|name| self.request.chat && self.text.ends_with(name));
            special_name =
                name.map(|name| SpecialName { at: self.detokenized - name.len() as u64, len: name.len() as u32 });
            if self.request.stops.push(&self.text, &mut self.filtered) {
                finish = finish.or(Some(FinishReason::Stop));
                self.request.stream = None;
                self.cut = true;
            }
        }
        if finish.is_none() && self.generated >= self.request.max_tokens {
            finish = Some(FinishReason::Length);
        }
        if finish.is_some() {
            self.flush()?;
        }
        self.text_bytes += self.filtered.len() as u64;
        let piece = Piece { text: &self.filtered, special_name, ..sampled };
        let full = self.request.delivery.push(&piece, self.produced())?;
        Ok((finish, full))
    }

    /// Appends to `filtered` the text that the detokenizer and the stop filter still hold back. After a completed stop
    /// string there is none.
    fn flush(&mut self) -> Result<()> {
        let Some(mut stream) = self.request.stream.take() else { return Ok(()) };
        self.text.clear();
        stream.finish(&mut self.text)?;
        if !self.request.stops.push(&self.text, &mut self.filtered) {
            self.request.stops.finish(&mut self.filtered);
        }
        Ok(())
    }

    /// Gives the request's place back and sends the terminal event; returns its kind as
    /// [`Outbox::finish`](super::Outbox::finish) does. `history`: what the scheduler knows of its sequence.
    pub fn finish(&mut self, end: End, history: History) -> Option<EventKind> {
        // Before the terminal event: whoever has read that can submit again at once.
        self.request.permit = None;
        self.request.host = None;
        let now = Instant::now();
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let since = |t: Option<Instant>| t.map_or(0, |t| micros(t.duration_since(self.request.submitted)));
        let usage = Usage {
            prompt_tokens: self.request.prompt.len() as u32,
            cached_tokens: history.cached as u32,
            generated_tokens: self.generated as u32,
            // Counted where the answer is read into parts.
            reasoning_tokens: 0,
            preemptions: history.preemptions,
            drafted_tokens: history.drafted as u32,
            accepted_tokens: history.accepted as u32,
            seed: self.request.params.seed,
            queue_us: since(self.admitted),
            first_token_us: since(self.first_token),
            prefill_us: micros(self.prefill),
            decode_us: self.first_token.map_or(0, |t| micros(now.duration_since(t))),
            total_us: micros(now.duration_since(self.request.submitted)),
        };
        let prompt_logprobs = std::mem::take(&mut self.prompt_logprobs);
        let embedding = std::mem::take(&mut self.vector);
        let complete = self.request.guide.as_ref().map(|guide| !self.cut && guide.is_complete());
        let end = end.parts();
        // Text held back because it might begin a stop string is delivered, unless the caller cancelled or an error
        // occurred.
        let wanted = matches!(end.1, FinishReason::Length | FinishReason::Deadline | FinishReason::Close);
        self.filtered.clear();
        if wanted && self.request.stream.is_some() && self.flush().is_err() {
            self.filtered.clear();
        }
        let rest = &self.filtered;
        let mut after = self.produced();
        after.bytes += rest.len() as u64;
        self.request.delivery.finish(end, after, |event| {
            // The text may be longer than the room reserved for it, and a NUL may have to follow it.
            if event.text.try_reserve(with_nul(rest)).is_ok() {
                event.text.push_str(rest);
            } else {
                let error = Error::memory("the text of a request", rest.len() as u64);
                (event.kind, event.finish, event.error) = (EventKind::Failed, FinishReason::Error, Some(error));
            }
            event.prompt_logprobs = prompt_logprobs;
            event.embedding = embedding;
            event.complete = complete;
            event.usage = Some(usage);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Slots;
    use crate::engine::delivery::Destination;
    use crate::engine::{Engine, EngineOptions, LogLevel, Permit, Prompt, PromptPart, RequestOptions, Sink};
    use std::path::Path;
    use std::sync::atomic::Ordering;

    /// Whoever has read the terminal event finds the request's place free, though the engine thread still has the
    /// request.
    #[test]
    fn the_place_of_a_request_is_free_before_its_terminal_event() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller");
        let options = EngineOptions { threads: 1, log_level: LogLevel::Off, ..EngineOptions::default() };
        let engine = Engine::open(&dir, options).unwrap();
        let tokens = vec![5, 6];
        let prompt = Prompt { parts: vec![PromptPart::Tokens(tokens.clone())], ..Prompt::default() };
        let (options, pending) = (RequestOptions::default(), &engine.shared.pending);
        let to = Destination { sink: Sink::Pull, events: engine.shared.dispatch.completions.clone() };
        let mut request = engine.new_request(&prompt, &options, tokens, Instant::now(), to, false).unwrap();
        request.permit = Some(Permit::take(pending, 1).unwrap());
        let handle = Slots::new(1).unwrap().insert(()).unwrap();
        let mut active = Active::new(request, handle).unwrap();
        assert_eq!(pending.load(Ordering::SeqCst), 1);
        let kind = active.finish(End::Finished(FinishReason::Length), History::default());
        assert_eq!((kind, pending.load(Ordering::SeqCst)), (Some(EventKind::Finished), 0));
        assert!(active.request.delivery.is_finished());
    }
}
