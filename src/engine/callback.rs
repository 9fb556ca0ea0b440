//! Calls of host code, and the calls that are refused inside them.

use crate::error::{Error, Result, Status};
use crate::os::floats::HostFloats;
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    /// Nesting depth of callbacks, of any engine, on this thread. A plain number without a destructor, so that it does
    /// not keep the library from being unloaded.
    static CALLBACKS: Cell<u32> = const { Cell::new(0) };
}

/// A number that identifies the calling thread among all living threads.
pub(super) fn this_thread() -> usize {
    CALLBACKS.with(|callbacks| std::ptr::from_ref(callbacks).addr())
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

/// An error inside a callback, for calls that block.
pub(super) fn refuse_in_callback(what: &str) -> Result<()> {
    if in_callback() {
        return Err(Error::new(Status::Reentrant, format!("{what} blocks and must not be called inside a callback")));
    }
    Ok(())
}

/// An error inside a callback, unless the timeout is zero.
pub(super) fn refuse_blocking(timeout: Option<Duration>, what: &str) -> Result<()> {
    if timeout == Some(Duration::ZERO) { Ok(()) } else { refuse_in_callback(what) }
}
