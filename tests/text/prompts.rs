//! What becomes of a prompt before and after the model: a last message that is continued, begin tokens, special tokens as
//! text and as stops, the tokens that end an answer. Engines are opened on `models/storyteller`, or on a folder that links to
//! its weights and has other files beside them.

use crate::support::lines::Lines;
use crate::support::models;
use astrai::engine::{
    Engine, EngineOptions, Event, FinishReason, LogLevel, MessageFlags, Next, Prompt, PromptPart, RequestOptions,
    Settings, Sink, TextOptions,
};
use astrai::text::{ChatTemplate, MarkedText, TemplateInput, continued};
use astrai::{Error, Status};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The storyteller with some of its files replaced.
fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(models::storyteller()).unwrap() {
        let file = file.unwrap();
        if files.iter().all(|(name, _)| file.file_name() != *name) {
            std::os::unix::fs::symlink(file.path(), dir.path().join(file.file_name())).unwrap();
        }
    }
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

/// A JSON file of the storyteller, changed.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> String {
    let text = fs::read_to_string(models::storyteller().join(name)).unwrap();
    let mut value = serde_json::from_str(&text).unwrap();
    change(&mut value);
    value.to_string()
}

/// An engine, and what it warns of.
fn open_in(dir: &Path, text_only: bool) -> (Engine, Lines) {
    let lines = Lines::default();
    let options = EngineOptions { text_only, threads: 1, max_running: 2, ..EngineOptions::default() };
    (Engine::open(dir, lines.at(LogLevel::Warn, options)).unwrap(), lines)
}

fn storyteller() -> Engine {
    open_in(&models::storyteller(), false).0
}

fn text(text: &str, special: bool) -> PromptPart {
    PromptPart::Text { text: text.into(), special }
}

