//! The answer of one request as its reader gets it: in parts, read from what the model wrote.
//!
//! The engine thread queues text as the model wrote it, delimiters included, and notes where the names of special tokens are. It is
//! read into parts where events are taken out of the queue, on the reader's thread: one at a time has the [`AnswerReader`], as one
//! at a time has an event of a request. What could not be given for want of memory is kept, and comes with the next event.

use super::PriorAnswer;
use super::event::{AnswerFormat, Event, EventKind, FinishReason, SpecialName};
use crate::constrain::answer::{AnswerParser, PartDelta, PartEnd, PartKind, ResponseTemplate, Tools};
use crate::error::{Error, Result};
use crate::limits;
use crate::text::{TextStream, Tokenizer};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;

/// How the answers to a chat template's prompts are read.
#[derive(Debug)]
pub(super) struct ResponseFormat {
    /// `None`: not known; all is content.
    template: Option<Arc<ResponseTemplate>>,
    /// Special tokens that its delimiters may have, in ascending order, and their names.
    special: Arc<[u32]>,
    names: Arc<[String]>,
}

impl ResponseFormat {
    /// By the model's own template, else by what the chat template contains.
    pub fn new(own: Option<&Arc<ResponseTemplate>>, chat_template: &str) -> ResponseFormat {
        let template = own.cloned().or_else(|| ResponseTemplate::known(chat_template).map(Arc::new));
        ResponseFormat { template, special: Arc::default(), names: Arc::default() }
    }

    /// Finds the special tokens of the delimiters.
    pub fn learn(&mut self, tokenizer: &Tokenizer) {
        let Some(template) = &self.template else { return };
        let found = tokenizer.special_tokens().filter(|(_, name)| template.mentions(name));
        let (ids, names): (Vec<u32>, Vec<String>) = found.map(|(id, name)| (id, name.to_owned())).unzip();
        (self.special, self.names) = (ids.into(), names.into());
    }

    /// Special tokens that have text in an answer, in ascending order.
    pub fn special(&self) -> Arc<[u32]> {
        self.special.clone()
    }

    /// How answers are written, where that is known.
    pub fn template(&self) -> Option<&Arc<ResponseTemplate>> {
        self.template.as_ref()
    }

    /// The name of the format; `None`: it is not known.
    pub fn name(&self) -> Option<&str> {
        self.template.as_deref().map(|template| template.name().unwrap_or("response_template"))
    }
}

/// What the model wrote, of an answer that has ended, for the conversation to go on with.
#[derive(Debug, Default)]
pub(super) struct Answered {
    pub parts: Vec<PartDelta>,
    /// The text, with delimiters.
    text: String,
    /// Its tokens, without one that ended it and has no text.
    tokens: Vec<u32>,
    /// The end of the prompt's text, at most [`limits::ANSWER_LEAD_BYTES`].
    lead: String,
    /// Nothing of it is missing.
    whole: bool,
    /// There was no memory to keep it, of so many bytes.
    refused: Option<u64>,
}

/// Counts the tokens of reasoning: those after which the answer stands in it. It reads the answer token by token, since events join
/// tokens as it happens to be.
struct ReasoningTokens {
    parser: AnswerParser,
    stream: TextStream,
    special: Arc<[u32]>,
    count: u32,
}

impl ReasoningTokens {
    fn add(&mut self, tokens: &[u32]) {
        let (mut text, mut parts) = (String::new(), Vec::new());
        for &token in tokens {
            // Without memory for its text a token counts where the one before stood.
            let _ = self.stream.push(token, &mut text);
            match self.special.binary_search(&token).is_ok() {
                true => self.parser.push_special(&text, &mut parts),
                false => self.parser.push(&text, &mut parts),
            }
            self.count += u32::from(self.parser.inside() == Some(PartKind::Reasoning));
            text.clear();
            parts.clear();
        }
    }
}

