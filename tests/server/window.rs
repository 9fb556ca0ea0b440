//! The window: its page, and the stream that it lives on.

use crate::client::{Reply, exchange, get, post, request};
use crate::scripted::{Pace as Cut, SAY, prepare, serve_with};
use crate::support::models::storyteller;
use astrai::engine::*;
use astrai::server::{Pace, Server, WindowOptions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;

const CHAT: &str = "/v1/chat/completions";

/// An engine of few pages, so that some requests have to give theirs back.
fn engine(pages: u64) -> Arc<Engine> {
    let options = |memory_budget| EngineOptions {
        threads: 1,
        max_running: 6,
        page_tokens: 16,
        step_tokens: 64,
        memory_budget,
        log_level: LogLevel::Off,
        ..EngineOptions::default()
    };
    let plan = Engine::plan(&storyteller(), &options(0)).unwrap();
    let budget = plan.weight_bytes + plan.workspace_bytes + pages * 16 * plan.kv_bytes_per_token;
    Arc::new(Engine::open(&storyteller(), options(budget)).unwrap())
}

fn asks(text: &str, tokens: u32, stream: bool) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "seed": 5, "stream": stream})
}

/// A viewer, who takes one message after the other.
struct Viewer {
    lines: BufReader<TcpStream>,
}

impl Viewer {
    fn new(server: &Server) -> Viewer {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(&request("GET", "/window/events", &[], "")).unwrap();
        Viewer { lines: BufReader::new(stream) }
    }

    /// The next message and whether it is a snapshot; none at the end of the stream.
    fn next(&mut self) -> Option<(bool, String)> {
        let mut kind = String::new();
        loop {
            let mut line = String::new();
            // A stream that is cut off ends as well.
            if self.lines.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            if let Some(name) = line.trim_end().strip_prefix("event: ") {
                kind = name.to_owned();
            }
            if let Some(data) = line.trim_end().strip_prefix("data: ") {
                assert!(["snapshot", "delta"].contains(&kind.as_str()), "{kind}");
                return Some((kind == "snapshot", data.to_owned()));
            }
        }
    }
}

/// What a viewer knows.
#[derive(Debug, Default, PartialEq)]
struct Known {
    frames: Value,
    pages: Value,
    requests: BTreeMap<u64, Value>,
    owners: BTreeMap<(u64, u64), Value>,
    nodes: BTreeMap<u64, Value>,
}

impl Known {
    fn add(&mut self, snapshot: bool, message: &Value) {
        if snapshot {
            *self = Known { frames: message["frames"].clone(), ..Known::default() };
        } else {
            assert!(message["frames"].is_null() && message["model"].is_null(), "a delta has what changed: {message}");
        }
        self.pages = message["pages"].clone();
        let rows = |name: &str| message[name].as_array().cloned().unwrap_or_default();
        let number = |value: &Value| value.as_u64().unwrap();
        for row in rows("requests") {
            assert!(self.requests.insert(number(&row[0]), row.clone()).as_ref() != Some(&row), "{row} is not new");
        }
        for id in rows("gone") {
            assert!(self.requests.remove(&number(&id)).is_some(), "{id} was not there");
        }
        for row in rows("owners") {
            let frame = (number(&row[0]), number(&row[1]));
            let before = match row[2].as_array().unwrap().is_empty() {
                true => self.owners.remove(&frame),
                false => self.owners.insert(frame, row[2].clone()),
            };
            assert_ne!(before.as_ref(), Some(&row[2]), "frame {frame:?} has not changed");
        }
        for row in rows("nodes") {
            self.nodes.insert(number(&row[0]), row);
        }
        for id in rows("evicted") {
            assert!(self.nodes.remove(&number(&id)).is_some(), "{id} was not there");
        }
        let of_tree_alone = |owners: &&Value| owners.as_array().unwrap().iter().all(|owner| owner[0] == 1);
        let (owned, cached) = (self.owners.len(), self.owners.values().filter(of_tree_alone).count());
        assert_eq!((number(&self.pages[0]), number(&self.pages[1])), ((owned - cached) as u64, cached as u64));
    }
}

fn numbers(pages: &Stats) -> Value {
    json!([pages.pages_used, pages.pages_cached, pages.pages_free])
}

