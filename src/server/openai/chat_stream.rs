//! The answer of `/v1/chat/completions` as a stream: the role, what comes, why it ended, and the counts if they are asked for.

use super::chat::{Function, Head, ToolCall, named};
use super::errors;
use super::types::{ChatLogprobs, UsageObject, finish_reason};
use crate::engine::{Event, Part, PartKind};
use crate::server::answer;
use crate::server::refusal::Refusal;
use crate::server::stream::{Out, Writer, push};
use crate::server::{EngineRef, ReasoningField};
use axum::response::sse;
use serde::Serialize;

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageObject>,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall; 1]>,
}

/// What has been sent of a choice.
#[derive(Clone, Default)]
struct Sent {
    /// Calls that have begun, and the number among the answer's calls of the last one.
    calls: usize,
    last: Option<usize>,
}

/// Writes the stream.
pub(super) struct ChatStream {
    head: Head,
    engine: EngineRef,
    field: ReasoningField,
    choices: Vec<Sent>,
    usage: UsageObject,
    include_usage: bool,
}

impl ChatStream {
    pub fn new(
        head: Head,
        engine: EngineRef,
        choices: usize,
        include_usage: bool,
        field: ReasoningField,
    ) -> ChatStream {
        let usage = UsageObject::default();
        ChatStream { head, engine, field, choices: vec![Sent::default(); choices], usage, include_usage }
    }

    fn chunk(&self, choices: Vec<Choice>, usage: Option<UsageObject>) -> Chunk<'_> {
        let Head { id, created, model } = &self.head;
        Chunk { id, object: "chat.completion.chunk", created: *created, model, choices, usage }
    }

    /// What a part has that is to be sent.
    fn delta(&mut self, choice: usize, part: &Part<'_>) -> Option<Delta> {
        let text = (!part.text.is_empty()).then(|| part.text.to_owned());
        match part.kind {
            PartKind::Content => text.map(|text| Delta { content: Some(text), ..Delta::default() }),
            PartKind::Reasoning => text.map(|text| {
                let (reasoning_content, reasoning) = named(self.field, Some(text));
                Delta { reasoning_content, reasoning, ..Delta::default() }
            }),
            PartKind::Call => {
                let sent = self.choices.get_mut(choice)?;
                let begins = part.begins && part.name.is_some();
                if begins {
                    sent.calls += 1;
                    sent.last = part.call;
                } else if sent.last != part.call || text.is_none() {
                    // Of a call whose name never came there is nothing to say.
                    return None;
                }
                let name = part.name.filter(|_| begins).map(str::to_owned);
                let call = ToolCall {
                    index: Some(sent.calls - 1),
                    id: part.id.filter(|_| begins).map(str::to_owned),
                    r#type: begins.then_some("function"),
                    function: Function { name, arguments: text.unwrap_or_default() },
                };
                Some(Delta { tool_calls: Some([call]), ..Delta::default() })
            }
        }
    }
}

impl Writer for ChatStream {
    fn begin(&mut self, out: &mut Out) {
        for index in 0..self.choices.len() {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            push(out, &self.chunk(vec![Choice { index, delta, logprobs: None, finish_reason: None }], None));
        }
    }

    fn event(&mut self, index: usize, event: &Event, out: &mut Out) {
        let mut logprobs = ChatLogprobs::of(&self.engine, answer::tokens(event));
        for part in (0..event.part_count()).filter_map(|at| event.part(at)) {
            if let Some(delta) = self.delta(index, &part) {
                let choice = Choice { index, delta, logprobs: logprobs.take(), finish_reason: None };
                push(out, &self.chunk(vec![choice], None));
            }
        }
        if logprobs.is_some() {
            let choice = Choice { index, delta: Delta::default(), logprobs, finish_reason: None };
            push(out, &self.chunk(vec![choice], None));
        }
        if event.terminal() {
            self.usage.add(index, self.choices.len(), &event.usage.unwrap_or_default());
            let calls = self.choices.get(index).is_some_and(|sent| sent.calls > 0);
            let finish_reason = Some(finish_reason(event.finish, calls));
            let choice = Choice { index, delta: Delta::default(), logprobs: None, finish_reason };
            push(out, &self.chunk(vec![choice], None));
        }
    }

    fn failed(&mut self, refusal: &Refusal, out: &mut Out) {
        push(out, &errors::body(refusal));
    }

    fn end(&mut self, out: &mut Out) {
        if self.include_usage {
            push(out, &self.chunk(Vec::new(), Some(self.usage)));
        }
        out.push_back(sse::Event::default().data("[DONE]"));
    }
}
