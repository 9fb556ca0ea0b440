//! `astrai serve`: what it prints, what it answers, and its end. The answers themselves are judged in `tests/server`.

use super::*;
use std::net::TcpStream;
use std::process::Child;

/// A server that has told its address.
pub struct Serving {
    child: Child,
    pub(super) url: String,
}

impl Serving {
    pub fn start(args: &[&str], key: Option<&str>) -> Serving {
        let mut command = astrai(&[&["serve", "--port", "0"], args].concat());
        match key {
            Some(key) => command.env("ASTRAI_API_KEY", key),
            None => command.env_remove("ASTRAI_API_KEY"),
        };
        let mut child = command.spawn().expect("astrai starts");
        let mut url = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut url).expect("it tells its address");
        Serving { child, url: url.trim_end().to_owned() }
    }

    /// Status and body.
    pub(super) fn ask(&self, method: &str, path: &str, key: &str, body: &str) -> (String, String) {
        let address = self.url.strip_prefix("http://").expect("an address");
        let mut stream = TcpStream::connect(address).expect("it listens");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nx-api-key: {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned())
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits until it is ready.
    pub fn ready(&self) {
        while self.ask("GET", "/health", "", "").0 != "200" {
            std::thread::yield_now();
        }
    }

    /// Ends it with a signal; what it told on stderr.
    pub fn stop(self, signal: &str) -> String {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill").success());
        let output = self.child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stderr)
    }
}

#[test]
#[cfg(unix)]
fn serve_answers_until_it_is_stopped() {
    for (args, names, signal) in [
        (&["MODEL"][..], &["storyteller"][..], "-INT"),
        (
            &["--model", "MODEL", "--model-name", "story", "--model-name", "claude-local"],
            &["story", "claude-local"],
            "-TERM",
        ),
    ] {
        let serving = Serving::start(args, None);
        serving.ready();
        let (status, models) = serving.ask("GET", "/v1/models", "", "");
        let models: Value = serde_json::from_str(&models).expect("JSON");
        let ids: Vec<&str> = array(&models, "data").iter().map(|model| model["id"].as_str().unwrap()).collect();
        assert_eq!((status.as_str(), ids.as_slice()), ("200", names));
        let body = json!({"model": names[0], "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0});
        let (_, answer) = serving.ask("POST", "/v1/completions", "", &body.to_string());
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let scored = score(&["--model", "MODEL"], &[json!({"prompt": "Once upon a time", "max_tokens": 24})]);
        assert_eq!(answer["choices"][0]["text"], scored[0]["text"]);
        let url = serving.url.clone();
        let told = serving.stop(signal);
        assert!(told.contains(&format!("OPENAI_BASE_URL={url}/v1")) && told.contains("stopping"), "{told}");
    }
}

#[test]
#[cfg(unix)]
fn serve_takes_keys_and_several_models() {
    let dir = tempfile::tempdir().expect("a folder");
    let keys = write(&dir, "keys", "one\n\n two \n");
    let model = storyteller();
    let [first, second] = ["a", "b"].map(|name| format!("{name}={model}"));
    let serving = Serving::start(&["--model", &first, "--model", &second, "--api-key-file", &keys], Some("three"));
    serving.ready();
    for (key, status) in [("one", "200"), ("two", "200"), ("three", "200"), ("four", "401"), ("", "401")] {
        assert_eq!(serving.ask("GET", "/v1/models", key, "").0, status, "{key}");
    }
    for (name, status) in [("a", "200"), ("b", "200"), ("c", "404")] {
        let body = json!({"model": name, "content": "x"}).to_string();
        assert_eq!(serving.ask("POST", "/tokenize", "one", &body).0, status, "{name}");
    }
    serving.stop("-INT");
}

#[test]
fn serve_refuses_what_cannot_be() {
    assert!(failure(&["serve"], 2).contains("MODEL_DIR"));
    let named = failure(&["serve", "--model", "a=x", "--model", "b=y", "--model-name", "c"], 2);
    assert!(named.contains("--model-name"), "{named}");
    assert!(failure(&["serve", "--port", "0", "--model", "a=MODEL", "--model", "a=MODEL"], 1).contains("once"));
    assert!(failure(&["serve", "MODEL", "--api-key-file", "not/there"], 1).contains("not/there"));
    let output = output(&["serve", "--port", "0", "not/there"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("not/there"));
}
