//! Arguments that each stand between tags: strings as they are, other values as JSON.
//!
//! What a value was meant to be is seen by the parameter's schema alone, so that a parameter is either a string, or null or a string, or
//! anything but a string. Where the reader finds no type in the schema, it takes what is JSON as JSON, so that strings are quoted.

use super::Tool;
use super::spelling::{self, Piece};
use super::text;
use super::values::{Dialect, FREE_KEY, NOTES, OBJECT_KEYS, STRING_KEYS, Values, below, refused, required, resolved};
use crate::constrain::TokenTrie;
use crate::constrain::answer::Tools;
use crate::error::Result;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// How the arguments of one tool are written.
struct Tagged<'a> {
    vocabulary: &'a TokenTrie,
    /// One argument, with its slots.
    argument: &'a str,
    /// Texts that a value must not contain.
    without: Vec<String>,
    tool: &'a str,
}

/// The tag that a text begins with, after space.
fn first_tag(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find('>').filter(|_| text.starts_with('<'))?;
    text.get(..=end).map(str::to_owned)
}

/// Appends the rule `args_{index}` and those that it needs. `schema`: of the arguments. `closing`: what follows them. `without`: texts
/// that no value may contain, beside the tags that end it.
///
/// # Errors
/// `Unsupported` for what cannot be told from something else.
pub(super) fn arguments(
    vocabulary: &TokenTrie,
    (argument, closing, without): (&str, &str, &[String]),
    tool: &Tool,
    schema: &Value,
    index: usize,
    lark: &mut String,
) -> Result<()> {
    let after = argument.split("{value}").nth(1).unwrap_or("");
    let tags = [first_tag(after), first_tag(closing)].into_iter().flatten();
    let without: Vec<String> = tags.chain(without.iter().cloned()).collect();
    let tagged = Tagged { vocabulary, argument, without: without.clone(), tool: &tool.name };
    let mut values = Values::new(schema, Dialect::Json { without }, &tool.name, index);
    let (object, at) = resolved(schema, schema, "");
    let refuse = |what: &str, at: &str| refused(&tool.name, what, at);
    let map = object.as_object().ok_or_else(|| refuse("a schema that is no object", &at))?;
    let known = |key: &&String| OBJECT_KEYS.contains(&key.as_str()) || NOTES.contains(&key.as_str()) || *key == "type";
    if let Some(key) = map.keys().find(|key| !known(key)) {
        return Err(refuse(&format!("{key:?}"), &below(&at, key)));
    }
    if map.get("type").is_some_and(|name| name != "object") {
        return Err(refuse("parameters that are no object", &below(&at, "type")));
    }
    let none = Map::new();
    let properties = match map.get("properties") {
        Some(properties) => properties.as_object().ok_or_else(|| refuse("\"properties\" that are no object", &at))?,
        None => &none,
    };
    let required = required(map, properties, &tool.name, &at)?;
    let mut all = String::new();
    if properties.is_empty() {
        match map.get("additionalProperties") {
            Some(Value::Bool(false)) => {}
            None | Some(Value::Bool(true)) => {
                let body = text::raw(&none, &tagged.without, &tool.name, &at)?;
                let _ = write!(all, "({})*", tagged.written(&mut values, None, true, Body::Text(body, true)));
            }
            Some(schema) => {
                let value = values.value(schema, &below(&at, "additionalProperties"))?;
                let _ = write!(all, "({})*", tagged.written(&mut values, None, false, Body::Symbol(value)));
            }
        }
    }
    // As the reader sees it.
    let types = Tools::new(&json!([{"name": tool.name, "parameters": object}]));
    for (key, property) in properties {
        let at = below(&below(&at, "properties"), key);
        let is_required = required.contains(&key.as_str());
        if property == &Value::Bool(false) && !is_required {
            continue;
        }
        let types = types.types(&tool.name, key);
        let made = tagged.property(&mut values, schema, key, property, &types, &at)?;
        let _ = write!(all, " ({made}){}", if is_required { "" } else { "?" });
    }
    let _ = writeln!(lark, "args_{index}: {all}\n{}", values.rules());
    Ok(())
}

/// What stands between the tags.
enum Body {
    /// A symbol.
    Symbol(String),
    /// The body of a terminal, and whether the text may be empty.
    Text(String, bool),
}

/// A parameter that is a string.
struct Text<'a> {
    map: &'a Map<String, Value>,
    nullable: bool,
}

