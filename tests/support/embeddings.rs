//! Embedding models against sentence-transformers (`tests/fixtures/embeddings/README.md` describes the files), and law 1 for their
//! requests, on any target.

use super::models::root;
use super::target::Target;
use astrai::engine::*;
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::PathBuf;

/// The fixtures.
pub const NAMES: [&str; 2] = ["qwen3_embedding", "embeddinggemma"];

/// The folder of a fixture.
pub fn dir(name: &str) -> PathBuf {
    root().join("tests/fixtures/embeddings").join(name)
}

/// Opens a fixture; `options` are those of a target.
pub fn open(name: &str, options: EngineOptions) -> Engine {
    let options = EngineOptions { memory_budget: 64 << 20, ..options };
    Engine::open(&dir(name), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Options of a request for an embedding.
pub fn embed() -> RequestOptions {
    RequestOptions { embed: true, ..RequestOptions::default() }
}

/// A prompt of tokens.
pub fn tokens(ids: &[u32]) -> Prompt {
    Prompt { parts: vec![PromptPart::Tokens(ids.to_vec())], ..Prompt::default() }
}

/// Asks for an embedding.
pub fn submit(engine: &Engine, ids: &[u32]) -> Request {
    engine.submit(&tokens(ids), &embed(), Sink::Pull).unwrap()
}

/// The last event.
pub fn end(request: &Request) -> Event {
    match request.wait(None).unwrap() {
        Next::Event(event) => *event,
        other => panic!("{other:?} instead of the terminal event"),
    }
}

/// The embedding of a request that has to finish.
pub fn embedding(request: &Request) -> Vec<f32> {
    let event = end(request);
    assert_eq!((event.kind, event.finish, event.error), (EventKind::Finished, FinishReason::Length, None));
    assert!(event.tokens.is_empty() && event.text.is_empty());
    event.embedding
}

/// A prompt and its embedding.
pub type Case = (Vec<u32>, Vec<f32>);

/// Those of a fixture, and how near bf16 comes.
pub fn cases(name: &str) -> (Vec<Case>, f64) {
    let reference: Value = serde_json::from_slice(&std::fs::read(dir(name).join("reference.json")).unwrap()).unwrap();
    let bytes = std::fs::read(dir(name).join("reference.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: String| -> Vec<f32> {
        let data = tensors.tensor(&name).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let all = reference["cases"].as_array().unwrap().iter().enumerate();
    let cases = all.map(|(i, case)| {
        let ids = case["prompt"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        (ids, floats(format!("case{i}.embedding")))
    });
    (cases.collect(), reference["bf16_min_cosine"].as_f64().unwrap())
}

/// The cosine of the angle between two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// With `compute` = f32 the vectors are the reference's.
pub fn f32_embeddings_equal_the_reference(targets: &[Target], name: &str) {
    let (cases, _) = cases(name);
    for target in targets {
        let engine = open(name, EngineOptions { compute: Type::F32, threads: 2, ..target.options() });
        assert_eq!(engine.embedding(), Ok((cases[0].1.len(), true)));
        let mut least = f64::INFINITY;
        for (ids, want) in &cases {
            let got = embedding(&submit(&engine, ids));
            least = least.min(cosine(&got, want));
            let norm = got.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            assert!((norm - 1.0).abs() < 1e-6, "{norm}");
        }
        println!("{name} {target:?} f32: cosine {least:.9}");
        assert!(least >= 0.99999, "{name} {target:?}: {least}");
        engine.check().unwrap();
    }
}

/// With bf16 they are as near to it as the reference's own bf16, or nearly so.
pub fn bf16_embeddings_stay_as_close_as_the_reference_itself(targets: &[Target], name: &str) {
    let (cases, bf16) = cases(name);
    for target in targets {
        let engine = open(name, EngineOptions { threads: 1, ..target.options() });
        let cosines = cases.iter().map(|(ids, want)| cosine(&embedding(&submit(&engine, ids)), want));
        let least = cosines.fold(f64::INFINITY, f64::min);
        println!("{name} {target:?} bf16: cosine {least:.9}, the reference's {bf16:.9}");
        assert!(1.0 - least <= 2.0 * (1.0 - bf16), "{name} {target:?}: {least}");
    }
}

/// Alone, in a full batch, in any chunks, from a warm cache, on any number of threads: the same bits, also beside requests that
/// generate, where the model generates, whose answers stay the same, too.
pub fn an_embedding_never_depends_on_its_neighbours(targets: &[Target], name: &str) {
    let at_once = name == NAMES[1];
    let mut prompts: Vec<Vec<u32>> = cases(name).0.into_iter().map(|(ids, _)| ids).collect();
    // Some that begin alike.
    prompts.extend([5, 33, 100, 169].map(|cut| prompts[3][..cut].to_vec()));
    let generating =
        RequestOptions { max_tokens: Some(20), seed: Some(7), ignore_eos: true, ..RequestOptions::default() };
    for (target, compute) in targets.iter().flat_map(|target| [(target, Type::F32), (target, Type::Bf16)]) {
        let one = open(name, EngineOptions { compute, threads: 1, ..target.options() });
        let alone: Vec<Vec<f32>> = prompts.iter().map(|ids| embedding(&submit(&one, ids))).collect();
        let generate = |engine: &Engine| -> Vec<Request> {
            let some = prompts[1..4].iter().filter(|_| !at_once);
            some.map(|ids| engine.submit(&tokens(ids), &generating, Sink::Pull).unwrap()).collect()
        };
        let answers = |requests: Vec<Request>| -> Vec<Vec<u32>> { requests.iter().map(|r| end(r).tokens).collect() };
        let want_answers = answers(generate(&one));
        let step_tokens = if at_once { [170, 256, 0] } else { [16, 50, 0] };
        for (step_tokens, context_length) in step_tokens.into_iter().zip([200, 256, 0]) {
            let options = EngineOptions { compute, step_tokens, context_length, threads: 3, ..target.options() };
            let engine = open(name, EngineOptions { max_running: 5, page_tokens: 8, ..options });
            for round in 0..3 {
                let others = generate(&engine);
                let all: Vec<Request> = prompts.iter().map(|ids| submit(&engine, ids)).collect();
                for ((request, want), ids) in all.iter().zip(&alone).zip(&prompts) {
                    let what =
                        format!("{name} {target:?} {compute:?} {step_tokens} round {round}: {} tokens", ids.len());
                    assert!(&embedding(request) == want, "{what}");
                }
                assert_eq!(answers(others), want_answers, "{name} {target:?} {compute:?} {step_tokens}");
                engine.check().unwrap();
            }
            assert_eq!(engine.stats().unwrap().failed, 0);
        }
    }
}

/// A model whose attention sees later tokens is refused by name where the device has no such kernels.
pub fn attention_to_later_tokens_is_refused(target: Target) {
    let error = Engine::open(&dir(NAMES[1]), target.options()).err().expect("it is refused");
    assert_eq!(error.status, astrai::Status::Unsupported);
    assert!(error.message.contains("later tokens") && error.message.contains("device cpu"), "{error}");
}
