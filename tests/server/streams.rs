//! Many streams at once, whose clients go away when they like: each answer has one end, or none if its client has gone.

use crate::client::{parse, request, rest};
use crate::scripted::{TEMPLATE, open, serve_with, until};
use crate::support::random::{Random, rounds, seed};
use astrai::engine::{Engine, EngineOptions, Prompt, RequestOptions};
use astrai::server::Server;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Clients at once.
const STREAMS: u64 = 256;

/// A streamed request of any dialect, and the answers that it has.
fn ask(random: &mut Random) -> (&'static str, Value, usize) {
    let words = ["the lighthouse", "a silver key", "the sea", "an owl", "the old bridge"];
    let text = format!("Tell me about {} and {}.", random.pick(&words), random.pick(&words));
    let chat = json!([{"role": "user", "content": text}]);
    let (most, n) = (1 + random.below(24), 1 + random.below(2));
    match random.below(4) {
        0 => ("/v1/chat/completions", json!({"messages": chat, "max_tokens": most, "n": n, "stream": true}), n),
        1 => ("/v1/completions", json!({"prompt": text, "max_tokens": most, "n": n, "stream": true}), n),
        2 => ("/v1/responses", json!({"input": text, "max_output_tokens": most, "stream": true}), 1),
        _ => ("/v1/messages", json!({"messages": chat, "max_tokens": most, "stream": true}), 1),
    }
}

/// Ends of answers, and of the stream, in the body of one.
fn ends(path: &str, body: &str) -> (usize, usize) {
    let count = |text: &str| body.matches(text).count();
    match path {
        "/v1/responses" => {
            let ends = count("event: response.completed\n")
                + count("event: response.incomplete\n")
                + count("event: response.failed\n");
            (ends, ends)
        }
        "/v1/messages" => (count("event: message_delta\n"), count("event: message_stop\n")),
        _ => (count("\"finish_reason\":\"stop\"") + count("\"finish_reason\":\"length\""), count("data: [DONE]\n")),
    }
}

/// What became of the clients.
#[derive(Default)]
struct Counts {
    submitted: AtomicU64,
    whole: AtomicU64,
    gone: AtomicU64,
}

/// One request: read to its end, or left at any time.
fn client(server: &Server, random: &mut Random, counts: &Counts) {
    let (path, body, answers) = ask(random);
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(&request("POST", path, &[("Content-Type", "application/json")], &body.to_string())).unwrap();
    if random.below(3) > 0 {
        let all = rest(&mut stream);
        let (reply, left) = parse(&all).unwrap_or_else(|| panic!("{path}: {:?}", String::from_utf8_lossy(&all)));
        assert!(reply.status == 200 && left.is_empty(), "{path}: {reply:?}");
        assert_eq!(ends(path, &reply.body), (answers, 1), "{path}: {reply:?}");
        counts.whole.fetch_add(answers as u64, Ordering::Relaxed);
        return;
    }
    counts.gone.fetch_add(1, Ordering::Relaxed);
    match random.below(3) {
        0 => {}
        1 => drop(stream.shutdown(Shutdown::Write)),
        _ => {
            let mut some = vec![0; 1 + random.below(3000)];
            let _ = stream.read(&mut some);
        }
    }
}

fn engine() -> Arc<Engine> {
    // Too few pages for all of them.
    let options = EngineOptions {
        max_running: STREAMS as u32,
        max_waiting: 1024,
        memory_budget: 48 << 20,
        // So that memory is what it will be.
        touch_kv: true,
        ..EngineOptions::default()
    };
    open(TEMPLATE, 512, options)
}

/// All clients at once, each with requests until `go_on` says no.
fn all(engine: &Arc<Engine>, go_on: impl Fn(u64) -> bool + Sync, mut watch: impl FnMut(&Counts)) {
    let counts = Arc::new(Counts::default());
    let seen = counts.clone();
    let server = serve_with(engine, |options| {
        options.prepare = Some(Arc::new(move |_: &Engine, _: &Prompt, _: &mut RequestOptions| {
            seen.submitted.fetch_add(1, Ordering::SeqCst);
        }));
    });
    let (seed, before) = (seed(), engine.stats().unwrap());
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..STREAMS)
            .map(|client_number| {
                let (server, counts, go_on) = (&server, &counts, &go_on);
                scope.spawn(move || {
                    let mut random = Random(seed ^ client_number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                    for number in 0.. {
                        if !go_on(number) {
                            return;
                        }
                        client(server, &mut random, counts);
                    }
                })
            })
            .collect();
        while !clients.iter().all(|client| client.is_finished()) {
            watch(&counts);
        }
    });
    // What was submitted for those that have gone ends, too.
    until(|| engine.stats().unwrap().running == 0 && engine.stats().unwrap().waiting == 0);
    let after = engine.stats().unwrap();
    let (whole, gone, submitted) = (
        counts.whole.load(Ordering::SeqCst),
        counts.gone.load(Ordering::SeqCst),
        counts.submitted.load(Ordering::SeqCst),
    );
    let (finished, cancelled) = (after.finished - before.finished, after.cancelled - before.cancelled);
    println!(
        "{submitted} requests: {whole} answers were read, {gone} clients went away; {finished} finished, {cancelled} cancelled"
    );
    assert_eq!((finished + cancelled, after.failed), (submitted, before.failed));
    assert!(finished >= whole && gone > 0 && cancelled > 0);
    engine.check().unwrap();
    let stats = engine.stats().unwrap();
    assert_eq!(stats.pages_used, 0);
}

#[test]
fn answers_have_one_end_each_whoever_goes_away() {
    let engine = engine();
    all(&engine, |number| number < 2 * rounds(), |_| std::thread::yield_now());
}

/// Bytes of memory that the process has.
#[cfg(target_os = "linux")]
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The same for ASTRAI_SOAK_SECONDS, by default 120: memory stays flat.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "takes two minutes: make server-soak"]
fn a_long_time() {
    let seconds = std::env::var("ASTRAI_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120);
    let (engine, begin, whole) = (engine(), Instant::now(), Duration::from_secs(seconds));
    let (mut warm, mut told) = (0, 0);
    let mut most = 0;
    all(
        &engine,
        |_| begin.elapsed() < whole,
        |counts| {
            // Looks now and then; nothing depends on when.
            std::thread::park_timeout(Duration::from_millis(100));
            let now = resident_kib();
            if begin.elapsed() < whole / 4 {
                warm = warm.max(now);
            } else {
                most = most.max(now);
            }
            let tenth = begin.elapsed().as_secs() * 10 / seconds.max(1);
            if tenth > told {
                told = tenth;
                println!(
                    "{:>4} s: {now} KiB, {} answers",
                    begin.elapsed().as_secs(),
                    counts.whole.load(Ordering::Relaxed)
                );
            }
        },
    );
    println!("at most {warm} KiB in the first quarter, {most} KiB after it");
    assert!(most <= warm + (8 << 10), "memory grew from {warm} to {most} KiB");
}
