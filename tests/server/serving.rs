//! A server for agents that are tried by hand: a model that answers each question with a call of the agent's own tool that reads a file,
//! and then says what the tool gave back.
//!
//! `ASTRAI_SERVE_FILE=/tmp/note.txt cargo test --features cli --test server serves_agents -- --ignored --nocapture` prints the address and
//! serves until its standard input ends.

use crate::scripted::{TEMPLATE, answer_with, open, serve_with};
use astrai::engine::{Engine, EngineOptions, Prompt, RequestOptions};
use serde_json::{Value, json};
use std::io::Read;
use std::sync::Arc;

/// Tools that read a file, by the names that agents give them, and the arguments for a path.
fn reading(name: &str, path: &str) -> Option<Value> {
    Some(match name {
        // Claude Code; OpenCode; Codex, whose tool runs a command.
        "Read" => json!({"file_path": path}),
        "read" => json!({"filePath": path}),
        "exec_command" => json!({"cmd": format!("cat {path}")}),
        "shell" => json!({"command": ["cat", path]}),
        "shell_command" => json!({"command": format!("cat {path}")}),
        _ => return None,
    })
}

fn text_of(content: &Value) -> String {
    match content {
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        content => content.as_str().unwrap_or_default().to_owned(),
    }
}

/// What the model says to a prompt.
fn says(prompt: &Prompt, options: &RequestOptions, path: &str) -> String {
    let last = prompt.messages.last().cloned().unwrap_or_default();
    if last["role"] == "tool" {
        let words = text_of(&last["content"]);
        let words: Vec<&str> = words.split_whitespace().take(60).collect();
        return format!("<think>The file is read.</think>The tool says: {}", words.join(" "));
    }
    let tools = options.settings.as_ref().and_then(|settings| settings.tools.as_deref());
    let names =
        tools.and_then(Value::as_array).into_iter().flatten().filter_map(|tool| tool["function"]["name"].as_str());
    let names: Vec<&str> = names.collect();
    println!("{} messages, {} tools: {}", prompt.messages.len(), names.len(), names.join(" "));
    match names.iter().find_map(|name| Some((*name, reading(name, path)?))) {
        Some((name, arguments)) => format!(
            "<think>A file has to be read.</think>I read the file.<tool_call>{{\"name\": \"{name}\", \"arguments\": {arguments}}}</tool_call>"
        ),
        None => "A title".to_owned(),
    }
}

#[test]
#[ignore = "serves until its standard input ends"]
fn serves_agents_until_it_is_told_to_end() {
    let path = std::env::var("ASTRAI_SERVE_FILE").expect("ASTRAI_SERVE_FILE names the file to read");
    let port = std::env::var("ASTRAI_SERVE_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(0);
    let template = std::env::var("ASTRAI_SERVE_TEMPLATE")
        .map_or(TEMPLATE.to_owned(), |file| std::fs::read_to_string(file).unwrap());
    let options = EngineOptions { max_running: 4, ..EngineOptions::default() };
    let engine = open(&template, 400_000, options);
    let server = serve_with(&engine, |options| {
        options.port = port;
        options.models[0].aliases = vec!["claude-local".to_owned()];
        options.prepare = Some(Arc::new(move |engine: &Engine, prompt: &Prompt, options: &mut RequestOptions| {
            let said = says(prompt, options, &path);
            answer_with(engine, &said, options);
        }));
    });
    println!("{}", server.url());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    println!("{}", crate::client::get(server.address(), "/stats").body);
    engine.check().unwrap();
}
