//! The window: a page that shows an engine at work, and the stream of events that it lives on.
//!
//! `GET /` is one file without anything private in it. What it shows comes from `GET /window/events`, a snapshot and then what
//! changes; both dialects' rules of who may ask hold for it. An engine that nobody watches is not traced.
//!
//! | file | what it is for |
//! |---|---|
//! | [`page`] | the file, made of its parts |
//! | [`picture`], [`text`] | what is sent |
//! | [`pace`] | an engine that is slow enough to be watched |
//! | [`feed`] | from the engine to its viewers |
//! | [`record`] | a viewer that writes a file |

mod feed;
mod pace;
mod page;
mod picture;
mod record;
mod text;

pub use pace::Pace;

use super::body;
use super::models::{Model, lock};
use super::openai::errors;
use super::refusal::{Kind, Outcome, Refusal};
use super::state::State as Server;
use crate::error::Result;
use crate::limits;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use feed::{Feed, Watching};
use futures_core::Stream;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

pub(super) use page::home;

/// What a server shows.
#[derive(Clone, Default)]
pub struct WindowOptions {
    /// The texts of requests and of the prefix tree, too.
    pub text: bool,
    /// Engines that are watched keep to it.
    pub pace: Option<Arc<Pace>>,
    /// What the first model does is recorded.
    pub record: Option<Recording>,
}

/// A file for the page with what a model does inside. It is written when the server stops, when it is full, or at a time.
#[derive(Clone)]
pub struct Recording {
    /// The file.
    pub path: PathBuf,
    /// The clock of [`WindowOptions::pace`] at which it is written; 0: none.
    pub until: u64,
    /// Called when it is written, or cannot be.
    pub written: Arc<dyn Fn(Result<()>) + Send + Sync>,
}

/// The windows of a server's models.
pub(super) struct Window {
    options: WindowOptions,
    page: OnceLock<page::Page>,
    state: Mutex<WindowState>,
}

#[derive(Default)]
struct WindowState {
    feeds: BTreeMap<String, Arc<Feed>>,
    recorder: Option<record::Recorder>,
    closed: bool,
}

impl Window {
    pub fn new(options: WindowOptions) -> Arc<Window> {
        Arc::new(Window { options, page: OnceLock::new(), state: Mutex::default() })
    }

    fn page(&self) -> &page::Page {
        self.page.get_or_init(page::Page::new)
    }

    /// The window of a model.
    fn feed(&self, model: &Model) -> Option<Arc<Feed>> {
        let mut state = lock(&self.state);
        if state.closed {
            return None;
        }
        let new = || Arc::new(Feed::new(model, self.options.text, self.options.pace.clone()));
        Some(state.feeds.entry(model.name.clone()).or_insert_with(new).clone())
    }

    /// A model is ready: the first one is recorded, if that was asked for.
    ///
    /// # Errors
    /// `Memory`.
    pub fn ready(&self, model: &Model) -> Result<()> {
        let Some(recording) = self.options.record.clone() else { return Ok(()) };
        let Some(feed) = self.feed(model) else { return Ok(()) };
        let mut state = lock(&self.state);
        if state.recorder.is_none() && !state.closed {
            state.recorder = record::start(&feed, recording, self.options.pace.clone())?;
        }
        Ok(())
    }

    /// Ends all streams; new viewers are refused.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.feeds.values().for_each(|feed| feed.close());
        if let Some(pace) = &self.options.pace {
            pace.stop();
        }
    }

    /// Waits for the threads, after [`Window::close`].
    pub fn join(&self) {
        let (feeds, recorder) = {
            let mut state = lock(&self.state);
            (std::mem::take(&mut state.feeds), state.recorder.take())
        };
        feeds.values().for_each(|feed| feed.join());
        recorder.into_iter().for_each(record::Recorder::join);
    }
}

/// Which model is watched.
#[derive(Deserialize)]
pub(super) struct Asked {
    model: Option<String>,
}

/// `GET /window/events`: what a model's engine does, as it happens.
pub(super) async fn events(
    State(server): State<Arc<Server>>,
    asked: std::result::Result<Query<Asked>, QueryRejection>,
) -> Response {
    let asked = asked.map_err(|e| Refusal::new(Kind::Invalid, e.body_text()));
    match asked.and_then(|Query(asked)| watch(&server, asked.model.as_deref())) {
        Ok(watching) => {
            let quiet = KeepAlive::new().interval(Duration::from_millis(limits::SERVER_KEEP_ALIVE_MS));
            ([(CACHE_CONTROL, "no-store")], Sse::new(Events(watching)).keep_alive(quiet)).into_response()
        }
        Err(refusal) => errors::response(&refusal),
    }
}

fn watch(server: &Server, name: Option<&str>) -> Outcome<Watching> {
    let model = server.models.find(name)?;
    let full = || {
        let most = limits::WINDOW_VIEWERS_MAX;
        Refusal::new(Kind::Full, format!("{most} viewers watch this model already, or the server stops"))
    };
    let feed = server.window.feed(&model).ok_or_else(full)?;
    feed.watch(limits::WINDOW_QUEUE_MESSAGES)?.ok_or_else(full)
}

/// The messages to a viewer.
struct Events(Watching);

impl Stream for Events {
    type Item = std::result::Result<sse::Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = std::task::ready!(self.0.messages.poll_recv(cx));
        Poll::Ready(message.map(|message| {
            let name = if message.snapshot { "snapshot" } else { "delta" };
            Ok(sse::Event::default().event(name).data(message.data))
        }))
    }
}

/// `POST /window/pace`: the steps a second of a demonstration, `rate`; null: as fast as it can.
pub(super) async fn set_pace(State(server): State<Arc<Server>>, request: Request) -> Response {
    let Some(pace) = server.window.options.pace.clone() else {
        let message = "this server has no pace; astrai serve --demo has";
        return errors::response(&Refusal::new(Kind::NotFound, message));
    };
    let rate = body::read(&server, request, |fields, _| fields.take::<f32>("rate")).await;
    match rate.map(|read| read.value) {
        Ok(Some(rate)) if !rate.is_finite() || rate <= 0.0 => {
            errors::response(&Refusal::field("rate", "rate: more than 0 steps a second, or null"))
        }
        Ok(rate) => {
            pace.set_rate(rate);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(refusal) => errors::response(&refusal),
    }
}
