//! A one-shot channel: one answer from the engine thread to one waiting caller. Used in [`super::command`].

use super::{closed, lock, wait_until};
use crate::error::Result;
use std::sync::{Arc, Condvar, Mutex};

/// Sends a question to the engine thread with `send`, and waits for the answer.
///
/// # Errors
/// Those of `send` and of the answer.
pub(super) fn ask<T>(send: impl FnOnce(Answer<T>) -> Result<()>) -> Result<T> {
    let reply = Arc::new(Reply { value: Mutex::new(None), arrived: Condvar::new() });
    send(Answer(reply.clone()))?;
    let mut value = lock(&reply.value);
    loop {
        match value.take() {
            Some(value) => return value,
            None => (value, _) = wait_until(&reply.arrived, value, None),
        }
    }
}

/// The sending side. Dropped without an answer, it sends `Closed`, so that the caller does not wait forever.
pub(super) struct Answer<T = ()>(Arc<Reply<T>>);

/// Holds the answer; shared by both sides.
struct Reply<T> {
    value: Mutex<Option<Result<T>>>,
    arrived: Condvar,
}

impl<T> Answer<T> {
    /// Sends the answer; the first one counts.
    pub fn put(&self, value: Result<T>) {
        lock(&self.0.value).get_or_insert(value);
        self.0.arrived.notify_all();
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        // Of no effect after an answer, which has been taken or is in place.
        self.put(Err(closed()));
    }
}
