//! A client that shows everything: one connection for each request.

use astrai::server::Server;
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

    /// The events of a stream, each named as its type.
    pub fn events(&self) -> Vec<Value> {
        assert_eq!((self.status, self.header("content-type")), (200, Some("text/event-stream")), "{self:?}");
        let event = |text: &str| {
            let (name, data) = text.strip_prefix("event: ").and_then(|text| text.split_once("\ndata: ")).unwrap();
            let value: Value = serde_json::from_str(data).unwrap();
            assert_eq!(value["type"], name);
            value
        };
        self.body.split_terminator("\n\n").map(event).collect()
    }

    /// What a refusal in the shape of its path's dialect says: its status, its message, and the field that it is about, which
    /// Anthropic's has in the message alone.
    pub fn refused(&self, path: &str) -> (u16, String, Option<String>) {
        let value = self.json();
        let error = &value["error"];
        assert!(error["type"].is_string(), "{path} {self:?}");
        assert_eq!(value["type"] == "error", path.starts_with("/v1/messages"), "{path} {self:?}");
        let message = error["message"].as_str().unwrap_or_default().to_owned();
        assert!(!message.is_empty(), "{path} {self:?}");
        (self.status, message, error["param"].as_str().map(str::to_owned))
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
    let all = rest(stream);
    let (reply, left) = parse(&all).unwrap_or_else(|| panic!("no answer in {:?}", String::from_utf8_lossy(&all)));
    assert!(left.is_empty(), "{:?} behind {reply:?}", String::from_utf8_lossy(left));
    reply
}

/// Reads to the end of the connection.
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A server that has unread bytes resets.
    let _ = stream.read_to_end(&mut all);
    all
}

/// Reads one answer of a connection that goes on.
pub fn read_one(stream: &mut TcpStream) -> Reply {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some((reply, left)) = parse(&all) {
            assert!(left.is_empty(), "more than one answer");
            return reply;
        }
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&piece[..read]);
    }
}

/// The first answer in these bytes, if it is there as a whole, and what follows it. One without a length goes on to the end.
pub fn parse(all: &[u8]) -> Option<(Reply, &[u8])> {
    let end = all.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let headers: Vec<_> = lines.filter_map(header).collect();
    let value = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let after = &all[end + 4..];
    let (body, left) = match (value("content-length"), value("transfer-encoding")) {
        (Some(length), _) => {
            let (body, left) = after.split_at_checked(length.parse().unwrap())?;
            (body.to_vec(), left)
        }
        (None, Some("chunked")) => unchunked(after)?,
        _ => (after.to_vec(), &[][..]),
    };
    Some((Reply { status, headers, body: String::from_utf8(body).unwrap() }, left))
}

/// The body that chunks make, and what follows them.
fn unchunked(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut all = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let (chunk, left) = bytes.get(end + 2..)?.split_at_checked(size)?;
        all.extend_from_slice(chunk);
        bytes = left.strip_prefix(b"\r\n")?;
        if size == 0 {
            return Some((all, bytes));
        }
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

/// The answer of a server to a request that it takes.
pub fn answer(server: &Server, path: &str, body: &Value) -> Value {
    let reply = post(server.address(), path, body);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}
