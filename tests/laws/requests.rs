//! The laws of the design as property tests, on real weights: the parity fixtures and the storyteller.
//!
//! Every random workload prints its seed; `ASTRAI_TEST_SEED` repeats one, `ASTRAI_TEST_ROUNDS` multiplies them. The storms of
//! requests are in `laws/storm.rs`, what they are let loose on in `laws/neighbours.rs`, the ends of engines and requests in
//! `laws/endings.rs`; `docs/testing.md` says what they prove and how long they ran.

use crate::bits;
use crate::support::jobs::{Job, answer, drain};
use crate::support::models::{fixture, fixtures, limit_pages};
use crate::support::own_process::alone;
use crate::support::storm::neighbours as cases;
use crate::support::{parity, target};
use astrai::engine::*;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub fn open(dir: &Path, tier: CpuTier, running: u32, step_tokens: u32, pages: u64, threads: u32) -> Engine {
    let mut options = EngineOptions {
        cpu_tier: tier,
        threads,
        max_running: running,
        step_tokens,
        context_length: 0,
        page_tokens: PAGE_TOKENS,
        ..EngineOptions::default()
    };
    if pages > 0 {
        limit_pages(dir, &mut options, pages);
    }
    Engine::open(dir, options).unwrap()
}

const PAGE_TOKENS: u32 = 16;

/// Law 1, and with it 3 and 6, on every tier; `laws/neighbours.rs` has the cases.
mod neighbours {
    use crate::support::models::fixtures;
    use crate::support::random::rounds;
    use crate::support::storm::neighbours as cases;
    use crate::support::target;

    #[test]
    fn a_token_never_depends_on_its_neighbours() {
        cases::a_token_never_depends_on_its_neighbours(&fixtures(), 9).assert_busy(2 * rounds());
    }

    #[test]
    fn the_storyteller_obeys_law_one_too() {
        cases::the_storyteller_obeys_law_one_too(4);
    }

    #[test]
    fn the_storyteller_is_preempted_and_nobody_can_see_it() {
        cases::the_storyteller_is_preempted_and_nobody_can_see_it(4);
    }

    #[test]
    fn sixty_four_at_once_are_each_as_if_alone() {
        cases::sixty_four_at_once_are_each_as_if_alone(20);
    }

    #[test]
    fn engines_side_by_side_do_not_notice_each_other() {
        cases::engines_side_by_side_do_not_notice_each_other(
            ["llama", "llama", "astrai_moe"],
            [target::fastest(); 3],
            12,
        );
    }

    #[test]
    fn a_cancel_in_the_middle_of_a_prompt_gives_everything_back() {
        cases::a_cancel_in_the_middle_of_a_prompt_gives_everything_back(5);
    }
}

/// What a device has to do, as the engine sees it: one that is neither the CPU's backend nor a GPU's keeps the laws, too.
#[test]
fn a_device_of_the_tests_own_obeys_the_laws() {
    if !alone(a_device_of_the_tests_own_obeys_the_laws) {
        return;
    }
    target::use_plain_device();
    let tally = cases::a_token_never_depends_on_its_neighbours(&fixtures(), 4);
    let seen = [tally.finished, tally.cut, tally.prefix_hits, tally.preemptions + tally.stalls, tally.deferred];
    assert!(seen.iter().all(|&n| n > 0), "{tally:?}");
    cases::the_storyteller_is_preempted_and_nobody_can_see_it(1);
    cases::sixty_four_at_once_are_each_as_if_alone(8);
    cases::a_cancel_in_the_middle_of_a_prompt_gives_everything_back(3);
    parity::f32_logprobs_and_greedy_tokens_equal_the_reference(parity::Depth::Short);
}

#[test]
fn bits_are_as_ever() {
    bits::are_as_ever(&bits::models());
}

