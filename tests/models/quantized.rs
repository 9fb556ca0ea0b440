//! Weights quantized while an engine opens: their answers, their size, and that opening can be watched and given up. Law 1
//! with them is in `laws.rs`, their products in `kernels.rs`.

use crate::support::models::{fixture, fixtures, storyteller};
use astrai::Status;
use astrai::dtype::DType;
use astrai::encoding::{Encoding, Scheme};
use astrai::engine::*;
use astrai::model::random_model;
use astrai::source::{Bytes, ModelSource, SpecialTokens, Synthetic, TensorInfo};
use serde_json::{Value, json};

use std::sync::{Arc, Mutex};

fn with(weights: Type) -> EngineOptions {
    EngineOptions { weights, threads: 2, memory_budget: 64 << 20, ..EngineOptions::default() }
}

fn run(engine: &Engine, tokens: &[u32], options: RequestOptions) -> Event {
    let prompt = Prompt { parts: vec![PromptPart::Tokens(tokens.to_vec())], ..Prompt::default() };
    let options = RequestOptions { temperature: Some(0.0), ignore_eos: true, ..options };
    match engine.submit(&prompt, &options, Sink::Pull).unwrap().wait(None).unwrap() {
        Next::Event(event) => {
            assert_eq!(event.error, None);
            *event
        }
        other => panic!("{other:?} instead of the terminal event"),
    }
}

/// Log probabilities of a prompt, and of what is generated after it, as bits.
fn bits(engine: &Engine, tokens: &[u32]) -> Vec<u32> {
    let options =
        RequestOptions { max_tokens: Some(8), logprobs: Some(2), prompt_logprobs: true, ..RequestOptions::default() };
    let event = run(engine, tokens, options);
    let all = event.prompt_logprobs.iter().skip(1).chain(&event.logprobs).chain(&event.top_logprobs);
    all.map(|l| {
        assert!(l.is_finite() && *l <= 0.0, "{l}");
        l.to_bits()
    })
    .collect()
}

/// Mean negative log probability of a text in windows.
fn mean_nll(engine: &Engine, tokens: &[u32]) -> f64 {
    let options = RequestOptions { max_tokens: Some(0), prompt_logprobs: true, ..RequestOptions::default() };
    let (mut sum, mut count) = (0.0, 0);
    for window in tokens.chunks(256) {
        for logprob in run(engine, window, options.clone()).prompt_logprobs.iter().skip(1) {
            sum -= f64::from(*logprob);
            count += 1;
        }
    }
    sum / count as f64
}

/// Threads and ways to read the weights change nothing, on any tier; which other tier it is may.
#[test]
fn every_family_answers_with_quantized_weights_and_always_the_same() {
    let prompt: Vec<u32> = (0..70).map(|i| (i * i * 7 + 3) % 64).collect();
    for dir in fixtures() {
        for tier in astrai::backend::cpu::tiers() {
            for weights in [Type::Q8, Type::Q5, Type::Q4] {
                let open = |threads, no_mmap, compute| {
                    let options = EngineOptions { cpu_tier: tier, threads, no_mmap, compute, ..with(weights) };
                    Engine::open(&dir, options).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
                };
                let one = open(1, false, Type::Auto);
                let scheme = if weights == Type::Q8 { Scheme::Q8 } else { Scheme::Q4 };
                assert_eq!(one.info().weights, Some(Encoding::Quantized(scheme)));
                let want = bits(&one, &prompt);
                let what = format!("{} {tier:?} {weights:?}", dir.display());
                for threads in [2, 3] {
                    assert_eq!(
                        bits(&open(threads, threads == 3, Type::Auto), &prompt),
                        want,
                        "{what}, {threads} threads"
                    );
                }
                assert!(!bits(&open(2, false, Type::F32), &prompt).is_empty());
            }
        }
    }
}

#[test]
fn the_storyteller_tells_much_the_same() {
    let dir = storyteller();
    let stored = Engine::open(&dir, EngineOptions { weights: Type::Auto, ..with(Type::Auto) }).unwrap();
    assert_eq!(stored.info().weights, Some(Encoding::Stored(DType::Bf16)));
    // What it says itself is text of its kind; sampled, so that not every token is the likeliest.
    let prompt = Prompt {
        parts: vec![PromptPart::Text { text: "Once upon a time".into(), special: false }],
        ..Prompt::default()
    };
    let mut tokens = Vec::new();
    for seed in 0..4 {
        let options = RequestOptions {
            max_tokens: Some(512),
            ignore_eos: true,
            seed: Some(seed),
            temperature: Some(0.9),
            ..RequestOptions::default()
        };
        let Next::Event(event) = stored.submit(&prompt, &options, Sink::Pull).unwrap().wait(None).unwrap() else {
            panic!()
        };
        tokens.extend(event.tokens);
    }
    let want = mean_nll(&stored, &tokens);
    // Measured on 2,000 tokens; both bounds leave some room, for this text is short and its noise large.
    for (weights, bound) in [(Type::Q8, 0.004), (Type::Q5, 0.04), (Type::Q4, 0.05)] {
        let got = mean_nll(&Engine::open(&dir, with(weights)).unwrap(), &tokens);
        println!("{weights:?}: {got:.5} nats a token, {want:.5} as stored");
        assert!((got - want).abs() < bound, "{weights:?}: {got} for {want}");
    }
}

