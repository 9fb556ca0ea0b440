//! What a request of `/v1/messages` asks for.

use super::prompt::{Content, Messages, Turn};
use crate::constrain;
use crate::engine::{MessageFlags, Prompt, ToolChoice};
use crate::limits;
use crate::server::body::Fields;
use crate::server::core::{Ask, Reasoning};
use crate::server::late_system;
use crate::server::models::Model;
use crate::server::openai::messages::is_start;
use crate::server::refusal::{Outcome, Refusal};
use crate::server::shape::Place;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The smallest budget of thinking, in tokens.
const BUDGET_MIN: u32 = 1024;

#[derive(Deserialize)]
struct Choice {
    r#type: String,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Deserialize)]
struct Thinking {
    r#type: String,
    budget_tokens: Option<u32>,
}

#[derive(Default, Deserialize)]
struct OutputConfig {
    effort: Option<String>,
    format: Option<Format>,
}

#[derive(Deserialize)]
struct Format {
    r#type: String,
    schema: Option<Value>,
}

/// Reads the request.
pub(in crate::server) fn ask(fields: &mut Fields, model: &Model) -> Outcome<Ask> {
    let mut ask = Ask::new(vec![prompt(fields, model)?]);
    let options = &mut ask.options;
    options.max_tokens = fields.take("max_tokens")?.or(options.max_tokens);
    options.temperature = fields.take("temperature")?.or(options.temperature);
    options.top_p = fields.take("top_p")?.or(options.top_p);
    options.top_k = fields.take("top_k")?.or(options.top_k);
    ask.stops = fields.take("stop_sequences")?.unwrap_or_default();
    tools(fields, &mut ask)?;
    let output: OutputConfig = fields.take_object("output_config")?.unwrap_or_default();
    if let Some(format) = output.format {
        let schema = format.schema.filter(|_| format.r#type == "json_schema");
        let wrong = || Refusal::field("output_config", "output_config.format is of type json_schema, and has a schema");
        ask.constraint = Some((constrain::Kind::JsonSchema, schema.ok_or_else(wrong)?.to_string()));
    }
    let how = thinking(fields)?;
    let how = match (how, &output.effort) {
        (Reasoning::On, Some(effort)) => Reasoning::Effort(effort),
        (how, _) => how,
    };
    ask.reason(how, model.engine.info());
    Ok(ask)
}

fn prompt(fields: &mut Fields, model: &Model) -> Outcome<Prompt> {
    let turns: Vec<Map<String, Value>> = fields.need("messages")?;
    if turns.is_empty() || turns.len() > limits::MESSAGES_MAX {
        let message = format!("there are {} messages; 1 to {} are allowed", turns.len(), limits::MESSAGES_MAX);
        return Err(Refusal::field("messages", message));
    }
    let turns = turns.into_iter().enumerate().map(|(at, turn)| Turn::new(at, turn)).collect::<Outcome<Vec<Turn>>>()?;
    let messages = Messages::new(fields.take::<Content>("system")?, &turns)?;
    let messages = late_system::settle(model.late_system, messages.0);
    let mut message_flags = Vec::new();
    if messages.last().is_some_and(is_start) {
        message_flags = vec![MessageFlags::default(); messages.len() - 1];
        message_flags.push(MessageFlags { continued: true, ..MessageFlags::default() });
    }
    Ok(Prompt { messages, message_flags, ..Prompt::default() })
}

/// Tools in the form that chat templates know. Those that a server would run itself are left out.
fn tools(fields: &mut Fields, ask: &mut Ask) -> Outcome<()> {
    let tools: Vec<Map<String, Value>> = fields.take("tools")?.unwrap_or_default();
    let own = |tool: &&Map<String, Value>| tool.get("type").and_then(Value::as_str).is_none_or(|kind| kind == "custom");
    let function = |tool: &Map<String, Value>| {
        let mut function = Map::new();
        let fields =
            [("name", "name"), ("description", "description"), ("parameters", "input_schema"), ("strict", "strict")];
        for (name, theirs) in fields {
            if let Some(value) = tool.get(theirs) {
                function.insert(name.to_owned(), value.clone());
            }
        }
        json!({"type": "function", "function": function})
    };
    for (at, tool) in tools.iter().enumerate() {
        Place { field: "tools", at }.need_text(tool, "name")?;
    }
    let tools: Vec<Value> = tools.iter().filter(own).map(function).collect();
    ask.tools = (!tools.is_empty()).then_some(Value::Array(tools));
    let Some(choice) = fields.take_object::<Choice>("tool_choice")? else { return Ok(()) };
    ask.single_call = choice.disable_parallel_tool_use == Some(true);
    ask.tool_choice = match (choice.r#type.as_str(), choice.name) {
        ("auto", _) => ToolChoice::Auto,
        ("none", _) => ToolChoice::None,
        ("any", _) => ToolChoice::Required,
        ("tool", Some(name)) => ToolChoice::Named(name),
        (other, _) => {
            let message = format!("tool_choice is of type {other:?}; it is auto, any, none, or tool with a name");
            return Err(Refusal::field("tool_choice", message));
        }
    };
    Ok(())
}

/// Without the field there is none, as the dialect says.
fn thinking(fields: &mut Fields) -> Outcome<Reasoning<'static>> {
    const NAME: &str = "thinking";
    let Some(thinking) = fields.take_object::<Thinking>(NAME)? else { return Ok(Reasoning::Off) };
    match (thinking.r#type.as_str(), thinking.budget_tokens) {
        ("disabled", _) => Ok(Reasoning::Off),
        ("adaptive", _) => Ok(Reasoning::On),
        ("enabled", Some(budget)) if budget >= BUDGET_MIN => Ok(Reasoning::Tokens(budget)),
        ("enabled", _) => {
            Err(Refusal::field(NAME, format!("thinking.budget_tokens is missing, or less than {BUDGET_MIN}")))
        }
        (other, _) => {
            let message = format!("thinking is of type {other:?}; it is enabled, disabled or adaptive");
            Err(Refusal::field(NAME, message))
        }
    }
}
