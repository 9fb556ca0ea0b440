//! Pause, duty limit and cache of an engine. Where a test says that something does not happen, it first lets another
//! engine do real work, so that there was time for it.

use crate::support::models::{fixture, storyteller};
use astrai::engine::*;
use astrai::{Status, Unit};
use std::time::Duration;

/// A duty limit under which the first layer is followed by hours of rest.
const NEARLY_NOTHING: (u32, u32) = (1, u32::MAX);

fn open(options: EngineOptions) -> Engine {
    Engine::open(&fixture("llama"), EngineOptions { threads: 2, max_running: 4, ..options }).unwrap()
}

fn submit(engine: &Engine, prompt: usize, options: RequestOptions) -> Request {
    let tokens = (0..prompt as u32).map(|i| i * 5 % 61 + 1).collect();
    let prompt = Prompt { parts: vec![PromptPart::Tokens(tokens)], ..Prompt::default() };
    engine.submit(&prompt, &RequestOptions { ignore_eos: true, ..options }, Sink::Pull).unwrap()
}

fn tokens(max: u32) -> RequestOptions {
    RequestOptions { max_tokens: Some(max), logprobs: Some(0), ..RequestOptions::default() }
}

fn end(request: &Request) -> Event {
    match request.wait(None).unwrap() {
        Next::Event(event) => *event,
        other => panic!("{other:?} instead of the terminal event"),
    }
}

/// What the request says when nothing interferes.
fn reference(prompt: usize, options: RequestOptions) -> (Vec<u32>, Vec<f32>) {
    let event = end(&submit(&open(EngineOptions::default()), prompt, options));
    (event.tokens, event.logprobs)
}

/// Time passes: another engine opens and answers.
fn meanwhile() {
    assert_eq!(reference(20, tokens(60)).0.len(), 60);
}

/// Waits until the engine has a step in its hands that its duty limit holds.
fn until_held(engine: &Engine) {
    let begin = std::time::Instant::now();
    while engine.stats().unwrap().running == 0 {
        assert!(begin.elapsed() < Duration::from_secs(30), "no step began");
        std::thread::yield_now();
    }
}

#[test]
fn a_paused_engine_makes_no_step_and_still_listens() {
    let engine = open(EngineOptions::default());
    let long = submit(&engine, 10, tokens(200));
    let Next::Event(first) = long.next(None).unwrap() else { panic!("a delta comes first") };
    assert!(engine.pause(None).unwrap() && engine.pause(Some(Duration::ZERO)).unwrap(), "idempotent");
    let before = engine.stats().unwrap();
    let waiting: Vec<Request> = (0..8).map(|_| submit(&engine, 30, tokens(5))).collect();
    let late = submit(&engine, 3, RequestOptions { deadline_ms: 1, ..tokens(5) });
    let cancelled = submit(&engine, 3, tokens(5));
    cancelled.cancel();
    assert_eq!(end(&cancelled).finish, FinishReason::Cancel);
    assert_eq!(end(&late).finish, FinishReason::Deadline);
    meanwhile();
    engine.check().unwrap();
    let after = engine.stats().unwrap();
    assert_eq!((after.steps, after.tokens_out), (before.steps, before.tokens_out));
    assert_eq!((after.running + after.waiting, after.cancelled), (9, 2));
    engine.resume().unwrap();
    engine.resume().unwrap();
    let rest = end(&long);
    let whole: Vec<u32> = first.tokens.into_iter().chain(rest.tokens).collect();
    assert_eq!(whole, reference(10, tokens(200)).0);
    let want = reference(30, tokens(5));
    assert!(waiting.iter().map(end).all(|event| (event.tokens, event.logprobs) == want));
    engine.check().unwrap();
}

#[test]
fn an_engine_may_be_paused_before_its_first_request_and_by_an_impatient_host() {
    let engine = open(EngineOptions::default());
    let _ = engine.pause(Some(Duration::ZERO)).unwrap();
    assert!(engine.pause(None).unwrap(), "a pause stays requested");
    let request = submit(&engine, 5, tokens(3));
    meanwhile();
    assert_eq!(engine.stats().unwrap().steps, 0);
    engine.resume().unwrap();
    assert_eq!(end(&request).tokens.len(), 3);
}

