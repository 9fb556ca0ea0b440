//! The contents of a request's queue: an event that output is appended to, in preallocated memory.

use super::queue::Merged;
use crate::engine::event::{AnswerFormat, Event, EventKind, FinishReason, SpecialName};
use crate::engine::nul::Nul;
use crate::error::{Error, Result};
use crate::limits;
use std::collections::TryReserveError;
use std::ffi::c_char;

/// The capacity of a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    pub tokens: usize,
    /// Bytes of text.
    pub text: usize,
}

impl Capacity {
    /// Capacity for this many tokens and the usual length of their text.
    pub fn of(tokens: usize) -> Capacity {
        let least = limits::QUEUE_SPARE_TOKENS * limits::QUEUE_TEXT_BYTES;
        Capacity { tokens, text: tokens.saturating_mul(limits::QUEUE_TEXT_BYTES).max(least) }
    }
}

/// The most that one token can add to an event.
#[derive(Clone, Copy, Debug, Default)]
pub struct PerToken {
    /// The most bytes of text that one token usually releases from the detokenizer; 0 if the request has no text.
    pub text_max: usize,
    pub logprobs: bool,
    /// Number of alternatives (top logprobs).
    pub top: usize,
    /// The places of special tokens' names are noted.
    pub special_names: bool,
}

/// One sampled token and the text it released from the detokenizer, for the consumer.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub token: u32,
    pub text: &'a str,
    /// The token is a special one with a name in the text of the request.
    pub special_name: Option<SpecialName>,
    pub logprob: Option<f32>,
    pub top_tokens: &'a [u32],
    pub top_logprobs: &'a [f32],
}

/// How much output a request has produced since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Produced {
    pub tokens: u64,
    /// Bytes of text.
    pub bytes: u64,
}

/// Tokens that may still be pushed after the buffer reported that it is full: those of the steps in flight.
const LATE_TOKENS: usize = 4;

/// An event, and the memory reserved for more output.
#[derive(Debug)]
pub struct Buffer {
    pub event: Event,
    /// The buffer is full once it holds this much. Zero: nothing was reserved.
    room: Capacity,
}

impl Buffer {
    /// A buffer without reserved memory.
    pub fn empty(id: u64, tag: u64) -> Buffer {
        Buffer { event: Event::empty(id, tag), room: Capacity::default() }
    }

    /// The two buffers of a queue for `tokens` tokens: the one that output is pushed to, and the smaller spare that
    /// takes its place while a reader has it.
    ///
    /// # Errors
    /// `Memory`.
    pub fn pair(id: u64, tag: u64, tokens: usize, of: PerToken) -> Result<[Buffer; 2]> {
        let spare = Capacity::of(tokens.min(limits::QUEUE_SPARE_TOKENS));
        Ok([
            Buffer::grown(id, tag, Capacity::of(tokens), of)?,
            Buffer::reserved(id, tag, spare, Capacity::default(), of)?,
        ])
    }

    /// An event whose memory suffices for what a reader sees, as long as it keeps up: copying into it then allocates
    /// nothing.
    ///
    /// # Errors
    /// `Memory`.
    pub fn shown(id: u64, tag: u64, tokens: usize, of: PerToken) -> Result<Event> {
        let room = Capacity::of(tokens.min(limits::QUEUE_SPARE_TOKENS));
        Ok(Buffer::reserved(id, tag, room, Capacity::default(), of)?.event)
    }

    /// A buffer with this much room, and memory beyond it for what arrives late and for the contents of a spare buffer.
    ///
    /// # Errors
    /// `Memory`.
    pub fn grown(id: u64, tag: u64, room: Capacity, of: PerToken) -> Result<Buffer> {
        let late = LATE_TOKENS;
        let spare = Capacity::of(limits::QUEUE_SPARE_TOKENS);
        let besides = Capacity { tokens: spare.tokens + late, text: spare.text.saturating_add(late * of.text_max) };
        Buffer::reserved(id, tag, room, besides, of)
    }

