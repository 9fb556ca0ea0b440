//! The queue and the list as the engine thread sees them: a request's [`Outbox`], and the engine's [`Dispatch`] that
//! knows where each request's events go.

use super::buffer::{Buffer, PerToken, Piece, Produced};
use super::completions::Completions;
use super::queue::{Added, Queue};
use super::ready::{Pushed, Ready};
use super::waker::Waker;
use super::{call_host, lock};
use crate::engine::Sink;
use crate::engine::api::{Event, EventKind, FinishReason, LogLevel, WakeFn};
use crate::error::{Error, Result};
use crate::limits;
use std::collections::TryReserveError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a request's events go to, other than a caller that pulls them.
#[allow(clippy::large_enum_variant, reason = "a box for the event would be an allocation more")]
pub enum Receiver {
    /// Shown each event, in memory that is used again; false stops the request.
    Callback(Box<dyn FnMut(&Event) -> bool + Send>, Event),
    /// Taken with [`crate::engine::Engine::next`]; what is inside is dropped with the terminal event.
    Engine(#[expect(dead_code, reason = "held for the sake of its drop")] Box<dyn Send>),
}

/// The queue of one request.
pub struct Outbox {
    pub id: u64,
    pub tag: u64,
    pub queue: Queue<Buffer, Receiver>,
    pub route: Route,
    /// Tokens the queue holds before the request is to pause.
    limit: usize,
    /// What a token of the request brings, once that is known.
    of: Mutex<PerToken>,
    /// It counts among the requests whose end nobody has read.
    counted: AtomicBool,
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

impl Outbox {
    /// An empty queue of at most `limit` tokens.
    pub fn new(id: u64, tag: u64, limit: usize, sink: Sink) -> Outbox {
        let (route, receiver) = match sink {
            Sink::Pull => (Route::Pull, None),
            Sink::Callback(callback) => (Route::Callback, Some(Receiver::Callback(callback, Event::empty(id, tag)))),
            Sink::Engine(keep) => (Route::Engine, Some(Receiver::Engine(keep))),
        };
        let queue = Queue::new([Buffer::empty(id, tag), Buffer::empty(id, tag)], limit, receiver);
        let (of, counted) = (Mutex::default(), AtomicBool::new(false));
        Outbox { id, tag, queue, route, limit, of, counted }
    }

    /// Makes room for what a request of at most `tokens_max` tokens may hold unread. Engine thread only, before the first
    /// token.
    ///
    /// # Errors
    /// `Memory`.
    pub fn reserve(&self, tokens_max: usize, of: PerToken) -> Result<()> {
        *lock(&self.of) = of;
        let tokens = self.limit.min(tokens_max.saturating_add(1));
        let [pending, spare] = Buffer::pair(self.id, self.tag, tokens, of)?;
        if self.route == Route::Callback {
            let room = Buffer::shown(self.id, self.tag, tokens, of)?;
            self.queue.with_sink(|receiver| {
                if let Receiver::Callback(_, shown) = receiver {
                    *shown = room;
                }
            });
        }
        self.queue.provide(pending, spare);
        Ok(())
    }

    /// Adds a token to the pending event, after which so much was produced; true when the request is to pause. Engine thread
    /// only.
    ///
    /// # Errors
    /// `Memory`.
    pub fn push(self: &Arc<Self>, dispatch: &Dispatch, piece: &Piece, produced: Produced) -> Result<bool> {
        let added = self.queue.push(|buffer| buffer.push(piece, produced))?;
        let full = added.full;
        self.list(dispatch, added);
        Ok(full)
    }

    /// Ends the request, after which so much was produced: `fill` completes the terminal event. Of a request that was muted
    /// before, tokens are missing, so it was cancelled, also when the engine came to its end first. The event's kind; None when
    /// it was there already: later calls do nothing. Engine thread only.
    pub fn finish(
        self: &Arc<Self>,
        dispatch: &Dispatch,
        (kind, finish, error): (EventKind, FinishReason, Option<Error>),
        produced: Produced,
        fill: impl FnOnce(&mut Event),
    ) -> Option<EventKind> {
        let mut ended = None;
        let added = self.queue.finish(|buffer, cut| {
            let event = &mut buffer.event;
            (event.kind, event.finish, event.error) = (kind, finish, error);
            fill(event);
            if let (Some(why), EventKind::Finished | EventKind::Cancelled) = (cut, event.kind) {
                (event.kind, event.finish) = (EventKind::Cancelled, why);
                event.text.clear();
            }
            ended = Some(event.kind);
            // Readers may count on it, also when the request never began to run.
            event.usage.get_or_insert_default();
            event.ends_at(produced);
        });
        self.list(dispatch, added);
        ended
    }

