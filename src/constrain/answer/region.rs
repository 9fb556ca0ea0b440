//! The region of an answer that is being read: text, or calls.

use super::call_json::{CallEvent, CallJson};
use super::cast::Tools;
use super::json_text::JsonText;
use super::parts::Parts;
use super::python::{self, PythonScan};
use super::shape::Source;
use super::template::{Body, CallBody, CallStyle, Field};
use super::{PartEnd, PartKind, arguments};
use crate::limits::ANSWER_SPACE_BYTES_MAX;

/// What is being read.
#[derive(Debug)]
pub(super) enum Region {
    Text(TextRegion),
    Call(Box<CallRegion>),
}

impl Region {
    /// The one outside of fields with an opening. None: text there is dropped. `begun`: it goes on with content.
    pub(super) fn implicit(field: Option<&Field>, begun: bool) -> Region {
        let (kind, strip) = match field.map(|field| (&field.body, field.kind)) {
            Some((Body::Text { strip }, kind)) => (kind, *strip),
            _ => (None, true),
        };
        let begun = begun && kind == Some(PartKind::Content);
        Region::Text(TextRegion { begun, ..TextRegion::new(kind, strip, PartEnd::Complete) })
    }

    /// Text ends where another region opens.
    pub(super) fn end_text(&mut self, parts: &mut Parts) {
        if let Region::Text(region) = self {
            region.end(true, parts);
        }
    }

    /// Text of no known format: all of it is content.
    pub(super) fn plain() -> Region {
        Region::Text(TextRegion::new(Some(PartKind::Content), false, PartEnd::Complete))
    }

    /// One that a delimiter has opened.
    pub(super) fn opened(field: &Field, opening: &str, groups: Vec<(String, String)>, parts: &mut Parts) -> Region {
        match &field.body {
            Body::Text { strip } => {
                let at_end = if field.kind == Some(PartKind::Reasoning) && field.close.is_some() {
                    PartEnd::Unclosed
                } else {
                    PartEnd::Complete
                };
                Region::Text(TextRegion::new(field.kind, *strip, at_end))
            }
            Body::Call(body) => Region::Call(Box::new(CallRegion::new(body, opening, groups, parts))),
        }
    }
}

/// A region of text.
#[derive(Debug)]
pub(super) struct TextRegion {
    kind: Option<PartKind>,
    strip: bool,
    /// Space that belongs to the part only if more text follows.
    space: String,
    /// Whether there was text.
    begun: bool,
    /// How the part ends if the answer does.
    at_end: PartEnd,
}

impl TextRegion {
    fn new(kind: Option<PartKind>, strip: bool, at_end: PartEnd) -> TextRegion {
        TextRegion { kind, strip, space: String::new(), begun: false, at_end }
    }

    /// More text.
    pub(super) fn take(&mut self, text: &str, parts: &mut Parts) {
        let Some(kind) = self.kind else { return };
        if !self.strip {
            return parts.text(kind, text);
        }
        let text = if self.begun { text } else { text.trim_start() };
        let solid = text.trim_end();
        if !solid.is_empty() {
            self.begun = true;
            parts.text(kind, &std::mem::take(&mut self.space));
            parts.text(kind, solid);
        }
        // One character after the other, so that what is held does not depend on how the text was cut.
        for c in text.get(solid.len()..).unwrap_or("").chars() {
            self.space.push(c);
            if self.space.len() > ANSWER_SPACE_BYTES_MAX {
                parts.text(kind, &std::mem::take(&mut self.space));
            }
        }
    }

    /// The prompt ends here, and the answer begins.
    pub(super) fn answer_begins(&mut self) {
        self.space.clear();
    }

    /// What may be no call after all begins. Gives the space before it, if that is within content.
    pub(super) fn call_may_begin(&mut self) -> String {
        let content = self.begun && self.kind == Some(PartKind::Content);
        if content { std::mem::take(&mut self.space) } else { String::new() }
    }

    /// The region ends. `closed`: by its delimiter or by the opening of another one.
    pub(super) fn end(&mut self, closed: bool, parts: &mut Parts) {
        parts.end(if closed { PartEnd::Complete } else { self.at_end }, None);
    }
}

/// A region of calls.
#[derive(Debug)]
pub(super) struct CallRegion {
    /// What opened it, with space before that is content if this is no call.
    opening: String,
    /// Text that is in no call so far.
    raw: String,
    pub(super) reader: Reader,
    /// The name and the id, if the opening had them.
    name: Option<String>,
    id: Option<String>,
    /// Whether what is no JSON is a call nevertheless, because the opening has named it: its text is being given on.
    unread: bool,
}

