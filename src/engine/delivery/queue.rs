//! The queue of one request: everything that was not read yet, merged into one event.
//!
//! One thread writes, the engine's. Who reads depends on the request: its owner ([`Queue::next`], [`Queue::rest`]), who runs
//! its callback ([`Queue::lend`]), or whoever asks the engine for events ([`Queue::take_listed`]). The last two are told
//! through a list of ready requests ([`super::ready`]): a queue that becomes readable asks to be listed, once until it
//! is read.
//!
//! Invariants, which `tests/loom` checks: nothing is added after the terminal event; it is read once; who ends a request
//! whose tokens were thrown away is told so; a queue that reported itself full says so to whoever reads it, who resumes the
//! request.

use super::sync::{Condvar, Mutex, lock, wait_until};
use std::time::Instant;

/// What a queue holds. The second implementor is the one of `tests/loom`.
pub trait Merged {
    /// Why deltas are thrown away.
    type Cut: Copy;
    /// How much of the queue's limit it takes; 0: there is nothing to read.
    fn units(&self) -> usize;
    /// Takes everything and leaves nothing to read.
    fn take(&mut self) -> Self;
}

/// What an addition changed.
#[derive(Default)]
pub struct Added {
    /// The queue is full: the request is to pause until it is resumed.
    pub full: bool,
    /// The queue is to be listed as ready.
    pub list: bool,
}

/// Outcome of a read.
pub enum Read<E> {
    /// An event; the flag says that the request had been paused and is to be resumed.
    Event(E, bool),
    /// The time ran out.
    Timeout,
    /// The terminal event was read before.
    End,
}

/// An event on its way to a callback.
pub struct Lent<E, S> {
    pub event: E,
    /// To be given back, or dropped before [`Queue::end`] when the event is the last.
    pub sink: S,
    /// The request had been paused and is to be resumed.
    pub resume: bool,
    /// The event is terminal.
    pub last: bool,
}

/// The queue. `S` is what the request's events go to, and what is dropped after the last of them.
pub struct Queue<E: Merged, S> {
    /// Units it holds before the request is to pause.
    limit: usize,
    /// It is read through a list; otherwise its owner reads it.
    listable: bool,
    state: Mutex<State<E, S>>,
    changed: Condvar,
}

struct State<E: Merged, S> {
    pending: E,
    /// The terminal event is in `pending` or was taken.
    terminal: bool,
    /// The terminal event was taken.
    taken: bool,
    /// Nothing follows: the terminal event was taken and the sink dropped.
    ended: bool,
    /// Deltas are thrown away: the request was cancelled, first for this reason.
    muted: Option<E::Cut>,
    /// The engine was told that the queue is full.
    full: bool,
    /// Readers that take everything at the end, so the limit does not apply.
    waiters: u32,
    /// In the list.
    listed: bool,
    sink: Option<S>,
}

impl<E: Merged, S> State<E, S> {
    /// Everything unread, and whether the request is to be resumed.
    fn take(&mut self) -> Option<(E, bool)> {
        if self.taken || (!self.terminal && self.pending.units() == 0) {
            return None;
        }
        self.taken = self.terminal;
        let resume = std::mem::take(&mut self.full) && !self.terminal;
        Some((self.pending.take(), resume))
    }
}

