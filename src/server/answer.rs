//! The answer of one choice as a whole, put together from its events.

use crate::engine::{Event, FinishReason, PartKind, Usage};

/// A part of an answer. Calls have names; those whose name never came are none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    pub kind: PartKind,
    /// Of a call.
    pub id: String,
    /// Of a call.
    pub name: String,
    /// Of a call its arguments, as JSON.
    pub text: String,
    /// Its number among the parts.
    part: usize,
}

/// A generated token, where log probabilities are asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub id: u32,
    pub logprob: f32,
    /// The most probable tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// In the order in which the model wrote them.
    pub blocks: Vec<Block>,
    pub tokens: Vec<Token>,
    /// Of a request for one.
    pub embedding: Vec<f32>,
    pub finish: FinishReason,
    pub usage: Usage,
}

impl Answer {
    /// Adds what an event has.
    pub fn add(&mut self, event: &Event) {
        for part in (0..event.part_count()).filter_map(|index| event.part(index)) {
            if part.begins && (part.kind != PartKind::Call || part.name.is_some()) {
                let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
                let (id, name) = (text(part.id), text(part.name));
                self.blocks.push(Block { kind: part.kind, id, name, text: String::new(), part: part.part });
            }
            if let Some(block) = self.blocks.last_mut().filter(|block| block.part == part.part) {
                block.text.push_str(part.text);
            }
        }
        self.tokens.extend(tokens(event));
        if event.terminal() {
            self.embedding.clone_from(&event.embedding);
            self.finish = event.finish;
            self.usage = event.usage.unwrap_or_default();
        }
    }
}

impl Answer {
    /// All text of this kind.
    pub fn text(&self, kind: PartKind) -> String {
        self.blocks.iter().filter(|block| block.kind == kind).map(|block| block.text.as_str()).collect()
    }

    /// The calls.
    pub fn calls(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.kind == PartKind::Call)
    }
}

/// The tokens of an event with their log probabilities; none where they were not asked for.
pub(super) fn tokens(event: &Event) -> impl Iterator<Item = Token> {
    let top = event.top_count as usize;
    event.tokens.iter().zip(&event.logprobs).enumerate().map(move |(at, (&id, &logprob))| {
        let range = at * top..(at + 1) * top;
        let (ids, values) = (event.top_tokens.get(range.clone()), event.top_logprobs.get(range));
        let top = ids.into_iter().flatten().copied().zip(values.into_iter().flatten().copied()).collect();
        Token { id, logprob, top }
    })
}
