//! Traces of a running engine: they can be set and taken away at any time, and what they tell agrees with the engine's own
//! statistics and its accounting. The owners of frames, step by step, are the subject of `src/engine/tracer/tests.rs`.

use crate::support::jobs::{Job, drain};
use crate::support::models::{fixture, storyteller};
use crate::support::random::{Random, rounds, seed};
use astrai::engine::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a trace has told.
#[derive(Debug, Default)]
struct Told {
    records: u64,
    steps: u64,
    admitted: BTreeMap<u64, u64>,
    reused: u64,
    preempted: u64,
    ended: BTreeMap<u64, FinishReason>,
    generated: usize,
    /// Of the last record: frames used, cached and free, and requests.
    pages: (usize, usize, usize),
    requests: BTreeSet<u64>,
    /// Frames with several requests were seen.
    shared: bool,
}

impl Told {
    fn add(&mut self, step: &StepTrace) {
        let detail = step.detail.as_ref().expect("every record has one");
        assert_eq!(detail.events_lost, 0);
        self.records += 1;
        self.steps = step.step;
        for event in &detail.events {
            match *event {
                TraceEvent::Admitted { request_id, reused, .. } => {
                    let times = self.admitted.entry(request_id).or_default();
                    // The statistics count the first.
                    self.reused += if *times == 0 { reused as u64 } else { 0 };
                    *times += 1;
                }
                TraceEvent::Preempted { request_id, .. } => {
                    assert!(self.admitted.contains_key(&request_id));
                    self.preempted += 1;
                }
                TraceEvent::Ended { request_id, finish, generated_tokens, .. } => {
                    assert!(self.ended.insert(request_id, finish).is_none(), "{request_id} ended twice");
                    self.generated += generated_tokens;
                }
            }
        }
        self.requests = detail.requests.iter().map(|request| request.id).collect();
        let (mut used, mut cached, mut frames) = (0, 0, 0);
        for group in &detail.groups {
            let mut owners: BTreeMap<u32, Vec<FrameOwner>> = BTreeMap::new();
            group.owners.iter().for_each(|&owner| owners.entry(owner.frame).or_default().push(owner));
            let of_tree = |all: &&Vec<FrameOwner>| all.iter().all(|o| matches!(o.owner, TraceOwner::Tree(_)));
            let trees = owners.values().filter(of_tree).count();
            (used, cached, frames) = (used + owners.len() - trees, cached + trees, frames + group.frames);
            let requests = |all: &Vec<FrameOwner>| {
                all.iter().filter(|owner| matches!(owner.owner, TraceOwner::Request(_))).count()
            };
            self.shared |= owners.values().any(|all| requests(all) > 1);
            for owner in &group.owners {
                if let TraceOwner::Request(id) = owner.owner {
                    assert!(self.requests.contains(&id), "{owner:?} is of a request that is not there");
                }
            }
        }
        self.pages = (used, cached, frames - used - cached);
        assert_eq!(self.pages, (step.pages_used, step.pages_cached, step.pages_free));
    }
}

/// Sets a trace with every detail, and where it tells.
fn watch(engine: &Engine) -> Arc<Mutex<Told>> {
    let told: Arc<Mutex<Told>> = Arc::default();
    let seen = told.clone();
    let detail = Some(DetailOptions { every: Duration::ZERO, tokens: true });
    let call = Box::new(move |step: &StepTrace| seen.lock().unwrap().add(step));
    engine.set_trace(Some(Trace { detail, ..Trace::new(call) })).unwrap();
    told
}

/// An engine with pages for little more than one long request.
fn small(dir: &Path, pages: u64) -> Engine {
    let options = |memory_budget| EngineOptions {
        threads: 1,
        max_running: 6,
        page_tokens: 4,
        step_tokens: 24,
        memory_budget,
        ..EngineOptions::default()
    };
    let plan = Engine::plan(dir, &options(0)).unwrap();
    let budget = plan.weight_bytes + plan.workspace_bytes + pages * 4 * plan.kv_bytes_per_token;
    Engine::open(dir, options(budget)).unwrap()
}

