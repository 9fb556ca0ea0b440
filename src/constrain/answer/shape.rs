//! Where a call's name, arguments and id stand: what a field's `transform` says.

use serde_json::Value;

use crate::error::{Error, Result};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    /// A group of the expression that opens or closes the region.
    Group(String),
    /// What these keys lead to in the region's content, from outside in; none: all of it.
    Content(Vec<String>),
    /// Itself.
    Literal(String),
}

/// Where the parts of a call come from.
#[derive(Clone, Debug)]
pub(super) struct CallShape {
    pub(super) name: Source,
    pub(super) arguments: Source,
    /// Another key for the arguments, beside the last one of `arguments`.
    pub(super) arguments_too: Option<&'static str>,
    pub(super) id: Option<Source>,
}

impl CallShape {
    /// Of a field's `transform`. `groups`: the names of its expressions' groups.
    pub(super) fn parse(at: &str, transform: Option<&Value>, each: bool, groups: &[String]) -> Result<CallShape> {
        let scope = Scope { at, groups, each };
        let whole = CallShape {
            name: Source::Content(vec!["name".into()]),
            arguments: Source::Content(vec!["arguments".into()]),
            arguments_too: Some("parameters"),
            id: Some(Source::Content(vec!["id".into()])),
        };
        let Some(transform) = transform else { return Ok(whole) };
        let Some(call) = transform.as_object() else {
            return match scope.source("", transform)? {
                Source::Content(keys) if keys.is_empty() => Ok(whole),
                _ => Err(Error::format(format!("{at} must be an object with the call's name and arguments"))),
            };
        };
        let id = call.get("id").map(|id| scope.source("id", id)).transpose()?;
        let (function, path) = match call.get("function") {
            Some(function) => (function, "function."),
            None => (transform, ""),
        };
        let Some(function) = function.as_object() else {
            let inside = match scope.source("function", function)? {
                Source::Content(keys) => keys,
                _ => return Err(Error::format(format!("{at}.function must be an object, or \"{{content}}\""))),
            };
            let below = |key: &str| Source::Content(inside.iter().cloned().chain([key.to_owned()]).collect());
            return Ok(CallShape { name: below("name"), arguments: below("arguments"), id: id.or(whole.id), ..whole });
        };
        let part = |key: &str| {
            let value = function.get(key).ok_or_else(|| Error::format(format!("{at}.{path}{key} is missing")))?;
            scope.source(&format!("{path}{key}"), value)
        };
        let (name, arguments) = (part("name")?, part("arguments")?);
        if let Source::Literal(_) = arguments {
            return Err(Error::format(format!("{at}.{path}arguments must be a placeholder")));
        }
        Ok(CallShape { name, arguments, arguments_too: None, id })
    }

    /// The most keys that lead to one of its values.
    pub(super) fn depth(&self) -> usize {
        let depth = |source: &Source| match source {
            Source::Content(keys) => keys.len(),
            _ => 0,
        };
        [Some(&self.name), Some(&self.arguments), self.id.as_ref()].into_iter().flatten().map(depth).max().unwrap_or(0)
    }

    /// Whether the keys lead to the arguments.
    pub(super) fn leads_to_arguments(&self, keys: &[String]) -> bool {
        let Source::Content(wanted) = &self.arguments else { return false };
        wanted.as_slice() == keys
            || wanted.len() == keys.len()
                && self.arguments_too.is_some()
                && wanted.split_last().map(|(_, rest)| rest) == keys.split_last().map(|(_, rest)| rest)
                && keys.last().map(String::as_str) == self.arguments_too
    }
}

/// What placeholders of a field may name.
struct Scope<'a> {
    at: &'a str,
    groups: &'a [String],
    each: bool,
}

impl Scope<'_> {
    fn source(&self, key: &str, value: &Value) -> Result<Source> {
        let at = if key.is_empty() { self.at.to_owned() } else { format!("{}.{key}", self.at) };
        let Some(text) = value.as_str() else { return Err(Error::format(format!("{at} must be a string"))) };
        let Some(path) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            if text.contains('{') && text.contains('}') {
                return Err(Error::format(format!("{at}: {text:?} mixes a placeholder with other text")));
            }
            return Ok(Source::Literal(text.to_owned()));
        };
        let mut keys = path.split('.').map(str::to_owned);
        let root = keys.next().unwrap_or_default();
        let keys: Vec<String> = keys.collect();
        if keys.is_empty() && self.groups.contains(&root) {
            Ok(Source::Group(root))
        } else if self.each {
            Ok(Source::Content([root].into_iter().chain(keys).collect()))
        } else if root == "content" {
            Ok(Source::Content(keys))
        } else {
            Err(Error::format(format!(
                "{at}: {{{path}}} is neither \"content\" nor a group of the field's expressions"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shape(transform: &Value, each: bool) -> Result<CallShape> {
        CallShape::parse("fields.calls.transform", Some(transform), each, &["name".to_owned()])
    }

    #[test]
    fn placeholders_say_where_values_are() {
        let keys = |list: &[&str]| Source::Content(list.iter().map(|&key| key.to_owned()).collect());
        let all = shape(&json!({"type": "function", "function": "{content}"}), false).unwrap();
        assert_eq!((&all.name, &all.arguments), (&keys(&["name"]), &keys(&["arguments"])));
        assert!(all.leads_to_arguments(&["parameters".into()]) && !all.leads_to_arguments(&["name".into()]));
        let named = shape(&json!({"function": {"name": "{name}", "arguments": "{content.a.b}"}}), false).unwrap();
        assert_eq!((&named.name, &named.arguments), (&Source::Group("name".into()), &keys(&["a", "b"])));
        assert_eq!(named.depth(), 2);
        let each = shape(&json!({"function": {"name": "{tool_name}", "arguments": "{parameters}"}}), true).unwrap();
        assert_eq!((&each.name, &each.arguments), (&keys(&["tool_name"]), &keys(&["parameters"])));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_path() {
        for (transform, named) in [
            (json!({"function": {"name": "{nam}", "arguments": "{content}"}}), "transform.function.name"),
            (json!({"function": {"name": "x-{name}", "arguments": "{content}"}}), "mixes"),
            (json!({"function": {"name": "{name}"}}), "transform.function.arguments is missing"),
            (json!({"function": {"name": 1, "arguments": "{content}"}}), "must be a string"),
            (json!({"function": "{name}"}), "transform.function"),
            (json!(["{content}"]), "must be a string"),
        ] {
            let message = shape(&transform, false).unwrap_err().to_string();
            assert!(message.contains(named), "{transform}: {message}");
        }
    }
}
