//! `/v1/chat/completions`.

use super::chat_stream::ChatStream;
use super::errors;
use super::options::{self, Sending};
use super::types::{ChatLogprobs, UsageObject, finish_reason};
use crate::engine::{Engine, Info, MessageFlags, PartKind, Prompt};
use crate::limits;
use crate::server::ReasoningField;
use crate::server::answer::{Answer, Block};
use crate::server::body::{self, Fields};
use crate::server::core::{Ask, Reasoning};
use crate::server::refusal::{Outcome, Refusal};
use crate::server::state::State as Server;
use crate::server::stream;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What answers of one request begin with.
#[derive(Clone)]
pub(super) struct Head {
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
}

impl Head {
    pub fn new(id: String, model: &str) -> Head {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Head { id, created: now.as_secs(), model: model.to_owned() }
    }
}

/// Handles a request.
pub(in crate::server) async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    errors::or_response(answer(&server, request).await)
}

async fn answer(server: &Server, request: Request) -> Outcome<Response> {
    let mut fields = body::read(request).await?;
    let model = server.models.find(fields.take::<String>("model")?.as_deref())?;
    let sending = options::sending(&mut fields)?;
    let mut ask = Ask::new(vec![prompt(&mut fields)?]);
    options::sampling(&mut fields, &mut ask)?;
    options::tools(&mut fields, &mut ask)?;
    ask.constraint = options::response_format(&mut fields)?;
    logprobs(&mut fields, &mut ask)?;
    reasoning(&mut fields, &mut ask, model.engine.info())?;
    let choices = ask.choices;
    let head = Head::new(server.id("chatcmpl-"), &model.name);
    let running = ask.start(server, &model).await?;
    let Sending { stream, include_usage } = sending;
    if stream {
        let engine = model.engine.clone();
        let writer = ChatStream::new(head, engine, choices, include_usage, server.reasoning);
        return Ok(stream::response(running.begun().await?, writer));
    }
    let answers = running.answers().await?;
    Ok(Json(Completion::new(&head, &model.engine, answers, server.reasoning)).into_response())
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

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    usage: UsageObject,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

/// A call of a tool, or what is new of one.
#[derive(Debug, Serialize)]
pub(super) struct ToolCall {
    /// In streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<&'static str>,
    pub function: Function,
}

#[derive(Debug, Serialize)]
pub(super) struct Function {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub arguments: String,
}

impl ToolCall {
    fn whole(call: &Block) -> ToolCall {
        let function = Function { name: Some(call.name.clone()), arguments: call.text.clone() };
        ToolCall { index: None, id: Some(call.id.clone()), r#type: Some("function"), function }
    }
}

/// Reasoning in the field of this name: as `reasoning_content` and as `reasoning`.
pub(super) fn named(field: ReasoningField, text: Option<String>) -> (Option<String>, Option<String>) {
    match field {
        ReasoningField::ReasoningContent => (text, None),
        ReasoningField::Reasoning => (None, text),
    }
}

impl<'a> Completion<'a> {
    fn new(head: &'a Head, engine: &Engine, answers: Vec<Answer>, field: ReasoningField) -> Completion<'a> {
        let (mut usage, count) = (UsageObject::default(), answers.len());
        let choice = |(index, answer): (usize, Answer)| {
            usage.add(index, count, &answer.usage);
            let (content, reasoning) = (answer.text(PartKind::Content), answer.text(PartKind::Reasoning));
            let tool_calls: Vec<ToolCall> = answer.calls().map(ToolCall::whole).collect();
            let calls = !tool_calls.is_empty();
            let (reasoning_content, reasoning) = named(field, (!reasoning.is_empty()).then_some(reasoning));
            let content = (!calls || !content.is_empty()).then_some(content);
            let message = Message { role: "assistant", content, reasoning_content, reasoning, tool_calls };
            let logprobs = ChatLogprobs::of(engine, answer.tokens);
            Choice { index, message, logprobs, finish_reason: finish_reason(answer.finish, calls) }
        };
        let choices = answers.into_iter().enumerate().map(choice).collect();
        let Head { id, created, model } = head;
        Completion { id, object: "chat.completion", created: *created, model, choices, usage }
    }
}
