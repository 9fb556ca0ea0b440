//! Delivery of events from the engine thread to their consumers: one bounded queue per request, and lists of the
//! requests that have something to deliver.
//!
//! | file | what it is for |
//! |---|---|
//! | [`queue`] | the queue of one request: everything unread, merged into one buffer |
//! | [`buffer`] | the contents of such a queue: an event in preallocated memory |
//! | [`ready`] | the list of what is ready for callbacks, and the turn of the one thread that runs them |
//! | [`completions`] | the list of what is ready for [`super::Engine::next`] on any thread, and which events are out |
//! | [`hold`] | the hold of an event on its request |
//! | [`waker`] | the thread that wakes a polling host |
//! | [`sync`] | the locks of the queue and the lists, which `tests/loom` replaces to explore their interleavings |
//! | [`outbox`] | the interface for the engine thread: a request's [`Outbox`], an engine's [`Dispatch`] |
//!
//! The consumers are in [`super::receive`]. Law 5: a full queue pauses its own request only, and no callback runs on
//! the engine thread or under a lock.

mod buffer;
pub(super) mod completions;
mod hold;
mod outbox;
pub(super) mod queue;
pub(super) mod ready;
mod sync;
mod waker;

pub use buffer::Nul;
pub(super) use buffer::{Buffer, PerToken, Piece, Produced, with_nul};
pub use hold::Hold;
pub(super) use outbox::{Dispatch, Item, Outbox, Receiver, Route};
pub(super) use sync::{lock, wait_until};

use crate::error::{Error, Status};
use crate::os::floats::HostFloats;
use std::cell::Cell;

/// A number that identifies the calling thread among all living threads.
pub(super) fn this_thread() -> usize {
    CALLBACKS.with(|callbacks| std::ptr::from_ref(callbacks).addr())
}

thread_local! {
    /// Nesting depth of callbacks, of any engine, on this thread. A plain number without a destructor, so that it does
    /// not keep the library from being unloaded.
    static CALLBACKS: Cell<u32> = const { Cell::new(0) };
}

/// Whether the calling thread is inside a callback of some engine.
pub fn in_callback() -> bool {
    CALLBACKS.get() > 0
}

/// While it lives, this thread counts as inside a callback and has the host's floating-point environment.
pub struct CallbackScope {
    _floats: HostFloats,
}

impl CallbackScope {
    /// Enters a callback.
    #[allow(clippy::new_without_default, reason = "entering is an act, not a value")]
    pub fn new() -> CallbackScope {
        CALLBACKS.set(CALLBACKS.get() + 1);
        CallbackScope { _floats: HostFloats::enter() }
    }
}

impl Drop for CallbackScope {
    fn drop(&mut self) {
        CALLBACKS.set(CALLBACKS.get() - 1);
    }
}

/// Calls host code; None if it panicked.
pub(super) fn call_host<R>(call: impl FnOnce() -> R) -> Option<R> {
    let _scope = CallbackScope::new();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).ok()
}

/// The error of calls and requests after the engine was closed.
pub(super) fn closed() -> Error {
    Error::new(Status::Closed, "the engine is closed")
}
