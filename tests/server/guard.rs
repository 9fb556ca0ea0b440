//! Who may ask, and how much.

use crate::client::{Reply, exchange, get, request};
use crate::scripted::{engine, serve_with};
use astrai::server::Server;
use std::io::Write;
use std::net::TcpStream;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const BODY: &str = r#"{"content": "x"}"#;

fn send(server: &Server, headers: &[(&str, &str)], body: &str) -> Reply {
    exchange(server.address(), &request("POST", "/tokenize", headers, body))
}

#[test]
fn pages_of_the_internet_are_no_clients() {
    let engine = engine();
    let server = serve_with(&engine, |options| options.allowed_hosts = vec!["astrai.lan".to_owned()]);
    let port = server.address().port();
    let own = format!("127.0.0.1:{port}");
    for host in
        ["localhost", "localhost:1234", "LOCALHOST", "127.0.0.1", "[::1]:80", "127.8.9.1", "astrai.lan:80", &own]
    {
        assert_eq!(send(&server, &[JSON, ("Host", host)], BODY).status, 200, "{host}");
    }
    for host in
        ["example.com", "localhost.example.com", "192.168.0.1", "127.0.0.1.example.com", "astrai.lan.x", "", "a b"]
    {
        let refusal = send(&server, &[JSON, ("Host", host)], BODY).refusal();
        assert_eq!(refusal, (403, Some("host_not_allowed".to_owned()), None), "{host}");
    }
    let from = |origin: &str| send(&server, &[JSON, ("Host", &own), ("Origin", origin)], BODY);
    let reply = from(&format!("http://{own}"));
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.headers.iter().all(|(name, _)| !name.starts_with("access-control")), "{reply:?}");
    for origin in ["http://example.com", "null", "http://localhost:3000", "file://", "http://127.0.0.1"] {
        assert_eq!(from(origin).refusal(), (403, Some("origin_not_allowed".to_owned()), None), "{origin}");
    }
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx"]
    {
        assert_eq!(send(&server, &[("Content-Type", kind)], BODY).refusal().0, 415, "{kind}");
    }
    assert_eq!(send(&server, &[], BODY).refusal().0, 415);
    assert_eq!(send(&server, &[("Content-Type", "Application/JSON; charset=utf-8")], BODY).status, 200);
    // What a browser asks before it sends JSON is answered with nothing that allows it.
    let preflight = request("OPTIONS", "/tokenize", &[("Origin", "http://example.com")], "");
    assert_eq!(exchange(server.address(), &preflight).status, 403);
}

#[test]
fn with_keys_only_those_who_have_one_are_answered() {
    let engine = engine();
    let server = serve_with(&engine, |options| options.api_keys = vec!["first".to_owned(), "second-key".to_owned()]);
    for (name, value) in
        [("Authorization", "Bearer first"), ("authorization", "bearer second-key"), ("x-api-key", "second-key")]
    {
        assert_eq!(send(&server, &[JSON, (name, value)], BODY).status, 200, "{name}: {value}");
    }
    for (name, value) in [
        ("Authorization", "Bearer firs"),
        ("Authorization", "Bearer first2"),
        ("Authorization", "first"),
        ("Authorization", "Basic first"),
        ("Authorization", "Bearer "),
        ("x-api-key", "x"),
        ("x-other", "first"),
    ] {
        let reply = send(&server, &[JSON, (name, value)], BODY);
        assert_eq!(reply.refusal(), (401, Some("invalid_api_key".to_owned()), None), "{name}: {value}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(get(server.address(), "/v1/models").status, 401);
    assert_eq!(get(server.address(), "/health").status, 200);
}

#[test]
fn what_is_too_much_is_refused() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    let most = astrai::limits::SERVER_BODY_BYTES_MAX;
    // A length alone is enough, before anything is sent.
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let head = format!(
        "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        most + 1
    );
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(crate::client::read(&mut stream).refusal().0, 413);
    let header = "x".repeat(4 * astrai::limits::SERVER_HEAD_BYTES_MAX);
    assert_eq!(send(&server, &[JSON, ("x-long", &header)], BODY).status, 431);
    // Values take more memory than their text.
    let deep = "[".repeat(200);
    let wide = format!("{{\"x\": [{}1]}}", "[],".repeat(2 << 20));
    for body in ["{", "[]", "\"x\"", "{\"content\": \"\\ud800\"}", &deep, &wide] {
        assert_eq!(send(&server, &[JSON], body).refusal().0, 400, "{}", &body[..body.len().min(40)]);
    }
    let bytes = [request("POST", "/tokenize", &[JSON, ("Content-Length", "2")], ""), vec![b'"', 0xff]].concat();
    assert_eq!(exchange(server.address(), &bytes).refusal().0, 400);
}
