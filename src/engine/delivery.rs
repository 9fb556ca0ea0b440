//! From the engine thread to whoever asked: one bounded queue per request, and the list of callback requests that have
//! something to deliver.
//!
//! A queue holds one event: everything that has not been read, merged. It is full when it holds `limit` tokens; the engine
//! then pauses that request alone, and reading it resumes it. Invariant: a request gets exactly one terminal event
//! ([`Outbox::finish`] takes effect once), and after it nothing is added.

use super::api::{Event, EventKind, FinishReason, LogLevel};
use super::{Next, Sink};
use crate::error::{Error, Result, Status};
use crate::limits;
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Locks a mutex whose data stays consistent even if a holder panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Waits until `deadline`, or forever; false when the time is over.
pub(super) fn wait_until<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> (MutexGuard<'a, T>, bool) {
    match deadline {
        None => (condvar.wait(guard).unwrap_or_else(|e| e.into_inner()), true),
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (guard, false);
            }
            let (guard, _) = condvar.wait_timeout(guard, left).unwrap_or_else(|e| e.into_inner());
            (guard, true)
        }
    }
}

thread_local! {
    /// Callbacks of any engine running on this thread. A plain number: no destructor, so it does not pin the library.
    static CALLBACKS: Cell<u32> = const { Cell::new(0) };
}

/// Whether the calling thread is inside a callback of some engine.
pub fn in_callback() -> bool {
    CALLBACKS.get() > 0
}

/// Marks this thread as inside a callback while it lives.
pub struct CallbackScope(());

impl CallbackScope {
    /// Enters.
    #[allow(clippy::new_without_default, reason = "entering is an act, not a value")]
    pub fn new() -> CallbackScope {
        CALLBACKS.set(CALLBACKS.get() + 1);
        CallbackScope(())
    }
}

impl Drop for CallbackScope {
    fn drop(&mut self) {
        CALLBACKS.set(CALLBACKS.get() - 1);
    }
}

type Callback = Box<dyn FnMut(&Event) -> bool + Send>;

/// What happened to the queue by reading it.
pub(super) enum Taken {
    /// Nothing to read yet.
    Empty,
    /// An event; the flag says that the request had been paused and should go on.
    Event(Box<Event>, bool),
    /// The terminal event was read before.
    End,
}

struct Queue {
    pending: Event,
    /// The terminal event is in `pending` or was read.
    terminal: bool,
    /// The terminal event was read (pull), or its callback returned and the sink was dropped.
    ended: bool,
    /// Deltas are thrown away: the request was cancelled.
    muted: bool,
    /// The engine was told that the queue is full.
    full: bool,
    /// Waits on a pull request: they read everything, so the limit does not apply.
    waiters: u32,
    /// In the dispatcher's list.
    listed: bool,
    callback: Option<Callback>,
}

/// The queue of one request.
pub(super) struct Outbox {
    pub id: u64,
    tag: u64,
    limit: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
    pull: bool,
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
    pub fn new(id: u64, tag: u64, limit: usize, sink: Sink) -> Outbox {
        let (pull, callback) = match sink {
            Sink::Pull => (true, None),
            Sink::Callback(callback) => (false, Some(callback)),
        };
        let queue = Queue {
            pending: empty_event(id, tag),
            terminal: false,
            ended: false,
            muted: false,
            full: false,
            waiters: 0,
            listed: false,
            callback,
        };
        Outbox { id, tag, limit, queue: Mutex::new(queue), changed: Condvar::new(), pull }
    }

    /// Adds to the pending event; true when the queue is full from now on. Engine thread only.
    pub fn push(&self, dispatch: &Dispatch, add: impl FnOnce(&mut Event)) -> bool {
        self.added(dispatch, |queue| {
            if !queue.muted {
                add(&mut queue.pending);
            }
        })
    }

