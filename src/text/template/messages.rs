//! Messages as clients send them, to messages as the template wants them, and which of their texts are content.
//!
//! Content are the texts of user, tool, system and all other messages that are not the assistant's, but for the role, which
//! templates build markers from; the arguments of calls; tools and documents. The assistant's own words stay plain:
//! templates split them at markers.

use super::marks::Text;
use super::meter::{Meter, R, Sink, fault};
use super::value::{DictBuilder, View, view};
use super::{TemplateInput, big};
use crate::error::{Error, Result};
use crate::text::exact;
use minijinja::Value;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};
use std::fmt;
use std::sync::Arc;

/// The names a message's reasoning goes by, the first being the one templates read most.
pub(in crate::text) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Roles whose content is looked at apart: templates often take lists from one and texts from another.
pub(super) const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];
/// Types of parts that are text, and the key of the text.
const TEXT_TYPES: [&str; 3] = ["text", "input_text", "output_text"];
/// Types and keys of parts that are not text, and what they hold.
const MEDIA: [(&str, &str); 13] = [
    ("image_url", "an image"),
    ("input_image", "an image"),
    ("image", "an image"),
    ("image_base64", "an image"),
    ("image_embeds", "an image"),
    ("video_url", "a video"),
    ("video", "a video"),
    ("audio_url", "audio"),
    ("input_audio", "audio"),
    ("audio", "audio"),
    ("input_file", "a file"),
    ("file", "a file"),
    ("document", "a file"),
];

/// How a template takes content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// Both forms, or nobody knows: content stays as it is given.
    #[default]
    Given,
    /// A text.
    Text,
    /// A list of parts.
    Parts,
}

/// What a template wants; see [`super::probe`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// For each of [`ROLES`].
    pub(super) content: [Form; ROLES.len()],
    /// Arguments stay JSON text where they come as it: the template cannot do with an object.
    pub(super) argument_text: bool,
}

impl Wants {
    fn form(&self, role: &str) -> Form {
        // Roles without a place of their own are mostly handled like the user's.
        let at = ROLES.iter().position(|r| *r == role).unwrap_or(if role == "developer" { 0 } else { 1 });
        self.content.get(at).copied().unwrap_or_default()
    }
}

/// Fails for the first part of content that is no text.
///
/// # Errors
/// [`crate::Status::Unsupported`], with the positions of message and part.
pub(super) fn refuse_media(messages: &[Json]) -> Result<()> {
    for (m, message) in messages.iter().enumerate() {
        let parts = message.get("content").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        for (p, part) in parts.iter().enumerate() {
            let Some((name, what)) = medium(part) else { continue };
            return Err(Error::unsupported(format!(
                "messages[{m}].content[{p}] is {what} (\"{name}\"); this engine takes text only: send parts of type \"text\""
            ))
            .about("messages"));
        }
    }
    Ok(())
}

fn medium(part: &Json) -> Option<(&'static str, &'static str)> {
    let part = part.as_object()?;
    match part.get("type").and_then(Json::as_str) {
        Some(kind) => MEDIA.iter().find(|(name, _)| *name == kind).copied(),
        None => MEDIA.iter().find(|(name, _)| part.contains_key(*name) && !part.contains_key("text")).copied(),
    }
}

/// The text of a part.
fn part_text(part: &Json) -> Option<&str> {
    if let Some(text) = part.as_str() {
        return Some(text);
    }
    let kind = part.get("type")?.as_str()?;
    TEXT_TYPES.contains(&kind).then(|| part.get("text")?.as_str()).flatten()
}

/// Builds the messages of a rendering.
pub(super) struct Messages<'a> {
    pub(super) wants: Wants,
    /// Everything stays as it is given.
    pub(super) exact: bool,
    pub(super) meter: &'a Arc<Meter>,
}

