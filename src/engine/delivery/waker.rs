//! Wakes the host of an engine that polls, on a thread that does nothing else: a host that takes its time in there delays
//! neither the engine thread nor anybody's events.

use super::call_host;
use super::sync::{Condvar, Mutex, lock, wait_until};
use crate::engine::api::WakeFn;

/// The wake that is due, and who makes it.
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
    /// Without a function nobody is woken.
    pub fn new(wake: Option<WakeFn>) -> Waker {
        Waker { wake, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Whether there is anybody to wake.
    pub fn is_needed(&self) -> bool {
        self.wake.is_some()
    }

    /// The host is to be woken.
    pub fn wake(&self) {
        if self.is_needed() {
            lock(&self.state).due = true;
            self.changed.notify_one();
        }
    }

    /// A poll begins: what the host was to be woken for it finds by itself.
    pub fn forget(&self) {
        if self.is_needed() {
            lock(&self.state).due = false;
        }
    }

    /// Ends the thread once the wake that is being made is over.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    /// The thread's body.
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
