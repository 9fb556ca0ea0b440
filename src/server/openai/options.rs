//! The fields that chat completions and completions share, and those that say what an answer may be.

use crate::constrain;
use crate::engine::ToolChoice;
use crate::limits;
use crate::server::body::Fields;
use crate::server::core::Ask;
use crate::server::refusal::{Outcome, Refusal};
use crate::server::shape::Place;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum Stops {
    One(String),
    Many(Vec<String>),
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// How an answer is sent.
#[derive(Clone, Copy)]
pub(in crate::server) struct Sending {
    pub stream: bool,
    /// A stream ends with the counts of tokens.
    pub include_usage: bool,
}

/// Reads how the answer is sent.
pub(super) fn sending(fields: &mut Fields) -> Outcome<Sending> {
    let options: StreamOptions = fields.take_object("stream_options")?.unwrap_or_default();
    Ok(Sending {
        stream: fields.take("stream")?.unwrap_or(false),
        include_usage: options.include_usage.unwrap_or(false),
    })
}

/// Reads how the answer is sampled and where it ends.
pub(super) fn sampling(fields: &mut Fields, ask: &mut Ask) -> Outcome<()> {
    let choices: usize = fields.take("n")?.unwrap_or(1);
    if choices == 0 || choices > limits::SERVER_CHOICES_MAX {
        let message = format!("n is {choices}; it is 1 to {}", limits::SERVER_CHOICES_MAX);
        return Err(Refusal::field("n", message));
    }
    ask.choices = choices;
    let options = &mut ask.options;
    options.temperature = fields.take("temperature")?.or(options.temperature);
    options.top_p = fields.take("top_p")?.or(options.top_p);
    options.top_k = fields.take("top_k")?.or(options.top_k);
    options.min_p = fields.take("min_p")?;
    options.repetition_penalty = fields.take("repetition_penalty")?;
    options.presence_penalty = fields.take("presence_penalty")?;
    options.frequency_penalty = fields.take("frequency_penalty")?;
    options.ignore_eos = fields.take("ignore_eos")?.unwrap_or(false);
    // Seeds may be negative; any 64 bits are one.
    options.seed = fields.take::<i128>("seed")?.map(|seed| seed as u64);
    let older = fields.take("max_tokens")?;
    options.max_tokens = fields.take("max_completion_tokens")?.or(older).or(options.max_tokens);
    ask.stops = match fields.take("stop")? {
        None => Vec::new(),
        Some(Stops::One(stop)) => vec![stop],
        Some(Stops::Many(stops)) => stops,
    };
    for (token, bias) in fields.take::<BTreeMap<String, f32>>("logit_bias")?.unwrap_or_default() {
        let wrong = |_| Refusal::field("logit_bias", format!("logit_bias: {token:?} is no token id"));
        ask.bias.push((token.parse::<u32>().map_err(wrong)?, bias));
    }
    Ok(())
}

#[derive(Deserialize)]
struct ResponseFormat {
    r#type: String,
    /// OpenAI's place of the schema.
    json_schema: Option<JsonSchema>,
    /// The place beside the type, as llama.cpp has it.
    schema: Option<Value>,
}

#[derive(Deserialize)]
struct JsonSchema {
    schema: Option<Value>,
}

/// Reads `response_format`: what the content may be.
pub(super) fn response_format(fields: &mut Fields) -> Outcome<Option<(constrain::Kind, String)>> {
    const NAME: &str = "response_format";
    let Some(format) = fields.take_object::<ResponseFormat>(NAME)? else { return Ok(None) };
    let schema = format.json_schema.and_then(|nested| nested.schema).or(format.schema);
    let schema = match (format.r#type.as_str(), schema) {
        ("text", _) => return Ok(None),
        ("json_object", None) => serde_json::json!({"type": "object"}),
        ("json_object" | "json_schema", Some(schema)) => schema,
        ("json_schema", None) => {
            let message = "response_format has no schema; give it as json_schema.schema, or as schema";
            return Err(Refusal::field(NAME, message));
        }
        (other, _) => {
            let message = format!("response_format.type is {other:?}; it is text, json_object or json_schema");
            return Err(Refusal::field(NAME, message));
        }
    };
    Ok(Some((constrain::Kind::JsonSchema, schema.to_string())))
}

#[derive(Deserialize)]
struct NamedTool {
    name: String,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected auto, none, required, or {\"type\": \"function\", \"function\": {\"name\": …}}"
)]
enum Choice {
    Word(String),
    Function { function: NamedTool },
}

/// Reads the tools.
pub(in crate::server) fn tool_list(fields: &mut Fields) -> Outcome<Option<Value>> {
    let tools: Vec<Value> = fields.take("tools")?.unwrap_or_default();
    for (at, tool) in tools.iter().enumerate() {
        if tool.get("type").and_then(Value::as_str) != Some("function") {
            let message = format!("tools[{at}] is not of type \"function\", which is the only one there is");
            return Err(Refusal::field("tools", message));
        }
        let place = Place { field: "tools", at };
        let function = tool.get("function").and_then(Value::as_object);
        place.need_text(function.ok_or_else(|| place.wrong("has no function"))?, "name")?;
    }
    Ok((!tools.is_empty()).then_some(Value::Array(tools)))
}

/// Reads the tools and what is said of their calls.
pub(super) fn tools(fields: &mut Fields, ask: &mut Ask) -> Outcome<()> {
    ask.tools = tool_list(fields)?;
    ask.tool_choice = tool_choice(fields.take("tool_choice")?)?;
    ask.single_call = fields.take("parallel_tool_calls")? == Some(false);
    Ok(())
}

/// What `tool_choice` says.
pub(super) fn tool_choice(value: Option<Value>) -> Outcome<ToolChoice> {
    const NAME: &str = "tool_choice";
    let Some(value) = value else { return Ok(ToolChoice::Auto) };
    let choice = serde_json::from_value(value).map_err(|e| Refusal::field(NAME, format!("{NAME}: {e}")))?;
    let word = match choice {
        Choice::Function { function } => return Ok(ToolChoice::Named(function.name)),
        Choice::Word(word) => word,
    };
    match word.as_str() {
        "auto" => Ok(ToolChoice::Auto),
        "none" => Ok(ToolChoice::None),
        "required" => Ok(ToolChoice::Required),
        other => {
            let message = format!("tool_choice is {other:?}; it is auto, none, required or a function");
            Err(Refusal::field(NAME, message))
        }
    }
}