/// Reads the answer of one request.
pub(super) struct AnswerReader {
    parser: AnswerParser,
    format: AnswerFormat,
    /// The text of events is what the model wrote.
    raw: bool,
    request_id: u64,
    /// Text that the parser was not given.
    held: String,
    /// Bytes of the answer that were taken from events.
    taken: u64,
    /// Names of special tokens in what the parser was not given.
    names: VecDeque<SpecialName>,
    /// No name before it is still to come.
    names_from: u64,
    /// Parts that were not given to the reader, and the content among them.
    parts: Vec<PartDelta>,
    content: String,
    /// Bytes of content that were given.
    content_given: u64,
    finished: bool,
    /// A cancel dropped some of the text.
    lost: bool,
    /// A stream at its beginning, for the text of the tokens.
    stream: TextStream,
    answered: Answered,
    /// Where the format has reasoning.
    reasoning: Option<ReasoningTokens>,
    ended: bool,
}

/// What a [`AnswerReader`] is made with.
pub(super) struct AnswerOptions<'a> {
    /// The text of the prompt.
    pub prompt: &'a str,
    pub tools: Option<&'a Value>,
    /// The text of events is to be what the model wrote.
    pub raw: bool,
    pub request_id: u64,
    /// Makes text of its tokens, as it was made of them one by one.
    pub stream: TextStream,
}

impl AnswerReader {
    /// A reader of the answer to a prompt.
    pub fn new(format: &ResponseFormat, options: AnswerOptions) -> Box<AnswerReader> {
        let tools = Arc::new(options.tools.map(Tools::new).unwrap_or_default());
        let parser = || {
            let parser = AnswerParser::new(format.template.clone(), options.prompt, tools.clone());
            parser.with_special_texts(format.names.clone())
        };
        let reasons = format.template.as_deref().is_some_and(|template| template.reasoning().is_some());
        let reasoning = reasons.then(|| ReasoningTokens {
            parser: parser(),
            stream: options.stream.clone(),
            special: format.special.clone(),
            count: 0,
        });
        let mut from = options.prompt.len().saturating_sub(limits::ANSWER_LEAD_BYTES);
        while !options.prompt.is_char_boundary(from) {
            from += 1;
        }
        let lead = options.prompt.get(from..).unwrap_or_default().to_owned();
        Box::new(AnswerReader {
            parser: parser(),
            format: if format.template.is_some() { AnswerFormat::Known } else { AnswerFormat::Unknown },
            raw: options.raw,
            request_id: options.request_id,
            held: String::new(),
            taken: 0,
            names: VecDeque::new(),
            names_from: 0,
            parts: Vec::new(),
            content: String::new(),
            content_given: 0,
            finished: false,
            lost: false,
            stream: options.stream,
            answered: Answered { lead, whole: true, ..Answered::default() },
            reasoning,
            ended: false,
        })
    }

    /// Reads the text of an event, and makes ready what [`AnswerReader::give`] gives. May be called again with the same event.
    ///
    /// # Errors
    /// `Memory`; nothing is lost.
    pub fn prepare(&mut self, event: &Event) -> Result<()> {
        self.take(event).map_err(|_| Error::memory("the parts of an answer", event.text.len() as u64))?;
        self.parse(event.terminal());
        self.content.clear();
        let content = || self.parts.iter().filter(|part| part.kind == PartKind::Content);
        let bytes = content().map(|part| part.text.len()).sum::<usize>() + 1;
        let refused = |_| Error::memory("the parts of an answer", bytes as u64);
        self.content.try_reserve(bytes).map_err(refused)?;
        content().for_each(|part| self.content.push_str(&part.text));
        // A NUL follows each text, for C.
        for part in &mut self.parts {
            for text in [Some(&mut part.text), part.name.as_mut(), part.id.as_mut()].into_iter().flatten() {
                text.try_reserve(1).map_err(refused)?;
                text.push('\0');
                text.pop();
            }
        }
        Ok(())
    }