/// A model whose output matrix is made in several pieces.
fn large() -> Value {
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(fixture("qwen3").join("config.json")).unwrap()).unwrap();
    config["vocab_size"] = json!(70_001);
    config["hidden_size"] = json!(256);
    config
}

/// A source that is seen to be let go.
struct Watched(Synthetic, #[expect(dead_code, reason = "it is counted")] Arc<()>);

impl ModelSource for Watched {
    fn subject(&self) -> &str {
        self.0.subject()
    }
    fn config(&self) -> astrai::Result<&Value> {
        self.0.config()
    }
    fn generation_config(&self) -> astrai::Result<Option<&Value>> {
        self.0.generation_config()
    }
    fn tokenizer_json(&self) -> astrai::Result<Option<Bytes>> {
        self.0.tokenizer_json()
    }
    fn special_tokens(&self) -> astrai::Result<SpecialTokens> {
        self.0.special_tokens()
    }
    fn chat_template(&self) -> astrai::Result<Option<String>> {
        self.0.chat_template()
    }
    fn tensors(&self) -> astrai::Result<&[TensorInfo]> {
        self.0.tensors()
    }
    fn tensor(&self, name: &str) -> astrai::Result<Option<(TensorInfo, Bytes)>> {
        self.0.tensor(name)
    }
}

#[test]
fn opening_is_watched_within_large_tensors_and_given_up_at_any_call() {
    let model = random_model("large", large(), 1).unwrap();
    let tensors = model.tensors().unwrap().len();
    let alive = Arc::new(());
    let open = |weights, stop: usize| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let calls = seen.clone();
        let progress: ProgressFn = Box::new(move |done, total| {
            let mut calls = calls.lock().unwrap();
            calls.push((done, total));
            calls.len() <= stop
        });
        let options = EngineOptions {
            progress: Some(progress),
            threads: 2,
            memory_budget: 256 << 20,
            weights,
            ..EngineOptions::default()
        };
        let engine = Engine::open_source(Box::new(Watched(model.clone(), alive.clone())), options);
        (
            engine,
            Arc::try_unwrap(seen).map_or_else(|seen| seen.lock().unwrap().clone(), |seen| seen.into_inner().unwrap()),
        )
    };
    for weights in [Type::Q8, Type::Q4] {
        let (engine, seen) = open(weights, usize::MAX);
        let event = run(
            &engine.unwrap(),
            &[1, 2, 3, 69_999],
            RequestOptions { max_tokens: Some(3), ..RequestOptions::default() },
        );
        assert_eq!(event.tokens.len(), 3);
        assert!(seen.is_sorted() && seen.len() >= tensors + 2, "{} calls for {tensors} tensors", seen.len());
        assert_eq!(seen.last().map(|(done, total)| done == total), Some(true));
        for stop in (0..seen.len()).step_by(7).chain([seen.len() - 1]) {
            let (engine, calls) = open(weights, stop);
            assert_eq!(engine.map(|_| ()).unwrap_err().status, Status::Aborted);
            assert_eq!(calls, seen[..=stop], "no call after the one that said stop");
            assert_eq!(Arc::strong_count(&alive), 1, "nothing is left of it");
        }
    }
}

/// Less memory of its own than as stored, and what the plan says: a budget that suffices for the one is too small for the other.
#[test]
fn quantized_weights_fit_where_stored_ones_do_not() {
    let dir = storyteller();
    let plan = |weights, memory_budget| {
        Engine::plan(&dir, &EngineOptions { context_length: 64, weights, memory_budget, ..EngineOptions::default() })
            .unwrap()
    };
    let [stored, q8, q5, q4] = [Type::Auto, Type::Q8, Type::Q5, Type::Q4].map(|weights| plan(weights, 0).weight_bytes);
    // The embedding stays beside them, and the head is 8-bit in both.
    let embedding = 3072 * 192 * 2u64;
    let (eight, four) = (q8 - embedding, q4 - embedding);
    assert!(eight * 16 / stored >= 8 && eight < stored * 9 / 16, "{eight} of {stored}");
    assert!(four < eight * 2 / 3, "{four} of {eight}");
    let five = q5 - embedding;
    assert!(five > four && five < eight * 3 / 4, "{five} between {four} and {eight}");
    for (weights, bytes) in [(Type::Q8, q8), (Type::Q5, q5), (Type::Q4, q4)] {
        let least = plan(weights, 1).total_bytes;
        assert_eq!(plan(weights, 1).weight_bytes, bytes);
        let open = |memory_budget| {
            let options = EngineOptions { context_length: 64, weights, memory_budget, ..EngineOptions::default() };
            Engine::open(&dir, options).map(|_| ())
        };
        open(least).unwrap();
        let error = open(least - 1).unwrap_err();
        assert_eq!((error.status, error.needed, error.available), (Status::Memory, least, least - 1));
    }
}
