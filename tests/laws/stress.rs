//! The C ABI under many threads: requests of every kind from 16 host threads, with cancels, pins, pauses, frees and closes at
//! any moment, on engines that call back and engines that are polled.
//!
//! Run as it is by `make test`, under ThreadSanitizer by `make tsan` and under AddressSanitizer by `make asan`: it is
//! Rust and not C so that both sides of the ABI are built with the same sanitizer. What it proves by itself: each accepted
//! request ends once, each finalizer runs once, nothing stays behind. `ASTRAI_TEST_REQUESTS` changes the number of requests,
//! `ASTRAI_TEST_SEED` the seed.

mod host;

use crate::support::own_process::alone;
use crate::support::random::Random;
use astrai::ffi::control::*;
use astrai::ffi::engine::*;
use astrai::ffi::error::astrai_error_free;
use astrai::ffi::event::astrai_event_free;
use astrai::ffi::library::*;
use astrai::ffi::prefix::*;
use astrai::ffi::prompt::*;
use astrai::ffi::request::*;
use astrai::ffi::text::*;
use astrai::ffi::types::*;
use host::{Board, Host};
use std::collections::HashSet;
use std::ffi::{CString, c_void};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

const HOSTS: u64 = 16;
/// Engines opened one after the other.
const EPOCHS: u64 = 10;
/// Growth of memory from the third engine to the last that is not a leak, in KiB: the allocator's arenas.
const GROWTH_KIB_MAX: u64 = 16 << 10;

fn environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn folder(name: &str) -> CString {
    CString::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).to_str().unwrap()).unwrap()
}

/// What happened, over all engines.
#[derive(Debug, Default)]
struct Ledger {
    submitted: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    /// Requests with a callback, and their terminal events.
    called: AtomicU64,
    called_ends: AtomicU64,
    /// Pull requests read to their end, and their terminal events.
    pulled: AtomicU64,
    pulled_ends: AtomicU64,
    /// Requests whose events the engine is asked for, and their terminal events.
    to_engine: AtomicU64,
    taken_ends: AtomicU64,
    deferred: AtomicU64,
    pinned: AtomicU64,
    paused: AtomicU64,
    polled: AtomicU64,
    /// Calls of submit with a finalizer, and of the finalizer.
    lent: AtomicU64,
    finalized: AtomicU64,
    cancelled: AtomicU64,
    busy: AtomicU64,
    from_callbacks: AtomicU64,
}

/// What a request's user_data points to. Freed by the finalizer: a second one would be a double free.
struct Ticket {
    ledger: Arc<Ledger>,
    engine: Arc<Place>,
    ended: AtomicBool,
    stop_at: u64,
    events: AtomicU64,
    /// Submits another request from inside its terminal callback.
    chains: bool,
}

/// Where the engine's handle is while it may be used.
struct Place {
    engine: AtomicPtr<astrai_engine>,
    /// Requests whose terminal event the engine gave to whoever asked.
    taken: Mutex<HashSet<u64>>,
}

unsafe extern "C" fn on_event(user_data: *mut c_void, event: *const astrai_event) -> i32 {
    // SAFETY: the user data is a live Ticket until the finalizer, the event is whole.
    let (ticket, event) = unsafe { (&*user_data.cast::<Ticket>(), &*event) };
    assert!(!ticket.ended.load(SeqCst), "an event after the terminal one");
    assert_eq!(event.tag, 77);
    let engine = ticket.engine.engine.load(SeqCst);
    let none = ptr::null_mut;
    if event.terminal != 0 {
        ticket.ended.store(true, SeqCst);
        ticket.ledger.called_ends.fetch_add(1, SeqCst);
        // SAFETY: the engine is freed only after every callback has returned.
        assert_eq!(unsafe { astrai_engine_check(engine, none()) }, ASTRAI_ERR_REENTRANT);
        if ticket.chains {
            ticket.ledger.from_callbacks.fetch_add(1, SeqCst);
            let mut random = Random(event.request_id);
            let next = Submission { way: Way::Callback, chains: false, ..Submission::random(&mut random) };
            // SAFETY: as above.
            unsafe { next.submit(&ticket.engine, &ticket.ledger, ptr::null_mut()) };
        }
    }
    let stop = ticket.events.fetch_add(1, SeqCst) + 1 == ticket.stop_at;
    i32::from(stop)
}

