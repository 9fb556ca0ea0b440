//! Clients that send what they should not, or too slowly, or go away: each gets a clear error or a closed connection, and the service
//! goes on.

use crate::client::{exchange, get, parse, post, read, read_one, request, rest};
use crate::scripted::{engine, serve_with, until};
use astrai::engine::Engine;
use astrai::limits;
use astrai::server::{Server, ServerLimits};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

const JSON: (&str, &str) = ("Content-Type", "application/json");

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const RESPONSES_COUNT: &str = "/v1/responses/input_tokens";
const MESSAGES: &str = "/v1/messages";
const MESSAGES_COUNT: &str = "/v1/messages/count_tokens";
const TOKENIZE: &str = "/tokenize";
const DETOKENIZE: &str = "/detokenize";
const RENDER: &str = "/apply-template";

/// Every path that takes a body, with one that it answers at once.
fn paths() -> Vec<(&'static str, Value)> {
    let chat = json!([{"role": "user", "content": "x"}]);
    vec![
        (CHAT, json!({"messages": chat, "max_tokens": 1})),
        (TEXT, json!({"prompt": "x", "max_tokens": 1})),
        (RESPONSES, json!({"input": "x", "max_output_tokens": 1})),
        (RESPONSES_COUNT, json!({"input": "x"})),
        (MESSAGES, json!({"messages": chat, "max_tokens": 1})),
        (MESSAGES_COUNT, json!({"messages": chat})),
        (TOKENIZE, json!({"content": "x"})),
        (DETOKENIZE, json!({"tokens": [5]})),
        (RENDER, json!({"messages": chat})),
    ]
}

/// The service goes on.
fn lives(server: &Server) {
    for (path, body) in paths() {
        let reply = post(server.address(), path, &body);
        assert_eq!(reply.status, 200, "{path} {reply:?}");
    }
}

fn raw(server: &Server, path: &str, body: &[u8]) -> crate::client::Reply {
    let length = body.len().to_string();
    let head = request("POST", path, &[JSON, ("Content-Length", &length)], "");
    exchange(server.address(), &[head, body.to_vec()].concat())
}

fn limited(engine: &std::sync::Arc<Engine>, change: impl FnOnce(&mut ServerLimits)) -> Server {
    serve_with(engine, |options| change(&mut options.limits))
}

#[test]
fn bodies_that_are_no_json_are_refused_in_every_dialect() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    let deep = format!("{{\"x\": {}1{}}}", "[".repeat(200), "]".repeat(200));
    let wide = format!("{{\"x\": [{}1]}}", "[],".repeat(1 << 20));
    let bodies: Vec<Vec<u8>> = [
        "{",
        "}",
        "[]",
        "null",
        "7",
        "\"x\"",
        "{\"model\": \"m\",}",
        "{'model': 'm'}",
        "{\"model\" \"m\"}",
        "{} {}",
        "{\"x\": \"\\ud800\"}",
        "{\"x\": \"\\x\"}",
        "{\"x\": 1e999}",
        "{\"x\": 01}",
        "{\"x\": NaN}",
        "{\"x\": \"\n\"}",
        "\u{feff}{}",
        "<xml/>",
        "a=b&c=d",
        &deep,
        &wide,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([
        b"{\"x\": \"\xff\"}".to_vec(),
        b"{\"x\": \"\xc3\"}".to_vec(),
        b"{\"x\": \"\xed\xa0\x80\"}".to_vec(),
        b"{\"\xff\": 1}".to_vec(),
        b"\0".to_vec(),
        b"{\"x\": \"\0\"}".to_vec(),
        vec![0xff; 100],
    ])
    .collect();
    for (path, _) in paths() {
        for body in &bodies {
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            let (status, message, _) = raw(&server, path, body).refused(path);
            assert_eq!(status, 400, "{path} {shown}: {message}");
        }
        // Without a body at all.
        assert_eq!(exchange(server.address(), &request("POST", path, &[JSON], "")).refused(path).0, 400, "{path}");
    }
    lives(&server);
    engine.check().unwrap();
}

