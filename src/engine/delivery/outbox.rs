//! The queue and the list as the engine thread sees them: a request's [`Outbox`], and the engine's [`Dispatch`] that
//! knows where each request's events go.

use super::call_host;
use super::queue::{Added, Merged, Queue};
use super::ready::{Pushed, Ready};
use crate::engine::Sink;
use crate::engine::api::{Event, EventKind, FinishReason, LogLevel, WakeFn};
use crate::limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a request's events go to, other than a caller that pulls them.
pub enum Receiver {
    /// Shown each event; false stops the request.
    Callback(Box<dyn FnMut(&Event) -> bool + Send>),
    /// Taken with [`crate::engine::Engine::next`]; what is inside is dropped with the terminal event.
    Engine(#[expect(dead_code, reason = "held for the sake of its drop")] Box<dyn Send>),
}

/// The queue of one request.
pub struct Outbox {
    pub id: u64,
    pub queue: Queue<Event, Receiver>,
    pub route: Route,
}

/// Who reads a request's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Its owner.
    Pull,
    /// Its callback.
    Callback,
    /// Whoever calls [`crate::engine::Engine::next`].
    Engine,
}

impl Merged for Event {
    type Cut = FinishReason;

    fn units(&self) -> usize {
        self.tokens.len()
    }

    fn take(&mut self) -> Event {
        let empty = empty_event(self.request_id, self.tag);
        std::mem::replace(self, empty)
    }
}

fn empty_event(id: u64, tag: u64) -> Event {
    Event {
        kind: EventKind::Delta,
        finish: FinishReason::None,
        request_id: id,
        tag,
        text: String::new(),
        tokens: Vec::new(),
        logprobs: Vec::new(),
        top_count: 0,
        top_tokens: Vec::new(),
        top_logprobs: Vec::new(),
        prompt_logprobs: Vec::new(),
        usage: None,
        error: None,
    }
}

impl Outbox {
    /// An empty queue of at most `limit` tokens.
    pub fn new(id: u64, tag: u64, limit: usize, sink: Sink) -> Outbox {
        let (route, receiver) = match sink {
            Sink::Pull => (Route::Pull, None),
            Sink::Callback(callback) => (Route::Callback, Some(Receiver::Callback(callback))),
            Sink::Engine(keep) => (Route::Engine, Some(Receiver::Engine(keep))),
        };
        Outbox { id, queue: Queue::new(empty_event(id, tag), limit, receiver), route }
    }

    /// Adds to the pending event; true when the request is to pause. Engine thread only.
    pub fn push(self: &Arc<Self>, dispatch: &Dispatch, add: impl FnOnce(&mut Event)) -> bool {
        let added = self.queue.push(add);
        let full = added.full;
        self.list(dispatch, added);
        full
    }

    /// Ends the request: `fill` completes the terminal event. Of a request that was muted before, tokens are missing, so it
    /// was cancelled, also when the engine came to its end first. The event's kind; None when it was there already: later
    /// calls do nothing. Engine thread only.
    pub fn finish(
        self: &Arc<Self>,
        dispatch: &Dispatch,
        kind: EventKind,
        finish: FinishReason,
        fill: impl FnOnce(&mut Event),
    ) -> Option<EventKind> {
        let mut ended = None;
        let added = self.queue.finish(|event, cut| {
            (event.kind, event.finish) = (kind, finish);
            fill(event);
            if let (Some(why), EventKind::Finished | EventKind::Cancelled) = (cut, kind) {
                (event.kind, event.finish) = (EventKind::Cancelled, why);
                event.text.clear();
            }
            ended = Some(event.kind);
            // Readers may count on it, also when the request never began to run.
            event.usage.get_or_insert_default();
        });
        self.list(dispatch, added);
        ended
    }

    fn list(self: &Arc<Self>, dispatch: &Dispatch, added: Added) {
        if added.list {
            dispatch.note_ready(self);
        }
    }

    /// Drops queued deltas and throws later ones away, unless the request has ended; `why` is what its terminal event says.
    pub fn mute(&self, why: FinishReason) {
        self.queue.mute(why);
    }

    /// Whether the terminal event exists.
    pub fn is_finished(&self) -> bool {
        self.queue.is_finished()
    }

    /// Nobody will ask the engine for this request's events any more.
    pub fn discard(&self) {
        while let Some((event, _, receiver)) = self.queue.take_listed() {
            call_host(|| drop(receiver));
            if event.terminal() {
                self.queue.end();
            }
        }
    }
}

/// Something to deliver through host code.
pub enum Item {
    /// A request whose callback has something to see.
    Request(Arc<Outbox>),
    /// A line for the log callback.
    Log(LogLevel, String),
}

/// The lists of an engine, and how its host learns of them.
pub struct Dispatch {
    /// For callbacks: taken by the dispatch thread, or by the host's poll, wait, close and free.
    pub callbacks: Ready<Item>,
    /// Taken one by one with [`crate::engine::Engine::next`].
    pub completions: Ready<Arc<Outbox>>,
    /// Callbacks run in the host's own calls.
    pub poll: bool,
    wake: Option<WakeFn>,
    logs_queued: AtomicUsize,
    logs_dropped: AtomicU64,
}

impl Dispatch {
    /// Empty lists. `wake` is called when the host should poll.
    pub fn new(poll: bool, wake: Option<WakeFn>) -> Dispatch {
        Dispatch {
            callbacks: Ready::new(),
            completions: Ready::new(),
            poll,
            wake,
            logs_queued: AtomicUsize::new(0),
            logs_dropped: AtomicU64::new(0),
        }
    }

    fn note_ready(&self, outbox: &Arc<Outbox>) {
        if outbox.route == Route::Callback {
            self.note(Item::Request(outbox.clone()));
        } else if let Pushed::Refused(outbox) = self.completions.push(outbox.clone()) {
            outbox.discard();
        }
    }

    fn note(&self, item: Item) {
        if let Pushed::Wake = self.callbacks.push(item) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(wake) = &self.wake {
            call_host(|| wake());
        }
    }

    /// Wakes the host if a turn has ended with items of which it does not know. Engine thread only.
    pub fn wake_if_owed(&self) {
        if self.callbacks.owes_wake() {
            self.wake();
        }
    }

    /// Queues a log line, or counts it as dropped.
    pub fn log(&self, level: LogLevel, line: String) {
        let more = |n: usize| (n < limits::LOG_LINES_MAX).then_some(n + 1);
        match self.logs_queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => self.note(Item::Log(level, line)),
            Err(_) => _ = self.logs_dropped.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// A log line left the list.
    pub fn log_taken(&self) {
        self.logs_queued.fetch_sub(1, Ordering::Relaxed);
    }

    /// Log lines dropped so far.
    pub fn logs_dropped(&self) -> u64 {
        self.logs_dropped.load(Ordering::Relaxed)
    }

    /// The engine begins to close.
    pub fn close(&self) {
        self.callbacks.close();
    }

    /// Nothing more will come: who delivers leaves once everything is delivered.
    pub fn stop(&self) {
        self.callbacks.stop();
        self.completions.stop();
    }

    /// Nobody will ask for events any more: drops those that are there, and those that come.
    pub fn discard_completions(&self) {
        self.completions.refuse().iter().for_each(|outbox| outbox.discard());
    }
}