#[test]
fn a_seed_repeats_and_an_unseeded_request_reports_its_own() {
    let engine = open(&fixture("llama"), CpuTier::Auto, 4, 0, 0, 1);
    let mut job = Job {
        prompt: vec![5, 6, 7],
        options: RequestOptions {
            temperature: Some(1.0),
            ignore_eos: true,
            max_tokens: Some(20),
            ..RequestOptions::default()
        },
    };
    let first = drain(&job.submit(&engine, Sink::Pull));
    let again = drain(&job.submit(&engine, Sink::Pull));
    assert_ne!(answer(&first).tokens, answer(&again).tokens, "two unseeded requests draw differently");
    job.options.seed = first.last().unwrap().usage.as_ref().map(|u| u.seed);
    assert_eq!(answer(&drain(&job.submit(&engine, Sink::Pull))), answer(&first));
}

/// A greedy model that repeats itself does not with DRY: no run of tokens comes back that is much longer than what is allowed.
#[test]
fn repetitions_have_a_penalty_and_top_choices_are_left_out() {
    let engine = open(&fixture("llama"), CpuTier::Auto, 4, 0, 0, 1);
    let answer_of = |options: RequestOptions| {
        let options = RequestOptions { ignore_eos: true, max_tokens: Some(150), seed: Some(1), ..options };
        answer(&drain(&Job { prompt: vec![5, 6, 7], options }.submit(&engine, Sink::Pull))).tokens
    };
    let greedy = RequestOptions { temperature: Some(0.0), ..RequestOptions::default() };
    let longest = |tokens: &[u32]| {
        let repeats = |length: usize| {
            let runs = || tokens.windows(length).enumerate();
            runs().any(|(at, run)| runs().any(|(other, same)| other > at && same == run))
        };
        (1..tokens.len()).take_while(|length| repeats(*length)).last().unwrap_or(0)
    };
    let plain = answer_of(greedy.clone());
    let settings = Settings { dry_breakers: Some(Arc::from(Vec::new())), ..Settings::default() };
    let dry = RequestOptions { dry_multiplier: Some(50.0), settings: Some(Arc::new(settings)), ..greedy.clone() };
    let without = answer_of(dry.clone());
    assert!(longest(&plain) > 10, "the fixture repeats itself: {plain:?}");
    assert!(longest(&without) <= 3, "{} in {without:?}", longest(&without));
    assert_eq!(answer_of(RequestOptions { dry_penalty_last_n: Some(0), ..dry }), plain, "a window of none");

    // With XTC a draw that has several top choices is none of the best.
    let drawn = RequestOptions { temperature: Some(0.8), ..RequestOptions::default() };
    let xtc = |threshold: f32| {
        answer_of(RequestOptions { xtc_probability: Some(1.0), xtc_threshold: Some(threshold), ..drawn.clone() })
    };
    assert_ne!(xtc(0.01), answer_of(drawn.clone()));
    assert_eq!(xtc(0.51), answer_of(drawn.clone()), "no two tokens are as probable as that");
}

/// Law 2: a panic ends every request of that engine with an error; another engine goes on.
#[test]
fn a_panic_on_the_engine_thread_stays_with_its_engine() {
    let (bad, good) =
        (open(&fixture("llama"), CpuTier::Auto, 4, 0, 0, 2), open(&fixture("qwen3"), CpuTier::Auto, 4, 0, 0, 2));
    let job = |n| Job {
        prompt: vec![1, 2, 3],
        options: RequestOptions { max_tokens: Some(n), ignore_eos: true, ..RequestOptions::default() },
    };
    let bystander = job(100).submit(&good, Sink::Pull);
    let victims: Vec<Request> = (0..6).map(|_| job(200).submit(&bad, Sink::Pull)).collect();
    bad.inject_panic();
    for victim in &victims {
        let events = drain(victim);
        let last = events.last().unwrap();
        if last.kind == EventKind::Failed {
            assert_eq!(last.error.as_ref().unwrap().status, astrai::Status::Internal);
        } else {
            // It may have been done before the panic command arrived.
            assert_eq!(last.finish, FinishReason::Length);
        }
    }
    let late = drain(&job(5).submit(&bad, Sink::Pull));
    assert_eq!(late.last().unwrap().kind, EventKind::Failed);
    assert_eq!(bad.check().unwrap_err().status, astrai::Status::Internal);
    assert_eq!(answer(&drain(&bystander)).tokens.len(), 100);
    bad.close(Duration::ZERO).unwrap();
    good.check().unwrap();
}

