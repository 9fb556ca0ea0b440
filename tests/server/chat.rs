//! `/v1/chat/completions`.

use crate::client::{answer, post};
use crate::scripted::{PACES, Pace, SAY, Said, engine, seen, serve, serve_with};
use astrai::server::ReasoningField;
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";

fn ask(text: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": text}], "seed": 7})
}

fn with(mut body: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn tools() -> Value {
    let parameters = json!({"type": "object", "properties": {"sides": {"type": "integer"}}});
    json!([
        {"type": "function", "function": {"name": "dice", "parameters": parameters}},
        {"type": "function", "function": {"name": "coin", "parameters": {"type": "object"}}}
    ])
}

fn said(content: &str, reasoning: &str, calls: &[(&str, &str)], finish: &str) -> Said {
    let calls = calls.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned())).collect();
    Said { content: content.to_owned(), reasoning: reasoning.to_owned(), calls, finish: finish.to_owned() }
}

/// Answers of a model, and what they say.
fn scripts() -> Vec<(&'static str, Said)> {
    vec![
        ("Plain words, ünd 骰 \u{1F3B2}.", said("Plain words, ünd 骰 \u{1F3B2}.", "", &[], "stop")),
        ("<think>Two dice.</think>I roll.", said("I roll.", "Two dice.", &[], "stop")),
        (
            "<think>Hm.</think>I roll.<tool_call>{\"name\": \"dice\", \"arguments\": {\"sides\": 6}}</tool_call>\
             <tool_call>{\"name\": \"coin\", \"arguments\": {}}</tool_call>",
            said("I roll.", "Hm.", &[("dice", "{\"sides\": 6}"), ("coin", "{}")], "tool_calls"),
        ),
        (
            "<tool_call>{\"name\": \"coin\", \"arguments\": {}}</tool_call>",
            said("", "", &[("coin", "{}")], "tool_calls"),
        ),
        ("a <tool and </thin b", said("a <tool and </thin b", "", &[], "stop")),
    ]
}

#[test]
fn an_answer_says_the_same_whole_and_streamed_however_the_model_cuts_it() {
    let engine = engine();
    for pace in PACES {
        // The gate of a pace looks at what the engine has counted, so each server has its own requests only.
        let server = serve(&engine, pace);
        for (text, said) in scripts() {
            let body = with(ask(&format!("{SAY}{text}")), json!({"tools": tools()}));
            let whole = answer(&server, PATH, &body);
            assert_eq!(Said::of_message(&whole["choices"][0]), said, "{pace:?} {text}");
            let body = with(body, json!({"stream": true, "stream_options": {"include_usage": true}}));
            let mut chunks = post(server.address(), PATH, &body).stream();
            let usage = chunks.pop().unwrap();
            assert_eq!(usage["choices"], json!([]));
            for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
                assert_eq!(usage["usage"][name], whole["usage"][name], "{pace:?} {text}");
            }
            assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk["id"] == usage["id"]));
            assert_eq!(Said::of_chunks(&chunks, 0), said, "{pace:?} {text}");
            // The role, each part, and the end.
            let parts = usize::from(!said.content.is_empty()) + usize::from(!said.reasoning.is_empty());
            let least = 2 + parts + said.calls.len();
            // At other paces events join, too, when they come faster than they are sent.
            let fits = if pace == Pace::Whole { chunks.len() == least } else { chunks.len() >= least };
            assert!(fits, "{pace:?} {text}: {} chunks", chunks.len());
        }
        server.stop(std::time::Duration::ZERO);
    }
    engine.check().unwrap();
}

