//! Embedding models against sentence-transformers (`tests/fixtures/embeddings/README.md` describes the files), and the laws for
//! their requests.

use crate::support::embeddings::{self as shared, NAMES, cases, cosine, dir, embed, embedding, end, submit, tokens};
use crate::support::models::{fixtures, limit_pages};
use crate::support::target::Target;
use astrai::Status;
use astrai::backend::cpu::tiers;
use astrai::engine::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

fn cpu() -> Vec<Target> {
    tiers().into_iter().map(Target::Cpu).collect()
}

/// One on the CPU.
fn open(name: &str, options: EngineOptions) -> Engine {
    let options = EngineOptions { device: Device::Cpu, memory_budget: 64 << 20, ..options };
    Engine::open(&dir(name), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn f32_options() -> EngineOptions {
    EngineOptions { compute: Type::F32, threads: 2, ..EngineOptions::default() }
}

/// A copy of a fixture, to be changed.
fn copy_of(name: &str) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in std::fs::read_dir(dir(name)).unwrap() {
        let path = entry.unwrap().path();
        let to = copy.path().join(path.file_name().unwrap());
        if path.is_file() {
            std::fs::copy(&path, &to).unwrap();
            continue;
        }
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(&path).unwrap() {
            let file = file.unwrap().path();
            std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    }
    copy
}

fn refused(engine: &Engine, prompt: &Prompt, options: &RequestOptions) -> astrai::Error {
    engine.submit(prompt, options, Sink::Pull).map(|_| ()).unwrap_err()
}

#[test]
fn f32_embeddings_equal_the_reference() {
    NAMES.iter().for_each(|name| shared::f32_embeddings_equal_the_reference(&cpu(), name));
    shared::f32_embeddings_equal_the_reference(&[Target::Plain], NAMES[0]);
}

#[test]
fn bf16_embeddings_stay_as_close_as_the_reference_itself() {
    NAMES.iter().for_each(|name| shared::bf16_embeddings_stay_as_close_as_the_reference_itself(&cpu(), name));
}

#[test]
fn an_embedding_never_depends_on_its_neighbours() {
    NAMES.iter().for_each(|name| shared::an_embedding_never_depends_on_its_neighbours(&cpu(), name));
}

/// Several steps are in flight there.
#[test]
fn an_embedding_never_depends_on_its_neighbours_on_another_device() {
    shared::an_embedding_never_depends_on_its_neighbours(&[Target::Plain], NAMES[0]);
    shared::attention_to_later_tokens_is_refused(Target::Plain);
}

/// Layers of every kind, states of recurrences included: the last token's state where the folder does not say how to pool.
#[test]
fn every_family_has_embeddings_that_depend_on_no_neighbour() {
    for dir in fixtures() {
        let with = |step_tokens, threads| {
            let options =
                EngineOptions { device: Device::Cpu, memory_budget: 64 << 20, page_tokens: 8, ..f32_options() };
            let engine = Engine::open(&dir, EngineOptions { step_tokens, threads, max_running: 6, ..options });
            engine.unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        };
        let one = with(0, 1);
        let vocab = one.info().vocab_size - 3;
        let prompts: Vec<Vec<u32>> =
            [1, 9, 40, 41, 77].map(|len| (0..len).map(|i| 3 + (i * i * 7 + len % 2) % vocab).collect()).into();
        let alone: Vec<Vec<f32>> = prompts.iter().map(|ids| embedding(&submit(&one, ids))).collect();
        let engine = with(24, 2);
        for _ in 0..2 {
            let generating = RequestOptions { max_tokens: Some(12), ..RequestOptions::default() };
            let other = engine.submit(&tokens(&prompts[2]), &generating, Sink::Pull).unwrap();
            let all: Vec<Request> = prompts.iter().map(|ids| submit(&engine, ids)).collect();
            for (request, want) in all.iter().zip(&alone) {
                assert!(embedding(request) == *want, "{}", dir.display());
            }
            assert_eq!(end(&other).error, None);
            engine.check().unwrap();
        }
    }
}

/// Pages for one long prompt only: requests give way to each other and are computed again.
#[test]
fn an_embedding_survives_preemption() {
    let prompts: Vec<Vec<u32>> = (0..12u32).map(|i| (0..120).map(|j| 3 + (i * 37 + j * 11) % 120).collect()).collect();
    for name in NAMES {
        // Of a causal model the mean of all states, too.
        let means = copy_of(name);
        let pooling = json!({"word_embedding_dimension": 28, "pooling_mode_mean_tokens": true});
        std::fs::write(means.path().join("1_Pooling/config.json"), pooling.to_string()).unwrap();
        let run = |max_running, step_tokens, pages| {
            let mut options = EngineOptions {
                device: Device::Cpu,
                context_length: 128,
                page_tokens: 8,
                max_running,
                step_tokens,
                threads: 1,
                ..EngineOptions::default()
            };
            limit_pages(means.path(), &mut options, pages);
            let engine = Engine::open(means.path(), options).unwrap();
            let generating = RequestOptions { max_tokens: Some(100), ignore_eos: true, ..RequestOptions::default() };
            let others: Vec<Request> = (0..4)
                .filter(|_| name == "qwen3_embedding")
                .map(|i| engine.submit(&tokens(&prompts[i][..20]), &generating, Sink::Pull).unwrap())
                .collect();
            let all: Vec<Request> = prompts.iter().map(|ids| submit(&engine, ids)).collect();
            let got: Vec<Vec<f32>> = all.iter().map(embedding).collect();
            others.iter().for_each(|request| assert_eq!(end(request).error, None));
            engine.check().unwrap();
            (got, engine.stats().unwrap().preemptions)
        };
        let ((want, _), (got, preemptions)) = (run(1, 128, 100), run(8, if name == NAMES[0] { 24 } else { 128 }, 18));
        assert_eq!(got, want, "{name}");
        assert!(preemptions > 0 || name != NAMES[0], "nothing was preempted");
    }
}

#[test]
fn a_cached_prefix_serves_the_last_token_alone() {
    let (cases, _) = cases("qwen3_embedding");
    let ids = &cases[3].0;
    let engine = open("qwen3_embedding", f32_options());
    let cached = |engine: &Engine| {
        let event = end(&submit(engine, ids));
        assert!(event.usage.unwrap().prefill_us > 0);
        (event.usage.unwrap().cached_tokens, event.usage.unwrap().prompt_tokens)
    };
    assert_eq!(cached(&engine), (0, 170));
    assert_eq!(cached(&engine), (160, 170));
    let gemma = open("embeddinggemma", f32_options());
    assert_eq!((cached(&gemma), cached(&gemma)), ((0, 170), (0, 170)));
    assert_eq!(gemma.stats().unwrap().pages_cached, 0);
}

/// The layers after pooling are memory of the engine's own.
#[test]
fn the_plan_counts_dense_layers() {
    let bytes = |dir: &Path| {
        let options = EngineOptions { device: Device::Cpu, memory_budget: 64 << 20, ..EngineOptions::default() };
        Engine::plan(dir, &options).unwrap().weight_bytes
    };
    let without = copy_of("embeddinggemma");
    std::fs::remove_file(without.path().join("modules.json")).unwrap();
    assert_eq!(bytes(&dir("embeddinggemma")) - bytes(without.path()), 2 * 28 * 44 * 4);
}

#[test]
fn what_an_embedding_model_cannot_do_is_refused() {
    let gemma = open("embeddinggemma", EngineOptions { step_tokens: 64, ..f32_options() });
    let error = refused(&gemma, &tokens(&[3, 4]), &RequestOptions::default());
    assert_eq!(error.status, Status::Unsupported);
    assert!(error.message.contains("later tokens") && error.message.contains("embed"), "{error}");
    let error = gemma.pin_prefix(&tokens(&[3; 40])).map(|_| ()).unwrap_err();
    assert_eq!(error.status, Status::Unsupported);
    // All of a prompt is in one step.
    assert_eq!(gemma.info().context_length, 64);
    assert_eq!(embedding(&submit(&gemma, &[5; 64])).len(), 28);
    let error = refused(&gemma, &tokens(&[5; 65]), &embed());
    assert_eq!((error.status, error.needed, error.available), (Status::Context, 65, 64));
    assert!(error.message.contains("more step_tokens, up to 256"), "{error}");
    let deferred = RequestOptions { defer: true, ..embed() };
    let later = end(&gemma.submit(&tokens(&[5; 65]), &deferred, Sink::Pull).unwrap());
    assert_eq!((later.kind, later.error, later.embedding.len()), (EventKind::Failed, Some(error), 0));
    assert_eq!(embedding(&gemma.submit(&tokens(&[5; 64]), &deferred, Sink::Pull).unwrap()).len(), 28);
    gemma.check().unwrap();

    let qwen = open("qwen3_embedding", f32_options());
    assert_eq!(
        end(&qwen
            .submit(&tokens(&[3, 4]), &RequestOptions { max_tokens: Some(2), ..RequestOptions::default() }, Sink::Pull)
            .unwrap())
        .tokens
        .len(),
        2
    );
    let settings = |settings| RequestOptions { settings: Some(Arc::new(settings)), ..embed() };
    for (options, subject) in [
        (RequestOptions { max_tokens: Some(1), ..embed() }, "max_tokens"),
        (RequestOptions { temperature: Some(0.0), ..embed() }, "temperature"),
        (RequestOptions { seed: Some(1), ..embed() }, "seed"),
        (RequestOptions { prompt_logprobs: true, ..embed() }, "prompt_logprobs"),
        (RequestOptions { host_logits: true, ..embed() }, "host_logits"),
        (settings(Settings { stops: vec!["x".into()], ..Settings::default() }), "stop strings"),
        (settings(Settings { tool_choice: ToolChoice::Required, ..Settings::default() }), "tool_choice"),
    ] {
        let error = refused(&qwen, &tokens(&[3]), &options);
        assert_eq!((error.status, &*error.subject), (Status::Argument, subject));
    }
    let messages = Prompt { messages: vec![json!({"role": "user", "content": "x"})], ..Prompt::default() };
    assert_eq!(refused(&qwen, &messages, &embed()).status, Status::Argument);
    assert_eq!(refused(&qwen, &Prompt::default(), &embed()).status, Status::Argument);
    // Cancelled before it runs.
    qwen.pause(None).unwrap();
    let request = submit(&qwen, &[3, 4]);
    request.cancel();
    assert_eq!(end(&request).kind, EventKind::Cancelled);
    qwen.resume().unwrap();
    qwen.check().unwrap();
}

#[test]
fn a_damaged_description_fails_where_it_is_used() {
    let change = |name: &str, file: &str, to: Value| {
        let copy = copy_of(name);
        std::fs::write(copy.path().join(file), to.to_string()).unwrap();
        copy
    };
    let modules = |list: &[(&str, &str)]| -> Value {
        list.iter()
            .map(|(class, path)| json!({"type": format!("sentence_transformers.models.{class}"), "path": path}))
            .collect()
    };
    let all = [
        (change("qwen3_embedding", "modules.json", json!({"a": 1})), Status::Format, "modules.json"),
        (change("qwen3_embedding", "modules.json", json!([7])), Status::Format, "entry 0"),
        (change("qwen3_embedding", "modules.json", json!([])), Status::Format, "no Pooling"),
        (
            change("qwen3_embedding", "modules.json", modules(&[("Transformer", ""), ("Pooling", "../1_Pooling")])),
            Status::Format,
            "does not name a folder",
        ),
        (
            change("qwen3_embedding", "modules.json", modules(&[("Transformer", ""), ("Pooling", "gone")])),
            Status::Format,
            "is not there",
        ),
        (
            change("qwen3_embedding", "modules.json", modules(&[("Transformer", ""), ("LSTM", "1_Pooling")])),
            Status::Unsupported,
            "LSTM",
        ),
        (
            change("qwen3_embedding", "1_Pooling/config.json", json!({"pooling_mode_weightedmean_tokens": true})),
            Status::Unsupported,
            "weightedmean_tokens",
        ),
        (
            change(
                "qwen3_embedding",
                "1_Pooling/config.json",
                json!({"pooling_mode": "mean", "word_embedding_dimension": 30}),
            ),
            Status::Format,
            "30 elements",
        ),
        (
            change(
                "embeddinggemma",
                "3_Dense/config.json",
                json!({"in_features": 28, "out_features": 28, "bias": false}),
            ),
            Status::Format,
            "gives 44",
        ),
        (
            change(
                "embeddinggemma",
                "2_Dense/config.json",
                json!({"in_features": 28, "out_features": 44, "activation_function": "torch.nn.modules.activation.Mish"}),
            ),
            Status::Unsupported,
            "Mish",
        ),
        (
            change(
                "embeddinggemma",
                "2_Dense/config.json",
                json!({"in_features": 28, "out_features": 44, "activation_function": "x.Tanh", "bias": true}),
            ),
            Status::Format,
            "linear.bias",
        ),
    ];
    for (copy, status, part) in all {
        let options = EngineOptions { device: Device::Cpu, memory_budget: 64 << 20, ..f32_options() };
        let engine = Engine::open(copy.path(), options).unwrap();
        let error = refused(&engine, &tokens(&[3]), &embed());
        assert!(error.status == status && error.message.contains(part), "{error:?} without {part:?}");
        assert_eq!(engine.embedding().unwrap_err(), error);
    }
    // Without the file it is the last token's state.
    let copy = copy_of("qwen3_embedding");
    std::fs::remove_file(copy.path().join("modules.json")).unwrap();
    let engine = Engine::open(copy.path(), EngineOptions { memory_budget: 64 << 20, ..f32_options() }).unwrap();
    let (cases, _) = cases("qwen3_embedding");
    assert!(cosine(&embedding(&submit(&engine, &cases[1].0)), &cases[1].1) > 0.99999);
}