unsafe extern "C" fn finalize(user_data: *mut c_void) {
    // SAFETY: made by Box::into_raw at submit, and given back once.
    let ticket = unsafe { Box::from_raw(user_data.cast::<Ticket>()) };
    ticket.ledger.finalized.fetch_add(1, SeqCst);
}

/// Who gets the events of a request.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Callback,
    Pull,
    Engine,
}

/// What is submitted.
struct Submission {
    prompt: Vec<i32>,
    options: astrai_request_options,
    way: Way,
    stop_at: u64,
    chains: bool,
}

impl Submission {
    fn random(random: &mut Random) -> Submission {
        // SAFETY: integers and floats; filled by init.
        let mut options: astrai_request_options = unsafe { std::mem::zeroed() };
        // SAFETY: a place of that size.
        let status = unsafe { astrai_request_options_init(&mut options, size_of::<astrai_request_options>()) };
        assert_eq!(status, ASTRAI_OK);
        options.flags = ASTRAI_REQUEST_IGNORE_EOS | ASTRAI_REQUEST_SEEDED;
        options.flags |= [0, 0, 0, ASTRAI_REQUEST_DEFER][random.number(4) as usize];
        options.tag = 77;
        options.seed = random.number(100);
        options.max_tokens = random.number(12) as i32;
        options.priority = random.number(3) as i32;
        options.temperature = [0.0, 0.8][random.number(2) as usize];
        options.logprobs = random.number(3) as i32 - 1;
        options.queue_tokens = [1, 2, 0][random.number(3) as usize];
        options.deadline_ms = [0, 0, 0, 1][random.number(4) as usize];
        let (len, alike) = (1 + random.number(40), random.number(40));
        let prompt = (0..len).map(|i| if i < alike { i } else { random.number(128) } as i32).collect();
        let stop_at = [0, 0, 1, 2][random.number(4) as usize];
        let way = [Way::Callback, Way::Callback, Way::Pull, Way::Pull, Way::Engine][random.number(5) as usize];
        Submission { prompt, options, way, stop_at, chains: random.number(16) == 0 }
    }

    /// Whether the engine took it. `out` may be NULL for a callback request.
    ///
    /// # Safety
    /// The engine of `place` is not freed meanwhile.
    unsafe fn submit(&self, place: &Arc<Place>, ledger: &Arc<Ledger>, out: *mut *mut astrai_request) -> bool {
        let none = ptr::null_mut;
        let ticket = Ticket {
            ledger: ledger.clone(),
            engine: place.clone(),
            ended: AtomicBool::new(false),
            stop_at: self.stop_at,
            events: AtomicU64::new(0),
            chains: self.chains,
        };
        ledger.submitted.fetch_add(1, SeqCst);
        ledger.lent.fetch_add(1, SeqCst);
        let on_event: astrai_event_fn = if self.way == Way::Callback { Some(on_event) } else { None };
        let mut options = self.options;
        options.flags |= if self.way == Way::Engine { ASTRAI_REQUEST_TO_ENGINE } else { 0 };
        // SAFETY: live handles, an array of the given length, user data that the finalizer takes back.
        let status = unsafe {
            let mut prompt = ptr::null_mut();
            assert_eq!(astrai_prompt_new(&mut prompt, none()), ASTRAI_OK);
            let added = astrai_prompt_add_tokens(prompt, self.prompt.as_ptr(), self.prompt.len(), none());
            assert_eq!(added, ASTRAI_OK);
            let (user_data, mut err) = (Box::into_raw(Box::new(ticket)).cast(), ptr::null_mut());
            let engine = place.engine.load(SeqCst);
            let status = astrai_submit(engine, prompt, &options, on_event, user_data, Some(finalize), out, &mut err);
            assert_eq!(err.is_null(), status == ASTRAI_OK);
            astrai_error_free(err);
            astrai_prompt_free(prompt);
            status
        };
        assert!([ASTRAI_OK, ASTRAI_ERR_CLOSED, ASTRAI_ERR_QUEUE_FULL].contains(&status), "submit gave {status}");
        let taken = status == ASTRAI_OK;
        if taken { &ledger.accepted } else { &ledger.refused }.fetch_add(1, SeqCst);
        ledger.called.fetch_add(u64::from(taken && self.way == Way::Callback), SeqCst);
        ledger.to_engine.fetch_add(u64::from(taken && self.way == Way::Engine), SeqCst);
        ledger.deferred.fetch_add(u64::from(taken && options.flags & ASTRAI_REQUEST_DEFER != 0), SeqCst);
        taken
    }
}