/// Fields of each path, and a letter for each type that they take: n(umber), b(ool), s(tring), a(rray), o(bject), i(nteger).
fn fields() -> Vec<(&'static str, &'static str)> {
    let sampling = "n:i seed:i temperature:n top_p:n top_k:i min_p:n presence_penalty:n frequency_penalty:n repetition_penalty:n \
        max_tokens:i max_completion_tokens:i stop:sa logit_bias:o ignore_eos:b stream:b stream_options:o response_format:o model:s";
    let chat = "messages:a tools:a tool_choice:so parallel_tool_calls:b logprobs:b top_logprobs:i reasoning_effort:s \
        chat_template_kwargs:o continue_final_message:b";
    let responses = "model:s input:sa instructions:s tools:a tool_choice:so parallel_tool_calls:b text:o reasoning:o stream:b \
        max_output_tokens:i temperature:n top_p:n previous_response_id:s";
    let messages = "model:s system:sa messages:a tools:a tool_choice:o thinking:o output_config:o stop_sequences:a max_tokens:i \
        temperature:n top_p:n top_k:i";
    vec![
        (CHAT, sampling),
        (CHAT, chat),
        (TEXT, sampling),
        (TEXT, "prompt:sa logprobs:i"),
        (RESPONSES, responses),
        (RESPONSES_COUNT, responses),
        (MESSAGES, messages),
        (MESSAGES, "stream:b"),
        (MESSAGES_COUNT, messages),
        (TOKENIZE, "model:s content:s parse_special:b add_generation_prompt:b"),
        (DETOKENIZE, "model:s tokens:a"),
        (RENDER, "model:s messages:a tools:a add_generation_prompt:b"),
    ]
}

