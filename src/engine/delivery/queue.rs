//! The queue of one request: all unread output, merged into one buffer.
//!
//! The engine thread is the only writer. The reader depends on the request: its handle ([`Queue::next`],
//! [`Queue::rest`]), the thread that runs its callback ([`Queue::lend`]), or a caller of the engine's `next`
//! ([`Queue::take_listed`]). The last two find the request through a list ([`super::ready`], [`super::completions`]): a
//! queue that becomes readable asks to be listed, once until it is read, and not while an event of it is held.
//!
//! The engine thread does not allocate: it appends to a buffer that was reserved when the request was admitted. A
//! reader exchanges that buffer for a smaller spare, reads it without the lock, and puts it back ([`Queue::restore`]):
//! empty, or unchanged if the read failed.
//!
//! Invariants, which `tests/loom` checks: nothing is added after the terminal event; the terminal event is read once;
//! `finish` is told if deltas were discarded before; if a queue reported that it is full, a later read reports that the
//! request is to be resumed; while an event is held, no other is given out through the list.

use super::sync::{Condvar, Mutex, MutexGuard, lock, wait_for, wait_until};
use std::time::Instant;

/// The contents of a queue. Besides [`super::buffer`], `tests/loom` implements it.
pub trait Merged {
    /// The reason for discarding deltas.
    type Reason: Copy;
    /// A memory size.
    type Size;
    /// The amount that counts against the queue's limit; 0: there is nothing to read.
    fn units(&self) -> usize;
    /// Whether the reserved memory is used up, except for the part kept for steps in flight.
    fn is_full(&self) -> bool;
    /// The size to grow to, if a reader waits for the whole output; None: it is large enough for now.
    fn wants(&self) -> Option<Self::Size>;
    /// Empties it and keeps its memory.
    fn clear(&mut self);
    /// Moves the contents of `from`, which are newer, to the end; there is room for what fits into the smaller of the
    /// two buffers.
    fn absorb(&mut self, from: &mut Self);
}

/// What an addition requires of the caller.
#[derive(Debug, Default)]
pub struct Added {
    /// The queue is full: pause the request until it is resumed.
    pub full: bool,
    /// Add the queue to the list of ready requests.
    pub list: bool,
}

/// Outcome of a read.
pub enum Read<R> {
    /// The value made by the reader; the flag says that the request was paused and is to be resumed.
    Event(R, bool),
    /// The deadline passed.
    Timeout,
    /// The terminal event was read before.
    End,
}

/// A buffer taken by a reader, to be returned with [`Queue::restore`].
pub struct Taken<E, S> {
    pub content: E,
    /// The request's sink. From [`Queue::lend`] always: the caller gives it back, or after the last event drops it
    /// before [`Queue::end`]. From [`Queue::take_listed`] with the last event only.
    pub sink: Option<S>,
    /// The event is terminal.
    pub last: bool,
}

/// The queue. `S` is the sink of the request's events, dropped after the last one.
pub struct Queue<E: Merged, S> {
    /// Units at which the request is to pause.
    limit: usize,
    /// Read through a list of ready requests; otherwise through the request's handle.
    listable: bool,
    state: Mutex<State<E, S>>,
    changed: Condvar,
}

struct State<E: Merged, S> {
    /// The buffer that the engine thread appends to.
    pending: E,
    /// Replaces `pending` while a reader has that; `None` meanwhile.
    spare: Option<E>,
    /// The terminal event is in `pending`, or was taken.
    terminal: bool,
    /// The terminal event was taken.
    taken: bool,
    /// The terminal event was taken and the sink dropped: nothing follows.
    ended: bool,
    /// The request was cancelled, first for this reason: deltas are discarded.
    muted: Option<E::Reason>,
    /// The engine thread was told that the queue is full and has not been told to resume.
    full: bool,
    /// Readers that wait for the terminal event and take everything with it; with any, the limit does not apply.
    waiters: u32,
    /// The queue is in the list of ready requests.
    listed: bool,
    /// An event taken through the list has not been released.
    held: bool,
    sink: Option<S>,
}

impl<E: Merged, S> State<E, S> {
    fn is_readable(&self) -> bool {
        !self.taken && (self.terminal || self.pending.units() > 0)
    }

    /// Takes everything unread; the flag says whether it is the terminal event.
    fn take(&mut self) -> Option<(E, bool)> {
        if !self.is_readable() {
            return None;
        }
        let spare = self.spare.take()?;
        self.taken = self.terminal;
        Some((std::mem::replace(&mut self.pending, spare), self.taken))
    }

    /// Whether there is something to read and no more is to be added until it was read.
    fn is_full(&self, limit: usize) -> bool {
        let over = self.waiters == 0 && self.pending.units() >= limit;
        self.pending.units() > 0 && (over || self.pending.is_full())
    }

    fn mark_listed(&mut self, listable: bool) -> bool {
        let list = listable && !self.listed && !self.held && self.is_readable();
        self.listed |= list;
        list
    }
}

