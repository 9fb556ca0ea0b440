//! An answer as a stream of server-sent events, written by its dialect.

use super::core::Running;
use super::refusal::Refusal;
use crate::engine::{Event, PromptCounts};
use axum::http::HeaderName;
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// What is to be sent.
pub(super) type Out = VecDeque<sse::Event>;

/// Writes an answer in a dialect.
pub(super) trait Writer: Send + Unpin + 'static {
    /// Before the first event. `counts`: of the prompt's tokens, if they are known.
    fn begin(&mut self, counts: Option<PromptCounts>, out: &mut Out);
    /// An event of a choice.
    fn event(&mut self, choice: usize, event: &Event, out: &mut Out);
    /// The answer ends with an error.
    fn failed(&mut self, refusal: &Refusal, out: &mut Out);
    /// All choices have ended.
    fn end(&mut self, out: &mut Out);
    /// Nothing came for a while: something that shows that the stream lives.
    fn quiet(&mut self, out: &mut Out) {
        out.push_back(sse::Event::default().comment(""));
    }
}

struct EventStream<W> {
    running: Option<Running>,
    writer: W,
    out: Out,
    /// When it has been quiet for too long.
    quiet: Pin<Box<Sleep>>,
    /// How long it is quiet at most.
    patience: Duration,
}

impl<W: Writer> Stream for EventStream<W> {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(event) = this.out.pop_front() {
                this.quiet.as_mut().reset(Instant::now() + this.patience);
                return Poll::Ready(Some(Ok(event)));
            }
            let Some(running) = &mut this.running else { return Poll::Ready(None) };
            match running.poll_next(cx) {
                Poll::Ready(Some(Ok((choice, event)))) => this.writer.event(choice, &event, &mut this.out),
                Poll::Ready(Some(Err(refusal))) => {
                    this.writer.failed(&refusal, &mut this.out);
                    this.running = None;
                }
                Poll::Ready(None) => {
                    this.writer.end(&mut this.out);
                    this.running = None;
                }
                Poll::Pending => {
                    std::task::ready!(this.quiet.as_mut().poll(cx));
                    this.writer.quiet(&mut this.out);
                }
            }
        }
    }
}

/// The response that sends what `writer` makes of an answer.
pub(super) fn response(running: Running, mut writer: impl Writer) -> Response {
    // By which the window's stream names it.
    let id = [(HeaderName::from_static("x-astrai-request"), running.id().to_string())];
    let mut out = Out::new();
    writer.begin(running.counts(), &mut out);
    let patience = Duration::from_millis(running.limits.keep_alive_ms);
    let quiet = Box::pin(tokio::time::sleep(patience));
    (id, Sse::new(EventStream { running: Some(running), writer, out, quiet, patience })).into_response()
}

/// Adds an event with a JSON value.
pub(super) fn push(out: &mut Out, value: &impl serde::Serialize) {
    push_event(out, sse::Event::default(), value);
}

/// Adds an event of this name with a JSON value.
pub(super) fn push_named(out: &mut Out, name: &str, value: &impl serde::Serialize) {
    push_event(out, sse::Event::default().event(name), value);
}

fn push_event(out: &mut Out, event: sse::Event, value: &impl serde::Serialize) {
    // The values are our own, with names for keys, so that they can be written.
    if let Ok(text) = serde_json::to_string(value) {
        out.push_back(event.data(text));
    }
}
