//! A step of the scheduler allocates nothing in steady state, and the engine thread nothing from a request's first token to its
//! last, for each way to receive. Nor does who shows events to callbacks, and who takes events as his own allocates for events,
//! not for tokens.

use crate::allocator::{of_thread as allocations, receive, watch};
use crate::support::fake::Fake;
use crate::support::models::storyteller;
use astrai::constrain::Kind;
use astrai::engine::*;
use astrai::ffi;
use astrai::ffi::types::*;
use astrai::text::{TextStream, Tokenizer};
use serde_json::{Value, json};
use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7)))), 1);
}

/// 256 sequences of 2,000 tokens and more: full pages enter the tree and new ones are taken all the time.
#[test]
fn a_step_allocates_nothing() {
    let mut fake = Fake::warmed_up(256, 2000, 256 * 200);
    let before = fake.scheduler.pages().0;
    assert_eq!(allocations(|| (0..512).for_each(|_| fake.step())), 0);
    let taken = fake.scheduler.pages().0 - before;
    assert_eq!(taken, 256 * 512 / 16, "every sequence filled 32 pages meanwhile");
    fake.scheduler.check().unwrap();
}

/// The same where every new page has to be evicted from the tree first.
#[test]
fn eviction_allocates_nothing() {
    let mut fake = Fake::warmed_up(16, 256, 16 * 80);
    for handle in fake.handles() {
        fake.scheduler.finish(handle);
    }
    for i in 0..16u32 {
        let prompt: Vec<u32> = (0..256).map(|t| t * 2003 + i).collect();
        fake.scheduler.submit(prompt, 2456, 255, 0).unwrap();
    }
    let cached = |fake: &Fake| fake.scheduler.pages().1;
    while fake.scheduler.pages().2 > 0 || fake.batch.tokens != 16 {
        fake.step();
    }
    let evicted = fake.scheduler.counters().evictions;
    assert!(cached(&fake) > 64);
    assert_eq!(allocations(|| (0..32).for_each(|_| fake.step())), 0);
    assert!(fake.scheduler.counters().evictions >= evicted + 16, "the pool was meant to be full");
}

/// The decoders whose text comes token by token, a `Replace` of several characters among them.
#[test]
fn decoding_a_token_allocates_nothing() {
    let path = storyteller().join("tokenizer.json");
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 1});
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{120}", "prepend_scheme": "always", "split": true});
    for decoders in [
        json!([{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}]),
        json!([replace("\u{120}", " "), {"type": "ByteFallback"}, {"type": "Fuse"}, strip]),
        json!([replace("th", "the long"), replace("\u{120}a", "a"), {"type": "Fuse"}]),
        json!([metaspace]),
    ] {
        file["decoder"] = json!({"type": "Sequence", "decoders": decoders});
        let tokenizer = Arc::new(Tokenizer::from_json(file.to_string().as_bytes(), "tokenizer.json").unwrap());
        let mut stream = TextStream::new(tokenizer.clone(), true);
        stream.reserve(1000).unwrap();
        let mut text = String::with_capacity(1 << 20);
        let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap();
        assert_eq!(allocations(|| ids.clone().for_each(|id| stream.push(id, &mut text).unwrap())), 0, "{decoders}");
        assert!(text.len() > 1000, "{decoders}");
    }
}

/// How a request is received.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Dispatch,
    Poll,
    Pull,
    /// Pulled by nobody until it has ended.
    Unread,
    Engine,
}

/// What is asked of a request that uses all that a step has to do for it.
fn everything() -> (Prompt, RequestOptions) {
    let text = PromptPart::Text { text: "Once upon a time".into(), special: false };
    let stops = vec!["never in this text".into(), " the #".into(), ", and #".into()];
    // The token that would stop it never comes.
    let bias = vec![(7, 0.5), (3, f32::NEG_INFINITY)];
    let prompt = Prompt { parts: vec![text], ..Prompt::default() };
    let settings = Settings { stops, bias, stop_tokens: vec![3], ..Settings::default() };
    let options = RequestOptions {
        settings: Some(settings.into()),
        seed: Some(11),
        ignore_eos: true,
        temperature: Some(0.7),
        top_p: Some(0.95),
        top_k: Some(50),
        logprobs: Some(20),
        max_tokens: Some(1000),
        repetition_penalty: Some(1.05),
        frequency_penalty: Some(0.1),
        xtc_probability: Some(0.5),
        dry_multiplier: Some(0.8),
        ..RequestOptions::default()
    };
    (prompt, options)
}