#[test]
fn every_known_field_of_a_wrong_type_is_refused_by_its_name() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    let values = [
        ('i', json!(3)),
        ('n', json!(1.5)),
        ('b', json!(true)),
        ('s', json!("ü")),
        ('a', json!([[[]]])),
        ('a', json!([true])),
        ('o', json!({"x": {"y": []}})),
    ];
    let bodies = paths();
    let good = |path: &str| bodies.iter().find(|(known, _)| *known == path).unwrap().1.clone();
    let mut tried = 0;
    for (path, fields) in fields() {
        for (name, types) in fields.split_whitespace().map(|field| field.split_once(':').unwrap()) {
            for (kind, value) in &values {
                let takes = types.contains(*kind) || *kind == 'i' && types.contains('n');
                // Lists and objects that a field takes hold something else here, but for what may hold anything.
                let anything =
                    ["logit_bias", "chat_template_kwargs", "stream_options", "output_config", "text", "reasoning"];
                if takes && (!"ao".contains(*kind) || anything.contains(&name)) {
                    continue;
                }
                let mut body = good(path);
                body[name] = value.clone();
                if name == "parse_special" || name == "content" {
                    body.as_object_mut().unwrap().remove("messages");
                }
                let (status, message, param) = post(server.address(), path, &body).refused(path);
                assert_eq!(status, 400, "{path} {name}: {value}: {message}");
                let named = message.contains(name) && param.as_deref().is_none_or(|param| param == name);
                assert!(
                    named && (param.is_some() || path.starts_with(MESSAGES)),
                    "{path} {name}: {value}: {message} {param:?}"
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 400, "{tried}");
    lives(&server);
    engine.check().unwrap();
}

#[test]
fn what_is_inside_of_messages_and_tools_has_its_type_too() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let assistant = |fields: Value| {
        let mut message = json!({"role": "assistant", "content": "a"});
        fields.as_object().unwrap().iter().for_each(|(name, value)| message[name] = value.clone());
        json!([message, {"role": "user", "content": "x"}])
    };
    let mut cases: Vec<(&str, &str, Value)> = Vec::new();
    for content in [
        json!(5),
        json!({}),
        json!([5]),
        json!([{}]),
        json!([{"type": 5}]),
        json!([{"type": "text"}]),
        json!([{"type": "text", "text": []}]),
    ] {
        cases.push((CHAT, "messages", user(content.clone())));
        cases.push((TOKENIZE, "messages", user(content.clone())));
        cases.push((MESSAGES, "messages", user(content.clone())));
        cases.push((RESPONSES, "input", user(content.clone())));
        cases.push((RESPONSES, "input", json!([{"type": "function_call_output", "call_id": "c", "output": content}])));
    }
    for fields in [
        json!({"tool_calls": 5}),
        json!({"tool_calls": [5]}),
        json!({"tool_calls": [{"id": "c"}]}),
        json!({"tool_calls": [{"function": {}}]}),
        json!({"tool_calls": [{"function": {"name": "f", "arguments": 5}}]}),
        json!({"tool_calls": [{"id": 5, "function": {"name": "f"}}]}),
        json!({"reasoning_content": 5}),
        json!({"reasoning": []}),
        json!({"name": {}}),
    ] {
        cases.push((CHAT, "messages", assistant(fields)));
    }
    for block in [
        json!({"type": "tool_use", "name": "f", "input": {}}),
        json!({"type": "tool_use", "id": "c", "input": {}}),
        json!({"type": "tool_use", "id": "c", "name": "f", "input": 5}),
        json!({"type": "thinking"}),
    ] {
        cases.push((MESSAGES, "messages", assistant(json!({"content": [block]}))));
    }
    cases.push((MESSAGES, "messages", user(json!([{"type": "tool_result", "content": "x"}]))));
    cases.push((MESSAGES, "system", json!([{"type": "text", "text": 5}])));
    for item in [
        json!({"type": 5}),
        json!({"role": "user"}),
        json!({"role": 5, "content": "x"}),
        json!({"type": "function_call"}),
        json!({"type": "function_call", "call_id": "c", "name": 5, "arguments": "{}"}),
        json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}),
        json!({"type": "function_call_output", "output": "x"}),
        json!({"type": "reasoning", "content": 5}),
        json!({"type": "reasoning", "summary": [5]}),
    ] {
        cases.push((RESPONSES, "input", json!([item])));
    }
    for tool in [
        json!({"type": "function"}),
        json!({"type": "function", "function": {}}),
        json!({}),
        json!({"type": "function", "function": {"name": 5}}),
    ] {
        cases.push((CHAT, "tools", json!([tool])));
        cases.push((RESPONSES, "tools", json!([tool])));
        cases.push((MESSAGES, "tools", json!([tool])));
    }
    let bodies = paths();
    for (path, name, value) in cases {
        let mut body = bodies.iter().find(|(known, _)| *known == path).unwrap().1.clone();
        body.as_object_mut().unwrap().remove("content");
        body[name] = value.clone();
        let (status, message, _) = post(server.address(), path, &body).refused(path);
        assert!(status == 400 && message.contains(name), "{path} {name}: {value}: {status} {message}");
    }
    lives(&server);
}

#[test]
fn models_that_are_not_there_are_told_in_every_dialect() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    for (path, mut body) in paths() {
        for name in ["other", "M", "m ", "../m", "\u{0}"] {
            body["model"] = json!(name);
            let (status, message, _) = post(server.address(), path, &body).refused(path);
            assert!(status == 404 && message.contains("there is m"), "{path} {status} {message}");
        }
    }
    for path in ["/v1/models/other", "/v1/models/%ff%fe", "/v1/models/..%2fm", "/v1/messages/x", "/x?y=%ff", "//"] {
        let reply = get(server.address(), path);
        assert!([400, 404].contains(&reply.status), "{path} {reply:?}");
    }
    lives(&server);
}

#[test]
fn bodies_that_are_too_long_are_refused_whether_they_say_so_or_not() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    for (path, _) in paths() {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(&request("POST", path, &[JSON, ("Transfer-Encoding", "chunked")], "")).unwrap();
        for _ in 0..=limits::SERVER_BODY_BYTES_MAX / 0x10000 {
            // The server may have closed already.
            let _ = stream.write_all(&chunk);
        }
        let all = rest(&mut stream);
        // What it closed over is lost where the system resets a connection with unread bytes.
        if let Some((reply, _)) = parse(&all) {
            assert_eq!(reply.refused(path).0, 413, "{path}");
        }
    }
    // Whitespace up to the limit is a body like any other.
    let most = limits::SERVER_BODY_BYTES_MAX - 2;
    let body = [vec![b' '; most], b"{}".to_vec()].concat();
    assert_eq!(raw(&server, TOKENIZE, &body).refusal(), (400, None, Some("messages".to_owned())));
    lives(&server);
}

