//! What an answer may be, as the command line and lines of `score` say it.

use crate::failure::{Failure, Outcome, to_text};
use astrai::constrain::Kind;
use astrai::engine::{Constraint, Engine, EngineOptions, RequestOptions, Settings, ToolChoice};
use clap::Args;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Options of a constraint, of which one may be given.
#[derive(Args)]
pub struct ConstraintArgs {
    /// The answer is JSON that this schema accepts
    #[arg(long, value_name = "FILE", group = "constraint")]
    json_schema: Option<PathBuf>,
    /// The answer is JSON
    #[arg(long, group = "constraint")]
    json: bool,
    /// The whole answer matches this regular expression
    #[arg(long, value_name = "EXPRESSION", allow_hyphen_values = true, group = "constraint")]
    regex: Option<String>,
    /// The answer is what this grammar, in the Lark format, begins at `start`
    #[arg(long, value_name = "FILE", group = "constraint")]
    grammar: Option<PathBuf>,
    /// Whether the model calls tools: auto, none, required, or the name of the one to call
    #[arg(long, value_name = "CHOICE", requires = "tools")]
    tool_choice: Option<String>,
    /// An answer has one call at most
    #[arg(long, requires = "tools")]
    single_call: bool,
    /// Calls have arguments that their schemas accept, also where the model is free to call and no tool says "strict"
    #[arg(long, requires = "tools")]
    constrain_calls: bool,
    /// Most tokens that the model may think before it answers
    #[arg(long, value_name = "N")]
    reasoning_tokens: Option<u32>,
}

impl ConstraintArgs {
    /// The options of an engine that is to answer with them.
    pub fn engine(&self, options: EngineOptions) -> EngineOptions {
        let compiled = self.json_schema.is_some() || self.json || self.regex.is_some() || self.grammar.is_some();
        let forced = self.constrain_calls || !matches!(self.tool_choice.as_deref(), None | Some("auto" | "none"));
        EngineOptions { constraints: compiled || forced, ..options }
    }

    /// The options with the constraint, compiled for the model, and the choice of tools.
    pub fn add(&self, engine: &Engine, options: RequestOptions) -> Outcome<RequestOptions> {
        let settings = Settings {
            tool_choice: self.tool_choice.as_deref().map(choice).unwrap_or_default(),
            single_call: self.single_call,
            constrain_calls: self.constrain_calls,
            ..options.settings.as_deref().cloned().unwrap_or_default()
        };
        let reasoning_tokens = self.reasoning_tokens;
        let options = RequestOptions { settings: Some(Arc::new(settings)), reasoning_tokens, ..options };
        let (kind, text) = match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(path), ..) => (Kind::JsonSchema, read(path)?),
            (_, Some(regex), _) => (Kind::Regex, regex.clone()),
            (.., Some(path)) => (Kind::Lark, read(path)?),
            _ if self.json => (Kind::Json, String::new()),
            _ => return Ok(options),
        };
        Ok(with(options, engine.compile_constraint(kind, &text)?))
    }
}

/// A choice of tools by its name, or the tool of that name.
pub fn choice(name: &str) -> ToolChoice {
    match name {
        "auto" => ToolChoice::Auto,
        "none" => ToolChoice::None,
        "required" => ToolChoice::Required,
        name => ToolChoice::Named(name.to_owned()),
    }
}

fn read(path: &Path) -> Outcome<String> {
    let bytes = std::fs::read(path).map_err(|e| Failure::Message(format!("cannot read {}: {e}", path.display())))?;
    Ok(to_text(bytes, &path.display().to_string()))
}

/// The options with another constraint.
pub fn with(options: RequestOptions, constraint: Constraint) -> RequestOptions {
    let settings = options.settings.as_deref().cloned().unwrap_or_default();
    let settings = Settings { constraint: Some(constraint), ..settings };
    RequestOptions { settings: Some(Arc::new(settings)), ..options }
}

/// A constraint as a line of `score` has it: an object with one of these keys.
pub fn of_line(value: &Value) -> Result<(Kind, String), String> {
    let wrong = "`constraint` is no object with one of json_schema, json, regex, lark, texts".to_owned();
    let Value::Object(map) = value else { return Err(wrong) };
    let mut entries = map.iter();
    let (Some((key, value)), None) = (entries.next(), entries.next()) else { return Err(wrong) };
    match (key.as_str(), value) {
        ("json_schema", schema) => Ok((Kind::JsonSchema, schema.to_string())),
        ("json", Value::Bool(true)) => Ok((Kind::Json, String::new())),
        ("regex", Value::String(text)) => Ok((Kind::Regex, text.clone())),
        ("lark", Value::String(text)) => Ok((Kind::Lark, text.clone())),
        ("texts", Value::Array(_)) => Ok((Kind::Texts, value.to_string())),
        _ => Err(wrong),
    }
}
