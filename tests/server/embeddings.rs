//! `/v1/embeddings`.

use crate::client::{get, post};
use crate::scripted::{Pace, engine, serve, serve_with};
use crate::support::models::root;
use astrai::engine::*;
use astrai::server::ModelSpec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::sync::Arc;

const PATH: &str = "/v1/embeddings";

fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    assert_eq!(
        (&answer["object"], &answer["usage"]["total_tokens"]),
        (&json!("list"), &answer["usage"]["prompt_tokens"])
    );
    let entry = |(at, entry): (usize, &Value)| {
        assert_eq!((&entry["object"], &entry["index"]), (&json!("embedding"), &json!(at)));
        match &entry["embedding"] {
            Value::String(text) => {
                let bytes = STANDARD.decode(text).unwrap();
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            }
            numbers => numbers.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect(),
        }
    };
    answer["data"].as_array().unwrap().iter().enumerate().map(entry).collect()
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn texts_and_tokens_have_embeddings() {
    let engine = engine();
    let server = serve(&engine, Pace::Tokens);
    let ask = |body: Value| {
        let reply = post(server.address(), PATH, &body);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    };
    let both = ask(json!({"input": ["Once upon a time", "In the pale days"], "model": "m", "user": "x"}));
    assert_eq!(both["model"], "m");
    let all = vectors(&both);
    let [one, two] = ["Once upon a time", "In the pale days"].map(|text| ask(json!({"input": text})));
    assert_eq!(all, [vectors(&one), vectors(&two)].concat());
    assert_ne!(all[0], all[1]);
    let sum = one["usage"]["prompt_tokens"].as_u64().unwrap() + two["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(both["usage"]["prompt_tokens"], sum);
    assert!((norm(&all[0]) - 1.0).abs() < 1e-6);
    assert_eq!((all[0].len(), true), engine.embedding().unwrap());
    // Tokens as the tokenizer makes them, begin token included.
    let tokens = post(server.address(), "/tokenize", &json!({"content": "Once upon a time"})).json()["tokens"].clone();
    assert_eq!(vectors(&ask(json!({"input": tokens}))), all[..1]);
    assert_eq!(vectors(&ask(json!({"input": [tokens, tokens]}))), [&all[..1], &all[..1]].concat());
    assert_eq!(vectors(&ask(json!({"input": tokens, "encoding_format": "base64"}))), all[..1]);
    assert_eq!(vectors(&ask(json!({"input": tokens, "encoding_format": "float"}))), all[..1]);
    // The first numbers, of norm 1 again.
    let short = vectors(&ask(json!({"input": tokens, "dimensions": 16}))).remove(0);
    let scale = norm(&all[0][..16]);
    assert!(short.len() == 16 && (norm(&short) - 1.0).abs() < 1e-6);
    assert!(short.iter().zip(&all[0]).all(|(a, b)| (f64::from(*a) - f64::from(*b) / scale).abs() < 1e-6));
    // Many at once, more than run.
    let many: Vec<String> = (0..60).map(|i| format!("Once upon a time {i}")).collect();
    let long = vectors(&ask(json!({"input": many, "encoding_format": "base64"})));
    assert_eq!(long.len(), 60);
    assert_eq!(vectors(&ask(json!({"input": many[59]})))[0], long[59]);
    // Beside chats.
    let chat = json!({"messages": [{"role": "user", "content": "say:Hello"}]});
    assert_eq!(post(server.address(), "/v1/chat/completions", &chat).status, 200);
    engine.check().unwrap();
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let engine = engine();
    let server = serve(&engine, Pace::Tokens);
    for (fields, param) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": {"a": 1}}), "input"),
        (json!({"input": [1, "x"]}), "input"),
        (json!({"input": "x", "encoding_format": "int8"}), "encoding_format"),
        (json!({"input": "x", "encoding_format": 7}), "encoding_format"),
        (json!({"input": "x", "dimensions": 0}), "dimensions"),
        (json!({"input": "x", "dimensions": 1_000_000}), "dimensions"),
        (json!({"input": "x", "dimensions": -1}), "dimensions"),
        (json!({"input": [99_999_999]}), "input"),
        (json!({"input": [[]]}), "input"),
    ] {
        let (status, _, named) = post(server.address(), PATH, &fields).refusal();
        assert_eq!((status, named.as_deref()), (400, Some(param)), "{fields}");
    }
    let long = json!({"input": vec![5; 3000]});
    assert_eq!(post(server.address(), PATH, &long).refusal().1.as_deref(), Some("context_length_exceeded"));
    assert_eq!(post(server.address(), PATH, &json!({"model": "x", "input": "x"})).refusal().0, 404);
    assert_eq!(get(server.address(), PATH).refusal().0, 405);
    engine.check().unwrap();
}

/// A model that embeds and generates nothing.
#[test]
fn an_embedding_model_serves_tokens() {
    let dir = root().join("tests/fixtures/embeddings/embeddinggemma");
    let options =
        EngineOptions { device: Device::Cpu, memory_budget: 64 << 20, threads: 1, ..EngineOptions::default() };
    let gemma = Arc::new(Engine::open(&dir, options).unwrap());
    let server = serve_with(&engine(), |options| options.models.push(ModelSpec::opened("gemma", gemma)));
    let reply = post(server.address(), PATH, &json!({"model": "gemma", "input": [[3, 4, 5], [6]], "dimensions": 4}));
    assert_eq!(vectors(&reply.json()).iter().map(Vec::len).collect::<Vec<_>>(), [4, 4]);
    let refusal = post(server.address(), "/v1/completions", &json!({"model": "gemma", "prompt": [3, 4]})).refusal();
    assert_eq!(refusal.0, 422);
}