/// A door that a callback waits at.
#[derive(Default)]
pub struct Gate(Mutex<bool>, Condvar);

impl Gate {
    pub fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    pub fn pass(&self) {
        let mut open = self.0.lock().unwrap();
        while !*open {
            open = self.1.wait(open).unwrap();
        }
    }
}

/// Law 5: while a callback blocks, pulling requests run to their end.
#[test]
fn a_blocked_callback_delays_no_generation() {
    let engine = open(&fixture("llama"), CpuTier::Auto, 4, 0, 0, 1);
    let job = |n| Job {
        prompt: vec![9, 8],
        options: RequestOptions { max_tokens: Some(n), ignore_eos: true, ..RequestOptions::default() },
    };
    let gate = Arc::new(Gate::default());
    let (inside, at_gate) = (Arc::new(Gate::default()), gate.clone());
    let entered = inside.clone();
    let slow = job(50).submit(
        &engine,
        Sink::Callback(Box::new(move |_| {
            entered.open();
            at_gate.pass();
            true
        })),
    );
    inside.pass();
    for _ in 0..5 {
        assert_eq!(answer(&drain(&job(40).submit(&engine, Sink::Pull))).tokens.len(), 40);
    }
    assert!(matches!(slow.wait(Some(Duration::ZERO)).unwrap(), Next::Timeout));
    gate.open();
    assert!(matches!(slow.wait(None).unwrap(), Next::End));
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Law 4 and the finalizer: one terminal event, then the sink is dropped, once; also for a callback that stops, a cancel, a
/// failed submit and a close in the middle.
#[test]
fn every_request_ends_once_and_its_sink_is_dropped_once() {
    let engine = open(&fixture("llama"), CpuTier::Auto, 3, 0, 0, 2);
    let (drops, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let sink = |stop_after: usize| {
        let (counted, ends, mut calls) = (Counted(drops.clone()), ends.clone(), 0);
        Sink::Callback(Box::new(move |event: &Event| {
            let _keep = &counted;
            calls += 1;
            if event.terminal() {
                ends.lock().unwrap().push(event.finish);
            }
            calls < stop_after
        }))
    };
    let long = Job {
        prompt: vec![4; 30],
        options: RequestOptions { max_tokens: Some(200), ignore_eos: true, ..RequestOptions::default() },
    };
    let stopped = long.submit(&engine, sink(1));
    stopped.wait(None).unwrap();
    assert_eq!(*ends.lock().unwrap(), [FinishReason::Callback]);
    assert_eq!(drops.load(Ordering::SeqCst), 1, "wait returns after the sink was dropped");
    let cancelled = long.submit(&engine, sink(usize::MAX));
    cancelled.cancel();
    cancelled.cancel();
    cancelled.wait(None).unwrap();
    assert_eq!(drops.load(Ordering::SeqCst), 2);
    let empty = Prompt::default();
    assert!(engine.submit(&empty, &RequestOptions::default(), sink(9)).is_err());
    assert_eq!(drops.load(Ordering::SeqCst), 3, "a failing submit drops the sink before it returns");
    let open_ones: Vec<Request> = (0..10).map(|_| long.submit(&engine, sink(usize::MAX))).collect();
    engine.close(Duration::ZERO).unwrap();
    assert_eq!((drops.load(Ordering::SeqCst), ends.lock().unwrap().len()), (13, 12));
    assert_eq!(engine.close(Duration::ZERO).unwrap_err().status, astrai::Status::Closed);
    assert!(engine.submit(&empty, &RequestOptions::default(), Sink::Pull).is_err());
    drop(open_ones);
}

#[test]
fn a_deadline_ends_a_request_that_nobody_reads() {
    let engine = open(&fixture("llama"), CpuTier::Auto, 3, 0, 0, 1);
    let options = RequestOptions {
        max_tokens: Some(200),
        ignore_eos: true,
        deadline_ms: 30,
        queue_tokens: 1,
        ..RequestOptions::default()
    };
    let request = Job { prompt: vec![4; 3], options }.submit(&engine, Sink::Pull);
    // Nobody reads, so the request is paused at its first token until the deadline.
    let waited = std::time::Instant::now();
    while engine.stats().unwrap().cancelled == 0 {
        assert!(waited.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
    let events = drain(&request);
    assert_eq!(events.last().unwrap().finish, FinishReason::Deadline);
    assert!(answer(&events).tokens.len() < 200);
}

/// Law 8: as many requests as may run and wait are accepted; the next submit is refused at once, until one has ended.
#[test]
fn a_full_waiting_line_refuses_at_submit() {
    let options = EngineOptions { max_running: 2, max_waiting: 3, threads: 1, ..EngineOptions::default() };
    let engine = Engine::open(&fixture("llama"), options).unwrap();
    let options =
        RequestOptions { max_tokens: Some(50), ignore_eos: true, queue_tokens: 1, ..RequestOptions::default() };
    let job = Job { prompt: vec![3, 1], options };
    // Nobody reads, so none of them can end.
    let held: Vec<Request> = (0..5).map(|_| job.submit(&engine, Sink::Pull)).collect();
    let prompt = Prompt { parts: vec![PromptPart::Tokens(vec![1])], ..Prompt::default() };
    for _ in 0..100 {
        let error = engine.submit(&prompt, &job.options, Sink::Pull).map(|_| ()).unwrap_err();
        assert_eq!((error.status, error.needed, error.available), (astrai::Status::QueueFull, 6, 5));
    }
    for request in &held {
        assert!(matches!(request.wait(None).unwrap(), Next::Event(e) if e.finish == FinishReason::Length));
        job.submit(&engine, Sink::Pull).wait(None).unwrap();
    }
    engine.check().unwrap();
}

/// Law 5: waiting for a callback request does not lift the bound of its queue.
#[test]
fn a_wait_leaves_the_queue_of_a_callback_request_bounded() {
    let engine = open(&fixture("llama"), CpuTier::Auto, 2, 0, 0, 1);
    let gate = Arc::new(Gate::default());
    let (at_gate, largest) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let seen = largest.clone();
    let options =
        RequestOptions { max_tokens: Some(100), ignore_eos: true, queue_tokens: 4, ..RequestOptions::default() };
    let sink = Sink::Callback(Box::new(move |event| {
        seen.fetch_max(event.tokens.len(), Ordering::SeqCst);
        at_gate.pass();
        true
    }));
    let request = Job { prompt: vec![2, 2], options }.submit(&engine, sink);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| request.wait(None).unwrap());
        let begin = std::time::Instant::now();
        while engine.stats().unwrap().stalled == 0 {
            assert!(begin.elapsed() < Duration::from_secs(20), "the request never paused");
            std::thread::yield_now();
        }
        gate.open();
        assert!(matches!(waiter.join().unwrap(), Next::End));
    });
    assert!(largest.load(Ordering::SeqCst) <= 4, "an event of {} tokens", largest.load(Ordering::SeqCst));
}

#[test]
fn queued_events_outlive_their_engine() {
    let engine = open(&fixture("qwen2"), CpuTier::Auto, 2, 0, 0, 2);
    let options = RequestOptions { max_tokens: Some(2), ignore_eos: true, ..RequestOptions::default() };
    let request = Job { prompt: vec![1], options }.submit(&engine, Sink::Pull);
    drop(engine);
    let events = drain(&request);
    assert!(matches!(events.last().unwrap().finish, FinishReason::Length | FinishReason::Close));
    assert!(matches!(request.next(None).unwrap(), Next::End));
}
