//! Random bodies for the parsers of every dialect, and random bytes for connections. ASTRAI_TEST_ROUNDS multiplies the runs.

use crate::client::{get, parse, request, rest};
use crate::scripted::{engine, serve_with};
use crate::support::mutate::{change, change_bytes, names};
use crate::support::random::{Random, rounds, seed};
use astrai::Status;
use astrai::engine::TextOptions;
use astrai::server::Parsers;
use serde_json::{Value, json};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bodies for every path, which have all of their fields.
fn seeds() -> Vec<(&'static str, Value)> {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    let function = json!({"name": "read", "description": "Reads.", "parameters": schema, "strict": true});
    let call = json!({"id": "c", "type": "function", "function": {"name": "read", "arguments": "{\"a\": 1}"}});
    let sampling = json!({"n": 2, "seed": -1, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "presence_penalty": 1,
        "frequency_penalty": 1, "repetition_penalty": 1.1, "max_tokens": 1, "max_completion_tokens": 1, "stop": ["a", "b"],
        "logit_bias": {"5": -100}, "stream": true, "stream_options": {"include_usage": true},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    let with = |base: &Value, more: Value| {
        let mut body = base.clone();
        more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        body
    };
    let chat = json!([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "roll"}]},
        {"role": "assistant", "content": null, "reasoning_content": "Hm.", "reasoning": "Hm.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "name": "read", "content": "3"}, {"role": "system", "content": "x"},
        {"role": "assistant", "content": "Thr"}]);
    let blocks = json!([{"role": "user", "content": [{"type": "text", "text": "roll", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "I roll."}, {"type": "tool_use", "id": "c", "name": "read", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "3"}]}, {"type": "text", "text": "and?"}]},
        {"role": "system", "content": "Be quick."}]);
    let items = json!([{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "x"}]},
        {"role": "user", "content": "roll"},
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "x"}], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I roll.", "annotations": []}]},
        {"type": "function_call", "call_id": "c", "name": "read", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "3"}, {"type": "web_search_call"}, {"type": "item_reference", "id": "x"}]);
    let tools = json!([{"type": "function", "function": function}]);
    let flat = json!([with(&function, json!({"type": "function"})), {"type": "web_search"}]);
    vec![
        (
            "/v1/chat/completions",
            with(
                &sampling,
                json!({"model": "m", "messages": chat, "tools": tools, "tool_choice": "auto",
            "parallel_tool_calls": false, "logprobs": true, "top_logprobs": 2, "reasoning_effort": "low",
            "chat_template_kwargs": {"thinking": true}, "continue_final_message": true}),
            ),
        ),
        ("/v1/completions", with(&sampling, json!({"prompt": ["a", "b"], "logprobs": 1, "echo": false, "suffix": ""}))),
        ("/v1/completions", json!({"prompt": [[1, 2], [3]], "max_tokens": 1})),
        ("/v1/embeddings", json!({"input": ["a", "b"], "encoding_format": "base64", "dimensions": 8, "user": "x"})),
        ("/v1/embeddings", json!({"input": [[1, 2], [3]], "encoding_format": "float"})),
        (
            "/v1/responses",
            json!({"input": items, "instructions": "Be brief.", "tools": flat,
            "tool_choice": {"type": "function", "name": "read"}, "parallel_tool_calls": true, "reasoning": {"effort": "none", "summary": "auto"},
            "text": {"format": {"type": "json_schema", "schema": schema}}, "max_output_tokens": 1, "temperature": 1, "top_p": 1, "stream": false,
            "store": false, "previous_response_id": null}),
        ),
        (
            "/v1/messages",
            json!({"system": [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"}, {"type": "text", "text": "Be brief."}],
            "messages": blocks, "tools": [{"name": "read", "input_schema": schema}, {"type": "web_search_1", "name": "web_search"}],
            "tool_choice": {"type": "tool", "name": "read", "disable_parallel_tool_use": true}, "thinking": {"type": "enabled", "budget_tokens": 1024},
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}}, "stop_sequences": ["a"], "max_tokens": 1,
            "temperature": 1, "top_p": 1, "top_k": 5, "stream": true}),
        ),
        ("/tokenize", json!({"content": "x", "parse_special": false, "add_generation_prompt": false})),
        ("/tokenize", json!({"messages": chat, "tools": tools})),
        ("/detokenize", json!({"tokens": [1, 2, 3]})),
        ("/apply-template", json!({"messages": chat, "tools": tools, "chat_template_kwargs": {"a": [1]}})),
    ]
}

