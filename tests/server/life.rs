//! Loading, full queues, clients that go away, and the end.

use crate::client::{get, post, request, rest};
use crate::scripted::{engine, serve_with, until};
use astrai::Error;
use astrai::engine::*;
use astrai::server::{ModelSpec, Server, ServerOptions};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";

fn start(models: Vec<ModelSpec>) -> Server {
    Server::start(ServerOptions { models, ..ServerOptions::default() }).unwrap()
}

fn story(stream: bool) -> serde_json::Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Tell me a story."}]})
}

/// The same, which the model does not end by itself.
fn endless(engine: &Engine, stream: bool) -> serde_json::Value {
    let mut body = story(stream);
    body["logit_bias"] = json!({engine.info().eos_token.unwrap().to_string(): -1000});
    body["max_tokens"] = json!(1900);
    body
}

/// Sends it, and reads nothing.
fn send(server: &Server, body: &serde_json::Value) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(&request("POST", CHAT, &[("Content-Type", "application/json")], &body.to_string())).unwrap();
    stream
}

/// A server that counts the requests that it is about to submit. It does so on the thread that answers.
fn counting(engine: &Arc<Engine>) -> (Server, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = serve_with(engine, |options| {
        options.prepare = Some(Arc::new(move |_: &Engine, _: &Prompt, _: &mut RequestOptions| {
            count.fetch_add(1, Ordering::SeqCst);
        }));
    });
    (server, asked)
}

#[test]
fn a_model_is_loading_then_ready_and_others_may_fail() {
    let (go, wait) = mpsc::channel::<()>();
    let slow = ModelSpec {
        name: "m".to_owned(),
        aliases: vec![],
        open: Box::new(move |mut progress| {
            assert!(progress(3, 9));
            wait.recv().unwrap();
            Ok(Arc::new(engine()))
        }),
    };
    let bad =
        ModelSpec { name: "bad".to_owned(), aliases: vec![], open: Box::new(|_| Err(Error::format("no such thing"))) };
    let server = start(vec![slow, bad]);
    until(|| get(server.address(), "/health").json()["models"]["m"]["done"] == 3);
    let health = get(server.address(), "/health");
    assert_eq!((health.status, health.json()["status"].as_str()), (503, Some("loading")));
    assert_eq!(health.json()["models"]["m"], json!({"status": "loading", "done": 3, "total": 9}));
    let reply = post(server.address(), CHAT, &story(false));
    assert_eq!(
        (reply.refusal(), reply.header("retry-after")),
        ((503, Some("model_loading".to_owned()), None), Some("1"))
    );
    assert_eq!(get(server.address(), "/v1/models").json()["data"][0]["id"], "m");
    go.send(()).unwrap();
    until(|| get(server.address(), "/health").json()["status"] == "failed");
    let health = get(server.address(), "/health").json();
    assert_eq!(health["models"]["m"], json!({"status": "ready"}));
    assert_eq!(health["models"]["bad"], json!({"status": "failed", "error": "no such thing"}));
    assert!(server.loaded().is_err());
    assert_eq!(post(server.address(), "/tokenize", &json!({"model": "m", "content": "x"})).status, 200);
    let refusal = post(server.address(), "/tokenize", &json!({"model": "bad", "content": "x"})).refusal();
    assert_eq!(refusal, (503, Some("model_failed".to_owned()), None));
    // Of two models none is meant by no name.
    assert_eq!(post(server.address(), "/tokenize", &json!({"content": "x"})).refusal().0, 404);
}

#[test]
fn loading_is_given_up_when_the_server_stops() {
    let (began, begins) = mpsc::channel();
    let endless = ModelSpec {
        name: "m".to_owned(),
        aliases: vec![],
        open: Box::new(move |mut progress| {
            began.send(()).unwrap();
            while progress(1, 2) {
                std::thread::yield_now();
            }
            Err(Error::new(astrai::Status::Aborted, "given up"))
        }),
    };
    let server = start(vec![endless]);
    begins.recv().unwrap();
    server.stop(Duration::from_secs(600));
}

