//! From the engine thread to viewers: of each model that is watched, a thread of its own writes what its steps leave behind, once for
//! all viewers.
//!
//! The engine thread only leaves a copy of its record, in place of one that was not taken; it waits for nobody. A viewer has a queue
//! of [`limits::WINDOW_QUEUE_MESSAGES`] messages. One that is full gets nothing until there is room, and then a snapshot.
//!
//! The trace is set with the first viewer and taken away with the last.

use super::pace::Pace;
use super::picture::{About, Picture};
use super::text::Texts;
use crate::engine::{DetailOptions, StepTrace, Trace, TraceEvent};
use crate::error::Result;
use crate::limits;
use crate::os::thread::{self, JoinHandle, ThreadOptions};
use crate::server::EngineRef;
use crate::server::models::{Model, lock};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

/// A message to a viewer.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// Everything, else what has changed.
    pub snapshot: bool,
    /// JSON.
    pub data: Arc<str>,
}

struct Viewer {
    number: u64,
    to: Sender<Message>,
    /// It has missed something, or has nothing yet: the next message is a snapshot.
    behind: bool,
}

/// A record with its time, and what happened since the one that was taken last.
struct Record {
    step: StepTrace,
    t: Duration,
    events: Vec<TraceEvent>,
    /// Some of what happened is not in `events`.
    lost: bool,
}

#[derive(Default)]
struct State {
    viewers: Vec<Viewer>,
    numbers: u64,
    /// The thread has not ended.
    running: bool,
    thread: Option<JoinHandle>,
    /// Number of the trace that is set: an older one may call once more.
    trace: u64,
    /// The newest record that the thread has not taken.
    record: Option<Record>,
    closed: bool,
}

/// What the engine thread, the thread of the window and the handlers share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The window of a model.
pub(super) struct Feed {
    engine: EngineRef,
    about: About,
    pace: Option<Arc<Pace>>,
    shared: Arc<Shared>,
}

/// A viewer's end. Dropping it leaves.
pub(super) struct Watching {
    feed: Arc<Feed>,
    number: u64,
    pub messages: Receiver<Message>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.feed.shared.lock().viewers.retain(|viewer| viewer.number != self.number);
        self.feed.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Leaves a record of the trace of this number; on the engine thread.
    fn put(&self, step: &StepTrace, t: Duration, trace: u64) {
        let Some(detail) = &step.detail else { return };
        let mut state = self.lock();
        if state.trace != trace {
            return;
        }
        let (mut events, mut lost) = state.record.take().map_or((Vec::new(), false), |old| (old.events, old.lost));
        lost |= detail.events_lost > 0 || events.len() + detail.events.len() > limits::TRACE_EVENTS_MAX;
        if !lost {
            events.extend_from_slice(&detail.events);
        }
        state.record = Some(Record { step: step.clone(), t, events, lost });
        drop(state);
        self.changed.notify_all();
    }
}

impl Feed {
    pub fn new(model: &Model, with_text: bool, pace: Option<Arc<Pace>>) -> Feed {
        let about = About { model: model.name.clone(), page_tokens: model.engine.info().page_tokens, with_text };
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        Feed { engine: model.engine.clone(), about, pace, shared }
    }

    /// A new viewer, with a queue of so many messages; `None` when there are too many, or no more are wanted.
    ///
    /// # Errors
    /// `Memory` when there is no thread to be had; `Closed`.
    pub fn watch(self: &Arc<Self>, queue: usize) -> Result<Option<Watching>> {
        let mut state = self.shared.lock();
        if state.closed || state.viewers.len() >= limits::WINDOW_VIEWERS_MAX {
            return Ok(None);
        }
        if !state.running {
            // It has nothing more to do than to end.
            state.thread.take().into_iter().for_each(JoinHandle::join);
            state.trace += 1;
            state.record = None;
            self.set_trace(state.trace)?;
            let feed = self.clone();
            state.thread = Some(thread::spawn("window", ThreadOptions::default(), move || feed.run())?);
            state.running = true;
        }
        state.numbers += 1;
        let (number, (to, messages)) = (state.numbers, channel(queue));
        state.viewers.push(Viewer { number, to, behind: true });
        drop(state);
        self.shared.changed.notify_all();
        Ok(Some(Watching { feed: self.clone(), number, messages }))
    }

