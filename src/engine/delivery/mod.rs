//! From the engine thread to whoever asked: one bounded queue per request, and lists of the requests that have something
//! to deliver.
//!
//! | file | what it is for |
//! |---|---|
//! | [`queue`] | the queue of one request: everything unread, merged into one buffer |
//! | [`buffer`] | such a buffer: an event, in memory that was reserved for it |
//! | [`ready`] | the list of what is ready for callbacks, and the turn of the one thread that delivers it |
//! | [`completions`] | the list of what is ready to be taken by any thread, and who holds an event |
//! | [`hold`] | what an event holds back |
//! | [`waker`] | the thread that wakes a host that polls |
//! | [`sync`] | the locks of these two, which `tests/loom` replaces to try their interleavings |
//! | [`outbox`] | what the engine thread sees of them: a request's [`Outbox`], an engine's [`Dispatch`] |
//!
//! Who takes from the lists is in [`super::receive`]. Law 5: a full queue pauses its own request alone, and no callback runs
//! on the engine thread or under a lock.

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

/// A number that no other living thread has.
pub(super) fn this_thread() -> usize {
    CALLBACKS.with(|callbacks| std::ptr::from_ref(callbacks).addr())
}

thread_local! {
    /// Callbacks of any engine running on this thread. A plain number: no destructor, so it does not pin the library.
    static CALLBACKS: Cell<u32> = const { Cell::new(0) };
}

/// Whether the calling thread is inside a callback of some engine.
pub fn in_callback() -> bool {
    CALLBACKS.get() > 0
}

/// Marks this thread as inside a callback while it lives; floats are computed there as the host has it.
pub struct CallbackScope {
    _floats: HostFloats,
}

impl CallbackScope {
    /// Enters.
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

/// Calls host code. A panic in a Rust callback stays in it; then the answer is None.
pub(super) fn call_host<R>(call: impl FnOnce() -> R) -> Option<R> {
    let _scope = CallbackScope::new();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).ok()
}

/// The error of a request that the engine gave up on.
pub(super) fn closed() -> Error {
    Error::new(Status::Closed, "the engine is closed")
}