/// Runs of the parsers in one round.
const RUNS: u64 = 20_000;

#[test]
fn parsers_refuse_what_they_do_not_understand() {
    let (parsers, seeds, engine) = (Parsers::new(engine()).unwrap(), seeds(), engine());
    let names = names(&seeds.iter().map(|(_, body)| body.clone()).collect::<Vec<_>>());
    let (seed, runs) = (seed(), RUNS * rounds());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let (understood, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let one = |run: u64| {
        let random = &mut Random(seed ^ run.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (path, body) = &seeds[random.below(seeds.len())];
        let mut body = body.clone();
        for _ in 0..1 + random.below(2) {
            change(&mut body, &names, random);
        }
        let mut bytes = serde_json::to_vec(&body).unwrap();
        if random.below(4) == 0 {
            change_bytes(&mut bytes, random);
        }
        // A body may come to another path, too.
        let path = if random.below(8) == 0 { random.pick(&Parsers::PATHS) } else { path };
        match parsers.parse(path, &bytes) {
            Ok(parsed) => {
                assert!(
                    !parsed.prompts.is_empty() && parsed.choices > 0,
                    "run {run}: {}",
                    String::from_utf8_lossy(&bytes)
                );
                understood.fetch_add(1, Ordering::Relaxed);
                // What the engine makes of it may be a refusal, not a defect.
                if run.is_multiple_of(64) {
                    for prompt in &parsed.prompts {
                        let made = engine.tokenize(prompt, TextOptions::default());
                        assert!(made.err().is_none_or(|e| e.status != Status::Internal), "run {run}");
                    }
                }
            }
            Err((status, text)) => {
                assert!([400, 422].contains(&status), "run {run}: {status} {text}");
                let error: Value = serde_json::from_str(&text).unwrap();
                let whole = error["error"]["message"].as_str().is_some_and(|message| !message.is_empty());
                assert!(whole && (error["type"] == "error") == (path == "/v1/messages"), "run {run}: {text}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let one = &one;
            scope.spawn(move || (thread..runs).step_by(threads as usize).for_each(one));
        }
    });
    let (understood, refused) = (understood.into_inner(), refused.into_inner());
    println!("{runs} bodies in {:.0?}: {understood} understood, {refused} refused", begin.elapsed());
    assert!(understood > runs / 10 && refused > runs / 10, "{understood} understood, {refused} refused");
}

/// Connections of one round.
const CONNECTIONS: u64 = 400;

#[test]
fn connections_survive_random_bytes() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    let (seeds, seed) = (seeds(), seed());
    let names = names(&seeds.iter().map(|(_, body)| body.clone()).collect::<Vec<_>>());
    let mut statuses = std::collections::BTreeMap::<u16, u64>::new();
    for run in 0..CONNECTIONS * rounds() {
        let random = &mut Random(seed ^ run.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut sent = Vec::new();
        for _ in 0..=random.below(2) {
            let (path, mut body) = random.pick(&seeds);
            if random.below(2) == 0 {
                change(&mut body, &names, random);
            }
            sent.extend(request("POST", path, &[("Content-Type", "application/json")], &body.to_string()));
        }
        if random.below(2) == 0 {
            change_bytes(&mut sent, random);
        }
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let _ = stream.write_all(&sent);
        // Some stay to hear the answer, whose bytes may be of a request that was cut.
        if random.below(2) == 0 || sent.is_empty() {
            let _ = stream.shutdown(Shutdown::Write);
        } else {
            stream.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        }
        let all = rest(&mut stream);
        if let Some((reply, _)) = parse(&all) {
            assert!(reply.status < 500, "run {run}: {reply:?}");
            *statuses.entry(reply.status).or_default() += 1;
        }
    }
    println!("{statuses:?}");
    assert!([200, 400].iter().all(|status| statuses.contains_key(status)), "{statuses:?}");
    assert_eq!(get(server.address(), "/health").status, 200);
    crate::scripted::until(|| engine.stats().unwrap().running == 0);
    engine.check().unwrap();
}
