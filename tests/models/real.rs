//! Real models: SmolLM2-135M-Instruct and Gemma 3 270M, 4-bit blocks, against what transformers makes of the same files
//! (`tests/fixtures/real`, by `tools/make_real_fixtures.py`). `make real` brings them; without them the tests are skipped.

use crate::support::models::root;
use astrai::engine::*;
use astrai::source::{Gguf, ModelSource};
use astrai::text::Tokenizer;
use serde_json::Value;
use std::path::{Path, PathBuf};

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";

/// A model's file, if it is there; else says how it comes there, or fails if ASTRAI_REQUIRE names real.
fn model(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = std::env::var_os("ASTRAI_REAL_MODELS").map_or(home.join(".cache/astrai/real"), PathBuf::from);
    let file = cache.join(name);
    if file.is_file() {
        return Some(file);
    }
    let required = std::env::var("ASTRAI_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == "real"), "{} is not there", file.display());
    println!("SKIP: {} is not there; `make real` brings it", file.display());
    None
}

fn fixture(name: &str) -> Value {
    let path = root().join("tests/fixtures/real").join(name).with_extension("json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn open(file: &Path, compute: Type) -> Engine {
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

/// Holds the token ids of all texts to the reference's.
fn encodes(file: &Path, fixture: &Value) {
    let json = Gguf::headers(file, true).unwrap().tokenizer_json().unwrap().unwrap();
    let tokenizer = Tokenizer::from_json(json.as_slice(), "tokenizer").unwrap();
    let encoded = fixture["encoded"].as_array().unwrap();
    assert_eq!(encoded.len(), 300);
    for case in encoded {
        let text = case["text"].as_str().unwrap();
        let got = tokenizer.encode(text, false, true).unwrap();
        assert_eq!(got, ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&got, false).unwrap(), text);
    }
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    let Some(file) = model(SMOLLM2) else { return };
    let fixture = fixture("smollm2");
    let (exact, rounded) = (distance(&open(&file, Type::F32), &fixture), distance(&open(&file, Type::Auto), &fixture));
    let peer = self::fixture("smollm2_llama_cpp")["distance"].as_f64().unwrap();
    println!("mean distance {exact:.6} with compute f32, {rounded:.4} by default, {peer:.4} of llama.cpp");
    assert!(exact <= 0.002, "{exact}");
    assert!(rounded <= 1.2 * peer, "{rounded} against {peer}");
}

#[test]
fn texts_have_the_tokens_of_transformers() {
    let Some(file) = model(SMOLLM2) else { return };
    encodes(&file, &fixture("smollm2"));
}

#[test]
fn it_knows_the_capital_of_france() {
    let Some(file) = model(SMOLLM2) else { return };
    let question = serde_json::json!({ "role": "user", "content": "What is the capital of France?" });
    let prompt = Prompt { messages: vec![question], ..Prompt::default() };
    let options = RequestOptions { temperature: Some(0.0), max_tokens: Some(40), ..RequestOptions::default() };
    let event = run(&open(&file, Type::F32), &prompt, &options);
    assert_eq!((event.text.trim(), event.finish), ("The capital of France is Paris.", FinishReason::Eos));
}

#[test]
fn log_probabilities_of_gemma_are_those_of_transformers() {
    let Some(file) = model(GEMMA3) else { return };
    let fixture = fixture("gemma3");
    let (exact, rounded) = (distance(&open(&file, Type::F32), &fixture), distance(&open(&file, Type::Auto), &fixture));
    println!("mean distance {exact:.6} with compute f32, {rounded:.4} by default");
    assert!(exact <= 0.002, "{exact}");
    assert!(rounded <= 0.05, "{rounded}");
}

#[test]
fn texts_have_the_tokens_of_sentencepiece() {
    let Some(file) = model(GEMMA3) else { return };
    encodes(&file, &fixture("gemma3"));
}

#[test]
fn gemma_goes_on_with_a_text() {
    let Some(file) = model(GEMMA3) else { return };
    let text = "The capital of France is Paris. The capital of Italy is".to_owned();
    let prompt = Prompt { parts: vec![PromptPart::Text { text, special: false }], ..Prompt::default() };
    let options = RequestOptions { temperature: Some(0.0), max_tokens: Some(1), ..RequestOptions::default() };
    assert_eq!(run(&open(&file, Type::F32), &prompt, &options).text, " Rome");
}
