//! What clients send: JSON of bounded length, which comes in bounded time.

use super::refusal::{Kind, Outcome, Refusal};
use crate::json::Tree;
use crate::limits;
use axum::body;
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::time::Duration;

/// The fields of a request, which are taken one by one, so that an error names its field. What nobody takes is ignored.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
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

    /// A field that has to be there.
    pub fn need<T: DeserializeOwned>(&mut self, name: &str) -> Outcome<T> {
        self.take(name)?.ok_or_else(|| Refusal::field(name, format!("{name} is missing")))
    }
}

/// The body of a request.
pub(super) async fn read(request: Request) -> Outcome<Fields> {
    let most = limits::SERVER_BODY_BYTES_MAX;
    let too_large = |bytes: u64| {
        Refusal::new(Kind::TooLarge, format!("the body has {bytes} bytes or more; at most {most} are allowed"))
    };
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    if length > most as u64 {
        return Err(too_large(length));
    }
    let bytes = body::to_bytes(request.into_body(), most);
    let bytes = tokio::time::timeout(Duration::from_millis(limits::SERVER_BODY_MS), bytes).await;
    let late = |_| Refusal::new(Kind::Slow, format!("the body did not come within {} ms", limits::SERVER_BODY_MS));
    // What fails beside the length is the connection, over which nobody reads the answer.
    let bytes = bytes.map_err(late)?.map_err(|_| too_large(most as u64 + 1))?;
    let wrong = |what: String| Refusal::new(Kind::Invalid, format!("the body is not as it should be: {what}"));
    match serde_json::from_slice::<Tree<{ limits::PROMPT_TREE_BYTES_MAX }>>(&bytes) {
        Ok(Tree(Value::Object(fields))) => Ok(Fields(fields)),
        Ok(_) => Err(wrong("it is no JSON object".to_owned())),
        Err(e) => Err(wrong(e.to_string())),
    }
}
