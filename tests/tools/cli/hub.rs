//! A model hub of the tests' own: one port is the hub, another its content network, and answers go wrong as the test says.

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

/// The commit of everything.
pub const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";

/// A file of the repository.
#[derive(Clone)]
pub struct Content {
    pub bytes: Vec<u8>,
    /// Whether it lies in the content network, as large files do.
    pub large: bool,
    /// Size that is listed, when it is not the true one.
    pub listed_bytes: Option<u64>,
}

/// What goes wrong with one answer.
pub enum Fault {
    /// This status, with a header field.
    Status(u16, &'static str),
    /// The connection ends after so many bytes.
    Drop(usize),
    /// So many bytes come, and the rest when the other end of the channel is dropped.
    Hold(usize, Receiver<()>),
    /// One byte is another.
    Wrong,
    /// Ranges are not known.
    Whole,
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whether it went to the content network.
    pub content: bool,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

/// What the hub has, and how it behaves.
#[derive(Default)]
pub struct State {
    pub files: BTreeMap<String, Content>,
    /// Names that are listed beside those of the files.
    pub listed: Vec<String>,
    /// Fields of the description beside commit and files.
    pub card: Value,
    /// The token without which nothing is given.
    pub token: Option<&'static str>,
    /// Why not, in the header field for it.
    pub refusal: &'static str,
    /// Whether sizes and hashes are listed, and whether answers have entity tags.
    pub unlisted: bool,
    pub untagged: bool,
    /// Faults of the coming answers, by the file's name or `api`.
    pub faults: BTreeMap<String, VecDeque<Fault>>,
    pub requests: Vec<Request>,
}

/// The running hub. Its threads end with the process.
pub struct Hub {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// A hub with the repository `owner/name`, and `old/name`, which was renamed to it.
    pub fn new() -> Hub {
        let state = Arc::new(Mutex::new(State::default()));
        let [hub, content] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let [address, network] = [&hub, &content].map(|listener| listener.local_addr().expect("an address"));
        for (listener, is_content) in [(hub, false), (content, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    // A client that goes away is no failure of the test.
                    std::thread::spawn(move || drop(answer(stream, &state, is_content, network)));
                }
            });
        }
        Hub { endpoint: format!("http://{address}"), state }
    }

    /// Changes what it has and does.
    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// Adds a file.
    pub fn file(&self, name: &str, bytes: &[u8], large: bool) {
        let content = Content { bytes: bytes.to_vec(), large, listed_bytes: None };
        self.with(|state| state.files.insert(name.to_owned(), content));
    }

    /// Adds what goes wrong with the next answer about a file, or about `api`.
    pub fn fault(&self, name: &str, fault: Fault) {
        self.with(|state| state.faults.entry(name.to_owned()).or_default().push_back(fault));
    }

    /// Requests so far for paths that contain the text.
    pub fn requests(&self, text: &str) -> Vec<Request> {
        self.with(|state| state.requests.iter().filter(|request| request.path.contains(text)).cloned().collect())
    }
}

/// The name of a file's bytes: SHA-256 of large files, git's SHA-1 of others.
pub fn hash(content: &Content) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match content.large {
        true => hex(&Sha256::digest(&content.bytes)),
        false => hex(&Sha1::digest([format!("blob {}\0", content.bytes.len()).as_bytes(), &content.bytes].concat())),
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>, content: bool, network: SocketAddr) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
    let mut request = Request { content, path: path.clone(), range: None, token: None };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("range") => request.range = Some(value.to_owned()),
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                request.token = value.strip_prefix("Bearer ").map(str::to_owned);
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let name = path.rsplit_once(&format!("/{COMMIT}/")).map_or("api", |(_, name)| name).to_owned();
    let reply = Reply { stream, head: method == "HEAD" };
    let refused = !content && state.token.is_some_and(|token| request.token.as_deref() != Some(token));
    if refused {
        let code = format!("x-error-code: {}\r\n", state.refusal);
        return reply.status(401, &code);
    }
    if let Some(rest) = path.strip_prefix("/api/models/old/name") {
        return reply.status(307, &format!("location: /api/models/owner/name{rest}\r\n"));
    }
    if name == "api" {
        let fault = state.faults.get_mut("api").and_then(VecDeque::pop_front);
        if let Some(Fault::Status(status, field)) = fault {
            return reply.status(status, field);
        }
        let known = path == "/api/models/owner/name/revision/main?blobs=true"
            || path == format!("/api/models/owner/name/revision/{COMMIT}?blobs=true");
        let text = describe(&state).to_string();
        return if known { reply.body(200, "", text.as_bytes()) } else { reply.status(404, "") };
    }
    let Some(file) = state.files.get(&name).cloned() else {
        return reply.status(404, "x-error-code: EntryNotFound\r\n");
    };
    let tag = if state.untagged { String::new() } else { hash(&file) };
    if file.large && !content {
        let mut fields =
            format!("location: http://{network}/content/{COMMIT}/{name}\r\nx-linked-size: {}\r\n", file.bytes.len());
        if !tag.is_empty() {
            fields += &format!("x-linked-etag: \"{tag}\"\r\n");
        }
        return reply.status(302, &fields);
    }
    let fault = state.faults.get_mut(&name).and_then(VecDeque::pop_front);
    drop(state);
    serve(reply, &file, &tag, request.range.as_deref(), fault)
}

