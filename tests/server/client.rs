//! A client that shows everything: one connection for each request.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Of a refusal in OpenAI's shape: status, code and parameter.
    pub fn refusal(&self) -> (u16, Option<String>, Option<String>) {
        let error = &self.json()["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{self:?}");
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        (self.status, text("code"), text("param"))
    }

    /// The values of a stream, which ends as streams do.
    pub fn stream(&self) -> Vec<Value> {
        assert_eq!((self.status, self.header("content-type")), (200, Some("text/event-stream")), "{self:?}");
        let mut data: Vec<&str> = Vec::new();
        for event in self.body.split_terminator("\n\n").filter(|event| !event.starts_with(':')) {
            data.push(event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?}")));
        }
        assert_eq!(data.pop(), Some("[DONE]"), "{self:?}");
        data.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

/// Sends these bytes and reads to the end of the connection.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    // A server that refuses early may close before it has read everything.
    let _ = stream.write_all(bytes);
    read(&mut stream)
}

/// Reads an answer after which the server closes.
pub fn read(stream: &mut TcpStream) -> Reply {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no head in {} bytes", all.len()));
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let headers: Vec<_> = lines.filter_map(header).collect();
    let body = all[end + 4..].to_vec();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { unchunked(&body) } else { body };
    Reply { status, headers, body: String::from_utf8(body).unwrap() }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n").expect("a chunk has a size");
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return all;
        }
        all.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
}

/// A request as bytes, after which the server closes.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    (text + "\r\n" + body).into_bytes()
}

pub fn get(address: SocketAddr, path: &str) -> Reply {
    exchange(address, &request("GET", path, &[], ""))
}

pub fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    exchange(address, &request("POST", path, &[("Content-Type", "application/json")], &body.to_string()))
}
