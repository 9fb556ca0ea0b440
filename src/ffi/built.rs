//! A prompt while a host builds it: its rules (raw or chat, limits, what a message's flags may be), apart from the handle and the
//! lock it is behind.

use crate::engine::{MessageFlags, Prompt};
use crate::error::{Error, Result, Unit};
use crate::json::{Tree, with_numbers};
use crate::limits;
use crate::os::shortage;
use crate::os::thread;
use crate::text::exact;
use serde_json::Value;

/// A prompt and what its limits are counted by.
#[derive(Default)]
pub(super) struct Built {
    pub prompt: Prompt,
    text_bytes: usize,
    token_count: usize,
}

impl Built {
    /// Applies a change; one that fails changes nothing.
    pub fn change(&mut self, change: impl FnOnce(&mut Built) -> Result<()>) -> Result<()> {
        let counted = (self.text_bytes, self.token_count);
        change(self).inspect_err(|_| (self.text_bytes, self.token_count) = counted)
    }

    pub fn try_clone(&self) -> Result<Built> {
        let prompt = self.prompt.try_clone()?;
        Ok(Built { prompt, text_bytes: self.text_bytes, token_count: self.token_count })
    }

    pub fn count_text(&mut self, bytes: usize) -> Result<()> {
        let sum = self.text_bytes.saturating_add(bytes);
        if sum > limits::PROMPT_BYTES_MAX {
            let most = limits::PROMPT_BYTES_MAX;
            return Err(Error::argument(format!(
                "the prompt's text would have {sum} bytes; at most {most} are allowed"
            ))
            .about("text")
            .numbers(Unit::Bytes, sum as u64, most as u64));
        }
        self.text_bytes = sum;
        Ok(())
    }

    pub fn count_tokens(&mut self, tokens: usize) -> Result<()> {
        let sum = self.token_count.saturating_add(tokens);
        if sum > limits::CONTEXT_MAX {
            let most = limits::CONTEXT_MAX;
            return Err(Error::argument(format!("the prompt would have {sum} token ids; at most {most} are allowed"))
                .about("tokens")
                .numbers(Unit::Tokens, sum as u64, most as u64));
        }
        self.token_count = sum;
        Ok(())
    }

    /// Drops messages; the text they had no longer counts.
    pub fn shortened(&mut self, shorten: impl FnOnce(&mut Prompt) -> Result<usize>) -> Result<usize> {
        let before = content_bytes(&self.prompt);
        let dropped = shorten(&mut self.prompt)?;
        self.text_bytes = self.text_bytes.saturating_sub(before.saturating_sub(content_bytes(&self.prompt)));
        Ok(dropped)
    }

    /// Adds a message; its text counts. One that is too long is taken back.
    pub fn grown(&mut self, grow: impl FnOnce(&mut Prompt) -> Result<()>) -> Result<()> {
        let (before, messages, answers) =
            (content_bytes(&self.prompt), self.prompt.messages.len(), self.prompt.answers.len());
        grow(&mut self.prompt)?;
        let more = content_bytes(&self.prompt).saturating_sub(before);
        self.count_text(more).inspect_err(|_| {
            self.prompt.messages.truncate(messages);
            self.prompt.answers.truncate(answers);
        })
    }

    /// Refuses a message after one that is the start of the answer.
    pub fn no_start(&self) -> Result<()> {
        let (messages, flags) = (&self.prompt.messages, &self.prompt.message_flags);
        let last = messages.len().checked_sub(1).and_then(|last| flags.get(last));
        if !last.is_some_and(|flags| flags.continued) {
            return Ok(());
        }
        let message =
            "the last message has ASTRAI_MESSAGE_CONTINUE, and a message follows it; take the flag away first";
        Err(Error::argument(message).about("prompt"))
    }

    /// The index of a message and its role; -1 is the last.
    pub fn message(&self, index: i32) -> Result<(usize, &str)> {
        let messages = &self.prompt.messages;
        let at = if index == -1 { messages.len().checked_sub(1) } else { usize::try_from(index).ok() };
        match at.and_then(|at| Some((at, messages.get(at)?))) {
            Some((at, message)) => Ok((at, message.get("role").and_then(Value::as_str).unwrap_or_default())),
            None => {
                let count = messages.len();
                let message = format!("index is {index}, and the prompt has {count} messages; -1 is the last of them");
                let needed = u64::try_from(i64::from(index) + 1).unwrap_or(1);
                Err(Error::argument(message).about("index").numbers(Unit::Count, needed, count as u64))
            }
        }
    }