    /// Puts what was prepared into a copy of the event.
    pub fn give(&mut self, event: &mut Event) {
        if !self.raw {
            std::mem::swap(&mut event.text, &mut self.content);
            self.content.clear();
        }
        self.given(event);
    }

    /// As [`AnswerReader::give`], into an event whose memory is to stay; text that it has no room for is kept.
    pub fn give_within(&mut self, event: &mut Event) {
        if !self.raw {
            event.text.clear();
            if event.text.capacity() <= self.content.len() {
                return;
            }
            event.text.push_str(&self.content);
        }
        self.given(event);
    }

    fn given(&mut self, event: &mut Event) {
        event.format = self.format;
        event.parts.clear();
        std::mem::swap(&mut event.parts, &mut self.parts);
        if !self.raw {
            event.first_byte = self.content_given;
            self.content_given += event.text.len() as u64;
        }
        if let Some(reasoning) = &mut self.reasoning {
            reasoning.add(&event.tokens);
            if let Some(usage) = &mut event.usage {
                usage.reasoning_tokens = reasoning.count;
            }
        }
        self.keep(event);
    }

    /// Takes what is new in an event.
    fn take(&mut self, event: &Event) -> std::result::Result<(), std::collections::TryReserveError> {
        if event.first_byte > self.taken {
            (self.lost, self.taken) = (true, event.first_byte);
        }
        let skip = usize::try_from(self.taken - event.first_byte).unwrap_or(usize::MAX);
        let new = event.text.get(skip..).unwrap_or_default();
        let names = event.special_names.iter().filter(|name| name.at >= self.names_from);
        self.held.try_reserve(new.len())?;
        self.names.try_reserve(event.special_names.len())?;
        self.names.extend(names);
        self.names_from = event.special_names.last().map_or(self.names_from, |name| self.names_from.max(name.at + 1));
        self.held.push_str(new);
        self.taken += new.len() as u64;
        if self.answered.text.try_reserve(new.len()).is_ok() {
            self.answered.text.push_str(new);
        } else {
            self.answered.refused = Some(new.len() as u64);
        }
        Ok(())
    }

    /// Gives the parser what is there. `last`: there will be no more.
    fn parse(&mut self, last: bool) {
        let held = std::mem::take(&mut self.held);
        let base = self.taken - held.len() as u64;
        let mut at = 0;
        while let Some(name) = self.names.front().copied() {
            let begin = usize::try_from(name.at.saturating_sub(base)).unwrap_or(usize::MAX);
            let end = begin.saturating_add(name.len as usize);
            if name.at < base || begin < at {
                self.names.pop_front();
                continue;
            }
            if begin >= held.len() {
                break;
            }
            self.push(held.get(at..begin).unwrap_or_default(), false);
            at = begin;
            match held.get(begin..end) {
                Some(text) => {
                    self.push(text, true);
                    self.names.pop_front();
                    at = end;
                }
                // The rest of the name is to come.
                None if !last => {
                    self.held.push_str(held.get(at..).unwrap_or_default());
                    return;
                }
                None => break,
            }
        }
        self.push(held.get(at..).unwrap_or_default(), false);
        if last && !self.finished {
            self.finished = true;
            let mut parts = Vec::new();
            self.parser.finish(&mut parts);
            if self.lost {
                // What was held back is of an answer that is not whole.
                parts.retain(|part| !part.begins);
                parts.iter_mut().for_each(|part| {
                    part.text.clear();
                    part.end = part.end.map(|_| PartEnd::Unclosed);
                });
            }
            self.add(parts);
        }
    }

    /// Gives the parser text, in pieces so small that what it makes of one is small.
    fn push(&mut self, text: &str, special: bool) {
        let mut rest = text;
        while !rest.is_empty() {
            let mut at = rest.len().min(limits::ANSWER_PIECE_BYTES);
            while !rest.is_char_boundary(at) {
                at -= 1;
            }
            let (piece, next) = rest.split_at(at);
            rest = next;
            let mut parts = Vec::new();
            match special {
                true => self.parser.push_special(piece, &mut parts),
                false => self.parser.push(piece, &mut parts),
            }
            self.add(parts);
        }
    }