#[test]
fn the_page_is_one_file_that_loads_nothing() {
    let engine = engine(40);
    let server = serve_with(&engine, |options| options.api_keys = vec!["key".to_owned()]);
    let reply = get(server.address(), "/");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = reply.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(policy.contains("style-src 'sha256-") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    // The only address in it is a name: that of SVG.
    assert_eq!(reply.body.replace("http://www.w3.org/2000/svg", "").find("://"), None);
    for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "@import", "url("] {
        assert!(!reply.body.contains(word), "{word}");
    }
    for place in ["/*STYLE*/", "/*SCRIPT*/", "<!--POLICY-->", "<!--RECORDING-->"] {
        assert!(!reply.body.contains(place), "{place}");
    }
}

#[test]
fn the_stream_is_for_those_who_may_ask() {
    let engine = engine(40);
    let server = serve_with(&engine, |options| options.api_keys = vec!["key".to_owned()]);
    let ask = |headers: &[(&str, &str)]| exchange(server.address(), &request("GET", "/window/events", headers, ""));
    let refused = |reply: Reply| reply.refusal();
    assert_eq!(refused(ask(&[])), (401, Some("invalid_api_key".to_owned()), None));
    let key = ("Authorization", "Bearer key");
    assert_eq!(refused(ask(&[key, ("Origin", "http://example.com")])).0, 403);
    assert_eq!(refused(ask(&[key, ("Host", "example.com")])).0, 403);
    let unknown = request("GET", "/window/events?model=none", &[key], "");
    assert_eq!(
        refused(exchange(server.address(), &unknown)),
        (404, Some("model_not_found".to_owned()), Some("model".to_owned()))
    );
    let twice = request("GET", "/window/events?model=m&model=m", &[key], "");
    assert_eq!(refused(exchange(server.address(), &twice)).0, 400);
    let pace = request("POST", "/window/pace", &[key, ("Content-Type", "application/json")], "{\"rate\": 1}");
    assert_eq!(refused(exchange(server.address(), &pace)).0, 404);
}

#[test]
fn a_snapshot_and_what_changes_are_the_engine_as_it_is() {
    let engine = engine(26);
    let server = serve_with(&engine, |_| ());
    let mut viewer = Viewer::new(&server);
    let (mut known, mut events, mut snapshots) = (Known::default(), Vec::new(), 0);
    let mut take = |viewer: &mut Viewer, known: &mut Known| {
        let (snapshot, data) = viewer.next().unwrap();
        let message: Value = serde_json::from_str(&data).unwrap();
        snapshots += usize::from(snapshot);
        events.extend(message["events"].as_array().cloned().unwrap_or_default());
        known.add(snapshot, &message);
    };
    take(&mut viewer, &mut known);
    assert_eq!(known.frames, json!([26]));
    let (address, end) = (server.address(), engine.info().eos_token.unwrap());
    let persona = "You are Edith, the innkeeper of the Golden Bear, and you know every guest by name. ".repeat(3);
    // They begin together, so that pages run out.
    engine.pause(None).unwrap();
    let clients: Vec<_> = (0..9)
        .map(|i| {
            let mut body = asks(&format!("{persona} {i}"), 60 + 15 * i, false);
            // They do not end by themselves.
            body["logit_bias"] = json!({end.to_string(): -1000});
            std::thread::spawn(move || assert_eq!(post(address, CHAT, &body).status, 200))
        })
        .collect();
    while engine.stats().unwrap().waiting < 9 {
        std::thread::yield_now();
    }
    engine.resume().unwrap();
    clients.into_iter().for_each(|client| client.join().unwrap());
    // The last message shows the engine at rest.
    while known.pages != numbers(&engine.stats().unwrap()) || !known.requests.is_empty() {
        take(&mut viewer, &mut known);
    }
    let mut late = Known::default();
    take(&mut Viewer::new(&server), &mut late);
    assert_eq!(known, late, "what was told in parts is what is told at once");
    assert_eq!(snapshots, 2, "the first viewer had one");
    let of = |kind: &str| events.iter().filter(|event| event[0] == kind).collect::<Vec<_>>();
    let stats = engine.stats().unwrap();
    assert_eq!((of("e").len() as u64, of("p").len() as u64), (stats.finished, stats.preemptions));
    assert!(stats.preemptions > 0 && of("a").len() as u64 == stats.finished + stats.preemptions, "{stats:?}");
    assert!(of("a").iter().any(|event| event[3].as_u64() > Some(0)), "they share a beginning");
    engine.check().unwrap();
}

