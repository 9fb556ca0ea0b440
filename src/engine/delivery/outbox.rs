//! The interface of delivery for the engine thread: a request's [`Outbox`], and the engine's [`Dispatch`], which knows
//! where each request's events go.

use super::buffer::{Buffer, PerToken, Piece, Produced};
use super::completions::Completions;
use super::queue::{Added, Queue};
use super::ready::{Pushed, Ready};
use super::sync::lock;
use super::waker::Waker;
use crate::engine::answer::AnswerReader;
use crate::engine::api::{LogLevel, WakeFn};
use crate::engine::callback::call_host;
use crate::engine::event::{Event, EventKind, FinishReason, PromptCounts};
use crate::engine::hold::Held;
use crate::engine::sink::Sink;
use crate::error::{Error, Result};
use crate::limits;
use std::collections::TryReserveError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// Where a request's events go, unless the caller pulls them.
#[allow(clippy::large_enum_variant, reason = "a box for the event would be an allocation more")]
pub enum Receiver {
    /// The callback, and an event that is reused for each call. The callback returns false to stop the request.
    Callback(Box<dyn FnMut(&Event) -> bool + Send>, Event),
    /// Events are taken with [`crate::engine::Engine::next`]; the content is dropped with the terminal event.
    Engine(#[expect(dead_code, reason = "held for the sake of its drop")] Box<dyn Send>),
}

/// Requests with an event that any thread may take.
pub type Events = Completions<Arc<Outbox>>;

/// The event queue of one request.
pub struct Outbox {
    /// The lists of its engine.
    pub dispatch: Arc<Dispatch>,
    /// Where it is listed with [`Route::Engine`].
    events: Arc<Events>,
    pub id: u64,
    pub tag: u64,
    pub queue: Queue<Buffer, Receiver>,
    pub route: Route,
    /// Number of unread tokens at which the request is to pause.
    limit: usize,
    /// What one token of the request adds to an event; set by [`Outbox::reserve`].
    of: Mutex<PerToken>,
    /// Reads the answer to a chat into parts; set before the first token. Locked by the one that has an event of the request.
    answer: Mutex<Option<Box<AnswerReader>>>,
    /// The request is counted in [`Dispatch::unread`].
    counted: AtomicBool,
    /// Tokens of the prompt in the upper half, those of them that were cached in the lower; 0 before the first step.
    prompt_counts: AtomicU64,
}

/// Where a request's events go; with [`Sink::Engine`] to this list.
pub struct Destination {
    pub sink: Sink,
    pub events: Arc<Events>,
}

/// How a request's events are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Through its handle.
    Pull,
    /// By its callback.
    Callback,
    /// By any call of [`crate::engine::Engine::next`], or that of a queue apart.
    Engine,
}

impl Outbox {
    /// An empty queue that is full at `limit` tokens.
    pub fn new(
        id: u64,
        tag: u64,
        limit: usize,
        Destination { sink, events }: Destination,
        dispatch: Arc<Dispatch>,
    ) -> Outbox {
        let (route, receiver) = match sink {
            Sink::Pull => (Route::Pull, None),
            Sink::Callback(callback) => (Route::Callback, Some(Receiver::Callback(callback, Event::empty(id, tag)))),
            Sink::Engine(keep) => (Route::Engine, Some(Receiver::Engine(keep))),
        };
        let queue = Queue::new([Buffer::empty(id, tag), Buffer::empty(id, tag)], limit, receiver);
        let (of, counted, prompt_counts) = (Mutex::default(), AtomicBool::new(false), AtomicU64::new(0));
        Outbox { dispatch, events, id, tag, queue, route, limit, of, answer: Mutex::default(), counted, prompt_counts }
    }

    /// Notes the counts of the prompt. Engine thread only.
    pub fn admit(&self, prompt_tokens: usize, cached_tokens: usize) {
        self.prompt_counts.store((prompt_tokens as u64) << 32 | cached_tokens as u64, Ordering::Release);
    }

    /// The counts of the prompt, once the request has had its first step.
    pub fn prompt_counts(&self) -> Option<PromptCounts> {
        let counts = self.prompt_counts.load(Ordering::Acquire);
        let (prompt_tokens, cached_tokens) = ((counts >> 32) as u32, counts as u32);
        (prompt_tokens > 0).then_some(PromptCounts { prompt_tokens, cached_tokens })
    }

    /// Sets the reader of the answer.
    pub fn read_with(&self, reader: Option<Box<AnswerReader>>) {
        *lock(&self.answer) = reader;
    }

    /// What the reader of the answer says; `None` without one.
    pub fn answer<R>(&self, look: impl FnOnce(&AnswerReader) -> R) -> Option<R> {
        lock(&self.answer).as_deref().map(look)
    }

