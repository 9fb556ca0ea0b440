//! What all handlers have.

use super::guard::Guard;
use super::metrics::Metrics;
use super::models::Models;
use super::window::Window;
use super::worker::Worker;
use super::{PrepareFn, ReasoningField, ServerLimits};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The server, as its handlers see it.
pub(super) struct State {
    pub models: Arc<Models>,
    /// Does what may take long: compiles constraints, encodes and renders texts.
    pub worker: Worker,
    /// Makes requests of long bodies.
    pub reader: Worker,
    pub limits: ServerLimits,
    /// Bytes of all bodies that are being read.
    pub bodies_bytes: AtomicUsize,
    pub guard: Guard,
    pub metrics: Arc<Metrics>,
    pub window: Arc<Window>,
    pub reasoning: ReasoningField,
    /// Of all requests.
    pub priority: i32,
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
