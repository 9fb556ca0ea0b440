//! A connection to a server of OpenAI's dialect.

use super::{shared, usage};
use crate::failure::{Failure, Outcome};
use crate::pull::http::{shown, tls};
use astrai::engine::Usage;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};
use ureq::Agent;

/// Until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Until a server that was asked says something more.
const READ_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest answer that is not a stream, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Most characters of a server's error that are shown.
const ERROR_CHARS_MAX: usize = 400;

/// The client of one server.
pub struct Client {
    agent: Agent,
    url: String,
    key: Option<String>,
}

/// A whole answer.
pub struct Answer {
    pub text: String,
    /// When its tokens came, from the start of the run.
    pub arrivals: Vec<(Duration, usize)>,
    pub usage: Usage,
}

impl Client {
    /// For the server at the address.
    pub fn new(url: &str, key: Option<&str>) -> Outcome<Client> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("astrai/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(READ_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT));
        if url.starts_with("https://") {
            config = config.tls_config(tls().map_err(Failure::Message)?);
        }
        Ok(Client { agent: config.build().new_agent(), url: url.to_owned(), key: key.map(str::to_owned) })
    }

    fn key(&self) -> String {
        format!("Bearer {}", self.key.as_deref().unwrap_or("none"))
    }

    fn failed(&self, path: &str, why: impl std::fmt::Display) -> Failure {
        Failure::Message(format!("{}{path}: {}", self.url, shown(&why.to_string(), ERROR_CHARS_MAX)))
    }

    /// The names of the models, each with its longest sequence if the server says it.
    pub fn models(&self) -> Outcome<Vec<(String, Option<usize>)>> {
        const PATH: &str = "/v1/models";
        let request = self.agent.get(format!("{}{PATH}", self.url)).header("authorization", self.key());
        let response = request.call().map_err(|e| self.failed(PATH, e))?;
        let list: Value = serde_json::from_str(&self.whole(PATH, response)?).map_err(|e| self.failed(PATH, e))?;
        let model = |model: &Value| {
            let context = model.get("max_model_len").or_else(|| model.pointer("/meta/n_ctx")).and_then(Value::as_u64);
            Some((model.get("id")?.as_str()?.to_owned(), context.map(|context| context as usize)))
        };
        Ok(list.get("data").and_then(Value::as_array).into_iter().flatten().filter_map(model).collect())
    }

    /// The body of a good answer.
    fn whole(&self, path: &str, response: ureq::http::Response<ureq::Body>) -> Outcome<String> {
        let (status, mut body) = (response.status(), String::new());
        let reader = &mut response.into_body().into_reader().take(ANSWER_BYTES_MAX);
        reader.read_to_string(&mut body).map_err(|e| self.failed(path, e))?;
        if status.is_success() { Ok(body) } else { Err(self.failed(path, format_args!("{status}: {body}"))) }
    }

    /// Sends a request and reads the stream of its answer; times are from `start` on.
    pub fn stream(&self, path: &str, body: &Value, start: Instant) -> Outcome<Answer> {
        let request = self.agent.post(format!("{}{path}", self.url));
        let request = request.header("content-type", "application/json").header("authorization", self.key());
        let response = request.send(body.to_string()).map_err(|e| self.failed(path, e))?;
        if !response.status().is_success() {
            return Err(match self.whole(path, response) {
                Ok(_) => self.failed(path, "no answer"),
                Err(failure) => failure,
            });
        }
        let (mut text, mut pieces, mut counts, mut ended) = (String::new(), Vec::new(), None, false);
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.map_err(|e| self.failed(path, e))?;
            let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
            if data == "[DONE]" {
                // The rest is read, so that the connection can be used again.
                ended = true;
                continue;
            }
            let at = start.elapsed();
            let chunk: Value =
                serde_json::from_str(data).map_err(|e| self.failed(path, format_args!("{e}: {data}")))?;
            if let Some(error) = chunk.get("error") {
                return Err(self.failed(path, error));
            }
            let piece = |name: &str| chunk.pointer(name).and_then(Value::as_str).filter(|text| !text.is_empty());
            let said = piece("/choices/0/text").or_else(|| piece("/choices/0/delta/content"));
            let thought = piece("/choices/0/delta/reasoning_content").or_else(|| piece("/choices/0/delta/reasoning"));
            if said.or(thought).is_some() {
                pieces.push(at);
            }
            text.push_str(said.unwrap_or_default());
            counts = chunk.get("usage").filter(|usage| usage.is_object()).map(usage).or(counts);
        }
        if !ended {
            return Err(self.failed(path, "the stream ended before its end"));
        }
        let mut usage = counts.ok_or_else(|| self.failed(path, "the stream has no usage"))?;
        if usage.generated_tokens == 0 {
            usage.generated_tokens = pieces.len() as u32;
        }
        Ok(Answer { text, arrivals: shared(&pieces, usage.generated_tokens as usize), usage })
    }
}
