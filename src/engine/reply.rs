//! One answer of the engine thread to one caller who waits for it. Used with [`super::Command`].

use super::delivery::{closed, lock, wait_until};
use crate::error::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// The answering side of a [`Reply`]. Dropped without an answer, it gives an error: nobody waits for ever.
pub(super) struct Answer<T = ()>(pub Arc<Reply<T>>);

impl<T> Answer<T> {
    /// Gives the answer.
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

/// A place for one answer.
pub(super) struct Reply<T = ()> {
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
    /// Gives the answer; who waits wakes up.
    pub fn put(&self, value: Result<T>) {
        *lock(&self.value) = Some(value);
        self.answered.store(true, Ordering::Relaxed);
        self.there.notify_all();
    }

    /// Waits for the answer.
    pub fn wait(&self) -> Result<T> {
        let mut value = lock(&self.value);
        loop {
            match value.take() {
                Some(value) => return value,
                None => (value, _) = wait_until(&self.there, value, None),
            }
        }
    }
}
