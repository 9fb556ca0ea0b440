//! The object of `/v1/responses`, and the items of its output.

use crate::engine::{FinishReason, PartKind, Usage};
use crate::server::answer::Answer;
use crate::server::core::Ask;
use crate::server::models::Model;
use crate::server::refusal::Refusal;
use crate::server::state::State;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// What stays the same of a response while it grows.
pub(super) struct ResponseObject {
    /// What is unique to the response, of which the ids of its items are made.
    unique: String,
    /// All fields but those of its state.
    fixed: Value,
}

/// What of a request the response says again.
pub(super) struct Sent {
    pub instructions: Option<String>,
    pub tools: Value,
    pub tool_choice: Value,
}

/// An item of the output.
pub(super) struct Item {
    pub kind: PartKind,
    pub id: String,
    /// Of a call.
    pub call_id: String,
    /// Of a call.
    pub name: String,
    pub text: String,
}

impl Item {
    /// The item with this state: `in_progress`, `completed` or `incomplete`. Without text while it has just begun.
    pub fn value(&self, status: &str) -> Value {
        let Item { kind, id, call_id, name, text } = self;
        let content = if status == "in_progress" { json!([]) } else { json!([self.part()]) };
        match kind {
            PartKind::Content => {
                json!({"type": "message", "id": id, "role": "assistant", "status": status, "content": content})
            }
            PartKind::Reasoning => {
                json!({"type": "reasoning", "id": id, "status": status, "summary": [], "content": content})
            }
            PartKind::Call => json!({"type": "function_call", "id": id, "status": status, "call_id": call_id,
                "name": name, "arguments": text}),
        }
    }

    /// The only part of its content; of a call there is none.
    pub fn part(&self) -> Value {
        match self.kind {
            PartKind::Reasoning => json!({"type": "reasoning_text", "text": self.text}),
            _ => json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}),
        }
    }
}

impl ResponseObject {
    /// The answer to `ask`.
    pub fn new(server: &State, model: &Model, ask: &Ask, sent: Sent) -> ResponseObject {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Sent { instructions, tools, tool_choice } = sent;
        let unique = server.id("");
        let fixed = json!({
            "id": format!("resp_{unique}"),
            "object": "response",
            "created_at": now.as_secs(),
            "model": model.name,
            "instructions": instructions,
            "tools": tools,
            "tool_choice": tool_choice,
            "parallel_tool_calls": !ask.single_call,
            "temperature": ask.options.temperature,
            "top_p": ask.options.top_p,
            "max_output_tokens": ask.options.max_tokens,
            "previous_response_id": null,
            "metadata": {},
        });
        ResponseObject { unique, fixed }
    }

    /// A new item, the output's `index`th.
    pub fn item(&self, kind: PartKind, index: usize) -> Item {
        let prefix = match kind {
            PartKind::Content => "msg",
            PartKind::Reasoning => "rs",
            PartKind::Call => "fc",
        };
        let id = format!("{prefix}_{}_{index}", self.unique);
        Item { kind, id, call_id: String::new(), name: String::new(), text: String::new() }
    }

    /// The response while it is written.
    pub fn growing(&self) -> Value {
        self.with("in_progress", json!([]))
    }

    /// The response that failed.
    pub fn failed(&self, refusal: &Refusal) -> Value {
        let mut value = self.with("failed", json!([]));
        value["error"] = json!({"code": refusal.code.unwrap_or("server_error"), "message": refusal.message});
        value
    }

    /// The response that ended, with its output.
    pub fn ended(&self, finish: FinishReason, usage: &Usage, output: Vec<Value>) -> Value {
        let cut = finish == FinishReason::Length;
        let mut value = self.with(if cut { "incomplete" } else { "completed" }, Value::Array(output));
        if cut {
            value["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        value["usage"] = json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.generated_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": u64::from(usage.prompt_tokens) + u64::from(usage.generated_tokens),
        });
        value
    }

    /// The response of a whole answer.
    pub fn whole(&self, answer: &Answer) -> Value {
        let last = answer.blocks.len().saturating_sub(1);
        let item = |(index, block): (usize, &crate::server::answer::Block)| {
            let mut item = self.item(block.kind, index);
            (item.call_id, item.name, item.text) = (block.id.clone(), block.name.clone(), block.text.clone());
            item.value(state_of(index == last, answer.finish))
        };
        let output = answer.blocks.iter().enumerate().map(item).collect();
        self.ended(answer.finish, &answer.usage, output)
    }

    fn with(&self, status: &str, output: Value) -> Value {
        let mut value = self.fixed.clone();
        (value["status"], value["output"]) = (Value::from(status), output);
        (value["error"], value["incomplete_details"], value["usage"]) = (Value::Null, Value::Null, Value::Null);
        value
    }
}

/// The state of an item: the last one of an answer that was cut is incomplete.
pub(super) fn state_of(last: bool, finish: FinishReason) -> &'static str {
    if last && finish == FinishReason::Length { "incomplete" } else { "completed" }
}
