//! Rules of whole answers: tools that are called as they must be, constraints behind the reasoning, budgets.

use crate::answers::{TEMPLATE, chat, folder, open, pulled, text, wholes};
use crate::support::models::storyteller;
use crate::support::storm::oracle;
use astrai::Status;
use astrai::constrain::Kind;
use astrai::engine::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn tools() -> Value {
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["count", "why"], "properties": {
        "count": {"type": "integer", "minimum": 1, "maximum": 9}, "why": {"type": "string", "minLength": 1, "maxLength": 12}}});
    let none = json!({"type": "object", "additionalProperties": false, "properties": {}});
    json!([
        {"type": "function", "function": {"name": "dice", "description": "rolls", "parameters": schema}},
        {"type": "function", "function": {"name": "coin", "parameters": none}}
    ])
}

fn with_tools(text: &str) -> Prompt {
    Prompt { tools: Some(tools()), ..chat(text) }
}

fn asking(choice: ToolChoice, seed: u64) -> RequestOptions {
    let settings = Settings { tool_choice: choice, ..Settings::default() };
    RequestOptions {
        seed: Some(seed),
        temperature: Some(1.5),
        max_tokens: Some(300),
        settings: Some(Arc::new(settings)),
        ..RequestOptions::default()
    }
}

fn run(engine: &Engine, prompt: &Prompt, options: &RequestOptions) -> Vec<Event> {
    pulled(&engine.submit(prompt, options, Sink::Pull).unwrap())
}

fn change(options: &RequestOptions, change: impl FnOnce(&mut Settings)) -> RequestOptions {
    let mut settings = options.settings.as_deref().cloned().unwrap_or_default();
    change(&mut settings);
    RequestOptions { settings: Some(Arc::new(settings)), ..options.clone() }
}

/// Whether arguments are what the tool's schema says.
fn fits(name: &str, arguments: &str) -> bool {
    let Ok(Value::Object(arguments)) = serde_json::from_str(arguments) else { return false };
    match name {
        "coin" => arguments.is_empty(),
        "dice" => {
            let why = arguments["why"].as_str().unwrap_or_default().chars().count();
            let count = arguments["count"].as_u64().unwrap_or_default();
            arguments.len() == 2 && (1..=9).contains(&count) && (1..=12).contains(&why)
        }
        _ => false,
    }
}

#[test]
fn calls_that_are_demanded_are_calls_as_the_schemas_say() {
    let dir = folder(TEMPLATE, None);
    let engine = open(dir.path());
    let mut names = std::collections::BTreeSet::new();
    for seed in 0..12 {
        let named = |name: &str| (ToolChoice::Named(name.to_owned()), true);
        for (choice, single) in [(ToolChoice::Required, false), named("dice"), named("coin")] {
            let options = change(&asking(choice.clone(), seed), |settings| settings.single_call = single);
            let options =
                RequestOptions { defer: seed % 2 == 1, reasoning_tokens: Some(6), queue_tokens: 4, ..options };
            let events = run(&engine, &with_tools("go"), &options);
            let last = events.last().unwrap();
            let (parts, cut) = (wholes(&events), last.finish == FinishReason::Length);
            assert_eq!(last.complete, Some(!cut), "{choice:?} {seed}: {:?} {parts:?}", last.error);
            let calls: Vec<_> = parts.iter().filter(|part| part.kind == Some(PartKind::Call)).collect();
            assert!(!calls.is_empty() && (!single || calls.len() == 1), "{choice:?} {seed}: {parts:?}");
            for call in calls.iter().take(if cut { calls.len() - 1 } else { calls.len() }) {
                assert!(
                    call.end == Some(PartEnd::Complete) && fits(&call.name, &call.text),
                    "{choice:?} {seed}: {call:?}"
                );
                assert!(
                    !matches!(&choice, ToolChoice::Named(name) if *name != call.name),
                    "{choice:?} {seed}: {call:?}"
                );
                names.insert(call.name.clone());
            }
            assert_eq!(text(&events), "", "{choice:?} {seed}");
        }
    }
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["coin", "dice"]);
    engine.check().unwrap();
}

