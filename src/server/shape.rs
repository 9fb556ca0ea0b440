//! What fields inside of messages and tools have to be: a value of another type is refused with the place where it is, for a template
//! would write it, or leave it out, without a word.

use super::refusal::{Outcome, Refusal};
use serde_json::{Map, Value};

/// A place in a field of the request, for errors.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The field of the request.
    pub field: &'a str,
    /// The index in it.
    pub at: usize,
}

impl Place<'_> {
    /// A refusal of what is here.
    pub fn wrong(self, what: &str) -> Refusal {
        Refusal::field(self.field, format!("{}[{}] {what}", self.field, self.at))
    }

    /// The object that a value is.
    pub fn object(self, value: &Value) -> Outcome<&Map<String, Value>> {
        value.as_object().ok_or_else(|| self.wrong("is no object"))
    }

    /// The text of this name; none where it is absent or null.
    pub fn text<'v>(self, object: &'v Map<String, Value>, name: &str) -> Outcome<Option<&'v str>> {
        match object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(&format!("has {name:?}, which is no text"))),
        }
    }

    /// The text of this name, which has to be there.
    pub fn need_text<'v>(self, object: &'v Map<String, Value>, name: &str) -> Outcome<&'v str> {
        self.text(object, name)?.ok_or_else(|| self.wrong(&format!("has no {name:?}")))
    }

    /// Checks content: a text, nothing, or a list of parts, each an object with a type, and with a text if it is text.
    pub fn content(self, content: Option<&Value>) -> Outcome<()> {
        match content {
            None | Some(Value::Null | Value::String(_)) => Ok(()),
            Some(Value::Array(parts)) => parts.iter().try_for_each(|part| {
                let part = part.as_object().ok_or_else(|| self.wrong("has content with a part that is no object"))?;
                let kind = self.need_text(part, "type")?;
                if kind == "text" || kind.ends_with("put_text") {
                    self.need_text(part, "text")?;
                }
                Ok(())
            }),
            Some(_) => Err(self.wrong("has content that is neither a text nor a list of parts")),
        }
    }
}
