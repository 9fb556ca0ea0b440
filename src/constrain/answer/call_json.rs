//! Calls in a JSON text: where the name and the arguments stand is found while it is written, and the arguments stream.

use super::json_text::{Event, JsonText, NotJson};
use super::shape::{CallShape, Source};
use crate::limits::CALL_BYTES_MAX;

/// What was read of a call.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum CallEvent {
    /// A call with this name begins.
    Begin { name: String, id: Option<String> },
    /// More of its arguments.
    Arguments(String),
    /// It has ended.
    End { id: Option<String> },
}

/// A call that has not ended.
#[derive(Debug, Default)]
struct Call {
    name: Option<String>,
    id: Option<String>,
    /// Whether the beginning was told.
    told: bool,
    /// Arguments that were not told: their call's name is not known yet, or they are one scalar.
    arguments: String,
    /// Depth at which the arguments began, while they are being written.
    inside: Option<usize>,
    /// Whether they are one scalar.
    scalar: bool,
    /// Whether they have ended.
    whole: bool,
}

/// Reads the content of a region.
#[derive(Debug)]
pub(super) struct CallJson {
    shape: CallShape,
    text: JsonText,
    /// The key under which each open container's value stands that is being written; None: an item of a list, or a key
    /// that is deeper than all that matters.
    keys: Vec<Option<String>>,
    /// Depth at which calls stand: 1 in a list.
    base: usize,
    call: Option<Call>,
    /// Calls that have ended.
    ended: usize,
    failed: bool,
    /// Values of the groups of the region's opening.
    groups: Vec<(String, String)>,
    scratch: String,
}

impl CallJson {
    pub(super) fn new(shape: CallShape, text: JsonText, groups: Vec<(String, String)>) -> CallJson {
        CallJson {
            shape,
            text,
            keys: Vec::new(),
            base: 0,
            call: None,
            ended: 0,
            failed: false,
            groups,
            scratch: String::new(),
        }
    }

    /// Whether the text cannot be read on.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// Whether the beginning of a call was told and its end was not.
    pub(super) fn in_call(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.told)
    }

    /// Calls that have ended.
    pub(super) fn ended(&self) -> usize {
        self.ended
    }

    /// Whether the arguments of the call that has not ended are whole.
    pub(super) fn arguments_whole(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.whole)
    }

    /// Whether the JSON is complete, so that nothing but the closing delimiter or another call may follow.
    pub(super) fn complete(&self) -> bool {
        self.text.complete()
    }

    /// Whether the next character belongs to a string.
    pub(super) fn in_string(&self) -> bool {
        self.text.in_string()
    }

    /// The text ends here, in the middle of a string or anywhere else.
    pub(super) fn interrupt(&mut self) {
        self.failed = true;
    }

    /// Goes one character on.
    pub(super) fn step(&mut self, c: char, events: &mut Vec<CallEvent>) {
        if !self.failed && self.read(c, events).is_err() {
            self.failed = true;
        }
    }

    fn read(&mut self, c: char, events: &mut Vec<CallEvent>) -> Result<(), NotJson> {
        if self.text.complete() && matches!(c, '{' | '[') && !matches!(self.shape.name, Source::Group(_)) {
            self.text.begin_another();
        }
        if self.text.end_number(Some(c))? {
            self.value_ended(events)?;
        }
        let mut out = std::mem::take(&mut self.scratch);
        out.clear();
        let result = self.text.step(c, &mut out).and_then(|event| self.after(event, &out, events));
        self.scratch = out;
        result
    }

    fn after(&mut self, event: Event, out: &str, events: &mut Vec<CallEvent>) -> Result<(), NotJson> {
        match event {
            Event::None => self.arguments(out, events),
            Event::Key => {
                let wanted = self.keys.len() <= self.base + self.shape.depth();
                let key = if wanted { self.text.literal() } else { None };
                if let Some(last) = self.keys.last_mut() {
                    *last = key;
                }
                self.arguments(out, events)
            }
            Event::Open { object } => {
                self.value_begins(Some(object))?;
                self.keys.push(None);
                self.arguments(out, events)
            }
            Event::Scalar => {
                self.value_begins(None)?;
                self.arguments(out, events)
            }
            Event::End => {
                self.arguments(out, events)?;
                if self.text.depth() < self.keys.len() {
                    self.keys.pop();
                }
                self.value_ended(events)
            }
        }
    }

    /// Keys that lead from the call to the value that begins or has just ended.
    fn path(&self) -> Option<Vec<String>> {
        let keys = self.keys.get(self.base..)?;
        if keys.len() > self.shape.depth() { None } else { keys.iter().cloned().collect() }
    }

    /// `container`: whether it is an object; None: a scalar.
    fn value_begins(&mut self, container: Option<bool>) -> Result<(), NotJson> {
        if self.keys.is_empty() {
            self.base = 0;
            let named_inside = !matches!(self.shape.name, Source::Group(_));
            match container {
                Some(false) if named_inside => self.base = 1,
                None => return Err(NotJson),
                _ => {}
            }
        }
        if self.keys.len() == self.base && self.call.is_none() {
            if container.is_none() {
                return Err(NotJson);
            }
            self.call = Some(Call {
                name: self.given(&self.shape.name),
                id: self.shape.id.as_ref().and_then(|id| self.given(id)),
                ..Call::default()
            });
        }
        let is_arguments = self.path().is_some_and(|path| self.shape.leads_to_arguments(&path));
        let depth = self.keys.len();
        if let Some(call) = &mut self.call
            && is_arguments
            && call.inside.is_none()
            && !call.whole
        {
            call.inside = Some(depth);
            call.scalar = container.is_none();
        }
        Ok(())
    }

    /// What is known before any of the content.
    fn given(&self, source: &Source) -> Option<String> {
        match source {
            Source::Group(group) => self.groups.iter().find(|(name, _)| name == group).map(|(_, value)| value.clone()),
            Source::Literal(text) => Some(text.clone()),
            Source::Content(_) => None,
        }
    }

    /// Takes text that belongs to the arguments, if any does now.
    fn arguments(&mut self, out: &str, events: &mut Vec<CallEvent>) -> Result<(), NotJson> {
        let Some(call) = self.call.as_mut().filter(|call| call.inside.is_some()) else { return Ok(()) };
        call.arguments.push_str(out);
        if call.arguments.len() > CALL_BYTES_MAX {
            return Err(NotJson);
        }
        if !call.scalar {
            call.tell(events);
        }
        Ok(())
    }

    fn value_ended(&mut self, events: &mut Vec<CallEvent>) -> Result<(), NotJson> {
        let depth = self.keys.len();
        let path = self.path().unwrap_or_default();
        let string = self.text.literal();
        let Some(call) = &mut self.call else { return Ok(()) };
        if call.inside == Some(depth) {
            call.inside = None;
            call.whole = true;
            if call.scalar {
                call.arguments = spelled_out(&call.arguments);
                call.scalar = false;
            }
            call.tell(events);
        } else if call.inside.is_none() && depth > self.base {
            if self.shape.name == Source::Content(path.clone()) && call.name.is_none() {
                call.name = Some(string.ok_or(NotJson)?);
                call.tell(events);
            } else if self.shape.id.as_ref() == Some(&Source::Content(path)) {
                call.id = string;
            }
        }
        if depth == self.base {
            let mut call = self.call.take().ok_or(NotJson)?;
            if call.name.is_none() {
                self.call = Some(call);
                return Err(NotJson);
            }
            if !call.whole {
                call.arguments = "{}".to_owned();
            }
            call.tell(events);
            self.ended += 1;
            events.push(CallEvent::End { id: call.id });
        }
        Ok(())
    }
}

