//! Wakes the host of an engine that polls, on a thread of its own: a slow wake function delays neither the engine
//! thread nor any events.

use super::sync::{Condvar, Mutex, lock, wait_until};
use crate::engine::api::WakeFn;
use crate::engine::callback::call_host;

/// The host's wake function, and whether a call of it is due.
pub struct Waker {
    wake: Option<WakeFn>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    due: bool,
    stopped: bool,
}

impl Waker {
    /// Without a function the waker does nothing.
    pub fn new(wake: Option<WakeFn>) -> Waker {
        Waker { wake, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Whether there is a wake function.
    pub fn is_needed(&self) -> bool {
        self.wake.is_some()
    }

    /// Makes a wake due.
    pub fn wake(&self) {
        if self.is_needed() {
            lock(&self.state).due = true;
            self.changed.notify_one();
        }
    }

    /// Called when a poll begins: cancels a due wake, because the poll finds the items by itself.
    pub fn forget(&self) {
        if self.is_needed() {
            lock(&self.state).due = false;
        }
    }

    /// Ends the thread after a wake call in progress.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    /// The body of the waker thread.
    pub fn run(&self) {
        let Some(wake) = &self.wake else { return };
        let mut state = lock(&self.state);
        while !state.stopped {
            if std::mem::take(&mut state.due) {
                drop(state);
                call_host(|| wake());
                state = lock(&self.state);
            } else {
                (state, _) = wait_until(&self.changed, state, None);
            }
        }
    }
}
