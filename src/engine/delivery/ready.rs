//! The list of what is ready to be delivered, oldest first, and the turn of the one thread that delivers it.
//!
//! The engine thread adds; a dispatch thread takes ([`Ready::pop`]). An engine whose callbacks run in
//! its host's own calls has several that may deliver (poll, wait, close, free), so one of them has the turn. Who leaves
//! it for good while nobody will come back (the engine was freed inside a callback) is told to deliver the rest first.
//!
//! Invariants, which `tests/loom` checks: an item is taken once; whoever waits learns of it; after an
//! item was added, the host was woken since the latest turn began; a host that wanted the turn while another thread had it
//! hears of what that thread leaves.

use super::sync::{Condvar, Mutex, lock, wait_until};
use std::collections::{TryReserveError, VecDeque};
use std::time::Instant;

/// The list.
pub struct Ready<T> {
    state: Mutex<State<T>>,
    /// There is an item, or the list stopped or closes.
    arrived: Condvar,
    /// The turn is free, or what somebody waits for has ended.
    turned: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    /// Nothing will be added any more.
    stopped: bool,
    /// The engine is closing: no more polls, no more wakes.
    closing: bool,
    /// Somebody has the turn.
    taken: bool,
    /// Nobody will take a turn any more: whoever has it delivers the rest.
    orphaned: bool,
    /// The host was woken since the latest turn began.
    woken: bool,
    /// Somebody wanted the turn and went away without it, and the host was not woken since. It may come back only when it
    /// is woken.
    turned_away: bool,
}

/// What came of an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the list.
    Listed,
    /// It is in the list, and the host is to be woken.
    Wake,
}

/// Outcome of [`Ready::pop`].
pub enum Popped<T> {
    Item(T),
    /// The time ran out.
    Timeout,
    /// The list is empty and stays so.
    Stopped,
}

/// Outcome of [`Turn::round`].
pub enum Round {
    /// So many items are there.
    Items(usize),
    /// The time ran out.
    Timeout,
    /// There is nothing, and this caller has nothing more to wait for.
    Over,
}

/// Outcome of [`Ready::turn`].
pub enum TurnOr<'a, T> {
    Turn(Turn<'a, T>),
    /// What was waited for has happened.
    Done,
    /// The time ran out.
    Timeout,
}

/// Outcome of [`Turn::leave`].
pub enum Left<'a, T> {
    /// The turn is over.
    Free,
    /// The turn is over. What it leaves is not known to the host, which is to be woken if [`Ready::owes_wake`] then.
    Owing,
    /// Nobody else will deliver what comes until the list stops; the next call ends the turn.
    Orphaned(Turn<'a, T>),
}

/// The right to deliver, for one thread at a time.
pub struct Turn<'a, T> {
    ready: &'a Ready<T>,
}

impl<T> Ready<T> {
    /// An empty list.
    pub fn new() -> Ready<T> {
        let state = State {
            items: VecDeque::new(),
            stopped: false,
            closing: false,
            taken: false,
            orphaned: false,
            woken: false,
            turned_away: false,
        };
        Ready { state: Mutex::new(state), arrived: Condvar::new(), turned: Condvar::new() }
    }

    /// Makes room for so many items.
    ///
    /// # Errors
    /// When there is no memory for that.
    pub fn reserve(&self, count: usize) -> Result<(), TryReserveError> {
        let mut state = lock(&self.state);
        let len = state.items.len();
        state.items.try_reserve(count.saturating_sub(len))
    }

    /// Adds an item at the end.
    pub fn push(&self, item: T) -> Pushed {
        let mut state = lock(&self.state);
        state.items.push_back(item);
        let wake = !state.closing && !std::mem::replace(&mut state.woken, true);
        state.turned_away &= !wake;
        drop(state);
        // All who wait here are alike, and each looks again before it gives up: one is enough.
        self.arrived.notify_one();
        if wake { Pushed::Wake } else { Pushed::Listed }
    }

    /// The oldest item, without a turn; waits for one.
    pub fn pop(&self, deadline: Option<Instant>) -> Popped<T> {
        let mut state = lock(&self.state);
        loop {
            if let Some(item) = state.items.pop_front() {
                return Popped::Item(item);
            }
            if state.stopped {
                return Popped::Stopped;
            }
            let (again, in_time) = wait_until(&self.arrived, state, deadline);
            state = again;
            if !in_time {
                return Popped::Timeout;
            }
        }
    }