/// The numbers that both know.
fn compare(engine: &Engine, told: &Told, before: Stats) {
    let stats = engine.stats().unwrap();
    let finished =
        told.ended.values().filter(|why| matches!(why, FinishReason::Eos | FinishReason::Stop | FinishReason::Length));
    assert_eq!(finished.count() as u64, stats.finished - before.finished);
    assert_eq!(told.ended.len() as u64, stats.finished + stats.cancelled - before.finished - before.cancelled);
    assert_eq!(told.preempted, stats.preemptions - before.preemptions);
    assert_eq!(told.reused, stats.prefix_tokens_hit - before.prefix_tokens_hit);
    assert_eq!(told.steps, stats.steps - before.steps);
    assert_eq!(told.generated as u64, stats.tokens_out - before.tokens_out);
    let (used, cached, free) = told.pages;
    assert_eq!((used as u64, cached as u64, free as u64), (stats.pages_used, stats.pages_cached, stats.pages_free));
    assert!(told.requests.is_empty() && used == 0, "nobody is left: {:?}", told.requests);
}

#[test]
fn what_a_trace_tells_is_what_the_engine_counts() {
    let mut random = Random(seed());
    let (mut preempted, mut shared, mut cancelled) = (0, false, 0);
    for round in 0..8 * rounds() {
        let dir = [fixture("llama"), fixture("qwen3_moe_mixed")][round as usize % 2].clone();
        let engine = small(&dir, 40);
        let vocab = engine.info().vocab_size as usize;
        // Some go before anybody watches.
        drain(&Job::random(&mut random, vocab, 60).submit(&engine, Sink::Pull));
        engine.check().unwrap();
        let before = engine.stats().unwrap();
        let told = watch(&engine);
        let mut live: Vec<Request> = Vec::new();
        for _ in 0..20 {
            live.push(Job::random(&mut random, vocab, 200).submit(&engine, Sink::Pull));
            if random.below(4) == 0 {
                live[random.below(live.len())].cancel();
            }
            if random.below(3) == 0 {
                engine.check().unwrap();
            }
            if live.len() > 8 {
                drain(&live.remove(random.below(live.len())));
            }
        }
        live.iter().for_each(|request| _ = drain(request));
        engine.clear_cache().unwrap();
        // The first is answered before the engine tells that it rests, the second after it.
        engine.check().unwrap();
        engine.check().unwrap();
        let told = told.lock().unwrap();
        compare(&engine, &told, before);
        preempted += told.preempted;
        shared |= told.shared;
        cancelled += told.ended.values().filter(|why| **why == FinishReason::Cancel).count();
    }
    assert!(preempted > 0 && shared && cancelled > 0, "{preempted} {shared} {cancelled}");
}

/// Setting a trace tells at once how things are; taking it away drops the callback and ends the calls.
#[test]
fn a_trace_comes_and_goes_while_the_engine_runs() {
    let engine = Engine::open(&storyteller(), EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap();
    let text = PromptPart::Text { text: "Once upon a time".into(), special: false };
    let prompt = Prompt { parts: vec![text], ..Prompt::default() };
    let options = RequestOptions { max_tokens: Some(1500), ignore_eos: true, ..RequestOptions::default() };
    let request = engine.submit(&prompt, &options, Sink::Pull).unwrap();
    for _ in 0..10 {
        let told = watch(&engine);
        while told.lock().unwrap().records < 4 {
            drop(request.next(Some(Duration::from_millis(1))).unwrap());
        }
        assert!(told.lock().unwrap().requests.contains(&request.id()));
        engine.set_trace(None).unwrap();
        while Arc::strong_count(&told) > 1 {
            drop(request.next(Some(Duration::from_millis(1))).unwrap());
        }
    }
    request.cancel();
    drain(&request);
    // An idle engine tells as well.
    let told = watch(&engine);
    while told.lock().unwrap().records == 0 {
        std::thread::yield_now();
    }
    engine.close(Duration::ZERO).unwrap();
    assert!(engine.set_trace(None).is_err());
}