/// What follows the content of a region of calls.
#[derive(Debug)]
pub(super) enum Reader {
    Json(Box<CallJson>),
    Python(PythonScan),
    /// It is read when it is whole.
    Plain,
}

/// What a character did to a region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Progress {
    /// It is kept.
    Kept,
    /// All text so far is in calls that were given on.
    Given,
    /// It cannot be there.
    Refused,
}

impl CallRegion {
    fn new(body: &CallBody, opening: &str, groups: Vec<(String, String)>, parts: &mut Parts) -> CallRegion {
        let group = |source: &Source| match source {
            Source::Group(name) => {
                groups.iter().find(|(group, _)| group == name).map(|(_, value)| value.trim().to_owned())
            }
            Source::Literal(text) => Some(text.clone()),
            Source::Content(_) => None,
        };
        let name = group(&body.shape.name);
        let id = body.shape.id.as_ref().and_then(group);
        let with_open = body.with_open.as_ref().and_then(|wanted| groups.iter().find(|(group, _)| group == wanted));
        let with_open = with_open.map_or(String::new(), |(_, text)| text.clone());
        let reader = match &body.style {
            CallStyle::Json(dialect) => {
                let text = JsonText::new(dialect.clone());
                Reader::Json(Box::new(CallJson::new(body.shape.clone(), text, groups)))
            }
            CallStyle::Python => Reader::Python(PythonScan::default()),
            CallStyle::Tagged { .. } | CallStyle::Lines { .. } | CallStyle::Text { .. } => {
                parts.begin(PartKind::Call, name.clone(), id.clone());
                Reader::Plain
            }
        };
        let opening = opening.strip_suffix(&with_open).unwrap_or(opening).to_owned();
        let mut region = CallRegion { opening, raw: with_open.clone(), reader, name, id, unread: false };
        for c in with_open.chars() {
            region.step(c, parts);
        }
        region
    }

    /// Goes one character on, before it is known whether a delimiter begins with it.
    pub(super) fn step(&mut self, c: char, parts: &mut Parts) -> Progress {
        match &mut self.reader {
            Reader::Json(reader) => {
                let mut events = Vec::new();
                reader.step(c, &mut events);
                if reader.failed() {
                    return Progress::Refused;
                }
                let given = reader.in_call() || !events.is_empty();
                events.into_iter().for_each(|event| give(event, parts));
                if given {
                    self.raw.clear();
                    return Progress::Given;
                }
            }
            Reader::Python(scan) => scan.step(c),
            Reader::Plain => {}
        }
        Progress::Kept
    }

    /// Whether the closing delimiter may begin with the next character, whatever it is.
    pub(super) fn may_close(&self) -> bool {
        match &self.reader {
            Reader::Json(reader) => reader.complete() || reader.failed(),
            Reader::Python(scan) => !scan.in_string() || scan.complete(),
            Reader::Plain => true,
        }
    }

    /// Whether the next character belongs to a string.
    pub(super) fn in_string(&self) -> bool {
        match &self.reader {
            Reader::Json(reader) => reader.in_string() && !reader.failed(),
            Reader::Python(scan) => scan.in_string(),
            Reader::Plain => false,
        }
    }

    /// The content ends within a string.
    pub(super) fn interrupt(&mut self) {
        if let Reader::Json(reader) = &mut self.reader {
            reader.interrupt();
        }
    }

    /// Whether the content is whole, as it is without a closing delimiter.
    pub(super) fn complete(&self) -> bool {
        match &self.reader {
            Reader::Json(reader) => reader.complete() && !reader.failed(),
            Reader::Python(scan) => scan.complete(),
            Reader::Plain => false,
        }
    }

    /// What it reads is not what it should be, and goes on to the closing delimiter: it is the text of the call that the opening
    /// has named. False: there is none.
    pub(super) fn goes_on_unread(&mut self, parts: &mut Parts) -> bool {
        if !self.hopeless() || self.name.is_none() {
            return false;
        }
        if !self.unread {
            self.unread = true;
            self.begin_named(parts);
            parts.text(PartKind::Call, &std::mem::take(&mut self.raw));
        }
        true
    }

    fn begin_named(&self, parts: &mut Parts) {
        parts.begin(PartKind::Call, self.name.clone(), self.id.clone());
    }

    /// Whether it has given on no call, and will not.
    pub(super) fn hopeless(&self) -> bool {
        matches!(&self.reader, Reader::Json(reader) if reader.failed() && !reader.in_call() && reader.ended() == 0)
    }

    /// Text that belongs to no delimiter and was not given on.
    pub(super) fn take(&mut self, text: &str, parts: &mut Parts) {
        match &self.reader {
            _ if self.unread => parts.text(PartKind::Call, text),
            // What follows an error in a call's arguments belongs to them.
            Reader::Json(reader) if reader.in_call() && !reader.arguments_whole() => parts.text(PartKind::Call, text),
            _ => self.raw.push_str(text),
        }
    }

