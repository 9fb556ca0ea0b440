//! Where the model and the prompt stand, what is no UTF-8, and options that have nothing to do.

use super::*;

/// Runs it to its end with bytes for stdin.
fn output_of_bytes(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = astrai(args).spawn().expect("astrai starts");
    child.stdin.take().expect("stdin is a pipe").write_all(stdin).expect("it reads");
    child.wait_with_output().expect("astrai ends")
}

#[test]
fn every_command_takes_the_folder_by_position() {
    let dir = tempfile::tempdir().unwrap();
    let messages = write(&dir, "m.json", r#"[{"role": "user", "content": "Hi"}]"#);
    let story = write(&dir, "story.txt", "Once upon a time there was a lighthouse.");
    let greedy = ["--temperature", "0", "--max-tokens", "6"];
    for (command, rest, input) in [
        ("render", &["--messages", &*messages][..], ""),
        ("info", &[], ""),
        ("chat", &greedy, "Good evening!\n"),
        ("score", &[], "{\"prompt\": \"Hello\", \"max_tokens\": 3}\n"),
        ("score", &["--text", &story], ""),
        ("embed", &[], "Once upon a time\nThe lighthouse\n"),
        ("quality", &["--text", &story], ""),
        ("run", &["--messages", &messages, "--temperature", "0", "--max-tokens", "6"], ""),
    ] {
        let by_option = stdout(&[&[command, "--model", "MODEL"], rest].concat(), input);
        assert!(!by_option.is_empty(), "{command}");
        if command == "info" {
            assert!(stdout(&[&[command, "MODEL"], rest].concat(), input).contains("llama"));
        } else {
            assert_eq!(stdout(&[&[command, "MODEL"], rest].concat(), input), by_option, "{command}");
            assert_eq!(stdout(&[&[command], rest, &["MODEL"]].concat(), input), by_option, "{command}");
        }
        assert!(failure(&[&[command, "MODEL", "--model", "MODEL"], rest].concat(), 2).contains("--model"), "{command}");
        let nothing = failure(&[&[command], rest].concat(), 2);
        assert!(nothing.contains("MODEL_DIR") || nothing.contains("there is no model"), "{command}: {nothing}");
    }
    let bench = ["bench", "--workload", "decode", "--requests", "1", "--gen-len", "2", "--json"];
    for model in [&["--model", "MODEL"][..], &["MODEL"]] {
        let run: Value = serde_json::from_str(&stdout(&[&bench[..], model].concat(), "")).unwrap();
        assert_eq!(run["config"]["model"], storyteller());
    }
    for more in [&["MODEL", "--model", "MODEL"][..], &["--model", "MODEL", "--shape", "storyteller"]] {
        failure(&[&bench[..], more].concat(), 2);
    }
}

#[test]
fn run_tells_the_folder_from_the_prompt() {
    let greedy = ["--raw", "--temperature", "0", "--max-tokens", "8"];
    let run = |words: &[&str]| stdout(&[&["run"], &greedy[..], words].concat(), "");
    let expected = run(&["--model", "MODEL", "Once upon a time"]);
    assert_eq!(run(&["MODEL", "Once upon a time"]), expected);
    assert_eq!(run(&["Once upon a time", "MODEL"]), expected);
    assert_eq!(stdout(&[&["run"], &greedy[..], &["MODEL", "-"]].concat(), "Once upon a time"), expected);
    // A prompt that is the name of a folder, but of no model.
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let named = run(&["--model", "MODEL", &folder]);
    assert_eq!(run(&["MODEL", &folder]), named);
    assert_eq!(run(&[&folder, "MODEL"]), named);
    for (words, told) in [
        (&["Once upon a time"][..], "there is no model for the prompt \"Once upon a time\""),
        (&["MODEL"], "there is no prompt after the folder"),
        (&["MODEL", "MODEL"], "name it with --model"),
        (&["/no/such/folder", "Hello"], "none of \"/no/such/folder\" and \"Hello\""),
        (&["--model", "MODEL"], "there is no prompt"),
        (&["--model", "MODEL", "MODEL", "Hello"], "--model names"),
        (&["--model", "MODEL", "Hello", "there"], "in quotes"),
        (&[], "there is no prompt"),
    ] {
        let message = failure(&[&["run"], words].concat(), 2);
        assert!(message.contains(told), "{words:?}: {message}");
    }
    let messages = write(&dir, "m.json", r#"[{"role": "user", "content": "Hi"}]"#);
    let message = failure(&["run", "--messages", &messages, "MODEL", "Hello"], 2);
    assert!(message.contains("in place of a prompt"), "{message}");
}

#[test]
fn a_bad_byte_costs_a_character_and_a_note() {
    let options = ["--model", "MODEL", "--max-tokens", "3", "--temperature", "0"];
    let chat = output_of_bytes(&[&["chat"], &options[..]].concat(), b"Hello \xff\nBye\n");
    let told = text(&chat.stderr);
    assert_eq!(chat.status.code(), Some(0), "{told}");
    assert!(told.starts_with("astrai: the line is not UTF-8 from byte 6 on"), "{told}");
    assert_eq!((told.matches(" tokens/s").count(), told.matches("UTF-8").count()), (2, 1), "{told}");
    let good = output(&[&["chat"], &options[..]].concat(), "Hello \u{fffd}\nBye\n");
    assert_eq!(chat.stdout, good.stdout);

    let run = [&["run", "--raw", "-"], &options[..]].concat();
    let piped = output_of_bytes(&run, b"Once \xc3( upon");
    assert_eq!((piped.status.code(), &piped.stdout), (Some(0), &output(&run, "Once \u{fffd}( upon").stdout));
    assert!(text(&piped.stderr).contains("the prompt on stdin is not UTF-8 from byte 5 on"), "{}", text(&piped.stderr));

    let lines = b"{\"id\": 1, \"prompt\": \"a\xffb\"}\n{\"id\": 2, \"prompt\": \"Hi\", \"max_tokens\": 1}\n";
    let scored = output_of_bytes(&["score", "--model", "MODEL"], lines);
    assert_eq!(scored.status.code(), Some(0));
    let results: Vec<Value> = text(&scored.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results[0], json!({"id": null, "error": "line 1: not UTF-8 from byte 22"}));
    assert_eq!((&results[1]["id"], &results[1]["finish_reason"]), (&json!(2), &json!("length")));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("story.txt");
    fs::write(&file, b"Once \xff").unwrap();
    let message = failure(&["score", "--model", "MODEL", "--text", &file.display().to_string()], 1);
    assert!(message.contains("story.txt: not UTF-8 from byte 5"), "{message}");
}

#[cfg(unix)]
#[test]
fn arguments_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = astrai(&["run", "MODEL", "--raw", "--temperature", "0", "--max-tokens", "3"]);
    let bad = command.arg(std::ffi::OsStr::from_bytes(b"Once \xff")).stdin(Stdio::null()).output().unwrap();
    let good = ["run", "MODEL", "--raw", "--temperature", "0", "--max-tokens", "3", "Once \u{fffd}"];
    assert_eq!((bad.status.code(), text(&bad.stdout)), (Some(0), stdout(&good, "")));
    assert!(text(&bad.stderr).contains("the prompt is not UTF-8 from byte 5 on"), "{}", text(&bad.stderr));
}

#[test]
fn an_answer_is_continued_and_not_echoed() {
    let dir = tempfile::tempdir().unwrap();
    let conversation = json!([{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "In the pale "}]);
    let messages = write(&dir, "m.json", &conversation.to_string());
    let rendered = format!("<|bos|><|user|>{PROMPT}<|end|><|assistant|>In the pale");
    assert_eq!(stdout(&["render", "MODEL", "--messages", &messages, "--continue"], ""), rendered);
    let template = write(&dir, "t.jinja", "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}!");
    let with = ["render", "MODEL", "--messages", &messages, "--template", &template, "--continue"];
    assert_eq!(stdout(&with, ""), format!("[user]{PROMPT}[end][assistant]In the pale "));

    let run = ["run", "MODEL", "--messages", &messages, "--continue", "--temperature", "0", "--max-tokens", "12"];
    let line = json!({"messages": conversation, "continue": true, "max_tokens": 12});
    let raw = json!({"prompt": rendered, "max_tokens": 12});
    let [scored, raw] = score(&["MODEL"], &[line, raw]).try_into().unwrap();
    assert_eq!(scored, raw, "the same ids, the same tokens, the same text");
    let new = scored["text"].as_str().unwrap();
    assert!(!new.is_empty() && !new.contains("In the pale"), "{new:?}");
    assert_eq!(stdout(&run, "").trim_end(), new.trim_end());

    let user = write(&dir, "u.json", &json!([{"role": "user", "content": "Hi"}]).to_string());
    for args in [
        &["run", "MODEL", "--messages", &user, "--continue"][..],
        &["render", "MODEL", "--messages", &user, "--continue"],
    ] {
        let message = failure(args, 1);
        assert!(message.contains("role is \"user\""), "{message}");
    }
    failure(&["run", "MODEL", "Hi", "--continue"], 2);
}

#[test]
fn special_tokens_are_seen_when_asked_for() {
    let line = |more: Value| {
        let mut line = json!({"prompt": "Once", "max_tokens": 2, "logit_bias": {"3": 1e6}});
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    };
    let lines = [line(json!({})), line(json!({"special": true})), line(json!({"stop": "<|user|>", "special": true}))];
    let [plain, shown, stopped] = score(&["MODEL"], &lines).try_into().unwrap();
    assert_eq!((&plain["text"], &plain["finish_reason"]), (&json!(""), &json!("length")));
    assert_eq!((&shown["text"], &shown["tokens"]), (&json!("<|user|><|user|>"), &json!([3, 3])));
    assert_eq!(
        (&stopped["text"], &stopped["tokens"], &stopped["finish_reason"]),
        (&json!(""), &json!([3]), &json!("stop"))
    );
    // Nothing of a model's ordinary answer changes.
    let run = ["run", "MODEL", PROMPT, "--temperature", "0", "--max-tokens", "20"];
    assert_eq!(stdout(&run, ""), stdout(&[&run[..], &["--special"]].concat(), ""));
}

#[test]
fn options_that_have_nothing_to_do_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("saved").display().to_string();
    for args in [
        &["run", "MODEL", "Hi", "--raw", "--set", "a=1"][..],
        &["run", "MODEL", "Hi", "--raw", "--special-content"],
        &["run", "MODEL", "Hi", "--raw", "--tools", "t.json"],
        &["bench", "--save", &folder, "--weights", "q8"],
        &["bench", "--save", &folder, "--requests", "3"],
        &["bench", "--print-config", "--device", "cpu"],
        &["bench", "--simulate", "--weights", "q8"],
        &["bench", "--simulate", "--model", "MODEL"],
        &["bench", "--simulate", "--shape", "storyteller"],
    ] {
        assert!(failure(args, 2).contains("cannot be used with") || args.contains(&"--tools"), "{args:?}");
    }
    assert!(!Path::new(&folder).exists());
    // A model without a template.
    let bare = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(repository("models/storyteller").join(file), bare.path().join(file)).unwrap();
    }
    let bare = bare.path().display().to_string();
    for option in [&["--set", "a=1"][..], &["--special-content"], &["--system", "x"], &["--chat"]] {
        let message = failure(&[&["run", &bare, "Hi"], option].concat(), 1);
        assert!(message.contains(option[0]) && message.contains("needs a chat template"), "{message}");
    }
}

