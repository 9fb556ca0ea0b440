//! The messages of `/v1/chat/completions`, as chat templates have them.

use crate::engine::{MessageFlags, Prompt};
use crate::limits;
use crate::server::body::Fields;
use crate::server::refusal::{Outcome, Refusal};
use crate::server::shape::Place;
use serde_json::{Map, Value};

/// The prompt of `messages`, with the variables of the chat template.
pub(in crate::server) fn prompt(fields: &mut Fields) -> Outcome<Prompt> {
    let mut messages: Vec<Value> = fields.need("messages")?;
    if messages.is_empty() || messages.len() > limits::MESSAGES_MAX {
        let message = format!("there are {} messages; 1 to {} are allowed", messages.len(), limits::MESSAGES_MAX);
        return Err(Refusal::field("messages", message));
    }
    for (at, message) in messages.iter_mut().enumerate() {
        check(Place { field: "messages", at }, message)?;
        if message["role"] == "developer" {
            // The newer name, which few templates know.
            message["role"] = Value::from("system");
        }
    }
    let continued = fields.take::<bool>("continue_final_message")?;
    let flags = match messages.last() {
        Some(last) if continued.unwrap_or_else(|| is_start(last)) => {
            let mut flags = vec![MessageFlags::default(); messages.len()];
            if let Some(last) = flags.last_mut() {
                last.continued = true;
            }
            flags
        }
        _ => Vec::new(),
    };
    let variables: Map<String, Value> = fields.take("chat_template_kwargs")?.unwrap_or_default();
    Ok(Prompt { messages, message_flags: flags, variables, ..Prompt::default() })
}

/// Checks the fields that templates read.
fn check(place: Place, message: &Value) -> Outcome<()> {
    let message = place.object(message)?;
    place.need_text(message, "role")?;
    place.content(message.get("content"))?;
    for name in ["name", "tool_call_id", "reasoning", "reasoning_content"] {
        place.text(message, name)?;
    }
    let calls = match message.get("tool_calls") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(calls)) => calls,
        Some(_) => return Err(place.wrong("has tool_calls that are no list")),
    };
    for call in calls {
        let function = call.get("function").and_then(Value::as_object);
        let function = function.ok_or_else(|| place.wrong("has a call without a function"))?;
        place.need_text(function, "name")?;
        if !matches!(function.get("arguments"), None | Some(Value::Null | Value::String(_) | Value::Object(_))) {
            return Err(place.wrong("has a call whose arguments are neither a text nor an object"));
        }
        place.text(place.object(call)?, "id")?;
    }
    Ok(())
}

/// Whether a last message is the start of the answer.
pub(in crate::server) fn is_start(last: &Value) -> bool {
    let calls = last.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty());
    last.get("role").and_then(Value::as_str) == Some("assistant") && !calls
}