    pub fn set_flags(&mut self, index: i32, flags: MessageFlags) -> Result<()> {
        let (at, role) = self.message(index)?;
        let count = self.prompt.messages.len();
        if flags.continued && at + 1 < count {
            let message = format!("ASTRAI_MESSAGE_CONTINUE is for the last message; {at} is not, there are {count}");
            return Err(Error::argument(message).about("flags"));
        }
        if flags.continued && role != "assistant" {
            let message =
                format!("ASTRAI_MESSAGE_CONTINUE is for a message of the role \"assistant\"; that of {at} is {role:?}");
            return Err(Error::argument(message).about("flags"));
        }
        let all = &mut self.prompt.message_flags;
        if all.len() <= at {
            all.try_reserve(at + 1 - all.len()).map_err(|_| Error::memory("message flags", at as u64 + 1))?;
            all.resize(at + 1, MessageFlags::default());
        }
        if let Some(place) = all.get_mut(at) {
            *place = flags;
        }
        Ok(())
    }

    pub fn no_messages(&self) -> Result<()> {
        if self.prompt.messages.is_empty() { Ok(()) } else { Err(mixed("text or tokens", "messages")) }
    }

    pub fn no_parts(&self) -> Result<()> {
        if self.prompt.parts.is_empty() { Ok(()) } else { Err(mixed("messages", "text or tokens")) }
    }
}

/// Bytes of the contents of a prompt's messages that are text.
fn content_bytes(prompt: &Prompt) -> usize {
    let content = |message: &Value| message.get("content").and_then(Value::as_str).map_or(0, str::len);
    prompt.messages.iter().map(content).sum()
}

fn mixed(new: &str, old: &str) -> Error {
    Error::argument(format!("{new} cannot be added: this prompt has {old}; a prompt is either raw or a chat"))
        .about("prompt")
}

/// Refuses one element more than `max`.
pub(super) fn room(len: usize, max: usize, name: &str) -> Result<()> {
    if len < max {
        return Ok(());
    }
    Err(Error::argument(format!("the prompt has {len} {name}; at most {max} are allowed")).about(name).numbers(
        Unit::Count,
        len as u64 + 1,
        max as u64,
    ))
}

/// Adds to a part of the prompt, unless memory ran out in the making of it.
pub(super) fn append<T>(list: &mut Vec<T>, element: T) -> Result<()> {
    let bytes = (list.len() as u64 + 1).saturating_mul(size_of::<T>() as u64);
    list.try_reserve(1).map_err(|_| Error::memory("the prompt", bytes))?;
    shortage::check("the prompt")?;
    list.push(element);
    Ok(())
}

pub(super) fn parse(json: &str, name: &str) -> Result<Value> {
    let rewritten = exact::rewritten(json).saturating_mul(exact::REWRITTEN_BYTES);
    let estimate = json.len().saturating_mul(32).saturating_add(rewritten).saturating_add(4096);
    let estimate = estimate.min(2 * limits::PROMPT_TREE_BYTES_MAX);
    // As deep as the text nests.
    let parsed = thread::with_stack(limits::TEXT_STACK_BYTES, || {
        shortage::backed(name, estimate, || serde_json::from_str(&exact::keep(json)))
    })?;
    let value = parsed?.map_err(|e| {
        let what = if e.is_data() { "is not usable" } else { "is not valid JSON" };
        with_numbers(Error::argument(format!("{name} {what}: {e}")).about(name), &e)
    });
    value.map(|Tree::<{ limits::PROMPT_TREE_BYTES_MAX }>(value)| value)
}

pub(super) fn messages(json: &str) -> Result<Vec<Value>> {
    let Value::Array(messages) = parse(json, "messages")? else {
        return Err(Error::argument("messages must be a JSON array of objects with a role").about("messages"));
    };
    if messages.len() > limits::MESSAGES_MAX {
        room(messages.len() - 1, limits::MESSAGES_MAX, "messages")?;
    }
    for (index, message) in messages.iter().enumerate() {
        if !message.get("role").is_some_and(Value::is_string) {
            return Err(Error::argument(format!("messages[{index}] must be an object with a string \"role\""))
                .about("messages"));
        }
    }
    Ok(messages)
}
