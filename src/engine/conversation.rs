//! The second half of a turn: the answer of a request becomes a message of the prompt, and the results of its calls follow it.

use super::answer::Answered;
use super::event::{PartDelta, PartEnd, PartKind};
use super::{Prompt, Request};
use crate::error::{Error, Result};
use crate::os::shortage;
use serde_json::{Map, Value};

impl Prompt {
    /// Adds the answer of a request that has ended, as the assistant's message: its content, its reasoning, and its calls, those
    /// that are whole. Where the chat template writes it as the model did, the very tokens that were generated stand for it from
    /// then on. After a message that was to be continued, the answer's content goes on with that.
    ///
    /// # Errors
    /// `Argument` before the request's last event was received, for one whose prompt was not made of messages, and for a prompt of
    /// raw parts; `Memory`, with the prompt as it was.
    pub fn add_answer(&mut self, request: &Request) -> Result<()> {
        if !self.parts.is_empty() {
            let message =
                "an answer is a message, and this prompt has text or tokens; a prompt is either raw or a chat";
            return Err(Error::argument(message).about("prompt"));
        }
        let added = request.delivery.answer(|reader| {
            let answered = reader.answered()?;
            let bytes = answered.parts.iter().map(|part| 4 * part.text.len() + 1024).sum::<usize>();
            let made = shortage::backed("an answer", bytes, || Ok::<_, Error>((message(answered), reader.prior()?)));
            made.flatten()
        });
        let (message, prior) = added.ok_or_else(|| {
            let message = "the request's prompt is not made of messages, so its answer is none; add its text";
            Error::argument(message).about("request")
        })??;
        let refused = |_| Error::memory("the prompt", size_of::<Value>() as u64);
        self.messages.try_reserve(1).map_err(refused)?;
        self.answers.try_reserve(1).map_err(refused)?;
        let last = self.messages.len().checked_sub(1);
        let flags = last.and_then(|last| self.message_flags.get_mut(last)).filter(|flags| flags.continued);
        if let (Some(flags), Some(Value::Object(start))) = (flags, self.messages.last_mut()) {
            flags.continued = false;
            continue_with(start, message);
        } else {
            self.messages.push(Value::Object(message));
        }
        if let Some(prior) = prior {
            self.answers.push((self.messages.len() - 1, prior));
        }
        Ok(())
    }

    /// Adds what a tool returned, as the result of the call with this id.
    ///
    /// # Errors
    /// `Argument` when no call of the last answer has the id, or its result is there already; for a prompt of raw parts.
    pub fn add_result(&mut self, call_id: &str, result: &str) -> Result<()> {
        let text = |message: &Value, key: &str| message.get(key).and_then(Value::as_str).map(str::to_owned);
        let is_result = |message: &&Value| text(message, "role").as_deref() == Some("tool");
        let results = self.messages.iter().rev().take_while(is_result).count();
        let (before, after) = self.messages.split_at(self.messages.len() - results);
        let calls = before.last().and_then(|message| message.get("tool_calls")).and_then(Value::as_array);
        let calls = calls.map(Vec::as_slice).unwrap_or_default();
        let Some(call) = calls.iter().find(|call| text(call, "id").as_deref() == Some(call_id)) else {
            let ids: Vec<String> = calls.iter().filter_map(|call| text(call, "id")).collect();
            let message = match ids.is_empty() {
                true => "the last message is no answer with calls; add the answer before the results of its calls"
                    .to_owned(),
                false => format!("the last answer has no call {call_id:?}; it has {}", ids.join(", ")),
            };
            return Err(Error::argument(message).about("call_id"));
        };
        if after.iter().any(|message| text(message, "tool_call_id").as_deref() == Some(call_id)) {
            return Err(Error::argument(format!("the call {call_id:?} has its result already")).about("call_id"));
        }
        let name = call.get("function").and_then(|function| text(function, "name")).unwrap_or_default();
        let bytes = result.len() + call_id.len() + name.len() + 1024;
        let message = shortage::backed("a result", bytes, || {
            let fields = [("role", "tool"), ("tool_call_id", call_id), ("name", &name), ("content", result)];
            object(fields.map(|(key, value)| (key, Value::from(value))))
        })?;
        self.messages.try_reserve(1).map_err(|_| Error::memory("the prompt", size_of::<Value>() as u64))?;
        self.messages.push(Value::Object(message));
        Ok(())
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The assistant's message of an answer.
fn message(answered: &Answered) -> Map<String, Value> {
    let text = |kind| -> String {
        answered.parts.iter().filter(|part| part.kind == kind).map(|part| part.text.as_str()).collect()
    };
    let whole = |part: &&PartDelta| part.kind == PartKind::Call && part.end == Some(PartEnd::Complete);
    let calls: Vec<Value> = answered.parts.iter().filter(whole).map(call).collect();
    let (content, reasoning) = (text(PartKind::Content), text(PartKind::Reasoning));
    let content = if content.is_empty() && !calls.is_empty() { Value::Null } else { Value::from(content) };
    let mut message = object([("role", Value::from("assistant")), ("content", content)]);
    if !reasoning.is_empty() {
        // Under this name it is found under all that templates look for.
        message.insert("reasoning".to_owned(), Value::from(reasoning));
    }
    if !calls.is_empty() {
        message.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    message
}

fn call(part: &PartDelta) -> Value {
    let function = object([
        ("name", Value::from(part.name.as_deref().unwrap_or_default())),
        ("arguments", Value::from(part.text.as_str())),
    ]);
    let id = Value::from(part.id.as_deref().unwrap_or_default());
    Value::Object(object([("id", id), ("type", Value::from("function")), ("function", Value::Object(function))]))
}

/// The start of an answer and the rest of it.
fn continue_with(start: &mut Map<String, Value>, rest: Map<String, Value>) {
    for (key, value) in rest {
        match (start.get_mut(&key), value) {
            (Some(Value::String(text)), Value::String(more)) if key != "role" => text.push_str(&more),
            (Some(Value::Null) | None, value) => _ = start.insert(key, value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn prompt() -> Prompt {
        let call =
            |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}});
        let calls = json!({"role": "assistant", "content": null, "tool_calls": [call("a", "dice"), call("b", "coin")]});
        Prompt { messages: vec![json!({"role": "user", "content": "x"}), calls], ..Prompt::default() }
    }

    #[test]
    fn results_belong_to_calls_of_the_last_answer() {
        let mut prompt = prompt();
        prompt.add_result("b", "heads").unwrap();
        prompt.add_result("a", "6").unwrap();
        let wanted = json!({"role": "tool", "tool_call_id": "b", "name": "coin", "content": "heads"});
        assert_eq!((prompt.messages.len(), &prompt.messages[2]), (4, &wanted));
        for (id, what) in [("c", "has no call \"c\"; it has a, b"), ("a", "its result already")] {
            let error = prompt.add_result(id, "").unwrap_err();
            assert!(error.message.contains(what), "{error:?}");
        }
        let mut chat = Prompt { messages: vec![json!({"role": "user", "content": "x"})], ..Prompt::default() };
        assert!(chat.add_result("a", "1").unwrap_err().message.contains("no answer with calls"));
    }

    #[test]
    fn an_answer_goes_on_with_its_start() {
        let mut start = object([("role", Value::from("assistant")), ("content", Value::from("Once"))]);
        continue_with(&mut start, object([("role", Value::from("assistant")), ("content", Value::from(" upon"))]));
        assert_eq!(Value::Object(start), json!({"role": "assistant", "content": "Once upon"}));
    }
}