impl Tagged<'_> {
    /// The symbols of an argument. `key`: `None` for any.
    fn written(&self, values: &mut Values, key: Option<&str>, is_string: bool, body: Body) -> String {
        let written = self.argument.replace("{is_string}", if is_string { "true" } else { "false" });
        let (before, after) = written.split_once("{value}").unwrap_or((&written, ""));
        let (before_key, after_key) = before.split_once("{key}").unwrap_or((before, ""));
        let spelled = |text: &str| spelling::pieces(self.vocabulary, text);
        let mut symbols = String::new();
        let mut text = spelled(before_key);
        match key {
            Some(key) => spelling::push_text(&mut text, key),
            None => {
                let _ = write!(symbols, "{} {FREE_KEY}", spelling::symbols(&std::mem::take(&mut text)));
            }
        }
        for piece in spelled(after_key) {
            match piece {
                Piece::Text(part) => spelling::push_text(&mut text, &part),
                special => text.push(special),
            }
        }
        let _ = write!(symbols, " {}", spelling::symbols(&text));
        let after = spelled(after);
        match (body, after.split_first()) {
            (Body::Symbol(symbol), _) => {
                let _ = write!(symbols, " {symbol} {}", spelling::symbols(&after));
            }
            // One terminal, so that the text ends where what follows it does.
            (Body::Text(body, _), Some((Piece::Text(text), rest))) => {
                let _ = write!(
                    symbols,
                    " {} {}",
                    values.terminal(&format!("{body} {}", spelling::quoted(text))),
                    spelling::symbols(rest)
                );
            }
            // A terminal that may be empty is none; so the text may be left out.
            (Body::Text(body, may_be_empty), _) => {
                let text = values.terminal(&format!("{body} & /(?s:.+)/"));
                let maybe = if may_be_empty { "?" } else { "" };
                let _ = write!(symbols, " {text}{maybe} {}", spelling::symbols(&after));
            }
        }
        symbols
    }

    fn property<'v>(
        &self,
        values: &mut Values<'v>,
        root: &'v Value,
        key: &str,
        schema: &'v Value,
        types: &[&str],
        at: &str,
    ) -> Result<String> {
        let (resolved, resolved_at) = resolved(root, schema, at);
        let choices = string_choices(resolved);
        if types.is_empty() {
            // Texts that are no JSON are read as the strings that they are.
            let plain = |text: &&str| serde_json::from_str::<Value>(text).is_err() && !text.is_empty();
            return match choices {
                Some(texts) if texts.iter().all(plain) => {
                    let body = self.one_of(&texts, at)?;
                    Ok(self.written(values, Some(key), true, Body::Text(body, false)))
                }
                _ => {
                    let value = values.value(schema, at)?;
                    Ok(self.written(values, Some(key), false, Body::Symbol(value)))
                }
            };
        }
        if !types.contains(&"string") {
            if may_be_string(resolved) {
                return Err(refused(self.tool, "strings beside values of the \"type\"", &resolved_at));
            }
            let value = values.value(schema, at)?;
            return Ok(self.written(values, Some(key), false, Body::Symbol(value)));
        }
        let Some(Text { map, nullable }) = string(resolved) else {
            return Err(refused(self.tool, "strings beside values of other types", &resolved_at));
        };
        let (body, may_be_empty) = match string_choices(&Value::Object(map.clone())) {
            Some(texts) => (self.one_of(&texts, &resolved_at)?, texts.contains(&"")),
            None => {
                let known = |key: &&String| {
                    STRING_KEYS.contains(&key.as_str())
                        || NOTES.contains(&key.as_str())
                        || matches!(key.as_str(), "type" | "nullable")
                };
                if let Some(other) = map.keys().find(|key| !known(key)) {
                    return Err(refused(self.tool, &format!("{other:?}"), &below(&resolved_at, other)));
                }
                (text::raw(map, &self.without, self.tool, &resolved_at)?, text::may_be_empty(map))
            }
        };
        let tells = self.argument.contains("{is_string}");
        let null = |body: String| if nullable && !tells { format!("({body} | \"null\")") } else { body };
        let mut made = self.written(values, Some(key), true, Body::Text(null(body), may_be_empty));
        if nullable && tells {
            let _ = write!(made, " | {}", self.written(values, Some(key), false, Body::Symbol("\"null\"".to_owned())));
        }
        Ok(made)
    }

    /// A body that is one of some texts.
    fn one_of(&self, texts: &[&str], at: &str) -> Result<String> {
        let hidden = |text: &&&str| self.without.iter().any(|tag| text.contains(tag.as_str()));
        if let Some(text) = texts.iter().find(hidden) {
            return Err(refused(self.tool, &format!("the value {text:?}"), at));
        }
        Ok(format!("({})", texts.iter().map(|text| spelling::quoted(text)).collect::<Vec<_>>().join(" | ")))
    }
}

/// The strings of an enumeration of strings alone.
fn string_choices(schema: &Value) -> Option<Vec<&str>> {
    let list = match (schema.get("enum"), schema.get("const")) {
        (Some(Value::Array(list)), None) => list.as_slice(),
        (None, Some(value)) => std::slice::from_ref(value),
        _ => return None,
    };
    let other =
        |key: &String| !["enum", "const", "type", "nullable"].contains(&key.as_str()) && !NOTES.contains(&key.as_str());
    if schema.as_object()?.keys().any(other) || list.is_empty() {
        return None;
    }
    list.iter().filter(|value| !value.is_null()).map(Value::as_str).collect()
}

/// What a schema of strings says about them.
fn string(schema: &Value) -> Option<Text<'_>> {
    let map = schema.as_object()?;
    if let Some(Value::Array(choices)) =
        map.get("anyOf").filter(|_| map.keys().all(|key| key == "anyOf" || NOTES.contains(&key.as_str())))
    {
        let is_null = |choice: &&Value| choice.get("type") == Some(&Value::from("null"));
        let (nulls, others): (Vec<&Value>, Vec<&Value>) = choices.iter().partition(is_null);
        return match others.as_slice() {
            [one] => string(one).map(|text| Text { nullable: text.nullable || !nulls.is_empty(), ..text }),
            _ => None,
        };
    }
    let nullable = map.get("nullable") == Some(&Value::Bool(true));
    match map.get("type")? {
        Value::String(name) if name == "string" => Some(Text { map, nullable }),
        Value::Array(names) => {
            let mut names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            names.sort_unstable();
            match names.as_slice() {
                ["string"] => Some(Text { map, nullable }),
                ["null", "string"] => Some(Text { map, nullable: true }),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether an enumeration holds a string.
fn may_be_string(schema: &Value) -> bool {
    let list = schema.get("enum").and_then(Value::as_array).is_some_and(|list| list.iter().any(Value::is_string));
    list || schema.get("const").is_some_and(Value::is_string)
}