#[test]
fn what_no_server_can_be_is_refused() {
    let spec = |name: &str| ModelSpec {
        name: name.to_owned(),
        aliases: vec![],
        open: Box::new(|_| Err(Error::format("never"))),
    };
    for (models, keys) in [
        (vec![], vec![]),
        (vec![spec("")], vec![]),
        (vec![spec("a"), spec("a")], vec![]),
        (vec![spec("a")], vec![String::new()]),
    ] {
        let options = ServerOptions { models, api_keys: keys, ..ServerOptions::default() };
        assert_eq!(Server::start(options).map(|_| ()).unwrap_err().status, astrai::Status::Argument);
    }
    let one = start(vec![spec("a")]);
    let taken = ServerOptions { models: vec![spec("a")], port: one.address().port(), ..ServerOptions::default() };
    assert_eq!(Server::start(taken).map(|_| ()).unwrap_err().status, astrai::Status::Io);
}

#[test]
fn a_full_queue_is_told_with_a_time_to_try_again() {
    let dir = crate::support::models::storyteller();
    let options = EngineOptions { threads: 1, max_running: 1, max_waiting: 1, ..EngineOptions::default() };
    let engine = Arc::new(Engine::open(&dir, options).unwrap());
    let (server, asked) = counting(&engine);
    assert!(engine.pause(None).unwrap());
    let waiting: Vec<TcpStream> = (0..2).map(|at| send(&server, &story(at == 0))).collect();
    until(|| asked.load(Ordering::SeqCst) == 2);
    let refused = post(server.address(), CHAT, &story(false));
    assert_eq!(refused.refusal(), (429, Some("queue_full".to_owned()), None));
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(waiting);
    engine.resume().unwrap();
    until(|| engine.stats().unwrap().cancelled >= 2);
    assert_eq!(
        post(server.address(), CHAT, &json!({"messages": story(false)["messages"], "max_tokens": 1})).status,
        200
    );
}

#[test]
fn a_client_that_goes_away_cancels_its_request() {
    let engine = engine();
    let (server, asked) = counting(&engine);
    for stream in [true, false] {
        let (before, count) = (engine.stats().unwrap(), asked.load(Ordering::SeqCst));
        if !stream {
            assert!(engine.pause(None).unwrap());
        }
        let mut connection = send(&server, &endless(&engine, stream));
        if stream {
            connection.read_exact(&mut [0; 16]).unwrap();
        } else {
            until(|| asked.load(Ordering::SeqCst) > count);
        }
        drop(connection);
        engine.resume().unwrap();
        let ended = |stats: &Stats| stats.cancelled + stats.finished;
        until(|| ended(&engine.stats().unwrap()) > ended(&before));
        assert_eq!(engine.stats().unwrap().cancelled, before.cancelled + 1, "stream {stream}");
    }
    until(|| engine.stats().unwrap().running == 0);
    engine.check().unwrap();
}

#[test]
fn a_stop_lets_requests_end_or_cancels_them() {
    let engine = engine();
    let ask = |server: &Server, tokens: u32| {
        let mut body = endless(&engine, true);
        body["max_tokens"] = json!(tokens);
        let mut stream = send(server, &body);
        stream.read_exact(&mut [0; 16]).unwrap();
        stream
    };
    let rest = |mut stream: TcpStream| String::from_utf8_lossy(&rest(&mut stream)).into_owned();
    let server = serve_with(&engine, |_| ());
    let stream = ask(&server, 40);
    server.stop(Duration::from_secs(600));
    assert!(rest(stream).contains("[DONE]"));
    assert_eq!(engine.stats().unwrap().cancelled, 0);

    let server = serve_with(&engine, |_| ());
    let address = server.address();
    let stream = ask(&server, 1900);
    assert!(engine.pause(None).unwrap());
    drop(server);
    assert!(!rest(stream).contains("[DONE]"));
    engine.resume().unwrap();
    until(|| engine.stats().unwrap().running == 0);
    assert_eq!(engine.stats().unwrap().cancelled, 1);
    assert!(TcpStream::connect(address).is_err(), "it listens");
    engine.check().unwrap();
}

#[test]
fn an_engine_that_fails_fails_its_requests_alone() {
    let engine = engine();
    let server =
        serve_with(&engine, |options| options.models.push(ModelSpec::opened("other", crate::scripted::engine())));
    engine.inject_panic();
    let reply = post(server.address(), CHAT, &story(false));
    assert_eq!(reply.refusal().0, 500, "{reply:?}");
    let mut other = story(false);
    other["model"] = json!("other");
    assert_eq!(post(server.address(), CHAT, &other).status, 200);
    let mut head = TcpStream::connect(server.address()).unwrap();
    head.write_all(&request("HEAD", "/", &[], "")).unwrap();
    assert!(rest(&mut head).starts_with(b"HTTP/1.1 200"));
}
