//! What all handlers have.

use super::guard::Guard;
use super::metrics::Metrics;
use super::models::Models;
use super::window::Window;
use super::worker::Worker;
use super::{PrepareFn, ReasoningField};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The server, as its handlers see it.
pub(super) struct State {
    pub models: Arc<Models>,
    pub worker: Worker,
    pub guard: Guard,
    pub metrics: Arc<Metrics>,
    pub window: Arc<Window>,
    pub reasoning: ReasoningField,
    pub prepare: Option<PrepareFn>,
    /// When it started, in seconds since 1970.
    pub started: u64,
    /// Answers that have begun.
    pub answers: AtomicU64,
}

impl State {
    /// An id of an answer, which no other answer of this server has.
    pub fn id(&self, prefix: &str) -> String {
        format!("{prefix}{:x}{:08x}", self.started, self.answers.fetch_add(1, Ordering::Relaxed))
    }
}
