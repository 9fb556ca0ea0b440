//! Three replicas on this machine behind a gateway that knows their prefix caches: `smg` of PyPI.
//!
//! It is the program that ASTRAI_GATEWAY names, else `smg`. Without it a test prints SKIP, or fails if ASTRAI_REQUIRE names `gateway`.

use crate::client::{exchange, parse, post, request, rest};
use crate::scripted::until;
use crate::support::models::storyteller;
use crate::support::programs::required;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The command line tool, which is built for tests with the feature `cli`.
const TOOL: Option<&str> = option_env!("CARGO_BIN_EXE_astrai");

/// A process that ends with its test.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn stat(&self, name: &str) -> u64 {
        self.get("/stats").map_or(0, |stats| stats["storyteller"][name].as_u64().unwrap_or(0))
    }

    /// The JSON at a path; none while nobody answers.
    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.write_all(&request("GET", path, &[], "")).ok()?;
        let all = rest(&mut stream);
        let (reply, _) = parse(&all)?;
        if reply.status == 200 { serde_json::from_str(&reply.body).ok() } else { None }
    }
}

/// A replica that is ready.
fn replica() -> Process {
    let mut command = Command::new(TOOL.unwrap_or_default());
    command
        .args(["serve", "--port", "0", "--grace", "600", "--threads", "1", "--max-running", "8", "--model"])
        .arg(storyteller());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
    let replica = Process { child, address: url.trim().strip_prefix("http://").unwrap().parse().unwrap() };
    until(|| replica.get("/health").is_some());
    replica
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The gateway's program, if there is one.
fn program() -> Option<String> {
    let program = std::env::var("ASTRAI_GATEWAY").unwrap_or("smg".to_owned());
    let there = Command::new(&program).arg("--help").output().is_ok_and(|output| output.status.success());
    if there && TOOL.is_some() {
        return Some(program);
    }
    assert!(!required("gateway"), "ASTRAI_REQUIRE names gateway, and there is no {program}, or the feature cli is off");
    println!("SKIP: there is no {program}; `make gateway` gets one");
    None
}

/// A gateway that has found its replicas.
fn gateway(program: &str, replicas: &[Process]) -> Process {
    let (port, prometheus) = (free_port(), free_port());
    let mut command = Command::new(program);
    command.args([
        "launch",
        "--host",
        "127.0.0.1",
        "--policy",
        "cache_aware",
        "--log-level",
        "error",
        "--health-check-interval-secs",
        "1",
    ]);
    command.args(["--port", &port.to_string(), "--prometheus-port", &prometheus.to_string(), "--worker-urls"]);
    command.args(replicas.iter().map(|replica| format!("http://{}", replica.address)));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let gateway = Process { child, address: SocketAddr::from(([127, 0, 0, 1], port)) };
    let healthy = |workers: &Value| {
        let all = workers["workers"].as_array();
        all.map_or(0, |all| all.iter().filter(|worker| worker["is_healthy"] == true).count())
    };
    until(|| gateway.get("/workers").is_some_and(|workers| healthy(&workers) == replicas.len()));
    gateway
}

/// Tokens of prompts, and those of them that a cache had.
#[derive(Debug, Default, Clone, Copy)]
struct Hits {
    prompt: u64,
    cached: u64,
}

/// Conversations of several turns, some at once, whose answers are the same whoever gives them.
fn converse(address: SocketAddr) -> Hits {
    let all = Mutex::new(Hits::default());
    std::thread::scope(|scope| {
        for conversation in 0..12 {
            let all = &all;
            scope.spawn(move || {
                let persona = format!("You are the keeper number {conversation} of the old lighthouse. ").repeat(12);
                let mut messages = vec![json!({"role": "system", "content": persona})];
                for turn in 0..5 {
                    messages
                        .push(json!({"role": "user", "content": format!("Question {turn}: where is the silver key?")}));
                    let body =
                        json!({"model": "storyteller", "messages": messages, "temperature": 0, "max_tokens": 24});
                    let reply = post(address, "/v1/chat/completions", &body);
                    assert_eq!(reply.status, 200, "{reply:?}");
                    let answer = reply.json();
                    messages.push(answer["choices"][0]["message"].clone());
                    let mut all = all.lock().unwrap();
                    all.prompt += answer["usage"]["prompt_tokens"].as_u64().unwrap();
                    all.cached += answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
                }
            });
        }
    });
    all.into_inner().unwrap()
}

#[test]
fn a_gateway_finds_the_replica_that_has_the_prefix() {
    let Some(program) = program() else { return };
    let single = converse(replica().address);
    let replicas = [replica(), replica(), replica()];
    let gateway = gateway(&program, &replicas);
    let several = converse(gateway.address);
    let busy: Vec<u64> = replicas.iter().map(|replica| replica.stat("finished")).collect();
    println!("one replica: {single:?}; three behind the gateway: {several:?}, requests of each {busy:?}");
    assert_eq!(single.prompt, several.prompt);
    assert!(several.cached * 10 >= single.cached * 9, "{single:?} {several:?}");
    assert!(busy.iter().all(|&finished| finished > 0), "{busy:?}");
}

/// How the streams of one client ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ends {
    whole: u64,
    broken: u64,
    refused: u64,
}

