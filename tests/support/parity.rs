//! The comparison of every fixture with its reference, on whatever target the process tests.

use crate::support::models::{NOT_YET, root};
use crate::support::target::{self, Target};
use astrai::engine::*;
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::PathBuf;

struct Case {
    prompt: Vec<u32>,
    generated: Vec<u32>,
    /// `[prompt + generated - 1]`: log probability of the next token at each position.
    next: Vec<f32>,
    /// `[prompt + generated][16]`, best first.
    top_ids: Vec<i32>,
    top_logprobs: Vec<f32>,
    dense_positions: Vec<i32>,
    dense: Vec<f32>,
}

struct Fixture {
    name: String,
    dir: PathBuf,
    reference: Value,
    cases: Vec<Case>,
}

const TOP: usize = 16;

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn ints(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn fixtures() -> Vec<Fixture> {
    let mut all: Vec<Fixture> = std::fs::read_dir(root().join("tests/fixtures/parity"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .map(|dir| {
            let reference: Value = serde_json::from_slice(&std::fs::read(dir.join("reference.json")).unwrap()).unwrap();
            let bytes = std::fs::read(dir.join("reference.safetensors")).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let data = |i: usize, name: &str| tensors.tensor(&format!("case{i}.{name}")).unwrap().data().to_vec();
            let cases = reference["cases"].as_array().unwrap().iter().enumerate().map(|(i, case)| Case {
                prompt: ids(&case["prompt"]),
                generated: ids(&case["generated"]),
                next: floats(&data(i, "next_logprobs")),
                top_ids: ints(&data(i, "top_ids")),
                top_logprobs: floats(&data(i, "top_logprobs")),
                dense_positions: ints(&data(i, "dense_positions")),
                dense: floats(&data(i, "dense_logprobs")),
            });
            let cases = cases.collect();
            Fixture { name: dir.file_name().unwrap().to_string_lossy().into_owned(), dir, reference, cases }
        })
        .collect();
    all.retain(|fixture| !NOT_YET.contains(&&*fixture.name));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(all.len() >= 57, "the fixtures are there");
    all
}

/// What is not opened yet says so.
pub fn what_does_not_open_yet_is_refused() {
    for name in NOT_YET {
        let dir = root().join("tests/fixtures/parity").join(name);
        let error = Engine::open(&dir, EngineOptions { memory_budget: 64 << 20, ..EngineOptions::default() })
            .err()
            .unwrap_or_else(|| panic!("{name} opens"));
        assert_eq!(error.status, astrai::Status::Unsupported, "{name}: {error}");
    }
}

fn open(fixture: &Fixture, compute: Type, target: Target) -> Engine {
    let options = EngineOptions { compute, threads: 2, memory_budget: 64 << 20, step_tokens: 64, ..target.options() };
    Engine::open(&fixture.dir, options).unwrap_or_else(|e| panic!("{}: {e}", fixture.name))
}

fn run(engine: &Engine, tokens: &[u32], options: RequestOptions) -> Event {
    let prompt = Prompt { parts: vec![PromptPart::Tokens(tokens.to_vec())], ..Prompt::default() };
    let options = RequestOptions { temperature: Some(0.0), ignore_eos: true, ..options };
    let request = engine.submit(&prompt, &options, Sink::Pull).unwrap();
    match request.wait(None).unwrap() {
        Next::Event(event) => {
            assert_eq!(event.error, None);
            *event
        }
        other => panic!("{other:?} instead of the terminal event"),
    }
}

/// Log probabilities of the whole vocabulary after `tokens`, by id.
fn distribution(engine: &Engine, tokens: &[u32]) -> Vec<f32> {
    let vocab = engine.info().vocab_size;
    let options = RequestOptions { max_tokens: Some(1), logprobs: Some(vocab), ..RequestOptions::default() };
    let event = run(engine, tokens, options);
    let mut by_id = vec![f32::NAN; vocab as usize];
    event.top_tokens.iter().zip(&event.top_logprobs).for_each(|(id, l)| by_id[*id as usize] = *l);
    by_id
}

/// How much of the fixtures is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Everything.
    #[allow(dead_code, reason = "the tests of a GPU on a stand-in take less")]
    Whole,
    /// The two shortest cases of each, where an operation takes long.
    Short,
}

impl Depth {
    fn cases(self, fixture: &Fixture) -> Vec<&Case> {
        let mut cases: Vec<&Case> = fixture.cases.iter().collect();
        if self == Depth::Short {
            cases.sort_by_key(|c| c.prompt.len() + c.generated.len());
            cases.truncate(2);
        }
        cases
    }
}

/// Log probabilities, and greedy tokens where they are not close, in f32.
pub fn f32_logprobs_and_greedy_tokens_equal_the_reference(depth: Depth) {
    for fixture in fixtures() {
        for target in target::all() {
            let engine = open(&fixture, Type::F32, target);
            let mut worst = 0f32;
            for case in depth.cases(&fixture) {
                check_f32(&engine, &fixture.name, case, &mut worst);
            }
            println!("{:18} {target:?}: largest difference {worst:.2e}", fixture.name);
            assert!(worst < 2e-3, "{} {target:?}: {worst}", fixture.name);
            engine.check().unwrap();
        }
    }
}

fn check_f32(engine: &Engine, name: &str, case: &Case, worst: &mut f32) {
    let all: Vec<u32> = case.prompt.iter().chain(&case.generated).copied().collect();
    let options = RequestOptions { max_tokens: Some(0), prompt_logprobs: true, ..RequestOptions::default() };
    let scored = run(engine, &all, options);
    assert_eq!(scored.prompt_logprobs.len(), all.len());
    assert!(scored.prompt_logprobs[0].is_nan() && scored.finish == FinishReason::Length);
    for (got, want) in scored.prompt_logprobs[1..].iter().zip(&case.next) {
        *worst = worst.max((got - want).abs());
    }
    let max_tokens = Some(case.generated.len() as u32);
    let generated =
        run(engine, &case.prompt, RequestOptions { max_tokens, logprobs: Some(2), ..RequestOptions::default() });
    for (i, (got, want)) in generated.tokens.iter().zip(&case.generated).enumerate() {
        let at = (case.prompt.len() - 1 + i) * TOP;
        let margin = case.top_logprobs[at] - case.top_logprobs[at + 1];
        if margin > 0.01 {
            assert_eq!(got, want, "{name}, prompt of {}, token {i}", case.prompt.len());
        } else if got != want {
            break;
        }
    }
    let vocab = engine.info().vocab_size as usize;
    for (row, &position) in case.dense_positions.iter().enumerate() {
        let got = distribution(engine, &all[..position as usize + 1]);
        for (got, want) in got.iter().zip(&case.dense[row * vocab..]) {
            *worst = worst.max((got - want).abs());
        }
    }
}

/// In bf16 the distance to the reference is that of the reference's own bf16.
pub fn bf16_stays_as_close_as_the_reference_itself(depth: Depth) {
    for fixture in fixtures() {
        let engine = open(&fixture, Type::Auto, target::fastest());
        let mut deltas = Vec::new();
        for case in depth.cases(&fixture) {
            let all: Vec<u32> = case.prompt.iter().chain(&case.generated).copied().collect();
            // Every position would take a request each; the short prompts take all, the long one every seventh.
            let stride = if all.len() > 60 || depth == Depth::Short { 7 } else { 1 };
            for position in (0..all.len()).step_by(stride) {
                let got = distribution(&engine, &all[..position + 1]);
                for i in position * TOP..(position + 1) * TOP {
                    deltas.push((got[case.top_ids[i] as usize] - case.top_logprobs[i]).abs());
                }
            }
        }
        deltas.sort_by(f32::total_cmp);
        let mean = deltas.iter().map(|d| *d as f64).sum::<f64>() / deltas.len() as f64;
        let median = deltas[deltas.len() / 2];
        let theirs = fixture.reference["bf16"]["bf16_mean_abs_delta"].as_f64().unwrap();
        println!("{:18} mean {mean:.4} median {median:.4}; the reference's own bf16 mean {theirs:.4}", fixture.name);
        assert!(mean <= f64::max(0.05, 1.2 * theirs), "{}: mean {mean}, median {median}", fixture.name);
    }
}