    /// Adds parts, those that go on joined to what they continue.
    fn add(&mut self, parts: Vec<PartDelta>) {
        for mut part in parts {
            if part.begins && part.kind == PartKind::Call && part.id.is_none() {
                part.id = Some(call_id(self.request_id, part.call.unwrap_or(0)));
            } else if !part.begins {
                // The reader knows the call by the id that it began with.
                part.id = None;
            }
            if !self.parts.last_mut().is_some_and(|open| joined(open, &part)) {
                self.parts.push(part);
            }
        }
    }

    /// Keeps what an event gave.
    fn keep(&mut self, event: &Event) {
        let answered = &mut self.answered;
        answered.whole &= !self.lost;
        let kept = answered
            .tokens
            .try_reserve(event.tokens.len())
            .and_then(|()| answered.parts.try_reserve(event.parts.len()));
        if kept.is_err() || answered.refused.is_some() {
            let bytes = 4 * (answered.tokens.len() + event.tokens.len()) + answered.text.len();
            answered.refused = Some(bytes as u64);
            return;
        }
        answered.tokens.extend_from_slice(&event.tokens);
        for part in &event.parts {
            if !answered.parts.last_mut().is_some_and(|open| joined(open, part)) {
                answered.parts.push(part.clone());
            }
        }
        if event.terminal() {
            self.ended = true;
            let at_token = matches!(event.finish, FinishReason::Eos | FinishReason::Stop);
            let cut = event.kind != EventKind::Finished;
            answered.whole &= !cut;
            // A token that ended the answer has no text, unless a delimiter has it.
            if at_token && answered.tokens.last().is_some_and(|last| !self.stream.keeps(*last)) {
                answered.tokens.pop();
            }
        }
    }

    /// The answer, after its end.
    ///
    /// # Errors
    /// `Argument` before; `Memory` when there was none to keep it.
    pub fn answered(&self) -> Result<&Answered> {
        if let Some(bytes) = self.answered.refused {
            return Err(Error::memory("an answer", bytes));
        }
        if !self.ended {
            let message =
                "the request has not ended, or its last event was not received; an answer is added when it is whole";
            return Err(Error::argument(message).about("request"));
        }
        Ok(&self.answered)
    }

    /// The answer's tokens, where they have exactly its text: not where a stop string cut it.
    ///
    /// # Errors
    /// `Memory`.
    pub fn prior(&self) -> Result<Option<PriorAnswer>> {
        let Answered { lead, text, tokens, whole, .. } = &self.answered;
        let (mut stream, mut written) = (self.stream.clone(), String::new());
        for &token in tokens {
            stream.push(token, &mut written)?;
        }
        stream.finish(&mut written)?;
        let exact = *whole && !tokens.is_empty() && written == *text;
        Ok(exact.then(|| PriorAnswer::new(lead, text, tokens)))
    }
}

/// Joins a part to the one before, if it goes on with that.
fn joined(open: &mut PartDelta, part: &PartDelta) -> bool {
    if part.begins || open.part != part.part || open.end.is_some() || open.text.try_reserve(part.text.len()).is_err() {
        return false;
    }
    open.text.push_str(&part.text);
    open.end = part.end;
    true
}

/// An id for a call to which the model gave none: nine letters and digits, as some chat templates demand, that no other call of the
/// engine has.
fn call_id(request: u64, call: usize) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const SPACE: u128 = 62u128.pow(9);
    // A number that has no factor in common with 62, so that different calls have different ids.
    let mixed = (u128::from(request) << 12 | call as u128 & 0xFFF).wrapping_mul(6_364_136_223_846_793_005) % SPACE;
    let mut rest = mixed;
    let mut digit = || {
        let digit = DIGITS.get((rest % 62) as usize).copied().unwrap_or(b'0');
        rest /= 62;
        char::from(digit)
    };
    (0..9).map(|_| digit()).collect()
}
