//! What clients send: JSON of bounded length, which comes in bounded time, and the requests that it makes; and JSON that they get.
//!
//! A long body is read into JSON and made a request on a thread of its own, because the server's thread has the tokens of all others
//! to send meanwhile. So that this can be done anywhere, what a dialect makes of its fields is made without waiting.

use super::models::Model;
use super::refusal::{Kind, Outcome, Refusal};
use super::state::State;
use crate::json::Tree;
use crate::limits;
use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The fields of a request, which are taken one by one, so that an error names its field. What nobody takes is ignored.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Of a body.
    pub fn of(bytes: &[u8]) -> Outcome<Fields> {
        let wrong = |what: String| Refusal::new(Kind::Invalid, format!("the body is not as it should be: {what}"));
        match serde_json::from_slice::<Tree<{ limits::PROMPT_TREE_BYTES_MAX }>>(bytes) {
            Ok(Tree(Value::Object(fields))) => Ok(Fields(fields)),
            Ok(_) => Err(wrong("it is no JSON object".to_owned())),
            Err(e) => Err(wrong(e.to_string())),
        }
    }

    /// A field; none when it is absent or null.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Outcome<Option<T>> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match serde_json::from_value(value) {
                Ok(value) => Ok(Some(value)),
                Err(e) => Err(Refusal::field(name, format!("{name}: {e}"))),
            },
        }
    }

    /// A field that is an object; none when it is absent or null. Types that have names for their fields take lists, too.
    pub fn take_object<T: DeserializeOwned>(&mut self, name: &str) -> Outcome<Option<T>> {
        match self.0.get(name) {
            None | Some(Value::Null | Value::Object(_)) => self.take(name),
            Some(_) => Err(Refusal::field(name, format!("{name} is no object"))),
        }
    }

    /// A field that has to be there.
    pub fn need<T: DeserializeOwned>(&mut self, name: &str) -> Outcome<T> {
        self.take(name)?.ok_or_else(|| Refusal::field(name, format!("{name} is missing")))
    }
}

/// What was made of a body.
pub(super) struct Read<T> {
    /// The model that it names.
    pub model: Arc<Model>,
    pub value: T,
    /// The body is long: what is made of it next is made on the reader's thread, too.
    pub long: bool,
}

/// Reads the body of a request and makes of it what `make` makes of its fields.
pub(super) async fn read<T: Send + 'static>(
    server: &Arc<State>,
    request: Request,
    make: impl FnOnce(&mut Fields, &Model) -> Outcome<T> + Send + 'static,
) -> Outcome<Read<T>> {
    let body = bytes(server, request).await?;
    let long = body.bytes.len() > limits::SERVER_SHORT_BODY_BYTES;
    let all = server.clone();
    let read = move || {
        let mut fields = Fields::of(&body.bytes)?;
        drop(body);
        let model = all.models.find(fields.take::<String>("model")?.as_deref())?;
        let value = make(&mut fields, &model)?;
        Ok(Read { model, value, long })
    };
    if long { server.reader.run(read).await } else { read() }
}

/// An answer as JSON.
pub(super) fn written(answer: &impl Serialize) -> Vec<u8> {
    // The values are our own, with names for keys, so that they can be written.
    serde_json::to_vec(answer).unwrap_or_default()
}

/// The response with an answer that was written.
pub(super) fn response(json: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/json")], json).into_response()
}

/// The bytes of a body, which count among those of all bodies while they are there.
struct Body {
    bytes: Vec<u8>,
    server: Arc<State>,
}

impl Body {
    fn add(&mut self, data: &[u8]) -> Outcome<()> {
        let most = limits::SERVER_BODY_BYTES_MAX;
        if data.len() > most - self.bytes.len() {
            return Err(too_large(most as u64 + 1));
        }
        let full = || {
            let message = "the server reads too many long requests, or has no memory for another; try again";
            Refusal::new(Kind::Full, message).coded("bodies_full")
        };
        let all = self.server.bodies_bytes.fetch_add(data.len(), Ordering::Relaxed) + data.len();
        if all > self.server.limits.bodies_bytes || self.bytes.try_reserve(data.len()).is_err() {
            self.server.bodies_bytes.fetch_sub(data.len(), Ordering::Relaxed);
            return Err(full());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.server.bodies_bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

fn too_large(bytes: u64) -> Refusal {
    let most = limits::SERVER_BODY_BYTES_MAX;
    Refusal::new(Kind::TooLarge, format!("the body has {bytes} bytes or more; at most {most} are allowed"))
}

async fn bytes(server: &Arc<State>, request: Request) -> Outcome<Body> {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    if length > limits::SERVER_BODY_BYTES_MAX as u64 {
        return Err(too_large(length));
    }
    let mut body = Body { bytes: Vec::new(), server: server.clone() };
    let mut from = request.into_body();
    let all = async {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut from).poll_frame(cx)).await {
            // What fails is the connection, over which nobody reads the answer, or chunks that are none.
            let gone = |e| Refusal::new(Kind::Invalid, format!("the body ended before its end: {e}"));
            if let Some(data) = frame.map_err(gone)?.data_ref() {
                body.add(data)?;
            }
        }
        Ok::<(), Refusal>(())
    };
    let most = server.limits.body_ms;
    let late = |_| Refusal::new(Kind::Slow, format!("the body did not come within {most} ms"));
    tokio::time::timeout(Duration::from_millis(most), all).await.map_err(late)??;
    Ok(body)
}
