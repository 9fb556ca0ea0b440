//! Answers to chats: read into parts on their way to the reader, and given back to the conversation.

use crate::support::models::{copy, storyteller};
use astrai::Status;
use astrai::constrain::Kind;
use astrai::engine::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A chat template with reasoning, calls and results, that keeps the history as the model wrote it.
pub const TEMPLATE: &str = r#"{{ bos_token }}{% for m in messages %}<|{{ 'user' if m.role == 'tool' else m.role }}|>
{%- if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>
{%- else %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content or '' }}
{%- for call in m.tool_calls or [] %}<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"#;

/// The storyteller with this chat template, and with a context of 16,384 tokens.
pub fn folder(template: &str, response_template: Option<Value>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&storyteller(), dir.path());
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let change = |file: &str, change: &dyn Fn(&mut Value)| {
        let path = dir.path().join(file);
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
    };
    change("config.json", &|config| config["max_position_embeddings"] = json!(16_384));
    if let Some(response_template) = response_template {
        change("tokenizer_config.json", &|config| config["response_template"] = response_template.clone());
    }
    dir
}

pub fn open(dir: &Path) -> Engine {
    let options = EngineOptions { threads: 1, max_running: 4, log_level: LogLevel::Off, ..EngineOptions::default() };
    Engine::open(dir, options).unwrap()
}

pub fn chat(text: &str) -> Prompt {
    Prompt { messages: vec![json!({"role": "user", "content": text})], ..Prompt::default() }
}

/// Options with which the answer is `text`, cut into tokens at random.
fn saying(engine: &Engine, text: &str, seed: u64) -> RequestOptions {
    let constraint = engine.compile_constraint(Kind::Texts, &json!([text]).to_string()).unwrap().on_whole_answer();
    RequestOptions {
        seed: Some(seed),
        temperature: Some(1.5),
        settings: Some(Arc::new(Settings { constraint: Some(constraint), ..Settings::default() })),
        ..RequestOptions::default()
    }
}

const ANSWER: &str = "<think>Two \u{1F3B2} dice.</think>I roll.<tool_call>{\"name\": \"dice\", \"arguments\": {\"sides\": 6, \"why\": \"a } \\\" 骰\"}}\
                      </tool_call><tool_call>{\"name\": \"coin\", \"arguments\": {}}</tool_call>";

/// Parts as their deltas make them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Whole {
    pub kind: Option<PartKind>,
    pub name: String,
    pub id: String,
    pub text: String,
    pub end: Option<PartEnd>,
}

pub fn wholes(events: &[Event]) -> Vec<Whole> {
    let mut parts: Vec<Whole> = Vec::new();
    for event in events {
        for part in (0..event.part_count()).map(|at| event.part(at).unwrap()) {
            assert_eq!(part.begins, part.part == parts.len(), "{part:?}");
            if part.begins {
                let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
                let (name, id) = (text(part.name), text(part.id));
                parts.push(Whole { kind: Some(part.kind), name, id, ..Whole::default() });
            }
            let whole = &mut parts[part.part];
            assert_eq!((whole.kind, whole.end), (Some(part.kind), None), "{part:?}");
            whole.text += part.text;
            whole.end = part.end;
        }
        assert_eq!(event.part(event.part_count()), None);
    }
    parts
}

pub fn pulled(request: &Request) -> Vec<Event> {
    let mut events = Vec::new();
    while let Next::Event(event) = request.next(None).unwrap() {
        events.push(*event);
    }
    events
}

pub fn text(events: &[Event]) -> String {
    let mut text = String::new();
    for event in events {
        assert_eq!(event.first_byte, text.len() as u64, "{event:?}");
        text += &event.text;
    }
    text
}

fn expected() -> Vec<(PartKind, &'static str, &'static str)> {
    vec![
        (PartKind::Reasoning, "", "Two \u{1F3B2} dice."),
        (PartKind::Content, "", "I roll."),
        (PartKind::Call, "dice", "{\"sides\": 6, \"why\": \"a } \\\" 骰\"}"),
        (PartKind::Call, "coin", "{}"),
    ]
}

