//! The completion queue of an engine: requests that have something to read, oldest first, taken by any number of threads.
//!
//! Each request counts from its submit ([`Completions::expect`]) until its last event was taken ([`Completions::ended`]). Who takes
//! an event of it *holds* the request until the event is released; until then the request is not listed, so no other thread can
//! get ahead of the one that has the event. When all requests that count are held, nothing can come before one is released:
//! a caller who holds all of them himself is told at once that it is so, others after a while.
//!
//! Invariants, which `tests/loom` checks: an item is taken once; whoever waits learns of it, and of the end; a held request is
//! not in the list.

use super::sync::{Condvar, Mutex, lock, wait_until};
use std::collections::{TryReserveError, VecDeque};
use std::time::Instant;

/// The list.
pub struct Completions<T> {
    state: Mutex<State<T>>,
    /// There is an item, or the list stopped.
    arrived: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    /// Requests whose last event was not taken.
    live: usize,
    /// Those that are held.
    holds: Vec<Hold<T>>,
    /// Items taken and let go so far.
    moves: u64,
    /// Nothing will be added any more.
    stopped: bool,
    /// Nobody takes anything any more: items are given back to who adds them.
    refusing: bool,
}

impl<T> State<T> {
    /// Nothing can come before a held request is released.
    fn is_blocked(&self) -> bool {
        self.live > 0 && self.holds.len() >= self.live
    }
}

/// A request whose event is out.
struct Hold<T> {
    ticket: u64,
    /// The thread that took it.
    thread: usize,
    item: T,
}

/// Outcome of [`Completions::pop`].
pub enum Popped<T> {
    /// The item, and the ticket by which it is let go: with [`Completions::release`] or [`Completions::ended`].
    Item(T, u64),
    /// The time ran out.
    Timeout,
    /// Nothing can come before a held request is released.
    Busy,
    /// The list is empty and stays so.
    Stopped,
}

impl<T: Clone> Completions<T> {
    /// An empty list.
    pub fn new() -> Completions<T> {
        let state =
            State { items: VecDeque::new(), live: 0, holds: Vec::new(), moves: 0, stopped: false, refusing: false };
        Completions { state: Mutex::new(state), arrived: Condvar::new() }
    }

    /// One more request, whose events will come here: there is room for it in the list from now on.
    ///
    /// # Errors
    /// When there is no memory for that.
    pub fn expect(&self) -> Result<(), TryReserveError> {
        let mut state = lock(&self.state);
        let live = state.live + 1;
        let (listed, held) = (state.items.len(), state.holds.len());
        state.items.try_reserve(live.saturating_sub(listed))?;
        state.holds.try_reserve(live.saturating_sub(held))?;
        state.live = live;
        drop(state);
        if live == 1 {
            // From now on who waits has to look now and then whether anything can come: see `pop`.
            self.arrived.notify_all();
        }
        Ok(())
    }

    /// A request that was expected will not come.
    pub fn unexpect(&self) {
        let mut state = lock(&self.state);
        state.live = state.live.saturating_sub(1);
    }

    /// Adds an item at the end; given back when nobody will take it.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.refusing {
            return Err(item);
        }
        state.items.push_back(item);
        drop(state);
        // All who wait here are alike, and each looks again before it gives up: one is enough.
        self.arrived.notify_one();
        Ok(())
    }

    /// The oldest item, held from now on by `thread`; waits for one. When nothing can come before others let go, and none of
    /// them does until the time that `patience` names, it waits no longer.
    pub fn pop(&self, deadline: Option<Instant>, thread: usize, patience: impl Fn() -> Instant) -> Popped<T> {
        let mut state = lock(&self.state);
        // When it gives up, and what had moved when that was set.
        let mut patient: Option<(Instant, u64)> = None;
        // The time that has come while it waited.
        let mut passed: Option<Instant> = None;
        loop {
            if let Some(item) = state.items.pop_front() {
                state.moves += 1;
                let ticket = state.moves;
                state.holds.push(Hold { ticket, thread, item: item.clone() });
                return Popped::Item(item, ticket);
            }
            // After every wait anew: a request may have been submitted meanwhile.
            let blocked = state.is_blocked();
            if blocked && state.holds.iter().all(|hold| hold.thread == thread) {
                return Popped::Busy;
            }
            if state.stopped && !blocked {
                return Popped::Stopped;
            }
            if passed.is_some() {
                if passed == deadline {
                    return Popped::Timeout;
                }
                if blocked && patient.is_some_and(|(_, then)| then == state.moves) {
                    return Popped::Busy;
                }
                patient = None;
            }
            // Who holds what changes without a word to those who wait, so they look again now and then. Without a request there
            // is nothing to hold; whoever expects the first one wakes them.
            let moves = state.moves;
            let look = (state.live > 0).then(|| patient.get_or_insert_with(|| (patience(), moves)).0);
            let wake_at = deadline.into_iter().chain(look).min();
            let (again, in_time) = wait_until(&self.arrived, state, wake_at);
            state = again;
            passed = if in_time { None } else { wake_at };
        }
    }

    /// Lets a held request go.
    pub fn release(&self, ticket: u64) {
        let hold = self.forget(ticket, false);
        drop(hold);
    }

    /// The last event of a held request was taken.
    pub fn ended(&self, ticket: u64) {
        let hold = self.forget(ticket, true);
        drop(hold);
    }

    fn forget(&self, ticket: u64, ended: bool) -> Option<Hold<T>> {
        let mut state = lock(&self.state);
        let at = state.holds.iter().position(|hold| hold.ticket == ticket)?;
        let hold = state.holds.swap_remove(at);
        state.moves += 1;
        if ended {
            state.live = state.live.saturating_sub(1);
        }
        let stopped = state.stopped;
        drop(state);
        if stopped {
            // Who waits for this one to end may leave now.
            self.arrived.notify_all();
        }
        Some(hold)
    }

    /// Nothing will be added any more, but for what is released; who waits leaves when the list is empty and nothing is held.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.arrived.notify_all();
    }

    /// Nobody will take anything any more. Items are given back to who adds them from now on; returns those that are there,
    /// and those that are held.
    pub fn refuse(&self) -> (VecDeque<T>, Vec<T>) {
        let mut state = lock(&self.state);
        state.refusing = true;
        state.live = 0;
        let holds = std::mem::take(&mut state.holds);
        (std::mem::take(&mut state.items), holds.into_iter().map(|hold| hold.item).collect())
    }
}