fn raw(parts: Vec<PromptPart>) -> Prompt {
    Prompt { parts, ..Prompt::default() }
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// A chat whose last message is continued.
fn begun(messages: Vec<Value>) -> Prompt {
    let flags = MessageFlags { continued: true, ..MessageFlags::default() };
    let message_flags = [vec![MessageFlags::default(); messages.len() - 1], vec![flags]].concat();
    Prompt { messages, message_flags, ..Prompt::default() }
}

fn answer(engine: &Engine, prompt: &Prompt, options: &RequestOptions) -> Event {
    match engine.submit(prompt, options, Sink::Pull).unwrap().wait(None).unwrap() {
        Next::Event(event) => *event,
        other => panic!("{other:?}"),
    }
}

fn greedy(max_tokens: u32) -> RequestOptions {
    RequestOptions { temperature: Some(0.0), max_tokens: Some(max_tokens), ..RequestOptions::default() }
}

/// Renders the messages, the last one continued.
fn render(source: &str, messages: &[Value]) -> Result<String, Error> {
    let template = ChatTemplate::new(source, "template").unwrap();
    let variables = Map::new();
    let marked = continued::render(messages.to_vec(), |messages| {
        let (add_generation_prompt, exact) = (false, true);
        template.render(&TemplateInput { add_generation_prompt, exact, ..TemplateInput::new(messages, &variables) })
    })?;
    Ok(marked.text)
}

#[test]
fn a_last_message_is_continued_as_transformers_continues_it() {
    let file = fs::read_to_string(repository("tests/fixtures/continued.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() > 200, "{} cases", cases.len());
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let messages = case["messages"].as_array().unwrap();
        let got = render(file["templates"][name].as_str().unwrap(), messages);
        match (case["expected"].as_str(), name) {
            (Some(expected), _) => assert_eq!(got.as_deref(), Ok(expected), "{case}"),
            // Nothing is lost, the reasoning is only set on lines of its own.
            (None, "thinking") => {
                let solid = |text: &str| text.split_whitespace().collect::<String>();
                let content = solid(messages.last().unwrap()["content"].as_str().unwrap());
                assert!(solid(&got.unwrap()).ends_with(&content), "{case}");
            }
            (None, _) => {
                let error = got.unwrap_err();
                assert_eq!(error.status, Status::Template, "{case}");
                assert!(error.message.contains("leaves out a part of its content"), "{error}");
            }
        }
    }
}

#[test]
fn what_transformers_does_not_continue() {
    let trimmed = "{% for m in messages %}[{{ m.role }}]\n{{ m.content | trim }}[end]{% endfor %}";
    let of = |template, content: Value| render(template, &[message("user", "hi"), content]);
    // An answer that has not begun is what opens the turn: the template's own space stays.
    for empty in ["", " \n"] {
        assert_eq!(of(trimmed, message("assistant", empty)).unwrap(), "[user]\nhi[end][assistant]\n", "{empty:?}");
    }
    // A message that has only begun to think.
    let thinking = "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content %}<{{ m.reasoning_content }}>{% endif %}\
                    {{ m.content or '' }}{% endfor %}";
    let thought = |name: &str| json!({"role": "assistant", "content": null, name: "Six sevens "});
    for name in ["reasoning_content", "thinking", "reasoning"] {
        assert_eq!(of(thinking, thought(name)).unwrap(), "[user]hi[assistant]<Six sevens ", "{name}");
    }
    let parts = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{{ m.content | join('+') }}{% endif %}\
                 .{% endfor %}";
    assert_eq!(of(parts, json!({"role": "assistant", "content": ["One", "Two "]})).unwrap(), "hi.One+Two ");
    // The same text elsewhere, before and after.
    let twice =
        "{{ messages[-1].content }}|{% for m in messages %}{{ m.content }};{% endfor %}{{ messages[0].content }}";
    assert_eq!(of(twice, message("assistant", "hi")).unwrap().rsplit('|').next(), Some("hi;hi"));
    for (content, status) in [
        (json!(null), Status::Argument),
        (json!(5), Status::Argument),
        (json!([{"type": "image"}]), Status::Argument),
        (json!("Ahoy"), Status::Template),
    ] {
        let error = of("{{ messages[0].content }}", json!({"role": "assistant", "content": content})).unwrap_err();
        assert_eq!(error.status, status, "{content}: {error}");
    }
    assert_eq!(render(trimmed, &[]).unwrap_err().status, Status::Argument);
}

#[test]
fn ranges_of_content_end_where_the_text_ends() {
    let marked = continued::render(vec![message("assistant", "Ahoy")], |messages| {
        let content = messages[0]["content"].as_str().unwrap();
        let text = format!("user: hi assistant: {content}<end>bye");
        let end = text.len();
        Ok(MarkedText { content: vec![6..8, 20..20 + content.len(), end - 3..end], text })
    });
    let marked = marked.unwrap();
    assert_eq!((marked.text.as_str(), marked.content), ("user: hi assistant: Ahoy", vec![6..8, 20..24]));
}

#[test]
fn the_start_of_an_answer_is_given_and_not_echoed() {
    let engine = storyteller();
    let ask = message("user", "Tell me a story about Mira.");
    let prompt = begun(vec![ask.clone(), message("assistant", "In the pale days")]);
    let rendered = engine.render(&prompt, TextOptions::default()).unwrap();
    assert_eq!(rendered, "<|bos|><|user|>Tell me a story about Mira.<|end|><|assistant|>In the pale days");
    let ids = engine.tokenize(&prompt, TextOptions::default()).unwrap();
    assert_eq!(ids, engine.tokenize(&raw(vec![text(&rendered, true)]), TextOptions::default()).unwrap());
    let no_prompt = TextOptions { no_generation_prompt: true, ..TextOptions::default() };
    assert_eq!(engine.tokenize(&prompt, no_prompt).unwrap(), ids);
    // The same tokens as after the same ids, and none of the start in the text; deferred too.
    let by_ids = answer(&engine, &raw(vec![PromptPart::Tokens(ids.clone())]), &greedy(12));
    for defer in [false, true] {
        let event = answer(&engine, &prompt, &RequestOptions { defer, ..greedy(12) });
        assert_eq!((&event.tokens, &event.text), (&by_ids.tokens, &by_ids.text));
        assert_eq!(event.usage.unwrap().prompt_tokens as usize, ids.len());
    }
    // A pinned beginning ends there as well, not with the turn's end.
    let prefix = engine.pin_prefix(&prompt).unwrap();
    assert_eq!(prefix.wait(None).unwrap(), Some(ids.len() / 16 * 16));

    let refused = |prompt: &Prompt| engine.tokenize(prompt, TextOptions::default()).unwrap_err();
    let mut wrong = begun(vec![message("assistant", "In"), ask.clone()]);
    assert!(refused(&wrong).message.contains("role is \"user\""), "{}", refused(&wrong));
    wrong.message_flags.reverse();
    assert!(refused(&wrong).message.contains("message 0 is to be continued"), "{}", refused(&wrong));
    wrong.message_flags = vec![MessageFlags::default(); 3];
    assert_eq!(refused(&wrong).status, Status::Argument);
}

/// A tokenizer whose decoder drops the first space of a text, as Llama's does.
#[test]
fn the_first_word_after_a_start_keeps_its_space() {
    let tokenizer = changed("tokenizer.json", |file| {
        file["decoder"] = json!({"type": "Sequence", "decoders": [file["decoder"],
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    });
    let dir = folder(&[("tokenizer.json", tokenizer)]);
    let (engine, _) = open_in(dir.path(), false);
    let the = engine.tokenize(&raw(vec![text(" the", false)]), TextOptions::default()).unwrap();
    let the = *the.last().unwrap();
    let of = |start: &str| {
        let prompt = begun(vec![message("user", "hi"), message("assistant", start)]);
        answer(&engine, &prompt, &forced(the, &[], greedy(2))).text
    };
    assert_eq!(of("Once upon a"), " the the");
    assert_eq!(of(""), "the the", "an answer that has not begun begins like any other");
}

/// A post-processor that puts these tokens before a text, and `<|pad|>` after it.
fn puts(before: &[&str]) -> Value {
    let item = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let ids = json!({"<|bos|>": 0, "<|end|>": 1, "<|system|>": 2, "<|pad|>": 5});
    let tokens: Map<String, Value> = ids
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, id)| (name.clone(), json!({"id": name, "ids": [id], "tokens": [name]})))
        .collect();
    let mut single: Vec<Value> = before.iter().map(|name| item(name)).collect();
    single.extend([sequence("A"), item("<|pad|>")]);
    json!({"type": "TemplateProcessing", "single": single, "pair": [sequence("A"), sequence("B")], "special_tokens": tokens})
}

#[test]
fn a_text_that_begins_with_the_begin_tokens_gets_no_others() {
    for (before, texts) in [
        (vec!["<|bos|>"], vec![("hi", vec![0]), ("<|bos|>hi", vec![0]), ("<|bos|><|bos|>hi", vec![0, 0])]),
        (
            vec!["<|bos|>", "<|system|>"],
            vec![
                ("hi", vec![0, 2]),
                ("<|bos|><|system|>hi", vec![0, 2]),
                ("<|system|>hi", vec![0, 2]),
                ("<|bos|>hi", vec![0]),
                ("<|bos|>", vec![0]),
            ],
        ),
        (vec![], vec![("hi", vec![]), ("<|bos|>hi", vec![0])]),
    ] {
        let dir =
            folder(&[("tokenizer.json", changed("tokenizer.json", |file| file["post_processor"] = puts(&before)))]);
        let (engine, _) = open_in(dir.path(), true);
        let ids = |parts: Vec<PromptPart>, all: bool| {
            let options = TextOptions { special: all, ..TextOptions::default() };
            engine.tokenize(&raw(parts), options).unwrap()
        };
        for (written, begin) in texts {
            let special = ids(vec![text(written, true)], false);
            let specials: Vec<u32> = special.iter().copied().take_while(|&id| id < 6 && id != 5).collect();
            assert_eq!(specials, begin, "{before:?} {written:?}: {special:?}");
            assert_eq!(special.last(), Some(&5), "what comes after stays: {special:?}");
            assert_eq!(ids(vec![text(written, false)], true), special);
            // Names that are ordinary characters are no begin.
            let plain = ids(vec![text(written, false)], false);
            let all: Vec<u32> = before.iter().map(|name| if *name == "<|bos|>" { 0 } else { 2 }).collect();
            assert!(plain.starts_with(&all) && plain.get(all.len()).is_none_or(|&id| id > 5), "{plain:?}");
        }
    }
}

#[test]
fn a_rendered_chat_given_as_text_is_the_chat() {
    let engine = storyteller();
    let chat = Prompt { messages: vec![message("user", "hi")], ..Prompt::default() };
    let rendered = engine.render(&chat, TextOptions::default()).unwrap();
    let ids = engine.tokenize(&raw(vec![text(&rendered, true)]), TextOptions::default()).unwrap();
    assert_eq!(ids, engine.tokenize(&chat, TextOptions::default()).unwrap());
    assert_eq!(ids.iter().filter(|&&id| id == 0).count(), 1);
    // Token ids that are none stand before nothing and between nothing.
    let none = || PromptPart::Tokens(Vec::new());
    let parts = vec![none(), text(&rendered[..9], true), none(), text(&rendered[9..], true)];
    assert_eq!(engine.tokenize(&raw(parts), TextOptions::default()).unwrap(), ids);
}

#[test]
fn two_begin_tokens_are_told() {
    let (engine, lines) = open_in(&models::storyteller(), false);
    let hi = vec![5; 20];
    let tokens = |begin: &[u32]| raw(vec![PromptPart::Tokens([begin, &hi].concat())]);
    for one in [tokens(&[]), tokens(&[0]), tokens(&[0, 7, 0])] {
        answer(&engine, &one, &greedy(1));
    }
    answer(&engine, &tokens(&[0, 0]), &greedy(1));
    answer(&engine, &tokens(&[0, 0]), &RequestOptions { defer: true, ..greedy(1) });
    engine.pin_prefix(&tokens(&[0, 0])).unwrap().wait(None).unwrap();
    answer(&engine, &raw(vec![text("<|bos|><|bos|>hi", true)]), &greedy(1));
    drop(engine);
    let lines = lines.all();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("begin token 0 twice")), "{lines:?}");
    // The configuration's is another than the tokenizer's: both are one too many.
    let other = |c: &mut Value| c["bos_token_id"] = 7.into();
    let files = ["config.json", "generation_config.json"].map(|name| (name, changed(name, other)));
    let dir = folder(&files);
    let (engine, lines) = open_in(dir.path(), false);
    answer(&engine, &tokens(&[0]), &greedy(1));
    answer(&engine, &tokens(&[7, 0]), &greedy(1));
    drop(engine);
    let lines = lines.all();
    assert!(lines.len() == 1 && lines[0].contains("two begin tokens, 7 and 0"), "{lines:?}");
}

/// Options with which a model writes nothing but one token, until a stop.
fn forced(id: u32, stops: &[&str], options: RequestOptions) -> RequestOptions {
    let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
    let settings = Settings { bias: vec![(id, 1e6)], stops, ..Settings::default() };
    RequestOptions { settings: Some(Arc::new(settings)), ..options }
}

#[test]
fn special_tokens_have_text_when_asked_for_and_stop_when_named() {
    let engine = storyteller();
    let user = 3;
    let once = raw(vec![text("Once", false)]);
    let shown = |special| RequestOptions { special, ..greedy(3) };
    let event = answer(&engine, &once, &forced(user, &[], shown(false)));
    assert_eq!((event.text.as_str(), &event.tokens[..]), ("", &[user; 3][..]));
    let event = answer(&engine, &once, &forced(user, &[], shown(true)));
    assert_eq!((event.text.as_str(), event.finish), ("<|user|><|user|><|user|>", FinishReason::Length));
    // As a stop the name is the token, whether it is shown or not.
    for special in [false, true] {
        let event = answer(&engine, &once, &forced(user, &["\n\n", "<|user|>"], shown(special)));
        assert_eq!((event.text.as_str(), &event.tokens[..], event.finish), ("", &[user][..], FinishReason::Stop));
    }
    // A part of a name, shown, is a stop like any other text.
    let event = answer(&engine, &once, &forced(user, &["user|><"], shown(true)));
    assert_eq!((event.text.as_str(), event.tokens.len(), event.finish), ("<|", 2, FinishReason::Stop));
    // The end token has no text, unless it is to be gone past.
    let event = answer(&engine, &once, &forced(1, &[], shown(true)));
    assert_eq!((event.text.as_str(), &event.tokens[..], event.finish), ("", &[1][..], FinishReason::Eos));
    let past = RequestOptions { ignore_eos: true, ..shown(true) };
    assert_eq!(answer(&engine, &once, &forced(1, &[], past.clone())).text, "<|end|><|end|><|end|>");
    let event = answer(&engine, &once, &forced(1, &["<|end|>"], past.clone()));
    assert_eq!((event.text.as_str(), event.finish), ("", FinishReason::Stop));
}

#[test]
fn whatever_file_names_it_ends_an_answer() {
    let generation = json!({"eos_token_id": [40, 41]}).to_string();
    let config = changed("config.json", |config| config["eos_token_id"] = json!([41, 42]));
    let dir = folder(&[("generation_config.json", generation), ("config.json", config)]);
    let (engine, _) = open_in(dir.path(), false);
    assert_eq!((engine.info().eos_token, engine.info().bos_token), (Some(40), Some(0)));
    for (id, finish) in [
        (40, FinishReason::Eos),
        (41, FinishReason::Eos),
        (42, FinishReason::Eos),
        (1, FinishReason::Eos),
        (43, FinishReason::Length),
    ] {
        let prompt = raw(vec![text("Once", false)]);
        assert_eq!(answer(&engine, &prompt, &forced(id, &[], greedy(2))).finish, finish, "{id}");
    }
    // The tokenizer's are there for a model whose files name none.
    let config = changed("config.json", |config| {
        config.as_object_mut().unwrap().retain(|key, _| key != "eos_token_id" && key != "bos_token_id");
    });
    let dir = folder(&[("generation_config.json", "{}".into()), ("config.json", config)]);
    let (engine, _) = open_in(dir.path(), false);
    assert_eq!((engine.info().eos_token, engine.info().bos_token), (Some(1), Some(0)));
}

const TEMPLATES: [(&str, &str); 3] = [
    ("chat_template.jinja", "plain {{ messages[0].content }}"),
    ("additional_chat_templates/tool_use.jinja", "tool {{ tools[0].name }} {{ messages[0].content }}"),
    ("additional_chat_templates/rag.jinja", "rag {{ messages[0].content }}{{ chat_template }}"),
];

/// A folder with these templates beside the storyteller's files.
fn with_templates(templates: &[(&str, &str)]) -> tempfile::TempDir {
    let own = changed("tokenizer_config.json", |config| drop(config.as_object_mut().unwrap().remove("chat_template")));
    let dir = folder(&[("tokenizer_config.json", own), ("chat_template.jinja", templates[0].1.to_owned())]);
    fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    for (file, text) in &templates[1..] {
        fs::write(dir.path().join(file), text).unwrap();
    }
    dir
}

#[test]
fn a_prompt_gets_the_template_it_asks_for() {
    let dir = with_templates(&TEMPLATES);
    let (engine, lines) = open_in(dir.path(), true);
    let prompt = Prompt { messages: vec![message("user", "hi")], ..Prompt::default() };
    let tools = Prompt { tools: Some(json!([{"name": "tide"}])), ..prompt.clone() };
    let named =
        |name: &str| Prompt { variables: json!({"chat_template": name}).as_object().unwrap().clone(), ..tools.clone() };
    let render = |prompt: &Prompt| engine.render(prompt, TextOptions::default());
    assert_eq!(render(&prompt).unwrap(), "plain hi");
    assert_eq!(render(&tools).unwrap(), "tool tide hi");
    assert_eq!(render(&named("default")).unwrap(), "plain hi");
    assert_eq!(render(&named("rag")).unwrap(), "rag hi");
    let error = render(&named("none")).unwrap_err();
    assert_eq!(error.status, Status::Argument);
    assert!(error.message.contains("\"default\", \"rag\", \"tool_use\""), "{error}");
    assert!(lines.all().is_empty(), "{lines:?}");
}

#[test]
fn a_damaged_template_is_a_warning_and_an_error_where_it_is_used() {
    let files = [
        ("chat_template.jinja", "a\n{% for m in messages %}"),
        TEMPLATES[1],
        ("additional_chat_templates/rag.jinja", "{{ x | shout }}"),
    ];
    let dir = with_templates(&files);
    let (engine, lines) = open_in(dir.path(), true);
    let lines = lines.all().clone();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("chat_template.jinja, line 2: "), "{lines:?}");
    assert!(lines[1].contains("rag.jinja, line 1: No filter named 'shout'"), "{lines:?}");
    assert!(engine.info().has_chat_template);
    let prompt = Prompt { messages: vec![message("user", "hi")], ..Prompt::default() };
    let error = engine.render(&prompt, TextOptions::default()).unwrap_err();
    assert_eq!(error.status, Status::Template);
    let file = dir.path().join("chat_template.jinja");
    assert!(error.message.starts_with(&format!("{}, line 2", file.display())), "{error}");
    assert_eq!(error.subject, file.display().to_string());
    let tools = Prompt { tools: Some(json!([{"name": "tide"}])), ..prompt };
    assert_eq!(engine.render(&tools, TextOptions::default()).unwrap(), "tool tide hi");
    assert!(!engine.tokenize(&raw(vec![text("hi", true)]), TextOptions::default()).unwrap().is_empty());
}

