//! The input of `/v1/responses`, to messages as chat templates have them.

use crate::limits;
use crate::server::late_system::text_of;
use crate::server::refusal::{Outcome, Refusal};
use crate::server::shape::Place;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A text, or the items of a conversation.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of items")]
pub(super) enum Input {
    Text(String),
    Items(Vec<Map<String, Value>>),
}

impl Default for Input {
    fn default() -> Input {
        Input::Items(Vec::new())
    }
}

/// The messages of a conversation. There is one at least: an empty input is a question, too.
pub(super) fn messages(instructions: Option<&str>, input: Input) -> Outcome<Vec<Value>> {
    let mut chat = Chat::default();
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        chat.messages.push(json!({"role": "system", "content": instructions}));
    }
    match input {
        Input::Text(text) => chat.messages.push(json!({"role": "user", "content": text})),
        Input::Items(items) => {
            if items.len() > limits::MESSAGES_MAX {
                let message = format!("there are {} items; at most {} are allowed", items.len(), limits::MESSAGES_MAX);
                return Err(Refusal::field("input", message));
            }
            for (at, item) in items.into_iter().enumerate() {
                chat.add(at, item)?;
            }
        }
    }
    if chat.messages.iter().all(|message| message["role"] == "system") {
        chat.messages.push(json!({"role": "user", "content": ""}));
    }
    Ok(chat.messages)
}

#[derive(Default)]
struct Chat {
    messages: Vec<Value>,
    /// Reasoning of the assistant's message that follows.
    thought: String,
}

impl Chat {
    fn add(&mut self, at: usize, item: Map<String, Value>) -> Outcome<()> {
        let place = Place { field: "input", at };
        let text = |name: &str| place.need_text(&item, name);
        match place.text(&item, "type")?.unwrap_or("message") {
            "message" => {
                let content = item.get("content").cloned().ok_or_else(|| place.wrong("has no content"))?;
                place.content(Some(&content))?;
                match text("role")? {
                    "assistant" => self.assistant(text_of(&content).into(), None),
                    "system" | "developer" => self.system(&content),
                    "user" => self.messages.push(json!({"role": "user", "content": content})),
                    _ => return Err(place.wrong("has a role that is not user, assistant, system or developer")),
                }
            }
            "reasoning" => {
                for name in ["content", "summary"] {
                    place.content(item.get(name))?;
                    // The summary stands for a content that is not there.
                    if self.thought.is_empty() {
                        self.thought = text_of(item.get(name).unwrap_or(&Value::Null));
                    }
                }
            }
            "function_call" => {
                let function = json!({"name": text("name")?, "arguments": text("arguments")?});
                let call = json!({"id": text("call_id")?, "type": "function", "function": function});
                self.assistant(Value::Null, Some(call));
            }
            "function_call_output" => {
                place.content(item.get("output"))?;
                let (id, output) = (text("call_id")?, text_of(item.get("output").unwrap_or(&Value::Null)));
                let name = self.name_of(id);
                self.messages.push(json!({"role": "tool", "tool_call_id": id, "name": name, "content": output}));
            }
            "item_reference" => {
                let message = format!("input[{at}] refers to an item, and none is stored here; send the item");
                return Err(Refusal::field("input", message));
            }
            // What other servers' own tools did, which says nothing to this model.
            _ => {}
        }
        Ok(())
    }

    /// System messages at the beginning become one, for most templates take one there.
    fn system(&mut self, content: &Value) {
        let text = text_of(content);
        match self.messages.as_mut_slice() {
            [only] if only["role"] == "system" => {
                only["content"] = Value::from([only["content"].as_str().unwrap_or_default(), "\n\n", &text].concat());
            }
            _ => self.messages.push(json!({"role": "system", "content": text})),
        }
    }

    /// A call joins the message that it follows.
    fn assistant(&mut self, content: Value, call: Option<Value>) {
        if let (Some(call), true) = (&call, self.thought.is_empty())
            && let Some(last) = self.messages.last_mut().filter(|last| last["role"] == "assistant")
        {
            match last.get_mut("tool_calls").and_then(Value::as_array_mut) {
                Some(calls) => calls.push(call.clone()),
                None => last["tool_calls"] = json!([call]),
            }
            return;
        }
        let mut message = json!({"role": "assistant", "content": content});
        if !self.thought.is_empty() {
            message["reasoning"] = Value::from(std::mem::take(&mut self.thought));
        }
        if let Some(call) = call {
            message["tool_calls"] = json!([call]);
        }
        self.messages.push(message);
    }

    fn name_of(&self, id: &str) -> Value {
        let calls = self.messages.iter().rev().filter_map(|message| message.get("tool_calls")?.as_array());
        let mut calls = calls.flatten();
        calls.find(|call| call["id"] == id).map_or(Value::from(""), |call| call["function"]["name"].clone())
    }
}
