//! Pinned prefixes on real weights: that they stay, that requests start from them, and that saved ones come back bit for
//! bit, in this process and in another.
//!
//! Random damage prints its seed; `ASTRAI_TEST_SEED` repeats one.

mod files;
mod pins;

use crate::support::models::{fixture, storyteller};
use crate::support::random::{Random, seed};
use astrai::engine::*;
use std::path::Path;

/// Tokens of a page, by default.
const PAGE: usize = 16;

/// A small engine on one thread.
fn options() -> EngineOptions {
    EngineOptions { threads: 1, max_running: 4, ..EngineOptions::default() }
}

fn open(dir: &Path) -> Engine {
    Engine::open(dir, options()).unwrap()
}

/// Bytes of one KV page.
fn page_bytes(dir: &Path) -> u64 {
    Engine::plan(dir, &options()).unwrap().kv_bytes_per_token * PAGE as u64
}

/// The memory budget of an engine with this many pages.
fn budget(dir: &Path, pages: u64) -> u64 {
    let plan = Engine::plan(dir, &options()).unwrap();
    plan.weight_bytes + plan.workspace_bytes + page_bytes(dir) * pages
}

/// An engine with this many pages.
fn tiny(dir: &Path, pages: u64) -> Engine {
    Engine::open(dir, EngineOptions { memory_budget: budget(dir, pages), ..options() }).unwrap()
}

fn tokens(prompt: Vec<u32>) -> Prompt {
    Prompt { parts: vec![PromptPart::Tokens(prompt)], ..Prompt::default() }
}

/// Token ids that differ between `salt`s from the first on.
fn salted(count: usize, salt: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 7 + salt * 13 + 1) % 96).collect()
}

fn generate(max_tokens: u32) -> RequestOptions {
    RequestOptions {
        seed: Some(11),
        ignore_eos: true,
        max_tokens: Some(max_tokens),
        temperature: Some(0.8),
        logprobs: Some(2),
        ..RequestOptions::default()
    }
}

/// What law 1 speaks of, as bits, and how many prompt tokens came from the tree.
#[derive(Debug, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    logprobs: Vec<u32>,
    top: Vec<u32>,
}

fn run(engine: &Engine, prompt: &[u32], max_tokens: u32) -> (Answer, usize) {
    let request = engine.submit(&tokens(prompt.to_vec()), &generate(max_tokens), Sink::Pull).unwrap();
    finish(&request)
}

fn finish(request: &Request) -> (Answer, usize) {
    let Next::Event(event) = request.wait(None).unwrap() else { panic!("no terminal event") };
    assert_eq!(event.kind, EventKind::Finished, "{:?}", event.error);
    let bits = |v: &[f32]| v.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
    let answer =
        Answer { tokens: event.tokens.clone(), logprobs: bits(&event.logprobs), top: bits(&event.top_logprobs) };
    (answer, event.usage.as_ref().unwrap().cached_tokens as usize)
}

fn pin(engine: &Engine, prompt: &[u32]) -> Prefix {
    engine.pin_prefix(&tokens(prompt.to_vec())).unwrap()
}

fn pinned(prefix: &Prefix) -> usize {
    prefix.wait(None).unwrap().expect("waited forever")
}

/// Spins until something becomes true that must become true; a minute is for ever.
fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !is_true() {
        assert!(begin.elapsed() < std::time::Duration::from_secs(60), "never: {what}");
        std::thread::yield_now();
    }
}
