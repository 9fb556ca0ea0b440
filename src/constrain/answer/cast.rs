//! Values that a model wrote as bare text, as JSON: by what the tool's schema says, else by what the template says.

use serde::de::IgnoredAny;
use serde_json::Value;

use super::json_text::{Dialect, JsonText, quoted};
use super::python;

/// The parameters of tools, by name.
#[derive(Clone, Debug, Default)]
pub struct Tools(Vec<(String, Value)>);

impl Tools {
    /// Of a list of tools as chat templates get it: `{"type": "function", "function": {"name", "parameters"}}`, or the inner
    /// object alone. What is neither is passed over.
    pub fn new(tools: &Value) -> Tools {
        let tool = |tool: &Value| {
            let function = tool.get("function").unwrap_or(tool);
            let properties = function.get("parameters").and_then(|parameters| parameters.get("properties"));
            Some((function.get("name")?.as_str()?.to_owned(), properties?.clone()))
        };
        Tools(tools.as_array().into_iter().flatten().filter_map(tool).collect())
    }

    /// The types that a parameter may have; none: not known.
    pub(in crate::constrain) fn types(&self, tool: &str, parameter: &str) -> Vec<&str> {
        let tool = self.0.iter().find(|(name, _)| name == tool);
        let schema = tool.and_then(|(_, properties)| properties.get(parameter));
        let mut types = Vec::new();
        if let Some(schema) = schema {
            collect_types(schema, 0, &mut types);
        }
        types.iter().map(|name| standard(name)).collect()
    }
}

fn collect_types<'a>(schema: &'a Value, depth: usize, types: &mut Vec<&'a str>) {
    match schema.get("type") {
        Some(Value::String(name)) => types.push(name),
        Some(Value::Array(names)) => types.extend(names.iter().filter_map(Value::as_str)),
        _ => {}
    }
    let choices = ["anyOf", "oneOf"].into_iter().filter_map(|key| schema.get(key)?.as_array());
    for choice in choices.flatten().filter(|_| depth < 4) {
        collect_types(choice, depth + 1, types);
    }
    if schema.get("nullable") == Some(&Value::Bool(true)) {
        types.push("null");
    }
}

/// The name of a type in JSON schemas, for what tools call it otherwise.
fn standard(name: &str) -> &str {
    match name {
        "int" => "integer",
        "float" | "double" => "number",
        "bool" => "boolean",
        "dict" => "object",
        "list" | "tuple" => "array",
        "str" => "string",
        _ => name,
    }
}

/// How the text of a value is read where no schema says its type.
#[derive(Clone, Debug)]
pub(super) enum ValueStyle {
    /// It is a string.
    Text { strip: bool },
    /// It is JSON, else a string.
    Json { dialect: Dialect, strip: bool },
}

impl ValueStyle {
    /// A value as JSON. `types`: those of its schema.
    pub(super) fn json(&self, raw: &str, types: &[&str]) -> String {
        match self {
            ValueStyle::Json { dialect, .. } if !dialect.delimiters.is_empty() => {
                converted(raw.trim(), dialect).map_or_else(|| self.text(raw, types), |json| cast_json(json, types))
            }
            ValueStyle::Json { .. } if types.is_empty() && is_json(raw) => raw.trim().to_owned(),
            _ => self.text(raw, types),
        }
    }

    fn text(&self, raw: &str, types: &[&str]) -> String {
        let (ValueStyle::Text { strip } | ValueStyle::Json { strip, .. }) = self;
        cast(raw, types).unwrap_or_else(|| quoted(if *strip { raw.trim() } else { raw }))
    }
}

/// A string of JSON as what its schema says; anything else as it is.
pub(super) fn cast_json(json: String, types: &[&str]) -> String {
    if types.is_empty() {
        return json;
    }
    let text = serde_json::from_str::<String>(&json).ok();
    text.and_then(|text| cast(&text, types)).unwrap_or(json)
}

/// Text as the first of the types that it can be; None: it can be none but a string.
fn cast(raw: &str, types: &[&str]) -> Option<String> {
    let text = raw.trim();
    types.iter().find_map(|&name| match name {
        "integer" => integer(text),
        "number" => number(text),
        "boolean" => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some("true".to_owned()),
            "false" | "0" => Some("false".to_owned()),
            _ => None,
        },
        "null" => matches!(text, "null" | "None").then(|| "null".to_owned()),
        "object" | "array" => {
            let begins = if name == "object" { '{' } else { '[' };
            if !text.starts_with(begins) {
                return None;
            }
            if is_json(text) { Some(text.to_owned()) } else { python::literal(text) }
        }
        _ => None,
    })
}

fn integer(text: &str) -> Option<String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let value = digits.trim_start_matches('0');
        let sign = if text.starts_with('-') && !value.is_empty() { "-" } else { "" };
        return Some(format!("{sign}{}", if value.is_empty() { "0" } else { value }));
    }
    // Whole numbers may be written with a point.
    let value: f64 = text.parse().ok()?;
    (value.is_finite() && value.fract() == 0.0 && value.abs() < 1e15).then(|| format!("{value:.0}"))
}

fn number(text: &str) -> Option<String> {
    if let Ok(Value::Number(_)) = serde_json::from_str(text) {
        return Some(text.to_owned());
    }
    let value: f64 = text.parse().ok()?;
    serde_json::Number::from_f64(value).map(|number| number.to_string())
}

/// Whether a text is JSON.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A whole text in a dialect as JSON.
fn converted(text: &str, dialect: &Dialect) -> Option<String> {
    let mut json = JsonText::new(dialect.clone());
    let mut out = String::new();
    for c in text.chars() {
        json.end_number(Some(c)).ok()?;
        json.step(c, &mut out).ok()?;
    }
    json.end_number(None).ok()?;
    json.complete().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_becomes_what_the_schema_says() {
        for (raw, types, expected) in [
            ("5", &["integer"][..], "5"),
            ("-007", &["integer"], "-7"),
            ("3.0", &["integer"], "3"),
            ("3.5", &["integer"], "\"3.5\""),
            ("1e3", &["number"], "1e3"),
            ("+.5", &["number"], "0.5"),
            ("nan", &["number"], "\"nan\""),
            ("True", &["boolean"], "true"),
            ("None", &["string", "null"], "null"),
            ("05", &["string"], "\"05\""),
            ("{\"a\": 1}", &["string"], "\"{\\\"a\\\": 1}\""),
            ("{\"a\": 1}", &["object"], "{\"a\": 1}"),
            ("{'a': True}", &["object"], "{\"a\": true}"),
            ("[1]", &["object"], "\"[1]\""),
            ("[1]", &[], "[1]"),
            (" plain\n", &[], "\" plain\\n\""),
        ] {
            let style = ValueStyle::Json { dialect: Dialect::default(), strip: false };
            assert_eq!(style.json(raw, types), expected, "{raw} as {types:?}");
        }
    }

    #[test]
    fn types_are_found_wherever_a_schema_has_them() {
        let tools = Tools::new(&json!([{"type": "function", "function": {"name": "f", "parameters": {"properties": {
            "a": {"anyOf": [{"type": "integer"}, {"type": ["string", "null"]}]}, "b": {"type": "number", "nullable": true}, "c": 1}}}},
            {"name": "g", "parameters": {"properties": {"x": {"type": "array"}}}}, 3]));
        assert_eq!(tools.types("f", "a"), ["integer", "string", "null"]);
        assert_eq!(tools.types("f", "b"), ["number", "null"]);
        assert_eq!(tools.types("g", "x"), ["array"]);
        assert!(tools.types("f", "c").is_empty() && tools.types("h", "a").is_empty());
    }
}
