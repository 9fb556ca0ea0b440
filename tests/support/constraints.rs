//! Constrained requests on any device: they meet their constraints, obey law 1, and hold up nobody.

use super::jobs::{Answer, answer, drain};
use super::models::storyteller;
use super::target::Target;
use astrai::constrain::{Grammar, Kind, Matcher, set};
use astrai::engine::*;
use astrai::{Error, Result, Status};
use serde_json::Value;
use std::sync::{Arc, Condvar, Mutex};

const ITEM: &str = r#"{"type": "object", "properties": {"line": {"type": "string", "minLength": 1, "maxLength": 20},
    "mood": {"enum": ["glad", "cross"]}, "gold": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["line", "mood", "gold"], "additionalProperties": false}"#;

pub fn open(target: Target) -> Engine {
    let options =
        EngineOptions { threads: 1, max_running: 8, context_length: 256, log_level: LogLevel::Off, ..target.options() };
    Engine::open(&storyteller(), options).unwrap()
}

fn tale(text: &str) -> Prompt {
    Prompt { parts: vec![PromptPart::Text { text: text.into(), special: false }], ..Prompt::default() }
}

pub fn options(seed: u64, max_tokens: u32, constraint: Option<&Constraint>) -> RequestOptions {
    RequestOptions {
        seed: Some(seed),
        temperature: Some(1.5),
        max_tokens: Some(max_tokens),
        logprobs: Some(2),
        settings: constraint
            .map(|constraint| Arc::new(Settings { constraint: Some(constraint.clone()), ..Settings::default() })),
        ..RequestOptions::default()
    }
}

fn run(engine: &Engine, prompt: &str, options: &RequestOptions) -> Vec<Event> {
    drain(&engine.submit(&tale(prompt), options, Sink::Pull).unwrap())
}

/// The tokens of a short tale.
pub fn tokens(engine: &Engine, options: &RequestOptions) -> Vec<u32> {
    let events = run(engine, "Once upon a time there was", options);
    events.iter().flat_map(|event| event.tokens.iter().copied()).collect()
}

fn text(events: &[Event]) -> String {
    events.iter().map(|event| event.text.as_str()).collect()
}

/// Whether an answer is an item.
fn is_item(text: &str) -> bool {
    let Ok(Value::Object(item)) = serde_json::from_str(text) else { return false };
    let line = item.get("line").and_then(Value::as_str).map_or(0, |line| line.chars().count());
    let mood = item.get("mood").and_then(Value::as_str).unwrap_or_default();
    item.len() == 3
        && (1..=20).contains(&line)
        && ["glad", "cross"].contains(&mood)
        && item.get("gold").and_then(Value::as_u64).is_some_and(|gold| gold < 100)
}