#[test]
fn bodies_of_all_have_a_limit_too() {
    let engine = engine();
    let server = limited(&engine, |limits| limits.bodies_bytes = 100_000);
    let body = json!({"content": "x".repeat(60_000)}).to_string();
    let head = request("POST", TOKENIZE, &[JSON, ("Content-Length", &body.len().to_string())], "");
    let mut first = TcpStream::connect(server.address()).unwrap();
    first.write_all(&head).unwrap();
    first.write_all(&body.as_bytes()[..50_000]).unwrap();
    // As soon as the server has read the first, the second has no room.
    let send = || exchange(server.address(), &[head.clone(), body.clone().into_bytes()].concat());
    until(|| send().status == 429);
    let refused = send();
    assert_eq!(refused.refusal(), (429, Some("bodies_full".to_owned()), None));
    assert_eq!(refused.header("retry-after"), Some("1"));
    first.write_all(&body.as_bytes()[50_000..]).unwrap();
    assert_eq!(read(&mut first).status, 200);
    assert_eq!(send().status, 200);
    // Of a client that goes away in the middle nothing is kept.
    let mut gone = TcpStream::connect(server.address()).unwrap();
    gone.write_all(&head).unwrap();
    gone.write_all(&body.as_bytes()[..50_000]).unwrap();
    until(|| send().status == 429);
    drop(gone);
    until(|| send().status == 200);
    lives(&server);
}

#[test]
fn heads_that_do_not_come_close_the_connection() {
    let engine = engine();
    let server = limited(&engine, |limits| limits.head_ms = 40);
    for sent in ["", "P", "POST /tokenize HTTP/1.1\r\n", "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n"] {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(sent.as_bytes()).unwrap();
        assert_eq!(rest(&mut stream), b"", "{sent:?}");
    }
    // A byte now and then does not help.
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    while stream.write_all(b"X-A: b\r\n").is_ok() {
        std::thread::yield_now();
    }
    // A connection that has been answered and says nothing more.
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(read_one(&mut stream).status, 200);
    assert_eq!(rest(&mut stream), b"");
    lives(&server);
}

#[test]
fn bodies_that_do_not_come_are_refused() {
    let engine = engine();
    let server = limited(&engine, |limits| limits.body_ms = 40);
    for (path, body) in paths() {
        let body = body.to_string();
        let whole = request("POST", path, &[JSON], &body);
        for sent in [whole.len() - body.len(), whole.len() - 1] {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(&whole[..sent]).unwrap();
            assert_eq!(read(&mut stream).refused(path).0, 408, "{path}");
        }
    }
}

#[test]
fn heads_have_so_many_headers_and_no_more() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    let ask = |count: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("x-{at}")).collect();
        let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "y")).collect();
        exchange(server.address(), &request("GET", "/health", &headers, ""))
    };
    // Beside these there are `Host` and `Connection`.
    let most = limits::SERVER_HEADERS_MAX - 2;
    assert_eq!((ask(most).status, ask(most + 1).status, ask(10 * most).status), (200, 431, 431));
    lives(&server);
}