/// An engine that is a little too small.
fn open(random: &mut Random, deliver: i32) -> *mut astrai_engine {
    // SAFETY: integers, pointers and optional functions, all of which may be zero; filled by init.
    let mut options: astrai_engine_options = unsafe { std::mem::zeroed() };
    let mut engine = ptr::null_mut();
    // SAFETY: places to write to and a NUL-terminated path.
    unsafe {
        assert_eq!(astrai_engine_options_init(&mut options, size_of::<astrai_engine_options>()), ASTRAI_OK);
        options.threads = 1 + random.number(3) as u32;
        options.max_running = 2 + random.number(14) as u32;
        options.max_waiting = 4 + random.number(60) as u32;
        options.step_tokens = 1 + random.number(64) as u32;
        options.page_tokens = 4;
        options.delivery = deliver;
        let dir = folder("tests/fixtures/parity/llama");
        let mut plan: astrai_plan = std::mem::zeroed();
        plan.struct_size = size_of::<astrai_plan>() as u32;
        assert_eq!(astrai_engine_plan(dir.as_ptr(), &options, &mut plan, ptr::null_mut()), ASTRAI_OK);
        let kv = (80 + random.number(200)) * plan.kv_bytes_per_token;
        options.memory_budget = plan.weight_bytes + plan.workspace_bytes + kv;
        assert_eq!(astrai_engine_open(dir.as_ptr(), &options, &mut engine, ptr::null_mut()), ASTRAI_OK);
    }
    engine
}

/// Looks at the engine from outside all the time, pauses it, and now and then ends everything.
fn watch(place: &Place, ledger: &Ledger, stop: &AtomicBool, mut random: Random) {
    // SAFETY: integers; its size is set below.
    let mut stats: astrai_stats = unsafe { std::mem::zeroed() };
    stats.struct_size = size_of::<astrai_stats>() as u32;
    while !stop.load(SeqCst) {
        let engine = place.engine.load(SeqCst);
        let none = ptr::null_mut;
        // SAFETY: the engine is freed after this thread was joined.
        unsafe {
            match random.number(40) {
                0 => _ = astrai_engine_cancel_all(engine, none()),
                1..4 => _ = astrai_engine_set_log_level(engine, random.number(4) as i32, none()),
                4..8 => {
                    let status = astrai_engine_check(engine, none());
                    assert!([ASTRAI_OK, ASTRAI_ERR_CLOSED].contains(&status), "check gave {status}");
                }
                8 => _ = astrai_engine_clear_cache(engine, none()),
                9 => {
                    let paused = astrai_engine_pause(engine, random.number(3) as i32, none());
                    ledger.paused.fetch_add(u64::from(paused == ASTRAI_OK), SeqCst);
                    let resumed = astrai_engine_resume(engine, none());
                    assert!([ASTRAI_OK, ASTRAI_ERR_CLOSED].contains(&resumed), "resume gave {resumed}");
                }
                _ => _ = astrai_engine_stats(engine, &mut stats, none()),
            }
        }
        std::thread::yield_now();
    }
}

/// Takes from the engine's queue until told to stop, or until there will be nothing more.
fn take(place: &Place, ledger: &Ledger, stop: &AtomicBool) {
    while !stop.load(SeqCst) {
        let mut event = ptr::null_mut();
        // SAFETY: the engine is freed after this thread was joined; a place for the event.
        match unsafe { astrai_engine_next(place.engine.load(SeqCst), 1, &mut event, ptr::null_mut()) } {
            ASTRAI_OK => {
                // SAFETY: an event of the library, freed once.
                let (id, tag, terminal) = unsafe { ((*event).request_id, (*event).tag, (*event).terminal != 0) };
                // SAFETY: as above.
                unsafe { astrai_event_free(event) };
                assert_eq!(tag, 77);
                if terminal {
                    assert!(place.taken.lock().unwrap().insert(id), "two terminal events of request {id}");
                    ledger.taken_ends.fetch_add(1, SeqCst);
                }
            }
            ASTRAI_TIMEOUT => {}
            ASTRAI_END => return,
            other => panic!("engine_next gave {other}"),
        }
    }
}

