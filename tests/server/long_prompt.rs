//! Prompts of ten megabytes: nobody else waits for them.

use crate::client::{post, request};
use crate::scripted::{engine, open, serve_with};
use crate::support::random::Random;
use astrai::engine::{Engine, EngineOptions, Prompt, RequestOptions};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A text of so many bytes that is no repetition of one word.
fn text(bytes: usize) -> String {
    let words = ["the", "lighthouse", "silver", "key", "Mira", "and", "old", "said,", "again.", "sea"];
    let (mut random, mut text) = (Random(7), String::with_capacity(bytes + 16));
    while text.len() < bytes {
        text.push_str(words[random.below(words.len())]);
        text.push(' ');
    }
    text
}

/// Bodies with such a text, in every dialect.
fn bodies(text: &str) -> Vec<(&'static str, Value)> {
    let (chat, half) = (json!([{"role": "user", "content": text}]), &text[..text.len() / 2]);
    let many: Vec<Value> = (0..4000)
        .map(|at| json!({"role": if at % 2 == 0 { "user" } else { "assistant" }, "content": text.get(at * 2500..at * 2500 + 2400).unwrap_or("x")}))
        .collect();
    vec![
        ("/v1/chat/completions", json!({"messages": chat, "max_tokens": 1})),
        ("/v1/chat/completions", json!({"messages": many, "max_tokens": 1, "stream": true})),
        ("/v1/completions", json!({"prompt": text, "max_tokens": 1})),
        ("/v1/responses", json!({"input": "x", "instructions": text, "max_output_tokens": 1, "stream": true})),
        ("/v1/messages", json!({"messages": [{"role": "user", "content": half}], "system": half, "max_tokens": 1})),
        ("/v1/messages/count_tokens", json!({"messages": chat})),
        ("/tokenize", json!({"content": text})),
        ("/apply-template", json!({"messages": chat})),
    ]
}

#[test]
fn long_bodies_become_requests_on_a_thread_of_their_own() {
    let engine = engine();
    let threads = Arc::new(Mutex::new(Vec::new()));
    let seen = threads.clone();
    let server = serve_with(&engine, |options| {
        options.prepare = Some(Arc::new(move |_: &Engine, _: &Prompt, _: &mut RequestOptions| {
            seen.lock().unwrap().push(std::thread::current().id());
        }));
    });
    let short = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1});
    assert_eq!(post(server.address(), "/v1/chat/completions", &short).status, 200);
    // Longer than what the server's thread reads itself, and than the context.
    for (path, body) in &bodies(&text(100_000))[..5] {
        assert_eq!(post(server.address(), path, body).status, 400, "{path}");
    }
    let threads = threads.lock().unwrap();
    assert_eq!(threads.len(), 6);
    assert!(threads[1..].iter().all(|thread| *thread == threads[1] && *thread != threads[0]), "{threads:?}");
    engine.check().unwrap();
}

/// Reads a stream for as long as it goes; the times between two pieces that came.
#[cfg(target_os = "linux")]
fn gaps(address: SocketAddr, seed: u64, eos: u32, ended: &AtomicBool) -> Vec<Duration> {
    let body = json!({"prompt": "Once", "max_tokens": 1_000_000, "stream": true, "seed": seed, "logit_bias": {eos.to_string(): -1000}});
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(&request("POST", "/v1/completions", &[("Content-Type", "application/json")], &body.to_string()))
        .unwrap();
    let (mut piece, mut gaps, mut last) = ([0; 16384], Vec::new(), None::<Instant>);
    while !ended.load(Ordering::Relaxed) {
        assert!(stream.read(&mut piece).unwrap() > 0, "it ended");
        let now = Instant::now();
        gaps.extend(last.map(|last| now - last));
        last = Some(now);
    }
    gaps
}

/// Milliseconds of processor time that the thread of the only server here has had.
#[cfg(target_os = "linux")]
fn server_thread_ms() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let own = tasks.filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "astrai-http\n"));
    let nanoseconds = own.map(|task| {
        let times = std::fs::read_to_string(task.join("schedstat")).unwrap();
        times.split(' ').next().unwrap().parse::<f64>().unwrap()
    });
    nanoseconds.sum::<f64>() / 1e6
}

/// Measures how much later tokens of four streams come while prompts of 10 MB are read, encoded and refused for their length.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "a measurement, for a machine with nothing else to do: make server-latency"]
fn what_a_long_prompt_costs_others() {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    for threads in [1, processors] {
        println!("{threads} threads of {processors} processors compute");
        cost(threads);
    }
}

#[cfg(target_os = "linux")]
fn cost(threads: u32) {
    // Of so long a context the tokenizer reads all of 10 MB before the prompt is refused.
    let options = EngineOptions { threads, max_running: 8, step_tokens: 64, ..EngineOptions::default() };
    let engine = open(crate::scripted::TEMPLATE, 1_000_000, options);
    let server = serve_with(&engine, |_| ());
    let (address, eos) = (server.address(), engine.info().eos_token.unwrap());
    let bodies: Vec<(&str, Vec<u8>)> = bodies(&text(10_000_000))
        .into_iter()
        .map(|(path, body)| (path, request("POST", path, &[("Content-Type", "application/json")], &body.to_string())))
        .collect();
    // What the server's thread does of one is the most by which it can delay others, however busy the machine is.
    for (path, bytes) in &bodies {
        let before = server_thread_ms();
        let status = crate::client::exchange(address, bytes).status;
        let took = server_thread_ms() - before;
        println!("{path}: {took:.1} ms of processor time of the server's thread");
        assert!([200, 400].contains(&status) && took < 20.0, "{path}: {took} ms");
    }
    let measured = |disturb: &(dyn Fn() + Sync)| -> Vec<Duration> {
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let streams: Vec<_> = (0..4)
                .map(|seed| {
                    let ended = &ended;
                    scope.spawn(move || gaps(address, seed, eos, ended))
                })
                .collect();
            disturb();
            ended.store(true, Ordering::Relaxed);
            let mut all: Vec<Duration> = streams.into_iter().flat_map(|stream| stream.join().unwrap()).collect();
            all.sort();
            all
        })
    };
    let told = |name: &str, gaps: &[Duration]| {
        let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "{name:28} {:>6} pieces: {:.2} ms median, {:.2} ms p99, {:.2} ms p99.9, {:.2} ms longest",
            gaps.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    };
    // Nothing: as long as a prompt of 10 MB takes.
    told("nothing beside them", &measured(&|| std::thread::sleep(Duration::from_secs(3))));
    // Another program that computes on one processor for as long.
    told(
        "a thread that computes",
        &measured(&|| {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(3) {
                std::hint::black_box((0..1000u64).sum::<u64>());
            }
        }),
    );
    for (path, bytes) in &bodies {
        let (begin, status) = (Instant::now(), AtomicU16::new(0));
        let gaps = measured(&|| status.store(crate::client::exchange(address, bytes).status, Ordering::Relaxed));
        assert!([200, 400].contains(&status.into_inner()), "{path}");
        told(&format!("{path}, {:.1} s", begin.elapsed().as_secs_f64()), &gaps);
    }
    engine.check().unwrap();
}