#[test]
fn requests_may_follow_each_other_at_once_and_garbage_behind_them_closes() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    let one = |path: &str, body: &Value| {
        let bytes = request("POST", path, &[JSON], &body.to_string());
        String::from_utf8(bytes).unwrap().replace("Connection: close\r\n", "")
    };
    let health = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned();
    let stream_body = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": true});
    let last = String::from_utf8(request("GET", "/v1/models", &[], "")).unwrap();
    let statuses = |sent: &str| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(sent.as_bytes()).unwrap();
        let all = rest(&mut stream);
        let (mut left, mut statuses) = (&all[..], Vec::new());
        while let Some((reply, next)) = parse(left) {
            statuses.push(reply.status);
            left = next;
        }
        assert!(left.is_empty(), "{:?}", String::from_utf8_lossy(left));
        statuses
    };
    let mut all: Vec<String> = paths().iter().map(|(path, body)| one(path, body)).collect();
    all.extend([health.clone(), one(CHAT, &stream_body), one(CHAT, &json!({})), last.clone()]);
    let mut wanted = vec![200; paths().len() + 2];
    wanted.extend([400, 200]);
    assert_eq!(statuses(&all.concat()), wanted);
    for garbage in
        ["\0\0\0\0", "GARBAGE\r\n\r\n", "{\"content\": \"x\"}\r\n\r\n", "GET\r\n\r\n", "\r\n\r\nx y z\r\n\r\n"]
    {
        assert_eq!(statuses(&(health.clone() + garbage)), [200, 400], "{garbage:?}");
        let stream = one(CHAT, &stream_body);
        assert_eq!(statuses(&(stream + garbage)), [200, 400], "{garbage:?}");
    }
    lives(&server);
}