#[test]
fn choices_have_seeds_of_their_own_and_come_as_they_would_alone() {
    let engine = engine();
    let server = serve(&engine, Pace::Tokens);
    let body = with(ask("Tell me a story."), json!({"max_tokens": 12, "n": 3}));
    let whole = answer(&server, PATH, &body);
    let texts =
        |value: &Value| -> Vec<Said> { value["choices"].as_array().unwrap().iter().map(Said::of_message).collect() };
    let all = texts(&whole);
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|said| said.finish == "length" && !said.content.is_empty()), "{all:?}");
    assert_eq!(whole["usage"]["completion_tokens"], 36);
    for (at, said) in all.iter().enumerate() {
        let alone = answer(&server, PATH, &with(body.clone(), json!({"n": 1, "seed": 7 + at})));
        assert_eq!(&texts(&alone)[0], said);
        assert_eq!(alone["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    }
    let chunks = post(server.address(), PATH, &with(body, json!({"stream": true}))).stream();
    let streamed: Vec<Said> = (0..3).map(|at| Said::of_chunks(&chunks, at)).collect();
    assert_eq!(streamed, all);
}

#[test]
fn log_probabilities_are_of_every_token_whole_and_streamed() {
    let engine = engine();
    let server = serve(&engine, Pace::Tokens);
    let body = with(ask("Tell me a story."), json!({"max_tokens": 9, "logprobs": true, "top_logprobs": 2}));
    let whole = answer(&server, PATH, &body);
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(tokens.len(), 9);
    let bytes: Vec<u8> =
        tokens.iter().flat_map(|t| t["bytes"].as_array().unwrap()).map(|b| b.as_u64().unwrap() as u8).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), whole["choices"][0]["message"]["content"].as_str().unwrap());
    for token in &tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert!(top.len() == 2 && top[0]["logprob"].as_f64() >= token["logprob"].as_f64(), "{token}");
    }
    let chunks = post(server.address(), PATH, &with(body, json!({"stream": true}))).stream();
    let streamed: Vec<Value> = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(streamed, tokens);
}

#[test]
fn answers_meet_formats_and_calls_are_as_demanded() {
    let engine = engine();
    let server = serve(&engine, Pace::Tokens);
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 3}},
        "required": ["a"], "additionalProperties": false});
    for format in [
        json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}}),
        json!({"type": "json_schema", "schema": schema}),
        json!({"type": "json_object", "schema": schema}),
    ] {
        let body = with(ask("go"), json!({"response_format": format, "reasoning_effort": "none", "max_tokens": 200}));
        let answer = Said::of_message(&answer(&server, PATH, &body)["choices"][0]);
        let value: Value = serde_json::from_str(&answer.content).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
        assert!((1..=3).contains(&value["a"].as_i64().unwrap()), "{answer:?}");
    }
    let coin = json!([{"type": "function", "function": {"name": "coin", "parameters":
        {"type": "object", "properties": {}, "additionalProperties": false}}}]);
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "coin"}})] {
        let fields =
            json!({"tools": coin, "tool_choice": choice, "parallel_tool_calls": false, "reasoning_effort": "none"});
        let answer = Said::of_message(&answer(&server, PATH, &with(ask("go"), fields))["choices"][0]);
        assert_eq!((answer.calls.len(), answer.calls[0].0.as_str(), answer.finish.as_str()), (1, "coin", "tool_calls"));
    }
    let refusals = [
        (json!({"response_format": {"type": "json_schema"}}), 400, "response_format"),
        (json!({"response_format": {"type": "xml"}}), 400, "response_format"),
        (json!({"tool_choice": "required"}), 400, "tool_choice"),
        (json!({"tools": coin, "tool_choice": {"type": "function", "function": {"name": "x"}}}), 400, "tool_choice"),
        (json!({"tools": [{"type": "custom"}]}), 400, "tools"),
    ];
    for (fields, status, param) in refusals {
        for stream in [false, true] {
            let reply = post(server.address(), PATH, &with(ask("go"), with(fields.clone(), json!({"stream": stream}))));
            assert_eq!(reply.refusal(), (status, None, Some(param.to_owned())), "{fields}");
        }
    }
}

#[test]
fn wrong_fields_are_refused_by_name_and_unknown_ones_ignored() {
    let engine = engine();
    let server = serve(&engine, Pace::Tokens);
    let wrong = [
        ("temperature", json!("hot")),
        ("temperature", json!(-1)),
        ("top_k", json!(1.5)),
        ("n", json!(0)),
        ("stop", json!(7)),
        ("stream", json!("yes")),
        ("logit_bias", json!({"x": 1})),
        ("messages", json!([])),
        ("messages", json!(["hello"])),
        ("messages", json!([{"content": "no role"}])),
        ("top_logprobs", json!(3)),
        ("max_tokens", json!(-5)),
    ];
    for (name, value) in wrong {
        let reply = post(server.address(), PATH, &with(ask("x"), json!({name: value})));
        assert_eq!(reply.refusal(), (400, None, Some(name.to_owned())), "{name}: {value}");
    }
    let image = json!([{"type": "image_url", "image_url": {"url": "data:,"}}]);
    let reply = post(server.address(), PATH, &json!({"messages": [{"role": "user", "content": image}]}));
    assert_eq!(reply.refusal().0, 422, "{reply:?}");
    let long = "word ".repeat(4000);
    for stream in [false, true] {
        let reply = post(server.address(), PATH, &with(ask(&long), json!({"stream": stream})));
        assert_eq!(reply.refusal(), (400, Some("context_length_exceeded".to_owned()), None), "{reply:?}");
    }
    let fine = json!({"max_tokens": 1, "user": "u", "store": true, "metadata": {"a": "b"}, "temperature": null});
    answer(&server, PATH, &with(ask("x"), fine));
}

