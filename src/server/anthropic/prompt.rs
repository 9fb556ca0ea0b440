//! Messages of blocks, to messages as chat templates have them.
//!
//! The beginning of the prompt stays the same from turn to turn, which the prefix cache lives by: a block of the system prompt that
//! changes with every request and says nothing to the model is left out, and system messages stay where they are.

use crate::server::refusal::{Kind, Outcome, Refusal};
use crate::server::shape::Place;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The beginning of a block of the system prompt that is for the server's accounts.
const BILLING: &str = "x-anthropic-billing-header";

/// Content: a text, or blocks.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of blocks")]
pub(super) enum Content {
    Text(String),
    Blocks(Vec<Map<String, Value>>),
}

/// A message.
pub(super) struct Turn {
    role: String,
    content: Content,
}

impl Turn {
    /// The message of this index.
    pub fn new(at: usize, mut turn: Map<String, Value>) -> Outcome<Turn> {
        let role = place(at).need_text(&turn, "role")?.to_owned();
        let content = turn.remove("content").ok_or_else(|| place(at).wrong("has no content"))?;
        let wrong = |e| place(at).wrong(&format!("has content that is not as it should be: {e}"));
        Ok(Turn { role, content: serde_json::from_value(content).map_err(wrong)? })
    }
}

/// The messages of a prompt.
pub(super) struct Messages(pub Vec<Value>);

fn field<'a>(block: &'a Map<String, Value>, name: &str) -> &'a str {
    block.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn place(at: usize) -> Place<'static> {
    Place { field: "messages", at }
}

fn wrong(at: usize, block: &Map<String, Value>) -> Refusal {
    let kind = field(block, "type");
    let message = format!("messages.{at}: a block of type {kind:?} is nothing that this model reads; send text");
    Refusal { param: Some("messages".to_owned()), ..Refusal::new(Kind::Unprocessable, message) }
}

/// The text of blocks that are text, in a field; `refuse` makes the error for another.
fn text(content: &Content, place: Place, refuse: impl Fn(&Map<String, Value>) -> Refusal) -> Outcome<String> {
    let blocks = match content {
        Content::Text(text) => return Ok(text.clone()),
        Content::Blocks(blocks) => blocks,
    };
    let mut texts = Vec::new();
    for block in blocks {
        match place.need_text(block, "type")? {
            "text" => texts.push(place.need_text(block, "text")?),
            _ => return Err(refuse(block)),
        }
    }
    Ok(texts.join("\n"))
}

impl Messages {
    /// Of the system prompt and the turns.
    pub fn new(system: Option<Content>, turns: &[Turn]) -> Outcome<Messages> {
        let mut messages = Messages(Vec::new());
        if let Some(mut system) = system {
            if let Content::Blocks(blocks) = &mut system {
                blocks.retain(|block| !field(block, "text").starts_with(BILLING));
            }
            let text = text(&system, Place { field: "system", at: 0 }, |_| {
                Refusal::field("system", "system has a block that is not text")
            })?;
            if !text.is_empty() {
                messages.0.push(json!({"role": "system", "content": text}));
            }
        }
        let mut names = HashMap::new();
        for (at, turn) in turns.iter().enumerate() {
            match turn.role.as_str() {
                "user" => messages.user(at, &turn.content, &names)?,
                "assistant" => messages.assistant(at, &turn.content, &mut names)?,
                "system" => {
                    let content = text(&turn.content, place(at), |block| wrong(at, block))?;
                    messages.0.push(json!({"role": "system", "content": content}));
                }
                other => {
                    let message = format!("messages.{at}: the role is {other:?}; it is user, assistant or system");
                    return Err(Refusal::field("messages", message));
                }
            }
        }
        Ok(messages)
    }

    /// Results of calls become messages of their own. `names`: of the tools of calls, by id.
    fn user(&mut self, at: usize, content: &Content, names: &HashMap<String, String>) -> Outcome<()> {
        let blocks = match content {
            Content::Text(text) => {
                self.0.push(json!({"role": "user", "content": text}));
                return Ok(());
            }
            Content::Blocks(blocks) => blocks,
        };
        let mut texts: Vec<&str> = Vec::new();
        let said = |texts: &mut Vec<&str>, messages: &mut Vec<Value>| {
            if !texts.is_empty() {
                messages.push(json!({"role": "user", "content": texts.join("\n")}));
                texts.clear();
            }
        };
        for block in blocks {
            match place(at).need_text(block, "type")? {
                "text" => texts.push(place(at).need_text(block, "text")?),
                "tool_result" => {
                    said(&mut texts, &mut self.0);
                    let content = block.get("content").filter(|content| !content.is_null());
                    let content = content.map(|content| serde_json::from_value(content.clone())).transpose();
                    let content = content.map_err(|e| Refusal::field("messages", format!("messages.{at}: {e}")))?;
                    let content = content.unwrap_or(Content::Text(String::new()));
                    let id = place(at).need_text(block, "tool_use_id")?;
                    let text = text(&content, place(at), |block| wrong(at, block))?;
                    let name = names.get(id).map(String::as_str).unwrap_or_default();
                    self.0.push(json!({"role": "tool", "tool_call_id": id, "name": name, "content": text}));
                }
                _ => return Err(wrong(at, block)),
            }
        }
        said(&mut texts, &mut self.0);
        Ok(())
    }

    fn assistant(&mut self, at: usize, content: &Content, names: &mut HashMap<String, String>) -> Outcome<()> {
        let mut message = Map::new();
        message.insert("role".to_owned(), Value::from("assistant"));
        let (mut said, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
        match content {
            Content::Text(text) => said.push_str(text),
            Content::Blocks(blocks) => {
                for block in blocks {
                    match place(at).need_text(block, "type")? {
                        "text" => said.push_str(place(at).need_text(block, "text")?),
                        "thinking" => thought.push_str(place(at).need_text(block, "thinking")?),
                        // Nobody but its author reads it.
                        "redacted_thinking" => {}
                        "tool_use" => {
                            let (id, name) = (place(at).need_text(block, "id")?, place(at).need_text(block, "name")?);
                            names.insert(id.to_owned(), name.to_owned());
                            let arguments = block.get("input").cloned().unwrap_or_else(|| json!({}));
                            if !arguments.is_object() {
                                return Err(place(at).wrong("has a tool_use whose input is no object"));
                            }
                            let function = json!({"name": name, "arguments": arguments});
                            calls.push(json!({"id": id, "type": "function", "function": function}));
                        }
                        _ => return Err(wrong(at, block)),
                    }
                }
            }
        }
        let silent = said.is_empty() && !calls.is_empty();
        message.insert("content".to_owned(), if silent { Value::Null } else { Value::from(said) });
        if !thought.is_empty() {
            message.insert("reasoning".to_owned(), Value::from(thought));
        }
        if !calls.is_empty() {
            message.insert("tool_calls".to_owned(), Value::Array(calls));
        }
        self.0.push(Value::Object(message));
        Ok(())
    }
}