impl<E: Merged, S> Queue<E, S> {
    /// An empty queue. Without a sink its owner reads it.
    pub fn new(empty: E, limit: usize, sink: Option<S>) -> Queue<E, S> {
        let state = State {
            pending: empty,
            terminal: false,
            taken: false,
            ended: false,
            muted: None,
            full: false,
            waiters: 0,
            listed: false,
            sink,
        };
        let listable = state.sink.is_some();
        Queue { limit, listable, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds to the pending event. Engine thread only.
    pub fn push(&self, add: impl FnOnce(&mut E)) -> Added {
        self.added(|state| {
            if state.muted.is_none() {
                add(&mut state.pending);
            }
        })
    }

    /// Adds what makes the pending event the terminal one; `fill` is told if deltas were thrown away. Later calls, and
    /// later pushes, do nothing.
    pub fn finish(&self, fill: impl FnOnce(&mut E, Option<E::Cut>)) -> Added {
        self.added(|state| {
            state.terminal = true;
            fill(&mut state.pending, state.muted);
        })
    }

    fn added(&self, change: impl FnOnce(&mut State<E, S>)) -> Added {
        let mut state = lock(&self.state);
        if state.terminal {
            return Added::default();
        }
        change(&mut state);
        let full = !state.terminal && state.waiters == 0 && state.pending.units() >= self.limit;
        state.full |= full;
        let list = self.listable && !state.listed && (state.terminal || state.pending.units() > 0);
        state.listed |= list;
        drop(state);
        self.changed.notify_all();
        Added { full, list }
    }

    /// Drops unread deltas and throws later ones away, unless the request has finished.
    pub fn mute(&self, why: E::Cut) {
        let mut state = lock(&self.state);
        if !state.terminal {
            state.muted.get_or_insert(why);
            drop(state.pending.take());
        }
    }

    /// Whether the terminal event exists.
    pub fn is_finished(&self) -> bool {
        lock(&self.state).terminal
    }

    /// Whether the terminal event was read and the sink dropped.
    pub fn is_ended(&self) -> bool {
        lock(&self.state).ended
    }

    /// Waits for something to read, for the owner.
    pub fn next(&self, deadline: Option<Instant>) -> Read<E> {
        let mut state = lock(&self.state);
        loop {
            if state.taken {
                return Read::End;
            }
            if let Some((event, resume)) = state.take() {
                state.ended = state.taken;
                return Read::Event(event, resume);
            }
            let (again, in_time) = wait_until(&self.changed, state, deadline);
            state = again;
            if !in_time {
                return Read::Timeout;
            }
        }
    }

    /// Waits for the terminal event and everything unread with it, for the owner. The limit does not apply meanwhile;
    /// `resume` is called, without a lock, if that lets a paused request go on.
    pub fn rest(&self, deadline: Option<Instant>, resume: impl FnOnce()) -> Read<E> {
        let mut state = lock(&self.state);
        state.waiters += 1;
        if std::mem::take(&mut state.full) {
            drop(state);
            resume();
            state = lock(&self.state);
        }
        let outcome = loop {
            if state.taken {
                break Read::End;
            }
            if state.terminal
                && let Some((event, _)) = state.take()
            {
                state.ended = true;
                break Read::Event(event, false);
            }
            let (again, in_time) = wait_until(&self.changed, state, deadline);
            state = again;
            if !in_time {
                break Read::Timeout;
            }
        };
        state.waiters -= 1;
        outcome
    }

    /// Waits until somebody else has read the terminal event and the sink was dropped; false when the time is over.
    pub fn wait_ended(&self, deadline: Option<Instant>) -> bool {
        let mut state = lock(&self.state);
        while !state.ended {
            let (again, in_time) = wait_until(&self.changed, state, deadline);
            state = again;
            if !in_time {
                return false;
            }
        }
        true
    }

    /// Takes what is unread together with the sink, for the one thread that runs callbacks. None: it was muted in between.
    pub fn lend(&self) -> Option<Lent<E, S>> {
        let mut state = lock(&self.state);
        state.listed = false;
        let sink = state.sink.take()?;
        match state.take() {
            Some((event, resume)) => Some(Lent { event, sink, resume, last: state.taken }),
            None => {
                state.sink = Some(sink);
                None
            }
        }
    }

    /// Ends a loan.
    pub fn give_back(&self, sink: S) {
        lock(&self.state).sink = Some(sink);
    }

    /// Takes what is unread; with the terminal event comes the sink, to be dropped before [`Queue::end`]. None: it was
    /// muted, or another thread was faster.
    pub fn take_listed(&self) -> Option<(E, bool, Option<S>)> {
        let mut state = lock(&self.state);
        state.listed = false;
        let (event, resume) = state.take()?;
        let sink = if state.taken { state.sink.take() } else { None };
        Some((event, resume, sink))
    }

    /// Notes that the terminal event was read and the sink dropped.
    pub fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }
}
