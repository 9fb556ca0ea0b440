//! The queue of one request: everything that was not read yet, merged into one buffer.
//!
//! One thread writes, the engine's. Who reads depends on the request: its owner ([`Queue::next`], [`Queue::rest`]), who runs
//! its callback ([`Queue::lend`]), or whoever asks the engine for events ([`Queue::take_listed`]). The last two are told
//! through a list of ready requests ([`super::ready`], [`super::completions`]): a queue that becomes readable asks to be
//! listed, once until it is read, and not while an event of it is held.
//!
//! The engine thread allocates nothing: it adds to a buffer that was reserved when the request was admitted. A reader exchanges
//! it for a smaller one, looks at what it holds without the lock, and puts it back ([`Queue::restore`]), empty or, if it could
//! not read it, as it was.
//!
//! Invariants, which `tests/loom` checks: nothing is added after the terminal event; it is read once; who ends a request
//! whose tokens were thrown away is told so; a queue that reported itself full says so to whoever reads it, who resumes the
//! request; while an event is held, no other is given out through the list.

use super::sync::{Condvar, Mutex, MutexGuard, lock, wait_until};
use std::time::Instant;

/// What a queue holds. The second implementor is the one of `tests/loom`.
pub trait Merged {
    /// Why deltas are thrown away.
    type Cut: Copy;
    /// How much memory it has.
    type Size;
    /// How much of the queue's limit it takes; 0: there is nothing to read.
    fn units(&self) -> usize;
    /// Whether its memory is used up, but for what is under way.
    fn is_full(&self) -> bool;
    /// What size it should have by now if it is to grow without end; None: it is large enough.
    fn wants(&self) -> Option<Self::Size>;
    /// Forgets everything and keeps the memory.
    fn clear(&mut self);
    /// Moves all that `from` holds, which is newer, behind its own; there is room for what fits into the smaller of two.
    fn absorb(&mut self, from: &mut Self);
}

/// What an addition changed.
#[derive(Debug, Default)]
pub struct Added {
    /// The queue is full: the request is to pause until it is resumed.
    pub full: bool,
    /// The queue is to be listed as ready.
    pub list: bool,
}

/// Outcome of a read.
pub enum Read<R> {
    /// What the reader made of the buffer; the flag says that the request had been paused and is to be resumed.
    Event(R, bool),
    /// The time ran out.
    Timeout,
    /// The terminal event was read before.
    End,
}

/// A buffer that somebody reads: to be given to [`Queue::restore`].
pub struct Taken<E, S> {
    pub content: E,
    /// Where its events go. Of a callback to be given back, or dropped before [`Queue::end`] when the event is the last; of a
    /// listed one it is there with the last event only.
    pub sink: Option<S>,
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
    /// What the engine thread adds to.
    pending: E,
    /// Takes its place while a reader has it; `None` meanwhile.
    spare: Option<E>,
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
    /// An event that was taken from the list is not released yet.
    held: bool,
    sink: Option<S>,
}

impl<E: Merged, S> State<E, S> {
    fn is_readable(&self) -> bool {
        !self.taken && (self.terminal || self.pending.units() > 0)
    }

    /// Everything unread, and whether it is the last.
    fn take(&mut self) -> Option<(E, bool)> {
        if !self.is_readable() {
            return None;
        }
        let spare = self.spare.take()?;
        self.taken = self.terminal;
        Some((std::mem::replace(&mut self.pending, spare), self.taken))
    }

    fn mark_listed(&mut self, listable: bool) -> bool {
        let list = listable && !self.listed && !self.held && self.is_readable();
        self.listed |= list;
        list
    }
}

