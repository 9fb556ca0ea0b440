//! Copies of prompts, and the memory that text takes. Its size is not bounded, so a copy may fail with `Memory`.

use super::{Prompt, PromptPart, RequestOptions};
use crate::error::Result;
use crate::os::shortage;
use serde_json::Value;

impl Prompt {
    /// A copy, or an error if there is no memory for it.
    ///
    /// # Errors
    /// `Memory`.
    pub fn try_clone(&self) -> Result<Prompt> {
        shortage::backed("a copy of a prompt", self.heap_bytes(), || self.clone())
    }

    /// The prompt with the tools of its request, where it has none of its own; `None`: as it is.
    ///
    /// # Errors
    /// `Memory`.
    pub(super) fn with_tools(&self, options: &RequestOptions) -> Result<Option<Prompt>> {
        let tools = options.settings.as_ref().and_then(|settings| settings.tools.as_deref());
        let (Some(tools), None, false) = (tools, &self.tools, self.messages.is_empty()) else { return Ok(None) };
        let bytes = self.heap_bytes() + value_bytes(tools);
        shortage::backed("a copy of a prompt", bytes, || Some(Prompt { tools: Some(tools.clone()), ..self.clone() }))
    }

    /// A copy of the messages, or an error if there is no memory for it. Recursive: needs a stack of
    /// [`crate::limits::TEXT_STACK_BYTES`].
    ///
    /// # Errors
    /// `Memory`.
    pub(super) fn copied_messages(&self) -> Result<Vec<Value>> {
        let bytes = block(size_of_val(self.messages.as_slice())) + self.messages.iter().map(value_bytes).sum::<usize>();
        shortage::backed("a copy of a chat", bytes, || self.messages.clone())
    }

    /// Estimated heap memory of its lists and texts in bytes, including the allocator's overhead.
    pub(super) fn heap_bytes(&self) -> usize {
        let parts = self.parts.iter().map(|part| match part {
            PromptPart::Text { text, .. } => block(text.len()),
            PromptPart::Tokens(tokens) => block(size_of_val(tokens.as_slice())),
        });
        let lists = [
            size_of_val(self.parts.as_slice()),
            size_of_val(self.messages.as_slice()),
            size_of_val(self.message_flags.as_slice()),
        ];
        let values = self.messages.iter().chain(&self.tools).chain(self.variables.values()).map(value_bytes);
        let names = self.variables.keys().map(|name| ENTRY_BYTES + block(name.len()));
        lists.into_iter().map(block).chain(parts).chain(values).chain(names).sum()
    }
}

/// Bytes of a JSON object's entry besides the texts of key and value: the key and value structs, the hash, and the
/// index slot.
const ENTRY_BYTES: usize = 128;

/// Bytes that a heap block of `bytes` takes with the allocator's overhead.
fn block(bytes: usize) -> usize {
    bytes.next_multiple_of(16) + 16
}

/// Estimated heap memory of a JSON value in bytes. The recursion is bounded by the JSON parser's depth limit.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => block(text.len()),
        Value::Array(list) => block(size_of_val(list.as_slice())) + list.iter().map(value_bytes).sum::<usize>(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| ENTRY_BYTES + block(key.len()) + value_bytes(value)).sum::<usize>() + block(0)
        }
        Value::Number(_) => block(32),
        Value::Null | Value::Bool(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_copy_is_equal_and_its_size_is_that_of_what_it_holds() {
        let long = "x".repeat(10_000);
        let prompt = Prompt {
            parts: vec![PromptPart::Text { text: long.clone(), special: false }, PromptPart::Tokens(vec![7; 5000])],
            messages: vec![json!({"role": "user", "content": [{"text": long}, 1, null]})],
            ..Prompt::default()
        };
        let copy = prompt.try_clone().unwrap();
        assert_eq!((&copy.parts, &copy.messages), (&prompt.parts, &prompt.messages));
        let bytes = prompt.heap_bytes();
        assert!((40_000..44_000).contains(&bytes), "{bytes}");
    }
}
