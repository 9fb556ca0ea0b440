//! A server whose model says what the test wants: the last message is the answer, forced token by token.

use crate::client::answer;
use crate::support::models::{copy, storyteller};
use astrai::Result;
use astrai::constrain::{Grammar, Matcher, set};
use astrai::engine::*;
use astrai::server::{GateFn, ModelSpec, PrepareFn, Server, ServerOptions};
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A chat template with reasoning, calls and results.
pub const TEMPLATE: &str = r#"{{ bos_token }}{% for m in messages %}<|{{ 'user' if m.role == 'tool' else m.role }}|>
{%- if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content or '' }}
{%- for call in m.tool_calls or [] %}<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}<|end|>{% endfor %}{% if enable_thinking is defined %}[{{ enable_thinking }}]{% endif %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"#;

/// What stands before a script in a message.
pub const SAY: &str = "say:";

/// How an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// In tokens, as the tokenizer cuts it.
    Tokens,
    /// In tokens of one byte.
    Bytes,
    /// In one event.
    Whole,
}

pub const PACES: [Pace; 3] = [Pace::Tokens, Pace::Bytes, Pace::Whole];

struct Script {
    tokens: Arc<Vec<u32>>,
}

struct Position {
    tokens: Arc<Vec<u32>>,
    at: usize,
}

impl Grammar for Script {
    fn matcher(&self) -> Result<Box<dyn Matcher>> {
        Ok(Box::new(Position { tokens: self.tokens.clone(), at: 0 }))
    }
}

impl Matcher for Position {
    fn allowed(&mut self, mask: &mut [u32]) -> Result<bool> {
        mask.fill(0);
        match self.tokens.get(self.at) {
            Some(&token) => set(mask, token),
            None => return Ok(true),
        }
        Ok(false)
    }

    fn accept(&mut self, token: u32) -> Result<()> {
        assert_eq!(self.tokens.get(self.at), Some(&token));
        self.at += 1;
        Ok(())
    }
}

/// The tokens of a text in an answer.
fn tokens(engine: &Engine, text: &str, pace: Pace) -> Vec<u32> {
    if pace != Pace::Bytes {
        let part = PromptPart::Text { text: text.to_owned(), special: false };
        let prompt = Prompt { parts: vec![part], ..Prompt::default() };
        let mut tokens = engine.tokenize(&prompt, TextOptions::default()).unwrap();
        assert_eq!(Some(tokens.remove(0)), engine.info().bos_token);
        return tokens;
    }
    let vocab: Vec<Vec<u8>> = (0..engine.info().vocab_size).map(|id| engine.token_bytes(id).unwrap()).collect();
    let id = |byte: u8| vocab.iter().position(|bytes| bytes == &[byte]).expect("each byte has a token") as u32;
    text.bytes().map(id).collect()
}

/// Makes what follows [`SAY`] in the last message the answer.
pub fn prepare(pace: Pace) -> PrepareFn {
    Arc::new(move |engine, prompt, options| {
        let content = prompt.messages.last().map(|last| &last["content"]);
        let content = content.map(|content| content[0].get("text").unwrap_or(content));
        let Some(said) = content.and_then(|content| Some(content.as_str()?.split_once(SAY)?.1)) else { return };
        force(engine, tokens(engine, said, pace), options);
    })
}

/// Makes a text the answer.
pub fn answer_with(engine: &Engine, said: &str, options: &mut RequestOptions) {
    force(engine, tokens(engine, said, Pace::Tokens), options);
}

fn force(engine: &Engine, tokens: Vec<u32>, options: &mut RequestOptions) {
    let vocab = engine.info().vocab_size as usize;
    let script = Script { tokens: Arc::new(tokens) };
    let constraint = Constraint::new(Arc::new(script), vocab).unwrap().on_whole_answer();
    let settings = options.settings.as_deref().cloned().unwrap_or_default();
    // A constraint on the whole answer says all of it.
    options.reasoning_tokens = None;
    options.settings = Some(Arc::new(Settings { constraint: Some(constraint), ..settings }));
}

/// What holds the only event of each request back until the request has ended, where answers come so.
pub fn gated(engine: &Engine, pace: Pace) -> Option<GateFn> {
    if pace != Pace::Whole {
        return None;
    }
    let ended = |engine: &Engine| {
        let stats = engine.stats().unwrap();
        stats.finished + stats.cancelled + stats.failed
    };
    let passed = AtomicU64::new(ended(engine));
    Some(Arc::new(move |engine| {
        let next = passed.fetch_add(1, Ordering::SeqCst) + 1;
        while ended(engine) < next {
            std::thread::yield_now();
        }
    }))
}