impl<E: Merged, S> Queue<E, S> {
    /// An empty queue. Until [`Queue::provide`] its two buffers only have room for a terminal event. Without a sink it
    /// is read through the request's handle.
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

    /// Sets the queue's buffers: one to append to, and the spare for the time a reader has it. Does nothing after the
    /// end.
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

    /// Changes the sink, unless a reader has it.
    pub fn with_sink(&self, change: impl FnOnce(&mut S)) {
        if let Some(sink) = &mut lock(&self.state).sink {
            change(sink);
        }
    }

    /// Appends to the pending buffer. Engine thread only.
    pub fn push<X>(&self, add: impl FnOnce(&mut E) -> Result<(), X>) -> Result<Added, X> {
        self.added(|state| if state.muted.is_none() { add(&mut state.pending) } else { Ok(()) })
    }

    /// Makes the pending event the terminal one; `fill` gets the reason if deltas were discarded. Later calls of this
    /// and of `push` do nothing.
    pub fn finish(&self, fill: impl FnOnce(&mut E, Option<E::Reason>)) -> Added {
        let Ok(added) = self.added(|state| {
            state.terminal = true;
            fill(&mut state.pending, state.muted);
            Ok::<(), std::convert::Infallible>(())
        });
        added
    }

    fn added<X>(&self, change: impl FnOnce(&mut State<E, S>) -> Result<(), X>) -> Result<Added, X> {
        let mut state = lock(&self.state);
        if state.terminal {
            return Ok(Added::default());
        }
        change(&mut state)?;
        let full = !state.terminal && state.is_full(self.limit);
        state.full |= full;
        let list = state.mark_listed(self.listable);
        let tell = state.waiters == 0 || state.terminal || full || state.pending.wants().is_some();
        drop(state);
        if tell {
            self.changed.notify_all();
        }
        Ok(Added { full, list })
    }

    /// Drops unread deltas and discards later ones, unless the request has finished.
    pub fn mute(&self, why: E::Reason) {
        let mut state = lock(&self.state);
        if !state.terminal {
            state.muted.get_or_insert(why);
            state.pending.clear();
        }
    }

    /// Whether the terminal event was added.
    pub fn is_finished(&self) -> bool {
        lock(&self.state).terminal
    }

    /// Whether the terminal event was read and the sink dropped.
    pub fn is_ended(&self) -> bool {
        lock(&self.state).ended
    }

    /// For the request's handle: waits for something to read and passes it to `read`. If `read` fails, it stays unread.
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

    /// For the request's handle: waits for the terminal event and reads everything unread with it. The limit does not
    /// apply meanwhile; `grown` makes a bigger buffer when one is needed. `resume` is called, without a lock, when the
    /// request was paused and may continue.
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

    /// Waits until another thread has read the terminal event and dropped the sink; false when the deadline passes
    /// first.
    pub fn wait_ended(&self, deadline: Option<Instant>) -> bool {
        wait_for(&self.changed, lock(&self.state), deadline, |state| state.ended.then_some(())).1.is_some()
    }

    /// For the thread that runs callbacks: takes what is unread together with the sink. None if it was muted meanwhile.
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

    /// Returns the sink after [`Queue::lend`].
    pub fn give_back(&self, sink: S) {
        lock(&self.state).sink = Some(sink);
    }

    /// For callers of the engine's `next`: takes what is unread; the terminal event comes with the sink, to be dropped
    /// before [`Queue::end`]. After any other event the queue is not listed until [`Queue::release`]. None if it was
    /// muted, or another thread took it.
    pub fn take_listed(&self) -> Option<Taken<E, S>> {
        let mut state = lock(&self.state);
        state.listed = false;
        let (content, last) = state.take()?;
        state.held = !last;
        let sink = if last { state.sink.take() } else { None };
        Some(Taken { content, sink, last })
    }

    /// Releases the event that was taken last; true when the queue is to be listed.
    pub fn release(&self) -> bool {
        let mut state = lock(&self.state);
        state.held = false;
        state.mark_listed(self.listable)
    }

    /// Ends a successful read and empties the buffer. True when the request was paused and is to be resumed.
    pub fn restore(&self, taken: Taken<E, S>) -> bool {
        let mut content = taken.content;
        content.clear();
        self.put_back(content, false)
    }

    /// Ends a failed read: everything is unread again.
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
        // If the output that arrived meanwhile has filled the buffer, the next read resumes the request.
        let resume = !unread && !state.is_full(self.limit) && std::mem::take(&mut state.full) && !state.terminal;
        drop(state);
        self.changed.notify_all();
        resume
    }

    /// Records that the terminal event was read and the sink dropped.
    pub fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }
}

impl<E: Merged, S> State<E, S> {
    /// Continues in a bigger buffer, if it is still needed; returns the buffer that is not used.
    fn grow(&mut self, mut bigger: E) -> E {
        if self.spare.is_none() || self.pending.wants().is_none() {
            return bigger;
        }
        bigger.absorb(&mut self.pending);
        std::mem::replace(&mut self.pending, bigger)
    }
}