#[test]
fn pausing_within_a_callback_does_not_wait() {
    let engine = std::sync::Arc::new(open(EngineOptions::default()));
    let inner = std::sync::Arc::downgrade(&engine);
    let (tell, told) = std::sync::mpsc::channel();
    let mut tell = Some(tell);
    let prompt = Prompt { parts: vec![PromptPart::Tokens(vec![1, 2, 3])], ..Prompt::default() };
    let sink = Sink::Callback(Box::new(move |_| {
        let engine = inner.upgrade().unwrap();
        // The first event; it is the only one when the engine was quicker than the dispatch thread.
        if let Some(tell) = tell.take() {
            let refused = engine.pause(Some(Duration::from_millis(5))).unwrap_err().status;
            engine.pause(Some(Duration::ZERO)).unwrap();
            engine.resume().unwrap();
            engine.set_duty(0, 0).unwrap();
            engine.clear_cache().unwrap();
            tell.send(refused).unwrap();
        }
        true
    }));
    let request = engine.submit(&prompt, &RequestOptions { ignore_eos: true, ..tokens(20) }, sink).unwrap();
    request.wait(None).unwrap();
    assert_eq!(told.recv().unwrap(), Status::Reentrant);
}

#[test]
fn a_closing_engine_gives_no_grace_to_paused_requests() {
    let engine = open(EngineOptions::default());
    assert!(engine.pause(None).unwrap());
    let request = submit(&engine, 5, tokens(3));
    engine.close(Duration::from_secs(3600)).unwrap();
    assert_eq!(end(&request).finish, FinishReason::Close);
    assert_eq!(engine.pause(None).unwrap_err().status, Status::Closed);
    assert_eq!(engine.resume().unwrap_err().status, Status::Closed);
    assert_eq!(engine.set_duty(1, 2).unwrap_err().status, Status::Closed);
    assert_eq!(engine.clear_cache().unwrap_err().status, Status::Closed);
}

#[test]
fn a_held_step_ends_when_the_limit_goes_and_its_requests_may_be_cancelled() {
    let (work, interval) = NEARLY_NOTHING;
    let engine = open(EngineOptions { duty_work_us: work, duty_interval_us: interval, ..EngineOptions::default() });
    let stays = submit(&engine, 100, tokens(30));
    until_held(&engine);
    let cancelled = submit(&engine, 50, tokens(30));
    let late = submit(&engine, 50, RequestOptions { deadline_ms: 1, ..tokens(30) });
    cancelled.cancel();
    assert_eq!(end(&cancelled).finish, FinishReason::Cancel);
    assert_eq!(end(&late).finish, FinishReason::Deadline);
    meanwhile();
    assert_eq!((engine.stats().unwrap().tokens_out, engine.stats().unwrap().steps), (0, 0), "the limit holds");
    engine.set_duty(0, 0).unwrap();
    let event = end(&stays);
    assert_eq!((event.tokens, event.logprobs), reference(100, tokens(30)));
    engine.check().unwrap();
}

#[test]
fn a_step_held_by_its_limit_may_be_paused_checked_and_goes_on() {
    let engine = open(EngineOptions::default());
    engine.set_duty(NEARLY_NOTHING.0, NEARLY_NOTHING.1).unwrap();
    let request = submit(&engine, 100, tokens(30));
    until_held(&engine);
    assert!(engine.pause(None).unwrap(), "resting between layers is rest");
    engine.set_duty(0, 0).unwrap();
    meanwhile();
    assert_eq!(engine.stats().unwrap().steps, 0, "paused, whatever the limit");
    // The step is given up for the proof, and made again.
    engine.check().unwrap();
    engine.clear_cache().unwrap();
    engine.check().unwrap();
    engine.resume().unwrap();
    let event = end(&request);
    assert_eq!((event.tokens, event.logprobs), reference(100, tokens(30)));
}

#[test]
fn nobody_waits_for_a_step_whose_requests_are_gone() {
    let engine = open(EngineOptions::default());
    engine.set_duty(NEARLY_NOTHING.0, NEARLY_NOTHING.1).unwrap();
    let requests = [submit(&engine, 100, tokens(30)), submit(&engine, 40, tokens(30))];
    until_held(&engine);
    engine.cancel_all().unwrap();
    assert!(requests.iter().all(|r| end(r).finish == FinishReason::Cancel));
    // Between two steps, although the held one would have taken hours.
    engine.check().unwrap();
    let stats = engine.stats().unwrap();
    assert_eq!((stats.running, stats.waiting, stats.pages_used), (0, 0, 0));
    drop(engine);
}