/// The one thread that polls; hosts that wait for a callback request deliver too.
fn poll(place: &Place, ledger: &Ledger, stop: &AtomicBool, mut random: Random) {
    while !stop.load(SeqCst) {
        let (engine, most, mut ran) = (place.engine.load(SeqCst), random.number(4) as u32, 0);
        // SAFETY: the engine is freed after this thread was joined; a place for the number.
        let status = unsafe { astrai_engine_poll(engine, random.number(2) as i32, most, &mut ran, ptr::null_mut()) };
        match status {
            ASTRAI_OK => _ = ledger.polled.fetch_add(ran.into(), SeqCst),
            ASTRAI_ERR_BUSY => std::thread::yield_now(),
            ASTRAI_ERR_CLOSED => return,
            other => panic!("poll gave {other}"),
        }
    }
}

/// Renders and tokenizes: the text functions are shared by all host threads too.
fn text(engine: *mut astrai_engine, rounds: u64) {
    let (role, message) = (c"user", "Tell me about Zoë and the red lantern.");
    let (mut out, mut ids, mut count) = ([0; 1024], [0; 256], 0);
    for _ in 0..rounds {
        let mut prompt = ptr::null_mut();
        let none = ptr::null_mut;
        // SAFETY: a live engine, buffers of the given sizes, text of the given length.
        unsafe {
            assert_eq!(astrai_prompt_new(&mut prompt, none()), ASTRAI_OK);
            let (text, len) = (message.as_ptr().cast(), message.len());
            assert_eq!(astrai_prompt_add_message(prompt, role.as_ptr(), text, len, none()), ASTRAI_OK);
            let room = out.len();
            assert_eq!(astrai_render(engine, prompt, 0, out.as_mut_ptr(), room, &mut count, none()), ASTRAI_OK);
            let room = ids.len();
            assert_eq!(astrai_tokenize(engine, prompt, 0, ids.as_mut_ptr(), room, &mut count, none()), ASTRAI_OK);
            let room = out.len();
            let status = astrai_detokenize(engine, ids.as_ptr(), count, 0, out.as_mut_ptr(), room, &mut count, none());
            assert_eq!(status, ASTRAI_OK);
            astrai_prompt_free(prompt);
        }
    }
}

/// One engine's life: hosts, a watcher, an end.
fn epoch(random: &mut Random, ledger: &Arc<Ledger>, requests: u64, closes_early: bool, deliver: i32) {
    let place = Arc::new(Place { engine: AtomicPtr::new(open(random, deliver)), taken: Mutex::new(HashSet::new()) });
    let (board, stop) = (Arc::new(Board::default()), AtomicBool::new(false));
    let before = ledger.submitted.load(SeqCst);
    let close = |grace| {
        // SAFETY: live until the end of this function.
        let status = unsafe { astrai_engine_close(place.engine.load(SeqCst), grace, ptr::null_mut()) };
        assert_eq!(status, ASTRAI_OK);
    };
    std::thread::scope(|scope| {
        let seed = random.number(1 << 30);
        let (at, stop, ended) = (&*place, &stop, &**ledger);
        let mut others = vec![scope.spawn(move || watch(at, ended, stop, Random(seed)))];
        others.extend((0..3).map(|_| scope.spawn(move || take(at, ended, stop))));
        if deliver == ASTRAI_DELIVER_POLL {
            others.push(scope.spawn(move || poll(at, ended, stop, Random(seed + 1))));
        }
        let hosts: Vec<_> = (0..HOSTS)
            .map(|_| {
                let random = Random(random.number(1 << 30));
                let host = Host { place: place.clone(), ledger: ledger.clone(), board: board.clone(), random };
                scope.spawn(move || host.work(requests / HOSTS))
            })
            .collect();
        if closes_early {
            while ledger.submitted.load(SeqCst) - before < requests * 9 / 10 {
                std::thread::yield_now();
            }
            close(random.number(20) as i32);
        }
        let ended: Vec<_> = hosts.into_iter().map(|h| h.join()).collect();
        if !closes_early {
            let grace = [0, 5, -1][random.number(3) as usize];
            if grace == -1 {
                // What nobody reads would never end.
                board.requests.lock().unwrap().clear();
            }
            close(grace);
        }
        stop.store(true, SeqCst);
        others.into_iter().for_each(|o| o.join().unwrap());
        ended.into_iter().for_each(|e| e.unwrap());
    });
    // Closed, so this comes to an end.
    take(&place, ledger, &AtomicBool::new(false));
    // Handles may outlive the engine, and the other way round.
    let late = board;
    let engine = place.engine.load(SeqCst);
    if random.number(2) == 0 {
        drop(late);
        // SAFETY: freed once; only Tickets of finished requests still name it.
        unsafe { astrai_engine_free(engine) };
    } else {
        // SAFETY: as above.
        unsafe { astrai_engine_free(engine) };
        drop(late);
    }
}

fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// Threads of the library in this process.
fn library_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("astrai-")).count()
}

#[test]
fn requests_of_every_kind_from_many_threads() {
    if !alone(requests_of_every_kind_from_many_threads) {
        return;
    }
    let seed = environment("ASTRAI_TEST_SEED", 20260101);
    let requests = environment("ASTRAI_TEST_REQUESTS", 10_000);
    println!("ASTRAI_TEST_SEED={seed} ASTRAI_TEST_REQUESTS={requests}");
    let (mut random, ledger) = (Random(seed), Arc::new(Ledger::default()));
    // SAFETY: as in `open`.
    let mut options: astrai_engine_options = unsafe { std::mem::zeroed() };
    let (mut reader, dir) = (ptr::null_mut(), folder("models/storyteller"));
    // SAFETY: places to write to and a NUL-terminated path.
    unsafe {
        assert_eq!(astrai_engine_options_init(&mut options, size_of::<astrai_engine_options>()), ASTRAI_OK);
        options.flags = ASTRAI_ENGINE_TEXT_ONLY;
        assert_eq!(astrai_engine_open(dir.as_ptr(), &options, &mut reader, ptr::null_mut()), ASTRAI_OK);
    }
    let reader = AtomicPtr::new(reader);
    let (mut memory, mut files) = (0, 0);
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    for index in 0..EPOCHS {
        std::thread::scope(|scope| {
            (0..2).for_each(|_| _ = scope.spawn(|| text(reader.load(SeqCst), 20)));
            let deliver = [ASTRAI_DELIVER_THREAD, ASTRAI_DELIVER_THREAD, ASTRAI_DELIVER_POLL][index as usize % 3];
            epoch(&mut random, &ledger, requests / EPOCHS, index % 2 == 0, deliver);
        });
        assert_eq!(library_threads(), 0, "after engine {index}");
        if index == 2 {
            (memory, files) = (status_kib("VmRSS"), open_files());
        }
    }
    let grown = status_kib("VmRSS").saturating_sub(memory);
    println!("{ledger:?}\nmemory {memory} KiB after three engines, {grown} KiB more after {EPOCHS}");
    // A sanitizer keeps freed memory on purpose, and says so through its options.
    let sanitized = ["TSAN_OPTIONS", "ASAN_OPTIONS"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(sanitized || grown <= GROWTH_KIB_MAX, "memory grew by {grown} KiB");
    assert_eq!(open_files(), files);
    // SAFETY: freed once.
    unsafe { astrai_engine_free(reader.load(SeqCst)) };
    let count = |n: &AtomicU64| n.load(SeqCst);
    assert_eq!(count(&ledger.called_ends), count(&ledger.called), "one terminal event for each callback request");
    assert_eq!(
        count(&ledger.taken_ends),
        count(&ledger.to_engine),
        "one terminal event for each that the engine gives"
    );
    assert_eq!(count(&ledger.finalized), count(&ledger.lent), "each finalizer once");
    assert!(count(&ledger.pulled_ends) <= count(&ledger.pulled));
    assert!(count(&ledger.pulled_ends) > count(&ledger.pulled) / 2);
    assert!(count(&ledger.cancelled) > requests / 20 && count(&ledger.from_callbacks) > 0, "{ledger:?}");
    let ways = [&ledger.to_engine, &ledger.deferred, &ledger.pinned, &ledger.paused, &ledger.polled];
    assert!(ways.iter().all(|n| count(n) > 0), "{ledger:?}");
    assert!(count(&ledger.accepted) > requests / 2, "{ledger:?}");
}
