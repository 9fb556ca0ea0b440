//! `/v1/responses`.

use crate::client::{Reply, answer, post};
use crate::scripted::{PACES, SAY, engine, seen, serve, serve_with};
use astrai::engine::ToolChoice;
use serde_json::{Value, json};

const PATH: &str = "/v1/responses";

fn ask(text: &str) -> Value {
    json!({"model": "m", "input": text, "tools": [
        {"type": "function", "name": "dice", "parameters": {"type": "object", "properties": {"sides": {"type": "integer"}}}},
        {"type": "function", "name": "coin", "parameters": {"type": "object"}}, {"type": "web_search"}]})
}

/// The events of a stream, numbered from 0.
fn events(reply: &Reply) -> Vec<Value> {
    let events = reply.events();
    assert!(events.iter().enumerate().all(|(number, event)| event["sequence_number"] == number), "{reply:?}");
    events
}

/// The output that the events of a stream make. Checks that what is told as done is what came.
fn output(events: &[Value]) -> Vec<Value> {
    let (mut items, mut text): (Vec<Value>, String) = (Vec::new(), String::new());
    for event in events {
        let name = event["type"].as_str().unwrap();
        if !event["output_index"].is_null() {
            let index = items.len() - usize::from(!name.ends_with("output_item.added"));
            assert_eq!(event["output_index"], index, "{event}");
        }
        if !event["item_id"].is_null() {
            assert_eq!(event["item_id"], items.last().unwrap()["id"], "{event}");
            assert_eq!(event["content_index"].is_null(), name.contains("function_call"), "{event}");
        }
        match name.strip_prefix("response.").unwrap() {
            "output_item.added" => {
                items.push(event["item"].clone());
                text = String::new();
            }
            "output_text.delta" | "reasoning_text.delta" | "function_call_arguments.delta" => {
                text += event["delta"].as_str().unwrap();
            }
            "output_text.done" | "reasoning_text.done" => assert_eq!(event["text"], text),
            "function_call_arguments.done" => assert_eq!(event["arguments"], text),
            "output_item.done" => {
                assert_eq!(items.last().unwrap()["id"], event["item"]["id"]);
                *items.last_mut().unwrap() = event["item"].clone();
            }
            _ => {}
        }
    }
    items
}

/// What is said, without ids.
fn said(output: &[Value]) -> Value {
    let one = |item: &Value| match item["type"].as_str().unwrap() {
        "function_call" => json!([item["name"], item["arguments"], item["call_id"].as_str().unwrap().len()]),
        kind => json!([kind, item["content"][0]["text"]]),
    };
    output.iter().map(one).collect()
}

#[test]
fn a_response_has_the_same_output_whole_and_streamed_however_the_model_cuts_it() {
    let scripts = [
        ("Plain ünd 骰.", json!([["message", "Plain ünd 骰."]])),
        (
            "<think>Hm.</think>I roll.<tool_call>{\"name\": \"dice\", \"arguments\": {\"sides\": 6}}</tool_call>\
             <tool_call>{\"name\": \"coin\", \"arguments\": {}}</tool_call>",
            json!([["reasoning", "Hm."], ["message", "I roll."], ["dice", "{\"sides\": 6}", 9], ["coin", "{}", 9]]),
        ),
    ];
    let engine = engine();
    for pace in PACES {
        let server = serve(&engine, pace);
        for (script, wanted) in &scripts {
            let mut body = ask(&format!("{SAY}{script}"));
            let whole = answer(&server, PATH, &body);
            assert_eq!(&said(whole["output"].as_array().unwrap()), wanted, "{pace:?} {script}");
            assert_eq!((&whole["status"], &whole["object"]), (&json!("completed"), &json!("response")));
            body["stream"] = json!(true);
            let events = events(&post(server.address(), PATH, &body));
            let names: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
            assert_eq!((names[0], names[1]), ("response.created", "response.in_progress"));
            assert_eq!(*names.last().unwrap(), "response.completed");
            let last = &events.last().unwrap()["response"];
            let output = output(&events);
            assert_eq!(json!(output), last["output"], "{pace:?} {script}");
            assert_eq!(&said(&output), wanted, "{pace:?} {script}");
            assert_eq!(last["id"], events[0]["response"]["id"]);
            for name in ["input_tokens", "output_tokens", "total_tokens"] {
                assert_eq!(last["usage"][name], whole["usage"][name], "{name}");
            }
        }
    }
}