impl Call {
    /// Tells what can be told now.
    fn tell(&mut self, events: &mut Vec<CallEvent>) {
        let Some(name) = &self.name else { return };
        if !self.told {
            self.told = true;
            events.push(CallEvent::Begin { name: name.clone(), id: self.id.clone() });
        }
        if !self.arguments.is_empty() && !self.scalar {
            events.push(CallEvent::Arguments(std::mem::take(&mut self.arguments)));
        }
    }
}

/// Arguments that are one scalar: nothing means none, and a string that holds JSON means that.
fn spelled_out(scalar: &str) -> String {
    if scalar == "null" {
        return "{}".to_owned();
    }
    match serde_json::from_str::<String>(scalar) {
        Ok(text) if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok() => text,
        _ => scalar.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::json_text::Dialect;
    use super::*;

    fn read(text: &str) -> (Vec<(String, String)>, bool) {
        let shape = CallShape::parse("x", None, false, &[]).unwrap();
        let mut reader = CallJson::new(shape, JsonText::new(Dialect::default()), Vec::new());
        let mut events = Vec::new();
        for c in text.chars() {
            reader.step(c, &mut events);
        }
        let mut calls: Vec<(String, String)> = Vec::new();
        for event in events {
            match event {
                CallEvent::Begin { name, .. } => calls.push((name, String::new())),
                CallEvent::Arguments(text) => calls.last_mut().unwrap().1.push_str(&text),
                CallEvent::End { .. } => calls.last_mut().unwrap().1.push('.'),
            }
        }
        (calls, reader.failed())
    }

    #[test]
    fn names_and_arguments_are_found_in_any_order() {
        let one = |name: &str, arguments: &str| (vec![(name.to_owned(), arguments.to_owned())], false);
        assert_eq!(
            read(r#"{"name": "f", "arguments": {"a": [1, {"name": "x"}]}}"#),
            one("f", r#"{"a": [1, {"name": "x"}]}."#)
        );
        assert_eq!(read(r#"{"arguments": {"b" : 1 }, "x": {"name": "g"}, "name": "f"}"#), one("f", r#"{"b" : 1 }."#));
        assert_eq!(read(r#"{"name":"f","parameters":{}}"#), one("f", "{}."));
        assert_eq!(read(r#"{"name":"f"}"#), one("f", "{}."));
        assert_eq!(read(r#"{"name":"f","arguments":null}"#), one("f", "{}."));
        assert_eq!(read(r#"{"name":"f","arguments":12}"#), one("f", "12."));
        assert_eq!(read(r#"{"name":"f","arguments":"{\"a\": 1}"}"#), one("f", "{\"a\": 1}."));
        assert_eq!(read(r#"{"name":"f","arguments":"plain"}"#), one("f", "\"plain\"."));
        assert_eq!(read(r#"{"name":"f","arguments":{"a": "unfin"#), one("f", r#"{"a": "unfin"#));
    }

    #[test]
    fn lists_hold_several_calls() {
        let (calls, failed) = read(r#" [{"name":"f","arguments":{}}, {"name":"g","arguments":{"x":1}}] "#);
        assert_eq!(calls, [("f".into(), "{}.".into()), ("g".into(), "{\"x\":1}.".into())]);
        assert!(!failed);
        assert_eq!(read("{\"name\":\"f\"}\n{\"name\":\"g\"}").0.len(), 2);
    }

    #[test]
    fn what_is_no_call_fails() {
        for text in ["[1]", "3", "{\"a\": 1}", "{\"name\": 1}", "{'name'", "[{\"name\":\"f\"} x"] {
            assert!(read(text).1, "{text}");
        }
    }
}
