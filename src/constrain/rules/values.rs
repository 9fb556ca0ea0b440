//! Values that a format writes in a way of its own, as rules of a Lark grammar: literals of Python, JSON with other quotes, and JSON
//! between tags, in whose strings the closing tag must not stand.
//!
//! Of JSON schemas this knows what tools have; anything else is refused by name. Objects have the properties that the schema names, in
//! its order, and no others; one that names none, and allows others, has any.

use super::spelling::{self, Piece, quoted};
use super::text;
use crate::error::{Error, Result};
use crate::limits::CONSTRAINT_DEPTH_MAX;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write;

/// How values are written.
#[derive(Clone, Debug)]
pub(super) enum Dialect {
    /// As JSON, with bare keys and strings between a quote of its own, whose text is `text`.
    Bare { quote: Vec<Piece>, text: String },
    /// As literals of Python.
    Python,
    /// As JSON without these texts.
    Json { without: Vec<String> },
}

/// Keys that say nothing about which values are valid.
pub(super) const NOTES: [&str; 16] = [
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "x-guidance",
    "strict",
    "$anchor",
];

/// Collects rules.
pub(super) struct Values<'a> {
    root: &'a Value,
    dialect: Dialect,
    /// Name and number of the tool.
    tool: &'a str,
    number: usize,
    rules: String,
    made: usize,
    /// Rules of references, by pointer.
    references: HashMap<String, String>,
    depth: usize,
    any: Option<String>,
}

/// The error for what a format cannot express.
pub(super) fn refused(tool: &str, what: &str, at: &str) -> Error {
    let at = if at.is_empty() { "/" } else { at };
    let message = format!(
        "tool {tool:?}: {what} (at {at} of its parameters) cannot be expressed where the model's format writes arguments"
    );
    Error::unsupported(message).about("tools")
}

/// A pointer to what is below another.
pub(super) fn below(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// What a reference leads to, in the same document.
pub(super) fn referenced<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#')?)
}