    /// Reserves memory for `room`, `besides` and late tokens; the buffer is full at `room`.
    fn reserved(id: u64, tag: u64, room: Capacity, besides: Capacity, of: PerToken) -> Result<Buffer> {
        let mut event = Event::empty(id, tag);
        let tokens = room.tokens.saturating_add(besides.tokens).saturating_add(LATE_TOKENS);
        let late = of.text_max.saturating_mul(LATE_TOKENS);
        let text = if of.text_max > 0 { room.text.saturating_add(besides.text).saturating_add(late) } else { 0 };
        let top = tokens.saturating_mul(of.top);
        let logprobs = if of.logprobs { tokens } else { 0 };
        let bytes = tokens.saturating_add(logprobs).saturating_add(top.saturating_mul(2)).saturating_mul(4);
        let refused = |_| Error::memory("the event queue of a request", bytes.saturating_add(text) as u64);
        event.reserve(text, tokens, logprobs, top).map_err(refused)?;
        let names = if of.special_names { tokens.min(limits::QUEUE_SPECIAL_NAMES) } else { 0 };
        event.special_names.try_reserve(names).map_err(refused)?;
        Ok(Buffer { event, room })
    }

    /// Appends a token; `produced` includes it. Allocates only if a token releases more text than expected.
    ///
    /// # Errors
    /// `Memory`.
    pub fn push(&mut self, piece: &Piece, produced: Produced) -> Result<()> {
        let (event, top) = (&mut self.event, piece.top_tokens.len());
        let refused = |_| Error::memory("the event queue of a request", (piece.text.len() + 8 * (top + 1)) as u64);
        event.reserve(with_nul(piece.text), 1, piece.logprob.iter().len(), top).map_err(refused)?;
        event.special_names.try_reserve(piece.special_name.iter().len()).map_err(refused)?;
        event.special_names.extend(piece.special_name);
        event.text.push_str(piece.text);
        event.tokens.push(piece.token);
        event.logprobs.extend(piece.logprob);
        event.top_tokens.extend_from_slice(piece.top_tokens);
        event.top_logprobs.extend_from_slice(piece.top_logprobs);
        event.top_count = u32::try_from(top).unwrap_or(u32::MAX);
        event.ends_at(produced);
        Ok(())
    }

    /// Twice its room.
    pub fn twice(&self) -> Capacity {
        Capacity { tokens: self.room.tokens.saturating_mul(2), text: self.room.text.saturating_mul(2) }
    }
}

impl Merged for Buffer {
    type Reason = FinishReason;
    type Size = Capacity;

    fn units(&self) -> usize {
        self.event.tokens.len()
    }

    fn is_full(&self) -> bool {
        self.event.tokens.len() >= self.room.tokens || self.event.text.len() > self.room.text
    }

    fn wants(&self) -> Option<Capacity> {
        let (tokens, text) = (self.event.tokens.len(), self.event.text.len());
        let half = tokens > self.room.tokens / 2 || text > self.room.text / 2;
        (half && self.room.tokens > 0).then(|| self.twice())
    }

    fn clear(&mut self) {
        self.event.clear();
    }

    fn absorb(&mut self, from: &mut Buffer) {
        self.event.absorb(&mut from.event);
    }
}

/// Bytes to reserve when text is appended: one more for the NUL that may follow it, so that [`Event::terminate`] does
/// not allocate.
pub(in crate::engine) fn with_nul(added: &str) -> usize {
    if added.is_empty() { 0 } else { added.len() + 1 }
}

impl Event {
    /// An empty event of this request.
    pub fn empty(id: u64, tag: u64) -> Event {
        Event { request_id: id, tag, ..Event::default() }
    }

    /// Reserves memory for so many more bytes of text, tokens, log probabilities and alternatives.
    fn reserve(
        &mut self,
        text: usize,
        tokens: usize,
        logprobs: usize,
        top: usize,
    ) -> std::result::Result<(), TryReserveError> {
        self.text.try_reserve(text)?;
        self.tokens.try_reserve(tokens)?;
        self.logprobs.try_reserve(logprobs)?;
        self.top_tokens.try_reserve(top)?;
        self.top_logprobs.try_reserve(top)
    }