impl<E: Merged, S> Queue<E, S> {
    /// An empty queue; the two buffers hold nothing but a terminal event until [`Queue::provide`]. Without a sink its owner
    /// reads it.
    pub fn new(empty: [E; 2], limit: usize, sink: Option<S>) -> Queue<E, S> {
        let [pending, spare] = empty;
        let state = State {
            pending,
            spare: Some(spare),
            terminal: false,
            taken: false,
            ended: false,
            muted: None,
            full: false,
            waiters: 0,
            listed: false,
            held: false,
            sink,
        };
        let listable = state.sink.is_some();
        Queue { limit, listable, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Gives the queue the memory it works in: a buffer to add to and one for the time a reader has it.
    pub fn provide(&self, pending: E, spare: E) {
        let old = {
            let mut state = lock(&self.state);
            if state.terminal {
                return;
            }
            (std::mem::replace(&mut state.pending, pending), state.spare.replace(spare))
        };
        drop(old);
    }

    /// Changes what the request's events go to, unless a reader has that.
    pub fn with_sink(&self, change: impl FnOnce(&mut S)) {
        if let Some(sink) = &mut lock(&self.state).sink {
            change(sink);
        }
    }

    /// Adds to the pending buffer. Engine thread only.
    pub fn push<X>(&self, add: impl FnOnce(&mut E) -> Result<(), X>) -> Result<Added, X> {
        self.added(|state| if state.muted.is_none() { add(&mut state.pending) } else { Ok(()) })
    }

    /// Adds what makes the pending event the terminal one; `fill` is told if deltas were thrown away. Later calls, and
    /// later pushes, do nothing.
    pub fn finish(&self, fill: impl FnOnce(&mut E, Option<E::Cut>)) -> Added {
        let added = self.added(|state| {
            state.terminal = true;
            fill(&mut state.pending, state.muted);
            Ok::<(), std::convert::Infallible>(())
        });
        match added {
            Ok(added) => added,
            Err(never) => match never {},
        }
    }

    fn added<X>(&self, change: impl FnOnce(&mut State<E, S>) -> Result<(), X>) -> Result<Added, X> {
        let mut state = lock(&self.state);
        if state.terminal {
            return Ok(Added::default());
        }
        change(&mut state)?;
        let over = state.waiters == 0 && state.pending.units() >= self.limit;
        let full = !state.terminal && state.pending.units() > 0 && (over || state.pending.is_full());
        state.full |= full;
        let list = state.mark_listed(self.listable);
        let tell = state.waiters == 0 || state.terminal || full || state.pending.wants().is_some();
        drop(state);
        if tell {
            self.changed.notify_all();
        }
        Ok(Added { full, list })
    }

    /// Drops unread deltas and throws later ones away, unless the request has finished.
    pub fn mute(&self, why: E::Cut) {
        let mut state = lock(&self.state);
        if !state.terminal {
            state.muted.get_or_insert(why);
            state.pending.clear();
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

    /// Waits for something to read, for the owner, who is shown it. When `read` fails, nothing was read.
    pub fn next<R, X>(
        &self,
        deadline: Option<Instant>,
        read: impl FnOnce(&mut E) -> Result<R, X>,
    ) -> Result<Read<R>, X> {
        let mut state = lock(&self.state);
        loop {
            if state.taken && state.spare.is_some() {
                return Ok(Read::End);
            }
            if let Some((content, last)) = state.take() {
                return self.read(state, content, last, read);
            }
            let (again, in_time) = wait_until(&self.changed, state, deadline);
            state = again;
            if !in_time {
                return Ok(Read::Timeout);
            }
        }
    }

    fn read<R, X>(
        &self,
        state: MutexGuard<'_, State<E, S>>,
        mut content: E,
        last: bool,
        read: impl FnOnce(&mut E) -> Result<R, X>,
    ) -> Result<Read<R>, X> {
        drop(state);
        let got = read(&mut content);
        let taken = Taken { content, sink: None, last };
        match got {
            Ok(event) => {
                let resume = self.restore(taken);
                if last {
                    self.end();
                }
                Ok(Read::Event(event, resume))
            }
            Err(error) => {
                self.restore_unread(taken);
                Err(error)
            }
        }
    }

    /// Waits for the terminal event and everything unread with it, for the owner. The limit does not apply meanwhile; `grown`
    /// makes a bigger buffer when one is needed. `resume` is called, without a lock, when that lets a paused request go on.
    pub fn rest<R, X>(
        &self,
        deadline: Option<Instant>,
        resume: impl Fn(),
        grown: impl Fn(E::Size) -> Result<E, X>,
        read: impl FnOnce(&mut E) -> Result<R, X>,
    ) -> Result<Read<R>, X> {
        let mut state = lock(&self.state);
        state.waiters += 1;
        let outcome = loop {
            if state.taken && state.spare.is_some() {
                break Ok(Read::End);
            }
            if state.terminal
                && let Some((content, last)) = state.take()
            {
                state.waiters -= 1;
                return self.read(state, content, last, read);
            }
            if !state.terminal
                && state.spare.is_some()
                && let Some(size) = state.pending.wants()
            {
                drop(state);
                let bigger = grown(size);
                state = lock(&self.state);
                match bigger {
                    Ok(bigger) => drop(state.grow(bigger)),
                    Err(error) => break Err(error),
                }
                continue;
            }
            if std::mem::take(&mut state.full) && !state.terminal {
                drop(state);
                resume();
                state = lock(&self.state);
                continue;
            }
            let (again, in_time) = wait_until(&self.changed, state, deadline);
            state = again;
            if !in_time {
                break Ok(Read::Timeout);
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
    pub fn lend(&self) -> Option<Taken<E, S>> {
        let mut state = lock(&self.state);
        state.listed = false;
        let sink = Some(state.sink.take()?);
        match state.take() {
            Some((content, last)) => Some(Taken { content, sink, last }),
            None => {
                state.sink = sink;
                None
            }
        }
    }

    /// Ends a loan.
    pub fn give_back(&self, sink: S) {
        lock(&self.state).sink = Some(sink);
    }

    /// Takes what is unread; with the terminal event comes the sink, to be dropped before [`Queue::end`]. After any other the
    /// queue is not listed until [`Queue::release`]. None: it was muted, or another thread was faster.
    pub fn take_listed(&self) -> Option<Taken<E, S>> {
        let mut state = lock(&self.state);
        state.listed = false;
        let (content, last) = state.take()?;
        state.held = !last;
        let sink = if last { state.sink.take() } else { None };
        Some(Taken { content, sink, last })
    }

    /// The event that was taken last is let go; true when the queue is to be listed.
    pub fn release(&self) -> bool {
        let mut state = lock(&self.state);
        state.held = false;
        state.mark_listed(self.listable)
    }

    /// Ends a read: the buffer is empty again. True when the request had been paused and is to be resumed.
    pub fn restore(&self, taken: Taken<E, S>) -> bool {
        let mut content = taken.content;
        content.clear();
        self.put_back(content, false)
    }

    /// Ends a read that failed: it is as if it had not begun.
    pub fn restore_unread(&self, taken: Taken<E, S>) {
        let Taken { content, sink, last } = taken;
        let mut content = content;
        {
            let mut state = lock(&self.state);
            state.held = false;
            if sink.is_some() {
                state.sink = sink;
            }
            if last {
                state.taken = false;
            } else if state.muted.is_some() {
                content.clear();
            }
        }
        self.put_back(content, true);
    }

    fn put_back(&self, mut content: E, unread: bool) -> bool {
        let mut state = lock(&self.state);
        content.absorb(&mut state.pending);
        let spare = std::mem::replace(&mut state.pending, content);
        state.spare = Some(spare);
        // What came meanwhile may have filled it: then the next read resumes the request.
        let over = state.waiters == 0 && state.pending.units() >= self.limit;
        let still_full = state.pending.units() > 0 && (over || state.pending.is_full());
        let resume = !unread && !still_full && std::mem::take(&mut state.full) && !state.terminal;
        drop(state);
        self.changed.notify_all();
        resume
    }

    /// Notes that the terminal event was read and the sink dropped.
    pub fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }
}

impl<E: Merged, S> State<E, S> {
    /// Goes on in a bigger buffer; what is not needed any more is returned.
    fn grow(&mut self, mut bigger: E) -> E {
        if self.spare.is_none() || self.pending.wants().is_none() {
            return bigger;
        }
        bigger.absorb(&mut self.pending);
        std::mem::replace(&mut self.pending, bigger)
    }
}
