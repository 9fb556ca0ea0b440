//! The official clients, which judge what they are sent: their validation is on.
//!
//! They are Python packages, of an interpreter that ASTRAI_CLIENTS_PYTHON names, else of `python3`. Without them a test prints SKIP,
//! or fails if ASTRAI_REQUIRE names `clients`.

use crate::scripted::{PACES, SAY, engine, gated, prepare, serve, serve_with};
use crate::support::models::root;
use crate::support::programs::{has, required, succeed};
use serde_json::{Value, json};
use std::process::Command;

/// The interpreter that has a package.
fn python(package: &str) -> Option<Command> {
    let program = std::env::var_os("ASTRAI_CLIENTS_PYTHON").unwrap_or("python3".into());
    let has = Command::new(&program).args(["-c", &format!("import {package}")]).output();
    if has.is_ok_and(|output| output.status.success()) {
        let mut command = Command::new(program);
        // No compiled files in the checkout.
        command.arg("-B");
        return Some(command);
    }
    assert!(!required("clients"), "ASTRAI_REQUIRE names clients, and there is no Python with {package}");
    println!("SKIP: there is no Python with {package}; `make clients` makes one");
    None
}

/// Runs a script of this folder against servers of every pace.
fn judge(package: &str, script: &str) {
    if python(package).is_none() {
        return;
    }
    for pace in PACES {
        let engine = engine();
        let server = serve_with(&engine, |options| {
            options.prepare = Some(prepare(pace));
            options.gate = gated(&engine, pace);
            options.api_keys = vec!["key".to_owned()];
        });
        let mut command = python(package).unwrap();
        println!("{pace:?}");
        succeed(command.arg(root().join("tests/server").join(script)).arg(server.url()));
    }
}

#[test]
fn openai() {
    judge("openai", "openai_client.py");
}

#[test]
fn anthropic() {
    judge("anthropic", "anthropic_client.py");
}

/// `curl -N` shows a stream as it comes, in each dialect and at each pace.
#[test]
fn curl() {
    if !has("curl") {
        return;
    }
    let script =
        "<think>Hm.</think>I roll, \u{fc}nd.<tool_call>{\"name\": \"dice\", \"arguments\": {\"sides\": 6}}</tool_call>";
    let tool = json!({"name": "dice", "parameters": {"type": "object"}, "input_schema": {"type": "object"}});
    let mut flat = tool.clone();
    flat["type"] = json!("function");
    let chat = json!([{"role": "user", "content": format!("{SAY}{script}")}]);
    let nested = json!([{"type": "function", "function": tool}]);
    let bodies = [
        ("/v1/chat/completions", json!({"messages": chat, "tools": nested}), "data: [DONE]"),
        ("/v1/completions", json!({"prompt": "Once", "max_tokens": 3}), "data: [DONE]"),
        ("/v1/responses", json!({"input": format!("{SAY}{script}"), "tools": [flat]}), "event: response.completed"),
        (
            "/v1/messages",
            json!({"messages": chat, "tools": [tool], "thinking": {"type": "adaptive"}, "max_tokens": 300}),
            "event: message_stop",
        ),
    ];
    for pace in PACES {
        let engine = engine();
        let server = serve(&engine, pace);
        for (path, body, end) in &bodies {
            let mut body = body.clone();
            body["stream"] = json!(true);
            let url = server.url() + path;
            let mut curl = Command::new("curl");
            curl.args([
                "-sSN",
                "--fail-with-body",
                "-H",
                "Content-Type: application/json",
                "-d",
                &body.to_string(),
                &url,
            ]);
            let told = succeed(&mut curl);
            let events: Vec<&str> = told.split_terminator("\n\n").collect();
            assert!(events.last().unwrap().starts_with(end), "{pace:?} {path} {told}");
            // Pieces of the answer, as each dialect has them.
            let mut said = String::new();
            for event in &events {
                let data = event.split_once("data: ").map_or("", |(_, data)| data);
                let Ok(value) = serde_json::from_str::<Value>(data) else { continue };
                for place in ["/choices/0/delta/content", "/choices/0/text", "/delta/text", "/delta"] {
                    let delta = value.pointer(place).and_then(Value::as_str);
                    // Of responses the type says what the text is of.
                    let content = place != "/delta" || value["type"] == "response.output_text.delta";
                    said += delta.filter(|_| content).unwrap_or_default();
                }
            }
            let wanted = if *path == "/v1/completions" { !said.is_empty() } else { said == "I roll, \u{fc}nd." };
            assert!(wanted && (*path == "/v1/completions" || told.contains("dice")), "{pace:?} {path} {said:?} {told}");
        }
    }
}