#[test]
fn what_is_no_http_is_closed() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    let host = "Host: localhost\r\n";
    let json = "Content-Type: application/json\r\n";
    let sent: Vec<Vec<u8>> = [
        "\r\n\r\n\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{host}Bad Header: x\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}x:\0\r\n\r\n"),
        format!("GET /{} HTTP/1.1\r\n{host}\r\n", "x".repeat(100_000)),
        format!("POST /tokenize HTTP/1.1\r\n{host}{json}Content-Length: -1\r\n\r\n{{}}"),
        format!("POST /tokenize HTTP/1.1\r\n{host}{json}Content-Length: 2x\r\n\r\n{{}}"),
        format!("POST /tokenize HTTP/1.1\r\n{host}{json}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}x"),
        format!("POST /tokenize HTTP/1.1\r\n{host}{json}Content-Length: 99999999999999999999999\r\n\r\n{{}}"),
        format!("POST /tokenize HTTP/1.1\r\n{host}{json}Transfer-Encoding: gzip\r\n\r\n{{}}"),
        format!("POST /tokenize HTTP/1.1\r\n{host}{json}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"),
        format!(
            "POST /tokenize HTTP/1.1\r\n{host}{json}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{{}}\r\n"
        ),
    ]
    .into_iter()
    .map(String::into_bytes)
    .chain([
        vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        vec![0xff; 4096],
        b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n".to_vec(),
    ])
    .collect();
    for bytes in sent {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let mut stream = TcpStream::connect(server.address()).unwrap();
        // The server may close before it has read everything.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let all = rest(&mut stream);
        let first = String::from_utf8_lossy(&all[..all.len().min(12)]).into_owned();
        assert!(all.is_empty() || first.starts_with("HTTP/1.1 4"), "{shown:?}: {first:?}");
    }
    assert_eq!(exchange(server.address(), b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").status, 403, "no Host");
    assert_eq!(exchange(server.address(), &request("BREW", "/tokenize", &[], "")).status, 405);
    lives(&server);
}

/// A request whose answer does not end by itself.
fn endless(engine: &Engine, stream: bool) -> Value {
    json!({"prompt": "Once", "max_tokens": 1900, "stream": stream,
        "logit_bias": {engine.info().eos_token.unwrap().to_string(): -1000}})
}

#[test]
fn a_client_that_closes_its_half_has_gone() {
    let engine = engine();
    let server = serve_with(&engine, |_| ());
    for (gone, stream) in [true, false].into_iter().enumerate() {
        let mut connection = TcpStream::connect(server.address()).unwrap();
        connection.write_all(&request("POST", TEXT, &[JSON], &endless(&engine, stream).to_string())).unwrap();
        if stream {
            connection.read_exact(&mut [0; 16]).unwrap();
        } else {
            until(|| engine.stats().unwrap().running == 1);
        }
        connection.shutdown(Shutdown::Write).unwrap();
        assert!(!String::from_utf8_lossy(&rest(&mut connection)).contains("[DONE]"));
        until(|| engine.stats().unwrap().cancelled == gone as u64 + 1);
    }
    // With a request behind the one that is answered.
    let mut connection = TcpStream::connect(server.address()).unwrap();
    let first = request("POST", TEXT, &[JSON], &endless(&engine, false).to_string());
    let first = String::from_utf8(first).unwrap().replace("Connection: close\r\n", "");
    connection.write_all((first + "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    until(|| engine.stats().unwrap().running == 1);
    drop(connection);
    until(|| engine.stats().unwrap().cancelled == 3);
    // In the middle of a head and of a body.
    let whole = request("POST", TOKENIZE, &[JSON], "{\"content\": \"x\"}");
    for sent in 1..whole.len() {
        let mut connection = TcpStream::connect(server.address()).unwrap();
        connection.write_all(&whole[..sent]).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let all = rest(&mut connection);
        assert!(all.is_empty() || all.starts_with(b"HTTP/1.1 4"), "{sent}: {:?}", String::from_utf8_lossy(&all));
    }
    lives(&server);
    engine.check().unwrap();
}

#[test]
fn a_client_that_takes_nothing_for_too_long_has_gone() {
    let engine = engine();
    let server = limited(&engine, |limits| limits.write_ms = 40);
    let mut body = endless(&engine, true);
    body["logprobs"] = json!(200);
    let mut connection = TcpStream::connect(server.address()).unwrap();
    connection.write_all(&request("POST", TEXT, &[JSON], &body.to_string())).unwrap();
    until(|| engine.stats().unwrap().cancelled == 1);
    drop(connection);
    lives(&server);
    engine.check().unwrap();
}

#[test]
fn connections_beyond_the_limit_wait_for_those_before_them() {
    let engine = engine();
    let server = limited(&engine, |limits| limits.connections = 2);
    let health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let connect = || {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(health).unwrap();
        stream
    };
    let mut first = connect();
    let mut second = connect();
    assert_eq!((read_one(&mut first).status, read_one(&mut second).status), (200, 200));
    let mut third = connect();
    third.set_nonblocking(true).unwrap();
    // Those before it are answered again and again, and it is not.
    for _ in 0..20 {
        first.write_all(health).unwrap();
        assert_eq!(read_one(&mut first).status, 200);
        assert_eq!(third.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    third.set_nonblocking(false).unwrap();
    drop(first);
    assert_eq!(read_one(&mut third).status, 200);
    drop((second, third));
    lives(&server);
}

#[test]
fn a_stream_that_waits_says_that_it_lives() {
    let engine = engine();
    let server = limited(&engine, |limits| (limits.first_event_ms, limits.keep_alive_ms) = (1, 10));
    let chat = json!([{"role": "user", "content": "x"}]);
    for (path, body, wanted) in [
        (CHAT, json!({"messages": chat, "stream": true, "max_tokens": 1}), "\n\n: \n\n: \n\n"),
        (
            MESSAGES,
            json!({"messages": chat, "stream": true, "max_tokens": 1}),
            "event: ping\ndata: {\"type\":\"ping\"}\n\nevent: ping",
        ),
        (RESPONSES, json!({"input": "x", "stream": true, "max_output_tokens": 1}), "event: response.in_progress"),
    ] {
        assert!(engine.pause(None).unwrap());
        let mut connection = TcpStream::connect(server.address()).unwrap();
        connection.write_all(&request("POST", path, &[JSON], &body.to_string())).unwrap();
        let (mut text, mut piece) = (String::new(), [0; 1024]);
        // Chunks of the connection stand between the events.
        let plain = |text: &str| {
            let lines =
                text.split("\r\n").filter(|line| !line.is_empty() && !line.bytes().all(|b| b.is_ascii_hexdigit()));
            lines.collect::<String>()
        };
        while plain(&text).matches(wanted).count() < 3 {
            let read = connection.read(&mut piece).unwrap();
            assert!(read > 0, "{text}");
            text += std::str::from_utf8(&piece[..read]).unwrap();
        }
        engine.resume().unwrap();
        let end = String::from_utf8(rest(&mut connection)).unwrap();
        assert!(["[DONE]", "message_stop", "response.incomplete"].iter().any(|last| end.contains(last)), "{end}");
    }
    engine.check().unwrap();
}