/// Every answer that ends by itself meets its constraint, and says so; one that was cut says that it does not.
pub fn answers_meet_their_constraints(engine: &Engine, seeds: u64) {
    type Holds = fn(&str) -> bool;
    let kinds: [(Kind, &str, Holds); 4] = [
        (Kind::JsonSchema, ITEM, is_item),
        (Kind::Regex, "[a-z]{3,9}( [a-z]{3,9}){1,3}[.!]", |text| text.ends_with(['.', '!']) && text.contains(' ')),
        (Kind::Lark, "start: \"I \" VERB \" it\" (\" \" VERB)?\nVERB: \"like\" | \"hate\"", |text| {
            text.starts_with("I ")
        }),
        (Kind::Texts, r#"["yes", "no", "perhaps"]"#, |text| ["yes", "no", "perhaps"].contains(&text)),
    ];
    let mut ended = 0;
    for (kind, text_of, holds) in kinds {
        let constraint = engine.compile_constraint(kind, text_of).unwrap();
        for seed in 0..seeds {
            let events = run(engine, "Once upon a time there was", &options(seed, 120, Some(&constraint)));
            let (answer, last) = (text(&events), events.last().unwrap());
            assert_eq!(last.error, None, "{kind:?} {seed}: {answer:?}");
            let done = last.finish == FinishReason::Eos;
            assert_eq!(last.complete, Some(done), "{kind:?} {seed}: {answer:?} {:?}", last.finish);
            assert_eq!(holds(&answer), done, "{kind:?} {seed}: {answer:?} {:?}", last.finish);
            ended += u64::from(done);
        }
        // Cut after its first token, unless that is all.
        let cut = run(engine, "Once", &options(1, 1, Some(&constraint)));
        let last = cut.last().unwrap();
        assert_eq!((last.finish, last.complete), (FinishReason::Length, Some(holds(&text(&cut)))), "{kind:?}");
    }
    assert!(ended * 10 >= seeds * 4 * 9, "{ended} of {} ended", seeds * 4);
    // At exactly as many tokens as it needs, an answer is complete though it did not end by itself.
    let constraint = engine.compile_constraint(Kind::Texts, r#"["yes"]"#).unwrap();
    let whole = run(engine, "Once", &options(1, 100, Some(&constraint)));
    let tokens = whole.last().unwrap().usage.unwrap().generated_tokens - 1;
    let exact = run(engine, "Once", &options(1, tokens, Some(&constraint)));
    let last = exact.last().unwrap();
    assert_eq!((text(&exact).as_str(), last.finish, last.complete), ("yes", FinishReason::Length, Some(true)));
    engine.check().unwrap();
}

/// Law 1: alone, beside others with and without constraints, and preempted, a request has the same bits; its log probabilities are
/// those of the distribution without a constraint.
pub fn a_constrained_request_never_depends_on_its_neighbours(engine: &Engine, jobs: usize, tokens: u32) {
    let constraints = [(Kind::JsonSchema, ITEM), (Kind::Regex, "[a-z]{2,5}( [a-z]{2,5}){3,8}")]
        .map(|(kind, text)| engine.compile_constraint(kind, text).unwrap());
    let jobs: Vec<(String, RequestOptions)> = (0..jobs)
        .map(|i| {
            let constraint = constraints.get(i % 3);
            (format!("Once upon a time {i} there was a"), options(i as u64, tokens, constraint))
        })
        .collect();
    let alone: Vec<Answer> = jobs
        .iter()
        .map(|(prompt, options)| {
            let answer = answer(&run(engine, prompt, options));
            engine.clear_cache().unwrap();
            answer
        })
        .collect();
    let together: Vec<Request> =
        jobs.iter().map(|(prompt, options)| engine.submit(&tale(prompt), options, Sink::Pull).unwrap()).collect();
    let together: Vec<Answer> = together.iter().map(|request| answer(&drain(request))).collect();
    assert!(together == alone, "{together:?}\n{alone:?}");
    // A hit of the prefix cache.
    let (prompt, wanted) = &jobs[0];
    assert_eq!(answer(&run(engine, prompt, wanted)), alone[0]);
    // The distribution is the raw one.
    let prompt = engine.tokenize(&tale(prompt), TextOptions::default()).unwrap();
    let all: Vec<u32> = prompt.iter().chain(&alone[0].tokens).copied().collect();
    let options = RequestOptions { max_tokens: Some(0), prompt_logprobs: true, ..RequestOptions::default() };
    let scored = Prompt { parts: vec![PromptPart::Tokens(all)], ..Prompt::default() };
    let request = engine.submit(&scored, &options, Sink::Pull);
    let raw = drain(&request.unwrap());
    let raw = &raw.last().unwrap().prompt_logprobs[prompt.len()..];
    let raw: Vec<u32> = raw.iter().map(|x| x.to_bits()).collect();
    assert_eq!(raw, alone[0].logprobs);
    engine.check().unwrap();
}

/// Blocks until it is opened.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.changed.wait(open).unwrap();
        }
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

/// What a constraint of the tests does after so many tokens.
#[derive(Clone)]
enum Then {
    /// Nothing may follow, and the answer is whole.
    Over,
    /// Nothing may follow, and it is not.
    Stuck,
    Fails,
    Panics,
    /// It waits, and then allows `even` for ever.
    Waits(Arc<Gate>),
}

/// Allows even tokens alone, and after `count` of them does something else.
struct Even {
    count: usize,
    then: Then,
}

struct EvenAnswer {
    left: usize,
    then: Then,
}

impl Grammar for Even {
    fn matcher(&self) -> Result<Box<dyn Matcher>> {
        Ok(Box::new(EvenAnswer { left: self.count, then: self.then.clone() }))
    }
}

impl Matcher for EvenAnswer {
    fn allowed(&mut self, mask: &mut [u32]) -> Result<bool> {
        mask.fill(0);
        if self.left == 0 {
            match &self.then {
                Then::Over => return Ok(true),
                Then::Stuck => return Ok(false),
                Then::Fails => return Err(Error::unsupported("it fails on purpose")),
                Then::Panics => panic!("a test asked a constraint to panic"),
                Then::Waits(gate) => gate.pass(),
            }
        }
        // Not the special ones at the beginning.
        (5..200).step_by(2).for_each(|half| set(mask, half * 2));
        Ok(false)
    }

    fn accept(&mut self, token: u32) -> Result<()> {
        assert!(token.is_multiple_of(2), "{token} was not allowed");
        self.left = self.left.saturating_sub(1);
        Ok(())
    }
}

fn even(engine: &Engine, count: usize, then: Then) -> Constraint {
    Constraint::new(Arc::new(Even { count, then }), engine.info().vocab_size as usize).unwrap()
}

/// A mask that takes long makes its own row sit out: all others run to their ends meanwhile, and it goes on as if nothing had been.
pub fn a_late_mask_holds_up_nobody_else(engine: &Engine, others: u64, tokens: u32) {
    let opened = Arc::new(Gate::default());
    opened.open();
    let alone = answer(&run(engine, "Once", &options(3, 7, Some(&even(engine, 4, Then::Waits(opened))))));
    let free: Vec<Answer> = (0..others).map(|i| answer(&run(engine, "There was", &options(i, tokens, None)))).collect();
    engine.clear_cache().unwrap();
    let gate = Arc::new(Gate::default());
    let late = engine
        .submit(&tale("Once"), &options(3, 7, Some(&even(engine, 4, Then::Waits(gate.clone())))), Sink::Pull)
        .unwrap();
    let quick = engine.compile_constraint(Kind::Texts, r#"["yes", "no"]"#).unwrap();
    for round in 0..2 {
        let submit = |seed| engine.submit(&tale("There was"), &options(seed, tokens, None), Sink::Pull).unwrap();
        let others: Vec<Request> = (0..others).map(submit).collect();
        let others: Vec<Answer> = others.iter().map(|request| answer(&drain(request))).collect();
        assert!(others == free, "round {round}");
    }
    // It waits in the line behind the late one; a cancel ends it all the same.
    let behind = engine.submit(&tale("Once"), &options(1, 9, Some(&quick)), Sink::Pull).unwrap();
    behind.cancel();
    assert_eq!(drain(&behind).last().unwrap().finish, FinishReason::Cancel);
    engine.check().unwrap();
    assert_eq!(engine.stats().unwrap().running, 1);
    gate.open();
    assert_eq!(answer(&drain(&late)), alone);
    engine.check().unwrap();
}

/// However a constraint ends, its request ends once and alone.
pub fn constraints_end_their_own_requests_alone(engine: &Engine) {
    let free = answer(&run(engine, "There was", &options(1, 8, None)));
    for (then, finish, status, word) in [
        (Then::Over, FinishReason::Eos, None, ""),
        (Then::Stuck, FinishReason::Error, Some(Status::Unsupported), "no token of the vocabulary"),
        (Then::Fails, FinishReason::Error, Some(Status::Unsupported), "on purpose"),
        (Then::Panics, FinishReason::Error, Some(Status::Internal), "panicked"),
    ] {
        let constraint = even(engine, 3, then.clone());
        let other = engine.submit(&tale("There was"), &options(1, 8, None), Sink::Pull).unwrap();
        let events = run(engine, "Once", &options(2, 20, Some(&constraint)));
        let last = events.last().unwrap();
        assert_eq!((last.finish, last.error.as_ref().map(|error| error.status)), (finish, status));
        assert!(last.error.as_ref().is_none_or(|error| error.message.contains(word)), "{last:?}");
        assert_eq!(last.complete, Some(status.is_none()));
        assert_eq!(last.usage.unwrap().generated_tokens, if status.is_none() { 4 } else { 3 });
        assert_eq!(answer(&drain(&other)), free);
    }
    // Without an end token to write, an answer that is over ends by itself.
    let over = even(engine, 3, Then::Over);
    let events = run(engine, "Once", &RequestOptions { ignore_eos: true, ..options(2, 20, Some(&over)) });
    let last = events.last().unwrap();
    assert_eq!((last.finish, last.complete, last.usage.unwrap().generated_tokens), (FinishReason::Stop, Some(true), 3));
    // So does one that may only be empty.
    let empty = engine.compile_constraint(Kind::Regex, "").unwrap();
    let events = run(engine, "Once", &RequestOptions { ignore_eos: true, ..options(2, 20, Some(&empty)) });
    let last = events.last().unwrap();
    assert_eq!((last.finish, last.complete, last.usage.unwrap().generated_tokens), (FinishReason::Stop, Some(true), 0));
    // Of another vocabulary: nothing is submitted.
    let other = Constraint::new(Arc::new(Even { count: 1, then: Then::Over }), 1000).unwrap();
    let error = engine.submit(&tale("Once"), &options(1, 5, Some(&other)), Sink::Pull).map(|_| ()).unwrap_err();
    assert_eq!((error.status, error.subject.as_ref()), (Status::Argument, "constraint"));
    // An end while masks are computed.
    let gate = Arc::new(Gate::default());
    let waiting = even(engine, 2, Then::Waits(gate.clone()));
    let before = engine.stats().unwrap().tokens_out;
    let request = engine.submit(&tale("Once"), &options(2, 20, Some(&waiting)), Sink::Pull).unwrap();
    while engine.stats().unwrap().tokens_out < before + 1 {
        std::thread::yield_now();
    }
    request.cancel();
    let events = drain(&request);
    assert_eq!((events.last().unwrap().finish, events.last().unwrap().complete), (FinishReason::Cancel, Some(false)));
    gate.open();
    engine.check().unwrap();
}