    fn list(self: &Arc<Self>, dispatch: &Dispatch, added: Added) {
        if added.list {
            dispatch.note_ready(self);
        }
    }

    /// An event that was taken from the engine's queue is let go: the next may come.
    pub fn release(self: &Arc<Self>, dispatch: &Dispatch, ticket: u64) {
        // In this order: whoever waits never believes that more is held than is.
        dispatch.completions.release(ticket);
        if self.queue.release() {
            dispatch.note_ready(self);
        }
    }

    /// A bigger buffer for whoever waits for all of it.
    pub fn grown(&self, room: super::buffer::Room) -> Result<Buffer> {
        let of = *lock(&self.of);
        Buffer::grown(self.id, self.tag, room, of)
    }

    /// Drops queued deltas and throws later ones away, unless the request has ended; `why` is what its terminal event says.
    pub fn mute(&self, why: FinishReason) {
        self.queue.mute(why);
    }

    /// Whether the terminal event exists.
    pub fn is_finished(&self) -> bool {
        self.queue.is_finished()
    }

    /// It counts in `unread` from now on, until [`Outbox::leave`].
    pub fn count(&self) {
        self.counted.store(true, Ordering::Relaxed);
    }

    /// Its end was read, or nobody will.
    pub fn leave(&self, unread: &AtomicUsize) {
        if self.counted.swap(false, Ordering::Relaxed) {
            unread.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Nobody will ask the engine for this request's events any more.
    pub fn discard(&self, unread: &AtomicUsize) {
        while let Some(mut taken) = self.queue.take_listed() {
            let last = taken.last;
            let receiver = taken.sink.take();
            call_host(|| drop(receiver));
            self.queue.restore(taken);
            if last {
                self.leave(unread);
                self.queue.end();
                return;
            }
            // Nobody holds what is dropped; what came meanwhile goes the same way.
            if !self.queue.release() {
                return;
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
    pub completions: Completions<Arc<Outbox>>,
    /// Callbacks run in the host's own calls.
    pub poll: bool,
    pub waker: Waker,
    /// Accepted requests whose terminal event nobody has read.
    pub unread: AtomicUsize,
    logs_queued: AtomicUsize,
    logs_dropped: AtomicU64,
}

impl Dispatch {
    /// Empty lists. `wake` is called when the host should poll.
    pub fn new(poll: bool, wake: Option<WakeFn>) -> Dispatch {
        Dispatch {
            callbacks: Ready::new(),
            completions: Completions::new(),
            poll,
            waker: Waker::new(wake),
            unread: AtomicUsize::new(0),
            logs_queued: AtomicUsize::new(0),
            logs_dropped: AtomicU64::new(0),
        }
    }

    /// Makes room in the lists for one more request; with [`Route::Engine`] its events are awaited from now on.
    ///
    /// # Errors
    /// `Memory`.
    pub fn expect(&self, route: Route) -> Result<()> {
        let refused = |_: TryReserveError| Error::memory("the list of events", size_of::<Item>() as u64);
        match route {
            Route::Pull => Ok(()),
            Route::Callback => {
                let most = self.unread.load(Ordering::Relaxed).saturating_add(limits::LOG_LINES_MAX);
                self.callbacks.reserve(most).map_err(refused)
            }
            Route::Engine => self.completions.expect().map_err(refused),
        }
    }

    /// A request that was expected was not accepted.
    pub fn unexpect(&self, route: Route) {
        if route == Route::Engine {
            self.completions.unexpect();
        }
    }

    fn note_ready(&self, outbox: &Arc<Outbox>) {
        if outbox.route == Route::Callback {
            self.note(Item::Request(outbox.clone()));
        } else if let Err(outbox) = self.completions.push(outbox.clone()) {
            outbox.discard(&self.unread);
        }
    }

    fn note(&self, item: Item) {
        if let Pushed::Wake = self.callbacks.push(item) {
            self.waker.wake();
        }
    }

    /// Wakes the host if a turn has ended with items of which it does not know.
    pub fn wake_if_owed(&self) {
        if self.callbacks.owes_wake() {
            self.waker.wake();
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
        self.waker.stop();
    }

    /// Nobody will ask for events any more: drops those that are there, and those that come.
    pub fn discard_completions(&self) {
        let (listed, held) = self.completions.refuse();
        listed.iter().chain(&held).for_each(|outbox| outbox.discard(&self.unread));
    }
}