    /// Copies what was taken from the queue to `shown`, as the request's reader gets it.
    ///
    /// # Errors
    /// `Memory`; nothing is lost.
    pub fn show(&self, taken: &mut Event, shown: &mut Event) -> Result<()> {
        let mut answer = lock(&self.answer);
        if let Some(answer) = &mut *answer {
            answer.prepare(taken)?;
        }
        shown.read(taken)?;
        if let Some(answer) = &mut *answer {
            answer.give(shown);
            shown.terminate()?;
        }
        Ok(())
    }

    /// Makes what was taken from the queue what the reader gets, for want of memory for a copy.
    pub fn show_within(&self, taken: &mut Event) {
        if let Some(answer) = &mut *lock(&self.answer) {
            match answer.prepare(taken) {
                Ok(()) => answer.give_within(taken),
                Err(_) => taken.text.clear(),
            }
        }
        // The buffer has room for the NUL; if it had none, a C callback would stop the request.
        let _ = taken.terminate();
    }

    /// Allocates the queue's buffers for a request of at most `tokens_max` tokens. Engine thread only, before the first
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

    /// Appends a token to the pending event; `produced` includes it. True when the queue is full and the request is to
    /// pause. Engine thread only.
    ///
    /// # Errors
    /// `Memory`.
    pub fn push(self: &Arc<Self>, piece: &Piece, produced: Produced) -> Result<bool> {
        let added = self.queue.push(|buffer| buffer.push(piece, produced))?;
        let full = added.full;
        self.list(added);
        Ok(full)
    }