fn assert_parts(parts: &[Whole]) {
    let seen: Vec<_> = parts.iter().map(|p| (p.kind.unwrap(), p.name.as_str(), p.text.as_str())).collect();
    assert_eq!(seen, expected());
    assert!(parts.iter().all(|part| part.end == Some(PartEnd::Complete)), "{parts:?}");
    let ids: Vec<&str> = parts.iter().map(|part| part.id.as_str()).collect();
    assert!(ids[2].len() == 9 && ids[3].len() == 9 && ids[2] != ids[3] && ids[0].is_empty(), "{ids:?}");
}

#[test]
fn an_answer_comes_in_parts_by_every_way() {
    let dir = folder(TEMPLATE, None);
    let engine = open(dir.path());
    assert_eq!(engine.info().answer_format.as_deref(), Some("hermes"));
    for (seed, defer) in [(1, false), (2, true), (3, false)] {
        let options = RequestOptions { queue_tokens: 2, defer, ..saying(&engine, ANSWER, seed) };
        let streamed = pulled(&engine.submit(&chat("go"), &options, Sink::Pull).unwrap());
        assert!(streamed.len() > 4, "{} events", streamed.len());
        assert_parts(&wholes(&streamed));
        assert_eq!(text(&streamed), "I roll.");
        assert!(streamed.iter().all(|event| event.format == AnswerFormat::Known));

        let request = engine.submit(&chat("go"), &options, Sink::Pull).unwrap();
        let Next::Event(whole) = request.wait(None).unwrap() else { panic!("no event") };
        assert_eq!((whole.part_count(), whole.text.as_str(), whole.complete), (4, "I roll.", Some(true)));
        assert_parts(&wholes(&[*whole]));

        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let seen = seen.clone();
            Sink::Callback(Box::new(move |event: &Event| {
                seen.lock().unwrap().push(event.clone());
                true
            }))
        };
        engine.submit(&chat("go"), &options, sink).unwrap().wait(None).unwrap();
        assert_parts(&wholes(&seen.lock().unwrap()));

        let request = engine.submit(&chat("go"), &options, Sink::Engine(Box::new(()))).unwrap();
        let mut events = Vec::new();
        while !events.last().is_some_and(Event::terminal) {
            let Next::Event(event) = engine.next(None).unwrap() else { panic!("no event") };
            events.push(*event);
            events.last_mut().unwrap().release();
        }
        assert_eq!((events[0].request_id, text(&events).as_str()), (request.id(), "I roll."));
        assert_parts(&wholes(&events));
    }
    engine.check().unwrap();
}

#[test]
fn raw_text_is_all_that_the_model_wrote() {
    let dir = folder(TEMPLATE, None);
    let engine = open(dir.path());
    let options = RequestOptions { raw_text: true, queue_tokens: 3, ..saying(&engine, ANSWER, 4) };
    let events = pulled(&engine.submit(&chat("go"), &options, Sink::Pull).unwrap());
    assert_eq!(text(&events), ANSWER);
    assert_parts(&wholes(&events));
    // A prompt that is not made of messages is text, and so is its answer.
    let raw = Prompt { parts: vec![PromptPart::Text { text: "go".into(), special: false }], ..Prompt::default() };
    let events = pulled(&engine.submit(&raw, &saying(&engine, ANSWER, 5), Sink::Pull).unwrap());
    assert_eq!(text(&events), ANSWER);
    let parts = wholes(&events);
    assert_eq!((parts.len(), parts[0].kind, parts[0].text.as_str()), (1, Some(PartKind::Content), ANSWER));
    assert!(events.iter().all(|event| event.format == AnswerFormat::Text));
}

#[test]
fn of_an_unknown_format_all_is_content() {
    let engine = open(&storyteller());
    assert_eq!(engine.info().answer_format, None);
    let events = pulled(&engine.submit(&chat("go"), &saying(&engine, ANSWER, 6), Sink::Pull).unwrap());
    assert_eq!(text(&events), ANSWER);
    let parts = wholes(&events);
    assert_eq!((parts.len(), parts[0].text.as_str(), parts[0].end), (1, ANSWER, Some(PartEnd::Complete)));
    assert!(events.iter().all(|event| event.format == AnswerFormat::Unknown));
}

