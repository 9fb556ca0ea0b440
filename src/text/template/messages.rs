//! Messages as clients send them, to messages as the template wants them, and which of their texts are content.
//!
//! Content are the texts of user, tool, system and all other messages that are not the assistant's, but for the role, which
//! templates build markers from; the arguments of calls; tools and documents. The assistant's own words stay plain:
//! templates split them at markers.

use super::TemplateInput;
use super::marks::Text;
use super::meter::{Meter, R, Sink};
use super::print::{self, JsonStyle};
use super::value::{DictBuilder, View, view};
use crate::error::{Error, Result};
use crate::text::exact;
use minijinja::Value;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// The names a message's reasoning goes by, the first being the one templates read most.
pub(in crate::text) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Roles whose content is looked at apart: templates often take lists from one and texts from another.
pub(super) const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];
/// Types of parts that are text, and the key of the text.
const TEXT_TYPES: [(&str, &str); 4] =
    [("text", "text"), ("input_text", "text"), ("output_text", "text"), ("refusal", "refusal")];
/// What parts that are not text hold, and the types and keys of these.
const MEDIA: [(&str, &[&str]); 4] = [
    ("an image", &["image_url", "input_image", "image", "image_base64", "image_embeds", "image_pil"]),
    ("a video", &["video_url", "input_video", "video", "video_embeds"]),
    ("audio", &["audio_url", "audio_embeds", "input_audio", "audio"]),
    ("a file", &["input_file", "file", "document"]),
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
    /// Arguments are JSON text, also where they come as an object: the template cannot do with one.
    pub(super) argument_text: bool,
}

impl Wants {
    fn form(&self, role: &str) -> Form {
        // Roles without a place of their own are mostly handled like the user's.
        let at = ROLES.iter().position(|r| *r == role).unwrap_or(if role == "developer" { 0 } else { 1 });
        self.content.get(at).copied().unwrap_or_default()
    }
}

/// Fails for the first part of content that is no text: for images and the like, and for all others where the template wants
/// one text made of the parts.
///
/// # Errors
/// [`crate::Status::Unsupported`], with the positions of message and part.
pub(super) fn refuse_parts(messages: &[Json], wants: Wants) -> Result<()> {
    for (m, message) in messages.iter().enumerate() {
        let Some(parts) = message.get("content").and_then(Json::as_array) else { continue };
        let role = message.get("role").and_then(Json::as_str).unwrap_or_default();
        let one_text = wants.form(role) == Form::Text && are_parts(role, parts);
        for (p, part) in parts.iter().enumerate() {
            let what = match (medium(part), part.get("type").and_then(Json::as_str)) {
                (Some((name, what)), _) => format!("{what} (\"{name}\")"),
                (None, _) if !one_text || part_text(part).is_some() => continue,
                (None, Some(kind)) => format!("a part of type \"{kind}\" without a text this engine knows"),
                (None, None) => "a part without a type".to_owned(),
            };
            return Err(Error::unsupported(format!(
                "messages[{m}].content[{p}] is {what}; this engine takes text only: send parts of type \"text\""
            ))
            .about("messages"));
        }
    }
    Ok(())
}

/// Whether a list is one of parts. What a tool returns may be any list: it is one of data if a single item is neither text nor
/// of any type.
fn are_parts(role: &str, parts: &[Json]) -> bool {
    role != "tool"
        || parts.iter().all(|part| part_text(part).is_some() || part.get("type").is_some_and(Json::is_string))
}

fn medium(part: &Json) -> Option<(&'static str, &'static str)> {
    let part = part.as_object()?;
    let mut media = MEDIA.iter().flat_map(|(what, names)| names.iter().map(move |name| (*name, *what)));
    match part.get("type").and_then(Json::as_str) {
        Some(kind) => media.find(|(name, _)| *name == kind),
        None => media.find(|(name, _)| part.contains_key(*name) && !part.contains_key("text")),
    }
}

/// The text of a part, which may be the text itself, or tell no type.
fn part_text(part: &Json) -> Option<&str> {
    if let Some(text) = part.as_str() {
        return Some(text);
    }
    let key = match part.get("type") {
        None => "text",
        Some(kind) => TEXT_TYPES.iter().find(|(name, _)| kind.as_str() == Some(*name)).map(|(_, key)| *key)?,
    };
    part.get(key)?.as_str()
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
        self.meter.list_of(input.messages.iter().enumerate().map(|(i, m)| self.message(m, special(i))))
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
                "content" => self.content(value, role, content)?,
                "tool_calls" => self.calls(value, content, !special)?,
                "function_call" => self.call(value, content, !special)?,
                _ => meter.json(value, content)?,
            };
            dict.insert(meter.text(Text::whole(name, content && name != "role"))?, value, meter)?;
        }
        if let Some(reasoning) = reasoning {
            dict.insert(Value::from("reasoning_content"), meter.json(reasoning, content)?, meter)?;
        }
        Ok(dict.finish())
    }

    fn content(&self, value: &Json, role: &str, content: bool) -> R<Value> {
        let meter = self.meter;
        match (value, self.wants.form(role)) {
            (Json::Array(parts), Form::Text) if !self.exact && are_parts(role, parts) => {
                let mut sink = Sink::new(meter);
                for (i, text) in parts.iter().filter_map(part_text).enumerate() {
                    sink.push_as(if i > 0 { "\n" } else { "" }, content)?;
                    sink.push_as(text, content)?;
                }
                Ok(sink.finish())
            }
            (Json::String(text), Form::Parts) if !self.exact => meter.list(vec![self.text_part(text, content)?]),
            (Json::Array(parts), _) => {
                let rewritten = !self.exact && are_parts(role, parts);
                meter.list_of(parts.iter().map(|part| match part_text(part).filter(|_| rewritten) {
                    // Templates look at the type, and most know this one alone.
                    Some(text) if part.get("type").is_none_or(|kind| kind != "text") => self.text_part(text, content),
                    _ => self.part(part, content),
                }))
            }
            _ => meter.json(value, content),
        }
    }

    /// The part that every template with parts takes for text.
    fn text_part(&self, text: &str, content: bool) -> R<Value> {
        let meter = self.meter;
        let mut part = DictBuilder::new(meter)?;
        part.insert(Value::from("type"), Value::from("text"), meter)?;
        part.insert(Value::from("text"), meter.text(Text::whole(text, content))?, meter)?;
        Ok(part.finish())
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
        self.meter.list_of(items.iter().map(|item| self.call(item, content, arguments)))
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
                ("arguments", Json::Object(_)) if !self.exact && self.wants.argument_text => {
                    self.argument_text(value, arguments)?
                }
                ("arguments", _) => meter.json(value, arguments)?,
                _ => meter.json(value, content)?,
            };
            dict.insert(meter.text(Text::whole(name, content))?, value, meter)?;
        }
        Ok(dict.finish())
    }

    /// Arguments given as an object: the JSON text, laid out as Python and most clients do.
    fn argument_text(&self, object: &Json, content: bool) -> R<Value> {
        let meter = self.meter;
        let mut sink = Sink::new(meter);
        print::json(&meter.json(object, false)?, &JsonStyle::default(), 0, meter, &mut sink)?;
        meter.text(Text::whole(sink.text().str(), content))
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
        meter.room(exact::rewritten(text).saturating_mul(exact::REWRITTEN_BYTES))?;
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

    crate::json::expects!("JSON");

    crate::json::scalars! {}

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
            if let Some(number) = exact::number(&object) {
                let number = self.meter.number(number);
                return self.checked(number);
            }
        }
        Ok(dict.finish())
    }
}
