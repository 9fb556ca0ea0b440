//! The choices of `/v1/chat/completions`: whole, and in a stream the role, what comes, and why it ended.

use super::completion::Choices;
use super::types::{ChatLogprobs, finish_reason};
use crate::engine::{Event, FinishReason, Part, PartKind};
use crate::server::answer::{self, Answer, Block};
use crate::server::models::Model;
use crate::server::state::State as Server;
use crate::server::{EngineRef, ReasoningField};
use serde::Serialize;

/// A choice: with a message as a whole, with a delta in a stream.
#[derive(Serialize)]
pub(super) struct Choice {
    index: usize,
    #[serde(flatten)]
    said: Said,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Message(Message),
    Delta(Delta),
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    #[serde(flatten)]
    reasoning: Reasoning,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(flatten)]
    reasoning: Reasoning,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall; 1]>,
}

/// Reasoning, in the field that the server has it in.
#[derive(Default, Serialize)]
struct Reasoning {
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
}

impl Reasoning {
    fn new(field: ReasoningField, text: String) -> Reasoning {
        let text = (!text.is_empty()).then_some(text);
        match field {
            ReasoningField::ReasoningContent => Reasoning { reasoning_content: text, reasoning: None },
            ReasoningField::Reasoning => Reasoning { reasoning_content: None, reasoning: text },
        }
    }
}

/// A call of a tool, or what is new of one.
#[derive(Serialize)]
struct ToolCall {
    /// In streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Function,
}

#[derive(Serialize)]
struct Function {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl ToolCall {
    fn whole(call: &Block) -> ToolCall {
        let function = Function { name: Some(call.name.clone()), arguments: call.text.clone() };
        ToolCall { index: None, id: Some(call.id.clone()), r#type: Some("function"), function }
    }
}

/// What has been sent of a choice.
#[derive(Clone, Default)]
struct Sent {
    /// Calls that have begun, and the number among the answer's calls of the last one.
    calls: usize,
    last: Option<usize>,
}

/// Writes the choices.
pub(super) struct ChatChoices {
    engine: EngineRef,
    field: ReasoningField,
    sent: Vec<Sent>,
}

impl ChatChoices {
    /// What a part has that is to be sent.
    fn delta(&mut self, choice: usize, part: &Part<'_>) -> Option<Delta> {
        let text = (!part.text.is_empty()).then(|| part.text.to_owned());
        match part.kind {
            PartKind::Content => text.map(|text| Delta { content: Some(text), ..Delta::default() }),
            PartKind::Reasoning => {
                text.map(|text| Delta { reasoning: Reasoning::new(self.field, text), ..Delta::default() })
            }
            PartKind::Call => {
                let sent = self.sent.get_mut(choice)?;
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

fn chunk(index: usize, delta: Delta, logprobs: Option<ChatLogprobs>, finish: Option<&'static str>) -> Choice {
    Choice { index, said: Said::Delta(delta), logprobs, finish_reason: finish }
}

impl Choices for ChatChoices {
    const ID: &str = "chatcmpl-";
    const OBJECTS: [&str; 2] = ["chat.completion", "chat.completion.chunk"];
    type Choice = Choice;

    fn new(server: &Server, model: &Model, count: usize) -> ChatChoices {
        ChatChoices { engine: model.engine.clone(), field: server.reasoning, sent: vec![Sent::default(); count] }
    }

    fn whole(&self, index: usize, answer: Answer) -> Choice {
        let (content, reasoning) = (answer.text(PartKind::Content), answer.text(PartKind::Reasoning));
        let tool_calls: Vec<ToolCall> = answer.calls().map(ToolCall::whole).collect();
        let calls = !tool_calls.is_empty();
        let content = (!calls || !content.is_empty()).then_some(content);
        let message =
            Message { role: "assistant", content, reasoning: Reasoning::new(self.field, reasoning), tool_calls };
        let logprobs = ChatLogprobs::of(&self.engine, answer.tokens);
        Choice {
            index,
            said: Said::Message(message),
            logprobs,
            finish_reason: Some(finish_reason(answer.finish, calls)),
        }
    }

    fn begin(&mut self, index: usize) -> Option<Choice> {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
        Some(chunk(index, delta, None, None))
    }

    fn event(&mut self, index: usize, event: &Event) -> Vec<Choice> {
        let mut logprobs = ChatLogprobs::of(&self.engine, answer::tokens(event));
        let mut all = Vec::new();
        for part in (0..event.part_count()).filter_map(|at| event.part(at)) {
            if let Some(delta) = self.delta(index, &part) {
                all.push(chunk(index, delta, logprobs.take(), None));
            }
        }
        if logprobs.is_some() {
            all.push(chunk(index, Delta::default(), logprobs, None));
        }
        if event.finish != FinishReason::None {
            let calls = self.sent.get(index).is_some_and(|sent| sent.calls > 0);
            all.push(chunk(index, Delta::default(), None, Some(finish_reason(event.finish, calls))));
        }
        all
    }
}
