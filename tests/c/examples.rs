//! The programs of `examples-c`: what they print, and what they say of a request that fails.

use crate::programs::{compile, libraries};
use crate::support::models::{root, storyteller as model};
use crate::support::programs::{cc, run, succeed};
use crate::support::{damaged, shared_library};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

#[test]
fn stream_tells_a_story() {
    let lines = fs::read_to_string(root().join("examples-c/stream.c")).unwrap().lines().count();
    assert!(lines <= 60, "stream.c has {lines} lines; it is the first thing a newcomer reads");
    for language in ["c", "cpp"] {
        let program = compile("examples-c", "stream", language);
        let printed = succeed(Command::new(&program).arg(model()).arg("Tell me a story about Tom and a red lantern."));
        let (story, summary) =
            printed.trim_end().rsplit_once("\n\n[").unwrap_or_else(|| panic!("no summary: {printed}"));
        assert!(story.split_whitespace().count() > 5, "{printed}");
        assert!(summary.contains(" tokens, the first after ") && summary.ends_with(" tokens/s]"), "{summary}");
    }
    // Without arguments it finds the model from the root of the repository.
    let program = compile("examples-c", "stream", "c");
    assert!(succeed(Command::new(&program).current_dir(root())).len() > 40);
    // A wrong folder is told in words, and the exit code says so.
    let output = run(Command::new(&program).arg("/nonexistent/model"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && told.contains("ASTRAI_ERR_IO") && told.contains("/nonexistent/model"),
        "{told}"
    );
}

/// Feeds `input` to the chat and returns what it printed.
fn chat(arguments: &[&str], input: &str) -> (Output, String) {
    let program = compile("examples-c", "chat", "c");
    let input_file = libraries().join(format!("chat-input-{}", input.len()));
    fs::write(&input_file, input).unwrap();
    let mut command = Command::new(&program);
    command.arg(model()).args(arguments).stdin(fs::File::open(&input_file).unwrap());
    let output = command.output().unwrap();
    let printed = String::from_utf8(output.stdout.clone()).expect("the chat prints UTF-8");
    (output, printed)
}

#[test]
fn chat_answers_every_line() {
    let (output, printed) = chat(&["You are an innkeeper."], "Good evening!\nWhat is there to eat?\nGoodbye.");
    assert!(output.status.success(), "{output:?}");
    let answers: Vec<&str> = printed.split("> ").skip(1).map(str::trim).filter(|answer| !answer.is_empty()).collect();
    assert_eq!(answers.len(), 3, "{printed}");
    let (output, printed) = chat(&[], "");
    assert!(output.status.success() && printed.trim() == ">", "{printed}");
}

#[test]
fn chat_forgets_the_oldest_turns_when_the_context_is_full() {
    // Each line is several hundred tokens, so that a few of them fill the context of 2,048; one is longer than it.
    let long = "The old lighthouse stood over the silent harbour and a red lantern burned. ".repeat(25);
    let endless = "x y z ".repeat(4000);
    let (output, printed) = chat(&[], &format!("{long}\n{long}\n{long}\n{long}\n{endless}\nGoodbye.\n"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.matches("ASTRAI_ERR_CONTEXT").count(), 1, "{told}");
    assert!(told.contains("the model reads 2048"), "{told}");
    let answers = printed.split("> ").skip(1).filter(|answer| !answer.trim().is_empty()).count();
    assert_eq!(answers, 5, "{printed}");
    assert!(output.status.success());
}

/// Every answer is what the schema says: an object with these three, of which the line is not empty.
#[test]
fn an_innkeeper_answers_in_json_and_nothing_else() {
    for language in ["c", "cpp"] {
        let program = compile("examples-c", "npc_json", language);
        let count = if language == "c" { 40 } else { 2 };
        let printed = succeed(Command::new(&program).arg(model()).arg(count.to_string()));
        assert_eq!(printed.lines().count(), count, "{printed}");
        for line in printed.lines() {
            let answer: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            let said = answer["line"].as_str().unwrap();
            assert!(answer.as_object().unwrap().len() == 3 && (1..=160).contains(&said.chars().count()), "{line}");
            assert!(["cheerful", "weary", "suspicious"].contains(&answer["mood"].as_str().unwrap()), "{line}");
            let gives = &answer["gives_item"];
            assert!(gives.is_null() || ["ale", "room_key", "map"].contains(&gives.as_str().unwrap()), "{line}");
        }
    }
}

/// The program has a say in every token.
#[test]
fn a_story_has_no_letter_e() {
    for language in ["c", "cpp"] {
        let program = compile("examples-c", "host_logits", language);
        let printed = succeed(Command::new(&program).arg(model()).arg("A big brown dog"));
        assert!(printed.split_whitespace().count() > 20 && !printed.contains(['e', 'E']), "{printed}");
    }
}

/// A text is as near to itself as can be, and no other is nearer.
#[test]
fn texts_are_compared_by_their_embeddings() {
    for language in ["c", "cpp"] {
        let texts = ["an old lighthouse", "pea dumplings", "an old lighthouse"];
        let printed = succeed(Command::new(compile("examples-c", "similar", language)).arg(model()).args(texts));
        let lines: Vec<(f32, &str)> = printed
            .lines()
            .map(|line| line.trim_start().split_once("  ").unwrap_or_else(|| panic!("{printed}")))
            .map(|(cosine, text)| (cosine.parse().unwrap(), text))
            .collect();
        assert_eq!(lines.iter().map(|line| line.1).collect::<Vec<_>>(), texts);
        assert!(lines[0].0 == 1.0 && lines[2].0 == 1.0 && lines[1].0 < 1.0, "{printed}");
    }
}

/// The model calls the program's function, with arguments that the schema accepts, and goes on with what it returned.
#[test]
fn a_function_of_the_program_is_called() {
    let folder = crate::contract::calling();
    for language in ["c", "cpp"] {
        let printed = succeed(Command::new(compile("examples-c", "tools", language)).arg(folder.path()));
        let line = printed.lines().find(|line| line.starts_with("[roll_dice(")).unwrap_or_else(|| panic!("{printed}"));
        let (arguments, result) = line["[roll_dice(".len()..].split_once(") = ").unwrap();
        let arguments: serde_json::Value = serde_json::from_str(arguments).unwrap_or_else(|e| panic!("{line}: {e}"));
        let result: serde_json::Value = serde_json::from_str(result.trim_end_matches(']')).unwrap();
        let (count, sides) = (arguments["count"].as_i64().unwrap(), arguments["sides"].as_i64().unwrap());
        assert!((1..=9).contains(&count) && [4, 6, 8, 12, 20].contains(&sides), "{line}");
        let sum = result["sum"].as_i64().unwrap();
        assert!((count..=count * sides).contains(&sum), "{line}");
        assert!(printed.lines().count() > 1, "{printed}");
    }
}

/// The server of a program answers while the program asks its model itself.
#[test]
fn a_server_is_inside_a_program() {
    let mut command = Command::new(compile("examples-c", "embedded_server", "c"));
    let mut program =
        command.arg(model()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let (mut said, mut printed) = (program.stdin.take().unwrap(), BufReader::new(program.stdout.take().unwrap()));
    let mut url = String::new();
    printed.read_line(&mut url).unwrap();
    let address = url.trim().strip_prefix("http://").unwrap_or_else(|| panic!("{url}"));
    writeln!(said, "Once upon a time").unwrap();
    let body = r#"{"model": "storyteller", "prompt": "Once upon a time", "max_tokens": 20}"#;
    let mut client = TcpStream::connect(address).unwrap();
    write!(
        client,
        "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"completion_tokens\":"), "{answer}");
    drop(said);
    let mut story = String::new();
    printed.read_to_string(&mut story).unwrap();
    assert!(story.split_whitespace().count() > 10, "{story}");
    assert!(program.wait().unwrap().success());
}

#[test]
fn concurrent_answers_32_prompts() {
    let program = compile("examples-c", "concurrent", "c");
    let printed = succeed(Command::new(&program).arg(model()));
    let rows: Vec<Vec<&str>> = printed
        .lines()
        .skip_while(|line| !line.starts_with("request "))
        .skip(1)
        .take_while(|line| !line.starts_with("all:"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 32, "{printed}");
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.len(), 7, "{row:?}");
        assert_eq!(row[0], (index + 1).to_string());
        assert!(row[2].parse::<u32>().unwrap() > 1, "{row:?}");
        let [queue, first, total]: [f64; 3] = [3, 4, 5].map(|column| row[column].parse().unwrap());
        assert!(queue <= first && first <= total, "{row:?}");
    }
    assert_eq!(printed.matches("Tell me a story about ").count(), 32);
    assert!(!printed.contains("(nothing)") && !printed.contains("failed"), "{printed}");
}

#[test]
fn a_game_keeps_its_loop_while_four_characters_talk() {
    let program = compile("examples-c", "game_loop", "c");
    for work in ["4000", "0"] {
        let printed = succeed(Command::new(&program).arg(model()).args(["2", work]));
        let last = printed.lines().last().unwrap_or_default();
        assert!(last.starts_with("120 frames, ms: p50 ") && last.ends_with(" tokens"), "{last}");
        let tokens: u32 = last.rsplit(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{last}"));
        assert!(tokens > 0, "{last}");
    }
    let output = run(Command::new(&program).args(["/nonexistent/model", "1"]));
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("/nonexistent/model"));
}

/// A request that fails after it was submitted is no success of the program, and its error is told.
#[test]
fn examples_tell_a_failed_request() {
    let model = damaged::model();
    let file = model.path().join("persona.prefix").display().to_string();
    for (name, arguments) in [
        ("stream", vec![]),
        ("chat", vec![]),
        ("concurrent", vec![]),
        ("game_loop", vec!["1"]),
        ("persona", vec![&*file]),
    ] {
        let input = model.path().join("input");
        fs::write(&input, "Good evening!\n").unwrap();
        let mut command = Command::new(compile("examples-c", name, "c"));
        command.arg(model.path()).args(arguments).stdin(fs::File::open(&input).unwrap());
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {told}");
        assert!(told.contains("no finite logit"), "{name}: {told}");
    }
}

/// The same program twice: what the first process computed and saved, the second one starts from.
#[test]
fn a_persona_is_computed_by_the_first_run_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("persona.prefix");
    let runs = ["c", "cpp", "c"].map(|language| {
        let program = compile("examples-c", "persona", language);
        succeed(Command::new(program).arg(model()).arg(&file).arg("Good evening!"))
    });
    assert!(runs[0].starts_with("[computing the persona: ") && runs[0].contains("persona.prefix"), "{}", runs[0]);
    for run in &runs {
        let (_, summary) = run.trim_end().rsplit_once("\n\n[").unwrap_or_else(|| panic!("no summary: {run}"));
        let numbers: Vec<u32> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert!(numbers[0] >= 16 && numbers[0].is_multiple_of(16) && numbers[0] < numbers[1], "{summary}");
    }
    assert!(runs[1..].iter().all(|run| run.starts_with("[restored from ")), "{runs:?}");
}

/// What a C program without a shared library gets: the same code, and nothing of Rust's that it would have to know.
#[test]
fn the_static_library_links() {
    let archive = shared_library::built().with_file_name("libastrai.a");
    let program = libraries().join("stream-static");
    let mut compiler = cc();
    compiler.args(["-std=c99", "-O1", "-I"]).arg(root().join("include")).arg(root().join("examples-c/stream.c"));
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let needed = makefile.lines().find_map(|line| line.strip_prefix("STATIC_LIBS := ")).unwrap();
    succeed(compiler.arg(archive).args(needed.split(' ')).arg("-o").arg(&program));
    let told = succeed(Command::new(&program).arg(model()));
    assert!(told.trim_end().ends_with(" tokens/s]"), "{told}");
}
