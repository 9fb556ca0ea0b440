//! `/v1/completions`, and the functions of text.

use crate::client::{get, post};
use crate::scripted::{Pace, engine, serve, serve_with};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";

fn texts(answer: &Value) -> Vec<String> {
    answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn texts_and_tokens_are_continued_whole_and_streamed() {
    let engine = engine();
    let server = serve(&engine, Pace::Tokens);
    let ask = |prompt: Value, stream: bool| {
        let body = json!({"prompt": prompt, "max_tokens": 8, "seed": 3, "n": 2, "logprobs": 1, "stream": stream,
            "stream_options": {"include_usage": true}});
        let reply = post(server.address(), PATH, &body);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply
    };
    let both = ask(json!(["Once upon", "In the pale days"]), false).json();
    let all = texts(&both);
    assert_eq!(all.len(), 4);
    let [one, two] = ["Once upon", "In the pale days"].map(|text| texts(&ask(json!(text), false).json()));
    assert_eq!([&all[..2], &all[2..]], [&one[..], &two[..]]);
    let tokens = post(server.address(), "/tokenize", &json!({"content": "Once upon"})).json();
    assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
    assert_eq!(texts(&ask(tokens["tokens"].clone(), false).json()), one);
    assert_eq!(texts(&ask(json!([tokens["tokens"]]), false).json()), one);
    let mut chunks = ask(json!(["Once upon", "In the pale days"]), true).stream();
    assert_eq!(chunks.pop().unwrap()["usage"]["total_tokens"], both["usage"]["total_tokens"]);
    let mut streamed = vec![String::new(); 4];
    let mut logprobs = vec![0; 4];
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        let at = choice["index"].as_u64().unwrap() as usize;
        streamed[at] += choice["text"].as_str().unwrap();
        logprobs[at] += choice["logprobs"]["tokens"].as_array().map_or(0, Vec::len);
    }
    assert_eq!((streamed, logprobs), (all, vec![8; 4]));
    for (fields, param) in [
        (json!({"prompt": []}), "prompt"),
        (json!({}), "prompt"),
        (json!({"prompt": {"a": 1}}), "prompt"),
        (json!({"prompt": "x", "echo": true}), "echo"),
    ] {
        let (status, _, named) = post(server.address(), PATH, &fields).refusal();
        assert_eq!((status, named.as_deref()), (400, Some(param)), "{fields}");
    }
}

#[test]
fn texts_are_tokens_and_tokens_texts() {
    let engine = engine();
    let server = serve(&engine, Pace::Tokens);
    let messages = json!({"messages": [{"role": "user", "content": "Hello"}]});
    let tokens = post(server.address(), "/tokenize", &messages).json();
    let rendered = post(server.address(), "/apply-template", &messages).json();
    let text = post(server.address(), "/detokenize", &json!({"tokens": tokens["tokens"]})).json();
    assert_eq!((&text["content"], &text["prompt"]), (&rendered["prompt"], &rendered["prompt"]));
    assert_eq!(tokens["max_model_len"], engine.info().context_length);
    let input = json!({"input": [{"type": "message", "role": "user", "content": "Hello"}], "stream": true});
    let count = post(server.address(), "/v1/responses/input_tokens", &input).json();
    assert_eq!(count, json!({"object": "response.input_tokens", "input_tokens": tokens["count"]}));
    let reply = post(server.address(), "/detokenize", &json!({"tokens": [99_999_999]}));
    assert_eq!(reply.refusal().0, 400);
}

#[test]
fn models_are_listed_and_found() {
    let engine = engine();
    let server = serve(&engine, Pace::Tokens);
    let list = get(server.address(), "/v1/models?limit=1000").json();
    assert_eq!((list["object"].as_str(), list["data"][0]["id"].as_str()), (Some("list"), Some("m")));
    assert_eq!(list["data"][0]["max_model_len"], engine.info().context_length);
    assert_eq!(get(server.address(), "/v1/models/m").json(), list["data"][0]);
    let missing = Some("model_not_found".to_owned());
    let refusal = get(server.address(), "/v1/models/a/b").refusal();
    assert_eq!(refusal, (404, missing.clone(), Some("model".to_owned())));
    let refusal = post(server.address(), PATH, &json!({"model": "x", "prompt": "x"})).refusal();
    assert_eq!(refusal, (404, missing, Some("model".to_owned())));
    let more = serve_with(&engine, |options| options.models[0].aliases = vec!["claude-m".to_owned(), "b".to_owned()]);
    let list = get(more.address(), "/v1/models").json();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["m", "claude-m", "b"]);
    assert_eq!((&list["first_id"], &list["last_id"]), (&json!("m"), &json!("b")));
    let named = post(more.address(), PATH, &json!({"model": "claude-m", "prompt": "x", "max_tokens": 1})).json();
    assert_eq!(named["model"], "m");
    drop(more);
    assert_eq!(get(server.address(), "/nothing").refusal().0, 404);
    assert_eq!(get(server.address(), PATH).refusal().0, 405);
}
