//! What a grammar would have a model write, read again: a name or key that does not come back cannot be written in the format.

use super::Tool;
use super::calls::{parameters, written_name};
use super::values::resolved;
use crate::constrain::answer::{AnswerParser, ArgumentSyntax, CallSyntax, PartEnd, ResponseTemplate};
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::sync::Arc;

/// That the name and the keys of a tool can be told from what stands around them.
///
/// # Errors
/// `Unsupported` with what cannot.
pub(super) fn readable(template: &Arc<ResponseTemplate>, syntax: &CallSyntax, tool: &Tool) -> Result<()> {
    let name = &tool.name;
    let refuse = |what: String| Err(Error::unsupported(what).about("tools"));
    if !comes_back(template, syntax, name, &[]) {
        return refuse(format!("the name of tool {name:?} cannot be written where the model's format has it"));
    }
    if matches!(syntax.arguments, ArgumentSyntax::Json) {
        return Ok(());
    }
    let schema = parameters(tool);
    let (object, _) = resolved(&schema, &schema, "");
    let none = Map::new();
    let properties = object.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let keys: Vec<&str> = properties.keys().map(String::as_str).collect();
    if comes_back(template, syntax, name, &keys) {
        return Ok(());
    }
    let wrong = keys.iter().find(|key| !comes_back(template, syntax, name, &[key])).unwrap_or(&"");
    refuse(format!("tool {name:?}: the parameter {wrong:?} cannot be written where the model's format has it"))
}

/// Whether a call with these keys is read as what it is.
fn comes_back(template: &Arc<ResponseTemplate>, syntax: &CallSyntax, name: &str, keys: &[&str]) -> bool {
    let text = call(syntax, name, keys);
    let mut parser = AnswerParser::new(Some(template.clone()), "", Arc::default());
    let mut parts = Vec::new();
    parser.push(&text, &mut parts);
    parser.finish(&mut parts);
    let (mut names, mut arguments, mut ends, mut only) = (Vec::new(), String::new(), Vec::new(), true);
    for part in parts {
        only &= part.call.is_some();
        names.extend(part.name);
        arguments.push_str(&part.text);
        ends.extend(part.end);
    }
    let read = serde_json::from_str::<Map<String, Value>>(&arguments).unwrap_or_default();
    let found: Vec<&str> = read.keys().map(String::as_str).collect();
    only && names == [name] && ends == [PartEnd::Complete] && found == keys
}

/// A call with zeros for these keys.
fn call(syntax: &CallSyntax, name: &str, keys: &[&str]) -> String {
    let bare = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    let json = |key: &str| format!("{}: 0", Value::from(key));
    let listed = |one: &dyn Fn(&str) -> String| keys.iter().map(|key| one(key)).collect::<Vec<_>>().join(", ");
    let arguments = match &syntax.arguments {
        ArgumentSyntax::Json => format!("{{{}}}", listed(&json)),
        ArgumentSyntax::BareJson { .. } => {
            format!("{{{}}}", listed(&|key| if bare(key) { format!("{key}:0") } else { json(key) }))
        }
        ArgumentSyntax::Python => listed(&|key| format!("{key}=0")),
        ArgumentSyntax::Tagged { argument, .. } => {
            let written = argument.replace("{is_string}", "false").replace("{value}", "0");
            keys.iter().map(|key| written.replace("{key}", key)).collect()
        }
    };
    let call = syntax.call.replace("{index}", "0").replace("{id}", "abcdefgh1");
    let (before, after) = call.split_once("{arguments}").unwrap_or((&call, ""));
    let call = format!("{}{arguments}{after}", before.replace("{name}", &written_name(syntax, name)));
    format!("{}{call}{}", syntax.open, syntax.close)
}