    /// Ends the request: `fill` completes the terminal event. Later calls do nothing.
    pub fn finish(&self, dispatch: &Dispatch, kind: EventKind, finish: FinishReason, fill: impl FnOnce(&mut Event)) {
        self.added(dispatch, |queue| {
            if queue.terminal {
                return;
            }
            queue.terminal = true;
            queue.pending.kind = kind;
            queue.pending.finish = finish;
            fill(&mut queue.pending);
        });
    }

    fn added(&self, dispatch: &Dispatch, change: impl FnOnce(&mut Queue)) -> bool {
        let mut queue = lock(&self.queue);
        let before = queue.terminal;
        if before {
            return false;
        }
        change(&mut queue);
        let full = !queue.terminal && queue.waiters == 0 && queue.pending.tokens.len() >= self.limit;
        queue.full |= full;
        let list = !self.pull && !queue.listed && (queue.terminal || !queue.pending.tokens.is_empty());
        queue.listed |= list;
        drop(queue);
        self.changed.notify_all();
        // The caller keeps the Outbox in an Arc; it is listed by the engine, which has that Arc.
        if list {
            dispatch.note_ready(self.id);
        }
        full
    }

    fn take(&self, queue: &mut Queue) -> Taken {
        if queue.ended {
            return Taken::End;
        }
        if !queue.terminal && queue.pending.tokens.is_empty() {
            return Taken::Empty;
        }
        let event = std::mem::replace(&mut queue.pending, empty_event(self.id, self.tag));
        let resume = std::mem::take(&mut queue.full) && !queue.terminal;
        Taken::Event(Box::new(event), resume)
    }

    /// [`super::Request::next`] for pull requests; the flag says that the request should be resumed.
    pub fn next(&self, timeout: Option<Duration>) -> Result<(Next, bool)> {
        if !self.pull {
            return Err(Error::argument("the request delivers through its callback; next() is for pull requests"));
        }
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut queue = lock(&self.queue);
        loop {
            match self.take(&mut queue) {
                Taken::End => return Ok((Next::End, false)),
                Taken::Event(event, resume) => {
                    queue.ended = event.terminal();
                    return Ok((Next::Event(event), resume));
                }
                Taken::Empty => {
                    let (again, in_time) = wait_until(&self.changed, queue, deadline);
                    queue = again;
                    if !in_time {
                        return Ok((Next::Timeout, false));
                    }
                }
            }
        }
    }

    /// [`super::Request::wait`]. `resume` is called without the lock when the lifted limit lets a paused request go on.
    pub fn wait(&self, timeout: Option<Duration>, resume: impl Fn()) -> Next {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut queue = lock(&self.queue);
        queue.waiters += u32::from(self.pull);
        if self.pull && std::mem::take(&mut queue.full) {
            drop(queue);
            resume();
            queue = lock(&self.queue);
        }
        let outcome = loop {
            if queue.ended {
                break Next::End;
            }
            if self.pull && queue.terminal {
                let Taken::Event(event, _) = self.take(&mut queue) else { break Next::End };
                queue.ended = true;
                break Next::Event(event);
            }
            let (again, in_time) = wait_until(&self.changed, queue, deadline);
            queue = again;
            if !in_time {
                break Next::Timeout;
            }
        };
        queue.waiters -= u32::from(self.pull);
        outcome
    }

    /// Drops queued deltas and throws later ones away, unless the request has ended.
    pub fn mute(&self) {
        let mut queue = lock(&self.queue);
        if !queue.terminal {
            queue.muted = true;
            queue.pending = empty_event(self.id, self.tag);
        }
    }

    /// Whether the terminal event exists.
    pub fn is_finished(&self) -> bool {
        lock(&self.queue).terminal
    }

