//! What the header says, held to by the programs of `tests/c`: most of them as C and as C++, and none prints anything.

use crate::programs::compile;
use crate::support::models::{self, storyteller as model};
use crate::support::programs::{run, succeed};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn bad_arguments_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let empty = folder.path().join("empty");
    fs::write(&file, "not a folder").unwrap();
    fs::create_dir(&empty).unwrap();
    for language in ["c", "cpp"] {
        succeed(Command::new(compile("tests/c", "arguments", language)).arg(&empty).arg(&file));
    }
}

#[test]
fn hostile_programs_get_a_status() {
    let output = run(Command::new(compile("tests/c", "hostile", "c")).arg(model()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The library prints nothing, whatever happens to it.
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn pause_duty_cache_and_plan_do_what_the_header_says() {
    for language in ["c", "cpp"] {
        let output = run(Command::new(compile("tests/c", "control", language)).arg(model()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn requests_do_what_the_header_says() {
    for language in ["c", "cpp"] {
        let output = run(Command::new(compile("tests/c", "requests", language)).arg(model()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

/// Programs about how events are received; each as C and as C++, and they print nothing.
#[test]
fn messages_have_the_flags_of_the_header() {
    for language in ["c", "cpp"] {
        let output = run(Command::new(compile("tests/c", "messages", language)).arg(model()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn constraints_do_what_the_header_says() {
    for language in ["c", "cpp"] {
        let output = run(Command::new(compile("tests/c", "constraints", language)).arg(model()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn a_server_shares_the_engine_with_its_program() {
    for language in ["c", "cpp"] {
        let output = run(Command::new(compile("tests/c", "server", language)).arg(model()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

/// The storyteller with a chat template that writes calls as Hermes does.
pub fn calling() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let template = "{{ bos_token }}{% for m in messages %}<|{{ 'user' if m.role == 'tool' else m.role }}|>\
        {% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content or '' }}\
        {% for call in m.tool_calls or [] %}<tool_call>{\"name\": \"{{ call.function.name }}\", \"arguments\": \
        {{ call.function.arguments | tojson }}}</tool_call>{% endfor %}<|end|>{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{% endif %}";
    crate::host::with_template(folder.path(), template);
    folder
}

#[test]
fn answers_come_in_parts() {
    let folder = calling();
    for language in ["c", "cpp"] {
        let output = run(Command::new(compile("tests/c", "answers", language)).arg(folder.path()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn events_are_received_as_the_header_says() {
    for name in ["poll", "poll_threads", "completion", "deferred"] {
        for language in ["c", "cpp"] {
            let output = run(Command::new(compile("tests/c", name, language)).arg(model()));
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{name} prints");
        }
    }
}

/// A copy of the model whose decoder doubles its text 25 times.
fn with_growing_decoder(folder: &Path) {
    models::copy(&model(), folder);
    let path = folder.join("tokenizer.json");
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let step = serde_json::json!({"type": "Replace", "pattern": {"Regex": "."}, "content": "xx"});
    file["decoder"] = serde_json::json!({"type": "Sequence", "decoders": vec![step; 25]});
    fs::remove_file(&path).unwrap();
    fs::write(&path, file.to_string()).unwrap();
}

#[test]
fn long_texts_hold_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    with_growing_decoder(folder.path());
    for language in ["c", "cpp"] {
        let output = run(Command::new(compile("tests/c", "long_text", language)).arg(model()).arg(folder.path()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

/// One request's events come in order, whoever takes them; as a C program of few lines would.
#[test]
fn several_takers_scramble_nothing() {
    let printed = succeed(Command::new(compile("tests/c", "order", "c")).arg(model()).arg("5"));
    assert_eq!(printed, "scrambled 0 of 40\n");
}

/// Growth of memory, in KiB, while thousands of requests are refused because nobody reads the events of those before. As many
/// that were accepted took 20 MB.
const UNREAD_GROWTH_KIB_MAX: &str = "1024";

#[test]
fn requests_that_nobody_reads_are_refused_from_some_number_on() {
    let arguments = ["4000", UNREAD_GROWTH_KIB_MAX];
    println!("{}", succeed(Command::new(compile("tests/c", "unread", "c")).arg(model()).args(arguments)));
}

#[test]
fn prefixes_do_what_the_header_says() {
    for language in ["c", "cpp"] {
        let folder = tempfile::tempdir().unwrap();
        let output = run(Command::new(compile("tests/c", "prefix", language)).arg(model()).arg(folder.path()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["garbage", "killed", "link", "mode", "persona"], "no other file is left");
    }
}