impl Messages<'_> {
    /// The list of all messages.
    pub(super) fn list(&self, input: &TemplateInput) -> R<Value> {
        let special = |i: usize| input.special.get(i).copied().unwrap_or(false);
        let messages = input.messages.iter().enumerate().map(|(i, m)| self.message(m, special(i)));
        let messages = messages.collect::<R<Vec<_>>>()?;
        self.meter.list(messages)
    }

    /// A message, with its reasoning under every name templates look for, as transformers arranges it. `special`: names of
    /// special tokens in it are tokens.
    fn message(&self, message: &Json, special: bool) -> R<Value> {
        let meter = self.meter;
        let Some(fields) = message.as_object() else { return meter.json(message, !special) };
        let role = fields.get("role").and_then(Json::as_str).unwrap_or_default();
        let content = role != "assistant" && !special;
        let reasoning = REASONING.iter().find_map(|name| fields.get(*name).filter(|v| !v.is_null()));
        let mut dict = DictBuilder::new(meter)?;
        if let Some(reasoning) = reasoning {
            dict.insert(Value::from("thinking"), meter.json(reasoning, content)?, meter)?;
        }
        for (name, value) in fields {
            let value = match name.as_str() {
                "role" => meter.json(value, false)?,
                "content" => self.content(value, self.wants.form(role), content)?,
                "tool_calls" => self.calls(value, content, !special)?,
                "function_call" => self.call(value, content, !special)?,
                _ => meter.json(value, content)?,
            };
            dict.insert(meter.plain(name)?, value, meter)?;
        }
        if let Some(reasoning) = reasoning {
            dict.insert(Value::from("reasoning_content"), meter.json(reasoning, content)?, meter)?;
        }
        Ok(dict.finish())
    }

    fn content(&self, value: &Json, form: Form, content: bool) -> R<Value> {
        let meter = self.meter;
        match (value, form) {
            (Json::Array(parts), Form::Text) if !self.exact && parts.iter().all(|p| part_text(p).is_some()) => {
                let mut sink = Sink::new(meter);
                for (i, text) in parts.iter().filter_map(part_text).enumerate() {
                    sink.push_as(if i > 0 { "\n" } else { "" }, content)?;
                    sink.push_as(text, content)?;
                }
                Ok(sink.finish())
            }
            (Json::String(text), Form::Parts) if !self.exact => {
                let mut part = DictBuilder::new(meter)?;
                part.insert(Value::from("type"), Value::from("text"), meter)?;
                part.insert(Value::from("text"), meter.text(Text::whole(text, content))?, meter)?;
                meter.list(vec![part.finish()])
            }
            (Json::Array(parts), _) => {
                let parts = parts.iter().map(|part| self.part(part, content)).collect::<R<Vec<_>>>()?;
                meter.list(parts)
            }
            _ => meter.json(value, content),
        }
    }

    /// A part of content. Its type is no content, as a message's role is none.
    fn part(&self, part: &Json, content: bool) -> R<Value> {
        let meter = self.meter;
        let Some(fields) = part.as_object().filter(|f| f.contains_key("type")) else {
            return meter.json(part, content);
        };
        let mut dict = DictBuilder::new(meter)?;
        for (name, value) in fields {
            let value = meter.json(value, content && name != "type")?;
            dict.insert(meter.text(Text::whole(name, content && name != "type"))?, value, meter)?;
        }
        Ok(dict.finish())
    }

    fn calls(&self, calls: &Json, content: bool, arguments: bool) -> R<Value> {
        let Json::Array(items) = calls else { return self.meter.json(calls, content) };
        let items = items.iter().map(|item| self.call(item, content, arguments)).collect::<R<Vec<_>>>()?;
        self.meter.list(items)
    }

    /// A call, or the function in it.
    fn call(&self, call: &Json, content: bool, arguments: bool) -> R<Value> {
        let meter = self.meter;
        let Json::Object(fields) = call else { return meter.json(call, content) };
        let mut dict = DictBuilder::new(meter)?;
        for (name, value) in fields {
            let value = match (name.as_str(), value) {
                ("function", Json::Object(_)) => self.call(value, content, arguments)?,
                ("arguments", Json::String(text)) => self.arguments(text, arguments)?,
                ("arguments", _) => meter.json(value, arguments)?,
                _ => meter.json(value, content)?,
            };
            dict.insert(meter.plain(name)?, value, meter)?;
        }
        Ok(dict.finish())
    }

    /// Arguments given as JSON text: the object, if they are one. Nothing at all is no arguments.
    fn arguments(&self, text: &str, content: bool) -> R<Value> {
        let meter = self.meter;
        let as_given = || meter.text(Text::whole(text, content));
        if self.exact || self.wants.argument_text {
            return as_given();
        }
        if text.trim().is_empty() {
            return Ok(DictBuilder::new(meter)?.finish());
        }
        if !text.trim_start().starts_with('{') {
            return as_given();
        }
        meter.heavy(text.len())?;
        let text_exact = exact::keep(text);
        let mut failed = None;
        let mut reader = serde_json::Deserializer::from_str(&text_exact);
        let value = Reader { meter, content, failed: &mut failed }.deserialize(&mut reader);
        let value = value.and_then(|value| reader.end().map(|()| value));
        match (value, failed) {
            (Ok(value), _) if matches!(view(&value), View::Dict(_)) => Ok(value),
            (_, Some(error)) => Err(error),
            _ => as_given(),
        }
    }
}