/// What was counted while four requests made some hundred tokens.
#[derive(Debug)]
struct Counted {
    engine: u64,
    readers: u64,
    /// Events that were taken, in the ways that hand them over.
    taken: u64,
}

impl Counted {
    fn check(&self, way: Way, queue_tokens: u32) {
        let context = format!("{way:?} with a queue of {queue_tokens} tokens: {self:?}");
        assert_eq!(self.engine, 0, "{context}");
        let allowed = match way {
            Way::Unread => 0,
            // A queue of three tokens holds no more than there is room for from the beginning. A larger one grows what its callback
            // is shown by doubling its five lists, if the callback falls behind.
            Way::Dispatch | Way::Poll if queue_tokens > 0 => 0,
            Way::Dispatch | Way::Poll => 3 * 5 * 6,
            // The event with its lists, and C's struct: however many tokens it holds.
            Way::Pull | Way::Engine => self.taken * 7,
        };
        assert!(self.readers <= allowed, "{context}");
    }
}

fn tokens_of(engine: &Engine) -> u64 {
    let stats = engine.stats().unwrap();
    assert_eq!((stats.finished, stats.cancelled, stats.failed), (0, 0, 0), "one of them has ended");
    stats.tokens_out
}

/// Lets a paused engine go on. Calls `read`, which returns how many events it took, until four requests run and have made a number of tokens; then counts up to
/// another one.
fn steady(engine: &Engine, mut read: impl FnMut() -> u64) -> Counted {
    engine.resume().unwrap();
    while engine.stats().unwrap().running < 4 {
        read();
    }
    // All of them have begun, and everything was received once.
    let begun = tokens_of(engine);
    while tokens_of(engine) < begun + 64 {
        read();
    }
    let mut taken = 0;
    let (of_engine, readers) = watch(|| {
        while tokens_of(engine) < begun + 900 {
            taken += receive(&mut read);
        }
    });
    tokens_of(engine);
    Counted { engine: of_engine, readers, taken }
}

/// With callbacks, waits and events of Rust.
fn in_rust(way: Way, queue_tokens: u32, speculation: Speculation) -> Counted {
    let dir = storyteller();
    let delivery = if way == Way::Poll { Delivery::Poll } else { Delivery::Thread };
    let options = EngineOptions { threads: 1, delivery, speculation, ..EngineOptions::default() };
    let engine = Engine::open(&dir, options).unwrap();
    // It was watched, and is not any more.
    engine.set_trace(Some(Trace { detail: Some(DetailOptions::default()), ..Trace::new(Box::new(|_| ())) })).unwrap();
    engine.set_trace(None).unwrap();
    // So that all of them begin together.
    assert!(engine.pause(None).unwrap());
    let (prompt, mut options) = everything();
    let drafts = speculation != Speculation::default();
    options.dry_multiplier = options.dry_multiplier.filter(|_| !drafts);
    // It never waits for a reader, so that the engine never idles: with debug assertions it proves its accounting then.
    let longer = RequestOptions { max_tokens: Some(1900), ..options.clone() };
    let _runner = engine.submit(&prompt, &longer, Sink::Pull).unwrap();
    options.queue_tokens = queue_tokens;
    // One of them is constrained.
    let constraint = Some(engine.compile_constraint(Kind::Regex, "([a-zA-Z]{1,12}[ ,.])*").unwrap());
    let settings = Settings { constraint, ..options.settings.as_deref().unwrap().clone() };
    let constrained = RequestOptions { settings: Some(Arc::new(settings)), ..options.clone() };
    let requests: Vec<Request> = (0..3)
        .map(|i| {
            let options = if i == 0 { &constrained } else { &options };
            let sink = match way {
                Way::Dispatch | Way::Poll => Sink::Callback(Box::new(|_| true)),
                Way::Engine => Sink::Engine(Box::new(())),
                Way::Pull | Way::Unread => Sink::Pull,
            };
            engine.submit(&prompt, options, sink).unwrap()
        })
        .collect();
    let a_moment = Some(Duration::from_millis(1));
    let event = |next: Next| u64::from(matches!(next, Next::Event(_)));
    let counted = steady(&engine, || match way {
        Way::Poll => u64::from(engine.poll(a_moment, 0).unwrap()),
        Way::Engine => event(engine.next(a_moment).unwrap()),
        Way::Pull => requests.iter().map(|r| event(r.next(a_moment).unwrap())).sum(),
        Way::Dispatch | Way::Unread => {
            std::thread::yield_now();
            0
        }
    });
    assert_eq!(engine.stats().unwrap().drafted_tokens > 0, drafts);
    counted
}