#[test]
fn what_is_cut_is_incomplete_and_what_fails_says_so() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    // The probe with which clients look whether a server answers.
    for input in [json!(""), json!([])] {
        let mut body = json!({"model": "m", "input": input, "max_output_tokens": 1});
        let whole = answer(&server, PATH, &body);
        assert_eq!(
            (&whole["status"], &whole["incomplete_details"]["reason"]),
            (&json!("incomplete"), &json!("max_output_tokens"))
        );
        body["stream"] = json!(true);
        assert_eq!(events(&post(server.address(), PATH, &body)).last().unwrap()["type"], "response.incomplete");
    }
    for stream in [false, true] {
        let body = json!({"input": "word ".repeat(4000), "stream": stream});
        let refusal = post(server.address(), PATH, &body).refusal();
        assert_eq!(refusal, (400, Some("context_length_exceeded".to_owned()), None));
        for (name, value) in [
            ("previous_response_id", json!("resp_1")),
            ("input", json!([{"type": "item_reference", "id": "x"}])),
            ("input", json!([{"role": "x", "content": "y"}])),
            ("input", json!(7)),
            ("text", json!({"format": {"type": "json_schema"}})),
            ("tool_choice", json!("x")),
        ] {
            let mut body = json!({"input": "x", "stream": stream});
            body[name] = value;
            let (status, _, param) = post(server.address(), PATH, &body).refusal();
            assert_eq!((status, param.as_deref()), (400, Some(name)), "{body}");
        }
    }
    let mut body = ask("x");
    body["stream"] = json!(true);
    engine.inject_panic();
    assert_eq!(post(server.address(), PATH, &body).refusal().0, 500);
}

#[test]
fn items_become_messages() {
    let text = |kind: &str, text: &str| json!([{"type": kind, "text": text}]);
    let mut body = ask("");
    body["instructions"] = json!("Be brief.");
    body["input"] = json!([
        {"type": "message", "role": "developer", "content": text("input_text", "Be kind.")},
        {"role": "user", "content": text("input_text", "roll")},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": text("reasoning_text", "Hm.")},
        {"type": "message", "role": "assistant", "content": text("output_text", "I roll.")},
        {"type": "function_call", "call_id": "c1", "name": "dice", "arguments": "{\"sides\": 6}"},
        {"type": "function_call", "call_id": "c2", "name": "coin", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": "heads"},
        {"type": "web_search_call", "id": "ws_1"},
        {"role": "user", "content": "and?"},
    ]);
    body["reasoning"] = json!({"effort": "none"});
    let mut named = ask("x");
    named["tool_choice"] = json!({"type": "function", "name": "coin"});
    named["parallel_tool_calls"] = json!(false);
    let seen = seen(PATH, "max_output_tokens", &[body, named]);
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let wanted = json!([
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "user", "content": text("input_text", "roll")},
        {"role": "assistant", "content": "I roll.", "reasoning": "Hm.",
            "tool_calls": [call("c1", "dice", "{\"sides\": 6}"), call("c2", "coin", "{}")]},
        {"role": "tool", "tool_call_id": "c2", "name": "coin", "content": "heads"},
        {"role": "user", "content": "and?"},
    ]);
    assert_eq!(json!(seen[0].0.messages), wanted);
    assert_eq!((seen[0].1.reasoning_tokens, seen[0].1.max_tokens), (Some(0), Some(1)));
    let settings = seen[1].1.settings.as_deref().unwrap();
    assert_eq!((&settings.tool_choice, settings.single_call), (&ToolChoice::Named("coin".to_owned()), true));
    let tools = settings.tools.as_deref().unwrap();
    assert_eq!((tools.as_array().unwrap().len(), &tools[0]["function"]["name"]), (2, &json!("dice")));
}
