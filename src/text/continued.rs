//! The last message of a chat as the start of the answer.
//!
//! Templates close every message they are given, trim it, and some write it anew. So the message is rendered with a mark
//! at its end, and the text is cut where the mark stands: what remains ends with the message's own end, whatever the
//! template does around it. transformers' `continue_final_message` works the same way.

use super::MarkedText;
use super::template::{REASONING, is_space};
use crate::error::{Error, Result, Status};
use serde_json::Value;
use std::hash::{BuildHasher, RandomState};

/// Renders `messages`, the last one left open: the text ends where that message's content ends. A content in parts ends
/// with its last part of text; a message without content, but with reasoning, is continued in its reasoning. Spaces at
/// the end of the content stay if the template keeps them.
///
/// The messages are the caller's copy: the last one is written to.
///
/// # Errors
/// [`Status::Argument`]: there is no message, or no text in it. [`Status::Template`]: the template leaves out the end of the
/// content or a part of it. [`Status::Memory`]. Those of `render`.
pub fn render(mut messages: Vec<Value>, render: impl FnOnce(&[Value]) -> Result<MarkedText>) -> Result<MarkedText> {
    let end = messages.last().and_then(open_end);
    let last = end.zip(messages.last_mut()).and_then(|(end, message)| message.pointer_mut(&end));
    let Some(Value::String(last)) = last else {
        let message = "the last message has no text that could be continued; give it a content, \"\" at least";
        return Err(Error::argument(message).about("messages"));
    };
    let content = last.len();
    let mark = mark();
    let bytes = content.saturating_add(mark.len() + 1);
    last.try_reserve(mark.len() + 1).map_err(|_| Error::memory("the last message of a chat", bytes as u64))?;
    // The space shows whether the template keeps spaces at the end.
    last.push_str(&mark);
    last.push(' ');
    let text = render(&messages)?;
    let last = messages.last().and_then(open_text);
    cut(text, last.and_then(|text| text.get(..content)).unwrap_or_default(), &mark)
}

/// Whether the message that is continued has begun: its text is more than spaces.
pub fn has_text(message: &Value) -> bool {
    open_text(message).is_some_and(|text| !text.chars().all(is_space))
}

/// Where a message can be continued: at the end of its content, of the last part of that which is text, or of its reasoning,
/// as a JSON pointer to the text.
fn open_end(message: &Value) -> Option<String> {
    let fields = message.as_object()?;
    let names = std::iter::once("content").chain(REASONING);
    let field = names.into_iter().find(|name| fields.get(*name).is_some_and(|value| !value.is_null()))?;
    match fields.get(field)? {
        Value::String(_) => Some(format!("/{field}")),
        Value::Array(parts) => {
            let is_text = |part: &Value| part.is_string() || part.get("text").is_some_and(Value::is_string);
            let last = parts.iter().rposition(is_text)?;
            Some(format!("/{field}/{last}{}", if parts.get(last)?.is_object() { "/text" } else { "" }))
        }
        _ => None,
    }
}

/// The text at the open end.
fn open_text(message: &Value) -> Option<&str> {
    message.pointer(&open_end(message)?)?.as_str()
}

/// A word that no text contains.
fn mark() -> String {
    let letter = |n: u64| char::from(b'a' + u8::try_from(n & 15).unwrap_or(0));
    let numbers = [0, 1].map(|n: u64| RandomState::new().hash_one(n));
    numbers.into_iter().flat_map(|n| (0..16).map(move |i| letter(n >> (4 * i)))).collect()
}

/// The rendered text up to the end of the content.
fn cut(MarkedText { mut text, mut content }: MarkedText, start: &str, mark: &str) -> Result<MarkedText> {
    let lost = || {
        let message = "the last message cannot be continued: the chat template leaves out a part of its content; \
                       send the prompt as text instead";
        Error::new(Status::Template, message).about("messages")
    };
    let at = text.rfind(mark).ok_or_else(lost)?;
    let kept = text.get(at + mark.len()..).is_some_and(|rest| rest.starts_with(' '));
    text.truncate(at);
    if !ends_with(&text, start) {
        return Err(lost());
    }
    if !kept {
        text.truncate(trimmed(&text, start).len());
    }
    content.retain_mut(|range| {
        range.end = range.end.min(text.len());
        range.start < range.end
    });
    Ok(MarkedText { text, content })
}

/// Whether `text` ends with `start`, all spaces aside: templates trim content, and put its reasoning on lines of its own.
fn ends_with(text: &str, start: &str) -> bool {
    let mut text = text.chars().rev().filter(|&c| !is_space(c));
    start.chars().rev().filter(|&c| !is_space(c)).all(|c| text.next() == Some(c))
}

/// `text` without the spaces at the end of `start`, which it ends with. Those of a content that is nothing but spaces were
/// trimmed with what comes before it.
fn trimmed<'a>(text: &'a str, start: &str) -> &'a str {
    let solid = start.trim_end_matches(is_space);
    if solid.is_empty() {
        return text;
    }
    let spaces = start.get(solid.len()..).unwrap_or_default();
    text.strip_suffix(spaces).unwrap_or_else(|| text.trim_end_matches(is_space))
}
