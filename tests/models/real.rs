//! A real model: SmolLM2-135M-Instruct, 4-bit blocks, against what transformers makes of the same file
//! (`tests/fixtures/real/smollm2.json`, by `tools/make_real_fixtures.py`). `make real` brings it; without it the tests are skipped.

use crate::support::models::root;
use astrai::engine::*;
use astrai::source::{Gguf, ModelSource};
use astrai::text::Tokenizer;
use serde_json::Value;
use std::path::PathBuf;

/// The model's file, if it is there; else says how it comes there, or fails if ASTRAI_REQUIRE names real.
fn model() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = std::env::var_os("ASTRAI_REAL_MODELS").map_or(home.join(".cache/astrai/real"), PathBuf::from);
    let file = cache.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if file.is_file() {
        return Some(file);
    }
    let required = std::env::var("ASTRAI_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == "real"), "{} is not there", file.display());
    println!("SKIP: {} is not there; `make real` brings it", file.display());
    None
}

fn fixture() -> Value {
    serde_json::from_slice(&std::fs::read(root().join("tests/fixtures/real/smollm2.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn open(file: &std::path::Path, compute: Type) -> Engine {
    let options = EngineOptions { compute, context_length: 512, log_level: LogLevel::Off, ..EngineOptions::default() };
    Engine::open(file, options).unwrap()
}

fn run(engine: &Engine, prompt: &Prompt, options: &RequestOptions) -> Event {
    match engine.submit(prompt, options, Sink::Pull).unwrap().wait(None).unwrap() {
        Next::Event(event) => *event,
        other => panic!("{other:?}"),
    }
}

/// Mean difference of the log probabilities from the reference's.
fn distance(engine: &Engine, fixture: &Value) -> f64 {
    let options = RequestOptions { max_tokens: Some(0), prompt_logprobs: true, ..RequestOptions::default() };
    let (mut sum, mut count) = (0.0, 0);
    for scored in fixture["scored"].as_array().unwrap() {
        let prompt = Prompt { parts: vec![PromptPart::Tokens(ids(&scored["ids"]))], ..Prompt::default() };
        let got = run(engine, &prompt, &options).prompt_logprobs;
        let want = scored["logprobs"].as_array().unwrap();
        assert_eq!(got.len(), want.len() + 1);
        for (got, want) in got[1..].iter().zip(want) {
            sum += (f64::from(*got) - want.as_f64().unwrap()).abs();
            count += 1;
        }
    }
    sum / f64::from(count)
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    let Some(file) = model() else { return };
    let fixture = fixture();
    let (exact, rounded) = (distance(&open(&file, Type::F32), &fixture), distance(&open(&file, Type::Auto), &fixture));
    let peer = std::fs::read(root().join("tests/fixtures/real/smollm2_llama_cpp.json")).unwrap();
    let peer = serde_json::from_slice::<Value>(&peer).unwrap()["distance"].as_f64().unwrap();
    println!("mean distance {exact:.6} with compute f32, {rounded:.4} by default, {peer:.4} of llama.cpp");
    assert!(exact <= 0.002, "{exact}");
    assert!(rounded <= 1.2 * peer, "{rounded} against {peer}");
}

#[test]
fn texts_have_the_tokens_of_transformers() {
    let Some(file) = model() else { return };
    let json = Gguf::headers(&file, true).unwrap().tokenizer_json().unwrap().unwrap();
    let tokenizer = Tokenizer::from_json(json.as_slice(), "SmolLM2").unwrap();
    let fixture = fixture();
    let encoded = fixture["encoded"].as_array().unwrap();
    assert_eq!(encoded.len(), 300);
    for case in encoded {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, false, true).unwrap(), ids(&case["ids"]), "{text:?}");
    }
}

#[test]
fn it_knows_the_capital_of_france() {
    let Some(file) = model() else { return };
    let question = serde_json::json!({ "role": "user", "content": "What is the capital of France?" });
    let prompt = Prompt { messages: vec![question], ..Prompt::default() };
    let options = RequestOptions { temperature: Some(0.0), max_tokens: Some(40), ..RequestOptions::default() };
    let event = run(&open(&file, Type::F32), &prompt, &options);
    assert_eq!((event.text.trim(), event.finish), ("The capital of France is Paris.", FinishReason::Eos));
}
