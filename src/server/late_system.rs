//! System messages within a chat. They stay where they are, because the beginning of a prompt is what the prefix cache has; where the
//! chat template refuses them, each joins a message beside it.

use crate::engine::{Engine, Prompt, TextOptions};
use serde_json::{Value, json};

/// Between texts that become one.
const BETWEEN: &str = "\n\n";

/// Messages as a model's template takes them. `taken`: it takes system messages within a chat.
pub(super) fn settle(taken: bool, messages: Vec<Value>) -> Vec<Value> {
    if taken || !is_there(&messages) { messages } else { merged(messages) }
}

/// Whether there are system messages behind the first message.
fn is_there(messages: &[Value]) -> bool {
    messages.iter().skip(1).any(|message| message["role"] == "system")
}

/// Whether a model's template takes system messages within a chat: it is tried. May block.
pub(super) fn is_taken(engine: &Engine) -> bool {
    let messages = ["system", "user", "system", "user"].map(|role| json!({"role": role, "content": "x"}));
    let prompt = Prompt { messages: messages.to_vec(), ..Prompt::default() };
    engine.render(&prompt, TextOptions::default()).is_ok()
}

/// The text of content, which is one, or parts of text.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect();
            texts.join("\n")
        }
        content => content.as_str().unwrap_or_default().to_owned(),
    }
}

/// Each late system message joins the user's message before it, else that after it.
fn merged(messages: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    let mut kept = String::new();
    for (at, mut message) in messages.into_iter().enumerate() {
        if at > 0 && message["role"] == "system" {
            let content = text_of(&message["content"]);
            match merged.last_mut().filter(|last| last["role"] == "user") {
                Some(last) => last["content"] = Value::from([&text_of(&last["content"]), BETWEEN, &content].concat()),
                None => kept = [kept.as_str(), &content, BETWEEN].concat(),
            }
            continue;
        }
        if message["role"] == "user" && !kept.is_empty() {
            message["content"] = Value::from([std::mem::take(&mut kept), text_of(&message["content"])].concat());
        }
        merged.push(message);
    }
    if !kept.is_empty() {
        merged.push(json!({"role": "user", "content": kept.trim_end()}));
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_system_messages_join_their_neighbours() {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let chat =
            |parts: &[(&str, &str)]| -> Vec<Value> { parts.iter().map(|(role, text)| message(role, text)).collect() };
        let all = chat(&[
            ("system", "a"),
            ("user", "b"),
            ("system", "c"),
            ("assistant", "d"),
            ("system", "e"),
            ("user", "f"),
        ]);
        assert!(is_there(&all));
        let joined = merged(all);
        assert!(!is_there(&joined));
        assert_eq!(joined, chat(&[("system", "a"), ("user", "b\n\nc"), ("assistant", "d"), ("user", "e\n\nf")]));
        let last = merged(chat(&[("user", "b"), ("assistant", "d"), ("system", "e")]));
        assert_eq!(last, chat(&[("user", "b"), ("assistant", "d"), ("user", "e")]));
    }
}