unsafe extern "C" fn look(_: *mut c_void, event: *const astrai_event) -> i32 {
    // SAFETY: the event is there until this returns, and a NUL follows its text.
    let (text, len) = unsafe { (CStr::from_ptr((*event).text), (*event).text_len) };
    i32::from(text.count_bytes() != len)
}

/// The same through the C ABI.
fn in_c(way: Way, queue_tokens: u32) -> Counted {
    let dir = CString::new(storyteller().to_str().unwrap()).unwrap();
    let text = "Once upon a time";
    let none = ptr::null_mut;
    // SAFETY: integers, floats, raw pointers and functions that may be absent.
    let (mut open, mut options): (astrai_engine_options, astrai_request_options) = unsafe { std::mem::zeroed() };
    let (mut engine, mut prompt) = (ptr::null_mut(), ptr::null_mut());
    let mut requests = [ptr::null_mut(); 4];
    // SAFETY: structs of their own sizes, places to write to, text of the given length.
    unsafe {
        ffi::library::astrai_engine_options_init(&mut open, size_of_val(&open));
        open.threads = 1;
        open.delivery = if way == Way::Poll { ASTRAI_DELIVER_POLL } else { ASTRAI_DELIVER_THREAD };
        assert_eq!(ffi::engine::astrai_engine_open(dir.as_ptr(), &open, &mut engine, none()), ASTRAI_OK);
        assert_eq!(ffi::prompt::astrai_prompt_new(&mut prompt, none()), ASTRAI_OK);
        assert_eq!(ffi::prompt::astrai_prompt_add_text(prompt, text.as_ptr().cast(), text.len(), 0, none()), ASTRAI_OK);
        ffi::library::astrai_request_options_init(&mut options, size_of_val(&options));
    }
    // SAFETY: a live handle.
    let inside = unsafe { ffi::testing::engine(engine) }.unwrap();
    assert!(inside.pause(None).unwrap());
    (options.logprobs, options.flags) = (5, ASTRAI_REQUEST_IGNORE_EOS);
    for (i, request) in requests.iter_mut().enumerate() {
        // The first is the one that never waits.
        options.max_tokens = if i == 0 { 1900 } else { 1000 };
        options.queue_tokens = if i == 0 { 0 } else { queue_tokens };
        let called = i > 0 && matches!(way, Way::Dispatch | Way::Poll);
        options.flags |= if i > 0 && way == Way::Engine { ASTRAI_REQUEST_TO_ENGINE } else { 0 };
        let on_event: astrai_event_fn = if called { Some(look) } else { None };
        // SAFETY: live handles, an options struct with its size, and a place for the request.
        let status = unsafe {
            ffi::request::astrai_submit(engine, prompt, &options, on_event, ptr::null_mut(), None, request, none())
        };
        assert_eq!(status, ASTRAI_OK);
    }
    let take = |status: i32, event: *mut astrai_event| {
        assert!(status == ASTRAI_OK || status == ASTRAI_TIMEOUT);
        // SAFETY: an event that was just taken, or NULL.
        unsafe { ffi::event::astrai_event_free(event) };
        u64::from(status == ASTRAI_OK)
    };
    let mut event = ptr::null_mut();
    let counted = steady(&inside, || match way {
        Way::Poll => {
            let mut ran = 0;
            // SAFETY: a live handle and a place for a number.
            assert_eq!(unsafe { ffi::engine::astrai_engine_poll(engine, 1, 0, &mut ran, none()) }, ASTRAI_OK);
            u64::from(ran)
        }
        Way::Engine => {
            event = ptr::null_mut();
            // SAFETY: a live handle and a place for an event.
            let status = unsafe { ffi::engine::astrai_engine_next(engine, 1, &mut event, none()) };
            take(status, event)
        }
        Way::Pull => {
            let next = |request: &*mut _| {
                event = ptr::null_mut();
                // SAFETY: as above.
                let status = unsafe { ffi::request::astrai_request_next(*request, 1, &mut event, none()) };
                take(status, event)
            };
            requests[1..].iter().map(next).sum()
        }
        Way::Dispatch | Way::Unread => {
            std::thread::yield_now();
            0
        }
    });
    drop(inside);
    // SAFETY: each handle is freed once.
    unsafe {
        requests.iter().for_each(|request| ffi::request::astrai_request_free(*request));
        ffi::prompt::astrai_prompt_free(prompt);
        ffi::engine::astrai_engine_free(engine);
    }
    counted
}

/// One engine at a time.
static ONE: Mutex<()> = Mutex::new(());

