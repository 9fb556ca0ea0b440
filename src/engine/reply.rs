//! A one-shot channel: one answer from the engine thread to one waiting caller. Used in [`super::command`].

use super::delivery::{lock, wait_until};
use super::errors::closed;
use crate::error::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Sends a question to the engine thread with `send`, and waits for the answer.
///
/// # Errors
/// Those of `send` and of the answer.
pub(super) fn ask<T>(send: impl FnOnce(Answer<T>) -> Result<()>) -> Result<T> {
    let reply = Arc::new(Reply::default());
    send(Answer(reply.clone()))?;
    reply.wait()
}

/// The sending side of a [`Reply`]. Dropped without an answer, it sends `Closed`, so that the caller does not wait
/// forever.
pub(super) struct Answer<T = ()>(Arc<Reply<T>>);

impl<T> Answer<T> {
    /// Sends the answer.
    pub fn put(&self, value: Result<T>) {
        self.0.put(value);
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        if !self.0.answered.load(Ordering::Relaxed) {
            self.0.put(Err(closed()));
        }
    }
}

/// Holds the answer; shared by both sides.
struct Reply<T> {
    value: Mutex<Option<Result<T>>>,
    answered: AtomicBool,
    there: Condvar,
}

impl<T> Default for Reply<T> {
    fn default() -> Reply<T> {
        Reply { value: Mutex::new(None), answered: AtomicBool::new(false), there: Condvar::new() }
    }
}

impl<T> Reply<T> {
    /// Stores the answer and wakes the waiting caller.
    fn put(&self, value: Result<T>) {
        *lock(&self.value) = Some(value);
        self.answered.store(true, Ordering::Relaxed);
        self.there.notify_all();
    }

    /// Waits for the answer and takes it.
    fn wait(&self) -> Result<T> {
        let mut value = lock(&self.value);
        loop {
            match value.take() {
                Some(value) => return value,
                None => (value, _) = wait_until(&self.there, value, None),
            }
        }
    }
}
