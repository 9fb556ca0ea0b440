//! `/v1/messages`.

use crate::client::{answer, exchange, post, request};
use crate::scripted::{PACES, Pace, SAY, engine, seen, serve, serve_with};
use astrai::engine::ToolChoice;
use serde_json::{Value, json};

const PATH: &str = "/v1/messages?beta=true";

fn ask(text: &str) -> Value {
    json!({"model": "m", "max_tokens": 300, "messages": [{"role": "user", "content": text}], "thinking": {"type": "adaptive"},
        "tools": [{"name": "dice", "input_schema": {"type": "object", "properties": {"sides": {"type": "integer"}}}},
            {"name": "coin", "input_schema": {"type": "object"}}, {"type": "web_search_20250305", "name": "web_search"}]})
}

/// The message that a stream makes. Checks the order of its events.
fn put_together(events: &[Value]) -> Value {
    let mut message = events[0]["message"].clone();
    assert_eq!((&events[0]["type"], &message["content"]), (&json!("message_start"), &json!([])));
    let (mut blocks, mut open, mut json_text): (Vec<Value>, bool, String) = (Vec::new(), false, String::new());
    for event in &events[1..] {
        let index = event["index"].as_u64().map(|index| index as usize);
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert!(!open && index == Some(blocks.len()), "{event}");
                blocks.push(event["content_block"].clone());
                (open, json_text) = (true, String::new());
            }
            "content_block_delta" => {
                assert!(open && index == Some(blocks.len() - 1), "{event}");
                let (delta, block) = (&event["delta"], blocks.last_mut().unwrap());
                let mut append = |name: &str| {
                    let all = format!("{}{}", block[name].as_str().unwrap(), delta[name].as_str().unwrap());
                    block[name] = json!(all);
                };
                match delta["type"].as_str().unwrap() {
                    "text_delta" => append("text"),
                    "thinking_delta" => append("thinking"),
                    "signature_delta" => append("signature"),
                    "input_json_delta" => json_text += delta["partial_json"].as_str().unwrap(),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => {
                assert!(open && index == Some(blocks.len() - 1), "{event}");
                open = false;
                if !json_text.is_empty() {
                    blocks.last_mut().unwrap()["input"] = serde_json::from_str(&json_text).unwrap();
                }
            }
            "message_delta" => {
                assert!(!open);
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event["delta"]["stop_sequence"].clone();
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => assert_eq!(event, events.last().unwrap()),
            other => panic!("{other}"),
        }
    }
    message["content"] = json!(blocks);
    message
}

#[test]
fn a_message_has_the_same_blocks_whole_and_streamed_however_the_model_cuts_it() {
    let thinking = |text: &str| json!({"type": "thinking", "thinking": text, "signature": ""});
    let text = |text: &str| json!({"type": "text", "text": text});
    let call = |name: &str, input: Value| json!({"type": "tool_use", "name": name, "input": input});
    let scripts = [
        ("Plain ünd 骰.", vec![text("Plain ünd 骰.")], "end_turn"),
        ("", vec![text("")], "end_turn"),
        (
            "<think>Hm.</think>I roll.<tool_call>{\"name\": \"dice\", \"arguments\": {\"sides\": 6}}</tool_call>\
             <tool_call>{\"name\": \"coin\", \"arguments\": {}}</tool_call>",
            vec![thinking("Hm."), text("I roll."), call("dice", json!({"sides": 6})), call("coin", json!({}))],
            "tool_use",
        ),
    ];
    let engine = engine();
    for pace in PACES {
        let server = serve(&engine, pace);
        for (script, blocks, why) in &scripts {
            let mut body = ask(&format!("{SAY}{script}"));
            let whole = answer(&server, PATH, &body);
            body["stream"] = json!(true);
            let streamed = put_together(&post(server.address(), PATH, &body).events());
            for mut message in [whole, streamed] {
                for block in message["content"].as_array_mut().unwrap() {
                    if let Some(id) = block.as_object_mut().unwrap().remove("id") {
                        assert_eq!(id.as_str().map(str::len), Some(9), "{pace:?} {script}");
                    }
                }
                assert_eq!(message["content"], json!(blocks), "{pace:?} {script}");
                assert_eq!(
                    (&message["stop_reason"], &message["stop_sequence"]),
                    (&json!(why), &Value::Null),
                    "{pace:?}"
                );
                assert!(message["usage"]["input_tokens"].as_u64() > Some(0), "{message}");
            }
        }
    }
}

#[test]
fn answers_say_why_they_ended_and_what_was_cached() {
    let engine = engine();
    let server = serve(&engine, Pace::Tokens);
    let mut body = ask(&format!("{SAY}one two three"));
    body["stop_sequences"] = json!([" three"]);
    let stopped = answer(&server, PATH, &body);
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(" three")));
    assert_eq!(stopped["content"][0]["text"], "one two");
    let long = "Tell me a story about the old lighthouse. ".repeat(8);
    let mut body = ask(&long);
    body["max_tokens"] = json!(3);
    let counted = post(server.address(), "/v1/messages/count_tokens", &body).json()["input_tokens"].as_u64().unwrap();
    for again in [false, true] {
        let answer = answer(&server, PATH, &body);
        assert_eq!(answer["stop_reason"], "max_tokens");
        let usage = &answer["usage"];
        let [input, cached] = ["input_tokens", "cache_read_input_tokens"].map(|name| usage[name].as_u64().unwrap());
        assert_eq!((input + cached, cached > 60, usage["output_tokens"].as_u64()), (counted, again, Some(3)));
    }
    // A prompt and an answer that together are longer than the context.
    let words = format!("{SAY}{}", "word ".repeat(700));
    let messages = json!([{"role": "user", "content": "word ".repeat(900)}, {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": words}]);
    let full = answer(&server, PATH, &json!({"model": "m", "max_tokens": 3000, "messages": messages}));
    assert_eq!(full["stop_reason"], "model_context_window_exceeded");
}

#[test]
fn turns_become_messages_that_stay_where_they_are() {
    let text = |text: &str| json!({"type": "text", "text": text});
    let billing = |cch: &str| text(&format!("x-anthropic-billing-header: cc_version=1; cch={cch};"));
    let chat = |cch: &str| {
        json!({"model": "m", "system": [billing(cch), text("Be brief."), text("Be kind.")], "messages": [
            {"role": "user", "content": "roll"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, text("I roll."),
                {"type": "tool_use", "id": "c1", "name": "dice", "input": {"sides": 6}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [text("3")]}, text("and?")]},
            {"role": "system", "content": "Be quick."},
            {"role": "assistant", "content": "Thr"}]})
    };
    let mut tool = ask("x");
    tool["tool_choice"] = json!({"type": "tool", "name": "coin", "disable_parallel_tool_use": true});
    tool["output_config"] = json!({"effort": "high"});
    let mut budget = ask("x");
    budget["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
    let mut none = ask("x");
    none.as_object_mut().unwrap().remove("thinking");
    let all = seen(PATH, "max_tokens", &[chat("a1"), chat("b2"), tool, budget, none]);
    let (prompt, options) = &all[0];
    let call = json!({"id": "c1", "type": "function", "function": {"name": "dice", "arguments": {"sides": 6}}});
    let wanted = json!([
        {"role": "system", "content": "Be brief.\nBe kind."},
        {"role": "user", "content": "roll"},
        {"role": "assistant", "content": "I roll.", "reasoning": "Hm.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "dice", "content": "3"},
        {"role": "user", "content": "and?"},
        {"role": "system", "content": "Be quick."},
        {"role": "assistant", "content": "Thr"},
    ]);
    assert_eq!(json!(prompt.messages), wanted);
    assert!(prompt.message_flags.last().unwrap().continued);
    assert_eq!(prompt.messages, all[1].0.messages, "the prompt changes with what is for accounts");
    assert_eq!(options.reasoning_tokens, Some(0));
    let settings = all[2].1.settings.as_deref().unwrap();
    assert_eq!((&settings.tool_choice, settings.single_call), (&ToolChoice::Named("coin".to_owned()), true));
    assert_eq!(settings.tools.as_deref().unwrap().as_array().unwrap().len(), 2);
    assert_eq!(all[2].0.variables["reasoning_effort"], "high");
    assert_eq!((all[3].1.reasoning_tokens, &all[3].0.variables["enable_thinking"]), (Some(1024), &json!(true)));
    assert_eq!((all[4].1.reasoning_tokens, &all[4].0.variables["enable_thinking"]), (Some(0), &json!(false)));
}

#[test]
fn refusals_have_the_shape_of_the_dialect() {
    let engine = engine();
    let server = serve_with(&engine, |options| options.api_keys = vec!["key".to_owned()]);
    let send = |key: &str, body: &Value| {
        let headers = [("Content-Type", "application/json"), ("x-api-key", key), ("anthropic-version", "2023-06-01")];
        let reply = exchange(server.address(), &request("POST", PATH, &headers, &body.to_string()));
        let error = reply.json();
        assert!(error["type"] == "error" && error["error"]["message"].is_string(), "{reply:?}");
        (reply.status, error["error"]["type"].as_str().unwrap().to_owned())
    };
    let mut image = ask("x");
    image["messages"][0]["content"] = json!([{"type": "image", "source": {}}]);
    let mut other = ask("x");
    other["model"] = json!("other");
    let mut small = ask("x");
    small["thinking"] = json!({"type": "enabled", "budget_tokens": 5});
    let long = ask(&"word ".repeat(4000));
    for (key, body, status, kind) in [
        ("wrong", ask("x"), 401, "authentication_error"),
        ("key", other, 404, "not_found_error"),
        ("key", json!({"model": "m"}), 400, "invalid_request_error"),
        ("key", small, 400, "invalid_request_error"),
        ("key", long, 400, "invalid_request_error"),
        ("key", image, 422, "invalid_request_error"),
    ] {
        assert_eq!(send(key, &body), (status, kind.to_owned()), "{body}");
    }
}