    /// The engine tells of its steps from now on; `trace` is the number of this trace.
    fn set_trace(&self, trace: u64) -> Result<()> {
        let (shared, pace, begin) = (self.shared.clone(), self.pace.clone(), Instant::now());
        if let Some(pace) = &pace {
            pace.set_watched(true);
        }
        let call = move |step: &StepTrace| {
            shared.put(step, begin.elapsed(), trace);
            if let Some(pace) = &pace {
                pace.step(!step.rows.is_empty());
            }
        };
        let detail =
            DetailOptions { every: Duration::from_millis(limits::WINDOW_EVERY_MS), tokens: self.about.with_text };
        self.engine.set_trace(Some(Trace { detail: Some(detail), ..Trace::new(Box::new(call)) }))
    }

    /// The thread: writes until nobody watches.
    fn run(&self) {
        let mut texts = self.about.with_text.then(Texts::default);
        let mut known: Option<Picture> = None;
        while let Some(record) = self.wait() {
            let begin = Instant::now();
            let mut delta = None;
            if let Some(record) = record {
                let pace = self.pace.as_ref().map(|pace| pace.rate());
                let now = Picture::new(&record.step, record.t.as_millis() as u64, pace);
                let news = texts.as_mut().map(|texts| texts.update(&record.step, &self.engine));
                if let Some(before) = known.as_ref().filter(|_| !record.lost) {
                    let data = now.delta(before, &record.events, news).into();
                    delta = Some(Message { snapshot: false, data });
                } else {
                    self.shared.lock().viewers.iter_mut().for_each(|viewer| viewer.behind = true);
                }
                known = Some(now);
            }
            if let Some(known) = &known {
                self.send(delta, || known.snapshot(&self.about, texts.as_ref()).into());
            }
            // With very many pages it takes no more than a part of a processor.
            let rest = (begin.elapsed() * 4).max(Duration::from_millis(limits::WINDOW_EVERY_MS));
            self.rest_until(begin + rest);
        }
    }

    /// Waits for a record, or for a viewer who has none, and returns the record; `None` when nobody watches any more.
    fn wait(&self) -> Option<Option<Record>> {
        let mut state = self.shared.lock();
        loop {
            if state.closed || state.viewers.is_empty() {
                state.running = false;
                state.viewers.clear();
                state.record = None;
                // An engine that is closed has no trace either.
                let _ = self.engine.set_trace(None);
                if let Some(pace) = &self.pace {
                    pace.set_watched(false);
                }
                return None;
            }
            if let Some(record) = state.record.take() {
                return Some(Some(record));
            }
            let behind = |viewer: &Viewer| viewer.behind && viewer.to.capacity() > 0;
            if state.viewers.iter().any(behind) {
                return Some(None);
            }
            // Room in a queue is not signalled.
            let patience = Duration::from_millis(limits::WINDOW_ROOM_MS);
            let full = state.viewers.iter().any(|viewer| viewer.behind);
            state = match full {
                true => self.shared.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0,
                false => self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Waits until then, unless the last viewer leaves.
    fn rest_until(&self, then: Instant) {
        let mut state = self.shared.lock();
        loop {
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed || state.viewers.is_empty() {
                return;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Gives viewers what has changed; those who are behind get everything.
    fn send(&self, delta: Option<Message>, all: impl Fn() -> Arc<str>) {
        let mut snapshot: Option<Message> = None;
        for viewer in &mut self.shared.lock().viewers {
            let message = if viewer.behind {
                if viewer.to.capacity() == 0 {
                    continue;
                }
                Some(snapshot.get_or_insert_with(|| Message { snapshot: true, data: all() }).clone())
            } else {
                delta.clone()
            };
            let Some(message) = message else { continue };
            // One that is gone leaves by itself.
            viewer.behind = matches!(viewer.to.try_send(message), Err(TrySendError::Full(_)));
        }
    }

    /// No more viewers: the streams of those that are there end, and so does the thread.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.viewers.clear();
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits for the thread, after [`Feed::close`].
    pub fn join(&self) {
        let thread = self.shared.lock().thread.take();
        thread.into_iter().for_each(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests;