#[test]
fn texts_are_sent_only_where_that_was_asked_for() {
    for with_text in [false, true] {
        let engine = crate::scripted::engine();
        let server = serve_with(&engine, |options| {
            options.prepare = Some(prepare(Cut::Tokens));
            options.window = WindowOptions { text: with_text, ..WindowOptions::default() };
        });
        let mut viewer = Viewer::new(&server);
        let mut all = viewer.next().unwrap().1;
        let messages = json!([
            {"role": "user", "content": "a question about marmalade"},
            {"role": "user", "content": format!("{SAY}the answer is a lighthouse and nothing else")}
        ]);
        assert_eq!(post(server.address(), CHAT, &json!({"messages": messages, "max_tokens": 60})).status, 200);
        while !all.contains("[\"e\",") {
            all += &viewer.next().unwrap().1;
        }
        drop(viewer);
        // As a recording and a late viewer would have it.
        all += &Viewer::new(&server).next().unwrap().1;
        for word in ["marmalade", "lighthouse", "texts"] {
            assert_eq!(all.contains(word), with_text, "{word} in {all}");
        }
    }
}

/// What a trace holds is let go when the last viewer has left, and an engine that nobody watches keeps its host's trace.
#[test]
fn an_engine_that_nobody_watches_is_not_traced() {
    let engine = engine(40);
    let mine = Arc::new(());
    let held = mine.clone();
    engine.set_trace(Some(Trace::new(Box::new(move |_| _ = Arc::strong_count(&held))))).unwrap();
    let pace = Arc::new(Pace::new(1000.0));
    let server = serve_with(&engine, |options| {
        options.window = WindowOptions { pace: Some(pace.clone()), ..WindowOptions::default() };
    });
    assert_eq!(post(server.address(), CHAT, &asks("Hello", 5, false)).status, 200);
    assert_eq!(get(server.address(), "/").status, 200);
    engine.check().unwrap();
    assert_eq!(Arc::strong_count(&mine), 2, "the host's trace is there");
    let idle = Arc::strong_count(&pace);
    for _ in 0..3 {
        let mut viewers = [Viewer::new(&server), Viewer::new(&server)];
        viewers.iter_mut().for_each(|viewer| assert!(viewer.next().unwrap().0, "each begins with a snapshot"));
        assert_eq!(Arc::strong_count(&mine), 1, "the window's trace is in its place");
        let watched = Arc::strong_count(&pace);
        let [first, second] = viewers;
        drop(first);
        assert_eq!(post(server.address(), CHAT, &asks("Hello", 5, false)).status, 200);
        assert_eq!(Arc::strong_count(&pace), watched, "one still watches");
        drop(second);
        // One feed stays, without a trace.
        while Arc::strong_count(&pace) > idle + 1 {
            assert_eq!(post(server.address(), CHAT, &asks("Hello", 2, false)).status, 200);
        }
    }
}

#[test]
fn the_pace_of_a_demonstration_can_be_changed_while_it_runs() {
    let engine = engine(40);
    let pace = Arc::new(Pace::new(0.3));
    let server = serve_with(&engine, |options| {
        options.window = WindowOptions { pace: Some(pace.clone()), ..WindowOptions::default() };
    });
    let address = server.address();
    let mut viewer = Viewer::new(&server);
    let first: Value = serde_json::from_str(&viewer.next().unwrap().1).unwrap();
    assert_eq!((&first["paced"], first["rate"].as_f64().unwrap() as f32), (&json!(true), 0.3));
    let client = std::thread::spawn(move || post(address, CHAT, &asks("Hello", 500, false)));
    // Its first step waits for seconds; then it would take minutes.
    while engine.stats().unwrap().steps == 0 {
        std::thread::yield_now();
    }
    for wrong in [json!({"rate": 0}), json!({"rate": -1}), json!({"rate": "fast"})] {
        assert_eq!(post(address, "/window/pace", &wrong).refusal(), (400, None, Some("rate".to_owned())), "{wrong}");
    }
    assert_eq!(post(address, "/window/pace", &json!({"rate": null})).status, 204);
    assert_eq!(client.join().unwrap().status, 200);
    assert_eq!(pace.rate(), None);
    // A server that stops does not wait for its viewers.
    drop(server);
    while viewer.next().is_some() {}
}
