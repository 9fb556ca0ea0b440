//! `/v1/chat/completions`.

use super::chat_choices::ChatChoices;
use super::completion::{self, Asked};
use super::errors;
use super::options;
use crate::engine::{Info, MessageFlags, Prompt};
use crate::limits;
use crate::server::body::Fields;
use crate::server::core::{Ask, Reasoning};
use crate::server::models::Model;
use crate::server::refusal::{Outcome, Refusal};
use crate::server::state::State as Server;
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Handles a request.
pub(in crate::server) async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    errors::or_response(completion::answer::<ChatChoices>(&server, request, asked).await)
}

/// What the request asks for.
pub(in crate::server) fn asked(fields: &mut Fields, model: &Model) -> Outcome<Asked> {
    let sending = options::sending(fields)?;
    let mut ask = Ask::new(vec![prompt(fields)?]);
    options::sampling(fields, &mut ask)?;
    options::tools(fields, &mut ask)?;
    ask.constraint = options::response_format(fields)?;
    logprobs(fields, &mut ask)?;
    reasoning(fields, &mut ask, model.engine.info())?;
    Ok(Asked { ask, sending })
}

/// The prompt of `messages`, with the variables of the chat template.
pub(in crate::server) fn prompt(fields: &mut Fields) -> Outcome<Prompt> {
    let mut messages: Vec<Value> = fields.need("messages")?;
    let wrong = |message: String| Refusal::field("messages", message);
    if messages.is_empty() || messages.len() > limits::MESSAGES_MAX {
        return Err(wrong(format!("there are {} messages; 1 to {} are allowed", messages.len(), limits::MESSAGES_MAX)));
    }
    for (at, message) in messages.iter_mut().enumerate() {
        let role = message.get_mut("role").filter(|role| role.is_string());
        let role = role.ok_or_else(|| wrong(format!("messages[{at}] is no object with a role")))?;
        if role.as_str() == Some("developer") {
            // The newer name, which few templates know.
            *role = Value::from("system");
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

/// Whether a last message is the start of the answer.
pub(in crate::server) fn is_start(last: &Value) -> bool {
    let calls = last.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty());
    last.get("role").and_then(Value::as_str) == Some("assistant") && !calls
}

fn logprobs(fields: &mut Fields, ask: &mut Ask) -> Outcome<()> {
    let (wanted, top) = (fields.take("logprobs")?.unwrap_or(false), fields.take::<u32>("top_logprobs")?);
    if !wanted && top.unwrap_or(0) > 0 {
        return Err(Refusal::field("top_logprobs", "top_logprobs needs logprobs to be true"));
    }
    ask.options.logprobs = wanted.then(|| top.unwrap_or(0));
    Ok(())
}

/// Reads `reasoning_effort`.
fn reasoning(fields: &mut Fields, ask: &mut Ask, info: &Info) -> Outcome<()> {
    let Some(effort) = fields.take::<String>("reasoning_effort")? else { return Ok(()) };
    ask.reason(if effort == "none" { Reasoning::Off } else { Reasoning::Effort(&effort) }, info);
    Ok(())
}