#[test]
fn a_constraint_is_on_what_follows_the_reasoning() {
    let dir = folder(TEMPLATE, None);
    let ahead = TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|><think>{% endif %}");
    let thinking = folder(&ahead, None);
    for (dir, begins) in [(&dir, false), (&thinking, true)] {
        let engine = open(dir.path());
        let constraint = engine.compile_constraint(Kind::Regex, "[a-z]{3}: [0-9]{2}").unwrap();
        let mut reasoned = 0;
        for seed in 0..12 {
            let options =
                change(&asking(ToolChoice::Auto, seed), |settings| settings.constraint = Some(constraint.clone()));
            let options = RequestOptions { reasoning_tokens: Some(8), ..options };
            let events = run(&engine, &chat("go"), &options);
            let parts = wholes(&events);
            assert_eq!(events.last().unwrap().complete, Some(true), "{parts:?}");
            let content = text(&events);
            let (word, number) = content.split_once(": ").unwrap_or_else(|| panic!("{parts:?}"));
            assert!(word.len() == 3 && number.len() == 2 && number.parse::<u32>().is_ok(), "{content}");
            let reasoning: Vec<_> = parts.iter().filter(|part| part.kind == Some(PartKind::Reasoning)).collect();
            reasoned += reasoning.len();
            // The budget: so many tokens, and those of the end.
            let usage = events.last().unwrap().usage.unwrap();
            assert!(usage.generated_tokens < 8 + 30 + 12, "{usage:?}");
        }
        assert!(!begins || reasoned > 6, "{reasoned} of 12 answers have reasoning");
    }
}

/// Law 1: what an answer with rules is does not depend on what else is asked.
#[test]
fn answers_with_rules_never_depend_on_their_neighbours() {
    let dir = folder(TEMPLATE, None);
    let engine = open(dir.path());
    let prompt = with_tools("Tell me a number.");
    let tokens = |events: &[Event]| events.iter().flat_map(|event| event.tokens.clone()).collect::<Vec<_>>();
    let options = |seed: u64| RequestOptions { reasoning_tokens: Some(5), ..asking(ToolChoice::Required, seed) };
    let alone: Vec<_> = (0..6).map(|seed| tokens(&run(&engine, &prompt, &options(seed)))).collect();
    let free = RequestOptions { max_tokens: Some(60), ..asking(ToolChoice::Auto, 7) };
    let others: Vec<_> = (0..3).map(|_| engine.submit(&chat("x"), &free, Sink::Pull).unwrap()).collect();
    let requests: Vec<_> = (0..6).map(|seed| engine.submit(&prompt, &options(seed), Sink::Pull).unwrap()).collect();
    for (request, alone) in requests.iter().zip(&alone) {
        assert_eq!(&tokens(&pulled(request)), alone);
    }
    drop(others);
    engine.check().unwrap();
}

#[test]
fn tools_of_settings_are_those_of_the_request() {
    let shows = "{{ bos_token }}{% if tools %}{{ tools | length }} <tool_call>{% endif %}{{ messages[0].content }}<|assistant|>";
    let dir = folder(shows, None);
    let engine = open(dir.path());
    let options =
        change(&asking(ToolChoice::Named("coin".into()), 1), |settings| settings.tools = Some(Arc::new(tools())));
    let options = RequestOptions { reasoning_tokens: Some(0), ..options };
    let events = run(&engine, &chat("go"), &options);
    let parts = wholes(&events);
    let last = parts.last().unwrap();
    assert!(last.name == "coin" && fits("coin", &last.text), "{parts:?}");
    let shown = engine.tokenize(&with_tools("go"), TextOptions::default()).unwrap().len();
    assert_eq!(events.last().unwrap().usage.unwrap().prompt_tokens as usize, shown);
}

