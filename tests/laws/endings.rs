//! Laws 2, 4 and 5: every accepted request gets exactly one terminal event and its sink is dropped exactly once,
//! whatever ends it and whoever ends the engine meanwhile; who does not read holds up nobody else.

use crate::requests::{Gate, open};
use crate::support::jobs::{Job, answer, drain};
use crate::support::models::fixture;
use crate::support::random::{Random, rounds, seed};
use astrai::engine::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// What the requests of one engine saw.
#[derive(Default)]
struct Ledger {
    accepted: AtomicUsize,
    /// Terminal events, by callback and by pull.
    ends: AtomicUsize,
    after_end: AtomicUsize,
    sinks: AtomicUsize,
    dropped: AtomicUsize,
}

/// Counts itself out.
struct Dropped(Arc<Ledger>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

fn sink(ledger: &Arc<Ledger>, stop_at: usize) -> Sink {
    ledger.sinks.fetch_add(1, Ordering::SeqCst);
    let (counted, mut calls, mut ended) = (Dropped(ledger.clone()), 0, false);
    Sink::Callback(Box::new(move |event| {
        let ledger = &counted.0;
        ledger.after_end.fetch_add(usize::from(ended), Ordering::SeqCst);
        ended |= event.terminal();
        ledger.ends.fetch_add(usize::from(event.terminal()), Ordering::SeqCst);
        calls += 1;
        calls != stop_at
    }))
}

fn any_job(random: &mut Random) -> Job {
    Job {
        prompt: (0..1 + random.below(60)).map(|_| random.below(100) as u32).collect(),
        options: RequestOptions {
            max_tokens: Some(random.below(40) as u32),
            ignore_eos: true,
            priority: random.below(3) as i32,
            deadline_ms: [0, 0, 0, 1 + random.below(10) as u32][random.below(4)],
            // Nobody need read for an engine with grace to end.
            queue_tokens: 1000,
            ..RequestOptions::default()
        },
    }
}

/// Enough for one engine.
const ACCEPTED_MAX: usize = 300;

/// Submits until told to stop; returns the requests to be pulled.
fn submitter(engine: &Engine, ledger: &Arc<Ledger>, stop: &AtomicBool, mut random: Random) -> Vec<Request> {
    let mut pulled = Vec::new();
    while !stop.load(Ordering::SeqCst) && ledger.accepted.load(Ordering::SeqCst) < ACCEPTED_MAX {
        let by_callback = random.below(2) == 0;
        let stop_at = [0, 1 + random.below(5)][random.below(2)];
        let sink = if by_callback { sink(ledger, stop_at) } else { Sink::Pull };
        let parts = vec![PromptPart::Tokens(any_job(&mut random).prompt)];
        let prompt = Prompt { parts, ..Prompt::default() };
        match engine.submit(&prompt, &any_job(&mut random).options, sink) {
            Ok(request) => {
                ledger.accepted.fetch_add(1, Ordering::SeqCst);
                if random.below(3) == 0 {
                    request.cancel();
                }
                match (by_callback, random.below(3)) {
                    (true, 0) => request.detach(),
                    (true, 1) => drop(request),
                    _ => pulled.push(request),
                }
            }
            Err(error) => {
                assert!(matches!(error.status, astrai::Status::Closed | astrai::Status::QueueFull), "{error}");
                std::thread::yield_now();
            }
        }
    }
    pulled
}

/// How an engine ends while requests arrive.
#[derive(Clone, Copy, Debug)]
enum Ending {
    AtOnce,
    WithGrace,
    AfterAll,
    Panic,
    CancelAll,
    /// Nobody closes it before it is dropped.
    Dropped,
}

fn one_ending(ending: Ending, seed: u64) {
    let mut random = Random(seed);
    let what = format!("ASTRAI_TEST_SEED={seed} {ending:?}");
    let options = EngineOptions {
        max_running: 1 + random.below(8) as u32,
        max_waiting: 1 + random.below(40) as u32,
        threads: 1 + random.below(3) as u32,
        ..EngineOptions::default()
    };
    let engine = Engine::open(&fixture("llama"), options).unwrap();
    let (ledger, stop) = (Arc::new(Ledger::default()), AtomicBool::new(false));
    let enough = 5 + random.below(40);
    let mut pulled: Vec<Request> = Vec::new();
    std::thread::scope(|scope| {
        let submitters: Vec<_> = (0..4)
            .map(|_| {
                let random = Random(random.below(1 << 30) as u64);
                scope.spawn(|| submitter(&engine, &ledger, &stop, random))
            })
            .collect();
        while ledger.accepted.load(Ordering::SeqCst) < enough {
            std::thread::yield_now();
        }
        match ending {
            Ending::AtOnce => engine.close(Duration::ZERO).unwrap(),
            Ending::WithGrace => engine.close(Duration::from_millis(1 + random.below(5) as u64)).unwrap(),
            Ending::AfterAll => engine.close(Duration::from_secs(600)).unwrap(),
            Ending::Panic => engine.inject_panic(),
            Ending::CancelAll => engine.cancel_all().unwrap(),
            Ending::Dropped => {}
        }
        stop.store(true, Ordering::SeqCst);
        submitters.into_iter().for_each(|s| pulled.extend(s.join().unwrap()));
    });
    match engine.check() {
        Ok(()) => assert!(matches!(ending, Ending::CancelAll | Ending::Dropped), "{what}"),
        Err(error) => match ending {
            Ending::Panic => assert_eq!(error.status, astrai::Status::Internal, "{what}"),
            _ => assert_eq!(error.status, astrai::Status::Closed, "{what}: {error}"),
        },
    }
    drop(engine);
    for request in &pulled {
        // Callback requests have no next; their terminal event was counted by the callback.
        if let Ok(Next::Event(event)) = request.next(None) {
            let mut last = *event;
            while let Next::Event(event) = request.next(None).unwrap() {
                assert!(!last.terminal(), "{what}: something came after the terminal event");
                last = *event;
            }
            ledger.ends.fetch_add(usize::from(last.terminal()), Ordering::SeqCst);
        } else {
            assert!(matches!(request.wait(None).unwrap(), Next::End), "{what}");
        }
    }
    let count = |n: &AtomicUsize| n.load(Ordering::SeqCst);
    assert_eq!(count(&ledger.ends), count(&ledger.accepted), "{what}: one terminal event for each accepted request");
    assert_eq!(count(&ledger.dropped), count(&ledger.sinks), "{what}: every sink is dropped, of refused ones too");
    assert_eq!(count(&ledger.after_end), 0, "{what}: a callback after the terminal event");
    assert!(count(&ledger.accepted) >= enough, "{what}");
}

#[test]
fn every_accepted_request_ends_exactly_once_however_the_engine_ends() {
    let seed = seed();
    let endings =
        [Ending::AtOnce, Ending::WithGrace, Ending::AfterAll, Ending::Panic, Ending::CancelAll, Ending::Dropped];
    for round in 0..10 * rounds() {
        for (index, ending) in endings.into_iter().enumerate() {
            one_ending(ending, seed + round * 10 + index as u64);
        }
    }
}

/// Law 5: who does not read is paused, and then the first to give its pages back, so that it cannot hold them hostage.
#[test]
fn a_reader_that_never_reads_holds_no_pages_hostage() {
    let engine = open(&fixture("llama"), CpuTier::Auto, 4, 0, 10, 1);
    let job = |first: u32, prompt: u32, queue_tokens| Job {
        prompt: (0..prompt).map(|i| (first + i) % 128).collect(),
        options: RequestOptions {
            max_tokens: Some(20),
            ignore_eos: true,
            queue_tokens,
            seed: Some(1),
            temperature: Some(0.8),
            ..RequestOptions::default()
        },
    };
    // Two of them stall, and hold four pages each. Priority does not help them.
    let mut stuck = job(0, 50, 1);
    stuck.options.priority = 100;
    let stalled = |job: &Job, count: u32| {
        let request = job.submit(&engine, Sink::Pull);
        while engine.stats().unwrap().stalled < count {
            std::thread::yield_now();
        }
        request
    };
    let lazy = [stalled(&stuck, 1), stalled(&job(60, 50, 1), 2)];
    // Statistics of one moment.
    engine.check().unwrap();
    let stats = engine.stats().unwrap();
    assert_eq!((stats.stalled, stats.pages_used, stats.preemptions), (2, 8, 0), "{stats:?}");
    // This one needs more than one of them has and nobody else.
    let long = answer(&drain(&job(7, 120, 0).submit(&engine, Sink::Pull)));
    assert_eq!(long.tokens.len(), 20);
    assert_eq!(engine.stats().unwrap().preemptions, 2, "{:?}", engine.stats());
    // They were computed again from the beginning, and nobody can see it.
    for (lazy, job) in lazy.iter().zip([stuck, job(60, 50, 1)]) {
        let got = answer(&drain(lazy));
        assert_eq!(got, answer(&drain(&job.submit(&open(&fixture("llama"), CpuTier::Auto, 1, 0, 0, 1), Sink::Pull))));
    }
    engine.check().unwrap();
    assert_eq!(engine.stats().unwrap().pages_used, 0);
}

/// Law 5 and 6: a callback that blocks its engine's dispatch thread does not hold up another engine's callbacks, nor the
/// counters, checks and cancels of its own.
#[test]
fn a_blocked_callback_is_alone_with_its_engine() {
    let (blocked, free) =
        (open(&fixture("llama"), CpuTier::Auto, 4, 0, 0, 1), open(&fixture("llama"), CpuTier::Auto, 4, 0, 0, 1));
    let job = Job {
        prompt: vec![9, 8],
        options: RequestOptions { max_tokens: Some(30), ignore_eos: true, ..RequestOptions::default() },
    };
    let (gate, inside) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let (at_gate, entered) = (gate.clone(), inside.clone());
    let slow = job.submit(
        &blocked,
        Sink::Callback(Box::new(move |_| {
            entered.open();
            at_gate.pass();
            true
        })),
    );
    inside.pass();
    let ledger = Arc::new(Ledger::default());
    for _ in 0..20 {
        assert!(matches!(job.submit(&free, sink(&ledger, 0)).wait(None).unwrap(), Next::End));
    }
    assert_eq!(ledger.ends.load(Ordering::SeqCst), 20);
    // Requests queue up behind the blocked callback, and are generated all the same.
    let behind: Vec<Request> = (0..10).map(|_| job.submit(&blocked, sink(&ledger, 0))).collect();
    while blocked.stats().unwrap().finished < 10 {
        std::thread::yield_now();
    }
    blocked.check().unwrap();
    slow.cancel();
    assert!(matches!(slow.wait(Some(Duration::ZERO)).unwrap(), Next::Timeout));
    gate.open();
    for request in behind.iter().chain([&slow]) {
        assert!(matches!(request.wait(None).unwrap(), Next::End));
    }
    assert_eq!(ledger.ends.load(Ordering::SeqCst), 30);
}