/// A stream: whole, broken, or refused.
fn stream(address: SocketAddr, text: &str, ends: &mut Ends) {
    let body = json!({"model": "storyteller", "messages": [{"role": "user", "content": text}], "max_tokens": 60, "stream": true});
    let bytes = request("POST", "/v1/chat/completions", &[("Content-Type", "application/json")], &body.to_string());
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(&bytes).unwrap();
    let all = rest(&mut connection);
    match parse(&all) {
        Some((reply, _)) if reply.status != 200 => {
            println!("{reply:?}");
            ends.refused += 1;
        }
        // What the gateway makes of a stream that breaks has its end, too, but the answer has none.
        Some((reply, _)) => {
            let count = |text: &str| reply.body.matches(text).count();
            let (done, finished) = (count("data: [DONE]"), count("\"finish_reason\":\""));
            assert!(done <= 1 && finished <= done, "{reply:?}");
            if finished == 1 { ends.whole += 1 } else { ends.broken += 1 }
        }
        None => ends.broken += 1,
    }
}

/// Twelve clients with one stream after the other through a gateway. When `victim` has some in work, `harm` is done to it; each
/// client then has ten more.
fn under_load(program: &str, harm: impl FnOnce(&mut Process)) -> (Vec<Ends>, [Process; 3]) {
    let mut replicas = [replica(), replica(), replica()];
    let gateway = gateway(program, &replicas);
    let (harmed, begun) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut ends = vec![Ends::default(); 12];
    std::thread::scope(|scope| {
        for (client, ends) in ends.iter_mut().enumerate() {
            let (harmed, begun, address) = (&harmed, &begun, gateway.address);
            scope.spawn(move || {
                let mut more = 10;
                while more > 0 {
                    more -= u64::from(harmed.load(Ordering::SeqCst));
                    let number = begun.fetch_add(1, Ordering::SeqCst);
                    stream(address, &format!("Client {client} asks for story number {number}."), ends);
                }
            });
        }
        until(|| begun.load(Ordering::SeqCst) > 24 && replicas[1].stat("running") > 0);
        harm(&mut replicas[1]);
        harmed.store(true, Ordering::SeqCst);
    });
    println!("{ends:?}");
    assert_eq!(exchange(gateway.address, &request("GET", "/health", &[], "")).status, 200);
    (ends, replicas)
}

#[test]
fn a_replica_that_is_killed_breaks_its_own_streams_alone() {
    let Some(program) = program() else { return };
    let (ends, _replicas) = under_load(&program, |victim| victim.signal("-KILL"));
    // Each client has at most one stream at once, which may have been there.
    assert!(ends.iter().all(|ends| ends.broken + ends.refused <= 1 && ends.whole >= 9), "{ends:?}");
}

#[test]
fn a_replica_that_is_drained_loses_nothing() {
    let Some(program) = program() else { return };
    let (ends, mut replicas) = under_load(&program, |victim| victim.signal("-TERM"));
    assert!(ends.iter().all(|ends| (ends.broken, ends.refused) == (0, 0)), "{ends:?}");
    assert!(replicas[1].child.wait().unwrap().success());
}
