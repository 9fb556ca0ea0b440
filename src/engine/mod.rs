//! The engine: owns the threads, and is the only room where scheduler and model meet.

pub mod api;

pub use api::*;

use crate::error::{Error, Result};
use std::path::Path;
use std::time::Duration;

/// Where a request's events go.
pub enum Sink {
    /// The caller pulls them with [`Request::next`] or [`Request::wait`].
    Pull,
    /// A dispatch thread calls this; `false` stops the request. Dropped exactly once: after the terminal event was
    /// handed over, or before a failing submit returns.
    Callback(Box<dyn FnMut(&Event) -> bool + Send>),
}

/// Outcome of a wait.
#[derive(Debug)]
pub enum Next {
    /// Everything pending, merged into one event.
    Event(Box<Event>),
    /// The time ran out.
    Timeout,
    /// The terminal event was already taken (callback requests: the request has ended and its sink was dropped).
    End,
}

/// An open model with its scheduler. Dropping it closes it.
pub struct Engine {}

impl Engine {
    /// Opens the model folder `dir`; blocks until the engine can take requests.
    pub fn open(_dir: &Path, _options: EngineOptions) -> Result<Engine> {
        Err(Error::internal("stub"))
    }
    /// Ends all requests after at most `grace`, delivers their terminal events, joins all threads. A second call
    /// is an error with status `Closed`; inside a callback it is `Reentrant`.
    pub fn close(&self, _grace: Duration) -> Result<()> {
        Err(Error::internal("stub"))
    }
    /// Facts about the engine; also after close.
    pub fn info(&self) -> &Info {
        loop {}
    }
    /// A snapshot of the counters. Lock-free.
    pub fn stats(&self) -> Result<Stats> {
        Err(Error::internal("stub"))
    }
    /// Proves law 3 between two steps. Blocks.
    pub fn check(&self) -> Result<()> {
        Err(Error::internal("stub"))
    }
    /// The text the chat template makes of the prompt's messages (or the raw text parts joined).
    pub fn render(&self, _prompt: &Prompt, _options: TextOptions) -> Result<String> {
        Err(Error::internal("stub"))
    }
    /// The token ids of a prompt, as `submit` would use them.
    pub fn tokenize(&self, _prompt: &Prompt, _options: TextOptions) -> Result<Vec<u32>> {
        Err(Error::internal("stub"))
    }
    /// The text of token ids.
    pub fn detokenize(&self, _tokens: &[u32], _options: TextOptions) -> Result<String> {
        Err(Error::internal("stub"))
    }
    /// Submits a prompt. Never waits for a step.
    pub fn submit(&self, _prompt: &Prompt, _options: &RequestOptions, _sink: Sink) -> Result<Request> {
        Err(Error::internal("stub"))
    }
    /// Cancels every request.
    pub fn cancel_all(&self) -> Result<()> {
        Err(Error::internal("stub"))
    }
    /// Changes the verbosity of the log callback.
    pub fn set_log_level(&self, _level: LogLevel) -> Result<()> {
        Err(Error::internal("stub"))
    }
    /// Test hook: the engine thread panics at its next step.
    #[doc(hidden)]
    pub fn inject_panic(&self) {}
}

/// A submitted request. Dropping it cancels it, unless it has finished or was detached.
pub struct Request {}

impl Request {
    /// Nonzero, never reused within the process.
    pub fn id(&self) -> u64 {
        0
    }
    /// Waits for something to read and takes all of it. `None` waits forever, zero polls. Pull requests only.
    pub fn next(&self, _timeout: Option<Duration>) -> Result<Next> {
        Err(Error::internal("stub"))
    }
    /// Waits for the end. Pull: everything not yet taken as one terminal event. Callback: `End` after the sink was
    /// dropped.
    pub fn wait(&self, _timeout: Option<Duration>) -> Result<Next> {
        Err(Error::internal("stub"))
    }
    /// Asks the engine to stop the request. Idempotent; fine when it has finished. After it returns queued deltas
    /// are dropped.
    pub fn cancel(&self) {}
    /// Lets the request run on without its handle.
    pub fn detach(self) {}
}