    /// Nothing will be added any more; who waits leaves when the list is empty.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.arrived.notify_all();
    }

    /// The engine begins to close: polls that wait leave, and the host is not woken any more.
    pub fn close(&self) {
        lock(&self.state).closing = true;
        self.arrived.notify_all();
    }

    /// The turn, unless somebody has it.
    pub fn try_turn(&self) -> Option<Turn<'_, T>> {
        let mut state = lock(&self.state);
        let turn = self.begin(&mut state);
        state.turned_away = turn.is_none();
        turn
    }

    /// Waits for the turn, or until `done`, which is asked under the list's lock: whoever makes it true calls
    /// [`Ready::note_done`] afterwards.
    pub fn turn(&self, deadline: Option<Instant>, done: impl Fn() -> bool) -> TurnOr<'_, T> {
        let mut state = lock(&self.state);
        loop {
            if done() {
                return TurnOr::Done;
            }
            if let Some(turn) = self.begin(&mut state) {
                return TurnOr::Turn(turn);
            }
            let (again, in_time) = wait_until(&self.turned, state, deadline);
            state = again;
            if !in_time {
                state.turned_away = true;
                return TurnOr::Timeout;
            }
        }
    }

    /// After [`Left::Owing`]: whether the host is to be woken, once. Not if it has taken or will get a turn's rest otherwise.
    pub fn owes_wake(&self) -> bool {
        let mut state = lock(&self.state);
        // Whoever has the turn now owes it when it leaves.
        let owes = !state.taken && state.owes();
        if owes {
            state.turned_away = false;
            state.woken = true;
        }
        owes
    }

    /// Nobody will take a turn any more. Returns the turn if it is free; otherwise whoever has it delivers the rest.
    pub fn orphan(&self) -> Option<Turn<'_, T>> {
        let mut state = lock(&self.state);
        state.orphaned = true;
        self.begin(&mut state)
    }

    /// The turn, if it is free and nobody else will take it.
    pub fn adopt(&self) -> Option<Turn<'_, T>> {
        let mut state = lock(&self.state);
        if state.orphaned { self.begin(&mut state) } else { None }
    }

    /// What somebody waits for in [`Ready::turn`] may have happened.
    pub fn note_done(&self) {
        // The lock orders this after the waiter's last look.
        drop(lock(&self.state));
        self.turned.notify_all();
    }

    fn begin(&self, state: &mut State<T>) -> Option<Turn<'_, T>> {
        if std::mem::replace(&mut state.taken, true) {
            return None;
        }
        state.woken = false;
        Some(Turn { ready: self })
    }
}

impl<T> State<T> {
    /// The turn is free. A host that was turned away has spent its wake, so that the next item wakes it again.
    fn end(&mut self) {
        self.taken = false;
        self.woken &= !self.turned_away;
    }

    /// There are items of which the host will not hear otherwise.
    fn owes(&self) -> bool {
        self.turned_away && !self.closing && !self.items.is_empty()
    }
}

impl<'a, T> Turn<'a, T> {
    /// Waits for something to deliver. `Over` when the list has stopped, or with `until_closing` when the engine closes.
    pub fn round(&self, deadline: Option<Instant>, until_closing: bool) -> Round {
        let mut state = lock(&self.ready.state);
        loop {
            if !state.items.is_empty() {
                return Round::Items(state.items.len());
            }
            if state.stopped || (until_closing && state.closing) {
                return Round::Over;
            }
            let (again, in_time) = wait_until(&self.ready.arrived, state, deadline);
            state = again;
            if !in_time {
                return Round::Timeout;
            }
        }
    }

    /// The oldest item.
    pub fn take(&self) -> Option<T> {
        lock(&self.ready.state).items.pop_front()
    }

    /// Ends the turn, unless nobody else will deliver what comes until the list stops.
    pub fn leave(self) -> Left<'a, T> {
        let ready = self.ready;
        let mut state = lock(&ready.state);
        if std::mem::take(&mut state.orphaned) {
            drop(state);
            return Left::Orphaned(self);
        }
        // Under the same lock as the look: who orphans the list now finds the turn free.
        state.end();
        let owes = state.owes();
        drop(state);
        std::mem::forget(self);
        ready.turned.notify_all();
        if owes { Left::Owing } else { Left::Free }
    }
}

impl<T> Drop for Turn<'_, T> {
    /// Ends the turn, whoever may have left the list behind meanwhile. The host, if it is owed a wake, is woken by what
    /// comes next.
    fn drop(&mut self) {
        lock(&self.ready.state).end();
        self.ready.turned.notify_all();
    }
}
