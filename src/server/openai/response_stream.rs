//! The answer of `/v1/responses` as a stream of numbered events.

use super::response_object::{Item, ResponseObject, state_of};
use crate::engine::{Event, FinishReason, Part, PartKind, PromptCounts};
use crate::server::refusal::Refusal;
use crate::server::stream::{Out, Writer, push_named};
use serde_json::{Value, json};

/// Writes the stream.
pub(super) struct ResponseStream {
    object: ResponseObject,
    /// Events that were sent.
    sent: u64,
    /// Items that have ended.
    output: Vec<Value>,
    /// The item that is written, with the number of its part.
    open: Option<(Item, usize)>,
}

impl ResponseStream {
    pub fn new(object: ResponseObject) -> ResponseStream {
        ResponseStream { object, sent: 0, output: Vec::new(), open: None }
    }

    fn send(&mut self, name: &str, mut fields: Value, out: &mut Out) {
        let name = format!("response.{name}");
        fields["type"] = Value::from(name.as_str());
        fields["sequence_number"] = Value::from(self.sent);
        self.sent += 1;
        push_named(out, &name, &fields);
    }

    /// Sends an event about the content of an item.
    fn content(&mut self, name: &str, item: &Item, mut fields: Value, out: &mut Out) {
        fields["item_id"] = Value::from(item.id.as_str());
        fields["output_index"] = Value::from(self.output.len());
        if item.kind != PartKind::Call {
            fields["content_index"] = Value::from(0);
        }
        self.send(name, fields, out);
    }

    fn begin_item(&mut self, part: &Part<'_>, out: &mut Out) {
        let mut item = self.object.item(part.kind, self.output.len());
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        (item.call_id, item.name) = (text(part.id), text(part.name));
        let added = json!({"output_index": self.output.len(), "item": item.value("in_progress")});
        self.send("output_item.added", added, out);
        if item.kind != PartKind::Call {
            self.content("content_part.added", &item, json!({"part": item.part()}), out);
        }
        self.open = Some((item, part.part));
    }

    fn end_item(&mut self, last: bool, finish: FinishReason, out: &mut Out) {
        let Some((item, _)) = self.open.take() else { return };
        match item.kind {
            PartKind::Content => {
                self.content("output_text.done", &item, json!({"text": item.text, "logprobs": []}), out);
            }
            PartKind::Reasoning => self.content("reasoning_text.done", &item, json!({"text": item.text}), out),
            PartKind::Call => {
                let done = json!({"arguments": item.text, "name": item.name});
                self.content("function_call_arguments.done", &item, done, out);
            }
        }
        if item.kind != PartKind::Call {
            self.content("content_part.done", &item, json!({"part": item.part()}), out);
        }
        let value = item.value(state_of(last, finish));
        self.send("output_item.done", json!({"output_index": self.output.len(), "item": value}), out);
        self.output.push(value);
    }

    fn part(&mut self, part: &Part<'_>, out: &mut Out) {
        if part.begins {
            self.end_item(false, FinishReason::None, out);
            // A call whose name never came is none.
            if part.kind != PartKind::Call || part.name.is_some() {
                self.begin_item(part, out);
            }
        }
        let Some((mut item, number)) = self.open.take() else { return };
        if number == part.part && !part.text.is_empty() {
            item.text.push_str(part.text);
            let (name, delta) = match part.kind {
                PartKind::Content => ("output_text.delta", json!({"delta": part.text, "logprobs": []})),
                PartKind::Reasoning => ("reasoning_text.delta", json!({"delta": part.text})),
                PartKind::Call => ("function_call_arguments.delta", json!({"delta": part.text})),
            };
            self.content(name, &item, delta, out);
        }
        self.open = Some((item, number));
    }
}

impl Writer for ResponseStream {
    fn begin(&mut self, _: Option<PromptCounts>, out: &mut Out) {
        let response = self.object.growing();
        self.send("created", json!({"response": response}), out);
        self.send("in_progress", json!({"response": response}), out);
    }

    fn event(&mut self, _: usize, event: &Event, out: &mut Out) {
        for part in (0..event.part_count()).filter_map(|index| event.part(index)) {
            self.part(&part, out);
        }
        if !event.terminal() {
            return;
        }
        self.end_item(true, event.finish, out);
        let output = std::mem::take(&mut self.output);
        let response = self.object.ended(event.finish, &event.usage.unwrap_or_default(), output);
        let name = if event.finish == FinishReason::Length { "incomplete" } else { "completed" };
        self.send(name, json!({"response": response}), out);
    }

    fn failed(&mut self, refusal: &Refusal, out: &mut Out) {
        let response = self.object.failed(refusal);
        self.send("failed", json!({"response": response}), out);
    }

    fn end(&mut self, _: &mut Out) {}

    /// Clients that count the time between events take a comment for none.
    fn quiet(&mut self, out: &mut Out) {
        let response = self.object.growing();
        self.send("in_progress", json!({"response": response}), out);
    }
}
