//! The command line tool as its users see it: exit codes, stdout, stderr. Runs on `models/storyteller` and on the
//! parity fixtures, which have no tokenizer.

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

mod arguments;
mod bench;
mod hub;
mod pull;
mod remote;
mod serve;
mod window;

const PROMPT: &str = "Tell me a story about Mira, the old lighthouse and a silver key.";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn storyteller() -> String {
    repository("models/storyteller").display().to_string()
}

/// `astrai` with the arguments, the model folder put in for `MODEL`.
fn astrai(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_astrai"));
    let model = storyteller();
    command.args(args.iter().map(|&arg| if arg == "MODEL" { model.as_str() } else { arg }));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end.
fn output(args: &[&str], stdin: &str) -> Output {
    let mut child = astrai(args).spawn().expect("astrai starts");
    let mut input = child.stdin.take().expect("stdin is a pipe");
    let text = stdin.to_owned();
    // A program that ends before it has read everything is no failure of the test.
    let writer = std::thread::spawn(move || drop(input.write_all(text.as_bytes())));
    let output = child.wait_with_output().expect("astrai ends");
    writer.join().expect("the writer ends");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// stdout of a run that must succeed.
fn stdout(args: &[&str], stdin: &str) -> String {
    let output = output(args, stdin);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// stderr of a run that must end with `code` and print nothing else.
fn failure(args: &[&str], code: i32) -> String {
    let output = output(args, "");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "", "{args:?}");
    text(&output.stderr)
}

/// Scores the lines.
fn score(args: &[&str], lines: &[Value]) -> Vec<Value> {
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let args = [&["score"], args].concat();
    stdout(&args, &input).lines().map(|line| serde_json::from_str(line).expect("a result is JSON")).collect()
}

fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("`{name}` is not an array in {value}"))
}

/// A file of the name in a folder of the test's own.
fn write(dir: &tempfile::TempDir, name: &str, content: &str) -> String {
    let path = dir.path().join(name);
    fs::write(&path, content).expect("a temporary file");
    path.display().to_string()
}