#[test]
fn close_ends_a_held_step() {
    for grace in [Duration::ZERO, Duration::from_millis(20)] {
        let engine = open(EngineOptions::default());
        engine.set_duty(NEARLY_NOTHING.0, NEARLY_NOTHING.1).unwrap();
        let request = submit(&engine, 100, tokens(30));
        until_held(&engine);
        engine.close(grace).unwrap();
        assert_eq!(end(&request).finish, FinishReason::Close);
    }
}

#[test]
fn a_limit_changes_no_result() {
    let engine = open(EngineOptions { step_tokens: 16, ..EngineOptions::default() });
    let want = reference(60, tokens(20));
    for (work, interval) in [(1, 2), (100, 300), (5, 5), (1_000, 1_100), (0, 0)] {
        engine.set_duty(work, interval).unwrap();
        let event = end(&submit(&engine, 60, tokens(20)));
        assert_eq!((event.tokens, event.logprobs), want, "{work} of {interval} us");
    }
}

#[test]
fn impossible_limits_are_refused_with_their_numbers() {
    let engine = open(EngineOptions::default());
    for (work, interval) in [(2, 1), (0, 7), (7, 0)] {
        let error = engine.set_duty(work, interval).unwrap_err();
        assert_eq!((error.status, error.unit, error.subject.as_str()), (Status::Argument, Unit::Count, "duty_work_us"));
        assert_eq!((error.needed, error.available), (work.into(), interval.into()));
        let options = EngineOptions { duty_work_us: work, duty_interval_us: interval, ..EngineOptions::default() };
        let plan = Engine::plan(&fixture("llama"), &options).unwrap_err();
        let open = Engine::open(&fixture("llama"), options).map(|_| ()).unwrap_err();
        assert_eq!((&plan, &open), (&error, &error));
    }
}

#[test]
fn clearing_the_cache_leaves_running_requests_alone() {
    let engine = open(EngineOptions::default());
    let want = reference(100, tokens(100));
    let first = end(&submit(&engine, 100, tokens(100)));
    engine.check().unwrap();
    let cached = engine.stats().unwrap();
    assert!(cached.pages_cached >= 6 && cached.pages_used == 0, "{cached:?}");
    let again = submit(&engine, 100, tokens(100));
    let Next::Event(delta) = again.next(None).unwrap() else { panic!("a delta comes first") };
    engine.clear_cache().unwrap();
    let rest = end(&again);
    let joined: Vec<u32> = delta.tokens.iter().chain(&rest.tokens).copied().collect();
    assert_eq!((&first.tokens, &joined), (&want.0, &want.0));
    assert!(rest.usage.unwrap().cached_tokens >= 96 || delta.terminal(), "it began with cached pages");
    engine.clear_cache().unwrap();
    engine.check().unwrap();
    let cleared = engine.stats().unwrap();
    assert_eq!((cleared.pages_cached, cleared.pages_used), (0, 0));
    assert_eq!(cleared.pages_free, cached.pages_free + cached.pages_cached);
    assert!(cleared.evictions >= cached.pages_cached);
    let cold = end(&submit(&engine, 100, tokens(1)));
    assert_eq!(cold.usage.unwrap().cached_tokens, 0);
}

#[test]
fn an_engine_without_weights_has_nothing_to_hold() {
    let dir = storyteller();
    let options = || EngineOptions { text_only: true, ..EngineOptions::default() };
    let engine = Engine::open(&dir, options()).unwrap();
    assert!(engine.pause(None).unwrap());
    engine.resume().unwrap();
    engine.set_duty(1, 2).unwrap();
    engine.clear_cache().unwrap();
    assert_eq!(Engine::plan(&dir, &options()).unwrap(), MemoryPlan { fits: true, ..MemoryPlan::default() });
    engine.close(Duration::ZERO).unwrap();
    assert_eq!(engine.pause(None).unwrap_err().status, Status::Closed);
}