    /// Bytes that are kept.
    pub(super) fn kept(&self) -> usize {
        self.raw.len()
    }

    /// The region ends. `closing`: the text of its delimiter; None: the answer, or its limit, ends it.
    pub(super) fn end(self, field: &Field, closing: Option<&str>, tools: &Tools, parts: &mut Parts) {
        let Body::Call(body) = &field.body else { return };
        let closed = closing.is_some();
        match &self.reader {
            _ if self.unread => parts.end(if closed { PartEnd::Malformed } else { PartEnd::Unclosed }, None),
            Reader::Json(reader)
                if closed
                    && field.close.is_some()
                    && self.name.is_some()
                    && !reader.in_call()
                    && reader.ended() == 0 =>
            {
                // Nothing between the delimiters: no arguments.
                let blank = self.raw.trim().is_empty();
                self.begin_named(parts);
                parts.text(PartKind::Call, if blank { "{}" } else { &self.raw });
                parts.end(if blank { PartEnd::Complete } else { PartEnd::Malformed }, None);
            }
            Reader::Json(reader) if reader.in_call() => {
                parts.end(
                    if reader.arguments_whole() {
                        PartEnd::Complete
                    } else if closed || reader.failed() {
                        PartEnd::Malformed
                    } else {
                        PartEnd::Unclosed
                    },
                    None,
                );
                self.leftover(closing, parts);
            }
            Reader::Json(reader) if reader.ended() > 0 && (closed || reader.complete() || reader.failed()) => {
                self.leftover(closing, parts);
            }
            Reader::Json(reader) if reader.complete() && !reader.failed() => parts.end(PartEnd::Complete, None),
            Reader::Json(reader) if closed || reader.failed() => self.back_to_content(closing, parts),
            Reader::Json(_) => self.unclosed(parts),
            Reader::Python(scan) => match python::calls(&self.raw, tools) {
                Some(calls) => {
                    for (name, arguments) in calls {
                        parts.begin(PartKind::Call, Some(name), None);
                        parts.text(PartKind::Call, &arguments);
                        parts.end(PartEnd::Complete, None);
                    }
                }
                None if closed || scan.complete() => self.back_to_content(closing, parts),
                None => self.unclosed(parts),
            },
            Reader::Plain => {
                let name = self.name.as_deref().unwrap_or("");
                let object = arguments::object(&body.style, &self.raw, name, tools);
                let whole = closed || field.close.is_none();
                let (text, end) = match object {
                    Some(object) if whole => (object, PartEnd::Complete),
                    _ => (self.raw.clone(), if whole { PartEnd::Malformed } else { PartEnd::Unclosed }),
                };
                parts.text(PartKind::Call, &text);
                parts.end(end, None);
            }
        }
    }

    /// What stands beside whole calls goes to the content, unless it is what stands between them anyway.
    fn leftover(&self, closing: Option<&str>, parts: &mut Parts) {
        if !self.raw.chars().all(|c| c.is_whitespace() || "[]{},;".contains(c)) {
            parts.begin(PartKind::Content, None, None);
            parts.text(PartKind::Content, self.raw.trim());
            parts.text(PartKind::Content, closing.unwrap_or("").trim_end());
            parts.end(PartEnd::Complete, None);
        }
    }

    /// What is no call is content, with its delimiters. The part stays open: more content may follow.
    fn back_to_content(&self, closing: Option<&str>, parts: &mut Parts) {
        let goes_on = parts.is_open(PartKind::Content);
        parts.text(PartKind::Content, if goes_on { &self.opening } else { self.opening.trim_start() });
        parts.text(PartKind::Content, &self.raw);
        parts.text(PartKind::Content, closing.unwrap_or(""));
    }

    /// The answer ended before the call's arguments.
    fn unclosed(&self, parts: &mut Parts) {
        self.begin_named(parts);
        parts.text(PartKind::Call, self.raw.trim());
        parts.end(PartEnd::Unclosed, None);
    }

    /// Gives up: more text was kept than may be.
    pub(super) fn give_up(&self, parts: &mut Parts) {
        if parts.is_open(PartKind::Call) {
            parts.text(PartKind::Call, &self.raw);
            parts.end(PartEnd::Malformed, None);
        } else {
            self.back_to_content(None, parts);
        }
    }
}

fn give(event: CallEvent, parts: &mut Parts) {
    match event {
        CallEvent::Begin { name, id } => parts.begin(PartKind::Call, Some(name), id),
        CallEvent::Arguments(text) => parts.text(PartKind::Call, &text),
        CallEvent::End { id } => parts.end(PartEnd::Complete, id),
    }
}