/// Reads JSON text into template values, under the meter's allowance.
struct Reader<'a> {
    meter: &'a Arc<Meter>,
    content: bool,
    /// What the meter refused.
    failed: &'a mut Option<minijinja::Error>,
}

impl Reader<'_> {
    fn again(&mut self) -> Reader<'_> {
        Reader { meter: self.meter, content: self.content, failed: self.failed }
    }

    fn checked<T, E: serde::de::Error>(&mut self, result: R<T>) -> std::result::Result<T, E> {
        result.map_err(|error| {
            let message = E::custom("refused");
            *self.failed = Some(error);
            message
        })
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<Value, E> {
        Ok(Value::from(()))
    }

    fn visit_bool<E: serde::de::Error>(self, b: bool) -> std::result::Result<Value, E> {
        Ok(Value::from(b))
    }

    fn visit_i64<E: serde::de::Error>(self, i: i64) -> std::result::Result<Value, E> {
        Ok(Value::from(i))
    }

    fn visit_u64<E: serde::de::Error>(self, u: u64) -> std::result::Result<Value, E> {
        Ok(Value::from(u))
    }

    fn visit_f64<E: serde::de::Error>(self, f: f64) -> std::result::Result<Value, E> {
        Ok(Value::from(f))
    }

    fn visit_str<E: serde::de::Error>(mut self, s: &str) -> std::result::Result<Value, E> {
        let text = self.meter.text(Text::whole(s, self.content));
        self.checked(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.again())? {
            let room = self.meter.room((items.len() + 1) * size_of::<Value>());
            self.checked(room)?;
            items.push(item);
        }
        let list = self.meter.list(items);
        self.checked(list)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<Value, A::Error> {
        let builder = DictBuilder::new(self.meter);
        let mut dict = self.checked(builder)?;
        let mut single: Option<(String, Value)> = None;
        let mut count = 0;
        while let Some(name) = map.next_key::<String>()? {
            let value: Value = map.next_value_seed(self.again())?;
            count += 1;
            single = (count == 1).then(|| (name.clone(), value.clone()));
            let key = self.meter.text(Text::whole(&name, self.content));
            let key = self.checked(key)?;
            let inserted = dict.insert(key, value, self.meter);
            self.checked(inserted)?;
        }
        if let Some((name, value)) = single
            && let Some(digits) = super::marks::str_of(&value)
        {
            let object: Map<String, Json> = [(name, digits.into())].into_iter().collect();
            if let Some(digits) = exact::number(&object) {
                let whole = big::whole(digits, self.meter);
                let whole = whole.and_then(|w| w.ok_or_else(|| fault("a whole number with too many digits")));
                return self.checked(whole);
            }
        }
        Ok(dict.finish())
    }
}