    /// Ends the request: `fill` completes the terminal event, and `produced` is its total output. A request that was
    /// muted before has lost tokens, so it ends as cancelled even if the engine reached its end first. Returns the
    /// event's kind, or None if the request has already ended; then nothing changes. Engine thread only.
    pub fn finish(
        self: &Arc<Self>,
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
                event.embedding.clear();
            }
            ended = Some(event.kind);
            // Every terminal event has a usage, also if the request never ran.
            event.usage.get_or_insert_default();
            event.ends_at(produced);
        });
        self.list(added);
        ended
    }

    /// Ends a request that produced nothing with an error, as [`Outbox::finish`] does.
    pub fn fail(self: &Arc<Self>, error: Error) -> Option<EventKind> {
        self.finish((EventKind::Failed, FinishReason::Error, Some(error)), Produced::default(), |_| {})
    }

    fn list(self: &Arc<Self>, added: Added) {
        if added.list {
            self.note_ready();
        }
    }

    fn note_ready(self: &Arc<Self>) {
        if self.route == Route::Callback {
            self.dispatch.note(Item::Request(self.clone()));
        } else if let Err(outbox) = self.events.push(self.clone()) {
            outbox.discard();
        }
    }

    /// Reserves memory in the lists for one more request; with [`Route::Engine`] it counts as live from now on.
    ///
    /// # Errors
    /// `Memory`.
    pub fn expect(&self) -> Result<()> {
        let refused = |_: TryReserveError| Error::memory("the list of events", size_of::<Item>() as u64);
        match self.route {
            Route::Pull => Ok(()),
            Route::Callback => {
                let most = self.dispatch.unread.load(Ordering::Relaxed).saturating_add(limits::LOG_LINES_MAX);
                self.dispatch.callbacks.reserve(most).map_err(refused)
            }
            Route::Engine => self.events.expect().map_err(refused),
        }
    }

    /// Its last event was taken with this ticket.
    pub fn ended(&self, ticket: u64) {
        self.events.ended(ticket);
    }

    /// A bigger buffer, for a reader that waits for the whole output.
    pub fn grown(&self, room: super::buffer::Capacity) -> Result<Buffer> {
        let of = *lock(&self.of);
        Buffer::grown(self.id, self.tag, room, of)
    }

    /// Drops queued deltas and discards later ones, unless the request has ended; `why` becomes the finish reason of
    /// its terminal event.
    pub fn mute(&self, why: FinishReason) {
        self.queue.mute(why);
    }

    /// Whether the terminal event was queued.
    pub fn is_finished(&self) -> bool {
        self.queue.is_finished()
    }

    /// Marks the request as counted in [`Dispatch::unread`], until [`Outbox::leave`].
    pub fn count(&self) {
        self.counted.store(true, Ordering::Relaxed);
    }

    /// Removes the request from [`Dispatch::unread`]: its terminal event was read, or will never be.
    pub fn leave(&self) {
        if self.counted.swap(false, Ordering::Relaxed) {
            self.dispatch.unread.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The request could not be submitted: nothing of it is expected any more.
    pub fn withdraw(&self) {
        self.leave();
        if self.route == Route::Engine {
            self.events.unexpect();
        }
    }

    /// Drops the events of this request, because [`crate::engine::Engine::next`] will not be called any more.
    fn discard(&self) {
        while let Some(mut taken) = self.queue.take_listed() {
            let last = taken.last;
            let receiver = taken.sink.take();
            call_host(|| drop(receiver));
            self.queue.restore(taken);
            if last {
                self.leave();
                self.queue.end();
                return;
            }
            // A dropped event holds nothing; output that arrived meanwhile is dropped in the next round.
            if !self.queue.release() {
                return;
            }
        }
    }
}

impl Held for Outbox {
    fn release(self: Arc<Self>, ticket: u64) {
        // In this order, so that no waiter sees more requests held than are.
        self.events.release(ticket);
        if self.queue.release() {
            self.note_ready();
        }
    }
}

/// Nobody will take events of this list any more: drops those that are queued, and those that still come.
pub fn discard(events: &Events) {
    let (listed, held) = events.refuse();
    listed.iter().chain(&held).for_each(|outbox| outbox.discard());
}

/// An item that is delivered through host code.
pub enum Item {
    /// A request with an event for its callback.
    Request(Arc<Outbox>),
    /// A line for the log callback.
    Log(LogLevel, String),
}

/// Lists apart, and whether the engine thread has ended.
#[derive(Default)]
struct ListsApart {
    lists: Vec<Weak<Events>>,
    stopped: bool,
}

/// The lists of an engine, and the waker of its host.
pub struct Dispatch {
    /// Items for callbacks: taken by the dispatch thread, or by the host's poll, wait, close and free.
    pub callbacks: Ready<Item>,
    /// Requests with an event for [`crate::engine::Engine::next`].
    pub completions: Arc<Events>,
    /// Lists apart, for [`crate::engine::EventQueue::next`].
    apart: Mutex<ListsApart>,
    /// Callbacks run in the host's own calls; there is no dispatch thread.
    pub poll: bool,
    pub waker: Waker,
    /// Number of accepted requests whose terminal event was not read.
    pub unread: AtomicUsize,
    logs_queued: AtomicUsize,
    logs_dropped: AtomicU64,
}

impl Dispatch {
    /// Empty lists. `wake` is called when the host should poll.
    pub fn new(poll: bool, wake: Option<WakeFn>) -> Dispatch {
        Dispatch {
            callbacks: Ready::new(),
            completions: Arc::default(),
            apart: Mutex::default(),
            poll,
            waker: Waker::new(wake),
            unread: AtomicUsize::new(0),
            logs_queued: AtomicUsize::new(0),
            logs_dropped: AtomicU64::new(0),
        }
    }

    fn note(&self, item: Item) {
        if let Pushed::Wake = self.callbacks.push(item) {
            self.waker.wake();
        }
    }

    /// Wakes the host if a turn has ended and left items that the host does not know of.
    pub fn wake_if_owed(&self) {
        if self.callbacks.owes_wake() {
            self.waker.wake();
        }
    }

    /// Queues a log line, or counts it as dropped when too many are queued.
    pub fn log(&self, level: LogLevel, line: String) {
        let more = |n: usize| (n < limits::LOG_LINES_MAX).then_some(n + 1);
        match self.logs_queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => self.note(Item::Log(level, line)),
            Err(_) => _ = self.logs_dropped.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Counts a log line that was taken from the list.
    pub fn log_taken(&self) {
        self.logs_queued.fetch_sub(1, Ordering::Relaxed);
    }

    /// Number of log lines dropped so far.
    pub fn logs_dropped(&self) -> u64 {
        self.logs_dropped.load(Ordering::Relaxed)
    }

    /// The engine begins to close: polls end, and the host is not woken any more.
    pub fn close(&self) {
        self.callbacks.close();
    }

    /// The engine thread has ended, so nothing more will be queued: consumers return once everything is delivered.
    pub fn stop(&self) {
        self.callbacks.stop();
        self.completions.stop();
        let mut apart = lock(&self.apart);
        apart.stopped = true;
        apart.lists.iter().filter_map(Weak::upgrade).for_each(|events| events.stop());
        drop(apart);
        self.waker.stop();
    }

    /// A list apart from that of [`crate::engine::Engine::next`].
    ///
    /// # Errors
    /// `Memory`.
    pub fn list_apart(&self) -> Result<Arc<Events>> {
        let mut apart = lock(&self.apart);
        apart.lists.retain(|events| events.strong_count() > 0);
        apart.lists.try_reserve(1).map_err(|_| Error::memory("a list of events", size_of::<Events>() as u64))?;
        let events = Arc::new(Events::new());
        if apart.stopped {
            events.stop();
        }
        apart.lists.push(Arc::downgrade(&events));
        Ok(events)
    }
}