#[test]
fn what_clients_send_is_rendered_in_the_form_the_template_wants() {
    let source = "{% for m in messages %}{{ m.content if m.content else '' }}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}\
        {% endfor %}{% endfor %}";
    let dir = with_templates(&[("chat_template.jinja", source)]);
    let (engine, _) = open_in(dir.path(), true);
    let call = json!({"function": {"name": "f", "arguments": "{\"wei\": 1}"}});
    let messages = vec![
        json!({"role": "user", "content": [{"type": "text", "text": "hi"}]}),
        json!({"role": "assistant", "content": null, "tool_calls": [call]}),
    ];
    let mut prompt = Prompt { messages, ..Prompt::default() };
    let exact = TextOptions { exact: true, ..TextOptions::default() };
    assert_eq!(engine.render(&prompt, TextOptions::default()).unwrap(), "hi{\"wei\": 1}");
    assert_eq!(engine.render(&prompt, exact).unwrap(), "[{'type': 'text', 'text': 'hi'}]\"{\\\"wei\\\": 1}\"");
    prompt.messages[0]["content"] = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
    let error = engine.render(&prompt, TextOptions::default()).unwrap_err();
    assert_eq!(error.status, Status::Unsupported);
    assert!(error.message.contains("messages[0].content[0] is an image"), "{error}");
}