/// Delimiters that are special tokens have no text elsewhere; one that ends the answer ends its part.
#[test]
fn special_tokens_are_delimiters_where_the_model_writes_them() {
    let response_template = json!({"start_anchor": "<|assistant|>", "fields": {
        "thinking": {"open": "<|system|>", "close": "<|user|>"},
        "tool_calls": {"open_pattern": "<\\|pad\\|>(?P<name>\\w+)", "close": "<|end|>", "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}},
        "content": {}}});
    let dir = folder("{{ bos_token }}{{ messages[0].content }}<|assistant|>", Some(response_template));
    let engine = open(dir.path());
    assert_eq!(engine.info().answer_format.as_deref(), Some("response_template"));
    let grammar =
        "start: <|system|> \"Let me see, <|user|>.\" <|user|> \"So: \" <|pad|> \"dice{\\\"why\\\": \\\"<|end|>\\\"}\"";
    let constraint = engine.compile_constraint(Kind::Lark, grammar).unwrap().on_whole_answer();
    let settings = Settings { constraint: Some(constraint), ..Settings::default() };
    let options = RequestOptions {
        temperature: Some(1.5),
        seed: Some(7),
        queue_tokens: 2,
        settings: Some(Arc::new(settings)),
        ..RequestOptions::default()
    };
    let events = pulled(&engine.submit(&chat("go"), &options, Sink::Pull).unwrap());
    let parts = wholes(&events);
    let seen: Vec<_> =
        parts.iter().map(|p| (p.kind.unwrap(), p.name.as_str(), p.text.as_str(), p.end.unwrap())).collect();
    let whole = PartEnd::Complete;
    assert_eq!(
        seen,
        [
            (PartKind::Reasoning, "", "Let me see, <|user|>.", whole),
            (PartKind::Content, "", "So:", whole),
            (PartKind::Call, "dice", "{\"why\": \"<|end|>\"}", whole),
        ]
    );
    assert_eq!(text(&events), "So:");
    // All of it, special tokens by their names.
    let raw = RequestOptions { raw_text: true, ..options };
    let events = pulled(&engine.submit(&chat("go"), &raw, Sink::Pull).unwrap());
    assert_eq!(text(&events), "<|system|>Let me see, <|user|>.<|user|>So: <|pad|>dice{\"why\": \"<|end|>\"}<|end|>");
}

/// What is cut short ends its parts, once.
#[test]
fn parts_of_answers_that_are_cut_end() {
    let dir = folder(TEMPLATE, None);
    let engine = open(dir.path());
    let mut ends = Vec::new();
    for tokens in 1..60 {
        let options = RequestOptions { max_tokens: Some(tokens), queue_tokens: 4, ..saying(&engine, ANSWER, 8) };
        let events = pulled(&engine.submit(&chat("go"), &options, Sink::Pull).unwrap());
        let parts = wholes(&events);
        assert!(parts.iter().all(|part| part.end.is_some()), "{tokens}: {parts:?}");
        ends.extend(parts.last().map(|part| (part.kind, part.end)));
        // Cancelled in the middle: what is left is no part of anything.
        let request = engine.submit(&chat("go"), &options, Sink::Pull).unwrap();
        let mut events = Vec::new();
        while let Next::Event(event) = request.next(None).unwrap() {
            events.push(*event);
            request.cancel();
        }
        assert!(wholes(&events).iter().all(|part| part.end.is_some()));
    }
    let unclosed = |kind| ends.contains(&(Some(kind), Some(PartEnd::Unclosed)));
    assert!(unclosed(PartKind::Reasoning) && unclosed(PartKind::Call), "{ends:?}");
    engine.check().unwrap();
}

/// Twenty turns with reasoning, calls and results: of each prompt all but the new message is in the prefix cache, although the
/// answers' tokens are not those that the tokenizer would make of their text.
#[test]
fn a_conversation_finds_its_answers_computed() {
    let dir = folder(TEMPLATE, None);
    let engine = open(dir.path());
    let persona = "You keep an inn at the crossroads, and you are polite to everybody who comes in. ".repeat(30);
    let mut prompt = chat("");
    prompt.messages[0] = json!({"role": "system", "content": persona});
    let mut canonical = 0;
    let mut before: Vec<u32> = Vec::new();
    for turn in 0..20 {
        let results = prompt.messages.last().is_some_and(|message| message["role"] == "tool");
        if !results {
            prompt.messages.push(json!({"role": "user", "content": format!("Stranger {turn} comes in.")}));
        }
        let answer = format!(
            "<think>Number {turn} looks tired.</think>Welcome, friend {turn}!<tool_call>{{\"name\": \"pour\", \"arguments\": {{\"cup\": {turn}}}}}</tool_call>"
        );
        let tokens = engine.tokenize(&prompt, TextOptions::default()).unwrap();
        assert!(tokens.starts_with(&before), "turn {turn} does not go on with the tokens of the turn before");
        let request = engine.submit(&prompt, &saying(&engine, &answer, 100 + turn), Sink::Pull).unwrap();
        let Next::Event(event) = request.wait(None).unwrap() else { panic!("no event") };
        let usage = event.usage.unwrap();
        if turn > 0 {
            let share = f64::from(usage.cached_tokens) / f64::from(usage.prompt_tokens);
            assert!(share >= 0.95, "turn {turn}: {} of {} tokens cached", usage.cached_tokens, usage.prompt_tokens);
        }
        before = tokens;
        before.extend(event.tokens.iter().take_while(|token| **token != 1));
        canonical += usize::from(
            engine.tokenize(&saying_text(&answer), TextOptions::default()).unwrap().len() == event.tokens.len(),
        );
        prompt.add_answer(&request).unwrap();
        let call = prompt.messages.last().unwrap()["tool_calls"][0]["id"].as_str().unwrap().to_owned();
        prompt.add_result(&call, "poured").unwrap();
    }
    assert!(canonical < 5, "{canonical} of 20 answers were cut into as many tokens as the tokenizer makes");
    assert_eq!(prompt.answers.len(), 20);
}

fn saying_text(text: &str) -> Prompt {
    Prompt { parts: vec![PromptPart::Text { text: text.into(), special: false }], ..Prompt::default() }
}

#[test]
fn an_answer_is_added_when_it_has_ended() {
    let dir = folder(TEMPLATE, None);
    let engine = open(dir.path());
    let mut prompt = chat("go");
    let request = engine.submit(&prompt, &saying(&engine, ANSWER, 9), Sink::Pull).unwrap();
    assert_eq!(prompt.add_answer(&request).unwrap_err().status, Status::Argument);
    pulled(&request);
    prompt.add_answer(&request).unwrap();
    let message = prompt.messages.last().unwrap();
    assert_eq!(
        (message["content"].as_str(), message["reasoning"].as_str()),
        (Some("I roll."), Some("Two \u{1F3B2} dice."))
    );
    assert_eq!(message["tool_calls"].as_array().map(Vec::len), Some(2));
    let rendered =
        engine.render(&prompt, TextOptions { no_generation_prompt: true, ..TextOptions::default() }).unwrap();
    assert_eq!(rendered, format!("<|bos|><|user|>go<|end|><|assistant|>{ANSWER}<|end|>"));

    // A prompt of text has no answer that is a message.
    let raw = saying_text("go");
    let request = engine.submit(&raw, &saying(&engine, "x", 9), Sink::Pull).unwrap();
    pulled(&request);
    assert_eq!(prompt.add_answer(&request).unwrap_err().status, Status::Argument);
    let mut raw = raw;
    assert_eq!(raw.add_answer(&request).unwrap_err().status, Status::Argument);

    // The start of an answer and the rest of it are one message.
    let mut prompt = chat("go");
    prompt.messages.push(json!({"role": "assistant", "content": "I "}));
    prompt.message_flags = vec![MessageFlags::default(), MessageFlags { continued: true, ..MessageFlags::default() }];
    let request = engine.submit(&prompt, &saying(&engine, "roll.", 9), Sink::Pull).unwrap();
    pulled(&request);
    prompt.add_answer(&request).unwrap();
    assert_eq!((prompt.messages.len(), prompt.messages[1]["content"].as_str()), (2, Some("I roll.")));
    assert!(!prompt.message_flags[1].continued);
}
