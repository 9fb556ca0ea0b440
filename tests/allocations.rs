//! A step of the scheduler allocates nothing in steady state, and the engine thread nothing from a request's first token to its
//! last, for each way to receive: counted by an allocator that wraps the system's.

mod fake;

use astrai::engine::*;
use astrai::text::{TextStream, Tokenizer};
use fake::Fake;
use serde_json::{Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    if WATCHED.load(SeqCst) && is_engine_thread() {
        OF_ENGINES.fetch_add(1, SeqCst);
    }
}

/// Whether allocations of engine threads are counted now, and how many there were.
static WATCHED: AtomicBool = AtomicBool::new(false);
static OF_ENGINES: AtomicU64 = AtomicU64::new(0);

/// By its name, which it has had since before the counting began.
#[cfg(target_os = "linux")]
fn is_engine_thread() -> bool {
    let mut name = [0u8; 16];
    // SAFETY: writes at most the given length.
    let got = unsafe { libc::pthread_getname_np(libc::pthread_self(), name.as_mut_ptr().cast(), name.len()) };
    got == 0 && name.starts_with(b"astrai-engine\0")
}

#[cfg(not(target_os = "linux"))]
fn is_engine_thread() -> bool {
    false
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a plain thread-local number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(mut work: impl FnMut()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

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
    while fake.scheduler.pages().2 > 0 || fake.plan.tokens != 16 {
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
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller/tokenizer.json");
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
    let prompt = Prompt { parts: vec![text], stops, bias, stop_tokens: vec![3], ..Prompt::default() };
    let options = RequestOptions {
        seed: Some(11),
        ignore_eos: true,
        temperature: Some(0.7),
        top_p: Some(0.95),
        top_k: Some(50),
        logprobs: Some(20),
        max_tokens: Some(1000),
        repetition_penalty: Some(1.05),
        frequency_penalty: Some(0.1),
        ..RequestOptions::default()
    };
    (prompt, options)
}

/// Allocations of the engine thread while four requests make some hundred tokens.
fn of_the_engine(way: Way, queue_tokens: u32) -> u64 {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller");
    let delivery = if way == Way::Poll { Delivery::Poll } else { Delivery::Thread };
    let engine = Engine::open(&dir, EngineOptions { threads: 1, delivery, ..EngineOptions::default() }).unwrap();
    let (prompt, mut options) = everything();
    // It never waits for a reader, so that the engine never idles: with debug assertions it proves its books then.
    let longer = RequestOptions { max_tokens: Some(1900), ..options.clone() };
    let _runner = engine.submit(&prompt, &longer, Sink::Pull).unwrap();
    options.queue_tokens = queue_tokens;
    let requests: Vec<Request> = (0..3)
        .map(|_| {
            let sink = match way {
                Way::Dispatch | Way::Poll => Sink::Callback(Box::new(|_| true)),
                Way::Engine => Sink::Engine(Box::new(())),
                Way::Pull | Way::Unread => Sink::Pull,
            };
            engine.submit(&prompt, &options, sink).unwrap()
        })
        .collect();
    let read = || match way {
        Way::Poll => _ = engine.poll(Some(Duration::from_millis(1)), 0).unwrap(),
        Way::Engine => _ = engine.next(Some(Duration::from_millis(1))).unwrap(),
        Way::Pull => requests.iter().for_each(|r| _ = r.next(Some(Duration::from_millis(1))).unwrap()),
        Way::Dispatch | Way::Unread => std::thread::yield_now(),
    };
    let tokens = || {
        let stats = engine.stats().unwrap();
        assert_eq!((stats.finished, stats.cancelled, stats.failed), (0, 0, 0), "one of them has ended");
        stats.tokens_out
    };
    // All of them have begun.
    while tokens() < 16 {
        read();
    }
    OF_ENGINES.store(0, SeqCst);
    WATCHED.store(true, SeqCst);
    while tokens() < 900 {
        read();
    }
    WATCHED.store(false, SeqCst);
    let made = OF_ENGINES.load(SeqCst);
    tokens();
    made
}

/// One engine at a time.
static ONE: Mutex<()> = Mutex::new(());

#[test]
#[cfg(target_os = "linux")]
fn no_token_allocates_on_its_way() {
    let _one = ONE.lock().unwrap();
    for way in [Way::Dispatch, Way::Poll, Way::Pull, Way::Unread, Way::Engine] {
        // A queue that fills up and one that does not; who is never read needs one that holds everything.
        let queues: &[u32] = if way == Way::Unread { &[0] } else { &[0, 3] };
        for &queue_tokens in queues {
            assert_eq!(of_the_engine(way, queue_tokens), 0, "{way:?} with a queue of {queue_tokens} tokens");
        }
    }
}

/// The counter finds the engine thread: admitting requests takes memory.
#[test]
#[cfg(target_os = "linux")]
fn the_engine_thread_is_counted() {
    let _one = ONE.lock().unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller");
    let engine = Engine::open(&dir, EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap();
    let (prompt, options) = everything();
    OF_ENGINES.store(0, SeqCst);
    WATCHED.store(true, SeqCst);
    let request = engine.submit(&prompt, &RequestOptions { max_tokens: Some(2), ..options }, Sink::Pull).unwrap();
    request.wait(None).unwrap();
    WATCHED.store(false, SeqCst);
    assert!(OF_ENGINES.load(SeqCst) > 0);
}