#[test]
fn requests_become_what_the_engine_understands() {
    let message = |role: &str, content: Value| json!({"role": role, "content": content});
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let started = json!({"messages": [message("user", json!("x")), message("assistant", json!("Once"))]});
    let all = seen(
        PATH,
        "max_completion_tokens",
        &[
            ask("x"),
            with(
                ask("x"),
                json!({"stop": "a", "logit_bias": {"5": -100}, "seed": -1, "presence_penalty": 0.5, "top_k": 3}),
            ),
            json!({"messages": [message("developer", parts)], "stop": ["a", "b"], "reasoning_effort": "none"}),
            started.clone(),
            with(started, json!({"continue_final_message": false})),
            with(ask("x"), json!({"reasoning_effort": "high", "chat_template_kwargs": {"thinking": false, "a": 1}})),
        ],
    );
    let settings = |at: usize| all[at].1.settings.as_deref().unwrap();
    let options = &all[0].1;
    assert_eq!((options.temperature, options.top_p, options.top_k), (Some(1.0), Some(1.0), Some(50)));
    assert_eq!((options.seed, options.max_tokens, options.defer), (Some(7), Some(1), true));
    assert_eq!(
        (settings(1).stops.as_slice(), settings(1).bias.as_slice()),
        (&["a".to_owned()][..], &[(5, -100.0)][..])
    );
    assert_eq!((all[1].1.seed, all[1].1.presence_penalty, all[1].1.top_k), (Some(u64::MAX), Some(0.5), Some(3)));
    assert_eq!((all[2].0.messages[0]["role"].as_str(), settings(2).stops.len()), (Some("system"), 2));
    assert_eq!((all[2].1.reasoning_tokens, &all[2].0.variables["enable_thinking"]), (Some(0), &json!(false)));
    assert!(all[3].0.message_flags[1].continued && all[4].0.message_flags.is_empty());
    let variables = Value::Object(all[5].0.variables.clone());
    assert_eq!(variables, json!({"thinking": false, "a": 1, "enable_thinking": true, "reasoning_effort": "high"}));
    assert_eq!(all[5].1.reasoning_tokens, None);
}

#[test]
fn an_answer_given_back_hits_the_cache_and_its_reasoning_may_have_either_name() {
    let engine = engine();
    let server = serve_with(&engine, |options| options.reasoning_field = ReasoningField::Reasoning);
    let call = json!({"id": "c", "type": "function", "function": {"name": "dice", "arguments": "{\"sides\": 6}"}});
    let long = "Tell me a story about the old lighthouse and a silver key. ".repeat(6);
    let rendered: Vec<String> = ["reasoning", "reasoning_content"]
        .map(|name| {
            let mut answer = json!({"role": "assistant", "content": "I roll.", "tool_calls": [call]});
            answer[name] = json!("Hm.");
            let messages = json!([{"role": "user", "content": long}, answer, {"role": "tool", "tool_call_id": "c", "content": "3"}]);
            let reply = post(server.address(), "/apply-template", &json!({"messages": messages}));
            reply.json()["prompt"].as_str().unwrap().to_owned()
        })
        .to_vec();
    assert_eq!(rendered[0], rendered[1]);
    let wanted =
        "<think>Hm.</think>I roll.<tool_call>{\"name\": \"dice\", \"arguments\": {\"sides\": 6}}</tool_call><|end|>";
    assert!(rendered[0].contains(wanted), "{}", rendered[0]);
    let first = answer(&server, PATH, &with(ask(&long), json!({"max_tokens": 2})));
    let again = answer(&server, PATH, &with(ask(&long), json!({"max_tokens": 2})));
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached(&first), 0);
    assert!(cached(&again) >= 64, "{again}");
}
