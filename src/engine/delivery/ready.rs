//! The list of what is ready to be delivered, oldest first, and the turn of the one thread that delivers it.
//!
//! The engine thread adds; a dispatch thread takes ([`Ready::pop`]). If an engine's callbacks run in the host's own
//! calls (poll, wait, close, free), several threads may want to deliver; only the one that has the turn ([`Turn`]) may.
//! If the engine is freed inside a callback, no thread will take a turn again, so the thread that has it must deliver
//! the rest before it leaves.
//!
//! Invariants, which `tests/loom` checks: an item is taken once; waiting threads are woken by it; after an item was
//! added, the host was woken since the latest turn began; a host thread that wanted the turn while another had it is
//! woken for the items that the other leaves.

use super::sync::{Condvar, Mutex, lock, wait_for};
use std::collections::{TryReserveError, VecDeque};
use std::time::Instant;

/// The ready list.
pub struct Ready<T> {
    state: Mutex<State<T>>,
    /// Signalled when there is an item, and when the list stops or closes.
    arrived: Condvar,
    /// Signalled when the turn is free, and by [`Ready::note_done`].
    turned: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    /// Nothing will be added any more.
    stopped: bool,
    /// The engine is closing: polls end, and the host is not woken any more.
    closing: bool,
    /// A thread has the turn.
    taken: bool,
    /// No thread will take a turn any more: the one that has it delivers the rest.
    orphaned: bool,
    /// The host was woken since the latest turn began.
    woken: bool,
    /// A thread wanted the turn, left without it, and the host was not woken since. It may not poll again until it is
    /// woken.
    turned_away: bool,
}

/// Outcome of [`Ready::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The item is in the list.
    Listed,
    /// The item is in the list, and the host is to be woken.
    Wake,
}

/// Outcome of [`Ready::pop`].
pub enum Popped<T> {
    Item(T),
    /// The deadline passed.
    Timeout,
    /// The list is empty and nothing will be added.
    Stopped,
}

/// Outcome of [`Turn::round`].
pub enum Round {
    /// The number of items in the list.
    Items(usize),
    /// The deadline passed.
    Timeout,
    /// The list is empty, and there is nothing more to wait for.
    Over,
}

/// Outcome of [`Ready::turn`].
pub enum TurnOr<'a, T> {
    Turn(Turn<'a, T>),
    /// `done` became true.
    Done,
    /// The deadline passed.
    Timeout,
}

/// Outcome of [`Turn::leave`].
pub enum Left<'a, T> {
    /// The turn is over.
    Free,
    /// The turn is over. It leaves items that the host does not know of: wake it if [`Ready::owes_wake`].
    Owing,
    /// The turn goes on, because no other thread will deliver what comes until the list stops; the next `leave` ends
    /// it.
    Orphaned(Turn<'a, T>),
}

