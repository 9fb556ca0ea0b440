//! Answers as messages: whole, and as a stream of blocks.

use super::errors;
use crate::engine::{Event, FinishReason, Part, PartKind, PromptCounts, Usage};
use crate::server::answer::Answer;
use crate::server::core::Ask;
use crate::server::refusal::Refusal;
use crate::server::stream::{Out, Writer, push_named};
use serde::Serialize;
use serde_json::Value;

/// What a message begins with.
pub(super) struct Head {
    pub id: String,
    pub model: String,
}

/// What is needed to tell why an answer ended.
pub(super) struct Ending {
    max_tokens: u32,
    context: u32,
    /// The stop sequence, where there is one: with several nobody knows which it was.
    stop: Option<String>,
}

/// Why an answer ended.
#[derive(Clone, Serialize)]
struct Stop {
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
}

impl Ending {
    /// Of a request to an engine whose sequences have at most `context` tokens.
    pub fn new(ask: &Ask, context: u32) -> Ending {
        let stop = if let [stop] = ask.stops.as_slice() { Some(stop.clone()) } else { None };
        Ending { max_tokens: ask.options.max_tokens.unwrap_or(u32::MAX), context, stop }
    }

    fn why(&self, finish: FinishReason, usage: &Usage, calls: bool) -> Stop {
        let full = usage.generated_tokens < self.max_tokens
            && usage.prompt_tokens.saturating_add(usage.generated_tokens) >= self.context;
        let reason = match finish {
            FinishReason::Length if full => "model_context_window_exceeded",
            FinishReason::Length => "max_tokens",
            _ if calls => "tool_use",
            FinishReason::Stop => "stop_sequence",
            _ => "end_turn",
        };
        let stop_sequence = self.stop.clone().filter(|_| reason == "stop_sequence");
        Stop { stop_reason: Some(reason), stop_sequence }
    }
}

#[derive(Serialize)]
struct Counts {
    /// Without those of the cache.
    input_tokens: u32,
    cache_read_input_tokens: u32,
    cache_creation_input_tokens: u32,
    output_tokens: u32,
}

