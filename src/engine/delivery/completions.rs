//! The completion queue of an engine: requests that have an event to read, oldest first, taken by any number of
//! threads.
//!
//! A request is *live* from its submit ([`Completions::expect`]) until its last event was taken
//! ([`Completions::ended`]). A thread that takes an event *holds* its request until the event is released; meanwhile
//! the request is not listed, so that no other thread can take a later event of it. When all live requests are held, no
//! event can come before one is released: a thread that holds all of them itself gets `Busy` at once, other threads
//! after a while.
//!
//! Invariants, which `tests/loom` checks: an item is taken once; waiting threads are woken by an item and by the end; a
//! held request is not in the list.

use super::sync::{Condvar, Mutex, lock, wait_until};
use std::collections::{TryReserveError, VecDeque};
use std::time::Instant;

/// The completion queue.
pub struct Completions<T> {
    state: Mutex<State<T>>,
    /// Signalled when there is an item, or when the list has stopped.
    arrived: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    /// Number of requests whose last event was not taken.
    live: usize,
    /// Held requests.
    holds: Vec<Hold<T>>,
    /// Number of items taken and released so far.
    moves: u64,
    /// Nothing will be added any more, except by releases.
    stopped: bool,
    /// No thread will take anything any more: `push` gives items back.
    refusing: bool,
}

impl<T> State<T> {
    /// All live requests are held: nothing can come before one is released.
    fn is_blocked(&self) -> bool {
        self.live > 0 && self.holds.len() >= self.live
    }
}

/// A request of which an event is out.
struct Hold<T> {
    ticket: u64,
    /// The thread that took the event.
    thread: usize,
    item: T,
}

/// Outcome of [`Completions::pop`].
pub enum Popped<T> {
    /// The item, and the ticket for [`Completions::release`] or [`Completions::ended`].
    Item(T, u64),
    /// The deadline passed.
    Timeout,
    /// No item can come before a held request is released.
    Busy,
    /// The list is empty and nothing will be added.
    Stopped,
}

impl<T: Clone> Default for Completions<T> {
    fn default() -> Completions<T> {
        Completions::new()
    }
}

impl<T: Clone> Completions<T> {
    /// An empty list.
    pub fn new() -> Completions<T> {
        let state =
            State { items: VecDeque::new(), live: 0, holds: Vec::new(), moves: 0, stopped: false, refusing: false };
        Completions { state: Mutex::new(state), arrived: Condvar::new() }
    }

    /// Adds a live request and reserves memory for it in the list, so that `push` does not allocate.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn expect(&self) -> Result<(), TryReserveError> {
        let mut state = lock(&self.state);
        let live = state.live + 1;
        let (listed, held) = (state.items.len(), state.holds.len());
        state.items.try_reserve(live.saturating_sub(listed))?;
        state.holds.try_reserve(live.saturating_sub(held))?;
        state.live = live;
        drop(state);
        if live == 1 {
            // Threads that wait without a time limit must now check periodically whether all live requests are held:
            // see `pop`.
            self.arrived.notify_all();
        }
        Ok(())
    }

    /// Takes back an `expect`: the request was not accepted.
    pub fn unexpect(&self) {
        let mut state = lock(&self.state);
        state.live = state.live.saturating_sub(1);
    }

    /// Adds an item at the end; gives it back after [`Completions::refuse`].
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.refusing {
            return Err(item);
        }
        state.items.push_back(item);
        drop(state);
        // All waiters are equivalent, and each checks the list again before it returns: waking one is enough.
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes the oldest item, which `thread` holds from now on; waits for one. If all live requests are held, and none
    /// is taken or released until the time that `patience` returns, gives up with `Busy`.
    pub fn pop(&self, deadline: Option<Instant>, thread: usize, patience: impl Fn() -> Instant) -> Popped<T> {
        let mut state = lock(&self.state);
        // The time at which it gives up, and `moves` when that was set.
        let mut patient: Option<(Instant, u64)> = None;
        // The wake-up time that passed during the last wait, if it did.
        let mut passed: Option<Instant> = None;
        loop {
            if let Some(item) = state.items.pop_front() {
                state.moves += 1;
                let ticket = state.moves;
                state.holds.push(Hold { ticket, thread, item: item.clone() });
                return Popped::Item(item, ticket);
            }
            // Checked after every wait: a request may have been submitted meanwhile.
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
            // Waiters are not notified when holds change, so they check periodically. Without a live request nothing
            // can be held, and the first `expect` notifies them.
            let moves = state.moves;
            let look = (state.live > 0).then(|| patient.get_or_insert_with(|| (patience(), moves)).0);
            let wake_at = deadline.into_iter().chain(look).min();
            let (again, in_time) = wait_until(&self.arrived, state, wake_at);
            state = again;
            passed = if in_time { None } else { wake_at };
        }
    }

    /// Releases a held request.
    pub fn release(&self, ticket: u64) {
        drop(self.forget(ticket, false));
    }

    /// Removes a held request, whose last event was taken, from the live ones.
    pub fn ended(&self, ticket: u64) {
        drop(self.forget(ticket, true));
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
            // Waiters may return `Stopped` now.
            self.arrived.notify_all();
        }
        Some(hold)
    }

    /// Nothing will be added any more, except by releases. Waiters return once the list is empty and nothing is held.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.arrived.notify_all();
    }

    /// No thread will take anything any more: from now on `push` gives items back. Returns the listed and the held
    /// items.
    pub fn refuse(&self) -> (VecDeque<T>, Vec<T>) {
        let mut state = lock(&self.state);
        state.refusing = true;
        state.live = 0;
        let holds = std::mem::take(&mut state.holds);
        (std::mem::take(&mut state.items), holds.into_iter().map(|hold| hold.item).collect())
    }
}
