//! The way of events from an engine to the server's thread: one thread for each engine takes them from a queue of the server's own
//! and gives them to their requests. A request has at most one event out, so what its client does not read stays in the queue,
//! where it is merged, and pauses that request alone when it is full.

use super::{EngineRef, GateFn};
use crate::engine::{Event, EventQueue, Next};
use crate::error::{Error, Result, Status};
use crate::limits;
use crate::os::thread::{self, JoinHandle, ThreadOptions};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// An event of the choice of this index.
pub(super) type Arrived = (usize, Lent);

/// An event; dropping it lets the next one of its request come.
pub(super) struct Lent {
    // Dropped in this order.
    event: Box<Event>,
    _note: NoteOnDrop,
}

impl Deref for Lent {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

/// Notes that an event was let go.
struct NoteOnDrop(Arc<Routes>);

impl Drop for NoteOnDrop {
    fn drop(&mut self) {
        self.0.note();
    }
}

/// Which request gets the events of which tag.
#[derive(Default)]
pub(super) struct Routes {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By tag: where to, and the index of the choice.
    open: HashMap<u64, (UnboundedSender<Arrived>, usize)>,
    tags: u64,
    /// Requests that were accepted and whose terminal event has not come. Below 0 for a moment when that comes first.
    live: i64,
    /// Counts everything that lets the next event come.
    notes: u64,
    stopped: bool,
}

impl Routes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tag whose events go to `to`, as those of choice `index`.
    pub fn open(&self, to: UnboundedSender<Arrived>, index: usize) -> u64 {
        let mut state = self.lock();
        state.tags += 1;
        let tag = state.tags;
        state.open.insert(tag, (to, index));
        tag
    }

    /// The request of this tag was accepted, or not.
    pub fn submitted(&self, tag: u64, accepted: bool) {
        let mut state = self.lock();
        if accepted {
            state.live += 1;
        } else {
            state.open.remove(&tag);
        }
        drop(state);
        self.note();
    }

    /// Something happened after which an event may come.
    fn note(&self) {
        self.lock().notes += 1;
        self.changed.notify_all();
    }

    /// Ends the thread once no request is live.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Waits until a request is live, and returns the number of notes; `None` when the thread is to end.
    fn wait_for_live(&self) -> Option<u64> {
        let mut state = self.lock();
        loop {
            match (state.live > 0, state.stopped) {
                (true, _) => return Some(state.notes),
                (false, true) => return None,
                (false, false) => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Waits for a note after the first `seen`; for as long at most when the engine is short of memory.
    fn wait_for_note(&self, seen: u64, at_most: Option<Duration>) {
        let mut state = self.lock();
        while state.notes == seen {
            state = match at_most {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(at_most) => {
                    let (_state, _) = self.changed.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner);
                    return;
                }
            }
        }
    }

    fn deliver(self: &Arc<Self>, event: Box<Event>) {
        let mut state = self.lock();
        let to = if event.terminal() {
            state.live -= 1;
            state.open.remove(&event.tag)
        } else {
            state.open.get(&event.tag).cloned()
        };
        drop(state);
        let lent = Lent { event, _note: NoteOnDrop(self.clone()) };
        if let Some((to, index)) = to {
            // A client that has gone has dropped its request, which was cancelled with that.
            let _ = to.send((index, lent));
        }
    }

    /// No event will come any more: whoever waits for one sees the end.
    fn close(&self) {
        self.lock().open.clear();
    }
}

/// Starts the thread that takes the events of `queue`, which is the engine's.
///
/// # Errors
/// `Memory` when there is no thread to be had.
pub(super) fn start(
    engine: EngineRef,
    queue: EventQueue,
    routes: Arc<Routes>,
    gate: Option<GateFn>,
) -> Result<JoinHandle> {
    thread::spawn("http-events", ThreadOptions::default(), move || {
        while let Some(seen) = routes.wait_for_live() {
            if let Some(gate) = &gate {
                gate(&engine);
            }
            match queue.next(None) {
                Ok(Next::Event(event)) => routes.deliver(event),
                Ok(Next::End) => break,
                Ok(Next::Timeout) => {}
                // Every live request has its event out.
                Err(Error { status: Status::Busy, .. }) => routes.wait_for_note(seen, None),
                Err(_) => routes.wait_for_note(seen, Some(Duration::from_millis(limits::SERVER_MEMORY_WAIT_MS))),
            }
        }
        routes.close();
    })
}
