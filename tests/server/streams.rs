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

/// Rounds of all clients at once, each with so many requests, while `go_on`, which is asked when nothing runs.
fn all(engine: &Arc<Engine>, requests: u64, mut go_on: impl FnMut(&Counts) -> bool) {
    let counts = Arc::new(Counts::default());
    let seen = counts.clone();
    let server = serve_with(engine, |options| {
        options.prepare = Some(Arc::new(move |_: &Engine, _: &Prompt, _: &mut RequestOptions| {
            seen.submitted.fetch_add(1, Ordering::SeqCst);
        }));
    });
    let (seed, before) = (seed(), engine.stats().unwrap());
    for round in 0.. {
        std::thread::scope(|scope| {
            for number in 0..STREAMS {
                let (server, counts) = (&server, &counts);
                scope.spawn(move || {
                    let mut random = Random(seed ^ (round * STREAMS + number).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                    (0..requests).for_each(|_| client(server, &mut random, counts));
                });
            }
        });
        // What was submitted for those that have gone ends, too.
        until(|| engine.stats().unwrap().running == 0 && engine.stats().unwrap().waiting == 0);
        engine.check().unwrap();
        let stats = engine.stats().unwrap();
        let (finished, cancelled) = (stats.finished - before.finished, stats.cancelled - before.cancelled);
        assert_eq!((finished + cancelled, stats.failed), (counts.submitted.load(Ordering::SeqCst), before.failed));
        assert!(finished >= counts.whole.load(Ordering::SeqCst));
        assert_eq!(stats.pages_used, 0);
        if !go_on(&counts) {
            break;
        }
    }
    let (whole, gone) = (counts.whole.load(Ordering::SeqCst), counts.gone.load(Ordering::SeqCst));
    let stats = engine.stats().unwrap();
    println!(
        "{} requests: {whole} answers were read, {gone} clients went away; {} finished, {} cancelled, {} preemptions",
        counts.submitted.load(Ordering::SeqCst),
        stats.finished,
        stats.cancelled,
        stats.preemptions
    );
    assert!(gone > 0 && stats.cancelled > 0);
}

#[test]
fn answers_have_one_end_each_whoever_goes_away() {
    let engine = engine();
    all(&engine, 2 * rounds(), |_| false);
}

/// KiB of memory that the process has when the allocator has given back what is free, and that are in use.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn memory_kib() -> (u64, u64) {
    // SAFETY: both take no pointer, and may be called at any time by any thread.
    let used = unsafe {
        libc::malloc_trim(0);
        libc::mallinfo2()
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    (line.split_whitespace().nth(1).unwrap().parse().unwrap(), ((used.uordblks + used.hblkhd) >> 10) as u64)
}

/// The same for ASTRAI_SOAK_SECONDS, by default 120: memory stays flat.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
#[ignore = "takes two minutes: make server-soak"]
fn a_long_time() {
    let seconds = std::env::var("ASTRAI_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120);
    let (engine, begin, whole) = (engine(), Instant::now(), Duration::from_secs(seconds));
    // Before and after the first quarter: what the process has at most, and what is in use.
    let mut most = [(0, 0); 2];
    all(&engine, 4, |counts| {
        let (resident, used) = memory_kib();
        let late = usize::from(begin.elapsed() > whole / 4);
        most[late] = (resident.max(most[late].0), used.max(most[late].1));
        let answers = counts.whole.load(Ordering::Relaxed);
        println!("{:>4} s: {resident} KiB, {used} in use, {answers} answers", begin.elapsed().as_secs());
        begin.elapsed() < whole
    });
    println!("at most {:?} KiB in the first quarter, {:?} KiB after it", most[0], most[1]);
    assert!(most[1].0 <= most[0].0 + (8 << 10) && most[1].1 <= most[0].1 + (1 << 10), "memory grew: {most:?}");
}