impl<'a> Values<'a> {
    pub(super) fn new(root: &'a Value, dialect: Dialect, tool: &'a str, number: usize) -> Values<'a> {
        let (rules, references) = (String::new(), HashMap::new());
        Values { root, dialect, tool, number, rules, made: 0, references, depth: 0, any: None }
    }

    /// The rules so far.
    pub(super) fn rules(&self) -> &str {
        &self.rules
    }

    fn refused(&self, what: &str, at: &str) -> Error {
        refused(self.tool, what, at)
    }

    fn fresh(&mut self) -> String {
        self.made += 1;
        format!("v{}x{}", self.number, self.made)
    }

    /// A rule with this body; its name.
    fn rule(&mut self, body: &str) -> String {
        let name = self.fresh();
        let _ = writeln!(self.rules, "{name}: {body}");
        name
    }

    /// A terminal with this body; its name.
    pub(super) fn terminal(&mut self, body: &str) -> String {
        let name = self.fresh().to_ascii_uppercase();
        let _ = writeln!(self.rules, "{name}: {body}");
        name
    }

    /// A symbol for the values of a schema.
    pub(super) fn value(&mut self, schema: &'a Value, at: &str) -> Result<String> {
        if self.depth >= CONSTRAINT_DEPTH_MAX {
            return Err(self.refused(&format!("nesting more than {CONSTRAINT_DEPTH_MAX} deep"), at));
        }
        self.depth += 1;
        let made = self.value_of(schema, at);
        self.depth -= 1;
        made
    }

    fn value_of(&mut self, schema: &'a Value, at: &str) -> Result<String> {
        let map = match schema {
            Value::Bool(true) => return self.any(),
            Value::Object(map) => map,
            _ => return Err(self.refused("a schema that is no object, or false", at)),
        };
        let says = |key: &str| map.keys().any(|other| other != key && !NOTES.contains(&other.as_str()));
        if let Some(reference) = map.get("$ref") {
            if says("$ref") {
                return Err(self.refused("\"$ref\" beside other keys", at));
            }
            let reference = reference.as_str().unwrap_or("");
            let target = referenced(self.root, reference)
                .ok_or_else(|| self.refused(&format!("the reference {reference:?}"), &below(at, "$ref")))?;
            if let Some(name) = self.references.get(reference) {
                return Ok(name.clone());
            }
            let name = self.fresh();
            self.references.insert(reference.to_owned(), name.clone());
            let body = self.value(target, reference.trim_start_matches('#'))?;
            let _ = writeln!(self.rules, "{name}: {body}");
            return Ok(name);
        }
        if let Some(choices) = map.get("anyOf") {
            if map.keys().any(|key| key != "anyOf" && !NOTES.contains(&key.as_str())) {
                return Err(self.refused("\"anyOf\" beside other keys", at));
            }
            let at = below(at, "anyOf");
            let choices = choices.as_array().ok_or_else(|| self.refused("\"anyOf\" that is no list", &at))?;
            let made =
                choices.iter().enumerate().map(|(index, choice)| self.value(choice, &below(&at, &index.to_string())));
            let made: Vec<String> = made.collect::<Result<_>>()?;
            return Ok(self.rule(&made.join(" | ")));
        }
        if let Some(value) = map.get("const") {
            self.only(map, &["const", "type"], at)?;
            return self.literal(value, &below(at, "const"));
        }
        if let Some(list) = map.get("enum") {
            self.only(map, &["enum", "type", "nullable"], at)?;
            let at = below(at, "enum");
            let list = list.as_array().filter(|list| !list.is_empty());
            let list = list.ok_or_else(|| self.refused("an empty \"enum\"", &at))?;
            let fits = |value: &&Value| map.get("type").is_none_or(|types| has_type(value, types));
            let made: Vec<String> =
                list.iter().filter(fits).map(|value| self.literal(value, &at)).collect::<Result<_>>()?;
            return Ok(self.rule(&made.join(" | ")));
        }
        let mut types: Vec<&str> = match map.get("type") {
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) if !names.is_empty() => names.iter().filter_map(Value::as_str).collect(),
            Some(_) => return Err(self.refused("a \"type\" that is no name", &below(at, "type"))),
            None => implied(map).into_iter().collect(),
        };
        if types.is_empty() {
            self.only(map, &["nullable"], at)?;
            return self.any();
        }
        if map.get("nullable") == Some(&Value::Bool(true)) {
            types.push("null");
        }
        let known = types.iter().flat_map(|name| keys_of(name)).copied().chain(["type", "nullable"]);
        self.only(map, &known.collect::<Vec<_>>(), at)?;
        let made: Vec<String> = types.iter().map(|name| self.of_type(name, map, at)).collect::<Result<_>>()?;
        match made.as_slice() {
            [one] => Ok(one.clone()),
            _ => Ok(self.rule(&made.join(" | "))),
        }
    }

    /// Refuses keys that are not known.
    fn only(&self, map: &Map<String, Value>, known: &[&str], at: &str) -> Result<()> {
        match map.keys().find(|key| !known.contains(&key.as_str()) && !NOTES.contains(&key.as_str())) {
            Some(key) => Err(self.refused(&format!("{key:?}"), &below(at, key))),
            None => Ok(()),
        }
    }

    fn of_type(&mut self, name: &str, map: &'a Map<String, Value>, at: &str) -> Result<String> {
        match name {
            "null" => Ok(quoted(self.null())),
            "boolean" => Ok(self.boolean()),
            "integer" | "number" => Ok(self.number(name, map)),
            "string" => self.string(map, at),
            "array" => self.array(map, at),
            "object" => {
                let pairs = self.pairs_of(map, at, false)?;
                Ok(self.rule(&format!("\"{{\" {pairs} \"}}\"")))
            }
            _ => Err(self.refused(&format!("the type {name:?}"), &below(at, "type"))),
        }
    }

    fn null(&self) -> &'static str {
        if matches!(self.dialect, Dialect::Python) { "None" } else { "null" }
    }

    fn truth(&self, value: bool) -> &'static str {
        match (matches!(self.dialect, Dialect::Python), value) {
            (true, true) => "True",
            (true, false) => "False",
            (false, true) => "true",
            (false, false) => "false",
        }
    }

    fn boolean(&mut self) -> String {
        let body = format!("{} | {}", quoted(self.truth(true)), quoted(self.truth(false)));
        self.rule(&body)
    }

    /// Symbols between items, and between the colon after a key and its value.
    fn separators(&self) -> (&'static str, &'static str) {
        if matches!(self.dialect, Dialect::Bare { .. }) { ("\",\"", "") } else { ("/, ?/", "\" \"?") }
    }

    /// Numbers are the same in all dialects.
    fn number(&mut self, name: &str, map: &Map<String, Value>) -> String {
        let bounds: Map<String, Value> = map
            .iter()
            .filter(|(key, _)| NUMBER_KEYS.contains(&key.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if bounds.is_empty() {
            let body = if name == "integer" { INTEGER } else { NUMBER };
            return self.terminal(body);
        }
        let mut schema = Value::Object(bounds);
        schema["type"] = name.into();
        schema["x-guidance"] = json!({"whitespace_flexible": false});
        self.rule(&format!("%json {schema}"))
    }

    fn string(&mut self, map: &Map<String, Value>, at: &str) -> Result<String> {
        let keys = |keys: &[&str]| -> Map<String, Value> {
            map.iter().filter(|(key, _)| keys.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        match self.dialect.clone() {
            Dialect::Bare { quote, text } => {
                let body = text::raw(map, &[text], self.tool, at)?;
                self.between(&quote, &body, text::may_be_empty(map))
            }
            Dialect::Python => {
                let mut schema = Value::Object(keys(&STRING_KEYS));
                schema["type"] = "string".into();
                schema["x-guidance"] = json!({"whitespace_flexible": false});
                Ok(self.rule(&format!("%json {schema}")))
            }
            Dialect::Json { without } => {
                for key in ["pattern", "format"] {
                    if map.contains_key(key) {
                        return Err(self.refused(&format!("{key:?} of a string within a value"), &below(at, key)));
                    }
                }
                let times = text::times(map, self.tool, at)?;
                let not: String = without.iter().map(|text| format!(" & {}", text::without(text))).collect();
                let body = format!(r#""\"" (/([^"\\\x00-\x1F\x7F]|\\["\\bfnrt]){times}/{not}) "\"""#);
                Ok(self.terminal(&body))
            }
        }
    }

    /// Text between quotes of their own.
    fn between(&mut self, quote: &[Piece], body: &str, may_be_empty: bool) -> Result<String> {
        let marks = spelling::symbols(quote);
        if quote.iter().all(|piece| matches!(piece, Piece::Text(_))) {
            return Ok(self.terminal(&format!("{marks} {body} {marks}")));
        }
        // A terminal that may be empty is none; so what is between may be left out.
        let text = self.terminal(&format!("{body} & /(?s:.+)/"));
        let maybe = if may_be_empty { "?" } else { "" };
        Ok(self.rule(&format!("{marks} {text}{maybe} {marks}")))
    }

    fn array(&mut self, map: &'a Map<String, Value>, at: &str) -> Result<String> {
        if map.get("uniqueItems").is_some_and(|unique| unique != &Value::Bool(false)) {
            return Err(self.refused("\"uniqueItems\"", &below(at, "uniqueItems")));
        }
        let item = match map.get("items") {
            Some(schema) => self.value(schema, &below(at, "items"))?,
            None => self.any()?,
        };
        let (least, most) = (self.count(map, "minItems", at)?.unwrap_or(0), self.count(map, "maxItems", at)?);
        let (comma, _) = self.separators();
        let list = match (least, most) {
            (_, Some(most)) if most < least => return Err(self.refused("\"maxItems\" below \"minItems\"", at)),
            (_, Some(0)) => String::new(),
            (_, most) => {
                let more = (least.saturating_sub(1), most.map(|most| most - 1));
                let times = match more {
                    (0, None) => "*".to_owned(),
                    (least, None) => format!("{{{least},}}"),
                    (least, Some(most)) => format!("{{{least},{most}}}"),
                };
                let items = if more.1 == Some(0) { item } else { format!("{item} ({comma} {item}){times}") };
                if least == 0 { format!("({items})?") } else { items }
            }
        };
        Ok(self.rule(&format!("\"[\" {list} \"]\"")))
    }

    /// A bound that is a number of things.
    fn count(&self, map: &Map<String, Value>, key: &str, at: &str) -> Result<Option<usize>> {
        text::count(map, key, self.tool, at)
    }

    /// What stands between the brackets of an object, or of a call's keyword arguments.
    pub(super) fn pairs(&mut self, schema: &'a Value, at: &str, keywords: bool) -> Result<String> {
        let (schema, at) = resolved(self.root, schema, at);
        let map = schema.as_object().ok_or_else(|| self.refused("a schema that is no object", &at))?;
        self.only(map, &[&OBJECT_KEYS[..], &["type"]].concat(), &at)?;
        if map.get("type").is_some_and(|name| name != "object") {
            return Err(self.refused("parameters that are no object", &below(&at, "type")));
        }
        self.pairs_of(map, &at, keywords)
    }

    fn pairs_of(&mut self, map: &'a Map<String, Value>, at: &str, keywords: bool) -> Result<String> {
        let (comma, space) = self.separators();
        let (colon, space) = if keywords { ("=", "") } else { (":", space) };
        let none = Map::new();
        let properties = map.get("properties").map(|properties| {
            properties.as_object().ok_or_else(|| self.refused("\"properties\" that are no object", at))
        });
        let properties = properties.transpose()?;
        let required = required(map, properties.unwrap_or(&none), self.tool, at)?;
        let additional = map.get("additionalProperties");
        let Some(properties) = properties.filter(|properties| !properties.is_empty()) else {
            if additional == Some(&Value::Bool(false)) {
                return Ok(String::new());
            }
            let value = match additional {
                Some(schema) => self.value(schema, &below(at, "additionalProperties"))?,
                None => self.any()?,
            };
            let key = match &self.dialect {
                Dialect::Bare { .. } => FREE_KEY.to_owned(),
                _ if keywords => FREE_KEY.to_owned(),
                _ => format!("\"\\\"\" {FREE_KEY} \"\\\"\""),
            };
            let key = self.terminal(&key);
            let pair = self.rule(&format!("{key} {} {space} {value}", quoted(colon)));
            return Ok(format!("({pair} ({comma} {pair})*)?"));
        };
        let mut pairs = Vec::new();
        for (key, schema) in properties {
            let at = below(&below(at, "properties"), key);
            if schema == &Value::Bool(false) && !required.contains(&key.as_str()) {
                continue;
            }
            let written = self.key(key, keywords, &at)?;
            let value = self.value(schema, &at)?;
            let pair = format!("{} {space} {value}", spelling::symbols(&joined(written, colon)));
            pairs.push((self.rule(&pair), required.contains(&key.as_str())));
        }
        // From the last on: what may follow where something was written, and where nothing was.
        let (mut rest, mut first) = (String::new(), String::new());
        for (pair, required) in pairs.iter().rev() {
            let begins = format!("{pair} {rest}");
            first = match (required, first.is_empty()) {
                (true, _) => self.rule(&begins),
                (false, true) => self.rule(&format!("({begins})?")),
                (false, false) => self.rule(&format!("{begins} | {first}")),
            };
            let goes_on =
                if *required { format!("{comma} {pair} {rest}") } else { format!("({comma} {pair})? {rest}") };
            rest = self.rule(&goes_on);
        }
        Ok(first)
    }

    /// A key as it is written.
    fn key(&self, key: &str, keywords: bool, at: &str) -> Result<Vec<Piece>> {
        let bare = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let is_bare = !key.is_empty() && key.chars().all(bare);
        let text = |text: String| vec![Piece::Text(text)];
        match &self.dialect {
            _ if keywords && !is_bare => Err(self.refused(&format!("the name {key:?} of a parameter"), at)),
            _ if keywords => Ok(text(key.to_owned())),
            Dialect::Bare { .. } if is_bare => Ok(text(key.to_owned())),
            Dialect::Json { without } if without.iter().any(|text| key.contains(text)) => {
                Err(self.refused(&format!("the name {key:?} of a property"), at))
            }
            _ => Ok(text(Value::from(key).to_string())),
        }
    }

    /// One value.
    fn literal(&mut self, value: &Value, at: &str) -> Result<String> {
        let mut pieces = Vec::new();
        self.write(value, &mut pieces, at)?;
        Ok(spelling::symbols(&pieces))
    }

    fn write(&self, value: &Value, out: &mut Vec<Piece>, at: &str) -> Result<()> {
        let (comma, colon) = if matches!(self.dialect, Dialect::Bare { .. }) { (",", ":") } else { (", ", ": ") };
        match value {
            Value::Null => spelling::push_text(out, self.null()),
            Value::Bool(value) => spelling::push_text(out, self.truth(*value)),
            Value::Number(number) => spelling::push_text(out, &number.to_string()),
            Value::String(text) => match &self.dialect {
                Dialect::Bare { text: quote, .. } if text.contains(quote) => {
                    return Err(self.refused(&format!("the value {text:?}"), at));
                }
                Dialect::Bare { quote, .. } => {
                    out.extend(quote.iter().cloned());
                    spelling::push_text(out, text);
                    out.extend(quote.iter().cloned());
                }
                Dialect::Json { without } if without.iter().any(|tag| text.contains(tag)) => {
                    return Err(self.refused(&format!("the value {text:?}"), at));
                }
                _ => spelling::push_text(out, &value.to_string()),
            },
            Value::Array(items) => {
                spelling::push_text(out, "[");
                for (index, item) in items.iter().enumerate() {
                    spelling::push_text(out, if index > 0 { comma } else { "" });
                    self.write(item, out, at)?;
                }
                spelling::push_text(out, "]");
            }
            Value::Object(map) => {
                spelling::push_text(out, "{");
                for (index, (key, value)) in map.iter().enumerate() {
                    spelling::push_text(out, if index > 0 { comma } else { "" });
                    for piece in joined(self.key(key, false, at)?, colon) {
                        match piece {
                            Piece::Text(text) => spelling::push_text(out, &text),
                            special => out.push(special),
                        }
                    }
                    self.write(value, out, at)?;
                }
                spelling::push_text(out, "}");
            }
        }
        Ok(())
    }

    /// Any value.
    fn any(&mut self) -> Result<String> {
        if let Some(name) = &self.any {
            return Ok(name.clone());
        }
        let name = self.fresh();
        self.any = Some(name.clone());
        let string = self.string(&Map::new(), "")?;
        let (number, boolean, null) = (self.terminal(NUMBER), self.boolean(), quoted(self.null()));
        let (comma, space) = self.separators();
        let key = match self.dialect {
            Dialect::Bare { .. } => self.terminal(FREE_KEY),
            _ => self.terminal(&format!("\"\\\"\" {FREE_KEY} \"\\\"\"")),
        };
        let pair = self.rule(&format!("{key} \":\" {space} {name}"));
        let list = format!("\"[\" ({name} ({comma} {name})*)? \"]\"");
        let object = format!("\"{{\" ({pair} ({comma} {pair})*)? \"}}\"");
        let _ = writeln!(self.rules, "{name}: {string} | {number} | {boolean} | {null} | {list} | {object}");
        Ok(name)
    }
}

/// A key that no schema names.
pub(super) const FREE_KEY: &str = "/[a-zA-Z_][a-zA-Z0-9_]{0,63}/";
const INTEGER: &str = "/-?(0|[1-9][0-9]{0,17})/";
const NUMBER: &str = r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?/";
pub(super) const NUMBER_KEYS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
pub(super) const STRING_KEYS: [&str; 4] = ["minLength", "maxLength", "pattern", "format"];
const ARRAY_KEYS: [&str; 4] = ["items", "minItems", "maxItems", "uniqueItems"];
pub(super) const OBJECT_KEYS: [&str; 3] = ["properties", "required", "additionalProperties"];

/// The keys that say something about values of a type.
fn keys_of(name: &str) -> &'static [&'static str] {
    match name {
        "integer" | "number" => &NUMBER_KEYS,
        "string" => &STRING_KEYS,
        "array" => &ARRAY_KEYS,
        "object" => &OBJECT_KEYS,
        _ => &[],
    }
}

/// The type of a schema that has none but keys of one.
fn implied(map: &Map<String, Value>) -> Option<&'static str> {
    ["object", "array"].into_iter().find(|name| keys_of(name).iter().any(|key| map.contains_key(*key)))
}

fn has_type(value: &Value, types: &Value) -> bool {
    let one = |name: &Value| match (name.as_str().unwrap_or(""), value) {
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) | ("null", Value::Null) => true,
        ("number", Value::Number(_)) | ("array", Value::Array(_)) | ("object", Value::Object(_)) => true,
        ("integer", Value::Number(number)) => number.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    };
    types.as_array().map_or_else(|| one(types), |types| types.iter().any(one))
}

/// A text after pieces.
fn joined(mut pieces: Vec<Piece>, text: &str) -> Vec<Piece> {
    spelling::push_text(&mut pieces, text);
    pieces
}

/// What a schema of references alone leads to, and where that is.
pub(super) fn resolved<'a>(root: &'a Value, schema: &'a Value, at: &str) -> (&'a Value, String) {
    let (mut schema, mut at) = (schema, at.to_owned());
    for _ in 0..CONSTRAINT_DEPTH_MAX {
        let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { break };
        let says = |key: &String| key != "$ref" && key != "type" && !NOTES.contains(&key.as_str());
        let Some(target) =
            referenced(root, reference).filter(|_| !schema.as_object().is_some_and(|map| map.keys().any(says)))
        else {
            break;
        };
        (schema, at) = (target, reference.trim_start_matches('#').to_owned());
    }
    (schema, at)
}

/// The required properties, each of which the schema has.
pub(super) fn required<'a>(
    map: &'a Map<String, Value>,
    properties: &Map<String, Value>,
    tool: &str,
    at: &str,
) -> Result<Vec<&'a str>> {
    let Some(list) = map.get("required") else { return Ok(Vec::new()) };
    let at = below(at, "required");
    let names = list.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<&str>>>());
    let names = names.ok_or_else(|| refused(tool, "\"required\" that is no list of names", &at))?;
    match names.iter().find(|name| !properties.contains_key(**name)) {
        Some(name) => Err(refused(tool, &format!("the required {name:?}, which is no property,"), &at)),
        None => Ok(names),
    }
}
