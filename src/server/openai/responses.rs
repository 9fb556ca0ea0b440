//! `/v1/responses`. Nothing is stored: each request has the whole conversation.

use super::errors;
use super::options::{self, tool_choice};
use super::response_input::{self, Input};
use super::response_object::{ResponseObject, Sent};
use super::response_stream::ResponseStream;
use crate::constrain;
use crate::engine::Prompt;
use crate::limits;
use crate::server::body::{self, Fields, Read};
use crate::server::core::{Ask, Reasoning};
use crate::server::late_system;
use crate::server::models::Model;
use crate::server::refusal::{Outcome, Refusal};
use crate::server::shape::Place;
use crate::server::state::State as Server;
use crate::server::stream;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

#[derive(Default, Deserialize)]
struct ReasoningField {
    effort: Option<String>,
}

#[derive(Default, Deserialize)]
struct TextField {
    format: Option<Format>,
}

#[derive(Deserialize)]
struct Format {
    r#type: String,
    schema: Option<Value>,
}

/// What a request asks for.
pub(in crate::server) struct Asked {
    pub ask: Ask,
    stream: bool,
    sent: Sent,
}

/// `POST /v1/responses`.
pub(in crate::server) async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    errors::or_response(answer(&server, request).await)
}

#[derive(Serialize)]
struct Count {
    object: &'static str,
    input_tokens: usize,
}

/// `POST /v1/responses/input_tokens`: the tokens that the same request would have as a prompt.
pub(in crate::server) async fn count(State(server): State<Arc<Server>>, request: Request) -> Response {
    let answer = async {
        let Read { model, value: Asked { ask, .. }, .. } = body::read(&server, request, asked).await?;
        let input_tokens = ask.count(&server, model).await?;
        Ok(Json(Count { object: "response.input_tokens", input_tokens }).into_response())
    };
    errors::or_response(answer.await)
}

async fn answer(server: &Arc<Server>, request: Request) -> Outcome<Response> {
    let Read { model, value: Asked { ask, stream, sent }, long } = body::read(server, request, asked).await?;
    let object = ResponseObject::new(server, &model, &ask, sent);
    let running = ask.start(server, &model, long).await?;
    if stream {
        return Ok(stream::response(running.begun().await?, ResponseStream::new(object)));
    }
    let answer = running.answers().await?.into_iter().next().unwrap_or_default();
    Ok(Json(object.whole(&answer)).into_response())
}

/// What the request asks for.
pub(in crate::server) fn asked(fields: &mut Fields, model: &Model) -> Outcome<Asked> {
    if fields.take::<String>("previous_response_id")?.is_some() {
        let message = "responses are not stored here; send the whole conversation as input";
        return Err(Refusal::field("previous_response_id", message));
    }
    let instructions: Option<String> = fields.take("instructions")?;
    let input = fields.take::<Input>("input")?.unwrap_or_default();
    let messages = response_input::messages(instructions.as_deref(), input)?;
    let messages = late_system::settle(model.late_system, messages);
    let mut ask = Ask::new(vec![Prompt { messages, ..Prompt::default() }]);
    let options = &mut ask.options;
    options.max_tokens = fields.take("max_output_tokens")?.or(options.max_tokens);
    options.temperature = fields.take("temperature")?.or(options.temperature);
    options.top_p = fields.take("top_p")?.or(options.top_p);
    let (tools, tool_choice) = tools(fields, &mut ask)?;
    ask.constraint = format(fields)?;
    let effort = fields.take_object::<ReasoningField>("reasoning")?.and_then(|reasoning| reasoning.effort);
    if let Some(effort) = effort {
        ask.reason(if effort == "none" { Reasoning::Off } else { Reasoning::Effort(&effort) }, model.engine.info());
    }
    let stream = options::sending(fields)?.stream;
    // What is long would be sent three times and more.
    let most = limits::SERVER_ECHO_BYTES_MAX;
    let instructions = instructions.filter(|text| text.len() <= most);
    let tools = if tools.to_string().len() > most { json!([]) } else { tools };
    Ok(Asked { ask, stream, sent: Sent { instructions, tools, tool_choice } })
}

/// Reads tools and the choice of them, and returns both as they were sent. Tools that a server would run itself are left out.
fn tools(fields: &mut Fields, ask: &mut Ask) -> Outcome<(Value, Value)> {
    let given: Vec<Map<String, Value>> = fields.take("tools")?.unwrap_or_default();
    for (at, tool) in given.iter().enumerate() {
        let place = Place { field: "tools", at };
        if place.need_text(tool, "type")? == "function" {
            place.need_text(tool, "name")?;
        }
    }
    let is_function = |tool: &&Map<String, Value>| tool.get("type").and_then(Value::as_str) == Some("function");
    let nested = |tool: &Map<String, Value>| {
        let mut function = tool.clone();
        function.remove("type");
        json!({"type": "function", "function": function})
    };
    let own: Vec<Map<String, Value>> = given.iter().filter(is_function).cloned().collect();
    let tools: Vec<Value> = own.iter().map(nested).collect();
    ask.tools = (!tools.is_empty()).then_some(Value::Array(tools));
    let choice: Option<Value> = fields.take("tool_choice")?;
    let named = choice.as_ref().and_then(|choice| choice.get("name")).cloned();
    // Here the name stands beside the type.
    let inner = match named {
        Some(name) => Some(json!({"function": {"name": name}})),
        None => choice.clone(),
    };
    ask.tool_choice = tool_choice(inner)?;
    ask.single_call = fields.take("parallel_tool_calls")? == Some(false);
    Ok((json!(own), choice.unwrap_or_else(|| Value::from("auto"))))
}

/// Reads `text.format`: what the content may be.
fn format(fields: &mut Fields) -> Outcome<Option<(constrain::Kind, String)>> {
    let text: TextField = fields.take_object("text")?.unwrap_or_default();
    let Some(format) = text.format else { return Ok(None) };
    let schema = match (format.r#type.as_str(), format.schema) {
        ("text", _) => return Ok(None),
        ("json_object", _) => json!({"type": "object"}),
        ("json_schema", Some(schema)) => schema,
        (other, _) => {
            let message =
                format!("text.format is of type {other:?}; it is text, json_object, or json_schema with a schema");
            return Err(Refusal::field("text", message));
        }
    };
    Ok(Some((constrain::Kind::JsonSchema, schema.to_string())))
}