#[test]
fn rules_that_cannot_be_kept_are_refused() {
    let dir = folder(TEMPLATE, None);
    let engine = open(dir.path());
    let refused = |engine: &Engine, prompt: &Prompt, options: &RequestOptions| {
        let error = engine.submit(prompt, options, Sink::Pull).map(|_| ()).unwrap_err();
        (error.status, error.subject)
    };
    let raw = Prompt { parts: vec![PromptPart::Text { text: "go".into(), special: false }], ..Prompt::default() };
    let unknown = open(&storyteller());
    let budget = RequestOptions { reasoning_tokens: Some(3), ..asking(ToolChoice::Auto, 1) };
    let choice = "tool_choice".to_owned();
    let cases = [
        (&engine, with_tools("go"), asking(ToolChoice::Named("card".into()), 1), Status::Argument, choice.clone()),
        (&engine, chat("go"), asking(ToolChoice::Required, 1), Status::Argument, choice.clone()),
        (&engine, raw.clone(), asking(ToolChoice::Required, 1), Status::Argument, choice.clone()),
        (&unknown, with_tools("go"), asking(ToolChoice::Required, 1), Status::Unsupported, choice),
        (&unknown, chat("go"), budget, Status::Unsupported, "reasoning_tokens".to_owned()),
    ];
    for (engine, prompt, options, status, subject) in cases {
        assert_eq!(refused(engine, &prompt, &options), (status, subject));
    }
    // A constraint on the whole answer says it all.
    let whole = engine.compile_constraint(Kind::Json, "").unwrap().on_whole_answer();
    let whole = change(&asking(ToolChoice::Required, 1), |settings| settings.constraint = Some(whole.clone()));
    assert_eq!(refused(&engine, &with_tools("go"), &whole), (Status::Argument, "tool_choice".to_owned()));
    // What a schema cannot have is found when it is compiled.
    let bad =
        json!([{"name": "card", "parameters": {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}}]);
    for defer in [false, true] {
        let options = RequestOptions { defer, ..asking(ToolChoice::Required, 1) };
        let events = run(&engine, &Prompt { tools: Some(bad.clone()), ..chat("go") }, &options);
        let error = events.last().unwrap().error.clone().unwrap();
        assert!(error.status == Status::Unsupported && error.message.contains("card"), "{error:?}");
    }
    // Cancelled while its rules are made ready, or before.
    let requests: Vec<_> = (0..4)
        .map(|seed| engine.submit(&with_tools("go"), &asking(ToolChoice::Required, seed), Sink::Pull).unwrap())
        .collect();
    requests.iter().for_each(Request::cancel);
    for request in &requests {
        assert_eq!(pulled(request).last().unwrap().finish, FinishReason::Cancel);
    }
    engine.check().unwrap();
    unknown.check().unwrap();
}

/// No call is written where none may be.
#[test]
fn none_is_no_call() {
    let dir = folder(TEMPLATE, None);
    let engine = open(dir.path());
    for seed in 0..6 {
        let options = RequestOptions { max_tokens: Some(80), ..asking(ToolChoice::None, seed) };
        let parts = wholes(&run(&engine, &with_tools("<tool_call><tool_call><tool_call>"), &options));
        assert!(parts.iter().all(|part| part.kind != Some(PartKind::Call)), "{parts:?}");
    }
}

/// Drafts of an answer under rules go through all of its phases: reasoning and its budget, calls, content.
#[test]
fn drafts_change_no_answer_under_rules() {
    let dir = folder(TEMPLATE, None);
    let cold = open(dir.path());
    let mut accepted = 0;
    for seed in 0..10 {
        let choice =
            [ToolChoice::Required, ToolChoice::Auto, ToolChoice::Named("dice".to_owned())][seed as usize % 3].clone();
        let options = change(&asking(choice, seed), |settings| settings.constrain_calls = seed % 2 == 0);
        let options = RequestOptions { reasoning_tokens: Some(6), max_tokens: Some(120), logprobs: Some(1), ..options };
        let prompt = with_tools("Roll the dice.");
        let want = run(&cold, &prompt, &options);
        let tokens = |events: &[Event]| events.iter().flat_map(|e| e.tokens.clone()).collect::<Vec<u32>>();
        let bits =
            |events: &[Event]| events.iter().flat_map(|e| e.logprobs.clone()).map(f32::to_bits).collect::<Vec<_>>();
        let asked = cold.tokenize(&prompt, TextOptions::default()).unwrap();
        for mistakes in [0, 25] {
            let texts = vec![[asked.clone(), tokens(&want)].concat()];
            let draft_fn = Some(oracle(texts, mistakes));
            let drafting = EngineOptions { threads: 1, max_running: 4, draft_fn, ..EngineOptions::default() };
            let engine = Engine::open(dir.path(), drafting).unwrap();
            let got = run(&engine, &prompt, &options);
            assert_eq!((tokens(&got), bits(&got)), (tokens(&want), bits(&want)), "{seed} {mistakes}");
            assert_eq!(text(&got), text(&want), "{seed} {mistakes}");
            let end = |events: &[Event]| events.last().map(|last| (last.finish, last.complete, last.error.clone()));
            assert_eq!(end(&got), end(&want), "{seed} {mistakes}");
            accepted += got.last().unwrap().usage.unwrap().accepted_tokens;
        }
    }
    assert!(accepted > 300, "{accepted}");
}