#[test]
fn embed_prints_a_line_for_each_text() {
    let embed = |args: &[&str], input: &str| -> Vec<Value> {
        let lines = stdout(&[&["embed"], args].concat(), input);
        lines.lines().map(|line| serde_json::from_str(line).expect("a result is JSON")).collect()
    };
    let all = embed(&["MODEL"], "Once upon a time\n\nThe lighthouse\r\nOnce upon a time");
    assert_eq!(all.iter().map(|line| line["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(all[0]["embedding"], all[2]["embedding"]);
    assert_ne!(all[0]["embedding"], all[1]["embedding"]);
    assert!(all[0]["prompt_tokens"].as_u64().unwrap() > 1);
    let norm: f64 = array(&all[1], "embedding").iter().map(|x| x.as_f64().unwrap().powi(2)).sum();
    assert!((norm - 1.0).abs() < 1e-6);
    assert_eq!(embed(&["--text", "Once upon a time", "--text", "The lighthouse", "MODEL"], ""), all[..2]);
    let short = embed(&["--dimensions", "4", "--max-batch", "1", "--model", "MODEL"], "Once upon a time");
    assert_eq!(array(&short[0], "embedding").len(), 4);
    let long = format!("{}\nx\n", "a story ".repeat(20_000));
    let lines = embed(&["MODEL"], &long);
    assert!(lines[0]["error"].as_str().unwrap().contains("context") && lines[1]["embedding"].is_array());
    assert!(failure(&["embed", "MODEL", "--dimensions", "100000"], 1).contains("dimensions"));
}