fn serve(
    mut reply: Reply,
    file: &Content,
    tag: &str,
    range: Option<&str>,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    let total = file.bytes.len();
    let range = range.filter(|_| !matches!(fault, Some(Fault::Whole))).and_then(|range| {
        let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse::<usize>().ok()?, to.parse::<usize>().map_or(total, |to| (to + 1).min(total))))
    });
    if range.is_some_and(|(from, to)| from >= to) {
        return reply.status(416, "");
    }
    let mut fields = if tag.is_empty() { String::new() } else { format!("etag: \"{tag}\"\r\n") };
    let (status, bytes) = match range {
        None => (200, &file.bytes[..]),
        Some((from, to)) => {
            fields += &format!("content-range: bytes {from}-{}/{total}\r\n", to - 1);
            (206, &file.bytes[from..to])
        }
    };
    match fault {
        None | Some(Fault::Whole) => reply.body(status, &fields, bytes),
        Some(Fault::Status(status, field)) => reply.status(status, field),
        Some(Fault::Drop(count)) => {
            reply.fields(status, &fields, bytes.len())?;
            reply.stream.write_all(&bytes[..count])
        }
        Some(Fault::Hold(count, more)) => {
            reply.fields(status, &fields, bytes.len())?;
            reply.stream.write_all(&bytes[..count])?;
            // Ends when the test drops its end.
            let _ = more.recv();
            reply.stream.write_all(&bytes[count..])
        }
        Some(Fault::Wrong) => {
            let mut bytes = bytes.to_vec();
            bytes[total / 2] ^= 1;
            reply.body(status, &fields, &bytes)
        }
    }
}

/// The description of the repository.
fn describe(state: &State) -> Value {
    let mut siblings: Vec<Value> = state.listed.iter().map(|name| json!({"rfilename": name, "size": 1})).collect();
    siblings.extend(state.files.iter().map(|(name, file)| {
        let (size, hash) = (file.listed_bytes.unwrap_or(file.bytes.len() as u64), hash(file));
        match (state.unlisted, file.large) {
            (true, _) => json!({"rfilename": name}),
            (false, false) => json!({"rfilename": name, "size": size, "blobId": hash}),
            (false, true) => {
                let lfs = json!({"sha256": hash, "size": size, "pointerSize": 135});
                json!({"rfilename": name, "size": size, "blobId": COMMIT, "lfs": lfs})
            }
        }
    }));
    let mut model = json!({"sha": COMMIT, "siblings": siblings});
    if let Some(card) = state.card.as_object() {
        model.as_object_mut().unwrap().extend(card.clone());
    }
    model
}

struct Reply {
    stream: TcpStream,
    head: bool,
}

impl Reply {
    fn fields(&mut self, status: u16, fields: &str, length: usize) -> std::io::Result<()> {
        let lines = format!("HTTP/1.1 {status} So\r\ncontent-length: {length}\r\nconnection: close\r\n{fields}\r\n");
        self.stream.write_all(lines.as_bytes())
    }

    fn body(mut self, status: u16, fields: &str, bytes: &[u8]) -> std::io::Result<()> {
        self.fields(status, fields, bytes.len())?;
        if self.head { Ok(()) } else { self.stream.write_all(bytes) }
    }

    fn status(self, status: u16, fields: &str) -> std::io::Result<()> {
        self.body(status, fields, b"")
    }
}