impl Counts {
    fn of(usage: &Usage) -> Counts {
        Counts {
            input_tokens: usage.prompt_tokens.saturating_sub(usage.cached_tokens),
            cache_read_input_tokens: usage.cached_tokens,
            cache_creation_input_tokens: 0,
            output_tokens: usage.generated_tokens,
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text { text: String },
    Thinking { thinking: String, signature: &'static str },
    ToolUse { id: String, name: String, input: Value },
}

impl Block {
    fn empty(part: &Part<'_>) -> Block {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        match part.kind {
            PartKind::Content => Block::Text { text: String::new() },
            PartKind::Reasoning => Block::Thinking { thinking: String::new(), signature: "" },
            PartKind::Call => {
                Block::ToolUse { id: text(part.id), name: text(part.name), input: Value::Object(Default::default()) }
            }
        }
    }
}

/// A message.
#[derive(Serialize)]
pub(super) struct Message<'a> {
    id: &'a str,
    r#type: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block>,
    #[serde(flatten)]
    stop: Stop,
    usage: Counts,
}

impl<'a> Message<'a> {
    fn new(head: &'a Head, content: Vec<Block>, stop: Stop, usage: &Usage) -> Message<'a> {
        let usage = Counts::of(usage);
        Message { id: &head.id, r#type: "message", role: "assistant", model: &head.model, content, stop, usage }
    }

    /// A whole answer.
    pub fn whole(head: &'a Head, ending: &Ending, answer: &Answer) -> Message<'a> {
        let mut blocks: Vec<Block> = Vec::new();
        for block in &answer.blocks {
            let text = block.text.clone();
            blocks.push(match block.kind {
                PartKind::Content => Block::Text { text },
                PartKind::Reasoning => Block::Thinking { thinking: text, signature: "" },
                PartKind::Call => {
                    // What was cut is no JSON, and the type wants an object.
                    let input = serde_json::from_str(&text).ok().filter(Value::is_object);
                    let input = input.unwrap_or_else(|| Value::Object(Default::default()));
                    Block::ToolUse { id: block.id.clone(), name: block.name.clone(), input }
                }
            });
        }
        if blocks.is_empty() {
            blocks.push(Block::Text { text: String::new() });
        }
        let stop = ending.why(answer.finish, &answer.usage, answer.calls().next().is_some());
        Message::new(head, blocks, stop, &answer.usage)
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StreamEvent<'a> {
    MessageStart { message: Message<'a> },
    ContentBlockStart { index: usize, content_block: Block },
    ContentBlockDelta { index: usize, delta: Delta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: Stop, usage: Counts },
    MessageStop,
    Ping,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "input_json_delta")]
    Json { partial_json: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
}

/// Writes the stream.
pub(super) struct MessageStream {
    head: Head,
    ending: Ending,
    /// Kind and number of the part whose block is open.
    open: Option<(PartKind, usize)>,
    /// Blocks that have begun.
    blocks: usize,
    calls: bool,
}

impl MessageStream {
    pub fn new(head: Head, ending: Ending) -> MessageStream {
        MessageStream { head, ending, open: None, blocks: 0, calls: false }
    }

    fn start(&mut self, block: Block, out: &mut Out) {
        let event = StreamEvent::ContentBlockStart { index: self.blocks, content_block: block };
        push_named(out, "content_block_start", &event);
        self.blocks += 1;
    }

    fn delta(&self, delta: Delta, out: &mut Out) {
        let event = StreamEvent::ContentBlockDelta { index: self.blocks.saturating_sub(1), delta };
        push_named(out, "content_block_delta", &event);
    }

    fn stop(&mut self, out: &mut Out) {
        if let Some((kind, _)) = self.open.take() {
            if kind == PartKind::Reasoning {
                self.delta(Delta::Signature { signature: "" }, out);
            }
            push_named(out, "content_block_stop", &StreamEvent::ContentBlockStop { index: self.blocks - 1 });
        }
    }

    fn part(&mut self, part: &Part<'_>, out: &mut Out) {
        if part.begins {
            self.stop(out);
            // A call whose name never came is none.
            if part.kind != PartKind::Call || part.name.is_some() {
                self.start(Block::empty(part), out);
                self.open = Some((part.kind, part.part));
                self.calls |= part.kind == PartKind::Call;
            }
        }
        if self.open != Some((part.kind, part.part)) {
            return;
        }
        if !part.text.is_empty() {
            let delta = match part.kind {
                PartKind::Content => Delta::Text { text: part.text },
                PartKind::Reasoning => Delta::Thinking { thinking: part.text },
                PartKind::Call => Delta::Json { partial_json: part.text },
            };
            self.delta(delta, out);
        }
        if part.end.is_some() {
            self.stop(out);
        }
    }
}

impl Writer for MessageStream {
    fn begin(&mut self, counts: Option<PromptCounts>, out: &mut Out) {
        // Without them now, they are told at the end.
        let PromptCounts { prompt_tokens, cached_tokens } = counts.unwrap_or_default();
        let usage = Usage { prompt_tokens, cached_tokens, ..Usage::default() };
        let none = Stop { stop_reason: None, stop_sequence: None };
        let message = Message::new(&self.head, Vec::new(), none, &usage);
        push_named(out, "message_start", &StreamEvent::MessageStart { message });
    }

    fn event(&mut self, _: usize, event: &Event, out: &mut Out) {
        for part in (0..event.part_count()).filter_map(|index| event.part(index)) {
            self.part(&part, out);
        }
        if !event.terminal() {
            return;
        }
        self.stop(out);
        if self.blocks == 0 {
            self.start(Block::Text { text: String::new() }, out);
            push_named(out, "content_block_stop", &StreamEvent::ContentBlockStop { index: 0 });
        }
        let usage = event.usage.unwrap_or_default();
        let delta = self.ending.why(event.finish, &usage, self.calls);
        push_named(out, "message_delta", &StreamEvent::MessageDelta { delta, usage: Counts::of(&usage) });
    }

    fn failed(&mut self, refusal: &Refusal, out: &mut Out) {
        push_named(out, "error", &errors::body(refusal));
    }

    fn end(&mut self, out: &mut Out) {
        push_named(out, "message_stop", &StreamEvent::MessageStop);
    }

    fn quiet(&mut self, out: &mut Out) {
        push_named(out, "ping", &StreamEvent::Ping);
    }
}
