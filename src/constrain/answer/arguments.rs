//! The arguments of calls that are not written as JSON, as JSON.

use std::collections::HashMap;

use super::cast::{Tools, ValueStyle};
use super::json_text::quoted;
use super::template::CallStyle;

/// The arguments in the content of a region, as an object of JSON. None: there are none, yet there is text.
pub(super) fn object(style: &CallStyle, body: &str, tool: &str, tools: &Tools) -> Option<String> {
    let mut arguments = Arguments { pairs: Vec::new(), places: HashMap::new(), tool, tools };
    match style {
        CallStyle::Tagged { tag, value, merge } => {
            for found in tag.captures_iter(body).flatten() {
                let group = |name| found.name(name).map(|found| found.as_str());
                let key = group("key").unwrap_or("");
                match group("text") {
                    Some(text) => arguments.push(key, text, &ValueStyle::Text { strip: false }, *merge),
                    None => arguments.push(key, group("value").unwrap_or(""), value, *merge),
                }
            }
        }
        CallStyle::Lines { line, key, value } => {
            for text in body.split(line.as_str()) {
                if let Some((key, text)) = text.split_once(key.as_str()) {
                    arguments.push(key.trim(), text.trim(), value, false);
                }
            }
        }
        CallStyle::Text { strip } => return Some(quoted(if *strip { body.trim() } else { body })),
        CallStyle::Json(_) | CallStyle::Python => return None,
    }
    if arguments.pairs.is_empty() && !only_tags(body) {
        return None;
    }
    let pairs = arguments.pairs.iter().map(|(key, values)| match values.as_slice() {
        [one] => format!("{}: {one}", quoted(key)),
        many => format!("{}: [{}]", quoted(key), many.join(", ")),
    });
    Some(format!("{{{}}}", pairs.collect::<Vec<_>>().join(", ")))
}

struct Arguments<'a> {
    /// Keys with their values, which are several only where those of one key are merged.
    pairs: Vec<(String, Vec<String>)>,
    /// Place of each key.
    places: HashMap<String, usize>,
    tool: &'a str,
    tools: &'a Tools,
}

impl Arguments<'_> {
    fn push(&mut self, key: &str, raw: &str, style: &ValueStyle, merge: bool) {
        let value = style.json(raw, &self.tools.types(self.tool, key));
        let place = *self.places.entry(key.to_owned()).or_insert(self.pairs.len());
        match self.pairs.get_mut(place) {
            Some((_, values)) if merge => values.push(value),
            Some((_, values)) => *values = vec![value],
            None => self.pairs.push((key.to_owned(), vec![value])),
        }
    }
}

/// Whether a text is nothing but space and closing tags.
fn only_tags(body: &str) -> bool {
    let mut rest = body.trim();
    while let Some(after) = rest.strip_prefix("</") {
        let Some((name, after)) = after.split_once('>') else { return false };
        if name.contains(['<', ' ', '\n']) {
            return false;
        }
        rest = after.trim_start();
    }
    rest.is_empty()
}