    /// Empties the event, but keeps its ids and memory.
    fn clear(&mut self) {
        (self.kind, self.finish, self.top_count) = (EventKind::Delta, FinishReason::None, 0);
        self.nul = Nul(false);
        self.text.clear();
        self.tokens.clear();
        self.logprobs.clear();
        self.top_tokens.clear();
        self.top_logprobs.clear();
        self.prompt_logprobs.clear();
        self.embedding.clear();
        (self.usage, self.error, self.complete) = (None, None, None);
        self.special_names.clear();
        self.parts.clear();
        self.format = AnswerFormat::Text;
    }

    /// Sets the event's position in the output; `produced` is what the request has produced including this event.
    pub(in crate::engine) fn ends_at(&mut self, produced: Produced) {
        self.first_token = produced.tokens.saturating_sub(self.tokens.len() as u64);
        self.first_byte = produced.bytes.saturating_sub(self.text.len() as u64);
    }

    /// Moves the contents of `from`, which are newer, to the end of this event.
    fn absorb(&mut self, from: &mut Event) {
        if self.tokens.is_empty() && self.text.is_empty() {
            (self.first_token, self.first_byte) = (from.first_token, from.first_byte);
        }
        if !from.tokens.is_empty() {
            self.top_count = from.top_count;
        }
        self.nul = Nul(false);
        self.text.reserve(with_nul(&from.text));
        self.text.push_str(&from.text);
        self.tokens.append(&mut from.tokens);
        self.logprobs.append(&mut from.logprobs);
        self.top_tokens.append(&mut from.top_tokens);
        self.top_logprobs.append(&mut from.top_logprobs);
        self.special_names.append(&mut from.special_names);
        self.end_like(from);
        from.clear();
    }

    /// Takes over the fields that only a terminal event has, if `from` is one.
    fn end_like(&mut self, from: &mut Event) {
        if from.terminal() {
            (self.kind, self.finish) = (from.kind, from.finish);
            self.prompt_logprobs = std::mem::take(&mut from.prompt_logprobs);
            self.embedding = std::mem::take(&mut from.embedding);
            (self.usage, self.error, self.complete) = (from.usage.take(), from.error.take(), from.complete);
        }
    }

    /// Puts a NUL after the text in memory, for [`Event::text_for_c`]. The engine's events have memory reserved for it.
    ///
    /// # Errors
    /// `Memory`.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        if !self.text.is_empty() {
            self.text.try_reserve(1).map_err(|_| Error::memory("an event", self.text.len() as u64 + 1))?;
            self.text.push('\0');
            self.text.pop();
            self.nul = Nul(true);
        }
        Ok(())
    }

    /// The start of the text, followed by a NUL that its length does not include. None if there is no NUL, because
    /// [`Event::terminate`] was not called since the text was written or copied.
    pub(crate) fn text_for_c(&self) -> Option<*const c_char> {
        match self.text.as_str() {
            "" => Some(c"".as_ptr()),
            text => self.nul.0.then(|| text.as_ptr().cast()),
        }
    }

    /// Copies the contents of `from` into memory of its own and terminates the text. What only a terminal event has is
    /// moved.
    ///
    /// # Errors
    /// `Memory`; `from` is unchanged.
    pub(in crate::engine) fn read(&mut self, from: &mut Event) -> Result<()> {
        let bytes = from.text.len() + 4 * (from.tokens.len() + from.logprobs.len() + 2 * from.top_tokens.len());
        let refused = |_| Error::memory("an event", bytes as u64);
        self.clear();
        let (tokens, logprobs, top) = (from.tokens.len(), from.logprobs.len(), from.top_tokens.len());
        self.reserve(with_nul(&from.text), tokens, logprobs, top).map_err(refused)?;
        self.text.push_str(&from.text);
        self.terminate()?;
        self.tokens.extend_from_slice(&from.tokens);
        self.logprobs.extend_from_slice(&from.logprobs);
        self.top_tokens.extend_from_slice(&from.top_tokens);
        self.top_logprobs.extend_from_slice(&from.top_logprobs);
        self.top_count = from.top_count;
        (self.first_token, self.first_byte) = (from.first_token, from.first_byte);
        self.end_like(from);
        Ok(())
    }
}