    /// Runs the callback on what is pending. Dispatch thread only, without any lock.
    pub fn dispatch(&self) -> Dispatched {
        let mut queue = lock(&self.queue);
        queue.listed = false;
        let Taken::Event(event, resume) = self.take(&mut queue) else { return Dispatched::Nothing };
        let Some(mut callback) = queue.callback.take() else { return Dispatched::Nothing };
        let unwanted = queue.muted && !event.terminal();
        drop(queue);
        let go_on = {
            let _scope = CallbackScope::new();
            let call = std::panic::AssertUnwindSafe(|| unwanted || callback(&event));
            // A panic in a Rust callback counts as "stop"; it must not take the dispatch thread with it.
            std::panic::catch_unwind(call).unwrap_or(false)
        };
        if event.terminal() {
            {
                let _scope = CallbackScope::new();
                drop(callback);
            }
            lock(&self.queue).ended = true;
            self.changed.notify_all();
            return Dispatched::Ended;
        }
        lock(&self.queue).callback = Some(callback);
        match (go_on, resume) {
            (false, _) => Dispatched::Stop,
            (true, true) => Dispatched::Resume,
            (true, false) => Dispatched::Nothing,
        }
    }
}

/// What the dispatch thread must tell the engine after a callback.
pub(super) enum Dispatched {
    Nothing,
    /// The request had been paused.
    Resume,
    /// The callback asked to stop.
    Stop,
    /// The terminal event was delivered and the sink dropped.
    Ended,
}

/// What the dispatch thread is woken for.
pub(super) enum Work {
    Log(LogLevel, String),
    Ready(Arc<Outbox>),
    /// Everything was delivered and nothing more will come.
    Stop,
}

#[derive(Default)]
struct Inbox {
    ready: VecDeque<u64>,
    deliveries: std::collections::HashMap<u64, Arc<Outbox>>,
    logs: VecDeque<(LogLevel, String)>,
    logs_dropped: u64,
    stop: bool,
}

/// The list of callback requests with something to deliver, and of log lines.
#[derive(Default)]
pub(super) struct Dispatch {
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

impl Dispatch {
    /// Makes a callback request known; it is forgotten when it has ended.
    pub fn register(&self, delivery: &Arc<Outbox>) {
        if !delivery.pull {
            lock(&self.inbox).deliveries.insert(delivery.id, delivery.clone());
        }
    }

    /// Forgets a request whose submit failed, or that has ended.
    pub fn forget(&self, id: u64) {
        lock(&self.inbox).deliveries.remove(&id);
    }

    fn note_ready(&self, id: u64) {
        lock(&self.inbox).ready.push_back(id);
        self.changed.notify_one();
    }

    /// Queues a log line, or counts it as dropped.
    pub fn log(&self, level: LogLevel, line: String) {
        let mut inbox = lock(&self.inbox);
        if inbox.logs.len() >= limits::LOG_LINES_MAX {
            inbox.logs_dropped += 1;
            return;
        }
        inbox.logs.push_back((level, line));
        drop(inbox);
        self.changed.notify_one();
    }

    /// Log lines dropped so far.
    pub fn logs_dropped(&self) -> u64 {
        lock(&self.inbox).logs_dropped
    }

    /// Lets the dispatch thread end once it has delivered everything.
    pub fn stop(&self) {
        lock(&self.inbox).stop = true;
        self.changed.notify_all();
    }

    /// The next thing to do; blocks.
    pub fn work(&self) -> Work {
        let mut inbox = lock(&self.inbox);
        loop {
            if let Some((level, line)) = inbox.logs.pop_front() {
                return Work::Log(level, line);
            }
            while let Some(id) = inbox.ready.pop_front() {
                if let Some(delivery) = inbox.deliveries.get(&id) {
                    return Work::Ready(delivery.clone());
                }
            }
            if inbox.stop {
                return Work::Stop;
            }
            inbox = self.changed.wait(inbox).unwrap_or_else(|e| e.into_inner());
        }
    }
}

/// The error of a request that the engine gave up on.
pub(super) fn closed() -> Error {
    Error::new(Status::Closed, "the engine is closed")
}