#[test]
fn run_streams_what_score_says_and_tells_the_speed() {
    let options = ["--temperature", "0", "--max-tokens", "24"];
    let chat = output(&[&["run", "--model", "MODEL", PROMPT], &options[..]].concat(), "");
    let raw = stdout(&[&["run", "--raw", "--model", "MODEL", "Once upon a time"], &options[..]].concat(), "");
    let piped = stdout(&[&["run", "--raw", "--model", "MODEL", "-"], &options[..]].concat(), "Once upon a time");
    let scored = score(
        &["--model", "MODEL"],
        &[
            json!({"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 24}),
            json!({"prompt": "Once upon a time", "max_tokens": 24}),
        ],
    );
    assert_eq!(text(&chat.stdout).trim_end(), scored[0]["text"].as_str().unwrap().trim_end());
    assert_eq!(raw.trim_end(), scored[1]["text"].as_str().unwrap().trim_end());
    assert_eq!(raw, piped);
    assert!(raw.ends_with('\n') && raw.len() > 10, "{raw:?}");
    let report = text(&chat.stderr);
    let tokens = array(&scored[0], "tokens").len();
    assert!(report.starts_with(&format!("astrai: {tokens} tokens, ")) && report.contains(" tokens/s"), "{report}");
}

#[test]
fn run_repeats_itself_with_a_seed_and_stops_at_a_stop() {
    let args = ["run", "--model", "MODEL", PROMPT, "--seed", "5", "--temperature", "0.9", "--max-tokens", "40"];
    let story = stdout(&args, "");
    assert_eq!(story, stdout(&args, ""));
    let other = stdout(&[&args[..4], &["--seed", "6"], &args[6..]].concat(), "");
    assert_ne!(story, other);
    let word = story.split_whitespace().nth(3).expect("four words");
    let stopped = stdout(&[&args[..], &["--stop", word]].concat(), "");
    assert!(story.starts_with(stopped.trim_end()), "{stopped:?} of {story:?}");
    assert!(!stopped.contains(word) && stopped.len() < story.len(), "{stopped:?} with stop {word:?}");
}

#[test]
fn wrong_usage_is_two_and_failure_is_one() {
    for args in [
        &["run"][..],
        &["run", "--model", "MODEL"],
        &["run", "--model", "MODEL", "x", "--nonsense"],
        &["run", "--model", "MODEL", "x", "--raw", "--system", "s"],
        &["run", "--model", "MODEL", "x", "--temperature", "nan"],
        &["run", "--model", "MODEL", "x", "--compute", "f64"],
        &["render", "--model", "MODEL", "--messages", "x.json", "--set", "novalue"],
        &["score", "--model", "MODEL", "--max-batch", "0"],
        &["score", "--model", "MODEL", "--stride", "5"],
    ] {
        assert!(!failure(args, 2).is_empty(), "{args:?}");
    }
    for args in [
        &["run", "--model", "/no/such/folder", "x"][..],
        &["chat", "--model", "/no/such/folder"],
        &["score", "--model", "/no/such/folder"],
        &["info", "--model", "/no/such/folder"],
    ] {
        let message = failure(args, 1);
        assert!(message.starts_with("astrai: ") && message.contains("/no/such/folder"), "{args:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    // What stands for a model by its place, and is none, is told for what it is.
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir, "model.gguf", "GGUF\u{3}\0\0\0");
    for args in [["run", &file, "Hi"], ["run", "Hi", &file]] {
        assert!(failure(&args, 1).contains("GGUF"), "{args:?}");
    }
    assert!(failure(&["run", "Qwen/Qwen3-0.6B", "Hi there"], 1).contains("hf download"));
    assert!(failure(&["run", "and/or?", "Hi there"], 2).contains("name it with --model"));
    let message = failure(&["render", "--model", "MODEL", "--messages", "/no/such/file.json"], 1);
    assert!(message.starts_with("astrai: ") && message.contains("/no/such/file.json"), "{message}");
}

#[test]
fn chat_remembers_the_turns() {
    let options = ["--model", "MODEL", "--temperature", "0", "--max-tokens", "16", "--system", "You are an innkeeper."];
    let chat = output(&[&["chat"], &options[..]].concat(), "Good evening!\n\nWhat is new?\n");
    assert_eq!(chat.status.code(), Some(0), "{}", text(&chat.stderr));
    let mut messages = vec![
        json!({"role": "system", "content": "You are an innkeeper."}),
        json!({"role": "user", "content": "Good evening!"}),
    ];
    let answer = |messages: &[Value]| {
        let scored = score(&["--model", "MODEL"], &[json!({"messages": messages, "max_tokens": 16})]);
        scored[0]["text"].as_str().unwrap().to_owned()
    };
    let first = answer(&messages);
    messages.push(json!({"role": "assistant", "content": first}));
    messages.push(json!({"role": "user", "content": "What is new?"}));
    let second = answer(&messages);
    assert_eq!(text(&chat.stdout), format!("{}\n{}\n", first.trim_end_matches('\n'), second.trim_end_matches('\n')));
    assert_eq!(text(&chat.stderr).matches(" tokens/s").count(), 2, "{}", text(&chat.stderr));
}

#[test]
fn chat_drops_the_oldest_turns_when_the_context_is_full() {
    let line = "Tell me about the lighthouse, the harbour, the key and the lantern. ".repeat(2);
    let input = format!("{line}\n").repeat(8);
    let args = ["chat", "--model", "MODEL", "--context", "256", "--max-tokens", "24", "--seed", "1"];
    let chat = output(&args, &input);
    let report = text(&chat.stderr);
    assert_eq!(chat.status.code(), Some(0), "{report}");
    assert_eq!(report.matches(" tokens/s").count(), 8, "{report}");
    assert!(report.contains("dropped"), "{report}");
    // One line that never fits is told and forgotten; the next is answered.
    let long = output(&args, &format!("{}\nHello.\n", line.repeat(20)));
    let report = text(&long.stderr);
    assert_eq!(long.status.code(), Some(0), "{report}");
    assert_eq!(report.matches(" tokens/s").count(), 1, "{report}");
}

#[test]
fn render_prints_the_prompt_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let messages = write(
        &dir,
        "messages.json",
        r#"[{"role": "system", "content": "Be kind."}, {"role": "user", "content": " Grüß dich <3 "}]"#,
    );
    let args = ["render", "--model", "MODEL", "--messages", &messages];
    let body = "<|system|>Be kind.<|end|><|user|>Grüß dich <3<|end|>";
    assert_eq!(stdout(&args, ""), format!("<|bos|>{body}<|assistant|>"));
    assert_eq!(stdout(&[&args[..], &["--no-generation-prompt"]].concat(), ""), format!("<|bos|>{body}"));
    assert_eq!(stdout(&[&args[..], &["--set", "bos_token=[B]"]].concat(), ""), format!("[B]{body}<|assistant|>"));
    let stranger = write(&dir, "stranger.json", r#"[{"role": "ghost", "content": "boo"}]"#);
    let message = failure(&["render", "--model", "MODEL", "--messages", &stranger], 1);
    assert!(message.starts_with("astrai: ") && message.contains("unknown role: ghost"), "{message}");
    let no_list = write(&dir, "object.json", "{}");
    assert!(failure(&["render", "--model", "MODEL", "--messages", &no_list], 1).contains("JSON array"));
}

#[test]
fn render_needs_only_the_tokenizers_files_and_takes_a_template() {
    let dir = tempfile::tempdir().unwrap();
    let template = write(
        &dir,
        "t.jinja",
        "{{ bos_token }}|{{ eos_token }}|{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}\
         {% if tools %}{{ tools | tojson }}{% endif %}|{{ mode }}|{{ depth + 1 }}|{{ add_generation_prompt }}",
    );
    let messages = write(&dir, "m.json", r#"[{"role": "user", "content": "Hi"}]"#);
    let tools = write(&dir, "tools.json", r#"[{"type": "function", "function": {"name": "f", "parameters": {}}}]"#);
    let weightless = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(repository("models/storyteller").join(file), weightless.path().join(file)).unwrap();
    }
    let config = fs::read_to_string(weightless.path().join("tokenizer_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    let own = config.as_object_mut().and_then(|config| config.remove("chat_template"));
    fs::write(weightless.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let folder = weightless.path().display().to_string();
    let args = ["--messages", &messages, "--set", "mode=text", "--set", "depth=2"];

    let with_tools = [&["render", "--model", &folder, "--template", &template, "--tools", &tools], &args[..]].concat();
    let expected =
        r#"<|bos|>|<|end|>|user:Hi;[{"type": "function", "function": {"name": "f", "parameters": {}}}]|text|3|True"#;
    assert_eq!(stdout(&with_tools, ""), expected);
    let without = [&["render", "--model", "MODEL", "--template", &template, "--no-generation-prompt"], &args[..]];
    assert_eq!(stdout(&without.concat(), ""), "<|bos|>|<|end|>|user:Hi;|text|3|False");
    let overridden = [&with_tools[..], &["--set", "eos_token=<E>"]].concat();
    assert_eq!(stdout(&overridden, ""), expected.replace("<|end|>", "<E>"));

    // Without weights the folder's own template works too; without any template, the message says so.
    let message = failure(&["render", "--model", &folder, "--messages", &messages], 1);
    assert!(message.contains("template"), "{message}");
    let own = own.as_ref().and_then(Value::as_str).expect("the storyteller has a template").to_owned();
    fs::write(weightless.path().join("chat_template.jinja"), own).unwrap();
    let rendered = stdout(&["render", "--model", &folder, "--messages", &messages], "");
    assert_eq!(rendered, "<|bos|><|user|>Hi<|end|><|assistant|>");
}

#[test]
fn score_answers_in_order_and_goes_on_after_bad_lines() {
    let input = [
        r#"{"id": "a", "prompt": "Once upon a time", "max_tokens": 12, "logprobs": 3, "prompt_logprobs": true}"#,
        "this is not JSON",
        "",
        r#"{"id": {"n": 2}, "prompt": "Hello", "max_tokens": -4}"#,
        r#"{"id": 3, "prompt_tokens": [99999999], "max_tokens": 1}"#,
        r#"{"id": 4, "prompt": "Hello", "max_tokens": 0, "prompt_logprobs": true}"#,
        r#"{"prompt": "Hello", "max_tokens": 6, "temperature": 1.0, "seed": 3, "ignore_eos": true, "comment": "x"}"#,
        r#"{"id": 6, "prompt": "", "prompt_tokens": [5]}"#,
        r#"{"id": 7, "prompt": "Hello", "max_tokens": 6, "stop": ["e", "a"], "logit_bias": {"3": -100}}"#,
    ]
    .join("\n");
    let scored = output(&["score", "--model", "MODEL"], &input);
    assert_eq!(scored.status.code(), Some(0), "{}", text(&scored.stderr));
    assert!(text(&scored.stderr).contains("`comment`"), "{}", text(&scored.stderr));
    let results: Vec<Value> =
        text(&scored.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ids: Vec<&Value> = results.iter().map(|result| &result["id"]).collect();
    let null = Value::Null;
    assert_eq!(ids, [&json!("a"), &null, &json!({"n": 2}), &json!(3), &json!(4), &null, &json!(6), &json!(7)]);
    for bad in [1, 2, 3, 6] {
        let keys: Vec<&String> = results[bad].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["id", "error"], "{}", results[bad]);
        assert!(results[bad]["error"].as_str().is_some_and(|message| message.len() > 5));
    }
    let keys: Vec<&String> = results[0].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["id", "prompt_tokens", "tokens", "text", "token_logprobs", "top_logprobs", "prompt_logprobs", "finish_reason"]
    );
    greedy_line_is_consistent(&results[0]);

    let only_scored = &results[4];
    assert_eq!((&only_scored["tokens"], &only_scored["text"]), (&json!([]), &json!("")));
    assert_eq!(only_scored["finish_reason"], "length");
    assert_eq!(array(only_scored, "prompt_logprobs").len(), array(only_scored, "prompt_tokens").len());

    let drawn = &results[5];
    assert_eq!(array(drawn, "tokens").len(), 6);
    assert_eq!(drawn["top_logprobs"], json!([[], [], [], [], [], []]));
    assert_eq!(drawn["prompt_logprobs"], Value::Null);
    let stopped = results[7]["text"].as_str().unwrap();
    assert!(!stopped.contains(['e', 'a']), "{stopped:?}");
}

/// 12 greedy tokens with 3 alternatives each and the prompt's logprobs.
fn greedy_line_is_consistent(line: &Value) {
    let tokens = array(line, "tokens");
    let logprobs = array(line, "token_logprobs");
    let tops = array(line, "top_logprobs");
    assert!(!tokens.is_empty() && tokens.len() <= 12);
    assert_eq!((logprobs.len(), tops.len()), (tokens.len(), tokens.len()));
    for ((token, logprob), top) in tokens.iter().zip(logprobs).zip(tops) {
        let top = top.as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!((&top[0][0], &top[0][1]), (token, logprob), "greedy takes the best");
        let values: Vec<f64> = top.iter().map(|pair| pair[1].as_f64().unwrap()).collect();
        assert!(values[0] <= 0.0 && values.is_sorted_by(|a, b| a >= b), "{values:?}");
    }
    let prompt = array(line, "prompt_logprobs");
    assert_eq!(prompt.len(), array(line, "prompt_tokens").len());
    assert!(prompt[0].is_null() && prompt[1..].iter().all(|logprob| logprob.as_f64().unwrap() <= 0.0));
}

#[test]
fn score_does_not_depend_on_the_batch() {
    let lines: Vec<Value> = (0..24)
        .map(|i| {
            let prompt = format!("{} and the lantern {}", ["Mira", "Tom", "Old Anna"][i % 3], "went on ".repeat(i % 5));
            json!({"id": i, "prompt": prompt, "max_tokens": 10 + i % 7, "temperature": 0.8, "seed": i, "logprobs": 2})
        })
        .collect();
    let batched = score(&["--model", "MODEL", "--max-batch", "8"], &lines);
    let alone = score(&["--model", "MODEL", "--max-batch", "1", "--threads", "1"], &lines);
    assert_eq!(batched.len(), 24);
    assert_eq!(batched, alone);
}

#[test]
fn score_answers_a_line_before_the_next_is_written() {
    let mut child = astrai(&["score", "--model", "MODEL"]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut results = BufReader::new(child.stdout.take().unwrap()).lines();
    for id in 0..3 {
        writeln!(input, "{}", json!({"id": id, "prompt": "Hello", "max_tokens": 2})).unwrap();
        input.flush().unwrap();
        let result: Value = serde_json::from_str(&results.next().unwrap().unwrap()).unwrap();
        assert_eq!(result["id"], id);
    }
    drop(input);
    assert!(results.next().is_none());
    assert!(child.wait().unwrap().success());
}

#[test]
fn score_on_token_ids_without_a_tokenizer_agrees_with_the_reference() {
    let folder = repository("tests/fixtures/parity/llama");
    let reference: Value = serde_json::from_slice(&fs::read(folder.join("reference.json")).unwrap()).unwrap();
    let cases = array(&reference, "cases");
    let lines: Vec<Value> = cases
        .iter()
        .map(|case| json!({"prompt_tokens": case["prompt"], "max_tokens": 8, "ignore_eos": true}))
        .collect();
    let results = score(&["--model", &folder.display().to_string(), "--compute", "f32"], &lines);
    assert_eq!(results.len(), cases.len());
    for (result, case) in results.iter().zip(cases) {
        assert_eq!(result["prompt_tokens"], case["prompt"]);
        assert_eq!(result["tokens"], case["generated"]);
        assert_eq!(result["finish_reason"], "length");
    }
}

#[test]
fn perplexity_is_that_of_the_prompt_logprobs_and_windows_score_each_token_once() {
    let dir = tempfile::tempdir().unwrap();
    let story = "Once upon a time there was a girl named Mira. She lived near the old lighthouse. ".repeat(6);
    let file = write(&dir, "story.txt", &story);
    let perplexity = |options: &[&str]| -> Value {
        let line = stdout(&[&["score", "--model", "MODEL", "--text", &file], options].concat(), "");
        assert_eq!(line.lines().count(), 1);
        serde_json::from_str(&line).expect("JSON")
    };
    let whole = perplexity(&[]);
    let line = json!({"prompt": story, "max_tokens": 0, "prompt_logprobs": true});
    let scored = score(&["--model", "MODEL"], &[line]);
    let logprobs: Vec<f64> = array(&scored[0], "prompt_logprobs").iter().filter_map(Value::as_f64).collect();
    let mean_nll = -logprobs.iter().sum::<f64>() / logprobs.len() as f64;
    assert_eq!(whole["tokens"], array(&scored[0], "prompt_tokens").len());
    assert_eq!(whole["scored_tokens"], logprobs.len());
    assert!((whole["mean_nll"].as_f64().unwrap() - mean_nll).abs() < 1e-6, "{whole}, {mean_nll}");
    assert!((whole["perplexity"].as_f64().unwrap() - mean_nll.exp()).abs() < 1e-4 * mean_nll.exp(), "{whole}");

    let windows = perplexity(&["--context", "64", "--stride", "16"]);
    assert_eq!((&windows["context"], &windows["stride"]), (&json!(64), &json!(16)));
    assert_eq!(windows["scored_tokens"], whole["scored_tokens"]);
    assert!(windows["mean_nll"].as_f64().is_some_and(|nll| nll > 0.0 && nll < 20.0), "{windows}");
    failure(&["score", "--model", "MODEL", "--text", &file, "--context", "64", "--stride", "64"], 2);
}

#[test]
fn formats_of_weights_and_cache_are_chosen_and_weights_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache").display().to_string();
    let run = ["run", "--model", "MODEL", "--raw", "--temperature", "0", "--max-tokens", "24", "Once upon a time"];
    let plain = stdout(&[&run[..], &["--weights", "q8"]].concat(), "");
    for _ in 0..2 {
        let kept = stdout(&[&run[..], &["--weights", "q8", "--weights-cache", &cache]].concat(), "");
        assert_eq!(kept, plain);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
    }
    assert!(!stdout(&[&run[..], &["--kv", "q8"]].concat(), "").is_empty());
    let message = failure(&[&run[..], &["--weights-cache", &cache]].concat(), 2);
    assert!(message.contains("--weights"), "{message}");
}

#[test]
fn quality_is_nothing_lost_for_the_same_weights_and_more_with_fewer_bits() {
    let dir = tempfile::tempdir().unwrap();
    let story = "Once upon a time there was a girl named Mira. She lived near the old lighthouse. ".repeat(6);
    let file = write(&dir, "story.txt", &story);
    let quality = |options: &[&str]| -> Value {
        let line = stdout(&[&["quality", "--model", "MODEL", "--window", "64"], options].concat(), "");
        serde_json::from_str(&line).expect("JSON")
    };
    let number = |result: &Value, name: &str| result[name].as_f64().unwrap();
    let same = quality(&["--text", &file]);
    assert_eq!((number(&same, "divergence"), number(&same, "same_top")), (0.0, 1.0), "{same}");
    assert_eq!(same["perplexity"], same["perplexity_against"]);
    let [q8, q4] = ["q8", "q4"].map(|weights| quality(&["--text", &file, "--weights", weights]));
    let [eight, four] = [&q8, &q4].map(|result| number(result, "divergence"));
    assert!(0.0 < eight && eight < 0.01 && 4.0 * eight < four && four < 0.2, "{q8} {q4}");
    assert_eq!(q8["perplexity_against"], same["perplexity"]);
    let swapped = quality(&["--text", &file, "--against-weights", "q8"]);
    assert_eq!(swapped["perplexity_against"], q8["perplexity"]);
    let random = quality(&["--random", "100", "--limit", "65"]);
    assert_eq!(random["tokens"], 63, "64 tokens in the first window, and one alone has nothing before it");
    failure(&["quality", "--model", "MODEL"], 2);
    failure(&["quality", "--model", "MODEL", "--random", "100", "--window", "5000"], 2);
}

#[test]
fn info_names_the_facts() {
    let facts = stdout(&["info", "--model", "MODEL"], "");
    for (name, value) in [
        ("model type", "llama"),
        ("context", "tokens"),
        ("chat template", "yes"),
        ("cpu tier", ""),
        ("weights       5.49 MiB", ""),
        ("kv cache      24.00 MiB for 32768 tokens, 768 B each", ""),
        ("workspace", "iB"),
        ("memory", "are available"),
        ("sequences     16 of 2048 tokens at the same time", ""),
    ] {
        assert!(facts.lines().any(|line| line.starts_with(name) && line.ends_with(value)), "{name} in {facts}");
    }
}

/// Nearly uniform draws: the end token is as unlikely as any other, so the answer is long.
const ENDLESS: [&str; 11] =
    ["run", "--model", "MODEL", "--raw", "Hello", "--temperature", "100", "--top-p", "1", "--seed", "1"];

#[test]
fn a_closed_pipe_is_quiet() {
    let mut child = astrai(&ENDLESS).spawn().unwrap();
    drop(child.stdout.take());
    let mut report = String::new();
    child.stderr.take().unwrap().read_to_string(&mut report).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(report, "");
}

#[cfg(unix)]
#[test]
fn ctrl_c_cancels_the_answer_and_reports() {
    let mut child = astrai(&ENDLESS).spawn().unwrap();
    let mut answer = child.stdout.take().unwrap();
    answer.read_exact(&mut [0]).expect("a first byte");
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let mut rest = Vec::new();
    answer.read_to_end(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let report = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{report}");
    assert!(report.contains("tokens/s") && report.contains("ended by cancel"), "{report}");
    assert!(rest.ends_with(b"\n"));
}
