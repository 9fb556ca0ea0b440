//! What a request gives: events, with their parts and the counts at the end. [`crate::ffi`] mirrors each type as a C struct.

use super::{Hold, Nul};
pub use crate::constrain::answer::{PartDelta, PartEnd, PartKind};
use crate::error::Error;

/// Why a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum FinishReason {
    /// It has not ended.
    #[default]
    None = 0,
    /// An end-of-sequence token was generated.
    Eos = 1,
    /// A stop string or stop token was generated.
    Stop = 2,
    /// `max_tokens` was reached, or the context is full.
    Length = 3,
    /// Cancelled by the caller.
    Cancel = 4,
    /// The callback asked to stop.
    Callback = 5,
    /// The deadline passed.
    Deadline = 6,
    /// The engine was closed.
    Close = 7,
    /// An error; see [`Event::error`].
    Error = 8,
}

/// Kind of an [`Event`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum EventKind {
    /// More tokens or text.
    #[default]
    Delta = 1,
    /// Terminal: the request ran to its end.
    Finished = 2,
    /// Terminal: ended by a cancel, a callback, a deadline or the engine's close.
    Cancelled = 3,
    /// Terminal: failed.
    Failed = 4,
}

/// Counts and times of a request that has ended. Times are in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, tokens taken from the prefix cache.
    pub cached_tokens: u32,
    /// Tokens generated, including those that ended the request.
    pub generated_tokens: u32,
    /// Of these, tokens of reasoning: those after which the answer stands in its reasoning.
    pub reasoning_tokens: u32,
    /// Times the request was preempted.
    pub preemptions: u32,
    /// Seed of the random stream.
    pub seed: u64,
    /// From submit to the first step.
    pub queue_us: u64,
    /// From submit to the first token.
    pub first_token_us: u64,
    /// Duration of the steps that computed the prompt.
    pub prefill_us: u64,
    /// From the first token to the end.
    pub decode_us: u64,
    /// From submit to the end.
    pub total_us: u64,
    /// Drafts that were computed.
    pub drafted_tokens: u32,
    /// Of these, tokens of the answer: so many steps fewer.
    pub accepted_tokens: u32,
}

/// Tokens of a prompt, known once the request has its first step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptCounts {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, tokens taken from the prefix cache.
    pub cached_tokens: u32,
}

/// What a request produced since its last event. The text can be that of more or fewer tokens than `tokens`: text that
/// may belong to a stop string or an incomplete character is held back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Kind.
    pub kind: EventKind,
    /// Set on terminal events.
    pub finish: FinishReason,
    /// The request.
    pub request_id: u64,
    /// The request's tag.
    pub tag: u64,
    /// New text, of whole UTF-8 characters: of a prompt made of messages the content of the answer, without reasoning and calls,
    /// unless [`super::RequestOptions::raw_text`] asks for all.
    pub text: String,
    /// What is known of the parts of the answer, in order, where it has a format; see [`Event::part`].
    pub parts: Vec<PartDelta>,
    /// Whether the answer was read into parts.
    pub format: AnswerFormat,
    /// New tokens.
    pub tokens: Vec<u32>,
    /// Log probability of each token; empty unless requested.
    pub logprobs: Vec<f32>,
    /// Number of most probable tokens reported for each token.
    pub top_count: u32,
    /// `[tokens.len()][top_count]` ids, best first.
    pub top_tokens: Vec<u32>,
    /// `[tokens.len()][top_count]` log probabilities of `top_tokens`.
    pub top_logprobs: Vec<f32>,
    /// Terminal only: log probability of each prompt token; the first is NaN.
    pub prompt_logprobs: Vec<f32>,
    /// Terminal only, of a request for an embedding that finished: the embedding.
    pub embedding: Vec<f32>,
    /// Terminal only, of a constrained request: whether the answer meets the constraint as it is. It may not where it was ended by
    /// the number of tokens, a stop string or from outside.
    pub complete: Option<bool>,
    /// Terminal only.
    pub usage: Option<Usage>,
    /// Failed only.
    pub error: Option<Error>,
    /// Number of output tokens of the request before the first of `tokens`; in an event without tokens, all so far. If
    /// it is greater than where the previous event ended, a cancel dropped the tokens in between.
    pub first_token: u64,
    /// Bytes of the request's text before `text`, likewise.
    pub first_byte: u64,
    /// For an event from [`super::Engine::next`]: withholds the request's next event.
    pub(super) hold: Hold,
    /// Whether a NUL byte follows the text in its buffer.
    pub(super) nul: Nul,
    /// In the queue: where the names of special tokens are in the answer.
    pub(super) special_names: Vec<SpecialName>,
}

impl Event {
    /// Makes the request's next event available although this one is kept; dropping the event does so, too. Only events
    /// from [`super::Engine::next`] withhold the next one; their clones do not.
    pub fn release(&mut self) {
        self.hold = Hold::default();
    }

    /// Whether this is the last event of its request.
    pub fn terminal(&self) -> bool {
        self.kind != EventKind::Delta
    }

    /// Number of parts that the event has something of.
    pub fn part_count(&self) -> usize {
        let text = !self.text.is_empty() || self.terminal() && self.first_byte > 0;
        if self.format == AnswerFormat::Text { usize::from(text) } else { self.parts.len() }
    }

    /// What the event has of a part, by an index below [`Event::part_count`]. The answer to a prompt that is not made of messages
    /// is one part, of content.
    pub fn part(&self, index: usize) -> Option<Part<'_>> {
        if self.format != AnswerFormat::Text {
            return self.parts.get(index).map(Part::of);
        }
        (index < self.part_count()).then_some(Part {
            kind: PartKind::Content,
            part: 0,
            call: None,
            begins: self.first_byte == 0,
            end: self.terminal().then_some(PartEnd::Complete),
            name: None,
            id: None,
            text: &self.text,
        })
    }
}

/// How the answer of a request is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum AnswerFormat {
    /// The prompt is not made of messages: the answer is text.
    #[default]
    Text = 0,
    /// How the model writes reasoning and calls is not known: all is content.
    Unknown = 1,
    /// It is read into reasoning, content and calls.
    Known = 2,
}

/// What an event has of a part of the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part<'a> {
    /// What it is a part of.
    pub kind: PartKind,
    /// Number of the part in the answer, from 0.
    pub part: usize,
    /// Of a call: its number among the calls, from 0.
    pub call: Option<usize>,
    /// Whether the part begins here.
    pub begins: bool,
    /// Whether the part ends here, and how.
    pub end: Option<PartEnd>,
    /// The tool's name, where a call begins. None there: the answer ended before it was known.
    pub name: Option<&'a str>,
    /// The call's id, where it begins: the model's, or one of the engine's.
    pub id: Option<&'a str>,
    /// New text of the part: of a call its arguments, as JSON.
    pub text: &'a str,
}

impl Part<'_> {
    fn of(part: &PartDelta) -> Part<'_> {
        Part {
            kind: part.kind,
            part: part.part,
            call: part.call,
            begins: part.begins,
            end: part.end,
            name: part.name.as_deref(),
            id: part.id.as_deref(),
            text: &part.text,
        }
    }
}

/// Where the name of a special token is in the text of an answer, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpecialName {
    pub at: u64,
    pub len: u32,
}
