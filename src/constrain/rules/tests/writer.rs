//! Calls as formats write them, and an independent reading of schemas.

use super::*;
use crate::constrain::answer::ArgumentSyntax;

fn json(value: &Value) -> String {
    value.to_string()
}

fn bare(value: &Value, quote: &str) -> String {
    match value {
        Value::String(text) => format!("{quote}{text}{quote}"),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(|item| bare(item, quote)).collect::<Vec<_>>().join(","))
        }
        Value::Object(map) => {
            let pair = |(key, value): (&String, &Value)| format!("{key}:{}", bare(value, quote));
            format!("{{{}}}", map.iter().map(pair).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

fn python(value: &Value) -> String {
    match value {
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Null => "None".into(),
        Value::Array(items) => format!("[{}]", items.iter().map(python).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pair = |(key, value): (&String, &Value)| format!("{}: {}", json(&key.as_str().into()), python(value));
            format!("{{{}}}", map.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// The arguments of a call, each of an object.
pub(super) fn arguments(syntax: &ArgumentSyntax, value: &Value) -> String {
    let pairs = || value.as_object().unwrap().iter();
    match syntax {
        ArgumentSyntax::Json => json(value),
        ArgumentSyntax::BareJson { quote } => bare(value, quote),
        ArgumentSyntax::Python => {
            pairs().map(|(key, value)| format!("{key}={}", python(value))).collect::<Vec<_>>().join(", ")
        }
        ArgumentSyntax::Tagged { argument, .. } => pairs()
            .map(|(key, value)| {
                let text = value.as_str().map_or_else(|| json(value), str::to_owned);
                let filled = argument
                    .replace("{key}", key)
                    .replace("{is_string}", if value.is_string() { "true" } else { "false" });
                filled.replace("{value}", &text)
            })
            .collect(),
    }
}

/// Calls of a whole answer.
pub(super) fn calls(syntax: &CallSyntax, calls: &[(&str, &Value)]) -> String {
    let one = |(index, (name, value)): (usize, &(&str, &Value))| {
        let call = syntax.call.replace("{index}", &index.to_string()).replace("{id}", "a1B2c3D4e");
        let (before, after) = call.split_once("{arguments}").unwrap();
        let name = if before.contains("\"{name}\"") && before.contains("\"name\"") {
            json(&(*name).into()).trim_matches('"').to_owned()
        } else {
            (*name).to_owned()
        };
        format!("{}{}{after}", before.replace("{name}", &name), arguments(&syntax.arguments, value))
    };
    let all: Vec<String> = calls.iter().enumerate().map(one).collect();
    format!("{}{}{}", syntax.open, all.join(&syntax.separator), syntax.close)
}

/// Whether a value is what a schema says: of what the tests' schemas have.
pub(super) fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(map) = schema.as_object() else { return schema != &Value::Bool(false) };
    if let Some(reference) = map.get("$ref") {
        return valid(root, root.pointer(&reference.as_str().unwrap()[1..]).unwrap(), value);
    }
    let number = |key: &str| map.get(key).and_then(Value::as_f64);
    let within = |size: usize, least: &str, most: &str| {
        number(least).is_none_or(|least| size as f64 >= least) && number(most).is_none_or(|most| size as f64 <= most)
    };
    let is = |name: &str| match (name, value) {
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) | ("null", Value::Null) => true,
        ("array", Value::Array(_)) | ("object", Value::Object(_)) | ("number", Value::Number(_)) => true,
        ("integer", Value::Number(number)) => number.as_f64().unwrap().fract() == 0.0,
        _ => false,
    };
    let typed = match map.get("type") {
        Some(Value::String(name)) => is(name),
        Some(Value::Array(names)) => names.iter().any(|name| is(name.as_str().unwrap())),
        _ => true,
    };
    let none = Map::new();
    typed
        && map.get("enum").is_none_or(|list| list.as_array().unwrap().contains(value))
        && map.get("const").is_none_or(|one| one == value)
        && map.get("anyOf").is_none_or(|list| list.as_array().unwrap().iter().any(|schema| valid(root, schema, value)))
        && match value {
            Value::String(text) => {
                let matches = |pattern: &Value| {
                    fancy_regex::Regex::new(pattern.as_str().unwrap()).unwrap().is_match(text).unwrap()
                };
                within(text.chars().count(), "minLength", "maxLength") && map.get("pattern").is_none_or(matches)
            }
            Value::Number(value) => {
                let value = value.as_f64().unwrap();
                number("minimum").is_none_or(|least| value >= least)
                    && number("maximum").is_none_or(|most| value <= most)
            }
            Value::Array(items) => {
                within(items.len(), "minItems", "maxItems")
                    && map.get("items").is_none_or(|schema| items.iter().all(|item| valid(root, schema, item)))
            }
            Value::Object(object) => {
                let properties = map.get("properties").and_then(Value::as_object).unwrap_or(&none);
                let needed = map.get("required").and_then(Value::as_array).into_iter().flatten();
                let free = map.get("additionalProperties");
                needed.into_iter().all(|name| object.contains_key(name.as_str().unwrap()))
                    && object.iter().all(|(key, value)| match properties.get(key) {
                        Some(schema) => valid(root, schema, value),
                        None => free.is_none_or(|schema| valid(root, schema, value)),
                    })
            }
            _ => true,
        }
}