/// The storyteller with [`TEMPLATE`].
pub fn engine() -> Arc<Engine> {
    engine_with(TEMPLATE, 2048)
}

/// The storyteller with another chat template and context. What is scripted makes sense in any.
pub fn engine_with(template: &str, context: u32) -> Arc<Engine> {
    let options = EngineOptions { max_running: 4, ..EngineOptions::default() };
    open(template, context, options)
}

/// The same with these options.
pub fn open(template: &str, context: u32, options: EngineOptions) -> Arc<Engine> {
    let dir = tempfile::tempdir().unwrap();
    copy(&storyteller(), dir.path());
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = context.into();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let options = EngineOptions { threads: options.threads.max(1), no_mmap: true, log_level: LogLevel::Off, ..options };
    Arc::new(Engine::open(dir.path(), options).unwrap())
}

/// A server with this engine as the model `m`; others may be added.
pub fn serve_with(engine: &Arc<Engine>, change: impl FnOnce(&mut ServerOptions)) -> Server {
    let mut options =
        ServerOptions { models: vec![ModelSpec::opened("m", engine.clone())], ..ServerOptions::default() };
    change(&mut options);
    let server = Server::start(options).unwrap();
    while !server.loaded().unwrap() {
        std::thread::yield_now();
    }
    server
}

/// A server whose answers come at this pace.
pub fn serve(engine: &Arc<Engine>, pace: Pace) -> Server {
    serve_with(engine, |options| {
        options.prepare = Some(prepare(pace));
        options.gate = gated(engine, pace);
    })
}

/// What the engine is asked when these bodies are sent to `path`; the field `limit` says there how long answers are.
pub fn seen(path: &str, limit: &str, bodies: &[Value]) -> Vec<(Prompt, RequestOptions)> {
    let engine = engine();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let server = serve_with(&engine, |options| {
        options.prepare = Some(Arc::new(move |_: &Engine, prompt: &Prompt, options: &mut RequestOptions| {
            kept.lock().unwrap().push((prompt.clone(), options.clone()));
        }));
    });
    for body in bodies {
        let mut body = body.clone();
        body[limit] = Value::from(1);
        answer(&server, path, &body);
    }
    drop(server);
    std::mem::take(&mut *seen.lock().unwrap())
}

/// Waits until it is so.
pub fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::yield_now();
    }
}

/// What a chat's answer says, however it was cut.
#[derive(Debug, Default, PartialEq)]
pub struct Said {
    pub content: String,
    pub reasoning: String,
    /// Names and arguments.
    pub calls: Vec<(String, String)>,
    pub finish: String,
}

impl Said {
    /// Of a whole answer.
    pub fn of_message(choice: &Value) -> Said {
        let message = &choice["message"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let call = |call: &Value| {
            assert!(call["id"].is_string() && call["type"] == "function", "{call}");
            (text(&call["function"]["name"]), text(&call["function"]["arguments"]))
        };
        Said {
            content: text(&message["content"]),
            reasoning: text(&message["reasoning_content"]),
            calls: message["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
            finish: text(&choice["finish_reason"]),
        }
    }

    /// Of the chunks of a stream, for the choice of this index. Checks their order.
    pub fn of_chunks(chunks: &[Value], index: usize) -> Said {
        let mut said = Said::default();
        let all = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
        let own: Vec<&Value> = all.filter(|choice| choice["index"] == index).collect();
        assert_eq!(own[0]["delta"]["role"], "assistant");
        for (at, choice) in own.iter().enumerate() {
            let delta = &choice["delta"];
            assert_eq!(choice["finish_reason"].is_string(), at + 1 == own.len(), "{choice}");
            said.finish = choice["finish_reason"].as_str().unwrap_or_default().to_owned();
            said.content += delta["content"].as_str().unwrap_or_default();
            said.reasoning += delta["reasoning_content"].as_str().unwrap_or_default();
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                let function = &call["function"];
                if let Some(name) = function["name"].as_str() {
                    assert!(call["id"].is_string() && call["type"] == "function", "{call}");
                    assert_eq!(call["index"], said.calls.len(), "{call}");
                    said.calls.push((name.to_owned(), String::new()));
                }
                assert_eq!(call["index"], said.calls.len() - 1, "{call}");
                said.calls.last_mut().unwrap().1 += function["arguments"].as_str().unwrap();
            }
        }
        said
    }
}