/// The right to deliver; one thread at a time has it.
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

    /// Reserves memory for `count` items.
    ///
    /// # Errors
    /// When there is no memory.
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
        // All waiters are equivalent, and each checks the list again before it returns: waking one is enough.
        self.arrived.notify_one();
        if wake { Pushed::Wake } else { Pushed::Listed }
    }

    /// Takes the oldest item, without a turn; waits for one.
    pub fn pop(&self, deadline: Option<Instant>) -> Popped<T> {
        let (_state, popped) =
            wait_for(&self.arrived, lock(&self.state), deadline, |state| match state.items.pop_front() {
                Some(item) => Some(Popped::Item(item)),
                None => state.stopped.then_some(Popped::Stopped),
            });
        popped.unwrap_or(Popped::Timeout)
    }

    /// Nothing will be added any more; waiters return once the list is empty.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.arrived.notify_all();
    }

    /// The engine begins to close: waiting polls return, and the host is not woken any more.
    pub fn close(&self) {
        lock(&self.state).closing = true;
        self.arrived.notify_all();
    }

    /// Takes the turn, unless another thread has it.
    pub fn try_turn(&self) -> Option<Turn<'_, T>> {
        let mut state = lock(&self.state);
        let turn = self.begin(&mut state);
        state.turned_away = turn.is_none();
        turn
    }

    /// Waits for the turn, or until `done` returns true. `done` is called under the list's lock; a thread that makes it
    /// true calls [`Ready::note_done`] afterwards.
    pub fn turn(&self, deadline: Option<Instant>, done: impl Fn() -> bool) -> TurnOr<'_, T> {
        let (mut state, turn) = wait_for(&self.turned, lock(&self.state), deadline, |state| match done() {
            true => Some(TurnOr::Done),
            false => self.begin(state).map(TurnOr::Turn),
        });
        turn.unwrap_or_else(|| {
            state.turned_away = true;
            TurnOr::Timeout
        })
    }

    /// After [`Left::Owing`]: whether the host is to be woken; true only once. False if a turn that has begun since
    /// covers the items.
    pub fn owes_wake(&self) -> bool {
        let mut state = lock(&self.state);
        // A thread that has the turn now wakes the host when it leaves.
        let owes = !state.taken && state.owes();
        if owes {
            state.turned_away = false;
            state.woken = true;
        }
        owes
    }

    /// No thread will take a turn any more. Returns the turn if it is free; otherwise the thread that has it delivers
    /// the rest.
    pub fn orphan(&self) -> Option<Turn<'_, T>> {
        let mut state = lock(&self.state);
        state.orphaned = true;
        self.begin(&mut state)
    }

    /// Takes the turn, if it is free and no other thread will take it.
    pub fn adopt(&self) -> Option<Turn<'_, T>> {
        let mut state = lock(&self.state);
        if state.orphaned { self.begin(&mut state) } else { None }
    }

    /// The `done` condition of a [`Ready::turn`] may have become true.
    pub fn note_done(&self) {
        // Taking the lock orders the notification after the waiter's last check.
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
    /// Frees the turn. If a thread was turned away, `woken` is reset, so that the next item wakes the host again.
    fn end(&mut self) {
        self.taken = false;
        self.woken &= !self.turned_away;
    }

    /// The list has items for which the host would not be woken otherwise.
    fn owes(&self) -> bool {
        self.turned_away && !self.closing && !self.items.is_empty()
    }
}

impl<'a, T> Turn<'a, T> {
    /// Waits for items. `Over` when the list has stopped, or with `until_closing` when the engine closes.
    pub fn round(&self, deadline: Option<Instant>, until_closing: bool) -> Round {
        let Ready { state, arrived, .. } = self.ready;
        let (_state, round) = wait_for(arrived, lock(state), deadline, |state| match state.items.len() {
            0 => (state.stopped || (until_closing && state.closing)).then_some(Round::Over),
            items => Some(Round::Items(items)),
        });
        round.unwrap_or(Round::Timeout)
    }

    /// Takes the oldest item.
    pub fn take(&self) -> Option<T> {
        lock(&self.ready.state).items.pop_front()
    }

    /// Ends the turn, unless the list was orphaned.
    pub fn leave(self) -> Left<'a, T> {
        let ready = self.ready;
        let mut state = lock(&ready.state);
        if std::mem::take(&mut state.orphaned) {
            drop(state);
            return Left::Orphaned(self);
        }
        // Under the same lock as the check: a thread that orphans the list after it finds the turn free.
        state.end();
        let owes = state.owes();
        drop(state);
        std::mem::forget(self);
        ready.turned.notify_all();
        if owes { Left::Owing } else { Left::Free }
    }
}

impl<T> Drop for Turn<'_, T> {
    /// Ends the turn without regard to `orphaned`. A wake that is owed to the host is made when the next item is added.
    fn drop(&mut self) {
        lock(&self.ready.state).end();
        self.ready.turned.notify_all();
    }
}