#[test]
#[cfg(target_os = "linux")]
fn no_token_allocates_on_its_way() {
    let _one = ONE.lock().unwrap_or_else(|failed| failed.into_inner());
    for way in [Way::Dispatch, Way::Poll, Way::Pull, Way::Unread, Way::Engine] {
        // A queue that fills up and one that does not; who is never read needs one that holds everything.
        let queues: &[u32] = if way == Way::Unread { &[0] } else { &[0, 3] };
        for &queue_tokens in queues {
            in_rust(way, queue_tokens, Speculation::default()).check(way, queue_tokens);
            in_c(way, queue_tokens).check(way, queue_tokens);
        }
    }
}

/// The same with as many drafts as there are, of which some are refused.
#[test]
#[cfg(target_os = "linux")]
fn no_draft_allocates() {
    let _one = ONE.lock().unwrap_or_else(|failed| failed.into_inner());
    for shared_texts in [false, true] {
        let speculation = Speculation { own_text: true, shared_texts, draft_tokens: 0, always: true };
        in_rust(Way::Pull, 0, speculation).check(Way::Pull, 0);
        in_rust(Way::Unread, 0, speculation).check(Way::Unread, 0);
    }
}

/// The counter finds the engine thread: admitting requests takes memory.
#[test]
#[cfg(target_os = "linux")]
fn the_engine_thread_is_counted() {
    let _one = ONE.lock().unwrap_or_else(|failed| failed.into_inner());
    let dir = storyteller();
    let engine = Engine::open(&dir, EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap();
    let (prompt, options) = everything();
    let (of_engine, _) = watch(|| {
        let request = engine.submit(&prompt, &RequestOptions { max_tokens: Some(2), ..options }, Sink::Pull).unwrap();
        request.wait(None).unwrap();
    });
    assert!(of_engine > 0);
}

/// And who receives events: a copy of what a callback is shown takes memory.
#[test]
#[cfg(target_os = "linux")]
fn those_who_receive_events_are_counted() {
    let _one = ONE.lock().unwrap_or_else(|failed| failed.into_inner());
    for delivery in [Delivery::Thread, Delivery::Poll] {
        let dir = storyteller();
        let engine = Engine::open(&dir, EngineOptions { threads: 1, delivery, ..EngineOptions::default() }).unwrap();
        let (prompt, options) = everything();
        let (_, readers) = watch(|| {
            let copies = Sink::Callback(Box::new(|event| std::hint::black_box(event.clone()).tokens.len() < 2));
            let request = engine.submit(&prompt, &RequestOptions { max_tokens: Some(2), ..options }, copies).unwrap();
            receive(|| request.wait(None)).unwrap();
        });
        assert!(readers > 0, "{delivery:?}");
    }
}

/// What ends requests whose prompts are not ready takes no memory on the engine thread, however many there are.
#[test]
#[cfg(target_os = "linux")]
fn the_end_of_a_deferred_request_allocates_nothing() {
    let _one = ONE.lock().unwrap_or_else(|failed| failed.into_inner());
    let dir = storyteller();
    let engine = Engine::open(&dir, EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap();
    let (prompt, options) = everything();
    // As above: the engine never idles.
    let longer = RequestOptions { max_tokens: Some(1900), ..options.clone() };
    let runner = engine.submit(&prompt, &longer, Sink::Pull).unwrap();
    while engine.stats().unwrap().tokens_out < 2 {
        std::thread::yield_now();
    }
    // One long prompt after the other: few of them are prepared before they end.
    let long = PromptPart::Text { text: "Once upon a time there was ".repeat(9_000), special: false };
    let long = Prompt { parts: vec![long], ..Prompt::default() };
    let deferred = RequestOptions { defer: true, ..options };
    let requests: Vec<Request> = (0..8).map(|_| engine.submit(&long, &deferred, Sink::Pull).unwrap()).collect();
    while engine.stats().unwrap().waiting < 7 {
        std::thread::yield_now();
    }
    let mut kinds = Vec::with_capacity(requests.len());
    let (of_engine, _) = watch(|| {
        requests.iter().for_each(Request::cancel);
        for request in &requests {
            let Next::Event(event) = request.wait(None).unwrap() else { panic!("it was not read before") };
            kinds.push(event.kind);
        }
    });
    assert!(kinds.iter().filter(|kind| **kind == EventKind::Cancelled).count() >= 6, "{kinds:?}");
    assert_eq!(of_engine, 0);
    let Next::Timeout = runner.wait(Some(Duration::ZERO)).unwrap() else { panic!("it has ended meanwhile") };
}