#[test]
fn a_template_that_runs_does_not_hold_up_the_end_of_the_engine() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = a ~ b %}{% endfor %}{% endfor %}";
    let dir = with_templates(&[("chat_template.jinja", endless)]);
    let (engine, _) = open_in(dir.path(), false);
    let prompt = Prompt { messages: vec![message("user", "hi")], ..Prompt::default() };
    let options = RequestOptions { defer: true, ..greedy(1) };
    let request = engine.submit(&prompt, &options, Sink::Pull).unwrap();
    assert!(engine.close(std::time::Duration::ZERO).is_ok());
    assert!(matches!(request.wait(None).unwrap(), Next::Event(_)));
}

/// Whole turns go, never the system's, down to three quarters of the room, so that most of the turns after it find their beginning
/// computed.
#[test]
fn a_chat_is_shortened_by_whole_turns() {
    let engine = storyteller();
    let context = engine.info().context_length;
    let turn = |i: usize| {
        let words = "the old lighthouse and a silver key ".repeat(6);
        [
            message("user", &format!("{i} {words}")),
            message("assistant", "Wait."),
            message("assistant", &format!("{i} {words}")),
        ]
    };
    let mut prompt = Prompt { messages: vec![message("system", "Be kind.")], ..Prompt::default() };
    let (mut drops, mut cached, mut asked) = (0, 0, 0);
    for i in 0..60 {
        prompt.messages.extend(turn(i));
        prompt.messages.push(message("user", &format!("question {i}")));
        prompt.message_flags = vec![MessageFlags { special: true, ..MessageFlags::default() }; prompt.messages.len()];
        let before = prompt.messages.clone();
        let dropped = engine.fit_prompt(&mut prompt, context / 4).unwrap();
        assert_eq!(prompt.message_flags.len(), prompt.messages.len());
        // The system's stays, and what follows it begins a turn and is the end of what was there.
        assert_eq!(prompt.messages[0], before[0]);
        assert_eq!(prompt.messages[1]["role"], "user");
        assert_eq!(prompt.messages[1..], before[1 + dropped..]);
        let tokens = engine.tokenize(&prompt, TextOptions::default()).unwrap().len() as u32;
        assert!(tokens <= context - context / 4, "{tokens}");
        if dropped > 0 {
            drops += 1;
            assert!(tokens <= (context - context / 4) * 3 / 4 && dropped > 4, "{tokens} after {dropped}");
        }
        let usage = answer(&engine, &prompt, &greedy(1)).usage.unwrap();
        (cached, asked) = (cached + usage.cached_tokens, asked + usage.prompt_tokens);
        prompt.messages.pop();
    }
    assert!((2..15).contains(&drops), "{drops} drops");
    // Of a full context, which every turn would compute anew if each dropped the least.
    assert!(cached * 100 > asked * 70, "{cached} of {asked} tokens were cached");
    // What cannot be shortened says so, and nothing is lost.
    let long = message("user", &"the old lighthouse ".repeat(2000));
    let mut prompt =
        Prompt { messages: vec![message("user", "first"), message("assistant", "a"), long], ..Prompt::default() };
    let before = prompt.messages.clone();
    assert_eq!(engine.fit_prompt(&mut prompt, 10).unwrap_err().status, Status::Context);
    assert_eq!(prompt.messages, before);
    // One that leaves less room than was wanted stays alone.
    prompt.messages[2] = message("user", &"the old lighthouse ".repeat(400));
    assert_eq!(engine.fit_prompt(&mut prompt, context - 10).unwrap(), 2);
    assert_eq!(engine.fit_prompt(&mut raw(vec![text("x", false)]), 10).unwrap_err().status, Status::Argument);
}
